//! What MariaDB does that no other target does, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod canary;
mod half_open;
mod hostile;
mod relay;
mod rights;
mod server;
mod tls;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use mysql_async::prelude::Queryable;
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{self, Credential, Target, assert_ended, order, principal};
use quorate_engines::mariadb::{MariaDb, MariaDbConfig};
use quorate_engines::{Cleaning, Engine, EngineError, Fenced, Refusal, number_of};
use relay::Relay;
use server::{EXECUTOR, My, native};
use tokio::time::{Instant, sleep, timeout};

/// Makes a principal and says its password.
pub(crate) async fn lease(my: &My, engine: &MariaDb, name: &str) -> Credential {
    let credential = my.credential();
    engine.create(&order(my, engine, name, &credential).await).await.unwrap();
    credential
}

/// The same, as a member of a group that may make objects.
pub(crate) async fn maker(my: &My, engine: &MariaDb, name: &str) -> Credential {
    let credential = my.credential();
    let mut create = order(my, engine, name, &credential).await;
    create.groups = vec!["makers".into()];
    engine.create(&create).await.unwrap();
    credential
}

/// Ends it as an executor does, and asks the server itself whether that is so.
pub(crate) async fn end(my: &My, engine: &MariaDb, name: &str) {
    let this = [principal(name, Some(number_of(name)))];
    let refused = engine.refuse(&this).await.unwrap();
    assert_eq!(refused[0].outcome, Refusal::Disabled { groups_left: vec![] }, "{name}");
    engine.kill(&this).await.unwrap();
    assert_ended(engine, &this).await;
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM mysql.global_priv WHERE User = '{name}' AND JSON_VALUE(Priv, '$.account_locked') IS NULL) \
         + (SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE BINARY USER = '{name}')"
    );
    assert_eq!(my.rows::<u64>(&sql).await, [0], "{name} is not ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    let my = My::start(&[]).await;
    conformance::run(&*my).await;
}

/// What an administrator sets for everybody changes neither what our statements mean nor what they show.
#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite_whatever_the_server_sets() {
    let settings = [
        "sql-mode=ANSI_QUOTES,IGNORE_SPACE",
        "init-connect=SET sql_mode = 'ANSI_QUOTES', sql_select_limit = 1, timestamp = 1",
        "log-bin=bin",
        "binlog-format=STATEMENT",
        "character-set-server=latin1",
        "collation-server=latin1_german2_ci",
        "lc-messages=de_DE",
        "max-statement-time=1",
    ];
    let my = My::start(&settings).await;
    conformance::run(&*my).await;
}

/// Whoever dies between the statements of a create leaves an account that nobody can log in to, and that a fence finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_given_up_half_way_lets_nobody_in() {
    let my = My::shared().await;
    let next = my.engine(2);
    for (i, micros) in [0, 100, 300, 700, 1500, 3000, 6000, 12000].into_iter().enumerate() {
        let (dying, name) = (my.engine(1), format!("h_dies_{i}"));
        let credential = my.credential();
        let create = order(&*my, &dying, &name, &credential).await;
        let _ = timeout(Duration::from_micros(micros), dying.create(&create)).await;
        assert!(
            matches!(dying.create(&create).await, Err(EngineError::StaleBinding | EngineError::Duplicate)),
            "nothing follows on a connection whose statement was given up"
        );
        let fenced = next.fence(&name, &create.binding).await.unwrap();
        match fenced {
            Fenced::Won { oid } => {
                assert_eq!(oid, number_of(&name));
                end(&my, &next, &name).await;
            }
            Fenced::Absent => {
                let seen = next.look(&[principal(&name, None)]).await.unwrap().remove(0);
                assert_eq!((seen.oid, seen.can_login), (None, false), "{name} came to life after its fence");
            }
        }
        assert!(my.login(&name, &credential).await.is_none(), "{name}: {fenced:?}");
    }
    // For each statement before which one can die.
    for (i, before) in ["CREATE USER", "GRANT `", "SET DEFAULT ROLE", "ACCOUNT UNLOCK"].into_iter().enumerate() {
        let (name, credential) = (format!("h_half_{i}"), my.credential());
        let relay = Relay::start(my.port, before).await;
        let dying = MariaDb::new(MariaDbConfig { port: relay.port, ..my.config(1) }).unwrap();
        let create = order(&*my, &dying, &name, &credential).await;
        let work = tokio::spawn(async move { dying.create(&create).await });
        relay.reached.notified().await;
        assert!(my.login(&name, &credential).await.is_none(), "it is not unlocked before {before}");
        work.abort();
        let binding = next.bind().await.unwrap();
        let fenced = next.fence(&name, &binding).await.unwrap();
        if i == 0 {
            assert_eq!(fenced, Fenced::Absent);
            continue;
        }
        assert_eq!(fenced, Fenced::Won { oid: number_of(&name) }, "what died before {before} is no marker");
        end(&my, &next, &name).await;
        assert_eq!(next.clean(&[principal(&name, None)]).await.unwrap()[0].outcome, Cleaning::Gone);
    }
}

/// A `GRANT` to an account that is gone would make it anew, for everybody, if the server were let.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_dropped_while_it_is_made_is_not_made_anew() {
    let my = My::shared().await;
    for (i, before) in ["GRANT `", "SET DEFAULT ROLE", "ACCOUNT UNLOCK"].into_iter().enumerate() {
        let name = format!("h_anew_{i}");
        let relay = Relay::start(my.port, before).await;
        let engine = MariaDb::new(MariaDbConfig { port: relay.port, ..my.config(1) }).unwrap();
        let create = order(&*my, &engine, &name, &my.credential()).await;
        let work = tokio::spawn(async move { engine.create(&create).await });
        relay.reached.notified().await;
        my.sql(&[&format!("DROP USER {name}")]).await;
        relay.go_on.notify_one();
        let result = timeout(Duration::from_secs(10), work).await.unwrap().unwrap();
        assert!(matches!(result, Err(EngineError::Refused { .. })), "before {before}: {result:?}");
        let sql = format!("SELECT COUNT(*) FROM mysql.global_priv WHERE User = '{name}'");
        assert_eq!(my.rows::<u64>(&sql).await, [0], "before {before}");
        assert!(my.client(&name, "").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_refused_half_way_leaves_nothing() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let mut create = order(&*my, &engine, "h_nogroup", &my.credential()).await;
    create.groups = vec!["no_such_group".into()];
    assert!(matches!(engine.create(&create).await, Err(EngineError::Refused { code, .. }) if code == "1959"));
    assert_eq!(my.rows::<u64>("SELECT COUNT(*) FROM mysql.global_priv WHERE User = 'h_nogroup'").await, [0]);
    // The connection goes on.
    create.groups.clear();
    engine.create(&create).await.unwrap();
    for change in [
        |c: &mut quorate_engines::Create| c.groups = vec!["makers".into(), server::GROUP.into()],
        |c: &mut quorate_engines::Create| c.groups = vec![EXECUTOR.into()],
        |c: &mut quorate_engines::Create| c.name = EXECUTOR.into(),
        |c: &mut quorate_engines::Create| c.name = "root".into(),
        |c: &mut quorate_engines::Create| c.verifier = "*00".into(),
    ] {
        let mut create = order(&*my, &engine, "h_invalid", &my.credential()).await;
        change(&mut create);
        assert!(matches!(engine.create(&create).await, Err(EngineError::Invalid { .. })), "{create:?}");
    }
    let root = [principal("root", None), principal(EXECUTOR, None)];
    for one in root {
        assert!(matches!(engine.refuse(std::slice::from_ref(&one)).await, Err(EngineError::Invalid { .. })), "{one:?}");
    }
}

/// A fence that dies leaves its marker; it is nobody's login, and the next fence takes it away.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_is_left_behind_is_no_principal() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let marker = "CREATE USER h_marker@'%' IDENTIFIED VIA mysql_native_password USING 'invalid' ACCOUNT LOCK";
    my.sql(&[marker]).await;
    let create = order(&*my, &engine, "h_marker", &my.credential()).await;
    assert_eq!(engine.create(&create).await, Err(EngineError::Duplicate));
    assert!(!engine.look(&[principal("h_marker", None)]).await.unwrap()[0].can_login);
    assert_eq!(my.engine(1).fence("h_marker", &create.binding).await, Ok(Fenced::Absent));
    assert_eq!(my.rows::<u64>("SELECT COUNT(*) FROM mysql.global_priv WHERE User = 'h_marker'").await, [0]);
    assert_eq!(
        engine
            .create(&create)
            .await
            .err()
            .map(|e| matches!(e, EngineError::Unknown { .. } | EngineError::StaleBinding)),
        Some(true)
    );
}

/// The server gives up by itself what was given up here, and before.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_is_dead_on_the_server_too() {
    let my = My::start(&[]).await;
    // By the limit of a statement; then by nobody here: its caller has gone.
    for (name, leaves) in [("h_late", false), ("h_gone", true)] {
        let config = MariaDbConfig { statement_timeout: Duration::from_secs(1), ..my.config(1) };
        let engine = MariaDb::new(config).unwrap();
        let credential = my.credential();
        let create = order(&*my, &engine, name, &credential).await;
        my.hold_creates().await;
        let begun = Instant::now();
        if leaves {
            assert!(timeout(Duration::from_millis(300), engine.create(&create)).await.is_err(), "it is in flight");
            drop(engine);
        } else {
            let result = engine.create(&create).await;
            assert!(matches!(result, Err(EngineError::Busy { .. })), "{name}: {result:?}");
            assert!(begun.elapsed() < Duration::from_secs(5), "the server answers before we give up");
        }
        let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'CREATE USER%'";
        while my.rows::<u64>(waiting).await != [0] {
            assert!(begun.elapsed() < Duration::from_secs(5), "{name} is still at work");
            sleep(Duration::from_millis(50)).await;
        }
        my.release().await;
        let seen = my.engine(1).look(&[principal(name, None)]).await.unwrap().remove(0);
        assert_eq!((seen.oid, seen.can_login), (None, false), "{name} came to life later");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_has_its_role_its_limit_and_no_more() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let credential = my.credential();
    let mut create = order(&*my, &engine, "h_rights", &credential).await;
    create.connection_limit = 2;
    engine.create(&create).await.unwrap();
    let mut first = my.client("h_rights", &credential.password).await.unwrap();
    assert_eq!(first.query_first::<i32, _>("SELECT a FROM app.t").await.unwrap(), Some(7), "by its default role");
    assert!(first.query_drop("DELETE FROM app.t").await.is_err());
    let second = my.client("h_rights", &credential.password).await.unwrap();
    let third = my.client("h_rights", &credential.password).await.unwrap_err();
    assert!(third.to_string().contains("max_user_connections"), "{third}");
    drop(second);
    for sql in [
        "ALTER USER CURRENT_USER() ACCOUNT UNLOCK",
        "ALTER USER CURRENT_USER() WITH MAX_USER_CONNECTIONS 100",
        "SET ROLE makers",
        "CREATE USER h_other",
    ] {
        assert!(first.query_drop(sql).await.is_err(), "{sql}");
    }
    assert!(engine.list("h_rig").await.unwrap().contains(&principal("h_rights", Some(number_of("h_rights")))));
}

/// The strongest that the server takes, where its plugin is loaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_of_ed25519_lets_in_where_its_plugin_is_loaded() {
    let my = My::start(&["plugin-load-add=auth_ed25519"]).await;
    let engine = my.engine(1);
    let credential = my.credential();
    let mut create = order(&*my, &engine, "h_edwards", &credential).await;
    create.verifier = ed25519(&credential.password);
    engine.create(&create).await.unwrap();
    let (port, password) = (my.port, credential.password.clone());
    let login = move |password: &str| {
        let output = std::process::Command::new("mariadb")
            .args(["--no-defaults", "--host=127.0.0.1", "--user=h_edwards", "--execute=SELECT CURRENT_USER()"])
            .args([format!("--port={port}"), format!("--password={password}")])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let tried = tokio::task::spawn_blocking(move || (login(&password), login("another"))).await.unwrap();
    assert_eq!(tried.0, (true, String::new()), "the password of that key");
    assert!(tried.1.1.contains("Access denied"), "another: {tried:?}");

    let without = My::shared().await;
    let engine = without.engine(1);
    let mut create = order(&*without, &engine, "h_edwards", &credential).await;
    create.verifier = ed25519(&credential.password);
    let result = engine.create(&create).await;
    assert!(matches!(&result, Err(EngineError::Refused { code, .. }) if code == "1524"), "{result:?}");
    assert!(engine.list("h_edwards").await.unwrap().is_empty());
}

/// The public key of which the password is the seed, whatever its length.
fn ed25519(password: &str) -> String {
    use sha2::{Digest, Sha512};
    let digest = Sha512::digest(password.as_bytes());
    let point = curve25519_dalek::EdwardsPoint::mul_base_clamped(digest[..32].try_into().unwrap());
    format!("ed25519:{}", STANDARD_NO_PAD.encode(point.compress().as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_password_is_replaced_and_strangers_end() {
    let my = My::start(&[]).await;
    let engine = my.engine(1);
    let binding = engine.bind().await.unwrap();
    engine.timeline().await.unwrap();
    let stranger = my.client(EXECUTOR, server::EXECUTOR_PASSWORD).await.unwrap();
    let stale = quorate_engines::Binding { backend_start_micros: 1, ..binding };
    assert_eq!(engine.set_password(&native("new"), &stale).await, Err(EngineError::StaleBinding));
    assert!(matches!(engine.set_password("new", &binding).await, Err(EngineError::Invalid { .. })));
    assert!(matches!(engine.set_password(&ed25519("new"), &binding).await, Err(EngineError::Invalid { .. })));
    engine.set_password(&native("new"), &binding).await.unwrap();
    let late = my.engine(1);
    let error = late.bind().await.unwrap_err();
    assert!(error.is_login_refused() && late.login_refused().is_some(), "{error}");
    late.learn_password(7, SecretVec::new(b"new".to_vec()));
    late.bind().await.unwrap();
    assert_eq!((late.let_in_with(), late.login_refused()), (Some(7), None));

    // `late` is another executor, whose sessions are not ours.
    assert_eq!(engine.end_strangers().await, Ok(2));
    drop(stranger);
    engine.bind().await.unwrap();
    assert_eq!(engine.bind().await.unwrap(), binding, "ours are spared");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_earlier_terms_end_and_no_others() {
    let my = My::start(&[]).await;
    let (old, other, next) =
        (my.engine(3), MariaDb::new(MariaDbConfig { target: "t2".into(), ..my.config(1) }).unwrap(), my.engine(4));
    let (binding, others) = (old.bind().await.unwrap(), other.bind().await.unwrap());
    old.timeline().await.unwrap();
    let by_hand = my.client(EXECUTOR, server::EXECUTOR_PASSWORD).await.unwrap();
    assert_eq!(next.take_over().await, Ok(2), "what binds and what ends of the term before");
    let create = order(&*my, &old, "h_term", &my.credential()).await;
    assert_ne!(create.binding, binding, "the bound connection was ended");
    assert_eq!(other.bind().await.unwrap(), others, "another target's is not");
    assert_eq!(my.engine(3).take_over().await, Ok(0), "nor is one of a later term");
    drop(by_hand);
}
