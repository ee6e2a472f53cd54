//! What a leased login, a slow network and a dying executor can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target, assert_ended, order, principal};
use quorate_engines::redis::{Redis as RedisEngine, RedisConfig};
use quorate_engines::scratch::Users;
use quorate_engines::{Engine, EngineError, Fenced, Passwords, Refusal, Slots};
use tokio::time::sleep;

use crate::server::{EXECUTOR, EXECUTOR_PASSWORD, Redis, encode, lease, lease_with, sha256, wait_until};

/// Long enough for what was delivered late to be executed.
const LATE: Duration = Duration::from_millis(300);

fn sessions(redis_clients: &str, user: &str) -> usize {
    redis_clients.lines().filter(|line| line.contains(&format!(" user={user} "))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_whatever_they_do() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let password = lease(&redis, &engine, "s_all").await.password;
    // What no role can give, to see that it would not help.
    redis.ask("ACL SETUSER s_all +monitor +psync +replconf").await;
    let mut idle = redis.session("s_all", &password).await.unwrap();
    let mut queued = redis.session("s_all", &password).await.unwrap();
    assert_eq!(queued.call("MULTI").await.unwrap(), "OK");
    assert_eq!(queued.call("SET cf:late 1").await.unwrap(), "QUEUED");
    let mut blocked = redis.session("s_all", &password).await.unwrap();
    assert!(blocked.send("BLPOP cf:list 0").await);
    let mut subscribed = redis.session("s_all", &password).await.unwrap();
    assert!(subscribed.call("SUBSCRIBE cf.news").await.unwrap().contains("subscribe"));
    let mut watching = redis.session("s_all", &password).await.unwrap();
    assert_eq!(watching.call("MONITOR").await.unwrap(), "OK");
    let mut replica = redis.session("s_all", &password).await.unwrap();
    assert!(replica.call("PSYNC ? -1").await.unwrap().contains("FULLRESYNC"));
    let mut third = redis.raw().await;
    assert!(third.call(&format!("HELLO 3 AUTH s_all {password}")).await.is_some());
    wait_until(&redis, "CLIENT LIST", |all| all.contains("cmd=blpop")).await;

    let this = [principal("s_all", None)];
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 7, "each is seen");
    engine.refuse(&this).await.unwrap();
    // Refused is not ended.
    assert!(idle.call("GET cf:x").await.unwrap().starts_with("NOPERM"), "a session that stays has no rights any more");
    let said = queued.call("EXEC").await.unwrap();
    assert!(said.starts_with("EXECABORT"), "what it had queued is not done: {said}");
    assert_eq!(redis.ask("EXISTS cf:late").await, "0");
    assert!(subscribed.ends().await, "the server itself ends who listens to a channel that is taken away");
    // A client that was blocked before is served without a question. This is why refusing is not the end.
    assert_eq!(redis.ask("RPUSH cf:list secret").await, "1");
    assert_eq!(blocked.reply().await.unwrap(), "cf:list secret");
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 6);

    assert_eq!(engine.kill(&this).await.unwrap(), 6);
    for _ in 0..2 {
        assert_ended(&engine, &this).await;
    }
    for session in [&mut idle, &mut queued, &mut blocked, &mut watching, &mut replica, &mut third] {
        assert!(session.ends().await);
    }
    assert_eq!(sessions(&redis.ask("CLIENT LIST").await, "s_all"), 0);
}

/// What Redis 7 does when somebody else deletes the user: it ends the sessions by itself.
#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_user_ends_its_sessions_on_this_server() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let password = lease(&redis, &engine, "s_del").await.password;
    let mut idle = redis.session("s_del", &password).await.unwrap();
    let mut blocked = redis.session("s_del", &password).await.unwrap();
    assert!(blocked.send("BLPOP cf:list 0").await);
    wait_until(&redis, "CLIENT LIST", |all| all.contains("cmd=blpop")).await;
    redis.ask("ACL DELUSER s_del").await;
    assert!(idle.ends().await && blocked.ends().await);
    let this = [principal("s_del", None)];
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Absent);
    assert_eq!(engine.kill(&this).await.unwrap(), 0);
    assert_ended(&engine, &this).await;
    assert_eq!(engine.ghosts().await.unwrap(), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_half_way_is_not_let_in() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let password = lease(&redis, &engine, "s_half").await.password;
    let mut half = Vec::new();
    for command in [format!("AUTH s_half {password}"), format!("HELLO 3 AUTH s_half {password}")] {
        let bytes = encode(&command);
        let mut raw = redis.raw().await;
        raw.send_bytes(&bytes[..bytes.len() - 5]).await;
        half.push((raw, bytes));
    }
    // Queued, so that it is executed at once with what frees it.
    let mut queued = redis.raw().await;
    assert!(queued.call("MULTI").await.unwrap().starts_with("NOAUTH"), "who is not known can queue nothing");
    let this = [principal("s_half", None)];
    engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    for _ in 0..2 {
        assert_ended(&engine, &this).await;
    }
    for (mut raw, bytes) in half {
        raw.send_bytes(&bytes[bytes.len() - 5..]).await;
        assert!(raw.reply().await.unwrap().starts_with("WRONGPASS"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reconnects_while_being_killed_stays_out() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let password = lease(&redis, &engine, "s_again").await.password;
    let (stop, entered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (redis, password) = (Arc::clone(&redis), password.clone());
            let (stop, entered) = (Arc::clone(&stop), Arc::clone(&entered));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    if let Ok(mut session) = redis.session("s_again", &password).await {
                        entered.fetch_add(1, Ordering::SeqCst);
                        while session.call("GET cf:x").await.is_some() && !stop.load(Ordering::SeqCst) {}
                    }
                }
            })
        })
        .collect();
    wait_until(&redis, "CLIENT LIST", |all| sessions(all, "s_again") == 8).await;
    let this = [principal("s_again", None)];
    engine.refuse(&this).await.unwrap();
    let before = entered.load(Ordering::SeqCst);
    assert_eq!(engine.kill(&this).await.unwrap(), 8);
    for _ in 0..5 {
        let seen = engine.look(&this).await.unwrap();
        assert_eq!((seen[0].can_login, seen[0].sessions), (false, 0));
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(entered.load(Ordering::SeqCst), before, "nobody came in after it was refused");
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
}

/// The connection that ends logins is there before they take the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_takes_every_slot_is_ended() {
    let redis = Redis::start(&["maxclients 20"]).await;
    let engine = redis.engine(1);
    let password = lease(&redis, &engine, "s_slots").await.password;
    engine.take_over().await.unwrap();
    assert_eq!(engine.check(&[]).await.unwrap().slots, Slots { free: 20, kept: None });
    let mut taken = Vec::new();
    while let Ok(session) = redis.session("s_slots", &password).await {
        taken.push(session);
    }
    let late = redis.engine(2).timeline().await;
    assert!(matches!(late, Err(EngineError::Unavailable { .. })), "no slot is free: {late:?}");
    let this = [principal("s_slots", None)];
    engine.refuse(&this).await.unwrap();
    assert_eq!(engine.kill(&this).await.unwrap(), taken.len());
    assert_ended(&engine, &this).await;
    redis.engine(2).timeline().await.unwrap();
}

/// Its executor lost patience, and is gone; the network delivers what it sent much later.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_delivered_late_finds_its_connection_gone() {
    let redis = Redis::start(&[]).await;
    let (dying, next) = (redis.hasty(Duration::from_millis(200)), redis.engine(2));
    let credential = redis.credential();
    let create = order(&*redis, &dying, "f_late", &credential).await;
    redis.relay.hold();
    let given_up = dying.create(&create).await;
    assert!(matches!(given_up, Err(EngineError::Unknown { .. })), "{given_up:?}");
    drop(dying);
    assert_eq!(next.fence("f_late", &create.binding).await, Ok(Fenced::Absent));
    redis.relay.release();
    sleep(LATE).await;
    assert_eq!(next.list("f_").await.unwrap(), [], "an orphan");
    assert!(redis.session("f_late", &credential.password).await.is_err());
}

/// The server does nothing while the call is given up, and then everything at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_given_up_on_a_server_that_sleeps_is_there_or_not() {
    let redis = Redis::start(&[]).await;
    for round in 0..10 {
        let name = format!("f_sleep{round}");
        let (dying, next) = (redis.hasty(Duration::from_millis(100)), redis.engine(2));
        let credential = redis.credential();
        let create = order(&*redis, &dying, &name, &credential).await;
        next.timeline().await.unwrap();
        redis.freeze(true);
        let given_up = dying.create(&create).await;
        assert!(matches!(given_up, Err(EngineError::Unknown { .. })), "{given_up:?}");
        drop(dying);
        redis.freeze(false);
        let fenced = next.fence(&name, &create.binding).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        let there = redis.session(&name, &credential.password).await.is_ok();
        assert_eq!(there, fenced != Fenced::Absent, "what a fence says stays so");
    }
}

/// The same executor: what it gave up can't take effect after its next call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_given_up_is_over_before_the_next() {
    let redis = Redis::start(&[]).await;
    let engine = redis.hasty(Duration::from_millis(200));
    engine.timeline().await.unwrap();
    redis.relay.hold();
    let given_up = engine.claim("g_mark").await;
    assert!(matches!(given_up, Err(EngineError::Unavailable { .. })), "{given_up:?}");
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new());
    redis.relay.release();
    sleep(LATE).await;
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new(), "it was given up, and came back");

    // The caller itself is gone, not only its patience.
    let engine = Arc::new(redis.engine(1));
    engine.timeline().await.unwrap();
    redis.relay.hold();
    let calling = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.claim("g_mark").await }
    });
    sleep(Duration::from_millis(100)).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new());
    redis.relay.release();
    sleep(LATE).await;
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new());

    // And of what makes principals, before there is another connection for that.
    let hasty = redis.hasty(Duration::from_millis(200));
    let create = order(&*redis, &hasty, "g_user", &redis.credential()).await;
    redis.relay.hold();
    assert!(matches!(hasty.create(&create).await, Err(EngineError::Unknown { .. })));
    assert_ne!(hasty.bind().await.unwrap(), create.binding);
    redis.relay.release();
    sleep(LATE).await;
    assert_eq!(hasty.list("g_").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_script_does_not_put_off_its_end() {
    let redis = Redis::start(&["busy-reply-threshold 100"]).await;
    let engine = redis.engine(1);
    let patient = RedisEngine::new(RedisConfig { end_scripts: false, ..redis.config(1) }).unwrap();
    patient.timeline().await.unwrap();
    let password = lease_with(&redis, &engine, "s_script", &["~cf:* +@scripting"]).await.password;
    let mut session = redis.session("s_script", &password).await.unwrap();
    session.send_bytes(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n").await;
    let this = [principal("s_script", None)];
    let mut said = patient.refuse(&this).await;
    for _ in 0..100 {
        if matches!(said, Err(EngineError::Busy { .. })) {
            break;
        }
        said = patient.refuse(&this).await;
    }
    assert!(
        matches!(said, Err(EngineError::Busy { .. })),
        "a script in the way, so that this proves something: {said:?}"
    );
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });
    engine.kill(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    assert!(session.ends().await);
    // Another one, met by an executor that has no connection yet.
    let password = lease_with(&redis, &engine, "s_more", &["~cf:* +@scripting"]).await.password;
    let mut session = redis.session("s_more", &password).await.unwrap();
    session.send_bytes(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n").await;
    sleep(LATE).await;
    assert!(
        matches!(redis.engine(2).refuse(&[principal("s_more", None)]).await, Ok(refused) if refused[0].oid.is_some())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_gives_what_it_says_and_no_power() {
    let redis = Redis::start(&["acl-pubsub-default allchannels"]).await;
    let engine = redis.engine(1);
    let all = lease_with(&redis, &engine, "r_all", &["~cf:* +@all", "(%R~other:* +@all)"]).await;
    for power in [
        "ACL SETUSER x",
        "ACL LIST",
        "CONFIG GET dir",
        "CLIENT KILL ID 1",
        "CLIENT PAUSE 1",
        "DEBUG SLEEP 0",
        "SHUTDOWN",
        "MIGRATE h 1 cf:k 0 1",
        "MODULE LIST",
        "REPLICAOF NO ONE",
        "PSYNC ? -1",
        "MONITOR",
        "SCRIPT KILL",
        "FUNCTION KILL",
        "FAILOVER",
        "CLUSTER RESET",
        "RESTORE-ASKING cf:k 0 v",
        "SAVE",
        "BGREWRITEAOF",
        "GET secret",
        "SET other:x 1",
        "SUBSCRIBE c",
    ] {
        let said = redis.ask(&format!("ACL DRYRUN r_all {power}")).await;
        assert!(said.contains("no permissions"), "{power}: {said}");
    }
    for right in ["GET cf:k", "SET cf:k v", "GET other:k", "EVAL x 0", "PING", "CLIENT ID"] {
        assert_eq!(redis.ask(&format!("ACL DRYRUN r_all {right}")).await, "OK", "{right}");
    }
    let mut session = redis.session("r_all", &all.password).await.unwrap();
    assert!(session.call("PUBLISH c x").await.unwrap().starts_with("NOPERM"), "channels that nobody gave");
    // After its refusal an open session has nothing left, in no selector either.
    engine.refuse(&[principal("r_all", None)]).await.unwrap();
    for command in ["GET cf:k", "GET other:k", "PUBLISH c x", "PING"] {
        assert!(session.call(command).await.unwrap().starts_with("NOPERM"), "{command}");
    }
    let several = lease_with(&redis, &engine, "r_two", &["~a:* &n.*", "+get -@scripting +publish"]).await;
    let mut session = redis.session("r_two", &several.password).await.unwrap();
    assert_eq!(session.call("GET a:1").await.unwrap(), "(nil)");
    assert_eq!(session.call("PUBLISH n.x 1").await.unwrap(), "0");
    assert!(session.call("SET a:1 1").await.unwrap().starts_with("NOPERM"));
    // What this server does not know is refused by it, with its words, and nothing is made.
    let mut create = order(&*redis, &engine, "r_unknown", &redis.credential()).await;
    create.groups = vec!["+nosuchcommand".to_owned()];
    let said = engine.create(&create).await;
    assert!(
        matches!(&said, Err(EngineError::Refused { message, .. }) if message.contains("+nosuchcommand")),
        "{said:?}"
    );
    assert_eq!(engine.list("r_unknown").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_turned_against_the_default_user_or_the_executors_own() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let before = redis.ask("ACL LIST").await;
    for name in ["default", EXECUTOR] {
        let this = [principal(name, None)];
        let mut create = order(&*redis, &engine, "n_x", &redis.credential()).await;
        create.name = name.to_owned();
        let invalid = |e: EngineError| assert!(matches!(e, EngineError::Invalid { field: "name", .. }), "{e:?}");
        invalid(engine.create(&create).await.unwrap_err());
        invalid(engine.fence(name, &create.binding).await.unwrap_err());
        invalid(engine.refuse(&this).await.unwrap_err());
        invalid(engine.kill(&this).await.unwrap_err());
        invalid(engine.clean(&this).await.unwrap_err());
        invalid(engine.claim(name).await.unwrap_err());
        invalid(engine.disclaim(&[name.to_owned()]).await.unwrap_err());
    }
    let mut create = order(&*redis, &engine, "n_x", &redis.credential()).await;
    for group in ["on nopass", "#00", ">mine", "+acl|setuser", "reset", "~a nopass", "~a\nuser x on nopass"] {
        create.groups = vec![group.to_owned()];
        let said = engine.create(&create).await;
        assert!(matches!(said, Err(EngineError::Invalid { field: "groups", .. })), "{group}: {said:?}");
    }
    assert_eq!(redis.ask("ACL LIST").await, before);
    // The longest name stands as it is.
    let long = "n".repeat(63);
    lease(&redis, &engine, &long).await;
    assert_eq!(engine.list(&long).await.unwrap()[0].name, long);
}

/// Neither who looks over the server's shoulder nor who reads its logs finds the verifier.
#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_is_in_no_log() {
    let redis = Redis::start(&["slowlog-log-slower-than 0", "loglevel debug"]).await;
    let engine = redis.engine(1);
    let mut monitor = redis.admin().await;
    monitor.call("MONITOR").await.unwrap();
    let credential = lease(&redis, &engine, "v_quiet").await;
    let digits = &credential.verifier[1..];
    let slow = redis.ask("SLOWLOG GET -1").await;
    assert!(slow.contains("SETUSER"), "it is noted, so that this proves something: {slow}");
    assert!(!slow.contains(digits) && !redis.server.lock().unwrap().log().contains(digits));
    redis.ask("ECHO nothing-follows").await;
    let mut seen = String::new();
    while !seen.contains("nothing-follows") {
        seen.push_str(&monitor.reply().await.expect("the server goes on saying what it does"));
    }
    assert!(!seen.contains(digits), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_as_commands_that_cure_it() {
    let redis = Redis::start_as(Users::AclFile, &[], "").await;
    let engine = redis.engine(1);
    let missing = engine.check(&[]).await.unwrap().missing;
    assert_eq!(missing.len(), 1);
    let cure = missing[0].to_string();
    assert!(cure.starts_with(&format!("ACL SETUSER {EXECUTOR} +acl|setuser ")) && !cure.contains('\n'), "{cure}");
    assert_eq!(redis.ask(&cure).await, "OK");
    let checked = engine.check(&["~a:* +get".to_owned(), "+acl".to_owned()]).await.unwrap();
    assert_eq!((checked.missing, checked.unseen), (vec![], vec![]));
    assert_eq!(checked.unfit.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["+acl"]);
    assert!((70_000..90_000).contains(&checked.server_version), "{}", checked.server_version);
    lease(&redis, &engine, "c_works").await;

    // Each right that is taken away is named, and its lack is met as a definite refusal.
    for right in ["acl|deluser", "acl|save", "client|kill", "config|get", "function|kill", "acl|dryrun"] {
        redis.ask(&format!("ACL SETUSER {EXECUTOR} -{right}")).await;
        let fresh = redis.engine(1);
        let missing = fresh.check(&[]).await.unwrap().missing;
        let named = missing.iter().any(|m| m.statement.contains(&format!(" +{right}")));
        assert!(named, "{right}: {missing:?}");
        for cure in missing {
            redis.ask(&cure.statement).await;
        }
        assert_eq!(redis.engine(1).check(&[]).await.unwrap().missing, []);
    }
    redis.ask(&format!("ACL SETUSER {EXECUTOR} -acl|save")).await;
    let refused = redis.engine(1).refuse(&[principal("c_works", None)]).await.unwrap();
    assert!(
        matches!(&refused[0].outcome, Refusal::Failed(EngineError::Refused { code, .. }) if code == "NOPERM"),
        "{refused:?}"
    );
    redis.ask(&format!("ACL SETUSER {EXECUTOR} +acl|save")).await;
    // More than is needed is said too, and so is a server that lets in everybody.
    redis.ask(&format!("ACL SETUSER {EXECUTOR} allkeys +@all")).await;
    redis.ask("ACL SETUSER default on nopass").await;
    let missing = redis.engine(1).check(&[]).await.unwrap().missing;
    assert!(missing.iter().any(|m| m.statement == "ACL SETUSER default off"), "{missing:?}");
    for cure in &missing {
        assert_eq!(redis.ask(&cure.statement).await, "OK");
    }
    assert_eq!(redis.engine(1).check(&[]).await.unwrap().missing, []);
    assert!(redis.ask(&format!("ACL DRYRUN {EXECUTOR} GET k")).await.contains("no permissions"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_executors_password_is_replaced_and_its_sessions_are_told_apart() {
    let redis = Redis::start(&[]).await;
    let old = redis.engine(1);
    old.take_over().await.unwrap();
    let binding = old.bind().await.unwrap();
    let new = redis.engine(2);
    assert_eq!(new.take_over().await.unwrap(), 2, "those of the term before, and no other");
    // That the connection is gone the old one learns from the network, and this may come to it later than the server's answer to the
    // new one: then it sends its command to nobody, and cannot know that. Whichever it is, nothing has taken effect, and it is over.
    let verifier = format!("#{}", sha256("x"));
    let late = old.set_password(&verifier, &binding).await;
    assert!(matches!(late, Err(EngineError::StaleBinding | EngineError::Unavailable { .. })), "{late:?}");
    assert_eq!(old.set_password(&verifier, &binding).await, Err(EngineError::StaleBinding));
    let user = redis.ask(&format!("ACL GETUSER {EXECUTOR}")).await;
    assert!(user.contains(&sha256(EXECUTOR_PASSWORD)) && !user.contains(&sha256("x")), "{user}");

    let passwords = Passwords::one(1, SecretVec::new(EXECUTOR_PASSWORD.as_bytes().to_vec()));
    let engine = RedisEngine::new(RedisConfig { passwords, ..redis.config(2) }).unwrap();
    engine.learn_password(2, SecretVec::new(b"another-canary".to_vec()));
    let binding = engine.bind().await.unwrap();
    for bad in ["another-canary", "nopass", "#00"] {
        assert!(matches!(
            engine.set_password(bad, &binding).await,
            Err(EngineError::Invalid { field: "verifier", .. })
        ));
    }
    engine.set_password(&format!("#{}", sha256("another-canary")), &binding).await.unwrap();
    assert!(redis.session(EXECUTOR, EXECUTOR_PASSWORD).await.is_err());
    let mut stranger = redis.session(EXECUTOR, "another-canary").await.unwrap();
    assert_eq!(engine.bind().await.unwrap(), binding, "sessions go on");
    // That of `new`, and the stranger's.
    assert_eq!(engine.end_strangers().await.unwrap(), 2);
    assert!(stranger.ends().await);
    assert_eq!(engine.bind().await.unwrap(), binding);
    assert_eq!(engine.let_in_with(), Some(2), "found by trying");
    redis.restart().await;
    engine.timeline().await.unwrap();
    assert_eq!(engine.let_in_with(), Some(2), "it outlives a restart");
    let lost = redis.engine(3).timeline().await;
    assert!(matches!(&lost, Err(e) if e.is_login_refused()), "{lost:?}");
}
