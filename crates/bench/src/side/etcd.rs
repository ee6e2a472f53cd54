//! etcd: no vault, but the store that others build on. It says what three members, Raft and TLS cost without secrets, policies and
//! audit records.

use super::{Connection, Facts, Side};
use crate::https::{Certificates, tls};
use crate::process::{Server, free_ports};
use crate::work::{Operation, READABLE, Work, value};
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// How long the members may take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many members.
const MEMBERS: usize = 3;

/// Three members.
pub(crate) struct Etcd {
    program: PathBuf,
    servers: Vec<Server>,
    ports: Vec<u16>,
    certificates: Certificates,
    /// Clients are spread over the members, as etcd's own client spreads its calls.
    next: AtomicUsize,
}

// The part of etcd's `api/etcdserverpb/rpc.proto` that is used here.

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

impl Etcd {
    /// Starts three members in a new folder below `folder`.
    pub(crate) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("etcd");
        std::fs::create_dir(&folder)?;
        let certificates = Certificates::make(&folder)?;
        let all = free_ports(2 * MEMBERS)?;
        let (ports, peers) = all.split_at(MEMBERS);
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("e{n}=https://127.0.0.1:{port}")).collect();
        let cluster = cluster.join(",");
        let mut servers = Vec::new();
        for (n, (port, peer)) in ports.iter().zip(peers).enumerate() {
            let (client, peer) = (format!("https://127.0.0.1:{port}"), format!("https://127.0.0.1:{peer}"));
            let file = |path: &Path| path.display().to_string();
            let [certificate, key, root] =
                [&certificates.certificate_file, &certificates.key_file, &certificates.root_file]
                    .map(|path| file(path));
            let arguments = [
                ("name", format!("e{n}")),
                ("data-dir", file(&folder.join(format!("e{n}")))),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("initial-cluster", cluster.clone()),
                ("cert-file", certificate.clone()),
                ("key-file", key.clone()),
                ("peer-cert-file", certificate),
                ("peer-key-file", key),
                ("peer-trusted-ca-file", root),
                ("logger", "zap".to_owned()),
                ("log-level", "warn".to_owned()),
            ];
            let arguments = arguments.into_iter().map(|(name, value)| format!("--{name}={value}"));
            servers.push(Server::start(program, arguments, &folder.join(format!("e{n}.log")))?);
        }
        let ports = ports.to_vec();
        let mut this = Self { program: program.to_owned(), servers, ports, certificates, next: AtomicUsize::new(0) };
        this.ready().await?;
        Ok(this)
    }

    /// Waits until each member takes a write.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..MEMBERS {
            let caller = self.caller(&Work { operation: Operation::Write, size: 1, batch: 1 })?;
            while let Err(why) = caller.put("ready".to_owned()).await {
                for server in &mut self.servers {
                    server.check()?;
                }
                anyhow::ensure!(Instant::now() < deadline, "etcd does not come up: {why:#}");
                sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    fn caller(&self, work: &Work) -> anyhow::Result<Caller> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.ports.len().max(1);
        let port = *self.ports.get(at).context("a member")?;
        let config = self.certificates.client(&[b"h2"])?;
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let config = Arc::clone(&config);
            async move { tls(config, port).await.map(TokioIo::new).map_err(std::io::Error::other) }
        });
        // The name is for the requests' header; the connector knows where to go.
        let channel = Endpoint::from_static("http://etcd").connect_with_connector_lazy(connector);
        Ok(Caller { channel, value: value(work.size).into_bytes() })
    }
}

#[async_trait::async_trait]
impl Side for Etcd {
    fn name(&self) -> &'static str {
        "etcd-3"
    }

    fn facts(&self) -> Facts {
        let version = Command::new(&self.program).arg("--version").output();
        let version = version.map(|o| String::from_utf8_lossy(&o.stdout).lines().next().unwrap_or("").to_owned());
        Facts {
            what: version.unwrap_or_default(),
            processes: "3 on this machine; clients are spread over them".into(),
            connection: "gRPC over TLS, kept open, no client certificates".into(),
            caller: "anybody: no authorisation".into(),
            durability: "Raft log of 2 members synced; values in clear".into(),
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

    async fn prepare(&self, work: &Work) -> anyhow::Result<()> {
        if work.operation != Operation::Open {
            return Ok(());
        }
        let caller = self.caller(work)?;
        let puts = (0..READABLE).map(|n| caller.put(format!("{}/{n}", work.size)));
        futures::stream::iter(puts).buffer_unordered(4).try_collect::<Vec<_>>().await?;
        Ok(())
    }

    async fn connect(&self, work: &Work) -> anyhow::Result<Arc<dyn Connection>> {
        Ok(Arc::new(self.caller(work)?))
    }
}

/// One client.
struct Caller {
    channel: Channel,
    value: Vec<u8>,
}

#[async_trait::async_trait]
impl Connection for Caller {
    async fn call(&self, work: &Work, n: u64) -> anyhow::Result<()> {
        for at in 0..work.weight() {
            if work.operation == Operation::Write {
                self.put(format!("w/{n}-{at}")).await?;
                continue;
            }
            // Linearizable, which is etcd's default.
            let key = format!("{}/{}", work.size, (n * work.weight() + at) % READABLE).into_bytes();
            let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(8 << 20);
            grpc.ready().await?;
            let codec = ProstCodec::<RangeRequest, RangeResponse>::new();
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
            let answer = grpc.unary(tonic::Request::new(RangeRequest { key }), path, codec).await?.into_inner();
            let got = answer.kvs.first().map_or(0, |kv| kv.value.len());
            anyhow::ensure!(got == work.size, "{got} bytes instead of {}", work.size);
        }
        Ok(())
    }
}

impl Caller {
    async fn put(&self, key: String) -> anyhow::Result<()> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let request = PutRequest { key: key.into_bytes(), value: self.value.clone() };
        let codec = ProstCodec::<PutRequest, PutResponse>::new();
        grpc.unary(tonic::Request::new(request), PathAndQuery::from_static("/etcdserverpb.KV/Put"), codec).await?;
        Ok(())
    }
}
