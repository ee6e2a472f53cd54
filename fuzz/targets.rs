//! Every decoder that other crates and strangers reach: what it takes, and what must hold of whatever it takes.
//!
//! Decoders that no other crate sees (the log's codec, images, the custodian's configuration) have their targets beside them.

use crate::engines;
use quorate_api::client::{Identity, Profile};
use quorate_api::relay::SignedQuestion;
use quorate_api::{custodian, peer, vault};
use quorate_audit::disk::Segments;
use quorate_crypto::backup::{BackupShare, restore};
use quorate_crypto::customer::{CustomerPublic, CustomerSecret};
use quorate_crypto::identity::Verified;
use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file};
use quorate_crypto::reshare::{Ceremony, EpochCertificate, Message as CeremonyMessage};
use quorate_crypto::sealed::{Header, ObjectLabel, WrapLabel, check_namespace, check_path, check_principal};
use quorate_crypto::secret::{Secret, SecretFields, SecretVec};
use quorate_crypto::storage::StorageKey;
use quorate_crypto::threshold::{KeyShare, combine};
use quorate_crypto::{dleq, group};
use quorate_state::command::Command;
use quorate_state::genesis::{ClientRoots, Genesis};
use quorate_state::lease::{Facts, MAX_LABEL, Username};
use quorate_state::machine::{Position, apply, check};
use quorate_state::outcome::Outcome;
use quorate_state::request::{Endorsement, SignedRequest};
use quorate_state::store::{MemStore, Value, decode, encode};
use std::io;
use std::sync::OnceLock;

/// A decoder and its rules.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Its name, and that of its folder in `fuzz/corpus`.
    pub(crate) name: &'static str,
    /// Panics where a rule is broken.
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "header", run: header },
    Target { name: "labels", run: labels },
    Target { name: "customer-keys", run: customer_keys },
    Target { name: "points", run: points },
    Target { name: "key-file", run: key_file },
    Target { name: "backup-share", run: backup_share },
    Target { name: "storage-value", run: storage_value },
    Target { name: "ceremony-message", run: ceremony_message },
    Target { name: "ceremony-state", run: ceremony_state },
    Target { name: "command", run: command },
    Target { name: "signed-request", run: signed_request },
    Target { name: "genesis", run: genesis },
    Target { name: "state-values", run: state_values },
    Target { name: "audit-log", run: audit_log },
    Target { name: "cluster-toml", run: cluster_toml },
    Target { name: "identity-pem", run: identity_pem },
    Target { name: "certificates", run: certificates },
    Target { name: "policy", run: policy },
    Target { name: "names", run: names },
    Target { name: "scram-verifier", run: scram_verifier },
    Target { name: "role-template", run: role_template },
    Target { name: "protobuf", run: protobuf },
    Target { name: "relayed", run: relayed },
    Target { name: "issued", run: issued },
    Target { name: "username", run: username },
    Target { name: "missing-rights", run: missing_rights },
    Target { name: "engine-postgres", run: engines::postgres },
    Target { name: "engine-mariadb", run: engines::mariadb },
    Target { name: "engine-redis", run: engines::redis },
    Target { name: "engine-rabbitmq", run: engines::rabbitmq },
    Target { name: "engine-kubernetes", run: engines::kubernetes },
    Target { name: "engine-aws", run: engines::aws },
];

fn header(input: &[u8]) {
    let Ok(header) = Header::decode(input) else { return };
    assert_eq!(header.as_bytes(), input, "a header has one encoding");
    let _ = header.verify_proof();
}

fn labels(input: &[u8]) {
    if let Ok(label) = ObjectLabel::decode(input) {
        assert_eq!(label.encode(), input, "an object label has one encoding");
    }
    if let Ok(label) = WrapLabel::decode(input) {
        assert_eq!(label.encode(), input, "a wrap label has one encoding");
    }
}

fn customer_keys(input: &[u8]) {
    if let Ok(key) = CustomerPublic::decode(input) {
        assert_eq!(key.encode(), input, "a customer's public key has one encoding");
    }
    if let Ok(key) = CustomerSecret::decode(input) {
        assert_eq!(key.encode().expose(), input, "a customer's secret key has one encoding");
    }
}

/// Points, partials, shares and proofs.
fn points(input: &[u8]) {
    let all: Vec<[u8; 32]> = input.chunks_exact(32).map(|c| c.try_into().unwrap_or_default()).collect();
    for bytes in &all {
        if let Ok(point) = group::point(bytes) {
            assert_eq!(group::encode(&point), *bytes, "a point has one encoding");
        }
        if let Ok(scalar) = group::scalar(bytes) {
            assert_eq!(scalar.to_bytes(), *bytes, "a scalar has one encoding");
        }
    }
    let indexed: Vec<(u8, [u8; 32])> = input.iter().copied().zip(all.iter().copied()).collect();
    let _ = combine(&indexed);
    let _ = KeyShare::from_secret(input);
    if let ([public, rest @ ..], Some(proof)) = (all.as_slice(), input.last_chunk::<64>()) {
        let (points, partials) = rest.split_at(rest.len() / 2);
        let _ = dleq::verify(public, points, partials, b"fuzz", proof);
    }
}

fn backup_share(input: &[u8]) {
    // Its checksum is no secret: whoever writes a share computes it.
    let (body, _) = input.split_at(input.len().saturating_sub(32));
    let checked = [body, &quorate_crypto::encoding::hash32("backup-share", &[body])].concat();
    for bytes in [input, &checked] {
        let Ok(share) = BackupShare::decode(bytes) else { continue };
        assert_eq!(share.encode()[..], *bytes, "a share has one encoding");
        let _ = restore(&[share]);
    }
}

fn key_file(input: &[u8]) {
    let key = Secret::init_with(|k| k.fill(0x42));
    let _ = open_file("share", input, &Protection::RawKey(&key));
    // What a passphrase costs is up to the file, within bounds: here only what costs little is tried.
    let cheap = input.get(9..21).is_some_and(|cost| cost[..2] == [0, 0] && cost[2] < 4 && cost[4..8] == [0, 0, 0, 1]);
    if cheap {
        let passphrase = SecretVec::new(b"correct horse battery staple".to_vec());
        let _ = open_file("share", input, &Protection::Passphrase(&passphrase, PassphraseCost::default()));
    }
}

fn storage_value(input: &[u8]) {
    let _ = StorageKey::new(&Secret::init_with(|k| k.fill(0x42))).open(&[b"state", b"key"], input);
}

fn ceremony_message(input: &[u8]) {
    let Ok(message) = CeremonyMessage::decode(input) else { return };
    assert_eq!(message.encode(), input, "a ceremony message has one encoding");
    let _ = format!("{message:?}");
}

fn ceremony_state(input: &[u8]) {
    if let Ok(ceremony) = borsh::from_slice::<Ceremony>(input) {
        assert!(borsh::to_vec(&ceremony).is_ok_and(|again| again == input), "a stored ceremony has one encoding");
        let _ = (ceremony.awaited(), ceremony.qualified(), ceremony.culprits(), ceremony.result_hash());
    }
    if let Ok(certificate) = borsh::from_slice::<EpochCertificate>(input) {
        let _ = (certificate.result_hash(), certificate.verify(&std::collections::BTreeMap::new()));
    }
}

/// A genesis that decodes, for a state that commands can be applied to.
const GENESIS: &str = include_str!("../crates/state/tests/golden/commands.txt");

fn golden_genesis() -> &'static Genesis {
    static KNOWN: OnceLock<Genesis> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let line = GENESIS.lines().find_map(|line| line.strip_prefix("genesis: ")).expect("the golden genesis");
        Genesis::from_bytes(&hex(line)).expect("the golden genesis is one")
    })
}

/// Hexadecimal digits as bytes; what is none is left out.
#[must_use]
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let digits: Vec<u8> = digits.bytes().filter_map(digit).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn command(input: &[u8]) {
    if let Ok(command) = Command::decode(input) {
        assert_eq!(command.encode(), input, "a command has one encoding");
        let _ = format!("{command:?} {command}");
    }
    // Whatever the log holds is applied: alike, and to a state that holds together.
    let mut store = MemStore::default();
    store.commit(golden_genesis().initial_state());
    let (cluster, at) = (golden_genesis().cluster(), Position { index: 1, term: 7 });
    let (writes, outcome) = apply(&store, &cluster, at, input, &Verified::default()).expect("a readable state");
    assert_eq!(
        apply(&store, &cluster, at, input, &Verified::default()).as_ref(),
        Ok(&(writes.clone(), outcome)),
        "the same twice"
    );
    if !writes.is_empty() {
        store.commit(writes);
        assert_eq!(check(&store), Ok(()), "the state holds together");
    }
}

fn signed_request(input: &[u8]) {
    if let Ok(signed) = borsh::from_slice::<SignedRequest>(input) {
        let _ = (signed.hash(), signed.caller().copied());
        if let Ok(request) = signed.request() {
            let _ = signed.verify(&request, &golden_genesis().administrators, &Verified::default());
            let _ = (request.change.kind(), request.change.resource(), request.change.needs_administrators());
        }
    }
    if let Ok(endorsement) = borsh::from_slice::<Endorsement>(input) {
        let _ =
            endorsement.is_valid(&golden_genesis().cluster(), &golden_genesis().roster, &[0; 64], &Verified::default());
    }
}

fn genesis(input: &[u8]) {
    let Ok(genesis) = Genesis::from_bytes(input) else { return };
    assert_eq!(genesis.to_bytes(), input, "a genesis has one encoding");
    let _ = genesis.initial_state();
}

fn state_values(input: &[u8]) {
    fn one<T: Value>(input: &[u8]) {
        if let Ok(value) = decode::<T>(1, input) {
            assert_eq!(encode(&value), input, "a value of the state has one encoding");
        }
    }
    one::<quorate_state::absence::Records>(input);
    one::<quorate_state::access::CustomerKey>(input);
    one::<quorate_state::access::Keyring>(input);
    one::<quorate_state::access::Mount>(input);
    one::<quorate_state::access::Namespace>(input);
    one::<quorate_state::access::Policy>(input);
    one::<quorate_state::ceremony::Fault>(input);
    one::<quorate_state::ceremony::Session>(input);
    one::<quorate_state::clock::ClusterClock>(input);
    one::<quorate_state::genesis::Administrators>(input);
    one::<ClientRoots>(input);
    one::<quorate_state::genesis::Roster>(input);
    one::<quorate_state::hash::StateHash>(input);
    one::<quorate_state::lease::Lease>(input);
    one::<quorate_state::lease::Sweep>(input);
    one::<Outcome>(input);
    one::<quorate_state::request::Remembered>(input);
    one::<quorate_state::secrets::SealedHeader>(input);
    one::<quorate_state::secrets::SealedPayload>(input);
    one::<quorate_state::secrets::Secret>(input);
    one::<quorate_state::target::Executor>(input);
    one::<quorate_state::target::Quarantine>(input);
    one::<quorate_state::target::Role>(input);
    one::<quorate_state::target::Target>(input);
}

struct OneSegment<'a>(&'a [u8]);

impl Segments for OneSegment<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(vec!["audit-00000001.jsonl".to_owned()])
    }

    fn read(&self, _: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }
}

fn audit_log(input: &[u8]) {
    let segment = OneSegment(input);
    if let Ok(records) = quorate_audit::read_from(&segment, None) {
        for record in records {
            match record {
                Ok(record) => drop(format!("{record:?}")),
                Err(_) => break,
            }
        }
    }
}

fn text(input: &[u8]) -> Option<&str> {
    core::str::from_utf8(input).ok()
}

fn cluster_toml(input: &[u8]) {
    let _ = text(input).map(Profile::parse);
}

fn identity_pem(input: &[u8]) {
    let _ = Identity::from_pem(input);
}

/// A chain of one or two certificates, and one as the CA.
fn certificates(input: &[u8]) {
    let (first, second) = input.split_at(input.len() / 2);
    let roots = |der: &[u8]| ClientRoots { certificates: vec![der.to_vec()], trust_domain: "example.org".to_owned() };
    let now = 1_800_000_000_000;
    let _ = quorate_authz::authenticate(&[input.to_vec()], &golden_genesis().client_roots, now);
    let _ = quorate_authz::authenticate(&[first.to_vec(), second.to_vec()], &roots(second), now);
    let _ = quorate_authz::authenticate(&[input.to_vec()], &roots(input), now);
}

fn policy(input: &[u8]) {
    let _ = text(input).map(|text| quorate_authz::validate("fuzz", text));
}

fn names(input: &[u8]) {
    let Some(text) = text(input) else { return };
    if check_path(text).is_ok() {
        let bad = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        assert!(
            !text.split('/').any(bad) && !text.chars().any(char::is_control) | text.chars().any(|c| c >= '\u{80}'),
            "{text:?}"
        );
    }
    let _ = (check_namespace(text), check_principal(text), quorate_authz::spiffe::SpiffeId::parse(text));
    let _ = (quorate_state::ids::check_label(text), quorate_state::ids::check_trust_domain(text));
    if let Some(bytes) = quorate_state::ids::parse_hex::<32>(text) {
        assert!(quorate_state::ids::hex(&bytes).eq_ignore_ascii_case(text), "{text:?}");
    }
}

fn scram_verifier(input: &[u8]) {
    use quorate_state::lease::Form;
    let forms = [
        Form::default(),
        Form::MySqlNative,
        Form::MariaDbEd25519,
        Form::RedisSha256,
        Form::RabbitMqSha256,
        Form::Sealed,
    ];
    let _ = text(input).map(|text| forms.map(|form| form.check(text)));
}

fn role_template(input: &[u8]) {
    use quorate_engines::postgres::template::{MAX_STATEMENTS, parse};
    let Some(Ok(template)) = text(input).map(parse) else { return };
    assert!(template.for_lease("lease").len() <= MAX_STATEMENTS);
    let bad = |group: &String| group.is_empty() || group.len() > 63 || group.contains([';', '\0', '\n']);
    assert!(!template.groups().iter().any(bad), "{:?}", template.groups());
}

fn protobuf(input: &[u8]) {
    use prost::Message;
    fn one<M: Message + Default + std::fmt::Debug>(input: &[u8]) {
        if let Ok(message) = M::decode(input) {
            let again = M::decode(message.encode_to_vec().as_slice());
            assert!(
                again.is_ok_and(|again| again.encode_to_vec() == message.encode_to_vec()),
                "what is read is written alike"
            );
            let _ = format!("{message:?}");
        }
    }
    one::<vault::SubmitRequest>(input);
    one::<vault::SubmitReply>(input);
    one::<vault::OpenRequest>(input);
    one::<vault::OpenReply>(input);
    one::<vault::ListSecretsRequest>(input);
    one::<vault::ListSecretsReply>(input);
    one::<vault::ReadVersionsRequest>(input);
    one::<vault::ReadVersionsReply>(input);
    one::<vault::ReadMountsRequest>(input);
    one::<vault::ReadMountsReply>(input);
    one::<vault::ReadPoliciesRequest>(input);
    one::<vault::ReadPoliciesReply>(input);
    one::<vault::ReadRolesRequest>(input);
    one::<vault::ReadRolesReply>(input);
    one::<vault::ReadLeaseRequest>(input);
    one::<vault::Lease>(input);
    one::<vault::ListLeasesRequest>(input);
    one::<vault::ListLeasesReply>(input);
    one::<vault::ReadStatusRequest>(input);
    one::<vault::ReadStatusReply>(input);
    one::<vault::RelayRequest>(input);
    one::<vault::RelayedAnswer>(input);
    one::<peer::EndorseRequest>(input);
    one::<peer::EndorseReply>(input);
    one::<peer::ProposeRequest>(input);
    one::<peer::ProposeReply>(input);
    one::<peer::ReadClockRequest>(input);
    one::<peer::ReadClockReply>(input);
    one::<peer::OpenTargetRequest>(input);
    one::<peer::OpenTargetReply>(input);
    one::<peer::AnswerRequest>(input);
    one::<peer::AnswerReply>(input);
    one::<peer::AttestRequest>(input);
    one::<peer::AttestReply>(input);
    one::<custodian::DeriveRequest>(input);
    one::<custodian::DeriveReply>(input);
    one::<custodian::FreezeRequest>(input);
    one::<custodian::ThawRequest>(input);
    one::<custodian::StatusRequest>(input);
    one::<custodian::StatusReply>(input);
    if let Ok(reply) = vault::OpenReply::decode(input) {
        let _ = quorate_api::transcript::open_reply_transcript(&reply);
    }
}

/// A question that another member passes on, and its answer.
fn relayed(input: &[u8]) {
    let Ok(signed) = SignedQuestion::decode(input) else { return };
    assert_eq!(signed.encode(), input, "a relayed question has one encoding");
    let _ = (signed.hash(), signed.verify());
    if let Ok(question) = signed.question() {
        assert!(question.members.is_sorted_by(|a, b| a < b), "who is to answer, each once");
        let _ = format!("{question:?}");
    }
}

/// What a target issued, after it was opened.
fn issued(input: &[u8]) {
    let Some(fields) = SecretFields::decode(input) else { return };
    assert_eq!(fields.encode().expose(), input, "what is issued has one encoding");
    assert!(fields.iter().all(|(name, _)| fields.get(name).is_some()), "each is found by its name");
}

/// A template, and behind its line what it is told of a lease.
fn username(input: &[u8]) {
    let Some(text) = text(input) else { return };
    let (template, rest) = text.split_once('\n').unwrap_or((text, "Ä/b"));
    let Ok(username) = Username::parse(template) else { return };
    let label = username.label(&Facts { role: rest, owner: rest, namespace: rest });
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    assert!(label.len() <= MAX_LABEL && label.bytes().all(plain), "{label:?}");
}

/// What an administrator is to run, as one line.
fn missing_rights(input: &[u8]) {
    let Some(text) = text(input) else { return };
    let missing = quorate_engines::Missing::parse(text);
    let names_one = !missing.database.is_empty();
    assert!(
        !names_one || quorate_engines::Missing::parse(&missing.to_string()) == missing,
        "a line says the same when it is read again"
    );
}
