//! The eyes: the database as its superuser sees it, every half second, whoever is tested. Neither side is asked for any of it.

use super::fact::{Fact, Story};
use crate::lab::{Lab, now};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

const EVERY: Duration = Duration::from_millis(500);
/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Roles whose names begin as a side's do, and whether each is let in.
const ROLES: &str = "SELECT rolname::text, oid, rolcanlogin AND coalesce(rolvaliduntil > clock_timestamp(), true)
  FROM pg_roles WHERE starts_with(rolname::text, $1)";
/// Sessions by the number of their role: of those with such a name, and of those whose role is gone.
const SESSIONS: &str = "SELECT a.usesysid FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
  WHERE a.backend_type = 'client backend' AND a.usesysid IS NOT NULL AND (r.oid IS NULL OR starts_with(r.rolname::text, $1))";

/// Who looks.
pub(crate) struct Eyes {
    pub(crate) lab: Arc<Lab>,
    pub(crate) story: Story,
    /// What the names of all logins of this side begin with.
    pub(crate) prefix: String,
}

impl Eyes {
    /// Looks, until it is aborted.
    pub(crate) async fn watch(self) {
        let (mut client, mut names) = (None, BTreeMap::new());
        loop {
            let from = now();
            let seen = timeout(LIMIT, self.look(&mut client, &mut names)).await;
            let to = now();
            match seen {
                Ok(Ok((roles, sessions))) => self.story.note(Fact::Look { from, to, roles, sessions }),
                _ => {
                    client = None;
                    self.story.note(Fact::Blind { from, to });
                }
            }
            sleep(EVERY).await;
        }
    }

    async fn look(
        &self,
        client: &mut Option<Client>,
        names: &mut BTreeMap<u32, String>,
    ) -> anyhow::Result<(BTreeMap<String, bool>, Vec<String>)> {
        let open = match client.take().filter(|client| !client.is_closed()) {
            Some(open) => open,
            None => self.lab.database.as_ref().context("no database")?.superuser().await?,
        };
        let mut roles = BTreeMap::new();
        for row in open.query(ROLES, &[&self.prefix]).await? {
            let name: String = row.try_get(0)?;
            names.insert(row.try_get(1)?, name.clone());
            roles.insert(name, row.try_get(2)?);
        }
        let mut sessions = Vec::new();
        for row in open.query(SESSIONS, &[&self.prefix]).await? {
            let number: u32 = row.try_get(0)?;
            // One that no look has seen as a role: it was there for less than half a second.
            sessions.push(names.get(&number).cloned().unwrap_or_else(|| format!("role {number}")));
        }
        *client = Some(open);
        Ok((roles, sessions))
    }
}
