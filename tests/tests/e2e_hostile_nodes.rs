//! What is around a node is wrong: its configuration, its folder, its port, its clock, its database. Each has a clear error, a
//! node that does not start leaves everything as it is, and what is put right works again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use futures::FutureExt as _;
use quorate_api::client::{Client, Form, Role, TargetSpec};
use quorate_api::vault::{OpenRequest, SecretVersion};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::ids::{KeyringId, MemberIndex};
use quorate_tests::database::{login, login_with};
use quorate_tests::hostile::random;
use quorate_tests::proxy::{Mood, Proxy};
use quorate_tests::{Cluster, Options};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The node that is broken in every way.
const BROKEN: MemberIndex = 3;
const RETURN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_nodes() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    demo.put("default", "app/demo/lasting", b"lasting", Some(0)).await.unwrap();
    // Each to its end, whatever becomes of the one before: one run tells all.
    let mut failed = Vec::new();
    for section in ["start", "clock", "database"] {
        let run = async {
            match section {
                "start" => a_node_that_must_not_start(&cluster).await,
                "clock" => a_clock_one_hour_off(&cluster).await,
                _ => a_database_that_cannot_be_relied_on(&cluster).await,
            }
        };
        if AssertUnwindSafe(run).catch_unwind().await.is_err() {
            failed.push(section);
            let node = cluster.node(BROKEN).unwrap();
            if !node.alive() {
                node.restart(&[]).unwrap();
            }
        }
    }
    assert!(failed.is_empty(), "these sections failed, as told above: {failed:?}");
}

async fn opens(client: &Client, what: &str) {
    let opened = client.get("default", "app/demo/lasting", None).await;
    let opened = opened.unwrap_or_else(|why| panic!("{what}: a good request is answered: {why}"));
    assert_eq!(opened.plaintext.expose(), b"lasting", "{what}");
}

/// A configuration of the broken node with one thing changed, run until it ends.
struct Broken {
    folder: PathBuf,
    data: PathBuf,
    good: String,
}

impl Broken {
    fn ends_with(&self, what: &str, config: &str, exit: i32, words: &[&str]) {
        let path = self.data.join("broken.toml");
        std::fs::write(&path, config).unwrap();
        let before = contents(&self.data);
        let mut child = Command::new(quorate_tests::quorate().unwrap())
            .args(["node", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.folder.join("broken.log")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{what}: the node runs: {}", std::fs::read_to_string(self.folder.join("broken.log")).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = std::fs::read_to_string(self.folder.join("broken.log")).unwrap();
        assert_eq!(status.code(), Some(exit), "{what}: the exit code of docs/cli.md: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: it says {word:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
        let after = contents(&self.data);
        let changed: Vec<_> =
            before.iter().filter(|(path, bytes)| after.get(*path) != Some(*bytes)).map(|(path, _)| path).collect();
        assert!(changed.is_empty(), "{what}: nothing that was there is changed: {changed:?}");
    }
}

/// Every file of the member but the store's own bookkeeping, which an opening rewrites.
fn contents(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for folder in ["", "identity", "slots", "audit"] {
        let Ok(entries) = std::fs::read_dir(data.join(folder)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_file() {
                all.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

async fn a_node_that_must_not_start(cluster: &Cluster) {
    let name = cluster.name(BROKEN).to_owned();
    let data = PathBuf::from(cluster.text(&format!("/members/{name}/data_dir")).unwrap());
    let folder = PathBuf::from(cluster.text("/folder").unwrap());
    let node = cluster.node(BROKEN).unwrap();
    let good = std::fs::read_to_string(data.join("node.toml")).unwrap();
    let broken = Broken { folder: folder.clone(), data: data.clone(), good };
    let rest = cluster.through("demo", &[1, 2]).unwrap();

    // A second process on the folder of one that runs.
    let path = data.join("second.toml");
    std::fs::write(&path, &broken.good).unwrap();
    let second =
        Command::new(quorate_tests::quorate().unwrap()).args(["node", "--config"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(70), "a second process on a folder in use: {said}");
    assert!(said.contains("another process has it open"), "it says so: {said}");
    assert!(node.alive(), "the first one lives");
    opens(&cluster.through("demo", &[1, BROKEN]).unwrap(), "beside a second process").await;

    node.kill().await.unwrap();
    typos(&broken);
    ports(cluster, &broken, &name);
    formats(&broken);
    other_clusters(cluster, &broken);
    opens(&rest, "while a member does not start").await;

    for file in ["broken.toml", "second.toml"] {
        std::fs::remove_file(data.join(file)).unwrap();
    }
    node.restart(&[]).unwrap();
    cluster.wait_applied(BROKEN, 1, RETURN).await.unwrap();
    opens(&cluster.through("demo", &[1, BROKEN]).unwrap(), "as it was, it starts").await;
    without_its_shares(cluster, &data).await;
}

/// A member that has lost its shares says so; the others open.
async fn without_its_shares(cluster: &Cluster, data: &Path) {
    let node = cluster.node(BROKEN).unwrap();
    node.kill().await.unwrap();
    std::fs::rename(data.join("slots"), data.join("slots.aside")).unwrap();
    node.restart(&[]).unwrap();
    cluster.wait_applied(BROKEN, 1, RETURN).await.unwrap();
    let demo = cluster.identity("demo").unwrap();
    let ask = OpenRequest {
        request_id: random::<16>().to_vec(),
        not_after: quorate_tests::now() + 20_000,
        items: vec![SecretVersion { namespace: "default".into(), path: "app/demo/lasting".into(), number: 0 }],
        ..OpenRequest::default()
    };
    let reply = cluster.wire(BROKEN, demo.tls()).unwrap().vault().open(ask).await.unwrap().into_inner();
    let (refusal, reason) = (&reply.items[0].refusal, &reply.items[0].reason);
    assert_eq!(refusal, "no_share", "a member without its shares says so: {reason}");
    opens(&cluster.client("demo").unwrap(), "with one member without its shares").await;
    node.kill().await.unwrap();
    std::fs::remove_dir_all(data.join("slots")).unwrap();
    std::fs::rename(data.join("slots.aside"), data.join("slots")).unwrap();
    node.restart(&[]).unwrap();
    cluster.wait_applied(BROKEN, 1, RETURN).await.unwrap();
    opens(&cluster.through("demo", &[1, BROKEN]).unwrap(), "with its shares again").await;
}

fn typos(broken: &Broken) {
    let with = |from: &str, to: &str| {
        assert!(broken.good.contains(from), "{from} is in the configuration");
        broken.good.replace(from, to)
    };
    let more = |line: &str| format!("{}\n{line}\n", broken.good);
    let cut = &broken.good[..broken.good.find("peer_listen").unwrap()];
    for (what, config, words) in [
        ("a key with a typo", with("peer_listen", "peer_lisen"), "peer_lisen"),
        ("a section with a typo", with("[raft]", "[rafft]"), "rafft"),
        ("a value with a typo", with("election_min_ms = 600", "election_min_ms = \"600\""), "election_min_ms"),
        ("an address with a typo", with("api_listen = \"127.0.0.1:", "api_listen = \"127.0.0.1;"), "api_listen"),
        ("a cluster with a typo", with("cluster = \"", "cluster = \"x"), "cluster"),
        ("times that cannot be", with("heartbeat_ms = 150", "heartbeat_ms = 500"), "heartbeat_ms"),
        ("no reserve for the audit log", more("[audit]\nreserve_bytes = 0"), "audit"),
        ("half a file", cut.to_owned(), "peer_listen"),
        ("no file at all", "\u{0}\u{1}".to_owned(), "not a valid configuration"),
    ] {
        broken.ends_with(what, &config, 64, &["error[configuration]", "broken.toml", words]);
    }
    broken.ends_with(
        "a genesis that is not there",
        &with("genesis.bin", "genesis.bni"),
        64,
        &["error[configuration]", "genesis.bni", "quorate init"],
    );
    broken.ends_with("a seal key that is not there", &with("seal.key", "seal.kye"), 70, &["error[fatal]", "seal.kye"]);
    let other = "ab".repeat(32);
    let start = broken.good.find("cluster = \"").unwrap() + 11;
    let pinned = format!("{}{other}{}", &broken.good[..start], &broken.good[start + 64..]);
    broken.ends_with("another cluster pinned", &pinned, 64, &["error[configuration]", "genesis of cluster", &other]);
}

fn ports(cluster: &Cluster, broken: &Broken, name: &str) {
    for port in ["peer_address", "api_address"] {
        let address = cluster.text(&format!("/members/{name}/{port}")).unwrap().to_owned();
        let taken = TcpListener::bind(&address).unwrap();
        let before = quorate_tests::now();
        broken.starts_not(&format!("{port} in use"), &["error[fatal]", "cannot listen on", &address]);
        assert!(quorate_tests::now() - before < 20_000);
        drop(taken);
    }
}

impl Broken {
    /// As [`Broken::ends_with`], with the good configuration and beyond the audit log, which notes that it was opened.
    fn starts_not(&self, what: &str, words: &[&str]) {
        self.ends_with(what, &self.good, 70, words);
    }
}

fn formats(broken: &Broken) {
    // (file, at, another version, what is said)
    let data = &broken.data;
    for (file, at, to, words) in [
        ("format", 0, b'4', ["format 4", "left as it is"]),
        ("identity/member.key", 7, 2, ["member.key", "version 2"]),
        ("identity/storage.key", 7, 9, ["storage.key", "version 9"]),
    ] {
        let path = data.join(file);
        let before = std::fs::read(&path).unwrap();
        let mut later = before.clone();
        assert_ne!(later[at], to);
        later[at] = to;
        std::fs::write(&path, &later).unwrap();
        broken.starts_not(&format!("{file} of a later release"), &["error[fatal]", words[0], words[1]]);
        std::fs::write(&path, &before).unwrap();
    }
    let genesis = data.join("genesis.bin");
    let before = std::fs::read(&genesis).unwrap();
    for at in [0, before.len() / 2] {
        let mut other = before.clone();
        other[at] ^= 0x40;
        std::fs::write(&genesis, &other).unwrap();
        let words = ["error[configuration]", "genesis.bin"];
        broken.ends_with("a genesis with a flipped bit", &broken.good, 64, &words);
    }
    std::fs::write(&genesis, &before).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let seal = data.join("seal.key");
    std::fs::set_permissions(&seal, std::fs::Permissions::from_mode(0o644)).unwrap();
    broken.starts_not("a seal key that others can read", &["error[fatal]", "chmod 600"]);
    std::fs::set_permissions(&seal, std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = std::fs::read(&seal).unwrap();
    std::fs::write(&seal, [7; 32]).unwrap();
    broken.starts_not("another seal key", &["error[fatal]", "wrong passphrase or key"]);
    std::fs::write(&seal, key).unwrap();
}

/// The same members under another genesis, as after a second `quorate init` from the same cards.
fn other_clusters(cluster: &Cluster, broken: &Broken) {
    let (folder, data) = (&broken.folder, &broken.data);
    let out = folder.join("second-operator");
    let cards: Vec<String> =
        (1..=3).map(|n| folder.join(format!("{}.toml", cluster.name(n))).display().to_string()).collect();
    let out_text = out.display().to_string();
    let mut arguments = vec!["init", "--name", "second", "--trust-domain", "second.quorate", "--out", &out_text];
    arguments.extend([
        "--administrators",
        "1",
        "--needed",
        "1",
        "--passphrase-file",
        cluster.text("/passphrase_file").unwrap(),
    ]);
    for card in &cards {
        arguments.extend(["--member", card]);
    }
    let made = cluster.cli("admin", &arguments, b"").unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let id = cluster_of(&out.join("genesis.bin"));
    let start = broken.good.find("cluster = \"").unwrap() + 11;
    let second = format!("{}{id}{}", &broken.good[..start], &broken.good[start + 64..])
        .replace("genesis = \"genesis.bin\"", &format!("genesis = \"{}\"", out.join("genesis.bin").display()));
    broken.ends_with("the folder of another cluster", &second, 70, &["error[fatal]", "belongs to member"]);
    // Whoever moves the audit log out of the way gets no further.
    let (audit, aside) = (data.join("audit"), data.join("audit.aside"));
    std::fs::rename(&audit, &aside).unwrap();
    broken.ends_with("the store of another cluster", &second, 70, &["error[fatal]", "belongs to another cluster"]);
    std::fs::remove_dir_all(&audit).unwrap();
    std::fs::rename(&aside, &audit).unwrap();
    // A member of no cluster.
    let (identity, other) = (data.join("identity/member.key"), folder.join("n1/identity/member.key"));
    let own = std::fs::read(&identity).unwrap();
    std::fs::copy(other, &identity).unwrap();
    broken.starts_not("another member's identity", &["error[fatal]", "member.key"]);
    std::fs::write(&identity, own).unwrap();
}

fn cluster_of(genesis: &Path) -> String {
    let genesis = quorate_state::genesis::Genesis::from_bytes(&std::fs::read(genesis).unwrap()).unwrap();
    genesis.cluster().to_string()
}

/// One wrong clock of three stops nobody, moves nobody's time, and its node says what is the matter.
async fn a_clock_one_hour_off(cluster: &Cluster) {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(|folder| format!("{folder}/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .expect("libfaketime is installed: make setup");
    let node = cluster.node(BROKEN).unwrap();
    let both = cluster.client("demo").unwrap();
    for (what, shift) in [("ahead", "+3600s"), ("behind", "-3600s")] {
        node.kill().await.unwrap();
        node.restart(&[("LD_PRELOAD", &library), ("FAKETIME", shift), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]).unwrap();
        // It is asked by whoever does not mind: its status, and its part of an answer.
        cluster.wait_applied(BROKEN, 1, RETURN).await.unwrap();
        let one = cluster.through("demo", &[BROKEN]).unwrap().with_timeout(Duration::from_secs(4));
        let alone = one.put("default", "app/demo/by-clock", what.as_bytes(), None).await;
        let alone = alone.map(|_| ()).map_err(|why| (why.code, why.message));
        println!("a node one hour {what} alone: {alone:?}");
        match what {
            "ahead" => {
                let (code, message) = alone.expect_err("to a clock that is an hour ahead a request is over");
                assert_eq!(code, "clock_ahead", "{message}");
                assert!(message.contains("clock"), "the message names clocks: {message}");
            }
            // It adds to cluster time, which it has from the log, and so is not behind at all.
            _ => alone.expect("a clock that is behind stops nothing"),
        }
        // With the others: whichever is asked first, everything goes on.
        for n in 0..6 {
            opens(&both, what).await;
            let put = both.put("default", "app/demo/by-clock", format!("{what} {n}").as_bytes(), None).await;
            put.unwrap_or_else(|why| panic!("with one clock an hour {what} a write goes through: {why}"));
        }
        for member in [1, 2] {
            let time = cluster.status(member).await.unwrap().unwrap().cluster_time;
            let off = time.abs_diff(quorate_tests::now());
            assert!(off < 60_000, "cluster time is {off} ms off while one clock is an hour {what}");
        }
        assert!(node.alive(), "the node lives:\n{}", node.log());
        let lease = both.issue_lease("reader", Some(20_000)).await;
        let lease = lease.unwrap_or_else(|why| panic!("with one clock an hour {what} a lease is issued: {why}"));
        login_with(&lease).await.unwrap_or_else(|why| panic!("and its login works: {why}"));
        both.revoke(lease.lease).await.unwrap();
        cluster.admin().unwrap().wait_revoked(lease.lease, Duration::from_secs(20)).await.unwrap();
    }
    node.kill().await.unwrap();
    node.restart(&[]).unwrap();
    cluster.wait_applied(BROKEN, 1, RETURN).await.unwrap();
    let pair = cluster.through("demo", &[1, BROKEN]).unwrap();
    opens(&pair, "with a clock that is right again").await;
    let one = cluster.through("demo", &[BROKEN]).unwrap();
    one.put("default", "app/demo/by-clock", b"right", None)
        .await
        .expect("with a clock that is right again it takes a write");
}

async fn a_database_that_cannot_be_relied_on(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let port = cluster.postgres_socket().unwrap().1;
    let proxy = Proxy::start(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap();
    let (admin, demo) =
        (cluster.admin().unwrap(), cluster.client("demo").unwrap().with_timeout(Duration::from_secs(9)));
    let password = std::fs::read_to_string(cluster.text("/postgres/password_file").unwrap()).unwrap();
    let target = TargetSpec {
        host: "127.0.0.1".into(),
        port: proxy.port(),
        database: cluster.text("/postgres/database").unwrap().into(),
        user: cluster.text("/postgres/admin").unwrap().into(),
        ..TargetSpec::default()
    };
    let ring = cluster.ring(KeyringClass::Cluster).unwrap();
    admin.put_target("shaky", &target, password.trim_end().as_bytes(), KeyringId(ring.id())).await.unwrap();
    let role = Role {
        target: "shaky".into(),
        groups: vec![cluster.text("/postgres/group").unwrap().into()],
        default_ttl: 60_000,
        max_ttl: 60_000,
        connection_limit: 2,
        max_leases: 100,
        form: Form::Scram { iterations: 4_096 },
        ..Role::default()
    };
    admin.put_role("shaky", &role).await.unwrap();
    no_leased_login_let_in(cluster, &superuser, &admin).await;
    let proof = admin.prove_target("shaky", Duration::from_secs(30)).await.unwrap();
    assert!(proof.missing.is_empty() && proof.failed.is_empty(), "{proof:?}");
    let scope = "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"shaky\"";
    cluster.permit("shaky", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let memory = || (1..=3).map(|n| resident(cluster.node(n).unwrap().pid())).sum::<u64>();
    let before = memory();
    for mood in [
        Mood::Honest,
        Mood::Closes,
        Mood::Silent,
        Mood::Garbage,
        Mood::Endless,
        Mood::Bends,
        Mood::Pretends,
        Mood::CutAfter(200),
        Mood::CutAfter(2_000),
        Mood::Slow(Duration::from_millis(40)),
    ] {
        proxy.be(mood);
        let begun = Instant::now();
        let issued = demo.issue_lease("shaky", None).await;
        let took = begun.elapsed();
        println!("{mood:?}: {:?} after {took:?}", issued.as_ref().map(|_| ()).map_err(|why| why.to_string()));
        assert!(took < Duration::from_secs(30), "{mood:?}: there is an answer in time: {took:?}");
        match (mood, issued) {
            (Mood::Honest | Mood::Slow(_), issued) => {
                let lease = issued.unwrap_or_else(|why| panic!("{mood:?}: a lease is issued: {why}"));
                login_with(&lease).await.unwrap_or_else(|why| panic!("{mood:?}: its login works: {why}"));
            }
            // All of it may have been passed on, or the bits that were flipped be those of a notice.
            (Mood::Bends | Mood::CutAfter(_), Ok(_)) => {}
            // What it says that it has made has no number there.
            (_, Ok(_)) => panic!("{mood:?}: a lease is issued by a database that makes no login"),
            (_, Err(failure)) => {
                let codes = ["target_unavailable", "target_refused", "lease_failed", "deadline"];
                assert!(codes.contains(&failure.code), "{mood:?}: expected one of {codes:?}, got {failure}");
            }
        }
        // What needs no database does not notice, and neither does another target.
        opens(&demo, &format!("{mood:?}")).await;
        let other = demo.issue_lease("reader", Some(20_000)).await;
        let other = other.unwrap_or_else(|why| panic!("{mood:?}: the other target's leases are issued: {why}"));
        demo.revoke(other.lease).await.unwrap();
        for n in 1..=3 {
            let node = cluster.node(n).unwrap();
            assert!(node.alive() && !node.log().contains("panicked at"), "{mood:?}: node {n} lives:\n{}", node.log());
        }
    }
    let grown = memory().saturating_sub(before) >> 20;
    println!("the three nodes have grown by {grown} MiB");
    assert!(grown < 256, "no database makes the nodes grow without end: {grown} MiB");

    only_said(&proxy, &superuser, &admin, &demo).await;

    // Put right, every lease that was on its way is ended, and nothing is left behind.
    proxy.be(Mood::Honest);
    let begun = Instant::now();
    for lease in admin.leases("active").await.unwrap() {
        admin.revoke(quorate_state::ids::LeaseId(lease.id.try_into().unwrap())).await.unwrap();
    }
    loop {
        let open: Vec<_> = admin.leases("").await.unwrap().into_iter().filter(|l| l.state != "revoked").collect();
        if open.is_empty() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "these leases do not end: {open:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let sql = "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^q[0-9a-f]{8}_' AND rolcanlogin";
        let left: Vec<String> = superuser.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "no login is left behind: {left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("put right: everything had ended after {:?}", begun.elapsed());
}

/// A line of `pg_hba.conf` that lets the executor in, and nobody that it makes: what is made for a proof is used too.
async fn no_leased_login_let_in(cluster: &Cluster, superuser: &tokio_postgres::Client, admin: &Client) {
    let (executor, group) = (cluster.text("/postgres/admin").unwrap(), cluster.text("/postgres/group").unwrap());
    let file: String = superuser.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
    let good = std::fs::read_to_string(&file).unwrap();
    let probe = format!("CREATE ROLE hba_probe LOGIN PASSWORD 'probe' IN ROLE \"{group}\"");
    superuser.batch_execute(&probe).await.unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(cluster.postgres_socket().unwrap().1).user("hba_probe").password("probe");
    config.dbname(cluster.text("/postgres/database").unwrap());
    let bad = format!("host all {executor} 127.0.0.1/32 scram-sha-256\nhost all +{group} 127.0.0.1/32 reject\n{good}");
    for (text, let_in) in [(&bad, false), (&good, true)] {
        std::fs::write(&file, text).unwrap();
        superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let begun = Instant::now();
        while login(&config).await.is_ok() != let_in {
            assert!(begun.elapsed() < Duration::from_secs(20), "the server lets a member of {group} in: {let_in}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if !let_in {
            let proof = admin.prove_target("shaky", Duration::from_secs(30)).await.unwrap();
            let said = proof.failed.iter().any(|why| why.contains("the credential does not log in"));
            assert!(said, "a login that is let in nowhere is found: {proof:?}");
            let shown = admin.roles().await.unwrap().targets.into_iter().find(|t| t.name == "shaky").unwrap();
            assert_eq!(shown.standing, "not proved yet", "{shown:?}");
        }
    }
    superuser.batch_execute("DROP ROLE hba_probe").await.unwrap();
}

/// What it carries out and what it only says that it has carried out cannot be told from its answers: it is looked at.
async fn only_said(proxy: &Proxy, superuser: &tokio_postgres::Client, admin: &Client, demo: &Client) {
    for (mood, why) in [(Mood::KeepsRoles, "it can log in"), (Mood::KeepsSessions, "sessions are alive")] {
        proxy.be(Mood::Honest);
        let lease = demo.issue_lease("shaky", None).await;
        let lease = lease.unwrap_or_else(|why| panic!("before {mood:?}: a lease is issued: {why}"));
        // What is not in use is dropped at once, what is in use is disabled.
        let session = if mood == Mood::KeepsSessions { Some(login_with(&lease).await.unwrap()) } else { None };
        proxy.be(mood);
        demo.revoke(lease.lease).await.unwrap();
        let begun = Instant::now();
        loop {
            let shown = admin.explained_lease(lease.lease).await.unwrap();
            assert_ne!(shown.state, "revoked", "{mood:?}: it is not gone, whatever the database says: {shown:?}");
            if shown.trouble.contains(why) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "{mood:?}: two looks tell that {why}: {shown:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match &session {
            Some(session) => {
                session.simple_query("SELECT 1").await.expect("the session lives, or this proves nothing");
            }
            None => {
                let sql = "SELECT count(*) FROM pg_roles WHERE rolname = $1 AND rolcanlogin";
                let left: i64 = superuser.query_one(sql, &[&lease.username]).await.unwrap().get(0);
                assert_eq!(left, 1, "{mood:?}: the login is there, or this proves nothing");
            }
        }
        proxy.be(Mood::Honest);
        let ended = admin.wait_revoked(lease.lease, Duration::from_secs(60)).await;
        ended.unwrap_or_else(|why| panic!("after {mood:?}: it ends at an honest database: {why}"));
        assert!(login_with(&lease).await.is_err(), "after {mood:?}: its login is refused");
        if let Some(session) = session {
            assert!(session.simple_query("SELECT 1").await.is_err(), "after {mood:?}: its session is ended");
        }
    }
    // On connections that stand: it says that it has made a login.
    proxy.be(Mood::Pretends);
    let failure = demo.issue_lease("shaky", None).await.expect_err("what it says that it has made has no number there");
    assert_eq!(failure.code, "lease_failed", "{failure}");
}

/// The resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
