//! Engines whose target says whatever the input says: a lease's life at each kind, in virtual time.
//!
//! No panic of an engine or of a driver gets past `contained`; every call ends; what is said of principals is said of those that were asked for. That a target
//! which lies well is believed is no fault: what holds of an answer that is cut off is shown by `tests/tests/hostile_bytes`.

use crate::replay::{Script, Stub};
use quorate_crypto::secret::SecretVec;
use quorate_engines::aws::{Aws, AwsConfig};
use quorate_engines::contained::is_contained;
use quorate_engines::kubernetes::{Kubernetes, KubernetesConfig};
use quorate_engines::mariadb::{MariaDb, MariaDbConfig};
use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig};
use quorate_engines::rabbitmq::{RabbitMq, RabbitMqConfig};
use quorate_engines::redis::{Redis, RedisConfig};
use quorate_engines::{Cleaning, Create, Endpoint, Engine, EngineError, OwnSessions, Principal, Refusal, Tls};
use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;

/// How long a server may take for anything: virtual time, which passes when nobody has anything to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// No life takes longer, whatever the server does: some twenty calls, each of some questions that are waited for.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The login whose life it is, and what its name begins with.
const NAME: &str = "h_1";
const PREFIX: &str = "h_";
/// What every executor of these tests logs in with, unless its server drew it.
pub(crate) const PASSWORD: &str = "executor-canary-password";

/// A kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
    Redis,
    RabbitMq,
    Kubernetes,
    Aws,
}

impl Kind {
    /// An executor of a target at this port of the loopback.
    pub(crate) fn engine(self, port: u16, password: &str) -> Box<dyn Engine> {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port };
        let passwords = SecretVec::new(password.as_bytes().to_vec()).into();
        let (own, tls, target, term) = (OwnSessions::default(), Tls::Disabled, "t1".to_owned(), 1);
        let user = "quorate_executor".to_owned();
        let (connect_timeout, answer_timeout) = (PATIENCE, PATIENCE);
        let fits = "a configuration that can be used";
        match self {
            Self::Postgres => {
                let config = PostgresConfig {
                    host: endpoint.host,
                    port,
                    dbname: "postgres".into(),
                    databases: Vec::new(),
                    standbys: Vec::new(),
                    user,
                    own,
                    passwords,
                    tls,
                    target,
                    term,
                    owned: OwnedObjects::ReassignTo("quorate_owner".into()),
                    remote_apply: false,
                    connect_timeout,
                    statement_timeout: PATIENCE,
                    create_lock_timeout: PATIENCE,
                };
                Box::new(Postgres::new(config).expect(fits))
            }
            Self::MariaDb => {
                let config = MariaDbConfig {
                    host: endpoint.host,
                    port,
                    user: "quorate".into(),
                    passwords,
                    own,
                    tls,
                    target,
                    term,
                    require_tls: false,
                    connect_timeout,
                    statement_timeout: PATIENCE,
                };
                Box::new(MariaDb::new(config).expect(fits))
            }
            Self::Redis => {
                let end_scripts = true;
                let config = RedisConfig {
                    endpoint,
                    user,
                    passwords,
                    own,
                    tls,
                    target,
                    term,
                    end_scripts,
                    connect_timeout,
                    answer_timeout,
                };
                Box::new(Redis::new(config).expect(fits))
            }
            Self::RabbitMq => {
                let config = RabbitMqConfig {
                    endpoint,
                    user,
                    passwords,
                    own,
                    tls,
                    target,
                    term,
                    connect_timeout,
                    answer_timeout,
                };
                Box::new(RabbitMq::new(config).expect(fits))
            }
            Self::Kubernetes => {
                let config = KubernetesConfig {
                    endpoint,
                    namespace: "leases".into(),
                    user: "system:serviceaccount:leases:executor".into(),
                    passwords,
                    own,
                    tls,
                    target,
                    term,
                    connect_timeout,
                    answer_timeout,
                    settling: Duration::ZERO,
                };
                Box::new(Kubernetes::new(config).expect(fits))
            }
            Self::Aws => {
                let config = AwsConfig {
                    sts: endpoint.clone(),
                    iam: endpoint,
                    region: "eu-central-1".into(),
                    user: "arn:aws:iam::123456789012:user/quorate_executor".into(),
                    passwords,
                    tls,
                    target,
                    term,
                    propagation: Duration::ZERO,
                    connect_timeout,
                    answer_timeout,
                };
                Box::new(Aws::new(config).expect(fits))
            }
        }
    }

    /// A verifier of its form, and a group that its servers have.
    fn asks_for(self) -> (&'static str, &'static str) {
        match self {
            Self::Postgres => (
                "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$0Y0GJxU0BMvxfcEDlYjMXJmDIl2XQzKWYqCVJYsQ5iU=:T3G3rEX3qJuxvGCPTYJ0NSGn7E1gWhmWqpPjXIbAtqo=",
                "Readers \"of\" it's \\ 100%",
            ),
            Self::MariaDb => ("*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19", "read'er`s \\ \"x"),
            Self::Redis => ("#5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8", "~cf:* &cf.* +@read"),
            Self::RabbitMq => (
                "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
                "vhost=/ configure=^cf\\. write=^cf\\. read=^cf\\.",
            ),
            Self::Kubernetes => ("", "serviceaccount:app"),
            Self::Aws => ("", "group:readers"),
        }
    }
}

/// A call, and what it lets its caller believe: nothing where it failed, or is in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) call: &'static str,
    pub(crate) claim: Option<String>,
}

/// All that an executor does with one lease, and beside it.
pub(crate) async fn life(kind: Kind, engine: &dyn Engine) -> Vec<Step> {
    let mut steps = Vec::new();
    let aloud = std::env::var_os("QUORATE_ALOUD").is_some();
    let mut note = |call, claim: Option<String>| {
        if aloud {
            eprintln!("{call}: {claim:?}");
        }
        steps.push(Step { call, claim });
    };
    let (verifier, group) = kind.asks_for();
    let mut this = vec![Principal { name: NAME.to_owned(), oid: None }];

    note("take_over", said(engine.take_over().await));
    let checked = engine.check(&[group.to_owned()]).await.ok();
    note("check", checked.filter(|c| c.missing.is_empty() && c.unfit.is_empty()).map(|c| c.server_version.to_string()));
    note("timeline", said(engine.timeline().await));
    let bound = engine.bind().await;
    note("bind", said(bound.clone().map(drop)));
    if let Ok(binding) = bound {
        let create = Create {
            name: NAME.to_owned(),
            verifier: verifier.to_owned(),
            groups: vec![group.to_owned()],
            statements: Vec::new(),
            connection_limit: 5,
            max_ttl_seconds: 3_600,
            binding,
        };
        let made = engine.create(&create).await;
        if let Ok(made) = &made {
            this[0].oid = Some(made.oid);
        }
        note("create", made.ok().map(|made| format!("{} {}", made.oid, made.issued.is_some())));
        note("look", gone(engine, &this).await);
        note("list", list(engine).await);
        note("fence", said(engine.fence(NAME, &binding).await));
    }
    note("refuse", refused(engine, &this).await);
    note("kill", said(engine.kill(&this).await));
    note("look again", gone(engine, &this).await);
    note("clean", cleaned(engine, &this).await);
    note("list again", list(engine).await);
    let ghosts = engine.ghosts().await.ok();
    note("ghosts", ghosts.filter(|(_, unseen)| unseen.is_empty()).map(|(ghosts, _)| format!("{}", ghosts.len())));
    note("claim", said(engine.claim("h_mark").await));
    note("claims", said(engine.claims("h_mark").await));
    note("disclaim", said(engine.disclaim(&["h_mark".to_owned()]).await));
    note("end strangers", said(engine.end_strangers().await));
    steps
}

fn said<T: std::fmt::Debug>(answer: Result<T, EngineError>) -> Option<String> {
    if let Err(why) = &answer {
        if std::env::var_os("QUORATE_ALOUD").is_some() {
            eprintln!("{why:?}");
        }
        // Words of whoever answers are shown, and kept, and so are few.
        let words = why.to_string();
        assert!(words.len() < 64 << 10, "an error of {} bytes", words.len());
    }
    answer.ok().map(|answer| format!("{answer:?}"))
}

/// Whether all of them are gone, if that is what was seen.
async fn gone(engine: &dyn Engine, these: &[Principal]) -> Option<String> {
    let seen = engine.look(these).await.ok()?;
    assert!(
        seen.iter().map(|s| &s.name).eq(these.iter().map(|p| &p.name)),
        "one for each that was asked for: {seen:?}"
    );
    let gone = seen.iter().all(|s| !s.can_login && s.behind.is_empty() && s.sessions == 0);
    gone.then(|| "gone".to_owned())
}

async fn refused(engine: &dyn Engine, these: &[Principal]) -> Option<String> {
    let refused = engine.refuse(these).await.ok()?;
    assert!(refused.iter().map(|r| &r.name).eq(these.iter().map(|p| &p.name)), "one for each: {refused:?}");
    let all = refused.iter().all(|r| !matches!(r.outcome, Refusal::Failed(_)));
    all.then(|| "refused".to_owned())
}

async fn cleaned(engine: &dyn Engine, these: &[Principal]) -> Option<String> {
    let cleaned = engine.clean(these).await.ok()?;
    assert!(cleaned.iter().map(|c| &c.name).eq(these.iter().map(|p| &p.name)), "one for each: {cleaned:?}");
    cleaned.iter().all(|c| c.outcome == Cleaning::Gone).then(|| "gone".to_owned())
}

async fn list(engine: &dyn Engine) -> Option<String> {
    let listed = engine.list(PREFIX).await.ok()?;
    assert!(listed.iter().all(|p| p.name.starts_with(PREFIX)), "only what was asked for: {listed:?}");
    Some(format!("{:?}", listed.iter().map(|p| &p.name).collect::<Vec<_>>()))
}

/// A life at a target that says this.
pub(crate) fn replay(kind: Kind, password: &str, script: &Script) -> Vec<Step> {
    notice_panics();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    let steps = runtime.block_on(async {
        let stub = Stub::start(script).await;
        let engine = kind.engine(stub.port, password);
        let life = tokio::time::timeout(LONGEST, life(kind, &*engine)).await;
        life.unwrap_or_else(|_| panic!("a call that does not end"))
    });
    drop(runtime);
    assert_eq!(PANICS.replace(0), 0, "a panic that nothing contains: it would end the process");
    steps
}

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// A task that panics takes nobody along, and so has to be noticed.
fn notice_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |why| {
            if !is_contained() {
                PANICS.set(PANICS.get() + 1);
                before(why);
            }
        }));
    });
}

fn at(kind: Kind, input: &[u8]) {
    replay(kind, PASSWORD, &Script::decode(input));
}

pub(crate) fn postgres(input: &[u8]) {
    at(Kind::Postgres, input);
}

pub(crate) fn mariadb(input: &[u8]) {
    at(Kind::MariaDb, input);
}

pub(crate) fn redis(input: &[u8]) {
    at(Kind::Redis, input);
}

pub(crate) fn rabbitmq(input: &[u8]) {
    at(Kind::RabbitMq, input);
}

pub(crate) fn kubernetes(input: &[u8]) {
    at(Kind::Kubernetes, input);
}

pub(crate) fn aws(input: &[u8]) {
    at(Kind::Aws, input);
}
