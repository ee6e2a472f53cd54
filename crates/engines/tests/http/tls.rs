//! Whom the client trusts, and what it says before.

use std::sync::Arc;

use quorate_crypto::secret::SecretVec;
use quorate_engines::http::{Http, HttpConfig, HttpError, Request};
use quorate_engines::{EngineError, Tls, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::server::OK;
use crate::{config, path};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server with a certificate for 127.0.0.1.
async fn serve(issuer: &CertifiedIssuer<'static, KeyPair>) -> u16 {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            });
        }
    });
    port
}

fn trusting(port: u16, root: &[u8], name: Option<&str>) -> Http {
    Http::new(HttpConfig { tls: Tls::Verified(Trust::new(&[root.to_vec()], name, false).unwrap()), ..config(port) })
        .unwrap()
}

#[tokio::test]
async fn a_verified_server_is_worked_with_and_any_other_refused() {
    let (ours, others) = (authority("ours"), authority("others"));
    let port = serve(&ours).await;
    let http = trusting(port, ours.der(), None);
    for _ in 0..2 {
        assert_eq!(http.call(&Request::get(path())).await.unwrap().body, "hello");
    }
    for distrusting in [trusting(port, others.der(), None), trusting(port, ours.der(), Some("elsewhere.example"))] {
        let said = distrusting.call(&Request::get(path())).await;
        assert!(matches!(&said, Err(HttpError::Distrusted { reason }) if reason.contains("not trusted")), "{said:?}");
    }
    let bound = Tls::Verified(Trust::new(&[ours.der().to_vec()], None, true).unwrap());
    let made = Http::new(HttpConfig { tls: bound, ..config(1) }).map(drop);
    assert!(matches!(made, Err(EngineError::Invalid { field: "tls", .. })), "{made:?}");
}

/// Nothing of a request goes to whom nobody vouches for, or to a port without TLS.
#[tokio::test]
async fn no_password_is_sent_before_the_server_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = trusting(listener.local_addr().unwrap().port(), authority("ours").der(), None);
    let listening = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 65_536];
        let n = stream.read(&mut heard).await.unwrap();
        heard.truncate(n);
        stream.write_all(OK.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut heard).await;
        heard
    });
    let request = Request::get(path()).basic("canary", &SecretVec::new(b"canary".to_vec())).unwrap();
    let said = http.call(&request).await;
    assert!(matches!(said, Err(HttpError::NotSent { .. })), "{said:?}");
    let heard = listening.await.unwrap();
    let has = |text: &str| heard.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(!heard.is_empty() && !has("canary") && !has("Basic") && !has("GET"));
}
