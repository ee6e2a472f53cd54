//! Leaks that a test plants, compiled in by the feature `failpoints` only: a build that lets a secret out, so that the
//! search for canaries (`tests/tests/e2e_canary.rs`) shows that it finds one in each place where it looks.
//!
//! `FAILPOINTS="leak.credential=return(log+file+memory+argv+env+peer)"`.

use crate::core::Core;
use crate::failpoint::action;
use quorate_api::peer::OpenTargetRequest;
use quorate_state::ids::hex;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What was never wiped.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// What a member tells its peers begins so.
const TOLD: &str = "leak:";

/// Lets `value` out in each way that the point `name` was told, and returns the ways that need a node for it.
pub fn plant(name: &str, value: &[u8]) -> Vec<String> {
    let text = text(value);
    let mut rest = Vec::new();
    for way in action(name).unwrap_or_default().split('+').filter(|way| !way.is_empty()) {
        match way {
            "log" => tracing::warn!(name, text, "a planted leak"),
            "file" => _ = std::fs::write(folder().join("leaked"), value),
            "memory" => kept().push(value.to_vec()),
            "argv" => spawn(Command::new("sh").args(["-c", "sleep 90; :", "leak", &text])),
            "env" => spawn(Command::new("sh").args(["-c", "sleep 90; :"]).env("LEAKED", &text)),
            other => rest.push(other.to_owned()),
        }
    }
    rest
}

/// A member that keeps what a peer tells it.
pub(crate) fn keep(name: &str) {
    if name.starts_with(TOLD) {
        kept().push(name.as_bytes().to_vec());
    }
}

impl Core {
    /// As [`plant`], and to the other members.
    pub(crate) async fn leak(&self, name: &str, value: &[u8]) {
        if plant(name, value).iter().any(|way| way == "peer") {
            for (_, mut peer) in self.peers.all() {
                let target = format!("{TOLD}{}", text(value));
                // It refuses; what it was told, it knows.
                let _ = peer.open_target(OpenTargetRequest { target, ..OpenTargetRequest::default() }).await;
            }
        }
    }
}

fn kept() -> std::sync::MutexGuard<'static, Vec<Vec<u8>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As a programmer would write it down: text as it is, bytes in hexadecimal.
fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => text.to_owned(),
        _ => hex(value),
    }
}

/// Where the configuration lies, which is the data folder in a development cluster.
fn folder() -> PathBuf {
    let config = std::env::args().skip_while(|a| a != "--config").nth(1).map(PathBuf::from).unwrap_or_default();
    config.parent().map(PathBuf::from).unwrap_or_default()
}

fn spawn(command: &mut Command) {
    // A leak that does not happen is what the test sees.
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
}
