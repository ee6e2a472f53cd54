//! Sessions of STS: which nobody can revoke, and what is said of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target as _, order, principal};
use quorate_engines::{Cleaning, Engine, EngineError, Refusal};
use tokio::time::sleep;

use crate::network::Fault;
use crate::server::{ACCOUNT, Key, Moto, ROLE, lease};

const INLINE: &str = r#"inline:{"Effect":"Allow","Action":"iam:ListGroups","Resource":"*"}"#;

fn now() -> u32 {
    u32::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_alive_until_its_end() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let (created, key) = lease(&moto, &engine, "s_role", &[ROLE, INLINE]).await;
    assert!(key.id.starts_with("ASIA") && key.token.is_some());
    let fields = created.issued.as_ref().unwrap();
    let expiration = String::from_utf8(fields.get("expiration").unwrap().expose().to_vec()).unwrap();
    assert!(expiration.starts_with("20") && (3500..=3700).contains(&(created.oid - now())), "{expiration}");
    assert_eq!(moto.who(&key).await.unwrap(), format!("arn:aws:sts::{ACCOUNT}:assumed-role/app/s_role"));
    assert_eq!(moto.ask(&key, "iam", &[("Action", "ListGroups")]).await.0, 200);
    let secret = fields.encode();
    assert_eq!(engine.try_out("s_role", &secret).await, Ok(()));
    assert!(engine.try_out("s_other", &secret).await.is_err());

    // Refused as far as can be, and no end.
    let this = [principal("s_role", Some(created.oid))];
    for _ in 0..2 {
        let refused = engine.refuse(&this).await.unwrap().remove(0);
        assert_eq!((refused.oid, refused.outcome), (Some(created.oid), Refusal::Disabled { groups_left: vec![] }));
        assert_eq!(engine.kill(&this).await, Ok(0));
        let seen = engine.look(&this).await.unwrap().remove(0);
        assert!(seen.can_login && seen.login_at.is_empty(), "{seen:?}");
        let why = format!("can not be revoked; dies at {}", &expiration[..16]);
        assert!(seen.behind[0].reason.starts_with(&why), "{seen:?}");
    }
    let Cleaning::Left { reason: Some(why), .. } = engine.clean(&this).await.unwrap().remove(0).outcome else {
        panic!()
    };
    assert!(why.contains("its session lives until"), "{why}");
    assert_eq!(moto.ask(&key, "iam", &[("Action", "ListGroups")]).await.0, 200, "which is the truth");

    // When its time has passed it is over. Here by a lease that has recorded an earlier one, since none is shorter than 15 minutes.
    let soon = [principal("s_role", Some(now() + 3))];
    assert!(engine.look(&soon).await.unwrap()[0].can_login);
    sleep(Duration::from_secs(5)).await;
    assert!(!engine.look(&soon).await.unwrap()[0].can_login);
    assert!(
        engine.look(&[principal("s_role", None)]).await.unwrap()[0].can_login,
        "whoever knows no time waits for the last"
    );
    let past = [principal("s_role", Some(now() - 120))];
    assert_eq!(engine.clean(&past).await.unwrap()[0].outcome, Cleaning::Gone);
    // What it was known by is gone, and its lease still knows.
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert!(seen.can_login && seen.behind[0].reason.contains("dies at"), "{seen:?}");
    assert!(!engine.look(&past).await.unwrap()[0].can_login);
    assert_eq!(moto.users().await, [""; 0]);
}

/// moto takes no notice of the condition, so that all sessions of the role are denied there: that others of it go on is AWS' word alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_cut_off_where_the_role_may_be_written() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let (created, key) = lease(&moto, &engine, "s_deny", &[ROLE, "deny"]).await;
    let this = [principal("s_deny", Some(created.oid))];
    assert_eq!(engine.look(&this).await.unwrap()[0].login_at, engine.endpoints());
    assert_eq!(moto.ask(&key, "iam", &[("Action", "ListGroups")]).await.0, 200);
    for _ in 0..2 {
        assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });
        assert!(!engine.look(&this).await.unwrap()[0].can_login);
    }
    assert_eq!(moto.ask(&key, "iam", &[("Action", "ListGroups")]).await.0, 403, "on the next call");
    let policy = [("Action", "GetRolePolicy"), ("RoleName", "app"), ("PolicyName", "quorate-ended-s_deny")];
    let said = moto.iam(&policy).await;
    assert!(said.contains("aws%3Auserid") || said.contains("aws:userid"), "{said}");
    assert!(said.contains("s_deny"), "{said}");
    // It stays until the session would have ended by itself.
    assert!(matches!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Left { .. }));
    // Whoever takes it away lets in again.
    moto.iam(&[("Action", "DeleteRolePolicy"), policy[1], policy[2]]).await;
    assert!(engine.look(&this).await.unwrap()[0].can_login);
    engine.refuse(&this).await.unwrap();
    assert!(!engine.look(&this).await.unwrap()[0].can_login);
    let past = [principal("s_deny", Some(now() - 120))];
    assert_eq!(engine.clean(&past).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(moto.ask(&moto.admin, "iam", &policy).await.0, 404, "and goes with it");
}

/// There is room for some 50 in one role: what does not fit is not ended, and is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_room_is_no_end() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let (created, _) = lease(&moto, &engine, "s_full", &[ROLE, "deny"]).await;
    let this = [principal("s_full", Some(created.oid))];
    let full = crate::network::error("LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role app");
    moto.network.plan("Action=PutRolePolicy", Fault::Answer(crate::network::answer(409, &full)), 1);
    let Refusal::Failed(error) = engine.refuse(&this).await.unwrap().remove(0).outcome else { panic!() };
    assert!(error.to_string().contains("10240"), "{error}");
    assert!(engine.look(&this).await.unwrap()[0].can_login);
    engine.refuse(&this).await.unwrap();
    assert!(!engine.look(&this).await.unwrap()[0].can_login);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_not_to_be_had_leaves_nothing() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let other = "assume:arn:aws:iam::123456789012:role/nobodys";
    moto.iam(&[("Action", "CreateRole"), ("RoleName", "nobodys"), ("AssumeRolePolicyDocument", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:user/somebody"},"Action":"sts:AssumeRole"}]}"#)]).await;
    let mut create = order(&*moto, &engine, "s_none", &moto.credential()).await;
    create.groups = vec![other.to_owned()];
    let refused = engine.create(&create).await;
    assert!(matches!(&refused, Err(EngineError::Refused { code, .. }) if code == "AccessDenied"), "{refused:?}");
    assert_eq!(moto.users().await, [""; 0]);
    let mut create = order(&*moto, &engine, "s_none", &moto.credential()).await;
    create.groups = vec!["assume:arn:aws:iam::999999999999:role/app".to_owned(), "deny".to_owned()];
    assert!(
        matches!(engine.create(&create).await, Err(EngineError::Invalid { field: "groups", .. })),
        "another account's"
    );
    assert_eq!(moto.users().await, [""; 0]);
    let checked = engine.check(&[other.to_owned()]).await.unwrap();
    assert!(checked.missing[0].statement.contains("sts:AssumeRole"), "{:?}", checked.missing);
}

/// moto answers each with the same words, which let in nobody: that a federated user can do something is AWS' word alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_federated_user_is_a_session_too() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let name = "s_federated_with_a_name_that_is_long";
    let mut create = order(&*moto, &engine, name, &moto.credential()).await;
    (create.groups, create.max_ttl_seconds) = (vec!["federate".to_owned(), INLINE.to_owned()], 60);
    moto.network.seen();
    let created = engine.create(&create).await.unwrap();
    let asked = moto.network.seen().into_iter().find(|body| body.contains("GetFederationToken")).unwrap();
    assert!(asked.contains("&DurationSeconds=900&Policy=%7B") && asked.contains("&Name=q_"), "{asked}");
    let key = Key::of(created.issued.as_ref().unwrap());
    assert!(key.token.is_some());
    let secret: SecretVec = created.issued.unwrap().encode();
    assert!(matches!(engine.try_out(name, &secret).await, Err(error) if error.is_login_refused()));
    let seen = engine.look(&[principal(name, Some(created.oid))]).await.unwrap().remove(0);
    assert!(seen.can_login && seen.behind[0].reason.contains("dies at"), "{seen:?}");
}
