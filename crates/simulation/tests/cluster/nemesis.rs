//! What goes wrong, and when: drawn from the seed.

use crate::random::Random;
use crate::watch::TARGETS;
use crate::world::{World, host};
use quorate_engines::fake::{Fault, Step};

/// What ends a fault again.
#[derive(Debug, Clone, Copy)]
enum Undo {
    On(u8),
    Unblock,
    Calm,
    Right,
    Start(&'static str),
    Release(&'static str, Step),
}

const STEPS: [Step; 8] =
    [Step::Bind, Step::Create, Step::Fence, Step::Refuse, Step::Kill, Step::Look, Step::Clean, Step::Read];

/// How often each sort of fault was brought about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    pub(crate) cuts: u64,
    pub(crate) blocks: u64,
    pub(crate) weathers: u64,
    pub(crate) clocks: u64,
    pub(crate) targets: u64,
}

pub(crate) struct Nemesis {
    random: Random,
    next: u64,
    undo: Vec<(u64, Undo)>,
    /// Whose clock is wrong: that of one only, which is fewer than are believed.
    wrong: u8,
    pub(crate) brought: Brought,
}

impl Nemesis {
    pub(crate) fn new(seed: u64, members: u8) -> Self {
        let mut random = Random::new(seed ^ 0x006e_656d_6573_6973);
        let wrong = 1 + u8::try_from(random.below(usize::from(members))).unwrap();
        let next = random.between(200, 1_500);
        Self { random, next, undo: Vec::new(), wrong, brought: Brought::default() }
    }

    /// Does what is due at `now`.
    pub(crate) async fn act(&mut self, world: &mut World, now: u64) {
        while let Some(at) = self.undo.iter().position(|(due, _)| *due <= now) {
            let (_, undo) = self.undo.remove(at);
            self.undo(world, undo).await;
        }
        if now >= self.next {
            self.next = now + self.random.between(300, 2_500);
            self.harm(world, now);
        }
    }

    async fn undo(&mut self, world: &mut World, undo: Undo) {
        world.hub.journal.note(format_args!("undo {undo:?}"));
        match undo {
            Undo::On(index) => {
                if !world.is_on(index) {
                    world.power_on(index).await;
                }
            }
            Undo::Unblock => world.hub.unblock_all(),
            Undo::Calm => {
                world.hub.weather(2, 0);
                world.hub.apart(0);
            }
            Undo::Right => world.clock(self.wrong).put_right(),
            Undo::Start(name) => world.target(name).start(),
            Undo::Release(name, step) => world.target(name).release(step),
        }
    }

    /// A member stays off until `due`.
    pub(crate) fn keep_off(&mut self, index: u8, due: u64) {
        self.undo.push((due, Undo::On(index)));
    }

    fn later(&mut self, now: u64, undo: Undo) {
        let due = now + self.random.between(200, 4_000);
        self.undo.push((due, undo));
    }

    fn harm(&mut self, world: &mut World, now: u64) {
        let members = u8::try_from(world.members().count()).unwrap();
        let one = 1 + u8::try_from(self.random.below(usize::from(members))).unwrap();
        let name = TARGETS[self.random.below(TARGETS.len())];
        let journal = world.hub.journal.clone();
        match self.random.below(13) {
            0..=2 => {
                self.brought.cuts += 1;
                // Now and then the power of all.
                let all = self.random.chance(20);
                for index in (1..=members).filter(|index| all || *index == one) {
                    if world.is_on(index) {
                        let unsynced = world.store(index).unsynced();
                        let kept = self.random.below(unsynced + 1);
                        journal.note(format_args!("power cut at {index}, {kept} of {unsynced} kept"));
                        world.power_off_keeping(index, kept);
                        self.later(now, Undo::On(index));
                    }
                }
            }
            3 | 4 => {
                self.brought.blocks += 1;
                let (inward, outward) = match self.random.below(3) {
                    0 => (true, true),
                    1 => (true, false),
                    _ => (false, true),
                };
                journal.note(format_args!("block {one}: inward {inward}, outward {outward}"));
                let clients = self.random.chance(50).then_some(100);
                for other in (1..=members).filter(|other| *other != one).chain(clients) {
                    if inward {
                        world.hub.block(host(other), host(one));
                    }
                    if outward {
                        world.hub.block(host(one), host(other));
                    }
                }
                self.later(now, Undo::Unblock);
            }
            5 => {
                self.brought.weathers += 1;
                let (longest, lost) = (self.random.between(5, 60), self.random.between(0, 15));
                journal.note(format_args!("weather: {longest} ms, {lost} of 100"));
                world.hub.weather(longest, lost);
                self.later(now, Undo::Calm);
            }
            // A commit comes to the others much later than its answer to a client.
            6 => {
                self.brought.weathers += 1;
                let millis = self.random.between(5, 30);
                journal.note(format_args!("members are {millis} ms apart"));
                world.hub.apart(millis);
                self.later(now, Undo::Calm);
            }
            7 | 8 => {
                self.brought.clocks += 1;
                let clock = world.clock(self.wrong);
                if self.random.chance(50) {
                    let shift = [3_600_000, -3_600_000, 20_000, -20_000][self.random.below(4)];
                    journal.note(format_args!("clock of {} off by {shift}", self.wrong));
                    clock.shift(shift);
                } else {
                    let percent = [20, 80, 150, 500][self.random.below(4)];
                    journal.note(format_args!("clock of {} at {percent} of 100", self.wrong));
                    clock.run_at(percent);
                }
                self.later(now, Undo::Right);
            }
            9 => {
                self.brought.targets += 1;
                journal.note(format_args!("target {name} off"));
                world.target(name).stop();
                self.later(now, Undo::Start(name));
            }
            10 | 11 => {
                self.brought.targets += 1;
                for _ in 0..=self.random.below(3) {
                    let step = STEPS[self.random.below(STEPS.len())];
                    let fault = if self.random.chance(60) { Fault::After } else { Fault::Before };
                    journal.note(format_args!("target {name}: {step:?} fails {fault:?}"));
                    world.target(name).fail(step, fault);
                }
            }
            _ => {
                self.brought.targets += 1;
                let step = STEPS[self.random.below(STEPS.len())];
                journal.note(format_args!("target {name} holds {step:?}"));
                world.target(name).hold(step);
                self.later(now, Undo::Release(name, step));
            }
        }
    }

    /// Ends all faults.
    pub(crate) async fn heal(&mut self, world: &mut World) {
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo(world, undo).await;
        }
    }
}
