//! What setting a cluster up writes is on the disk when its commands say so: keys that a power cut takes away right after are nobody's.
//!
//! The commands run under strace, and what they do to files is replayed on a disk that keeps nothing but what it was told to keep: no content
//! without a sync of the file, no name without a sync of its folder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that makes or changes a file, a folder or a name, or makes one durable.
const CALLS: &str = "open,openat,creat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,\
    symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat";

/// A disk that loses whatever it may lose.
#[derive(Debug, Default)]
struct Pessimist {
    /// By name: whether the content behind it is what a power cut would leave.
    content: BTreeMap<PathBuf, bool>,
    /// By name: whether a power cut would leave the name.
    names: BTreeMap<PathBuf, bool>,
    /// Files that got their content where they stand: a power cut can leave half of one.
    in_place: BTreeSet<PathBuf>,
}

/// One system call: its name, its arguments as strace shows them, and whether it went well.
struct Call<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Call<'a> {
    /// Nothing for what failed, and for what is no call.
    fn parse(line: &'a str) -> Option<Self> {
        let (_, line) = line.split_once(' ')?;
        let (call, result) = line.trim_start().rsplit_once(" = ")?;
        let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
        assert!(!name.contains("resumed") && !call.contains("unfinished"), "two calls at once: {line}");
        (!result.starts_with('-')).then_some(Self { name, arguments })
    }

    /// The paths among its arguments.
    fn paths(&self) -> Vec<PathBuf> {
        self.arguments.split('"').skip(1).step_by(2).map(PathBuf::from).collect()
    }

    /// What its first argument, an open file, leads to.
    fn file(&self) -> PathBuf {
        let (_, rest) = self.arguments.split_once('<').unwrap();
        rest.split_once('>').unwrap().0.into()
    }
}

impl Pessimist {
    fn replay(&mut self, call: &Call<'_>) {
        let paths = call.paths();
        match call.name {
            "open" | "openat" | "creat" => {
                let path = &paths[0];
                let made = call.name == "creat" || call.arguments.contains("O_CREAT");
                if made && !self.names.contains_key(path) {
                    self.names.insert(path.clone(), false);
                    self.in_place.insert(path.clone());
                }
                if made || call.arguments.contains("O_TRUNC") {
                    self.content.insert(path.clone(), false);
                }
            }
            "write" | "pwrite64" | "writev" | "ftruncate" => {
                let path = call.file();
                if let Some(content) = self.content.get_mut(&path) {
                    *content = false;
                    self.in_place.insert(path);
                }
            }
            "fsync" | "fdatasync" => {
                let file = call.file();
                if let Some(content) = self.content.get_mut(&file) {
                    *content = true;
                }
                // What is in it, if it is a folder.
                self.names
                    .iter_mut()
                    .filter(|(name, _)| name.parent() == Some(&file))
                    .for_each(|(_, kept)| *kept = true);
            }
            "rename" | "renameat" | "renameat2" => {
                let (from, to) = (&paths[0], &paths[1]);
                let content = self.content.remove(from).expect("what is renamed was made here");
                assert!(content, "{} is put in its place before its content is on the disk", to.display());
                self.names.remove(from);
                self.in_place.remove(from);
                self.in_place.remove(to);
                self.content.insert(to.clone(), content);
                self.names.insert(to.clone(), false);
            }
            "mkdir" | "mkdirat" => {
                self.names.insert(paths[0].clone(), false);
            }
            "unlink" | "unlinkat" | "rmdir" => {
                self.content.remove(&paths[0]);
                self.names.remove(&paths[0]);
                self.in_place.remove(&paths[0]);
            }
            other => panic!("what {other} does to a disk is not known here"),
        }
    }

    /// What a power cut would take away or leave in halves, of all that is there.
    fn lost(&self) -> Vec<String> {
        let of = |what: &'static str, all: &BTreeMap<PathBuf, bool>| -> Vec<String> {
            all.iter().filter(|(_, kept)| !**kept).map(|(path, _)| format!("{what} of {}", path.display())).collect()
        };
        let halves = self.in_place.iter().map(|path| format!("half of {}", path.display()));
        of("the content", &self.content).into_iter().chain(of("the name", &self.names)).chain(halves).collect()
    }
}

/// Runs `quorate` under strace, and replays what it did below `home`.
fn run(home: &Path, disk: &mut Pessimist, arguments: &[&str]) {
    let trace = home.with_extension("trace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "0", "-e", "signal=none", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(&trace)
        .arg(quorate_tests::quorate().unwrap())
        .args(arguments)
        .arg("--passphrase-file")
        .arg(home.join("passphrase"))
        .output()
        .expect("strace: see deploy/build/setup");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "quorate {}: {}\n{said}", arguments.join(" "), output.status);
    let text = std::fs::read_to_string(&trace).unwrap();
    let inside = |call: &Call<'_>| call.arguments.contains(home.to_str().unwrap());
    let calls: Vec<_> = text.lines().filter_map(Call::parse).filter(inside).collect();
    assert!(!calls.is_empty(), "quorate {} did nothing to the disk:\n{text}", arguments.join(" "));
    calls.iter().for_each(|call| disk.replay(call));
    let lost = disk.lost();
    assert!(lost.is_empty(), "after `quorate {}` a power cut takes away: {lost:#?}", arguments.join(" "));
}

#[test]
fn what_setup_has_written_survives_a_power_cut() {
    let temporary = tempfile::tempdir().unwrap();
    // As the kernel calls it.
    let home = temporary.path().canonicalize().unwrap().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("passphrase"), "of this test\n").unwrap();
    let mut disk = Pessimist::default();
    let at = |path: &str| home.join(path).to_str().unwrap().to_owned();
    for n in 1..=3 {
        let (data, seal, card) =
            (at(&format!("n{n}/data")), at(&format!("n{n}/keys/seal.key")), at(&format!("n{n}.toml")));
        let (name, peer, api) = (format!("n{n}"), format!("127.0.0.1:70{n}"), format!("127.0.0.1:71{n}"));
        let create = ["--data-dir", &data, "--seal-key", &seal, "--name", &name, "--card", &card];
        let addresses = ["--peer-address", &peer, "--api-address", &api];
        run(&home, &mut disk, &[&["member", "create"], &create[..], &addresses[..]].concat());
    }
    let (cards, operator) = ([1, 2, 3].map(|n| at(&format!("n{n}.toml"))), at("offices/operator"));
    let members: Vec<&str> = cards.iter().flat_map(|card| ["--member", card]).collect();
    let init = ["init", "--name", "kept", "--trust-domain", "example.org", "--out", &operator];
    run(&home, &mut disk, &[&init[..], &["--administrators", "2", "--needed", "1"], &members].concat());
    let identity = at("billing.pem");
    let issue = ["identity", "issue", "--operator", &operator, "--name", "app/billing", "--out", &identity];
    run(&home, &mut disk, &issue);
    run(&home, &mut disk, &["identity", "renew", &identity, "--operator", &operator]);
    let customer = at("customer");
    run(&home, &mut disk, &["custodian", "keygen", "--out", &customer, "--trust-domain", "customer.example"]);

    for kept in [
        "n1/data/identity/member.key",
        "n2/keys/seal.key",
        "n3.toml",
        "offices/operator/genesis.bin",
        "offices/operator/cluster.toml",
        "offices/operator/client-ca.key",
        "offices/operator/administrator-2.key",
        "billing.pem",
        "customer/fragment.key",
    ] {
        assert_eq!(disk.content.get(&home.join(kept)), Some(&true), "{kept} was seen to be made");
    }
}
