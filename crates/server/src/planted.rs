//! Bugs that a test plants, compiled in by the feature `failpoints` only, so that the independent auditor of leases (`tests/auditor`) and the
//! checkers of `jepsen` are shown to catch them. A line `bug.NAME=on` in the file that `FAILPOINT_FILE` names plants one for as long as it stands there.
//!
//! | bug | what is broken | what it must be caught as |
//! |---|---|---|
//! | `bug.fence` | an intent is proved revoked while its CREATE is on the way (`driver.rs`) | orphan |
//! | `bug.number` | the role is dropped first, and its sessions are killed and looked for by name | ghost |
//! | `bug.adopt` | a stray is dropped at the target, and not proposed to the log | early death, once what the leader knows is old |
//! | `bug.early` | CREATE comes before the intent is in the log (`issue.rs`) | orphan |
//! | `bug.sessions` | no session is killed or looked for (`gone.rs`) | survivor; sessions after an end |
//! | `bug.twice` | the table of requests is never read (`machine.rs`) | one put that takes effect twice |
//! | `bug.unrecorded` | decisions are acted on before they are recorded (`pipeline.rs`) | answers that are in no audit log |
//! | `bug.stale` | a member answers without waiting for what its own log holds (`open.rs`) | a read that is older than an acknowledged write |
//! | `bug.rules` | decisions go by the rules of two seconds ago (`core.rs`) | something opens that was forbidden before it was asked for |
//! | `bug.honoured` | a lease that is being ended is renewed as if it were not (`machine.rs`) | a renewal after an end |
//! | `bug.clock` | leases expire by the leader's own wall clock (`driver.rs`) | an end before its time |
//! | `bug.again` | a sync of the audit log that failed is taken for one that will do (`run.rs`) | answers that are in no audit log |
//!
//! All but the first three are those of `chaos mutants` (`jepsen/README.md`), and `bug.fence` too.
//! `make simulate-mutants` plants those that show in virtual time in all members of a simulation, which are in one process.
//!
//! `bug.number` breaks nothing at a target that knows principals by their names, as MariaDB and Redis do; the others are planted there too
//! (`tests/tests/e2e_auditor/sabotage.rs`).
//!
//! `reconcile.stale=on` is no bug but bad luck that must do no harm: what leases there are is read long before the target is listed.
//! `reconcile.hurry=on` has a target searched every second.

use crate::core::Core;
use crate::driver::clean;
use crate::failpoint::planted;
use crate::store::Applied;
use crate::trouble::Troubles;
use quorate_api::status::Failure;
use quorate_audit::disk::{Disk, RealDisk, Segments};
use quorate_audit::{Class, Entry};
use quorate_engines::{Engine, Principal};
use quorate_state::change::Kind;
use quorate_state::clock::ClusterClock;
use quorate_state::command::Command;
use quorate_state::ids::LeaseId;
use quorate_state::lease;
use quorate_state::machine::{Position, apply};
use quorate_state::store::{Pair, Store, StoreError, Table, Writes, decode, encode};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How old what a stale leader knows of leases is when it lists the target.
const STALE: Duration = Duration::from_millis(2_500);

/// How long a decision is acted on before it is recorded, and a login there before its intent.
const BEFORE: Duration = Duration::from_secs(2);

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

/// Those records whose time has come: all others, the new ones too, are kept back, and gone if this process ends before.
pub(crate) fn kept_back(entries: Vec<(Entry, Class)>) -> Vec<(Entry, Class)> {
    static BACK: Mutex<VecDeque<(Instant, Entry, Class)>> = Mutex::new(VecDeque::new());
    if !planted("bug.unrecorded") {
        return entries;
    }
    let mut back = BACK.lock().unwrap_or_else(PoisonError::into_inner);
    back.extend(entries.into_iter().map(|(entry, class)| (Instant::now(), entry, class)));
    let due = back.iter().take_while(|(since, ..)| since.elapsed() > BEFORE).count();
    back.drain(..due).map(|(_, entry, class)| (entry, class)).collect()
}

/// The state as `apply` reads it for an entry, and as it is not: without the table of requests, so that each is new to it; with leases that are
/// active still where somebody renews one; at the time of the leader's own clock where it says that leases expire.
pub(crate) struct Distorted<'a>(pub(crate) Applied<'a>, pub(crate) &'a [u8]);

impl Distorted<'_> {
    fn as_honoured(&self, row: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let mut lease: lease::Lease = decode(Table::Lease as u8, &row)?;
        match Command::decode(self.1) {
            Ok(Command::Endorsed { request, .. })
                if request.request().is_ok_and(|asked| asked.change.kind() == Kind::RenewLease) =>
            {
                lease.state = lease::State::Active;
                Ok(encode(&lease))
            }
            _ => Ok(row),
        }
    }

    fn as_the_leader_has_it(&self, row: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let Ok(Command::Expire { upto, .. }) = Command::decode(self.1) else { return Ok(row) };
        let clock: ClusterClock = decode(Table::Meta as u8, &row)?;
        Ok(encode(&ClusterClock { now: upto, paused_until: 0, ..clock }))
    }
}

impl Store for Distorted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if key.first() == Some(&(Table::Request as u8)) && planted("bug.twice") {
            return Ok(None);
        }
        match self.0.get(key)? {
            Some(row) if key.first() == Some(&(Table::Lease as u8)) && planted("bug.honoured") => {
                self.as_honoured(row).map(Some)
            }
            Some(row) if key == quorate_state::store::key(Table::Meta, &[b"clock"]) && planted("bug.clock") => {
                self.as_the_leader_has_it(row).map(Some)
            }
            row => Ok(row),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.0.scan(from, to, limit)
    }
}

/// What a command would write, over the state as it is.
struct Foreseen<'a>(&'a dyn Store, Writes);

impl Store for Foreseen<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.1.get(key).map_or_else(|| self.0.get(key), |value| Ok(value.clone()))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.0.scan(from, to, limit)
    }
}

impl Core {
    /// Makes the login that a request for a lease will be about, long before the log has heard of it: also where the same request comes by two ways.
    pub(crate) async fn created_early(
        self: &std::sync::Arc<Self>,
        id: LeaseId,
        command: &Command,
    ) -> Result<(), Failure> {
        if !planted("bug.early") {
            return Ok(());
        }
        let status = self.raft.watch().borrow().clone();
        let foreseen = self.read(|store, index| {
            let at = Position { index: index + 1, term: status.term };
            let (writes, _) = apply(store, &self.cluster, at, &command.encode(), &self.verified)?;
            lease::lease(&Foreseen(store, writes), &id)
        })?;
        if let Some(foreseen) = foreseen {
            // What the target says of it, it says again.
            drop(self.create_at_target(&id, &foreseen, status.term).await);
            tokio::time::sleep(BEFORE).await;
        }
        Ok(())
    }
}

/// Whether rules that have changed are gone by for a while yet, since the first decision after the change.
pub(crate) fn by_old_rules() -> bool {
    static SINCE: Mutex<Option<Instant>> = Mutex::new(None);
    if !planted("bug.rules") {
        return false;
    }
    let mut since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    if since.get_or_insert_with(Instant::now).elapsed() < BEFORE {
        return true;
    }
    *since = None;
    false
}

impl Core {
    /// Expiry as the leader's own wall clock has it, whatever the others' say. Whether there may be more; nothing where it is not planted.
    pub(crate) async fn expired_by_own_clock(self: &std::sync::Arc<Self>, term: u64) -> Result<Option<bool>, Failure> {
        if !planted("bug.clock") {
            return Ok(None);
        }
        let upto = self.env.clock.wall();
        if self.read(|store, _| lease::next_due(store))?.is_some_and(|due| due <= upto) {
            self.propose(Command::Expire { term, upto }).await?;
        }
        Ok(Some(false))
    }
}

/// The audit log's disk, of which a sync that fails is tried again, and again if need be, and then taken for good.
pub(crate) struct Trusting(pub(crate) RealDisk);

impl Segments for Trusting {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read(name)
    }
}

impl Disk for Trusting {
    fn allocate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.allocate(name, bytes)
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(name, offset, data)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        match self.0.sync(name) {
            Err(_) if planted("bug.again") => self.0.sync(name).or(Ok(())),
            synced => synced,
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
}
