//! What a leased login can do.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_engines::conformance::{assert_ended, principal};
use quorate_engines::{Cleaning, Engine, Principal, Refusal};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use crate::amqp::{Amqp, CHANNEL_CLOSE, CHANNEL_OPEN_OK, CLOSE, Said, mqtt};
use crate::server::{GROUP, Rabbit, lease, lease_with};

/// One server for all, since it takes a while to start.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_whatever_they_do() {
    let mqtt_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listens = format!("mqtt.listeners.tcp.1 = 127.0.0.1:{mqtt_port}");
    // What it says of sessions from its statistics would be a minute old.
    let settings = vec![listens, "collect_statistics_interval = 60000".to_owned()];
    let rabbit = Rabbit::start(&["rabbitmq_mqtt"], settings).await;
    everything_that_is_open_ends(&rabbit, mqtt_port).await;
    a_login_that_is_half_way_is_not_let_in(&rabbit).await;
    a_session_is_seen_before_it_is_in_the_statistics(&rabbit).await;
    who_reconnects_while_being_killed_stays_out(&rabbit).await;
    many_are_ended_at_once(&rabbit).await;
    a_login_has_as_many_sessions_as_it_may(&rabbit).await;
    what_others_remove_is_ended_all_the_same(&rabbit).await;
    who_does_not_hear_that_it_is_closed_is_not_called_gone(&rabbit).await;
}

async fn everything_that_is_open_ends(rabbit: &Arc<Rabbit>, mqtt_port: u16) {
    let engine = rabbit.engine(1);
    let groups = ["vhost=/ configure=.* write=.* read=.*"];
    let password = lease_with(rabbit, &engine, "s_all", &groups).await.password;
    let mut idle = rabbit.session("s_all", &password).await.unwrap();
    let mut consumer = rabbit.session("s_all", &password).await.unwrap();
    assert_eq!(consumer.channel().await, Some(CHANNEL_OPEN_OK));
    assert_eq!(consumer.declare("cf.news", false).await, Some((50, 11)));
    assert_eq!(consumer.consume("cf.news").await, Some((60, 21)));
    let mut publisher = rabbit.session("s_all", &password).await.unwrap();
    assert_eq!(publisher.channel().await, Some(CHANNEL_OPEN_OK));
    assert_eq!(publisher.publish("", "cf.news", "before").await, Some((60, 11)));
    assert_eq!(consumer.delivered().await.unwrap(), "before");
    let mut listener = mqtt(mqtt_port, "s_all", &password).await.unwrap();

    let this = [principal("s_all", None)];
    // Each is seen, whatever it speaks.
    seen(&engine, &this, 4).await;
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });
    // Refused is not ended: what is consumed comes on.
    assert_eq!(rabbit.put(&["permissions", "/", "admin"], all()).await, 204);
    let mut admin = rabbit.session("admin", "admin").await.unwrap();
    admin.channel().await;
    assert_eq!(admin.publish("", "cf.news", "secret").await, Some((60, 11)));
    assert_eq!(consumer.delivered().await.unwrap(), "secret", "this is why refusing is not the end");
    // A channel remembers for a while what it was let do; another one does not.
    assert_eq!(publisher.channel().await, Some(CHANNEL_OPEN_OK));
    assert_eq!(publisher.publish("", "cf.news", "after").await, Some(CHANNEL_CLOSE));
    assert!(rabbit.session("s_all", &password).await.is_none() && mqtt(mqtt_port, "s_all", &password).await.is_none());

    assert_eq!(engine.kill(&this).await.unwrap(), 4);
    assert_ended(&engine, &this).await;
    for session in [&mut idle, &mut consumer, &mut publisher] {
        assert!(session.ends().await);
    }
    let ended = timeout(Duration::from_secs(30), listener.read(&mut [0])).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    // Nobody consumes any more: the queue and what comes to it are still there.
    admin.publish("", "cf.news", "late").await;
    let queue = || async { rabbit.get(&["queues", "/", "cf.news"]).await };
    for _ in 0..200 {
        if queue().await["messages"] == json!(1) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let queue = queue().await;
    assert_eq!((&queue["consumers"], &queue["messages"]), (&json!(0), &json!(1)), "{queue}");
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(engine.ghosts().await.unwrap(), (vec![], vec![]));
}

/// It has given the right password, and says where to only after all is over.
async fn a_login_that_is_half_way_is_not_let_in(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let password = lease(rabbit, &engine, "s_half").await.password;
    let early = Amqp::authenticate(rabbit.amqp, "s_half", &password).await.unwrap();
    let late = Amqp::authenticate(rabbit.amqp, "s_half", &password).await.unwrap();
    let third = Amqp::authenticate(rabbit.amqp, "s_half", &password).await.unwrap();
    assert!(third.open("/").await.is_some(), "it would be let in");
    let this = [principal("s_half", None)];
    engine.refuse(&this).await.unwrap();
    assert!(early.open("/").await.is_none(), "between refusing and cleaning");
    engine.kill(&this).await.unwrap();
    for _ in 0..2 {
        assert_ended(&engine, &this).await;
    }
    engine.clean(&this).await.unwrap();
    assert!(late.open("/").await.is_none(), "and after it");
}

/// The server's own statistics would show it much later, and so would a look that asked for them.
async fn a_session_is_seen_before_it_is_in_the_statistics(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let password = lease(rabbit, &engine, "s_seen").await.password;
    let one = [principal("s_seen", None)];
    let many: Vec<_> = (0..20).map(|n| principal(&format!("s_none{n}"), None)).chain(one.clone()).collect();
    for these in [&one[..], &many] {
        let session = rabbit.session("s_seen", &password).await.unwrap();
        seen(&engine, these, 1).await;
        drop(session);
        seen(&engine, these, 0).await;
    }
}

/// Waits until the last of these has so many sessions. The server says that one is open a moment before it counts it.
async fn seen(engine: &dyn Engine, these: &[Principal], sessions: u64) {
    let began = Instant::now();
    while engine.look(these).await.unwrap().last().unwrap().sessions != sessions {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", engine.look(these).await);
        sleep(Duration::from_millis(10)).await;
    }
}

async fn who_reconnects_while_being_killed_stays_out(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let password = lease(rabbit, &engine, "s_again").await.password;
    let (stop, entered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (rabbit, password) = (Arc::clone(rabbit), password.clone());
            let (stop, entered) = (Arc::clone(&stop), Arc::clone(&entered));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    if let Some(mut session) = rabbit.session("s_again", &password).await {
                        entered.fetch_add(1, Ordering::SeqCst);
                        while !stop.load(Ordering::SeqCst) && session.channel().await == Some(CHANNEL_OPEN_OK) {
                            sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            })
        })
        .collect();
    let this = [principal("s_again", None)];
    seen(&engine, &this, 4).await;
    engine.refuse(&this).await.unwrap();
    let before = entered.load(Ordering::SeqCst);
    assert_eq!(engine.kill(&this).await.unwrap(), 4);
    assert_ended(&engine, &this).await;
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

/// More of them than are asked for one by one.
async fn many_are_ended_at_once(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let mut open = Vec::new();
    for n in 0..20 {
        let name = format!("m_{n:02}");
        let password = lease(rabbit, &engine, &name).await.password;
        if n % 2 == 0 {
            open.push(rabbit.session(&name, &password).await.unwrap());
        }
    }
    let mut these = engine.list("m_").await.unwrap();
    assert_eq!(these.len(), 20);
    these.insert(7, principal("m_never", None));
    let began = Instant::now();
    let seen = loop {
        let seen = engine.look(&these).await.unwrap();
        if seen.iter().filter(|s| s.sessions == 1 && s.can_login).count() == 10 {
            break seen;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{seen:?}");
    };
    assert_eq!((seen.len(), seen[7].oid, seen[7].can_login), (21, None, false));
    let refused = engine.refuse(&these).await.unwrap();
    let named: Vec<&str> = refused.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(named, these.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), "in the order asked");
    assert_eq!(refused[7].outcome, Refusal::Absent);
    let disabled = Refusal::Disabled { groups_left: vec![] };
    assert_eq!(refused.iter().filter(|r| r.outcome == disabled).count(), 20);
    assert_eq!(rabbit.get(&["permissions"]).await.to_string().matches("\"m_").count(), 0);
    assert_eq!(engine.kill(&these).await.unwrap(), 10);
    assert_ended(&engine, &these).await;
    assert!(engine.clean(&these).await.unwrap().iter().all(|c| c.outcome == Cleaning::Gone));
    assert_eq!(engine.list("m_").await.unwrap(), []);
}

async fn a_login_has_as_many_sessions_as_it_may(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let password = lease_with(rabbit, &engine, "s_most", &[GROUP, "limit channels=2"]).await.password;
    let mut open = Vec::new();
    // As the suite's orders have it.
    for _ in 0..5 {
        open.push(rabbit.session("s_most", &password).await.unwrap());
    }
    seen(&engine, &[principal("s_most", None)], 5).await;
    assert!(rabbit.session("s_most", &password).await.is_none(), "one more than it may have");
    assert_eq!(open[0].channel().await, Some(CHANNEL_OPEN_OK));
    assert_eq!(open[1].channel().await, Some(CHANNEL_OPEN_OK));
    // They are counted a moment after they are opened.
    sleep(Duration::from_secs(1)).await;
    assert_ne!(open[2].channel().await, Some(CHANNEL_OPEN_OK), "all its sessions together");
}

/// Somebody deletes the account of a lease: the server ends its sessions by itself, and what it has missed we do.
async fn what_others_remove_is_ended_all_the_same(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let password = lease(rabbit, &engine, "s_gone").await.password;
    let mut session = rabbit.session("s_gone", &password).await.unwrap();
    assert_eq!(rabbit.delete(&["users", "s_gone"]).await, 204);
    assert!(session.ends().await, "nothing here relies on it");
    let this = [principal("s_gone", None)];
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Absent);
    engine.kill(&this).await.unwrap();
    assert_ended(&engine, &this).await;
}

/// The server asks a client to agree that it is closed, and waits for that for 30 s. Meanwhile it does nothing for it.
async fn who_does_not_hear_that_it_is_closed_is_not_called_gone(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.engine(1);
    let groups = ["vhost=/ configure=.* write=.* read=.*"];
    let password = lease_with(rabbit, &engine, "s_deaf", &groups).await.password;
    let mut deaf = Amqp::stubborn(rabbit.amqp, "s_deaf", &password).await.unwrap();
    assert_eq!(deaf.channel().await, Some(CHANNEL_OPEN_OK));
    assert_eq!(deaf.declare("cf.deaf", false).await, Some((50, 11)));
    assert_eq!(deaf.consume("cf.deaf").await, Some((60, 21)));
    let this = [principal("s_deaf", None)];
    seen(&engine, &this, 1).await;
    engine.refuse(&this).await.unwrap();
    assert_eq!(engine.kill(&this).await.unwrap(), 1);
    while deaf.next().await.is_some_and(|said| !matches!(said, Said::Method(CLOSE))) {}
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 1, "it is there, as long as the server says so");
    let mut admin = rabbit.session("admin", "admin").await.unwrap();
    admin.channel().await;
    assert_eq!(admin.publish("", "cf.deaf", "secret").await, Some((60, 11)));
    // Whatever it says, and whoever repeats the kill.
    deaf.send(1, (60, 80), &[0; 9]).await;
    engine.kill(&this).await.unwrap();
    let said = timeout(Duration::from_secs(100), deaf.next()).await.expect("an end, by the server alone");
    assert!(said.is_none(), "nothing is consumed any more");
    seen(&engine, &this, 0).await;
}

fn all() -> serde_json::Value {
    json!({ "configure": ".*", "write": ".*", "read": ".*" })
}
