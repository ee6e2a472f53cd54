//! What a lease's client may have the target store in the place of a password.

use crate::target::MAX_ITERATIONS;
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// The form of a verifier: what a target stores in the place of a password.
///
/// # Security
/// All but [`Form::Scram`] are made without a salt that differs from login to login, or in one round: they hide only what was drawn at random,
/// and with at least 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Form {
    /// SCRAM-SHA-256 as PostgreSQL stores it (RFC 5802, RFC 7677), with so many iterations.
    Scram {
        /// 1 to [`MAX_ITERATIONS`].
        iterations: u32,
    } = 0,
    /// MySQL's `mysql_native_password`: `*` and 40 upper-case hexadecimal digits.
    MySqlNative = 1,
    /// MariaDB's `ed25519`: that word, a colon, and 43 digits of base64 without padding, a public key.
    MariaDbEd25519 = 2,
    /// Redis: `#` and 64 lower-case hexadecimal digits.
    RedisSha256 = 3,
    /// RabbitMQ's `rabbit_password_hashing_sha256`: in base64, a salt of 4 bytes and 32 of a hash.
    RabbitMqSha256 = 4,
    /// Where the target makes the secret, and not the client: to whom it is sealed. `x25519:` and a public key of X25519 (RFC 7748) in base64.
    Sealed = 5,
}

impl Default for Form {
    /// What PostgreSQL takes by default.
    fn default() -> Self {
        Self::Scram { iterations: 4_096 }
    }
}

impl Form {
    /// Its name in commands and answers; what it names besides, its iterations, stands apart.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scram { .. } => "scram-sha-256",
            Self::MySqlNative => "mysql_native_password",
            Self::MariaDbEd25519 => "ed25519",
            Self::RedisSha256 => "redis-sha256",
            Self::RabbitMqSha256 => "rabbitmq-sha256",
            Self::Sealed => "sealed",
        }
    }

    /// The form of a name; `iterations` are for the one that has any.
    #[must_use]
    pub fn named(name: &str, iterations: u32) -> Option<Self> {
        let all = [
            Self::Scram { iterations },
            Self::MySqlNative,
            Self::MariaDbEd25519,
            Self::RedisSha256,
            Self::RabbitMqSha256,
            Self::Sealed,
        ];
        all.into_iter().find(|form| form.name() == name)
    }

    /// How often its hash is iterated; 0 where it is not.
    #[must_use]
    pub fn iterations(self) -> u32 {
        if let Self::Scram { iterations } = self { iterations } else { 0 }
    }

    /// Whether there is such a form: a huge number of iterations would hold a target and a client for seconds or for hours.
    #[must_use]
    pub fn is_bounded(self) -> bool {
        if let Self::Scram { iterations } = self { (1..=MAX_ITERATIONS).contains(&iterations) } else { true }
    }

    /// Whether a verifier is of this form, byte for byte. Targets take much else for a clear password, without a word.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub fn check(self, verifier: &str) -> Result<(), &'static str> {
        let hex = |digits: &str, count: usize, letters: core::ops::RangeInclusive<u8>| {
            digits.len() == count && digits.bytes().all(|b| b.is_ascii_digit() || letters.contains(&b))
        };
        let (good, why) = match self {
            Self::Scram { iterations } => return check_scram(verifier, iterations),
            Self::MySqlNative => (
                verifier.strip_prefix('*').is_some_and(|digits| hex(digits, 40, b'A'..=b'F')),
                "must be `*` and 40 upper-case hexadecimal digits",
            ),
            Self::MariaDbEd25519 => (
                // With the padding that is left out there.
                verifier.strip_prefix("ed25519:").is_some_and(|key| base64_len(&format!("{key}=")) == Some(32)),
                "must be `ed25519:` and a public key in base64 without padding",
            ),
            Self::RedisSha256 => (
                verifier.strip_prefix('#').is_some_and(|digits| hex(digits, 64, b'a'..=b'f')),
                "must be `#` and 64 lower-case hexadecimal digits",
            ),
            Self::RabbitMqSha256 => (base64_len(verifier) == Some(36), "must be 36 bytes in canonical base64"),
            Self::Sealed => (
                verifier.strip_prefix("x25519:").is_some_and(|key| base64_len(key) == Some(32)),
                "must be `x25519:` and a public key in base64",
            ),
        };
        if good { Ok(()) } else { Err(why) }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a verifier is exactly what PostgreSQL stores for SCRAM-SHA-256:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, salt of 16 to 32 bytes, keys of 32, canonical base64.
fn check_scram(verifier: &str, iterations: u32) -> Result<(), &'static str> {
    let rest = verifier.strip_prefix("SCRAM-SHA-256$").ok_or("must begin with `SCRAM-SHA-256$`")?;
    let (parameters, keys) = rest.split_once('$').ok_or("must have three parts between `$`")?;
    let (count, salt) = parameters.split_once(':').ok_or("must name iterations and salt")?;
    let (stored, server) = keys.split_once(':').ok_or("must have StoredKey and ServerKey")?;
    if count != iterations.to_string() {
        return Err("must have the iteration count of the role");
    }
    if !matches!(base64_len(salt), Some(16..=32)) {
        return Err("must have a salt of 16 to 32 bytes in canonical base64");
    }
    if base64_len(stored) != Some(32) || base64_len(server) != Some(32) {
        return Err("must have keys of 32 bytes in canonical base64");
    }
    Ok(())
}

/// How many bytes a canonical base64 text (RFC 4648 section 4, padded) stands for.
fn base64_len(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take_while(|b| **b == b'=').count();
    let digits = bytes.get(..bytes.len().checked_sub(padding)?)?;
    let mut last = 0u8;
    for b in digits {
        last = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
    }
    // The bits that no byte uses must be zero.
    let canonical = match padding {
        0 => true,
        1 => last & 0b11 == 0,
        2 => last & 0b1111 == 0,
        _ => false,
    };
    if canonical { Some(bytes.len() / 4 * 3 - padding) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_canonical() {
        assert_eq!(base64_len("AAAA"), Some(3));
        assert_eq!(base64_len("AAA="), Some(2));
        assert_eq!(base64_len("AA=="), Some(1));
        for bad in ["", "AAA", "AAB=", "AB==", "A===", "====", "AA=A", "A A="] {
            assert_eq!(base64_len(bad), None, "{bad}");
        }
    }

    #[test]
    fn verifier_form() {
        let salt = "AAAAAAAAAAAAAAAAAAAAAA==";
        let k = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(Form::default().check(&format!("SCRAM-SHA-256$4096:{salt}${k}:{k}")), Ok(()));
        for bad in [
            format!("SCRAM-SHA-256$20000000:{salt}${k}:{k}"),
            format!("SCRAM-SHA-256$04096:{salt}${k}:{k}"),
            format!("SCRAM-SHA-256$4096:{salt}${k}"),
            format!("SCRAM-SHA-256$4096:AAAA${k}:{k}"),
            format!("SCRAM-SHA-256$4096:{salt}${k}:{}", &k[..40]),
            format!("SCRAM-SHA-256$4096:{salt}${k}:{k} "),
            format!("SCRAM-SHA-256$4096:{salt}${k}:{k}'; DROP"),
            "secret".to_owned(),
            String::new(),
        ] {
            assert!(Form::default().check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_other_forms() {
        let native = format!("*{}", "0123456789ABCDEF".repeat(3).get(..40).unwrap());
        let key = format!("ed25519:{}", "A".repeat(43));
        let sha = format!("#{}", "0123456789abcdef".repeat(4));
        let rabbit = "A".repeat(48);
        let sealed = format!("x25519:{}=", "A".repeat(43));
        let good = [
            (Form::MySqlNative, &native),
            (Form::MariaDbEd25519, &key),
            (Form::RedisSha256, &sha),
            (Form::RabbitMqSha256, &rabbit),
            (Form::Sealed, &sealed),
        ];
        for (form, verifier) in good {
            assert_eq!(Form::named(form.name(), 7), Some(form));
            for (_, other) in good {
                assert_eq!(form.check(other).is_ok(), other == verifier, "{form}: {other}");
            }
            let bad =
                [&verifier[1..], &verifier[..verifier.len() - 1], &format!("{verifier} "), &format!("{verifier}'"), ""];
            for bad in bad {
                assert!(form.check(bad).is_err(), "{form}: {bad}");
            }
        }
        assert!(Form::MySqlNative.check(&native.to_lowercase()).is_err());
        assert!(Form::RedisSha256.check(&sha.to_uppercase()).is_err());
        // Bits that no byte uses.
        assert!(Form::MariaDbEd25519.check(&format!("ed25519:{}B", "A".repeat(42))).is_err());
        assert_eq!(Form::named("scram-sha-256", 7), Some(Form::Scram { iterations: 7 }));
        assert_eq!(Form::named("md5", 7), None);
        for (iterations, bounded) in [(0, false), (1, true), (100_000, true), (100_001, false)] {
            assert_eq!(Form::Scram { iterations }.is_bounded(), bounded);
        }
    }
}
