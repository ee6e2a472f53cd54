//! HTTP/1.1 over TLS, from an address of our choice: how OpenBao is asked.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long it may take until a server is reached.
const REACHED: Duration = Duration::from_millis(1_000);

/// What a client trusts: this root, and nothing else.
pub(crate) fn trust(root: &CertificateDer<'static>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

/// A connection that stays open.
pub(crate) struct Https {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Https {
    /// Connects from one of this program's own addresses.
    pub(crate) async fn connect(config: Arc<ClientConfig>, from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<Self> {
        let reach = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let stream = socket.connect(to).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::IpAddress(IpAddr::into(to.ip()));
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            // What ends it shows in the next request.
            tokio::spawn(async move { drop(connection.await) });
            anyhow::Ok(Self { sender, host: to.to_string() })
        };
        timeout(REACHED, reach).await.context("nobody answers")?
    }

    /// One request, and the whole of its answer: the status, and JSON if there is any; of one that says where else to ask, that.
    pub(crate) async fn ask(
        &mut self,
        token: &str,
        method: Method,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> anyhow::Result<(u16, Value)> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("host", &self.host);
        let request = if token.is_empty() { request } else { request.header("x-vault-token", token) };
        let request = request.body(Full::new(body))?;
        let answer = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status().as_u16();
            if let Some(elsewhere) = response.headers().get("location") {
                return anyhow::Ok((status, Value::String(elsewhere.to_str().unwrap_or_default().to_owned())));
            }
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        timeout(limit, answer).await.context("no answer in time")?
    }
}
