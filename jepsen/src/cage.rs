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
/// What a cage is made of, in the words of `unshare`.
const NAMESPACES: &[&str] =
    &["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];
/// What to do where there can be none.
const NO_CAGE: &str = "no namespaces can be made here, and nothing is broken outside of them. Root needs CAP_SYS_ADMIN and CAP_NET_ADMIN: a \
    container gets them by `--privileged`, or by `--cap-add SYS_ADMIN --cap-add NET_ADMIN` with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`; \
    others need a kernel that lets them make namespaces of users (`user.max_user_namespaces`)";
/// The exit status when the run proves nothing.
pub(crate) const VOID: u8 = 2;

/// Checks that there can be a cage here at all. Before anything else: that there is none is not to be taken for what a run has found.
pub(crate) async fn possible() -> anyhow::Result<()> {
    tool("unshare", &[namespaces().as_slice(), &["true"]].concat()).await.context(NO_CAGE)?;
    Ok(())
}

/// Without root, one of users too, in which this one is root: enough for networks, not for disks.
fn namespaces() -> Vec<&'static str> {
    let users: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    [NAMESPACES, users].concat()
}

/// Runs this program again in a cage, with the command that is for there, and waits for it. Told to end, it tells the other.
pub(crate) async fn enter(command: &str, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let left = leftovers()?;
    for folder in left {
        // Only an empty one goes; one that another run uses stays.
        let _ = std::fs::remove_dir(&folder);
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut child = Command::new("setpriv")
        // When this process is killed, the kernel kills the cage.
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(namespaces())
        .arg(own)
        .arg(command)
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
