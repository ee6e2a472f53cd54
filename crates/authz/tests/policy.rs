//! What policies permit and forbid, and which texts are no policies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use proptest::prelude::*;
use quorate_authz::initial::{application_policy, initial_policies};
use quorate_authz::{Authority, Denial, Facts, LeaseFacts, Principal, validate};
use quorate_state::access::MAX_POLICY;
use quorate_state::change::{Kind, Resource};
use quorate_state::ids::LeaseId;
use support::{NOW, principal};

const BILLING: &str = "spiffe://td/app/billing/worker";

fn authority(texts: &[&str]) -> Authority {
    let policies: Vec<_> = texts.iter().enumerate().map(|(i, text)| (format!("p{i}"), *text)).collect();
    Authority::compile(&policies).unwrap()
}

fn secret(path: &str) -> Resource {
    Resource::Secret { namespace: "default".to_owned(), path: path.to_owned() }
}

fn facts(owner: &str) -> Facts {
    let lease = LeaseFacts { owner: owner.to_owned(), role: "reader".to_owned(), target: "db".to_owned() };
    Facts { now: NOW, lease: Some(lease) }
}

/// A resource of the sort that the operation has.
fn resource_of(kind: Kind) -> Resource {
    match kind {
        Kind::PutSecret
        | Kind::DeleteSecret
        | Kind::UndeleteSecret
        | Kind::DestroySecret
        | Kind::OpenSecret
        | Kind::ListSecrets
        | Kind::ReadVersions
        | Kind::CreateMount => secret("app/billing/db"),
        Kind::CreateNamespace | Kind::ReadMounts => Resource::Namespace("default".to_owned()),
        Kind::RegisterCustomerKey => Resource::CustomerKey("hsm".to_owned()),
        Kind::PutPolicy | Kind::DeletePolicy => Resource::Policy("p".to_owned()),
        Kind::BlockIdentity | Kind::UnblockIdentity => Resource::Identity(BILLING.to_owned()),
        Kind::PutTarget
        | Kind::ProveTarget
        | Kind::DeleteTarget
        | Kind::TakeOver
        | Kind::ReplacePassword
        | Kind::ReviseTarget
        | Kind::SetQuota
        | Kind::RevokeLeases => Resource::Target("db".to_owned()),
        Kind::PutRole | Kind::DeleteRole | Kind::IssueLease => Resource::Role("reader".to_owned()),
        Kind::RecordMember => Resource::Member("n3".to_owned()),
        Kind::RenewLease | Kind::RevokeLease | Kind::ReadLease => Resource::Lease(LeaseId([7; 16])),
        Kind::BeginKeyGeneration
        | Kind::SetClientRoots
        | Kind::ResetClock
        | Kind::ReadPolicies
        | Kind::ReadRoles
        | Kind::ListLeases
        | Kind::ReadStatus => Resource::Cluster,
    }
}

/// The operations that a principal may do, each on its own sort of resource.
fn may(authority: &Authority, who: &Principal, facts: &Facts) -> Vec<&'static str> {
    let may = |kind: &&Kind| authority.authorize(who, **kind, &resource_of(**kind), facts).is_ok();
    Kind::ALL.iter().filter(may).map(|kind| kind.action()).collect()
}

fn opens(authority: &Authority, who: &Principal, path: &str) -> Result<Vec<String>, Denial> {
    let grant = authority.authorize(who, Kind::OpenSecret, &secret(path), &facts(""))?;
    assert_eq!((grant.principal(), grant.kind(), grant.resource()), (who, Kind::OpenSecret, &secret(path)));
    Ok(grant.policies().to_vec())
}

fn denied(policies: &[&str]) -> Denial {
    Denial { policies: policies.iter().map(|p| (*p).to_owned()).collect(), errors: Vec::new() }
}

#[test]
fn every_operation_is_denied_by_default_and_can_be_permitted() {
    let who = principal(BILLING);
    let everything = authority(&["permit (principal, action, resource);"]);
    for kind in Kind::ALL {
        let ask = |authority: &Authority| authority.authorize(&who, *kind, &resource_of(*kind), &facts(BILLING));
        assert_eq!(ask(&authority(&[])), Err(denied(&[])), "{kind:?}");
        // Without this, the line above could be the answer to a request that no policy can permit.
        assert_eq!(ask(&everything).unwrap().policies(), ["p0#0"], "{kind:?}");
    }
}

#[test]
fn a_resource_of_another_sort_is_an_error() {
    let everything = authority(&["permit (principal, action, resource);"]);
    let denial =
        everything.authorize(&principal(BILLING), Kind::OpenSecret, &Resource::Cluster, &facts("")).unwrap_err();
    assert!(denial.policies.is_empty() && denial.errors.len() == 1, "{denial:?}");
}

#[test]
fn forbid_wins() {
    let who = principal(BILLING);
    let permit = "permit (principal, action, resource);";
    let forbid = r#"permit (principal, action, resource);
        forbid (principal, action == Quorate::Action::"secret:open", resource in Quorate::Folder::"default:app");"#;
    assert_eq!(opens(&authority(&[permit, forbid]), &who, "app/x"), Err(denied(&["p1#1"])));
    assert_eq!(opens(&authority(&[forbid, permit]), &who, "app/x"), Err(denied(&["p0#1"])));
    assert_eq!(opens(&authority(&[permit, forbid]), &who, "other/x").unwrap(), ["p0#0", "p1#0"]);
}

/// A policy of one or two clauses; some of them fail when they are asked.
fn policy(effect: &'static str) -> impl Strategy<Value = String> {
    let who = prop_oneof![
        Just("principal".to_owned()),
        Just(r#"principal in Quorate::Group::"spiffe://td/app""#.to_owned()),
        Just(format!(r#"principal == Quorate::Workload::"{BILLING}""#)),
    ];
    let action = prop_oneof![
        Just("action".to_owned()),
        Just(r#"action in Quorate::Action::"read""#.to_owned()),
        prop::sample::select(Kind::ALL).prop_map(|kind| format!(r#"action == Quorate::Action::"{}""#, kind.action())),
    ];
    let when = prop_oneof![
        3 => Just(""),
        1 => Just("when { context.now > 0 }"),
        1 => Just("unless { context.now > 0 }"),
        1 => Just("when { context.now + 9223372036854775807 > 0 }"),
    ];
    (who, action, when).prop_map(move |(who, action, when)| format!("{effect} ({who}, {action}, resource) {when};"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_forbid_more_never_allows_and_a_permit_more_never_denies_what_nothing_forbids(
        permits in prop::collection::vec(policy("permit"), 0..4),
        forbids in prop::collection::vec(policy("forbid"), 0..3),
        forbid in policy("forbid"),
        permit in policy("permit"),
    ) {
        let texts: Vec<String> = permits.into_iter().chain(forbids).collect();
        // A policy that can never apply is no policy.
        let fit = |text: &String| validate("p", text).is_ok();
        let texts: Vec<&str> = texts.iter().filter(|text| fit(text)).map(String::as_str).collect();
        prop_assume!(fit(&forbid) && fit(&permit));
        let (who, facts) = (principal(BILLING), facts(BILLING));
        let before = may(&authority(&texts), &who, &facts);
        let with = |more: &str| may(&authority(&[&texts[..], &[more]].concat()), &who, &facts);
        let (narrower, wider) = (with(&forbid), with(&permit));
        prop_assert!(narrower.iter().all(|kind| before.contains(kind)), "{forbid} allows: {before:?}, {narrower:?}");
        prop_assert!(before.iter().all(|kind| wider.contains(kind)), "{permit} denies: {before:?}, {wider:?}");
        // In another order they say the same.
        let turned: Vec<&str> = texts.iter().rev().copied().collect();
        prop_assert_eq!(may(&authority(&turned), &who, &facts), before);
    }
}

#[test]
fn a_forbid_that_fails_forbids_and_a_permit_that_fails_permits_nothing() {
    let who = principal(BILLING);
    let permit = "permit (principal, action, resource);";
    let failing =
        |effect| format!("{effect} (principal, action, resource) when {{ context.now + 9223372036854775807 > 0 }};");
    let denial = opens(&authority(&[permit, &failing("forbid")]), &who, "app/x").unwrap_err();
    assert_eq!(denial.errors.len(), 1);
    assert!(denial.errors[0].contains("p1#0"), "{denial:?}");
    assert_eq!(opens(&authority(&[permit, &failing("permit")]), &who, "app/x").unwrap(), ["p0#0"]);
    assert_eq!(opens(&authority(&[&failing("permit")]), &who, "app/x").unwrap_err().errors.len(), 1);
}

#[test]
fn groups_and_folders_end_at_whole_segments() {
    let text = r#"permit (principal in Quorate::Group::"spiffe://td/app/billing", action == Quorate::Action::"secret:open",
                          resource in Quorate::Folder::"default:app/billing");"#;
    let authority = authority(&[text]);
    let opens = |id: &str, path: &str| opens(&authority, &principal(id), path).is_ok();
    for id in ["spiffe://td/app/billing", "spiffe://td/app/billing/worker", "spiffe://td/app/billing/a/b"] {
        assert!(opens(id, "app/billing/db") && opens(id, "app/billing/a/b/c"), "{id}");
        for path in ["app/billingx/db", "app/billing", "app/db", "app", "x/app/billing/db", "app/Billing/db"] {
            assert!(!opens(id, path), "{id} {path}");
        }
    }
    for id in
        ["spiffe://td/app/billingx", "spiffe://td/app", "spiffe://td/x/app/billing", "spiffe://td/app/billingx/billing"]
    {
        assert!(!opens(id, "app/billing/db"), "{id}");
    }
}

#[test]
fn a_path_that_cannot_be_is_in_no_folder() {
    let authority = authority(&["permit (principal, action, resource);"]);
    let who = principal(BILLING);
    for path in ["", "app/../db", "app//db", "app/", "/app", "app/./db", "app\n/db"] {
        assert_eq!(opens(&authority, &who, path).unwrap_err().errors.len(), 1, "{path:?}");
    }
    // `a:b` with path `c` would be called as `a` with path `b:c`.
    for namespace in ["a:b", "", "a/../b"] {
        let resource = Resource::Secret { namespace: namespace.to_owned(), path: "c".to_owned() };
        assert!(authority.authorize(&who, Kind::OpenSecret, &resource, &facts("")).is_err(), "{namespace:?}");
        let resource = Resource::Namespace(namespace.to_owned());
        assert!(authority.authorize(&who, Kind::CreateNamespace, &resource, &facts("")).is_err(), "{namespace:?}");
    }
    assert!(opens(&authority, &who, "b:c").is_ok());
}

#[test]
fn folders_of_lists_and_mounts() {
    let ask = |folder: &str, kind, path| {
        let text = format!("permit (principal, action, resource in Quorate::Folder::\"{folder}\");");
        authority(&[&text]).authorize(&principal(BILLING), kind, &secret(path), &facts("")).is_ok()
    };
    assert!(ask("default:app", Kind::ListSecrets, "app"), "a folder is in itself");
    assert!(ask("default:app", Kind::ListSecrets, "app/billing"));
    assert!(ask("default:", Kind::ListSecrets, ""));
    assert!(!ask("default:app", Kind::ListSecrets, ""));
    assert!(!ask("default:app", Kind::ListSecrets, "ap"));
    assert!(!ask("default:app", Kind::ListSecrets, "appx"));
    assert!(ask("default:", Kind::CreateMount, "app"));
    assert!(!ask("default:app", Kind::CreateMount, "app"), "a mount is made in its namespace");
}

#[test]
fn namespaces_hold_what_is_in_them() {
    let text = r#"permit (principal, action, resource in Quorate::Namespace::"team");"#;
    let ask = |namespace: &str| {
        let resource = Resource::Secret { namespace: namespace.to_owned(), path: "app/x".to_owned() };
        authority(&[text]).authorize(&principal(BILLING), Kind::OpenSecret, &resource, &facts("")).is_ok()
    };
    assert!(ask("team") && ask("team/a") && !ask("teamx") && !ask("default") && !ask("a/team"));
}

#[test]
fn cluster_time_is_in_seconds() {
    let until = |second: u64| {
        let text = format!("permit (principal, action, resource) when {{ context.now < {second} }};");
        opens(&authority(&[&text]), &principal(BILLING), "app/x").is_ok()
    };
    assert!(until(NOW / 1_000 + 1) && !until(NOW / 1_000));
}

#[test]
fn an_expired_principal_gets_nothing() {
    let who = principal(BILLING);
    let everything = authority(&["permit (principal, action, resource);"]);
    let at = |now| everything.authorize(&who, Kind::ReadStatus, &Resource::Cluster, &Facts { now, lease: None });
    assert!(at(who.not_after()).is_ok());
    assert!(at(who.not_after() + 1).is_err());
}

fn initial() -> Authority {
    Authority::compile(&initial_policies("td").unwrap()).unwrap()
}

#[test]
fn administrators_do_everything_but_read() {
    let may = may(&initial(), &principal("spiffe://td/admin/alice"), &facts("spiffe://td/app/other"));
    let all = Kind::ALL.iter().map(|kind| kind.action());
    let expected: Vec<_> = all.filter(|action| !["secret:open", "lease:issue"].contains(action)).collect();
    assert_eq!(may, expected);
}

#[test]
fn workloads_have_status_and_their_own_leases() {
    let authority = initial();
    for id in [BILLING, "spiffe://td/adminx", "spiffe://td/app/admin", "spiffe://td/administrator/alice"] {
        let who = principal(id);
        assert_eq!(may(&authority, &who, &facts(id)), ["lease:renew", "lease:revoke", "lease:read", "cluster:status"]);
        for other in ["spiffe://td/app/billing", "", "spiffe://td/app/billing/worker2"] {
            assert_eq!(may(&authority, &who, &facts(other)), ["cluster:status"], "{id} of {other}");
        }
        // A lease that this node has not seen is nobody's.
        assert_eq!(may(&authority, &who, &Facts { now: NOW, lease: None }), ["cluster:status"]);
    }
}

#[test]
fn an_application_has_its_folder() {
    let mut policies = initial_policies("td").unwrap();
    policies.push(("billing".to_owned(), application_policy("td", "app/billing", "default:app/billing").unwrap()));
    let authority = Authority::compile(&policies).unwrap();
    let who = principal(BILLING);
    let nobody_s = facts("spiffe://td/app/other");
    let expected = [
        "secret:put",
        "secret:delete",
        "secret:undelete",
        "secret:open",
        "secret:list",
        "secret:versions",
        "mount:read",
        "cluster:status",
    ];
    assert_eq!(may(&authority, &who, &nobody_s), expected);
    assert_eq!(opens(&authority, &who, "app/billing/db").unwrap(), ["billing#0"]);
    assert_eq!(opens(&authority, &who, "app/other/db"), Err(denied(&[])));
    assert_eq!(may(&authority, &principal("spiffe://td/app/other"), &facts("")), ["cluster:status"]);
}

#[test]
fn names_are_escaped_into_policies() {
    let domain = "td\", action, resource); permit (principal in Quorate::Group::\"x";
    for (name, text) in initial_policies(domain).unwrap() {
        let more = if name == "status" { 2 } else { 1 };
        assert_eq!(text.matches("\npermit (").count(), more, "{text}");
    }
    let policies = initial_policies(domain).unwrap();
    let authority = Authority::compile(&policies).unwrap();
    assert_eq!(
        may(&authority, &principal("spiffe://x/admin/a".replace("//x", "//td").as_str()), &facts("")),
        ["cluster:status"]
    );
}

#[test]
fn a_mistake_has_a_place() {
    let error =
        validate("p", "permit (principal, action, resource);\n  permitt (principal, action, resource);").unwrap_err();
    assert_eq!((error.policy.as_str(), error.line, error.column), ("p", 2, 3), "{error}");
    let typo = "// é\npermit (principal, action, resource)\nwhen { principal.idd == \"é\" && principal.ix == \"x\" };";
    let error = validate("p", typo).unwrap_err();
    assert_eq!((error.policy.as_str(), error.line, error.column), ("p#0", 3, 8), "{error}");
    assert!(error.message.contains("idd"), "{error}");
    assert!(error.help.is_some(), "{error:?}");
}

#[test]
fn what_the_schema_does_not_know_is_refused() {
    for text in [
        r#"permit (principal, action == Quorate::Action::"secret:opem", resource);"#,
        r#"permit (principal, action == Action::"secret:open", resource);"#,
        r#"permit (principal in Quorate::Groups::"spiffe://td", action, resource);"#,
        r#"permit (principal, action, resource is Quorate::Password);"#,
        r#"permit (principal, action, resource) when { context.ip == "x" };"#,
        r#"permit (principal, action, resource) when { resource.owner == principal.id };"#,
        r#"permit (principal, action, resource) when { principal.id == 1 };"#,
        // Types that exist, but never together: it would never apply.
        r#"forbid (principal, action == Quorate::Action::"secret:open", resource in Quorate::Role::"r");"#,
        r#"forbid (principal in Quorate::Folder::"default:", action, resource);"#,
        r#"forbid (principal, action, resource) when { false };"#,
    ] {
        assert!(validate("p", text).is_err(), "{text}");
        assert_eq!(Authority::compile(&[("p", text)]).unwrap_err(), validate("p", text).unwrap_err());
    }
    // Right-to-left override: the text reads as something else.
    assert!(
        validate("p", "permit (principal in Quorate::Group::\"spiffe://td/\u{202e}nimda\", action, resource);")
            .is_err()
    );
}

#[test]
fn templates_and_empty_and_long_texts_are_refused() {
    let error = validate("p", "permit (principal == ?principal, action, resource);").unwrap_err();
    assert!(error.message.contains("template"), "{error}");
    for empty in ["", "  \n", "// nothing"] {
        assert!(validate("p", empty).is_err(), "{empty:?}");
    }
    let policy = "permit (principal, action, resource);";
    let fits = format!("{policy}{}", " ".repeat(MAX_POLICY - policy.len()));
    assert_eq!(validate("p", &fits), Ok(()));
    assert!(validate("p", &format!("{fits} ")).is_err());
}

/// The stack of a node's worker threads.
const STACK: usize = 8 << 20;

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    let policy = |open: &str, close: &str, depth: usize| {
        let (open, close) = (open.repeat(depth), close.repeat(depth));
        format!("permit (principal, action, resource) when {{ {open}context.now > 0{close} }};")
    };
    for (open, close) in [
        ("(", ")"),
        ("!", ""),
        ("-", ""),
        ("[", "]"),
        ("{a:", "}"),
        ("if context.now > 1 then ", " else true"),
        ("", " && context.now > 0"),
        ("", " || context.now > 0"),
        ("1 +", ""),
        ("2 *", ""),
        ("", ".a"),
        ("", "[\"a\"]"),
        ("", "(1)"),
        ("", "} unless { context.now < 0"),
        ("\"//\\\"\" == (", ")"),
    ] {
        let full = (MAX_POLICY - 200) / (open.len() + close.len());
        for depth in [14, 20, 50, 60, 255, 1_000, full] {
            let text = policy(open, close, depth.min(full));
            let checked = std::thread::Builder::new().stack_size(STACK).spawn(move || validate("p", &text).is_err());
            assert!(checked.unwrap().join().unwrap() || depth < 1_000, "{open} {close} {depth}");
        }
    }
    // What is accepted is decided alike on every worker thread: in such a stack Cedar does not give up on it.
    let who = principal(BILLING);
    for text in [policy("(", ")", 20), policy("", " && context.now > 0", 12), policy("1 + ", "", 54)] {
        let (who, what) = (who.clone(), text.clone());
        let decide = move || opens(&authority(&[&text]), &who, "app/x");
        let decided = std::thread::Builder::new().stack_size(STACK).spawn(decide).unwrap().join().unwrap();
        assert!(decided.is_ok(), "{what}: {decided:?}");
    }
    let many: String = (0..1_000).map(|i| format!("Quorate::Role::\"if ({i}\", ")).collect();
    let text = format!(
        "permit (principal, action == Quorate::Action::\"lease:issue\", resource) when {{ [{many}].contains(resource) }};"
    );
    assert_eq!(validate("p", &text), Ok(()), "long is not deep");
}

#[test]
fn one_bad_policy_closes_the_authority() {
    let good = "permit (principal, action, resource);";
    let error = Authority::compile(&[("a", good), ("b", "forbid"), ("c", good)]).unwrap_err();
    assert_eq!(error.policy, "b");
    assert_eq!(Authority::compile(&[("a", good), ("a", good)]).unwrap_err().policy, "a#0");
}

#[test]
fn policies_are_numbered_in_the_order_of_the_text() {
    let text = (0..12)
        .map(|i| format!("permit (principal, action, resource == Quorate::Secret::\"default:app/{i}\");\n"))
        .collect::<String>();
    let authority = authority(&[&text]);
    for i in 0..12 {
        assert_eq!(opens(&authority, &principal(BILLING), &format!("app/{i}")).unwrap(), [format!("p0#{i}")]);
    }
}

#[test]
fn the_manual_is_true() {
    let manual = include_str!("../../../docs/policies.md");
    let examples: Vec<_> = manual.split("```cedar\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        assert_eq!(validate("example", example), Ok(()), "{example}");
    }
    for kind in Kind::ALL {
        assert!(manual.contains(&format!("| `{}` |", kind.action())), "no row for {}", kind.action());
    }
}
