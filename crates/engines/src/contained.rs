//! A driver that panics at what a target says takes its own work down, and not the node.
//!
//! Whoever speaks to a target speaks to somebody else's server, by a driver that is somebody else's: the one for MariaDB panics where a
//! server asks for a way to log in that it was built without. A panic of our own code ends the process, since nobody knows what
//! it has left half done. What runs in here owns nothing but a connection, which is given up with it.

use core::cell::Cell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::EngineError;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is at work for a target: a panic now is caught. For the hook that ends the process at any other, and that must not print
/// what a server may have written.
#[must_use]
pub fn is_contained() -> bool {
    INSIDE.get()
}

/// Work for a target, whose panic is an error.
pub(crate) struct Contained<F>(Option<Pin<Box<F>>>);

/// `work` may panic: it is dropped then, and nothing of it is used again.
pub(crate) fn contained<T, F: Future<Output = Result<T, EngineError>>>(work: F) -> Contained<F> {
    Contained(Some(Box::pin(work)))
}

impl<T, F: Future<Output = Result<T, EngineError>>> Future for Contained<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = self.0.as_mut() else { return Poll::Ready(Err(gave_up())) };
        match inside(|| work.as_mut().poll(context)) {
            Some(Poll::Pending) => Poll::Pending,
            Some(ready) => ready,
            None => {
                // What is left of it may panic once more.
                let left = self.0.take();
                inside(|| drop(left));
                Poll::Ready(Err(gave_up()))
            }
        }
    }
}

/// Nothing, if it panics.
fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = INSIDE.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(before);
    done.ok()
}

/// As a lost connection: whatever was sent may have been done.
fn gave_up() -> EngineError {
    EngineError::Unavailable {
        reason: "its driver gave up at what the target said: is it the server that it should be?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_what_is_well_goes_through() {
        assert_eq!(contained(async { Ok(7) }).await, Ok(7));
        assert_eq!(contained(async { Err::<u32, _>(EngineError::Duplicate) }).await, Err(EngineError::Duplicate));
        let mut panics = Box::pin(contained(async {
            tokio::task::yield_now().await;
            assert!(is_contained(), "the hook knows");
            if is_contained() {
                panic!("a driver");
            }
            Ok(())
        }));
        assert!(matches!(panics.as_mut().await, Err(EngineError::Unavailable { .. })));
        assert!(matches!(panics.as_mut().await, Err(EngineError::Unavailable { .. })), "it is over");
        assert!(!is_contained(), "and what comes after is not in it");
    }
}
