//! Names: of principals, of targets, and the numbers that stand for them where a target gives none.

use sha2::{Digest, Sha256};

use crate::{EngineError, Principal};

/// The longest principal name in bytes. PostgreSQL truncates longer ones silently, so two leases could share a role.
pub const MAX_NAME: usize = 63;

/// Whether this can be the name of a principal of ours: 1 to 63 of `a-z`, `0-9` and `_`, and not one of PostgreSQL's own
/// (`pg_...`). Such a name needs no quoting anywhere; it is quoted all the same.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with("pg_")
}

/// The number that stands for an account, of its name, where the target gives none: 32 bits of its SHA-256. Never 0.
#[must_use]
pub fn number_of(name: &str) -> u32 {
    let hash = Sha256::digest(name.as_bytes());
    hash.first_chunk().map_or(0, |first| u32::from_be_bytes(*first)).max(1)
}

/// Whether this can be the name of a principal.
pub(crate) fn check_name(name: &str) -> Result<(), EngineError> {
    if valid_name(name) {
        return Ok(());
    }
    Err(EngineError::Invalid { field: "name", reason: "not 1 to 63 of a-z, 0-9 and _" })
}

/// Whether all of these can be names of principals.
pub(crate) fn check_names(principals: &[Principal]) -> Result<(), EngineError> {
    principals.iter().try_for_each(|p| check_name(&p.name))
}

/// Whether this can name a target in what our sessions say of themselves: nothing in it means anything to any target.
pub(crate) fn check_target(name: &str) -> Result<(), EngineError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=32).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(EngineError::Invalid { field: "target", reason: "not 1 to 32 of a-z, 0-9, _ and -" })
}

/// Accounts that no call may be turned against, although their names could be principals': the executor's own, and those without
/// which the target's administrators are locked out.
pub(crate) trait Spared {
    /// Why nothing is done to these, in words about the account.
    const WHY: &'static str;

    /// Whether it is one.
    fn is_spared(&self, name: &str) -> bool;

    /// Whether this can be a principal.
    fn check_theirs(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        if self.is_spared(name) {
            return Err(EngineError::Invalid { field: "name", reason: Self::WHY });
        }
        Ok(())
    }

    /// Whether all of these can be principals.
    fn check_all(&self, principals: &[Principal]) -> Result<(), EngineError> {
        check_names(principals)?;
        principals.iter().try_for_each(|p| self.check_theirs(&p.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(valid_name("q_00_abc") && valid_name(&"a".repeat(63)));
        let long = "a".repeat(64);
        for bad in ["", "A", "a-b", "a\"b", "a'b", "a;b", "a b", "a\0", "ä", "pg_read_all_data", long.as_str()] {
            assert!(!valid_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn targets() {
        assert!(check_target("t-1_x").is_ok() && check_target(&"a".repeat(32)).is_ok());
        let long = "a".repeat(33);
        for bad in ["", "A", "a/b", "a b", "a'", "a.b", "ä", long.as_str()] {
            assert!(check_target(bad).is_err(), "{bad:?}");
        }
    }

    /// Leases record them: they are the same for ever.
    #[test]
    fn a_number_is_what_the_hash_of_a_name_begins_with() {
        assert_eq!((number_of("abc"), number_of("")), (0xba78_16bf, 0xe3b0_c442), "FIPS 180-4");
    }

    #[test]
    fn what_is_spared_is_no_principal() {
        struct Own;
        impl Spared for Own {
            const WHY: &'static str = "our own";
            fn is_spared(&self, name: &str) -> bool {
                name == "own"
            }
        }
        let principal = |name: &str| Principal { name: name.to_owned(), oid: None };
        let spared = Err(EngineError::Invalid { field: "name", reason: "our own" });
        assert_eq!(Own.check_all(&[principal("q_1"), principal("own")]), spared);
        assert_eq!(Own.check_theirs("own"), spared);
        assert_eq!(Own.check_all(&[principal("q_1")]), Ok(()));
        assert!(Own.check_theirs("not a name").is_err());
    }
}
