//! Every operation there is has all that an operation must have. Walks `Kind::ALL`: what lacks something is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_authz::{Authority, Denial, Facts, LeaseFacts, Principal, authenticate};
use quorate_state::change::{Kind, Resource};
use quorate_state::genesis::ClientRoots;
use quorate_state::ids::{LeaseId, Millis};
use std::collections::BTreeSet;

const SCHEMA: &str = include_str!("../../crates/authz/src/schema.cedarschema");
const PROTO: &str = include_str!("../../proto/vault.proto");
const POLICIES: &str = include_str!("../../docs/policies.md");
const WIRE: &str = include_str!("../../docs/wire.md");

const ENGINES: &str = include_str!("../../docs/engines.md");

const CALLER: &str = "spiffe://td/app/billing";

fn actions() -> BTreeSet<&'static str> {
    Kind::ALL.iter().map(|kind| kind.action()).collect()
}

/// The actions that the schema lets policies speak of. Groups stand in the schema too, but apply to nothing.
fn schema_actions() -> BTreeSet<&'static str> {
    let code = SCHEMA.split(';').filter_map(|statement| statement.split_once("action \""));
    let declared = code.filter(|(_, rest)| rest.contains("appliesTo"));
    declared
        .flat_map(|(_, rest)| {
            // `a", "b" in ["group"] appliesTo ..`: the names end where the groups or the types begin.
            let names = rest.split(" in [").next().unwrap().split("appliesTo").next().unwrap();
            names.split('"').filter(|name| name.contains(':'))
        })
        .collect()
}

/// The first column of the table whose header begins with `header`, without its back-ticks.
fn first_column<'a>(page: &'a str, header: &str) -> Vec<&'a str> {
    let rows = page.split_once(header).unwrap_or_else(|| panic!("no table `{header}`")).1.lines().skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.split('|').nth(1).unwrap().trim().trim_matches('`')).collect()
}

#[test]
fn every_operation_is_an_action_of_the_schema() {
    assert_eq!(schema_actions(), actions());
}

#[test]
fn every_operation_is_in_the_page_on_policies() {
    let rows = first_column(POLICIES, "| action | group | resource |");
    assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), actions());
    assert_eq!(rows.len(), Kind::ALL.len(), "no action has two rows");
}

#[test]
fn every_operation_has_an_rpc_and_every_rpc_an_operation() {
    let service = PROTO.split_once("service Vault {").unwrap().1.split_once("\n}").unwrap().0;
    let rpcs = service.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    // What carries the questions of other RPCs is no operation of its own.
    let rpcs: BTreeSet<&str> = rpcs.filter(|rpc| *rpc != "Relay").collect();
    assert_eq!(rpcs, Kind::ALL.iter().map(|kind| kind.rpc()).collect());
}

#[test]
fn every_change_is_in_the_page_on_the_wire() {
    let rows = WIRE.split_once("| | Change | fields | administrators |").unwrap().1.lines().skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        (cells.next().unwrap().to_owned(), cells.next().unwrap().to_owned())
    });
    // `Submit` carries the changes, which are numbered in the order of their kinds.
    let changes = Kind::ALL.iter().filter(|kind| kind.rpc() == "Submit").enumerate();
    let changes: Vec<_> = changes.map(|(number, kind)| (number.to_string(), format!("{kind:?}"))).collect();
    assert_eq!(rows.collect::<Vec<_>>(), changes);
}

#[test]
fn every_operation_has_a_name_of_its_own_in_the_audit_log() {
    let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    assert_eq!(actions().len(), Kind::ALL.len());
    for kind in Kind::ALL {
        let name = kind.name();
        assert_eq!(name.replace('.', ":"), kind.action(), "one name, in the log and in policies");
        let (noun, verb) = name.split_once('.').unwrap();
        let plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(plain(noun) && plain(verb) && name.len() <= 64, "{name}: docs/audit.md has 64 bytes for it");
    }
}

#[test]
fn every_operation_is_denied_by_default() {
    let (nothing, anything) = (authority(&[]), authority(&["permit (principal, action, resource);"]));
    let who = caller();
    let lease = LeaseFacts { owner: CALLER.to_owned(), role: "reader".to_owned(), target: "db".to_owned() };
    let facts = Facts { now: NOW, lease: Some(lease) };
    for kind in Kind::ALL {
        let resource = resource_of(*kind);
        let denial = nothing.authorize(&who, *kind, &resource, &facts).unwrap_err();
        assert_eq!(denial, Denial { policies: Vec::new(), errors: Vec::new() }, "{kind:?}: for want of a policy alone");
        let grant = anything.authorize(&who, *kind, &resource, &facts).unwrap();
        assert_eq!((grant.kind(), grant.resource()), (*kind, &resource));
    }
}

/// A resource of the sort that the operation has. A new operation does not compile until it has one here.
fn resource_of(kind: Kind) -> Resource {
    let path = |path: &str| Resource::Secret { namespace: "default".to_owned(), path: path.to_owned() };
    match kind {
        Kind::PutSecret
        | Kind::DeleteSecret
        | Kind::UndeleteSecret
        | Kind::DestroySecret
        | Kind::OpenSecret
        | Kind::ReadVersions => path("app/billing/db"),
        Kind::ListSecrets => path(""),
        Kind::CreateMount => path("app"),
        Kind::CreateNamespace | Kind::ReadMounts => Resource::Namespace("default".to_owned()),
        Kind::RegisterCustomerKey => Resource::CustomerKey("hsm".to_owned()),
        Kind::PutPolicy | Kind::DeletePolicy => Resource::Policy("p".to_owned()),
        Kind::BlockIdentity | Kind::UnblockIdentity => Resource::Identity(CALLER.to_owned()),
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

fn authority(texts: &[&str]) -> Authority {
    let policies: Vec<_> = texts.iter().map(|text| ("p", *text)).collect();
    Authority::compile(&policies).unwrap()
}

/// 2026-06-15T00:00:00Z, while the caller's certificate is valid.
const NOW: Millis = 1_781_481_600_000;

/// The only way to a principal is a certificate that the client CA signed.
fn caller() -> Principal {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
        PKCS_ED25519, SanType, date_time_ymd,
    };
    let dated = || {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2026, 6, 1);
        params.not_after = date_time_ymd(2026, 7, 1);
        params
    };
    let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut ca = dated();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(ca, key()).unwrap();
    let mut leaf = dated();
    leaf.subject_alt_names = vec![SanType::URI(CALLER.try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let chain = [leaf.signed_by(&key(), &ca).unwrap().der().to_vec()];
    let roots = ClientRoots { certificates: vec![ca.der().to_vec()], trust_domain: "td".to_owned() };
    authenticate(&chain, &roots, NOW).unwrap()
}

/// The page on engines has a column for each kind of target, and no cell of it is empty or names a test that is not there.
#[test]
fn every_rule_is_shown_at_every_kind_of_target() {
    let (_, table) = ENGINES.split_once("\n| rule |").expect("the table of rules");
    let mut lines = table.lines().take_while(|line| line.starts_with('|') || line.starts_with(' '));
    let header: Vec<&str> = lines.next().unwrap().split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let systems: Vec<&str> = quorate_state::target::System::ALL.iter().map(|system| system.name()).collect();
    assert_eq!(header, systems, "a column for each");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let (mut rules, mut tests) = (0, 0);
    for line in lines.skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells[0].starts_with("**") {
            continue;
        }
        assert_eq!(cells.len(), systems.len() + 1, "{line}");
        rules += 1;
        for (cell, system) in cells[1..].iter().zip(&systems) {
            assert!(!cell.is_empty(), "{system}: {}", cells[0]);
            for link in cell.split("](").skip(1) {
                let (file, rest) = link.split_once(" \"").expect("a link has a test's name");
                let name = rest.split('"').next().unwrap();
                let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
                assert!(source.contains(&format!("fn {name}(")), "{system}, {}: {file} has no {name}", cells[0]);
                tests += 1;
            }
        }
    }
    assert!(rules > 20 && tests > rules * 6, "{rules} rules, {tests} tests: too few to be all");
}
