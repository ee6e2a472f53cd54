//! What is broken, when and whose: decided here from a seed, and done elsewhere.

pub(crate) mod clock;
pub(crate) mod cuts;
pub(crate) mod disk;
pub(crate) mod execute;
pub(crate) mod folder;
pub(crate) mod leader;
pub(crate) mod limits;
pub(crate) mod process;
pub(crate) mod target;
pub(crate) mod trace;
pub(crate) mod wire;

use crate::random::Random;
use std::collections::BTreeSet;

/// A way to break things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill,
    Pause,
    Flap,
    Partition,
    Loss,
    Delay,
    SlowLink,
    Reset,
    Clock,
    Power,
    DeadDisk,
    SyncError,
    GrayDisk,
    FullDisk,
    Rot,
    Forget,
    Snapshot,
    OldFolder,
    Cpu,
    Memory,
    Custodian,
    TargetDown,
    TargetPause,
    TargetSlow,
    TargetReset,
    TargetUnknown,
    TargetLate,
    TargetFailover,
    Rolling,
    LostLeader,
}

/// What a fault takes hold of: two faults that take hold of the same are not at work at one member at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grip {
    /// The process or its disk: it is not there, or not as it was started.
    Process,
    /// The shaping of its network interface, of which there is one.
    Shape,
    /// Rules of a packet filter and connections, of which there are many.
    Filter,
    /// Its clock.
    Clock,
    /// No member: the database.
    Target,
    /// No member: the custodian.
    Custodian,
    /// No member: that all others have their states. What takes one away waits for the one before.
    State,
}

/// What there is to know of a kind.
struct Card {
    name: &'static str,
    grip: Grip,
    about: &'static str,
}

impl Kind {
    /// All that `all` stands for, in the order of the help.
    pub(crate) const ALL: &[Self] = &[
        Self::Kill,
        Self::Pause,
        Self::Flap,
        Self::Partition,
        Self::Loss,
        Self::Delay,
        Self::SlowLink,
        Self::Reset,
        Self::Clock,
        Self::Power,
        Self::DeadDisk,
        Self::SyncError,
        Self::GrayDisk,
        Self::FullDisk,
        Self::Rot,
        Self::Forget,
        Self::Snapshot,
        Self::OldFolder,
        Self::Cpu,
        Self::Memory,
        Self::Custodian,
        Self::TargetDown,
        Self::TargetPause,
        Self::TargetSlow,
        Self::TargetReset,
        Self::TargetUnknown,
        Self::TargetLate,
        Self::TargetFailover,
    ];

    /// Those that are only at work alone: what is promised with them is promised with nothing else at work.
    pub(crate) const ALONE: &[Self] = &[Self::Rolling, Self::LostLeader];

    /// Every one.
    pub(crate) fn every() -> impl Iterator<Item = Self> {
        Self::ALL.iter().chain(Self::ALONE).copied()
    }

    fn card(self) -> Card {
        let card = |name, grip, about| Card { name, grip, about };
        match self {
            Self::Kill => card(
                "kill",
                Grip::Process,
                "SIGKILL, and another start; counted when the kernel says that this was the end of the process",
            ),
            Self::Pause => card(
                "pause",
                Grip::Process,
                "SIGSTOP and SIGCONT; counted when the process is stopped and gets no processor time meanwhile",
            ),
            Self::Flap => card(
                "flap",
                Grip::Process,
                "whoever leads is stopped for a moment, and the next one, and so on; counted by terms that followed",
            ),
            Self::Partition => card(
                "partition",
                Grip::Filter,
                "packets between members, or between members and clients, are dropped, one way or both; counted by the packet filter",
            ),
            Self::Loss => {
                card("loss", Grip::Filter, "a part of all packets to a member is dropped; counted by the packet filter")
            }
            Self::Delay => card(
                "delay",
                Grip::Shape,
                "packets to a member are held back, each for another time, and overtake each other; counted by who holds them",
            ),
            Self::SlowLink => card(
                "slow-link",
                Grip::Shape,
                "a member's interface sends 256 kbit/s; counted by the packets that the shaper held back",
            ),
            Self::Reset => card(
                "reset",
                Grip::Filter,
                "all connections of a member are reset; counted by the sockets that the kernel has destroyed",
            ),
            Self::Clock => card(
                "clock",
                Grip::Clock,
                "wall clocks of fewer than half of the members jump either way or race; counted by the times in their own audit records",
            ),
            Self::Power => card(
                "power",
                Grip::Process,
                "power cuts of any members, or of all at once: what was not synced is gone; counted when the disk fails every access",
            ),
            Self::DeadDisk => card(
                "dead-disk",
                Grip::Process,
                "every access to a member's disk fails while it runs; counted by the exit status with which it ends",
            ),
            Self::SyncError => card(
                "sync-error",
                Grip::Process,
                "syncs of a running member fail with EIO; counted by the calls that returned it",
            ),
            Self::GrayDisk => card(
                "gray-disk",
                Grip::Process,
                "each sync of a member takes 400 ms longer; counted by the calls that were held back",
            ),
            Self::FullDisk => card(
                "full-disk",
                Grip::Process,
                "members' disks are full, down to the last MiB or only past the watermark; counted when the member says so of its disk",
            ),
            Self::Rot => card(
                "rot",
                Grip::Process,
                "bits flipped in, or ends cut off, files of one stopped member, not twice in a run; counted in bytes that differ",
            ),
            Self::Forget => card(
                "forget-state",
                Grip::Process,
                "the applied state of a minority is dropped, and rebuilt under the same identity; counted by the states dropped",
            ),
            Self::Snapshot => card(
                "snapshot",
                Grip::Process,
                "the same of one member whose log no longer reaches back to the beginning; counted by the states that were taken over from another member",
            ),
            Self::OldFolder => card(
                "old-folder",
                Grip::Process,
                "a member's store is put back to what it was a while ago, when all others have what it forgets; counted by the entries that are",
            ),
            Self::Cpu => card(
                "cpu",
                Grip::Process,
                "a tenth of a processor; counted by the periods in which the member was throttled",
            ),
            Self::Memory => card(
                "memory",
                Grip::Process,
                "another start with 12 to 32 MiB of memory; counted by the kernel's refusals and by its kills",
            ),
            Self::Custodian => card(
                "custodian",
                Grip::Custodian,
                "the custodian is killed; counted when the kernel says that this was its end",
            ),
            Self::TargetDown => card(
                "target-down",
                Grip::Target,
                "the database is killed, and started again; counted when that was its end",
            ),
            Self::TargetPause => card(
                "target-pause",
                Grip::Target,
                "every process of the database is stopped; counted by those that are",
            ),
            Self::Rolling => card(
                "rolling",
                Grip::Process,
                "alone: all members are asked to end and started again, one after the other, again and again; counted by rounds in which all came back",
            ),
            Self::LostLeader => card(
                "lost-leader",
                Grip::Process,
                "alone: whoever leads is killed, stopped, or cut off from the others, and comes back, again and again; counted by terms that followed",
            ),
            Self::TargetSlow => card(
                "target-slow",
                Grip::Target,
                "packets to the database come 0.1 to 1 s late, and in another order; counted by who holds them",
            ),
            Self::TargetReset => card(
                "target-reset",
                Grip::Target,
                "all connections to the database are reset, again and again; counted by the sockets that the kernel has destroyed",
            ),
            Self::TargetUnknown => card(
                "target-unknown",
                Grip::Target,
                "answers of the database are lost and its connections reset, again and again; counted by the statements that were done meanwhile",
            ),
            Self::TargetLate => card(
                "target-late",
                Grip::Process,
                "whoever leads stands still while what it has said to the database is on its way for seconds; counted by who holds the packets, if another member led before they came",
            ),
            Self::TargetFailover => card(
                "target-failover",
                Grip::Target,
                "a standby that has heard of all takes the place of the database; counted by the timelines that began",
            ),
        }
    }

    /// Its name on the command line and in histories.
    pub(crate) fn name(self) -> &'static str {
        self.card().name
    }

    /// What it does, and by what it is seen to bite.
    pub(crate) fn about(self) -> &'static str {
        self.card().about
    }

    /// The kind of a name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        Self::every().find(|kind| kind.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::every().map(Self::name).collect();
            format!("there is no nemesis `{name}`; there are: {}", known.join(", "))
        })
    }

    /// What it takes hold of.
    pub(crate) fn grip(self) -> Grip {
        self.card().grip
    }

    /// Whether it needs what a namespace of users does not give: mounts of disks, control groups.
    pub(crate) fn takes_root(self) -> bool {
        matches!(self, Self::Power | Self::DeadDisk | Self::FullDisk | Self::Cpu | Self::Memory)
    }

    /// How many members may be its victims at once: more would prove nothing, or break what nobody promises.
    fn most(self, nodes: u8) -> u8 {
        let minority = nodes.saturating_sub(1) / 2;
        match self {
            Self::Custodian
            | Self::TargetDown
            | Self::TargetPause
            | Self::TargetSlow
            | Self::TargetReset
            | Self::TargetUnknown
            | Self::TargetFailover => 0,
            Self::Rot | Self::Flap | Self::Snapshot | Self::OldFolder | Self::TargetLate => 1,
            Self::Rolling | Self::LostLeader => nodes,
            // A state is taken over only from a majority that vouches for it.
            Self::Forget => minority,
            // t members with a wrong clock are right, by the rule that cluster time goes by.
            Self::Clock => minority,
            Self::Kill | Self::Pause | Self::Power | Self::DeadDisk | Self::FullDisk | Self::GrayDisk | Self::Reset => {
                nodes
            }
            _ => minority + 1,
        }
    }
}

impl Kind {
    /// Whether it is one of the database, which only the workload `lease` has.
    pub(crate) fn is_of_target(self) -> bool {
        self.name().starts_with("target-")
    }

    /// What it takes that is there to be taken once in a round: of a database that is away all the time nothing is promised, and of clocks no more
    /// than a minority may be wrong.
    fn once(self) -> Option<Grip> {
        if self.is_of_target() { Some(Grip::Target) } else { Some(Grip::Clock).filter(|grip| *grip == self.grip()) }
    }
}

/// Whom a fault is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Victims {
    /// Whoever leads when it begins.
    Leader,
    /// These, by index.
    Members(Vec<u8>),
}

/// One fault of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) number: u32,
    /// Milliseconds from the beginning of the phase, and how long it lasts.
    pub(crate) at: u64,
    pub(crate) lasts: u64,
    pub(crate) kind: Kind,
    pub(crate) victims: Victims,
    /// What else there is to choose comes from this.
    pub(crate) seed: u64,
}

/// Milliseconds until the first fault, and of a round: faults in the first part of it, which overlap, and none at its end, so that something is done meanwhile.
const FIRST: u64 = 1_500;
const ROUND: u64 = 12_000;
const BUSY: u64 = 8_500;
const SHORTEST: u64 = 600;
const LONGEST: u64 = 5_000;

/// Makes the plan of a phase of `length` milliseconds. Every kind comes up once in as many faults as there are kinds, so that none is left
/// out by chance.
pub(crate) fn plan(seed: u64, kinds: &[Kind], nodes: u8, length: u64) -> Vec<Planned> {
    let mut random = Random::of(seed, "faults", 0);
    if let &[kind] = kinds
        && Kind::ALONE.contains(&kind)
    {
        let (victims, seed) = (Victims::Members((1..=nodes).collect()), random.next());
        let lasts = length.saturating_sub(FIRST);
        return vec![Planned { number: 1, at: FIRST, lasts, kind, victims, seed }];
    }
    let (mut all, mut deck): (Vec<Planned>, Vec<Kind>) = (Vec::new(), Vec::new());
    let mut begin = FIRST;
    while begin + BUSY <= length && !kinds.is_empty() {
        let mut once = BTreeSet::new();
        for _ in 0..random.between(2, 5) {
            if deck.is_empty() {
                deck = kinds.to_vec();
                random.shuffle(&mut deck);
                // Who has rotted may stay out, and of the others some can then do less harm: the last card is taken first, and this one last.
                if let Some(rot) = deck.iter().position(|kind| *kind == Kind::Rot) {
                    deck.swap(0, rot);
                }
            }
            // The last card that may be played beside those of this round.
            let fits = deck.iter().rposition(|kind| kind.once().is_none_or(|what| !once.contains(&what)));
            let Some(kind) = fits.map(|place| deck.remove(place)) else { break };
            once.extend(kind.once());
            let at = random.between(0, BUSY - SHORTEST);
            let lasts = random.between(SHORTEST, LONGEST.min(BUSY - at) + 1);
            let number = u32::try_from(all.len()).unwrap_or(u32::MAX).saturating_add(1);
            let victims = victims(&mut random, kind, nodes);
            all.push(Planned { number, at: begin + at, lasts, kind, victims, seed: random.next() });
        }
        begin += ROUND;
    }
    all.sort_by_key(|planned| planned.at);
    all
}

fn victims(random: &mut Random, kind: Kind, nodes: u8) -> Victims {
    let mut members: Vec<u8> = (1..=nodes).collect();
    random.shuffle(&mut members);
    let most = usize::from(kind.most(nodes));
    let minority = usize::from(nodes.saturating_sub(1) / 2);
    let wanted = match random.between(0, 100) {
        _ if kind == Kind::TargetLate => return Victims::Leader,
        0..40 if most > 0 => return Victims::Leader,
        0..70 => 1,
        70..85 => minority,
        _ => members.len(),
    };
    Victims::Members(members.into_iter().take(wanted.min(most)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_that_of_its_seed_and_leaves_no_kind_out() {
        for seed in 0..50 {
            let once = plan(seed, Kind::ALL, 5, 180_000);
            assert_eq!(once, plan(seed, Kind::ALL, 5, 180_000), "seed {seed}");
            let kinds: BTreeSet<Kind> = once.iter().map(|planned| planned.kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len(), "seed {seed}: {kinds:?}");
        }
        assert_ne!(plan(1, Kind::ALL, 3, 120_000), plan(2, Kind::ALL, 3, 120_000));
    }

    #[test]
    fn faults_overlap_and_leave_room_to_recover() {
        let mut overlaps = 0;
        for seed in 0..50 {
            let all = plan(seed, Kind::ALL, 3, 120_000);
            for (one, next) in all.iter().zip(all.iter().skip(1)) {
                overlaps += usize::from(next.at < one.at + one.lasts);
            }
            for planned in &all {
                let within = (planned.at - 1_500) % ROUND;
                assert!(within + planned.lasts <= BUSY, "seed {seed}: {planned:?} ends before its round does");
                assert!(planned.at + planned.lasts <= 120_000, "seed {seed}: {planned:?}");
                if let Victims::Members(members) = &planned.victims {
                    let most = usize::from(planned.kind.most(3));
                    assert!(members.len() <= most && members.is_empty() == (most == 0), "{planned:?}");
                    assert!(members.iter().all(|m| (1..=3).contains(m)), "{planned:?}");
                }
            }
        }
        assert!(overlaps > 100, "{overlaps}");
    }

    #[test]
    fn one_fault_of_a_round_is_the_databases_and_one_of_clocks() {
        for seed in 0..50 {
            let all = plan(seed, Kind::ALL, 3, 300_000);
            for (place, one) in all.iter().enumerate() {
                let round = |planned: &Planned| (planned.at - FIRST) / ROUND;
                let beside = all.iter().skip(place + 1).filter(|other| round(other) == round(one));
                let same = beside.filter(|other| one.kind.once().is_some() && other.kind.once() == one.kind.once());
                assert_eq!(same.count(), 0, "seed {seed}: {one:?}");
            }
        }
        let only = plan(1, &[Kind::TargetDown, Kind::TargetSlow], 3, 60_000);
        assert!(only.len() == 5 && only.windows(2).all(|two| two[1].at > two[0].at + two[0].lasts), "{only:?}");
    }

    #[test]
    fn rolling_restarts_are_of_all_members_for_the_whole_time() {
        let all = plan(7, &[Kind::Rolling], 3, 60_000);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].victims, Victims::Members(vec![1, 2, 3]));
        assert_eq!(all[0].at + all[0].lasts, 60_000);
    }

    #[test]
    fn a_kind_has_one_name() {
        let names: BTreeSet<&str> = Kind::every().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::every().count());
        assert!(Kind::every().all(|kind| Kind::parse(kind.name()) == Ok(kind)));
        assert!(Kind::parse("gremlin").unwrap_err().contains("kill"));
    }
}
