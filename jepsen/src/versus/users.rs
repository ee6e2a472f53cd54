//! Who uses logins: the same users with the same choices on either side, and makers, who ask for one login after the other so that a leader
//! dies while some are being made.

use super::fact::{Fact, Millis, Story};
use super::side::{Login, Vault};
use crate::lab::database::PORT;
use crate::lab::network::TARGET;
use crate::lab::now;
use crate::random::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Config, NoTls};

/// How long one operation may take, retries included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);
/// Times to live, in seconds; a renewal is for one of them too.
pub(crate) const TTLS: [u64; 6] = [3, 5, 8, 13, 20, 30];
/// How long a login at the database may take.
const LOGIN: Duration = Duration::from_secs(3);
/// How long the word that a lease is over is waited for, and between two questions.
const OVER: Duration = Duration::from_secs(30);
const ASK: Duration = Duration::from_millis(1_000);
/// How long a session stays open after that: what lives longer is not measured.
const HELD: Duration = Duration::from_secs(60);

/// Who is at work, until it is over.
pub(crate) struct User {
    pub(crate) vault: Box<dyn Vault>,
    pub(crate) story: Story,
    pub(crate) over: Arc<AtomicBool>,
    pub(crate) random: Random,
}

impl User {
    /// Takes a login, uses it, renews it, ends it or lets it expire, and comes back.
    pub(crate) async fn work(mut self) {
        while !self.over.load(Ordering::Relaxed) {
            let ttl = self.ttl();
            let Some(login) = self.issue(ttl).await else {
                self.pause(100, 500).await;
                continue;
            };
            let session = self.enter(&login).await;
            let mut ends = login.ends;
            for _ in 0..self.random.between(0, 3) {
                self.pause(300, 1_500).await;
                let ttl = self.ttl();
                ends = self.renew(&login.lease, ttl).await.unwrap_or(ends);
            }
            let ended = self.random.chance(50);
            let gone = if ended {
                self.end(&login.lease).await
            } else {
                sleep(Duration::from_millis(ends.saturating_sub(now()).min(45_000))).await;
                false
            };
            if gone || self.gone(&login.lease, ended).await {
                drop(self.enter(&login).await);
            }
            if let Some(session) = session {
                tokio::spawn(async move {
                    sleep(HELD).await;
                    drop(session);
                });
            }
        }
    }

    /// Takes one login after the other, and leaves each to its time.
    pub(crate) async fn make(mut self) {
        while !self.over.load(Ordering::Relaxed) {
            let ttl = TTLS.get(usize::from(self.random.chance(50))).copied().unwrap_or(3) * 1_000;
            self.issue(ttl).await;
            self.pause(60, 240).await;
        }
    }

    /// Writes all the time: what is answered says how long nobody could.
    pub(crate) async fn write(self) {
        let mut number = 0;
        while !self.over.load(Ordering::Relaxed) {
            let asked = now();
            number += 1;
            let done = self.vault.write(number).await.is_ok();
            self.story.note(Fact::Write { asked, at: now(), done });
            sleep(Duration::from_millis(40)).await;
        }
    }

    fn ttl(&mut self) -> Millis {
        self.random.pick(&TTLS).copied().unwrap_or(5) * 1_000
    }

    async fn pause(&mut self, low: u64, high: u64) {
        sleep(Duration::from_millis(self.random.between(low, high))).await;
    }

    async fn issue(&self, ttl: Millis) -> Option<Login> {
        let asked = now();
        match self.vault.issue(ttl).await {
            Ok(login) => {
                let (lease, name) = (login.lease.clone(), login.name.clone());
                self.story.note(Fact::Issued { lease, login: name, asked, at: now(), ends: login.ends });
                Some(login)
            }
            Err(why) => {
                self.story.note(Fact::NotIssued { asked, at: now(), known: why.known, why: why.why });
                None
            }
        }
    }

    async fn renew(&self, lease: &str, ttl: Millis) -> Option<Millis> {
        let asked = now();
        let done = self.vault.renew(lease, ttl).await;
        let (at, lease) = (now(), lease.to_owned());
        let unknown = done.as_ref().is_err_and(|why| !why.known);
        let ends = done.ok();
        self.story.note(Fact::Renewed { lease, asked, at, ends, unknown, latest: at + ttl });
        ends
    }

    /// Whether the vault says at once that it is over.
    async fn end(&self, lease: &str) -> bool {
        self.story.note(Fact::Ending { lease: lease.to_owned(), at: now() });
        let over = self.vault.end(lease).await.is_ok_and(|over| over);
        if over {
            self.story.note(Fact::Over { lease: lease.to_owned(), at: now() });
        }
        over
    }

    /// Waits for the vault's word that it is over.
    async fn gone(&self, lease: &str, ended: bool) -> bool {
        let deadline = Instant::now() + OVER;
        while Instant::now() < deadline {
            if self.vault.over(lease, ended).await.is_ok_and(|over| over) {
                self.story.note(Fact::Over { lease: lease.to_owned(), at: now() });
                return true;
            }
            sleep(ASK).await;
        }
        false
    }

    /// Logs in at the database.
    async fn enter(&self, login: &Login) -> Option<Client> {
        let mut config = Config::new();
        config.host(TARGET.to_string()).port(PORT).dbname("postgres");
        config.user(&login.name).password(login.password.as_bytes());
        let asked = now();
        let session = match timeout(LOGIN, config.connect(NoTls)).await {
            Ok(Ok((client, connection))) => {
                tokio::spawn(async move { drop(connection.await) });
                Some(client)
            }
            _ => None,
        };
        self.story.note(Fact::Login { lease: login.lease.clone(), asked, let_in: session.is_some() });
        session
    }
}
