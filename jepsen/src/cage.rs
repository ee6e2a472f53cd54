//! The cage: namespaces of processes, mounts and networks that this program makes for itself before it starts anything. What runs in it
//! reaches no address outside of it, and all of it ends with its first process, however that one ends: the kernel sees to that.

use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What this program's control groups are called; nothing else's begins so.
pub(crate) const GROUP: &str = "quorate-chaos";
/// Controllers of the first version of control groups that faults use.
pub(crate) const CONTROLLERS: &[&str] = &["cpu", "memory", "blkio"];
/// Where they are mounted.
pub(crate) const GROUPS: &str = "/sys/fs/cgroup";
/// How long a run may take to come to its end once it is told to.
const GRACE: Duration = Duration::from_secs(90);
/// The exit status when the run proves nothing.
pub(crate) const VOID: u8 = 2;

/// Runs this program again in a cage, with `inside` in the place of the command's name, and waits for it. Told to end, it tells the other.
pub(crate) async fn enter(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let left = leftovers()?;
    for folder in left {
        // Only an empty one goes; one that another run uses stays.
        let _ = std::fs::remove_dir(&folder);
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    // Without root, in a namespace of users too, in which this one is root: enough for networks, not for disks.
    let users: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    let mut child = Command::new("setpriv")
        // When this process is killed, the kernel kills the cage.
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private"])
        .args(users)
        .arg(own)
        .arg("inside")
        .args(arguments)
        // Closed, it means: come to an end.
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot run setpriv and unshare: is util-linux installed?")?;
    let mut tether = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => status?,
        () = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} } } => {
            tether.take();
            tokio::select! {
                status = child.wait() => status?,
                () = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} } } => {
                    child.kill().await?;
                    child.wait().await?
                }
                () = tokio::time::sleep(GRACE) => {
                    child.kill().await?;
                    child.wait().await?
                }
            }
        }
    };
    drop(tether);
    for folder in leftovers()? {
        let _ = std::fs::remove_dir(&folder);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(VOID)))
}

/// Whether this is root outside of any cage.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Control groups of runs: the one thing that does not go with a cage.
fn leftovers() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for controller in CONTROLLERS {
        let Ok(entries) = std::fs::read_dir(Path::new(GROUPS).join(controller)) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(GROUP)) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Becomes true when the run is to come to its end before its time.
pub(crate) type Stop = watch::Receiver<bool>;

/// In the cage: listens for the word to end.
pub(crate) fn listen() -> Stop {
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        let mut byte = [0];
        // Nothing is ever written there.
        let _ = tokio::io::stdin().read(&mut byte).await;
        let _ = tell.send(true);
        // Held, so that who waits for it waits.
        tell.closed().await;
    });
    told
}

/// Waits for the word to end.
pub(crate) async fn stopped(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// In the cage: checks that it is one, and mounts what everything is made in.
pub(crate) async fn furnish() -> anyhow::Result<()> {
    anyhow::ensure!(std::process::id() == 1, "`chaos inside` is for `chaos run` to call");
    tool("mount", &["-t", "tmpfs", "-o", "mode=755,size=16g", GROUP, "/run"]).await?;
    for folder in ["/run/netns", "/run/lock"] {
        std::fs::create_dir(folder)?;
    }
    tool("ip", &["link", "set", "lo", "up"]).await?;
    Ok(())
}

/// Runs a tool to its end; what it printed.
pub(crate) async fn tool(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("cannot run {program}: see deploy/build/setup"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{program} {} ended with {}: {}",
        arguments.join(" "),
        output.status,
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
