//! What a cluster has left at its database, as the database tells: the vault is not asked.

use crate::Cluster;
use anyhow::Context as _;
use quorate_state::lease::principal_prefix;
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// The target that `quorate dev` describes.
pub const TARGET: &str = "pg";

/// Everything of a cluster at its database at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Roles with the cluster's prefix, whether they may log in or not.
    pub roles: BTreeSet<String>,
    /// Those of them that may log in.
    pub logins: BTreeSet<String>,
    /// The roles of open sessions, with the cluster's prefix.
    pub sessions: BTreeSet<String>,
    /// Process ids of sessions whose role is gone.
    pub ghosts: BTreeSet<i32>,
}

impl Footprint {
    /// Whether nothing of a login is left.
    #[must_use]
    pub fn lacks(&self, login: &str) -> bool {
        !self.roles.contains(login) && !self.sessions.contains(login)
    }

    /// Whether nothing is left at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.sessions.is_empty() && self.ghosts.is_empty()
    }
}

impl Cluster {
    /// Looks, as the superuser.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub async fn footprint(&self, superuser: &Client) -> anyhow::Result<Footprint> {
        let prefix = principal_prefix(&self.profile().cluster, TARGET);
        let mut seen = Footprint::default();
        let roles = "SELECT rolname::text, rolcanlogin FROM pg_roles WHERE starts_with(rolname::text, $1)";
        for row in superuser.query(roles, &[&prefix]).await.context("pg_roles")? {
            let name: String = row.try_get(0)?;
            if row.try_get(1)? {
                seen.logins.insert(name.clone());
            }
            seen.roles.insert(name);
        }
        let sessions = "SELECT usename::text, pid FROM pg_stat_activity
            WHERE usesysid IS NOT NULL AND (usename IS NULL OR starts_with(usename::text, $1))";
        for row in superuser.query(sessions, &[&prefix]).await.context("pg_stat_activity")? {
            match row.try_get::<_, Option<String>>(0)? {
                Some(name) => drop(seen.sessions.insert(name)),
                None => drop(seen.ghosts.insert(row.try_get(1)?)),
            }
        }
        Ok(seen)
    }
}
