//! Cleaning up after principals that have ended.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::quote::ident;
use super::revoke::oid_of;
use super::session::{Session, on_repeatable};
use super::{OwnedObjects, PostgresConfig, REVOKE_LOCK_TIMEOUT, prepared};
use crate::connection::within;
use crate::{Cleaned, Cleaning, EngineError, Principal};

/// What stands for objects of the whole server, as databases are.
const SHARED: &str = "(shared)";

/// See [`crate::Engine::clean`].
///
/// First here, then in one further database after the other, each on a connection of its own: a database's objects can be
/// given away only from within, and no more than one slot of the server is taken for it at a time.
pub(super) async fn clean(
    session: &mut Session,
    principals: &[Principal],
    config: &PostgresConfig,
) -> Result<Vec<Cleaned>, EngineError> {
    let limit = config.answer_timeout() * 2;
    let mut owners: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    for Principal { name, .. } in principals {
        let dependents = within(limit, dependents_of(session, name)).await?;
        if !dependents.is_empty() {
            owners.insert(name, dependents);
        }
    }
    let names: Vec<&str> = owners.keys().copied().collect();
    prepared::roll_back(session, config, &names).await?;
    for (name, databases) in &owners {
        if databases.iter().any(|d| *d == config.dbname || d == SHARED) {
            let given = within(limit, give_away(session, name, &config.owned)).await;
            if let Some(reason) = words(given)? {
                reasons.insert(name, format!("{}: {reason}", config.dbname));
            }
        }
    }
    for database in config.databases.iter().filter(|d| **d != config.dbname) {
        let theirs = owners.iter().filter(|(_, databases)| databases.contains(database)).map(|(name, _)| *name);
        for (name, reason) in clean_elsewhere(config, database, theirs.collect()).await {
            reasons.entry(name).or_insert(format!("{database}: {reason}"));
        }
    }
    let mut cleaned = Vec::with_capacity(principals.len());
    for Principal { name, .. } in principals {
        let outcome = within(limit, drop_role(session, name, reasons.remove(name.as_str()))).await?;
        cleaned.push(Cleaned { name: name.clone(), outcome });
    }
    Ok(cleaned)
}

/// Why each of these that could not be cleaned up after in that database was not.
async fn clean_elsewhere<'a>(config: &PostgresConfig, database: &str, names: Vec<&'a str>) -> Vec<(&'a str, String)> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut session = match Session::open(config, &config.endpoint(), database, REVOKE_LOCK_TIMEOUT.as_millis()).await {
        Ok(session) => session,
        Err(error) => return names.into_iter().map(|name| (name, error.to_string())).collect(),
    };
    let mut failed = Vec::new();
    for name in names {
        // Whatever is wrong there keeps nobody from being cleaned up after here.
        if let Err(error) = within(config.answer_timeout() * 2, give_away(&mut session, name, &config.owned)).await {
            failed.push((name, error.to_string()));
        }
    }
    failed
}

async fn drop_role(session: &Session, name: &str, mut reason: Option<String>) -> Result<Cleaning, EngineError> {
    let databases = dependents_of(session, name).await?;
    if databases.is_empty() {
        let drop = format!("DROP ROLE IF EXISTS {}", ident(name));
        match words(session.client.batch_execute(&drop).await.map_err(|e| on_repeatable(&e)))? {
            None => return Ok(Cleaning::Gone),
            why => reason = why,
        }
    }
    if reason.is_none() {
        reason = in_the_way(session, name).await?;
    }
    Ok(Cleaning::Left { databases, reason })
}

/// A refusal in words; a lost connection stays an error.
fn words(result: Result<(), EngineError>) -> Result<Option<String>, EngineError> {
    match result {
        Ok(()) => Ok(None),
        Err(EngineError::Refused { message, .. } | EngineError::Busy { message, .. }) => Ok(Some(message)),
        Err(error) => Err(error),
    }
}

/// What it owns in this database is reassigned or dropped, without `CASCADE`: what others built on it stays, and blocks.
async fn give_away(session: &mut Session, name: &str, owned: &OwnedObjects) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let role = ident(name);
    let reassign = match owned {
        OwnedObjects::Drop => String::new(),
        OwnedObjects::ReassignTo(owner) => format!("REASSIGN OWNED BY {role} TO {};", ident(owner)),
    };
    let transaction = session.client.transaction().await.map_err(failed)?;
    // Only a member may give a role's things away; the membership ends with the transaction.
    let sql = format!("GRANT {role} TO SESSION_USER; {reassign} DROP OWNED BY {role}; REVOKE {role} FROM SESSION_USER");
    transaction.batch_execute(&sql).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// What in this database still depends on a role whose own things are gone: what others granted to it, which only they
/// can take back.
async fn in_the_way(session: &Session, name: &str) -> Result<Option<String>, EngineError> {
    let rows = session.client.query_typed(IN_THE_WAY, &[(&name, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    let objects: Vec<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(|e| on_repeatable(&e))?;
    Ok((!objects.is_empty()).then(|| format!("others have to take back what they granted it: {}", objects.join(", "))))
}

const IN_THE_WAY: &str = "SELECT pg_describe_object(s.classid, s.objid, s.objsubid) FROM pg_shdepend s
    JOIN pg_roles r ON r.oid = s.refobjid AND s.refclassid = 'pg_authid'::regclass
    JOIN pg_database d ON d.oid = s.dbid
  WHERE r.rolname = $1 AND d.datname = current_database() ORDER BY 1 LIMIT 5";

/// The databases in which something depends on the role of that name; memberships don't count, they go with it.
async fn dependents_of(session: &Session, name: &str) -> Result<Vec<String>, EngineError> {
    let Some(oid) = oid_of(session, name).await? else { return Ok(Vec::new()) };
    let rows = session.client.query_typed(DEPENDENTS, &[(&oid, Type::OID)]).await.map_err(|e| on_repeatable(&e))?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(|e| on_repeatable(&e))
}

const DEPENDENTS: &str = "SELECT DISTINCT coalesce(d.datname::text, '(shared)') FROM pg_shdepend s
    LEFT JOIN pg_database d ON d.oid = s.dbid
  WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND s.classid <> 'pg_auth_members'::regclass
  ORDER BY 1";
