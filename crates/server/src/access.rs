//! How a login connects to one target: what its description says, for the engine of its kind.

use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig};
use quorate_engines::{Endpoint, Engine, EngineError, OwnSessions, Passwords, Tls, Trust};
use quorate_state::target::{System, TargetSpec, TargetTls};
use std::sync::Arc;
use std::time::Duration;

/// For a connection, from the name look-up to the first answer.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one statement may take at the target.
const STATEMENT: Duration = Duration::from_secs(10);
/// How long a create waits for a lock there.
const CREATE_LOCK: Duration = Duration::from_secs(3);

/// Makes the engine of a target; nothing connects yet.
pub type MakeEngine = dyn Fn(Access) -> Result<Arc<dyn Engine>, EngineError> + Send + Sync;

/// How one login connects to one target, in one term of office.
pub struct Access {
    /// Where the target is, and what it is.
    pub spec: TargetSpec,
    /// Its name.
    pub target: String,
    /// The executor's term of office there.
    pub term: u64,
    /// The login: the one of the description, or a leased one that is tried.
    pub user: String,
    /// Its passwords.
    pub passwords: Passwords,
    /// Where the connections are noted that are opened.
    pub own: OwnSessions,
}

/// Whether this build has an engine for a kind of system.
pub(crate) fn is_built(system: System) -> bool {
    match system {
        System::PostgreSql => true,
        System::MariaDb => cfg!(feature = "mariadb"),
        System::Redis => cfg!(feature = "redis"),
        System::RabbitMq => cfg!(feature = "rabbitmq"),
        // Its engine is there; nothing tries one of its logins yet, without which no target is proved.
        System::Webhook => false,
    }
}

/// The real engines.
pub(crate) fn make_real() -> Box<MakeEngine> {
    Box::new(|access| {
        let tls = protection(access.spec.tls.as_ref())?;
        match access.spec.system {
            System::PostgreSql => Ok(Arc::new(Postgres::new(postgres(access, tls))?)),
            #[cfg(feature = "mariadb")]
            System::MariaDb => Ok(Arc::new(quorate_engines::mariadb::MariaDb::new(mariadb(access, tls))?)),
            #[cfg(feature = "redis")]
            System::Redis => Ok(Arc::new(quorate_engines::redis::Redis::new(redis(access, tls))?)),
            #[cfg(feature = "rabbitmq")]
            System::RabbitMq => Ok(Arc::new(quorate_engines::rabbitmq::RabbitMq::new(rabbitmq(access, tls))?)),
            #[allow(unreachable_patterns, reason = "which are left depends on the features")]
            _ => Err(EngineError::Invalid {
                field: "system",
                reason: "this member's program was built without the engine for it: build it with `--features engines`",
            }),
        }
    })
}

fn postgres(access: Access, tls: Tls) -> PostgresConfig {
    let Access { spec, target, term, user, passwords, own } = access;
    let endpoint = |e: &quorate_state::target::Endpoint| Endpoint { host: e.host.clone(), port: e.port };
    PostgresConfig {
        standbys: spec.standbys.iter().map(endpoint).collect(),
        owned: if spec.owner.is_empty() { OwnedObjects::Drop } else { OwnedObjects::ReassignTo(spec.owner) },
        host: spec.host,
        port: spec.port,
        dbname: spec.database,
        databases: spec.databases,
        user,
        passwords,
        own,
        tls,
        target,
        term,
        remote_apply: spec.remote_apply,
        connect_timeout: CONNECT,
        statement_timeout: STATEMENT,
        create_lock_timeout: CREATE_LOCK,
    }
}

#[cfg(feature = "mariadb")]
fn mariadb(access: Access, tls: Tls) -> quorate_engines::mariadb::MariaDbConfig {
    let Access { spec, target, term, user, passwords, own } = access;
    quorate_engines::mariadb::MariaDbConfig {
        // Where we come by TLS only, so do the logins that we lease: nothing makes their way safer than ours.
        require_tls: matches!(tls, Tls::Verified(_)),
        host: spec.host,
        port: spec.port,
        user,
        passwords,
        own,
        tls,
        target,
        term,
        connect_timeout: CONNECT,
        statement_timeout: STATEMENT,
    }
}

#[cfg(feature = "redis")]
fn redis(access: Access, tls: Tls) -> quorate_engines::redis::RedisConfig {
    let Access { spec, target, term, user, passwords, own } = access;
    quorate_engines::redis::RedisConfig {
        endpoint: Endpoint { host: spec.host, port: spec.port },
        user,
        passwords,
        own,
        tls,
        target,
        term,
        // A login that may run scripts could put off its own end otherwise.
        end_scripts: true,
        connect_timeout: CONNECT,
        answer_timeout: STATEMENT,
    }
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(access: Access, tls: Tls) -> quorate_engines::rabbitmq::RabbitMqConfig {
    let Access { spec, target, term, user, passwords, own } = access;
    quorate_engines::rabbitmq::RabbitMqConfig {
        endpoint: Endpoint { host: spec.host, port: spec.port },
        user,
        passwords,
        own,
        tls,
        target,
        term,
        connect_timeout: CONNECT,
        answer_timeout: STATEMENT,
    }
}

/// How an engine is to protect its connections. Endorsers ask too, before they sign: what is no certificate stands in no
/// description.
pub(crate) fn protection(described: Option<&TargetTls>) -> Result<Tls, EngineError> {
    let Some(tls) = described else { return Ok(Tls::Disabled) };
    let name = Some(tls.server_name.as_str()).filter(|name| !name.is_empty());
    Ok(Tls::Verified(Trust::new(&tls.roots, name, tls.require_binding)?))
}
