//! Bugs that a test plants, compiled in by the feature `failpoints` only, so that the independent auditor of leases (`tests/auditor`) is
//! shown to catch them. A line `bug.NAME=on` in the file that `FAILPOINT_FILE` names plants one for as long as it stands there.
//!
//! | bug | what is broken | what it must be caught as |
//! |---|---|---|
//! | `bug.fence` | an intent is proved revoked while its CREATE is on the way (`driver.rs`) | orphan |
//! | `bug.number` | the role is dropped first, and its sessions are killed and looked for by name | ghost |
//! | `bug.adopt` | a stray is dropped at the target, and not proposed to the log | early death, once what the leader knows is old |
//!
//! `bug.number` breaks nothing at a target that knows principals by their names, as MariaDB and Redis do; the others are planted there too
//! (`tests/tests/e2e_auditor/sabotage.rs`).
//!
//! `reconcile.stale=on` is no bug but bad luck that must do no harm: what leases there are is read long before the target is listed.
//! `reconcile.hurry=on` has a target searched every second.

use crate::core::Core;
use crate::driver::clean;
use crate::failpoint::planted;
use crate::trouble::Troubles;
use quorate_engines::{Engine, Principal};
use quorate_state::lease;
use std::collections::BTreeSet;
use std::time::Duration;

/// How old what a stale leader knows of leases is when it lists the target.
const STALE: Duration = Duration::from_millis(2_500);

/// The role goes first, and what is left to kill and to look for is its name.
pub(crate) async fn by_name(target: &str, engine: &dyn Engine, principals: Vec<Principal>) -> Vec<Principal> {
    if !planted("bug.number") {
        return principals;
    }
    clean(&Troubles::default(), target, engine, &principals).await;
    principals.into_iter().map(|p| Principal { oid: None, ..p }).collect()
}

impl Core {
    /// The principals of all leases as they are now, which is long ago when the target is listed.
    pub(crate) async fn stale(&self) -> Option<BTreeSet<String>> {
        if !planted("reconcile.stale") {
            return None;
        }
        let known = self.read(|store, _| lease::leases(store, None, usize::MAX)).ok()?;
        tokio::time::sleep(STALE).await;
        Some(known.into_iter().map(|(_, lease)| lease.principal).collect())
    }

    /// What the log says about a stray is not asked.
    pub(crate) async fn dropped_at_once(&self, engine: &dyn Engine, stray: &Principal) -> bool {
        if !planted("bug.adopt") {
            return false;
        }
        let stray = std::slice::from_ref(stray);
        // What fails is tried again with the next search.
        engine.refuse(stray).await.is_ok() && engine.kill(stray).await.is_ok()
    }
}

/// The strays among what was listed, to a leader that only knows `stale`.
pub(crate) fn strays(
    stale: Option<&BTreeSet<String>>,
    listed: &[Principal],
    unknown: Vec<Principal>,
) -> Vec<Principal> {
    match stale {
        Some(known) => listed.iter().filter(|p| !known.contains(&p.name)).cloned().collect(),
        None => unknown,
    }
}
