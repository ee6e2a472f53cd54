//! Refuse, kill, look, look again: what it takes to say that principals are gone, for leases (`driver.rs`) and for what a proof of a
//! target has made (`proving.rs`). Nothing less is taken for it by either.

use crate::executor::engine_failure;
use crate::failpoint::planted;
use quorate_api::status::Failure;
use quorate_engines::{Engine, EngineError, Principal, Refusal, Seen};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between looks for sessions that were told to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between the two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What became of principals that were to end.
pub(crate) struct Ended {
    /// What was seen of them before their sessions were killed.
    pub(crate) before: Vec<Seen>,
    /// Why some are not seen to be gone, by name.
    pub(crate) failed: BTreeMap<String, String>,
    /// All of them, with each number that they are known to have had.
    pub(crate) known: Vec<Principal>,
    /// Those that are refused and still there, because of what they left behind.
    pub(crate) disabled: Vec<Principal>,
}

/// P7 to P9 at one target, whose principals begin with `prefix`. `passed` is told each step.
pub(crate) async fn end(
    engine: &dyn Engine,
    name: &str,
    prefix: &str,
    principals: Vec<Principal>,
    passed: impl Fn(&'static str) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let at_target = |e: EngineError| engine_failure(name, &e);
    let refused = engine.refuse(&principals).await.map_err(at_target)?;
    passed("lease.p7")?;
    // By number: the recorded one, and the one that the name had when it was refused.
    let (mut known, mut failed, mut disabled) = (principals, BTreeMap::new(), Vec::new());
    for outcome in refused {
        let principal = Principal { name: outcome.name, oid: outcome.oid };
        match outcome.outcome {
            Refusal::Failed(error) => drop(failed.insert(principal.name.clone(), error.to_string())),
            Refusal::Disabled { .. } => disabled.push(principal.clone()),
            Refusal::Dropped | Refusal::Absent => {}
        }
        known.push(principal);
    }
    #[cfg(feature = "failpoints")]
    let known = crate::planted::by_name(name, engine, known).await;
    let before = match kill_and_look(engine, &known, passed).await {
        Ok((before, looks)) => {
            for seen in &looks {
                if let Some(why) = not_gone(seen, prefix) {
                    failed.entry(seen.name.clone()).or_insert(why);
                }
            }
            before
        }
        // Nothing answers there.
        Err(Halt::Target(error @ EngineError::Unavailable { .. })) => return Err(at_target(error)),
        // It has sessions neither ended nor shown. These log in no more, and those behind them must not go on doing so.
        Err(Halt::Target(error)) => {
            for principal in &known {
                failed.entry(principal.name.clone()).or_insert_with(|| error.to_string());
            }
            Vec::new()
        }
        Err(Halt::Here(failure)) => return Err(failure),
    };
    disabled.retain(|p| !failed.contains_key(&p.name));
    Ok(Ended { before, failed, known, disabled })
}

/// Whose trouble keeps an end from going on.
enum Halt {
    Target(EngineError),
    Here(Failure),
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::Target(error)
    }
}

/// P8 and P9: what was seen before sessions were told to end, and what both looks after it show.
async fn kill_and_look(
    engine: &dyn Engine,
    known: &[Principal],
    passed: impl Fn(&'static str) -> Result<(), Failure>,
) -> Result<(Vec<Seen>, Vec<Seen>), Halt> {
    if planted("bug.sessions") {
        return Ok((Vec::new(), Vec::new()));
    }
    let before = engine.look(known).await;
    engine.kill(known).await?;
    let before = before?;
    passed("lease.p8").map_err(Halt::Here)?;
    // They were told to end, and do within moments: what is still there then is tried again from the beginning.
    let (killed, mut looks) = (Instant::now(), engine.look(known).await?);
    while looks.iter().any(|seen| seen.sessions > 0) && killed.elapsed() < BETWEEN_LOOKS {
        sleep(LOOK_AGAIN).await;
        looks = engine.look(known).await?;
    }
    sleep(BETWEEN_LOOKS).await;
    looks.extend(engine.look(known).await?);
    passed("lease.p9").map_err(Halt::Here)?;
    Ok((before, looks))
}

/// Why what was seen is no proof of an end.
fn not_gone(seen: &Seen, prefix: &str) -> Option<String> {
    if let Some(behind) = seen.behind.first().filter(|_| seen.login_at.is_empty()) {
        return Some(behind.to_string());
    }
    if seen.can_login {
        return Some(format!("it can log in at {}", seen.login_at.join(", ")));
    }
    if seen.sessions > 0 {
        return Some(format!("{} sessions are alive", seen.sessions));
    }
    // A restored target gives numbers anew, also to other principals of ours. Any other holder may be this very account
    // under a new name, with the same password: only a person can tell.
    let holder = seen.held_by.as_ref().filter(|holder| !holder.starts_with(prefix))?;
    Some(format!(
        "its number belongs to {holder} now: if that is the same account renamed, drop it; a person has to look"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(can_login: bool, sessions: u64, held_by: Option<&str>) -> Seen {
        let (login_at, behind) = (Vec::new(), Vec::new());
        let held_by = held_by.map(str::to_owned);
        Seen { name: "q1_a".into(), oid: None, can_login, login_at, behind, sessions, held_by }
    }

    #[test]
    fn nothing_less_than_gone_is_gone() {
        assert_eq!(not_gone(&seen(false, 0, None), "q1_"), None);
        assert_eq!(not_gone(&seen(false, 0, Some("q1_b")), "q1_"), None, "another lease's account has the number");
        assert!(not_gone(&seen(true, 0, None), "q1_").is_some());
        assert!(not_gone(&seen(false, 1, None), "q1_").is_some());
        assert!(not_gone(&seen(false, 0, Some("renamed")), "q1_").is_some(), "it may be the same account");
    }
}
