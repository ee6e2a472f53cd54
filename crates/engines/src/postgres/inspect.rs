//! What the server shows: nothing here changes anything.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::quote::ident;
use super::session::{Session, on_repeatable};
use super::{OwnedObjects, PostgresConfig};
use crate::{Checked, EngineError, Ghost, Principal, Seen, valid_name};

/// See [`crate::Engine::look`]. One statement, in a transaction of its own: inside one, `pg_stat_activity` is a snapshot
/// that does not change.
pub(super) async fn look(session: &Session, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
    let (names, oids) = columns(principals);
    let rows = session
        .client
        .query_typed(LOOK, &[(&names, Type::TEXT_ARRAY), (&oids, Type::OID_ARRAY)])
        .await
        .map_err(|e| on_repeatable(&e))?;
    let seen: Vec<Seen> = rows
        .iter()
        .map(|row| {
            let sighted: bool = row.try_get(5)?;
            let sessions: i64 = row.try_get(3)?;
            let seen = Seen {
                name: row.try_get(0)?,
                oid: row.try_get(1)?,
                can_login: row.try_get(2)?,
                sessions: u64::try_from(sessions).unwrap_or(u64::MAX),
                held_by: row.try_get(4)?,
            };
            Ok(sighted.then_some(seen))
        })
        .collect::<Result<Option<Vec<_>>, tokio_postgres::Error>>()
        .map_err(|e| on_repeatable(&e))?
        // Without the right to see, "no session" would be a lie.
        .ok_or_else(|| EngineError::Refused {
            code: "42501".to_owned(),
            message: "pg_read_all_stats is needed to see sessions".to_owned(),
        })?;
    Ok(seen)
}

const LOOK: &str = "SELECT p.name, r.oid, coalesce(r.rolcanlogin, false),
    (SELECT count(*) FROM pg_stat_activity a
       WHERE a.usesysid = r.oid OR (a.usesysid = p.oid AND h.oid IS NULL)),
    h.rolname::text, pg_has_role('pg_read_all_stats', 'USAGE')
  FROM unnest($1, $2) WITH ORDINALITY AS p(name, oid, nr)
  LEFT JOIN pg_roles r ON r.rolname = p.name
  LEFT JOIN pg_roles h ON h.oid = p.oid AND h.rolname <> p.name
  ORDER BY p.nr";

/// Names and numbers side by side; 0 is the number that no role has.
pub(super) fn columns(principals: &[Principal]) -> (Vec<&str>, Vec<u32>) {
    principals.iter().map(|p| (p.name.as_str(), p.oid.unwrap_or(0))).unzip()
}

/// See [`crate::Engine::list`].
pub(super) async fn list(session: &Session, prefix: &str) -> Result<Vec<Principal>, EngineError> {
    let sql = "SELECT rolname::text, oid FROM pg_roles WHERE starts_with(rolname::text, $1) ORDER BY rolname";
    let rows = session.client.query_typed(sql, &[(&prefix, Type::TEXT)]).await.map_err(|e| on_repeatable(&e))?;
    let principals = rows
        .iter()
        .map(|row| Ok(Principal { name: row.try_get(0)?, oid: Some(row.try_get(1)?) }))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e: tokio_postgres::Error| on_repeatable(&e))?;
    // A name that only begins like one of ours is somebody else's.
    Ok(principals.into_iter().filter(|p| valid_name(&p.name)).collect())
}

/// See [`crate::Engine::ghosts`].
pub(super) async fn ghosts(session: &Session) -> Result<Vec<Ghost>, EngineError> {
    let sql = "SELECT pid, usesysid FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND usesysid NOT IN (SELECT oid FROM pg_roles) ORDER BY pid";
    let rows = session.client.query_typed(sql, &[]).await.map_err(|e| on_repeatable(&e))?;
    rows.iter()
        .map(|row| Ok(Ghost { pid: row.try_get(0)?, oid: row.try_get(1)? }))
        .collect::<Result<_, _>>()
        .map_err(|e: tokio_postgres::Error| on_repeatable(&e))
}

/// See [`crate::Engine::check`].
pub(super) async fn check(
    session: &Session,
    config: &PostgresConfig,
    groups: &[String],
) -> Result<Checked, EngineError> {
    let mut checked = server(session, config).await?;
    if let OwnedObjects::ReassignTo(owner) = &config.owned {
        owner_role(session, config, owner, &mut checked.missing).await?;
    }
    group_roles(session, groups, &mut checked.missing).await?;
    Ok(checked)
}

async fn server(session: &Session, config: &PostgresConfig) -> Result<Checked, EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let row = session.client.query_typed_one(SERVER, &[]).await.map_err(failed)?;
    let version: i32 = row.try_get(0).map_err(failed)?;
    let timeline: i32 = row.try_get(1).map_err(failed)?;
    let standbys: i64 = row.try_get(2).map_err(failed)?;
    if row.try_get(3).map_err(failed)? {
        return Err(EngineError::Refused { code: "25006".to_owned(), message: "the server is a standby".to_owned() });
    }
    let user = ident(&config.user);
    let mut missing = Vec::new();
    if row.try_get(4).map_err(failed)? {
        missing.push(format!("ALTER ROLE {user} NOSUPERUSER"));
    }
    for (column, statement) in [
        (5, format!("ALTER ROLE {user} CREATEROLE")),
        (6, format!("GRANT pg_read_all_stats TO {user}")),
        (7, format!("GRANT pg_signal_backend TO {user}")),
    ] {
        if !row.try_get::<_, bool>(column).map_err(failed)? {
            missing.push(statement);
        }
    }
    Ok(Checked {
        server_version: u32::try_from(version).unwrap_or(0),
        timeline: u32::try_from(timeline).unwrap_or(0),
        endpoint: format!("{}:{}", config.host, config.port),
        standbys: u32::try_from(standbys).unwrap_or(u32::MAX),
        missing,
    })
}

const SERVER: &str = "SELECT current_setting('server_version_num')::int,
    (SELECT timeline_id FROM pg_control_checkpoint()), (SELECT count(*) FROM pg_stat_replication),
    pg_is_in_recovery(), r.rolsuper, r.rolcreaterole,
    pg_has_role('pg_read_all_stats', 'USAGE'), pg_has_role('pg_signal_backend', 'USAGE')
  FROM pg_roles r WHERE r.rolname = session_user";

async fn owner_role(
    session: &Session,
    config: &PostgresConfig,
    owner: &str,
    missing: &mut Vec<String>,
) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let row = session.client.query_typed_opt(OWNER, &[(&owner, Type::TEXT)]).await.map_err(failed)?;
    let (name, user) = (ident(owner), ident(&config.user));
    let Some(row) = row else {
        missing.push(format!("CREATE ROLE {name} NOLOGIN"));
        missing.push(format!("GRANT {name} TO {user}"));
        return Ok(());
    };
    for (column, statement) in [
        (0, format!("ALTER ROLE {name} NOLOGIN")),
        (1, format!("ALTER ROLE {name} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS NOREPLICATION")),
        (2, format!("GRANT {name} TO {user}")),
    ] {
        if row.try_get(column).map_err(failed)? {
            missing.push(statement);
        }
    }
    for group in row.try_get::<_, Vec<String>>(3).map_err(failed)? {
        missing.push(format!("REVOKE {} FROM {name}", ident(&group)));
    }
    Ok(())
}

const OWNER: &str = "SELECT r.rolcanlogin,
    r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls OR r.rolreplication,
    NOT pg_has_role(r.oid, 'MEMBER'),
    ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
      WHERE m.member = r.oid ORDER BY 1)
  FROM pg_roles r WHERE r.rolname = $1";

/// A group with `CREATE` somewhere keeps what leased users make under `SET ROLE`; one that is a superuser gives away the
/// server.
async fn group_roles(session: &Session, groups: &[String], missing: &mut Vec<String>) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let rows = session.client.query_typed(GROUPS, &[(&groups, Type::TEXT_ARRAY)]).await.map_err(failed)?;
    let found: BTreeMap<String, _> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row))).collect::<Result<_, _>>().map_err(failed)?;
    for group in groups {
        let name = ident(group);
        let Some(row) = found.get(group) else {
            missing.push(format!("CREATE ROLE {name} NOLOGIN"));
            continue;
        };
        if row.try_get(1).map_err(failed)? {
            missing.push(format!("ALTER ROLE {name} NOLOGIN"));
        }
        if row.try_get(2).map_err(failed)? {
            missing.push(format!("ALTER ROLE {name} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS NOREPLICATION"));
        }
        if row.try_get(3).map_err(failed)? {
            missing.push(format!("GRANT {name} TO SESSION_USER WITH ADMIN OPTION"));
        }
        for (column, grantee) in [(4, "PUBLIC"), (5, name.as_str())] {
            for schema in row.try_get::<_, Vec<String>>(column).map_err(failed)? {
                missing.push(format!("REVOKE CREATE ON SCHEMA {} FROM {grantee}", ident(&schema)));
            }
        }
    }
    missing.dedup();
    Ok(())
}

/// Column 3: from PostgreSQL 16 on `CREATEROLE` alone does not let us grant a role that we did not make.
const GROUPS: &str = "SELECT g.rolname::text, g.rolcanlogin,
    g.rolsuper OR g.rolcreaterole OR g.rolcreatedb OR g.rolbypassrls OR g.rolreplication,
    current_setting('server_version_num')::int >= 160000 AND NOT pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION'),
    ARRAY(SELECT n.nspname::text FROM pg_namespace n WHERE has_schema_privilege('public', n.oid, 'CREATE') ORDER BY 1),
    ARRAY(SELECT n.nspname::text FROM pg_namespace n WHERE has_schema_privilege(g.oid, n.oid, 'CREATE')
      AND NOT has_schema_privilege('public', n.oid, 'CREATE') ORDER BY 1)
  FROM pg_roles g WHERE g.rolname = ANY($1)";
