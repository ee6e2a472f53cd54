//! Being in office at targets: the one node that talks to them, in its own term, with a credential that t members
//! opened for it.

use crate::access::{Access, MakeEngine};
use crate::core::Core;
use crate::failpoint::hit;
use quorate_api::peer::OpenTargetRequest;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_crypto::sealed::{self, Header};
use quorate_crypto::secret::SecretVec;
use quorate_crypto::threshold;
use quorate_engines::{Engine, EngineError, OwnSessions, Passwords};
use quorate_state::access::keyring;
use quorate_state::command::Command;
use quorate_state::ids::{KeyringId, LeaseId, MemberIndex, RequestId};
use quorate_state::lease::{self, Queue};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{Credential, Executor, System, Target, executor, quarantine, role, target, targets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// The code of a password of which every member has given its part, and that does not open.
pub(crate) const UNOPENABLE: &str = "credential_unopenable";

/// How long a peer may take to give its part.
const PART: Duration = Duration::from_secs(2);

/// How soon the passwords are opened that the target may have as well, and again those that did not open.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// How long an endorsement of a request for a lease, and the end of one, count as work at its target; milliseconds.
const WANTED: u64 = 60_000;

/// The engines of the targets at which this node is in office.
pub(crate) struct Executors {
    make: Box<MakeEngine>,
    by_target: Mutex<BTreeMap<String, Arc<Mutex<Option<Seat>>>>>,
    /// When this node last endorsed a request for a lease at a target, or saw one proved to have ended there, by its own
    /// clock.
    wanted: std::sync::Mutex<BTreeMap<String, u64>>,
    /// Where it has begun to make logins since its last claim.
    made: std::sync::Mutex<BTreeSet<String>>,
    /// The offices that this node has taken.
    taken: std::sync::Mutex<BTreeMap<String, Taken>>,
}

/// What an office that was taken is asked about: how its logins fare.
struct Taken {
    engine: Arc<dyn Engine>,
    /// The log index of the target's present password, if nobody could open that.
    unopenable: Option<u64>,
}

impl Executors {
    pub(crate) fn new(make: Box<MakeEngine>) -> Self {
        Self {
            make,
            by_target: Mutex::default(),
            wanted: std::sync::Mutex::default(),
            made: std::sync::Mutex::default(),
            taken: std::sync::Mutex::default(),
        }
    }

    /// A login is about to be made at a target.
    pub(crate) fn note_made(&self, target: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(target.to_owned());
    }

    /// Whether one was since this was asked last: it asks and forgets.
    pub(crate) fn has_made(&self, target: &str) -> bool {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(target)
    }
}

/// An office, and whether the sessions of earlier terms are ended, before which nothing is done in it.
struct Seat {
    office: Office,
    entered: bool,
    /// The passwords that its engines know, by log index.
    known: Vec<u64>,
    /// The one that the log called the target's when it was taken, if nobody could open that.
    lost: Option<u64>,
    /// When any were last opened.
    opened: Instant,
}

impl Seat {
    /// Whether it is of a term, and logs in with what the log calls the target's password.
    fn is_of(&self, term: u64, described: Option<&Target>) -> bool {
        let (known, lost) = (&self.known, self.lost);
        let fits = |t: &Target| {
            t.index == self.office.described && (known.contains(&t.current.index) || lost == Some(t.current.index))
        };
        self.office.term == term && described.is_none_or(fits)
    }

    /// From here on it logs in with this password too.
    fn learn(&mut self, index: u64, password: &SecretVec) {
        for engine in [&self.office.engine, &self.office.bulk] {
            engine.learn_password(index, SecretVec::new(password.expose().to_vec()));
        }
        if !self.known.contains(&index) {
            self.known.push(index);
        }
    }
}

/// How a login with its passwords connects to one target.
type Connecting = dyn Fn(&str, Passwords) -> Access + Send + Sync;

/// A term of office at one target.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) term: u64,
    /// The log index of the description that its engines connect by.
    pub(crate) described: u64,
    pub(crate) system: System,
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
        (core.executors.make)((self.config)(login, password.into()))
    }

    /// Has a leased login used once, as an application would: by a connection of its own, or by the executor, where the vault could come by
    /// none.
    pub(crate) async fn use_once(&self, core: &Core, login: &str, secret: SecretVec) -> Result<(), EngineError> {
        if self.system.is_tried_by_executor() {
            return self.engine.try_out(login, &secret).await;
        }
        self.as_login(core, login, secret)?.visit().await
    }

    /// The log index of a password that the target had before, if it was let in with that: the target has forgotten a change.
    pub(crate) fn let_in_with_former(&self, described: &Target) -> Option<u64> {
        let with = [&self.engine, &self.bulk].into_iter().filter_map(|engine| engine.let_in_with());
        with.into_iter().find(|index| described.had(*index))
    }

    /// The target has this password.
    pub(crate) fn has_password(&self, index: u64) {
        self.engine.has_password(index);
        self.bulk.has_password(index);
    }

    /// What the target says when it lets in none of the passwords that are known here.
    fn login_refused(&self) -> Option<String> {
        self.engine.login_refused().or_else(|| self.bulk.login_refused())
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
        let seat = match held.take().filter(|seat| seat.is_of(status.term, described.as_ref())) {
            Some(seat) => held.insert(seat),
            None => held.insert(self.take_office(name, status.term, described.clone()).await?),
        };
        if seat.office.login_refused().is_some() && seat.opened.elapsed() > OPEN_AGAIN {
            self.open_others(name, seat, described.as_ref()).await;
        }
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
        if let Some(seat) = held.as_mut().filter(|seat| Arc::ptr_eq(&seat.office.engine, &office.engine)) {
            seat.learn(index, password);
        }
    }

    /// Opens what the target may have besides: it lets in none of those that an office knows.
    async fn open_others(self: &Arc<Self>, name: &str, seat: &mut Seat, described: Option<&Target>) {
        for credential in described.iter().flat_map(|t| t.credentials()) {
            if seat.known.contains(&credential.index) {
                continue;
            }
            match self.open_credential(name, credential, seat.office.term).await {
                Ok(password) => {
                    seat.learn(credential.index, &password);
                    let mut taken = self.executors.taken.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(taken) = taken.get_mut(name).filter(|t| t.unopenable == Some(credential.index)) {
                        taken.unopenable = None;
                    }
                }
                Err(error) => {
                    let (index, error) = (credential.index, error.message);
                    tracing::warn!(target = name, index, error, "a password that the target may have is not opened");
                }
            }
        }
        seat.opened = Instant::now();
    }

    /// The targets that refuse this executor's login, and what they say.
    pub(crate) fn refused_logins(&self) -> Result<Vec<(String, String)>, Failure> {
        let taken = self.executors.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = taken.iter().filter_map(|(name, taken)| Some((name.clone(), taken.engine.login_refused()?)));
        let mut refused: Vec<_> = refused.collect();
        let there = self.read(|store, _| targets(store))?;
        refused.retain(|(name, _)| there.iter().any(|(known, _)| known == name));
        Ok(refused)
    }

    /// The targets that have let this executor in with a password that they had before, and do still.
    pub(crate) fn former_logins(&self) -> Result<Vec<String>, Failure> {
        self.taken_where(|described, taken| {
            taken.unopenable.is_none() && taken.engine.let_in_with().is_some_and(|index| described.had(index))
        })
    }

    /// The targets whose password nobody could open when this executor came into office, and that nobody has said since.
    pub(crate) fn unopenable(&self) -> Result<Vec<String>, Failure> {
        self.taken_where(|described, taken| {
            let by_executor = described.current.term > 0;
            taken.unopenable.is_some_and(|index| index == described.current.index || by_executor)
        })
    }

    fn taken_where(&self, is: impl Fn(&Target, &Taken) -> bool) -> Result<Vec<String>, Failure> {
        let there = self.read(|store, _| targets(store))?.into_iter();
        let taken = self.executors.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of = there.filter(|(name, described)| taken.get(name).is_some_and(|taken| is(described, taken)));
        Ok(of.map(|(name, _)| name).collect())
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
        let (opened, password) = self.open_first(name, &described, term).await?;
        let Target { spec, current, next, index: described, .. } = described;
        #[cfg(feature = "failpoints")]
        self.leak("leak.credential", password.expose()).await;
        let unopenable = Some(current.index).filter(|index| *index != opened);
        let known = vec![opened];
        let (system, user, label) = (spec.system, spec.user.clone(), name.to_owned());
        let own = OwnSessions::default();
        let config = move |user: &str, passwords: Passwords| Access {
            spec: spec.clone(),
            target: label.clone(),
            term,
            user: user.to_owned(),
            passwords,
            own: own.clone(),
        };
        let make = |password| {
            let passwords = Passwords::one(opened, password);
            (self.executors.make)(config(&user, passwords)).map_err(|e| engine_failure(name, &e))
        };
        let bulk = make(SecretVec::new(password.expose().to_vec()))?;
        let engine = make(password)?;
        self.executors
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Taken { engine: Arc::clone(&engine), unopenable });
        self.record(
            self.internal_entry("executor.office", term).resource(&format!("target {name}")).term(term),
            Class::Essential,
        )
        .await?;
        let office = Office { term, described, system, engine, bulk, config: Arc::new(config) };
        let mut seat = Seat { office, entered: false, known, lost: unopenable, opened: Instant::now() };
        // The target may have this one already. Who sealed it so that nobody can open it keeps nobody from the other.
        if let Some(next) = next.as_ref().filter(|next| next.index != opened) {
            match self.open_credential(name, next, term).await {
                Ok(password) => seat.learn(next.index, &password),
                Err(error) => {
                    tracing::warn!(target = name, error = error.message, "the password under way is not opened");
                }
            }
        }
        Ok(seat)
    }

    /// Opens the first password that the target may have, of those that can be opened: who sealed one so that nobody can open it, and had
    /// the log call that the target's, keeps nobody from the others, also if he gives no part of it himself. Wrong parts of as many
    /// members as it takes look the same; then the target refuses what is tried in its place.
    async fn open_first(
        self: &Arc<Self>,
        name: &str,
        described: &Target,
        term: u64,
    ) -> Result<(u64, SecretVec), Failure> {
        let mut why = None;
        for credential in described.credentials() {
            match self.try_credential(name, credential, term).await {
                Ok(password) => return Ok((credential.index, password)),
                Err(NotOpened { error, tried: true }) => {
                    let index = credential.index;
                    tracing::error!(target = name, index, error = error.message, "a password cannot be opened");
                    why.get_or_insert(error);
                }
                Err(NotOpened { error, tried: false }) => return Err(error),
            }
        }
        Err(why.unwrap_or_else(|| Failure::from(Refusal::not_found("target"))))
    }

    /// Opens an administrative password of a target with the parts of t members, this one's among them.
    pub(crate) async fn open_credential(
        self: &Arc<Self>,
        name: &str,
        credential: &Credential,
        term: u64,
    ) -> Result<SecretVec, Failure> {
        self.try_credential(name, credential, term).await.map_err(|not| not.error)
    }

    async fn try_credential(
        self: &Arc<Self>,
        name: &str,
        credential: &Credential,
        term: u64,
    ) -> Result<SecretVec, NotOpened> {
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
                // Of an executor, or of people.
                let point = if credential.term > 0 { "credential.made" } else { "credential.said" };
                if hit(point).is_err() {
                    why.push("a failpoint".to_owned());
                    continue;
                }
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
        if got > self.peers.all().count() && got >= needed {
            let what = format!("no parts of any members open a password of target {name}: {}", why.join(". "));
            return Err(NotOpened { error: Failure::new(UNOPENABLE, what), tried: true });
        }
        let what = format!("{got} of {needed} members open the credential of target {name}: {}", why.join(". "));
        Err(NotOpened { error: Failure::new("not_enough_members", what), tried: got >= needed })
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
            let mut busy = wanted || asked || lease::remains(store, name)?.is_some();
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
            return Err(refuse(
                "no lease is there, none has left anything, and this member has endorsed none and seen none end of late",
            ));
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
        self.leftovers.forget();
        self.executors.by_target.lock().await.clear();
        self.executors.taken.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.executors.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A password that was not opened.
struct NotOpened {
    error: Failure,
    /// As many members as it takes have given parts of it, and none of them open it together.
    tried: bool,
}

impl From<Failure> for NotOpened {
    fn from(error: Failure) -> Self {
        Self { error, tried: false }
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
