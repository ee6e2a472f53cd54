//! `quorate run`: a program with a login of its own, which ends when the program does.
//!
//! However it ends: while it runs its lease is renewed, for a short time at once, so that a machine that goes off, or a SIGKILL
//! of this process, leaves a login that ends by itself.

use crate::connection::Connection;
use crate::duration;
use crate::failure::Stop;
use crate::handed::hand;
use crate::output::progress;
use anyhow::Context as _;
use quorate_api::client::{Client, Credential};
use quorate_api::status::{DEADLINE, Failure, LEASE_STATE, NOT_ENOUGH_MEMBERS, REQUEST_TOO_LATE, Retry};
use quorate_state::ids::{LeaseId, Millis};
use rustix::process::{Pid, Signal, getpgid, kill_process};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// How long the end of the login is tried, and then waited for, when the program has ended.
const REVOKING: Duration = Duration::from_secs(20);
/// Signals that are handed on to the program.
const HANDED_ON: [Signal; 6] = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2];

/// Run a program with a login of its own, and revoke the login when the program ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The role.
    #[arg(long)]
    role: String,
    /// How long the login outlives this process if that is killed; it is renewed while the program runs.
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    ttl: Millis,
    /// Put the password into the program's environment as `QUORATE_PASSWORD` and, for its system, `PGPASSWORD`, `MYSQL_PWD` or
    /// `REDISCLI_AUTH`, where its children and whoever may look at the process see it, instead of into a file that
    /// `QUORATE_PASSWORD_FILE` names, and for its system `PGPASSFILE` or `MYSQL_HOME`.
    #[arg(long)]
    password_in_environment: bool,
    /// The program and its arguments. It finds `QUORATE_LEASE`, `QUORATE_SYSTEM`, `QUORATE_HOST`, `QUORATE_PORT`, `QUORATE_DATABASE` and
    /// `QUORATE_USERNAME` in its environment, and `PGHOST`, `PGPORT`, `PGDATABASE` and `PGUSER`, or `MYSQL_HOST` and `MYSQL_TCP_PORT`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs `quorate run`. The exit status is the program's, whatever becomes of the login; 128 and the signal's number if one ended it.
pub(crate) async fn run(run: Run, connection: &Connection) -> anyhow::Result<()> {
    let client = connection.client()?;
    // Before there is anything to revoke: a signal that comes while the login is made must not lose it.
    let mut signals = Signals::listen()?;
    let credential = client.issue_lease(&run.role, Some(run.ttl)).await?;
    let ended = with_login(&run, &client, &credential, &mut signals).await;
    if let Err(why) = revoke(&client, credential.lease).await {
        progress(format_args!(
            "lease {}, the login {} at {}:{}, has not been seen to have ended: {why}",
            credential.lease, credential.username, credential.host, credential.port
        ));
        let ttl = Duration::from_millis(run.ttl);
        progress(format_args!("  it ends by itself, at the latest {ttl:?} after it was made or last renewed"));
    }
    match exit_status(ended?) {
        0 => Ok(()),
        other => Err(Stop::Ended(other).into()),
    }
}

async fn with_login(
    run: &Run,
    client: &Client,
    credential: &Credential,
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    let (name, arguments) = run.command.split_first().context("there is no program to run")?;
    let mut command = Command::new(name);
    command.args(arguments).kill_on_drop(true);
    // Kept until the program has ended.
    let _handed = hand(&mut command, credential, run.password_in_environment)?;
    // What a terminal has sent meanwhile has reached no program.
    if let Some(came) = signals.came() {
        return Ok(ExitStatus::from_raw(came.signal));
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            progress(format_args!("{} cannot be run: {error}", name.to_string_lossy()));
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return Err(Stop::Ended(if missing { 127 } else { 126 }).into());
        }
    };
    // Beside what follows: where nobody answers a renewal waits for long, and signals and the program's end do not wait for it.
    let mut renewing = std::pin::pin!(keep(client, credential.lease, run.ttl));
    loop {
        tokio::select! {
            status = child.wait() => return status.context("cannot wait for the program"),
            came = signals.next() => hand_on(&child, came),
            never = &mut renewing => match never {},
        }
    }
}

/// Renews a lease as long as it can be renewed.
async fn keep(client: &Client, lease: LeaseId, ttl: Millis) -> Infallible {
    let life = Duration::from_millis(ttl);
    let mut pause = life / 3;
    loop {
        sleep(pause).await;
        match client.renew(lease, ttl).await {
            Ok(_) => pause = life / 3,
            Err(failure) => {
                progress(format_args!("lease {lease} was not renewed: {}", failure.message));
                if failure.code == LEASE_STATE {
                    // It was revoked, or has come to the end that no renewal moves: the program finds out by itself.
                    std::future::pending::<()>().await;
                }
                pause = life / 12;
            }
        }
    }
}

/// Asks for the end of the lease until it is in the log, then waits until it was seen at the target.
async fn revoke(client: &Client, lease: LeaseId) -> Result<(), Failure> {
    let asked = Cell::new(None);
    let revoking = async {
        let index = loop {
            match client.revoke(lease).await {
                Ok(index) => break index,
                // A request that waited until its time was over can be made anew.
                Err(failure) if failure.retry == Retry::No && failure.code != REQUEST_TOO_LATE => return Err(failure),
                Err(_) => sleep(Duration::from_millis(500)).await,
            }
        };
        asked.set(Some(index));
        client.wait_revoked(lease, REVOKING).await.map(drop)
    };
    let late = |_| {
        Err(match asked.get() {
            Some(index) => Failure::new(
                DEADLINE,
                format!("from log index {index} on no node honours it, and its login is being ended at the target"),
            ),
            None => Failure::new(NOT_ENOUGH_MEMBERS, "the members could not be asked to end it"),
        })
    };
    timeout(REVOKING, revoking).await.unwrap_or_else(late)
}

/// Hands a signal on, unless the program has it already: what a terminal sends, for ^C and ^\ or when it is closed, it sends to
/// every process of a group, and a second one is more than was asked for (some programs end at once then). What `kill` sends to
/// this process alone is handed on. So does sudo.
fn hand_on(child: &Child, came: Origin) {
    // None, when it has ended: its number may be another's by now.
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
    let ours = || getpgid(None).is_ok_and(|group| getpgid(Some(pid)) == Ok(group));
    if came.cause == Cause::Kernel && ours() {
        return;
    }
    if let Some(sign) = HANDED_ON.into_iter().find(|sign| sign.as_raw() == came.signal) {
        let _ = kill_process(pid, sign);
    }
}

fn exit_status(status: ExitStatus) -> u8 {
    let status = status.code().or_else(|| status.signal().map(|sign| 128 + sign)).unwrap_or(1);
    u8::try_from(status).unwrap_or(1)
}

/// The signals that are handed on, from now on, each with who has sent it.
struct Signals(tokio::sync::mpsc::Receiver<Origin>);

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let mut signals =
            SignalsInfo::<WithOrigin>::new(HANDED_ON.map(Signal::as_raw)).context("cannot wait for signals")?;
        // It waits as long as the process runs.
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || signals.forever().all(|came| sender.blocking_send(came).is_ok()))
            .context("cannot wait for signals")?;
        Ok(Self(receiver))
    }

    /// One that has come already.
    fn came(&mut self) -> Option<Origin> {
        self.0.try_recv().ok()
    }

    async fn next(&mut self) -> Origin {
        match self.0.recv().await {
            Some(came) => came,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_the_programs() {
        assert_eq!(exit_status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_status(ExitStatus::from_raw(9)), 137);
    }
}
