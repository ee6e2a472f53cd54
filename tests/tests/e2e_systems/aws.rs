//! AWS: it makes the keys itself, and tells all its servers of an end in seconds. moto stands in for it, which lets in nobody whose signature is
//! not right; AWS's own SDK judges.

use super::{document, issue, permit, refused, run, run_with};
use quorate_api::client::{Credential, Proof, System};
use quorate_tests::Cluster;
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// How long an end may take: longer than AWS's servers are given to hear of it.
const ENDED: Duration = Duration::from_secs(60);

/// The interpreter with moto and the SDK.
fn python() -> PathBuf {
    let base = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/quorate/moto/bin/python");
    let python = std::env::var_os("QUORATE_MOTO").map_or_else(base, PathBuf::from);
    assert!(python.is_file(), "{} is missing: run deploy/build/setup", python.display());
    python
}

/// Who the vault is there.
const EXECUTOR: &str = "arn:aws:iam::123456789012:user/executor";

/// An access key.
type Key = (String, String);

pub(crate) struct Cloud {
    process: Child,
    port: u16,
    admin: Key,
    executor: Key,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn key(said: &Value) -> Key {
    (said[0].as_str().unwrap().to_owned(), said[1].as_str().unwrap().to_owned())
}

impl Cloud {
    async fn start() -> Self {
        spawn_blocking(|| {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let mut command = Command::new(python());
            command.args(["-m", "moto.server", "--host", "127.0.0.1", "--port", &port.to_string()]);
            // The first three requests are let in whoever asks.
            command
                .env("INITIAL_NO_AUTH_ACTION_COUNT", "3")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let process = command.spawn().unwrap();
            let nobody = || (String::new(), String::new());
            let mut cloud = Self { process, port, admin: nobody(), executor: nobody() };
            let begun = Instant::now();
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                assert!(begun.elapsed() < Duration::from_secs(60), "moto does not come up");
                std::thread::sleep(Duration::from_millis(100));
            }
            let said = cloud.ask(&nobody(), "prepare");
            (cloud.admin, cloud.executor) = (key(&said["admin"]), key(&said["executor"]));
            cloud
        })
        .await
        .unwrap()
    }

    fn script(&self, action: &str) -> Vec<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e_systems/aws.py");
        [
            python().display().to_string(),
            "-B".to_owned(),
            script.display().to_string(),
            self.port.to_string(),
            action.to_owned(),
        ]
        .into()
    }

    /// What the SDK is answered.
    fn ask(&self, (id, secret): &Key, action: &str) -> Value {
        let words = self.script(action);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env_remove("AWS_SESSION_TOKEN");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{action}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Users of leases. The executor's claims, which have two numbers for one, are without keys, and stay.
    fn users(&self) -> Vec<String> {
        let all: Vec<String> = serde_json::from_value(self.ask(&self.admin, "users")).unwrap();
        all.into_iter().filter(|name| name.starts_with('q') && name.split('_').count() == 2).collect()
    }
}

/// What AWS issued.
fn issued(credential: &Credential) -> Key {
    let Proof::Issued(fields) = &credential.proof else { panic!("a password: {credential:?}") };
    let text = |name| String::from_utf8(fields.get(name).unwrap().expose().to_vec()).unwrap();
    (text("access_key_id"), text("secret_access_key"))
}

/// A session that nobody can revoke: whoever takes it is told when it dies, and whoever ends its lease that it has not ended.
async fn what_can_not_be_ended_says_so(cluster: &Cluster) {
    let role = [
        "role",
        "add",
        "cloud-session",
        "--target",
        "cloud",
        "--group",
        "federate",
        "--group",
        "inline:{\"Effect\":\"Allow\",\"Action\":\"iam:ListGroups\",\"Resource\":\"*\"}",
        "--ttl",
        "15m",
        "--max-ttl",
        "15m",
    ];
    run(cluster, &role);
    permit(cluster, "cloud-session").await;
    let output = cluster.cli("demo", &["lease", "issue", "cloud-session"], b"").unwrap();
    let [said, told] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(said.contains("\ndies at ") && said.contains("can not be ended before"), "{said}{told}");
    let credential = issue(cluster, "cloud-session").await;
    let dies = credential.dies_at.expect("it is said when it dies");
    cluster.client("demo").unwrap().revoke(credential.lease).await.unwrap();
    let begun = Instant::now();
    let id = credential.lease.to_string();
    loop {
        let shown = document(cluster, &["lease", "show", &id]);
        assert_eq!((&shown["state"], &shown["dies_at"]), (&Value::from("revoking"), &Value::from(dies)), "{shown}");
        if shown["trouble"].as_str().is_some_and(|why| why.contains("can not be revoked; dies at")) {
            return;
        }
        assert!(begun.elapsed() < ENDED, "it says why: {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(crate) async fn a_life(cluster: &Cluster) {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (id, secret) = &cloud.executor;
    let (right, wrong) = (put("right", &format!("{id}\t{secret}")), put("wrong", &format!("{id} not/the/secret")));
    let port = cloud.port.to_string();
    let place = ["--system", "aws", "--host", "127.0.0.1", "--port", &port, "--database", "eu-central-1"];
    let who = ["--user", EXECUTOR, "--password-file"];
    let add = |name: &'static str| [&["target", "add", name][..], &place, &who].concat();
    let said = refused(cluster, &[&add("none")[..], &[&right, "--rotate"]].concat(), "invalid_argument");
    assert!(said.contains("rotate"), "its key is not replaced by the vault: {said}");
    let said = refused(cluster, &[&add("stranger")[..], &[&wrong]].concat(), "target_not_enabled");
    assert!(said.contains("SignatureDoesNotMatch") || said.contains("InvalidClientTokenId"), "it is named: {said}");
    run(cluster, &[&add("cloud")[..], &[&right]].concat());

    let role =
        |name, group| ["role", "add", name, "--target", "cloud", "--group", group, "--ttl", "60s", "--max-ttl", "15m"];
    let said = refused(
        cluster,
        &[&role("bad", "group:readers")[..], &["--verifier", "redis-sha256"]].concat(),
        "invalid_argument",
    );
    assert!(said.contains("aws takes none"), "{said}");
    run(cluster, &role("cloud-readers", "group:readers"));
    permit(cluster, "cloud-readers").await;

    let credential = issue(cluster, "cloud-readers").await;
    assert_eq!((credential.system, credential.database.as_str()), (System::Aws, "eu-central-1"));
    let who = cloud.ask(&issued(&credential), "who");
    assert!(who["arn"].as_str().unwrap().ends_with(&format!("/{}", credential.username)), "{who}");
    assert_eq!((&who["groups"][0], &who["power"]), (&Value::from("readers"), &Value::from(false)), "{who}");

    // A program of its own, which finds the key where AWS's programs look.
    let script = cloud.script("who");
    let output = run_with(cluster, "cloud-readers", &[], &script.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {said}"));
    assert!(theirs["arn"].is_string() && theirs["arn"] != who["arn"], "with a key of its own: {theirs} {said}");

    // The executor gets another key in its place. What was made with the first ends by the second.
    let bare = put("bare", secret);
    let said = refused(cluster, &["target", "password", "cloud", "--password-file", &bare], "target_not_enabled");
    assert!(said.contains("its id, a space, and its secret"), "a secret without its id is told to be none: {said}");
    let next = key(&cloud.ask(&cloud.admin, "another"));
    let next = put("next", &format!("{}\t{}", next.0, next.1));
    run(cluster, &["target", "password", "cloud", "--password-file", &next]);
    cloud.ask(&cloud.admin, "delete");

    // It is refused at once, and called revoked when all servers must have heard of it.
    cluster.client("demo").unwrap().revoke(credential.lease).await.unwrap();
    let begun = Instant::now();
    while cloud.ask(&issued(&credential), "who")["arn"].is_string() {
        assert!(begun.elapsed() < ENDED, "its key is refused");
    }
    let admin = cluster.admin().unwrap();
    let done = admin.wait_revoked(credential.lease, ENDED).await;
    let done = done.unwrap_or_else(|why| panic!("it is seen to have ended: {why}"));
    assert_eq!((done.state.as_str(), done.why.as_str()), ("revoked", "requested"), "{done:?}");
    while !cloud.users().is_empty() {
        assert!(begun.elapsed() < 2 * ENDED, "nothing is left: {:?}", cloud.users());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    what_can_not_be_ended_says_so(cluster).await;
    let said = run(cluster, &["target", "remove", "cloud"]);
    assert!(said.contains("it goes when its last lease is proved to be revoked"), "{said}");
}
