//! The executor's own password, and its own sessions.

use tokio_postgres::types::Type;

use super::issue::HAND_OVER;
use super::session::{Session, Unprinted, on_repeatable};
use crate::{Binding, EngineError};

/// See [`crate::Engine::set_password`].
pub(super) async fn set(session: &Session, verifier: &str) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    // As for a principal: the verifier is neither in the text of the statement nor in the driver's log.
    session.client.query_typed_one(HAND_OVER, &[(&Unprinted(verifier), Type::TEXT)]).await.map_err(failed)?;
    session.client.batch_execute(SET).await.map_err(failed)
}

/// Ends every session of our own role but these; how many were told to end.
///
/// An `application_name` is what its session says, so it is none that would keep one alive.
pub(super) async fn end_strangers(session: &Session, ours: &[Binding]) -> Result<usize, EngineError> {
    let (pids, starts): (Vec<i32>, Vec<i64>) = ours.iter().map(|b| (b.pid, b.backend_start_micros)).unzip();
    let killed = session
        .client
        .query_typed_one(END_STRANGERS, &[(&pids, Type::INT4_ARRAY), (&starts, Type::INT8_ARRAY)])
        .await
        .and_then(|row| row.try_get::<_, i64>(0))
        .map_err(|e| on_repeatable(&e))?;
    Ok(usize::try_from(killed).unwrap_or(0))
}

/// A parallel worker belongs to the session that it works for, and ends with it.
const END_STRANGERS: &str = "WITH strangers AS MATERIALIZED (
    SELECT a.pid FROM pg_stat_activity a
    WHERE a.usename = session_user AND a.pid <> pg_backend_pid() AND a.backend_type <> 'parallel worker'
      AND NOT EXISTS (SELECT FROM unnest($1, $2) AS ours(pid, start)
        WHERE ours.pid = a.pid AND ours.start = (extract(epoch FROM a.backend_start) * 1000000)::bigint))
  SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM strangers";

/// Any role may change its own password. Errors are raised anew, so that their context does not quote the inner statement.
const SET: &str = "DO $set$
BEGIN
  BEGIN
    EXECUTE pg_catalog.format('ALTER ROLE %I PASSWORD %L', session_user, pg_catalog.current_setting('quorate.verifier'));
  EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
  END;
END $set$";
