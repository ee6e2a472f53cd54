//! The runtime of consensus: tokio, with randomness that begins with a number of the node's own ([`Config::seed`](crate::Config::seed)).
//!
//! openraft draws its election timeouts from the runtime that it is given. They need not be secret, only different on each node; but a run
//! of whole nodes is repeated from its seed only if they are a function of it too. What is spawned inherits a number of its own, so that it does
//! not matter which task runs first.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    time::Duration,
};

use openraft::{AsyncRuntime, OptionalSend, impls::TokioRuntime};
use rand_core::TryRng;

tokio::task_local! {
    /// What the next draw, or the next task, begins with.
    static NEXT: Cell<u64>;
}

/// Runs `future`, and all that consensus spawns in it, on randomness that begins with `seed`.
pub(crate) async fn seeded<F: Future>(seed: u64, future: F) -> F::Output {
    NEXT.scope(Cell::new(seed), future).await
}

/// A number that nobody chose: for nodes without a seed, and for what is drawn outside of [`seeded`].
pub(crate) fn any() -> u64 {
    RandomState::new().hash_one(0_u8)
}

fn draw() -> u64 {
    NEXT.try_with(|next| {
        let mut generator = Generator(next.get());
        let drawn = generator.next();
        next.set(generator.0);
        drawn
    })
    .unwrap_or_else(|_| any())
}

/// SplitMix64 (Steele, Lea, Flood 2014): not for secrets.
pub(crate) struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let [a, b, c, d, ..] = self.next().to_be_bytes();
        Ok(u32::from_be_bytes([a, b, c, d]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.iter_mut().zip(self.next().to_be_bytes()).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtime(TokioRuntime);

type Tokio = TokioRuntime;

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Generator;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(NEXT.scope(Cell::new(draw()), future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Generator {
        Generator(draw())
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Tokio::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drawn(seed: u64) -> [u64; 3] {
        seeded(seed, async {
            let child = Runtime::spawn(async { Runtime::thread_rng().next() }).await.unwrap();
            [Runtime::thread_rng().next(), child, Runtime::thread_rng().next()]
        })
        .await
    }

    #[tokio::test]
    async fn a_seed_repeats_what_is_drawn_and_its_tasks_draw_something_else() {
        let [first, child, second] = drawn(7).await;
        assert_eq!(drawn(7).await, [first, child, second]);
        assert!(first != second && child != first && child != second);
        assert_ne!(drawn(8).await, [first, child, second]);
        assert_ne!(Runtime::thread_rng().next(), Runtime::thread_rng().next(), "without one, nobody chose it");
    }
}
