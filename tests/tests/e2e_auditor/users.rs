//! Users of leases: most of them harmless, some not.

use crate::Random;
use quorate_api::client::{Client, Credential};
use quorate_state::lease::Selector;
use quorate_tests::database::{login, login_config, login_with};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_postgres::Client as Session;

/// The most sessions that one user keeps without looking which of them are over.
const KEPT: usize = 24;

/// What the users have done, together.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) stop: AtomicBool,
    pub(crate) issued: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    pub(crate) revoked: AtomicUsize,
    pub(crate) renewed: AtomicUsize,
    /// All credentials, and what their users kept open with them.
    pub(crate) credentials: Mutex<Vec<Credential>>,
    /// How each kind of user fared: sessions that were opened.
    pub(crate) opened: [AtomicUsize; MANNERS.len()],
}

/// How a user behaves once it has a login.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Keeps a session open.
    Idle,
    /// Is in the middle of a statement.
    Busy,
    /// Leaves an object behind that is its own.
    Owner,
    /// Holds its own role in an open transaction.
    Holder,
    /// Holds a temporary table in an open transaction.
    Temporary,
    /// Calls itself what the vault calls itself.
    Forger,
    /// Takes as many sessions as it gets.
    Glutton,
    /// Logs in again and again, until it is refused.
    Returner,
}

const MANNERS: [Manner; 8] = [
    Manner::Idle,
    Manner::Busy,
    Manner::Owner,
    Manner::Holder,
    Manner::Temporary,
    Manner::Forger,
    Manner::Glutton,
    Manner::Returner,
];

/// Takes leases of one role, uses them, and lets them end in every way, until told to stop.
pub(crate) async fn take(client: Client, role: String, book: Arc<Book>, mut random: Random) {
    let mut sessions: Vec<Session> = Vec::new();
    while !book.stop.load(Ordering::Relaxed) {
        let ttl = random.between(2_000, 6_000);
        let pause = Duration::from_millis(random.between(150, 700));
        let Ok(credential) = client.issue_lease(&role, Some(ttl)).await else {
            book.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            continue;
        };
        book.issued.fetch_add(1, Ordering::Relaxed);
        let which = usize::try_from(random.between(0, MANNERS.len() as u64)).unwrap();
        let opened = behave(MANNERS[which], &credential).await;
        book.opened[which].fetch_add(opened.len(), Ordering::Relaxed);
        sessions.extend(opened);
        tokio::time::sleep(pause).await;
        let done = match random.between(0, 6) {
            0 if client.revoke(credential.lease).await.is_ok() => Some(&book.revoked),
            1 if client.renew(credential.lease, ttl).await.is_ok() => Some(&book.renewed),
            _ => None,
        };
        done.map(|count| count.fetch_add(1, Ordering::Relaxed));
        book.credentials.lock().unwrap().push(credential);
        if sessions.len() > KEPT {
            sessions.retain(|session| !session.is_closed());
        }
    }
    // What was kept open ends with its lease, not with its user.
    while sessions.iter().any(|session| !session.is_closed()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a login is used for. It may be over at any time; then there is less of it.
async fn behave(manner: Manner, credential: &Credential) -> Vec<Session> {
    let Ok(first) = login_with(credential).await else { return Vec::new() };
    let mut sessions = vec![first];
    let does = async |sql: String| {
        // Nobody promises that it lives long enough.
        let _ = sessions[0].batch_execute(&sql).await;
    };
    match manner {
        Manner::Idle => {}
        Manner::Owner => does("SELECT lo_create(0); CREATE TEMPORARY TABLE mine (id int)".to_owned()).await,
        Manner::Holder => does(format!("BEGIN; ALTER ROLE {} SET work_mem = '1MB'", credential.username)).await,
        Manner::Temporary => does("BEGIN; CREATE TEMPORARY TABLE mine (id int); LOCK TABLE mine".to_owned()).await,
        Manner::Busy => {
            let busy = sessions.remove(0);
            tokio::spawn(async move { drop(busy.simple_query("SELECT pg_sleep(600)").await) });
            sessions.extend(login_with(credential).await);
        }
        Manner::Forger => sessions.extend(login(login_config(credential).application_name("quorate/pg/1")).await),
        Manner::Glutton => {
            while let Ok(session) = login_with(credential).await {
                sessions.push(session);
                if sessions.len() > 8 {
                    break;
                }
            }
        }
        Manner::Returner => {
            let config = login_config(credential);
            tokio::spawn(async move {
                while let Ok(session) = login(&config).await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    drop(session);
                }
            });
        }
    }
    sessions
}

/// Ends everybody's leases of one kind now and then.
pub(crate) async fn purge(admin: Client, which: Vec<Selector>, book: Arc<Book>, mut random: Random) {
    for selector in which.into_iter().cycle() {
        for _ in 0..random.between(60, 140) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if book.stop.load(Ordering::Relaxed) {
                return;
            }
        }
        if admin.revoke_all(selector).await.is_err() {
            book.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
