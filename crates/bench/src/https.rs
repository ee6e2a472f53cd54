//! Certificates for peers, and one HTTP/1.1 connection over TLS: the cheapest way that a Go server offers, which favours the peer.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

/// A root, and a certificate of the loopback from it; ECDSA P-256, as in the vault's own tests of TLS.
#[derive(Debug)]
pub(crate) struct Certificates {
    root: CertificateDer<'static>,
    pub(crate) root_file: PathBuf,
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl Certificates {
    /// Makes them, in files of `folder`.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let (authority, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "the benchmark's root");
        let root = CertifiedIssuer::self_signed(params, authority)?;
        let own = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?.signed_by(&key, &root)?;
        let file = |name: &str, text: String| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok(path)
        };
        Ok(Self {
            root: root.der().clone(),
            root_file: file("root.pem", root.pem())?,
            certificate_file: file("server.pem", own.pem())?,
            // For this run and the loopback only.
            key_file: file("server.key", key.serialize_pem())?,
        })
    }

    /// What a client trusts: this root, and nothing else. With the post-quantum exchange first, as the vault's own clients.
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = versions.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// A stream of TLS to a port of the loopback.
pub(crate) async fn tls(
    config: Arc<ClientConfig>,
    port: u16,
) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

/// A connection that stays open.
pub(crate) struct Https {
    sender: Mutex<SendRequest<Full<Bytes>>>,
    host: String,
    token: String,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON, when the answer is a good one.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        self.good()?;
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("the answer is no JSON")
    }

    /// Fails with what the server said, unless it said yes.
    pub(crate) fn good(&self) -> anyhow::Result<()> {
        let said = || String::from_utf8_lossy(self.body.get(..300).unwrap_or(&self.body)).trim().to_owned();
        anyhow::ensure!((200..300).contains(&self.status), "status {}: {}", self.status, said());
        Ok(())
    }
}

impl Https {
    /// Connects; requests carry `token`, when it is not empty.
    pub(crate) async fn connect(config: Arc<ClientConfig>, port: u16, token: &str) -> anyhow::Result<Self> {
        let stream = tls(config, port).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // What ends it shows in the next request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender: Mutex::new(sender), host: format!("127.0.0.1:{port}"), token: token.to_owned() })
    }

    /// One request, and the whole of its answer.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        if !self.token.is_empty() {
            request = request.header("x-vault-token", &self.token);
        }
        let request = request.body(Full::new(body))?;
        let mut sender = self.sender.lock().await;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body })
    }
}
