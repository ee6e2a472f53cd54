//! Certificates and their ends: this node's own, which renews itself; those of the client CAs, which people have to see to; and whom
//! the client port admits, which the state says.

use crate::core::Core;
use crate::failpoint;
use quorate_api::status::Failure;
use quorate_api::tls::{TlsError, TlsIdentity};
use quorate_authz::{root_begin, root_end, told_ahead};
use quorate_crypto::identity::SigningKey;
use quorate_state::genesis::{administrators, client_roots};
use quorate_state::ids::Millis;
use quorate_state::target::quarantines;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

const HOUR: Millis = 3_600_000;
const DAY: Millis = 24 * HOUR;
/// How long a member's own certificate is valid. It is renewed at half of it.
const LIFE: Millis = 90 * DAY;
/// How often this node looks at its certificate's end.
const LOOK: Millis = 60_000;

/// This member's certificate: an envelope of its key, made afresh by itself.
pub(crate) struct OwnCertificate {
    shown: TlsIdentity,
    name: String,
    life: Millis,
    valid: Mutex<(Millis, Millis)>,
}

impl OwnCertificate {
    /// Makes the first.
    pub(crate) fn make(key: &SigningKey, name: &str, now: Millis) -> Result<Self, TlsError> {
        // A test's, in seconds.
        let life = failpoint::number("certificate.life").map_or(LIFE, |seconds| seconds.saturating_mul(1_000));
        let valid = validity(now, life);
        let shown = TlsIdentity::self_signed_for(key, name, valid)?;
        Ok(Self { shown, name: name.to_owned(), life, valid: Mutex::new(valid) })
    }

    /// What handshakes show: a handle that stays right.
    pub(crate) fn shown(&self) -> &TlsIdentity {
        &self.shown
    }

    /// From when to when it is valid.
    pub(crate) fn valid(&self) -> (Millis, Millis) {
        *self.valid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a new one when half of its life is over, or a clock that was set back has made it one of the future. Returns whether it did.
    fn renew(&self, key: &SigningKey, now: Millis) -> Result<bool, TlsError> {
        let (from, to) = self.valid();
        if from <= now && now.saturating_add(self.life / 2) < to {
            return Ok(false);
        }
        let valid = validity(now, self.life);
        self.shown.renew(&TlsIdentity::self_signed_for(key, &self.name, valid)?);
        *self.valid.lock().unwrap_or_else(PoisonError::into_inner) = valid;
        Ok(true)
    }
}

/// From a day ago, since clocks differ.
fn validity(now: Millis, life: Millis) -> (Millis, Millis) {
    (now.saturating_sub(DAY), now.saturating_add(life))
}

/// What people have to see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alarm {
    /// Stable: `docs/cli.md`, certificates.
    pub(crate) code: &'static str,
    /// What it is about and what to do.
    pub(crate) message: String,
}

/// The alarm about something that is valid from `from` to `to`, if it is time for one.
fn ending(code: &'static str, what: &str, advice: &str, (from, to): (Millis, Millis), now: Millis) -> Option<Alarm> {
    let left = to.saturating_sub(now);
    if left >= told_ahead(from, to) {
        return None;
    }
    let ends = match left {
        0 => "has ended".to_owned(),
        1..HOUR => "ends within the hour".to_owned(),
        HOUR..DAY => format!("ends in {} hours", left / HOUR),
        _ => format!("ends in {} days", left / DAY),
    };
    Some(Alarm { code, message: format!("{what} {ends}: {advice}") })
}

impl Core {
    /// When each client CA begins and ends.
    pub(crate) fn roots_valid(&self) -> Result<Vec<(Millis, Millis)>, Failure> {
        let roots = self.read(|store, _| client_roots(store))?.certificates;
        Ok(roots.iter().map(|der| (root_begin(der).unwrap_or(0), root_end(der).unwrap_or(0))).collect())
    }

    /// Everything that ends soon or has ended, members that are there though they are recorded as gone, and targets at which nothing
    /// is touched.
    pub(crate) fn alarms(&self) -> Result<Vec<Alarm>, Failure> {
        let now = self.clock()?;
        let advice = "`quorate client-ca replace` makes another one, with the administrators' signatures";
        let roots = self.roots_valid()?;
        let roots = roots
            .iter()
            .filter_map(|valid| ending("client_ca_ends", "the certificate of the client CA", advice, *valid, now));
        let advice = "it renews itself, and has not: look at this node's log";
        let (_, to) = self.certificate.valid();
        // Without the day by which it is dated back.
        let life = (to.saturating_sub(self.certificate.life), to);
        let wall = self.env.clock.wall();
        let own = ending("member_certificate_ends", "this member's certificate", advice, life, wall);
        let quarantined = self.read(|store, _| quarantines(store))?.into_keys().map(|target| {
            let message = format!(
                "target {target} has seen more of this cluster than it knows, so nothing is touched there: `quorate target show {target}`"
            );
            Alarm { code: "target_quarantined", message }
        });
        let refused = self.refused_logins()?.into_iter().map(|(target, why)| {
            let message = format!(
                "target {target} does not let the vault in ({why}), and leases there do not end: say what its password is now, `quorate target password {target}`, or describe it as it is, `quorate target change {target}`"
            );
            Alarm { code: "target_credential_refused", message }
        });
        let former = self.former_logins()?.into_iter().map(|target| {
            let message = format!(
                "target {target} lets the vault in with a password that it had before: what was said last is wrong, or the target has forgotten it: `quorate target password {target}`"
            );
            Alarm { code: "target_credential_former", message }
        });
        let lost = self.unopenable()?.into_iter().map(|target| {
            let message = format!(
                "what the log called the password of target {target} could not be opened by the members that gave their parts, and others are tried: the executor that sealed it is at fault, look at its machine; if leases there do not end, say what it is, `quorate target password {target}`"
            );
            Alarm { code: "target_credential_unopenable", message }
        });
        let ghosts = self.troubles.count_ghosts().into_iter().map(|(target, found)| {
            let message = format!(
                "at target {target} sessions have no account, and no lease explains them ({found}): `quorate target show {target}`"
            );
            Alarm { code: "target_ghost_session", message }
        });
        let refused = refused.chain(former).chain(lost).chain(ghosts);
        Ok(roots.chain(own).chain(self.absences.alarms()).chain(quarantined).chain(refused).collect())
    }

    /// The task that renews this node's certificate and tells what ends.
    pub(crate) async fn keep_certificates(self: Arc<Self>) {
        let look = LOOK.min(self.certificate.life / 20).max(100);
        let mut told: Vec<Alarm> = Vec::new();
        loop {
            match self.certificate.renew(self.keys.identity(), self.env.clock.wall()) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(not_after = self.certificate.valid().1, "this member's certificate is renewed")
                }
                Err(error) => tracing::warn!(%error, "this member's certificate cannot be renewed"),
            }
            if let Ok(alarms) = self.alarms() {
                // Each once for every number of days.
                for alarm in alarms.iter().filter(|alarm| !told.contains(alarm)) {
                    tracing::warn!(alarm = alarm.code, "{}", alarm.message);
                }
                told = alarms;
            }
            sleep(Duration::from_millis(look)).await;
        }
    }

    /// The task that has the client port admit whom the state names.
    pub(crate) async fn keep_callers(self: Arc<Self>) {
        let mut status = self.raft.watch();
        let mut known = None;
        loop {
            let named = self.read(|store, _| Ok((client_roots(store)?.certificates, administrators(store)?.keys)));
            if let Ok(named) = named
                && known.as_ref() != Some(&named)
            {
                if let Err(error) = self.callers.replace(&named.0, named.1.clone()) {
                    tracing::error!(%error, "the client port still admits by the client CAs before");
                }
                known = Some(named);
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crypto::secret::Secret;

    fn key() -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[5; 32]).unwrap())
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_long_before_any_alarm() {
        let begin = 1_000 * DAY;
        let own = OwnCertificate::make(&key(), "n1", begin).unwrap();
        let first = own.shown().chain();
        let handle = own.shown().clone();
        assert_eq!(own.valid(), (begin - DAY, begin + LIFE));
        assert!(!own.renew(&key(), begin + LIFE / 2 - 1).unwrap(), "not before half of its life");
        let due = begin + LIFE / 2;
        assert_eq!(ending("c", "it", "do", own.valid(), due), None, "it is renewed before anybody is alarmed");
        assert!(own.renew(&key(), due).unwrap(), "at half of its life");
        assert_eq!(own.valid(), (due - DAY, due + LIFE));
        assert_ne!(handle.chain(), first, "every handle shows the new one");
    }

    #[test]
    fn a_clock_that_is_set_makes_a_new_certificate() {
        let begin = 1_000 * DAY;
        let own = OwnCertificate::make(&key(), "n1", begin).unwrap();
        assert!(!own.renew(&key(), begin - DAY).unwrap(), "clocks differ by less than a day");
        assert!(own.renew(&key(), begin - DAY - 1).unwrap(), "set back: it would be one of the future");
        assert!(own.renew(&key(), begin + 10 * LIFE).unwrap(), "set forward: it would have ended");
    }

    #[test]
    fn an_end_is_told_thirty_days_ahead_and_of_what_is_short_lived_a_third_of_its_life_ahead() {
        let at = |valid, now| ending("client_ca_ends", "the CA", "make another", valid, now).map(|a| a.message);
        let long = (0, 3_650 * DAY);
        assert_eq!(at(long, 3_620 * DAY), None);
        assert_eq!(at(long, 3_620 * DAY + 1).as_deref(), Some("the CA ends in 29 days: make another"));
        assert_eq!(at(long, 3_649 * DAY + HOUR).as_deref(), Some("the CA ends in 23 hours: make another"));
        assert_eq!(at(long, 3_650 * DAY).as_deref(), Some("the CA has ended: make another"));
        assert_eq!(at(long, 9_999 * DAY).as_deref(), Some("the CA has ended: make another"));
        let short = (0, 9 * DAY);
        assert_eq!(at(short, 6 * DAY), None);
        assert_eq!(at(short, 6 * DAY + 1).as_deref(), Some("the CA ends in 2 days: make another"));
    }
}
