//! What is missing at a server before it can be worked with, as statements that cure it.

use super::MariaDbConfig;
use super::inspect::{grantee, has_globally, started};
use super::issue::NO_ROLE;
use super::quote::{account, ident, literal, literals};
use super::session::Session;
use crate::{Checked, EngineError, Fault, Missing, Slots, Standby};

/// What the executor's account needs on the whole server: to make and end accounts, to see sessions, to end them, to see who defined
/// a view.
const NEEDED: [&str; 4] = ["CREATE USER", "PROCESS", "CONNECTION ADMIN", "SHOW VIEW"];
/// Of a group's rights on the whole server, those that lead nowhere else: `SHOW DATABASES`, `CREATE TEMPORARY TABLES`, `LOCK TABLES`,
/// `BINLOG MONITOR`, `SHOW VIEW`, as bits of `access`.
const HARMLESS: u64 = 1 << 14 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 22;

/// See [`crate::Engine::check`].
pub(super) async fn check(
    session: &mut Session,
    config: &MariaDbConfig,
    groups: &[String],
) -> Result<Checked, EngineError> {
    let timeline = started(session).await?;
    let mut missing = Vec::new();
    let reads = own_rights(session, &mut missing).await?;
    let mut unfit = Vec::new();
    let standbys = standbys(session).await?;
    let free = session.rows::<u32>("SELECT @@max_connections").await?.first().copied().unwrap_or(0);
    // One more, for who has this right.
    let slots = Slots { free, kept: Some(has_globally(session, "CONNECTION ADMIN").await?) };
    if reads {
        anonymous(session, &mut missing).await?;
        for group in groups {
            if let Some(reason) = super::unfit(group, config) {
                unfit.push(Fault { name: group.clone(), reason: reason.to_owned() });
                continue;
            }
            group_role(session, group, &mut missing).await?;
        }
    }
    let statement = |statement| Missing { database: String::new(), statement };
    Ok(Checked {
        server_version: session.version,
        timeline,
        endpoints: vec![config.endpoint().to_string()],
        standbys,
        unseen: Vec::new(),
        databases: Vec::new(),
        unfit,
        slots,
        missing: missing.into_iter().map(statement).collect(),
    })
}

/// Whether the rest can be read at all.
async fn own_rights(session: &mut Session, missing: &mut Vec<String>) -> Result<bool, EngineError> {
    let own = account(&session.account.0, &session.account.1);
    if has_globally(session, "SUPER").await? {
        missing.push(format!("REVOKE SUPER ON *.* FROM {own}"));
    }
    for right in NEEDED {
        if !has_globally(session, right).await? {
            missing.push(format!("GRANT {right} ON *.* TO {own}"));
        }
    }
    let mut reads = true;
    for right in ["SELECT", "UPDATE"] {
        let sql = format!(
            "SELECT 1 FROM information_schema.SCHEMA_PRIVILEGES WHERE BINARY GRANTEE = {} AND TABLE_SCHEMA = 'mysql' \
             AND PRIVILEGE_TYPE = '{right}'",
            literal(&grantee(session))
        );
        if session.rows::<u8>(&sql).await?.is_empty() && !has_globally(session, right).await? {
            missing.push(format!("GRANT {right} ON mysql.* TO {own}"));
            reads &= right != "SELECT";
        }
    }
    Ok(reads)
}

/// Whoever comes from there is let in under any name that has no account, without a password.
async fn anonymous(session: &mut Session, missing: &mut Vec<String>) -> Result<(), EngineError> {
    let sql = format!("SELECT Host FROM mysql.global_priv WHERE User = '' AND {NO_ROLE} ORDER BY Host");
    for host in session.rows::<String>(&sql).await? {
        missing.push(format!("DROP USER {}", account("", &host)));
    }
    Ok(())
}

async fn group_role(session: &mut Session, group: &str, missing: &mut Vec<String>) -> Result<(), EngineError> {
    let (name, value) = (ident(group), literal(group));
    let (user, host) = (session.account.0.clone(), session.account.1.clone());
    let own = account(&user, &host);
    let exists = format!("SELECT 1 FROM mysql.global_priv WHERE User = {value} AND Host = ''");
    if session.rows::<u8>(&exists).await?.is_empty() {
        missing.push(format!("CREATE ROLE {name}"));
    }
    let admin = format!(
        "SELECT 1 FROM mysql.roles_mapping WHERE User = {} AND Host = {} AND Role = {value} AND Admin_option = 'Y'",
        literal(&user),
        literal(&host)
    );
    if session.rows::<u8>(&admin).await?.is_empty() {
        missing.push(format!("GRANT {name} TO {own} WITH ADMIN OPTION"));
    }
    let roles = with_its_roles(session, group).await?;
    for role in &roles {
        let value = literal(role);
        let global = format!(
            "SELECT 1 FROM mysql.global_priv WHERE User = {value} AND Host = '' \
             AND CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) & ~{HARMLESS} <> 0"
        );
        if !session.rows::<u8>(&global).await?.is_empty() {
            missing.push(format!("REVOKE ALL PRIVILEGES ON *.* FROM {}", ident(role)));
        }
        system_rights(session, role, missing).await?;
        // Whoever may do it leaves what runs without a session, or what makes every change of a table fail when its definer is gone.
        let leaves = format!(
            "SELECT Db, Event_priv = 'Y', Trigger_priv = 'Y' FROM mysql.db WHERE User = {value} AND Host = '' \
             AND (Event_priv = 'Y' OR Trigger_priv = 'Y') AND Db <> 'mysql' ORDER BY Db"
        );
        for (schema, event, trigger) in session.rows::<(String, bool, bool)>(&leaves).await? {
            for (right, _) in [("EVENT", event), ("TRIGGER", trigger)].into_iter().filter(|(_, has)| *has) {
                missing.push(format!("REVOKE {right} ON {}.* FROM {}", ident(&schema), ident(role)));
            }
        }
    }
    Ok(())
}

/// Rights in the schema that holds the accounts.
async fn system_rights(session: &mut Session, role: &str, missing: &mut Vec<String>) -> Result<(), EngineError> {
    let value = literal(role);
    // A grant's schema is a pattern.
    let schema = format!("SELECT Db FROM mysql.db WHERE User = {value} AND Host = '' AND 'mysql' LIKE Db ESCAPE '\\'");
    for db in session.rows::<String>(&schema).await? {
        missing.push(format!("REVOKE ALL PRIVILEGES ON {}.* FROM {}", ident(&db), ident(role)));
    }
    let tables = format!(
        "SELECT DISTINCT Table_name FROM mysql.tables_priv WHERE User = {value} AND Host = '' AND Db = 'mysql' ORDER BY 1"
    );
    for table in session.rows::<String>(&tables).await? {
        missing.push(format!("REVOKE ALL PRIVILEGES ON mysql.{} FROM {}", ident(&table), ident(role)));
    }
    Ok(())
}

/// The role, and all that it has been granted, by whatever detour.
async fn with_its_roles(session: &mut Session, group: &str) -> Result<Vec<String>, EngineError> {
    let mut all = vec![group.to_owned()];
    loop {
        let sql = format!(
            "SELECT DISTINCT Role FROM mysql.roles_mapping WHERE Host = '' AND User IN ({list}) AND Role NOT IN ({list})",
            list = literals(all.iter().map(String::as_str))
        );
        let more: Vec<String> = session.rows(&sql).await?;
        if more.is_empty() {
            return Ok(all);
        }
        all.extend(more);
    }
}

/// Who reads the binary log just now.
async fn standbys(session: &mut Session) -> Result<Vec<Standby>, EngineError> {
    let sql = "SELECT USER, HOST FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%' ORDER BY 1, 2";
    let standby = |(application_name, host): (String, String)| Standby {
        application_name,
        client_addr: Some(host.rsplit_once(':').map_or(host.clone(), |(address, _)| address.to_owned())),
        state: "streaming".to_owned(),
    };
    Ok(session.rows::<(String, String)>(sql).await?.into_iter().map(standby).collect())
}
