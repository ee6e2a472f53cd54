//! Whether the cluster is still the one that it was.
//!
//! Its store counts changes, and never back. A store that was put back from a backup goes on from the number that it had then; or, where it is
//! restored with `--bump-revision`, as etcd's own instructions have it, from one that is ahead by a thousand million.

use tokio::sync::Mutex;

use super::api::{self, Api};
use super::{KubernetesConfig, random};
use crate::{EngineError, number_of};
use serde::Deserialize;

/// No cluster makes so many changes between two questions, which are seconds apart.
const LEAP: u64 = 100_000_000;

/// What is remembered of the cluster. Each hold begins with a number of its own.
#[derive(Debug)]
pub(super) struct Timeline {
    drawn: u32,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    revision: Option<u64>,
    breaks: u32,
}

#[derive(Deserialize)]
struct Namespace {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
}

impl Timeline {
    pub(super) fn new() -> Result<Self, EngineError> {
        Ok(Self { drawn: u32::from_be_bytes(random()?), known: Mutex::default() })
    }

    /// A number that is another one when the namespace is another, as at another cluster or after it was made anew, and when the store has gone
    /// back, or leapt.
    pub(super) async fn number(&self, api: &Api, config: &KubernetesConfig) -> Result<u32, EngineError> {
        // Held while it is asked: an answer that is overtaken by a later one would look like a step back.
        let mut known = self.known.lock().await;
        let namespace: Namespace = api.get(config, api::namespace_path(config)?).await?;
        let revision = api.revision(config).await?;
        known.saw(revision);
        Ok(number_of(&format!("{} {} {}", self.drawn, namespace.metadata.uid, known.breaks)))
    }
}

impl Known {
    fn saw(&mut self, revision: u64) {
        let broken = self.revision.is_some_and(|last| revision < last || revision - last >= LEAP);
        self.breaks = self.breaks.wrapping_add(u32::from(broken));
        self.revision = Some(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_goes_back_or_leaps_was_restored() {
        let mut known = Known::default();
        let mut breaks = |revision| {
            known.saw(revision);
            known.breaks
        };
        assert_eq!([5, 5, 6, 1_000_006].map(&mut breaks), [0; 4]);
        assert_eq!([1_000_005, 1_000_006, 1_000_000_006, 1_000_000_007, 3].map(breaks), [1, 1, 2, 2, 3]);
    }
}
