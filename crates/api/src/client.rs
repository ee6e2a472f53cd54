//! The SDK: seals before anything leaves, asks members directly, believes no single one of them, opens here.
//!
//! Every error is a [`Failure`]: its code is one of `docs/errors.md`, whoever found it. What the client pins stands in its
//! [`Profile`]; a member whose answers are wrong is named in [`Client::suspects`] and asked last from then on.

mod change;
mod custodian;
mod identity;
mod lease;
mod open;
mod places;
mod profile;
pub mod quorum;
mod read;

pub use change::{Administrators, Put, Submitted};
pub use custodian::{Custodian, CustomerSource, decode_part, encode_part, other_key};
pub use identity::{Identity, IdentityError, certificates, ed25519_from_pkcs8, load_server_identity};
pub use lease::{Credential, Proof};
pub use open::{Opened, SecretRef};
pub use profile::{Member, PinnedMount, Profile, ProfileError};
pub use quorate_state::lease::Form;
pub use quorate_state::target::{Endpoint, Revision, Role, System, TargetSpec, TargetTls};
pub use read::Effect;

use self::places::Places;
use crate::MAX_OPEN_REPLY;
use crate::net::Net;
use crate::status::{
    BAD_ANSWER, CLIENT_SETUP, DEADLINE, Failure, NOT_ENOUGH_MEMBERS, Retry, UNAUTHENTICATED, UNREACHABLE,
};
use crate::tls::{CLIENT, connect_over};
use crate::vault::vault_client::VaultClient;
use futures::stream::{FuturesUnordered, StreamExt as _};
use quorate_state::ids::{MemberIndex, Millis, RequestId};
use rand_core::CryptoRng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long one call to one member may take.
const CALL: Duration = Duration::from_secs(5);
/// How long an operation may take when nobody says.
const OPERATION: Duration = Duration::from_secs(30);
/// The first pause between two attempts, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long one member may keep us waiting before another one is asked as well. The same request takes effect once however many
/// members bring it.
const HEDGE: Duration = Duration::from_millis(600);
/// How long a member that did not answer is asked after the others.
const SILENCE: Duration = Duration::from_secs(5);

/// What the client takes from outside, so that tests decide it.
pub struct Seams {
    /// Randomness for keys, nonces and ids.
    pub rng: Box<dyn CryptoRng + Send>,
    /// Milliseconds since 1970.
    pub clock: Arc<dyn Fn() -> Millis + Send + Sync>,
    /// The way to the members.
    pub net: Arc<dyn Net>,
}

/// A client of one cluster, as one caller. Methods take `&self` and may run beside each other.
pub struct Client {
    profile: Profile,
    identity: Identity,
    customer: CustomerSource,
    rng: Mutex<Box<dyn CryptoRng + Send>>,
    clock: Arc<dyn Fn() -> Millis + Send + Sync>,
    /// The members that are asked directly: all of them, or the one that passes questions on.
    vaults: BTreeMap<MemberIndex, VaultClient<Channel>>,
    via: Option<MemberIndex>,
    suspects: Mutex<BTreeMap<MemberIndex, String>>,
    silent: Mutex<BTreeMap<MemberIndex, Instant>>,
    /// What verifiers of a role must have, as it was when last asked.
    forms: Mutex<BTreeMap<String, Form>>,
    places: Mutex<Places>,
    timeout: Duration,
}

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Client({} of {})", self.identity.principal(), self.profile.cluster)
    }
}

impl Client {
    /// Connects lazily: no member needs to be up. With [`Profile::via`] it connects to that member only.
    ///
    /// # Errors
    /// `client_setup` when an address is none, or `via` is no member.
    pub fn new(profile: Profile, identity: Identity, customer: CustomerSource, seams: Seams) -> Result<Self, Failure> {
        let via = profile.via.as_deref().map(|name| {
            let member = profile.member_named(name).map(|m| m.index);
            member.ok_or_else(|| Failure::new(CLIENT_SETUP, format!("{name}, to go through, is no member")))
        });
        let via = via.transpose()?;
        let vaults = profile
            .members
            .iter()
            .filter(|m| via.is_none_or(|via| m.index == via))
            .map(|m| {
                let channel = connect_over(&seams.net, &m.api_address, m.key, identity.tls(), &m.name, CLIENT)
                    .map_err(|why| Failure::new(CLIENT_SETUP, format!("member {}: {why}", m.name)))?;
                Ok((m.index, VaultClient::new(channel).max_decoding_message_size(MAX_OPEN_REPLY)))
            })
            .collect::<Result<_, Failure>>()?;
        let rng = Mutex::new(seams.rng);
        let (suspects, silent, forms, places) =
            (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        let (clock, timeout) = (seams.clock, OPERATION);
        Ok(Self { profile, identity, customer, rng, clock, vaults, via, suspects, silent, forms, places, timeout })
    }

    /// Sets how long an operation may take, retries included; 30 s otherwise.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What it pins.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Who is calling.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Members that gave a wrong answer, and what was wrong: asked last since.
    #[must_use]
    pub fn suspects(&self) -> BTreeMap<MemberIndex, String> {
        lock(&self.suspects).clone()
    }

    fn name(&self, member: MemberIndex) -> &str {
        self.profile.member(member).map_or("?", |m| m.name.as_str())
    }

    fn suspect(&self, member: MemberIndex, why: impl core::fmt::Display) -> Failure {
        let name = self.name(member);
        let what = format!("member {name} ({member}): {why}");
        tracing::warn!(member, name, %why, "a member gave a wrong answer");
        lock(&self.suspects).insert(member, why.to_string());
        Failure::new(BAD_ANSWER, what)
    }

    /// The members in the order in which to ask them: suspects last, before them those that did not answer a moment ago, the
    /// others from a random one on, so that load spreads; first the one that is reached, where it is only one.
    fn order(&self) -> Vec<MemberIndex> {
        let mut members: Vec<MemberIndex> = self.profile.members.iter().map(|m| m.index).collect();
        let first = self.random::<1>().first().map_or(0, |b| usize::from(*b)) % members.len().max(1);
        members.rotate_left(first);
        let mut silent = lock(&self.silent);
        silent.retain(|_, since| since.elapsed() < SILENCE);
        let suspects = lock(&self.suspects);
        let far = |m: &MemberIndex| self.via.is_some_and(|via| via != *m);
        members.sort_by_key(|m| (suspects.contains_key(m), silent.contains_key(m), far(m)));
        members
    }

    /// Notes that members have not answered for a while.
    fn keeps_waiting(&self, members: impl IntoIterator<Item = MemberIndex>) {
        lock(&self.silent).extend(members.into_iter().map(|member| (member, Instant::now())));
    }

    /// Notes whether a member answered at all; passes on what it answered.
    fn heard<T>(&self, member: MemberIndex, answer: Result<T, Failure>) -> Result<T, Failure> {
        let unanswered = answer.as_ref().is_err_and(|failure| matches!(failure.code, UNREACHABLE | DEADLINE));
        let mut silent = lock(&self.silent);
        if unanswered {
            silent.insert(member, Instant::now());
        } else {
            silent.remove(&member);
        }
        answer.map_err(|failure| self.unless_ended(failure))
    }

    /// A server that refuses a certificate breaks the connection off, and the reason is lost on the way. When the caller's own has
    /// ended, that is the reason, and trying again is of no use.
    fn unless_ended(&self, failure: Failure) -> Failure {
        match self.identity.valid() {
            Some((_, to)) if failure.code == UNREACHABLE && to < self.now() => {
                let who = self.identity.principal();
                Failure::new(UNAUTHENTICATED, format!("the certificate of {who} ended at {to} ms since 1970"))
            }
            _ => failure,
        }
    }

    fn threshold(&self) -> usize {
        usize::from(self.profile.threshold)
    }

    fn now(&self) -> Millis {
        (self.clock)()
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        lock(&self.rng).fill_bytes(&mut out);
        out
    }

    fn request_id(&self) -> RequestId {
        RequestId(self.random())
    }

    /// One answer of any member: asks one after the other, or two when one is slow, and again, until one answers, refuses for
    /// good, or time is up.
    async fn any<T, F>(&self, ask: impl Fn(VaultClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.any_until(|failure| failure.retry == Retry::No, ask).await
    }

    /// As [`Client::any`]; `give_up` says which failures are for good.
    async fn any_until<T, F>(
        &self,
        give_up: impl Fn(&Failure) -> bool,
        ask: impl Fn(VaultClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = BACKOFF.0;
        let mut last = Failure::new(NOT_ENOUGH_MEMBERS, "no member is known");
        // What a member answered last: that time is up says less than why it took so long.
        let mut cause = None;
        loop {
            let reached = |m: &MemberIndex| self.vaults.contains_key(m);
            let mut members = self.order().into_iter().filter(reached).collect::<Vec<_>>().into_iter();
            let mut asked = FuturesUnordered::new();
            let mut newest = None;
            loop {
                // One at a time, and a second one beside the first that keeps us waiting. Not more: who waits for a leader
                // waits at all of them.
                if asked.len() < 2
                    && let Some(member) = members.next()
                    && let Some(vault) = self.vaults.get(&member)
                {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(after(last, cause));
                    }
                    let answer = call(left.min(CALL), ask(vault.clone()));
                    asked.push(async move { (member, answer.await) });
                    newest = Some(member);
                }
                let patience = if asked.len() < 2 && members.len() > 0 { HEDGE } else { CALL * 2 };
                match tokio::time::timeout(patience, asked.next()).await {
                    Ok(Some((member, answer))) => match self.heard(member, answer) {
                        Err(failure) if give_up(&failure) => return Err(failure),
                        Err(failure) => {
                            if !matches!(failure.code, UNREACHABLE | DEADLINE) {
                                cause = Some(failure.clone());
                            }
                            last = failure;
                        }
                        answer => return answer,
                    },
                    Ok(None) => break,
                    Err(_) => self.keeps_waiting(newest),
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(after(last, cause));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

/// A failure that says nothing of why, with what a member answered before.
fn after(last: Failure, cause: Option<Failure>) -> Failure {
    match cause {
        Some(cause) if matches!(last.code, UNREACHABLE | DEADLINE) => {
            let message = format!("{cause}; and then: {}", last.message);
            Failure { message, ..last }
        }
        _ => last,
    }
}

/// One call, with an end.
async fn call<T>(limit: Duration, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Failure::new(DEADLINE, format!("no answer in {} ms", limit.as_millis()))),
    }
}

/// What is behind these locks is whole after every statement, so a panic elsewhere harms nothing.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
