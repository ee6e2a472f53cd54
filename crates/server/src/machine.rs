//! The replicated machine: hands log entries to `state`, and tells the journal what became of them.

use crate::failpoint;
use crate::store::Applied;
use quorate_crypto::identity::Verified;
use quorate_raft::freshness::Footprint;
use quorate_raft::{Effect, Entry, Machine, MachineError, View, WrongState};
use quorate_state::change::{Kind, Resource};
use quorate_state::clock;
use quorate_state::command::Command;
use quorate_state::footprint;
use quorate_state::hash::{Recount, StateHash, hash_key};
use quorate_state::ids::{ClusterId, LeaseId, Millis, RequestId};
use quorate_state::machine::{Position, apply};
use quorate_state::outcome::Outcome;
use quorate_state::store::encode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::Sender;

/// What the audit log of this member says of an applied entry.
pub(crate) struct Applying {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// Of a client's request.
    pub(crate) request: Option<(RequestId, String, Kind, Resource)>,
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    /// Cluster time, if the command moved it so far that expiry pauses.
    pub(crate) jumped: Option<Millis>,
    /// The leases that it is about, where the outcome does not say.
    pub(crate) leases: Vec<LeaseId>,
}

pub(crate) struct VaultMachine {
    cluster: ClusterId,
    journal: Sender<Applying>,
    /// The signatures that this member has met.
    verified: Arc<Verified>,
    /// How many the journal had no room for.
    lost: Arc<AtomicU64>,
}

impl VaultMachine {
    pub(crate) fn new(
        cluster: ClusterId,
        journal: Sender<Applying>,
        verified: Arc<Verified>,
        lost: Arc<AtomicU64>,
    ) -> Self {
        Self { cluster, journal, verified, lost }
    }
}

impl Machine for VaultMachine {
    fn apply(&self, view: &dyn View, entry: Entry<'_>) -> Result<Effect, MachineError> {
        let at = Position { index: entry.index, term: entry.term };
        let state = Applied(view);
        #[cfg(feature = "failpoints")]
        let state = crate::planted::Distorted(state, entry.payload);
        let (mut writes, outcome) =
            apply(&state, &self.cluster, at, entry.payload, &self.verified).map_err(|e| MachineError(e.to_string()))?;
        // A test damages this member's state: what it says of itself is no longer what the others have.
        if let Some(Some(hash)) = writes.get_mut(&hash_key())
            && failpoint::hit("machine.damage").is_err()
        {
            hash.reverse();
            hash.rotate_right(1);
        }
        let jumped = clock::jumped(&Applied(view), &writes).map_err(|e| MachineError(e.to_string()))?;
        let reply = encode(&outcome);
        // The journal is this member's own log: it has no part in what the machine computes, and never holds it up.
        if self.journal.try_send(describe(at, entry.payload, outcome, jumped)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Effect { writes: writes.into_iter().collect(), reply })
    }

    fn digest(&self, view: &dyn View) -> Result<[u8; 32], MachineError> {
        StateHash::load(&Applied(view)).map(|hash| hash.digest()).map_err(|e| MachineError(e.to_string()))
    }

    fn recount(&self, digest: [u8; 32]) -> Box<dyn quorate_raft::Recount> {
        Box::new(Rows(Recount::of(digest)))
    }

    fn footprint(&self, payload: &[u8]) -> Footprint {
        match footprint::of_entry(payload) {
            footprint::Footprint::Nothing => Footprint::Nothing,
            footprint::Footprint::Secret(number) => Footprint::Items(vec![number]),
            footprint::Footprint::Everything => Footprint::Everything,
        }
    }
}

/// A state on its way from another member.
struct Rows(Recount);

impl quorate_raft::Recount for Rows {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WrongState> {
        self.0.row(key, value).map_err(|e| WrongState(e.to_string()))
    }

    fn finish(self: Box<Self>) -> Result<(), WrongState> {
        self.0.finish().map_err(|e| WrongState(e.to_string()))
    }
}

fn describe(at: Position, payload: &[u8], outcome: Outcome, jumped: Option<Millis>) -> Applying {
    let command = Command::decode(payload);
    let request = match &command {
        Ok(Command::Endorsed { request, .. }) => {
            request.request().ok().map(|r| (r.id, r.principal, r.change.kind(), r.change.resource()))
        }
        _ => None,
    };
    let leases = match &command {
        Ok(Command::LeaseActive { lease, .. } | Command::LeaseFailed { lease, .. }) => vec![*lease],
        Ok(Command::LeaseRevoked { proofs, .. }) => proofs.iter().map(|p| p.lease).collect(),
        _ => Vec::new(),
    };
    let name = command.as_ref().map_or("unknown", Command::name);
    Applying { index: at.index, term: at.term, request, name, outcome, jumped, leases }
}
