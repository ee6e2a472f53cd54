//! Changes: gather the decisions of t members, hand request and endorsements to the leader, see what became of it.

use crate::access::{is_built, protection};
use crate::core::Core;
use crate::executor::engine_failure;
use crate::issue::{injected, statements};
use crate::pipeline::Ask;
use crate::query::check_place;
use quorate_api::peer::{EndorseRequest, ProposeRequest};
use quorate_api::status::Failure;
use quorate_audit::Detail;
use quorate_authz::{Mandate, check_client_roots, validate};
use quorate_raft::ProposeError;
use quorate_state::change::{Change, Resource};
use quorate_state::clock::GRACE;
use quorate_state::command::{Command, Stamp};
use quorate_state::ids::{LeaseId, MemberIndex, RequestId};
use quorate_state::lease;
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::{Endorsement, Request, SignedRequest, remembered};
use quorate_state::secrets::{self, secret};
use quorate_state::store::{Table, decode};
use quorate_state::target::role;
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a peer may take to decide.
const ENDORSE: Duration = Duration::from_secs(2);
/// How long those who are asked first may take before all are asked.
const SOON: Duration = Duration::from_millis(50);
/// How long a change is tried before the caller is told that the cluster does not get it done.
const PATIENCE: Duration = Duration::from_secs(8);

/// What became of a command, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    /// Of a request, once its leader has answered: the entry that had the effect.
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl Core {
    /// Carries a client's change through. The caller of the connection must be the caller of the request.
    pub(crate) async fn submit(self: &Arc<Self>, chain: &[Vec<u8>], signed: SignedRequest) -> Result<Done, Failure> {
        let request = signed.request().map_err(Failure::from)?;
        if request.chain.as_slice() != chain {
            return Err(Failure::new(
                "not_your_request",
                "the request's certificate chain is not that of the connection that brought it",
            ));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(50);
        loop {
            let endorsements = self.gather(&signed, &request).await?;
            injected("submit.p0")?;
            let command = Command::Endorsed { request: signed.clone(), endorsements, stamp: Stamp::default() };
            let done = self.propose_somewhere(command, deadline).await?;
            let error = match done.outcome {
                // The rules changed in between: t members decide anew, on a state that knows it.
                Outcome::Refused(refusal @ Refusal::Stale { .. }) if !request.change.needs_administrators() => {
                    self.wait_applied(done.index, Duration::from_secs(1)).await?;
                    Failure::from(refusal)
                }
                // What the leader stamped on was of a term that is over.
                Outcome::Refused(Refusal::Unjustified) => no_leader(),
                Outcome::Refused(refusal) => return Err(Failure::from(refusal)),
                _ => return Ok(done),
            };
            if Instant::now() + pause > deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// The endorsements of t members, this one's first. This member's own refusal is final; others' count only when too
    /// few are left.
    async fn gather(self: &Arc<Self>, signed: &SignedRequest, request: &Request) -> Result<Vec<Endorsement>, Failure> {
        let (own, index) = match self.endorse(signed, request, None).await {
            // Perhaps what allows it was committed a moment ago, and is not here yet.
            Err(failure)
                if matches!(failure.code, "denied" | "identity_blocked" | "invalid_argument" | "unacceptable_seal") =>
            {
                self.linearize().await?;
                self.endorse(signed, request, None).await?
            }
            decided => decided?,
        };
        let mut endorsements = vec![own];
        let (mut asked, mut unanswered) = (JoinSet::new(), BTreeSet::new());
        let (bytes, hash) = (borsh::to_vec(signed).unwrap_or_default(), signed.hash());
        // As many as it takes, in turns: a decision costs a member a record that is synced. The others when one of them does not agree, or not soon.
        let mut others = self.peers.in_turn(request.id.0.first().copied().unwrap_or(0)).into_iter();
        let mut refusals: Vec<(MemberIndex, Failure)> = Vec::new();
        let mut soon = pin!(sleep(SOON));
        while endorsements.len() < self.threshold() {
            let wanted = if soon.is_elapsed() { usize::MAX } else { self.threshold() - endorsements.len() };
            while asked.len() < wanted
                && let Some((member, mut peer)) = others.next()
            {
                let ask = EndorseRequest { signed_request: bytes.clone(), min_index: index };
                asked.spawn(async move { (member, timeout(ENDORSE, peer.endorse(ask)).await) });
                unanswered.insert(member);
            }
            let answer = tokio::select! {
                biased;
                answer = asked.join_next() => answer,
                () = &mut soon, if !soon.is_elapsed() => {
                    unanswered.iter().for_each(|member| self.peers.note_slow(*member));
                    continue;
                }
            };
            let Some(answer) = answer else {
                return Err(too_few(endorsements.len(), self.threshold(), refusals));
            };
            let Ok((member, answer)) = answer else { continue };
            unanswered.remove(&member);
            match answer {
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    if reply.refusal.is_empty() {
                        match borsh::from_slice::<Endorsement>(&reply.endorsement) {
                            Ok(e)
                                if e.member == member
                                    && e.is_valid(&self.cluster, &self.roster, &hash, &self.verified) =>
                            {
                                endorsements.push(e);
                            }
                            _ => refusals.push((member, Failure::new("bad_answer", "its endorsement is not valid"))),
                        }
                    } else {
                        refusals.push((member, Failure::from_words(&reply.refusal, reply.reason)));
                    }
                }
                Ok(Err(status)) => {
                    self.peers.note_slow(member);
                    refusals.push((member, Failure::new("unreachable", status.message().to_owned())));
                }
                Err(_) => refusals.push((member, Failure::new("unreachable", "it does not answer"))),
            }
        }
        Ok(endorsements)
    }

    /// This member's own endorsement: its own authentication, its own Cedar, its own audit record, then its signature.
    pub(crate) async fn endorse(
        self: &Arc<Self>,
        signed: &SignedRequest,
        request: &Request,
        min_index: Option<u64>,
    ) -> Result<(Endorsement, u64), Failure> {
        if request.cluster != self.cluster {
            return Err(Failure::from(Refusal::WrongCluster));
        }
        if let Some(index) = min_index {
            self.wait_applied(index, Duration::from_secs(1)).await?;
        }
        let administrators = self.read(|store, _| quorate_state::genesis::administrators(store))?;
        // The end itself is checked in cluster time, by everybody, when it is applied.
        self.check_end(request.not_after, GRACE)?;
        let resource = request.change.resource();
        if let Resource::Secret { namespace, path } = &resource {
            check_place(namespace, path)?;
        }
        let mut ask = Ask {
            request: request.id,
            kind: request.change.kind(),
            resource,
            numbers: match &request.change {
                Change::DeleteSecret { numbers, .. } | Change::DestroySecret { numbers, .. } => numbers.clone(),
                _ => Vec::new(),
            },
            details: vec![("request_hash", hash_detail(&signed.hash()))],
        };
        if let Change::RecordMember { absence, reason, .. } = &request.change {
            let absence = absence.map_or_else(|| "present".to_owned(), |a| a.to_string());
            ask.details.extend([("absence", Detail::text(&absence)), ("reason", Detail::text(reason))]);
        }
        if let Change::SetClientRoots { certificates } = &request.change {
            // No client: perhaps there is none left whom the present roots admit.
            let mandate = Mandate::of(signed, request, &administrators, &self.verified).map_err(Failure::from)?;
            check_client_roots(certificates, self.clock()?).map_err(Failure::from)?;
            let recorded = self.mandated(mandate, ask).await?;
            let index = recorded.index();
            return Ok((self.sign_endorsement(recorded, signed).await?, index));
        }
        let principal = self.authenticate_for(request.change.kind(), &request.chain)?;
        if principal.id().as_str() != request.principal || signed.caller() != Some(principal.key()) {
            return Err(Failure::new("not_your_request", "the request's caller or key is not that of its certificate"));
        }
        signed.verify(request, &administrators, &self.verified).map_err(Failure::from)?;
        // Only of whoever proves to be a caller; a full disk is nobody else's business.
        self.room.admits(ask.kind)?;
        let recorded = self.allow(&principal, ask).await?;
        match &request.change {
            // Whoever has not asked for the id of a path that is there is told before anything is proposed.
            Change::PutSecret { namespace, path, header, .. } => {
                let known = self.read(|store, _| secret(store, namespace, path))?;
                secrets::check_id(known.as_ref(), header).map_err(Failure::from)?;
            }
            // Not before: whoever may not write policies has no business with their compiler.
            Change::PutPolicy { name, text } => {
                validate(name, text).map_err(|e| Failure::new("policy_invalid", e.to_string()))?;
            }
            Change::PutTarget { name, spec, .. } => {
                if !is_built(spec.system) {
                    return Err(Failure::new(
                        "engine_missing",
                        format!(
                            "target {name}: the program of member {} was built without the engine for {}: build it with `--features engines`",
                            self.me, spec.system
                        ),
                    ));
                }
                protection(spec.tls.as_ref()).map_err(|e| engine_failure(name, &e))?;
            }
            Change::ReviseTarget { name, revision } => {
                protection(revision.tls.as_ref()).map_err(|e| engine_failure(name, &e))?;
            }
            Change::PutRole { role, .. } => {
                statements(&role.statements, &LeaseId([0; 16]))?;
                role.check_username()?;
            }
            Change::IssueLease { role: name, verifier, .. } => {
                // A role that is not known here may be known by then: that is for the log to say.
                if let Some(role) = self.read(|store, _| role(store, name))? {
                    lease::admits(&role, verifier).map_err(Failure::from)?;
                }
                self.note_wanted(name)?;
            }
            _ => {}
        }
        let index = recorded.index();
        Ok((self.sign_endorsement(recorded, signed).await?, index))
    }

    /// Proposes here if this node leads, else hands the command to the leader; tries until `deadline`.
    pub(crate) async fn propose_somewhere(
        self: &Arc<Self>,
        command: Command,
        deadline: Instant,
    ) -> Result<Done, Failure> {
        let bytes = command.encode();
        let mut pause = Duration::from_millis(30);
        loop {
            let status = self.raft.watch().borrow().clone();
            let error = if status.is_leader {
                match self.lead(command.clone()).await {
                    Err(failure) if failure.code == "no_leader" => failure,
                    other => return other,
                }
            } else if let Some(leader) = status.leader.and_then(|id| self.roster.by_raft_id(id)) {
                match self.hand_over(leader.index, &bytes, deadline).await {
                    Err(failure) if failure.code == "no_leader" => failure,
                    other => return other,
                }
            } else {
                no_leader()
            };
            if Instant::now() + pause > deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn hand_over(&self, leader: MemberIndex, command: &[u8], deadline: Instant) -> Result<Done, Failure> {
        let mut peer = self.peers.client(leader).ok_or_else(no_leader)?;
        let call = peer.propose(ProposeRequest { command: command.to_vec() });
        let reply = match timeout_at(deadline, call).await {
            Ok(Ok(reply)) => reply.into_inner(),
            // It may have been proposed. Endorsed requests and ceremony messages take effect once however often they
            // are proposed, so it is tried again with whoever leads then.
            Ok(Err(_)) => return Err(no_leader()),
            Err(_) => return Err(unknown()),
        };
        if reply.not_leader {
            return Err(no_leader());
        }
        if !reply.refusal.is_empty() {
            return Err(Failure::from_words(&reply.refusal, reply.reason));
        }
        let outcome = decode::<Outcome>(Table::Request as u8, &reply.outcome).map_err(|_| {
            Failure::new("version_mismatch", "the leader answered in a format that this node does not know")
        })?;
        Ok(Done { outcome, index: reply.index, term: reply.term })
    }

    /// Proposes as the leader. What only the leader can know is stamped on; a lease is followed until it can be used.
    pub(crate) async fn lead(self: &Arc<Self>, mut command: Command) -> Result<Done, Failure> {
        let (mut issuing, mut asked) = (None, None);
        match &mut command {
            Command::Endorsed { request, stamp, .. } => {
                let parsed = request.request().map_err(Failure::from)?;
                self.room.admits(parsed.change.kind())?;
                asked = request.caller().map(|caller| (*caller, parsed.id));
                if let (Change::IssueLease { role, .. }, Some(caller)) = (&parsed.change, request.caller().copied()) {
                    if self.known(request, &parsed)? {
                        let done = self.followed(self.propose(command).await?).await?;
                        return self.as_first(asked, done);
                    }
                    if self.creating.over() {
                        return Err(no_leader());
                    }
                    *stamp = self.stamp_issue(role).await?;
                    issuing = Some(LeaseId::of(&self.cluster, &caller, &parsed.id, parsed.not_after));
                }
            }
            Command::Ceremony { .. } => {}
            // Only this node's own tasks say these, and they propose directly.
            _ => return Err(Failure::new("unjustified", "only the leader itself may propose this")),
        }
        injected("lease.p1.before")?;
        let done = match issuing {
            Some(lease) => self.issue(lease, command).await?,
            None => self.propose(command).await?,
        };
        self.as_first(asked, done)
    }

    /// What was done, with the entry that did it: a request that came before stands there, and not where it stands again.
    fn as_first(&self, asked: Option<([u8; 32], RequestId)>, done: Done) -> Result<Done, Failure> {
        let Some((caller, id)) = asked else { return Ok(done) };
        let first = self.read(|store, _| remembered(store, &caller, &id))?;
        Ok(Done { index: first.map_or(done.index, |first| first.index), ..done })
    }

    /// Whether this very request was carried out, or refused, before.
    fn known(&self, signed: &SignedRequest, request: &Request) -> Result<bool, Failure> {
        let Some(caller) = signed.caller() else { return Ok(false) };
        let found = self.read(|store, _| remembered(store, caller, &request.id))?;
        Ok(found.is_some_and(|r| r.hash == signed.hash()))
    }

    /// Has the log take what this node says as the leader: what it refuses is an error.
    pub(crate) async fn say(&self, what: Command) -> Result<(), Failure> {
        match self.propose(what).await?.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            _ => Ok(()),
        }
    }

    /// Puts a command into the log of which this node is the leader.
    pub(crate) async fn propose(&self, command: Command) -> Result<Done, Failure> {
        match self.raft.propose(command.encode()).await {
            Ok(committed) => {
                let outcome = decode::<Outcome>(Table::Request as u8, &committed.reply)
                    .map_err(|_| Failure::new("storage_failed", "the outcome of a command cannot be read"))?;
                Ok(Done { outcome, index: committed.index, term: committed.term })
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Retry) => Err(no_leader()),
            Err(ProposeError::TooLarge { size, limit }) => {
                Err(Failure::new("too_large", format!("the request has {size} bytes; at most {limit} are possible")))
            }
            Err(ProposeError::Busy) => Err(Failure::new("overloaded", "the leader has too many requests under way")),
            Err(ProposeError::Unknown) => Err(unknown()),
            Err(ProposeError::Stopped) => Err(Failure::new("shutting_down", "this node is shutting down")),
        }
    }
}

fn hash_detail(hash: &[u8; 64]) -> Detail {
    let mut short = [0u8; 32];
    for (s, h) in short.iter_mut().zip(hash) {
        *s = *h;
    }
    Detail::hash(&short)
}

pub(crate) fn no_leader() -> Failure {
    Failure::new("no_leader", "no leader is known just now")
}

fn unknown() -> Failure {
    Failure::new("unknown_outcome", "the request may or may not have taken effect")
}

fn too_few(got: usize, needed: usize, refusals: Vec<(MemberIndex, Failure)>) -> Failure {
    let why = refusals.iter().map(|(m, f)| format!("member {m}: {}", f.message)).collect::<Vec<_>>().join("; ");
    // A member that decided otherwise is worth more to the caller than one that is down.
    let code = refusals
        .iter()
        .map(|(_, f)| f.code)
        .find(|c| !matches!(*c, "unreachable" | "behind"))
        .unwrap_or("not_enough_members");
    Failure::new(code, format!("{got} of {needed} members have agreed: {why}"))
}
