//! Leased users who do what they can to stay, and to leave something behind.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target, assert_ended, order, principal};
use quorate_engines::mariadb::{MariaDb, MariaDbConfig};
use quorate_engines::{Cleaning, Engine, EngineError, number_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::half_open::HalfOpen;
use crate::server::{GROUP, My, native};
use crate::{end, lease, maker};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_whatever_they_do() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let credential = maker(&my, &engine, "s_many").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(my.client("s_many", &credential.password).await.unwrap());
    }
    clients[1].query_drop("BEGIN").await.unwrap();
    clients[1].query_drop("INSERT INTO app.t VALUES (8)").await.unwrap();
    clients[2].query_drop("CREATE TABLE app.u (a int)").await.unwrap();
    clients[2].query_drop("LOCK TABLES app.u WRITE").await.unwrap();
    clients[3].query_drop("DO GET_LOCK('s_many', 0)").await.unwrap();
    let mut asleep = my.client("s_many", &credential.password).await.unwrap();
    let sleeping = tokio::spawn(async move { asleep.query_drop("SELECT SLEEP(600)").await });
    while my.rows::<u64>("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'").await != [1]
    {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.look(&[principal("s_many", None)]).await.unwrap()[0].sessions, 5);
    end(&my, &engine, "s_many").await;
    sleeping.abort();
    for client in &mut clients {
        assert!(client.ping().await.is_err(), "a session lives");
    }
}

/// The account is asked about once, when the server is told the name; what comes later lets in whoever was asked about then.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_begun_before_the_end_does_not_outlive_it() {
    let my = My::start(&[]).await;
    let engine = my.engine(1);
    // Twice: once with an account that is locked, once with one that is gone as well.
    for (name, dropped) in [("h_locked", false), ("h_dropped", true)] {
        let credential = lease(&my, &engine, name).await;
        let this = [principal(name, Some(number_of(name)))];
        let unkilled = HalfOpen::begin(my.port, name).await;
        let half = HalfOpen::begin(my.port, name).await;
        engine.refuse(&this).await.unwrap();
        if dropped {
            my.sql(&[&format!("DROP USER {name}")]).await;
        }
        assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 2, "a login that is under way counts");
        let mut session = unkilled.prove(&credential.password).await.expect("this is why it has to be killed");
        assert!(session.alive().await && engine.look(&this).await.unwrap()[0].sessions == 2);
        assert_eq!(
            engine.ghosts().await.unwrap().0.iter().filter(|g| g.oid == number_of(name)).count(),
            2 * usize::from(dropped)
        );
        assert_eq!(engine.kill(&this).await.unwrap(), 2);
        assert!(half.prove(&credential.password).await.is_err(), "it was let in after its end");
        assert!(!session.alive().await);
        assert_ended(&engine, &this).await;
    }
}

/// A session of one lease that is becoming another's is the other's.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_changes_its_user_is_ended_as_that_user() {
    let my = My::start(&[]).await;
    let engine = my.engine(1);
    let (from, to) = (lease(&my, &engine, "h_from").await, lease(&my, &engine, "h_to").await);
    let this = [principal("h_to", None)];
    let session = HalfOpen::begin(my.port, "h_from").await.prove(&from.password).await.unwrap();
    let half = HalfOpen::change(session, "h_to").await;
    engine.refuse(&this).await.unwrap();
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 1, "it counts before it is let in");
    assert_eq!(engine.kill(&this).await.unwrap(), 1);
    assert!(half.prove(&to.password).await.is_err(), "it was let in after its end");
    assert_ended(&engine, &this).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_again_and_again_ends() {
    let my = My::start(&["max-connections=100"]).await;
    let engine = my.engine(1);
    let credential = lease(&my, &engine, "h_again").await;
    let (stop, let_in) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (my, password) = (my.clone(), credential.password.clone());
            let (stop, let_in) = (stop.clone(), let_in.clone());
            tokio::spawn(async move {
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(client) = my.client("h_again", &password).await {
                        let_in.fetch_add(1, Ordering::Relaxed);
                        held.push(client);
                    }
                }
                held
            })
        })
        .collect();
    while let_in.load(Ordering::Relaxed) < 4 {
        sleep(Duration::from_millis(5)).await;
    }
    let this = [principal("h_again", None)];
    engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    let until = let_in.load(Ordering::Relaxed);
    sleep(Duration::from_secs(1)).await;
    // One that is being refused in this moment counts, as any that may be let in yet: the vault would look again, and so does this.
    let mut looks = 0;
    while engine.look(&this).await.unwrap()[0].sessions > 0 {
        looks += 1;
        assert!(looks < 100, "the second look");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(let_in.load(Ordering::Relaxed), until, "it was let in again");
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
}

/// Neither a lock, nor the end of its role, nor that of its account ends a session or takes its rights away.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_role_and_its_account_until_it_is_killed() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let credential = lease(&my, &engine, "h_outlives").await;
    let mut client = my.client("h_outlives", &credential.password).await.unwrap();
    let group = GROUP.replace('`', "``");
    my.sql(&[&format!("REVOKE `{group}` FROM h_outlives"), "DROP USER h_outlives"]).await;
    assert_eq!(
        client.query_first::<i32, _>("SELECT a FROM app.t LIMIT 1").await.unwrap(),
        Some(7),
        "its role is in force"
    );
    let ghosts = engine.ghosts().await.unwrap().0;
    assert!(
        ghosts.iter().any(|g| g.oid == number_of("h_outlives")),
        "a session without an account is seen: {ghosts:?}"
    );
    let this = [principal("h_outlives", Some(number_of("h_outlives")))];
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.oid, seen.can_login, seen.sessions), (None, false, 1));
    assert_eq!(engine.kill(&this).await.unwrap(), 1, "by its name, which the session keeps");
    assert_ended(&engine, &this).await;
    assert!(client.ping().await.is_err());
}

/// It may change its own password, which helps nobody once it is locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_its_own_choice_does_not_keep_it_alive() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let credential = lease(&my, &engine, "h_mine").await;
    let mut client = my.client("h_mine", &credential.password).await.unwrap();
    client.query_drop("SET PASSWORD = PASSWORD('mine')").await.unwrap();
    my.client("h_mine", "mine").await.expect("otherwise this shows nothing");
    let this = [principal("h_mine", None)];
    engine.refuse(&this).await.unwrap();
    client.query_drop("SET PASSWORD = PASSWORD('mine')").await.unwrap();
    assert!(my.client("h_mine", "mine").await.is_err(), "a locked account lets nobody in");
    assert!(!engine.look(&this).await.unwrap()[0].can_login);
    end(&my, &engine, "h_mine").await;
}

/// An account of the same name and another host is another account, and its sessions look the same.
#[tokio::test(flavor = "multi_thread")]
async fn every_account_of_the_name_ends() {
    let my = My::shared().await;
    let engine = my.engine(1);
    lease(&my, &engine, "h_hosts").await;
    let hash = native("other");
    my.sql(&[
        &format!("CREATE USER h_hosts@'127.0.0.1' IDENTIFIED VIA mysql_native_password USING '{hash}'"),
        "CREATE ROLE h_hosts_role",
        &format!("CREATE USER H_HOSTS IDENTIFIED VIA mysql_native_password USING '{hash}'"),
    ])
    .await;
    let _client = my.client("h_hosts", "other").await.unwrap();
    let mut capitals = my.client("H_HOSTS", "other").await.unwrap();
    let this = [principal("h_hosts", None)];
    my.sql(&["ALTER USER h_hosts@'%' ACCOUNT LOCK"]).await;
    assert!(engine.look(&this).await.unwrap()[0].can_login, "by the other host");
    end(&my, &engine, "h_hosts").await;
    assert!(my.client("h_hosts", "other").await.is_err());
    assert!(capitals.ping().await.is_ok(), "capital letters are another account's");
    assert_eq!(
        engine.list("h_hosts").await.unwrap(),
        [principal("h_hosts", Some(number_of("h_hosts")))],
        "no role is listed"
    );
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(my.rows::<u64>("SELECT COUNT(*) FROM mysql.global_priv WHERE User = 'h_hosts'").await, [0]);
}

/// No account owns anything, and what names it stays: a person has to know.
#[tokio::test(flavor = "multi_thread")]
async fn what_names_it_as_its_definer_is_listed() {
    let my = My::start(&[]).await;
    let engine = my.engine(1);
    let credential = maker(&my, &engine, "h_defines").await;
    let mut client = my.client("h_defines", &credential.password).await.unwrap();
    for sql in [
        "CREATE VIEW app.v AS SELECT a FROM app.t",
        "CREATE PROCEDURE app.p() SELECT a FROM app.t",
        "CREATE FUNCTION app.f() RETURNS int RETURN 1",
        "CREATE EVENT app.e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "CREATE TRIGGER app.tr BEFORE INSERT ON app.t FOR EACH ROW SET NEW.a = 1",
        "CREATE TABLE app.left_behind (a int)",
    ] {
        client.query_drop(sql).await.unwrap();
    }
    end(&my, &engine, "h_defines").await;
    let this = [principal("h_defines", None)];
    for _ in 0..2 {
        let cleaned = engine.clean(&this).await.unwrap().remove(0);
        let Cleaning::Left { databases, reason } = cleaned.outcome else { panic!("nothing is said to be left") };
        let reason = reason.unwrap();
        assert_eq!(databases, ["app"]);
        for what in ["view app.v", "procedure app.p", "function app.f", "event app.e"] {
            assert!(reason.contains(what), "{what}: {reason}");
        }
        assert!(!reason.contains("trigger"), "without the right to make some, nobody sees any: {reason}");
    }
    assert_eq!(engine.look(&this).await.unwrap()[0].oid, None, "the account is gone all the same");
    for sql in ["SELECT * FROM app.v", "CALL app.p()", "INSERT INTO app.t VALUES (1)"] {
        let error = my.root().await.query_drop(sql).await.unwrap_err().to_string();
        assert!(error.contains("definer") && error.contains("does not exist"), "{sql}: {error}");
    }
    my.sql(&[
        "DROP VIEW app.v",
        "DROP PROCEDURE app.p",
        "DROP FUNCTION app.f",
        "DROP EVENT app.e",
        "DROP TRIGGER app.tr",
    ])
    .await;
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
}

/// Whoever holds the names of our locks first, or every connection that he may have, keeps the executor from nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_executor_is_not_locked_out() {
    let my = My::start(&["max-connections=20"]).await;
    let engine = my.engine(1);
    let credential = my.credential();
    let mut create = order(&*my, &engine, "h_greedy", &credential).await;
    create.connection_limit = 100;
    engine.create(&create).await.unwrap();
    engine.timeline().await.unwrap();
    let mut greedy = Vec::new();
    while let Ok(client) = my.client("h_greedy", &credential.password).await {
        greedy.push(client);
    }
    assert!(greedy.len() > 10, "the server is full");
    // One more is kept for who may end sessions; a login that was turned away has it for a moment.
    let mut tries = 0;
    while let Err(error) = my.engine(2).timeline().await {
        assert!(tries < 50, "the executor is locked out: {error}");
        tries += 1;
        sleep(Duration::from_millis(100)).await;
    }
    for id in 1..200 {
        greedy[0]
            .query_drop(format!("DO GET_LOCK('quorate/t1/{id}', 0), GET_LOCK('quorate/t1/{id}/1', 0)"))
            .await
            .unwrap();
    }
    end(&my, &engine, "h_greedy").await;
    let next = my.engine(1);
    next.bind().await.unwrap();
    lease(&my, &next, "h_after").await;
}

/// Hundreds in one statement, and one that is in the way of it costs the others nothing.
#[tokio::test(flavor = "multi_thread")]
async fn many_are_refused_at_once() {
    let my = My::shared().await;
    let engine = my.engine(1);
    let mut these = Vec::new();
    for i in 0..250 {
        let name = format!("m_{i:03}");
        my.sql(&[&format!("CREATE USER {name} IDENTIFIED VIA mysql_native_password USING '{}'", native("x"))]).await;
        these.push(principal(&name, None));
    }
    these.push(principal("m_never", None));
    let refused = engine.refuse(&these).await.unwrap();
    assert_eq!(refused.len(), 251);
    assert!(engine.look(&these).await.unwrap().iter().all(|seen| !seen.can_login));
    assert!(my.client("m_007", "x").await.is_err());
    assert!(engine.clean(&these).await.unwrap().iter().all(|c| c.outcome == Cleaning::Gone));
    assert!(engine.list("m_").await.unwrap().is_empty());
}

/// One packet of the protocol.
fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

/// A server that asks for another way to log in, and then for another.
async fn one_that_asks_for(plugin: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let greeting: &[&[u8]] = &[
                b"\x0a11.4.2-MariaDB\0\x07\0\0\0saltsalt\0",
                // What it can do: the protocol of 4.1, ways to log in by name.
                b"\x01\x82\x21\x02\0\x08\0\x15\0\0\0\0\0\0\0\0\0\0",
                b"saltsaltsalt\0mysql_native_password\0",
            ];
            let switch = [b"\xfe", plugin, b"\0", &[7; 32][..], b"\0"].concat();
            let mut answer = [0u8; 4_096];
            let _ = client.write_all(&packet(0, &greeting.concat())).await;
            let mut number = 2;
            // After its login, and after each answer.
            while matches!(client.read(&mut answer).await, Ok(read) if read > 0) {
                let _ = client.write_all(&packet(number, &switch)).await;
                number = number.wrapping_add(2);
            }
        }
    });
    port
}

#[tokio::test]
async fn a_server_at_which_the_driver_panics_takes_nothing_else_down() {
    for plugin in [&b"parsec"[..], b"client_ed25519", b"mysql_native_password", b"nobody_knows"] {
        let port = one_that_asks_for(plugin).await;
        let config = MariaDbConfig { port, connect_timeout: Duration::from_secs(2), ..My::shared().await.config(1) };
        let engine = MariaDb::new(config).unwrap();
        for _ in 0..2 {
            let error = engine.bind().await.unwrap_err();
            let known = matches!(error, EngineError::Unavailable { .. } | EngineError::Refused { .. });
            assert!(known, "{}: {error:?}", String::from_utf8_lossy(plugin));
        }
    }
}

/// A packet that a client sends.
async fn received(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    client.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    client.read_exact(&mut payload).await.ok()?;
    Some(payload)
}

/// Whether `signature` is that of a password, as the seed of a key, over a challenge (RFC 8032 section 5.1.7).
fn proves(password: &str, challenge: &[u8; 32], signature: &[u8]) -> bool {
    use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
    use curve25519_dalek::scalar::Scalar;
    use sha2::{Digest, Sha512};
    let seed = Sha512::digest(password.as_bytes());
    let key = EdwardsPoint::mul_base_clamped(seed[..32].try_into().unwrap());
    let (r, s) = signature.split_at_checked(32).expect("64 bytes");
    let point = CompressedEdwardsY(r.try_into().unwrap()).decompress().unwrap();
    let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s.try_into().unwrap())).unwrap();
    let hash = Sha512::new().chain_update(r).chain_update(key.compress().as_bytes()).chain_update(challenge).finalize();
    let hash = Scalar::from_bytes_mod_order_wide(hash[..].try_into().unwrap());
    EdwardsPoint::mul_base(&s) == point + key * hash
}

/// A server with one account, which proves its password by `ed25519` over these challenges, one after the other; and whom it has let in.
async fn one_that_challenges(password: &'static str, challenges: Vec<[u8; 32]>) -> (u16, Arc<Mutex<Vec<bool>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let let_in = Arc::new(Mutex::new(Vec::new()));
    let answered = Arc::clone(&let_in);
    tokio::spawn(async move {
        for challenge in challenges {
            let Ok((mut client, _)) = listener.accept().await else { return };
            let greeting: &[&[u8]] = &[
                b"\x0a11.4.2-MariaDB\0\x07\0\0\0saltsalt\0",
                b"\x01\x82\x21\x02\0\x08\0\x15\0\0\0\0\0\0\0\0\0\0",
                b"saltsaltsalt\0mysql_native_password\0",
            ];
            client.write_all(&packet(0, &greeting.concat())).await.unwrap();
            received(&mut client).await.unwrap();
            // As MariaDB does: 32 random bytes, and nothing behind them.
            client.write_all(&packet(2, &[&b"\xfeclient_ed25519\0"[..], &challenge].concat())).await.unwrap();
            let is_right = proves(password, &challenge, &received(&mut client).await.unwrap());
            answered.lock().unwrap().push(is_right);
            let (ok, denied) = (&b"\0\0\0\x02\0\0\0"[..], &b"\xff\x15\x04#28000Access denied for user 'q'@'h'"[..]);
            client.write_all(&packet(4, if is_right { ok } else { denied })).await.unwrap();
        }
    });
    (port, let_in)
}

/// Of 256 random challenges one ends so: a login that is refused once for the driver's sake is no wrong password.
#[tokio::test]
async fn a_login_by_ed25519_is_tried_once_more_and_a_wrong_password_is_refused() {
    let (mut zero, plain) = ([7; 32], [7; 32]);
    zero[31] = 0;
    for (password, challenges, expected) in [
        ("right", [zero, plain], &[false, true][..]),
        ("right", [plain, plain], &[true]),
        // No more than once.
        ("right", [zero, zero], &[false, false]),
        ("wrong", [plain, plain], &[false, false]),
    ] {
        let (port, let_in) = one_that_challenges("right", challenges.to_vec()).await;
        let passwords = SecretVec::new(password.as_bytes().to_vec()).into();
        let config = MariaDbConfig { port, passwords, ..My::shared().await.config(1) };
        let visited = MariaDb::new(config).unwrap().visit().await.unwrap_err();
        assert_eq!(*let_in.lock().unwrap(), expected, "{password}, {challenges:?}: {visited:?}");
        // Whom it lets in it says nothing more to.
        assert_eq!(visited.is_login_refused(), !expected.contains(&true), "{password}: {visited:?}");
    }
}
