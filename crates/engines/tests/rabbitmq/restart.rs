//! What a restart brings back, and TLS to the management interface.

use std::net::TcpListener;

use quorate_engines::conformance::{Target, order, principal};
use quorate_engines::rabbitmq::{RabbitMq, RabbitMqConfig};
use quorate_engines::{Cleaning, Endpoint, Engine, EngineError, Fenced, Tls, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::server::{Rabbit, lease};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The server ends as in a power cut, right after each was answered.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_ended_stays_so_and_a_restart_is_noticed() {
    let ours = authority("ours");
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = vec![
        "management.ssl.ip = 127.0.0.1".to_owned(),
        format!("management.ssl.port = {port}"),
        format!("management.ssl.certfile = {}", cert_file.display()),
        format!("management.ssl.keyfile = {}", key_file.display()),
    ];
    let rabbit = Rabbit::start(&[], settings).await;
    let trusting = |root: &[u8], name: Option<&str>| {
        let tls = Tls::Verified(Trust::new(&[root.to_vec()], name, false).unwrap());
        let endpoint = Endpoint { host: "127.0.0.1".into(), port };
        RabbitMq::new(RabbitMqConfig { endpoint, tls, ..rabbit.config(1) }).unwrap()
    };
    for distrusting in [trusting(authority("others").der(), None), trusting(ours.der(), Some("elsewhere.example"))] {
        let said = distrusting.bind().await;
        let is_said = matches!(&said, Err(EngineError::Refused { code, .. }) if code == "TLS");
        assert!(is_said && distrusting.login_refused().unwrap().contains("not trusted"), "{said:?}");
    }
    let engine = trusting(ours.der(), None);

    let kept = lease(&rabbit, &engine, "k_kept").await;
    let refused = lease(&rabbit, &engine, "k_refused").await;
    let cleaned = lease(&rabbit, &engine, "k_cleaned").await;
    engine.claim("k_claim").await.unwrap();
    let create = order(&*rabbit, &engine, "k_late", &rabbit.credential()).await;
    rabbit.warm().await;
    let before = engine.timeline().await.unwrap();
    assert_eq!(engine.timeline().await.unwrap(), before);
    engine.refuse(&[principal("k_refused", None), principal("k_cleaned", None)]).await.unwrap();
    assert_eq!(engine.clean(&[principal("k_cleaned", None)]).await.unwrap()[0].outcome, Cleaning::Gone);
    let newest = lease(&rabbit, &engine, "k_newest").await;
    rabbit.restart().await;

    assert_ne!(engine.timeline().await.unwrap(), before, "a restart is noticed, at once");
    let unseen = engine.check(&[]).await.unwrap().unseen;
    assert!(unseen.iter().all(|fault| fault.reason.contains("just started")), "{unseen:?}");
    rabbit.warm().await;
    assert_ne!(engine.timeline().await.unwrap(), before, "and for good");
    assert_eq!(engine.check(&[]).await.unwrap().unseen, []);
    for gone in [("k_refused", &refused), ("k_cleaned", &cleaned)] {
        assert!(rabbit.session(gone.0, &gone.1.password).await.is_none(), "{}", gone.0);
    }
    assert_eq!(rabbit.users().await, ["k_claim", "k_kept", "k_newest", "k_refused"]);
    for there in [("k_kept", &kept), ("k_newest", &newest)] {
        assert!(rabbit.session(there.0, &there.1.password).await.is_some(), "{}", there.0);
    }
    // A session outlives the server's restart, as the account that it is, and so does its end.
    assert_eq!(rabbit.engine(2).fence("k_late", &create.binding).await, Ok(Fenced::Absent));
    rabbit.restart().await;
    assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding));
    assert_eq!(engine.list("k_late").await.unwrap(), []);
}
