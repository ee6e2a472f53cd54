//! TLS to a real Redis: who is trusted, and what is said before.

use std::net::TcpListener;
use std::time::Duration;

use quorate_engines::redis::{Redis as RedisEngine, RedisConfig};
use quorate_engines::{Endpoint, Engine, EngineError, Tls, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::server::{EXECUTOR_PASSWORD, Redis, lease};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn trusting(redis: &Redis, port: u16, root: &[u8], name: Option<&str>) -> RedisEngine {
    let tls = Tls::Verified(Trust::new(&[root.to_vec()], name, false).unwrap());
    let endpoint = Endpoint { host: "127.0.0.1".into(), port };
    RedisEngine::new(RedisConfig { endpoint, tls, ..redis.config(1) }).unwrap()
}

async fn refusal(engine: &RedisEngine) -> String {
    match engine.bind().await {
        Err(EngineError::Refused { code, message }) => format!("{code}: {message}"),
        other => panic!("refused was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_server_is_worked_with_and_any_other_refused() {
    let (ours, others) = (authority("ours"), authority("others"));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = [
        format!("tls-port {port}"),
        format!("tls-cert-file {}", cert_file.display()),
        format!("tls-key-file {}", key_file.display()),
        "tls-auth-clients no".to_owned(),
    ];
    let redis = Redis::start(&settings.each_ref().map(String::as_str)).await;

    let engine = trusting(&redis, port, ours.der(), None);
    let credential = lease(&redis, &engine, "t_login").await;
    assert!(redis.session("t_login", &credential.password).await.is_ok());
    let said = refusal(&trusting(&redis, port, others.der(), None)).await;
    assert!(said.contains("not trusted"), "{said}");
    let said = refusal(&trusting(&redis, port, ours.der(), Some("elsewhere.example"))).await;
    assert!(said.contains("not trusted"), "{said}");
    // A port without TLS says nothing at all to what it takes for the beginning of a line.
    let hasty = Duration::from_millis(500);
    let tls = Tls::Verified(Trust::new(&[ours.der().to_vec()], None, false).unwrap());
    let engine = RedisEngine::new(RedisConfig { tls, connect_timeout: hasty, ..redis.config(1) }).unwrap();
    let said = engine.bind().await;
    assert!(matches!(&said, Err(EngineError::Unavailable { reason }) if reason.contains("TLS")), "{said:?}");

    let binding = Tls::Verified(Trust::new(&[ours.der().to_vec()], None, true).unwrap());
    let made = RedisEngine::new(RedisConfig { tls: binding, ..redis.config(1) }).map(drop);
    assert!(matches!(made, Err(EngineError::Invalid { field: "tls", .. })), "{made:?}");
}

/// Nothing of the login goes to whom nobody vouches for.
#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_sent_before_the_server_is_known() {
    let redis = Redis::start(&[]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = trusting(&redis, listener.local_addr().unwrap().port(), authority("ours").der(), None);
    let listening = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 65_536];
        let n = stream.read(&mut heard).await.unwrap();
        heard.truncate(n);
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"+OK\r\n+OK\r\n+OK\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut rest)).await;
        heard.extend(rest);
        heard
    });
    assert!(engine.bind().await.is_err());
    let heard = listening.await.unwrap();
    let has = |text: &str| heard.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(!heard.is_empty() && !has(EXECUTOR_PASSWORD) && !has("AUTH"));
}
