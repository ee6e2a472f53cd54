//! Bindings: for which instant the requests of a create are signed, and until when this process may send them.
//!
//! The services know no connections. What they know of a request is the instant that it is signed for, and none is taken whose instant is more than
//! 15 minutes away from their clocks. So a binding *is* an instant, taken when it is made: all requests of its one create are signed for it, and
//! whoever sends one late is refused by the service itself. What this process does is more, and proves nothing to others: it sends nothing after
//! [`PATIENCE`], by a clock that goes on while the machine sleeps.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::{Binding, EngineError};

/// How long after its binding was made a create may send its next request.
const PATIENCE: Duration = Duration::from_secs(120);
/// How far the instant of a signature may be from the service's clock: what STS says itself when it refuses one ("15 min."); AWS documents 5
/// minutes for most services.
pub(super) const SIGNED: Duration = Duration::from_secs(15 * 60);
/// Added to what is waited for, since the service's servers have clocks of their own.
const MARGIN: Duration = Duration::from_secs(60);
/// How many may be open. Each is there for one create.
const MOST: usize = 10_000;

/// One binding of this process.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    /// What its requests are signed for.
    pub(super) at: SystemTime,
    made: Duration,
    patience: Duration,
}

impl Bound {
    /// Nothing more may be sent.
    pub(super) fn is_over(&self) -> bool {
        boottime().saturating_sub(self.made) >= self.patience
    }
}

/// Those that were made here and have not been used.
#[derive(Debug)]
pub(super) struct Bindings {
    open: Mutex<BTreeMap<Binding, Bound>>,
    pub(super) patience: Duration,
}

impl Default for Bindings {
    fn default() -> Self {
        Self { open: Mutex::default(), patience: PATIENCE }
    }
}

impl Bindings {
    /// Another one, for now. `began` is [`boottime`] from before anything was asked for it.
    pub(super) fn add(&self, began: Duration) -> Result<Binding, EngineError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| EngineError::Unavailable { reason: error.to_string() })?;
        let at = SystemTime::now();
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let binding = Binding {
            pid: i32::from_be_bytes(random) & i32::MAX,
            backend_start_micros: i64::try_from(since).unwrap_or(i64::MAX),
        };
        let mut open = self.lock();
        open.retain(|_, bound| !bound.is_over());
        if open.len() >= MOST {
            return Err(EngineError::Busy { code: "bindings".to_owned(), message: "too many are open".to_owned() });
        }
        open.insert(binding, Bound { at, made: began, patience: self.patience });
        Ok(binding)
    }

    /// The one of this number, which nobody can use again.
    ///
    /// # Errors
    /// [`EngineError::StaleBinding`] when it was used, is too old, or was made by another process.
    pub(super) fn spend(&self, binding: &Binding) -> Result<Bound, EngineError> {
        let bound = self.lock().remove(binding).ok_or(EngineError::StaleBinding)?;
        if bound.is_over() { Err(EngineError::StaleBinding) } else { Ok(bound) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Binding, Bound>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the services, by their clocks, take nothing any more that is signed for it: in seconds since 1970.
pub(super) fn last_signed(binding: &Binding) -> u64 {
    u64::try_from(binding.backend_start_micros).unwrap_or(0) / 1_000_000 + (SIGNED + MARGIN).as_secs() + 1
}

/// The same for the binding of this process.
pub(super) fn last_of(bound: &Bound) -> u64 {
    seconds(bound.at) + (SIGNED + MARGIN).as_secs() + 1
}

/// In seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long this machine runs, the time that it slept included.
pub(super) fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_good_for_one_create_and_not_for_long() {
        let bindings = Bindings::default();
        let (one, other) = (bindings.add(boottime()).unwrap(), bindings.add(boottime()).unwrap());
        assert_ne!(one, other);
        let bound = bindings.spend(&one).unwrap();
        assert!(!bound.is_over());
        assert_eq!(bindings.spend(&one).unwrap_err(), EngineError::StaleBinding, "it was used");
        let elsewhere = Bindings::default();
        assert_eq!(elsewhere.spend(&other).unwrap_err(), EngineError::StaleBinding, "another process'");
        let changed = Binding { backend_start_micros: other.backend_start_micros + 1, ..other };
        assert_eq!(bindings.spend(&changed).unwrap_err(), EngineError::StaleBinding);
        assert!(bindings.spend(&other).is_ok());
        let hasty = Bindings { patience: Duration::ZERO, ..Bindings::default() };
        let late = hasty.add(boottime()).unwrap();
        assert_eq!(hasty.spend(&late).unwrap_err(), EngineError::StaleBinding, "its time is over");
        let slow = bindings.add(boottime().saturating_sub(PATIENCE)).unwrap();
        assert_eq!(
            bindings.spend(&slow).unwrap_err(),
            EngineError::StaleBinding,
            "it counts from before it was asked for"
        );
    }

    #[test]
    fn the_instant_of_a_binding_says_until_when_the_services_take_it() {
        let bindings = Bindings::default();
        let binding = bindings.add(boottime()).unwrap();
        let bound = bindings.spend(&binding).unwrap();
        assert_eq!(last_signed(&binding), last_of(&bound));
        assert_eq!(last_signed(&Binding { pid: 1, backend_start_micros: 1_000_000_999_999 }), 1_000_000 + 961);
    }
}
