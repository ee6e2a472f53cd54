//! Bytes that are no message, or too many of them.

use crate::stage::Stage;
use quorate_api::MAX_MESSAGE;
use quorate_api::tls::client_config;
use quorate_state::change::Change;
use quorate_state::request::SignedRequest;
use quorate_tests::Cluster;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Every call of the clients' port.
const CALLS: [&str; 10] = [
    "Submit",
    "Open",
    "ListSecrets",
    "ReadVersions",
    "ReadMounts",
    "ReadPolicies",
    "ReadRoles",
    "ReadLease",
    "ListLeases",
    "ReadStatus",
];

fn call(name: &str) -> String {
    format!("/quorate.vault.v1.Vault/{name}")
}

pub(crate) async fn section(cluster: &Cluster) {
    let stage = Stage::new(cluster, "bytes", 1).await;
    messages(&stage).await;
    sizes(&stage).await;
    frames(&stage).await;
    canonical_bytes(&stage).await;
    below_grpc(&stage).await;
    the_custodian(&stage).await;
    stage.end().await;
}

async fn messages(stage: &Stage<'_>) {
    let wire = stage.wire();
    for name in CALLS {
        // Field 1, a length of 200, and no such bytes.
        stage
            .refused(&format!("a cut {name}"), "malformed_command", "", wire.say(&call(name), &[0x0a, 200, 1]).await)
            .await;
    }
    for (what, message) in [
        ("text", b"GET / HTTP/1.1\r\n\r\n".as_slice()),
        ("all ones", &[0xff; 64]),
        ("a wire type that is none", &[0x0e, 1]),
        ("field 0", &[0x00, 1]),
        ("a number of eleven bytes", &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ("a name that is no UTF-8", &[0x0a, 2, 0xc3, 0x28]),
    ] {
        let answer = wire.say(&call("ListSecrets"), message).await;
        stage.refused(what, "malformed_command", "", answer).await;
    }
    for unknown in
        ["/quorate.vault.v1.Vault/Unseal", "/quorate.vault.v2.Vault/Open", "/quorate.peer.v1.Peer/Endorse", "/x"]
    {
        stage.refused(unknown, "malformed_command", "no such call", wire.say(unknown, &[]).await).await;
    }
    // A field of a later release is no error.
    wire.say(&call("ReadRoles"), &[0xfa, 0x3f, 3, 1, 2, 3]).await.expect("an unknown field is passed over");
    let nonsense = [0x1a, 5, b'm', b'a', b'y', b'b', b'e'];
    stage
        .refused("a state that is none", "invalid_argument", "state", wire.say(&call("ListLeases"), &nonsense).await)
        .await;
    stage
        .refused(
            "a lease id of 3 bytes",
            "invalid_argument",
            "16 bytes",
            wire.say(&call("ReadLease"), &[0x0a, 3, 1, 2, 3]).await,
        )
        .await;
    stage
        .refused("a question about nothing", "invalid_argument", "request_id", wire.say(&call("Open"), &[]).await)
        .await;
}

async fn sizes(stage: &Stage<'_>) {
    let wire = stage.wire();
    let mut message = vec![0x0a];
    let mut length = MAX_MESSAGE;
    while length > 127 {
        message.push(u8::try_from(length & 127).unwrap() | 128);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap());
    message.resize(MAX_MESSAGE + 16, 7);
    for name in ["Submit", "Open", "ReadStatus"] {
        stage
            .refused(&format!("{name} of more than 8 MiB"), "too_large", "", wire.say(&call(name), &message).await)
            .await;
    }
    // As many bytes as a message may have, and not a request.
    let filled = [&[0x0a, 0x80, 0x80, 0x80, 3], vec![7; 6 << 20].as_slice()].concat();
    stage.refused("6 MiB of sevens", "malformed_command", "", wire.say(&call("Submit"), &filled).await).await;
    // A policy as large as a message: refused by its own limit, before it is compiled.
    let text = "/".repeat(7 << 20);
    let admin = stage.cluster.identity("admin").unwrap();
    let mut request = stage.cluster.request(&admin, Change::PutPolicy { name: "large".to_owned(), text });
    request.expected_authority_version =
        Some(stage.cluster.admin().unwrap().policies().await.unwrap().authority_version);
    let signed = SignedRequest::sign(&request, admin.key(), &[&stage.cluster.administrator().unwrap()]);
    let answer = stage.cluster.wire(stage.node, admin.tls()).unwrap().submit(&signed).await;
    stage.refused("a policy of 7 MiB", "policy_invalid", "longer than", answer).await;
}

async fn frames(stage: &Stage<'_>) {
    for (what, frame) in [
        ("2 GB announced", "\u{0}\u{7f}\u{7f}\u{7f}\u{7f}xyz"),
        ("a cut head", "\u{0}\u{0}"),
        ("a cut body", "\u{0}\u{0}\u{0}\u{0}\u{9}xyz"),
        ("compressed by nothing", "\u{1}\u{0}\u{0}\u{0}\u{3}xyz"),
        ("an unknown flag", "\u{7}\u{0}\u{0}\u{0}\u{3}xyz"),
        ("no message", ""),
    ] {
        let answer = stage.wire().frame(&call("Submit"), frame).await;
        stage.refused_as(what, &["malformed_command", "too_large"], "", answer).await;
    }
}

/// What is signed has an encoding of its own: one for each request, and no other is read.
async fn canonical_bytes(stage: &Stage<'_>) {
    let wire = stage.wire();
    let good = stage.cluster.request(&stage.demo, Change::CreateNamespace { namespace: "hostile".to_owned() });
    let mut bytes = SignedRequest::sign(&good, stage.demo.key(), &[]);
    let resign = |bytes: Vec<u8>| {
        use quorate_state::request::Signature;
        let key = stage.demo.key();
        let signature = Signature { key: key.verify_key().0, signature: key.sign("request", &[&bytes]) };
        SignedRequest { bytes, signatures: vec![signature] }
    };
    // version || cluster 32 || id 16 || variant of the change
    let variant = 1 + 32 + 16;
    for (what, alter) in [
        (
            "an operation of a later release",
            Box::new(move |b: &mut Vec<u8>| b[variant] = 99) as Box<dyn Fn(&mut Vec<u8>)>,
        ),
        ("another version", Box::new(|b| b[0] = 9)),
        ("a byte too many", Box::new(|b| b.push(0))),
        ("a byte too few", Box::new(|b| b.truncate(b.len() - 1))),
        ("a name of 4 GB", Box::new(move |b| b[variant + 1..variant + 5].copy_from_slice(&[0xff; 4]))),
        ("nothing", Box::new(Vec::clear)),
    ] {
        let mut altered = bytes.bytes.clone();
        alter(&mut altered);
        stage.refused(what, "malformed_command", "format", wire.submit(&resign(altered)).await).await;
    }
    let begin = stage.cluster.request(
        &stage.demo,
        Change::BeginKeyGeneration {
            session: quorate_state::ids::SessionId([1; 32]),
            class: quorate_crypto::keyring::KeyringClass::Customer,
        },
    );
    let mut class = SignedRequest::sign(&begin, stage.demo.key(), &[]).bytes;
    class[variant + 1 + 32] = 2;
    stage.refused("a class that is none", "malformed_command", "format", wire.submit(&resign(class)).await).await;
    bytes.signatures.clear();
    stage.refused("no signature", "not_your_request", "", wire.submit(&bytes).await).await;
    let mut raw = borsh::to_vec(&resign(bytes.bytes)).unwrap();
    raw.push(0);
    let message =
        [&[0x0a, u8::try_from(raw.len() & 127).unwrap() | 128, u8::try_from(raw.len() >> 7).unwrap()], raw.as_slice()]
            .concat();
    stage
        .refused(
            "a byte behind the signatures",
            "malformed_command",
            "format",
            wire.say(&call("Submit"), &message).await,
        )
        .await;
}

/// What is no gRPC at all: nobody answers it, and nobody is kept from working.
async fn below_grpc(stage: &Stage<'_>) {
    let member = stage.cluster.profile().member(stage.node).unwrap().clone();
    let ports = [
        member.api_address.clone(),
        stage.cluster.text(&format!("/members/{}/peer_address", member.name)).unwrap().to_owned(),
    ];
    let mut silent = Vec::new();
    for port in &ports {
        for garbage in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), &[0x16, 3, 1, 0xff, 0xff, 1, 0], &[0; 4_096]] {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
            assert!(answer.len() < 64, "garbage at {port} has no answer but an alert: {answer:?} {read:?}");
        }
        for _ in 0..50 {
            silent.push(TcpStream::connect(port).await.unwrap());
        }
    }
    stage.well("garbage instead of TLS, and 100 connections that say nothing").await;
    let config = client_config(stage.demo.tls(), member.key).unwrap();
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0xff; 9],
    ] {
        let stream = TcpStream::connect(&member.api_address).await.unwrap();
        let name = ServerName::try_from("member.invalid").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
        stage.well("garbage instead of HTTP/2").await;
    }
    drop(silent);
}

async fn the_custodian(stage: &Stage<'_>) {
    let caller = quorate_api::client::Identity::load(std::path::Path::new(
        stage.cluster.text("/custodian/identities/demo").unwrap(),
    ))
    .unwrap();
    let wire = stage.cluster.custodian_wire(caller.tls()).unwrap();
    let derive = "/quorate.custodian.v1.Custodian/Derive";
    stage.refused("custodian: a cut question", "malformed_command", "", wire.say(derive, &[0x0a, 99]).await).await;
    stage
        .refused("custodian: more than 8 MiB", "too_large", "", wire.say(derive, &vec![7; MAX_MESSAGE + 1]).await)
        .await;
    stage.refused("custodian: no such call", "malformed_command", "", wire.say("/x.Y/Z", &[]).await).await;
    stage
        .refused(
            "custodian: an id of 2 bytes",
            "invalid_argument",
            "16 bytes",
            wire.say(derive, &[0x0a, 2, 1, 2]).await,
        )
        .await;
    let freeze = "/quorate.custodian.v1.Custodian/Freeze";
    stage
        .refused("custodian: a freeze by no warden", "custodian_denied", "no warden", wire.say(freeze, &[]).await)
        .await;
    let opened = stage.cluster.client("demo").unwrap().get("default", "vault/demo/lasting", None).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"the customer's", "the custodian answers a good question afterwards");
}
