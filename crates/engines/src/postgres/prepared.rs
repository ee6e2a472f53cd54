//! Transactions that a leased user prepared for a later commit, where the server allows it (`max_prepared_transactions`).
//!
//! They hold their locks without a session that could be ended: one that altered its own role keeps the role from being
//! disabled for ever.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::quote::{ident, literal};
use super::session::{Session, on_repeatable};
use super::{PostgresConfig, REVOKE_LOCK_TIMEOUT};
use crate::EngineError;
use crate::connection::within;

/// Rolls back what these left prepared, as far as that can be done; the caller sees what is still in its way.
pub(super) async fn roll_back(session: &Session, config: &PostgresConfig, names: &[&str]) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    // Ends wait for this, and a server that falls silent ends no statement, whatever limit it was told.
    let asked = async { session.client.query_typed(PREPARED, &[(&names, Type::TEXT_ARRAY)]).await.map_err(failed) };
    let rows = within(config.answer_timeout(), asked).await?;
    let mut by_database: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for row in rows {
        let prepared = (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        by_database.entry(row.try_get(0).map_err(failed)?).or_default().push(prepared);
    }
    for (database, prepared) in by_database {
        if let Err(error) = roll_back_in(config, &database, &prepared).await {
            tracing::warn!(target = config.target, database, %error, "a prepared transaction of an ended lease stays");
        }
    }
    Ok(())
}

/// Only their owner may end them, and only in the database they were made in: on a connection of its own, which is closed
/// with whatever it has become.
async fn roll_back_in(
    config: &PostgresConfig,
    database: &str,
    prepared: &[(String, String)],
) -> Result<(), EngineError> {
    let session = Session::open(config, &config.endpoint(), database, REVOKE_LOCK_TIMEOUT.as_millis()).await?;
    for (owner, gid) in prepared {
        let (owner, gid) = (ident(owner), literal(gid));
        let statements = [
            format!("GRANT {owner} TO SESSION_USER"),
            format!("SET ROLE {owner}"),
            format!("ROLLBACK PREPARED {gid}"),
            "RESET ROLE".to_owned(),
            format!("REVOKE {owner} FROM SESSION_USER"),
        ];
        for statement in statements {
            let work = async { session.client.batch_execute(&statement).await.map_err(|e| on_repeatable(&e)) };
            within(config.answer_timeout(), work).await?;
        }
    }
    Ok(())
}

const PREPARED: &str = "SELECT p.database::text, p.owner::text, p.gid FROM pg_prepared_xacts p
  WHERE p.owner = ANY($1::name[]) AND p.database IS NOT NULL ORDER BY 1, 2, 3";
