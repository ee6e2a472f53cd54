//! What is missing at a server before it can be worked with, as commands that cure it.

use std::collections::BTreeMap;

use redis::Value;

use super::session::{Persistence, Session, text, texts};
use super::{DEFAULT, RedisConfig, rules};
use crate::{Checked, EngineError, Fault, Missing, Slots, Standby, number_of};

/// What the executor's user may do, each as it is asked for; and nothing else, no key and no channel.
const RIGHTS: [(&str, &[&str]); 16] = [
    ("acl|setuser", &["ACL", "SETUSER", "q"]),
    ("acl|deluser", &["ACL", "DELUSER", "q"]),
    ("acl|getuser", &["ACL", "GETUSER", "q"]),
    ("acl|users", &["ACL", "USERS"]),
    ("acl|save", &["ACL", "SAVE"]),
    ("client|list", &["CLIENT", "LIST"]),
    ("client|kill", &["CLIENT", "KILL", "ID", "1"]),
    ("client|id", &["CLIENT", "ID"]),
    ("client|setname", &["CLIENT", "SETNAME", "q"]),
    ("config|get", &["CONFIG", "GET", "aclfile"]),
    ("config|rewrite", &["CONFIG", "REWRITE"]),
    ("info", &["INFO"]),
    ("ping", &["PING"]),
    ("multi", &["MULTI"]),
    ("exec", &["EXEC"]),
    ("script|kill", &["SCRIPT", "KILL"]),
];
/// Beside [`RIGHTS`]: what says whether we have them, and the other half of ending scripts.
const FURTHER: [(&str, &[&str]); 2] =
    [("acl|dryrun", &["ACL", "DRYRUN", "q", "PING"]), ("function|kill", &["FUNCTION", "KILL"])];

/// See [`crate::Engine::check`].
pub(super) async fn check(
    session: &mut Session,
    config: &RedisConfig,
    groups: &[String],
) -> Result<Checked, EngineError> {
    let mut checked = nothing(config, groups);
    checked.server_version = session.version;
    checked.timeline = timeline(session).await?;
    checked.standbys = standbys(session).await?;
    let most = session.info("clients").await?.get("maxclients").and_then(|most| most.parse().ok());
    // None is kept for administrators.
    checked.slots = Slots { free: most.unwrap_or(0), kept: None };
    checked.missing.clear();
    let mut lacking = Vec::new();
    let kept = session.persistence;
    for (right, command) in RIGHTS.iter().chain(&FURTHER).filter(|(right, _)| is_needed(right, kept, config)) {
        if !may(session, config, command).await? {
            lacking.push(*right);
        }
    }
    if !lacking.is_empty() {
        checked.missing.push(setuser(config, &lacking));
    }
    if may(session, config, &["GET", "k"]).await? {
        let rights: Vec<&str> = RIGHTS.iter().chain(&FURTHER).map(|(right, _)| *right).collect();
        let rights = setuser(config, &rights).statement;
        let reset = format!("ACL SETUSER {} resetkeys resetchannels -@all", config.user);
        let statement = rights.replace(&format!("ACL SETUSER {}", config.user), &reset);
        checked.missing.push(Missing { database: String::new(), statement });
    }
    if let Some(statement) = open_to_all(session).await? {
        checked.missing.push(Missing { database: String::new(), statement });
    }
    if session.persistence == Persistence::Nowhere {
        let statement = "aclfile /etc/redis/users.acl  # in the server's configuration; then start it again".to_owned();
        checked.missing.push(Missing { database: String::new(), statement });
    }
    if lacking.is_empty()
        && let Err(error) = session.save().await
    {
        let reason = format!("its users can't be kept, so that a restart would bring back whom it has let go: {error}");
        checked.unseen.push(Fault { name: config.endpoint.to_string(), reason });
    }
    Ok(checked)
}

/// What is known of a server at which we may not even ask.
pub(super) fn nothing(config: &RedisConfig, groups: &[String]) -> Checked {
    let unfit = |group: &String| {
        let reason = rules::parse(group).err()?.to_owned();
        Some(Fault { name: group.clone(), reason })
    };
    let rights: Vec<&str> = RIGHTS.iter().chain(&FURTHER).map(|(right, _)| *right).collect();
    Checked {
        server_version: 0,
        timeline: 0,
        endpoints: vec![config.endpoint.to_string()],
        standbys: Vec::new(),
        unseen: Vec::new(),
        databases: Vec::new(),
        slots: Slots { free: 0, kept: None },
        unfit: groups.iter().filter_map(unfit).collect(),
        missing: vec![setuser(config, &rights)],
    }
}

/// See [`crate::Engine::timeline`]: changes with each start of the server, and with each fail-over.
pub(super) async fn timeline(session: &mut Session) -> Result<u32, EngineError> {
    let server = session.info("server").await?;
    let replication = session.info("replication").await?;
    let field = |from: &BTreeMap<String, String>, key: &str| from.get(key).cloned().unwrap_or_default();
    let (run, role) = (field(&server, "run_id"), field(&replication, "role"));
    Ok(number_of(&format!("{run} {role} {}", field(&replication, "master_replid"))))
}

fn is_needed(right: &str, persistence: Persistence, config: &RedisConfig) -> bool {
    match right {
        "acl|save" => persistence == Persistence::AclFile,
        "config|rewrite" => persistence == Persistence::ConfigFile,
        "script|kill" | "function|kill" => config.end_scripts,
        _ => true,
    }
}

fn setuser(config: &RedisConfig, rights: &[&str]) -> Missing {
    let rights: String = rights.iter().map(|right| format!(" +{right}")).collect();
    Missing { database: String::new(), statement: format!("ACL SETUSER {}{rights}", config.user) }
}

/// Whether our user may send this. Nothing is done.
async fn may(session: &mut Session, config: &RedisConfig, command: &[&str]) -> Result<bool, EngineError> {
    let mut ask = redis::cmd("ACL");
    ask.arg("DRYRUN").arg(&config.user).arg(command);
    match session.call(&ask).await {
        Ok(answer) => Ok(answer == Value::Okay || text(&answer).as_deref() == Some("OK")),
        Err(EngineError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What closes a server that lets in everybody who reaches it: there a login that was ended is as good as one that was not.
async fn open_to_all(session: &mut Session) -> Result<Option<String>, EngineError> {
    let answer = match session.call(redis::cmd("ACL").arg("GETUSER").arg(DEFAULT)).await {
        Err(EngineError::Refused { .. }) => return Ok(None),
        other => other?,
    };
    let Value::Array(fields) = answer else { return Ok(None) };
    let flags = fields.get(1).map(texts).unwrap_or_default();
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    Ok((has("on") && has("nopass")).then(|| format!("ACL SETUSER {DEFAULT} off")))
}

/// The replicas. They have users of their own.
async fn standbys(session: &mut Session) -> Result<Vec<Standby>, EngineError> {
    let info = session.info("replication").await?;
    let replica = |(key, line): (&String, &String)| {
        key.strip_prefix("slave")?.parse::<u32>().ok()?;
        let field =
            |name: &str| line.split(',').find_map(|f| f.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        Some(Standby { application_name: String::new(), client_addr: field("ip"), state: field("state")? })
    };
    Ok(info.iter().filter_map(replica).collect())
}
