//! `docs/wire.md`, followed by hand, gives the bytes that the program signs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

use quorate_api::relay::{self, Answer, Asked, Question, SignedQuestion, Version};
use quorate_crypto::answer::AnswerKey;
use quorate_crypto::encoding::lp;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::secret::Secret;
use quorate_state::change::Change;
use quorate_state::clock::Reading;
use quorate_state::ids::{ClusterId, LeaseId, RequestId, SessionId};
use quorate_state::lease::Selector;
use quorate_state::outcome::Outcome;
use quorate_state::request::{Endorsement, Request, SignedRequest};

fn key() -> SigningKey {
    SigningKey::from_seed(&Secret::init_with(|s| s.fill(7)))
}

/// Borsh of a string or of bytes.
fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
}

fn transcript(purpose: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    lp(&mut out, format!("quorate/v1/{purpose}").as_bytes());
    fields.iter().for_each(|field| lp(&mut out, field));
    out
}

fn verify(message: &[u8], signature: &[u8; 64]) {
    // A second implementation of the signature.
    let public = key().verify_key().0;
    let verifier = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let ed25519 = verifier.mapping.iter().find(|(s, _)| *s == rustls::SignatureScheme::ED25519).unwrap().1[0];
    ed25519.verify_signature(&public, message, signature).unwrap();
}

#[test]
fn requests_and_their_signatures() {
    let request = Request {
        cluster: ClusterId([1; 32]),
        id: RequestId([2; 16]),
        change: Change::RenewLease { lease: LeaseId([3; 16]), ttl: 4 },
        reply_to: None,
        expected_authority_version: Some(5),
        not_after: 6,
        principal: "spiffe://a/b".into(),
        chain: vec![vec![7, 8]],
    };
    let mut bytes = vec![1];
    bytes.extend([1; 32]);
    bytes.extend([2; 16]);
    bytes.push(16);
    bytes.extend([3; 16]);
    bytes.extend(4u64.to_le_bytes());
    bytes.push(0);
    bytes.push(1);
    bytes.extend(5u64.to_le_bytes());
    bytes.extend(6u64.to_le_bytes());
    text(&mut bytes, b"spiffe://a/b");
    bytes.extend(1u32.to_le_bytes());
    text(&mut bytes, &[7, 8]);

    let signed = SignedRequest::sign(&request, &key(), &[]);
    assert_eq!(signed.bytes, bytes);
    let mut outer = Vec::new();
    text(&mut outer, &bytes);
    outer.extend(1u32.to_le_bytes());
    outer.extend(key().verify_key().0);
    outer.extend(signed.signatures[0].signature);
    assert_eq!(borsh::to_vec(&signed).unwrap(), outer);
    verify(&transcript("request", &[&bytes]), &signed.signatures[0].signature);
}

#[test]
fn endorsements_and_readings() {
    let e = Endorsement::sign(&ClusterId([1; 32]), 2, 3, 4, 5, vec![[6; 64], [7; 64]], &key());
    let mut bytes = Vec::new();
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    bytes.push(4);
    bytes.extend(5u64.to_le_bytes());
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([6; 64]);
    bytes.extend([7; 64]);
    bytes.extend(e.signature);
    assert_eq!(borsh::to_vec(&e).unwrap(), bytes);
    let (roster, version, clock) = (2u64.to_be_bytes(), 3u64.to_be_bytes(), 5u64.to_be_bytes());
    let hashes = [[6; 64], [7; 64]].concat();
    verify(&transcript("endorse", &[&[1; 32], &roster, &version, &[4], &clock, &hashes]), &e.signature);

    let r = Reading::sign(&ClusterId([1; 32]), 2, 4, 3, 5, &key());
    let bytes = [&[4][..], &3u64.to_le_bytes(), &5u64.to_le_bytes(), &r.signature].concat();
    assert_eq!(borsh::to_vec(&r).unwrap(), bytes);
    verify(&transcript("reading", &[&[1; 32], &roster, &[4], &version, &clock]), &r.signature);
}

/// The page numbers the variants as the encoding does.
#[test]
fn every_change_and_outcome_has_its_number_on_the_page() {
    let page = include_str!("../../../docs/wire.md");
    let number = |name: &str| -> u8 {
        let row = page.lines().find(|l| l.split('|').nth(2).is_some_and(|c| c.trim() == name)).unwrap();
        row.split('|').nth(1).unwrap().trim().parse().unwrap()
    };
    let s = String::new;
    let (namespace, path, numbers) = (s(), s(), vec![]);
    let changes = [
        (Change::DestroySecret { namespace, path, numbers }, "DestroySecret"),
        (Change::CreateNamespace { namespace: s() }, "CreateNamespace"),
        (Change::PutPolicy { name: s(), text: s() }, "PutPolicy"),
        (Change::UnblockIdentity { principal: s() }, "UnblockIdentity"),
        (Change::DeleteRole { name: s() }, "DeleteRole"),
        (Change::IssueLease { role: s(), verifier: s(), ttl: None }, "IssueLease"),
        (Change::RevokeLease { lease: LeaseId([0; 16]) }, "RevokeLease"),
        (Change::ResetClock { to: 0 }, "ResetClock"),
        (Change::RevokeLeases { selector: Selector::Role(s()) }, "RevokeLeases"),
    ];
    for (change, name) in changes {
        assert_eq!(borsh::to_vec(&change).unwrap()[0], number(name), "{name}");
    }
    let lease = LeaseId([0; 16]);
    let outcomes = [
        (Outcome::Done, "Done"),
        (Outcome::Intent { lease, principal: s(), expires_at: 0 }, "Intent"),
        (Outcome::Renewed { lease, expires_at: 0 }, "Renewed"),
        (Outcome::Ceremony { keyring: None }, "Ceremony"),
        (Outcome::Time { now: 0, jumped: false }, "Time"),
        (Outcome::Fault { session: SessionId([0; 32]), member: 1, what: s() }, "Fault"),
    ];
    for (outcome, name) in outcomes {
        assert_eq!(borsh::to_vec(&outcome).unwrap()[0], number(name), "{name}");
    }
}

/// HPKE draws the ephemeral key's 32 bytes of keying material, and nothing else.
struct Fixed(u8);

impl rand_core::TryRng for Fixed {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(self.0);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Fixed {}

/// Frozen in `tests/golden/relay.txt`, one `name: hexadecimal digits` a line, which no release may change.
#[test]
fn relayed_questions_and_answers() {
    let own = AnswerKey::from_seed(Secret::init_with(|s| s.fill(9)));
    let question = |ask| Question {
        cluster: ClusterId([1; 32]),
        id: RequestId([2; 16]),
        ask,
        epk: own.public(),
        members: vec![1, 3],
        not_after: 4,
        principal: "spiffe://a/b".into(),
        chain: vec![vec![7, 8]],
    };
    let items = vec![Version { namespace: "n".into(), path: "p/q".into(), number: 5 }];
    let open = question(Asked::Open { min_index: 6, prove: true, content: vec![3], items });
    let mut bytes = vec![1];
    bytes.extend([1; 32]);
    bytes.extend([2; 16]);
    bytes.push(0);
    bytes.extend(6u64.to_le_bytes());
    bytes.push(1);
    text(&mut bytes, &[3]);
    bytes.extend(1u32.to_le_bytes());
    text(&mut bytes, b"n");
    text(&mut bytes, b"p/q");
    bytes.extend(5u64.to_le_bytes());
    let common = |bytes: &mut Vec<u8>| {
        bytes.extend(own.public());
        text(bytes, &[1, 3]);
        bytes.extend(4u64.to_le_bytes());
        text(bytes, b"spiffe://a/b");
        bytes.extend(1u32.to_le_bytes());
        text(bytes, &[7, 8]);
    };
    common(&mut bytes);
    let signed = SignedQuestion::sign(&open, &key());
    assert_eq!(signed.bytes, bytes);
    verify(&transcript("question", &[&bytes]), &signed.signature);
    let mut outer = vec![1];
    text(&mut outer, &bytes);
    outer.extend(key().verify_key().0);
    outer.extend(signed.signature);
    assert_eq!(signed.encode(), outer);

    let mounts = SignedQuestion::sign(&question(Asked::ReadMounts { namespace: "n".into() }), &key());
    let mut bytes = vec![1];
    bytes.extend([1; 32]);
    bytes.extend([2; 16]);
    bytes.push(1);
    text(&mut bytes, b"n");
    common(&mut bytes);
    assert_eq!(mounts.bytes, bytes);

    let hash = signed.hash();
    assert_eq!(hash, sha512(&transcript("signed-question", &[&signed.bytes, &signed.key, &signed.signature])));
    let answer = Answer::Refused { code: "denied".into(), reason: "no".into() };
    let sealed = relay::seal(&open, &hash, 3, &key(), &answer, &mut Fixed(5)).unwrap();
    let info = transcript("relay", &[&[1; 32], &hash, &[3]]);
    let mut said = vec![2];
    text(&mut said, b"denied");
    text(&mut said, b"no");
    let inside = own.open(&info, &sealed).unwrap();
    let (head, signature) = inside.expose().split_at(1 + 4 + said.len());
    let mut expected = vec![1];
    text(&mut expected, &said);
    assert_eq!(head, expected);
    verify(&transcript("relayed", &[&[1; 32], &hash, &[3], &said]), &signature.try_into().unwrap());
    for (variant, number) in [(Answer::Opened(vec![]), 0), (Answer::Mounts(vec![]), 1)] {
        assert_eq!(borsh::to_vec(&variant).unwrap(), [number, 0, 0, 0, 0]);
    }

    let now: Vec<String> = [
        ("answer-key-seed", vec![9; 32]),
        ("open", signed.encode()),
        ("read-mounts", mounts.encode()),
        ("open-hash", hash.to_vec()),
        ("member-key", key().verify_key().0.to_vec()),
        ("answer", said),
        ("sealed-answer-of-3", sealed),
    ]
    .iter()
    .map(|(name, bytes)| format!("{name}: {}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()))
    .collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/relay.txt");
    if std::env::var_os("QUORATE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, now.join("\n") + "\n").unwrap();
    }
    let then = std::fs::read_to_string(&path).unwrap();
    assert_eq!(now, then.lines().collect::<Vec<_>>(), "golden/relay.txt");
}

fn sha512(bytes: &[u8]) -> [u8; 64] {
    use sha2::Digest as _;
    sha2::Sha512::digest(bytes).into()
}
