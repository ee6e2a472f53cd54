//! Stands between an executor and its server, and writes down what the server says.

use crate::replay::{Chunk, Script};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) struct Recorder {
    pub(crate) port: u16,
    said: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    /// Before the server at this port of the loopback.
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::<Mutex<Script>>::default();
        let heard = Arc::clone(&said);
        let task = tokio::spawn(async move {
            for connection in 0..=u8::MAX {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(hand_on(near, far, connection, Arc::clone(&heard)));
            }
        });
        Self { port, said, task }
    }

    pub(crate) fn script(&self) -> Script {
        self.said.lock().unwrap().clone()
    }
}

/// What is said without being asked between belongs together.
async fn hand_on(mut near: TcpStream, mut far: TcpStream, connection: u8, said: Arc<Mutex<Script>>) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    // Where its last words stand, until it is asked again.
    let mut speaking = None;
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    loop {
        tokio::select! {
            Ok(n) = near.read(&mut asked) => {
                if n == 0 || far.write_all(&asked[..n]).await.is_err() {
                    return;
                }
                speaking = None;
            }
            Ok(n) = far.read(&mut answered) => {
                if n == 0 {
                    return;
                }
                {
                    let chunks = &mut said.lock().unwrap().0;
                    let at = *speaking.get_or_insert_with(|| {
                        chunks.push(Chunk { connection, bytes: Vec::new() });
                        chunks.len() - 1
                    });
                    chunks[at].bytes.extend_from_slice(&answered[..n]);
                }
                if near.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}
