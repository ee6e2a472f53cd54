//! Whether operations that overlap in time can be put in an order in which each takes effect at one moment between its beginning and its end,
//! and a model of what was asked says the same as what was answered: linearizability (Herlihy and Wing, TOPLAS 1990).
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", JPDC 1993) with Lowe's memory of configurations that
//! were tried before ("Testing for linearizability", CCPE 2017). It is exponential at worst: a search that is cut off proves nothing,
//! and says so.

use crate::history::Nanos;
use std::collections::HashSet;
use std::hash::Hash;

/// What is asked of.
pub(crate) trait Model {
    /// What it holds.
    type State: Clone + Eq + Hash;
    /// A question with its answer.
    type Step;

    /// What it holds at first.
    fn begin(&self) -> Self::State;

    /// What it holds after a step, or nothing if it would have answered something else. Where more than one thing may come of a step,
    /// `which` counts them from 0.
    fn step(&self, state: &Self::State, step: &Self::Step, which: usize) -> Option<Self::State>;

    /// How many things may come of a step.
    fn outcomes(&self, _: &Self::Step) -> usize {
        1
    }
}

/// A step, and when it was under way.
#[derive(Debug, Clone)]
pub(crate) struct Interval<S> {
    pub(crate) call: Nanos,
    /// None for one whose outcome is not known: it happens at any moment after its beginning, or never.
    pub(crate) back: Option<Nanos>,
    pub(crate) step: S,
}

/// What the search has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. The longest one that was found comes no further than to the end of this step, by its place.
    Violation { stuck: usize },
    /// Not found out in time.
    OutOfTime,
}

/// How many configurations are tried between two looks at the time.
const LOOK: u64 = 4_096;

/// Searches for an order; `out_of_time` is asked now and then.
pub(crate) fn check<M: Model>(
    model: &M,
    steps: &[Interval<M::Step>],
    mut out_of_time: impl FnMut() -> bool,
) -> Verdict {
    let mut line = Line::of(steps);
    let mut state = model.begin();
    let mut taken = Bits::new(steps.len());
    let mut seen: HashSet<(Bits, M::State)> = HashSet::new();
    let mut stack: Vec<(usize, M::State, usize)> = Vec::new();
    let (mut furthest, mut stuck) = (0, 0);
    let mut tried = 0_u64;
    let (mut at, mut which) = (line.first(), 0);
    loop {
        tried += 1;
        if tried.is_multiple_of(LOOK) && out_of_time() {
            return Verdict::OutOfTime;
        }
        match line.at(at) {
            // Nothing that has come back is left: what is, need never have happened.
            None => return Verdict::Linearizable,
            Some(Event { step, returns: false }) => {
                let interval = steps.get(step);
                let may = interval.filter(|interval| which < model.outcomes(&interval.step));
                if let Some(next) = may.and_then(|interval| model.step(&state, &interval.step, which)) {
                    let with = taken.with(step);
                    if seen.insert((with.clone(), next.clone())) {
                        stack.push((at, std::mem::replace(&mut state, next), which));
                        taken = with;
                        line.lift(at);
                        (at, which) = (line.first(), 0);
                        continue;
                    }
                }
                which += 1;
                if interval.is_none_or(|interval| which >= model.outcomes(&interval.step)) {
                    (at, which) = (line.after(at), 0);
                }
            }
            Some(Event { step, returns: true }) => {
                if stack.len() >= furthest {
                    (furthest, stuck) = (stack.len(), step);
                }
                // It has come back, and must have happened by here: one of the choices before was wrong.
                let Some((call, before, tried)) = stack.pop() else { return Verdict::Violation { stuck } };
                state = before;
                if let Some(Event { step, .. }) = line.at(call) {
                    taken = taken.without(step);
                }
                line.put_back(call);
                (at, which) = (call, tried + 1);
            }
        }
    }
}

/// The beginning or the end of a step.
#[derive(Debug, Clone, Copy)]
struct Event {
    step: usize,
    returns: bool,
}

/// Beginnings and ends in the order of time, of which pairs can be taken out and put back: Knuth's dancing links. Place 0 is before the first
/// event, the last place behind the last one.
struct Line {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The end that belongs to a beginning, if there is one.
    partner: Vec<Option<usize>>,
}

#[expect(clippy::indexing_slicing, reason = "all places are made by `of`, which makes the vectors as long as they are")]
impl Line {
    fn of<S>(steps: &[Interval<S>]) -> Self {
        let mut timed: Vec<(Nanos, bool, usize)> = Vec::new();
        for (step, interval) in steps.iter().enumerate() {
            timed.push((interval.call, false, step));
            timed.extend(interval.back.map(|back| (back, true, step)));
        }
        // A beginning before an end of the same moment: then they overlap, which forbids less.
        timed.sort_unstable();
        let places = timed.len() + 2;
        let mut partner = vec![None; places];
        let mut began = vec![0; steps.len()];
        for (at, (_, returns, step)) in timed.iter().enumerate() {
            if *returns {
                partner[began[*step]] = Some(at + 1);
            } else {
                began[*step] = at + 1;
            }
        }
        let events = timed.into_iter().map(|(_, returns, step)| Event { step, returns }).collect();
        let next = (1..=places).collect();
        let previous = (0..places).map(|at| at.saturating_sub(1)).collect();
        Self { events, next, previous, partner }
    }

    fn first(&self) -> usize {
        self.next[0]
    }

    fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    fn at(&self, at: usize) -> Option<Event> {
        self.events.get(at - 1).copied()
    }

    fn lift(&mut self, at: usize) {
        self.unlink(at);
        if let Some(end) = self.partner[at] {
            self.unlink(end);
        }
    }

    fn put_back(&mut self, at: usize) {
        if let Some(end) = self.partner[at] {
            self.link(end);
        }
        self.link(at);
    }

    fn unlink(&mut self, at: usize) {
        let (before, behind) = (self.previous[at], self.next[at]);
        self.next[before] = behind;
        self.previous[behind] = before;
    }

    fn link(&mut self, at: usize) {
        let (before, behind) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        self.previous[behind] = at;
    }
}

/// A set of places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(places: usize) -> Self {
        Self(vec![0; places.div_ceil(64)].into_boxed_slice())
    }

    fn with(&self, place: usize) -> Self {
        let mut more = self.clone();
        if let Some(word) = more.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
        more
    }

    fn without(&self, place: usize) -> Self {
        let mut less = self.clone();
        if let Some(word) = less.0.get_mut(place / 64) {
            *word &= !(1 << (place % 64));
        }
        less
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// One number that is read and written.
    struct Cell;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Write(u64),
        Read(u64),
    }

    impl Model for Cell {
        type State = u64;
        type Step = Step;

        fn begin(&self) -> u64 {
            0
        }

        fn step(&self, state: &u64, step: &Step, _: usize) -> Option<u64> {
            match step {
                Step::Write(value) => Some(*value),
                Step::Read(value) => (value == state).then_some(*state),
            }
        }
    }

    fn step(call: Nanos, back: impl Into<Option<Nanos>>, step: Step) -> Interval<Step> {
        Interval { call, back: back.into(), step }
    }

    fn verdict(steps: &[Interval<Step>]) -> Verdict {
        check(&Cell, steps, || false)
    }

    #[test]
    fn what_overlaps_may_have_happened_in_either_order() {
        let overlapping = [step(0, 10, Step::Write(1)), step(0, 10, Step::Write(2)), step(11, 12, Step::Read(1))];
        assert_eq!(verdict(&overlapping), Verdict::Linearizable);
        let one_after_the_other =
            [step(0, 4, Step::Write(1)), step(5, 10, Step::Write(2)), step(11, 12, Step::Read(1))];
        assert_eq!(verdict(&one_after_the_other), Verdict::Violation { stuck: 2 });
    }

    #[test]
    fn a_value_that_was_seen_to_go_does_not_come_back() {
        let flicker = [
            step(0, 30, Step::Write(1)),
            step(1, 2, Step::Read(1)),
            step(3, 4, Step::Read(0)),
            step(31, 32, Step::Read(1)),
        ];
        assert_eq!(verdict(&flicker), Verdict::Violation { stuck: 2 });
    }

    #[test]
    fn what_is_not_known_happens_once_at_any_later_time_or_never() {
        let lost = step(0, None, Step::Write(1));
        let late = [lost.clone(), step(5, 6, Step::Read(0)), step(50, 51, Step::Read(1))];
        assert_eq!(verdict(&late), Verdict::Linearizable);
        let never = [lost.clone(), step(50, 51, Step::Read(0))];
        assert_eq!(verdict(&never), Verdict::Linearizable);
        let twice = [
            lost,
            step(2, 3, Step::Read(1)),
            step(4, 5, Step::Write(2)),
            step(6, 7, Step::Read(2)),
            step(8, 9, Step::Read(1)),
        ];
        assert_eq!(verdict(&twice), Verdict::Violation { stuck: 4 });
        let before_it_was_asked_for = [step(10, None, Step::Write(1)), step(5, 6, Step::Read(1))];
        assert!(matches!(verdict(&before_it_was_asked_for), Verdict::Violation { .. }));
    }

    #[test]
    fn a_search_that_is_cut_off_says_so() {
        // So many writes at once have no short proof that nobody wrote what was read.
        let mut steps: Vec<_> = (1..40).map(|value| step(0, 1_000, Step::Write(value))).collect();
        steps.push(step(2_000, 2_001, Step::Read(99)));
        let mut looks = 0;
        let cut = check(&Cell, &steps, || {
            looks += 1;
            looks > 3
        });
        assert_eq!(cut, Verdict::OutOfTime);
    }

    /// Histories of a real cell, with real overlap: none is called broken; and each is, once one read of it is of an older value.
    #[test]
    fn histories_of_a_true_cell_pass_and_those_with_one_stale_read_do_not() {
        for seed in 0..200 {
            let mut random = Random::of(seed, "cell", 0);
            let (mut time, mut value, mut steps) = (0, 0, Vec::new());
            let mut acknowledged = Vec::new();
            for serial in 1..120 {
                let call = time + random.between(0, 4);
                let moment = call + 1 + random.between(0, 6);
                let back = moment + random.between(0, 6);
                // Their moments are in this order, so this is one.
                time = moment;
                if random.chance(50) {
                    value = serial;
                    let lost = random.chance(10);
                    if !lost {
                        acknowledged.push(value);
                    }
                    steps.push(step(call, if lost { None } else { Some(back) }, Step::Write(value)));
                } else {
                    steps.push(step(call, back, Step::Read(value)));
                }
            }
            let end = time + 100;
            steps.push(step(end, end + 1, Step::Read(value)));
            assert_eq!(verdict(&steps), Verdict::Linearizable, "seed {seed}");
            // What was acknowledged happens at no later time.
            let settled = acknowledged.iter().rev().copied().find(|old| *old != value).unwrap();
            steps.push(step(end + 2, end + 3, Step::Read(settled)));
            assert_eq!(verdict(&steps), Verdict::Violation { stuck: steps.len() - 1 }, "seed {seed}");
        }
    }
}
