//! The user PIN: from where it comes is the caller's affair; here is when it may be tried.
//!
//! Tokens lock themselves after a few wrong PINs, for good where there is no PUK. A custodian that is restarted with a wrong PIN must not
//! do that: it reads the token's flags first, tries once, and never the last time.

use super::error::TokenError;
use cryptoki::error::{Error, RvError};
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;
use quorate_crypto::secret::SecretVec;
use zeroize::Zeroize;

/// Who gives the PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// A person, who knows what was typed before.
    ByPerson,
    /// A file or descriptor: the same again at every start.
    ByFile,
}

/// A user PIN: wiped on drop, never printed.
pub struct Pin {
    pin: AuthPin,
    given: Given,
}

impl Pin {
    /// Takes a PIN over; `None` if it is not UTF-8, as PKCS#11 wants it, or empty.
    #[must_use]
    pub fn new(pin: &SecretVec, given: Given) -> Option<Self> {
        let text = std::str::from_utf8(pin.expose()).ok().filter(|text| !text.is_empty())?;
        Some(Self { pin: AuthPin::new(text.into()), given })
    }

    pub(super) fn secret(&self) -> &AuthPin {
        &self.pin
    }

    /// Whether it may be tried on a token that says this of itself.
    pub(super) fn may_try(&self, info: &TokenInfo) -> Result<(), TokenError> {
        let flags = Flags {
            set: info.user_pin_initialized(),
            locked: info.user_pin_locked(),
            last: info.user_pin_final_try(),
            low: info.user_pin_count_low(),
        };
        flags.allow(self.given, info.label())
    }

    /// What a refused login means, with the flags as they are after it.
    pub(super) fn refused(token: &str, error: &Error, after: Option<&TokenInfo>) -> TokenError {
        let left = match after {
            Some(info) if info.user_pin_locked() => "it is locked now",
            Some(info) if info.user_pin_final_try() => "one try is left before it is locked",
            Some(info) if info.user_pin_count_low() => "the token counts wrong tries",
            Some(_) | None => "the token does not say how many tries are left",
        };
        match error {
            Error::Pkcs11(RvError::PinLocked, _) => TokenError::PinLocked(token.to_owned()),
            Error::Pkcs11(RvError::UserPinNotInitialized, _) => TokenError::PinNotSet(token.to_owned()),
            Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinExpired,
                _,
            ) => TokenError::PinWrong { token: token.to_owned(), left },
            other => TokenError::of(token, other),
        }
    }
}

/// What a token says of its user PIN.
struct Flags {
    set: bool,
    locked: bool,
    last: bool,
    low: bool,
}

impl Flags {
    fn allow(&self, given: Given, token: &str) -> Result<(), TokenError> {
        let token = token.to_owned();
        match self {
            Self { locked: true, .. } => Err(TokenError::PinLocked(token)),
            Self { last: true, .. } => Err(TokenError::PinLastTry(token)),
            Self { set: false, .. } => Err(TokenError::PinNotSet(token)),
            Self { low: true, .. } if given == Given::ByFile => Err(TokenError::PinDoubtful(token)),
            Self { .. } => Ok(()),
        }
    }
}

/// Copies bytes that a module gave into a secret, and wipes them.
pub(super) fn take_secret<const N: usize>(mut bytes: Vec<u8>) -> Option<quorate_crypto::secret::Secret<N>> {
    let secret = quorate_crypto::secret::Secret::from_slice(&bytes);
    bytes.zeroize();
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_tried_only_where_it_cannot_lock_the_token() {
        let fine = || Flags { set: true, locked: false, last: false, low: false };
        let code = |flags: Flags, given| flags.allow(given, "t").map_err(|why| why.code());
        for given in [Given::ByPerson, Given::ByFile] {
            assert_eq!(code(fine(), given), Ok(()));
            assert_eq!(code(Flags { locked: true, last: true, low: true, ..fine() }, given), Err("pin_locked"));
            assert_eq!(code(Flags { last: true, low: true, ..fine() }, given), Err("pin_last_try"));
            assert_eq!(code(Flags { set: false, ..fine() }, given), Err("pin_not_set"));
        }
        assert_eq!(code(Flags { low: true, ..fine() }, Given::ByFile), Err("pin_doubtful"));
        assert_eq!(code(Flags { low: true, ..fine() }, Given::ByPerson), Ok(()), "a person knows what was typed");
    }

    #[test]
    fn a_pin_is_text() {
        let pin = |bytes: &[u8]| Pin::new(&SecretVec::new(bytes.to_vec()), Given::ByFile).is_some();
        assert!(pin(b"0001password") && !pin(b"") && !pin(&[0xff, 0xfe]));
    }
}
