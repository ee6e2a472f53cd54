//! PostgreSQL 13 to 18.
//!
//! Two connections. One makes principals, and is the one that bindings name: it is opened by [`Engine::bind`] alone, and
//! nothing is ever sent again on another in its place. The other ends principals, and is opened early and kept, because a
//! leased user can take every free slot of the server.
//!
//! Both say in `application_name` for which target and which term of the executor they work, so that the next executor can
//! end those of the one before ([`Postgres::kill_older_terms`]).
//!
//! # Security
//! The administrative role needs `CREATEROLE`, `pg_read_all_stats` and `pg_signal_backend`, and nothing else; it must not
//! be a superuser. The driver keeps a copy of its password for as long as a connection is being made, and does not wipe
//! it.

mod inspect;
mod issue;
mod quote;
mod revoke;
mod session;
mod tls;

use core::time::Duration;

use async_trait::async_trait;
use quorate_crypto::secret::SecretVec;
use tokio::sync::{Mutex, MutexGuard};

use self::session::{Session, within};
pub use self::tls::Trust;
use crate::engine::{MAX_NAME, check_name, check_names};
use crate::{
    Binding, Checked, Class, Cleaned, Create, Created, Engine, EngineError, Fenced, Ghost, Principal, Refused, Seen,
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
    /// The database to connect to. What principals own in others is listed by `clean`, not removed.
    pub dbname: String,
    /// The administrative role.
    pub user: String,
    /// Its password.
    pub password: SecretVec,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// Names the target in `application_name`: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target.
    pub term: u64,
    /// What becomes of what a principal owned.
    pub owned: OwnedObjects,
    /// For a connection, from the name look-up to the first answer.
    pub connect_timeout: Duration,
    /// How long one statement may take in the server. Without an answer for 5 s longer than this, the connection is
    /// given up.
    pub statement_timeout: Duration,
    /// How long a create waits for a lock.
    pub create_lock_timeout: Duration,
}

/// Encryption of the connection to a target.
#[derive(Clone, Debug)]
pub enum Tls {
    /// None: for a server on the same host, and for nothing else.
    Disabled,
    /// TLS 1.2 or 1.3 with a server whose certificate is verified.
    Verified(Trust),
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

    fn answer_timeout(&self) -> Duration {
        self.statement_timeout + Duration::from_secs(5)
    }
}

/// The executor's hold on one PostgreSQL server. Connects when first asked for something.
#[derive(Debug)]
pub struct Postgres {
    config: PostgresConfig,
    creates: Mutex<Option<Session>>,
    revocation: Mutex<Option<Session>>,
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
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if !(1..=32).contains(&config.target.len()) || !config.target.bytes().all(plain) {
            return Err(EngineError::Invalid { field: "target", reason: "not 1 to 32 of a-z, 0-9, _ and -" });
        }
        if let OwnedObjects::ReassignTo(role) = &config.owned
            && (role.is_empty() || role.len() > MAX_NAME || role.contains('\0'))
        {
            return Err(EngineError::Invalid { field: "owned", reason: "not the name of a role" });
        }
        Ok(Self { config, creates: Mutex::new(None), revocation: Mutex::new(None) })
    }

    /// Opens the connection that ends principals, if it is not open. Call it as soon as the target is ours: later there
    /// may be no free slot.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`], or [`EngineError::Refused`] when the server does not let us in.
    pub async fn warm(&self) -> Result<(), EngineError> {
        let (mut slot, session) = self.revocation().await?;
        *slot = Some(session);
        Ok(())
    }

    /// Ends the sessions which executors of earlier terms left at this target; how many were told to end.
    ///
    /// `application_name` can be forged by anyone, so it counts only together with our own role.
    ///
    /// # Errors
    /// As [`Engine::kill`].
    pub async fn kill_older_terms(&self) -> Result<usize, EngineError> {
        let (slot, session) = self.revocation().await?;
        let prefix = self.config.application_prefix();
        let result =
            within(self.config.answer_timeout(), revoke::kill_older_terms(&session, &prefix, self.config.term)).await;
        Self::settle(slot, session, result)
    }

    /// The revocation connection, taken out of its slot. Whoever drops it instead of giving it back closes it, so that a
    /// transaction left open half-way rolls back and is not met by the next caller.
    async fn revocation(&self) -> Result<(MutexGuard<'_, Option<Session>>, Session), EngineError> {
        let mut slot = self.revocation.lock().await;
        let session = match slot.take() {
            Some(session) if !session.is_closed() => session,
            _ => Session::open(&self.config, REVOKE_LOCK_TIMEOUT.as_millis()).await?,
        };
        Ok((slot, session))
    }

    /// Principals only: nothing here may be turned against the executor's own role or the heir of what principals leave.
    fn check_theirs(&self, principals: &[Principal]) -> Result<(), EngineError> {
        check_names(principals)?;
        let is_ours = |name: &str| {
            name == self.config.user || matches!(&self.config.owned, OwnedObjects::ReassignTo(owner) if owner == name)
        };
        if principals.iter().any(|p| is_ours(&p.name)) {
            return Err(EngineError::Invalid { field: "name", reason: "a role of the executor's own" });
        }
        Ok(())
    }

    fn settle<T>(
        mut slot: MutexGuard<'_, Option<Session>>,
        session: Session,
        result: Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        if !session.is_closed() && !matches!(result, Err(EngineError::Unavailable { .. })) {
            *slot = Some(session);
        }
        result
    }
}

#[async_trait]
impl Engine for Postgres {
    fn class(&self) -> Class {
        Class::Transactional
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
        let session = Session::open(&self.config, self.config.create_lock_timeout.as_millis()).await?;
        let binding = session.binding;
        *slot = Some(session);
        Ok(binding)
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        create.validate()?;
        let mut slot = self.creates.lock().await;
        let Some(session) = slot.as_ref().filter(|s| s.binding == create.binding && !s.is_closed()) else {
            return Err(EngineError::StaleBinding);
        };
        let result = issue::create(session, create, self.config.answer_timeout()).await;
        if matches!(result, Err(EngineError::Unknown { .. })) {
            // Nothing must follow on this connection; it may still be at work in the server.
            *slot = None;
        }
        result
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        check_name(name)?;
        let (slot, session) = self.revocation().await?;
        // Several waits for a lock, and for a backend to go.
        let limit = self.config.answer_timeout() * 2;
        let result = within(limit, issue::fence(&session, name, binding)).await;
        Self::settle(slot, session, result)
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        self.check_theirs(principals)?;
        let (slot, mut session) = self.revocation().await?;
        // No limit over the whole: every statement in it has one, and a bulk may take many.
        let result = revoke::refuse(&mut session, principals, self.config.answer_timeout()).await;
        Self::settle(slot, session, result)
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        self.check_theirs(principals)?;
        let (slot, session) = self.revocation().await?;
        let result = within(self.config.answer_timeout(), revoke::kill(&session, principals)).await;
        Self::settle(slot, session, result)
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        self.check_theirs(principals)?;
        let (slot, session) = self.revocation().await?;
        let result = within(self.config.answer_timeout(), inspect::look(&session, principals)).await;
        Self::settle(slot, session, result)
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        self.check_theirs(principals)?;
        let (slot, mut session) = self.revocation().await?;
        let result = revoke::clean(&mut session, principals, &self.config.owned, self.config.answer_timeout()).await;
        Self::settle(slot, session, result)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        let (slot, session) = self.revocation().await?;
        let result = within(self.config.answer_timeout(), inspect::list(&session, prefix)).await;
        Self::settle(slot, session, result)
    }

    async fn ghosts(&self) -> Result<Vec<Ghost>, EngineError> {
        let (slot, session) = self.revocation().await?;
        let result = within(self.config.answer_timeout(), inspect::ghosts(&session)).await;
        Self::settle(slot, session, result)
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        let (slot, session) = self.revocation().await?;
        let result = within(self.config.answer_timeout(), inspect::check(&session, &self.config, groups)).await;
        Self::settle(slot, session, result)
    }
}
