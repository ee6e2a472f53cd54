//! Targets that lie in bytes: the answers of real servers, recorded, and said again cut off, damaged, repeated, out of order and without end.
//!
//! A cut answer is an error, or says what the whole one says: nothing is called made or gone for want of bytes. A damaged one is an error too, or what a
//! lying server might say as well: no panic, no call that does not end, no memory without bound.
//!
//! `make test` tries a seeded few of each; `QUORATE_CASES=all` every cut and 20,000 damages, `QUORATE_SEED` other ones; `QUORATE_ALOUD=1` shows each call,
//! `QUORATE_WRITE_CORPUS=1` leaves what was recorded in `fuzz/corpus`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "tests fail by panicking and say how often they tried, and what the engines' tests share has more than is used here"
)]

#[path = "../../../crates/engines/tests/aws/server.rs"]
mod aws;
#[path = "../../../fuzz/driver.rs"]
mod driver;
#[path = "../../../fuzz/engines.rs"]
mod engines;
#[path = "../../../crates/engines/tests/mariadb/server.rs"]
mod mariadb;
#[path = "../../../crates/engines/tests/aws/network.rs"]
mod network;
#[path = "../../../crates/engines/tests/support/mod.rs"]
mod postgres;
mod recorder;
#[path = "../../../crates/engines/tests/redis/server.rs"]
mod redis;
#[path = "../../../fuzz/replay.rs"]
mod replay;

use driver::Random;
use engines::{Kind, PASSWORD, Step, life, replay};
use recorder::Recorder;
use replay::{Chunk, Script};
use std::path::Path;

/// How many cuts and damages of each kind `make test` tries.
const FEW: usize = 50;
const MANY: usize = 20_000;
/// A process may grow by so much while a server floods it: what one answer may have, and what is made of it.
const GROWTH: u64 = 700 << 20;

struct Recorded {
    kind: Kind,
    password: String,
    script: Script,
    whole: Vec<Step>,
}

/// A life at a real server, and the same once more at what says again what that one said.
async fn record(kind: Kind, server: u16, password: &str) -> Recorded {
    let recorder = Recorder::start(server).await;
    let engine = kind.engine(recorder.port, password);
    let live = life(kind, &*engine).await;
    drop(engine);
    let mut script = recorder.script();
    if kind == Kind::Postgres {
        without_login(&mut script);
    }
    let (again, said, secret) = (script.clone(), live.clone(), password.to_owned());
    let whole = tokio::task::spawn_blocking(move || replay(kind, &secret, &again)).await.unwrap();
    let failed: Vec<_> = live.iter().filter(|step| step.claim.is_none()).map(|step| step.call).collect();
    println!("{kind:?}: {} answers of {} bytes; no claim: {failed:?}", script.0.len(), script.encode().len());
    assert_eq!(whole, said, "what is said again is heard again");
    for call in ["create", "refuse", "look again", "clean"] {
        assert!(!failed.contains(&call), "{call} at a server that is well");
    }
    assert!(failed.contains(&"look"), "what was just made is not gone");
    Recorded { kind, password: password.to_owned(), script, whole }
}

/// SCRAM is different each time: a server that trusts says the rest alike.
fn without_login(script: &mut Script) {
    for connection in 0..=u8::MAX {
        let of_it = |chunk: &&mut Chunk| chunk.connection == connection;
        for n in [0, 1] {
            if let Some(chunk) = script.0.iter_mut().filter(of_it).nth(n) {
                chunk.bytes.clear();
            }
        }
        if let Some(chunk) = script.0.iter_mut().filter(of_it).nth(2) {
            // The server's own proof, a message before it says that all is well.
            let length = u32::from_be_bytes(chunk.bytes[1..5].try_into().unwrap());
            chunk.bytes.drain(..=usize::try_from(length).unwrap());
        }
    }
    script.0.retain(|chunk| !chunk.bytes.is_empty());
}

impl Recorded {
    /// What is heard of a script; a panic says which one it was.
    fn hear(&self, script: &Script, what: &str) -> Vec<Step> {
        let heard = std::panic::catch_unwind(|| replay(self.kind, &self.password, script));
        heard.unwrap_or_else(|_| panic!("{:?}, {what}: a panic", self.kind))
    }

    /// The first so many bytes of all that was said, and then nothing.
    fn cut(&self, at: usize) -> Script {
        let mut left = at;
        let mut script = self.script.clone();
        for chunk in &mut script.0 {
            chunk.bytes.truncate(left);
            left -= chunk.bytes.len();
        }
        script.0.retain(|chunk| !chunk.bytes.is_empty());
        script
    }

    /// What is believed that was not said.
    fn believed(&self, heard: &[Step]) -> Vec<Step> {
        let said = |step: &Step| step.claim.is_none() || self.whole.contains(step);
        heard.iter().filter(|step| !said(step)).cloned().collect()
    }

    /// A seeded few, or each byte.
    fn cuts(&self, random: &mut Random) -> usize {
        let total: usize = self.script.0.iter().map(|chunk| chunk.bytes.len()).sum();
        let all = is_all();
        let cases: Vec<usize> =
            if all { (0..total).collect() } else { (0..FEW).map(|_| random.below(total)).collect() };
        for at in &cases {
            let believed = self.believed(&self.hear(&self.cut(*at), &format!("cut after {at} bytes")));
            assert!(believed.is_empty(), "{:?}, cut off after {at} of {total} bytes: {believed:?}", self.kind);
        }
        cases.len()
    }

    /// One damage of the bytes of one answer, or of the order of answers.
    fn damaged(&self, random: &mut Random) -> Script {
        let mut script = self.script.clone();
        let chunks = &mut script.0;
        let at = random.below(chunks.len());
        match random.below(8) {
            0 => {
                let again = chunks[at].clone();
                chunks.insert(at, again);
            }
            1 => drop(chunks.remove(at)),
            2 => {
                let other = random.below(chunks.len());
                chunks.swap(at, other);
            }
            3 => chunks[at].bytes = chunks[at].bytes.repeat(1 + random.below(300)),
            4 => {
                let other = random.below(chunks.len());
                chunks[at].bytes = chunks[other].bytes.clone();
            }
            _ => {
                let corpus: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.bytes.clone()).collect();
                let one = [corpus[at].clone()];
                chunks[at].bytes = random.mutant(&one);
            }
        }
        script
    }

    fn damages(&self, seed: u64, random: &mut Random) -> (usize, usize) {
        let cases = if is_all() { MANY } else { FEW };
        let mut lies = 0;
        for case in 0..cases {
            let script = self.damaged(random);
            let heard = self.hear(&script, &format!("QUORATE_SEED={seed}, case {case}"));
            lies += usize::from(!self.believed(&heard).is_empty());
        }
        (cases, lies)
    }

    fn try_all(&self) {
        let seed = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        let mut random = Random(seed);
        let before = peak();
        let cuts = self.cuts(&mut random);
        let (damages, lies) = self.damages(seed, &mut random);
        let grown = peak() - before;
        println!(
            "{:?}: {cuts} cuts, {damages} damages, of which {lies} are well-formed lies; {} MB more",
            self.kind,
            grown >> 20
        );
        assert!(grown < GROWTH, "{:?}: {grown} bytes more", self.kind);
        self.leave();
    }

    /// For libFuzzer to begin with.
    fn leave(&self) {
        if std::env::var_os("QUORATE_WRITE_CORPUS").is_none() {
            return;
        }
        let name = format!("{:?}", self.kind).to_lowercase();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .join("fuzz/corpus/engine-")
            .with_file_name(format!("engine-{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("recorded"), self.script.encode()).unwrap();
    }
}

fn is_all() -> bool {
    std::env::var("QUORATE_CASES").is_ok_and(|cases| cases == "all")
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

async fn of(kind: Kind, server: u16, password: &str) {
    let recorded = record(kind, server, password).await;
    tokio::task::spawn_blocking(move || recorded.try_all()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_lies_in_bytes() {
    let server = postgres::Pg::start(&[]).await;
    of(Kind::Postgres, server.port, PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_lies_in_bytes() {
    let server = mariadb::My::start(&[]).await;
    of(Kind::MariaDb, server.port, mariadb::EXECUTOR_PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lies_in_bytes() {
    let server = redis::Redis::start(&[]).await;
    of(Kind::Redis, server.port, PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aws_that_lies_in_bytes() {
    let server = aws::Moto::start().await;
    of(Kind::Aws, server.port, &server.executor.text()).await;
}
