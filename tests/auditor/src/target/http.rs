//! HTTP/1.1 to a target, one request after the other on a connection that is made anew when it is lost. With TLS where the operator says by whose
//! certificates the target is known; no redirect is followed, and no proxy is used.

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest answer, in bytes: a target that says more is not believed.
const LONGEST: usize = 64 << 20;

/// A target's address.
pub(super) struct Http {
    address: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What it said.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// What an answer that is no refusal says.
    ///
    /// # Errors
    /// What was said instead.
    pub(super) fn good(self) -> anyhow::Result<Bytes> {
        let Self { status, body } = self;
        if status.is_success() {
            return Ok(body);
        }
        let said: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        bail!("{status}: {said}")
    }

    /// The same, which is JSON.
    ///
    /// # Errors
    /// What was said instead.
    pub(super) fn json(self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.good()?)?)
    }
}

impl Http {
    /// At `HOST:PORT`, in the clear or under one of these certificates.
    ///
    /// # Errors
    /// When the address is none, or nothing can be read from the file.
    pub(super) fn new(address: String, roots: Option<PathBuf>) -> anyhow::Result<Self> {
        let (host, port) = address.rsplit_once(':').with_context(|| format!("`{address}` is no HOST:PORT"))?;
        ensure!(port.parse::<u16>().is_ok(), "`{port}` is no port");
        let tls = match roots {
            None => None,
            Some(path) => {
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name).context("no name to verify a certificate by")?;
                Some((connector(path)?, name))
            }
        };
        Ok(Self { address, tls, connection: None })
    }

    /// How others name it in what they sign.
    pub(super) fn host(&self) -> &str {
        &self.address
    }

    /// Asks. A call that fails half-way gives up its connection.
    ///
    /// # Errors
    /// When no answer comes, or one that is too long.
    pub(super) async fn call(&mut self, request: Builder, body: &str) -> anyhow::Result<Answer> {
        let request: Request<Full<Bytes>> =
            request.header(HOST, &self.address).body(Full::from(body.to_owned())).context("no request")?;
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        if connection.ready().await.is_err() {
            connection = self.connect().await?;
        }
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("no whole answer: {error}"))?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer { status: head.status, body })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        // A connection's end shows in the next request.
        match &self.tls {
            None => {
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(sender)
            }
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.context("TLS")?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }
}

/// Verifies by the certificates in a PEM file, and by no others.
fn connector(path: PathBuf) -> anyhow::Result<TlsConnector> {
    let shown = path.display().to_string();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).with_context(|| format!("cannot read {shown}"))? {
        roots.add(certificate.with_context(|| format!("cannot read {shown}"))?)?;
    }
    ensure!(!roots.is_empty(), "{shown} has no certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// Answers each connection once, and hangs up: the port.
    async fn serve(issuer: &CertifiedIssuer<'static, KeyPair>) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = key.serialize_der().try_into().unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(server)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut asked = [0; 1_024];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    #[tokio::test]
    async fn only_who_is_vouched_for_is_asked_and_a_lost_connection_is_made_anew() {
        let (ours, other) = (authority(), authority());
        let port = serve(&ours).await;
        let http = |root: &CertifiedIssuer<'static, KeyPair>| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), root.pem()).unwrap();
            Http::new(format!("127.0.0.1:{port}"), Some(file.path().to_owned())).unwrap()
        };
        let mut good = http(&ours);
        for _ in 0..2 {
            let said = good.call(Request::get("/"), "").await.unwrap().json().unwrap();
            assert_eq!(said, serde_json::json!({ "a": 1 }));
            // Its end is seen by then, or in the next request.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(http(&other).call(Request::get("/"), "").await.is_err(), "nobody vouches for it");
        for address in ["", "host", "host:", "host:x"] {
            assert!(Http::new(address.to_owned(), None).is_err(), "{address:?}");
        }
    }
}
