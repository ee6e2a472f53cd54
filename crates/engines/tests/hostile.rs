//! Leased users who do what they can to stay, and to leave something behind. All of them end all the same, and none of them
//! keeps the executor from its work.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::time::Duration;

use quorate_engines::conformance::{Credential, Target, assert_ended, order, principal};
use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig};
use quorate_engines::{Cleaning, Engine, EngineError, Refusal, Slots};
use support::exchange::HalfOpen;
use support::{EXECUTOR, Pg};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

/// Makes a principal that may make objects, and says its password and its number.
async fn maker(pg: &Pg, engine: &Postgres, name: &str) -> (Credential, u32) {
    let credential = pg.credential();
    let mut create = order(pg, engine, name, &credential).await;
    create.groups.push("makers".into());
    create.connection_limit = 50;
    let oid = engine.create(&create).await.unwrap().oid;
    (credential, oid)
}

async fn session(pg: &Pg, name: &str, credential: &Credential) -> Client {
    pg.client(name, &credential.password, "postgres").await.unwrap()
}

/// Ends it as an executor does, and asks the server itself whether that is so; then makes and ends another one.
async fn end(pg: &Pg, engine: &Postgres, name: &str, oid: u32) -> Refusal {
    let this = [principal(name, Some(oid))];
    let refused = engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    assert_ended(engine, &this).await;
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin)
        AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = $2)";
    let row = pg.superuser("postgres").await.query_one(sql, &[&name, &oid]).await.unwrap();
    assert!(row.get::<_, bool>(0), "{name} is not ended");
    let (_, next) = maker(pg, engine, "h_next").await;
    let next = engine.refuse(&[principal("h_next", Some(next))]).await.unwrap();
    assert_eq!(next[0].outcome, Refusal::Dropped, "the executor is locked out");
    refused[0].outcome.clone()
}

fn left(cleaned: &[quorate_engines::Cleaned]) -> (Vec<String>, String) {
    match &cleaned[0].outcome {
        Cleaning::Left { databases, reason } => (databases.clone(), reason.clone().unwrap_or_default()),
        Cleaning::Gone => panic!("nothing is left"),
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_begun_before_the_end_does_not_outlive_it() {
    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let (credential, oid) = maker(&pg, &engine, "h_half").await;
    let mut control = HalfOpen::begin(pg.port, "h_half", "postgres").await.prove(&credential.password).await;
    control.let_in().await.expect("by hand it is a login as any other");
    assert!(control.alive().await);
    // Once with an account that is disabled, since a session of it is open, and once with one that is gone.
    let half = HalfOpen::begin(pg.port, "h_half", "postgres").await;
    assert!(matches!(end(&pg, &engine, "h_half", oid).await, Refusal::Disabled { .. }));
    assert!(!control.alive().await);
    let said = half.prove(&credential.password).await.let_in().await.unwrap_err();
    assert!(said.contains("not permitted to log in"), "{said}");

    let (credential, oid) = maker(&pg, &engine, "h_quarter").await;
    let half = HalfOpen::begin(pg.port, "h_quarter", "postgres").await;
    assert_eq!(end(&pg, &engine, "h_quarter", oid).await, Refusal::Dropped);
    let said = half.prove(&credential.password).await.let_in().await.unwrap_err();
    assert!(said.contains("does not exist"), "{said}");
    assert!(engine.ghosts().await.unwrap().0.is_empty());
}

/// The password is proved and the account asked about; then the server waits for the database, before it shows the session
/// to anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_waits_for_its_database_is_no_proof_of_an_end() {
    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let (credential, oid) = maker(&pg, &engine, "h_wait").await;
    let holder = pg.superuser("postgres").await;
    holder.batch_execute("BEGIN; ALTER DATABASE other RENAME TO another").await.unwrap();
    let half = HalfOpen::begin(pg.port, "h_wait", "other").await;
    let mut waiting = half.prove(&credential.password).await;
    wait_until(&pg, "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND classid = 'pg_database'::regclass)").await;
    let this = [principal("h_wait", Some(oid))];
    engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert!(seen.can_login && seen.behind[0].reason.contains("waits"), "nobody knows whose login that is: {seen:?}");
    assert_eq!((seen.sessions, seen.login_at), (0, vec![]), "this is all that the server shows");
    holder.batch_execute("ROLLBACK").await.unwrap();
    let said = timeout(Duration::from_secs(10), waiting.let_in()).await.unwrap();
    assert_eq!(said, Ok(()), "the server does not ask again, which is why the look has to wait");
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 1);
    assert_eq!(engine.kill(&this).await.unwrap(), 1);
    assert_ended(&engine, &this).await;
    assert!(!waiting.alive().await);
}

/// Whoever logs in may say how long the server is to wait between the password and the first word, and is shown by no view meanwhile: a
/// lease that is called revoked then would have a session later.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_asks_to_be_kept_waiting_is_no_proof_of_an_end() {
    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let (credential, oid) = maker(&pg, &engine, "h_delay").await;
    let half = HalfOpen::begin_with(pg.port, "h_delay", "postgres", "-c post_auth_delay=4").await;
    // Meanwhile somebody else has begun and does not go on: without a password, nobody has to wait for that one.
    let stalled = HalfOpen::begin(pg.port, "h_delay", "postgres").await;
    let mut waiting = half.prove(&credential.password).await;
    let hidden = "EXISTS (SELECT FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
        WHERE l.classid = 'pg_database'::regclass AND l.granted AND a.usesysid IS NULL)";
    wait_until(&pg, hidden).await;
    let this = [principal("h_delay", Some(oid))];
    let refused = engine.refuse(&this).await.unwrap();
    assert_eq!(refused[0].outcome, Refusal::Dropped, "nothing of it is to be seen");
    engine.kill(&this).await.unwrap();
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert!(seen.can_login && seen.behind[0].reason.contains("waits"), "nobody knows whose login that is: {seen:?}");
    // As the executor does: again, until two looks show nothing. By then it was seen, and ended.
    let mut killed = 0;
    timeout(Duration::from_secs(20), async {
        while engine.look(&this).await.unwrap().iter().any(|s| s.can_login || s.sessions > 0) {
            killed += engine.kill(&this).await.unwrap();
        }
    })
    .await
    .expect("it ends when its delay is over");
    assert!(killed > 0, "its session came, without an account, and was ended");
    assert_ended(&engine, &this).await;
    let alive = waiting.let_in().await.is_ok() && waiting.alive().await;
    assert!(!alive, "a session outlives the proof of its end");
    let said = stalled.prove(&credential.password).await.let_in().await.unwrap_err();
    assert!(said.contains("does not exist"), "{said}");
}

/// A prepared transaction has no session that could be ended, and keeps its locks through a restart of the server.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_prepared_for_later_do_not_keep_a_role() {
    let pg = Pg::start(&["max_prepared_transactions=10"]).await;
    let databases = vec!["other".to_owned()];
    let engine = Postgres::new(PostgresConfig { databases, owned: OwnedObjects::Drop, ..pg.config(1) }).unwrap();
    let (credential, oid) = maker(&pg, &engine, "h_later").await;
    let (bystander_credential, _) = maker(&pg, &engine, "h_bystander").await;
    let bystander = session(&pg, "h_bystander", &bystander_credential).await;
    bystander.batch_execute("BEGIN; CREATE TABLE his (i int); PREPARE TRANSACTION 'his'").await.unwrap();
    let (here, there) = (
        session(&pg, "h_later", &credential).await,
        pg.client("h_later", &credential.password, "other").await.unwrap(),
    );
    here.batch_execute("CREATE TABLE hers (i int)").await.unwrap();
    here.batch_execute("BEGIN; ALTER ROLE h_later PASSWORD 'mine'; PREPARE TRANSACTION 'it''s \\ mine'").await.unwrap();
    here.batch_execute("BEGIN; LOCK TABLE hers; PREPARE TRANSACTION 'locked'").await.unwrap();
    there.batch_execute("BEGIN; ALTER ROLE h_later SET work_mem = '1MB'; PREPARE TRANSACTION 'there'").await.unwrap();
    drop((here, there));
    assert!(matches!(end(&pg, &engine, "h_later", oid).await, Refusal::Disabled { .. }));
    let cleaned = engine.clean(&[principal("h_later", Some(oid))]).await.unwrap();
    assert_eq!(cleaned[0].outcome, Cleaning::Gone);
    wait_until(&pg, "(SELECT array_agg(gid) = '{his}' FROM pg_prepared_xacts)").await;
    wait_until(&pg, "to_regclass('public.hers') IS NULL").await;
}

/// What is in `public` was made by a group's right to make; the rest needs no right at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_behind_goes_to_the_owner_role_and_has_no_power() {
    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let admin = pg.superuser("postgres").await;
    admin.batch_execute("CREATE TABLE theirs (i int); ALTER TABLE theirs ENABLE ROW LEVEL SECURITY").await.unwrap();
    let (credential, oid) = maker(&pg, &engine, "h_leaver").await;
    admin.batch_execute("CREATE POLICY p ON theirs TO h_leaver USING (true)").await.unwrap();
    let client = session(&pg, "h_leaver", &credential).await;
    client
        .batch_execute(
            "CREATE TABLE l_table (i int, j int); GRANT ALL ON l_table TO PUBLIC;
             CREATE SEQUENCE l_sequence; CREATE TYPE l_type AS (i int); CREATE DOMAIN l_domain AS int;
             CREATE FUNCTION l_trap() RETURNS text SECURITY DEFINER LANGUAGE sql AS 'SELECT current_user::text';
             CREATE FUNCTION l_role() RETURNS text SECURITY DEFINER LANGUAGE plpgsql
               AS 'BEGIN CREATE ROLE l_made SUPERUSER; RETURN NULL; END';
             CREATE AGGREGATE l_aggregate (int) (SFUNC = int4pl, STYPE = int);
             CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
             CREATE FUNCTION l_cast(l_type) RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE CAST (l_type AS int) WITH FUNCTION l_cast(l_type);
             CREATE VIEW l_view AS SELECT * FROM l_table; CREATE MATERIALIZED VIEW l_matview AS SELECT 1 AS i;
             CREATE TEXT SEARCH CONFIGURATION l_search (COPY = simple);
             CREATE STATISTICS l_statistics ON i, j FROM l_table; CREATE INDEX l_index ON l_table (i);
             CREATE FUNCTION l_fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER l_trigger BEFORE INSERT ON l_table FOR EACH ROW EXECUTE FUNCTION l_fire();
             ALTER TABLE l_table ENABLE ROW LEVEL SECURITY; CREATE POLICY l_policy ON l_table TO h_leaver USING (true);
             ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
             SELECT lo_create(4711); SELECT lo_put(4711, 0, '\\x00'); GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC;
             ALTER ROLE h_leaver SET search_path = public; ALTER ROLE h_leaver IN DATABASE postgres SET role = 'makers';
             COMMENT ON TABLE l_table IS 'mine'; PREPARE stay AS SELECT 1; LISTEN stay; SELECT pg_advisory_lock(1);
             DECLARE stay CURSOR WITH HOLD FOR SELECT generate_series(1, 10)",
        )
        .await
        .unwrap();
    client.batch_execute("BEGIN; CREATE TEMPORARY TABLE l_temporary (i int); LOCK TABLE l_table").await.unwrap();

    assert_eq!(end(&pg, &engine, "h_leaver", oid).await, Refusal::Disabled { groups_left: vec![] });
    let mut cleaned = engine.clean(&[principal("h_leaver", Some(oid))]).await.unwrap();
    // Newer minor releases (15.20 does, 15.18 does not) leave a policy on somebody else's table to its owner, who is told.
    if let Cleaning::Left { reason: Some(why), .. } = &cleaned[0].outcome {
        assert_eq!(why, "others have to take back what they granted it: policy p on table public.theirs");
        admin.batch_execute("DROP POLICY p ON theirs").await.unwrap();
        cleaned = engine.clean(&[principal("h_leaver", Some(oid))]).await.unwrap();
    }
    assert_eq!(cleaned[0].outcome, Cleaning::Gone);
    let trap: String = admin.query_one("SELECT l_trap()", &[]).await.unwrap().get(0);
    assert_eq!(trap, "quorate_owner", "whoever calls it, it runs with the owner role's power");
    let made = admin.query_one("SELECT l_role()", &[]).await.unwrap_err();
    assert_eq!(made.code().unwrap().code(), "42501", "which is none: {made:?}");
    let owner: bool = admin
        .query_one("SELECT lomowner = 'quorate_owner'::regrole FROM pg_largeobject_metadata WHERE oid = 4711", &[])
        .await
        .unwrap()
        .get(0);
    assert!(owner);
    for nothing in [
        "pg_default_acl",
        "pg_db_role_setting",
        "pg_policy WHERE polname = 'p'",
        "pg_class WHERE relname = 'l_temporary'",
        "pg_locks WHERE locktype = 'advisory'",
        "pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid NOT IN (SELECT oid FROM pg_authid)",
    ] {
        let rows: i64 = admin.query_one(&format!("SELECT count(*) FROM {nothing}"), &[]).await.unwrap().get(0);
        assert_eq!(rows, 0, "{nothing}");
    }
    let sql = "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1::text::regrole AND deptype = 'o'";
    let executors: i64 = admin.query_one(sql, &[&EXECUTOR]).await.unwrap().get(0);
    assert_eq!(executors, 0, "nothing is the executor's");
}

/// What somebody else granted to it, only that one can take back; what one leased user grants to another goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn privileges_that_others_granted_are_named() {
    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let (giver_credential, giver) = maker(&pg, &engine, "h_giver").await;
    let (_, taker) = maker(&pg, &engine, "h_taker").await;
    let client = session(&pg, "h_giver", &giver_credential).await;
    client
        .batch_execute("CREATE TABLE given (i int); GRANT SELECT ON given TO h_taker WITH GRANT OPTION; GRANT SELECT ON given TO PUBLIC")
        .await
        .unwrap();
    let these = [principal("h_taker", Some(taker)), principal("h_giver", Some(giver))];
    assert_eq!(end(&pg, &engine, "h_taker", taker).await, Refusal::Disabled { groups_left: vec![] });
    let (databases, reason) = left(&engine.clean(&these[..1]).await.unwrap());
    assert_eq!(databases, ["postgres"]);
    assert!(reason.contains("table public.given"), "a person has to know where to look: {reason}");
    end(&pg, &engine, "h_giver", giver).await;
    assert_eq!(engine.clean(&these[1..]).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(
        engine.clean(&these[..1]).await.unwrap()[0].outcome,
        Cleaning::Gone,
        "the owner role's are ours to take back"
    );
}

/// With `CREATE` on the database a leased user makes what no role but the executor, or a superuser, could be given: the end
/// is as true, and what is left is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_away_is_named_and_can_be_dropped() {
    let pg = Pg::start(&["wal_level=logical"]).await;
    pg.sql("GRANT CREATE ON DATABASE postgres TO makers").await;
    let subscribes = pg.version().await >= 160_000;
    if subscribes {
        pg.sql(&format!("GRANT pg_create_subscription TO {EXECUTOR} WITH ADMIN OPTION")).await;
    }
    let (keeping, dropping) =
        (pg.engine(1), Postgres::new(PostgresConfig { owned: OwnedObjects::Drop, ..pg.config(1) }).unwrap());
    let checked = keeping.check(&["makers".to_owned()]).await.unwrap();
    let revoke = "REVOKE CREATE ON DATABASE \"postgres\" FROM \"makers\"";
    assert!(checked.missing.iter().any(|m| m.statement == revoke), "{:?}", checked.missing);

    let (credential, oid) = maker(&pg, &keeping, "h_schema").await;
    let client = session(&pg, "h_schema", &credential).await;
    let make = "CREATE SCHEMA mine; CREATE TABLE mine.t (i int); CREATE PUBLICATION mine FOR TABLE mine.t;
        CREATE FUNCTION mine.f() RETURNS text SECURITY DEFINER LANGUAGE sql AS 'SELECT current_user::text'";
    client.batch_execute(make).await.unwrap();
    let this = [principal("h_schema", Some(oid))];
    assert!(matches!(end(&pg, &keeping, "h_schema", oid).await, Refusal::Disabled { .. }));
    let (databases, reason) = left(&keeping.clean(&this).await.unwrap());
    assert_eq!(databases, ["postgres"]);
    assert!(reason.contains("permission denied"), "{reason}");
    let trap: String = pg.superuser("postgres").await.query_one("SELECT mine.f()", &[]).await.unwrap().get(0);
    assert_eq!(trap, "h_schema", "what can't be given away stays with one who can do nothing");
    assert_eq!(dropping.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);

    if subscribes {
        let credential = pg.credential();
        let mut create = order(&*pg, &dropping, "h_subscriber", &credential).await;
        create.groups.extend(["makers".to_owned(), "pg_create_subscription".to_owned()]);
        let oid = dropping.create(&create).await.unwrap().oid;
        let client = session(&pg, "h_subscriber", &credential).await;
        let subscribe = "CREATE SUBSCRIPTION mine CONNECTION 'host=127.0.0.1 port=1 password=x dbname=postgres'
            PUBLICATION mine WITH (connect = false, slot_name = NONE)";
        client.batch_execute(subscribe).await.unwrap();
        assert!(matches!(end(&pg, &dropping, "h_subscriber", oid).await, Refusal::Disabled { .. }));
        let this = [principal("h_subscriber", Some(oid))];
        let (databases, _) = left(&dropping.clean(&this).await.unwrap());
        assert_eq!(databases, ["(shared)"], "a subscription belongs to the server, and only a person can drop it");
        pg.sql("DROP SUBSCRIPTION mine").await;
        assert_eq!(dropping.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    }
}

/// As many roles as it takes, each with its limit used up. The connections that were opened early go on working, all others
/// are at the server's mercy: from PostgreSQL 16 on it keeps slots for the executor, before it does not.
#[tokio::test(flavor = "multi_thread")]
async fn roles_that_take_every_slot_together_are_ended() {
    let mut settings = vec!["max_connections=20", "max_wal_senders=0", "superuser_reserved_connections=3"];
    let reserves = support::installed().version >= 16;
    if reserves {
        settings.push("reserved_connections=3");
    }
    let pg = Pg::start(&settings).await;
    let engine = pg.engine(1);
    let slots = engine.check(&[]).await.unwrap().slots;
    let (free, kept) = if reserves { (14, Some(true)) } else { (17, None) };
    assert_eq!(slots, Slots { free, kept }, "what the server was started with");
    if reserves {
        let missing = engine.check(&[]).await.unwrap().missing;
        let grant = format!("GRANT pg_use_reserved_connections TO \"{EXECUTOR}\"");
        assert!(missing.iter().any(|m| m.statement == grant), "{missing:?}");
        pg.sql(&grant).await;
    }
    engine.warm().await.unwrap();
    let (mut these, mut credentials) = (Vec::new(), Vec::new());
    for i in 0..8 {
        let (name, credential) = (format!("x_{i}"), pg.credential());
        let create = order(&*pg, &engine, &name, &credential).await;
        let oid = engine.create(&create).await.unwrap().oid;
        these.push(principal(&name, Some(oid)));
        credentials.push(credential);
    }
    let mut taken: Vec<Client> = Vec::new();
    for (one, credential) in these.iter().zip(&credentials) {
        while let Ok(client) = pg.client(&one.name, &credential.password, "postgres").await {
            client.batch_execute("SET application_name = 'quorate/t1/1'").await.unwrap();
            taken.push(client);
        }
    }
    assert!(taken.len() > 5, "more than one role's limit: {}", taken.len());
    let entered = pg.engine(1).warm().await;
    assert_eq!(entered.is_ok(), reserves, "{entered:?}");

    // A restart takes the connection away; the watch over the timeline is what opens it again.
    assert_eq!(engine.timeline().await, Ok(1));
    let restarted = pg.clone();
    spawn_blocking(move || restarted.server.lock().unwrap().run().unwrap()).await.unwrap();
    for _ in 0..2 {
        // The first may meet the old connection before the news of its end.
        if engine.timeline().await.is_ok() {
            break;
        }
    }
    taken.clear();
    for (one, credential) in these.iter().zip(&credentials) {
        while let Ok(client) = pg.client(&one.name, &credential.password, "postgres").await {
            taken.push(client);
        }
    }
    assert!(matches!(engine.timeline().await, Ok(1)), "the connection that ends principals is there");
    let refused = engine.refuse(&these).await.unwrap();
    assert!(refused.iter().all(|r| !matches!(r.outcome, Refusal::Failed(_) | Refusal::Absent)), "{refused:?}");
    assert_eq!(engine.kill(&these).await.unwrap(), taken.len());
    assert_ended(&engine, &these).await;
    for client in &taken {
        assert!(client.simple_query("SELECT 1").await.is_err());
    }
    let cleaned = engine.clean(&these).await.unwrap();
    assert!(cleaned.iter().all(|c| c.outcome == Cleaning::Gone), "{cleaned:?}");
    let late = engine.claim("x_mark").await;
    assert_eq!(late, Ok(()), "and the executor is not locked out");
    assert!(matches!(engine.claim("x_mark").await, Err(EngineError::Duplicate)));
}
