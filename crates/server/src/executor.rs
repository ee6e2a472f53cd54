//! Being in office at targets: the one node that talks to them, in its own term, with a credential that t members
//! opened for it.

use crate::core::Core;
use crate::failpoint;
use crate::submit::Done;
use quorate_api::peer::OpenTargetRequest;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_crypto::secret::SecretVec;
use quorate_crypto::sealed::{self, Header};
use quorate_crypto::threshold;
use quorate_engines::Engine;
use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig, Tls};
use quorate_state::access::keyring;
use quorate_state::command::{Binding, Command, Stamp};
use quorate_state::ids::{KeyringId, MemberIndex, RequestId};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{Executor, Target, executor, role, target};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a peer may take to give its part.
const PART: Duration = Duration::from_secs(2);

/// The engines of the targets at which this node is in office.
#[derive(Default)]
pub(crate) struct Executors {
    by_target: Mutex<BTreeMap<String, Arc<Mutex<Option<Office>>>>>,
}

/// A term of office at one target.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) term: u64,
    pub(crate) engine: Arc<dyn Engine>,
}

impl Core {
    /// This node's office at a target in its present term as leader; taken when it is not held yet.
    pub(crate) async fn office(self: &Arc<Self>, name: &str) -> Result<Office, Failure> {
        let status = self.raft.watch().borrow().clone();
        if !status.is_leader {
            return Err(crate::submit::no_leader());
        }
        let slot = {
            let mut all = self.executors.by_target.lock().await;
            Arc::clone(all.entry(name.to_owned()).or_default())
        };
        // One taker at a time for each target: others wait here, and none waits for another target's.
        let mut held = slot.lock().await;
        if let Some(office) = held.as_ref()
            && office.term == status.term
        {
            return Ok(office.clone());
        }
        let office = self.take_office(name, status.term).await?;
        *held = Some(office.clone());
        Ok(office)
    }

    async fn take_office(self: &Arc<Self>, name: &str, term: u64) -> Result<Office, Failure> {
        let (described, held) = self.read(|store, _| Ok((target(store, name)?, executor(store, name)?)))?;
        let described = described.ok_or_else(|| Failure::from(Refusal::not_found("target")))?;
        if held.is_none_or(|e| e.term < term) {
            let command = Command::Executor { target: name.to_owned(), member: self.me, term };
            if let Done { outcome: Outcome::Refused(refusal), .. } = self.propose(command).await? {
                return Err(Failure::from(refusal));
            }
        }
        let password = self.open_credential(name, &described, term).await?;
        let config = PostgresConfig {
            host: described.host.clone(),
            port: described.port,
            dbname: described.database.clone(),
            user: described.user.clone(),
            password,
            tls: Tls::Disabled,
            target: name.to_owned(),
            term,
            owned: OwnedObjects::Drop,
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            create_lock_timeout: Duration::from_secs(3),
        };
        let engine = Postgres::new(config).map_err(|e| engine_failure(name, &e))?;
        engine.warm().await.map_err(|e| engine_failure(name, &e))?;
        // Sessions of earlier terms may still send what an earlier leader had queued.
        engine.kill_older_terms().await.map_err(|e| engine_failure(name, &e))?;
        self.record(
            self.internal_entry("executor.office", term).resource(&format!("target {name}")).term(term),
            Class::Essential,
        )
        .await?;
        Ok(Office { term, engine: Arc::new(engine) })
    }

    /// Opens a target's administrative password with the parts of t members, this one's among them.
    async fn open_credential(self: &Arc<Self>, name: &str, described: &Target, term: u64) -> Result<SecretVec, Failure> {
        let request = RequestId(self.env.random());
        let damaged = |what: &str| Failure::new("storage_failed", format!("the credential of target {name} {what}"));
        let header = Header::decode(&described.header).map_err(|_| damaged("cannot be read"))?;
        let id = KeyringId(header.wrap().keyring_id);
        let (ring, index) = self.read(|store, applied| Ok((keyring(store, &id)?, applied)))?;
        let ring = ring.ok_or_else(|| damaged("is sealed to a keyring that is not here"))?;
        let own = self.target_part(name, self.me, term, &request).await?;
        let mut parts = vec![(self.me, own.partial)];
        let mut asked = JoinSet::new();
        for (member, mut peer) in self.peers.all() {
            let ask = OpenTargetRequest {
                target: name.to_owned(),
                term,
                request_id: request.0.to_vec(),
                min_index: index,
            };
            asked.spawn(async move { (member, timeout(PART, peer.open_target(ask)).await) });
        }
        let mut why = Vec::new();
        while parts.len() < self.threshold() {
            let Some(answer) = asked.join_next().await else {
                return Err(Failure::new(
                    "not_enough_members",
                    format!("{} of {} members open the credential of target {name}: {}", parts.len(), self.threshold(), why.join("; ")),
                ));
            };
            match answer {
                Ok((member, Ok(Ok(reply)))) => {
                    let reply = reply.into_inner();
                    let same = reply.epoch == ring.epoch && reply.header_hash == header.hash();
                    match <[u8; 32]>::try_from(reply.partial.as_slice()) {
                        Ok(partial) if reply.refusal.is_empty() && same => parts.push((member, partial)),
                        _ if reply.refusal.is_empty() => why.push(format!("member {member} has another credential")),
                        _ => why.push(format!("member {member}: {}", reply.reason)),
                    }
                }
                Ok((member, Ok(Err(status)))) => why.push(format!("member {member}: {}", status.message())),
                Ok((member, Err(_))) => why.push(format!("member {member} does not answer")),
                Err(_) => {}
            }
        }
        let point = threshold::combine(&parts).map_err(|e| damaged(&e.to_string()))?;
        sealed::open(&header, &described.payload, &ring.y, &point, &[])
            .map_err(|e| damaged(&format!("does not open: {e}")))
    }

    /// This member's part of a target's credential, for the member that its own state and its own view of the log
    /// call the executor.
    pub(crate) async fn target_part(
        self: &Arc<Self>,
        name: &str,
        asking: MemberIndex,
        term: u64,
        request: &RequestId,
    ) -> Result<TargetPart, Failure> {
        let refuse = |why: &str| Failure::new("not_in_office", format!("member {asking} is not in office at target {name}: {why}"));
        let status = self.raft.watch().borrow().clone();
        let leader = status.leader.and_then(|id| self.roster.by_raft_id(id)).map(|m| m.index);
        if leader != Some(asking) || status.term != term {
            return Err(refuse("it does not lead in that term"));
        }
        let (described, held) = self.read(|store, _| Ok((target(store, name)?, executor(store, name)?)))?;
        let described = described.ok_or_else(|| Failure::from(Refusal::not_found("target")))?;
        if held != Some(Executor { member: asking, term, epoch: held.as_ref().map_or(0, |e| e.epoch) }) {
            return Err(refuse("the log does not say so"));
        }
        let damaged = || Failure::new("storage_failed", format!("the credential of target {name} cannot be read"));
        let header = Header::decode(&described.header).map_err(|_| damaged())?;
        let id = KeyringId(header.wrap().keyring_id);
        let (ring, index) = self.read(|store, applied| Ok((keyring(store, &id)?, applied)))?;
        let ring = ring.ok_or_else(damaged)?;
        let share = self.share(&ring)?;
        self.record(
            self.internal_entry("executor.credential", term)
                .resource(&format!("target {name}"))
                .index(index)
                .term(term)
                .detail("executor", Detail::number(u64::from(asking)))
                .detail("request", Detail::id(&request.0)),
            Class::Essential,
        )
        .await?;
        let partial = threshold::partial(&share, &header.r()).map_err(|_| damaged())?;
        Ok(TargetPart { epoch: ring.epoch, partial, header_hash: header.hash() })
    }

    /// What the leader adds to a request for a lease: the connection that its CREATE will use.
    pub(crate) async fn stamp_issue(self: &Arc<Self>, role_name: &str) -> Result<Stamp, Failure> {
        let Some(found) = self.read(|store, _| role(store, role_name))? else {
            return Err(Failure::from(Refusal::not_found("role")));
        };
        let office = self.office(&found.target).await?;
        let binding = office.engine.bind().await.map_err(|e| engine_failure(&found.target, &e))?;
        failpoint::hit("lease.bound").map_err(|e| Failure::new("injected", e.to_string()))?;
        Ok(Stamp {
            binding: Some(Binding { pid: binding.pid, backend_start: binding.backend_start_micros }),
            executor_term: office.term,
        })
    }

    /// Drops every office: this node leads no more, or a target's connections are of no use.
    pub(crate) async fn leave_offices(&self) {
        self.executors.by_target.lock().await.clear();
    }
}

/// One member's part of a target's credential.
pub(crate) struct TargetPart {
    pub(crate) epoch: u64,
    pub(crate) partial: [u8; 32],
    pub(crate) header_hash: [u8; 64],
}

/// A target's error as a client may see it.
pub(crate) fn engine_failure(target: &str, error: &quorate_engines::EngineError) -> Failure {
    use quorate_engines::EngineError as E;
    let code = match error {
        E::Invalid { .. } => "invalid_argument",
        E::Refused { .. } | E::Duplicate => "target_refused",
        E::StaleBinding | E::Busy { .. } | E::Unavailable { .. } | E::Unknown { .. } => "target_unavailable",
    };
    Failure::new(code, format!("target {target}: {error}"))
}

