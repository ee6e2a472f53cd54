//! What a target has issued, on its way from the executor to the client: sealed to a key that the client made for this one lease
//! (`docs/wire.md`, section 7).
//!
//! # Security
//! Whoever makes the secret knows it: the target, and the executor that asked for it, as long as that call lasts. Nobody else does, the log and
//! the other members least of all. HPKE in base mode says nothing about the sender: that the sealed bytes are the executor's follows from
//! their standing in the log under its term.

use crate::verifier::sha256;
use quorate_crypto::answer::{AnswerKey, seal_answer};
use quorate_crypto::encoding::transcript;
use quorate_crypto::secret::{Secret, SecretFields};
use quorate_state::ids::LeaseId;
use quorate_state::lease::MAX_ISSUED;
use rand_core::CryptoRng;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// There is nobody to seal it to.
    #[error("the lease names no key to which a secret can be sealed")]
    Key,
    /// It is more than a lease may have.
    #[error("what the target issued is longer than {MAX_ISSUED} bytes")]
    TooLong,
}

/// The `info` of HPKE.
fn info(lease: &LeaseId) -> Vec<u8> {
    transcript("issued", &[&lease.0])
}

/// Seals what was issued for a lease to the key that stands in the place of its verifier ([`quorate_state::lease::Form::Sealed`]).
///
/// # Errors
/// [`Unsealed`].
pub fn seal(
    verifier: &str,
    lease: &LeaseId,
    issued: &SecretFields,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Unsealed> {
    let key = verifier.strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok()).ok_or(Unsealed::Key)?;
    let key: [u8; 32] = key.try_into().map_err(|_| Unsealed::Key)?;
    let sealed = seal_answer(&key, &info(lease), issued.encode().expose(), rng).map_err(|_| Unsealed::Key)?;
    if sealed.len() > MAX_ISSUED { Err(Unsealed::TooLong) } else { Ok(sealed) }
}

/// Opens what was sealed to the key of this password; `None` if it was not, or for another lease, or was altered.
#[must_use]
pub fn open(password: &[u8], lease: &LeaseId, sealed: &[u8]) -> Option<SecretFields> {
    SecretFields::decode(key(password).open(&info(lease), sealed)?.expose())
}

/// What stands before the key.
const PREFIX: &str = "x25519:";

/// The key of a password, in the place of a verifier.
pub(crate) fn recipient(password: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(key(password).public()))
}

/// `DeriveKeyPair` (RFC 9180 section 7.1.3) with SHA-256 of the password, which has 128 random bits or more.
fn key(password: &[u8]) -> AnswerKey {
    AnswerKey::from_seed(Secret::init_with(|out| sha256(password, out)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crypto::secret::SecretVec;
    use quorate_state::lease::Form;
    use rand_core::UnwrapErr;

    fn rng() -> UnwrapErr<getrandom::SysRng> {
        UnwrapErr(getrandom::SysRng)
    }

    fn fields(len: usize) -> SecretFields {
        let one = |n: usize| (format!("token_{n}"), SecretVec::new(vec![b't'; len]));
        SecretFields::new((0..3).map(one).collect()).unwrap()
    }

    #[test]
    fn only_who_asked_opens_it_and_only_for_its_lease() {
        let (lease, other) = (LeaseId([1; 16]), LeaseId([2; 16]));
        let verifier = recipient(b"password");
        assert_eq!(Form::Sealed.check(&verifier), Ok(()));
        let sealed = seal(&verifier, &lease, &fields(40), &mut rng()).unwrap();
        let opened = open(b"password", &lease, &sealed).unwrap();
        assert_eq!(opened.encode().expose(), fields(40).encode().expose());
        assert!(open(b"another", &lease, &sealed).is_none() && open(b"password", &other, &sealed).is_none());
        assert!(!sealed.windows(8).any(|w| w == b"tttttttt"));
        let again = seal(&verifier, &lease, &fields(40), &mut rng()).unwrap();
        assert_ne!(sealed, again);
        let mut altered = sealed.clone();
        if let Some(last) = altered.last_mut() {
            *last ^= 1;
        }
        assert!(open(b"password", &lease, &altered).is_none() && open(b"password", &lease, &[]).is_none());
    }

    #[test]
    fn what_can_not_be_sealed_is_not() {
        let lease = LeaseId([1; 16]);
        let to = |verifier: &str, len| seal(verifier, &lease, &fields(len), &mut rng()).map(drop);
        for bad in [
            "",
            "x25519:",
            "x25519:AAAA",
            "SCRAM-SHA-256$1:a$b:c",
            "x25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            assert_eq!(to(bad, 1), Err(Unsealed::Key), "{bad}");
        }
        assert_eq!(to(&recipient(b"p"), 5_400), Ok(()));
        assert_eq!(to(&recipient(b"p"), 5_460), Err(Unsealed::TooLong));
    }
}
