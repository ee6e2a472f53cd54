//! The seams to the world: clocks, randomness, the network, and threads that may wait. Stored things have theirs in
//! `raft::kv`, `audit::disk` and `keystore::Folder`, targets in `engines::Engine`; all of them together are [`Parts`](crate::Parts),
//! and what a simulation replaces.

use quorate_api::net::{Net, Tcp};
use rand_core::{TryCryptoRng, TryRng};
use std::convert::Infallible;
use std::sync::Arc;

/// Two clocks. Nothing else in this crate reads one.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970: may jump either way.
    fn wall(&self) -> u64;
    /// Milliseconds since some beginning: never goes back, and runs while the machine sleeps.
    fn boot(&self) -> u64;
}

/// The source of everything that must not be guessed.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]);
}

/// What a node lives in.
#[derive(Clone)]
pub struct Env {
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
    /// Its randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The way to the other members, and from everybody to this one.
    pub net: Arc<dyn Net>,
    /// Where work runs that waits for a disk.
    pub waiting: Waiting,
}

/// Where work runs that waits for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// On threads of their own: the node goes on meanwhile.
    Threads,
    /// Where it is called: the same order every time.
    InPlace,
}

impl Env {
    /// The machine's own.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: system_clock(), entropy: Arc::new(SystemEntropy), net: Arc::new(Tcp), waiting: Waiting::Threads }
    }

    /// A generator over the randomness.
    #[must_use]
    pub fn rng(&self) -> Rng {
        Rng(Arc::clone(&self.entropy))
    }

    /// Runs work that waits for a disk; `None` if it panicked.
    pub(crate) async fn wait_for<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        match self.waiting {
            Waiting::Threads => tokio::task::spawn_blocking(work).await.ok(),
            Waiting::InPlace => Some(work()),
        }
    }

    /// `N` fresh bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut out = [0u8; N];
        self.entropy.fill(&mut out);
        out
    }
}

/// [`Entropy`] as a generator of `rand_core`.
#[derive(Clone)]
pub struct Rng(Arc<dyn Entropy>);

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = [0u8; 4];
        self.0.fill(&mut out);
        Ok(u32::from_le_bytes(out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = [0u8; 8];
        self.0.fill(&mut out);
        Ok(u64::from_le_bytes(out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Rng {}

/// The machine's own clocks.
#[cfg(not(feature = "failpoints"))]
fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// The machine's own clocks, or as a test says in `QUORATE_TEST_CLOCK="OFFSET RATE"`: the wall clock so many milliseconds off, and both as
/// many times as fast from the start.
#[cfg(feature = "failpoints")]
fn system_clock() -> Arc<dyn Clock> {
    let Ok(said) = std::env::var("QUORATE_TEST_CLOCK") else { return Arc::new(SystemClock) };
    let mut numbers = said.split_whitespace().map(|word| word.parse::<i64>().unwrap_or_default());
    let (offset, rate) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or(1).max(0).unsigned_abs());
    tracing::warn!(offset, rate, "a test has moved the clocks");
    Arc::new(MovedClock { offset, rate, began: (SystemClock.wall(), SystemClock.boot()) })
}

#[cfg(feature = "failpoints")]
struct MovedClock {
    offset: i64,
    rate: u64,
    began: (u64, u64),
}

#[cfg(feature = "failpoints")]
impl Clock for MovedClock {
    fn wall(&self) -> u64 {
        let since = SystemClock.boot().saturating_sub(self.began.1).saturating_mul(self.rate);
        self.began.0.saturating_add_signed(self.offset).saturating_add(since)
    }

    fn boot(&self) -> u64 {
        let since = SystemClock.boot().saturating_sub(self.began.1).saturating_mul(self.rate);
        self.began.1.saturating_add(since)
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn boot(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000)
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        // Without randomness nothing that follows would be safe, and there is nobody to tell: the process ends.
        if let Err(error) = getrandom::fill(out) {
            tracing::error!(%error, "the operating system gives no randomness");
            std::process::abort();
        }
    }
}
