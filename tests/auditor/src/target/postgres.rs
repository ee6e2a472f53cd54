//! A PostgreSQL.

use crate::judge::{Identity, Look, Role, Session};
use tokio_postgres::{Client, Config, Error, NoTls};

/// Roles of the cluster, and whether their own time limit lets them in.
const ROLES: &str = "SELECT rolname::text, oid, rolcanlogin AND coalesce(rolvaliduntil > clock_timestamp(), true)
  FROM pg_roles WHERE starts_with(rolname::text, $1)";

/// Their sessions, and those of roles that do not exist: by number, which a session cannot forge.
const SESSIONS: &str = "SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint, a.usesysid, r.rolname::text
  FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
  WHERE a.backend_type = 'client backend' AND a.usesysid IS NOT NULL AND (r.oid IS NULL OR starts_with(r.rolname::text, $1))";

/// A connection, made anew when it is lost.
pub(crate) struct Postgres {
    config: Config,
    prefix: String,
    client: Option<Client>,
}

impl Postgres {
    pub(crate) fn new(config: Config, prefix: String) -> Self {
        Self { config, prefix, client: None }
    }

    /// Two statements, each in a transaction of its own: inside one, `pg_stat_activity` does not change.
    pub(crate) async fn look(&mut self) -> Result<Look, Error> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                // Its end shows in the next statement.
                tokio::spawn(connection);
                client
            }
        };
        let mut seen = Look::default();
        for row in client.query(ROLES, &[&self.prefix]).await? {
            seen.roles.insert(
                row.try_get(0)?,
                Role { identity: Identity::Number(row.try_get(1)?), can_login: row.try_get(2)? },
            );
        }
        for row in client.query(SESSIONS, &[&self.prefix]).await? {
            seen.sessions.push(Session {
                id: row.try_get::<_, i32>(0)?.into(),
                began: row.try_get(1)?,
                of: Identity::Number(row.try_get(2)?),
                role: row.try_get(3)?,
            });
        }
        self.client = Some(client);
        Ok(seen)
    }
}
