//! Kubernetes 1.28 and later: tokens of its service accounts, each bound to a Secret of its lease.
//!
//! A principal is a Secret without data ([`object`]). What lets in is a token that the API server makes ([`Class::IssuedByTarget`]) and that
//! names the Secret and its uid (`boundObjectRef` of a TokenRequest): the server takes it only as long as that very Secret is there. To end a
//! lease its Secret is removed. The number in [`Principal::oid`] is a hash of the Secret's uid: a name that is made anew has another one.
//!
//! The name of a Secret is taken once, and a removed one never comes back under its uid. What fences a create is a *session*, a Secret too, that it
//! looks for when it has made its own and before it asks for a token ([`session`]). What comes too late makes a Secret of which there is no
//! token: [`list`](Engine::list) shows it.
//!
//! # What an end is worth
//! * A token that was used in the last 10 s is let in by what an API server remembers, and each server learns of the removal by itself:
//!   so [`look`](Engine::look) takes nothing for ended that was not gone for [`SETTLING`] ([`ended`]).
//! * Whoever takes a token by its signature alone (JWKS) never learns that it ended, and lets in until it runs out.
//! * What was opened with a token goes on: a watch until the server ends it (30 to 60 min by its defaults), `exec`, `attach`, `port-forward` and
//!   `logs -f` until an end closes them. Kubernetes shows of no connection whose it is and ends none, so [`kill`](Engine::kill) has nothing to
//!   do, and [`Seen::sessions`] is 0 always.
//!
//! # Security
//! * A token is in this process from the server's answer until the caller has sealed it. It is in no error, no log and no `Debug`.
//! * The executor reads and removes every Secret of its namespace: that one should be the vault's alone.
//! * Neither a number of sessions nor groups beside the service account's own can be said of a token: `connection_limit` of a [`Create`] has no
//!   effect there, and what the account may do is the cluster's affair.

mod api;
mod check;
mod ended;
mod leases;
mod object;
mod rules;
mod session;
mod timeline;
mod token;

use core::time::Duration;

use async_trait::async_trait;
use quorate_crypto::secret::{SecretFields, SecretVec};
use serde::Deserialize;
use serde_json::json;

use self::api::{Api, FORBIDDEN};
use self::ended::Ended;
pub use self::ended::SETTLING;
use self::object::{check_all, is_dns, secret_name};
use self::session::Kept;
use self::timeline::Timeline;
use self::token::Claims;
use crate::http::{Answer, Repeat, Request};
use crate::names::{check_name, check_target};
use crate::{
    Binding, Checked, Class, Cleaned, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    OwnSessions, Passwords, Principal, Refused, Seen, Tls,
};

/// Namespaces of the cluster's own.
const NOT_OURS: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Where a cluster's API server is, and who we are there.
#[derive(Debug)]
pub struct KubernetesConfig {
    /// The API server, or what stands before several of one cluster and hands on what it gets.
    pub endpoint: Endpoint,
    /// Where the service accounts of the roles are, and the Secrets of the leases.
    pub namespace: String,
    /// Who the executor is there, as `SelfSubjectReview` has it: `system:serviceaccount:NAMESPACE:NAME`, or any other user.
    pub user: String,
    /// Its bearer token, or several while nobody knows which one the server takes.
    pub passwords: Passwords,
    /// Where the sessions are noted that are opened.
    pub own: OwnSessions,
    /// Whether the connection is encrypted. There is no channel binding.
    pub tls: Tls,
    /// Names the target in the sessions' names: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target; less than 2^63.
    pub term: u64,
    /// For a connection, from the name look-up to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// How long the server may take for one request.
    pub answer_timeout: Duration,
    /// How long a token may let in after its Secret is gone: [`SETTLING`], unless it is known of all API servers that it is another time.
    pub settling: Duration,
}

impl KubernetesConfig {
    /// The executor's service account, where it is one of the same namespace.
    fn own_account(&self) -> Option<&str> {
        self.user.strip_prefix("system:serviceaccount:")?.strip_prefix(&self.namespace)?.strip_prefix(':')
    }
}

/// The executor's hold on one cluster. Connects when first asked for something.
#[derive(Debug)]
pub struct Kubernetes {
    config: KubernetesConfig,
    /// What ends principals, and looks, waits for nothing that makes one.
    ends: Api,
    makes: Api,
    /// Tokens that are tried.
    tries: Api,
    creates: Kept,
    ended: Ended,
    timeline: Timeline,
}

impl Kubernetes {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used; [`EngineError::Unavailable`] without random numbers.
    pub fn new(config: KubernetesConfig) -> Result<Self, EngineError> {
        let invalid = |field, reason| Err(EngineError::Invalid { field, reason });
        check_target(&config.target)?;
        if !is_dns(&config.namespace, false) {
            return invalid("namespace", "not the name of a namespace: 1 to 63 of a-z, 0-9 and -");
        }
        if NOT_OURS.contains(&config.namespace.as_str()) {
            return invalid("namespace", "the cluster's own: whoever has a token there may have the cluster");
        }
        // It stands in what somebody is to paste.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@/".contains(&b);
        if !(1..=253).contains(&config.user.len()) || !config.user.bytes().all(plain) {
            return invalid("user", "not 1 to 253 letters, digits, -, _, ., :, @ and /");
        }
        if i64::try_from(config.term).is_err() {
            return invalid("term", "2^63 or more");
        }
        let (ends, makes, tries) = (Api::new(&config)?, Api::new(&config)?, Api::new(&config)?);
        let (ended, timeline) = (Ended::new(config.settling), Timeline::new()?);
        Ok(Self { config, ends, makes, tries, creates: Kept::default(), ended, timeline })
    }

    /// Ends sessions of this target; how many there were.
    async fn end_sessions(&self, which: impl Fn(&Binding) -> bool + Send) -> Result<usize, EngineError> {
        let all: Vec<Binding> = session::all(&self.ends, &self.config).await?.into_iter().filter(which).collect();
        for binding in &all {
            session::end(&self.ends, &self.config, binding).await?;
        }
        Ok(all.len())
    }
}

#[async_trait]
impl Engine for Kubernetes {
    fn class(&self) -> Class {
        Class::IssuedByTarget
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.config.endpoint.to_string()]
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        let term = i64::try_from(self.config.term).unwrap_or(i64::MAX);
        self.end_sessions(move |binding| binding.backend_start_micros < term).await
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        self.creates.bind(&self.makes, &self.config).await
    }

    async fn visit(&self) -> Result<(), EngineError> {
        who(&self.ends.call(&self.config, self_review()?).await).map(drop)
    }

    /// Asks the API server who bears the token, with the token itself. One that is for others than the API server is looked at by the executor, for
    /// the first of them (`TokenReview`).
    async fn try_out(&self, name: &str, secret: &SecretVec) -> Result<(), EngineError> {
        let unfit = EngineError::Invalid { field: "secret", reason: "not what was issued here" };
        let bound = secret_name(name)?;
        let fields = SecretFields::decode(secret.expose()).ok_or(unfit.clone())?;
        let (Some(token), Some(account)) = (fields.get(token::TOKEN), fields.get(token::ACCOUNT)) else {
            return Err(unfit);
        };
        let claims = Claims::of(token.expose()).filter(|claims| claims.is_bound_to(&bound)).ok_or(unfit.clone())?;
        let account = core::str::from_utf8(account.expose()).map_err(|_| unfit)?;
        let user = format!("system:serviceaccount:{}:{account}", self.config.namespace);
        let said = match who(&self.tries.call_as(token, &self_review()?).await) {
            // It is let in, and may not ask.
            Err(error) if api::is(&error, FORBIDDEN) => return Ok(()),
            Err(error) if error.is_login_refused() => match self.review(token, claims.aud.all()).await {
                Ok(Some(said)) => said,
                Ok(None) | Err(EngineError::Refused { .. }) => return Err(error),
                Err(other) => return Err(other),
            },
            other => other?,
        };
        if said == user {
            return Ok(());
        }
        Err(EngineError::Refused { code: "USER".to_owned(), message: format!("the token is not {user}'s") })
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        // What seals the token is no business of ours.
        create.validate_with(|_| Ok(()))?;
        secret_name(&create.name)?;
        let wanted = rules::wanted(&create.groups, self.config.own_account())?;
        if !create.statements.is_empty() {
            return Err(EngineError::Invalid {
                field: "statements",
                reason: "Kubernetes has none: what a token may do is its service account's",
            });
        }
        let session = self.creates.bound(&create.binding).await?;
        leases::create(session, &self.makes, &self.config, create, &wanted).await.map_err(|error| match error {
            EngineError::Unavailable { reason } => EngineError::Unknown { reason },
            other => other,
        })
    }

    /// Removes the session of the binding, and only then looks whether the Secret is there. A create that was under way makes at most a Secret
    /// of which there is no token, and removes it itself if it can.
    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        secret_name(name)?;
        session::end(&self.ends, &self.config, binding).await?;
        let there = leases::find(&self.ends, &self.config, name).await?;
        Ok(there.map_or(Fenced::Absent, |secret| Fenced::Won { oid: secret.number() }))
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        check_all(principals)?;
        leases::refuse(&self.ends, &self.config, &self.ended, principals).await
    }

    /// Nothing: what is open nobody can end.
    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        check_all(principals)?;
        Ok(0)
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        check_all(principals)?;
        leases::look(&self.ends, &self.config, &self.ended, principals).await
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        check_all(principals)?;
        leases::clean(&self.ends, &self.config, principals).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        leases::list(&self.ends, &self.config, prefix).await
    }

    /// None are seen: Kubernetes shows no connection.
    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        Ok((Vec::new(), Vec::new()))
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        check::check(&self.ends, &self.config, &self.timeline, groups).await
    }

    async fn timeline(&self) -> Result<u32, EngineError> {
        self.timeline.number(&self.ends, &self.config).await
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        leases::claims(&self.ends, &self.config, prefix).await
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        leases::claim(&self.makes, &self.config, name).await
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| secret_name(name).map(drop))?;
        leases::disclaim(&self.ends, &self.config, names).await
    }

    /// Never: a token is the API server's to make. An operator gives the executor another one.
    async fn set_password(&self, _verifier: &str, _binding: &Binding) -> Result<(), EngineError> {
        Err(EngineError::Invalid { field: "verifier", reason: "a token of Kubernetes is made by its API server" })
    }

    /// The sessions of others at this target, of whatever term. Who else has the executor's token is not seen.
    async fn end_strangers(&self) -> Result<usize, EngineError> {
        let _settled = self.config.own.settled().await;
        let own = self.config.own.all();
        self.end_sessions(|binding| !own.contains(binding)).await
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}

/// Who bears a token.
#[derive(Deserialize)]
struct Reviewed {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default, alias = "user")]
    user_info: Option<User>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

/// Asks who asks. Nothing changes by it.
fn self_review() -> Result<Request, EngineError> {
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let request = Request::post(api::authentication("selfsubjectreviews")?).repeat(Repeat::Once);
    Ok(request.json(api::bytes(&body)))
}

/// Who has asked.
fn who(answered: &Result<Answer, EngineError>) -> Result<String, EngineError> {
    let answer = api::repeatable(answered.as_ref().map_err(Clone::clone))?;
    api::read::<Reviewed>(answer)?.status.user_info.map(|user| user.username).ok_or_else(api::unreadable)
}

impl Kubernetes {
    /// Whose token it is, by the word of the API server, for one of these audiences; nobody's that it takes.
    async fn review(&self, token: &SecretVec, audiences: &[String]) -> Result<Option<String>, EngineError> {
        let first = audiences.get(..1).unwrap_or_default();
        let request = Request::post(api::authentication("tokenreviews")?).repeat(Repeat::Once);
        let request = request.json(token::review(token, first)?);
        let answer = api::repeatable(self.ends.call(&self.config, request).await)?;
        // The answer has the token in it: no more of it is kept than this.
        let status = api::read::<Reviewed>(&answer)?.status;
        Ok(status.user_info.filter(|_| status.authenticated).map(|user| user.username))
    }
}

/// Bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| EngineError::Unavailable { reason: format!("no random numbers: {error}") })?;
    Ok(bytes)
}
