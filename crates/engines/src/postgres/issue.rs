//! Making a principal, and ending an intent to make one.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;

use super::quote::{ident, idents, literal};
use super::session::{Session, Unprinted, WRONG_BACKEND, code, is_blocked, is_duplicate, on_create, on_repeatable};
use crate::{Binding, Create, Created, EngineError, Fenced};

/// How often taking the name is tried before the caller is asked to come back.
const TAKES: usize = 3;
/// How often, and how far apart, a terminated backend is looked for.
const LOOKS: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether the connection still answers.
pub(super) async fn answers(session: &Session) -> Result<(), EngineError> {
    session.client.check_connection().await.map_err(|e| on_repeatable(&e))
}

/// See [`crate::Engine::create`].
pub(super) async fn create(session: &Session, create: &Create, limit: Duration) -> Result<Created, EngineError> {
    // The verifier travels as a parameter, so it is neither in the text of the statement nor in the driver's log. Until
    // the block below is sent nothing can have happened.
    let verifier = Unprinted(&create.verifier);
    match timeout(limit, session.client.query_typed_one(HAND_OVER, &[(&verifier, Type::TEXT)])).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if code(&error).is_some() => return Err(on_repeatable(&error)),
        Ok(Err(_)) | Err(_) => return Err(EngineError::StaleBinding),
    }
    let made = async {
        session.client.batch_execute(&create_statement(create)).await.map_err(|e| on_create(&e))?;
        let row = session.client.query_typed_one(OID_OF, &[(&create.name, Type::TEXT)]).await;
        // The create is committed, so whatever went wrong here, it is not "no effect".
        let oid = row.and_then(|row| row.try_get(0)).map_err(|_| unknown("its number could not be read"))?;
        Ok(Created::by_client(oid))
    };
    timeout(limit, made).await.unwrap_or_else(|_| Err(unknown("no answer in time")))
}

fn unknown(reason: &str) -> EngineError {
    EngineError::Unknown { reason: reason.to_owned() }
}

pub(super) const HAND_OVER: &str = "SELECT set_config('quorate.verifier', $1, false) IS NULL";
const OID_OF: &str = "SELECT oid FROM pg_roles WHERE rolname = $1";

/// One statement, and so one transaction.
///
/// It is a block because `VALID UNTIL` takes a literal only, and the literal has to come from the target's clock; and
/// because the block can see for itself which backend runs it. Errors are raised anew, so that their context does not quote
/// the inner statement in the server's log.
fn create_statement(create: &Create) -> String {
    let template =
        format!("CREATE ROLE %I LOGIN PASSWORD %L VALID UNTIL %L CONNECTION LIMIT {}", create.connection_limit);
    let name = literal(&create.name);
    let memberships: String = create
        .groups
        .iter()
        .map(|g| format!("    EXECUTE pg_catalog.format('GRANT %I TO %I', {}, {name}) || as_itself;\n", literal(g)))
        .collect();
    let statements: String = create
        .statements
        .iter()
        .map(|statement| {
            let (format, is_membership) = statement.format(&create.name);
            let suffix = if is_membership { " || as_itself" } else { "" };
            format!("    EXECUTE pg_catalog.format({}, expires){suffix};\n", literal(&format))
        })
        .collect();
    let body = format!(
        "DECLARE
  as_itself text := '';
  until timestamptz := pg_catalog.now() + pg_catalog.make_interval(secs => {ttl});
  expires text := pg_catalog.to_char(until AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"');
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
      WHERE a.pid = {pid} AND (extract(epoch FROM a.backend_start) * 1000000)::bigint = {start}) THEN
    RAISE EXCEPTION USING ERRCODE = '{WRONG_BACKEND}', MESSAGE = 'not the bound connection';
  END IF;
  IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
    as_itself := ' WITH INHERIT TRUE, SET FALSE';
  END IF;
  BEGIN
    EXECUTE pg_catalog.format({template}, {name}, pg_catalog.current_setting('quorate.verifier'), until);
{memberships}{statements}  EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
  END;
END",
        pid = create.binding.pid,
        start = create.binding.backend_start_micros,
        template = literal(&template),
        ttl = create.max_ttl_seconds,
    );
    format!("DO {}", literal(&body))
}

/// See [`crate::Engine::fence_all`].
///
/// Two fences, because each has a hole that the other closes. The name: our `CREATE ROLE` waits for one that is open, and
/// makes a later one fail, but only for as long as we hold it. The connection: once its backend is gone, nothing that was
/// bound to it can arrive any more; so the name is given up only after that.
///
/// All take each step together: no statement waits for the answer of another name's, and a connection to which many were bound is
/// ended once.
pub(super) async fn fence_all(
    session: &Session,
    intents: &[(&str, Binding)],
) -> Result<Vec<Result<Fenced, EngineError>>, EngineError> {
    let mut open: BTreeMap<&str, Binding> = intents.iter().copied().collect();
    let mut found: BTreeMap<&str, Result<Fenced, EngineError>> = BTreeMap::new();
    for _ in 0..TAKES {
        let names: Vec<&str> = open.keys().copied().collect();
        let (mut marked, mut standing_already) = (Vec::new(), Vec::new());
        for (name, taken) in names.iter().zip(join_all(names.iter().map(|name| take(session, name))).await) {
            match one(taken)? {
                Ok(Taken::Now) => marked.push(*name),
                Ok(Taken::Exists) => standing_already.push(*name),
                Ok(Taken::Blocked) => {}
                Err(error) => drop((open.remove(name), found.insert(name, Err(error)))),
            }
        }
        // In each case: a name that exists may be a marker which an earlier fence left before it came this far, and a
        // name that can't be taken may be held by the very create that is to be ended.
        let bound: BTreeSet<Binding> = open.values().copied().collect();
        for (binding, ended) in bound.iter().zip(join_all(bound.iter().map(|bound| end_backend(session, bound))).await)
        {
            if let Err(error) = one(ended)? {
                found.extend(open.iter().filter(|(_, of)| *of == binding).map(|(name, _)| (*name, Err(error.clone()))));
                open.retain(|_, of| of != binding);
            }
        }
        marked.retain(|name| open.contains_key(name));
        standing_already.retain(|name| open.contains_key(name));
        for (name, (oid, is_marker)) in standing(session, &standing_already).await? {
            match standing_already.iter().find(|of| **of == name) {
                Some(name) if is_marker => marked.push(name),
                Some(name) => drop((open.remove(name), found.insert(name, Ok(Fenced::Won { oid })))),
                None => {}
            }
        }
        for (name, dropped) in marked.iter().zip(drop_markers(session, &marked).await?) {
            open.remove(name);
            found.insert(name, dropped.map(|()| Fenced::Absent));
        }
        if open.is_empty() {
            break;
        }
    }
    let busy = || EngineError::Busy { code: "55P03".to_owned(), message: "the name could not be taken".to_owned() };
    Ok(intents.iter().map(|(name, _)| found.get(name).cloned().unwrap_or_else(|| Err(busy()))).collect())
}

/// What is known of one of many: an error that is about the connection is about all of them.
fn one<T>(result: Result<T, EngineError>) -> Result<Result<T, EngineError>, EngineError> {
    match result {
        Err(error @ EngineError::Unavailable { .. }) => Err(error),
        result => Ok(result),
    }
}

pub(super) enum Taken {
    Now,
    Exists,
    Blocked,
}

/// Takes the name. No principal of ours has a connection limit of 0, so that is how a marker is known.
pub(super) async fn take(session: &Session, name: &str) -> Result<Taken, EngineError> {
    let marker = format!("CREATE ROLE {} NOLOGIN CONNECTION LIMIT 0", ident(name));
    match session.client.batch_execute(&marker).await {
        Ok(()) => Ok(Taken::Now),
        Err(error) => match code(&error) {
            Some(code) if is_duplicate(code) => Ok(Taken::Exists),
            Some(code) if is_blocked(code) => Ok(Taken::Blocked),
            _ => Err(on_repeatable(&error)),
        },
    }
}

/// Of each role that exists its number, and whether it is a marker.
pub(super) async fn standing(session: &Session, names: &[&str]) -> Result<BTreeMap<String, (u32, bool)>, EngineError> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sql = "SELECT rolname::text, oid, NOT rolcanlogin AND rolconnlimit = 0 FROM pg_roles WHERE rolname = ANY($1)";
    let rows = session.client.query_typed(sql, &[(&names, Type::TEXT_ARRAY)]).await.map_err(|e| on_repeatable(&e))?;
    let rows = rows.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?))));
    rows.collect::<Result<_, _>>().map_err(|e| on_repeatable(&e))
}

/// With one statement, or with one for each when one of them can't be dropped.
pub(super) async fn drop_markers(
    session: &Session,
    names: &[&str],
) -> Result<Vec<Result<(), EngineError>>, EngineError> {
    let drop = async |names: &[&str]| {
        let drop = format!("DROP ROLE IF EXISTS {}", idents(names.iter().copied()));
        one(session.client.batch_execute(&drop).await.map_err(|e| on_repeatable(&e)))
    };
    let mut dropped = Vec::with_capacity(names.len());
    if names.is_empty() || drop(names).await?.is_ok() {
        dropped.resize(names.len(), Ok(()));
        return Ok(dropped);
    }
    for name in names {
        dropped.push(drop(&[name]).await?);
    }
    Ok(dropped)
}

/// Terminates exactly that backend and waits until it is gone. A backend leaves the list only after it has rolled back.
async fn end_backend(session: &Session, binding: &Binding) -> Result<(), EngineError> {
    for _ in 0..LOOKS {
        let row = session
            .client
            .query_typed_one(END_BACKEND, &[(&binding.pid, Type::INT4), (&binding.backend_start_micros, Type::INT8)])
            .await
            .map_err(|e| on_repeatable(&e))?;
        if row.try_get::<_, i64>(0).map_err(|e| on_repeatable(&e))? == 0 {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Err(EngineError::Busy { code: "55006".to_owned(), message: "the bound connection does not end".to_owned() })
}

/// Only our own role's backends: a binding never names another's.
const END_BACKEND: &str = "WITH bound AS MATERIALIZED (
    SELECT pid FROM pg_stat_activity
    WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2 AND usename = session_user)
  SELECT count(pg_terminate_backend(pid)) FROM bound";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_leaves_its_quotes() {
        let create = Create {
            name: "q_1".into(),
            verifier: "canary".into(),
            statements: vec![],
            groups: vec!["a'b\"c\\d %s; DROP ROLE e; --".into(), "$$".into()],
            connection_limit: 3,
            max_ttl_seconds: 60,
            binding: Binding { pid: 7, backend_start_micros: 9 },
        };
        let sql = create_statement(&create);
        assert!(!sql.contains("canary"), "the verifier is no part of the statement");
        assert_eq!(sql.matches("%I").count(), 5);
        // Literal in a literal: each quote is doubled twice, each backslash too.
        assert!(sql.contains(r#"E''a''''b"c\\\\d %s; DROP ROLE e; --''"#), "{sql}");
    }
}
