//! Who is not who it says: four roots of trust that never mix.

use crate::stage::Stage;
use quorate_api::client::Identity;
use quorate_api::tls::TlsIdentity;
use quorate_tests::Cluster;
use std::path::Path;
use std::time::Duration;

const STATUS: &str = "/quorate.vault.v1.Vault/ReadStatus";

pub(crate) async fn section(cluster: &Cluster) {
    let stage = Stage::new(cluster, "identities", 2).await;
    let stolen = cluster.steal(3).unwrap();
    let customers = Identity::load(Path::new(cluster.text("/custodian/identities/demo").unwrap())).unwrap();
    let (node, custodian) = (stage.node, cluster.custodian_wire(stage.demo.tls()).unwrap());

    for (what, identity) in [
        ("a member's certificate as a client", stolen.tls.clone()),
        ("a certificate of another CA", forged(stage.demo.principal()).tls().clone()),
        ("a certificate of the customer's CA", customers.tls().clone()),
        ("a CA's certificate by itself", self_signed_ca()),
    ] {
        let answer = cluster.wire(node, &identity).unwrap().say(STATUS, &[]).await;
        stage.refused(&format!("clients' port: {what}"), "unreachable", "", answer).await;
    }
    for (what, identity) in [
        ("a client's certificate as a member", stage.demo.tls().clone()),
        ("a key that is no member's", TlsIdentity::self_signed(customers.key(), "n3").unwrap()),
    ] {
        let wire = cluster.peer_wire(node, &identity).unwrap();
        for call in [
            "/quorate.peer.v1.Peer/Endorse",
            "/quorate.peer.v1.Peer/Propose",
            "/quorate.raft.v1.Peer/Append",
            "/quorate.raft.v1.Peer/Vote",
        ] {
            stage.refused(&format!("peers' port: {what}: {call}"), "unreachable", "", wire.say(call, &[]).await).await;
        }
    }
    let derive = "/quorate.custodian.v1.Custodian/Derive";
    stage
        .refused("custodian: a certificate of the cluster's CA", "unreachable", "", custodian.say(derive, &[]).await)
        .await;
    let by_member = cluster.custodian_wire(&stolen.tls).unwrap();
    stage.refused("custodian: a member's certificate", "unreachable", "", by_member.say(derive, &[]).await).await;

    // A server that is not the pinned one learns nothing, not even who is calling.
    let mut profile = cluster.profile().clone();
    let (one, other) = (profile.members[0].api_address.clone(), profile.members[1].api_address.clone());
    profile.members[0].api_address = other;
    profile.members[1].api_address = one;
    let client =
        cluster.client_with(profile, cluster.identity("demo").unwrap()).unwrap().with_timeout(Duration::from_secs(3));
    stage
        .refused(
            "members that answer in each other's place",
            "not_enough_members",
            "",
            client.get("default", "app/demo/lasting", None).await,
        )
        .await;

    let mut profile = cluster.profile().clone();
    profile.members[0].api_address = "nowhere".to_owned();
    let client = cluster.client_with(profile, cluster.identity("demo").unwrap());
    let failure = client.map(drop).map_err(|why| why.downcast().unwrap());
    stage.refused("an address that is none", "client_setup", "nowhere", failure).await;

    // Raft's calls of a member under another cluster's name.
    let wire = cluster.peer_wire(node, &stolen.tls).unwrap();
    let append = wire.say("/quorate.raft.v1.Peer/Vote", &[]).await;
    assert!(append.is_err(), "a call between members without the cluster's id is refused");
    stage.well("a call between members without the cluster's id").await;

    expired(&stage).await;
    stage.end().await;
}

/// A certificate is looked at with every request, not once for a connection.
async fn expired(stage: &Stage<'_>) {
    let out = format!("{}/short.pem", stage.cluster.text("/folder").unwrap());
    let (operator, passphrase) =
        (stage.cluster.text("/operator").unwrap(), stage.cluster.text("/passphrase_file").unwrap());
    let arguments = [
        "identity",
        "issue",
        "--operator",
        operator,
        "--name",
        "app/short",
        "--ttl",
        "4s",
        "--out",
        &out,
        "--passphrase-file",
        passphrase,
    ];
    let issued = stage.cluster.cli("admin", &arguments, b"").unwrap();
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    let short = Identity::load(Path::new(&out)).unwrap();
    let wire = stage.cluster.wire(stage.node, short.tls()).unwrap();
    wire.say(STATUS, &[]).await.expect("it is valid for some seconds");
    let client = stage.cluster.client_as(Identity::load(Path::new(&out)).unwrap(), &[1, 2, 3]).unwrap();
    let signed = client.sign(quorate_state::change::Change::CreateNamespace { namespace: "late".to_owned() }, None);
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    stage
        .refused(
            "a connection that outlives its certificate",
            "unauthenticated",
            "expired",
            wire.say(STATUS, &[]).await,
        )
        .await;
    stage.refused("a request that outlives its certificate", "unauthenticated", "", wire.submit(&signed).await).await;
    let fresh = stage.cluster.wire(stage.node, short.tls()).unwrap();
    stage.refused("a connection with an expired certificate", "unreachable", "", fresh.say(STATUS, &[]).await).await;
}

/// A certificate for `principal`, by a CA that the cluster does not know.
fn forged(principal: &str) -> Identity {
    let ca_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut leaf = rcgen::CertificateParams::default();
    leaf.subject_alt_names = vec![rcgen::SanType::URI(principal.try_into().unwrap())];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    Identity::from_pem(format!("{}{}", certificate.pem(), key.serialize_pem()).as_bytes()).unwrap()
}

fn self_signed_ca() -> TlsIdentity {
    use quorate_crypto::identity::SigningKey;
    use quorate_crypto::secret::Secret;
    TlsIdentity::self_signed(&SigningKey::from_seed(&Secret::init_with(|s| s.fill(9))), "n1").unwrap()
}
