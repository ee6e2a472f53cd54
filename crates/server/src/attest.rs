//! Attestations: what this member signs about its state, what it takes from others, and what follows.
//!
//! Members exchange them directly, never by way of a leader. Three things rest on them: a state is taken over from another
//! member only if t vouch for it, the log is compacted only then, and a rule is *effective* only when every member of the
//! roster has applied it. Somebody else's word counts as far as this member can compare it with its own log: what it says
//! of entries that this member does not have is ignored, and shown.

use crate::absence::Absences;
use crate::core::Core;
use crate::failpoint;
use crate::keystore::Keystore;
use crate::peers::Peers;
use quorate_api::peer::{AttestReply, AttestRequest};
use quorate_raft::{Checkpoint, CheckpointError, Notary, Unattested};
use quorate_state::attest::{Applied, Attestation, vouchers};
use quorate_state::genesis::Roster;
use quorate_state::ids::{ClusterId, MemberIndex};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// How long a member may take to apply what it is asked about.
const APPLY: Duration = Duration::from_secs(1);
/// How long a member may take to answer, with that.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the answer to a change waits for those that are not there.
const GLANCE: Duration = Duration::from_millis(400);

/// Why a member's attestation does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Complaint {
    /// Not its signature, or about another cluster, roster or member.
    #[error("its attestation is not valid")]
    Invalid,
    /// It has another log or state than this member, at the same index: it lies, or one of the two is damaged.
    #[error("it attests another state at index {0} than this member has")]
    Differs(u64),
    /// It speaks of entries that this member has not seen: perhaps there are none.
    #[error("it attests index {0}, of which this member has no entry")]
    Ahead(u64),
}

/// What this member knows of another.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Its newest attestation that agrees with this member's own log.
    pub(crate) newest: Option<Attestation>,
    /// Its last one that does not.
    differing: Option<Attestation>,
    /// What is wrong with its last one, if it does not count.
    pub(crate) complaint: Option<Complaint>,
}

/// Signs, gathers and judges attestations.
pub(crate) struct Attestor {
    pub(crate) cluster: ClusterId,
    pub(crate) roster: Roster,
    pub(crate) me: MemberIndex,
    pub(crate) keys: Arc<Keystore>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) absences: Arc<Absences>,
    pub(crate) seen: Mutex<BTreeMap<MemberIndex, Seen>>,
    /// An index at which t others agree on another state than this member has: it must not go on.
    pub(crate) diverged: watch::Sender<Option<u64>>,
}

fn applied(checkpoint: &Checkpoint) -> Applied {
    Applied { index: checkpoint.index, log: checkpoint.log, state: checkpoint.state }
}

impl Attestor {
    /// This member's word for a checkpoint of its own.
    pub(crate) fn sign(&self, checkpoint: &Checkpoint) -> Attestation {
        let mut applied = applied(checkpoint);
        // A test makes liars of members: one that claims another state, one that claims to be far ahead.
        if failpoint::hit("attest.lie").is_err() {
            applied.state = [0xff; 32];
        }
        if failpoint::hit("attest.ahead").is_err() {
            applied.index = applied.index.saturating_add(1_000_000);
        }
        Attestation::sign(&self.cluster, self.roster.number, self.me, applied, self.keys.identity())
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<MemberIndex, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, member: MemberIndex, complaint: Complaint) {
        let mut seen = self.seen();
        let known = seen.entry(member).or_default();
        if known.complaint.as_ref() != Some(&complaint) {
            let name = self.roster.member(member).map_or_else(String::new, |m| m.name.clone());
            tracing::error!(member = name, %complaint, "an attestation is ignored");
            known.complaint = Some(complaint);
        }
    }

    fn confirm(&self, attestation: Attestation) {
        let mut seen = self.seen();
        let known = seen.entry(attestation.member).or_default();
        known.complaint = None;
        if known.newest.as_ref().is_none_or(|n| n.applied.index < attestation.applied.index) {
            known.newest = Some(attestation);
        }
    }

    /// Takes note of a member that has another state than this one. One may lie; t that agree with each other do not all.
    fn differ(&self, attestation: Attestation) {
        let (member, theirs) = (attestation.member, attestation.applied);
        self.complain(member, Complaint::Differs(theirs.index));
        let mut seen = self.seen();
        seen.entry(member).or_default().differing = Some(attestation);
        let others: Vec<Attestation> = seen.values().filter_map(|s| s.differing.clone()).collect();
        if vouchers(&self.cluster, &self.absences.contributors(), &theirs, &others)
            >= usize::from(self.roster.threshold)
        {
            self.diverged.send_replace(Some(theirs.index));
        }
    }

    /// What is known of a member.
    pub(crate) fn known(&self, member: MemberIndex) -> Seen {
        self.seen().get(&member).cloned().unwrap_or_default()
    }
}

#[async_trait::async_trait]
impl Notary for Attestor {
    async fn attest(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, Unattested> {
        let wanted = applied(checkpoint);
        let mut proof = vec![self.sign(checkpoint)];
        let needed = usize::from(self.roster.threshold);
        let roster = self.absences.contributors();
        let mut asked = JoinSet::new();
        for (member, mut peer) in self.peers.all() {
            let ask = AttestRequest { index: wanted.index, exact: true, attestation: Vec::new() };
            asked.spawn(async move { (member, timeout(ANSWER, peer.attest(ask)).await) });
        }
        while vouchers(&self.cluster, &roster, &wanted, &proof) < needed {
            let Some(answer) = asked.join_next().await else { break };
            let Ok((member, Ok(Ok(reply)))) = answer else { continue };
            let reply = reply.into_inner();
            if reply.attestation.is_empty() {
                continue;
            }
            match borsh::from_slice::<Attestation>(&reply.attestation) {
                Ok(a) if a.member == member && a.is_valid(&self.cluster, &roster) => {
                    if a.applied == wanted {
                        proof.push(a);
                    } else if a.applied.index == wanted.index {
                        self.differ(a);
                    } else {
                        self.complain(member, Complaint::Ahead(a.applied.index));
                    }
                }
                _ => self.complain(member, Complaint::Invalid),
            }
        }
        let got = vouchers(&self.cluster, &roster, &wanted, &proof);
        if got < needed {
            return Err(Unattested { index: wanted.index, got, needed });
        }
        Ok(borsh::to_vec(&proof).unwrap_or_default())
    }

    fn verify(&self, checkpoint: &Checkpoint, proof: &[u8]) -> Result<(), Unattested> {
        let attestations: Vec<Attestation> = borsh::from_slice(proof).unwrap_or_default();
        let got = vouchers(&self.cluster, &self.absences.contributors(), &applied(checkpoint), &attestations);
        let needed = usize::from(self.roster.threshold);
        if got < needed { Err(Unattested { index: checkpoint.index, got, needed }) } else { Ok(()) }
    }
}

impl Core {
    /// Answers another member: this one's word for an index, or for its newest at or past it.
    pub(crate) async fn attested(&self, sender: MemberIndex, ask: AttestRequest) -> AttestReply {
        if failpoint::hit("attest.silent").is_err() {
            return AttestReply::default();
        }
        if !ask.attestation.is_empty() {
            self.compare(sender, &ask.attestation).await;
        }
        match self.raft.settled(ask.index, ask.exact, APPLY).await {
            Ok(checkpoint) => {
                let attestation = borsh::to_vec(&self.attestor.sign(&checkpoint)).unwrap_or_default();
                let excuses = self.excuses_at(checkpoint.index);
                AttestReply { attestation, applied: checkpoint.index, excuses }
            }
            Err(CheckpointError::Behind(behind)) => AttestReply { applied: behind.applied, ..AttestReply::default() },
            Err(CheckpointError::Forgotten | CheckpointError::Stopped) => AttestReply::default(),
        }
    }

    /// Compares another member's word with this one's own log.
    pub(crate) async fn compare(&self, member: MemberIndex, bytes: &[u8]) {
        let attestor = &self.attestor;
        let Ok(attestation) = borsh::from_slice::<Attestation>(bytes) else {
            return attestor.complain(member, Complaint::Invalid);
        };
        if attestation.member != member || !attestation.is_valid(&self.cluster, &self.roster) {
            return attestor.complain(member, Complaint::Invalid);
        }
        let theirs = attestation.applied;
        if self.raft.wait_applied(theirs.index, APPLY).await.is_err() {
            return attestor.complain(member, Complaint::Ahead(theirs.index));
        }
        match self.raft.checkpoint_at(theirs.index) {
            Some(ours) if applied(&ours) == theirs => attestor.confirm(attestation),
            Some(_) => attestor.differ(attestation),
            // Too long ago to compare: then it is not needed either.
            None => {}
        }
    }

    /// The members of whom this one does not know that they have applied `index`, and that are not recorded as gone.
    pub(crate) fn unconfirmed(&self, index: u64) -> Vec<MemberIndex> {
        let gone = self.absences.gone();
        let confirmed = |member: MemberIndex| {
            if gone.contains(&member) {
                true
            } else if member == self.me {
                self.raft.checkpoint().index >= index
            } else {
                self.attestor.known(member).newest.is_some_and(|a| a.applied.index >= index)
            }
        };
        self.roster.members.iter().map(|m| m.index).filter(|m| !confirmed(*m)).collect()
    }

    /// Asks until every member of the roster has attested an index at or past `index` or is recorded as gone, or `patience` is
    /// over. Returns who has not and is not: the change of that index is *effective* when that is nobody.
    pub(crate) async fn confirm(self: &Arc<Self>, index: u64, patience: Duration) -> Vec<MemberIndex> {
        let deadline = Instant::now() + patience;
        let _ = timeout_at(deadline, self.raft.wait_applied(index, patience)).await;
        let _ = self.follow_absences();
        // Whoever is gone may be back, and is then waited for again; what the others say of it is passed on to clients.
        let gone = self.absences.gone();
        for member in gone.iter().copied() {
            let core = Arc::clone(self);
            tokio::spawn(async move { core.ask(member, index).await });
        }
        let mut first = !gone.is_empty();
        loop {
            let round = Instant::now() + Duration::from_millis(250);
            let missing = self.unconfirmed(index);
            if (missing.is_empty() && !first) || Instant::now() >= deadline {
                return missing;
            }
            let mut asked = JoinSet::new();
            let worth = |m: MemberIndex| missing.contains(&m) || (first && !gone.contains(&m));
            for (member, _) in self.peers.all().filter(|(m, _)| worth(*m)) {
                let core = Arc::clone(self);
                asked.spawn(async move { core.ask(member, index).await });
            }
            first = false;
            while let Ok(Some(_)) = timeout_at(deadline, asked.join_next()).await {}
            if self.unconfirmed(index).is_empty() {
                return Vec::new();
            }
            // Who was not there in time is still heard, and judged, for the next one who asks.
            asked.detach_all();
            sleep_until(round.min(deadline)).await;
        }
    }

    /// [`Core::confirm`] for the answer to a change: those that are there answer in a moment.
    pub(crate) async fn glance(self: &Arc<Self>, index: u64) -> Vec<MemberIndex> {
        self.confirm(index, GLANCE).await
    }

    /// Exchanges attestations of one index with all members.
    async fn exchange(self: &Arc<Self>, index: u64) {
        let Ok(checkpoint) = self.raft.settled(index, true, APPLY).await else { return };
        let attestation = borsh::to_vec(&self.attestor.sign(&checkpoint)).unwrap_or_default();
        let mut asked = JoinSet::new();
        for (member, mut peer) in self.peers.all() {
            let (core, attestation) = (Arc::clone(self), attestation.clone());
            asked.spawn(async move {
                let ask = AttestRequest { index, exact: true, attestation };
                if let Ok(Ok(reply)) = timeout(ANSWER, peer.attest(ask)).await
                    && !reply.get_ref().attestation.is_empty()
                {
                    core.compare(member, &reply.get_ref().attestation).await;
                }
            });
        }
        while asked.join_next().await.is_some() {}
    }

    /// Tells every member where this one is, before it goes: they may confirm that to others while it is away.
    pub(crate) async fn say_goodbye(self: &Arc<Self>) {
        self.exchange(self.raft.checkpoint().index).await;
    }

    /// The member's task: an exchange at every index divisible by `every`.
    pub(crate) async fn drive_attestations(self: Arc<Self>, every: u64) {
        let every = every.max(1);
        let mut status = self.raft.watch();
        let mut done = self.raft.checkpoint().index / every;
        while status.changed().await.is_ok() {
            let passed = self.raft.checkpoint().index / every;
            if passed > done {
                done = passed;
                self.exchange(passed.saturating_mul(every)).await;
            }
        }
    }
}
