//! Being in office at targets: the one node that talks to them, in its own term, with a credential that t members
//! opened for it.

use crate::core::Core;
use quorate_api::peer::OpenTargetRequest;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_crypto::sealed::{self, Header};
use quorate_crypto::secret::SecretVec;
use quorate_crypto::threshold;
use quorate_engines::postgres::{Endpoint, OwnedObjects, Postgres, PostgresConfig, Tls, Trust};
use quorate_engines::{Engine, EngineError};
use quorate_state::access::keyring;
use quorate_state::command::Command;
use quorate_state::ids::{KeyringId, LeaseId, MemberIndex, RequestId};
use quorate_state::lease::{self, Queue};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{Credential, Executor, Target, TargetTls, executor, quarantine, role, target, targets};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long a peer may take to give its part.
const PART: Duration = Duration::from_secs(2);

/// How soon passwords are opened again of which one did not open.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// How long an endorsement of a request for a lease counts as work at its target.
const WANTED: u64 = 60_000;

/// Makes the engine of a target; nothing connects yet.
pub type MakeEngine = dyn Fn(PostgresConfig) -> Result<Arc<dyn Engine>, EngineError> + Send + Sync;

/// The engines of the targets at which this node is in office.
pub(crate) struct Executors {
    make: Box<MakeEngine>,
    by_target: Mutex<BTreeMap<String, Arc<Mutex<Option<Seat>>>>>,
    /// When this node last endorsed a request for a lease at a target, or saw one proved to have ended there, by its own
    /// clock.
    wanted: std::sync::Mutex<BTreeMap<String, u64>>,
    /// The engines of the offices that this node has taken: to be asked whether their logins are refused.
    taken: std::sync::Mutex<BTreeMap<String, Arc<dyn Engine>>>,
}

impl Executors {
    pub(crate) fn new(make: Box<MakeEngine>) -> Self {
        Self {
            make,
            by_target: Mutex::default(),
            wanted: std::sync::Mutex::default(),
            taken: std::sync::Mutex::default(),
        }
    }
}

/// The real engines.
pub(crate) fn make_real() -> Box<MakeEngine> {
    Box::new(|config| Ok(Arc::new(Postgres::new(config)?)))
}

/// An office, and whether the sessions of earlier terms are ended, before which nothing is done in it.
struct Seat {
    office: Office,
    entered: bool,
    /// The passwords that its engines know, by log index.
    known: Vec<u64>,
    /// When they were opened.
    opened: Instant,
}

impl Seat {
    /// Whether it is of a term, and logs in with what the log calls the target's password.
    fn is_of(&self, term: u64, described: Option<&Target>) -> bool {
        self.office.term == term && described.is_none_or(|t| self.known.contains(&t.current.index))
    }

    /// Whether it cannot get in, perhaps because the target has the password under way already, and that did not open when the
    /// others did.
    fn lacks_next(&self, described: Option<&Target>) -> bool {
        let next = described.and_then(|t| t.next.as_ref()).is_some_and(|next| !self.known.contains(&next.index));
        next && !self.entered && self.opened.elapsed() > OPEN_AGAIN
    }
}

/// How a login with a password connects to one target.
type Connecting = dyn Fn(&str, SecretVec) -> PostgresConfig + Send + Sync;

/// A term of office at one target.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) term: u64,
    /// For what somebody waits for: issuing, and the ends that were asked for.
    pub(crate) engine: Arc<dyn Engine>,
    /// For what comes in thousands.
    bulk: Arc<dyn Engine>,
    /// How a login connects with a password.
    config: Arc<Connecting>,
}

impl Office {
    /// The connections for a queue. What is due has its own, so that nothing waits behind a bulk of it; where there is no
    /// free slot for them, since leased users can take every one, it shares those that have been there from the start.
    pub(crate) async fn engine_for(&self, queue: Queue) -> Arc<dyn Engine> {
        match queue {
            Queue::Making | Queue::Living | Queue::Asked => Arc::clone(&self.engine),
            Queue::Due if self.bulk.take_over().await.is_ok() => Arc::clone(&self.bulk),
            Queue::Due => Arc::clone(&self.engine),
        }
    }

    /// The target as a login of it sees it; nothing connects yet.
    pub(crate) fn as_login(
        &self,
        core: &Core,
        login: &str,
        password: SecretVec,
    ) -> Result<Arc<dyn Engine>, EngineError> {
        (core.executors.make)((self.config)(login, password))
    }
}

impl Core {
    /// This node's office at a target in its present term as leader; taken when it is not held yet.
    pub(crate) async fn office(self: &Arc<Self>, name: &str) -> Result<Office, Failure> {
        let slot = {
            let mut all = self.executors.by_target.lock().await;
            Arc::clone(all.entry(name.to_owned()).or_default())
        };
        // One taker at a time for each target: others wait here, and none waits for another target's.
        let mut held = slot.lock().await;
        let status = self.raft.watch().borrow().clone();
        if !status.is_leader {
            return Err(crate::submit::no_leader());
        }
        // The credential is opened once in a term, however often the target does not answer; and again when people say what
        // it is now, or describe another target by that name.
        let described = self.read(|store, _| target(store, name))?;
        let fits = |seat: &Seat| seat.is_of(status.term, described.as_ref()) && !seat.lacks_next(described.as_ref());
        let seat = match held.take().filter(fits) {
            Some(seat) => held.insert(seat),
            None => held.insert(self.take_office(name, status.term, described).await?),
        };
        if let Some(found) = self.read(|store, _| quarantine(store, name))?.filter(|_| seat.entered) {
            seat.entered = false;
            return Err(Failure::from(Refusal::Quarantined { counter: found.counter }));
        }
        if !seat.entered {
            // Nobody is in office after somebody took over.
            self.claim_office(name, seat.office.term).await?;
            // Before the sessions of earlier terms are ended: they may be another cluster's.
            self.stake(name, &seat.office).await?;
            if let Some(found) = self.read(|store, _| quarantine(store, name))? {
                return Err(Failure::from(Refusal::Quarantined { counter: found.counter }));
            }
            seat.office.engine.take_over().await.map_err(|e| engine_failure(name, &e))?;
            seat.entered = true;
        }
        Ok(seat.office.clone())
    }

    /// Looks again at what the target has seen of this cluster, whatever was found before.
    pub(crate) async fn look_at_claims(self: &Arc<Self>, name: &str, term: u64) -> Result<(), Failure> {
        match self.seated(name, term).await {
            Some(office) => self.stake(name, &office).await,
            // It has to be taken for that; whatever comes of it.
            None => self.office(name).await.map(drop),
        }
    }

    /// This node's office at a target, if it was taken.
    pub(crate) async fn seated(&self, name: &str, term: u64) -> Option<Office> {
        let slot = self.executors.by_target.lock().await.get(name).cloned()?;
        let held = slot.lock().await;
        held.as_ref().map(|seat| seat.office.clone()).filter(|office| office.term == term)
    }

    /// This node's office at a target, if it was taken and entered, with the password that the log names.
    pub(crate) async fn entered(&self, name: &str, term: u64) -> Option<Office> {
        let read = self.read(|store, _| Ok((target(store, name)?, quarantine(store, name)?)));
        let (Some(described), None) = read.ok()? else { return None };
        let slot = self.executors.by_target.lock().await.get(name).cloned()?;
        let held = slot.lock().await;
        let seat = held.as_ref().filter(|seat| seat.entered && seat.is_of(term, Some(&described)));
        seat.map(|seat| seat.office.clone())
    }

    /// From here on an office logs in with this password too.
    pub(crate) async fn learn(&self, name: &str, office: &Office, index: u64, password: &SecretVec) {
        let Some(slot) = self.executors.by_target.lock().await.get(name).cloned() else { return };
        let mut held = slot.lock().await;
        if let Some(seat) = held.as_mut().filter(|seat| Arc::ptr_eq(&seat.office.engine, &office.engine))
            && !seat.known.contains(&index)
        {
            for engine in [&office.engine, &office.bulk] {
                engine.learn_password(SecretVec::new(password.expose().to_vec()));
            }
            seat.known.push(index);
        }
    }

    /// The targets that refuse this executor's login, and what they say.
    pub(crate) fn refused_logins(&self) -> Result<Vec<(String, String)>, Failure> {
        let taken = self.executors.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = taken.iter().filter_map(|(name, engine)| Some((name.clone(), engine.login_refused()?)));
        let mut refused: Vec<_> = refused.collect();
        let there = self.read(|store, _| targets(store))?;
        refused.retain(|(name, _)| there.iter().any(|(known, _)| known == name));
        Ok(refused)
    }

    /// Has the log say that this member is in office at a target in its term as leader.
    pub(crate) async fn claim_office(self: &Arc<Self>, name: &str, term: u64) -> Result<(), Failure> {
        let held = || self.read(|store, _| executor(store, name));
        let mine = |e: &Executor| e.term == term && e.member == self.me;
        if held()?.as_ref().is_some_and(mine) {
            return Ok(());
        }
        let nonce = self.env.random();
        let command = Command::Executor { target: name.to_owned(), member: self.me, term, nonce };
        match self.propose(command).await?.outcome {
            // Another task of this node may have been quicker.
            Outcome::Refused(refusal) if !held()?.as_ref().is_some_and(mine) => Err(Failure::from(refusal)),
            _ => Ok(()),
        }
    }

    async fn take_office(self: &Arc<Self>, name: &str, term: u64, described: Option<Target>) -> Result<Seat, Failure> {
        let described = described.ok_or_else(|| Failure::from(Refusal::not_found("target")))?;
        self.claim_office(name, term).await?;
        let Target { spec, current, next, .. } = described;
        let password = self.open_credential(name, &current, term).await?;
        #[cfg(feature = "failpoints")]
        self.leak("leak.credential", password.expose()).await;
        let mut known = vec![current.index];
        let tls = protection(spec.tls.as_ref()).map_err(|e| engine_failure(name, &e))?;
        let endpoint = |e: &quorate_state::target::Endpoint| Endpoint { host: e.host.clone(), port: e.port };
        let owned =
            if spec.owner.is_empty() { OwnedObjects::Drop } else { OwnedObjects::ReassignTo(spec.owner.clone()) };
        let (user, label) = (spec.user.clone(), name.to_owned());
        let config = move |user: &str, password: SecretVec| PostgresConfig {
            host: spec.host.clone(),
            port: spec.port,
            dbname: spec.database.clone(),
            databases: spec.databases.clone(),
            standbys: spec.standbys.iter().map(endpoint).collect(),
            user: user.to_owned(),
            passwords: password.into(),
            tls: tls.clone(),
            target: label.clone(),
            term,
            owned: owned.clone(),
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            create_lock_timeout: Duration::from_secs(3),
        };
        let make = |password| (self.executors.make)(config(&user, password)).map_err(|e| engine_failure(name, &e));
        let bulk = make(SecretVec::new(password.expose().to_vec()))?;
        let engine = make(password)?;
        // The target may have this one already. Who sealed it so that nobody can open it keeps nobody from the other.
        if let Some(next) = &next {
            match self.open_credential(name, next, term).await {
                Ok(password) => {
                    for engine in [&engine, &bulk] {
                        engine.learn_password(SecretVec::new(password.expose().to_vec()));
                    }
                    known.push(next.index);
                }
                Err(error) => {
                    tracing::warn!(target = name, error = error.message, "the password under way is not opened");
                }
            }
        }
        self.executors
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Arc::clone(&engine));
        self.record(
            self.internal_entry("executor.office", term).resource(&format!("target {name}")).term(term),
            Class::Essential,
        )
        .await?;
        let office = Office { term, engine, bulk, config: Arc::new(config) };
        Ok(Seat { office, entered: false, known, opened: Instant::now() })
    }

    /// Opens an administrative password of a target with the parts of t members, this one's among them.
    pub(crate) async fn open_credential(
        self: &Arc<Self>,
        name: &str,
        credential: &Credential,
        term: u64,
    ) -> Result<SecretVec, Failure> {
        let request = RequestId(self.env.random());
        let damaged = |what: &str| Failure::new("storage_failed", format!("the credential of target {name} {what}"));
        let header = Header::decode(&credential.header).map_err(|_| damaged("cannot be read"))?;
        let id = KeyringId(header.wrap().keyring_id);
        let (ring, index) = self.read(|store, applied| Ok((keyring(store, &id)?, applied)))?;
        let ring = ring.ok_or_else(|| damaged("is sealed to a keyring that is not here"))?;
        let own = self.target_part((name, credential.index), self.me, term, &request).await?;
        let mut parts = vec![(self.me, own.partial)];
        let mut asked = JoinSet::new();
        for (member, mut peer) in self.peers.all() {
            let (target, credential) = (name.to_owned(), credential.index);
            let ask = OpenTargetRequest { target, term, request_id: request.0.to_vec(), min_index: index, credential };
            asked.spawn(async move { (member, timeout(PART, peer.open_target(ask)).await) });
        }
        let mut why = Vec::new();
        while let Some(answer) = asked.join_next().await {
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
            // A wrong part shows only when the whole does not open: then others are tried in its place.
            for chosen in with_newest(&parts, self.threshold()) {
                let opened = threshold::combine(&chosen).map_err(|e| e.to_string()).and_then(|p| {
                    sealed::open(&header, &credential.payload, &ring.y, &p, &[]).map_err(|e| e.to_string())
                });
                match opened {
                    Ok(password) => return Ok(password),
                    Err(error) => {
                        let members: Vec<_> = chosen.iter().map(|(m, _)| m).collect();
                        tracing::error!(target = name, ?members, error, "a member's part of a credential is wrong");
                        why.push(format!("the parts of members {members:?} do not open it"));
                    }
                }
            }
        }
        let (got, needed) = (parts.len(), self.threshold());
        let what = format!("{got} of {needed} members open the credential of target {name}: {}", why.join(". "));
        Err(Failure::new("not_enough_members", what))
    }

    /// This member's part of a target's credential of a log index, for the member that its own state and its own view of the log
    /// call the executor.
    pub(crate) async fn target_part(
        self: &Arc<Self>,
        (name, credential): (&str, u64),
        asking: MemberIndex,
        term: u64,
        request: &RequestId,
    ) -> Result<TargetPart, Failure> {
        let refuse = |why: &str| {
            Failure::new("not_in_office", format!("member {asking} is not in office at target {name}: {why}"))
        };
        let status = self.raft.watch().borrow().clone();
        let leader = status.leader.and_then(|id| self.roster.by_raft_id(id)).map(|m| m.index);
        if leader != Some(asking) || status.term != term {
            return Err(refuse("it does not lead in that term"));
        }
        let wanted = asking == self.me || self.is_wanted(name);
        let (described, held, (header, ring), busy, index) = self.read(|store, applied| {
            let described = target(store, name)?;
            let sealed = described.as_ref().and_then(|t| t.credential(credential));
            let header = sealed.map(|sealed| Header::decode(&sealed.header));
            let ring = match &header {
                Some(Ok(header)) => keyring(store, &KeyringId(header.wrap().keyring_id))?,
                _ => None,
            };
            // To be proved: t members endorsed that.
            let asked = described.as_ref().is_some_and(|t| t.asked > t.proof.as_ref().map_or(0, |p| p.asked));
            let mut busy = wanted || asked;
            for queue in Queue::ALL {
                busy = busy || lease::tally(store, name, queue)? > 0;
            }
            Ok((described, executor(store, name)?, (header, ring), busy, applied))
        })?;
        if described.is_none() {
            return Err(Failure::from(Refusal::not_found("target")));
        }
        if held.is_none_or(|e| e.member != asking || e.term != term) {
            return Err(refuse("the log does not say so"));
        }
        // A leader that asks without cause gets nothing: there is a lease there, or this member itself endorsed one.
        if !busy {
            return Err(refuse("no lease is there, and this member has endorsed none and seen none end of late"));
        }
        let damaged = || Failure::new("storage_failed", format!("the credential of target {name} cannot be read"));
        // Replaced meanwhile.
        let header = header.ok_or_else(|| refuse("the target has another password"))?.map_err(|_| damaged())?;
        let ring = ring.ok_or_else(damaged)?;
        let share = self.share(&ring)?;
        self.record(
            self.internal_entry("executor.credential", term)
                .resource(&format!("target {name}"))
                .index(index)
                .term(term)
                .detail("executor", Detail::number(u64::from(asking)))
                .detail("credential", Detail::number(credential))
                .detail("request", Detail::id(&request.0)),
            Class::Essential,
        )
        .await?;
        let partial = threshold::partial(&share, &header.r()).map_err(|_| damaged())?;
        Ok(TargetPart { epoch: ring.epoch, partial, header_hash: header.hash() })
    }

    /// Notes that this member has endorsed a request for a lease of a role: somebody will need its target's credential.
    pub(crate) fn note_wanted(&self, role_name: &str) -> Result<(), Failure> {
        if let Some(role) = self.read(|store, _| role(store, role_name))? {
            let mut wanted = self.executors.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.insert(role.target, self.env.clock.boot());
        }
        Ok(())
    }

    /// Notes that leases were proved to have ended: whoever leads next may have to clean up after the one who proved it.
    pub(crate) fn note_ended(&self, leases: &[LeaseId]) -> Result<(), Failure> {
        let Some(id) = leases.first() else { return Ok(()) };
        if let Some(found) = self.read(|store, _| lease::lease(store, id))? {
            let mut wanted = self.executors.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.insert(found.target, self.env.clock.boot());
        }
        Ok(())
    }

    fn is_wanted(&self, name: &str) -> bool {
        let wanted = self.executors.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.get(name).is_some_and(|at| self.env.clock.boot().saturating_sub(*at) <= WANTED)
    }

    /// Drops every office: this node leads no more.
    pub(crate) async fn leave_offices(&self) {
        self.executors.by_target.lock().await.clear();
        self.executors.taken.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One member's part of a target's credential.
pub(crate) struct TargetPart {
    pub(crate) epoch: u64,
    pub(crate) partial: [u8; 32],
    pub(crate) header_hash: [u8; 64],
}

/// The sets of `t` parts that hold the first, which is this member's own, and the newest.
fn with_newest(parts: &[(MemberIndex, [u8; 32])], t: usize) -> Vec<Vec<(MemberIndex, [u8; 32])>> {
    let Some(newest) = parts.len().checked_sub(1).filter(|n| *n > 0 && *n < 16) else { return Vec::new() };
    (0u32..1 << parts.len())
        .filter(|set| set & 1 == 1 && set >> newest == 1 && usize::try_from(set.count_ones()).is_ok_and(|n| n == t))
        .map(|set| parts.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, part)| *part).collect())
        .collect()
}

/// How an engine is to protect its connections. Endorsers ask too, before they sign: what is no certificate stands in no
/// description.
pub(crate) fn protection(described: Option<&TargetTls>) -> Result<Tls, EngineError> {
    let Some(tls) = described else { return Ok(Tls::Disabled) };
    let name = Some(tls.server_name.as_str()).filter(|name| !name.is_empty());
    Ok(Tls::Verified(Trust::new(&tls.roots, name, tls.require_binding)?))
}

/// A target's error as a client may see it.
pub(crate) fn engine_failure(target: &str, error: &EngineError) -> Failure {
    use EngineError as E;
    let code = match error {
        E::Invalid { .. } => "invalid_argument",
        E::Refused { .. } | E::Duplicate => "target_refused",
        E::StaleBinding | E::Busy { .. } | E::Unavailable { .. } | E::Unknown { .. } => "target_unavailable",
    };
    Failure::new(code, format!("target {target}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_part_is_routed_around() {
        let part = |m: u8| (m, [m; 32]);
        let members = |sets: Vec<Vec<(u8, [u8; 32])>>| -> Vec<Vec<u8>> {
            sets.into_iter().map(|s| s.into_iter().map(|(m, _)| m).collect()).collect()
        };
        assert!(with_newest(&[part(1)], 2).is_empty());
        assert_eq!(members(with_newest(&[part(1), part(2)], 2)), [[1, 2]]);
        assert_eq!(members(with_newest(&[part(1), part(2), part(3)], 2)), [[1, 3]], "[1, 2] was tried before");
        assert!(with_newest(&[part(1), part(2)], 3).is_empty());
        assert_eq!(members(with_newest(&[part(1), part(2), part(3), part(4)], 3)), [[1, 2, 4], [1, 3, 4]]);
    }
}
