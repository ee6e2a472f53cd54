//! The floor: the least that an operation takes on this machine, in the same minutes. Two servers that do nothing but what the
//! physics asks of two members: a round trip over TLS, and for an open one multiplication of a point, for a write one append and
//! one fdatasync. No Raft, no policies, no audit.

use super::{Connection, Facts, Side};
use crate::https::{Certificates, tls};
use crate::process::{Server, free_ports};
use crate::work::{Operation, Work, value};
use anyhow::Context as _;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, client::TlsStream};

/// How many servers, as many as members decide.
const SERVERS: usize = 2;
/// How long one may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a question begins with.
const OPEN: u8 = b'o';
const WRITE: u8 = b'w';
/// The largest message: a value, and what stands around it.
const MAX: usize = 8 << 20;
/// A question to open and an answer to write, in bytes: about what the vault's have.
const SHORT: usize = 256;

/// The generator of ristretto255 (RFC 9496, section A.1).
const POINT: [u8; 32] = [
    0xe2, 0xf2, 0xae, 0x0a, 0x6a, 0xbc, 0x4e, 0x71, 0xa8, 0x84, 0xa9, 0x61, 0xc5, 0x00, 0x51, 0x5f, 0x58, 0xe3, 0x0b,
    0x6a, 0xa5, 0x82, 0xdd, 0x8d, 0xb6, 0xa6, 0x59, 0x45, 0xe0, 0x8d, 0x2d, 0x76,
];

/// `quorate-bench floor`: one server.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// What is appended to.
    #[arg(long)]
    file: PathBuf,
}

impl Serve {
    /// Serves until it is ended.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let chain = vec![CertificateDer::from_pem_file(&self.certificate)?];
        let key = PrivateKeyDer::from_pem_file(&self.key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = versions.with_no_client_auth().with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let file = OpenOptions::new().create(true).append(true).open(&self.file)?;
        let (append, appends) = mpsc::channel();
        std::thread::spawn(move || sync_in_groups(file, &appends));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (acceptor, append) = (acceptor.clone(), append.clone());
            // A connection that breaks is the client's to tell.
            tokio::spawn(async move { drop(serve(stream, acceptor, append).await) });
        }
    }
}

type Append = (Vec<u8>, oneshot::Sender<()>);

/// Writes what waits, syncs once, answers all.
fn sync_in_groups(mut file: File, appends: &mpsc::Receiver<Append>) {
    while let Ok(first) = appends.recv() {
        let mut group = vec![first];
        group.extend(appends.try_iter());
        let whole: Vec<u8> = group.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        if file.write_all(&whole).and_then(|()| file.sync_data()).is_err() {
            // Whoever waits is told by the end of the channel.
            return;
        }
        for (_, done) in group {
            let _ = done.send(());
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, append: mpsc::Sender<Append>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let share = share(1)?;
    loop {
        let question = receive(&mut stream).await?;
        let (kind, body) = question.split_first().context("an empty question")?;
        let mut answer = Vec::new();
        if *kind == OPEN {
            answer.extend(partial(&share, &POINT).ok().context("a point")?);
            let size = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
            answer.resize(32 + usize::try_from(size)?, b'x');
        } else {
            let (done, synced) = oneshot::channel();
            append.send((body.to_vec(), done)).ok().context("the disk")?;
            synced.await?;
            answer.resize(SHORT, b'x');
        }
        send(&mut stream, &answer).await?;
    }
}

fn share(index: u8) -> anyhow::Result<KeyShare> {
    let mut scalar = [0x2a; 32];
    // Below the order of the group.
    scalar[31] = 0x01;
    Ok(KeyShare::new(index, &Secret::from_slice(&scalar).context("32 bytes")?)?)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> anyhow::Result<()> {
    let mut frame = Vec::with_capacity(4 + message.len());
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend_from_slice(message);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await?)?;
    anyhow::ensure!(length <= MAX, "{length} bytes in a message");
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The servers.
pub(crate) struct Floor {
    servers: Vec<Server>,
    ports: Vec<u16>,
    certificates: Certificates,
}

impl Floor {
    /// Starts them in a new folder below `folder`.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("floor");
        std::fs::create_dir(&folder)?;
        let certificates = Certificates::make(&folder)?;
        let ports = free_ports(SERVERS)?;
        let program = std::env::current_exe()?;
        let mut servers = Vec::new();
        for port in &ports {
            let arguments = [
                "floor".into(),
                format!("--port={port}"),
                format!("--certificate={}", certificates.certificate_file.display()),
                format!("--key={}", certificates.key_file.display()),
                format!("--file={}", folder.join(format!("{port}.data")).display()),
            ];
            servers.push(Server::start(&program, arguments, &folder.join(format!("{port}.log")))?);
        }
        let mut this = Self { servers, ports, certificates };
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = this.caller(1).await {
            for server in &mut this.servers {
                server.check()?;
            }
            anyhow::ensure!(Instant::now() < deadline, "the floor's servers do not listen: {why:#}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(this)
    }

    async fn caller(&self, size: usize) -> anyhow::Result<Caller> {
        let mut streams = Vec::new();
        for port in &self.ports {
            streams.push(Mutex::new(tls(self.certificates.client(&[])?, *port).await?));
        }
        Ok(Caller { streams, value: value(size).into_bytes() })
    }
}

#[async_trait::async_trait]
impl Side for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn facts(&self) -> Facts {
        Facts {
            what: "the least that two members must do, no vault".into(),
            processes: "2 on this machine".into(),
            connection: "length and bytes over TLS 1.3, kept open".into(),
            caller: "anybody".into(),
            durability: "a file on each of 2, synced in groups".into(),
            audit: "none".into(),
            database: "-".into(),
        }
    }

    fn knows(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Open | Operation::Write)
    }

    fn servers(&self, _: Operation) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }

    fn audit_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    async fn prepare(&self, _: &Work) -> anyhow::Result<()> {
        Ok(())
    }

    async fn connect(&self, work: &Work) -> anyhow::Result<Arc<dyn Connection>> {
        Ok(Arc::new(self.caller(work.size).await?))
    }
}

/// One client, with a connection to each server.
struct Caller {
    streams: Vec<Mutex<TlsStream<TcpStream>>>,
    value: Vec<u8>,
}

#[async_trait::async_trait]
impl Connection for Caller {
    async fn call(&self, work: &Work, _: u64) -> anyhow::Result<()> {
        for _ in 0..work.weight() {
            let question = if work.operation == Operation::Open {
                let mut question = vec![0; SHORT];
                let size = u32::try_from(work.size)?.to_be_bytes();
                for (at, byte) in question.iter_mut().zip([OPEN].into_iter().chain(size)) {
                    *at = byte;
                }
                question
            } else {
                [&[WRITE], self.value.as_slice()].concat()
            };
            let question = question.as_slice();
            let asked = self.streams.iter().map(|stream| async move {
                let mut stream = stream.lock().await;
                send(&mut *stream, question).await?;
                receive(&mut *stream).await
            });
            let answers = futures::future::try_join_all(asked).await?;
            if work.operation == Operation::Open {
                let parts = answers.iter().zip(1..).map(|(answer, index)| {
                    let part = answer.get(..32).and_then(|part| part.try_into().ok()).context("a part")?;
                    anyhow::Ok((index, part))
                });
                combine(&parts.collect::<anyhow::Result<Vec<_>>>()?)?;
            }
        }
        Ok(())
    }
}
