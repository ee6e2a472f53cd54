//! What PostgreSQL does that no other target does, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{self, Credential, Target, assert_ended, order, principal};
use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig, template};
use quorate_engines::{Binding, Cleaning, Engine, EngineError, Fenced, OwnSessions, Refusal};
use support::{EXECUTOR, GROUP, Pg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

/// Makes a principal and says its password and its number.
async fn lease(pg: &Pg, engine: &Postgres, name: &str) -> (Credential, u32) {
    let credential = pg.credential();
    let oid = engine.create(&order(pg, engine, name, &credential).await).await.unwrap().oid;
    (credential, oid)
}

/// The same, as a member of a group that may make objects in both databases.
async fn maker(pg: &Pg, engine: &Postgres, name: &str) -> (Credential, u32) {
    let credential = pg.credential();
    let mut create = order(pg, engine, name, &credential).await;
    create.groups.push("makers".into());
    let oid = engine.create(&create).await.unwrap().oid;
    (credential, oid)
}

async fn session(pg: &Pg, name: &str, credential: &Credential) -> Client {
    pg.client(name, &credential.password, "postgres").await.unwrap()
}

async fn wait_until(pg: &Pg, condition: &str) {
    let client = pg.superuser("postgres").await;
    for _ in 0..200 {
        if client.query_one(&format!("SELECT {condition}"), &[]).await.unwrap().get(0) {
            return;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("never true: {condition}");
}

/// `true` when the role may not log in or does not exist, and no session of `oid` lives.
async fn truly_ended(pg: &Pg, name: &str, oid: u32) -> bool {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin)
        AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = $2)";
    pg.superuser("postgres").await.query_one(sql, &[&name, &oid]).await.unwrap().get(0)
}

async fn end(engine: &Postgres, name: &str, oid: u32) -> Refusal {
    let this = [principal(name, Some(oid))];
    let refused = engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    assert_ended(engine, &this).await;
    refused[0].outcome.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    let pg = Pg::start(&[]).await;
    conformance::run(&*pg).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_whatever_they_do() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, oid) = lease(&pg, &engine, "s_three").await;
    let idle = session(&pg, "s_three", &credential).await;
    let in_transaction = session(&pg, "s_three", &credential).await;
    in_transaction.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let asleep = session(&pg, "s_three", &credential).await;
    let sleeping = tokio::spawn(async move { asleep.batch_execute("SELECT pg_sleep(600)").await });
    wait_until(&pg, "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 's_three' AND wait_event = 'PgSleep')").await;

    assert_eq!(engine.look(&[principal("s_three", Some(oid))]).await.unwrap()[0].sessions, 3);
    end(&engine, "s_three", oid).await;
    assert!(truly_ended(&pg, "s_three", oid).await);
    assert!(idle.simple_query("SELECT 1").await.is_err() && in_transaction.simple_query("SELECT 1").await.is_err());
    assert!(timeout(Duration::from_secs(5), sleeping).await.unwrap().unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_holds_its_own_row_is_ended() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, oid) = lease(&pg, &engine, "s_alter").await;
    let hostile = session(&pg, "s_alter", &credential).await;
    hostile.batch_execute("BEGIN; ALTER ROLE s_alter PASSWORD 'mine'").await.unwrap();
    let refused = engine.refuse(&[principal("s_alter", Some(oid))]).await.unwrap();
    assert_eq!(refused[0].outcome, Refusal::Disabled { groups_left: vec![] });
    assert!(hostile.simple_query("SELECT 1").await.is_err(), "it was not in the way, so this proves nothing");
    end(&engine, "s_alter", oid).await;
    assert!(truly_ended(&pg, "s_alter", oid).await);
    assert!(pg.client("s_alter", "mine", "postgres").await.is_err());
}

/// The server tells who waited for the row that it is another one now, with a code that stands for broken tables elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_row_is_changed_while_the_refusal_waits_for_it_is_ended() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, oid) = lease(&pg, &engine, "r_tuple").await;
    // In use, so that it is disabled; and held by somebody who is not ended with it, and so gets to commit.
    let user = session(&pg, "r_tuple", &credential).await;
    let holder = pg.superuser("postgres").await;
    holder.batch_execute("BEGIN; ALTER ROLE r_tuple PASSWORD 'mine'").await.unwrap();
    let these = [principal("r_tuple", Some(oid))];
    let waits = format!(
        "EXISTS (SELECT FROM pg_stat_activity WHERE usename = '{EXECUTOR}' AND wait_event_type = 'Lock'
            AND query LIKE 'ALTER ROLE \"r_tuple\"%')
          AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'r_tuple')"
    );
    // Not in the first try, which is given up after a moment: its session has been killed since.
    let commit = async {
        wait_until(&pg, &waits).await;
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (refused, ()) = tokio::join!(engine.refuse(&these), commit);
    let log = pg.server.lock().unwrap().log();
    let lines: Vec<&str> = log.lines().collect();
    let told = |pair: &[&str]| {
        pair[0].contains("tuple concurrently updated") && pair[1].contains("ALTER ROLE \"r_tuple\" NOLOGIN")
    };
    assert!(lines.windows(2).any(told), "the server has told the executor so, or this proves nothing:\n{log}");
    assert_eq!(refused.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] }, "it is disabled by then");
    end(&engine, "r_tuple", oid).await;
    assert!(user.simple_query("SELECT 1").await.is_err(), "its session is ended");
    assert!(truly_ended(&pg, "r_tuple", oid).await);
    assert!(pg.client("r_tuple", "mine", "postgres").await.is_err(), "whatever password it was given");
}

/// Those that hold their rows cost the others in the same call a moment each, not a time-out each.
#[tokio::test(flavor = "multi_thread")]
async fn forty_that_hold_their_rows_delay_nobody() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (mut these, mut hostile) = (Vec::new(), Vec::new());
    for i in 0..40 {
        let name = format!("h_{i:02}");
        let (credential, oid) = lease(&pg, &engine, &name).await;
        let client = session(&pg, &name, &credential).await;
        client.batch_execute(&format!("BEGIN; ALTER ROLE {name} SET work_mem = '1MB'")).await.unwrap();
        hostile.push(client);
        these.push(principal(&name, Some(oid)));
    }
    let (_, oid) = lease(&pg, &engine, "h_last").await;
    these.push(principal("h_last", Some(oid)));
    let begun = Instant::now();
    let refused = engine.refuse(&these).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "each held the call up: {took:?}");
    assert_eq!(refused[40].outcome, Refusal::Dropped);
    assert!(refused[..40].iter().all(|r| matches!(r.outcome, Refusal::Disabled { .. })), "{refused:?}");
    engine.kill(&these).await.unwrap();
    assert_ended(&engine, &these).await;
    engine.clean(&these).await.unwrap();
    assert!(hostile[0].simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_does_not_keep_a_role() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, oid) = lease(&pg, &engine, "s_temp").await;
    let hostile = session(&pg, "s_temp", &credential).await;
    hostile.batch_execute("CREATE TEMPORARY TABLE t (i int)").await.unwrap();
    end(&engine, "s_temp", oid).await;
    assert!(truly_ended(&pg, "s_temp", oid).await);
    let cleaned = engine.clean(&[principal("s_temp", Some(oid))]).await.unwrap();
    assert_eq!(cleaned[0].outcome, Cleaning::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_role_has_no_memberships() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, oid) = lease(&pg, &engine, "s_member").await;
    let _open = session(&pg, "s_member", &credential).await;
    assert_eq!(end(&engine, "s_member", oid).await, Refusal::Disabled { groups_left: vec![] });
    let sql = "SELECT count(*) FROM pg_auth_members WHERE member = $1";
    let members: i64 = pg.superuser("postgres").await.query_one(sql, &[&oid]).await.unwrap().get(0);
    assert_eq!(members, 0);
}

/// What is made as a group stays with the group for ever, so nobody may act as one where the server can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_has_the_rights_of_its_groups_and_is_none_of_them() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, _) = maker(&pg, &engine, "m_set").await;
    let client = session(&pg, "m_set", &credential).await;
    client.batch_execute("CREATE TABLE m_made (i int)").await.expect("the right to make is the group's");
    let acts = client.batch_execute("SET ROLE makers").await.is_ok();
    assert_eq!(acts, pg.version().await < 160_000, "before PostgreSQL 16 a member is always allowed to");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_a_template_take_effect_with_the_role_or_not_at_all() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let hostile = "it's \\ 100% %1$L \\'' DROP ROLE postgres --";
    let text = format!(
        "ALTER ROLE {{{{name}}}} SET statement_timeout = '12s';
         ALTER ROLE {{{{name}}}} IN DATABASE other SET search_path TO \"My Schema\", public;
         ALTER ROLE {{{{name}}}} SET application_name = {{{{lease}}}}; ALTER ROLE {{{{name}}}} SET search_path = '{}';
         GRANT makers TO {{{{name}}}}; COMMENT ON ROLE {{{{name}}}} IS {{{{expires}}}}",
        hostile.replace('\'', "''")
    );
    let credential = pg.credential();
    let mut create = order(&*pg, &engine, "e_text", &credential).await;
    create.statements = template::parse(&text).unwrap().for_lease("L'7");
    let oid = engine.create(&create).await.unwrap().oid;
    let client = session(&pg, "e_text", &credential).await;
    let sql =
        "SELECT current_setting('statement_timeout'), current_setting('application_name'), current_setting('search_path'),
        pg_has_role('makers', 'MEMBER'), shobj_description($1, 'pg_authid') = to_char(
          (SELECT rolvaliduntil FROM pg_roles WHERE oid = $1) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
    let row = client.query_one(sql, &[&oid]).await.unwrap();
    let texts: Vec<String> = (0..3).map(|i| row.get(i)).collect();
    assert_eq!(texts, ["12s", "L'7", &format!("\"{hostile}\"")]);
    assert!(row.get::<_, bool>(3), "it is a member of the group");
    assert!(row.get::<_, bool>(4), "the end that is said is the one that holds");
    let acts = client.batch_execute("SET ROLE makers").await.is_ok();
    assert_eq!(acts, pg.version().await < 160_000, "a template's group is one as any other");
    let there = pg.client("e_text", &credential.password, "other").await.unwrap();
    let path: String = there.query_one("SELECT current_setting('search_path')", &[]).await.unwrap().get(0);
    assert_eq!(path, "\"My Schema\", public");
    drop((client, there));

    for (text, code) in [
        ("ALTER ROLE {{name}} SET no_such_setting = 1", "42704"),
        ("ALTER ROLE {{name}} SET work_mem = 'much'", "22023"),
        ("ALTER ROLE {{name}} SET log_statement = 'none'", "42501"),
        ("ALTER ROLE {{name}} IN DATABASE absent SET work_mem = '1MB'", "3D000"),
        ("COMMENT ON ROLE {{name}} IS 'made'; GRANT absent TO {{name}}", "42704"),
    ] {
        let mut create = order(&*pg, &engine, "e_fails", &credential).await;
        create.statements = template::parse(text).unwrap().for_lease("L");
        let refused = engine.create(&create).await;
        assert!(matches!(&refused, Err(EngineError::Refused { code: c, .. }) if c == code), "{text}: {refused:?}");
        assert!(engine.list("e_fails").await.unwrap().is_empty(), "{text}");
    }
    wait_until(&pg, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'e_text')").await;
    assert_eq!(end(&engine, "e_text", oid).await, Refusal::Dropped, "what was set goes with the role");
    wait_until(&pg, "NOT EXISTS (SELECT FROM pg_db_role_setting)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_and_one_that_owns() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let values: Vec<String> = (0..200).map(|i| format!("CREATE ROLE b_{i:03} LOGIN CONNECTION LIMIT 5")).collect();
    // By the executor itself, which from PostgreSQL 16 on can end only what it made.
    let executor = pg.client(EXECUTOR, support::EXECUTOR_PASSWORD, "postgres").await.unwrap();
    executor.batch_execute(&values.join(";")).await.unwrap();
    let client = pg.superuser("postgres").await;
    client.batch_execute("CREATE TABLE owned_by_b (i int); ALTER TABLE owned_by_b OWNER TO b_077").await.unwrap();
    let all = engine.list("b_").await.unwrap();
    assert_eq!(all.len(), 200);
    let refused = engine.refuse(&all).await.unwrap();
    assert!(refused.iter().zip(&all).all(|(r, p)| r.name == p.name && r.oid == p.oid), "one outcome each, in order");
    let dropped = refused.iter().filter(|r| r.outcome == Refusal::Dropped).count();
    assert_eq!((dropped, &refused[77].outcome), (199, &Refusal::Disabled { groups_left: vec![] }));
    let left = engine.list("b_").await.unwrap();
    assert_eq!(left.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["b_077"]);
    assert_eq!(engine.clean(&left).await.unwrap()[0].outcome, Cleaning::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn owned_objects_go_to_the_owner_role_and_other_databases_are_listed() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, oid) = maker(&pg, &engine, "o_two").await;
    let client = session(&pg, "o_two", &credential).await;
    client
        .batch_execute(
            "CREATE TABLE o_table (i int); CREATE TYPE o_type AS ENUM ('a');
             CREATE FUNCTION o_function() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        )
        .await
        .unwrap();
    let elsewhere = pg.client("o_two", &credential.password, "other").await.unwrap();
    elsewhere.batch_execute("CREATE TABLE o_other (i int)").await.unwrap();

    let this = [principal("o_two", Some(oid))];
    end(&engine, "o_two", oid).await;
    let cleaned = engine.clean(&this).await.unwrap();
    assert_eq!(cleaned[0].outcome, Cleaning::Left { databases: vec!["other".into()], reason: None });
    assert!(truly_ended(&pg, "o_two", oid).await, "cleaning is no condition of truth");
    let sql = "SELECT (SELECT tableowner::text FROM pg_tables WHERE tablename = 'o_table'),
        (SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'o_function'),
        (SELECT typowner::regrole::text FROM pg_type WHERE typname = 'o_type')";
    let row = pg.superuser("postgres").await.query_one(sql, &[]).await.unwrap();
    for column in 0..3 {
        assert_eq!(row.get::<_, String>(column), "quorate_owner");
    }
    pg.superuser("other").await.batch_execute("DROP OWNED BY o_two").await.unwrap();
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
}

/// `makers` may make things in three databases. One of them is listed and lets the executor in, one does not, one is not
/// listed.
#[tokio::test(flavor = "multi_thread")]
async fn listed_databases_are_cleaned_up_in_and_the_rest_is_named() {
    let pg = Pg::start(&[]).await;
    pg.sql("CREATE DATABASE closed; CREATE DATABASE unlisted").await;
    for database in ["closed", "unlisted"] {
        let there = pg.superuser(database).await;
        // Everybody's right, which is PostgreSQL's own until 15, is not the owner role's: it goes when it is noticed.
        there.batch_execute("GRANT CREATE ON SCHEMA public TO makers, PUBLIC").await.unwrap();
    }
    let databases = vec!["other".into(), "closed".into(), "absent".into()];
    let engine = Postgres::new(PostgresConfig { databases, ..pg.config(1) }).unwrap();
    let groups = ["makers".to_owned()];
    let checked = engine.check(&groups).await.unwrap();
    let grants = |database: &str| {
        let theirs = checked.missing.iter().filter(|m| m.database == database).map(|m| m.statement.as_str());
        theirs.filter(|s| s.starts_with("GRANT")).collect::<Vec<_>>()
    };
    let grant = "GRANT CREATE ON SCHEMA \"public\" TO \"quorate_owner\"";
    assert_eq!(grants("postgres"), Vec::<&str>::new(), "it has it there");
    assert_eq!((grants("other"), grants("closed")), (vec![grant], vec![grant]));
    let faults: Vec<&str> = checked.databases.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(faults, ["absent"], "{checked:?}");

    for database in ["other", "closed", "unlisted"] {
        pg.superuser(database).await.batch_execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await.unwrap();
    }
    let (credential, oid) = maker(&pg, &engine, "o_many").await;
    let make = "CREATE TABLE o_table (i int);
         CREATE FUNCTION o_function() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'";
    for database in ["postgres", "other", "closed", "unlisted"] {
        pg.client("o_many", &credential.password, database).await.unwrap().batch_execute(make).await.unwrap();
    }
    pg.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC").await;
    let this = [principal("o_many", Some(oid))];
    end(&engine, "o_many", oid).await;
    let left = |cleaned: &[quorate_engines::Cleaned]| match &cleaned[0].outcome {
        Cleaning::Left { databases, reason } => (databases.clone(), reason.clone().unwrap_or_default()),
        Cleaning::Gone => panic!("gone"),
    };
    // The owner role may not hold functions in `other`, and the executor is not let in to `closed`.
    let (databases, reason) = left(&engine.clean(&this).await.unwrap());
    assert_eq!(databases, ["closed", "other", "unlisted"]);
    assert!(reason.contains("other:") && reason.contains("permission denied for schema public"), "{reason}");

    pg.superuser("other").await.batch_execute(grant).await.unwrap();
    let (databases, reason) = left(&engine.clean(&this).await.unwrap());
    assert_eq!(databases, ["closed", "unlisted"]);
    assert!(reason.contains("closed:") && reason.contains("permission denied"), "{reason}");
    let checked = engine.check(&groups).await.unwrap();
    let faults: Vec<&str> = checked.databases.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(faults, ["closed", "absent"], "{checked:?}");

    pg.sql(&format!("GRANT CONNECT ON DATABASE closed TO {EXECUTOR}")).await;
    pg.superuser("closed").await.batch_execute(grant).await.unwrap();
    let (databases, reason) = left(&engine.clean(&this).await.unwrap());
    assert_eq!((databases, reason), (vec!["unlisted".to_owned()], String::new()));
    for database in ["postgres", "other", "closed"] {
        let sql = "SELECT (SELECT tableowner::text FROM pg_tables WHERE tablename = 'o_table'),
            (SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'o_function')";
        let row = pg.superuser(database).await.query_one(sql, &[]).await.unwrap();
        let owners: (String, String) = (row.get(0), row.get(1));
        assert_eq!(owners, ("quorate_owner".to_owned(), "quorate_owner".to_owned()), "{database}");
    }
    let idle = "NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'quorate_executor' AND datname <> 'postgres')";
    wait_until(&pg, idle).await;
    pg.superuser("unlisted").await.batch_execute("DROP OWNED BY o_many").await.unwrap();
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    for database in ["", "a\nb", &"d".repeat(64)] {
        let config = PostgresConfig { databases: vec![database.to_owned()], ..pg.config(1) };
        assert!(matches!(Postgres::new(config), Err(EngineError::Invalid { field: "databases", .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owned_objects_are_dropped_when_so_configured() {
    let pg = Pg::shared().await;
    let engine = Postgres::new(PostgresConfig { owned: OwnedObjects::Drop, ..pg.config(1) }).unwrap();
    let (credential, oid) = maker(&pg, &engine, "o_drop").await;
    let client = session(&pg, "o_drop", &credential).await;
    client.batch_execute("CREATE TABLE o_dropped (i int)").await.unwrap();
    end(&engine, "o_drop", oid).await;
    assert_eq!(engine.clean(&[principal("o_drop", Some(oid))]).await.unwrap()[0].outcome, Cleaning::Gone);
    wait_until(&pg, "to_regclass('public.o_dropped') IS NULL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_clock_sets_the_last_end() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    lease(&pg, &engine, "v_until").await;
    wait_until(
        &pg,
        "EXISTS (SELECT FROM pg_roles WHERE rolname = 'v_until' AND rolconnlimit = 5 AND NOT rolcreaterole
           AND rolvaliduntil BETWEEN now() + interval '59 minutes' AND now() + interval '61 minutes')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_numbers_of_a_name_are_killed_and_a_strangers_is_not() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (credential, old) = lease(&pg, &engine, "k_oid").await;
    let before = session(&pg, "k_oid", &credential).await;
    // As after a restore of the target: the same name, another number, and the old session a ghost.
    pg.sql("DROP ROLE k_oid").await;
    assert!(engine.ghosts().await.unwrap().0.iter().any(|g| g.oid == old));
    let (credential, new) = lease(&pg, &engine, "k_oid").await;
    let after = session(&pg, "k_oid", &credential).await;
    assert_ne!(old, new);
    let (stranger_credential, stranger) = lease(&pg, &engine, "k_stranger").await;
    let bystander = session(&pg, "k_stranger", &stranger_credential).await;

    let these = [principal("k_oid", Some(old)), principal("k_oid", Some(stranger))];
    let seen = engine.look(&these).await.unwrap();
    assert_eq!((seen[0].sessions, seen[0].held_by.as_deref()), (2, None));
    assert_eq!((seen[1].sessions, seen[1].held_by.as_deref()), (1, Some("k_stranger")));
    assert_eq!(engine.refuse(&these[..1]).await.unwrap()[0].oid, Some(new));
    assert_eq!(engine.kill(&these).await.unwrap(), 2);
    assert_ended(&engine, &these).await;
    assert!(before.simple_query("SELECT 1").await.is_err() && after.simple_query("SELECT 1").await.is_err());
    assert!(bystander.simple_query("SELECT 1").await.is_ok());
    assert!(engine.ghosts().await.unwrap().0.iter().all(|g| g.oid != old));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_roles_are_never_ended() {
    let pg = Pg::shared().await;
    let (engine, other) = (pg.engine(1), pg.engine(1));
    other.warm().await.unwrap();
    let own: u32 =
        pg.superuser("postgres").await.query_one("SELECT $1::text::regrole::oid", &[&EXECUTOR]).await.unwrap().get(0);
    for name in [EXECUTOR, "quorate_owner"] {
        let this = [principal(name, None)];
        assert!(matches!(engine.refuse(&this).await, Err(EngineError::Invalid { field: "name", .. })));
        assert!(matches!(engine.kill(&this).await, Err(EngineError::Invalid { field: "name", .. })));
        assert!(matches!(engine.clean(&this).await, Err(EngineError::Invalid { field: "name", .. })));
    }
    // Under another name, by our number.
    assert_eq!(engine.kill(&[principal("q_nobody", Some(own))]).await.unwrap(), 0);
    assert!(other.list(EXECUTOR).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_leaves_nothing_open() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let (_, oid) = lease(&pg, &engine, "g_given").await;
    let holder = pg.superuser("postgres").await;
    holder.batch_execute("BEGIN; ALTER ROLE g_given CONNECTION LIMIT 4").await.unwrap();
    let this = [principal("g_given", Some(oid))];
    assert!(timeout(Duration::from_millis(300), engine.refuse(&this)).await.is_err(), "it was not held up");
    assert!(engine.look(&this).await.unwrap()[0].can_login);
    let held = engine.refuse(&this).await.unwrap();
    assert!(
        matches!(held[0].outcome, Refusal::Failed(EngineError::Busy { .. })),
        "never an end that is none: {held:?}"
    );
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Dropped);
    let idle = "NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'quorate_executor' AND query LIKE '%g_given%'
        AND state LIKE 'idle in transaction%')";
    wait_until(&pg, idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_older_terms_end_and_forged_ones_do_not_count() {
    let pg = Pg::start(&[]).await;
    let (old, same, newer) = (pg.engine(9), pg.engine(10), pg.engine(11));
    let binding = old.bind().await.unwrap();
    let (_, _) = (old.warm().await.unwrap(), newer.warm().await.unwrap());
    let (credential, _) = lease(&pg, &same, "t_forger").await;
    let forger = session(&pg, "t_forger", &credential).await;
    forger.batch_execute("SET application_name = 'quorate/t1/1'").await.unwrap();
    let mut create = order(&*pg, &old, "t_late", &credential).await;
    create.binding = binding;
    assert_eq!(same.kill_older_terms().await.unwrap(), 2, "9 is less than 10, as a number");
    assert!(forger.simple_query("SELECT 1").await.is_ok());
    assert!(newer.look(&[]).await.is_ok());
    let late = old.create(&create).await;
    assert!(matches!(late, Err(EngineError::StaleBinding | EngineError::Unknown { .. })), "{late:?}");
    assert!(same.list("t_late").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_has_the_name_and_no_commit_is_fenced() {
    let pg = Pg::start(&[]).await;
    let (issuer, ender) = (Arc::new(pg.engine(1)), pg.engine(1));
    let credential = pg.credential();
    let create = order(&*pg, &*issuer, "f_open", &credential).await;
    let binding = create.binding;
    // The create enters the role and then waits for the membership, so its name is taken and not committed.
    let holder = pg.superuser("postgres").await;
    holder.batch_execute("BEGIN; LOCK TABLE pg_auth_members IN SHARE MODE").await.unwrap();
    let flying = tokio::spawn({
        let issuer = issuer.clone();
        async move { issuer.create(&create).await }
    });
    wait_until(&pg, "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'pg_auth_members'::regclass)").await;
    // The same lock keeps the fence from giving the name up again; the create is ended all the same.
    assert!(matches!(ender.fence("f_open", &binding).await, Err(EngineError::Busy { .. })));
    let flown = timeout(Duration::from_secs(10), flying).await.unwrap().unwrap();
    assert!(matches!(flown, Err(EngineError::Unknown { .. })), "{flown:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ender.fence("f_open", &binding).await, Ok(Fenced::Absent));
    assert!(ender.list("f_open").await.unwrap().is_empty(), "an orphan");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_open_create_of_the_name_delays_both_and_leaves_no_orphan() {
    let pg = Pg::shared().await;
    let (issuer, ender) = (Arc::new(pg.engine(1)), pg.engine(1));
    let create = order(&*pg, &*issuer, "f_same", &pg.credential()).await;
    let binding = create.binding;
    let holder = pg.superuser("postgres").await;
    holder.batch_execute("BEGIN; CREATE ROLE f_same").await.unwrap();
    let flying = tokio::spawn(async move { issuer.create(&create).await });
    wait_until(&pg, &format!("EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = {})", binding.pid)).await;
    assert!(matches!(ender.fence("f_same", &binding).await, Err(EngineError::Busy { .. })));
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert!(timeout(Duration::from_secs(10), flying).await.unwrap().unwrap().is_err());
    assert_eq!(ender.fence("f_same", &binding).await, Ok(Fenced::Absent));
    assert!(ender.list("f_same").await.unwrap().is_empty(), "an orphan");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_fenced_holds_up_none_of_those_that_are_fenced_with_it() {
    let pg = Pg::shared().await;
    let (issuer, ender) = (pg.engine(1), pg.engine(1));
    let create = order(&*pg, &issuer, "fm_late", &pg.credential()).await;
    // One name is held by somebody else, and to one marker of an earlier fence somebody has granted something.
    let holder = pg.superuser("postgres").await;
    holder.batch_execute("BEGIN; CREATE ROLE fm_held").await.unwrap();
    let executor = pg.client(EXECUTOR, support::EXECUTOR_PASSWORD, "postgres").await.unwrap();
    executor.batch_execute("CREATE ROLE fm_kept NOLOGIN CONNECTION LIMIT 0").await.unwrap();
    pg.sql("CREATE TABLE fm_table (); GRANT SELECT ON fm_table TO fm_kept").await;
    let many: Vec<String> = (0..30).map(|n| format!("fm_{n}")).collect();
    let names = ["fm_held", "fm_kept", "fm_late"].into_iter().chain(many.iter().map(String::as_str));
    let intents: Vec<(&str, Binding)> = names.map(|name| (name, create.binding)).collect();
    let fenced = ender.fence_all(&intents).await.unwrap();
    assert_eq!(fenced.len(), intents.len());
    assert!(matches!(fenced[0], Err(EngineError::Busy { .. })), "{:?}", fenced[0]);
    assert!(matches!(&fenced[1], Err(EngineError::Refused { code, .. }) if code == "2BP01"), "{:?}", fenced[1]);
    assert!(fenced[2..].iter().all(|fenced| *fenced == Ok(Fenced::Absent)), "{fenced:?}");
    assert!(issuer.create(&create).await.is_err(), "its connection was ended");
    holder.batch_execute("ROLLBACK").await.unwrap();
    pg.sql("DROP TABLE fm_table").await;
    assert_eq!(ender.fence_all(&intents).await, Ok(vec![Ok(Fenced::Absent); intents.len()]));
    assert!(ender.list("fm_").await.unwrap().is_empty(), "no marker stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_left_by_a_fence_that_died_is_not_taken_for_the_create() {
    let pg = Pg::shared().await;
    let (issuer, ender) = (pg.engine(1), pg.engine(1));
    let create = order(&*pg, &issuer, "f_marker", &pg.credential()).await;
    // By the executor itself, which from PostgreSQL 16 on can drop only what it made.
    let executor = pg.client(EXECUTOR, support::EXECUTOR_PASSWORD, "postgres").await.unwrap();
    executor.batch_execute("CREATE ROLE f_marker NOLOGIN CONNECTION LIMIT 0").await.unwrap();
    assert_eq!(ender.fence("f_marker", &create.binding).await, Ok(Fenced::Absent));
    assert!(issuer.create(&create).await.is_err(), "the dead fence had not ended the connection");
    assert!(ender.list("f_marker").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_killed_is_unknown() {
    let pg = Pg::start(&[]).await;
    let engine = Arc::new(pg.engine(1));
    let create = order(&*pg, &*engine, "u_kill", &pg.credential()).await;
    let pid = create.binding.pid;
    pg.hold_creates().await;
    let flying = tokio::spawn({
        let engine = engine.clone();
        async move { engine.create(&create).await }
    });
    wait_until(&pg, &format!("EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = {pid})")).await;
    pg.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    let flown = timeout(Duration::from_secs(10), flying).await.unwrap().unwrap();
    assert!(matches!(flown, Err(EngineError::Unknown { .. })), "{flown:?}");
    pg.release().await;
    // The retry has a new binding, and works.
    lease(&pg, &engine, "u_kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_is_lost_is_unknown_and_the_fence_finds_it() {
    let pg = Pg::shared().await;
    let cut = Arc::new(AtomicBool::new(false));
    let port = proxy(pg.port, cut.clone()).await;
    let issuer = Postgres::new(PostgresConfig { port, ..pg.config(1) }).unwrap();
    let credential = pg.credential();
    let create = order(&*pg, &issuer, "u_lost", &credential).await;
    cut.store(true, Ordering::SeqCst);
    let lost = issuer.create(&create).await;
    assert!(matches!(lost, Err(EngineError::Unknown { .. })), "{lost:?}");

    // A later executor completes the same intent: same name, same verifier, a binding of its own.
    let next = pg.engine(2);
    let again = next.create(&order(&*pg, &next, "u_lost", &credential).await).await;
    assert_eq!(again, Err(EngineError::Duplicate));
    let Ok(Fenced::Won { oid }) = next.fence("u_lost", &create.binding).await else { panic!("it was committed") };
    assert_eq!(end(&next, "u_lost", oid).await, Refusal::Dropped);
}

/// Passes everything on until `cut`; from then on the first answer to a simple query is swallowed and the line goes dead.
async fn proxy(to: u16, cut: Arc<AtomicBool>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let simple = Arc::new(AtomicBool::new(false));
            let (cut, seen) = (cut.clone(), simple.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                    if cut.load(Ordering::SeqCst) && buffer[0] == b'Q' {
                        simple.store(true, Ordering::SeqCst);
                    }
                    if to_server.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                    if seen.load(Ordering::SeqCst) || to_client.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_unavailable_and_comes_back() {
    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let (credential, oid) = lease(&pg, &engine, "d_down").await;
    let mut late = order(&*pg, &engine, "d_late", &credential).await;
    let stop = pg.clone();
    tokio::task::spawn_blocking(move || stop.server.lock().unwrap().stop()).await.unwrap();
    let this = [principal("d_down", Some(oid))];
    for _ in 0..2 {
        assert!(matches!(engine.refuse(&this).await, Err(EngineError::Unavailable { .. })));
        assert!(matches!(engine.look(&this).await, Err(EngineError::Unavailable { .. })));
        assert!(matches!(engine.bind().await, Err(EngineError::Unavailable { .. })));
    }
    assert!(engine.create(&late).await.is_err());
    let start = pg.clone();
    tokio::task::spawn_blocking(move || start.server.lock().unwrap().run().unwrap()).await.unwrap();
    assert_eq!(engine.create(&late).await, Err(EngineError::StaleBinding), "never after a reconnect");
    late.binding = engine.bind().await.unwrap();
    engine.create(&late).await.unwrap();
    assert_eq!(end(&engine, "d_down", oid).await, Refusal::Dropped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_takes_every_slot_is_ended() {
    let pg = Pg::start(&["max_connections=12", "max_wal_senders=0", "superuser_reserved_connections=3"]).await;
    let engine = pg.engine(1);
    engine.warm().await.unwrap();
    let credential = pg.credential();
    let mut create = order(&*pg, &engine, "x_slots", &credential).await;
    create.connection_limit = 100;
    let oid = engine.create(&create).await.unwrap().oid;
    let mut taken = Vec::new();
    while let Ok(client) = pg.client("x_slots", &credential.password, "postgres").await {
        taken.push(client);
    }
    assert!(matches!(pg.engine(2).warm().await, Err(EngineError::Unavailable { .. })), "no slot is left");
    end(&engine, "x_slots", oid).await;
    assert!(truly_ended(&pg, "x_slots", oid).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_is_missing_and_the_statements_cure_it() {
    let pg = Pg::start(&[]).await;
    pg.sql("CREATE ROLE poor LOGIN PASSWORD 'poor'; CREATE ROLE writers LOGIN; CREATE SCHEMA s; GRANT pg_signal_backend TO writers; GRANT CREATE ON SCHEMA s TO writers; GRANT CREATE ON DATABASE postgres TO writers")
        .await;
    let config = PostgresConfig {
        user: "poor".into(),
        passwords: SecretVec::new(b"poor".to_vec()).into(),
        owned: OwnedObjects::ReassignTo("heir".into()),
        ..pg.config(1)
    };
    let poor = Postgres::new(config).unwrap();
    let groups = ["writers".to_owned(), "absent\"".to_owned()];
    let checked = poor.check(&groups).await.unwrap();
    let missing: Vec<String> = checked.missing.iter().map(|m| m.statement.clone()).collect();
    assert!(checked.missing.iter().all(|m| m.database == "postgres"));
    for statement in [
        "ALTER ROLE \"poor\" CREATEROLE",
        "GRANT pg_read_all_stats TO \"poor\"",
        "GRANT pg_signal_backend TO \"poor\"",
        "CREATE ROLE \"heir\" NOLOGIN",
        "GRANT \"heir\" TO \"poor\"",
        "ALTER ROLE \"writers\" NOLOGIN",
        "REVOKE \"pg_signal_backend\" FROM \"writers\"",
        "REVOKE CREATE ON DATABASE \"postgres\" FROM \"writers\"",
        "GRANT CREATE ON SCHEMA \"s\" TO \"heir\"",
        if pg.version().await < 160_000 {
            "REVOKE CREATE ON SCHEMA \"s\" FROM \"writers\""
        } else {
            "GRANT \"writers\" TO \"poor\" WITH ADMIN OPTION"
        },
        "CREATE ROLE \"absent\"\"\" NOLOGIN",
    ] {
        assert!(missing.iter().any(|m| m == statement), "{statement} is not in {missing:#?}");
    }
    // Without the right to see, a look must not say that there is nothing to be seen.
    let look = poor.look(&[principal("q_any", None)]).await;
    assert!(matches!(look, Err(EngineError::Refused { ref code, .. }) if code == "42501"), "{look:?}");

    pg.sql(&missing.join(";")).await;
    let checked = poor.check(&groups).await.unwrap();
    assert_eq!(checked.missing, []);
    assert!(checked.server_version >= 130_000 && checked.timeline == 1 && checked.standbys.is_empty());
    assert_eq!(checked.endpoints, [format!("127.0.0.1:{}", pg.port)]);
    let kept = (pg.version().await >= 160_000).then_some(false);
    assert_eq!(checked.slots.kept, kept, "by default nothing is kept where something could be");
    assert!(checked.slots.free > 0 && checked.slots.free < 1_000, "{:?}", checked.slots);
    assert!(poor.look(&[principal("q_any", None)]).await.is_ok());
    assert_eq!(pg.engine(1).check(&[GROUP.to_owned()]).await.unwrap().missing, []);
}

/// What a login leaves behind may be a function that runs with the rights of its owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_role_may_do_besides_is_found_and_the_statements_cure_it() {
    let pg = Pg::start(&[]).await;
    pg.sql(&format!(
        "CREATE ROLE \"the Heir\" NOLOGIN; GRANT \"the Heir\" TO {EXECUTOR}; GRANT USAGE, CREATE ON SCHEMA public TO \"the Heir\";
         CREATE TABLE \"Pay\" (id int, salary int); CREATE VIEW paid AS SELECT 1 AS id; CREATE SEQUENCE numbers;
         CREATE TYPE mood AS ENUM ('good');
         CREATE FUNCTION wipe(\"Pay\", int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE PROCEDURE sweep() LANGUAGE sql AS 'SELECT 1'; SELECT lo_create(4711);
         GRANT SELECT ON \"Pay\" TO \"the Heir\"; GRANT UPDATE (salary) ON \"Pay\" TO \"the Heir\";
         GRANT SELECT ON paid TO \"the Heir\"; GRANT USAGE ON SEQUENCE numbers TO \"the Heir\";
         GRANT USAGE ON TYPE mood TO \"the Heir\"; GRANT USAGE ON LANGUAGE plpgsql TO \"the Heir\";
         GRANT EXECUTE ON FUNCTION wipe(\"Pay\", int) TO \"the Heir\"; GRANT EXECUTE ON PROCEDURE sweep() TO \"the Heir\";
         GRANT SELECT ON LARGE OBJECT 4711 TO \"the Heir\"; GRANT TEMPORARY ON DATABASE other TO \"the Heir\";
         ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO \"the Heir\""
    ))
    .await;
    let other = pg.superuser("other").await;
    other.batch_execute("CREATE TABLE far (id int); GRANT DELETE ON far TO \"the Heir\"").await.unwrap();
    other.batch_execute("GRANT USAGE, CREATE ON SCHEMA public TO \"the Heir\"").await.unwrap();
    let owned = OwnedObjects::ReassignTo("the Heir".into());
    let config = PostgresConfig { owned, databases: vec!["other".into()], ..pg.config(1) };
    let engine = Postgres::new(config).unwrap();
    let missing = engine.check(&[]).await.unwrap().missing;
    // Before 15 everybody may create in the schema public, which is another finding.
    let found = missing.iter().filter(|m| !m.statement.ends_with(" FROM PUBLIC"));
    let found: Vec<(&str, &str)> = found.map(|m| (m.database.as_str(), m.statement.as_str())).collect();
    let right = |what: &str| format!("REVOKE ALL ON {what} FROM \"the Heir\"");
    for what in [
        "TABLE public.\"Pay\"",
        "TABLE public.paid",
        "SEQUENCE public.numbers",
        "TYPE public.mood",
        "LANGUAGE plpgsql",
        "ROUTINE public.wipe(public.\"Pay\",integer)",
        "ROUTINE public.sweep()",
        "LARGE OBJECT 4711",
        "DATABASE other",
    ] {
        let wanted = right(what);
        assert_eq!(found.iter().filter(|f| **f == ("postgres", wanted.as_str())).count(), 1, "{wanted}: {found:#?}");
    }
    assert!(found.contains(&("other", right("TABLE public.far").as_str())), "in each database: {found:#?}");
    assert!(found.iter().any(|(_, statement)| statement.starts_with("ALTER DEFAULT PRIVILEGES")), "{found:#?}");
    assert_eq!(found.len(), 11, "its rights on schemas are no findings: {found:#?}");
    for m in &missing {
        let cured = pg.superuser(&m.database).await.batch_execute(&m.statement).await;
        assert!(cured.is_ok(), "{} in {}: {cured:?}", m.statement, m.database);
    }
    assert_eq!(engine.check(&[]).await.unwrap().missing, [], "the statements have cured it");
}

/// A pooler puts statements of one client on whichever connection to the server is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_arrives_on_another_connection_makes_nothing() {
    let pg = Pg::shared().await;
    let swapped = Arc::new(AtomicBool::new(false));
    let port = pooler(pg.port, Arc::clone(&swapped)).await;
    let engine = Postgres::new(PostgresConfig { port, ..pg.config(1) }).unwrap();
    let create = order(&*pg, &engine, "p_pool", &pg.credential()).await;
    engine.warm().await.unwrap();
    swapped.store(true, Ordering::SeqCst);
    let refused = engine.create(&create).await.unwrap_err();
    assert!(
        matches!(&refused, EngineError::Refused { message, .. } if message.contains("a connection pooler is between")),
        "the server sees who it is not, and the pooler is named: {refused:?}"
    );
    assert!(pg.engine(1).list("p_pool").await.unwrap().is_empty(), "an orphan");
    swapped.store(false, Ordering::SeqCst);
    engine.create(&create).await.expect("the same, where it belongs");
}

/// Two connections; while they are swapped, what comes on one goes on by the other.
async fn pooler(to: u16, swapped: Arc<AtomicBool>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (clients, servers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let nr = clients.lock().await.len();
            clients.lock().await.push(to_client);
            servers.lock().await.push(to_server);
            for (mut from, to) in [(from_client, Arc::clone(&servers)), (from_server, Arc::clone(&clients))] {
                let swapped = Arc::clone(&swapped);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65536];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        let to_nr = if swapped.load(Ordering::SeqCst) { 1 - nr } else { nr };
                        if to.lock().await[to_nr].write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    port
}

/// What is said to be committed survives a fail-over, where the server has synchronous standbys, whatever the role's default is.
#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_synchronous_standbys_whatever_the_roles_default() {
    let pg = Pg::start(&[]).await;
    pg.sql(&format!("ALTER ROLE {EXECUTOR} SET synchronous_commit = off")).await;
    let engine = Arc::new(pg.engine(1));
    let create = order(&*pg, &*engine, "c_sync", &pg.credential()).await;
    pg.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()").await;
    wait_until(&pg, "current_setting('synchronous_standby_names') = 'nobody'").await;
    let flying = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.create(&create).await }
    });
    let waits = "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'quorate_executor' AND wait_event = 'SyncRep')";
    wait_until(&pg, waits).await;
    pg.sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()").await;
    timeout(Duration::from_secs(15), flying).await.unwrap().unwrap().expect("it is committed then");
}

/// A client that holds what a login left behind delays whoever cleans up, and nobody who ends logins.
#[tokio::test(flavor = "multi_thread")]
async fn cleaning_up_holds_no_connection_that_ends_logins() {
    let pg = Pg::shared().await;
    let engine = Arc::new(pg.engine(1));
    let holder = pg.superuser("postgres").await;
    let mut owners = Vec::new();
    for n in 0..6 {
        let name = format!("w_{n}");
        let (credential, oid) = maker(&pg, &engine, &name).await;
        session(&pg, &name, &credential).await.batch_execute(&format!("CREATE TABLE w_of_{n} (i int)")).await.unwrap();
        owners.push(principal(&name, Some(oid)));
    }
    for owner in &owners {
        end(&engine, &owner.name, owner.oid.unwrap()).await;
    }
    let tables: Vec<String> = (0..6).map(|n| format!("w_of_{n}")).collect();
    holder.batch_execute(&format!("BEGIN; LOCK TABLE {}", tables.join(", "))).await.unwrap();
    let cleaning = tokio::spawn({
        let (engine, owners) = (Arc::clone(&engine), owners.clone());
        async move { engine.clean(&owners).await }
    });
    wait_until(&pg, "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'w_of_0'::regclass)").await;
    engine.refuse(&[principal("w_none", None)]).await.unwrap();
    engine.look(&owners).await.unwrap();
    assert!(!cleaning.is_finished(), "six that wait a second each are waited for");
    holder.batch_execute("COMMIT").await.unwrap();
    cleaning.await.unwrap().unwrap();
    let cleaned = engine.clean(&owners).await.unwrap();
    assert!(cleaned.iter().all(|c| c.outcome == Cleaning::Gone), "{cleaned:?}");
}

/// By a role's own list or by its statements: what a login would become a member of.
#[tokio::test(flavor = "multi_thread")]
async fn groups_that_lead_to_power_by_any_detour_are_found_and_the_statements_cure_it() {
    let pg = Pg::start(&[]).await;
    pg.sql(&format!(
        "CREATE ROLE fine NOLOGIN; GRANT pg_read_all_data, pg_write_all_data TO fine; CREATE ROLE strong NOLOGIN CREATEROLE;
         CREATE ROLE far NOLOGIN; CREATE ROLE between NOLOGIN; GRANT pg_signal_backend TO between; GRANT between TO far;
         CREATE ROLE makes NOLOGIN; CREATE ROLE maker_of NOLOGIN CREATEDB; GRANT maker_of TO makes;
         CREATE ROLE executes NOLOGIN; GRANT {EXECUTOR} TO executes; CREATE ROLE inherits NOLOGIN; GRANT quorate_owner TO inherits"
    ))
    .await;
    let newer = pg.version().await >= 160_000;
    if newer {
        pg.sql(
            "CREATE ROLE boss NOLOGIN; GRANT pg_execute_server_program TO boss WITH ADMIN OPTION;
             CREATE ROLE lent NOLOGIN; GRANT pg_execute_server_program TO lent GRANTED BY boss",
        )
        .await;
    }
    let engine = pg.engine(1);
    let text = "GRANT fine, strong, far TO {{name}}; GRANT makes, executes, inherits TO {{name}}";
    let text = if newer { format!("{text}; GRANT lent TO {{{{name}}}}") } else { text.to_owned() };
    let groups = template::parse(&text).unwrap().groups();
    let checked = engine.check(&groups).await.unwrap();
    let mut missing: Vec<String> = checked.missing.iter().map(|m| m.statement.clone()).collect();
    let mut wanted: Vec<String> = [
        "ALTER ROLE \"strong\" NOSUPERUSER NOCREATEROLE NOCREATEDB NOBYPASSRLS NOREPLICATION",
        "REVOKE \"between\" FROM \"far\"",
        "REVOKE \"maker_of\" FROM \"makes\"",
        "REVOKE \"quorate_executor\" FROM \"executes\"",
        "REVOKE \"quorate_owner\" FROM \"inherits\"",
    ]
    .map(str::to_owned)
    .into();
    if newer {
        wanted.push("REVOKE \"pg_execute_server_program\" FROM \"lent\" GRANTED BY \"boss\"".to_owned());
        wanted.extend(groups.iter().map(|g| format!("GRANT \"{g}\" TO \"{EXECUTOR}\" WITH ADMIN OPTION")));
    } else {
        // There a member can make things as the group, and the heir may make them.
        wanted.push("REVOKE CREATE ON SCHEMA \"public\" FROM \"inherits\"".to_owned());
        wanted.push("REVOKE CREATE ON SCHEMA \"public\" FROM \"executes\"".to_owned());
    }
    // As they come: one can need another before it.
    let cure: Vec<String> = missing.iter().filter(|m| !m.contains("ON SCHEMA")).cloned().collect();
    missing.sort();
    wanted.sort();
    assert_eq!(missing, wanted);
    // Cured at the root: what came by detours has gone with them.
    pg.sql(&cure.join(";")).await;
    assert_eq!(engine.check(&groups).await.unwrap().missing, []);

    let first: String = {
        let client = pg.superuser("postgres").await;
        client.query_one("SELECT rolname::text FROM pg_roles WHERE oid = 10", &[]).await.unwrap().get(0)
    };
    let unfit = [EXECUTOR.to_owned(), "quorate_owner".to_owned(), first];
    let checked = engine.check(&unfit).await.unwrap();
    let named: Vec<&str> = checked.unfit.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(
        (named, &checked.missing),
        (unfit.iter().map(String::as_str).collect(), &vec![]),
        "no statement cures these"
    );
    for group in &unfit[..2] {
        let mut listed = order(&*pg, &engine, "g_own", &pg.credential()).await;
        let mut stated = order(&*pg, &engine, "g_own", &pg.credential()).await;
        listed.groups = vec![group.clone()];
        stated.statements = template::parse(&format!("GRANT {group} TO {{{{name}}}}")).unwrap().for_lease("L");
        for create in [listed, stated] {
            let refused = engine.create(&create).await;
            assert!(matches!(refused, Err(EngineError::Invalid { field: "groups", .. })), "{group}: {refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_definite_and_leaves_nothing() {
    let pg = Pg::shared().await;
    let engine = pg.engine(1);
    let mut create = order(&*pg, &engine, "r_group", &pg.credential()).await;
    create.groups = vec!["no_such_group".into()];
    let refused = engine.create(&create).await;
    assert!(matches!(refused, Err(EngineError::Refused { ref code, .. }) if code == "42704"), "{refused:?}");
    assert!(engine.list("r_group").await.unwrap().is_empty());
    let wrong = PostgresConfig { passwords: SecretVec::new(b"wrong".to_vec()).into(), ..pg.config(1) };
    let wrong = Postgres::new(wrong).unwrap().bind().await;
    assert!(matches!(wrong, Err(EngineError::Refused { ref code, .. }) if code == "28P01"), "{wrong:?}");
    for target in ["", "a/b", &"t".repeat(33)] {
        let config = PostgresConfig { target: target.to_owned(), ..pg.config(1) };
        assert!(matches!(Postgres::new(config), Err(EngineError::Invalid { field: "target", .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_the_only_one_and_takes_no_right() {
    let pg = Pg::start(&[]).await;
    let next = pg.credential();
    let learnt = || SecretVec::new(next.password.clone().into_bytes());
    // Not even the rights that ending principals takes.
    pg.sql(&format!("REVOKE pg_read_all_stats, pg_signal_backend FROM {EXECUTOR}; ALTER ROLE {EXECUTOR} NOCREATEROLE"))
        .await;
    let engine = pg.engine(1);
    engine.timeline().await.unwrap();
    let binding = engine.bind().await.unwrap();
    let bad = engine.set_password("hunter2", &binding).await;
    assert!(matches!(bad, Err(EngineError::Invalid { field: "verifier", .. })), "a clear password: {bad:?}");
    let never = Binding { pid: binding.pid, backend_start_micros: binding.backend_start_micros - 1 };
    assert_eq!(engine.set_password(&next.verifier, &never).await, Err(EngineError::StaleBinding));
    engine.set_password(&next.verifier, &binding).await.unwrap();
    engine.timeline().await.expect("sessions go on");
    assert_eq!(engine.bind().await.as_ref(), Ok(&binding), "this one too");
    pg.sql(&format!("SELECT pg_terminate_backend({})", binding.pid)).await;
    let lost = engine.set_password(&next.verifier, &binding).await;
    assert!(matches!(lost, Err(EngineError::StaleBinding | EngineError::Unavailable { .. })), "{lost:?}");
    let stale = engine.bind().await;
    assert!(matches!(&stale, Err(EngineError::Refused { code, .. }) if code == "28P01"), "the old one: {stale:?}");
    assert!(engine.login_refused().is_some_and(|why| why.contains("28P01")), "{:?}", engine.login_refused());
    assert_eq!(engine.let_in_with(), Some(0));
    engine.learn_password(7, learnt());
    engine.bind().await.expect("the new one is tried where the old one is refused");
    assert_eq!((engine.login_refused(), engine.let_in_with()), (None, Some(7)));
    // The next executor knows both, and does not know which the server has.
    pg.sql(&format!("GRANT pg_read_all_stats, pg_signal_backend TO {EXECUTOR}")).await;
    let successor = pg.engine(2);
    successor.learn_password(7, learnt());
    assert_eq!(successor.take_over().await.unwrap(), 2, "the sessions of the older term");
    // No session of this very role is kept by the name that it goes by, but by who has opened it.
    let own = OwnSessions::default();
    let hold = |own: &OwnSessions| {
        Postgres::new(PostgresConfig { passwords: learnt().into(), own: own.clone(), ..pg.config(2) }).unwrap()
    };
    let (first, second, intruder) = (hold(&own), hold(&own), hold(&OwnSessions::default()));
    let (bound, beside) = (first.bind().await.unwrap(), second.bind().await.unwrap());
    let strange = intruder.bind().await.unwrap();
    assert_eq!(first.end_strangers().await.unwrap(), 2, "the intruder's, and that of an executor that shares nothing");
    let begun = Instant::now();
    while first.end_strangers().await.unwrap() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "they end");
    }
    assert_eq!((first.bind().await, second.bind().await), (Ok(bound), Ok(beside)), "its own go on, all of them");
    assert_ne!(intruder.bind().await.unwrap(), strange);
    let stranger = Postgres::new(PostgresConfig { passwords: SecretVec::new(b"x".to_vec()).into(), ..pg.config(2) });
    let stranger = stranger.unwrap().bind().await;
    assert!(matches!(&stranger, Err(EngineError::Refused { code, .. }) if code == "28P01"), "{stranger:?}");
}
