//! TLS to a real PostgreSQL: who is trusted, for which name, and that nobody stands between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::slice::from_ref;
use std::sync::Arc;

use quorate_engines::conformance::Target;
use quorate_engines::postgres::{Postgres, PostgresConfig};
use quorate_engines::{Engine, EngineError, Principal, Refusal, Tls, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use support::{EXECUTOR, Pg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One that signs with ECDSA and SHA-256, or as `key` does.
    fn new(key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        // Two of the same name would be told apart by their signatures only.
        params.distinguished_name.push(DnType::CommonName, format!("{:?}", &key.public_key_raw()[..8]));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn root(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate, key)
    }

    async fn certify(&self, pg: &Pg, name: &str) {
        let (certificate, key) = self.issue(name);
        pg.server.lock().unwrap().certify(&certificate.pem(), &key.serialize_pem()).unwrap();
    }
}

fn authority() -> Authority {
    Authority::new(KeyPair::generate().unwrap())
}

fn trusting(pg: &Pg, port: u16, root: &Authority, name: Option<&str>, require_binding: bool) -> Postgres {
    let tls = Tls::Verified(Trust::new(&[root.root()], name, require_binding).unwrap());
    Postgres::new(PostgresConfig { port, tls, ..pg.config(1) }).unwrap()
}

/// The words with which a connection is refused for good.
async fn refusal(engine: &Postgres) -> String {
    match engine.bind().await {
        Err(EngineError::Refused { code, message }) => format!("{code}: {message}"),
        other => panic!("refused was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_server_is_worked_with_and_any_other_refused() {
    let pg = Pg::start(&[]).await;
    let (ours, others) = (authority(), authority());
    let engine = trusting(&pg, pg.port, &ours, None, true);
    let said = refusal(&engine).await;
    assert!(said.contains("does not support TLS"), "a server without TLS: {said}");

    ours.certify(&pg, "127.0.0.1").await;
    // A whole cycle, on connections of which the server itself says that they are encrypted.
    let credential = pg.credential();
    let create = quorate_engines::Create {
        name: "t_cycle".into(),
        verifier: credential.verifier.clone(),
        groups: vec![],
        statements: vec![],
        connection_limit: 2,
        max_ttl_seconds: 60,
        binding: engine.bind().await.unwrap(),
    };
    let oid = engine.create(&create).await.unwrap().oid;
    engine.warm().await.unwrap();
    let principals = [Principal { name: "t_cycle".into(), oid: Some(oid) }];
    assert_eq!(engine.refuse(&principals).await.unwrap()[0].outcome, Refusal::Dropped);
    let sql = "SELECT count(*), count(*) FILTER (WHERE s.ssl AND s.version IN ('TLSv1.3', 'TLSv1.2')) FROM pg_stat_activity a \
               JOIN pg_stat_ssl s USING (pid) WHERE a.usename = $1";
    let row = pg.superuser("postgres").await.query_one(sql, &[&EXECUTOR]).await.unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (2, 2),
        "both of the executor's connections are encrypted"
    );

    let said = refusal(&trusting(&pg, pg.port, &others, None, true)).await;
    assert!(said.contains("certificate is not trusted") && said.contains("UnknownIssuer"), "another root: {said}");
    let said = refusal(&trusting(&pg, pg.port, &ours, Some("db.example"), true)).await;
    assert!(said.contains("certificate is not trusted"), "another name: {said}");

    // It changes its certificate: for one of the same root and another name, told by the description, then of another root.
    ours.certify(&pg, "db.example").await;
    assert!(refusal(&engine).await.contains("certificate is not trusted"));
    trusting(&pg, pg.port, &ours, Some("db.example"), true).bind().await.unwrap();
    others.certify(&pg, "127.0.0.1").await;
    assert!(refusal(&engine).await.contains("UnknownIssuer"));
    pg.server.lock().unwrap().stop();
    assert!(
        matches!(engine.bind().await, Err(EngineError::Unavailable { .. })),
        "a server that is down is not one to distrust"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binding_takes_the_hash_of_the_signature() {
    let pg = Pg::start(&[]).await;
    let wide = Authority::new(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    wide.certify(&pg, "127.0.0.1").await;
    trusting(&pg, pg.port, &wide, None, true).bind().await.unwrap();
    // RFC 5929 defines none for Ed25519: neither does the server.
    let edwards = Authority::new(KeyPair::generate_for(&PKCS_ED25519).unwrap());
    edwards.certify(&pg, "127.0.0.1").await;
    let said = refusal(&trusting(&pg, pg.port, &edwards, None, true)).await;
    assert!(said.contains("channel binding"), "{said}");
}

/// One who has a certificate of the same root and name, reads everything, and can hide that the server binds.
async fn between(root: &Authority, server: u16, hide: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (certificate, key) = root.issue("127.0.0.1");
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let accept = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let accept = accept.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.root())).unwrap();
    let connect = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let connect = Arc::new(connect.with_root_certificates(roots).with_no_client_auth());
    let accept = TlsAcceptor::from(Arc::new(accept));
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (accept, connect) = (accept.clone(), TlsConnector::from(Arc::clone(&connect)));
            tokio::spawn(async move {
                let mut request = [0; 8];
                near.read_exact(&mut request).await.unwrap();
                let mut far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                far.write_all(&request).await.unwrap();
                let mut answer = [0];
                far.read_exact(&mut answer).await.unwrap();
                near.write_all(&answer).await.unwrap();
                let name = ServerName::try_from("127.0.0.1").unwrap();
                let mut far = connect.connect(name, far).await.unwrap();
                let mut near = accept.accept(near).await.unwrap();
                // The start of the session, and the server's list of what it takes.
                let mut start = [0; 4096];
                let n = near.read(&mut start).await.unwrap();
                far.write_all(&start[..n]).await.unwrap();
                let n = far.read(&mut start).await.unwrap();
                let list = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
                assert_eq!(&start[9..n], list, "the server binds");
                if hide {
                    let mut only = vec![b'R', 0, 0, 0, 23, 0, 0, 0, 10];
                    only.extend_from_slice(&list[19..]);
                    near.write_all(&only).await.unwrap();
                } else {
                    near.write_all(&start[..n]).await.unwrap();
                }
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stands_between_with_a_good_certificate_gets_no_login() {
    let pg = Pg::start(&[]).await;
    let ours = authority();
    ours.certify(&pg, "127.0.0.1").await;
    let relay = between(&ours, pg.port, false).await;
    for required in [true, false] {
        let said = refusal(&trusting(&pg, relay, &ours, None, required)).await;
        assert!(said.starts_with("28") && said.contains("channel binding"), "required: {required}: {said}");
    }
    let hiding = between(&ours, pg.port, true).await;
    let said = refusal(&trusting(&pg, hiding, &ours, None, true)).await;
    assert!(said.contains("channel binding"), "{said}");
    // The client says that it could bind, and the server knows that it could too.
    let said = refusal(&trusting(&pg, hiding, &ours, None, false)).await;
    assert!(said.starts_with("28"), "{said}");
    trusting(&pg, pg.port, &ours, None, true).bind().await.unwrap();
}

#[test]
fn what_is_no_trust_is_said() {
    let root = authority().root();
    let field = |result: Result<Trust, EngineError>| match result {
        Err(EngineError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(Trust::new(&[], None, true)), "roots");
    assert_eq!(field(Trust::new(&[b"garbage".to_vec()], None, true)), "roots");
    assert_eq!(field(Trust::new(&[root[..root.len() - 1].to_vec()], None, true)), "roots");
    assert_eq!(field(Trust::new(from_ref(&root), Some("not a name"), true)), "server_name");
    assert_eq!(field(Trust::new(from_ref(&root), Some(""), true)), "server_name");
    assert!(Trust::new(&[root], Some("db.example"), true).is_ok());
}
