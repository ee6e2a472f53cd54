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
    tracing::warn!(name, action, "failpoint");
    match action {
        Some("kill") => {
            let _ = kill_process(getpid(), Signal::KILL);
            Ok(())
        }
        Some("stop") => {
            let _ = kill_process(getpid(), Signal::STOP);
            Ok(())
        }
        _ => Err(Injected),
    }
}
