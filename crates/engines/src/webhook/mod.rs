//! Any system of a customer's that speaks the contract of docs/webhook.md: signed requests over HTTPS, one for each
//! act of an executor, and signed answers.
//!
//! A create of a name that exists fails ([`Class::Autocommit`]). What fences is the session: the receiver gives it a
//! number, a create names it, and takes effect only as long as it is open. To end an intent its session is ended, in
//! the transaction in which the name is looked for. Connections mean nothing: a request is the same on whichever it
//! comes.
//!
//! The numbers of [`Principal`] are the receiver's. A [`Binding`] is the number of the receiver's life and that of
//! the session.
//!
//! # Security
//! * Requests and answers are signed with one secret (HMAC-SHA256, Standard Webhooks), inside verified TLS. Without
//!   the secret nobody is obeyed by the receiver or believed by us, also between the end of TLS and the receiver.
//!   Both sides hold it in clear: whoever reads the receiver's configuration can ask it for everything.
//! * What a receiver says of itself is its word. A look that lies is not found out.
//! * `set-password` sends the next secret itself, signed under the one before and inside TLS: HMAC has no verifiers.
//! * `try-out` sends the password of a login: of those that the vault makes for a proof, and ends with it.

mod call;
mod check;
mod message;
mod page;
mod signature;

use core::fmt;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use quorate_crypto::secret::SecretVec;

use self::call::{Failed, words};
use self::message::{
    Bind, Claim, Clean, CleanedAs, CleanedOne, CreateAccount, Disclaim, EndStrangers, Fence, Ghosts, Kill, Look,
    Principals, Refuse, RefusedAs, RefusedOne, SeenOne, Session, SetPassword, TakeOver, Timeline, TryOut, ones,
};
use self::signature::SigningSecret;
use crate::http::{Http, HttpConfig, Path};
use crate::names::{check_name, check_names, check_target};
use crate::own::Open;
use crate::{
    Binding, Checked, Class, Cleaned, Cleaning, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    OwnSessions, Passwords, Principal, Refusal, Refused, Seen, Tls,
};

/// The longest answer, in bytes: a page of names is some 90 KB.
const MAX_ANSWER: usize = 1 << 20;
/// How many principals one request names.
const BULK: usize = 500;
/// The longest password of a login that is tried, in bytes: the request has room for it however it is written.
const MAX_SECRET: usize = 512;

/// Where a receiver is, and who we are there.
#[derive(Debug)]
pub struct WebhookConfig {
    /// The receiver. What stands between may end TLS and hand requests on, and change none.
    pub endpoint: Endpoint,
    /// The parts of its path, before `v1`. Perhaps none.
    pub path: Vec<String>,
    /// The signing secret, or several while nobody knows which one the receiver has: `whsec_` and base64, or 24 to 64
    /// bytes that are the key themselves.
    pub passwords: Passwords,
    /// Where sessions are noted that are opened.
    pub own: OwnSessions,
    /// Verified, always. There is no channel binding.
    pub tls: Tls,
    /// Names the target to the receiver: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target.
    pub term: u64,
    /// For a connection, from the name look-up to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// For one answer. A request whose answer is lost is sent once more.
    pub answer_timeout: Duration,
}

/// The executor's hold on one receiver. Connects when first asked for something.
pub struct Webhook {
    config: WebhookConfig,
    bound: Mutex<Option<(Binding, Open)>>,
    creates: Http,
    ends: Http,
    cleaning: Http,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Webhook {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: WebhookConfig) -> Result<Self, EngineError> {
        check_target(&config.target)?;
        if matches!(config.tls, Tls::Disabled) {
            return Err(EngineError::Invalid { field: "tls", reason: "a receiver is reached by HTTPS only" });
        }
        if !config.path.is_empty() {
            let segments: Vec<&str> = config.path.iter().map(String::as_str).collect();
            Path::new(&segments)?;
        }
        let http = || {
            Http::new(HttpConfig {
                endpoint: config.endpoint.clone(),
                tls: config.tls.clone(),
                connect_timeout: config.connect_timeout,
                answer_timeout: config.answer_timeout,
                max_answer: MAX_ANSWER,
            })
        };
        let (creates, ends, cleaning) = (http()?, http()?, http()?);
        Ok(Self { config, bound: Mutex::default(), creates, ends, cleaning })
    }

    fn endpoint(&self) -> String {
        let mut url = format!("https://{}", self.config.endpoint);
        for part in &self.config.path {
            url.push('/');
            url.push_str(part);
        }
        url
    }

    fn bound(&self) -> MutexGuard<'_, Option<(Binding, Open)>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn binding(&self) -> Option<Binding> {
        self.bound().as_ref().map(|(binding, _)| *binding)
    }

    fn check_bound(&self, binding: &Binding) -> Result<(), EngineError> {
        if self.binding().as_ref() == Some(binding) { Ok(()) } else { Err(EngineError::StaleBinding) }
    }

    /// The session is open no more.
    fn note_stale<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if matches!(result, Err(EngineError::StaleBinding)) {
            *self.bound() = None;
        }
        result
    }
}

fn unreadable(act: &str) -> EngineError {
    EngineError::Unavailable { reason: format!("`{act}` was answered with what can't be read") }
}

/// What was answered, if it is of exactly those that were asked for, in their order.
fn matched<T>(
    act: &str,
    asked: &[Principal],
    said: Principals<T>,
    name: fn(&T) -> &str,
) -> Result<Vec<T>, EngineError> {
    let all = said.principals;
    let same = all.len() == asked.len() && asked.iter().zip(&all).all(|(asked, said)| asked.name == name(said));
    if same { Ok(all) } else { Err(unreadable(act)) }
}

#[async_trait]
impl Engine for Webhook {
    fn class(&self) -> Class {
        Class::Autocommit
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint()]
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        let did = self.ask(&self.ends, &TakeOver {}).await.map_err(Failed::repeatable)?;
        Ok(usize::try_from(did.data.ended).unwrap_or(usize::MAX))
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        let _opening = self.config.own.opening().await;
        let kept = self.binding();
        let keep = kept.as_ref().map(Session::from);
        let did = self.ask(&self.creates, &Bind { keep }).await.map_err(Failed::repeatable)?;
        let binding = Binding { pid: did.instance, backend_start_micros: did.data.session };
        if kept != Some(binding) {
            let open = self.config.own.open(&self.config.endpoint, binding);
            *self.bound() = Some((binding, open));
        }
        Ok(binding)
    }

    /// A signed answer to a question says that the secret is the receiver's. No session is opened for that, which nobody would end.
    async fn visit(&self) -> Result<(), EngineError> {
        self.timeline().await.map(drop)
    }

    async fn try_out(&self, name: &str, secret: &SecretVec) -> Result<(), EngineError> {
        check_name(name)?;
        let reason = "not text of 1 to 512 bytes";
        let text = core::str::from_utf8(secret.expose()).ok().filter(|text| (1..=MAX_SECRET).contains(&text.len()));
        let secret = text.ok_or(EngineError::Invalid { field: "secret", reason })?;
        let not_let_in = |message| EngineError::Refused { code: "not_let_in".to_owned(), message };
        // On the connection for which nothing waits: a login may take as long as it likes.
        let error = match self.ask(&self.cleaning, &TryOut { name, secret }).await.map_err(Failed::repeatable) {
            Ok(did) if did.data.let_in => return Ok(()),
            Ok(did) => not_let_in(did.data.reason.as_deref().map_or_else(|| "it does not say why".to_owned(), words)),
            Err(error) => error,
        };
        // What is said goes into logs.
        let is_told = error.to_string().contains(secret);
        Err(if is_told { not_let_in("its reason has the password in it".to_owned()) } else { error })
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        create.validate()?;
        if !create.statements.is_empty() {
            return Err(EngineError::Invalid {
                field: "statements",
                reason: "a receiver has none: all rights are groups",
            });
        }
        self.check_bound(&create.binding)?;
        let act = CreateAccount {
            idempotency_key: format!("{}/create", create.name),
            name: &create.name,
            verifier: &create.verifier,
            groups: &create.groups,
            connection_limit: create.connection_limit,
            max_ttl_seconds: create.max_ttl_seconds,
            session: Session::from(&create.binding),
        };
        let did = self.ask(&self.creates, &act).await.map_err(Failed::of_create);
        self.note_stale(did.map(|did| Created::by_client(did.data.number)))
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        check_name(name)?;
        let act = Fence { name, session: Session::from(binding) };
        let did = self.ask(&self.ends, &act).await.map_err(Failed::repeatable)?;
        Ok(did.data.number.map_or(Fenced::Absent, |oid| Fenced::Won { oid }))
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        check_names(principals)?;
        let mut all = Vec::with_capacity(principals.len());
        for some in principals.chunks(BULK) {
            let act = Refuse { principals: ones(some) };
            let did = self.ask(&self.ends, &act).await.map_err(Failed::repeatable)?;
            all.extend(matched("refuse", some, did.data, |one| &one.name)?.into_iter().map(refused));
        }
        Ok(all)
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        check_names(principals)?;
        let mut ended = 0usize;
        for some in principals.chunks(BULK) {
            let did = self.ask(&self.ends, &Kill { principals: ones(some) }).await.map_err(Failed::repeatable)?;
            ended = ended.saturating_add(usize::try_from(did.data.ended).unwrap_or(usize::MAX));
        }
        Ok(ended)
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        check_names(principals)?;
        let endpoint = self.endpoint();
        let mut all = Vec::with_capacity(principals.len());
        for some in principals.chunks(BULK) {
            let did = self.ask(&self.ends, &Look { principals: ones(some) }).await.map_err(Failed::repeatable)?;
            all.extend(matched("look", some, did.data, |one| &one.name)?.into_iter().map(|one| seen(one, &endpoint)));
        }
        Ok(all)
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        check_names(principals)?;
        let mut all = Vec::with_capacity(principals.len());
        for some in principals.chunks(BULK) {
            let act = Clean { principals: ones(some) };
            // Not the connection that ends principals: it may take as long as it likes.
            let did = self.ask(&self.cleaning, &act).await.map_err(Failed::repeatable)?;
            all.extend(matched("clean", some, did.data, |one| &one.name)?.into_iter().map(cleaned));
        }
        Ok(all)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        self.all_principals(prefix).await
    }

    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        let did = self.ask(&self.ends, &Ghosts {}).await.map_err(Failed::repeatable)?;
        let endpoint = self.endpoint();
        let ghost = |one: message::GhostOne| Ghost { endpoint: endpoint.clone(), pid: one.id, oid: one.number };
        Ok((did.data.sessions.into_iter().map(ghost).collect(), Vec::new()))
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        check::check(self, groups).await
    }

    async fn timeline(&self) -> Result<u32, EngineError> {
        Ok(self.ask(&self.ends, &Timeline {}).await.map_err(Failed::repeatable)?.data.timeline)
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        self.all_claims(prefix).await
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        self.ask(&self.ends, &Claim { name }).await.map(drop).map_err(Failed::repeatable)
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| check_name(name))?;
        let did = self.ask(&self.ends, &Disclaim { names }).await.map_err(Failed::repeatable)?;
        if did.data.stay.iter().all(|name| names.contains(name)) {
            Ok(did.data.stay)
        } else {
            Err(unreadable("disclaim"))
        }
    }

    /// The signing secret itself, in either form: nothing can be told from an HMAC that is kept in its place.
    async fn set_password(&self, password: &str, binding: &Binding) -> Result<(), EngineError> {
        let written = SigningSecret::of_password(&SecretVec::new(password.as_bytes().to_vec()))?.written();
        self.check_bound(binding)?;
        let secret = core::str::from_utf8(written.expose()).map_err(|_| unreadable("set-password"))?;
        let act = SetPassword { secret, session: Session::from(binding) };
        let did = self.ask(&self.creates, &act).await.map_err(Failed::repeatable);
        self.note_stale(did.map(drop))
    }

    async fn end_strangers(&self) -> Result<usize, EngineError> {
        let _settled = self.config.own.settled().await;
        let own = self.config.own.all().iter().map(Session::from).collect();
        let did = self.ask(&self.ends, &EndStrangers { own }).await.map_err(Failed::repeatable)?;
        Ok(usize::try_from(did.data.ended).unwrap_or(usize::MAX))
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}

fn refused(one: RefusedOne) -> Refused {
    let outcome = match one.outcome {
        RefusedAs::Dropped => Refusal::Dropped,
        RefusedAs::Disabled => Refusal::Disabled { groups_left: Vec::new() },
        RefusedAs::Absent => Refusal::Absent,
        RefusedAs::Failed => {
            let message = one.reason.as_deref().map_or_else(|| "it does not say why".to_owned(), words);
            Refusal::Failed(EngineError::Refused { code: "failed".to_owned(), message })
        }
    };
    Refused { name: one.name, oid: one.number, outcome }
}

fn seen(one: SeenOne, endpoint: &str) -> Seen {
    let behind = one.doubt.map(|why| Fault { name: endpoint.to_owned(), reason: words(&why) });
    Seen {
        name: one.name,
        oid: one.number,
        can_login: one.can_login || behind.is_some(),
        login_at: if one.can_login { vec![endpoint.to_owned()] } else { Vec::new() },
        behind: behind.into_iter().collect(),
        sessions: one.sessions,
        held_by: one.held_by.as_deref().map(words),
    }
}

fn cleaned(one: CleanedOne) -> Cleaned {
    let outcome = match one.outcome {
        CleanedAs::Gone => Cleaning::Gone,
        CleanedAs::Left => Cleaning::Left {
            databases: one.left.iter().map(|what| words(what)).collect(),
            reason: one.reason.as_deref().map(words),
        },
    };
    Cleaned { name: one.name, outcome }
}
