//! What a check finds, and what it says to do about it.

use quorate_crypto::secret::SecretVec;
use quorate_engines::kubernetes::{Kubernetes, KubernetesConfig};
use quorate_engines::{Checked, Engine, EngineError, Missing};

use crate::cluster::Right;
use crate::server::{EXECUTOR, GROUP, Stub, code};

async fn checked(stub: &Stub, groups: &[&str]) -> Checked {
    let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
    stub.engine(1).check(&groups).await.unwrap()
}

fn script(checked: &Checked) -> String {
    Missing::script(&checked.missing, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_nothing_is_missing() {
    let stub = Stub::start().await;
    let found = checked(&stub, &[GROUP, "serviceaccount:other", "audience:https://vault.example"]).await;
    assert_eq!((&found.missing, &found.unfit, found.server_version), (&vec![], &vec![], 13_002));
    assert_eq!(stub.engine(1).visit().await, Ok(()));
    assert!(stub.secrets().is_empty(), "a check leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_right_that_is_missing_is_said_as_what_gives_it() {
    type Lacks = fn(&Right) -> bool;
    let lacks: [(Lacks, &str, &str); 8] = [
        (
            |r| r.verb == "create" && r.resource == "secrets",
            "name: \"quorate-executor\"",
            "verbs: [create, delete, get, list]",
        ),
        (|r| r.verb == "delete", "name: \"quorate-executor\"", "resources: [secrets]"),
        (|r| r.verb == "get" && r.resource == "secrets", "name: \"quorate-executor\"", "resources: [secrets]"),
        (|r| r.verb == "list", "name: \"quorate-executor\"", "resources: [secrets]"),
        (|r| r.resource == "namespaces", "name: \"quorate-executor\"", "resourceNames: [\"leases\"], verbs: [get]"),
        (|r| r.resource == "localsubjectaccessreviews", "name: \"quorate-executor\"", "[localsubjectaccessreviews]"),
        (
            |r| r.resource == "serviceaccounts" && r.name == "app",
            "name: \"quorate-of-app\"",
            "resources: [serviceaccounts]",
        ),
        (
            |r| r.resource == "serviceaccounts/token" && r.name == "app",
            "name: \"quorate-of-app\"",
            "resources: [serviceaccounts/token]",
        ),
    ];
    for (lacks, name, rule) in lacks {
        let stub = Stub::start().await;
        stub.cluster().rights.retain(|right| right.user != EXECUTOR || !lacks(right));
        let found = checked(&stub, &[GROUP, "audience:a"]).await;
        let text = script(&found);
        assert_eq!(found.missing.len(), 2, "a role, and who has it: {text}");
        assert!(text.contains("kind: Role\n") && text.contains("kind: RoleBinding\n"), "{text}");
        assert!(text.contains(name) && text.contains(rule) && text.contains("namespace: \"leases\""), "{text}");
        assert!(text.contains(r#"{"kind":"ServiceAccount","name":"executor","namespace":"leases"}"#), "{text}");
        // What no log entry could hold would be cut.
        assert!(found.missing.iter().all(|missing| missing.statement.len() < 800));
    }
    let stub = Stub::start().await;
    stub.cluster().rights.retain(|right| right.resource != "tokenreviews");
    assert_eq!(checked(&stub, &[GROUP]).await.missing, [], "only tokens for others need it");
    let text = script(&checked(&stub, &[GROUP, "audience:a"]).await);
    assert!(text.contains("ClusterRoleBinding") && text.contains("system:auth-delegator"), "{text}");
    let found = checked(&stub, &["serviceaccount:absent"]).await;
    assert!(script(&found).contains("kind: ServiceAccount\nmetadata: {name: \"absent\""), "{found:?}");
    stub.cluster().rights.clear();
    let error = stub.engine(1).check(&[]).await.unwrap_err();
    assert_eq!(code(&error), "403", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_power_over_what_ends_tokens_is_unfit() {
    let stub = Stub::start().await;
    let groups = ["serviceaccount:executor", "serviceaccount:power", GROUP, "serviceaccount:kube-system/admin", "x"];
    let found = checked(&stub, &groups).await;
    let unfit: Vec<&str> = found.unfit.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(unfit, ["serviceaccount:executor", "serviceaccount:kube-system/admin", "x", "serviceaccount:power"]);
    assert!(found.unfit[3].reason.contains("create pods in leases"), "{:?}", found.unfit);
    for (verb, resource) in [
        ("create", "serviceaccounts/token"),
        ("impersonate", "serviceaccounts"),
        ("create", "secrets"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "deployments"),
        ("create", "jobs"),
        ("create", "rolebindings"),
        ("*", "*"),
    ] {
        let stub = Stub::start().await;
        let right = Right { user: "system:serviceaccount:leases:app".to_owned(), verb, resource, name: String::new() };
        stub.cluster().rights.push(right);
        let found = checked(&stub, &[GROUP]).await;
        assert_eq!((found.unfit.len(), found.missing.len()), (1, 0), "{verb} {resource}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_executor_is_said_to_be_it_must_be() {
    let stub = Stub::start().await;
    let mut config = stub.config(1);
    config.user = "system:serviceaccount:leases:app".to_owned();
    let error = Kubernetes::new(config).unwrap().check(&[]).await.unwrap_err();
    assert!(code(&error) == "USER" && error.to_string().contains(EXECUTOR), "{error}");
    stub.cluster().git_version = "v1.27.9";
    assert_eq!(code(&stub.engine(1).check(&[]).await.unwrap_err()), "VERSION");
}

/// What an operator has to know of a token that is no good: that it is none, whose, or since when.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lets_nobody_in_is_named_and_replaced_without_a_restart() {
    let stub = Stub::start().await;
    let ran_out = stub.cluster().token_of("executor", -3_600);
    let with = |token: &str| {
        let mut config = stub.config(1);
        config.passwords = SecretVec::new(token.as_bytes().to_vec()).into();
        Kubernetes::new(config).unwrap()
    };
    let engine = with(&ran_out);
    let error = engine.bind().await.unwrap_err();
    assert!(error.is_login_refused() && error.to_string().contains("the token ran out 36"), "{error}");
    assert!(engine.login_refused().unwrap().contains("ran out"));
    engine.learn_password(2, SecretVec::new(stub.token.clone().into_bytes()));
    engine.bind().await.unwrap();
    assert_eq!((engine.let_in_with(), engine.login_refused()), (Some(2), None));
    let error = with("opaque").timeline().await.unwrap_err();
    assert!(error.is_login_refused() && !error.to_string().contains("ran out"), "{error}");
    // As it is in a file with a line's end.
    let error = with(&format!("{}\n", stub.token)).timeline().await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid { field: "password", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_no_target_is_refused_at_once() {
    let stub = Stub::start().await;
    let field = |change: fn(&mut KubernetesConfig)| {
        let mut config = stub.config(1);
        change(&mut config);
        match Kubernetes::new(config) {
            Err(EngineError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(field(|c| c.namespace = "kube-system".to_owned()), "namespace");
    for namespace in ["", "a/b", "..", "A", "a.b"] {
        let mut config = stub.config(1);
        config.namespace = namespace.to_owned();
        assert!(Kubernetes::new(config).is_err(), "{namespace:?}");
    }
    assert_eq!(field(|c| c.user = "a\"}\nkind: Evil".to_owned()), "user");
    assert_eq!(field(|c| c.user = String::new()), "user");
    assert_eq!(field(|c| c.term = u64::MAX), "term");
    assert_eq!(field(|c| c.target = "a b".to_owned()), "target");
    // Any user will do, and is not taken for an account of the namespace.
    let mut config = stub.config(1);
    config.user = "vault@example.com".to_owned();
    assert!(Kubernetes::new(config).is_ok());
    let engine = stub.engine(1);
    let binding = engine.bind().await.unwrap();
    let error = engine.set_password("x", &binding).await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid { field: "verifier", .. }));
}
