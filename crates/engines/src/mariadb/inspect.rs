//! What the server shows: nothing here changes anything.
//!
//! Names are told apart byte by byte; `information_schema` compares them as words, so `BINARY` says that.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Instant, sleep};

use super::MariaDbConfig;
use super::issue::{LOCKED, NO_ROLE};
use super::quote::{literal, literals};
use super::session::{STARTED, Session};
use crate::{EngineError, Fault, Ghost, Principal, Seen, number_of, valid_name};

/// How long a look waits for logins to show whose they are.
const SHOWN: Duration = Duration::from_secs(1);

/// When the server began, in seconds since 1970 by its own clock at that time. Refused where accounts can't be changed.
pub(super) async fn started(session: &mut Session) -> Result<u32, EngineError> {
    match session.rows::<(i64, bool)>(STARTED).await?.first() {
        Some((_, true)) => {
            let message = "the server is read-only: is it a replica?".to_owned();
            Err(EngineError::Refused { code: "1290".to_owned(), message })
        }
        Some((began, false)) => Ok(u32::try_from(*began).unwrap_or(0)),
        None => Err(EngineError::Refused { code: "1227".to_owned(), message: "it does not say its age".to_owned() }),
    }
}

/// See [`crate::Engine::look`].
pub(super) async fn look(
    session: &mut Session,
    config: &MariaDbConfig,
    principals: &[Principal],
) -> Result<Vec<Seen>, EngineError> {
    must_see(session).await?;
    let endpoint = config.endpoint().to_string();
    // Before the accounts are read: who is named later was asked about later, or shows in the list.
    let hidden = hidden_logins(session).await?;
    let names = literals(principals.iter().map(|p| p.name.as_str()));
    let sql = format!(
        "SELECT User, MAX(NOT {LOCKED}) FROM mysql.global_priv WHERE User IN ({names}) AND {NO_ROLE} GROUP BY User"
    );
    let accounts: BTreeMap<String, bool> = session.rows(&sql).await?.into_iter().collect();
    let sql = format!(
        "SELECT USER, COUNT(*) FROM information_schema.PROCESSLIST WHERE BINARY USER IN ({names}) GROUP BY USER"
    );
    let sessions: BTreeMap<String, u64> = session.rows(&sql).await?.into_iter().collect();
    let reason = "a login is under way there, and whose it is can't be seen yet".to_owned();
    let behind = Fault { name: endpoint.clone(), reason };
    let seen = principals.iter().map(|p| {
        let account = accounts.get(&p.name);
        let can_login = account.copied().unwrap_or(false);
        let mut seen = Seen {
            name: p.name.clone(),
            oid: account.map(|_| number_of(&p.name)),
            can_login,
            login_at: if can_login { vec![endpoint.clone()] } else { Vec::new() },
            behind: Vec::new(),
            sessions: sessions.get(&p.name).copied().unwrap_or(0),
            held_by: None,
        };
        if hidden {
            seen.doubt(&behind);
        }
        seen
    });
    Ok(seen.collect())
}

/// Without the right to see, "no session" would be a lie: the server shows an account its own ones, without a word.
async fn must_see(session: &mut Session) -> Result<(), EngineError> {
    if has_globally(session, "PROCESS").await? {
        return Ok(());
    }
    Err(EngineError::Refused { code: "1227".to_owned(), message: "PROCESS is needed to see sessions".to_owned() })
}

pub(super) async fn has_globally(session: &mut Session, right: &str) -> Result<bool, EngineError> {
    let sql = format!(
        "SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE BINARY GRANTEE = {} AND PRIVILEGE_TYPE = {}",
        literal(&grantee(session)),
        literal(right)
    );
    Ok(!session.rows::<u8>(&sql).await?.is_empty())
}

/// As `information_schema` writes our own account.
pub(super) fn grantee(session: &Session) -> String {
    format!("'{}'@'{}'", session.account.0, session.account.1)
}

/// Whether a login whose name the server has read stays where it does not show the name. Its account is not asked about again, so
/// it can become a session of an account that is refused since. One whose name was not read yet waits for its client, as may
/// whoever can reach the port; its account will be asked about then.
async fn hidden_logins(session: &mut Session) -> Result<bool, EngineError> {
    let mut first: Option<BTreeSet<u64>> = None;
    let begun = Instant::now();
    loop {
        let now: BTreeSet<u64> = session.rows(HIDDEN).await?.into_iter().collect();
        let first = first.get_or_insert_with(|| now.clone());
        first.retain(|id| now.contains(id));
        if first.is_empty() || begun.elapsed() > SHOWN {
            return Ok(!first.is_empty());
        }
        sleep(Duration::from_millis(5)).await;
    }
}

const HIDDEN: &str = "SELECT ID FROM information_schema.PROCESSLIST \
    WHERE USER = 'unauthenticated user' AND COALESCE(STATE, '') <> 'Reading from net'";

/// See [`crate::Engine::list`].
pub(super) async fn list(session: &mut Session, prefix: &str) -> Result<Vec<Principal>, EngineError> {
    let sql = format!(
        "SELECT DISTINCT User FROM mysql.global_priv WHERE LEFT(User, {}) = {} AND {NO_ROLE} ORDER BY User",
        prefix.len(),
        literal(prefix)
    );
    let mut names: Vec<String> = session.rows(&sql).await?;
    // A name that only begins like one of ours is somebody else's.
    names.retain(|name| name.starts_with(prefix) && valid_name(name));
    names.sort();
    Ok(names.into_iter().map(|name| Principal { oid: Some(number_of(&name)), name }).collect())
}

/// See [`crate::Engine::ghosts`].
pub(super) async fn ghosts(session: &mut Session, config: &MariaDbConfig) -> Result<Vec<Ghost>, EngineError> {
    must_see(session).await?;
    let sql = format!(
        "SELECT ID, USER FROM information_schema.PROCESSLIST \
         WHERE USER NOT IN ('system user', 'event_scheduler', 'unauthenticated user') \
         AND BINARY USER NOT IN (SELECT BINARY User FROM mysql.global_priv WHERE {NO_ROLE}) ORDER BY ID"
    );
    let endpoint = config.endpoint().to_string();
    let ghosts = session.rows::<(u64, String)>(&sql).await?.into_iter().map(|(id, user)| Ghost {
        endpoint: endpoint.clone(),
        pid: u32::try_from(id).map_or(0, |id| i32::from_ne_bytes(id.to_ne_bytes())),
        oid: number_of(&user),
    });
    Ok(ghosts.collect())
}
