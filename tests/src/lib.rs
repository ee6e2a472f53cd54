//! Whole-process tests: real nodes, a real custodian, a real PostgreSQL, real signals.
//!
//! [`Cluster`] is what `quorate dev` starts, with handles to stop, kill and restart every process of it. It knows the
//! product only from outside: the binary, its files, the SDK, PostgreSQL's own catalogue. It refuses to know how a node works.

pub mod audit;
pub mod auditor;
pub mod canary;
pub mod capture;
mod cluster;
pub mod database;
pub mod disk;
pub mod footprint;
pub mod hostile;
mod ledger;
pub mod memory;
mod people;
pub mod points;
mod process;
pub mod proxy;
pub mod random;
pub mod relay;
pub mod shares;
pub mod terminal;

pub use audit::{Line, Sought};
pub use cluster::{Cluster, Options, Starting};
pub use ledger::Ledger;
pub use process::Process;

use anyhow::Context as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often anything is looked at that cannot be waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// The program under test: `QUORATE_BIN`, or `quorate` in the folder that cargo builds this test in.
///
/// # Errors
/// When there is none; the error says how to build it.
pub fn quorate() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("QUORATE_BIN").map(PathBuf::from) {
        anyhow::ensure!(path.is_file(), "QUORATE_BIN names {}, which is no file", path.display());
        return Ok(path);
    }
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    // target/debug/demo, or target/debug/deps/test-hash.
    let found = exe.ancestors().skip(1).take(2).map(|folder| folder.join("quorate")).find(|path| path.is_file());
    found.context("there is no program to test: run `cargo build -p quorate`, or set QUORATE_BIN")
}

/// A program to run with root's rights: by itself, or by sudo without a password.
#[must_use]
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
