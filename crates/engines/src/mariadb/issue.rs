//! Making a principal, and ending an intent to make one.

use core::time::Duration;

use mysql_async::Error;
use tokio::time::sleep;

use super::ANYWHERE;
use super::quote::{account, ident, literal};
use super::session::{STARTED, Session, answered, id_of, on_answer, on_repeatable};
use super::verifier::{NOBODY, identified};
use crate::{Binding, Create, Created, EngineError, Fenced, number_of};

/// How often taking the name is tried before the caller is asked to come back.
const TAKES: usize = 3;
/// How often, and how far apart, a connection that was told to end is looked for.
const LOOKS: usize = 100;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// For what is tried again: account statements heed no limit on waiting for locks (`lock_wait_timeout`).
const WAIT_A_SECOND: &str = "SET STATEMENT max_statement_time = 1 FOR";

/// `ER_CANNOT_USER`: for a `CREATE USER` without `OR REPLACE`, the name exists.
const EXISTS: u16 = 1396;

/// See [`crate::Engine::create`].
///
/// Each statement commits by itself. The account is locked until the last of them, so whoever dies before it leaves one that
/// nobody can log in to.
pub(super) async fn create(session: &mut Session, create: &Create, require_tls: bool) -> Result<Created, EngineError> {
    let who = account(&create.name, ANYWHERE);
    let tls = if require_tls { " REQUIRE SSL" } else { "" };
    let made = format!(
        "CREATE USER {who} {}{tls} WITH MAX_USER_CONNECTIONS {} ACCOUNT LOCK",
        identified(&create.verifier),
        create.connection_limit
    );
    match session.try_run(&made).await {
        Ok(()) => {}
        Err(error) => return Err(not_made(session, &create.name, &error).await),
    }
    for sql in further(create, &who) {
        let Err(error) = session.try_run(&sql).await else { continue };
        let Some(answer) = answered(&error) else { return Err(unknown(&error)) };
        let answer = on_answer(answer);
        // Nobody else has it yet: whoever fences first ends this connection.
        return match session.try_run(&format!("DROP USER IF EXISTS {who}")).await {
            Ok(()) => Err(answer),
            Err(error) => Err(unknown(&error)),
        };
    }
    Ok(Created::by_client(number_of(&create.name)))
}

fn further(create: &Create, who: &str) -> Vec<String> {
    let mut statements = Vec::with_capacity(3);
    for group in &create.groups {
        statements.push(format!("GRANT {} TO {who}", ident(group)));
        statements.push(format!("SET DEFAULT ROLE {} FOR {who}", ident(group)));
    }
    statements.push(format!("ALTER USER {who} ACCOUNT UNLOCK"));
    statements
}

/// What a refused `CREATE USER` means. One that ran out of time can have done its work before.
async fn not_made(session: &mut Session, name: &str, error: &Error) -> EngineError {
    let Some(answer) = answered(error) else { return unknown(error) };
    if answer.code == EXISTS {
        return EngineError::Duplicate;
    }
    match standing(session, name).await {
        Ok(None) => on_answer(answer),
        _ => unknown(error),
    }
}

fn unknown(error: &Error) -> EngineError {
    EngineError::Unknown { reason: on_repeatable(error).to_string() }
}

/// See [`crate::Engine::fence`].
///
/// The connection first: once it is gone, nothing that was bound to it can arrive any more. While one account statement waits for a
/// lock, all others wait behind it where no limit of theirs counts, so whoever took the name first would wait for the very create
/// that it is to end. Then the name, which shows what came of it.
pub(super) async fn fence(session: &mut Session, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
    end_connection(session, binding).await?;
    for _ in 0..TAKES {
        match take(session, name).await? {
            Taken::Now => {
                drop_marker(session, name).await?;
                return Ok(Fenced::Absent);
            }
            Taken::Exists => match standing(session, name).await? {
                Some(Standing::Account) => return Ok(Fenced::Won { oid: number_of(name) }),
                // Which an earlier fence left.
                Some(Standing::Marker) => {
                    drop_marker(session, name).await?;
                    return Ok(Fenced::Absent);
                }
                None => {}
            },
            Taken::Blocked => {}
        }
    }
    Err(EngineError::Busy { code: "1205".to_owned(), message: "the name could not be taken".to_owned() })
}

pub(super) enum Taken {
    Now,
    Exists,
    Blocked,
}

/// Takes the name. No principal of ours may have any number of connections (0), so that is how a marker is known.
pub(super) async fn take(session: &mut Session, name: &str) -> Result<Taken, EngineError> {
    let marker = format!("{WAIT_A_SECOND} CREATE USER {} {NOBODY} ACCOUNT LOCK", account(name, ANYWHERE));
    match session.try_run(&marker).await {
        Ok(()) => Ok(Taken::Now),
        Err(error) => match answered(&error) {
            Some(answer) if answer.code == EXISTS => Ok(Taken::Exists),
            Some(answer) => match on_answer(answer) {
                EngineError::Busy { .. } => Ok(Taken::Blocked),
                other => Err(other),
            },
            None => Err(on_repeatable(&error)),
        },
    }
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It can't log in, and no principal is like it.
    Marker,
    /// Anything else, from whatever host it may log in.
    Account,
}

pub(super) async fn standing(session: &mut Session, name: &str) -> Result<Option<Standing>, EngineError> {
    let sql = format!(
        "SELECT Host = '{ANYWHERE}' AND {LOCKED} AND COALESCE(JSON_VALUE(Priv, '$.max_user_connections'), 0) = 0 \
         FROM mysql.global_priv WHERE User = {} AND {NO_ROLE}",
        literal(name)
    );
    let rows: Vec<bool> = session.rows(&sql).await?;
    Ok(match rows.as_slice() {
        [] => None,
        [true] => Some(Standing::Marker),
        _ => Some(Standing::Account),
    })
}

/// Whether a row of `mysql.global_priv` is of an account that can't log in.
pub(super) const LOCKED: &str = "COALESCE(JSON_VALUE(Priv, '$.account_locked') IN ('1', 'true'), FALSE)";
/// Whether it is none of a role.
pub(super) const NO_ROLE: &str = "Host <> ''";

pub(super) async fn drop_marker(session: &mut Session, name: &str) -> Result<(), EngineError> {
    session.run(&format!("DROP USER IF EXISTS {}", account(name, ANYWHERE))).await
}

/// Ends exactly that connection and waits until it is gone. It leaves the list only after its statement is over.
async fn end_connection(session: &mut Session, binding: &Binding) -> Result<(), EngineError> {
    let id = id_of(binding);
    let own = literal(&session.account.0);
    let sql = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE ID = {id} AND BINARY USER = {own}");
    for _ in 0..LOOKS {
        let began: Vec<(i64, bool)> = session.rows(STARTED).await?;
        // Another life of the server: none of its earlier connections is left.
        if began.first().is_some_and(|(began, _)| began.saturating_mul(1_000_000) != binding.backend_start_micros) {
            return Ok(());
        }
        if session.rows::<u64>(&sql).await?.is_empty() {
            return Ok(());
        }
        kill(session, u64::from(id)).await?;
        sleep(LOOK_EVERY).await;
    }
    Err(EngineError::Busy { code: "1094".to_owned(), message: "the bound connection does not end".to_owned() })
}

/// Tells one connection to end; whether there was one.
pub(super) async fn kill(session: &mut Session, id: u64) -> Result<bool, EngineError> {
    match session.try_run(&format!("KILL CONNECTION {id}")).await {
        Ok(()) => Ok(true),
        // ER_NO_SUCH_THREAD
        Err(error) if answered(&error).is_some_and(|e| e.code == 1094) => Ok(false),
        Err(error) => Err(on_repeatable(&error)),
    }
}
