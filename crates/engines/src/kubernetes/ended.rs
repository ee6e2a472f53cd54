//! Since when nothing is there any more that lets in, and for how long it may let in all the same.
//!
//! A token ends with its Secret, and an API server notices that in two steps of its own. It has the Secrets in its memory, from a watch, and
//! believes that memory until the watch has told it (`tokengetter.go`, kubernetes/kubernetes#71816, #72645): moments, without a bound that anybody
//! states. And it remembers for 10 s which tokens it let in (`TokenSuccessCacheTTL`, which no flag of `kube-apiserver` changes). Each
//! server behind one address does so by itself. That a Secret is gone is therefore not yet an end: only that it has been gone for a while.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// How long an API server may let in with a token after its Secret is gone: 10 s for those that it remembers, and 5 s for its watch.
pub const SETTLING: Duration = Duration::from_secs(15);
/// For how long it is known when something ended. What is asked for later is taken to have ended then: so does every executor that has just come.
const KEPT: Duration = Duration::from_secs(3_600);
/// How many are known before those are looked for that need not be.
const MANY: usize = 10_000;

/// What was seen to be gone, and when first.
#[derive(Debug)]
pub(super) struct Ended {
    settling: Duration,
    gone: Mutex<BTreeMap<String, Instant>>,
}

impl Ended {
    pub(super) fn new(settling: Duration) -> Self {
        Self { settling, gone: Mutex::default() }
    }

    /// It is there, again or still.
    pub(super) fn is_there(&self, name: &str) {
        self.lock().remove(name);
    }

    /// It is gone; how long yet it may let in.
    pub(super) fn is_gone(&self, name: &str) -> Option<Duration> {
        let (mut gone, now) = (self.lock(), Instant::now());
        if gone.len() >= MANY {
            gone.retain(|_, since| now.saturating_duration_since(*since) < KEPT);
        }
        let since = *gone.entry(name.to_owned()).or_insert(now);
        let left = self.settling.saturating_sub(now.saturating_duration_since(since));
        (!left.is_zero()).then_some(left)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_has_ended_a_while_later() {
        let ended = Ended::new(SETTLING);
        assert_eq!(ended.is_gone("a"), Some(SETTLING), "from when it was seen first");
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!((ended.is_gone("a"), ended.is_gone("b")), (Some(Duration::from_secs(1)), Some(SETTLING)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ended.is_gone("a"), None);
        ended.is_there("a");
        assert_eq!(ended.is_gone("a"), Some(SETTLING), "it came back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_over_is_forgotten() {
        let ended = Ended::new(SETTLING);
        for n in 0..MANY {
            ended.is_gone(&n.to_string());
        }
        tokio::time::advance(KEPT).await;
        ended.is_gone("new");
        assert_eq!(ended.lock().len(), 1);
    }
}
