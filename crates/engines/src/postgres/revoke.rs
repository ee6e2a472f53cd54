//! Ending principals: refuse, commit, kill.

use core::time::Duration;
use std::collections::BTreeMap;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::inspect::columns;
use super::quote::{ident, idents};
use super::session::{Session, code, is_blocked, on_repeatable};
use super::{PostgresConfig, REVOKE_LOCK_TIMEOUT, prepared};
use crate::connection::within;
use crate::{EngineError, Principal, Refusal, Refused};

/// How many roles one statement drops. More saves nothing: 12 microseconds of CPU a role at 500 as at 1,000.
const BULK: usize = 500;
/// How often roles that are held by their own sessions are disabled, with a kill before each new try.
const TRIES: u32 = 4;
/// How long the first try waits for each: whoever holds its role must not keep those behind it waiting.
const FIRST_LOCK_TIMEOUT: Duration = Duration::from_millis(20);
/// How long all further tries of one call may take together. Who is not disabled by then is named as failed.
const FURTHER_TRIES: Duration = Duration::from_secs(5);

/// See [`crate::Engine::refuse`].
///
/// In bulk, and by halves where a bulk fails, so that one role that can't be dropped costs its neighbours a few
/// statements and not their end.
pub(super) async fn refuse(
    session: &mut Session,
    principals: &[Principal],
    config: &PostgresConfig,
) -> Result<Vec<Refused>, EngineError> {
    let limit = config.answer_timeout();
    let mut refused = Vec::with_capacity(principals.len());
    let mut in_use = Vec::new();
    let mut todo: Vec<&[Principal]> = principals.chunks(BULK).rev().collect();
    while let Some(part) = todo.pop() {
        let dropped = match (within(limit, drop_idle(session, part)).await, part) {
            (Ok(dropped), _) => dropped,
            (Err(error @ EngineError::Unavailable { .. }), _) => return Err(error),
            (Err(_), []) => continue,
            (Err(_), [one]) => vec![(within(limit, oid_of(session, &one.name)).await?, None)],
            (Err(_), many) => {
                let (left, right) = many.split_at(many.len() / 2);
                todo.push(right);
                todo.push(left);
                continue;
            }
        };
        for (principal, (oid, outcome)) in part.iter().zip(dropped) {
            if outcome.is_none() {
                in_use.push((refused.len(), principal));
            }
            let outcome = outcome.unwrap_or_else(held);
            refused.push(Refused { name: principal.name.clone(), oid, outcome });
        }
    }
    for (at, outcome) in disable(session, in_use, config).await? {
        if let Some(refused) = refused.get_mut(at) {
            refused.outcome = outcome;
        }
    }
    Ok(refused)
}

/// What is said of a role that could not be disabled in time.
fn held() -> Refusal {
    let (code, message) = ("55P03".to_owned(), "somebody else holds the role".to_owned());
    Refusal::Failed(EngineError::Busy { code, message })
}

/// Drops those that have no session, in one transaction; `None` as the outcome of the others. A role in use is not
/// dropped: what it does meanwhile would be nobody's.
async fn drop_idle(
    session: &mut Session,
    principals: &[Principal],
) -> Result<Vec<(Option<u32>, Option<Refusal>)>, EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let (names, _) = columns(principals);
    let transaction = session.client.transaction().await.map_err(failed)?;
    let rows = transaction.query_typed(STANDING, &[(&names, Type::TEXT_ARRAY)]).await.map_err(failed)?;
    let mut standing: BTreeMap<String, (u32, bool)> = BTreeMap::new();
    for row in &rows {
        let name = row.try_get(0).map_err(failed)?;
        standing.insert(name, (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?));
    }
    let idle = idents(standing.iter().filter(|(_, (_, in_use))| !in_use).map(|(name, _)| name.as_str()));
    if !idle.is_empty() {
        transaction.batch_execute(&format!("DROP ROLE {idle}")).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    let outcome = |p: &Principal| match standing.get(&p.name) {
        None => (None, Some(Refusal::Absent)),
        Some(&(oid, false)) => (Some(oid), Some(Refusal::Dropped)),
        Some(&(oid, true)) => (Some(oid), None),
    };
    Ok(principals.iter().map(outcome).collect())
}

const STANDING: &str =
    "SELECT rolname::text, oid, oid IN (SELECT usesysid FROM pg_stat_activity WHERE usesysid IS NOT NULL)
  FROM pg_roles WHERE rolname = ANY($1)";

pub(super) async fn oid_of(session: &Session, name: &str) -> Result<Option<u32>, EngineError> {
    let sql = "SELECT oid FROM pg_roles WHERE rolname = $1";
    let row = session.client.query_typed_opt(sql, &[(&name, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    row.map(|row| row.try_get(0)).transpose().map_err(|e| on_repeatable(&e))
}

/// Login refused without a drop. A leased user can hold its own row with an open `ALTER ROLE`, or with one that it prepared
/// for a later commit; then its sessions and its prepared transactions end first.
/// All are tried once, quickly, before any is waited for.
async fn disable(
    session: &mut Session,
    in_use: Vec<(usize, &Principal)>,
    config: &PostgresConfig,
) -> Result<Vec<(usize, Refusal)>, EngineError> {
    let limit = config.answer_timeout();
    let (mut done, mut todo) = (Vec::with_capacity(in_use.len()), in_use);
    if todo.is_empty() {
        return Ok(done);
    }
    within(limit, set_lock_timeout(session, FIRST_LOCK_TIMEOUT)).await?;
    let (begun, mut disabled) = (Instant::now(), Vec::new());
    for attempt in 0..TRIES {
        let mut blocked = Vec::new();
        for (at, principal) in todo {
            if attempt > 0 && begun.elapsed() > FURTHER_TRIES {
                blocked.push((at, principal));
                continue;
            }
            match within(limit, disable_one(session, &principal.name)).await? {
                Some(Refusal::Disabled { .. }) => disabled.push((at, principal)),
                Some(outcome) => done.push((at, outcome)),
                None => blocked.push((at, principal)),
            }
        }
        todo = blocked;
        if attempt == 0 {
            within(limit, set_lock_timeout(session, REVOKE_LOCK_TIMEOUT)).await?;
        }
        if todo.is_empty() || begun.elapsed() > FURTHER_TRIES {
            break;
        }
        // A login that slips in between this and the next try's commit is the caller's to kill, and to see.
        let holders: Vec<Principal> = todo.iter().map(|(_, principal)| (*principal).clone()).collect();
        within(limit, kill(session, &holders)).await?;
        prepared::roll_back(session, config, &columns(&holders).0).await?;
        sleep(Duration::from_millis(50) * attempt).await;
    }
    done.extend(todo.into_iter().map(|(at, _)| (at, held())));
    for (at, principal) in disabled {
        let groups_left = within(limit, leave_groups(session, &principal.name)).await?;
        done.push((at, Refusal::Disabled { groups_left }));
    }
    Ok(done)
}

async fn set_lock_timeout(session: &Session, timeout: Duration) -> Result<(), EngineError> {
    let set = format!("SET lock_timeout = {}", timeout.as_millis());
    session.client.batch_execute(&set).await.map_err(|e| on_repeatable(&e))
}

/// One try; `None` when somebody holds the role.
async fn disable_one(session: &Session, name: &str) -> Result<Option<Refusal>, EngineError> {
    // By itself and first: the memberships may not be ours to revoke, and that must not keep the login open.
    let sql = format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", ident(name));
    match session.client.batch_execute(&sql).await {
        Ok(()) => Ok(Some(Refusal::Disabled { groups_left: Vec::new() })),
        Err(error) => match code(&error) {
            Some(code) if is_blocked(code) => Ok(None),
            Some("42704") => Ok(Some(Refusal::Absent)),
            Some(_) => Ok(Some(Refusal::Failed(on_repeatable(&error)))),
            None => Err(on_repeatable(&error)),
        },
    }
}

/// Takes all memberships away; returns those that stayed.
async fn leave_groups(session: &Session, name: &str) -> Result<Vec<String>, EngineError> {
    let rows = session.client.query_typed(GROUPS_OF, &[(&name, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    let mut left = Vec::new();
    for row in rows {
        let group: String = row.try_get(0).map_err(|e| on_repeatable(&e))?;
        let revoke = format!("REVOKE {} FROM {}", ident(&group), ident(name));
        match session.client.batch_execute(&revoke).await {
            Ok(()) => {}
            Err(error) if code(&error).is_some() => left.push(group),
            Err(error) => return Err(on_repeatable(&error)),
        }
    }
    Ok(left)
}

const GROUPS_OF: &str = "SELECT DISTINCT g.rolname::text FROM pg_auth_members m
    JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
  WHERE r.rolname = $1 ORDER BY 1";

/// See [`crate::Engine::kill`].
pub(super) async fn kill(session: &Session, principals: &[Principal]) -> Result<usize, EngineError> {
    let (names, oids) = columns(principals);
    let killed = session
        .client
        .query_typed_one(KILL, &[(&names, Type::TEXT_ARRAY), (&oids, Type::OID_ARRAY)])
        .await
        .and_then(|row| row.try_get::<_, i64>(0))
        .map_err(|e| on_repeatable(&e))?;
    Ok(usize::try_from(killed).unwrap_or(0))
}

/// By number: the sessions of a dropped role have no name. A number that now belongs to a role of another name is left
/// alone, since a restored server gives numbers anew; `look` reports it. Never our own.
const KILL: &str = "WITH asked AS (SELECT * FROM unnest($1, $2) AS t(name, oid)),
  ended AS (
    SELECT r.oid FROM asked a JOIN pg_roles r ON r.rolname = a.name
    UNION
    SELECT a.oid FROM asked a LEFT JOIN pg_roles h ON h.oid = a.oid AND h.rolname <> a.name
      WHERE h.oid IS NULL AND a.oid <> 0),
  sessions AS MATERIALIZED (
    SELECT s.pid FROM pg_stat_activity s JOIN ended e ON e.oid = s.usesysid
    WHERE s.usesysid <> (SELECT oid FROM pg_roles WHERE rolname = session_user))
  SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM sessions";

/// See [`super::Postgres::kill_older_terms`].
pub(super) async fn kill_older_terms(session: &Session, prefix: &str, term: u64) -> Result<usize, EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let rows = session.client.query_typed(OURS, &[(&prefix, Type::TEXT)]).await.map_err(failed)?;
    let mut older: Vec<i32> = Vec::new();
    for row in rows {
        let name: String = row.try_get(1).map_err(failed)?;
        if name.strip_prefix(prefix).and_then(|t| t.parse::<u64>().ok()).is_some_and(|t| t < term) {
            older.push(row.try_get(0).map_err(failed)?);
        }
    }
    let killed = session
        .client
        .query_typed_one(KILL_OURS, &[(&older, Type::INT4_ARRAY)])
        .await
        .and_then(|row| row.try_get::<_, i64>(0))
        .map_err(failed)?;
    Ok(usize::try_from(killed).unwrap_or(0))
}

const OURS: &str = "SELECT pid, application_name FROM pg_stat_activity
  WHERE usename = session_user AND pid <> pg_backend_pid() AND starts_with(application_name, $1)";
const KILL_OURS: &str = "WITH older AS MATERIALIZED (
    SELECT pid FROM pg_stat_activity WHERE pid = ANY($1) AND usename = session_user)
  SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM older";
