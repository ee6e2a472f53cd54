//! Cleaning up after principals that have ended.

use std::collections::BTreeMap;

use super::quote::{account, literal};
use super::revoke::hosts_of;
use super::session::Session;
use crate::{Cleaned, Cleaning, EngineError, Principal};

/// How many things that a principal made are named.
const NAMED: usize = 5;

/// See [`crate::Engine::clean`].
///
/// Accounts own nothing here, so none is kept from being dropped. What names a principal as its definer stays, and fails from then
/// on when it is called with its definer's rights; a person has to see it, and to drop it or to give it another definer.
pub(super) async fn clean(session: &mut Session, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
    let hosts = hosts_of(session, principals).await?;
    let mut cleaned = Vec::with_capacity(principals.len());
    for Principal { name, .. } in principals {
        let accounts: Vec<String> = hosts.get(name).into_iter().flatten().map(|host| account(name, host)).collect();
        let outcome = match drop_accounts(session, &accounts).await {
            Err(error @ (EngineError::Refused { .. } | EngineError::Busy { .. })) => {
                Cleaning::Left { databases: Vec::new(), reason: Some(error.to_string()) }
            }
            Err(error) => return Err(error),
            Ok(()) => left(&defined_by(session, name).await?),
        };
        cleaned.push(Cleaned { name: name.clone(), outcome });
    }
    Ok(cleaned)
}

async fn drop_accounts(session: &mut Session, accounts: &[String]) -> Result<(), EngineError> {
    if accounts.is_empty() {
        return Ok(());
    }
    session.run(&format!("DROP USER IF EXISTS {}", accounts.join(", "))).await
}

/// By schema.
async fn defined_by(session: &mut Session, name: &str) -> Result<BTreeMap<String, Vec<String>>, EngineError> {
    let definer =
        |column: &str| format!("BINARY LEFT({column}, {}) = {}", name.len() + 1, literal(&format!("{name}@")));
    let sql = format!(
        "SELECT db, CONCAT(LOWER(type), ' ', db, '.', name) FROM mysql.proc WHERE {proc}
         UNION ALL SELECT db, CONCAT('event ', db, '.', name) FROM mysql.event WHERE {event}
         UNION ALL SELECT TABLE_SCHEMA, CONCAT('view ', TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.VIEWS
           WHERE {view}
         UNION ALL SELECT TRIGGER_SCHEMA, CONCAT('trigger ', TRIGGER_SCHEMA, '.', TRIGGER_NAME)
           FROM information_schema.TRIGGERS WHERE {view}
         ORDER BY 1, 2",
        proc = definer("definer"),
        event = definer("definer"),
        view = definer("DEFINER"),
    );
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (schema, what) in session.rows::<(String, String)>(&sql).await? {
        all.entry(schema).or_default().push(what);
    }
    Ok(all)
}

fn left(defined: &BTreeMap<String, Vec<String>>) -> Cleaning {
    if defined.is_empty() {
        return Cleaning::Gone;
    }
    let named: Vec<&str> = defined.values().flatten().take(NAMED).map(String::as_str).collect();
    let more = defined.values().map(Vec::len).sum::<usize>() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Cleaning::Left {
        databases: defined.keys().cloned().collect(),
        reason: Some(format!("the account is gone, what names it as its definer is not: {}{more}", named.join(", "))),
    }
}
