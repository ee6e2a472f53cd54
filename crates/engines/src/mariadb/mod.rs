//! MariaDB, from 10.4.2 on.
//!
//! Each account statement commits by itself ([`Class::Autocommit`]), so a principal is made in several, and can log in only from the
//! last on. Two connections, as for PostgreSQL: one makes principals, and is the one that bindings name; the other ends them.
//!
//! An account is known by its name here: MariaDB gives it no number, and a session keeps the name of its account when that is
//! dropped. The numbers of [`Principal`] are made of the names ([`number_of`](crate::number_of)).
//!
//! # Security
//! * The administrative account needs `CREATE USER`, `PROCESS`, `CONNECTION ADMIN`, `SHOW VIEW`, and `SELECT` and `UPDATE` on the
//!   schema `mysql`, without which nobody may give another a default role. `CREATE USER` alone lets it change the password of every
//!   other account, the server's `root` among them: at this target an executor could do everything.
//! * The driver keeps a copy of its password for as long as a connection is open, and does not wipe it.

mod check;
mod claim;
mod clean;
mod inspect;
mod issue;
mod quote;
mod revoke;
mod session;
mod verifier;

use core::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::session::Session;
use crate::connection::{is_settled, on, within};
use crate::names::{Spared, check_name, check_target};
use crate::{
    Binding, Checked, Class, Cleaned, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    OwnSessions, Passwords, Principal, Refused, Seen, Tls,
};

/// The host of a leased account: it may come from anywhere.
const ANYWHERE: &str = "%";
/// After how long of silence a connection is asked whether it still answers, before it is relied on.
const SILENT: Duration = Duration::from_secs(5);
/// What a server is full of is none of our principals, whatever its name.
const RESERVED: [&str; 4] = ["root", "mysql", "mariadb", "event_scheduler"];

/// Where a MariaDB server is, and who we are there.
#[derive(Debug)]
pub struct MariaDbConfig {
    /// Host name or address, or the path of its Unix socket. Directly: a proxy is refused.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The administrative account, with `mysql_native_password`.
    pub user: String,
    /// Its password, or several while nobody knows which one the server has.
    pub passwords: Passwords,
    /// Where the connections are noted that are opened.
    pub own: OwnSessions,
    /// Whether the connection is encrypted. A channel is not bound here: a trust that asks for it is refused.
    pub tls: Tls,
    /// Names the target in locks of our sessions: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target.
    pub term: u64,
    /// Whether leased logins are let in by TLS only.
    pub require_tls: bool,
    /// For a connection, from the name look-up to the first answer.
    pub connect_timeout: Duration,
    /// How long one statement may take in the server, a lock that it waits for included. Without an answer for 5 s longer than this, the connection is given up.
    pub statement_timeout: Duration,
}

impl MariaDbConfig {
    fn endpoint(&self) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port }
    }

    fn answer_timeout(&self) -> Duration {
        self.statement_timeout + Duration::from_secs(5)
    }
}

/// Why a group can't be granted, whatever is changed at the target.
fn unfit(group: &str, config: &MariaDbConfig) -> Option<&'static str> {
    if group == config.user {
        return Some("it is the executor's own account");
    }
    let reserved = ["PUBLIC", "NONE", "CURRENT_ROLE", "CURRENT_USER"];
    reserved.iter().any(|name| group.eq_ignore_ascii_case(name)).then_some("it is no role of this server's")
}

/// A connection for one caller at a time, and when it last answered.
type Slot = Mutex<Option<(Session, Instant)>>;

/// The executor's hold on one MariaDB server. Connects when first asked for something.
#[derive(Debug)]
pub struct MariaDb {
    config: MariaDbConfig,
    creates: Slot,
    revocation: Slot,
    cleaning: Slot,
}

/// A connection that was taken out of its slot. Whoever drops it instead of giving it back gives it up, so that what is still at work
/// on it is not met by the next caller.
struct Taken<'a> {
    slot: MutexGuard<'a, Option<(Session, Instant)>>,
    session: Session,
}

impl Taken<'_> {
    fn settle<T>(mut self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if is_settled(&result) {
            *self.slot = Some((self.session, Instant::now()));
        }
        result
    }
}

impl MariaDb {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: MariaDbConfig) -> Result<Self, EngineError> {
        let invalid = |field, reason| Err(EngineError::Invalid { field, reason });
        check_target(&config.target)?;
        if config.user.is_empty() || config.user.chars().any(char::is_control) {
            return invalid("user", "not the name of an account");
        }
        if let Tls::Verified(trust) = &config.tls
            && trust.requires_binding()
        {
            return invalid("tls", "MariaDB proves no password together with its certificate");
        }
        Ok(Self { config, creates: Slot::default(), revocation: Slot::default(), cleaning: Slot::default() })
    }

    async fn take<'a>(&self, slot: &'a Slot) -> Result<Taken<'a>, EngineError> {
        let mut slot = slot.lock().await;
        if let Some((mut session, at)) = slot.take()
            && (at.elapsed() < SILENT || within(self.config.connect_timeout, session.answers()).await.is_ok())
        {
            return Ok(Taken { slot, session });
        }
        let session = Session::open(&self.config).await?;
        Ok(Taken { slot, session })
    }

    /// The connection of a binding, taken out of its slot.
    async fn bound(&self, binding: &Binding) -> Result<Taken<'_>, EngineError> {
        let mut slot = self.creates.lock().await;
        match slot.take() {
            Some((session, _)) if session.binding == *binding => Ok(Taken { slot, session }),
            other => {
                *slot = other;
                Err(EngineError::StaleBinding)
            }
        }
    }

    fn check_create(&self, create: &Create) -> Result<(), EngineError> {
        create.validate_with(verifier::check)?;
        self.check_theirs(&create.name)?;
        if create.groups.iter().any(|group| group.len() > crate::MAX_NAME) {
            return Err(EngineError::Invalid { field: "groups", reason: "longer than 63 bytes" });
        }
        if create.groups.len() > 1 {
            let reason = "more than one: a session has one role at a time. Grant them to one, and lease that";
            return Err(EngineError::Invalid { field: "groups", reason });
        }
        if create.groups.iter().any(|group| unfit(group, &self.config).is_some()) {
            return Err(EngineError::Invalid { field: "groups", reason: "no role of this server's" });
        }
        if !create.statements.is_empty() {
            return Err(EngineError::Invalid { field: "statements", reason: "there are none for MariaDB" });
        }
        Ok(())
    }

    fn limit(&self) -> Duration {
        self.config.answer_timeout()
    }
}

impl Spared for MariaDb {
    const WHY: &'static str = "an account that is not leased";

    fn is_spared(&self, name: &str) -> bool {
        name == self.config.user || RESERVED.contains(&name)
    }
}

#[async_trait]
impl Engine for MariaDb {
    fn class(&self) -> Class {
        Class::Autocommit
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.config.endpoint().to_string()]
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        on!(self.take(&self.revocation).await?, self.limit(), |s| revoke::kill_older_terms(s, &self.config))
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        let mut slot = self.creates.lock().await;
        if let Some((mut session, _)) = slot.take()
            && within(self.config.connect_timeout, session.answers()).await.is_ok()
        {
            let binding = session.binding;
            *slot = Some((session, Instant::now()));
            return Ok(binding);
        }
        let session = Session::open(&self.config).await?;
        let binding = session.binding;
        *slot = Some((session, Instant::now()));
        Ok(binding)
    }

    async fn visit(&self) -> Result<(), EngineError> {
        match self.bind().await {
            // Once more, with another challenge. Where the server's challenge ends with a zero byte the driver leaves that out of what it
            // signs (mysql_common 0.37; blackbeam/rust_mysql_common#193), and so it fails at one login in 256 of an account that proves its
            // password by `ed25519`. A password that is wrong is wrong the second time too.
            Err(error) if error.is_login_refused() => self.bind().await.map(drop),
            visited => visited.map(drop),
        }
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        self.check_create(create)?;
        let mut taken = self.bound(&create.binding).await?;
        let work = issue::create(&mut taken.session, create, self.config.require_tls);
        let result = match within(self.limit(), work).await {
            Err(EngineError::Unavailable { reason }) => Err(EngineError::Unknown { reason }),
            other => other,
        };
        taken.settle(result)
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        self.check_theirs(name)?;
        on!(self.take(&self.revocation).await?, self.limit() * 2, |s| issue::fence(s, name, binding))
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        self.check_all(principals)?;
        // No limit over the whole: every statement in it has one, and a bulk may take many.
        let mut taken = self.take(&self.revocation).await?;
        let result = revoke::refuse(&mut taken.session, principals, &self.config).await;
        taken.settle(result)
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        self.check_all(principals)?;
        on!(self.take(&self.revocation).await?, self.limit(), |s| revoke::kill(s, principals))
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        self.check_all(principals)?;
        on!(self.take(&self.revocation).await?, self.limit(), |s| inspect::look(s, &self.config, principals))
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        self.check_all(principals)?;
        // Not the connection that ends principals: to list what they made, every view of the server is looked at.
        on!(self.take(&self.cleaning).await?, self.limit() * 2, |s| clean::clean(s, principals))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        on!(self.take(&self.revocation).await?, self.limit(), |s| inspect::list(s, prefix))
    }

    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        let ghosts = on!(self.take(&self.revocation).await?, self.limit(), |s| inspect::ghosts(s, &self.config))?;
        Ok((ghosts, Vec::new()))
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        on!(self.take(&self.revocation).await?, self.limit(), |s| check::check(s, &self.config, groups))
    }

    async fn timeline(&self) -> Result<u32, EngineError> {
        on!(self.take(&self.revocation).await?, self.limit(), |s| inspect::started(s))
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        on!(self.take(&self.revocation).await?, self.limit(), |s| claim::claims(s, prefix))
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        self.check_theirs(name)?;
        on!(self.take(&self.revocation).await?, self.limit(), |s| claim::claim(s, name))
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| self.check_theirs(name))?;
        on!(self.take(&self.revocation).await?, self.limit(), |s| claim::disclaim(s, names))
    }

    async fn set_password(&self, verifier: &str, binding: &Binding) -> Result<(), EngineError> {
        verifier::check(verifier)?;
        if !verifier.starts_with('*') {
            return Err(EngineError::Invalid {
                field: "verifier",
                reason: "the executor itself logs in by mysql_native_password",
            });
        }
        let mut taken = self.bound(binding).await?;
        // By its name: of `CURRENT_USER()` the server changes nothing, and says that all is well.
        let (user, host) = &taken.session.account;
        let set = format!("ALTER USER {} {}", quote::account(user, host), verifier::identified(verifier));
        let result = within(self.limit(), taken.session.run(&set)).await;
        taken.settle(result)
    }

    async fn end_strangers(&self) -> Result<usize, EngineError> {
        let taken = self.take(&self.revocation).await?;
        let _settled = self.config.own.settled().await;
        let ours = self.config.own.all();
        on!(taken, self.limit(), |s| revoke::end_strangers(s, &ours))
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}
