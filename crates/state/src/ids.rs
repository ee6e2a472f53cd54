//! Names and ids. Each is checked where it enters, and is a type of its own from there on.

use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use quorate_crypto::encoding::hash32;
pub use quorate_crypto::sealed::{check_namespace, check_path};

/// An id of a fixed number of bytes, shown as hexadecimal digits.
macro_rules! id {
    ($len:literal, $(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl core::str::FromStr for $name {
            type Err = BadName;
            fn from_str(s: &str) -> Result<Self, BadName> {
                parse_hex(s).map(Self).ok_or(BadName::Id)
            }
        }
    };
}

id!(
    16,
    /// A client's id for one request: the same id and bytes again give the same outcome.
    RequestId
);
id!(
    16,
    /// A lease. Derived from the request that asked for it, so one request has one lease, and ids never repeat.
    LeaseId
);
id!(
    16,
    /// A secret, whatever its path becomes.
    SecretId
);
id!(
    16,
    /// One version of a secret.
    VersionId
);
id!(
    32,
    /// The cluster: the hash of its genesis.
    ClusterId
);
id!(
    32,
    /// A keyring: the hash of its public key.
    KeyringId
);
id!(
    32,
    /// A customer key: the hash of its suite and public keys.
    CustomerKeyId
);
id!(
    32,
    /// One run of the key ceremony.
    SessionId
);

/// The index of a member in its roster, 1 to 16: the abscissa of its shares.
pub type MemberIndex = u8;

/// Milliseconds since 1970-01-01T00:00:00Z, of cluster time unless a field says otherwise.
pub type Millis = u64;

/// A name or id that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not the hexadecimal form of an id.
    #[error("not an id: expected hexadecimal digits of the right length")]
    Id,
    /// Empty, or longer than it may be.
    #[error("must have 1 to {0} bytes")]
    Length(usize),
    /// A byte that names must not have.
    #[error("may hold only the characters that docs/format.md lists for it")]
    Character,
}

/// Checks the name of a policy, role, target, mount or member: 1 to 64 of `a-z 0-9 - _`, the first a letter or digit.
///
/// # Errors
/// [`BadName`] with what is wrong.
pub fn check_label(s: &str) -> Result<(), BadName> {
    if s.is_empty() || s.len() > 64 {
        return Err(BadName::Length(64));
    }
    let ok = s.bytes().enumerate().all(|(i, b)| match b {
        b'a'..=b'z' | b'0'..=b'9' => true,
        b'-' | b'_' => i > 0,
        _ => false,
    });
    if ok { Ok(()) } else { Err(BadName::Character) }
}

/// Checks a SPIFFE trust domain: 1 to 255 of `a-z 0-9 . - _` (SPIFFE-ID, section 2.1).
///
/// # Errors
/// [`BadName`] with what is wrong.
pub fn check_trust_domain(s: &str) -> Result<(), BadName> {
    if s.is_empty() || s.len() > 255 {
        return Err(BadName::Length(255));
    }
    let ok = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if s.bytes().all(ok) { Ok(()) } else { Err(BadName::Character) }
}

impl LeaseId {
    /// The lease of a request: `H("lease", cluster, signer, request id, its end)`, cut to 16 bytes. A lease is remembered for longer
    /// than a request can be valid, so no id comes twice.
    #[must_use]
    pub fn of(cluster: &ClusterId, signer: &[u8; 32], request: &RequestId, not_after: Millis) -> Self {
        Self(cut(hash32("lease", &[&cluster.0, signer, &request.0, &not_after.to_be_bytes()])))
    }

    /// What a request is known by for as long as its lease is: `H("lease-origin", cluster, signer, request id)`, cut to 16 bytes.
    #[must_use]
    pub fn origin(cluster: &ClusterId, signer: &[u8; 32], request: &RequestId) -> [u8; 16] {
        cut(hash32("lease-origin", &[&cluster.0, signer, &request.0]))
    }
}

fn cut(hash: [u8; 32]) -> [u8; 16] {
    let mut out = [0u8; 16];
    for (o, h) in out.iter_mut().zip(hash) {
        *o = h;
    }
    out
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for b in bytes {
        write!(f, "{b:02x}")?;
    }
    Ok(())
}

/// Writes bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        // Writing into a String cannot fail.
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// Reads exactly `N` bytes of hexadecimal digits.
#[must_use]
pub fn parse_hex<const N: usize>(s: &str) -> Option<[u8; N]> {
    if s.len() != N * 2 || !s.is_ascii() {
        return None;
    }
    let mut out = [0u8; N];
    for (o, pair) in out.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
        let text = core::str::from_utf8(pair).ok()?;
        // `from_str_radix` would take a sign.
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *o = u8::from_str_radix(text, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        assert_eq!(check_label("app-db_1"), Ok(()));
        for bad in ["", "-a", "A", "a b", "a;b", "é"] {
            assert!(check_label(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn trust_domains() {
        for good in ["example.org", "td", "a_b-c.1", &"a".repeat(255)] {
            assert_eq!(check_trust_domain(good), Ok(()), "{good:?}");
        }
        for bad in ["", "Example.org", "a/b", "a:b", "spiffe://a", "é", "a b", &"a".repeat(256)] {
            assert!(check_trust_domain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_read_back() {
        let id = RequestId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("+b".repeat(16).parse::<RequestId>(), Err(BadName::Id));
    }
}
