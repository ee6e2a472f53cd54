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
/// How long AWS is given to tell all its servers of a change.
#[cfg(feature = "aws")]
const PROPAGATION: Duration = Duration::from_secs(10);
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
        System::Webhook => cfg!(feature = "webhook"),
        System::Aws => cfg!(feature = "aws"),
        System::Kubernetes => cfg!(feature = "kubernetes"),
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
            #[cfg(feature = "webhook")]
            System::Webhook => Ok(Arc::new(quorate_engines::webhook::Webhook::new(webhook(access, tls))?)),
            #[cfg(feature = "aws")]
            System::Aws => Ok(Arc::new(quorate_engines::aws::Aws::new(aws(access, tls))?)),
            #[cfg(feature = "kubernetes")]
            System::Kubernetes => Ok(Arc::new(quorate_engines::kubernetes::Kubernetes::new(kubernetes(access, tls))?)),
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

#[cfg(feature = "webhook")]
fn webhook(access: Access, tls: Tls) -> quorate_engines::webhook::WebhookConfig {
    let Access { spec, target, term, user: _, passwords, own } = access;
    quorate_engines::webhook::WebhookConfig {
        endpoint: Endpoint { host: spec.host, port: spec.port },
        path: spec.database.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        passwords,
        own,
        tls,
        target,
        term,
        connect_timeout: CONNECT,
        answer_timeout: STATEMENT,
    }
}

/// Where IAM and STS are. In AWS itself each has an address of its own, and a description names the partition's domain, as `amazonaws.com`; what
/// stands in for AWS has one for both.
#[cfg(feature = "aws")]
fn aws_endpoints(spec: &TargetSpec) -> (Endpoint, Endpoint) {
    let at = |host: String| Endpoint { host, port: spec.port };
    match spec.host.as_str() {
        domain @ ("amazonaws.com" | "amazonaws.com.cn") => {
            let region = &spec.database;
            let iam =
                if domain.ends_with(".cn") { format!("iam.cn-north-1.{domain}") } else { format!("iam.{domain}") };
            (at(iam), at(format!("sts.{region}.{domain}")))
        }
        host => (at(host.to_owned()), at(host.to_owned())),
    }
}

#[cfg(feature = "aws")]
fn aws(access: Access, tls: Tls) -> quorate_engines::aws::AwsConfig {
    let (iam, sts) = aws_endpoints(&access.spec);
    let Access { spec, target, term, user, passwords, own: _ } = access;
    quorate_engines::aws::AwsConfig {
        sts,
        iam,
        region: spec.database,
        user,
        passwords,
        tls,
        target,
        term,
        propagation: PROPAGATION,
        connect_timeout: CONNECT,
        answer_timeout: STATEMENT,
    }
}

#[cfg(feature = "kubernetes")]
fn kubernetes(access: Access, tls: Tls) -> quorate_engines::kubernetes::KubernetesConfig {
    let Access { spec, target, term, user, passwords, own } = access;
    quorate_engines::kubernetes::KubernetesConfig {
        endpoint: Endpoint { host: spec.host, port: spec.port },
        namespace: spec.database,
        user,
        passwords,
        own,
        tls,
        target,
        term,
        connect_timeout: CONNECT,
        answer_timeout: STATEMENT,
        settling: quorate_engines::kubernetes::SETTLING,
    }
}

/// How an engine is to protect its connections. Endorsers ask too, before they sign: what is no certificate stands in no
/// description.
pub(crate) fn protection(described: Option<&TargetTls>) -> Result<Tls, EngineError> {
    let Some(tls) = described else { return Ok(Tls::Disabled) };
    let name = Some(tls.server_name.as_str()).filter(|name| !name.is_empty());
    Ok(Tls::Verified(Trust::new(&tls.roots, name, tls.require_binding)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crypto::secret::SecretVec;

    /// Nobody endorses what nobody could end, and nobody refuses what he could: whatever the features of this build are.
    #[test]
    fn there_is_an_engine_for_what_is_endorsed_and_for_nothing_else() {
        // Some take no description without it.
        let issuer = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        let roots = vec![issuer.cert.der().to_vec()];
        for system in System::ALL {
            let tls = TargetTls { roots: roots.clone(), server_name: String::new(), require_binding: false };
            // A region, a namespace.
            let database = if system.issues() { "eu-central-1".to_owned() } else { String::new() };
            let host = "h".to_owned();
            let spec = TargetSpec { system, host, port: 1, database, tls: Some(tls), ..TargetSpec::default() };
            let access = Access {
                spec,
                target: "t".to_owned(),
                term: 1,
                user: if system == System::Aws { "arn:aws:iam::123456789012:user/q" } else { "quorate" }.to_owned(),
                passwords: SecretVec::new(vec![b'p'; 32]).into(),
                own: OwnSessions::default(),
            };
            let made = make_real()(access).map(drop);
            let missing = matches!(&made, Err(EngineError::Invalid { field: "system", .. }));
            assert_eq!(missing, !is_built(system), "{system}: {made:?}");
            assert!(missing || made.is_ok(), "{system}: {made:?}");
        }
    }
}
