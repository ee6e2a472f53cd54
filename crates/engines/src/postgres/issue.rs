//! Making a principal, and ending an intent to make one.

use core::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;

use super::quote::{ident, literal};
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

/// See [`crate::Engine::fence`].
///
/// Two fences, because each has a hole that the other closes. The name: our `CREATE ROLE` waits for one that is open, and
/// makes a later one fail, but only for as long as we hold it. The connection: once its backend is gone, nothing that was
/// bound to it can arrive any more; so the name is given up only after that.
pub(super) async fn fence(session: &Session, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
    for _ in 0..TAKES {
        let taken = take(session, name).await?;
        // In each case: a name that exists may be a marker which an earlier fence left before it came this far, and a
        // name that can't be taken may be held by the very create that is to be ended.
        end_backend(session, binding).await?;
        match taken {
            Taken::Now => {
                drop_marker(session, name).await?;
                return Ok(Fenced::Absent);
            }
            Taken::Exists => match standing(session, name).await? {
                Some((oid, false)) => return Ok(Fenced::Won { oid }),
                Some((_, true)) => {
                    drop_marker(session, name).await?;
                    return Ok(Fenced::Absent);
                }
                None => {}
            },
            Taken::Blocked => {}
        }
    }
    Err(EngineError::Busy { code: "55P03".to_owned(), message: "the name could not be taken".to_owned() })
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

/// The number of the role and whether it is a marker.
pub(super) async fn standing(session: &Session, name: &str) -> Result<Option<(u32, bool)>, EngineError> {
    let sql = "SELECT oid, NOT rolcanlogin AND rolconnlimit = 0 FROM pg_roles WHERE rolname = $1";
    let row = session.client.query_typed_opt(sql, &[(&name, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose().map_err(|e| on_repeatable(&e))
}

pub(super) async fn drop_marker(session: &Session, name: &str) -> Result<(), EngineError> {
    let drop = format!("DROP ROLE IF EXISTS {}", ident(name));
    session.client.batch_execute(&drop).await.map_err(|e| on_repeatable(&e))
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
