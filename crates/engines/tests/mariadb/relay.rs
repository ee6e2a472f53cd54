//! Stands between the executor and its server, and holds one statement back.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) struct Relay {
    pub(crate) port: u16,
    /// The statement is here.
    pub(crate) reached: Arc<Notify>,
    /// It may go on.
    pub(crate) go_on: Arc<Notify>,
}

impl Relay {
    /// Holds back the first statement on each connection in which these words are.
    pub(crate) async fn start(server: u16, words: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (there, on) = (reached.clone(), go_on.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = far.into_split();
                tokio::spawn(async move { copy(&mut from_far, &mut to_near).await });
                let (there, on) = (there.clone(), on.clone());
                tokio::spawn(async move {
                    let (mut buffer, mut held) = (vec![0; 1 << 16], false);
                    while let Ok(n @ 1..) = from_near.read(&mut buffer).await {
                        // What is sent at once is one statement, and small.
                        let text = String::from_utf8_lossy(&buffer[..n]);
                        if !held && text.contains(words) {
                            held = true;
                            there.notify_one();
                            on.notified().await;
                        }
                        if to_far.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, reached, go_on }
    }
}
