//! What long-running commands share: logs, the signals that end them, and dying with who started them.

use anyhow::Context as _;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getppid, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is logged when nobody says: openraft tells each step of its own at `info`.
const QUIET: &str = "info,openraft=warn";

/// No core dump of this process is written, and no other process of the same user reads its memory.
///
/// # Security
/// Root still does both. A test build leaves the memory open to its own user where `QUORATE_DUMPABLE` is set: the tests
/// that search memory need not be root.
pub(crate) fn keep_memory_private() -> anyhow::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context("cannot forbid core dumps")?;
    if cfg!(feature = "failpoints") && std::env::var_os("QUORATE_DUMPABLE").is_some() {
        return Ok(());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot keep this process's memory to itself")
}

/// Sends logs to standard error; `QUORATE_LOG` filters them, [`QUIET`] by default.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("QUORATE_LOG").unwrap_or_else(|_| EnvFilter::new(QUIET));
    // A second subscriber in one process is a test's: the first one stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// Has the kernel send `sign` to this process when the thread that started it ends.
pub(crate) fn die_with_parent(sign: Signal) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(sign)).context("cannot ask to die with the parent")?;
    // It may have ended before the question.
    if getppid().is_none_or(rustix::process::Pid::is_init) {
        anyhow::bail!("the process that started this one is gone");
    }
    Ok(())
}

/// Ends with the first SIGTERM or SIGINT from now on.
pub(crate) fn asked_to_end() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{dumpable_behavior, getrlimit};

    #[test]
    fn memory_is_kept_out_of_core_dumps_and_from_other_processes() {
        keep_memory_private().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)), "and it cannot be raised again");
    }
}
