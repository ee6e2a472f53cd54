//! Ending principals: refuse, kill.

use std::collections::BTreeMap;

use super::MariaDbConfig;
use super::issue::{NO_ROLE, kill as kill_one};
use super::quote::{account, literal, literals};
use super::session::{Session, id_of, is_of_older_term};
use super::verifier::NOBODY;
use crate::connection::within;
use crate::{Binding, EngineError, Principal, Refusal, Refused, number_of};

/// How many accounts one statement locks.
const BULK: usize = 200;

/// Somebody may hold what it needs for as long as he likes, and sessions are to be ended meanwhile.
const NOT_LONG: &str = "SET STATEMENT max_statement_time = 5 FOR";

/// See [`crate::Engine::refuse`].
///
/// In bulk, and one by one where a bulk fails. Whatever host an account of that name is for: names are ours.
pub(super) async fn refuse(
    session: &mut Session,
    principals: &[Principal],
    config: &MariaDbConfig,
) -> Result<Vec<Refused>, EngineError> {
    let limit = config.answer_timeout();
    let mut refused = Vec::with_capacity(principals.len());
    for part in principals.chunks(BULK) {
        let hosts = within(limit, hosts_of(session, part)).await?;
        let all: Vec<String> = hosts.iter().flat_map(|(name, hosts)| unusable(name, hosts)).collect();
        let whole = within(limit, lock(session, &all)).await;
        if let Err(error @ EngineError::Unavailable { .. }) = whole {
            return Err(error);
        }
        for Principal { name, .. } in part {
            let (oid, outcome) = match hosts.get(name) {
                None => (None, Refusal::Absent),
                Some(_) if whole.is_ok() => (Some(number_of(name)), Refusal::Disabled { groups_left: Vec::new() }),
                Some(hosts) => match within(limit, lock(session, &unusable(name, hosts))).await {
                    Ok(()) => (Some(number_of(name)), Refusal::Disabled { groups_left: Vec::new() }),
                    Err(error @ EngineError::Unavailable { .. }) => return Err(error),
                    Err(error) => (Some(number_of(name)), Refusal::Failed(error)),
                },
            };
            refused.push(Refused { name: name.clone(), oid, outcome });
        }
    }
    Ok(refused)
}

/// The hosts from which each of these may come.
pub(super) async fn hosts_of(
    session: &mut Session,
    principals: &[Principal],
) -> Result<BTreeMap<String, Vec<String>>, EngineError> {
    let names = literals(principals.iter().map(|p| p.name.as_str()));
    let sql = format!("SELECT User, Host FROM mysql.global_priv WHERE User IN ({names}) AND {NO_ROLE}");
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (user, host) in session.rows::<(String, String)>(&sql).await? {
        hosts.entry(user).or_default().push(host);
    }
    Ok(hosts)
}

/// Without a password that anybody has: whoever unlocks it opens nothing.
fn unusable(name: &str, hosts: &[String]) -> Vec<String> {
    hosts.iter().map(|host| format!("{} {NOBODY}", account(name, host))).collect()
}

async fn lock(session: &mut Session, accounts: &[String]) -> Result<(), EngineError> {
    if accounts.is_empty() {
        return Ok(());
    }
    // One that is gone by now can't log in either.
    session.run(&format!("{NOT_LONG} ALTER USER IF EXISTS {} ACCOUNT LOCK", accounts.join(", "))).await
}

/// See [`crate::Engine::kill`]. By name, which a session keeps when its account is dropped, and has from the moment on at which it says
/// it: a login that is not let in yet is ended too, for its account would not be asked about again.
pub(super) async fn kill(session: &mut Session, principals: &[Principal]) -> Result<usize, EngineError> {
    let names = literals(principals.iter().map(|p| p.name.as_str()));
    let own = literal(&session.account.0);
    let sql = format!(
        "SELECT ID, COMMAND = 'Killed' FROM information_schema.PROCESSLIST WHERE BINARY USER IN ({names}) AND BINARY USER <> {own}"
    );
    let mut killed = 0;
    for (id, already) in session.rows::<(u64, bool)>(&sql).await? {
        killed += usize::from(kill_one(session, id).await? && !already);
    }
    Ok(killed)
}

/// Ends the sessions which executors of earlier terms left at this target; how many were told to end.
pub(super) async fn kill_older_terms(session: &mut Session, config: &MariaDbConfig) -> Result<usize, EngineError> {
    let own = literal(&session.account.0);
    let older = is_of_older_term(config);
    let sql = format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE BINARY USER = {own} AND ID <> CONNECTION_ID() AND {older}"
    );
    end_all(session, &sql).await
}

/// Ends every session of our own account but these; how many were told to end.
pub(super) async fn end_strangers(session: &mut Session, ours: &[Binding]) -> Result<usize, EngineError> {
    let own = literal(&session.account.0);
    let began = session.binding.backend_start_micros;
    let ids: Vec<String> =
        ours.iter().filter(|b| b.backend_start_micros == began).map(|b| id_of(b).to_string()).collect();
    let spared = if ids.is_empty() { "0".to_owned() } else { ids.join(", ") };
    let sql = format!(
        "SELECT ID FROM information_schema.PROCESSLIST \
         WHERE BINARY USER = {own} AND ID <> CONNECTION_ID() AND COMMAND <> 'Killed' AND ID NOT IN ({spared})"
    );
    end_all(session, &sql).await
}

async fn end_all(session: &mut Session, sql: &str) -> Result<usize, EngineError> {
    let mut ended = 0;
    for id in session.rows::<u64>(sql).await? {
        ended += usize::from(kill_one(session, id).await?);
    }
    Ok(ended)
}
