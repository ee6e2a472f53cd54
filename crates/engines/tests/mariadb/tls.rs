//! TLS to a real MariaDB: who is trusted, and for which name.

use mysql_async::prelude::Queryable;
use quorate_engines::conformance::{Target, order};
use quorate_engines::mariadb::{MariaDb, MariaDbConfig};
use quorate_engines::{Engine, EngineError, Tls, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::server::My;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn trust(&self, name: Option<&str>) -> Tls {
        Tls::Verified(Trust::new(&[self.0.der().to_vec()], name, false).unwrap())
    }
}

fn trusting(my: &My, tls: Tls) -> MariaDb {
    MariaDb::new(MariaDbConfig { tls, require_tls: true, ..my.config(1) }).unwrap()
}

async fn refusal(engine: &MariaDb) -> String {
    match engine.bind().await {
        Err(EngineError::Refused { code, message }) => format!("{code}: {message}"),
        other => panic!("refused was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_server_is_worked_with_and_any_other_refused() {
    let my = My::start(&[]).await;
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let said = refusal(&trusting(&my, ours.trust(None))).await;
    assert!(said.starts_with("TLS"), "a server without TLS: {said}");

    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ours.0).unwrap();
    {
        let mut server = my.server.lock().unwrap();
        for (setting, name, text) in
            [("ssl-cert", "cert.pem", certificate.pem()), ("ssl-key", "key.pem", key.serialize_pem())]
        {
            let path = server.put(name, &text).unwrap();
            server.set(&format!("{setting}={}", path.display()));
        }
        server.run().unwrap();
    }
    let engine = trusting(&my, ours.trust(None));
    let credential = my.credential();
    engine.create(&order(&*my, &engine, "t_login", &credential).await).await.unwrap();
    let ours_are = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'quorate'";
    assert_eq!(my.rows::<u64>(ours_are).await, [1]);
    let accepts: Vec<(String, u64)> = my.rows("SHOW GLOBAL STATUS LIKE 'Ssl_finished_accepts'").await;
    assert!(accepts[0].1 > 0, "the server itself says that it was encrypted: {accepts:?}");
    let refused = my.client("t_login", &credential.password).await.unwrap_err().to_string();
    assert!(refused.contains("Access denied"), "a leased login without TLS: {refused}");
    let mut root = my.root().await;
    root.query_drop("ALTER USER t_login REQUIRE NONE").await.unwrap();
    assert!(my.login("t_login", &credential).await.is_some(), "it was for TLS that it was refused");

    let said = refusal(&trusting(&my, others.trust(None))).await;
    assert!(said.contains("UnknownIssuer"), "another root: {said}");
    let said = refusal(&trusting(&my, ours.trust(Some("db.example")))).await;
    assert!(said.starts_with("TLS") && said.contains("certificate"), "another name: {said}");
    let binding = Trust::new(&[ours.0.der().to_vec()], None, true).unwrap();
    let result = MariaDb::new(MariaDbConfig { tls: Tls::Verified(binding), ..my.config(1) });
    assert!(matches!(result, Err(EngineError::Invalid { field: "tls", .. })), "what it can't do is not taken for done");
}
