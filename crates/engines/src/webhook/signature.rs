//! Standard Webhooks 1.0.0, the symmetric scheme: `v1`, HMAC-SHA256 over id, timestamp and body
//! (`spec/standard-webhooks.md` of github.com/standard-webhooks/standard-webhooks, "Signature scheme").

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use quorate_crypto::secret::SecretVec;
use sha2::Sha256;

use crate::EngineError;

/// What a secret begins with when it is written.
const PREFIX: &str = "whsec_";
/// How many bytes a key has.
const LENGTH: core::ops::RangeInclusive<usize> = 24..=64;

/// A key that both sides know.
pub(super) struct SigningSecret(SecretVec);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(redacted)")
    }
}

impl SigningSecret {
    /// `whsec_` and base64 of 24 to 64 bytes are that key; any other 24 to 64 bytes are a key themselves, as those
    /// are that the vault draws when it replaces the password of a target.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what is shorter or longer.
    pub(super) fn of_password(password: &SecretVec) -> Result<Self, EngineError> {
        let written = password.expose().strip_prefix(PREFIX.as_bytes());
        // Strict: canonical, with its padding.
        let key = written.and_then(|text| STANDARD.decode(text).ok().map(SecretVec::new));
        if let Some(key) = key.filter(|key| LENGTH.contains(&key.len())) {
            return Ok(Self(key));
        }
        if LENGTH.contains(&password.len()) {
            return Ok(Self(SecretVec::new(password.expose().to_vec())));
        }
        Err(EngineError::Invalid {
            field: "password",
            reason: "not a signing secret: `whsec_` and base64, or 24 to 64 bytes",
        })
    }

    /// Another one, which nobody else knows.
    pub(super) fn unknown() -> Result<Self, EngineError> {
        let mut key = vec![0; 32];
        random(&mut key)?;
        Ok(Self(SecretVec::new(key)))
    }

    /// As it is written.
    pub(super) fn written(&self) -> SecretVec {
        let mut text = vec![0; PREFIX.len() + self.0.len().div_ceil(3) * 4];
        if let Some((prefix, digits)) = text.split_at_mut_checked(PREFIX.len()) {
            prefix.copy_from_slice(PREFIX.as_bytes());
            // Straight into its place, so that no other copy is made. It fits exactly.
            let _written = STANDARD.encode_slice(self.0.expose(), digits);
        }
        SecretVec::new(text)
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> Result<String, EngineError> {
        let mac = self.mac(id, timestamp, body)?;
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    }

    /// Whether one of the signatures in a header is this secret's. Compares in constant time.
    pub(super) fn is_of(&self, header: &str, id: &str, timestamp: &str, body: &[u8]) -> bool {
        let of_v1 = header.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
        of_v1.into_iter().any(|tag| self.mac(id, timestamp, body).is_ok_and(|mac| mac.verify_slice(&tag).is_ok()))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Result<Hmac<Sha256>, EngineError> {
        let reason = "not a key";
        let mac = Hmac::<Sha256>::new_from_slice(self.0.expose());
        let mac = mac.map_err(|_| EngineError::Invalid { field: "password", reason })?;
        Ok(mac.chain_update(id).chain_update(".").chain_update(timestamp).chain_update(".").chain_update(body))
    }
}

/// Fills from the operating system.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), EngineError> {
    getrandom::fill(bytes).map_err(|error| EngineError::Unavailable { reason: format!("no random numbers: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Result<SigningSecret, EngineError> {
        SigningSecret::of_password(&SecretVec::new(text.as_bytes().to_vec()))
    }

    /// The example of the scheme's own libraries (`libraries/rust/src/lib.rs`, `test_sign`).
    #[test]
    fn the_published_signature() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let (id, timestamp) = ("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", "1649367553");
        let wanted = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        let secret = secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        assert_eq!(secret.sign(id, timestamp, body).unwrap(), wanted);
        assert!(secret.is_of(wanted, id, timestamp, body));
        let among = format!("v1a,{} v1,AAAA {wanted}", &wanted[3..]);
        assert!(secret.is_of(&among, id, timestamp, body), "one of several");
        let other = wanted.replace('t', "u");
        let cut = &wanted[..wanted.len() - 4];
        for bad in
            ["", "v1,", "v1", &other, cut, &wanted[3..], &wanted.replace("v1", "v1a"), &wanted.replace("v1,", "v2,")]
        {
            assert!(!secret.is_of(bad, id, timestamp, body), "{bad:?}");
        }
        assert!(!secret.is_of(wanted, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpl", timestamp, body));
        assert!(!secret.is_of(wanted, id, "1649367554", body) && !secret.is_of(wanted, id, timestamp, b"{}"));
    }

    #[test]
    fn a_changed_byte_of_what_is_signed_is_refused() {
        let secret = secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let (id, timestamp, body) = ("msg_1", "1649367553", br#"{"type":"quorate.v1.fence","data":{"number":null}}"#);
        let header = secret.sign(id, timestamp, body).unwrap();
        assert!(secret.is_of(&header, id, timestamp, body));
        let texts = [header.as_str(), id, timestamp];
        for (which, text) in texts.iter().enumerate() {
            for at in 0..text.len() {
                for bit in 0..7 {
                    let mut changed = text.as_bytes().to_vec();
                    changed[at] ^= 1 << bit;
                    let changed = String::from_utf8(changed).unwrap();
                    let mut said = texts;
                    said[which] = &changed;
                    assert!(!secret.is_of(said[0], said[1], said[2], body), "{text:?}, byte {at}, bit {bit}");
                }
            }
        }
        for at in 0..body.len() {
            let mut changed = *body;
            changed[at] ^= 1 << (at % 8);
            assert!(!secret.is_of(&header, id, timestamp, &changed), "byte {at} of the body");
        }
    }

    /// The request in docs/webhook.md.
    #[test]
    fn the_signature_of_the_page() {
        let page = include_str!("../../../../docs/webhook.md");
        let (_, rest) = page.split_once("\nPOST /vault/v1/fence HTTP/1.1\n").unwrap();
        let (request, _) = rest.split_once("\n```").unwrap();
        let (head, body) = request.split_once("\n\n").unwrap();
        let header = |name| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
        let (_, written) = page.split_once("That one is signed with `").unwrap();
        let secret = secret(written.split('`').next().unwrap()).unwrap();
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        assert_eq!(secret.sign(id, timestamp, body.as_bytes()).unwrap(), header("webhook-signature"));
    }

    #[test]
    fn a_secret_is_read_and_written() {
        let text = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        assert_eq!(secret(text).unwrap().written().expose(), text.as_bytes());
        for length in 24..=64 {
            let drawn = SigningSecret(SecretVec::new(vec![7; length])).written();
            let text = core::str::from_utf8(drawn.expose()).unwrap();
            assert_eq!(secret(text).unwrap().0.expose(), vec![7; length], "{length}");
        }
        // What the vault draws: 43 digits of base64 for the URL.
        let drawn = "n0Zc-kqJ_8gq5Y2H2m1nM8k1yW5Vn1k0c3vJ0vK3pQE";
        assert_eq!(secret(drawn).unwrap().0.expose(), drawn.as_bytes());
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        assert_eq!(secret(&short).unwrap().0.expose(), short.as_bytes(), "no key in base64, but bytes enough");
        for bad in ["", "hunter2", &"a".repeat(23), &"a".repeat(65)] {
            assert!(matches!(secret(bad), Err(EngineError::Invalid { field: "password", .. })), "{bad:?}");
        }
        assert!(!format!("{:?}", secret(text).unwrap()).contains("C2FV"));
    }
}
