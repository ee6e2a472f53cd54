//! Names that are none, questions that go too far, and text that is meant for somebody else's parser.

use crate::stage::Stage;
use quorate_api::client::{Client, Endpoint, Form, Role, TargetSpec, TargetTls};
use quorate_api::scram::verifier;
use quorate_api::status::Failure;
use quorate_api::vault::{ListSecretsRequest, OpenRequest, ReadMountsRequest, ReadVersionsRequest, SecretVersion};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::change::Change;
use quorate_state::ids::{KeyringId, LeaseId};
use quorate_tests::Cluster;
use quorate_tests::hostile::random;
use std::path::Path;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

pub(crate) async fn section(cluster: &Cluster) {
    let stage = Stage::new(cluster, "names", 3).await;
    paths(&stage).await;
    questions(&stage).await;
    verifiers(&stage).await;
    names_of_things(&stage).await;
    stage.end().await;
    text_for_the_database(cluster).await;
}

async fn paths(stage: &Stage<'_>) {
    let demo = stage.cluster.through("demo", &[stage.node]).unwrap();
    let mut vault = stage.wire().vault();
    let long = format!("app/demo/{}", "x".repeat(512));
    for path in [
        "app/demo/../secret",
        "app/demo/..",
        "../app/demo/x",
        "app/demo/./x",
        "/app/demo/x",
        "app//demo/x",
        "app/demo/x/",
        "app/demo/\u{0}",
        "app/demo/a\nb",
        "app/demo/\u{1b}[2J",
        "app/demo/\u{7f}",
        &long,
    ] {
        let what = |of: &str| format!("{of} {path:?}");
        let numbers = vec![1];
        for change in [
            Change::DeleteSecret { namespace: "default".into(), path: path.into(), numbers: numbers.clone() },
            Change::PutSecret {
                namespace: "default".into(),
                path: path.into(),
                header: vec![],
                payload: vec![],
                expected: None,
            },
        ] {
            stage.refused(&what("a change of"), "invalid_argument", "path", demo.change(change).await).await;
        }
        let versions = ReadVersionsRequest { namespace: "default".into(), path: path.into() };
        stage
            .refused(&what("versions of"), "invalid_argument", "path", answer(vault.read_versions(versions).await))
            .await;
        let list =
            ListSecretsRequest { namespace: "default".into(), prefix: path.into(), after: String::new(), limit: 1 };
        stage.refused(&what("a list below"), "invalid_argument", "path", answer(vault.list_secrets(list).await)).await;
        let open = OpenRequest {
            items: vec![SecretVersion { namespace: "default".into(), path: path.into(), number: 0 }],
            ..question()
        };
        stage.refused(&what("opening"), "invalid_argument", "path", answer(vault.open(open).await)).await;
    }
    for namespace in ["", "..", "default/..", "a//b", "de\u{0}fault", "default\u{0}app", "x\r\ny", &"n".repeat(129)] {
        let change = Change::DeleteSecret { namespace: namespace.into(), path: "app/demo/x".into(), numbers: vec![] };
        stage
            .refused(&format!("namespace {namespace:?}"), "invalid_argument", "namespace", demo.change(change).await)
            .await;
        let mounts = ReadMountsRequest { namespace: namespace.into() };
        stage
            .refused(
                &format!("mounts of {namespace:?}"),
                "invalid_argument",
                "namespace",
                answer(vault.read_mounts(mounts).await),
            )
            .await;
    }
    let own = Change::DeleteSecret { namespace: "sys".into(), path: "target/pg".into(), numbers: vec![] };
    stage.refused("the vault's own namespace", "denied", "", demo.change(own.clone()).await).await;
    let admin = stage.cluster.through("admin", &[stage.node]).unwrap();
    stage
        .refused_as(
            "the vault's own namespace, by an administrator",
            &["invalid_argument", "denied"],
            "",
            admin.change(own).await,
        )
        .await;
}

fn question() -> OpenRequest {
    OpenRequest {
        request_id: random::<16>().to_vec(),
        not_after: quorate_tests::now() + 20_000,
        min_index: 0,
        prove: false,
        content: false,
        items: vec![SecretVersion { namespace: "default".into(), path: "app/demo/lasting".into(), number: 0 }],
    }
}

fn answer<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Failure> {
    Ok(answer?.into_inner())
}

async fn questions(stage: &Stage<'_>) {
    let now = quorate_tests::now();
    let one = question().items;
    for (what, ask, code, words) in [
        ("an id of 15 bytes", OpenRequest { request_id: vec![1; 15], ..question() }, "invalid_argument", "16 bytes"),
        ("no items", OpenRequest { items: vec![], ..question() }, "invalid_argument", "1 to 256"),
        ("257 items", OpenRequest { items: vec![one[0].clone(); 257], ..question() }, "invalid_argument", "1 to 256"),
        ("an end in the past", OpenRequest { not_after: now - 1_000, ..question() }, "request_too_late", "clock"),
        ("an end in an hour", OpenRequest { not_after: now + 3_600_000, ..question() }, "request_too_long", "clock"),
        ("an end at the end of time", OpenRequest { not_after: u64::MAX, ..question() }, "request_too_long", "clock"),
    ] {
        stage.refused(&format!("opening with {what}"), code, words, answer(stage.wire().vault().open(ask).await)).await;
    }
    let begun = std::time::Instant::now();
    let ahead = answer(stage.wire().vault().open(OpenRequest { min_index: u64::MAX, ..question() }).await).unwrap();
    assert!(
        ahead.items.iter().all(|item| item.refusal == "behind" && item.partial.is_empty()),
        "an index that never comes: {ahead:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for it for ever: {:?}", begun.elapsed());
    for number in [2, u64::MAX] {
        let items = vec![SecretVersion { number, ..one[0].clone() }];
        let reply = answer(stage.wire().vault().open(OpenRequest { items, ..question() }).await).unwrap();
        assert_eq!(reply.items[0].refusal, "not_found", "version {number}");
    }
    stage.well("versions that are not there").await;
    let whole = question().items.into_iter().map(|item| SecretVersion { path: "app/demo/mebibyte".into(), ..item });
    let items: Vec<_> = std::iter::repeat_n(whole.collect::<Vec<_>>(), 70).flatten().collect();
    let all = OpenRequest { content: true, items, ..question() };
    stage
        .refused("content of 70 MiB", "too_much_content", "64 MiB", answer(stage.wire().vault().open(all).await))
        .await;
}

async fn verifiers(stage: &Stage<'_>) {
    let demo = stage.cluster.through("demo", &[stage.node]).unwrap();
    let good = verifier(b"a password of a lease", &[7; 16], 4_096);
    let issue =
        async |verifier: String| demo.change(Change::IssueLease { role: "reader".into(), verifier, ttl: None }).await;
    let parts: Vec<&str> = good.split('$').collect();
    for (what, bad) in [
        ("20 million iterations", good.replace("4096", "20000000")),
        ("one iteration", good.replace("4096", "1")),
        ("iterations with a sign", good.replace("4096", "+4096")),
        ("iterations with a zero ahead", good.replace("4096", "04096")),
        ("more iterations than a number has", good.replace("4096", "99999999999999999999")),
        ("no server key", parts[..2].join("$")),
        ("a cut key", good[..good.len() - 5].to_owned()),
        ("nothing in it", String::new()),
        ("a password instead", "hunter2".to_owned()),
        ("an md5 hash instead", format!("md5{}", "0".repeat(32))),
        ("a quote", format!("{good}'; DROP TABLE demo; --")),
        ("a zero byte", format!("{good}\u{0}")),
        ("another case", good.to_lowercase()),
        ("a mebibyte", format!("{good}{}", "A".repeat(1 << 20))),
    ] {
        stage.refused(&format!("a verifier with {what}"), "invalid_argument", "verifier", issue(bad).await).await;
    }
    let issue = |ttl| demo.change(Change::IssueLease { role: "reader".into(), verifier: good.clone(), ttl: Some(ttl) });
    for ttl in [0, 999, 600_001, u64::MAX] {
        stage.refused(&format!("a lease for {ttl} ms"), "invalid_argument", "ttl", issue(ttl).await).await;
    }
    let renew = Change::RenewLease { lease: LeaseId([9; 16]), ttl: u64::MAX };
    stage.refused_as("renewing a lease that is none", &["denied", "not_found"], "", demo.change(renew).await).await;
}

fn role(group: &str) -> Role {
    Role {
        target: "pg".to_owned(),
        groups: vec![group.to_owned()],
        default_ttl: 20_000,
        max_ttl: 60_000,
        connection_limit: 2,
        max_leases: 10,
        form: Form::Scram { iterations: 4_096 },
        ..Role::default()
    }
}

async fn names_of_things(stage: &Stage<'_>) {
    let (cluster, node) = (stage.cluster, stage.node);
    let admin = cluster.through("admin", &[node]).unwrap();
    for name in ["x'; DROP ROLE postgres; --", "x\"y", "x\u{0}", "", "$1", "x/*", "ü", &"x".repeat(65)] {
        stage
            .refused(
                &format!("a role named {name:?}"),
                "invalid_argument",
                "name",
                admin.put_role(name, &role("g")).await,
            )
            .await;
        let namespace = admin
            .create_mount("default", name, KeyringId(cluster.ring(KeyringClass::Cluster).unwrap().id()), &[])
            .await;
        stage.refused_as(&format!("a mount named {name:?}"), &["invalid_argument"], "", namespace).await;
        let blocked = cluster.administer(Change::BlockIdentity { principal: format!("{name}\n") }).await;
        stage
            .refused_as(
                &format!("blocking {name:?}"),
                &["invalid_argument"],
                "",
                blocked.map_err(|why| why.downcast().unwrap()),
            )
            .await;
    }
    for group in ["", "a\nb", "a\u{0}b", &"g".repeat(64)] {
        stage
            .refused(
                &format!("a group named {group:?}"),
                "invalid_argument",
                "groups",
                admin.put_role("hostile", &role(group)).await,
            )
            .await;
    }
    let ring = KeyringId(cluster.ring(KeyringClass::Cluster).unwrap().id());
    let good = TargetSpec {
        host: "127.0.0.1".into(),
        port: 1,
        database: "d".into(),
        user: "u".into(),
        ..TargetSpec::default()
    };
    let tls = |der: &[u8], name: &str| {
        Some(TargetTls { roots: vec![der.to_vec()], server_name: name.into(), require_binding: true })
    };
    let root = std::fs::read(Path::new(cluster.text("/operator").unwrap()).join("client-ca.pem")).unwrap();
    let root = CertificateDer::from_pem_slice(&root).unwrap().to_vec();
    let quoted = admin.put_target("x'y", &good, b"pw", ring).await;
    stage.refused("a target with a name with a quote", "invalid_argument", "name", quoted).await;
    let far = || Endpoint { host: "db.example.org".into(), port: 1 };
    for (what, target) in [
        ("a database twice", TargetSpec { databases: vec!["d".into()], ..good.clone() }),
        ("a standby far away", TargetSpec { standbys: vec![far()], ..good.clone() }),
        ("an owner with a line break", TargetSpec { owner: "a\nb".into(), ..good.clone() }),
        ("a host far away", TargetSpec { host: "db.example.org".into(), ..good.clone() }),
        ("two hosts", TargetSpec { host: "127.0.0.1,db.example.org".into(), ..good.clone() }),
        ("a host with parameters", TargetSpec { host: "localhost user=postgres".into(), ..good.clone() }),
        ("a host with a zero byte", TargetSpec { host: "127.0.0.1\u{0}".into(), ..good.clone() }),
        ("port 0", TargetSpec { port: 0, ..good.clone() }),
        ("a database with a zero byte", TargetSpec { database: "a\u{0}b".into(), ..good.clone() }),
        ("a root that is no certificate", TargetSpec { tls: tls(b"garbage", ""), ..good.clone() }),
        ("no root", TargetSpec { tls: Some(TargetTls { roots: vec![], ..tls(b"", "").unwrap() }), ..good.clone() }),
        ("TLS for a name that is none", TargetSpec { tls: tls(&root, "a b"), ..good.clone() }),
        ("TLS in a socket's folder", TargetSpec { host: "/run".into(), tls: tls(&root, ""), ..good.clone() }),
        ("a user with a line break", TargetSpec { user: "a\nb".into(), ..good.clone() }),
    ] {
        stage
            .refused(
                &format!("a target with {what}"),
                "invalid_argument",
                "",
                admin.put_target("hostile", &target, b"pw", ring).await,
            )
            .await;
    }
}

/// What may stand in a field is sent to the database as that field, whatever it looks like.
async fn text_for_the_database(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let (admin, demo) = (cluster.admin().unwrap(), cluster.client("demo").unwrap());
    let scope = "action == Quorate::Action::\"lease:issue\", resource";
    cluster.permit("any-role", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let postgres = tokio_postgres_roles(&superuser).await;
    // A group of this very name exists: it is found, and nothing in its name is obeyed.
    let strange = "o'ne\" two; DROP TABLE demo; -- $1 \\";
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {quoted} NOLOGIN; GRANT {quoted} TO {admin} WITH ADMIN OPTION",
            quoted = quoted(strange),
            admin = quoted(cluster.text("/postgres/admin").unwrap())
        ))
        .await
        .unwrap();
    admin.put_role("strange", &role(strange)).await.unwrap();
    let lease = demo.issue_lease("strange", None).await.unwrap_or_else(|why| panic!("a group named {strange}: {why}"));
    let row = superuser
        .query_one(
            "SELECT pg_has_role($1::name, $2::name, 'member'), rolsuper FROM pg_roles WHERE rolname = $1::name",
            &[&lease.username, &strange],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, bool>(0), row.get::<_, bool>(1)),
        (true, false),
        "a member of that group, and no superuser"
    );
    demo.revoke(lease.lease).await.unwrap();
    admin.wait_revoked(lease.lease, Duration::from_secs(20)).await.unwrap();

    let mut stage = Stage::new(cluster, "text for the database", 3).await;
    for (n, group) in [
        "demo; DROP TABLE demo; --",
        "demo\" SUPERUSER; --",
        "demo', 'postgres",
        "$1",
        "demo\\",
        "\" ; ALTER ROLE postgres RENAME TO x; --",
        "CURRENT_USER",
        "postgres",
        "PUBLIC",
        "%s{}",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("hostile-{n}");
        admin.put_role(&name, &role(group)).await.unwrap();
        stage.forget().await;
        stage
            .refused_as(
                &format!("a lease in group {group:?}"),
                &["target_refused", "lease_failed"],
                "",
                demo.issue_lease(&name, None).await,
            )
            .await;
        admin.change(Change::DeleteRole { name }).await.unwrap();
    }
    for n in 0..10 {
        assert!(admin.roles().await.unwrap().roles.iter().all(|r| r.name != format!("hostile-{n}")));
    }
    // Each of these roles asks for a proof, which makes logins of its own: they are gone when a later one is there.
    admin.prove_target("pg", Duration::from_secs(60)).await.unwrap();
    settled(&admin).await;
    let left = cluster.footprint(&superuser).await.unwrap();
    assert!(left.is_empty(), "nothing of the leases that were refused is at the database: {left:?}");
    superuser
        .batch_execute(&format!(
            "REVOKE {0} FROM {1}; DROP ROLE {0}",
            quoted(strange),
            quoted(cluster.text("/postgres/admin").unwrap())
        ))
        .await
        .unwrap();
    assert_eq!(tokio_postgres_roles(&superuser).await, postgres, "no role was made, renamed or raised");
    stage.forget().await;
    stage.end().await;
}

/// Waits until no lease is on its way.
async fn settled(admin: &Client) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let open: Vec<_> = admin.leases("").await.unwrap().into_iter().filter(|l| l.state != "revoked").collect();
        if open.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "these leases do not end: {open:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn tokio_postgres_roles(superuser: &tokio_postgres::Client) -> Vec<(String, bool, bool)> {
    let sql = "SELECT rolname::text, rolsuper, rolcreaterole FROM pg_roles WHERE to_regclass('public.demo') IS NOT NULL OR true ORDER BY 1";
    superuser.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}
