//! No secret shows: not in errors, not in `Debug`, not in our log, not in what is sent but as a signature.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_engines::Engine;
use quorate_engines::conformance::{Target as _, order, principal};

use crate::network::Fault;
use crate::server::{Key, Moto, ROLE};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows() {
    let captured = Captured::default();
    let writer = captured.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let mut shown = format!("{:?} {engine:?}", moto.config(1));
    let mut secrets = vec![moto.executor.secret.clone()];
    for (name, groups) in [("c_user", vec![]), ("c_session", vec![ROLE.to_owned()])] {
        let mut create = order(&*moto, &engine, name, &moto.credential()).await;
        create.groups = groups;
        let created = engine.create(&create).await.unwrap();
        shown += &format!("{created:?} {create:?} {:?}", engine.create(&create).await);
        let fields = created.issued.unwrap();
        let key = Key::of(&fields);
        engine.try_out(name, &fields.encode()).await.unwrap();
        shown += &format!("{:?}", engine.try_out("c_other", &fields.encode()).await);
        // The service quotes what was signed.
        let quoting = crate::network::error(
            "SignatureDoesNotMatch",
            &format!("No.\n\n'x-amz-security-token:{}'", key.token.clone().unwrap_or_default()),
        );
        moto.network.plan("Action=GetCallerIdentity", Fault::Answer(crate::network::answer(403, &quoting)), 1);
        shown += &format!("{:?}", engine.try_out(name, &fields.encode()).await);
        secrets.extend([key.secret].into_iter().chain(key.token));
        let mut create = order(&*moto, &engine, &format!("{name}_lost"), &moto.credential()).await;
        create.groups = vec![];
        moto.network.plan("Action=CreateAccessKey", Fault::LoseAnswer, 1);
        shown += &format!("{:?}", engine.create(&create).await);
        moto.network.release();
        shown += &format!("{:?}", engine.look(&[principal(name, None)]).await);
    }
    let wrong = quorate_engines::aws::AwsConfig {
        passwords: Key { secret: "wrong-canary-secret".into(), ..moto.executor.clone() }.password().into(),
        ..moto.config(1)
    };
    let wrong = quorate_engines::aws::Aws::new(wrong).unwrap();
    shown += &format!("{:?} {wrong:?} {:?}", wrong.bind().await, wrong.login_refused());
    let hasty = moto.hasty(Duration::from_nanos(1));
    shown += &format!("{:?}", hasty.bind().await);
    secrets.push("wrong-canary-secret".to_owned());

    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.contains("TRACE"), "the log of what is below is not captured, so this proves nothing");
    let sent = moto.network.seen().join("\n");
    assert!(sent.contains("Action=CreateAccessKey"));
    for secret in secrets {
        assert!(secret.len() > 10);
        assert!(!shown.contains(&secret), "in errors or Debug");
        assert!(!log.contains(&secret), "in a log");
        assert!(!sent.contains(&secret), "in what was sent");
    }
}
