//! Leaks that a test plants, compiled in by the feature `failpoints` only: a build that lets secrets out, so that the
//! search for canaries (`tests/tests/e2e_canary/leaks.rs`) shows that it finds each kind in each place where it looks.
//!
//! `FAILPOINTS="leak.credential=return(log+file+memory+argv+env+panic+audit+status+error+peer)"`. What a member has,
//! it leaks where it has it; what it never has, a client hands to it in the name of a secret, and then it leaks that (`leak.told`).

use crate::core::Core;
use crate::failpoint::{action, told};
use quorate_api::peer::OpenTargetRequest;
use quorate_api::status::Failure;
use quorate_audit::Class;
use quorate_state::ids::hex;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was never wiped.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// What the member says of itself.
static SHOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// What its errors say.
static BLURTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A child that lives as long as this process, and soon follows it.
const CHILD: &str = "while kill -0 $PPID; do sleep 5; done";

/// What a member tells its peers begins so, and what a client hands over ends a path after it.
const TOLD: &str = "leak-";

/// Lets `value` out in each way that the point `name` was told, and returns the ways that need a node for it.
pub fn plant(name: &str, value: &[u8]) -> Vec<String> {
    let text = text(value);
    let mut rest = Vec::new();
    for way in action(name).unwrap_or_default().split('+').filter(|way| !way.is_empty()) {
        match way {
            "log" => tracing::warn!(name, text, "a planted leak"),
            "file" => write(&text),
            "memory" => held(&KEPT).push(value.to_vec()),
            "argv" => spawn(Command::new("sh").args(["-c", CHILD, "leak", &text])),
            "env" => spawn(Command::new("sh").args(["-c", CHILD]).env("LEAKED", &text)),
            "panic" => panic_with(text.clone()),
            other => rest.push(other.to_owned()),
        }
    }
    rest
}

/// A member that keeps what a peer tells it.
pub(crate) fn keep(name: &str) {
    if name.starts_with(TOLD) {
        held(&KEPT).push(name.as_bytes().to_vec());
    }
}

/// What a status says more than it should.
pub(crate) fn shown() -> Vec<String> {
    held(&SHOWN).clone()
}

/// An error that says more than it should, for as long as `FAILPOINT_FILE` has a line `leak.blurt=now`.
pub(crate) fn blurt() -> Result<(), Failure> {
    let said = held(&BLURTED).join(" ");
    if said.is_empty() || told("leak.blurt").is_none() { Ok(()) } else { Err(Failure::new("internal", said)) }
}

impl Core {
    /// As [`plant`], and in the ways of a member: to the others, to its audit log, to its clients.
    pub(crate) async fn leak(&self, name: &str, value: &[u8]) {
        for way in plant(name, value) {
            let text = text(value);
            match way.as_str() {
                "peer" => self.tell(&text).await,
                "audit" => {
                    let entry = self.internal_entry("leak", 0).resource(&text);
                    // One that is not recorded is what the test sees.
                    let _ = self.record(entry, Class::Normal).await;
                }
                "status" => held(&SHOWN).push(text),
                "error" => held(&BLURTED).push(text),
                _ => {}
            }
        }
    }

    /// Leaks what a client has put behind [`TOLD`] in a path.
    pub(crate) async fn leak_told(&self, path: &str) {
        if let Some((_, handed)) = path.rsplit_once(TOLD) {
            self.leak("leak.told", handed.as_bytes()).await;
        }
    }

    async fn tell(&self, text: &str) {
        for (_, mut peer) in self.peers.all() {
            let target = format!("{TOLD}{text}");
            // It refuses; what it was told, it knows.
            let _ = peer.open_target(OpenTargetRequest { target, ..OpenTargetRequest::default() }).await;
        }
    }
}

fn held<T>(all: &'static Mutex<Vec<T>>) -> MutexGuard<'static, Vec<T>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Beside the configuration, which is the data folder in a development cluster.
fn write(text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(folder().join("leaked"));
    // A leak that does not happen is what the test sees, here and below.
    let _ = file.and_then(|mut file| writeln!(file, "{text}"));
}

/// As an assertion does that names what it compares.
#[expect(clippy::panic, reason = "a panic is one of the ways in which this build leaks")]
fn panic_with(text: String) {
    let _ = std::thread::spawn(move || std::panic::panic_any(text)).join();
}

/// As a programmer would write it down: text as it is, bytes in hexadecimal.
fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => text.to_owned(),
        _ => hex(value),
    }
}

fn folder() -> PathBuf {
    let config = std::env::args().skip_while(|a| a != "--config").nth(1).map(PathBuf::from).unwrap_or_default();
    config.parent().map(PathBuf::from).unwrap_or_default()
}

fn spawn(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}
