//! The cluster that is searched, and everything that it leaves behind.

use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file};
use quorate_crypto::secret::SecretVec;
use quorate_state::ids::{LeaseId, MemberIndex};
use quorate_tests::canary::{Canary, Found, Searcher};
use quorate_tests::capture::Capture;
use quorate_tests::{Cluster, Options, Process, Starting, memory};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const NAMESPACE: &str = "default";
pub(crate) const MEMBERS: [MemberIndex; 3] = [1, 2, 3];
pub(crate) const ELECTION: Duration = Duration::from_secs(20);
/// How long a step of a ceremony may take, with an election in it.
pub(crate) const STEP: Duration = Duration::from_secs(30);

/// What writes every word of a cluster down, and gives its members orders.
pub(crate) struct Scene {
    capture: Capture,
    order: PathBuf,
    keys: PathBuf,
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (order, keys) = (folder.path().join("order"), folder.path().join("tls-keys"));
        let capture = Capture::start(folder.path()).unwrap();
        Self { capture, order, keys, folder }
    }

    pub(crate) fn start(&self, failpoints: &str) -> Starting {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![
            set("SSLKEYLOGFILE", &self.keys.display().to_string()),
            set("FAILPOINT_FILE", &self.order.display().to_string()),
            set("FAILPOINTS", failpoints),
            set("QUORATE_DUMPABLE", "1"),
        ];
        Cluster::spawn(&Options { environment, ..Options::default() }).unwrap()
    }

    /// Has the first process that gets to a point do something; all of them see the whole order or none.
    pub(crate) fn order(&self, order: &str) {
        let fresh = self.folder.path().join("order.new");
        std::fs::write(&fresh, order).unwrap();
        std::fs::rename(&fresh, &self.order).unwrap();
    }

    /// The process that was stopped by the order.
    pub(crate) async fn stopped<'a>(&self, processes: &'a [Process]) -> &'a Process {
        let deadline = Instant::now() + STEP;
        loop {
            // It takes the order away, then it stops.
            if !self.order.exists()
                && let Some(process) = processes.iter().find(|p| is_stopped(p.pid()))
            {
                return process;
            }
            let order = std::fs::read_to_string(&self.order);
            assert!(Instant::now() < deadline, "a process gets to the point of the order, which says {order:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// The memory of what sets the cluster up, of every node and of the custodian, and the arguments and environment of everything that runs.
pub(crate) fn search_processes(searcher: &Searcher, dev: u32, processes: &[Process]) -> Found {
    let mut found = memory::search(searcher, "memory of dev", dev).unwrap();
    for process in processes {
        let (name, pid) = (process.name(), process.pid());
        if name != "postgres" {
            found.extend(memory::search(searcher, &format!("memory of {name}"), pid).unwrap());
        }
        found.extend(memory::search_arguments(searcher, name, pid).unwrap());
    }
    found
}

/// A cluster whose every word is written down.
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) scene: Scene,
}

impl Lab {
    pub(crate) fn home(&self) -> &Path {
        Path::new(self.cluster.text("/folder").unwrap())
    }

    pub(crate) fn processes(&self, searcher: &Searcher) -> Found {
        search_processes(searcher, self.cluster.dev(), self.cluster.processes())
    }

    /// All files of all nodes, of the custodian, of the operator and of the customer, logs included; and what anybody is told.
    pub(crate) async fn told(&self, searcher: &Searcher) -> Found {
        let mut found = searcher.files("", self.home(), &|_| false).unwrap();
        for member in MEMBERS {
            let status = format!("{:?}", self.cluster.status(member).await.unwrap());
            searcher.search("status", status.as_bytes(), &mut found);
        }
        for (who, command) in [("admin", vec!["status"]), ("admin", vec!["status", "--output", "json"])] {
            let output = self.cluster.cli(who, &command, b"").unwrap();
            searcher.search("the CLI", &[output.stdout, output.stderr].concat(), &mut found);
        }
        searcher.search("errors", self.errors().await.as_bytes(), &mut found);
        found
    }

    /// What clients are told when they ask for what is not there, what they may not have, and what cannot be: by the SDK and by the CLI,
    /// with a secret in their hands.
    pub(crate) async fn errors(&self) -> String {
        let (demo, admin) = (self.cluster.client("demo").unwrap(), self.cluster.admin().unwrap());
        let mut said = Vec::new();
        let mut note = |error: &dyn std::fmt::Display, debug: &dyn std::fmt::Debug| {
            said.push(format!("{error}\n{debug:?}\n{debug:#?}"));
        };
        for (who, path) in [(&demo, "app/demo/none"), (&demo, "app/other/x"), (&admin, "app/demo/x"), (&demo, "none/x")]
        {
            let why = who.get(NAMESPACE, path, None).await.expect_err("it cannot be opened");
            note(&why, &why);
            let why = who.put(NAMESPACE, path, b"x", Some(7)).await.expect_err("it cannot be put");
            note(&why, &why);
        }
        let why = demo.issue_lease("nobody", None).await.expect_err("there is no such role");
        note(&why, &why);
        let why = demo.revoke(LeaseId([7; 16])).await.expect_err("there is no such lease");
        note(&why, &why);
        for (member, answer) in admin.status().await {
            if let Err(why) = answer {
                note(&format_args!("member {member}: {why}"), &why);
            }
        }
        let commands: [&[&str]; 5] = [
            &["get", "app/demo/none"],
            &["get", "app/other/x", "--output", "json"],
            &["put", "app/other/x"],
            &["lease", "issue", "nobody"],
            &["lease", "issue", "nobody", "--output", "json"],
        ];
        for command in commands {
            let output = self.cluster.cli("demo", command, b"a value").unwrap();
            assert!(!output.status.success(), "`quorate {}` is refused", command.join(" "));
            said.push(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
        }
        said.concat()
    }

    /// A core of each process. A node stands still meanwhile, so another one may lead afterwards: the place says who did.
    pub(crate) async fn cores(&self, searcher: &Searcher) -> Found {
        let mut found = Found::default();
        for process in self.cluster.processes().iter().filter(|p| p.name() != "postgres") {
            let leader = self.cluster.wait_leader(ELECTION).await.unwrap();
            let in_office = if process.name() == format!("n{leader}") { " in office" } else { "" };
            let place = format!("core of {}{in_office}", process.name());
            found.extend(memory::search_core(searcher, &place, process.pid(), self.scene.folder.path()).unwrap());
        }
        found
    }

    /// Ends the cluster and searches what it said to itself and to its clients.
    pub(crate) fn frames(self, searcher: &Searcher) -> Found {
        let Self { cluster, scene } = self;
        let (raw, plain) = scene.capture.finish(&scene.keys).unwrap();
        drop(cluster);
        let mut found = Found::default();
        searcher.search("frames", &raw, &mut found);
        searcher.search("decrypted frames", &plain, &mut found);
        println!("{} MiB of frames, {} MiB decrypted", raw.len() >> 20, plain.len() >> 20);
        found
    }

    /// Another node leads; the one that did goes on as a follower.
    pub(crate) async fn depose(&self) -> (MemberIndex, MemberIndex) {
        let before = self.cluster.wait_leader(ELECTION).await.unwrap();
        let node = self.cluster.node(before).unwrap();
        node.stop().unwrap();
        let after = self.cluster.wait_leader(ELECTION).await;
        node.cont().unwrap();
        let after = after.unwrap();
        assert_ne!(before, after, "another node leads");
        let deadline = Instant::now() + ELECTION;
        while self.cluster.status(before).await.unwrap().is_none_or(|s| s.leader != u32::from(after)) {
            assert!(Instant::now() < deadline, "member {before} follows member {after}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (before, after)
    }

    pub(crate) fn fragment(&self) -> Canary {
        let customer = PathBuf::from(self.cluster.text("/custodian/customer").unwrap());
        let bytes = std::fs::read(customer.join("fragment.key")).unwrap();
        let passphrase = SecretVec::new(self.passphrase().into_bytes());
        let protection = Protection::Passphrase(&passphrase, PassphraseCost::default());
        Canary::new("fragment", open_file("customer-fragment", &bytes, &protection).unwrap().expose())
    }

    pub(crate) fn passphrase(&self) -> String {
        std::fs::read_to_string(self.cluster.text("/passphrase_file").unwrap()).unwrap().trim_end().to_owned()
    }

    pub(crate) fn credential(&self) -> Canary {
        let file = self.cluster.text("/postgres/password_file").unwrap();
        Canary::new("credential", std::fs::read_to_string(file).unwrap().trim_end().as_bytes())
    }
}
