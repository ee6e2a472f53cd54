//! The fragment in tokens, over PKCS#11: a fixed pool of threads, each with one session; a token that goes away is left, and
//! taken up when it is back; several tokens with the same key stand in for each other.

mod create;
mod doctor;
mod error;
mod module;
mod pin;
mod session;
mod worker;

pub use create::{Created, create};
pub use doctor::{Report, examine};
pub use error::TokenError;
pub use pin::{Given, Pin};
pub use session::KeyFacts;

use crate::kem::WrappedKem;
use crate::queue::{Queue, jobs};
use crate::{Derived, Question};
use module::Module;
use quorate_crypto::customer::{CustomerPublic, PartSuite};
use quorate_crypto::secret::Secret;
use session::{Connection, Refused};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Which tokens hold the key, and how they are used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The vendor's PKCS#11 library: an absolute path.
    pub module: PathBuf,
    /// Serial numbers, or labels that are unique, of the tokens that hold the key.
    pub tokens: Vec<String>,
    /// The label of the key, the same on each.
    pub key: String,
    /// The public key that it must belong to.
    pub public: CustomerPublic,
    /// The file of the ML-KEM key, in suite 1.
    pub kem: Option<Vec<u8>>,
    /// Sessions with each token, and as many threads.
    pub sessions: u8,
    /// How patient the pool is.
    pub timing: Timing,
}

/// How patient a pool is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two tries to reach a token.
    pub retry: Duration,
    /// Between two new lives of the module, while no session is left; six times that while other tokens serve.
    pub revive: Duration,
    /// After so long a session asks a question whose answer it knows, however many there are from others.
    pub check: Duration,
}

impl Default for Timing {
    /// 2 s, 10 s and 15 s.
    fn default() -> Self {
        Self { retry: Duration::from_secs(2), revive: Duration::from_secs(10), check: Duration::from_secs(15) }
    }
}

/// What a key must be, to be used.
struct Expected {
    key: String,
    public: CustomerPublic,
    kem: Option<WrappedKem>,
    /// The ML-KEM key, once a token has opened it.
    seed: OnceLock<Secret<64>>,
}

/// The label of the AES key that belongs to a customer key.
fn kem_label(key: &str) -> String {
    format!("{key}-kem")
}

/// One of the tokens.
struct Token {
    name: String,
    refused: Refused,
    seen: Mutex<Seen>,
}

/// What was last seen of it.
struct Seen {
    ready: usize,
    answered: u64,
    failed: u64,
    trouble: Option<TokenError>,
    since: Instant,
}

impl Token {
    fn new(name: &str) -> Self {
        let seen = Seen { ready: 0, answered: 0, failed: 0, trouble: None, since: Instant::now() };
        Self { name: name.to_owned(), refused: Refused::default(), seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has come, or gone: since when a token is up, or down, is told by the first and the last.
    fn joined(&self) {
        let mut seen = self.seen();
        if seen.ready == 0 {
            seen.since = Instant::now();
            tracing::info!(token = self.name, "the token serves");
        }
        seen.ready += 1;
        seen.trouble = None;
    }

    fn left(&self, why: &TokenError) {
        let mut seen = self.seen();
        seen.ready = seen.ready.saturating_sub(1);
        if seen.ready == 0 {
            seen.since = Instant::now();
            tracing::error!(token = self.name, code = why.code(), %why, "the token serves no more");
        }
        seen.trouble = Some(why.clone());
    }

    /// Another try has failed.
    fn missed(&self, why: &TokenError) {
        let mut seen = self.seen();
        if seen.ready == 0 && seen.trouble.as_ref() != Some(why) {
            tracing::error!(token = self.name, code = why.code(), %why, "the token does not serve");
            seen.trouble = Some(why.clone());
        }
    }

    fn count(&self, answered: bool) {
        let mut seen = self.seen();
        if answered {
            seen.answered += 1;
        } else {
            seen.failed += 1;
        }
    }
}

/// How a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// As it is configured: serial number or label.
    pub token: String,
    /// Sessions that answer now.
    pub ready: u64,
    /// Sessions that there are to be.
    pub sessions: u64,
    /// Questions that it has answered since the start.
    pub answered: u64,
    /// Questions that it has failed at, which others may have answered.
    pub failed: u64,
    /// Seconds since its first session came up, or its last one went.
    pub seconds: u64,
    /// Code and words of the last trouble, while there is one.
    pub trouble: Option<(&'static str, String)>,
}

/// What the threads share.
struct Shared {
    module: Module,
    queue: Queue,
    tokens: Vec<Token>,
    expected: Expected,
    pin: Pin,
    sessions: u8,
    timing: Timing,
    /// When the module last began a new life.
    revived: Mutex<Instant>,
}

/// The tokens, ready to be asked.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Loads the module and connects. With no token there at the moment it starts all the same, and waits for one.
    ///
    /// # Errors
    /// [`TokenError`], when no token serves and one says why it never will: a wrong PIN, a key that is missing, unfit or another one.
    pub fn open(settings: Settings, pin: Pin) -> Result<Self, TokenError> {
        let Settings { module, tokens, key, public, kem, sessions, timing } = settings;
        let first = tokens.first().cloned().unwrap_or_default();
        let wrong = |why| TokenError::Kem { token: first.clone(), why };
        let kem = match (public.suite(), kem) {
            (PartSuite::Hybrid, Some(file)) => Some(WrappedKem::decode(&file, &public.id()).map_err(wrong)?),
            (PartSuite::P256, None) => None,
            (PartSuite::Hybrid, None) | (PartSuite::P256, Some(_)) => {
                return Err(wrong(crate::kem::KemError::OtherKey));
            }
        };
        let shared = Arc::new(Shared {
            module: Module::load(&module)?,
            queue: Queue::new(),
            tokens: tokens.iter().map(|name| Token::new(name)).collect(),
            expected: Expected { key, public, kem, seed: OnceLock::new() },
            pin,
            sessions: sessions.max(1),
            timing,
            revived: Mutex::new(Instant::now()),
        });
        let mut lasting = None;
        let mut served = false;
        for token in &shared.tokens {
            match worker::connect(&shared, token) {
                Ok(connection) => {
                    served = true;
                    connection.close(&shared.module);
                }
                Err(why) => {
                    token.missed(&why);
                    shared.queue.trouble(&why.to_string());
                    if !matches!(why, TokenError::NoToken(_) | TokenError::Failed { .. }) {
                        lasting.get_or_insert(why);
                    }
                }
            }
        }
        if let Some(why) = lasting.filter(|_| !served) {
            return Err(why);
        }
        let mut threads = Vec::new();
        for at in 0..shared.tokens.len() {
            for _ in 0..shared.sessions {
                let shared = Arc::clone(&shared);
                let named = std::thread::Builder::new().name("token".to_owned());
                let spawned = named.spawn(move || worker::work(&shared, at));
                let failed = |why: std::io::Error| TokenError::Failed { token: first.clone(), why: why.to_string() };
                threads.push(spawned.map_err(failed)?);
            }
        }
        let pool = Self { shared, threads: Mutex::new(threads) };
        if served {
            pool.wait_for_sessions(Duration::from_secs(5));
        }
        Ok(pool)
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &CustomerPublic {
        &self.shared.expected.public
    }

    /// Waits until a session answers, for so long at most.
    fn wait_for_sessions(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.shared.queue.ready() == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn derive(&self, questions: Vec<Question>, reply: impl FnOnce(Vec<Derived>) + Send + 'static) {
        // As often as one token has sessions, and once more for another token.
        let tries = self.shared.sessions.saturating_add(1);
        self.shared.queue.put(jobs(questions, tries, reply));
    }

    /// How each token is.
    #[must_use]
    pub fn health(&self) -> Vec<Health> {
        let of = |token: &Token| {
            let seen = token.seen();
            Health {
                token: token.name.clone(),
                ready: seen.ready as u64,
                sessions: self.shared.sessions.into(),
                answered: seen.answered,
                failed: seen.failed,
                seconds: seen.since.elapsed().as_secs(),
                trouble: seen.trouble.as_ref().map(|why| (why.code(), why.to_string())),
            }
        };
        self.shared.tokens.iter().map(of).collect()
    }

    /// Ends the pool, and waits for its threads: its sessions are closed then.
    pub fn end(self) {
        self.shared.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // One that panicked has left what the others left.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A thread may be waiting for its token: nobody waits for it.
        self.shared.queue.close();
    }
}
