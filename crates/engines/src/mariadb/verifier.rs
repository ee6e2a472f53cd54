//! What a client sends in place of its password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::quote::literal;
use crate::EngineError;

/// How the account proves its password.
#[derive(Debug, PartialEq, Eq)]
enum Method<'a> {
    /// `*` and 40 upper-case hexadecimal digits: SHA-1 of the SHA-1 of the password, without salt.
    Native(&'a str),
    /// After `ed25519:`, 43 digits of base64 without padding: a public key.
    Ed25519(&'a str),
}

fn parse(verifier: &str) -> Option<Method<'_>> {
    if let Some(key) = verifier.strip_prefix("ed25519:") {
        let canonical = key.len() == 43 && STANDARD_NO_PAD.decode(key).is_ok_and(|bytes| bytes.len() == 32);
        return canonical.then_some(Method::Ed25519(key));
    }
    let digits = verifier.strip_prefix('*')?;
    let canonical = digits.len() == 40 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    canonical.then_some(Method::Native(verifier))
}

/// # Errors
/// [`EngineError::Invalid`] for what is neither.
pub(super) fn check(verifier: &str) -> Result<(), EngineError> {
    match parse(verifier) {
        Some(_) => Ok(()),
        None => Err(EngineError::Invalid {
            field: "verifier",
            reason: "neither `*` and 40 upper-case hexadecimal digits nor `ed25519:` and a public key",
        }),
    }
}

/// `IDENTIFIED VIA ..`; of what is no verifier, one that lets nobody in.
pub(super) fn identified(verifier: &str) -> String {
    match parse(verifier) {
        Some(Method::Native(hash)) => format!("IDENTIFIED VIA mysql_native_password USING {}", literal(hash)),
        Some(Method::Ed25519(key)) => format!("IDENTIFIED VIA ed25519 USING {}", literal(key)),
        None => NOBODY.to_owned(),
    }
}

/// The server stores this word as it is, and no password has it for a hash.
pub(super) const NOBODY: &str = "IDENTIFIED VIA mysql_native_password USING 'invalid'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifiers() {
        let hash = "*6BB4837EB74329105EE4568DDA7DC67ED2CA2AD9";
        let key = format!("ed25519:{}", STANDARD_NO_PAD.encode([7; 32]));
        assert!(check(hash).is_ok() && check(&key).is_ok());
        assert_eq!(identified(hash), format!("IDENTIFIED VIA mysql_native_password USING '{hash}'"));
        let (lower, cut) = (hash.to_lowercase(), &hash[..40]);
        let last = format!("{}d", &key[..key.len() - 1]);
        let (padded, short) = (format!("{key}="), format!("ed25519:{}", STANDARD_NO_PAD.encode([7; 31])));
        let injected = format!("{hash}'");
        for bad in ["", "*", "invalid", "hunter2", &lower, cut, &injected, &padded, &short, &last, &hash[1..]] {
            assert!(check(bad).is_err(), "{bad:?}");
            assert_eq!(identified(bad), NOBODY);
        }
    }
}
