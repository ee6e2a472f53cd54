//! What a role gives, what the executor needs, and what is told from what.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target, order, principal};
use quorate_engines::http::{Http, HttpConfig, Path, Request};
use quorate_engines::rabbitmq::{RabbitMq, RabbitMqConfig};
use quorate_engines::scratch::ADMIN;
use quorate_engines::{Endpoint, Engine, EngineError, Passwords, Tls};
use serde_json::json;
use tokio::time::sleep;

use crate::amqp::{Amqp, CHANNEL_CLOSE, CHANNEL_OPEN_OK};
use crate::server::{EXECUTOR, EXECUTOR_PASSWORD, Rabbit, lease, lease_with, verifier};

/// One server for all, since it takes a while to start.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_gives_what_it_says_and_an_executor_has_what_it_needs() {
    let captured = Captured::default();
    let writer = captured.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let rabbit = Rabbit::start(&["rabbitmq_auth_backend_cache"], vec![]).await;
    a_role_gives_what_it_says_and_no_power(&rabbit).await;
    what_the_server_refuses_is_undone(&rabbit).await;
    nothing_is_turned_against_the_executors_own(&rabbit).await;
    what_is_missing_is_said_as_commands_that_cure_it(&rabbit).await;
    the_executors_password_is_replaced_and_sessions_are_told_apart(&rabbit).await;
    no_secret_shows(&rabbit, &captured).await;
}

async fn a_role_gives_what_it_says_and_no_power(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    // A name in which every character means something in a path.
    assert_eq!(rabbit.put(&["vhosts", "a/b%2F?c"], json!({})).await, 201);
    let groups = [
        "vhost=/ configure=^cf\\. write=^(cf\\.|amq\\.topic$) read=.*",
        "vhost=a/b%2F?c configure=^$ write=^$ read=^cf\\.",
        "topic vhost=/ exchange=amq.topic write=^news\\. read=^news\\.",
    ];
    let password = lease_with(rabbit, &engine, "r_all", &groups).await.password;
    let mut session = rabbit.session("r_all", &password).await.unwrap();
    assert_eq!(session.channel().await, Some(CHANNEL_OPEN_OK));
    assert_eq!(session.declare("cf.queue", true).await, Some((50, 11)));
    assert_eq!(session.bind("cf.queue", "amq.topic", "news.x").await, Some((50, 21)));
    assert_eq!(session.publish("amq.topic", "news.x", "hello").await, Some((60, 11)));
    assert_eq!(session.publish("amq.topic", "other", "hello").await, Some(CHANNEL_CLOSE), "a topic that nobody gave");
    session.channel().await;
    assert_eq!(session.bind("cf.queue", "amq.topic", "other").await, Some(CHANNEL_CLOSE));
    session.channel().await;
    assert_eq!(session.declare("other.queue", true).await, Some(CHANNEL_CLOSE));
    let there = Amqp::authenticate(rabbit.amqp, "r_all", &password).await.unwrap();
    let mut there = there.open("a/b%2F?c").await.expect("the name is the same on all ways");
    there.channel().await;
    assert_eq!(there.declare("cf.queue", true).await, Some(CHANNEL_CLOSE), "it may not configure there");
    let user = rabbit.get(&["users", "r_all"]).await;
    assert_eq!((&user["tags"], &user["limits"]), (&json!([]), &json!({ "max-connections": 5 })), "{user}");

    // Whether it is let in is seen without a right, and so is that it is not.
    let visitor = |password: &str| {
        let passwords = SecretVec::new(password.as_bytes().to_vec()).into();
        RabbitMq::new(RabbitMqConfig { user: "r_all".into(), passwords, ..rabbit.config(1) }).unwrap()
    };
    visitor(&password).visit().await.unwrap();
    assert!(visitor("wrong").visit().await.unwrap_err().is_login_refused());
    // Without a tag it has nothing at the management interface.
    let http = Http::new(HttpConfig {
        endpoint: Endpoint { host: "127.0.0.1".into(), port: rabbit.port },
        tls: Tls::Disabled,
        connect_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(30),
        max_answer: 1000,
    })
    .unwrap();
    let request = Request::get(Path::new(&["api", "whoami"]).unwrap());
    let request = request.basic("r_all", &SecretVec::new(password.into_bytes())).unwrap();
    assert_eq!(http.call(&request).await.unwrap().status, 401);
}

async fn what_the_server_refuses_is_undone(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let mut create = order(&**rabbit, &engine, "r_bad", &rabbit.credential()).await;
    let good = "vhost=/ configure=.* write=.* read=.*";
    for (bad, words) in [
        ("vhost=nowhere configure=^$ write=.* read=.*", "vhost_or_user_not_found"),
        ("vhost=a/b%2F?c configure=( write=.* read=.*", "invalid_regexp"),
    ] {
        create.groups = vec![good.to_owned(), bad.to_owned()];
        let said = engine.create(&create).await;
        assert!(matches!(&said, Err(EngineError::Refused { message, .. }) if message.contains(words)), "{said:?}");
        assert_eq!(engine.list("r_bad").await.unwrap(), [], "{bad}: nothing is left of it");
    }
    create.groups = vec![good.to_owned()];
    engine.create(&create).await.expect("the session goes on");
}

async fn nothing_is_turned_against_the_executors_own(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let before = rabbit.get(&["users", EXECUTOR]).await;
    let this = [principal(EXECUTOR, None)];
    let mut create = order(&**rabbit, &engine, "n_x", &rabbit.credential()).await;
    create.name = EXECUTOR.to_owned();
    let invalid = |e: EngineError| assert!(matches!(e, EngineError::Invalid { field: "name", .. }), "{e:?}");
    invalid(engine.create(&create).await.unwrap_err());
    invalid(engine.fence(EXECUTOR, &create.binding).await.unwrap_err());
    invalid(engine.refuse(&this).await.unwrap_err());
    invalid(engine.kill(&this).await.unwrap_err());
    invalid(engine.clean(&this).await.unwrap_err());
    invalid(engine.claim(EXECUTOR).await.unwrap_err());
    invalid(engine.disclaim(&[EXECUTOR.to_owned()]).await.unwrap_err());
    assert_eq!(rabbit.get(&["users", EXECUTOR]).await, before);
    for user in ["", "guest", "a:b", "a b", ".."] {
        let config = RabbitMqConfig { user: user.into(), ..rabbit.config(1) };
        assert!(matches!(RabbitMq::new(config).map(drop), Err(EngineError::Invalid { field: "user", .. })), "{user:?}");
    }
    // The longest name stands as it is.
    let long = "n".repeat(63);
    lease(rabbit, &engine, &long).await;
    assert_eq!(engine.list(&long).await.unwrap()[0].name, long);
}

/// The commands are run as they are, by a shell at the server's host.
async fn what_is_missing_is_said_as_commands_that_cure_it(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let statements = |missing: Vec<quorate_engines::Missing>| -> Vec<String> {
        missing.into_iter().map(|missing| missing.statement).collect()
    };
    assert_eq!(
        rabbit.put(&["permissions", "/", EXECUTOR], json!({ "configure": "", "write": "", "read": "" })).await,
        201
    );
    rabbit.warm().await;
    let groups = ["vhost=it's configure=^$ write=.* read=.*".to_owned(), "administrator".to_owned()];
    let checked = engine.check(&groups).await.unwrap();
    let cures = statements(checked.missing.clone());
    let wanted = [
        "rabbitmq-plugins disable rabbitmq_auth_backend_cache".to_owned(),
        format!("rabbitmqctl clear_permissions -p / {EXECUTOR}"),
        "rabbitmqctl add_vhost 'it'\\''s'".to_owned(),
    ];
    assert_eq!(cures, wanted);
    assert_eq!(checked.unfit.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["administrator"]);
    assert_eq!(checked.unseen, []);
    assert!((31_000..50_000).contains(&checked.server_version) && checked.slots.free > 0, "{checked:?}");

    for tags in ["", "monitoring"] {
        let body = json!({ "password": EXECUTOR_PASSWORD, "tags": tags });
        assert_eq!(rabbit.put(&["users", EXECUTOR], body).await, 204);
        let lacking = statements(engine.check(&[]).await.unwrap().missing);
        assert_eq!(lacking, [format!("rabbitmqctl set_user_tags {EXECUTOR} administrator")], "{tags:?}");
        let said = engine.list("c_").await;
        let lacks =
            |message: &str| message.ends_with("Not administrator user") || message.ends_with("Not management user");
        let is_said = matches!(&said, Err(EngineError::Refused { message, .. }) if lacks(message));
        assert!(is_said && !said.as_ref().is_err_and(EngineError::is_login_refused), "{said:?}");
        if tags == "monitoring" {
            run(rabbit, &lacking).await;
        }
    }
    run(rabbit, &cures).await;
    // Which plugins there are is from the server's statistics.
    let began = Instant::now();
    while !engine.check(&groups).await.unwrap().missing.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", engine.check(&groups).await);
        sleep(Duration::from_millis(200)).await;
    }
    lease(rabbit, &engine, "c_works").await;

    let lost = RabbitMqConfig { passwords: SecretVec::new(b"wrong".to_vec()).into(), ..rabbit.config(1) };
    let lost = RabbitMq::new(lost).unwrap();
    assert!(lost.check(&[]).await.unwrap_err().is_login_refused());
    assert!(lost.login_refused().unwrap().contains("401"));
}

async fn run(rabbit: &Arc<Rabbit>, lines: &[String]) {
    for line in lines {
        let (rabbit, line) = (Arc::clone(rabbit), line.clone());
        let run = move || {
            let said = rabbit.server.lock().unwrap().shell(&line).unwrap();
            assert!(said.status.success(), "{line}: {said:?}");
        };
        tokio::task::spawn_blocking(run).await.unwrap();
    }
}

async fn the_executors_password_is_replaced_and_sessions_are_told_apart(rabbit: &Arc<Rabbit>) {
    // Whatever was there before.
    rabbit.engine(9).take_over().await.unwrap();
    assert_eq!(rabbit.sessions().await, Vec::<String>::new());
    let old = rabbit.engine(9);
    let binding = old.bind().await.unwrap();
    let same_term = rabbit.engine(10);
    same_term.bind().await.unwrap();
    let other_target = RabbitMq::new(RabbitMqConfig { target: "t2".into(), ..rabbit.config(1) }).unwrap();
    other_target.bind().await.unwrap();
    let new = rabbit.engine(10);
    assert_eq!(new.take_over().await.unwrap(), 1, "that of the term before, and no other");
    assert_eq!(rabbit.sessions().await.len(), 2);
    assert_eq!(old.set_password(&verifier("x"), &binding).await, Err(EngineError::StaleBinding));

    let passwords = Passwords::one(1, SecretVec::new(EXECUTOR_PASSWORD.as_bytes().to_vec()));
    let engine = RabbitMq::new(RabbitMqConfig { passwords, ..rabbit.config(10) }).unwrap();
    engine.learn_password(2, SecretVec::new(b"another-canary".to_vec()));
    let binding = engine.bind().await.unwrap();
    for bad in ["another-canary", "", "AAAA"] {
        let said = engine.set_password(bad, &binding).await;
        assert!(matches!(said, Err(EngineError::Invalid { field: "verifier", .. })), "{bad:?}: {said:?}");
    }
    let before = rabbit.get(&["users", EXECUTOR]).await;
    engine.set_password(&verifier("another-canary"), &binding).await.unwrap();
    assert_eq!(rabbit.get(&["users", EXECUTOR]).await["tags"], before["tags"], "what is not said is lost");
    assert_eq!(engine.bind().await.unwrap(), binding, "sessions go on");
    engine.timeline().await.unwrap();
    assert_eq!(engine.let_in_with(), Some(2), "found by trying");
    let lost = same_term.timeline().await;
    assert!(matches!(&lost, Err(e) if e.is_login_refused()), "{lost:?}");

    // Whoever speaks to clients as the executor, and a session that this one has not opened.
    assert_eq!(
        rabbit.put(&["permissions", "/", EXECUTOR], json!({ "configure": "", "write": "", "read": "" })).await,
        201
    );
    let mut stranger = rabbit.session(EXECUTOR, "another-canary").await.unwrap();
    assert_eq!(engine.end_strangers().await.unwrap(), 2);
    assert!(stranger.ends().await);
    assert_eq!(engine.bind().await.unwrap(), binding);
    assert_eq!(rabbit.sessions().await.len(), 2, "ours, and that of another target");
    let lost = same_term.claim("p_lost").await;
    assert!(lost.is_err() && engine.claims("p_").await.unwrap().is_empty(), "{lost:?}");
    let body = json!({ "password": EXECUTOR_PASSWORD, "tags": "administrator" });
    assert_eq!(rabbit.put(&["users", EXECUTOR], body).await, 204);
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Not in the server's log at its most talkative, in ours, in errors or in `Debug`.
async fn no_secret_shows(rabbit: &Arc<Rabbit>, captured: &Captured) {
    let engine = rabbit.engine(1);
    let credential = rabbit.credential();
    let mut create = order(&**rabbit, &engine, "v_quiet", &credential).await;
    let mut shown = format!("{create:?} {:?}", rabbit.config(1));
    engine.create(&create).await.unwrap();
    create.groups = vec!["vhost=nowhere configure=^$ write=.* read=.*".to_owned()];
    shown += &format!("{:?}", engine.create(&create).await.unwrap_err());
    shown += &format!("{engine:?}");
    let log = rabbit.server.lock().unwrap().log();
    assert!(
        log.contains("Created user 'v_quiet'") && log.contains("[debug]"),
        "it is read, so that this proves something"
    );
    let ours = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    for secret in [credential.verifier.as_str(), &credential.password, EXECUTOR_PASSWORD, "another-canary"] {
        assert!(!shown.contains(secret) && !log.contains(secret) && !ours.contains(secret));
    }
    assert!(!log.contains(&format!("{ADMIN}:")), "nor who asks");
}
