//! What a target has definitely refused is not asked of it again and again: for a role whose credentials it refuses, requests
//! are refused here, before anything of them is in the log, and one in a while is let through to see.

use quorate_api::status::Failure;
use quorate_state::target::Role;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The pause after the first refusal; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The roles whose last credential was refused. In memory, of the member that leads: a new leader finds out by itself.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<BTreeMap<String, Tripped>>);

struct Tripped {
    /// The role as it was: one that was described anew is tried at once.
    role: Role,
    why: String,
    pause: Duration,
    until: Instant,
}

impl Breakers {
    /// Whether a request for a lease of a role may go to its target now. One that may is the only one for a while.
    ///
    /// # Errors
    /// `target_refused`, with what the target said.
    pub(crate) fn admit(&self, name: &str, role: &Role, now: Instant) -> Result<(), Failure> {
        let mut tripped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = tripped.get_mut(name).filter(|t| t.role == *role) else { return Ok(()) };
        if now < at.until {
            let left = at.until.duration_since(now).as_secs() + 1;
            let Tripped { why, role, .. } = at;
            let what = format!(
                "target {} refuses credentials of role {name}, and is asked again in {left} s at the latest: {why}",
                role.target
            );
            return Err(Failure::new("target_refused", what));
        }
        at.until = now + at.pause;
        Ok(())
    }

    /// Notes that the target has definitely refused a credential of a role.
    pub(crate) fn refused(&self, name: &str, role: &Role, why: &str, now: Instant) {
        let mut tripped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tripped.get(name).filter(|t| t.role == *role).map(|t| t.pause);
        if before.is_none() {
            tracing::error!(role = name, target = role.target, why, "the target refuses credentials of a role");
        }
        let pause = before.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        tripped.insert(name.to_owned(), Tripped { role: role.clone(), why: why.to_owned(), pause, until: now + pause });
    }

    /// Notes that a credential of a role was made.
    pub(crate) fn made(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(groups: &[&str]) -> Role {
        Role {
            target: "db".to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            default_ttl: 1_000,
            max_ttl: 1_000,
            connection_limit: 1,
            max_leases: 1,
            form: quorate_state::lease::Form::Scram { iterations: 4_096 },
            ..Role::default()
        }
    }

    #[test]
    fn a_refused_role_is_tried_once_in_a_while_and_by_itself() {
        let (breakers, now, wrong) = (Breakers::default(), Instant::now(), role(&["missing"]));
        assert!(breakers.admit("r", &wrong, now).is_ok());
        breakers.refused("r", &wrong, "no such group", now);
        let failure = breakers.admit("r", &wrong, now).unwrap_err();
        assert!(failure.code == "target_refused" && failure.message.contains("no such group"), "{failure}");
        assert!(breakers.admit("other", &wrong, now).is_ok(), "another role of the target");
        assert!(breakers.admit("r", &role(&["there"]), now).is_ok(), "described anew it is another");
        let later = now + FIRST_PAUSE;
        assert!(breakers.admit("r", &wrong, later).is_ok(), "one to see");
        assert!(breakers.admit("r", &wrong, later).is_err(), "and no second one meanwhile");
        let mut at = later;
        for _ in 0..10 {
            breakers.refused("r", &wrong, "no such group", at);
            at += LONGEST_PAUSE;
        }
        breakers.refused("r", &wrong, "no such group", at);
        assert!(breakers.admit("r", &wrong, at + LONGEST_PAUSE - Duration::from_millis(1)).is_err());
        assert!(breakers.admit("r", &wrong, at + LONGEST_PAUSE).is_ok(), "never given up");
        breakers.made("r");
        assert!(breakers.admit("r", &wrong, at).is_ok());
        assert!(breakers.admit("r", &wrong, at).is_ok(), "no pause is left");
    }
}
