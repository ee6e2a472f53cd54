//! A server that says what another one has said: recorded answers, each on its connection, whole or damaged.
//!
//! It understands nothing. Whatever it is asked, it says what comes next on that connection, and closes where nothing does; a connection on which nothing
//! is asked is one where the server speaks first.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// After this, in a time that passes only when nobody has anything to do, the server speaks first.
const GREETING: Duration = Duration::from_millis(1);

/// What is said at once on one connection, counted from 0 in the order in which they are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) connection: u8,
    pub(crate) bytes: Vec<u8>,
}

/// Everything that is said, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Script(pub(crate) Vec<Chunk>);

impl Script {
    /// Connection (1), length (3, high byte first), bytes; again and again. Everything is a script: what is cut off ends where it ends.
    pub(crate) fn decode(mut input: &[u8]) -> Self {
        let mut chunks = Vec::new();
        while let [connection, a, b, c, rest @ ..] = input {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (bytes, rest) = rest.split_at(length.min(rest.len()));
            chunks.push(Chunk { connection: *connection, bytes: bytes.to_vec() });
            input = rest;
        }
        Self(chunks)
    }

    /// The inverse of [`Script::decode`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let one = |chunk: &Chunk| {
            let length = u32::try_from(chunk.bytes.len()).unwrap_or(0).to_be_bytes();
            [&[chunk.connection], &length[1..], &chunk.bytes].concat()
        };
        self.0.iter().flat_map(one).collect()
    }
}

/// The server. It ends when dropped.
pub(crate) struct Stub {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stub {
    pub(crate) async fn start(script: &Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let said = script.0.clone();
        let task = tokio::spawn(async move {
            for connection in 0..=u8::MAX {
                let Ok((stream, _)) = listener.accept().await else { return };
                let own = said.iter().filter(|chunk| chunk.connection == connection);
                tokio::spawn(serve(stream, own.map(|chunk| chunk.bytes.clone()).collect()));
            }
        });
        Self { port, task }
    }
}

async fn serve(mut stream: TcpStream, mut said: VecDeque<Vec<u8>>) {
    let mut asked = [0; 1 << 14];
    // Answers that wait for each other would wait for ever.
    drop(stream.set_nodelay(true));
    let first = timeout(GREETING, stream.read(&mut asked)).await;
    if let Ok(Ok(0) | Err(_)) = first {
        return;
    }
    loop {
        let Some(answer) = said.pop_front() else { return };
        if stream.write_all(&answer).await.is_err() || !matches!(stream.read(&mut asked).await, Ok(1..)) {
            return;
        }
    }
}
