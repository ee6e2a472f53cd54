//! What one node answers alone, from its own state: names, numbers and states, never content.

use crate::core::Core;
use crate::failpoint;
use crate::pipeline::Ask;
use quorate_api::status::Failure;
use quorate_api::vault as wire;
use quorate_audit::{Detail, Status};
use quorate_authz::Principal;
use quorate_crypto::reshare::Phase;
use quorate_raft::Checkpoint;
use quorate_state::access::{self, CustomerKey, customer_key, keyrings, mounts, namespaces};
use quorate_state::attest::Attestation;
use quorate_state::ceremony::{Session, faults, sessions};
use quorate_state::change::{Kind, Query};
use quorate_state::ids::{
    CustomerKeyId, KeyringId, LeaseId, MemberIndex, Millis, RequestId, SessionId, check_namespace, check_path,
};
use quorate_state::lease::{self, Lease, Queue, Selector, State, Subject};
use quorate_state::outcome::Refusal;
use quorate_state::request::{authority_version, tightened_index};
use quorate_state::secrets::{self, VersionState};
use quorate_state::store::{Store, StoreError};
use quorate_state::target::{Endpoint, Finding, Proof, Quarantine, Target, quarantine, roles, target, targets};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Refuses a namespace and a path that nothing can have, before anybody decides on them. No path is the whole namespace.
pub(crate) fn check_place(namespace: &str, path: &str) -> Result<(), Failure> {
    check_namespace(namespace).map_err(|why| Failure::from(Refusal::invalid("namespace", why)))?;
    if path.is_empty() {
        return Ok(());
    }
    check_path(path).map_err(|why| Failure::from(Refusal::invalid("path", why)))
}

/// The longest page of a list.
const PAGE: u32 = 1_000;
/// How long a question may wait for members to attest.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why nothing ends at a target that has seen more than this cluster knows.
const QUARANTINED: &str = "the target is in quarantine: look at it with `quorate target show`";

impl Core {
    /// Authorises and records a question of one node, and makes sure that its state is as new as the question.
    async fn asked(&self, principal: &Principal, query: &Query) -> Result<(), Failure> {
        self.asked_as(principal, query, RequestId(self.env.random()), Vec::new()).await
    }

    async fn asked_as(
        &self,
        principal: &Principal,
        query: &Query,
        request: RequestId,
        details: Vec<(&'static str, Detail)>,
    ) -> Result<(), Failure> {
        self.linearize().await?;
        let ask = Ask { request, kind: query.kind(), resource: query.resource(), numbers: Vec::new(), details };
        self.allow(principal, ask).await.map(|_| ())
    }

    pub(crate) async fn list_secrets(
        &self,
        principal: &Principal,
        ask: wire::ListSecretsRequest,
    ) -> Result<wire::ListSecretsReply, Failure> {
        check_place(&ask.namespace, &ask.prefix)?;
        let query = Query::ListSecrets { namespace: ask.namespace.clone(), prefix: ask.prefix.clone() };
        self.asked(principal, &query).await?;
        let limit = page(ask.limit);
        let after = (!ask.after.is_empty()).then_some(ask.after.as_str());
        let mut rows =
            self.read(|store, _| secrets::list(store, &ask.namespace, &ask.prefix, after, limit.saturating_add(1)))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let secrets = rows
            .into_iter()
            .map(|(path, secret)| wire::SecretInfo {
                path,
                secret_id: secret.id.0.to_vec(),
                newest: secret.newest().map_or(0, |v| v.number),
                versions: u32::try_from(secret.versions.len()).unwrap_or(u32::MAX),
            })
            .collect();
        Ok(wire::ListSecretsReply { secrets, more })
    }

    pub(crate) async fn read_versions(
        &self,
        principal: &Principal,
        ask: wire::ReadVersionsRequest,
    ) -> Result<wire::ReadVersionsReply, Failure> {
        check_place(&ask.namespace, &ask.path)?;
        let query = Query::ReadVersions { namespace: ask.namespace.clone(), path: ask.path.clone() };
        self.asked(principal, &query).await?;
        let secret = self.read(|store, _| secrets::secret(store, &ask.namespace, &ask.path))?;
        let secret = secret.ok_or_else(|| Failure::from(Refusal::not_found("secret")))?;
        let versions = secret
            .versions
            .into_iter()
            .map(|v| wire::VersionInfo {
                number: v.number,
                version_id: v.id.0.to_vec(),
                stored_at: v.stored_at,
                writer: v.writer,
                index: v.index,
                state: match v.state {
                    VersionState::Live => "live",
                    VersionState::Deleted => "deleted",
                    VersionState::Destroyed => "destroyed",
                }
                .to_owned(),
            })
            .collect();
        Ok(wire::ReadVersionsReply { secret_id: secret.id.0.to_vec(), versions })
    }

    pub(crate) async fn read_mounts(
        &self,
        principal: &Principal,
        ask: wire::ReadMountsRequest,
    ) -> Result<wire::ReadMountsReply, Failure> {
        self.read_mounts_as(principal, ask, RequestId(self.env.random()), None).await
    }

    /// The same for a question that another member passed on.
    pub(crate) async fn read_mounts_as(
        &self,
        principal: &Principal,
        ask: wire::ReadMountsRequest,
        request: RequestId,
        via: Option<MemberIndex>,
    ) -> Result<wire::ReadMountsReply, Failure> {
        check_place(&ask.namespace, "")?;
        let query = Query::ReadMounts { namespace: ask.namespace.clone() };
        self.asked_as(principal, &query, request, self.passed_on_by(via)).await?;
        self.read(|store, _| {
            let mut customers: BTreeMap<CustomerKeyId, CustomerKey> = BTreeMap::new();
            let mut shown = Vec::new();
            for (name, mount) in mounts(store, &ask.namespace)? {
                for id in &mount.customer_keys {
                    if let Some(key) = customer_key(store, id)? {
                        customers.insert(*id, key);
                    }
                }
                shown.push(wire::Mount {
                    name,
                    keyring_id: mount.keyring.0.to_vec(),
                    customer_key_ids: mount.customer_keys.iter().map(|k| k.0.to_vec()).collect(),
                });
            }
            Ok(wire::ReadMountsReply {
                namespaces: namespaces(store)?.into_iter().map(|(name, _)| name).collect(),
                mounts: shown,
                keyrings: keyrings(store)?.into_iter().map(|(id, ring)| wire_keyring(&id, ring)).collect(),
                customer_keys: customers
                    .into_iter()
                    .map(|(id, key)| wire::CustomerKey { id: id.0.to_vec(), name: key.name, public: key.public })
                    .collect(),
            })
        })
    }

    pub(crate) async fn read_policies(&self, principal: &Principal) -> Result<wire::ReadPoliciesReply, Failure> {
        self.asked(principal, &Query::ReadPolicies).await?;
        self.read(|store, _| {
            Ok(wire::ReadPoliciesReply {
                policies: access::policies(store)?
                    .into_iter()
                    .map(|(name, policy)| wire::Policy { name, text: policy.text })
                    .collect(),
                authority_version: authority_version(store)?,
            })
        })
    }

    pub(crate) async fn read_roles(
        &self,
        principal: &Principal,
        ask: wire::ReadRolesRequest,
    ) -> Result<wire::ReadRolesReply, Failure> {
        self.asked(principal, &Query::ReadRoles).await?;
        // Logins and their objects say who has leases.
        let explained = ask.explain && self.leads() && self.asked(principal, &Query::ListLeases).await.is_ok();
        let oldest = self.oldest_endings()?;
        let mut reply = self.show_roles(&oldest)?;
        if explained {
            for target in &mut reply.targets {
                target.trouble = self.trouble_at(&target.name, target.quarantine.is_some());
                let left = self.troubles.leftovers(&target.name).into_iter();
                target.leftovers = left.map(|(login, why)| wire::Leftover { login, why }).collect();
                target.ghosts = self.troubles.ghosts_at(&target.name);
            }
        }
        Ok(wire::ReadRolesReply { explained, ..reply })
    }

    fn leads(&self) -> bool {
        self.raft.watch().borrow().is_leader
    }

    /// Why ends wait at a target, if they do.
    fn trouble_at(&self, name: &str, quarantined: bool) -> String {
        if quarantined { QUARANTINED.to_owned() } else { self.troubles.of_target(name).unwrap_or_default() }
    }

    fn show_roles(&self, oldest: &BTreeMap<String, Millis>) -> Result<wire::ReadRolesReply, Failure> {
        self.read(|store, _| {
            let mut shown = Vec::new();
            for (name, role) in roles(store)? {
                let live_leases = lease::count(store, lease::Kind::Role, &name)?;
                shown.push(wire::Role {
                    name,
                    target: role.target,
                    groups: role.groups,
                    default_ttl: role.default_ttl,
                    max_ttl: role.max_ttl,
                    connection_limit: u32::from(role.connection_limit),
                    max_leases: role.max_leases,
                    scram_iterations: role.form.iterations(),
                    verifier: role.form.to_string(),
                    live_leases,
                    namespace: role.namespace,
                    statements: role.statements,
                    username: role.username,
                });
            }
            let targets = targets(store)?.into_iter().map(|(name, target)| {
                let oldest_revoking = oldest.get(&name).copied().unwrap_or(0);
                Ok(wire::Target { oldest_revoking, ..wire_target(store, name, target)? })
            });
            let quotas = lease::quotas(store)?.into_iter().map(|(subject, limit)| wire_quota(subject, limit)).collect();
            let targets = targets.collect::<Result<_, StoreError>>()?;
            Ok(wire::ReadRolesReply { targets, roles: shown, quotas, explained: false })
        })
    }

    pub(crate) async fn read_lease(
        &self,
        principal: &Principal,
        ask: wire::ReadLeaseRequest,
    ) -> Result<wire::Lease, Failure> {
        let id = <[u8; 16]>::try_from(ask.id.as_slice())
            .map(LeaseId)
            .map_err(|_| Failure::from(Refusal::invalid("id", "must have 16 bytes")))?;
        self.asked(principal, &Query::ReadLease { lease: id }).await?;
        let mut shown = self.show_lease(&id)?;
        shown.leads = self.leads();
        let (found, quarantined) =
            self.read(|store, _| Ok((lease::lease(store, &id)?, quarantine(store, &shown.target)?.is_some())))?;
        let Some(found) = found.filter(|_| shown.leads) else { return Ok(shown) };
        shown.trouble = match (Queue::of(&found), found.state) {
            (_, State::Revoked) => self.troubles.left_behind(&found.target, &found.principal).unwrap_or_default(),
            (Some(_), State::Revoking) if quarantined => QUARANTINED.to_owned(),
            (Some(queue), State::Revoking) => self.troubles.of_lease(&found.target, queue, &id).unwrap_or_default(),
            _ => String::new(),
        };
        Ok(shown)
    }

    /// A lease as clients see it.
    pub(crate) fn show_lease(&self, id: &LeaseId) -> Result<wire::Lease, Failure> {
        self.read(|store, _| {
            let Some(found) = lease::lease(store, id)? else { return Ok(None) };
            wire_lease(store, id, found).map(Some)
        })?
        .ok_or_else(|| Failure::from(Refusal::not_found("lease")))
    }

    /// What the target of a lease issued, sealed to who asked for it.
    pub(crate) fn issued(&self, id: &LeaseId) -> Result<Vec<u8>, Failure> {
        Ok(self.read(|store, _| lease::lease(store, id))?.map(|found| found.issued).unwrap_or_default())
    }

    /// The leases of the caller; those of everybody for whoever may list the cluster's.
    pub(crate) async fn list_leases(
        &self,
        principal: &Principal,
        ask: wire::ListLeasesRequest,
    ) -> Result<wire::ListLeasesReply, Failure> {
        if !matches!(ask.state.as_str(), "" | "intent" | "active" | "revoking" | "revoked") {
            let why = "must be intent, active, revoking, revoked or nothing";
            return Err(Failure::from(Refusal::invalid("state", why)));
        }
        let all = match self.asked(principal, &Query::ListLeases).await {
            Ok(()) => true,
            // Not everybody's: then the caller's own, which need no further right.
            Err(failure) if failure.code == "denied" => false,
            Err(failure) => return Err(failure),
        };
        let after = match ask.after.as_slice() {
            [] => None,
            id => Some(LeaseId(
                id.try_into().map_err(|_| Failure::from(Refusal::invalid("after", "must have 16 bytes")))?,
            )),
        };
        let wanted = [
            (&ask.role, Selector::Role as fn(String) -> Selector),
            (&ask.target, Selector::Target),
            (&ask.owner, Selector::Identity),
            (&ask.below, Selector::Below),
            (&ask.namespace, Selector::Namespace),
        ];
        let wanted: Vec<Selector> =
            wanted.into_iter().filter(|(text, _)| !text.is_empty()).map(|(text, of)| of(text.clone())).collect();
        let limit = page(ask.limit);
        let (mut shown, mut at) = (Vec::new(), after);
        loop {
            // Some at a time: the state stands still while it is read.
            let rows = self.read(|store, _| {
                let rows = lease::leases(store, at.as_ref(), 1_000)?;
                let last = rows.last().map(|(id, _)| *id);
                let theirs = |l: &Lease| {
                    (all || l.owner == principal.id().as_str()) && wanted.iter().all(|selector| selector.names(l))
                };
                let rows = rows.into_iter().filter(|(_, l)| theirs(l)).map(|(id, l)| wire_lease(store, &id, l));
                let fits = |l: &Result<wire::Lease, StoreError>| {
                    l.as_ref().map_or(true, |l| ask.state.is_empty() || ask.state == l.state)
                };
                let rows = rows.filter(fits).take(limit - shown.len() + 1).collect::<Result<Vec<_>, _>>()?;
                Ok(last.map(|last| (last, rows)))
            })?;
            let Some((last, rows)) = rows else {
                return Ok(wire::ListLeasesReply { leases: shown, more: false, everybody: all });
            };
            at = Some(last);
            shown.extend(rows);
            if shown.len() > limit {
                shown.truncate(limit);
                return Ok(wire::ListLeasesReply { leases: shown, more: true, everybody: all });
            }
            tokio::task::yield_now().await;
        }
    }

    /// How many leases are intents, active and ending, and since when the oldest of these is; 0 without one.
    fn count_leases(&self) -> Result<([u64; 3], u64), Failure> {
        let oldest = self.oldest_endings()?.into_values().min().unwrap_or(0);
        self.read(|store, _| {
            let mut by_state = [0u64; 3];
            for (name, _) in targets(store)? {
                for (at, queue) in [(0, Queue::Making), (1, Queue::Living), (2, Queue::Due), (2, Queue::Asked)] {
                    let count = u64::from(lease::tally(store, &name, queue)?);
                    by_state.get_mut(at).into_iter().for_each(|total: &mut u64| *total = total.saturating_add(count));
                }
            }
            Ok((by_state, oldest))
        })
    }

    /// Since when the oldest end of each target is not proved, of those that have one.
    fn oldest_endings(&self) -> Result<BTreeMap<String, Millis>, Failure> {
        let mut oldest = BTreeMap::new();
        for (name, _) in self.read(|store, _| targets(store))? {
            if let Some(at) = self.oldest_ending(&name)? {
                oldest.insert(name, at);
            }
        }
        Ok(oldest)
    }

    pub(crate) async fn read_status(
        self: &Arc<Self>,
        principal: &Principal,
        question: &wire::ReadStatusRequest,
    ) -> Result<wire::ReadStatusReply, Failure> {
        // What this node knows, however old: a status that needed a leader would be of no use without one.
        let ask = Ask {
            request: RequestId(self.env.random()),
            kind: Kind::ReadStatus,
            resource: Query::ReadStatus.resource(),
            numbers: Vec::new(),
            details: Vec::new(),
        };
        self.allow(principal, ask).await?;
        let tightened_index = self.read(|store, _| tightened_index(store))?;
        let effective_index = if question.effective_index == 0 { tightened_index } else { question.effective_index };
        if question.wait_ms > 0 {
            let patience = Duration::from_millis(question.wait_ms.into()).min(LONGEST_WAIT);
            self.confirm(effective_index, patience).await;
        }
        // Only what no crash takes back.
        let own = self.raft.settled(0, false, Duration::ZERO).await.ok();
        let own = own.filter(|_| failpoint::hit("attest.silent").is_ok());
        let confirmations = self.confirmations(own.as_ref());
        let raft = self.raft.watch().borrow().clone();
        let head = self.audit.head();
        let audit = match self.audit.status() {
            Status::Ready { reserve: true } => "ready",
            Status::Ready { reserve: false } => "no-reserve",
            Status::Full { .. } => "full",
            Status::Failed(_) => "failed",
        };
        let leader = raft.leader.and_then(|id| self.roster.by_raft_id(id)).map_or(0, |m| u32::from(m.index));
        let (by_state, oldest) = self.count_leases()?;
        let alarms = self.alarms()?.into_iter().map(|a| wire::Alarm { code: a.code.to_owned(), message: a.message });
        #[cfg(feature = "failpoints")]
        let alarms = alarms
            .chain(crate::leak::shown().into_iter().map(|message| wire::Alarm { code: "leak".to_owned(), message }));
        let alarms = alarms.collect();
        let client_roots_not_after = self.roots_valid()?.into_iter().map(|(_, to)| to).collect();
        // Between ticks, with this member's own clock since.
        let cluster_time = self.now()?;
        let (records, heard) = self.absences.seen();
        self.read(|store, applied| {
            let [leases_intent, leases_active, leases_revoking] = by_state;
            Ok(wire::ReadStatusReply {
                cluster: self.cluster.0.to_vec(),
                name: self.name.clone(),
                member: u32::from(self.me),
                term: raft.term,
                leader,
                last_log_index: raft.last_log_index,
                committed: raft.committed,
                applied,
                cluster_time,
                authority_version: authority_version(store)?,
                threshold: u32::from(self.roster.threshold),
                members: self
                    .roster
                    .members
                    .iter()
                    .map(|m| wire::Member {
                        index: u32::from(m.index),
                        name: m.name.clone(),
                        key: m.key.to_vec(),
                        peer_address: m.peer_address.clone(),
                        api_address: m.api_address.clone(),
                    })
                    .collect(),
                keyrings: keyrings(store)?.into_iter().map(|(id, ring)| wire_keyring(&id, ring)).collect(),
                ceremonies: sessions(store)?
                    .into_iter()
                    .map(|(id, session)| wire_ceremony(store, &id, &session))
                    .collect::<Result<_, _>>()?,
                leases_intent,
                leases_active,
                leases_revoking,
                oldest_revoking: oldest,
                audit_seq: head.seq,
                audit_head: head.hash.to_string(),
                certificate_not_after: self.certificate.valid().1,
                client_roots_not_after,
                alarms,
                tightened_index,
                effective_index,
                confirmations,
                purged: raft.purged,
                absences: records
                    .into_iter()
                    .map(|(member, record)| wire::Absence {
                        member: u32::from(member),
                        how: record.absence.to_string(),
                        reason: record.reason,
                        index: record.index,
                        recorded_at: record.at,
                        heard: heard.contains(&member),
                    })
                    .collect(),
                disk_free: self.room.free(),
                disk: self.room.level().name().to_owned(),
                audit: audit.to_owned(),
            })
        })
    }
}

impl Core {
    /// The members' own words about where they are, as far as this one has them.
    fn confirmations(&self, own: Option<&Checkpoint>) -> Vec<wire::Confirmation> {
        let words = |attestation: Option<&Attestation>, member: MemberIndex, complaint: String| wire::Confirmation {
            member: u32::from(member),
            index: attestation.map_or(0, |a| a.applied.index),
            attestation: attestation.and_then(|a| borsh::to_vec(a).ok()).unwrap_or_default(),
            complaint,
            excuses: match own {
                Some(own) if member == self.me => self.excuses_at(own.index),
                _ => self.absences.word(member).and_then(|w| borsh::to_vec(&w).ok()).unwrap_or_default(),
            },
        };
        let members = self.roster.members.iter().map(|m| m.index);
        members
            .map(|member| {
                if member == self.me {
                    let own = own.map(|checkpoint| self.attestor.sign(checkpoint));
                    return words(own.as_ref(), member, String::new());
                }
                let seen = self.attestor.known(member);
                words(seen.newest.as_ref(), member, seen.complaint.map_or_else(String::new, |c| c.to_string()))
            })
            .collect()
    }
}

fn page(limit: u32) -> usize {
    let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn wire_ceremony(store: &dyn Store, id: &SessionId, session: &Session) -> Result<wire::Ceremony, StoreError> {
    let faults = faults(store, id)?;
    Ok(wire::Ceremony {
        session: id.0.to_vec(),
        class: session.class.to_string(),
        phase: phase(session.ceremony.phase()).to_owned(),
        awaited: session.ceremony.awaited().into_iter().map(u32::from).collect(),
        culprits: faults.iter().filter(|(_, fault)| fault.proven).map(|(member, _)| u32::from(*member)).collect(),
        keyring_id: session.keyring.map_or_else(Vec::new, |id| id.0.to_vec()),
        faults: faults
            .into_iter()
            .map(|(member, f)| wire::CeremonyFault { member: u32::from(member), proven: f.proven, what: f.what })
            .collect(),
    })
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Keys => "keys",
        Phase::Deal => "deal",
        Phase::Ready => "ready",
        Phase::Active => "active",
        Phase::Aborted(_) => "aborted",
    }
}

fn wire_keyring(id: &KeyringId, ring: access::Keyring) -> wire::Keyring {
    wire::Keyring {
        id: id.0.to_vec(),
        class: ring.class.to_string(),
        y: ring.y.to_vec(),
        epoch: ring.epoch,
        threshold: u32::from(ring.threshold),
        public_shares: ring
            .public_shares
            .into_iter()
            .map(|(member, point)| wire::PublicShare { member: u32::from(member), point: point.to_vec() })
            .collect(),
    }
}

fn wire_target(store: &dyn Store, name: String, target: Target) -> Result<wire::Target, StoreError> {
    let count = |queue| lease::tally(store, &name, queue);
    let Target { spec, standing, asked, proof, rotated, current, next, .. } = target;
    Ok(wire::Target {
        leases_intent: count(Queue::Making)?,
        leases_active: count(Queue::Living)?,
        leases_due: count(Queue::Due)?,
        leases_asked: count(Queue::Asked)?,
        oldest_revoking: 0,
        quarantine: quarantine(store, &name)?.map(wire_quarantine),
        host: spec.host,
        port: u32::from(spec.port),
        database: spec.database,
        user: spec.user,
        tls: spec.tls.is_some(),
        channel_binding: spec.tls.as_ref().is_some_and(|tls| tls.require_binding),
        server_name: spec.tls.map(|tls| tls.server_name).unwrap_or_default(),
        databases: spec.databases,
        standbys: spec.standbys.iter().map(ToString::to_string).collect(),
        owner: spec.owner,
        rotate: spec.rotate,
        remote_apply: spec.remote_apply,
        clients: spec.clients.map_or_else(String::new, |at| at.to_string()),
        trouble: String::new(),
        leftovers: Vec::new(),
        ghosts: Vec::new(),
        rotated_index: rotated.map_or(0, |r| r.index),
        rotated_at: rotated.map_or(0, |r| r.at),
        rotating: next.is_some(),
        password_index: current.index,
        standing: standing.to_string(),
        asked,
        proof: proof.map(wire_proof),
        system: spec.system.to_string(),
        name,
    })
}

fn wire_proof(proof: Proof) -> wire::TargetProof {
    let Proof { asked, at, version, timeline, findings, notes } = proof;
    let (mut missing, mut failed) = (Vec::new(), Vec::new());
    for finding in findings {
        match finding {
            Finding::Missing(statement) => missing.push(statement),
            Finding::Failed(what) => failed.push(what),
        }
    }
    wire::TargetProof { asked, at, version, timeline, missing, failed, notes }
}

fn wire_quarantine(found: Quarantine) -> wire::Quarantine {
    let Quarantine { counter, index, unknown, missing, sample } = found;
    wire::Quarantine { counter, index, unknown, missing, sample }
}

fn wire_quota(subject: Subject, limit: u32) -> wire::Quota {
    let (kind, name) = match subject {
        Subject::Target(name) => ("target", name),
        Subject::Namespace(name) => ("namespace", name),
        Subject::Identity(id) => ("identity", id),
        Subject::EachIdentity => ("each-identity", String::new()),
    };
    wire::Quota { kind: kind.to_owned(), name, limit }
}

fn wire_lease(store: &dyn Store, id: &LeaseId, found: Lease) -> Result<wire::Lease, StoreError> {
    // Ended with many others, it counts as ended before its own row says so.
    let swept = lease::swept(store, &found)?;
    let state = if swept.is_some() { State::Revoking } else { found.state };
    let at = target(store, &found.target)?;
    let (system, host, port, database, dies_at) = at.map_or_else(Default::default, |t| {
        let Endpoint { host, port } = t.spec.for_clients();
        let dies_at = t.spec.system.dies_at(&found.groups, found.oid, found.max_expires_at);
        (t.spec.system.to_string(), host, u32::from(port), t.spec.database, dies_at)
    });
    let proof = found.proof.unwrap_or(quorate_state::command::RevocationProof {
        lease: *id,
        fenced: false,
        looked_at: 0,
        sessions_ended: 0,
        endpoint: String::new(),
    });
    let (proof_member, proof_term) = found.proved_by.unwrap_or_default();
    Ok(wire::Lease {
        id: id.0.to_vec(),
        role: found.role,
        namespace: found.namespace,
        target: found.target,
        principal: found.principal,
        owner: found.owner,
        state: state.to_string(),
        expires_at: found.expires_at,
        max_expires_at: found.max_expires_at,
        why: found.why.or(swept).map_or_else(String::new, |w| w.to_string()),
        ended_at: found.ended_at.unwrap_or(0),
        intent_index: found.intent_index,
        active_index: found.active_index.unwrap_or(0),
        revoking_index: found.revoking_index.unwrap_or(0),
        revoked_index: found.revoked_index.unwrap_or(0),
        proof_endpoint: proof.endpoint,
        proof_looked_at: proof.looked_at,
        sessions_ended: proof.sessions_ended,
        proof_member: u32::from(proof_member),
        proof_term,
        trouble: String::new(),
        leads: false,
        system,
        host,
        port,
        database,
        dies_at: dies_at.unwrap_or(0),
    })
}
