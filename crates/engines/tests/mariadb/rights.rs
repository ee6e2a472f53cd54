//! Rights that are missing are named as statements, and nothing is claimed that can't be seen.

use mysql_async::prelude::Queryable;
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target, principal};
use quorate_engines::mariadb::{MariaDb, MariaDbConfig};
use quorate_engines::{Engine, EngineError};

use crate::server::{EXECUTOR, GROUP, My};

fn bare(my: &My) -> MariaDb {
    let passwords = SecretVec::new(b"bare".to_vec()).into();
    MariaDb::new(MariaDbConfig { user: "bare".into(), passwords, ..my.config(1) }).unwrap()
}

async fn missing(engine: &MariaDb, groups: &[&str]) -> Vec<String> {
    let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
    engine.check(&groups).await.unwrap().missing.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_as_statements_that_cure_it() {
    let my = My::start(&[]).await;
    my.sql(&["CREATE USER bare IDENTIFIED BY 'bare'"]).await;
    assert!(matches!(bare(&my).list("x").await, Err(EngineError::Refused { .. })), "no account can be read");
    // It sees its own sessions, and would take them for all.
    my.sql(&["GRANT SELECT ON mysql.* TO bare"]).await;
    let engine = bare(&my);
    for refused in [engine.look(&[principal("x", None)]).await.err(), engine.ghosts().await.err()] {
        assert!(
            matches!(&refused, Some(EngineError::Refused { message, .. }) if message.contains("PROCESS")),
            "{refused:?}"
        );
    }
    my.sql(&["REVOKE SELECT ON mysql.* FROM bare"]).await;
    let engine = bare(&my);
    let mut said = Vec::new();
    for _ in 0..3 {
        let now = missing(&engine, &[GROUP, "new"]).await;
        if now.is_empty() {
            break;
        }
        let mut root = my.root().await;
        // As they are to be pasted: with the sql_mode of the session that they were written for.
        root.query_drop("SET sql_mode = 'NO_BACKSLASH_ESCAPES'").await.unwrap();
        for statement in &now {
            root.query_drop(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
        said.extend(now);
        // Rights are given to a session that is opened later.
        drop(root);
        my.sql(&["SELECT 1"]).await;
        let engine = bare(&my);
        if missing(&engine, &[GROUP, "new"]).await.is_empty() {
            break;
        }
    }
    let engine = bare(&my);
    assert_eq!(missing(&engine, &[GROUP, "new"]).await, [""; 0], "after these: {said:?}");
    for right in ["CREATE USER", "PROCESS", "CONNECTION ADMIN", "SHOW VIEW", "SELECT ON mysql.*", "UPDATE ON mysql.*"] {
        assert!(said.iter().any(|s| s.contains(right)), "{right} is not among {said:?}");
    }
    assert!(said.iter().any(|s| s == "CREATE ROLE `new`"), "{said:?}");
    // What it says is all that it takes.
    let credential = my.credential();
    let create = quorate_engines::conformance::order(&*my, &engine, "h_bare", &credential).await;
    engine.create(&create).await.unwrap();
    assert!(my.login("h_bare", &credential).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_power_is_named() {
    let my = My::start(&[]).await;
    let engine = my.engine(1);
    assert_eq!(missing(&engine, &[GROUP]).await, [""; 0]);
    my.sql(&[
        "CREATE ROLE strong",
        "CREATE ROLE detour",
        "GRANT FILE ON *.* TO strong",
        "GRANT SELECT ON mysql.user TO strong",
        "GRANT UPDATE ON `my%`.* TO strong",
        "GRANT EVENT, TRIGGER ON app.* TO detour",
        "GRANT strong TO detour",
        &format!("GRANT detour TO `{}`", GROUP.replace('`', "``")),
        "CREATE USER ''@'localhost'",
        &format!("GRANT SUPER ON *.* TO {EXECUTOR}"),
    ])
    .await;
    let engine = my.engine(1);
    let mut said = missing(&engine, &[GROUP]).await;
    said.sort();
    let expected = [
        "DROP USER ''@'localhost'",
        "REVOKE ALL PRIVILEGES ON *.* FROM `strong`",
        "REVOKE ALL PRIVILEGES ON `my%`.* FROM `strong`",
        "REVOKE ALL PRIVILEGES ON mysql.`user` FROM `strong`",
        "REVOKE EVENT ON `app`.* FROM `detour`",
        "REVOKE SUPER ON *.* FROM 'quorate'@'%'",
        "REVOKE TRIGGER ON `app`.* FROM `detour`",
    ];
    assert_eq!(said, expected);
    for statement in &said {
        my.sql(&[statement]).await;
    }
    let engine = my.engine(1);
    assert_eq!(missing(&engine, &[GROUP]).await, [""; 0]);
    let checked = engine.check(&["PUBLIC".into(), EXECUTOR.into()]).await.unwrap();
    assert_eq!(checked.unfit.len(), 2, "{checked:?}");
    assert!(checked.server_version > 100_402, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_no_place_for_claims_and_a_restart_is_seen() {
    let my = My::start(&[]).await;
    let engine = my.engine(1);
    let before = engine.timeline().await.unwrap();
    assert_eq!(my.engine(1).timeline().await.unwrap(), before, "everybody reads the same");
    let binding = engine.bind().await.unwrap();
    my.sql(&["SET GLOBAL read_only = 1"]).await;
    for refused in [engine.claim("h_claim").await.err(), engine.claims("h_").await.err(), engine.timeline().await.err()]
    {
        assert!(matches!(&refused, Some(EngineError::Refused { code, .. }) if code == "1290"), "{refused:?}");
    }
    my.server.lock().unwrap().stop();
    assert!(matches!(engine.timeline().await, Err(EngineError::Unavailable { .. })));
    // It tells its age in seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    my.server.lock().unwrap().run().unwrap();
    assert!(engine.timeline().await.unwrap() > before, "its accounts may be others by now");
    let again = engine.bind().await.unwrap();
    assert_ne!(again, binding);
    assert_eq!(
        engine.fence("h_restart", &binding).await,
        Ok(quorate_engines::Fenced::Absent),
        "its connection is gone"
    );
    assert_eq!(engine.bind().await.unwrap(), again, "the fence ends no connection of another life of the server");
}
