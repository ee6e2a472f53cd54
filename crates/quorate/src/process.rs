//! What long-running commands share: logs, the signals that end them, and dying with who started them.

use anyhow::Context as _;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::future::Future;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is logged when nobody says: openraft tells each step of its own at `info`.
const QUIET: &str = "info,openraft=warn";

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
