//! PostgreSQL 13 to 18.
//!
//! Two connections. One makes principals, and is the one that bindings name: it is opened by [`Engine::bind`] alone, and
//! nothing is ever sent again on another in its place. The other ends principals, and is opened early and kept, because a
//! leased user can take every free slot of the server. Each hot standby has one like the second. What principals own is
//! cleaned up on connections that are opened for it.
//!
//! Both say in `application_name` for which target and which term of the executor they work, so that the next executor can
//! end those of the one before ([`Postgres::kill_older_terms`]).
//!
//! # Security
//! The administrative role needs `CREATEROLE`, `pg_read_all_stats` and `pg_signal_backend`, and nothing else; it must not
//! be a superuser. The driver keeps a copy of its password for as long as a connection is being made, and does not wipe
//! it.

mod check;
mod claim;
mod clean;
mod inspect;
mod issue;
mod kept;
mod password;
mod prepared;
mod quote;
mod revoke;
mod session;
pub mod template;
mod tls;

use core::time::Duration;
use std::collections::BTreeSet;

use async_trait::async_trait;
use tokio::sync::Mutex;

use self::inspect::Position;
use self::kept::{Kept, Taken};
use self::session::Session;
use crate::connection::{on, within};
use crate::engine::check_verifier;
use crate::names::{MAX_NAME, Spared, check_name, check_target};
use crate::{
    Binding, Checked, Class, Cleaned, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    OwnSessions, Passwords, Principal, Refused, Seen, Tls,
};

/// How long a statement that ends principals waits for a lock. A leased user can hold one for ever.
const REVOKE_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a PostgreSQL server is, and who we are there.
#[derive(Debug)]
pub struct PostgresConfig {
    /// Host name or address, or the folder of its Unix socket. Directly: a pooler is refused.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database to connect to.
    pub dbname: String,
    /// Further databases of the same server in which is cleaned up what principals own. In those that are neither here nor
    /// `dbname` it is listed by `clean`, not removed.
    pub databases: Vec<String>,
    /// Hot standbys that clients can log in to: the same role, password and trust. Sessions are ended and looked for there
    /// too. At one that is not here nothing is seen.
    pub standbys: Vec<Endpoint>,
    /// The administrative role.
    pub user: String,
    /// Its password, or several while nobody knows which one the server has.
    pub passwords: Passwords,
    /// Where the connections are noted that are opened.
    pub own: OwnSessions,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// Names the target in `application_name`: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target.
    pub term: u64,
    /// What becomes of what a principal owned.
    pub owned: OwnedObjects,
    /// Whether a commit waits until the server's synchronous standbys have applied it (`synchronous_commit = remote_apply`), so that
    /// whoever logs in at one of them meets what was committed; otherwise until they have written it (`on`).
    pub remote_apply: bool,
    /// For a connection, from the name look-up to the first answer.
    pub connect_timeout: Duration,
    /// How long one statement may take in the server. Without an answer for 5 s longer than this, the connection is
    /// given up.
    pub statement_timeout: Duration,
    /// How long a create waits for a lock.
    pub create_lock_timeout: Duration,
}

/// What becomes of what a principal owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedObjects {
    /// It is dropped.
    Drop,
    /// It goes to this `NOLOGIN` role, which has `CREATE` on the schemas concerned and nothing else.
    ///
    /// # Security
    /// Never to an administrator: a `SECURITY DEFINER` function that a leased user made would run with its power, for
    /// everyone.
    ReassignTo(String),
}

impl PostgresConfig {
    fn application_name(&self) -> String {
        format!("{}{}", self.application_prefix(), self.term)
    }

    fn application_prefix(&self) -> String {
        format!("quorate/{}/", self.target)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port }
    }

    fn endpoints(&self) -> Vec<String> {
        core::iter::once(self.endpoint()).chain(self.standbys.iter().cloned()).map(|e| e.to_string()).collect()
    }

    /// The executor's own role, and the heir of what principals leave.
    fn own(&self) -> impl Iterator<Item = &str> {
        let heir = match &self.owned {
            OwnedObjects::ReassignTo(owner) => Some(owner.as_str()),
            OwnedObjects::Drop => None,
        };
        core::iter::once(self.user.as_str()).chain(heir)
    }

    fn is_own(&self, role: &str) -> bool {
        self.own().any(|own| own == role)
    }

    fn answer_timeout(&self) -> Duration {
        self.statement_timeout + Duration::from_secs(5)
    }
}

/// The executor's hold on one PostgreSQL server. Connects when first asked for something.
#[derive(Debug)]
pub struct Postgres {
    config: PostgresConfig,
    creates: Mutex<Option<Session>>,
    revocation: Kept,
    /// Held by whoever cleans up.
    cleaning: Mutex<()>,
    standbys: Vec<Kept>,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("binding", &self.binding).finish_non_exhaustive()
    }
}

impl Postgres {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: PostgresConfig) -> Result<Self, EngineError> {
        check_target(&config.target)?;
        if let OwnedObjects::ReassignTo(role) = &config.owned
            && (role.is_empty() || role.len() > MAX_NAME || role.contains('\0'))
        {
            return Err(EngineError::Invalid { field: "owned", reason: "not the name of a role" });
        }
        for database in &config.databases {
            if database.is_empty() || database.len() > MAX_NAME || database.chars().any(char::is_control) {
                return Err(EngineError::Invalid { field: "databases", reason: "not the name of a database" });
            }
        }
        let standbys = config.standbys.iter().cloned().map(Kept::new).collect();
        let (creates, revocation) = (Mutex::new(None), Kept::new(config.endpoint()));
        Ok(Self { creates, revocation, cleaning: Mutex::new(()), standbys, config })
    }

    /// Opens the connections that end principals, if they are not open. Call it as soon as the target is ours: later there
    /// may be no free slot. A standby that can't be reached is no error here; one is when something is looked for there.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], or [`EngineError::Refused`] when the server does not let us in.
    pub async fn warm(&self) -> Result<(), EngineError> {
        self.revocation.warm(&self.config).await?;
        for standby in &self.standbys {
            if let Err(fault) = standby.warm_there(&self.config).await {
                tracing::warn!(target = self.config.target, %fault, "a standby is not there");
            }
        }
        Ok(())
    }

    /// Ends the sessions which executors of earlier terms left at this target; how many were told to end.
    ///
    /// `application_name` can be forged by anyone, so it counts only together with our own role.
    ///
    /// # Errors
    /// As [`Engine::kill`].
    pub async fn kill_older_terms(&self) -> Result<usize, EngineError> {
        let prefix = self.config.application_prefix();
        on!(self.take().await?, self.limit(), |s| revoke::kill_older_terms(s, &prefix, self.config.term))
    }

    async fn position(&self) -> Result<Position, EngineError> {
        on!(self.take().await?, self.limit(), |s| Position::of(s))
    }

    /// The connection that ends principals at the server.
    async fn take(&self) -> Result<Taken<'_>, EngineError> {
        self.revocation.take(&self.config).await
    }

    fn limit(&self) -> Duration {
        self.config.answer_timeout()
    }
}

/// The executor's own role, and the heir of what principals leave.
impl Spared for Postgres {
    const WHY: &'static str = "a role of the executor's own";

    fn is_spared(&self, name: &str) -> bool {
        self.config.is_own(name)
    }
}

#[async_trait]
impl Engine for Postgres {
    fn class(&self) -> Class {
        Class::Transactional
    }

    fn endpoints(&self) -> Vec<String> {
        self.config.endpoints()
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        self.warm().await?;
        self.kill_older_terms().await
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        let mut slot = self.creates.lock().await;
        if let Some(session) = slot.take()
            && within(self.config.connect_timeout, issue::answers(&session)).await.is_ok()
        {
            let binding = session.binding;
            *slot = Some(session);
            return Ok(binding);
        }
        let (config, endpoint) = (&self.config, self.config.endpoint());
        let lock_timeout = config.create_lock_timeout.as_millis();
        let session = Session::open(config, &endpoint, &config.dbname, lock_timeout).await?;
        let binding = session.binding;
        *slot = Some(session);
        Ok(binding)
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        create.validate()?;
        if create.all_groups().any(|group| self.config.is_own(group)) {
            return Err(EngineError::Invalid { field: "groups", reason: "a role of the executor's own" });
        }
        let mut slot = self.creates.lock().await;
        let Some(session) = slot.as_ref().filter(|s| s.binding == create.binding && !s.is_closed()) else {
            return Err(EngineError::StaleBinding);
        };
        let result = issue::create(session, create, self.limit()).await;
        if matches!(result, Err(EngineError::Unknown { .. })) {
            // Nothing must follow on this connection; it may still be at work in the server.
            *slot = None;
        }
        result
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        self.fence_all(&[(name, *binding)]).await?.pop().unwrap_or(Err(EngineError::StaleBinding))
    }

    async fn fence_all(&self, intents: &[(&str, Binding)]) -> Result<Vec<Result<Fenced, EngineError>>, EngineError> {
        intents.iter().try_for_each(|(name, _)| check_name(name))?;
        // Several waits for a lock, one for each connection that may be making something, and for its backend to go.
        let bound: BTreeSet<&Binding> = intents.iter().map(|(_, binding)| binding).collect();
        let limit = self.limit() * (1 + u32::try_from(bound.len()).unwrap_or(u32::MAX));
        on!(self.take().await?, limit, |s| issue::fence_all(s, intents))
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        self.check_all(principals)?;
        let mut taken = self.take().await?;
        // No limit over the whole: every statement in it has one, and a bulk may take many.
        let result = revoke::refuse(&mut taken.session, principals, &self.config).await;
        taken.settle(result)
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        self.check_all(principals)?;
        let here = on!(self.take().await?, self.limit(), |s| revoke::kill(s, principals));
        // One that can't be reached keeps nobody alive elsewhere, and nothing is proved before it was looked at.
        let mut killed = 0;
        for standby in &self.standbys {
            match standby.kill(&self.config, principals).await {
                Ok(there) => killed += there,
                Err(fault) => tracing::debug!(target = self.config.target, %fault, "nothing is ended at a standby"),
            }
        }
        Ok(here? + killed)
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        self.check_all(principals)?;
        let (mut seen, upto) = on!(self.take().await?, self.limit(), |s| async {
            let upto = Position::of(s).await?;
            Ok((inspect::look(s, &self.revocation.endpoint, principals).await?, upto))
        })?;
        for standby in &self.standbys {
            match standby.look(&self.config, principals, &upto).await {
                Ok((there, behind)) => {
                    seen.iter_mut().zip(there).for_each(|(seen, there)| seen.add(there));
                    behind.iter().for_each(|why| seen.iter_mut().for_each(|seen| seen.doubt(why)));
                }
                Err(fault) => seen.iter_mut().for_each(|seen| seen.doubt(&fault)),
            }
        }
        Ok(seen)
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        self.check_all(principals)?;
        // Not the connection that ends principals: nobody's end waits for what others left behind. One at a time, and only for as
        // long as it takes: slots are scarce.
        let _one = self.cleaning.lock().await;
        let (config, endpoint) = (&self.config, self.config.endpoint());
        let mut session = Session::open(config, &endpoint, &config.dbname, REVOKE_LOCK_TIMEOUT.as_millis()).await?;
        clean::clean(&mut session, principals, config).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        on!(self.take().await?, self.limit(), |s| inspect::list(s, prefix))
    }

    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        let endpoint = &self.revocation.endpoint;
        let mut ghosts = on!(self.take().await?, self.limit(), |s| inspect::ghosts(s, endpoint))?;
        let mut unseen = Vec::new();
        for standby in &self.standbys {
            match standby.ghosts(&self.config).await {
                Ok(there) => ghosts.extend(there),
                Err(fault) => unseen.push(fault),
            }
        }
        Ok((ghosts, unseen))
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        let taken = self.take().await?;
        // No limit over the whole: each step has one, and each further database is connected to.
        let result = check::check(&taken.session, &self.config, groups).await;
        let mut checked = taken.settle(result)?;
        for standby in &self.standbys {
            let upto = self.position().await?;
            match standby.look(&self.config, &[], &upto).await {
                Ok((_, behind)) => checked.unseen.extend(behind),
                Err(fault) => checked.unseen.push(fault),
            }
        }
        Ok(checked)
    }

    async fn timeline(&self) -> Result<u32, EngineError> {
        Ok(self.position().await?.timeline())
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        on!(self.take().await?, self.limit(), |s| claim::claims(s, prefix))
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        on!(self.take().await?, self.limit(), |s| claim::claim(s, name))
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| check_name(name))?;
        on!(self.take().await?, self.limit(), |s| claim::disclaim(s, names))
    }

    async fn set_password(&self, verifier: &str, binding: &Binding) -> Result<(), EngineError> {
        check_verifier(verifier)?;
        let mut slot = self.creates.lock().await;
        let Some(session) = slot.as_ref().filter(|s| s.binding == *binding && !s.is_closed()) else {
            return Err(EngineError::StaleBinding);
        };
        let result = within(self.limit(), password::set(session, verifier)).await;
        if matches!(result, Err(EngineError::Unavailable { .. })) {
            *slot = None;
        }
        result
    }

    async fn end_strangers(&self) -> Result<usize, EngineError> {
        let mut ended = 0;
        for kept in core::iter::once(&self.revocation).chain(&self.standbys) {
            let work = async {
                let taken = kept.take(&self.config).await?;
                let _settled = self.config.own.settled().await;
                let ours = self.config.own.all();
                on!(taken, self.limit(), |s| password::end_strangers(s, &ours))
            };
            match work.await {
                Ok(there) => ended += there,
                // Where accounts can be changed.
                Err(error) if kept.endpoint == self.revocation.endpoint => return Err(error),
                Err(error) => {
                    let (target, standby) = (&self.config.target, &kept.endpoint);
                    tracing::warn!(target, %standby, %error, "strangers at a standby are not ended");
                }
            }
        }
        Ok(ended)
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}
