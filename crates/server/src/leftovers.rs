//! P11: what ended principals left behind at their targets is removed, apart from everything that ends or makes any. It is never a
//! condition of truth, and may take seconds for each, so nothing waits for it. What is not removed is found again when the target is
//! searched, by whoever leads then.

use crate::core::Core;
use crate::driver::clean;
use quorate_engines::Principal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// How many are cleaned up after together: what comes meanwhile, or another leader, waits for no more.
const PORTION: usize = 16;
/// How many of one target wait here at most. The others are found by the next search.
const MOST: usize = 10_000;

/// The pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Principals that have ended, and are still there because of what they left behind: by target.
#[derive(Default)]
pub(crate) struct Leftovers(Mutex<BTreeMap<String, BTreeSet<Principal>>>);

impl Leftovers {
    pub(crate) fn add(&self, target: &str, ended: Vec<Principal>) {
        if ended.is_empty() {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.entry(target.to_owned()).or_default();
        let room = MOST.saturating_sub(waiting.len());
        waiting.extend(ended.into_iter().take(room));
    }

    pub(crate) fn has(&self, target: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(target)
    }

    pub(crate) fn take(&self, target: &str, most: usize) -> Vec<Principal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = all.get_mut(target) else { return Vec::new() };
        let taken = std::iter::from_fn(|| waiting.pop_first()).take(most).collect();
        if waiting.is_empty() {
            all.remove(target);
        }
        taken
    }

    /// This node leads no more.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Core {
    /// Cleans up at one target until nothing waits for it.
    pub(crate) async fn clean_up(self: Arc<Self>, name: &str, term: u64) {
        while self.leads_in(term) {
            // Nobody is in office who was not when they ended.
            let Some(office) = self.entered(name, term).await else { return };
            let some = self.leftovers.take(name, PORTION);
            if some.is_empty() {
                return;
            }
            if !clean(&self.troubles, name, &*office.engine, &some).await {
                self.leftovers.add(name, some);
                sleep(AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_taken_once() {
        let leftovers = Leftovers::default();
        let ended = |range: std::ops::Range<usize>| {
            range.map(|n| Principal { name: format!("q1_{n:05}"), oid: None }).collect::<Vec<_>>()
        };
        leftovers.add("t", ended(0..3));
        leftovers.add("t", ended(2..4));
        assert_eq!(leftovers.take("t", 3), ended(0..3));
        assert!(leftovers.has("t") && !leftovers.has("other"));
        assert_eq!((leftovers.take("t", 3), leftovers.has("t")), (ended(3..4), false));
        leftovers.add("t", ended(0..MOST + 1));
        assert_eq!(leftovers.take("t", usize::MAX).len(), MOST);
    }
}
