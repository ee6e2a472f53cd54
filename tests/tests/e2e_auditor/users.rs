//! Users of leases: most of them harmless, some not. How they behave depends on what their logins are for.

mod callers;
mod mariadb;
mod postgres;
mod rabbitmq;
mod redis;

pub(crate) use callers::{Aws, Kubernetes, Webhook};
pub(crate) use mariadb::MariaDb;
pub(crate) use postgres::Postgres;
pub(crate) use rabbitmq::RabbitMq;
pub(crate) use redis::Redis;

use quorate_api::client::{Client, Credential};
use quorate_state::lease::Selector;
use quorate_tests::random::Random;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most sessions that one user keeps without looking which of them are over.
const KEPT: usize = 24;
/// The most sessions that a user takes who takes all that it gets.
const MOST: usize = 8;
/// The most ways in which users of one kind of target behave.
const MANNERS: usize = 8;

/// What the users of one target have done, together.
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
    pub(crate) opened: [AtomicUsize; MANNERS],
}

/// How users of one kind of target behave.
pub(crate) trait Users {
    /// What they keep open.
    type Session: Send;
    /// In how many ways, [`MANNERS`] at most.
    const MANNERS: u64;

    /// Uses a login, in one of these ways. It may be over at any time; then less is kept open.
    fn behave(manner: usize, credential: &Credential) -> impl Future<Output = Vec<Self::Session>> + Send;

    /// Whether a session has come to its end.
    fn is_over(session: &mut Self::Session) -> impl Future<Output = bool> + Send;
}

/// Takes leases of one role, uses them, and lets them end in every way, until told to stop.
pub(crate) async fn take<U: Users>(client: Client, role: String, book: Arc<Book>, mut random: Random) {
    let mut sessions: Vec<U::Session> = Vec::new();
    while !book.stop.load(Ordering::Relaxed) {
        let ttl = random.between(2_000, 6_000);
        let pause = Duration::from_millis(random.between(150, 700));
        let Ok(credential) = client.issue_lease(&role, Some(ttl)).await else {
            book.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            continue;
        };
        book.issued.fetch_add(1, Ordering::Relaxed);
        let which = usize::try_from(random.between(0, U::MANNERS)).unwrap();
        let opened = U::behave(which, &credential).await;
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
            sessions = open::<U>(sessions).await;
        }
    }
    // What was kept open ends with its lease, not with its user.
    while !sessions.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sessions = open::<U>(sessions).await;
    }
}

/// Those that are open still.
async fn open<U: Users>(sessions: Vec<U::Session>) -> Vec<U::Session> {
    let mut open = Vec::new();
    for mut session in sessions {
        if !U::is_over(&mut session).await {
            open.push(session);
        }
    }
    open
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
