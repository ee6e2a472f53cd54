//! A connection that is opened early and kept, for one caller at a time.

use core::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::session::{Session, on_repeatable};
use super::{PostgresConfig, REVOKE_LOCK_TIMEOUT, inspect, revoke};
use crate::connection::{is_settled, on};
use crate::{Endpoint, EngineError, Fault, Ghost, Principal, Seen};

/// How long a look waits for a standby to replay what the server had committed when the look began.
const CATCH_UP: Duration = Duration::from_secs(2);
/// A standby that kept somebody waiting for so long and then gave no answer is not asked by everybody behind him.
const SILENT: Duration = Duration::from_millis(500);
/// For how long it is not.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The connection that ends principals at one endpoint.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) endpoint: Endpoint,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    session: Option<Session>,
    /// When the endpoint last kept somebody waiting for nothing, and what he was told.
    silent: Option<(Instant, String)>,
}

impl Slot {
    fn note<T>(&mut self, since: Instant, result: &Result<T, EngineError>) {
        if let Err(EngineError::Unavailable { reason }) = result
            && since.elapsed() >= SILENT
        {
            self.silent = Some((Instant::now(), reason.clone()));
        }
    }
}

/// The connection, taken out of its slot. Whoever drops it instead of giving it back closes it, so that a transaction left
/// open half-way rolls back and is not met by the next caller.
pub(super) struct Taken<'a> {
    slot: MutexGuard<'a, Slot>,
    pub(super) session: Session,
    since: Instant,
}

impl Kept {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, slot: Mutex::default() }
    }

    pub(super) async fn take(&self, config: &PostgresConfig) -> Result<Taken<'_>, EngineError> {
        self.open(config, self.slot.lock().await).await
    }

    async fn open<'a>(
        &self,
        config: &PostgresConfig,
        mut slot: MutexGuard<'a, Slot>,
    ) -> Result<Taken<'a>, EngineError> {
        let since = Instant::now();
        let session = match slot.session.take() {
            Some(session) if !session.is_closed() => session,
            _ => {
                let lock_timeout = REVOKE_LOCK_TIMEOUT.as_millis();
                let opened = Session::open(config, &self.endpoint, &config.dbname, lock_timeout).await;
                slot.note(since, &opened);
                opened?
            }
        };
        Ok(Taken { slot, session, since })
    }

    /// Opens it, if it is not open.
    pub(super) async fn warm(&self, config: &PostgresConfig) -> Result<(), EngineError> {
        self.take(config).await?.settle(Ok(()))
    }
}

impl Taken<'_> {
    /// Gives the connection back, unless it broke or its state is not known.
    pub(super) fn settle<T>(mut self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        self.slot.note(self.since, &result);
        if is_settled(&result) && !self.session.is_closed() {
            self.slot.session = Some(self.session);
        }
        result
    }
}

/// What is done at hot standbys: sessions live there too, and logins are let in by accounts as they were when the standby
/// last replayed something.
impl Kept {
    /// The connection, unless the standby gave no answer a moment ago: the thousands that are to end at the server must not
    /// wait for it one by one.
    async fn reach(&self, config: &PostgresConfig) -> Result<Taken<'_>, EngineError> {
        let slot = self.slot.lock().await;
        if let Some((at, reason)) = &slot.silent
            && at.elapsed() < ASK_AGAIN
        {
            return Err(EngineError::Unavailable { reason: reason.clone() });
        }
        self.open(config, slot).await
    }

    /// See [`Kept::warm`].
    pub(super) async fn warm_there(&self, config: &PostgresConfig) -> Result<(), Fault> {
        let work = async { self.reach(config).await?.settle(Ok(())) };
        work.await.map_err(|e| self.fault(e.to_string()))
    }

    /// See [`revoke::kill`].
    pub(super) async fn kill(&self, config: &PostgresConfig, principals: &[Principal]) -> Result<usize, Fault> {
        let work = async { on!(self.reach(config).await?, config.answer_timeout(), |s| revoke::kill(s, principals)) };
        work.await.map_err(|e| self.fault(e.to_string()))
    }

    /// What this standby shows, and why it proves nothing yet, if so.
    pub(super) async fn look(
        &self,
        config: &PostgresConfig,
        principals: &[Principal],
        upto: &inspect::Position,
    ) -> Result<(Vec<Seen>, Option<Fault>), Fault> {
        let work = async {
            on!(self.reach(config).await?, config.answer_timeout(), |s| async {
                // In this order: what is replayed after the accounts were read was not looked at.
                let behind = behind(s, upto).await?;
                Ok((inspect::look(s, &self.endpoint, principals).await?, behind))
            })
        };
        let (seen, behind) = work.await.map_err(|e| self.fault(e.to_string()))?;
        Ok((seen, behind.map(|reason| self.fault(reason))))
    }

    /// See [`crate::Engine::ghosts`].
    pub(super) async fn ghosts(&self, config: &PostgresConfig) -> Result<Vec<Ghost>, Fault> {
        let work =
            async { on!(self.reach(config).await?, config.answer_timeout(), |s| inspect::ghosts(s, &self.endpoint)) };
        work.await.map_err(|e| self.fault(e.to_string()))
    }

    fn fault(&self, reason: String) -> Fault {
        Fault { name: self.endpoint.to_string(), reason }
    }
}

/// Waits until the standby has replayed the log up to there; why it has not, after a while.
async fn behind(session: &Session, upto: &inspect::Position) -> Result<Option<String>, EngineError> {
    if session.system != upto.system {
        return Err(refused("it is no copy of the server: their system identifiers differ"));
    }
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    loop {
        let failed = |e: tokio_postgres::Error| on_repeatable(&e);
        let parameters = [(&upto.lsn as _, Type::TEXT), (&upto.timeline as _, Type::INT4)];
        let row = session.client.query_typed_one(REPLAYED, &parameters).await.map_err(failed)?;
        if !row.try_get::<_, bool>(0).map_err(failed)? {
            return Err(refused("it is a standby no more: it was promoted"));
        }
        let why = match (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?) {
            (true, true) => return Ok(None),
            (false, true) => "it has not replayed what the server committed",
            (_, false) => "it follows another timeline than the server's",
        };
        if tokio::time::Instant::now() >= deadline {
            let paused: bool = row.try_get(3).map_err(failed)?;
            return Ok(Some(if paused { format!("{why}: its replay is paused") } else { why.to_owned() }));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn refused(message: &str) -> EngineError {
    EngineError::Refused { code: "25006".to_owned(), message: message.to_owned() }
}

/// Without a stream, from an archive for example, the standby does not say which timeline it follows.
const REPLAYED: &str = "SELECT pg_is_in_recovery(),
    coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false),
    coalesce((SELECT received_tli FROM pg_stat_wal_receiver), $2) = $2,
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END";
