//! The sample of a receiver (`examples/webhook-receiver`), by the database in which it has everything, and not by what it tells the vault. Accounts
//! have numbers there that never come back, and so have logins.

use crate::judge::{Identity, Look, Role, Session};
use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Accounts, and whether a password lets in: as the application's `login` has it.
const ACCOUNTS: &str =
    "SELECT name, number, can_login = 1 AND verifier IS NOT NULL AND expires > unixepoch() FROM accounts
  WHERE is_claim = 0 AND substr(name, 1, length(?1)) = ?1";

/// Logins whose token lets in: as `whoami` has it, which also knows those of accounts that are gone.
const LOGINS: &str =
    "SELECT logins.id, logins.number, accounts.name FROM logins LEFT JOIN accounts ON accounts.number = logins.number
  WHERE coalesce(accounts.expires > unixepoch(), TRUE) AND substr(logins.name, 1, length(?1)) = ?1";

/// How long somebody who writes may be waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where it is.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Address {
    /// The database of a receiver of webhooks, the sample's.
    #[arg(long, value_name = "FILE", group = "kind")]
    webhook: Option<PathBuf>,
}

pub(crate) struct Webhook {
    path: PathBuf,
    prefix: String,
}

impl Webhook {
    /// None where no receiver was said.
    pub(super) fn new(address: Address, prefix: &str) -> Option<Self> {
        address.webhook.map(|path| Self { path, prefix: prefix.to_owned() })
    }

    pub(super) async fn look(&self) -> anyhow::Result<Look> {
        let (path, prefix) = (self.path.clone(), self.prefix.clone());
        tokio::task::spawn_blocking(move || look(&path, &prefix)).await?
    }
}

/// Both of one moment: what one transaction reads does not change.
fn look(path: &Path, prefix: &str) -> anyhow::Result<Look> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut database =
        Connection::open_with_flags(path, flags).with_context(|| format!("cannot open {}", path.display()))?;
    database.busy_timeout(PATIENCE)?;
    let transaction = database.transaction()?;
    let mut seen = Look::default();
    let mut accounts = transaction.prepare(ACCOUNTS)?;
    let mut rows = accounts.query([prefix])?;
    while let Some(row) = rows.next()? {
        seen.roles.insert(row.get(0)?, Role { identity: Identity::Number(row.get(1)?), can_login: row.get(2)? });
    }
    let mut logins = transaction.prepare(LOGINS)?;
    let mut rows = logins.query([prefix])?;
    while let Some(row) = rows.next()? {
        seen.sessions.push(Session { id: row.get(0)?, began: 0, of: Identity::Number(row.get(1)?), role: row.get(2)? });
    }
    Ok(seen)
}
