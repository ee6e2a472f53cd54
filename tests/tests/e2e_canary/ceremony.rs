//! While members make the first key of a cluster, and when the commands that make a cluster end: who knows what.

use crate::lab::{MEMBERS, STEP, Scene, is_stopped, search_processes};
use crate::{assert_nothing, is_own};
use quorate_api::client::Identity;
use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file};
use quorate_crypto::secret::SecretVec;
use quorate_state::ids::{MemberIndex, SessionId, hex};
use quorate_tests::canary::{Canary, Searcher};
use quorate_tests::shares::Disks;
use quorate_tests::{Cluster, Process, Starting, memory};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The steps of a member after its seed, in their order.
const STEPS: [&str; 5] = ["keys", "deal", "share.before", "share", "ready"];

/// The very first key of a cluster, with a member stopped at each step from the first seed on. All memory is searched there, that of
/// the command that has the key made included: for the key, and for what a member may not know of the others. Afterwards nobody
/// has more than its share. The scene has given the order for the first step.
pub(crate) async fn first_key(scene: &Scene, starting: &Starting) -> SessionId {
    let processes = members(starting).await;
    let mut stopped = scene.stopped(&processes).await;
    let disks = starting.disks().unwrap();
    let session = disks.sessions(index(stopped), "seed").unwrap().pop().expect("the member that stopped has a seed");
    let mut end = Instant::now() + STEP;
    // The others go on to their seeds without it.
    while disks.seeds(&session).len() < MEMBERS.len() {
        assert!(Instant::now() < end, "all members make a seed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = disks.dealings(&session).unwrap();
    let searcher = Searcher::new(&kept.iter().map(|k| k.canary.clone()).collect::<Vec<_>>());
    for next in STEPS.iter().map(Some).chain([None]) {
        let found = search_processes(&searcher, starting.dev(), &processes);
        println!("{} stopped: {found}", stopped.name());
        let seed = format!("ceremony seed of {}", index(stopped));
        assert!(
            found.has(&seed, &format!("memory of {},", stopped.name())),
            "a member at work has its seed in memory: {found}"
        );
        assert_nothing("in a ceremony", &found.except(|hit| is_own(&kept, hit, |k| &k.during)));
        if let Some(next) = next {
            scene.order(&format!("ceremony.{next}=stop"));
            stopped.cont().unwrap();
            stopped = scene.stopped(&processes).await;
        }
    }
    stopped.cont().unwrap();
    end = Instant::now() + STEP;
    while !disks.seeds(&session).is_empty() {
        assert!(
            Instant::now() < end,
            "the ceremony ends, and all members erase their seeds: {:?}",
            disks.seeds(&session)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut found = search_processes(&searcher, starting.dev(), &processes);
    found.extend(searcher.files("", starting.home(), &|_| false).unwrap());
    println!("after the ceremony: {found}");
    assert_nothing("after a ceremony", &found.except(|hit| is_own(&kept, hit, |k| &k.after)));
    session
}

fn index(process: &Process) -> MemberIndex {
    process.name().trim_start_matches('n').parse().unwrap()
}

/// The processes of the members, as soon as all run.
async fn members(starting: &Starting) -> Vec<Process> {
    let end = Instant::now() + STEP;
    loop {
        let all: Vec<Process> = starting.processes().unwrap();
        if MEMBERS.iter().all(|m| all.iter().any(|p| p.name() == format!("n{m}"))) {
            return all.into_iter().filter(|p| p.name().starts_with('n')).collect();
        }
        assert!(Instant::now() < end, "all members are started: {all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What commands that make a cluster have in their hands is gone when they end: each is stopped where nothing is left for it to do,
/// and its memory searched for every key and passphrase that it had.
pub(crate) async fn commands_end_with_nothing(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let text = |name: &str| file(name).display().to_string();
    let of_member =
        ["member", "create", "--name", "n4", "--peer-address", "127.0.0.1:1", "--api-address", "127.0.0.1:2"];
    let to = ["--data-dir", &text("n4"), "--seal-key", &text("n4/seal.key"), "--card", &text("n4.toml")];
    let folders = BTreeMap::from([(4, file("n4"))]);
    let at_end = Command::at_end(folder.path(), &[&of_member[..], &to[..]].concat()).await;
    let disks = Disks::new(cluster.profile().clone(), folders);
    at_end.has_nothing(disks.own_keys().unwrap().into_iter().map(|k| k.canary).collect());

    let passphrase = format!("a passphrase of 16 bytes and more: {}", hex(&crate::random::<16>()));
    std::fs::write(file("passphrase"), &passphrase).unwrap();
    let of_operator =
        ["init", "--name", "canary", "--trust-domain", "canary.test", "--passphrase-file", &text("passphrase")];
    let home = Path::new(cluster.text("/folder").unwrap());
    let [one, two, three] = MEMBERS.map(|m| home.join(format!("n{m}.toml")).display().to_string());
    let cards = ["--out", &text("operator"), "--member", &one, "--member", &two, "--member", &three];
    let at_end = Command::at_end(folder.path(), &[&of_operator[..], &cards[..]].concat()).await;
    at_end.has_nothing(operators(
        &file("operator"),
        &passphrase,
        &["administrator-1", "administrator-2", "administrator-3"],
    ));

    let (operator, passphrase) = (cluster.text("/operator").unwrap(), cluster.text("/passphrase_file").unwrap());
    let words = ["keyring", "create", "--operator", operator, "--passphrase-file", passphrase];
    let at_end = Command::at_end(folder.path(), &words).await;
    let passphrase = std::fs::read_to_string(passphrase).unwrap();
    at_end.has_nothing(operators(Path::new(operator), passphrase.trim_end(), &["administrator-1"]));
}

/// What an operator's folder keeps, and its passphrase.
fn operators(folder: &Path, passphrase: &str, administrators: &[&str]) -> Vec<Canary> {
    let secret = SecretVec::new(passphrase.as_bytes().to_vec());
    let protection = Protection::Passphrase(&secret, PassphraseCost::default());
    let mut all = vec![Canary::new("passphrase", passphrase.as_bytes())];
    let keys = administrators.iter().map(|name| (*name, "administrator")).chain([("client-ca", "client-ca")]);
    for (name, purpose) in keys {
        let bytes = std::fs::read(folder.join(format!("{name}.key"))).unwrap();
        all.push(Canary::new(name, open_file(purpose, &bytes, &protection).unwrap().expose()));
    }
    let identity = Identity::load(&folder.join("admin.pem")).unwrap();
    all.push(Canary::new("key in admin.pem", identity.key().seed().expose()));
    all
}

/// A command that has done everything, and stands still before it ends.
struct Command {
    child: Child,
    words: String,
    marker: Canary,
}

impl Command {
    async fn at_end(folder: &Path, words: &[&str]) -> Self {
        let order = folder.join("order");
        std::fs::write(&order, "command.end=stop").unwrap();
        let marker = format!("an argument, which is no secret: {}", hex(&crate::random::<16>()));
        let mut command = std::process::Command::new(quorate_tests::quorate().unwrap());
        command.args(words).env("FAILPOINT_FILE", &order).env("QUORATE_DUMPABLE", "1").env("MARKER", &marker);
        let said = File::create(folder.join("said")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
        let words = words.iter().take_while(|word| !word.starts_with("--")).copied().collect::<Vec<_>>().join(" ");
        let end = Instant::now() + STEP;
        while order.exists() || !is_stopped(child.id()) {
            let said = std::fs::read_to_string(folder.join("said")).unwrap();
            assert!(Instant::now() < end, "`quorate {words}` gets to its end: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { child, words, marker: Canary::new("marker", marker.as_bytes()) }
    }

    fn has_nothing(mut self, mut canaries: Vec<Canary>) {
        canaries.push(self.marker.clone());
        let found = memory::search(&Searcher::new(&canaries), "memory", self.child.id()).unwrap();
        println!("`quorate {}` at its end: {found}", self.words);
        assert!(found.has("marker", "memory"), "what it has in its environment is found: {found}");
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        assert!(self.child.wait().unwrap().success(), "`quorate {}` succeeds", self.words);
        assert_nothing(&format!("`quorate {}` at its end", self.words), &found.except(|hit| hit.canary == "marker"));
    }
}
