//! What the server shows: nothing here changes anything.

use core::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::session::{Session, on_repeatable};
use crate::{Endpoint, EngineError, Fault, Ghost, Principal, Seen, valid_name};

/// How long a look waits for logins that were let in to show whose they are: any takes milliseconds.
const SHOWN: Duration = Duration::from_secs(1);

/// How far the server's log had come.
pub(super) struct Position {
    pub(super) system: i64,
    /// As PostgreSQL writes it, for example `0/16B3748`.
    pub(super) lsn: String,
    pub(super) timeline: i32,
}

impl Position {
    /// Up to here the log holds whatever the server had confirmed before this was asked.
    pub(super) async fn of(session: &Session) -> Result<Self, EngineError> {
        let failed = |e: tokio_postgres::Error| on_repeatable(&e);
        let row = session.client.query_typed_one(POSITION, &[]).await.map_err(failed)?;
        match (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?) {
            (Some(lsn), Some(timeline)) => Ok(Self { system: session.system, lsn, timeline }),
            // Whatever is refused or absent here says nothing of the server that this one follows.
            _ => Err(EngineError::Refused { code: "25006".to_owned(), message: "the server is a standby".to_owned() }),
        }
    }

    pub(super) fn timeline(&self) -> u32 {
        u32::try_from(self.timeline).unwrap_or(0)
    }
}

/// The timeline of the log that is being written; the one of the last checkpoint is the old one for a while after a fail-over.
const POSITION: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END,
    CASE WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END";

/// See [`crate::Engine::look`]; at one endpoint. One statement, in a transaction of its own: inside one, `pg_stat_activity` is a snapshot
/// that does not change.
pub(super) async fn look(
    session: &Session,
    endpoint: &Endpoint,
    principals: &[Principal],
) -> Result<Vec<Seen>, EngineError> {
    // Before the sessions are read: whoever goes from one list to the other meanwhile is in the second.
    let hidden = hidden_logins(session).await?;
    let (names, oids) = columns(principals);
    let rows = session
        .client
        .query_typed(LOOK, &[(&names, Type::TEXT_ARRAY), (&oids, Type::OID_ARRAY)])
        .await
        .map_err(|e| on_repeatable(&e))?;
    let mut seen: Vec<Seen> = rows
        .iter()
        .map(|row| {
            let sighted: bool = row.try_get(5)?;
            let sessions: i64 = row.try_get(3)?;
            let can_login = row.try_get(2)?;
            let seen = Seen {
                name: row.try_get(0)?,
                oid: row.try_get(1)?,
                can_login,
                login_at: if can_login { vec![endpoint.to_string()] } else { Vec::new() },
                behind: Vec::new(),
                sessions: u64::try_from(sessions).unwrap_or(u64::MAX),
                held_by: row.try_get(4)?,
            };
            Ok(sighted.then_some(seen))
        })
        .collect::<Result<Option<Vec<_>>, tokio_postgres::Error>>()
        .map_err(|e| on_repeatable(&e))?
        // Without the right to see, "no session" would be a lie.
        .ok_or_else(|| EngineError::Refused {
            code: "42501".to_owned(),
            message: "pg_read_all_stats is needed to see sessions".to_owned(),
        })?;
    if hidden {
        let reason = "a login that was let in waits there, and whose it is can't be seen yet".to_owned();
        let behind = Fault { name: endpoint.to_string(), reason };
        seen.iter_mut().for_each(|seen| seen.doubt(&behind));
    }
    Ok(seen)
}

const LOOK: &str = "SELECT p.name, r.oid, coalesce(r.rolcanlogin, false),
    (SELECT count(*) FROM pg_stat_activity a
       WHERE a.usesysid = r.oid OR (a.usesysid = p.oid AND h.oid IS NULL)),
    h.rolname::text, pg_has_role('pg_read_all_stats', 'USAGE')
  FROM unnest($1, $2) WITH ORDINALITY AS p(name, oid, nr)
  LEFT JOIN pg_roles r ON r.rolname = p.name
  LEFT JOIN pg_roles h ON h.oid = p.oid AND h.rolname <> p.name
  ORDER BY p.nr";

/// Whether a login that was let in stays where the server does not show whose it is. Its account is not asked about again, so it can
/// become a session of an account that is refused since. It waits there for as long as somebody holds its database, or as long as
/// its client has said (`post_auth_delay`). Those that come while this waits were asked about their account later.
async fn hidden_logins(session: &Session) -> Result<bool, EngineError> {
    let mut first: Option<Vec<i32>> = None;
    let begun = Instant::now();
    loop {
        let failed = |e: tokio_postgres::Error| on_repeatable(&e);
        let now: Vec<i32> =
            session.client.query_typed_one(HIDDEN, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
        let first = first.get_or_insert_with(|| now.clone());
        first.retain(|pid| now.contains(pid));
        if first.is_empty() || begun.elapsed() > SHOWN {
            return Ok(!first.is_empty());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// From the moment its account was found to be good, a login has or awaits a lock on its database. One that has not proved its password
/// yet has none.
const HIDDEN: &str = "SELECT coalesce(array_agg(DISTINCT l.pid), '{}')
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.pid IS NOT NULL AND (NOT l.granted OR l.classid = 'pg_database'::regclass)
    AND (a.pid IS NULL OR (a.usesysid IS NULL AND a.backend_type = 'client backend'))";

/// Names and numbers side by side; 0 is the number that no role has.
pub(super) fn columns(principals: &[Principal]) -> (Vec<&str>, Vec<u32>) {
    principals.iter().map(|p| (p.name.as_str(), p.oid.unwrap_or(0))).unzip()
}

/// See [`crate::Engine::list`].
pub(super) async fn list(session: &Session, prefix: &str) -> Result<Vec<Principal>, EngineError> {
    let sql = "SELECT rolname::text, oid FROM pg_roles WHERE starts_with(rolname::text, $1) ORDER BY rolname";
    let rows = session.client.query_typed(sql, &[(&prefix, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    let principals = rows
        .iter()
        .map(|row| Ok(Principal { name: row.try_get(0)?, oid: Some(row.try_get(1)?) }))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e: tokio_postgres::Error| on_repeatable(&e))?;
    // A name that only begins like one of ours is somebody else's.
    Ok(principals.into_iter().filter(|p| p.name.starts_with(prefix) && valid_name(&p.name)).collect())
}

/// See [`crate::Engine::ghosts`].
pub(super) async fn ghosts(session: &Session, endpoint: &Endpoint) -> Result<Vec<Ghost>, EngineError> {
    let sql = "SELECT pid, usesysid FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND usesysid NOT IN (SELECT oid FROM pg_roles) ORDER BY pid";
    let rows = session.client.query_typed(sql, &[]).await.map_err(|e| on_repeatable(&e))?;
    rows.iter()
        .map(|row| Ok(Ghost { endpoint: endpoint.to_string(), pid: row.try_get(0)?, oid: row.try_get(1)? }))
        .collect::<Result<_, _>>()
        .map_err(|e: tokio_postgres::Error| on_repeatable(&e))
}
