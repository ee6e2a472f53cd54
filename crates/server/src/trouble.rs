//! What keeps leases from ending, and what they leave behind, as the node knows it that works at their targets: for people, who ask why.
//! Nothing is decided by it, and a new leader begins with nothing.

use quorate_state::ids::LeaseId;
use quorate_state::lease::Queue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Of how many leases of one target it is kept, and of how many logins. What else there is waits for the same reasons.
const MOST: usize = 1_000;

/// By target.
#[derive(Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<String, AtTarget>>);

#[derive(Default)]
struct AtTarget {
    /// Why a whole queue waits.
    held_up: BTreeMap<Queue, String>,
    /// Why single leases do.
    leases: BTreeMap<LeaseId, String>,
    /// What ended logins have left behind.
    left: BTreeMap<String, String>,
    /// Sessions that nobody accounts for.
    ghosts: Vec<String>,
}

impl AtTarget {
    /// What single leases wait for, where nothing is known of one.
    fn others(&self) -> Option<String> {
        let first = self.leases.values().next()?;
        Some(format!("{} leases wait, the first because: {first}", self.leases.len()))
    }

    fn is_empty(&self) -> bool {
        self.held_up.is_empty() && self.leases.is_empty() && self.left.is_empty() && self.ghosts.is_empty()
    }
}

/// Notes the trouble with one of many, or that there is none any more.
fn note<K: Ord>(all: &mut BTreeMap<K, String>, of: K, why: Option<&str>) {
    match why {
        Some(why) if all.len() < MOST || all.contains_key(&of) => drop(all.insert(of, shown(why))),
        Some(_) => {}
        None => drop(all.remove(&of)),
    }
}

/// A target's own words, which whoever is leased there may have chosen, as a terminal may show them.
fn shown(why: &str) -> String {
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, AtTarget>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, target: &str, change: impl FnOnce(&mut AtTarget)) {
        let mut all = self.lock();
        let at = all.entry(target.to_owned()).or_default();
        change(at);
        if at.is_empty() {
            all.remove(target);
        }
    }

    /// A queue of a target waits, or goes on.
    pub(crate) fn held_up(&self, target: &str, queue: Queue, why: Option<&str>) {
        self.at(target, |at| note(&mut at.held_up, queue, why));
    }

    /// A round was about a lease: it has ended, or waits.
    pub(crate) fn lease(&self, target: &str, id: LeaseId, why: Option<&str>) {
        self.at(target, |at| note(&mut at.leases, id, why));
    }

    /// What an ended login has left behind could not be cleaned up, or was.
    pub(crate) fn left(&self, target: &str, login: &str, why: Option<&str>) {
        self.at(target, |at| note(&mut at.left, login.to_owned(), why));
    }

    /// A whole target was searched, and these logins are all that have left something there.
    pub(crate) fn left_by(&self, target: &str, logins: &BTreeSet<String>) {
        self.at(target, |at| at.left.retain(|login, _| logins.contains(login)));
    }

    /// The sessions at a target whose account is gone, and which no lease explains.
    pub(crate) fn ghosts(&self, target: &str, found: Vec<String>) {
        self.at(target, |at| at.ghosts = found);
    }

    /// How many there are, by target.
    pub(crate) fn count_ghosts(&self) -> BTreeMap<String, usize> {
        let all = self.lock();
        all.iter().filter(|(_, at)| !at.ghosts.is_empty()).map(|(name, at)| (name.clone(), at.ghosts.len())).collect()
    }

    /// Those of a target.
    pub(crate) fn ghosts_at(&self, target: &str) -> Vec<String> {
        self.lock().get(target).map(|at| at.ghosts.clone()).unwrap_or_default()
    }

    /// Forgets what was at targets that are no more.
    pub(crate) fn retain(&self, there: impl Fn(&str) -> bool) {
        self.lock().retain(|target, _| there(target));
    }

    /// Why a lease of a queue that is to end has not.
    pub(crate) fn of_lease(&self, target: &str, queue: Queue, lease: &LeaseId) -> Option<String> {
        let all = self.lock();
        let at = all.get(target)?;
        at.held_up.get(&queue).or_else(|| at.leases.get(lease)).cloned().or_else(|| at.others())
    }

    /// Why nothing ends at a target, or not all.
    pub(crate) fn of_target(&self, target: &str) -> Option<String> {
        let all = self.lock();
        let at = all.get(target)?;
        at.held_up.values().next().cloned().or_else(|| at.others())
    }

    /// What ended logins have left behind at a target, and why it is there still.
    pub(crate) fn leftovers(&self, target: &str) -> BTreeMap<String, String> {
        self.lock().get(target).map(|at| at.left.clone()).unwrap_or_default()
    }

    /// What one ended login has left behind.
    pub(crate) fn left_behind(&self, target: &str, login: &str) -> Option<String> {
        self.lock().get(target)?.left.get(login).cloned()
    }

    /// This node leads no more.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_not_shown_and_what_is_kept_is_bounded() {
        let troubles = Troubles::default();
        let (one, two) = (LeaseId([1; 16]), LeaseId([2; 16]));
        troubles.lease("t", one, Some("its \u{1b}[2Jsession does\nnot end"));
        let own = "its  [2Jsession does not end";
        assert_eq!(troubles.of_lease("t", Queue::Due, &one).unwrap(), own, "nothing that a terminal would obey");
        let others = format!("1 leases wait, the first because: {own}");
        assert_eq!(troubles.of_lease("t", Queue::Due, &two).unwrap(), others);
        assert_eq!(troubles.of_target("t").unwrap(), others);
        troubles.held_up("t", Queue::Due, Some("nothing answers"));
        assert_eq!(troubles.of_lease("t", Queue::Due, &one).unwrap(), "nothing answers", "that is newer");
        assert_eq!(troubles.of_lease("t", Queue::Asked, &one).unwrap(), own, "another queue goes on");
        assert_eq!((troubles.of_target("t").unwrap().as_str(), troubles.of_target("other")), ("nothing answers", None));
        troubles.held_up("t", Queue::Due, None);
        troubles.lease("t", one, None);
        assert_eq!(troubles.of_lease("t", Queue::Due, &one), None);
        assert!(troubles.lock().is_empty());
        for n in 0..=MOST {
            troubles.left("t", &format!("q1_{n}"), Some("it owns a table"));
        }
        assert_eq!(troubles.leftovers("t").len(), MOST);
        assert_eq!(troubles.left_behind("t", "q1_0").unwrap(), "it owns a table");
        troubles.left("t", "q1_0", None);
        assert_eq!((troubles.left_behind("t", "q1_0"), troubles.left_behind("other", "q1_1")), (None, None));
        assert_eq!(troubles.leftovers("t").len(), MOST - 1);
        troubles.left_by("t", &BTreeSet::from(["q1_1".to_owned()]));
        assert_eq!(troubles.leftovers("t").len(), 1);
        troubles.ghosts("t", vec!["process 1".to_owned()]);
        assert_eq!(troubles.count_ghosts(), BTreeMap::from([("t".to_owned(), 1)]));
        troubles.retain(|name| name != "t");
        assert!(troubles.leftovers("t").is_empty() && troubles.count_ghosts().is_empty());
    }
}
