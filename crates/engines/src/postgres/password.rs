//! The executor's own password.

use tokio_postgres::types::Type;

use super::issue::HAND_OVER;
use super::session::{Session, Unprinted, on_repeatable};
use crate::EngineError;

/// See [`crate::Engine::set_password`].
pub(super) async fn set(session: &Session, verifier: &str) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    // As for a principal: the verifier is neither in the text of the statement nor in the driver's log.
    session.client.query_typed_one(HAND_OVER, &[(&Unprinted(verifier), Type::TEXT)]).await.map_err(failed)?;
    session.client.batch_execute(SET).await.map_err(failed)
}

/// Any role may change its own password. Errors are raised anew, so that their context does not quote the inner statement.
const SET: &str = "DO $set$
BEGIN
  BEGIN
    EXECUTE pg_catalog.format('ALTER ROLE %I PASSWORD %L', session_user, pg_catalog.current_setting('quorate.verifier'));
  EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
  END;
END $set$";
