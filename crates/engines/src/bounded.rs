//! A connection on which no answer is endless.
//!
//! What a target says is held in memory until it is all there, and a target may be somebody's who wants that memory. Drivers of databases bound
//! neither an answer nor a row, so the stream below them does.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is read for one thing that was said, in bytes: a million names of 42 bytes are a sixth of it.
pub(crate) const MOST: u64 = 256 << 20;

/// A stream that counts what it takes, and fails once it was answered more than [`MOST`].
pub(crate) struct Bounded<S> {
    stream: S,
    /// How many bytes it has got rid of.
    sent: Arc<AtomicU64>,
    /// How many it was answered since.
    answered: u64,
}

impl<S> Bounded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, sent: Arc::default(), answered: 0 }
    }

    /// How many bytes it has got rid of, now and later.
    pub(crate) fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let more = buffer.filled().len().saturating_sub(before);
        self.answered = self.answered.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        if self.answered > MOST {
            let why = format!("more than {} MiB were answered at once", MOST >> 20);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = taken {
            self.sent.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Release);
            self.answered = 0;
        }
        taken
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, repeat, sink};

    /// Says the same for ever, and hears nothing.
    fn endless() -> Bounded<impl AsyncRead + AsyncWrite + Unpin> {
        Bounded::new(tokio::io::join(repeat(7), sink()))
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_an_error() {
        let mut stream = endless();
        let read = tokio::io::copy(&mut stream, &mut sink()).await;
        assert_eq!(read.unwrap_err().to_string(), "more than 256 MiB were answered at once");
    }

    #[tokio::test]
    async fn each_question_has_its_own_answer() {
        let mut stream = endless();
        let (sent, mut answer) = (stream.sent(), vec![0; 64 << 20]);
        for n in 1..=6 {
            stream.write_all(b"?").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(sent.load(Ordering::Acquire), n);
        }
    }
}
