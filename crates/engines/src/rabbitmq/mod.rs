//! RabbitMQ 3.10 and later, through its management interface.
//!
//! An account of the server, with permissions in virtual hosts, is a principal. RabbitMQ gives accounts no numbers: its connections know their
//! account's name, and the number in [`Principal::oid`] is a hash of that and says nothing more.
//!
//! `PUT /api/users` makes an account or changes the one there is, so the name fences nothing; nor does the connection, of which the server
//! keeps no list. What fences is who asks: what makes principals is sent by an account that exists for one [`Binding`] only, a *session*, and that is
//! removed to end it ([`session`]). The server asks for it when it has read the head of a request. What had come that far may still be done, and is
//! harmless then: see [`accounts::create`].
//!
//! # Security
//! * The verifier is 4 bytes of salt and one round of SHA-256 over them and the password. That is enough for a password of at least 128
//!   random bits, and for nothing else: never for one that a person chose.
//! * RabbitMQ has no right to make accounts that is not the tag `administrator`: whoever has the executor's password has the server.
//!   Each session is another administrator, whose password of 256 random bits never leaves this process but to the server; one whose executor died
//!   stays until the next takes over.
//! * An account has no time after which the server lets it in no more: `max_ttl_seconds` of a [`Create`] is checked and has no effect there.

mod accounts;
mod api;
mod check;
mod rules;
mod session;
mod starts;

use core::time::Duration;

use async_trait::async_trait;

use self::api::Api;
use self::session::Kept;
use self::starts::Starts;
use crate::http::{Path, Request};
use crate::names::{Spared, check_name, check_target};
use crate::{
    Binding, Checked, Class, Cleaned, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    OwnSessions, Passwords, Principal, Refused, Seen, Tls, number_of,
};

/// The oldest version that is worked with, 3.10: the oldest at which it was tried.
const OLDEST: u32 = 31_000;
/// The tag that makes an account an administrator.
const TAG: &str = "administrator";

/// Where a RabbitMQ server is, and who we are there.
#[derive(Debug)]
pub struct RabbitMqConfig {
    /// Its management interface (port 15672, or 15671 with TLS), directly. One member of a cluster: accounts and sessions are those of all.
    pub endpoint: Endpoint,
    /// The administrative account.
    pub user: String,
    /// Its password, or several while nobody knows which one the server has.
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
}

impl RabbitMqConfig {
    /// No principal has such a name.
    fn session_name(&self, binding: &Binding) -> String {
        let Binding { pid, backend_start_micros: term } = binding;
        format!("{}{term}/{pid:08x}", self.session_prefix())
    }

    /// The session whose name this is, of whatever term.
    fn session_of(&self, name: &str) -> Option<Binding> {
        let (term, number) = name.strip_prefix(&self.session_prefix())?.split_once('/')?;
        let binding = Binding { pid: i32::from_str_radix(number, 16).ok()?, backend_start_micros: term.parse().ok()? };
        (self.session_name(&binding) == name).then_some(binding)
    }

    fn session_prefix(&self) -> String {
        format!("quorate/{}/", self.target)
    }
}

/// The executor's hold on one RabbitMQ server. Connects when first asked for something.
#[derive(Debug)]
pub struct RabbitMq {
    config: RabbitMqConfig,
    /// What ends principals, and looks, waits for nothing that makes one.
    ends: Api,
    makes: Api,
    creates: Kept,
    starts: Starts,
}

impl RabbitMq {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: RabbitMqConfig) -> Result<Self, EngineError> {
        let invalid = |field, reason| Err(EngineError::Invalid { field, reason });
        check_target(&config.target)?;
        let printable = config.user.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        if matches!(config.user.as_str(), "" | "." | ".." | "guest") || !printable {
            return invalid(
                "user",
                "not the name of an account made for this, of printable ASCII without space and colon",
            );
        }
        if i64::try_from(config.term).is_err() {
            return invalid("term", "2^63 or more");
        }
        let (ends, makes) = (Api::new(&config)?, Api::new(&config)?);
        Ok(Self { config, ends, makes, creates: Kept::default(), starts: Starts::default() })
    }

    fn endpoint(&self) -> String {
        self.config.endpoint.to_string()
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

/// Not the executor's own.
impl Spared for RabbitMq {
    const WHY: &'static str = "the executor's own";

    fn is_spared(&self, name: &str) -> bool {
        name == self.config.user
    }
}

#[async_trait]
impl Engine for RabbitMq {
    fn class(&self) -> Class {
        Class::Upsert
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint()]
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        let term = i64::try_from(self.config.term).unwrap_or(i64::MAX);
        self.end_sessions(move |binding| binding.backend_start_micros < term).await
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        let taken = self.creates.take(&self.makes, &self.config).await?;
        let binding = taken.session.binding;
        taken.settle(Ok(binding))
    }

    /// What an application may do it does not do here: without a tag it is told at the management interface that it may do nothing there, which
    /// is said to nobody whose password is wrong.
    async fn visit(&self) -> Result<(), EngineError> {
        let whoami = Request::get(Path::new(&["api", "whoami"])?);
        match api::repeatable(self.ends.call(&self.config, whoami).await) {
            Err(EngineError::Refused { code, .. }) if code == api::RIGHTS => Ok(()),
            other => other.map(drop),
        }
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        create.validate_with(api::check_verifier)?;
        self.check_theirs(&create.name)?;
        let rights = rules::rights(&create.groups)?;
        if !create.statements.is_empty() {
            return Err(EngineError::Invalid {
                field: "statements",
                reason: "RabbitMQ has none: all rights are groups",
            });
        }
        let taken = self.creates.bound(&create.binding).await?;
        let result = accounts::create(&taken.session, &self.makes, create, &rights).await;
        taken.settle(result.map_err(|error| match error {
            EngineError::Unavailable { reason } => EngineError::Unknown { reason },
            other => other,
        }))
    }

    /// Ends the session of the binding, and only then looks whether the account is there. What the server had let pass before, and then
    /// takes up to 60 s to receive in full, can at most make an account that no virtual host lets in: [`list`](Engine::list) shows it.
    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        self.check_theirs(name)?;
        session::end(&self.ends, &self.config, binding).await?;
        let there = self.ends.find::<api::Account>(&self.config, api::user(name)?).await?;
        Ok(there.map_or(Fenced::Absent, |_| Fenced::Won { oid: number_of(name) }))
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        self.check_all(principals)?;
        accounts::refuse(&self.ends, &self.config, principals).await
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        self.check_all(principals)?;
        accounts::kill(&self.ends, &self.config, principals).await
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        self.check_all(principals)?;
        accounts::look(&self.ends, &self.config, &self.endpoint(), principals).await
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        self.check_all(principals)?;
        accounts::clean(&self.ends, &self.config, principals).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        accounts::list(&self.ends, &self.config, prefix).await
    }

    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        accounts::ghosts(&self.ends, &self.config, &self.endpoint()).await
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        check::check(&self.ends, &self.config, &self.starts, groups).await
    }

    /// Another one after each start of a server of the cluster, and for each hold: what an earlier executor was told it is not compared with.
    async fn timeline(&self) -> Result<u32, EngineError> {
        let nodes: Vec<api::Node> = self.ends.get(&self.config, api::nodes()?).await?;
        Ok(self.starts.number(&nodes))
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        // Whoever asks whose the server is must not meet later what was given up before.
        self.creates.settled(&self.makes, &self.config).await?;
        accounts::names(&self.ends, &self.config, prefix).await
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        self.check_theirs(name)?;
        let taken = self.creates.take(&self.makes, &self.config).await?;
        let result = accounts::claim(&taken.session, &self.makes, &self.config, name).await;
        taken.settle(result)
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| self.check_theirs(name))?;
        self.creates.settled(&self.makes, &self.config).await?;
        accounts::disclaim(&self.ends, &self.config, names).await
    }

    async fn set_password(&self, verifier: &str, binding: &Binding) -> Result<(), EngineError> {
        api::check_verifier(verifier)?;
        let taken = self.creates.bound(binding).await?;
        let result = accounts::set_password(&taken.session, &self.makes, &self.config, verifier).await;
        taken.settle(result)
    }

    /// The sessions of others at this target, of whatever term, and all connections of clients as the executor's account. Whoever asks the
    /// management interface with its password has no session that could be ended: only another password ends that.
    async fn end_strangers(&self) -> Result<usize, EngineError> {
        let _settled = self.config.own.settled().await;
        let own = self.config.own.all();
        let sessions = self.end_sessions(|binding| !own.contains(binding)).await?;
        let executor = [Principal { name: self.config.user.clone(), oid: None }];
        Ok(sessions + accounts::kill(&self.ends, &self.config, &executor).await?)
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}
