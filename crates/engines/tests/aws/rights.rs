//! What an executor may do and may not, what a check says of it, and what a user can have by the time that it is ended.

use quorate_engines::aws::{Aws, AwsConfig};
use quorate_engines::conformance::{Target as _, assert_ended, order, principal};
use quorate_engines::{Cleaning, Engine, EngineError, Fenced, Refusal};
use serde_json::Value;
use std::time::Duration;

use crate::server::{ACCOUNT, EXECUTOR, GROUP, Key, Moto, POLICY, ROLE, element, lease, user};

/// Gives the executor these actions and no others.
async fn allow(moto: &Moto, actions: &[&str]) {
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]});
    let put = [("Action", "PutUserPolicy"), ("UserName", EXECUTOR), ("PolicyName", "executor")];
    let [a, b, c] = put;
    moto.iam(&[a, b, c, ("PolicyDocument", &policy.to_string())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_given_and_the_key_is_refused_on_the_next_call() {
    let moto = Moto::start().await;
    let engine = moto.engine(7);
    let (created, key) = lease(&moto, &engine, "r_user", &[GROUP, POLICY, "tag:team=billing"]).await;
    assert!(key.id.starts_with("AKIA") && key.token.is_none());
    let arn = moto.who(&key).await.unwrap();
    assert_eq!(arn, format!("arn:aws:iam::{ACCOUNT}:user/quorate/t1/user/r_user"));
    assert_eq!(moto.ask(&key, "iam", &[("Action", "ListGroups")]).await.0, 200, "what its policy says");
    assert_eq!(moto.ask(&key, "iam", &[("Action", "ListRoles")]).await.0, 403, "and no more");
    let said = moto.iam(&[("Action", "ListUserTags"), ("UserName", "r_user")]).await;
    for tag in [
        "<Key>quorate-target</Key><Value>t1</Value>",
        "<Key>quorate-term</Key><Value>7</Value>",
        "<Key>team</Key><Value>billing</Value>",
    ] {
        assert!(said.replace(['\n', ' '], "").contains(tag), "{said}");
    }
    let said = moto.iam(&[("Action", "ListGroupsForUser"), ("UserName", "r_user")]).await;
    assert_eq!(element(&said, "GroupName").as_deref(), Some("readers"));

    let this = [principal("r_user", Some(created.oid))];
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });
    assert_eq!(moto.who(&key).await, None, "on the next call");
    assert_ended(&engine, &this).await;
    // Whatever key comes to it now is good for nothing.
    let late = moto.new_key("r_user").await;
    assert_eq!(moto.ask(&late, "iam", &[("Action", "ListGroups")]).await.0, 403, "an explicit denial wins");
    assert!(engine.look(&this).await.unwrap()[0].can_login, "and it is seen");
    engine.refuse(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(moto.users().await, [""; 0]);
}

/// moto lets a key in that is inactive, which AWS does not; so that only one that is gone is shown to be refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_any_status_is_a_key() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let key = user(&moto, &engine, "r_inactive").await;
    let inactive =
        [("Action", "UpdateAccessKey"), ("UserName", "r_inactive"), ("AccessKeyId", &key.id), ("Status", "Inactive")];
    moto.iam(&inactive).await;
    let this = [principal("r_inactive", None)];
    assert!(engine.look(&this).await.unwrap()[0].can_login, "whoever may can activate it again");
    engine.refuse(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    assert_eq!(moto.has_key("r_inactive").await, Some(false));
}

/// Whoever takes the denial away, or changes it, lets in again: that is seen, and mended.
#[tokio::test(flavor = "multi_thread")]
async fn what_cuts_off_is_looked_at_itself() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    user(&moto, &engine, "r_cut").await;
    let this = [principal("r_cut", None)];
    engine.refuse(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    let other =
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"EndedAt1","Effect":"Deny","Action":"s3:*","Resource":"*"}]}"#;
    let change = [
        ("Action", "PutUserPolicy"),
        ("UserName", "r_cut"),
        ("PolicyName", "quorate-ended"),
        ("PolicyDocument", other),
    ];
    let delete = [("Action", "DeleteUserPolicy"), ("UserName", "r_cut"), ("PolicyName", "quorate-ended")];
    for tampered in [&change[..], &delete[..]] {
        moto.iam(tampered).await;
        assert!(engine.look(&this).await.unwrap()[0].can_login, "{tampered:?}");
        engine.refuse(&this).await.unwrap();
        assert_ended(&engine, &this).await;
    }
}

/// It is refused, and not everywhere at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_none_before_all_servers_can_know_it() {
    let moto = Moto::start().await;
    let engine = Aws::new(AwsConfig { propagation: Duration::from_secs(3), ..moto.config(1) }).unwrap();
    user(&moto, &engine, "r_settle").await;
    let this = [principal("r_settle", None)];
    engine.refuse(&this).await.unwrap();
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert!(seen.can_login && seen.login_at.is_empty(), "{seen:?}");
    assert!(seen.behind[0].reason.starts_with("refused just now"), "{seen:?}");
    // To refuse it again does not begin anew.
    for _ in 0..100 {
        engine.refuse(&this).await.unwrap();
        if !engine.look(&this).await.unwrap()[0].can_login {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never ends");
}

/// As somebody else has left it.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_user_has_is_removed() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    user(&moto, &engine, "r_much").await;
    let of = ("UserName", "r_much");
    let any = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    moto.iam(&[("Action", "PutUserPolicy"), of, ("PolicyName", "mine"), ("PolicyDocument", any)]).await;
    moto.iam(&[("Action", "AttachUserPolicy"), of, ("PolicyArn", &POLICY["policy:".len()..])]).await;
    moto.iam(&[("Action", "CreateGroup"), ("GroupName", "strangers")]).await;
    moto.iam(&[("Action", "AddUserToGroup"), of, ("GroupName", "strangers")]).await;
    moto.iam(&[("Action", "CreateLoginProfile"), of, ("Password", "canary-Password-1")]).await;
    moto.iam(&[("Action", "UploadSSHPublicKey"), of, ("SSHPublicKeyBody", "ssh-rsa-AAAA")]).await;
    moto.new_key("r_much").await;
    let this = [principal("r_much", None)];
    engine.refuse(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    // moto removes a user that has still something, AWS does not: as it would say so.
    let conflict = crate::network::answer(
        409,
        &crate::network::error("DeleteConflict", "Cannot delete entity, must delete login profile first."),
    );
    moto.network.plan("Action=DeleteUser&", crate::network::Fault::Answer(conflict), 1);
    moto.network.seen();
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    let asked = moto.network.seen().join("\n");
    for action in [
        "DeleteLoginProfile",
        "DeleteSSHPublicKey",
        "ListMFADevices",
        "ListSigningCertificates",
        "ListServiceSpecificCredentials",
    ] {
        assert!(asked.contains(&format!("Action={action}&")), "{action}");
    }
    let (again, first) = (asked.rfind("Action=PutUserPolicy&").unwrap(), asked.find("Action=DeleteUser&").unwrap());
    assert!(again > first, "what cuts it off is back while the rest is removed");
    assert_eq!(moto.users().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_is_missing_as_a_policy() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let groups = [GROUP, POLICY, ROLE].map(str::to_owned);
    assert_eq!(engine.check(&groups).await.unwrap().missing, vec![], "what the documentation gives is enough");
    assert_eq!(moto.users().await, [""; 0], "nothing stays of what was tried");

    allow(
        &moto,
        &[
            "iam:CreateUser",
            "iam:TagUser",
            "iam:GetUser",
            "iam:DeleteUser",
            "iam:ListUser*",
            "iam:ListAttached*",
            "iam:ListGroups*",
            "iam:*AccessKey*",
            "iam:DeleteUserPolicy",
        ],
    )
    .await;
    let missing = engine.check(&groups).await.unwrap().missing;
    assert_eq!(missing.len(), 1, "{missing:?}");
    let policy: Value = serde_json::from_str(&missing[0].statement).unwrap();
    let found: Vec<(String, String)> = policy["Statement"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|statement| {
            let on = statement["Resource"].as_str().unwrap().to_owned();
            statement["Action"]
                .as_array()
                .unwrap()
                .iter()
                .map(move |a| (a.as_str().unwrap().to_owned(), on.clone()))
                .collect::<Vec<_>>()
        })
        .collect();
    let users = format!("arn:aws:iam::{ACCOUNT}:user/quorate/t1/*");
    let wanted = [
        ("iam:GetUserPolicy", users.as_str()),
        ("iam:PutUserPolicy", &users),
        ("sts:AssumeRole", &ROLE["assume:".len()..]),
    ];
    for (action, on) in wanted {
        assert!(found.contains(&(action.to_owned(), on.to_owned())), "{action}: {found:?}");
    }
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(moto.users().await, [""; 0]);
    allow(&moto, &["iam:GetUser"]).await;
    let missing = engine.check(&[]).await.unwrap().missing;
    assert!(
        missing[0].statement.contains("iam:CreateUser") && missing[0].statement.contains("iam:ListUsers"),
        "{missing:?}"
    );

    allow(&moto, &["*"]).await;
    moto.iam(&[("Action", "CreateGroup"), ("GroupName", "mighty")]).await;
    // One of the customer's own: moto has none of AWS'.
    let any = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    moto.iam(&[("Action", "CreatePolicy"), ("PolicyName", "AdministratorAccess"), ("PolicyDocument", any)]).await;
    let power = "arn:aws:iam::123456789012:policy/AdministratorAccess";
    moto.iam(&[("Action", "AttachGroupPolicy"), ("GroupName", "mighty"), ("PolicyArn", power)]).await;
    let groups =
        ["group:mighty", "group:nobodys", "policy:arn:aws:iam::123456789012:policy/none", "garbage"].map(str::to_owned);
    let checked = engine.check(&groups).await.unwrap();
    let unfit: Vec<&str> = checked.unfit.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(unfit, ["garbage", "group:mighty"]);
    let missing: Vec<&str> = checked.missing.iter().map(|m| m.statement.as_str()).collect();
    assert_eq!(missing[0], "aws iam create-group --group-name nobodys");
    assert!(missing[1].starts_with("aws iam create-policy --policy-name none "), "{missing:?}");
}

/// moto does not know this question, and so it is tried there. What IAM answers is as AWS documents it.
#[tokio::test(flavor = "multi_thread")]
async fn where_iam_tells_what_is_allowed_nothing_is_tried() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let boundary = "boundary:arn:aws:iam::123456789012:policy/app";
    let said = |denied: &str| {
        let actions =
            ["CreateUser", "TagUser", "GetUser", "DeleteUser", "CreateAccessKey", "ListAccessKeys", "DeleteAccessKey"];
        let more =
            ["PutUserPolicy", "GetUserPolicy", "ListUserPolicies", "DeleteUserPolicy", "ListAttachedUserPolicies"];
        let strange = [
            "ListGroupsForUser",
            "DeleteLoginProfile",
            "ListMFADevices",
            "DeactivateMFADevice",
            "ListSigningCertificates",
        ];
        let keys =
            ["DeleteSigningCertificate", "ListSSHPublicKeys", "DeleteSSHPublicKey", "ListServiceSpecificCredentials"];
        let last = ["DeleteServiceSpecificCredential", "AttachUserPolicy", "DetachUserPolicy"];
        let of = |action: &&str| {
            let decision = if *action == denied { "implicitDeny" } else { "allowed" };
            format!(
                "<member><EvalActionName>iam:{action}</EvalActionName><EvalDecision>{decision}</EvalDecision></member>"
            )
        };
        let all: String = actions.iter().chain(&more).chain(&strange).chain(&keys).chain(&last).map(of).collect();
        let result = format!("<IsTruncated>false</IsTruncated><EvaluationResults>{all}</EvaluationResults>");
        format!(
            "<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult>{result}</SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"
        )
    };
    for denied in ["", "DeactivateMFADevice"] {
        let answer = crate::network::answer(200, &said(denied));
        moto.network.plan("Action=SimulatePrincipalPolicy", crate::network::Fault::Answer(answer), 1);
        moto.network.seen();
        let missing = engine.check(&[boundary.to_owned()]).await.unwrap().missing;
        assert_eq!(missing.len(), usize::from(!denied.is_empty()), "{missing:?}");
        assert!(missing.iter().all(|m| m.statement.contains("\"iam:DeactivateMFADevice\"")), "{missing:?}");
        let asked = moto.network.seen().join("\n");
        assert!(
            asked.contains("ContextKeyValues.member.1=arn%3Aaws%3Aiam%3A%3A123456789012%3Apolicy%2Fapp"),
            "{asked}"
        );
        assert!(!asked.contains("Action=CreateUser"), "{asked}");
        moto.network.release();
    }
    // With a boundary, what is tried has it, as what is made does.
    moto.network.seen();
    assert_eq!(engine.check(&[boundary.to_owned()]).await.unwrap().missing, vec![]);
    let tried = moto.network.seen().into_iter().find(|body| body.contains("Action=CreateUser")).unwrap();
    assert!(tried.contains("PermissionsBoundary=arn%3Aaws"), "{tried}");
    lease(&moto, &engine, "r_bound", &[boundary]).await;
    let made = moto.network.seen().into_iter().find(|body| body.contains("Action=CreateUser")).unwrap();
    assert!(made.contains("PermissionsBoundary=arn%3Aaws") && made.contains("UserName=r_bound"), "{made}");
}

/// A right that is missing when it is needed is named, and nothing is called ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_no_end() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let key = user(&moto, &engine, "r_denied").await;
    let this = [principal("r_denied", None)];
    allow(&moto, &["iam:GetUser", "iam:ListAccessKeys", "iam:GetUserPolicy", "iam:DeleteAccessKey"]).await;
    let Refusal::Failed(EngineError::Refused { code, message }) = engine.refuse(&this).await.unwrap().remove(0).outcome
    else {
        panic!()
    };
    assert!(code == "AccessDenied" && message.contains("iam:PutUserPolicy"), "{message}");
    assert_eq!(moto.who(&key).await, None, "what could be done was");
    assert!(engine.look(&this).await.unwrap()[0].can_login);
    allow(&moto, &["iam:ListUsers"]).await;
    let looked = engine.look(&this).await;
    assert!(matches!(&looked, Err(EngineError::Refused { code, .. }) if code == "AccessDenied"), "{looked:?}");
    let binding = engine.bind().await.unwrap();
    assert!(matches!(engine.fence("r_none", &binding).await, Err(EngineError::Refused { .. })));
    let mut create = order(&*moto, &engine, "r_none", &moto.credential()).await;
    create.groups = vec![];
    assert!(matches!(engine.create(&create).await, Err(EngineError::Refused { .. })));
    allow(&moto, &["*"]).await;
    assert_eq!(engine.fence("r_none", &binding).await, Ok(Fenced::Absent));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_executors_other_key_is_a_strangers() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    allow(&moto, &["iam:ListAccessKeys", "iam:UpdateAccessKey"]).await;
    assert_eq!(engine.end_strangers().await, Ok(0));
    let other = moto.new_key(EXECUTOR).await;
    assert_eq!(engine.end_strangers().await, Ok(1));
    assert_eq!(engine.end_strangers().await, Ok(0));
    let said = moto.iam(&[("Action", "ListAccessKeys"), ("UserName", EXECUTOR)]).await;
    let of = |id: &str| said.split("<member>").find(|part| part.contains(id)).and_then(|part| element(part, "Status"));
    assert_eq!((of(&other.id).as_deref(), of(&moto.executor.id).as_deref()), (Some("Inactive"), Some("Active")));
    let binding = engine.bind().await.unwrap();
    assert!(matches!(engine.set_password("x", &binding).await, Err(EngineError::Invalid { field: "password", .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused_before_anything_is_sent() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    for groups in [
        &["readers"][..],
        &["group:a&Action=DeleteUser"],
        &[ROLE, GROUP],
        &["policy:arn:aws:iam::aws:policy/IAMFullAccess"],
    ] {
        let mut create = order(&*moto, &engine, "r_rules", &moto.credential()).await;
        create.groups = groups.iter().map(|g| (*g).to_owned()).collect();
        moto.network.seen();
        assert!(
            matches!(engine.create(&create).await, Err(EngineError::Invalid { field: "groups", .. })),
            "{groups:?}"
        );
        assert_eq!(moto.network.seen(), [""; 0]);
    }
    let mut create = order(&*moto, &engine, "r_rules", &moto.credential()).await;
    (create.groups, create.max_ttl_seconds) = (vec![ROLE.to_owned()], 43_201);
    assert!(matches!(engine.create(&create).await, Err(EngineError::Invalid { field: "max_ttl_seconds", .. })));
    let config = |change: fn(&mut AwsConfig)| {
        let mut config = moto.config(1);
        change(&mut config);
        Aws::new(config).err()
    };
    for (change, field) in [
        ((|c| c.user = "AKIAIOSFODNN7EXAMPLE".into()) as fn(&mut AwsConfig), "user"),
        (|c| c.region = "EU".into(), "region"),
        (|c| c.target = "a/b".into(), "target"),
        (|c| c.iam.host = "a b".into(), "host"),
    ] {
        assert!(matches!(config(change), Some(EngineError::Invalid { field: found, .. }) if found == field), "{field}");
    }
    let _: Key = user(&moto, &engine, "r_rules").await;
}
