//! A client of AMQP 0-9-1 that says every frame by hand, as far as these tests go; and one of MQTT.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// The class and the number of a method: what the server says.
pub(crate) type Method = (u16, u16);

pub(crate) const TUNE: Method = (10, 30);
pub(crate) const OPEN_OK: Method = (10, 41);
pub(crate) const CLOSE: Method = (10, 50);
pub(crate) const CHANNEL_OPEN_OK: Method = (20, 11);
pub(crate) const CHANNEL_CLOSE: Method = (20, 40);

/// A connection of which every byte is ours. It does as it is told when the server closes it.
pub(crate) struct Amqp {
    writer: Arc<Mutex<OwnedWriteHalf>>,
    frames: mpsc::UnboundedReceiver<Said>,
    reader: JoinHandle<()>,
    channel: u16,
}

impl Drop for Amqp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// What the server says: a method, or content.
pub(crate) enum Said {
    Method(Method),
    Content(Vec<u8>),
}

impl Amqp {
    /// Says who it is, and takes what the server offers; nothing is opened yet. `None` when it is not let in.
    pub(crate) async fn authenticate(port: u16, user: &str, password: &str) -> Option<Self> {
        Self::greet(port, user, password, true).await
    }

    /// The same for one that never says that it is closed, and does as if nothing was.
    pub(crate) async fn stubborn(port: u16, user: &str, password: &str) -> Option<Self> {
        Self::greet(port, user, password, false).await?.open("/").await
    }

    async fn greet(port: u16, user: &str, password: &str, is_polite: bool) -> Option<Self> {
        let (reads, mut writes) = TcpStream::connect(("127.0.0.1", port)).await.ok()?.into_split();
        writes.write_all(b"AMQP\0\0\x09\x01").await.ok()?;
        let writer = Arc::new(Mutex::new(writes));
        let (says, frames) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(reads, Arc::clone(&writer), says, is_polite));
        let mut this = Self { writer, frames, reader, channel: 0 };
        this.expect((10, 10)).await?;
        let response = format!("\0{user}\0{password}");
        // So that a refusal is said, at once.
        let capable = longstr(&[short("authentication_failure_close"), b"t\x01".to_vec()].concat());
        let properties = longstr(&[short("capabilities"), b"F".to_vec(), capable].concat());
        let start_ok = [properties, short("PLAIN"), longstr(response.as_bytes()), short("en_US")].concat();
        this.send(0, (10, 11), &start_ok).await?;
        this.expect(TUNE).await?;
        // A hundred channels, no heartbeats.
        let tune_ok = [100u16.to_be_bytes().to_vec(), long(131_072), 0u16.to_be_bytes().to_vec()].concat();
        this.send(0, (10, 31), &tune_ok).await?;
        Some(this)
    }

    /// Enters a virtual host; `None` when the server does not let it.
    pub(crate) async fn open(mut self, vhost: &str) -> Option<Self> {
        self.send(0, (10, 40), &[short(vhost), short(""), vec![0]].concat()).await?;
        self.expect(OPEN_OK).await?;
        Some(self)
    }

    pub(crate) async fn connect(port: u16, user: &str, password: &str) -> Option<Self> {
        Self::authenticate(port, user, password).await?.open("/").await
    }

    /// Opens another channel; what the server says to that.
    pub(crate) async fn channel(&mut self) -> Option<Method> {
        self.channel += 1;
        self.call((20, 10), &short("")).await
    }

    /// Declares a queue, here and for nobody else if it is exclusive.
    pub(crate) async fn declare(&mut self, queue: &str, exclusive: bool) -> Option<Method> {
        let flags = if exclusive { 0b100 } else { 0 };
        self.call((50, 10), &[vec![0, 0], short(queue), vec![flags], long(0)].concat()).await
    }

    pub(crate) async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Option<Method> {
        let arguments = [vec![0, 0], short(queue), short(exchange), short(key), vec![0], long(0)].concat();
        self.call((50, 20), &arguments).await
    }

    /// Has what comes to a queue sent to it, without being asked to say that it has come.
    pub(crate) async fn consume(&mut self, queue: &str) -> Option<Method> {
        self.call((60, 20), &[vec![0, 0], short(queue), short("tag"), vec![0b10], long(0)].concat()).await
    }

    /// Publishes, and asks for something else after that: what the server says first.
    pub(crate) async fn publish(&mut self, exchange: &str, key: &str, text: &str) -> Option<Method> {
        self.send(self.channel, (60, 40), &[vec![0, 0], short(exchange), short(key), vec![0]].concat()).await?;
        let size = u64::try_from(text.len()).unwrap();
        let header = [60u16.to_be_bytes().to_vec(), vec![0, 0], size.to_be_bytes().to_vec(), vec![0, 0]].concat();
        self.frame(2, self.channel, &header).await?;
        self.frame(3, self.channel, text.as_bytes()).await?;
        // `basic.qos`: it is answered whatever the login may do.
        self.call((60, 10), &[long(0), vec![0, 0], vec![0]].concat()).await
    }

    /// The next message that is sent to it; `None` when the server hung up.
    pub(crate) async fn delivered(&mut self) -> Option<String> {
        loop {
            if let Said::Content(content) = self.next().await? {
                return Some(String::from_utf8_lossy(&content).into_owned());
            }
        }
    }

    /// Whether the server ends it, sooner or later, whatever it says before.
    pub(crate) async fn ends(&mut self) -> bool {
        let ended = async {
            loop {
                match self.next().await {
                    None | Some(Said::Method(CLOSE)) => return,
                    Some(_) => {}
                }
            }
        };
        timeout(PATIENCE, ended).await.is_ok()
    }

    pub(crate) async fn call(&mut self, method: Method, arguments: &[u8]) -> Option<Method> {
        self.send(self.channel, method, arguments).await?;
        loop {
            if let Said::Method(method) = timeout(PATIENCE, self.next()).await.expect("an answer or an end")? {
                return Some(method);
            }
        }
    }

    async fn expect(&mut self, expected: Method) -> Option<()> {
        match timeout(PATIENCE, self.next()).await.expect("an answer or an end")? {
            Said::Method(method) if method == expected => Some(()),
            _ => None,
        }
    }

    pub(crate) async fn send(&mut self, channel: u16, method: Method, arguments: &[u8]) -> Option<()> {
        let (class, number) = method;
        let payload = [&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload).await
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Option<()> {
        self.writer.lock().await.write_all(&frame(kind, channel, payload)).await.ok()
    }

    /// What the server says next; `None` when it hung up.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        self.frames.recv().await
    }
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &length, payload, &[0xce]].concat()
}

async fn read(
    mut reads: OwnedReadHalf,
    writer: Arc<Mutex<OwnedWriteHalf>>,
    says: mpsc::UnboundedSender<Said>,
    is_polite: bool,
) {
    loop {
        let mut head = [0; 7];
        if reads.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes(head[3..].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(length).unwrap() + 1];
        if reads.read_exact(&mut payload).await.is_err() {
            return;
        }
        assert_eq!(payload.pop(), Some(0xce), "a frame ends so");
        let said = match head[0] {
            1 => {
                let number = |at: usize| u16::from_be_bytes(payload[at..at + 2].try_into().unwrap());
                Said::Method((number(0), number(2)))
            }
            3 => Said::Content(payload),
            _ => continue,
        };
        if is_polite && matches!(said, Said::Method(CLOSE)) {
            let _ = writer.lock().await.write_all(&frame(1, 0, &[0, 10, 0, 51])).await;
        }
        let _ = says.send(said);
    }
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn longstr(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A connection of MQTT 3.1.1; `None` when it is not let in.
pub(crate) async fn mqtt(port: u16, user: &str, password: &str) -> Option<TcpStream> {
    let string = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    // A clean session, a name and a password, and no keep-alive.
    let body = [string("MQTT"), vec![4, 0b1100_0010, 0, 0], string(user), string(user), string(password)].concat();
    assert!(body.len() < 128, "one byte says how long it is");
    stream.write_all(&[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()).await.ok()?;
    let mut answer = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer or an end").ok()?;
    (answer == [0x20, 2, 0, 0]).then_some(stream)
}
