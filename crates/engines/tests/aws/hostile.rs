//! Services that lie, are late, say garbage or too much, or are another's; and keys that are wrong.

use std::time::{Duration, SystemTime};

use quorate_crypto::secret::SecretVec;
use quorate_engines::aws::{Aws, AwsConfig};
use quorate_engines::conformance::{Target as _, assert_ended, order, principal};
use quorate_engines::{Cleaning, Engine, EngineError, Fenced, Passwords, Refusal};

use crate::network::{Fault, answer, error, httpdate};
use crate::server::{EXECUTOR, Key, Moto, ROLE, user};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_wrong_is_named() {
    let moto = Moto::start().await;
    let with = |passwords: Passwords| Aws::new(AwsConfig { passwords, ..moto.config(1) }).unwrap();
    let key = |id: &str, secret: &str| Key { id: id.into(), secret: secret.into(), token: None }.password();
    let unknown = with(key("AKIAAAAAAAAAAAAAAAAA", &moto.executor.secret).into());
    let wrong = with(key(&moto.executor.id, "another-canary-secret").into());
    for (engine, code) in [(unknown, "InvalidClientTokenId"), (wrong, "SignatureDoesNotMatch")] {
        for error in [
            engine.bind().await.unwrap_err(),
            engine.check(&[]).await.unwrap_err(),
            engine.look(&[principal("h_1", None)]).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, EngineError::Refused { code: found, .. } if found == code) && error.is_login_refused(),
                "{error}"
            );
        }
        assert!(engine.login_refused().is_some_and(|why| why.contains(code)));
    }
    // One of two is right.
    let passwords = Passwords::one(1, key(&moto.executor.id, "another-canary-secret"));
    passwords.learn(4, SecretVec::new(b"no key at all".to_vec()));
    passwords.learn(2, moto.executor.password());
    let engine = with(passwords);
    engine.visit().await.unwrap();
    assert_eq!(engine.let_in_with(), Some(2));
    // Another one takes its place: what is made by one is ended by the other.
    user(&moto, &engine, "h_key").await;
    let next = moto.new_key(EXECUTOR).await;
    engine.passwords().learn(3, next.password());
    moto.iam(&[("Action", "DeleteAccessKey"), ("UserName", EXECUTOR), ("AccessKeyId", &moto.executor.id)]).await;
    let this = [principal("h_key", None)];
    engine.refuse(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    assert_eq!(engine.let_in_with(), Some(3));
    // That is taken away in the middle.
    moto.iam(&[("Action", "DeleteAccessKey"), ("UserName", EXECUTOR), ("AccessKeyId", &next.id)]).await;
    assert!(engine.refuse(&[principal("h_1", None)]).await.unwrap_err().is_login_refused());
    // A clock that is wrong is no wrong key.
    moto.network.refuse_older(Some(Duration::ZERO));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let late = answer(403, &error("SignatureDoesNotMatch", "Signature expired: A is now earlier than B (C - 15 min.)"));
    moto.network.plan("Action=GetCallerIdentity", Fault::Answer(late), 1);
    let clock = engine.visit().await.unwrap_err();
    assert!(!clock.is_login_refused() && clock.to_string().contains("clock"), "{clock}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_is_noticed() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    user(&moto, &engine, "h_account").await;
    let this = [principal("h_account", None)];
    let timeline = engine.timeline().await.unwrap();
    let other = || Fault::Replace("<Account>123456789012<".into(), "<Account>999999999999<".into());
    moto.network.plan("Action=GetCallerIdentity", other(), usize::MAX);
    let refused = |error: EngineError| {
        assert!(matches!(&error, EngineError::Refused { code, .. } if code == "account"), "{error}")
    };
    refused(engine.look(&this).await.unwrap_err());
    refused(engine.refuse(&this).await.unwrap_err());
    refused(engine.clean(&this).await.unwrap_err());
    refused(engine.list("h_").await.unwrap_err());
    refused(engine.claims("h_").await.unwrap_err());
    refused(engine.claim("h_claim").await.unwrap_err());
    refused(engine.timeline().await.unwrap_err());
    refused(engine.bind().await.unwrap_err());
    let binding = quorate_engines::Binding { pid: 1, backend_start_micros: 1 };
    refused(engine.fence("h_account", &binding).await.unwrap_err());
    moto.network.release();
    assert_eq!(engine.timeline().await, Ok(timeline));
    // Another user of the same account, whatever he may do.
    let administrator = AwsConfig { passwords: moto.admin.password().into(), ..moto.config(1) };
    let error = Aws::new(administrator).unwrap().visit().await.unwrap_err();
    assert!(matches!(&error, EngineError::Refused { code, .. } if code == "executor"), "{error}");
}

/// What is answered to a create in another's name, or with another's key, is not handed out.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_another_is_none() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let lies = [
        (crate::server::USER_PATH, "<UserName>h_lie_0<", "<UserName>h_other<", vec![]),
        (crate::server::USER_PATH, "iam::123456789012:user", "iam::999999999999:user", vec![]),
        ("Action=CreateAccessKey", "<UserName>h_lie_2<", "<UserName>h_other<", vec![]),
        ("Action=CreateAccessKey", "SecretAccessKey>", "Secret>", vec![]),
        ("Action=AssumeRole", "/h_lie_4<", "/h_other<", vec![ROLE.to_owned()]),
        ("Action=AssumeRole", "<Expiration>20", "<Expiration>21", vec![ROLE.to_owned()]),
        ("Action=AssumeRole", "<Expiration>20", "<Expiration>never20", vec![ROLE.to_owned()]),
    ];
    for (n, (part, from, to, groups)) in lies.into_iter().enumerate() {
        let name = format!("h_lie_{n}");
        let mut create = order(&*moto, &engine, &name, &moto.credential()).await;
        create.groups = groups;
        moto.network.plan(part, Fault::Replace(from.into(), to.into()), 1);
        let lie = engine.create(&create).await;
        assert!(matches!(lie, Err(EngineError::Unknown { .. })), "{name}: {lie:?}");
        assert!(matches!(engine.fence(&name, &create.binding).await, Ok(Fenced::Won { .. })), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_nothing() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    user(&moto, &engine, "h_live").await;
    let this = [principal("h_live", None)];
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let many = format!("<GetUserResponse>{}</GetUserResponse>", "<a/>".repeat(500_000));
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;&b;\">]><a>&c;</a>";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n<GetUser".as_bytes().to_vec();
    let huge = [b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n".to_vec(), vec![b' '; 5 << 20]].concat();
    let answers = [
        answer(200, ""),
        answer(200, "garbage"),
        answer(200, "{\"GetUserResponse\":{}}"),
        answer(200, "<GetUserResponse/>"),
        answer(
            200,
            "<GetUserResponse><GetUserResult><User><UserName>h_other</UserName><Path>/</Path></User></GetUserResult></GetUserResponse>",
        ),
        answer(200, &deep),
        answer(200, &many),
        answer(200, bomb),
        answer(404, "not found"),
        answer(404, "<html><body>NoSuchEntity</body></html>"),
        answer(500, &error("ServiceFailure", "oh")),
        answer(302, ""),
        b"HTTP/1.1 999 x\r\n\r\n".to_vec(),
        b"garbage\r\n\r\n".to_vec(),
        huge,
        cut,
    ];
    for (n, bytes) in answers.into_iter().enumerate() {
        let engine = moto.hasty(Duration::from_secs(3));
        // It may ask once more.
        moto.network.plan("Action=GetUser&", Fault::Answer(bytes), 2);
        let looked = engine.look(&this).await;
        assert!(matches!(looked, Err(EngineError::Unavailable { .. })), "{n}: {looked:?}");
        assert!(engine.refuse(&this).await.is_err() || n > 0, "{n}");
        moto.network.release();
    }
    assert!(engine.look(&this).await.unwrap()[0].can_login);

    // A create that is answered so may have been done.
    let bad = answer(200, "<CreateAccessKeyResponse/>");
    let create = order(&*moto, &engine, "h_garbage", &moto.credential()).await;
    moto.network.plan("Action=CreateAccessKey", Fault::Answer(bad), 1);
    let made = engine.create(&create).await;
    assert!(matches!(made, Err(EngineError::Unknown { .. })), "{made:?}");

    // A list that goes round, or has no end.
    let page = |marker: &str| {
        format!(
            "<ListUsersResponse><ListUsersResult><Users/><IsTruncated>true</IsTruncated>{marker}</ListUsersResult></ListUsersResponse>"
        )
    };
    for marker in ["<Marker>a</Marker>", "", "<Marker></Marker>"] {
        moto.network.plan("Action=ListUsers", Fault::Answer(answer(200, &page(marker))), usize::MAX);
        assert!(matches!(engine.list("h_").await, Err(EngineError::Unavailable { .. })), "{marker}");
        moto.network.release();
    }
}

/// Without a date, or with one that is far away, nobody can tell what is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_can_not_be_ends_nothing() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let mut create = order(&*moto, &engine, "h_date", &moto.credential()).await;
    create.groups = vec![ROLE.to_owned()];
    let oid = engine.create(&create).await.unwrap().oid;
    let this = [principal("h_date", Some(oid))];
    engine.refuse(&this).await.unwrap();
    for date in [
        httpdate(SystemTime::now() + Duration::from_secs(86_400)),
        httpdate(SystemTime::now() - Duration::from_secs(86_400)),
        "never".to_owned(),
    ] {
        moto.network.plan("Action=GetCallerIdentity", Fault::Date(date.clone()), usize::MAX);
        let looked = engine.look(&this).await;
        assert!(matches!(looked, Err(EngineError::Unavailable { .. })), "{date}: {looked:?}");
        let cleaned = engine.clean(&this).await;
        assert!(matches!(cleaned, Err(EngineError::Unavailable { .. })), "{date}: {cleaned:?}");
        moto.network.release();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_busy_or_dead_is_said_to_be() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    user(&moto, &engine, "h_busy").await;
    let this = [principal("h_busy", None)];
    for code in ["Throttling", "RequestLimitExceeded"] {
        moto.network.plan("Action=DeleteAccessKey", Fault::Answer(answer(400, &error(code, "Rate exceeded"))), 1);
        let Refusal::Failed(EngineError::Busy { code: found, .. }) =
            engine.refuse(&this).await.unwrap().remove(0).outcome
        else {
            panic!()
        };
        assert_eq!(found, code);
        assert!(engine.look(&this).await.unwrap()[0].can_login);
        moto.network.release();
    }
    let hasty = moto.hasty(Duration::from_secs(1));
    moto.network.plan("Action=ListAccessKeys", Fault::HoldAnswer, usize::MAX);
    assert!(matches!(hasty.look(&this).await, Err(EngineError::Unavailable { .. })));
    moto.network.release();
    engine.refuse(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    let nowhere =
        Aws::new(AwsConfig { iam: quorate_engines::Endpoint { host: "127.0.0.1".into(), port: 1 }, ..moto.config(1) })
            .unwrap();
    assert!(matches!(nowhere.look(&this).await, Err(EngineError::Unavailable { .. })));
}
