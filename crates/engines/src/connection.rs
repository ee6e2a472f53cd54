//! Work on a connection to a target: for no longer than it may take.

use core::future::Future;
use core::time::Duration;

use tokio::time::timeout;

use crate::EngineError;

/// Gives up after `limit`: a black hole answers nothing, not even with an error.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, EngineError>> + Send,
) -> Result<T, EngineError> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(EngineError::Unavailable { reason: "no answer in time".into() }))
}
