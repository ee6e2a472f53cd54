//! Points at which a test can kill or stop the process, or have a step fail. Compiled in by the feature `failpoints`
//! only; without it every call here is empty.
//!
//! `FAILPOINTS="lease.p2=1*return(kill)"` ends the process by SIGKILL the first time it gets there; `stop` stops it by
//! SIGSTOP until somebody sends SIGCONT; `fail` makes [`hit`] return an error, once or as often as said.
//!
//! `FAILPOINT_FILE` names a file in which a test writes `lease.p2=kill` while the nodes run: the first that gets there
//! takes the file away and does it. So whichever node leads is hit, once, and no other.
//!
//! A member can be told to lie in a key ceremony: see `ceremony/hostile.rs`.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("failpoints, and with them members that lie, never stand in a released binary");

/// A step was told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the failpoint was told to fail")]
pub(crate) struct Injected;

/// Passes the point `name`.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(name: &str) -> Result<(), Injected> {
    if let Some(action) = take(name) {
        return act(name, Some(&action));
    }
    fail::fail_point!(name, |action| act(name, action.as_deref()));
    Ok(())
}

/// Passes the point `name` of a command that runs and ends, of which only `FAILPOINT_FILE` speaks.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    if let Some(action) = take(name) {
        // Nothing is left that could fail.
        let _ = act(name, Some(&action));
    }
}

/// What a leak at `name` is told to do, by the file once or by `FAILPOINTS` as often as that says.
#[cfg(feature = "failpoints")]
pub(crate) fn action(name: &str) -> Option<String> {
    if let Some(action) = take(name) {
        return Some(action);
    }
    fail::fail_point!(name, |action| action);
    None
}

/// What the file says to do here, if it is there and about this point, and this process was the first to take it.
#[cfg(feature = "failpoints")]
fn take(name: &str) -> Option<String> {
    let path = std::env::var_os("FAILPOINT_FILE")?;
    let line = std::fs::read_to_string(&path).ok()?;
    let action = line.trim_end().strip_prefix(name)?.strip_prefix('=')?.to_owned();
    std::fs::remove_file(&path).ok()?;
    Some(action)
}

/// What `FAILPOINT_FILE` says of `name`, for as long as it says so.
#[cfg(feature = "failpoints")]
pub(crate) fn told(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(std::env::var_os("FAILPOINT_FILE")?).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Whether a test has planted the bug `name`, by a line `name=on` in the file that `FAILPOINT_FILE` names: see `planted.rs`.
#[cfg(feature = "failpoints")]
pub(crate) fn planted(name: &str) -> bool {
    told(name).is_some()
}

/// None is in a product.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn planted(_name: &str) -> bool {
    false
}

/// Passes the point `name`.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn hit(_name: &str) -> Result<(), Injected> {
    Ok(())
}

/// A number that a test puts in the place of one of ours: `FAILPOINTS="certificate.life=return(6)"`.
#[cfg(feature = "failpoints")]
pub(crate) fn number(name: &str) -> Option<u64> {
    fail::fail_point!(name, |value| value.and_then(|value| value.parse().ok()));
    None
}

/// None.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn number(_name: &str) -> Option<u64> {
    None
}

#[cfg(feature = "failpoints")]
fn act(name: &str, action: Option<&str>) -> Result<(), Injected> {
    use rustix::process::{Signal, getpid, kill_process};
    use rustix::thread::gettid;
    tracing::warn!(name, action, "failpoint");
    match action {
        Some("kill") => {
            let _ = kill_process(getpid(), Signal::KILL);
            Ok(())
        }
        Some("stop") => {
            // By the id of this thread: the kernel gives the signal to it, before it runs on. By that of the process another
            // thread takes it, some time later, and this one is several steps further by then.
            let _ = kill_process(gettid(), Signal::STOP);
            Ok(())
        }
        _ => Err(Injected),
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const ROUNDS: u32 = 40;
    /// Where the process that stops itself says how often it went on.
    const FILE: &str = "QUORATE_TEST_STOPS";

    /// Among idle threads, one of which would take a signal to the process.
    fn stop_and_go(file: &Path) -> std::io::Result<()> {
        for _ in 0..4 {
            std::thread::spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
        for passed in 1..=ROUNDS {
            // It never fails.
            let _ = act("test", Some("stop"));
            std::fs::write(file, passed.to_string())?;
        }
        Ok(())
    }

    #[test]
    fn a_stop_stops_before_the_next_step() {
        if let Some(file) = std::env::var_os(FILE) {
            return stop_and_go(Path::new(&file)).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passed");
        std::fs::write(&file, "0").unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "failpoint::tests::a_stop_stops_before_the_next_step"]).env(FILE, &file);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let deadline = Instant::now() + Duration::from_secs(20);
        for round in 0..ROUNDS {
            let stopped = || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
                stat.rsplit_once(") ").unwrap().1.starts_with('T')
            };
            while !stopped() {
                assert!(Instant::now() < deadline, "it stops for the {round}th time");
                std::thread::sleep(Duration::from_micros(200));
            }
            let passed = std::fs::read_to_string(&file).unwrap();
            assert_eq!(passed, round.to_string(), "it stands at its stop, and has not gone a step further");
            kill_process(pid, Signal::CONT).unwrap();
            while std::fs::read_to_string(&file).unwrap() == passed {
                assert!(Instant::now() < deadline, "it goes on");
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        assert!(child.wait().unwrap().success());
    }
}
