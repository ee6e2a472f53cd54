//! Work on a connection to a target that is kept: for no longer than it may take, and what becomes of the connection then.
//!
//! A connection is taken out of its slot by whoever works on it. Whoever is dropped in the middle does not give it back, and so the
//! next one never meets what is half done there. What a slot remembers beside it is each target's own.

use core::future::Future;
use core::time::Duration;

use tokio::time::timeout;

use crate::EngineError;
use crate::contained::contained;

/// Gives up after `limit`, since a black hole answers nothing, not even with an error; and when a driver panics.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, EngineError>> + Send,
) -> Result<T, EngineError> {
    timeout(limit, contained(work))
        .await
        .unwrap_or_else(|_| Err(EngineError::Unavailable { reason: "no answer in time".into() }))
}

/// Whether the connection on which this came out can be worked on again: it is there, and nothing that was sent there may still be under
/// way.
pub(crate) fn is_settled<T>(result: &Result<T, EngineError>) -> bool {
    !matches!(result, Err(EngineError::Unavailable { .. } | EngineError::Unknown { .. } | EngineError::StaleBinding))
}

/// Work on a connection that was taken out of its slot, for no longer than it may take; after it the connection is given back, if it
/// can be worked on again. `taken` has the connection as its field `session`, and a method `settle` that gives it back.
macro_rules! on {
    ($taken:expr, $limit:expr, |$session:ident| $work:expr) => {{
        let mut taken = $taken;
        let result = {
            let $session = &mut taken.session;
            $crate::connection::within($limit, $work).await
        };
        taken.settle(result)
    }};
}

pub(crate) use on;

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that was taken, and what came of it.
    struct Taken {
        session: u32,
    }

    impl Taken {
        fn settle<T>(self, result: Result<T, EngineError>) -> (u32, bool, Result<T, EngineError>) {
            (self.session, is_settled(&result), result)
        }
    }

    async fn answer(session: &mut u32, with: Result<u32, EngineError>) -> Result<u32, EngineError> {
        *session += 1;
        with
    }

    #[tokio::test]
    async fn a_connection_goes_back_when_nothing_is_under_way_on_it() {
        let words = || "x".to_owned();
        let ends = [
            (Ok(7), true),
            (Err(EngineError::Busy { code: words(), message: words() }), true),
            (Err(EngineError::Refused { code: words(), message: words() }), true),
            (Err(EngineError::Duplicate), true),
            (Err(EngineError::StaleBinding), false),
            (Err(EngineError::Unavailable { reason: words() }), false),
            (Err(EngineError::Unknown { reason: words() }), false),
        ];
        for (end, settled) in ends {
            let (session, back, result) =
                on!(Taken { session: 1 }, Duration::from_secs(60), |s| answer(s, end.clone()));
            assert_eq!((session, back, result), (2, settled, end));
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_does_not_go_back() {
        let silent = core::future::pending::<Result<(), EngineError>>;
        let (_, back, result) = on!(Taken { session: 1 }, Duration::ZERO, |_s| silent());
        assert!(!back && matches!(result, Err(EngineError::Unavailable { .. })), "{result:?}");
    }
}
