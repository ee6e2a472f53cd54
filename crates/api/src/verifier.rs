//! Verifiers: what a client sends, and a target stores, in the place of a password.

use crate::scram;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use curve25519_dalek::EdwardsPoint;
use quorate_crypto::secret::Secret;
use quorate_state::lease::Form;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt::Write as _;

/// The verifier of a password, of a form. `salt` is fresh random bytes; a form that takes fewer takes the first ones.
///
/// The password must be printable ASCII, as those of [`crate::client::Client::issue_lease`] are.
///
/// # Security
/// Does not give the password away, but can be guessed against, of most forms fast: use it with passwords of at least 128 random bits only.
/// Whoever has a verifier of [`Form::MySqlNative`] and has read along one login knows enough to log in.
#[must_use]
pub fn verifier(form: Form, password: &[u8], salt: &[u8; 16]) -> String {
    match form {
        Form::Scram { iterations } => scram::verifier(password, salt, iterations),
        // MySQL's documentation, "native pluggable authentication": SHA1(SHA1(password)).
        Form::MySqlNative => {
            let once = Secret::<20>::init_with(|out| *out = Sha1::digest(password).into());
            format!("*{}", hex(&Sha1::digest(once.expose()), true))
        }
        // MariaDB's documentation, "ed25519 authentication plugin": the key of RFC 8032 section 5.1.5, with the password as the seed.
        Form::MariaDbEd25519 => {
            let scalar = Secret::<32>::init_with(|out| {
                let expanded = Secret::<64>::init_with(|out| *out = Sha512::digest(password).into());
                out.iter_mut().zip(expanded.expose()).for_each(|(o, e)| *o = *e);
            });
            let key = EdwardsPoint::mul_base_clamped(*scalar.expose()).compress();
            format!("ed25519:{}", STANDARD_NO_PAD.encode(key.as_bytes()))
        }
        // Redis' documentation, "ACL SETUSER": SHA-256.
        Form::RedisSha256 => format!("#{}", hex(&Sha256::digest(password), false)),
        // RabbitMQ's documentation, "credentials and passwords": salt || SHA-256(salt || password).
        Form::RabbitMqSha256 => {
            let [a, b, c, d, ..] = *salt;
            let salt = [a, b, c, d];
            let hash = Sha256::new().chain_update(salt).chain_update(password).finalize();
            STANDARD.encode([&salt[..], &hash[..]].concat())
        }
        Form::Sealed => crate::issued::recipient(password),
    }
}

/// Writes the hash of a password where it is wiped.
pub(crate) fn sha256(password: &[u8], out: &mut [u8; 32]) {
    *out = Sha256::digest(password).into();
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 16] = [0x90, 0x8D, 0xC6, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn as_the_targets_document_them() {
        let of = |form, password: &str| verifier(form, password.as_bytes(), &SALT);
        // MariaDB's documentation of PASSWORD().
        assert_eq!(of(Form::MySqlNative, "notagoodpwd"), "*3A70EE9FC6594F88CE9E959CD51C5A1C002DC937");
        // MariaDB's documentation of the plugin.
        assert_eq!(of(Form::MariaDbEd25519, "secret"), "ed25519:ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY");
        // `printf foobared | sha256sum`.
        let foobared = "#1b58ee375b42e41f0e48ef2ff27d10a5b1f6924a9acdcdba7cae868e7adce6bf";
        assert_eq!(of(Form::RedisSha256, "foobared"), foobared);
        // RabbitMQ's documentation of the algorithm.
        assert_eq!(of(Form::RabbitMqSha256, "test12"), "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }

    #[test]
    fn of_each_form_as_it_is_checked() {
        let forms = [
            Form::Scram { iterations: 1 },
            Form::MySqlNative,
            Form::MariaDbEd25519,
            Form::RedisSha256,
            Form::RabbitMqSha256,
            Form::Sealed,
        ];
        for form in forms {
            assert_eq!(form.check(&verifier(form, b"p", &SALT)), Ok(()), "{form}");
        }
    }
}
