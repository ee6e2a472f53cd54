//! What is missing at a server before it can be worked with, as statements that cure it.

use tokio_postgres::types::Type;

use super::inspect::Position;
use super::quote::ident;
use super::session::{Session, on_repeatable};
use super::{OwnedObjects, PostgresConfig, REVOKE_LOCK_TIMEOUT};
use crate::connection::within;
use crate::engine::POWERFUL;
use crate::{Checked, EngineError, Fault, Missing, Slots, Standby};

/// See [`crate::Engine::check`]; without what is known only at the standbys.
pub(super) async fn check(
    session: &Session,
    config: &PostgresConfig,
    groups: &[String],
) -> Result<Checked, EngineError> {
    // A server that falls silent ends no statement, whatever limit it was told.
    let limit = config.answer_timeout();
    let mut checked = within(limit, server(session, config)).await?;
    let mut missing = Vec::new();
    if let OwnedObjects::ReassignTo(owner) = &config.owned {
        within(limit, owner_role(session, config, owner, &mut missing)).await?;
    }
    let (unfit, groups): (Vec<&String>, Vec<&String>) = groups.iter().partition(|group| config.is_own(group));
    let own = |group: &String| Fault { name: group.clone(), reason: "it is a role of the executor's own".to_owned() };
    checked.unfit.extend(unfit.into_iter().map(own));
    let groups: Vec<String> = groups.into_iter().cloned().collect();
    within(limit, group_roles(session, config, &groups, &mut checked.unfit, &mut missing)).await?;
    let here = |statement| Missing { database: config.dbname.clone(), statement };
    checked.missing.extend(missing.into_iter().map(here));
    within(limit, objects(session, config, &config.dbname, &groups, &mut checked.missing)).await?;
    for database in config.databases.iter().filter(|d| **d != config.dbname) {
        if let Err(error) = elsewhere(config, database, &groups, &mut checked.missing).await {
            checked.databases.push(Fault { name: database.clone(), reason: error.to_string() });
        }
    }
    Ok(checked)
}

/// The databases are connected to: whether that works is decided in more than one place of a server's configuration.
async fn elsewhere(
    config: &PostgresConfig,
    database: &str,
    groups: &[String],
    missing: &mut Vec<Missing>,
) -> Result<(), EngineError> {
    let session = Session::open(config, &config.endpoint(), database, REVOKE_LOCK_TIMEOUT.as_millis()).await?;
    within(config.answer_timeout(), objects(&session, config, database, groups, missing)).await
}

async fn server(session: &Session, config: &PostgresConfig) -> Result<Checked, EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let position = Position::of(session).await?;
    let row = session.client.query_typed_one(SERVER, &[]).await.map_err(failed)?;
    let version: i32 = row.try_get(0).map_err(failed)?;
    let user = ident(&config.user);
    let mut missing = Vec::new();
    for (column, statement) in [
        (1, format!("ALTER ROLE {user} NOSUPERUSER")),
        (2, format!("ALTER ROLE {user} CREATEROLE")),
        (3, format!("GRANT pg_read_all_stats TO {user}")),
        (4, format!("GRANT pg_signal_backend TO {user}")),
        (5, format!("GRANT pg_use_reserved_connections TO {user}")),
    ] {
        if row.try_get::<_, bool>(column).map_err(failed)? {
            missing.push(Missing { database: config.dbname.clone(), statement });
        }
    }
    let rows = session.client.query_typed(STANDBYS, &[]).await.map_err(failed)?;
    let standby = |row: &tokio_postgres::Row| {
        Ok(Standby { application_name: row.try_get(0)?, client_addr: row.try_get(1)?, state: row.try_get(2)? })
    };
    Ok(Checked {
        server_version: u32::try_from(version).unwrap_or(0),
        timeline: position.timeline(),
        endpoints: config.endpoints(),
        standbys: rows.iter().map(standby).collect::<Result<_, _>>().map_err(failed)?,
        unseen: Vec::new(),
        databases: Vec::new(),
        unfit: Vec::new(),
        slots: Slots {
            free: u32::try_from(row.try_get::<_, i32>(6).map_err(failed)?).unwrap_or(0),
            kept: row.try_get(7).map_err(failed)?,
        },
        missing,
    })
}

/// Column 5: slots are kept free for such roles, and nobody who is leased a login has one. The last column is null before PostgreSQL 16.
const SERVER: &str = "SELECT current_setting('server_version_num')::int, r.rolsuper, NOT r.rolcreaterole,
    NOT pg_has_role('pg_read_all_stats', 'USAGE'), NOT pg_has_role('pg_signal_backend', 'USAGE'),
    coalesce(current_setting('reserved_connections', true), '0') <> '0' AND NOT coalesce(
      (SELECT pg_has_role(p.oid, 'USAGE') FROM pg_roles p WHERE p.rolname = 'pg_use_reserved_connections'), true),
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
      - coalesce(current_setting('reserved_connections', true), '0')::int,
    current_setting('reserved_connections', true) <> '0'
  FROM pg_roles r WHERE r.rolname = session_user";

const STANDBYS: &str =
    "SELECT application_name, host(client_addr), coalesce(state, '') FROM pg_stat_replication ORDER BY 1, 2";

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

/// Column 2: to give a role something takes the right to act as it.
const OWNER: &str = "SELECT r.rolcanlogin,
    r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls OR r.rolreplication,
    NOT pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END),
    ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
      WHERE m.member = r.oid ORDER BY 1)
  FROM pg_roles r WHERE r.rolname = $1";

async fn group_roles(
    session: &Session,
    config: &PostgresConfig,
    groups: &[String],
    unfit: &mut Vec<Fault>,
    missing: &mut Vec<String>,
) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    // First: what is a member of the executor's role can't be granted to it.
    let powerful: Vec<&str> = POWERFUL.into_iter().chain(config.own()).collect();
    let parameters = [(&groups as _, Type::TEXT_ARRAY), (&powerful as _, Type::TEXT_ARRAY)];
    for row in session.client.query_typed(LEADS_TO_POWER, &parameters).await.map_err(failed)? {
        let (group, leads) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let by: Option<&str> = row.try_get(2).map_err(failed)?;
        let by = by.map(|by| format!(" GRANTED BY {}", ident(by))).unwrap_or_default();
        missing.push(format!("REVOKE {} FROM {}{by}", ident(leads), ident(group)));
    }
    let user = ident(&config.user);
    let parameters = [(&groups as _, Type::TEXT_ARRAY)];
    for row in session.client.query_typed(GROUPS, &parameters).await.map_err(failed)? {
        let group: String = row.try_get(0).map_err(failed)?;
        if row.try_get(5).map_err(failed)? {
            unfit.push(Fault { name: group, reason: "it is the role that the server was made with".to_owned() });
            continue;
        }
        let name = ident(&group);
        for (column, statement) in [
            (1, format!("CREATE ROLE {name} NOLOGIN")),
            (2, format!("ALTER ROLE {name} NOLOGIN")),
            (3, format!("ALTER ROLE {name} NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS NOREPLICATION")),
            (4, format!("GRANT {name} TO {user} WITH ADMIN OPTION")),
        ] {
            if row.try_get(column).map_err(failed)? {
                missing.push(statement);
            }
        }
    }
    Ok(())
}

/// Column 4: from PostgreSQL 16 on `CREATEROLE` alone does not let us grant a role that we did not make. Column 5: nobody can take away
/// what the first role of a server may.
const GROUPS: &str = "SELECT a.name, g.oid IS NULL, coalesce(g.rolcanlogin, false),
    coalesce(g.rolsuper OR g.rolcreaterole OR g.rolcreatedb OR g.rolbypassrls OR g.rolreplication, false),
    current_setting('server_version_num')::int >= 160000 AND
      NOT coalesce(pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION'), false),
    coalesce(g.oid = 10, false)
  FROM unnest($1) WITH ORDINALITY AS a(name, nr) LEFT JOIN pg_roles g ON g.rolname = a.name ORDER BY a.nr";

/// The memberships of groups that lead, by whatever detour, to a role with power or with an attribute: whoever is a member may act as
/// it, before PostgreSQL 16, or grant it to himself, where the group has the admin option. A superuser is told of by itself. Column 2: a
/// membership of another grantor than the first role of the server is not taken away without naming him, from 16 on.
const LEADS_TO_POWER: &str = "SELECT g.rolname::text, d.rolname::text,
    CASE WHEN current_setting('server_version_num')::int >= 160000 AND m.grantor <> 10 THEN b.rolname::text END
  FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.member JOIN pg_roles d ON d.oid = m.roleid
    LEFT JOIN pg_roles b ON b.oid = m.grantor
  WHERE g.rolname = ANY($1) AND NOT g.rolsuper AND EXISTS (
    SELECT FROM pg_roles p WHERE pg_has_role(d.oid, p.oid, 'MEMBER') AND (p.rolname = ANY($2)
      OR p.rolsuper OR p.rolcreaterole OR p.rolcreatedb OR p.rolbypassrls OR p.rolreplication))
  ORDER BY 1, 2, 3";

/// Who may make what in one database. What leased users make under `SET ROLE` stays with the group, where the server lets
/// them (before PostgreSQL 16); what they make themselves has to go to the owner role, which takes its right to `CREATE`
/// where they have it. A schema can't go to it: the executor would have to be allowed to make schemas.
async fn objects(
    session: &Session,
    config: &PostgresConfig,
    database: &str,
    groups: &[String],
    missing: &mut Vec<Missing>,
) -> Result<(), EngineError> {
    let failed = |e: tokio_postgres::Error| on_repeatable(&e);
    let owner = match &config.owned {
        OwnedObjects::ReassignTo(owner) => Some(owner.as_str()),
        OwnedObjects::Drop => None,
    };
    let mut add = |statement| missing.push(Missing { database: database.to_owned(), statement });
    let parameters = [(&groups as _, Type::TEXT_ARRAY), (&owner as _, Type::TEXT)];
    for row in session.client.query_typed(CREATORS, &parameters).await.map_err(failed)? {
        let what: String = row.try_get(0).map_err(failed)?;
        let name = ident(row.try_get(1).map_err(failed)?);
        let acts_as_group: bool = row.try_get(5).map_err(failed)?;
        if acts_as_group || (what == "DATABASE" && owner.is_some()) {
            if row.try_get(2).map_err(failed)? {
                add(format!("REVOKE CREATE ON {what} {name} FROM PUBLIC"));
            }
            for group in row.try_get::<_, Vec<String>>(3).map_err(failed)? {
                add(format!("REVOKE CREATE ON {what} {name} FROM {}", ident(&group)));
            }
        }
        if let Some(owner) = owner.filter(|_| what == "SCHEMA")
            && row.try_get(4).map_err(failed)?
        {
            add(format!("GRANT CREATE ON {what} {name} TO {}", ident(owner)));
        }
    }
    if let Some(owner) = owner {
        // What belongs to the whole server is told of once.
        let shared = database == config.dbname;
        let parameters = [(&owner as _, Type::TEXT), (&shared as _, Type::BOOL)];
        for row in session.client.query_typed(OWNERS_RIGHTS, &parameters).await.map_err(failed)? {
            let revoke: String = row.try_get(0).map_err(failed)?;
            add(format!("{revoke} FROM {}", ident(owner)));
        }
    }
    Ok(())
}

/// The statements that take away whatever the owner role may do with objects that are not its own: what logins leave behind runs with
/// its rights, a `SECURITY DEFINER` function say, and is there for everybody. It takes things in schemas, and so keeps its rights on these.
const OWNERS_RIGHTS: &str = "SELECT DISTINCT CASE WHEN i.type = 'default acl'
      THEN 'ALTER DEFAULT PRIVILEGES ' || regexp_replace(i.identity, ' on ([a-z ]+)$', ' REVOKE ALL ON \\1')
      ELSE 'REVOKE ALL ON ' || CASE
        WHEN i.type IN ('view', 'materialized view', 'foreign table') THEN 'TABLE'
        WHEN i.type IN ('function', 'procedure', 'aggregate') THEN 'ROUTINE'
        WHEN i.type = 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER'
        WHEN i.type = 'server' THEN 'FOREIGN SERVER'
        WHEN i.type = 'parameter ACL' THEN 'PARAMETER'
        ELSE upper(i.type) END || ' ' || i.identity END
  FROM pg_roles o JOIN pg_shdepend d ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = o.oid AND d.deptype = 'a'
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
  WHERE o.rolname = $1 AND d.classid <> 'pg_namespace'::regclass AND i.identity IS NOT NULL
    AND (d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) OR d.dbid = 0 AND $2)
  ORDER BY 1";

/// A group that is a superuser is told of by itself, and may create everywhere until it is none. The owner role's right is
/// its own: everybody's is about to be taken away.
const CREATORS: &str = "WITH places AS (
    SELECT 'SCHEMA' AS what, n.nspname::text AS name, has_schema_privilege('public', n.oid, 'CREATE') AS everybody,
      ARRAY(SELECT g.rolname::text FROM pg_roles g WHERE g.rolname = ANY($1) AND NOT g.rolsuper
        AND has_schema_privilege(g.oid, n.oid, 'CREATE') ORDER BY 1) AS holders,
      EXISTS (SELECT FROM pg_roles o WHERE o.rolname = $2 AND (o.oid = n.nspowner OR EXISTS (
        SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = o.oid AND a.privilege_type = 'CREATE'))) AS owner
    FROM pg_namespace n
    UNION ALL
    SELECT 'DATABASE', d.datname::text, has_database_privilege('public', d.oid, 'CREATE'),
      ARRAY(SELECT g.rolname::text FROM pg_roles g WHERE g.rolname = ANY($1) AND NOT g.rolsuper
        AND has_database_privilege(g.oid, d.oid, 'CREATE') ORDER BY 1), true
    FROM pg_database d WHERE d.datname = current_database())
  SELECT what, name, everybody, CASE WHEN everybody THEN '{}' ELSE holders END, NOT owner,
    current_setting('server_version_num')::int < 160000
  FROM places WHERE everybody OR holders <> '{}' ORDER BY 1, 2";
