//! The two labels of a sealed version, and the rules for the names in them (`docs/format.md`, sections 2 and 4).

use super::FormatError;
use crate::encoding::{Reader, lp};

/// The payload suite this version writes and reads: XChaCha20-Poly1305 over at most 1 MiB.
pub const PAYLOAD_SUITE: u8 = 1;
/// The wrap suite this version writes and reads: TDH2 over ristretto255, HKDF-SHA-256, ChaCha20-Poly1305.
pub const WRAP_SUITE: u8 = 1;
/// The longest plaintext, in bytes.
pub const MAX_PLAINTEXT: usize = 1 << 20;
/// The longest path, in bytes.
pub const MAX_PATH: usize = 512;
/// The longest namespace, in bytes.
pub const MAX_NAMESPACE: usize = 128;
/// The longest writer, in bytes.
pub const MAX_PRINCIPAL: usize = 256;

const MIN_PADDED: u64 = 64;
const BIG_STEP: u64 = 1 << 16;
const MAX_PADDED: u64 = 17 * BIG_STEP;

/// What a version is, for ever: `H_obj`, associated data of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLabel {
    /// How the payload is sealed; [`PAYLOAD_SUITE`].
    pub payload_suite: u8,
    /// The cluster's id.
    pub cluster: [u8; 32],
    /// The secret's id.
    pub secret_id: [u8; 16],
    /// The version's id, never used twice in one secret.
    pub version_id: [u8; 16],
    /// The writer's clock, milliseconds since 1970 UTC.
    pub created: u64,
    /// Who sealed the payload: a SPIFFE id.
    pub writer_id: String,
    /// The length that the plaintext was padded to, 8 bytes of true length included: a value of [`padded_len`].
    pub padded_len: u64,
}

impl ObjectLabel {
    /// The bytes of `H_obj`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(85 + self.writer_id.len());
        out.push(self.payload_suite);
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(&self.secret_id);
        out.extend_from_slice(&self.version_id);
        out.extend_from_slice(&self.created.to_be_bytes());
        lp(&mut out, self.writer_id.as_bytes());
        out.extend_from_slice(&self.padded_len.to_be_bytes());
        out
    }

    /// Reads `H_obj`.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let [payload_suite] = r.array()?;
        if payload_suite != PAYLOAD_SUITE {
            return Err(FormatError::UnknownPayloadSuite(payload_suite));
        }
        let label = Self {
            payload_suite,
            cluster: r.array()?,
            secret_id: r.array()?,
            version_id: r.array()?,
            created: u64::from_be_bytes(r.array()?),
            writer_id: text(r.lp()?)?,
            padded_len: u64::from_be_bytes(r.array()?),
        };
        r.finish()?;
        label.check()?;
        Ok(label)
    }

    pub(super) fn check(&self) -> Result<(), FormatError> {
        check_principal(&self.writer_id)?;
        let p = self.padded_len;
        let small = p.is_power_of_two() && (MIN_PADDED..=BIG_STEP).contains(&p);
        let big = p.is_multiple_of(BIG_STEP) && (BIG_STEP..=MAX_PADDED).contains(&p);
        if small || big { Ok(()) } else { Err(FormatError::PaddedLength(p)) }
    }
}

/// Where a version stands and who wrapped its key: `H_wrap`, new with every rotation and move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapLabel {
    /// How the data key is wrapped; [`WRAP_SUITE`].
    pub wrap_suite: u8,
    /// The keyring it is wrapped to.
    pub keyring_id: [u8; 32],
    /// The namespace.
    pub namespace: String,
    /// The path in it.
    pub path: String,
    /// Which wrap of this version this is.
    pub wrap_no: u32,
    /// Who wrapped it: a SPIFFE id.
    pub wrapped_by: String,
}

impl WrapLabel {
    /// The bytes of `H_wrap`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(49 + self.namespace.len() + self.path.len() + self.wrapped_by.len());
        out.push(self.wrap_suite);
        out.extend_from_slice(&self.keyring_id);
        lp(&mut out, self.namespace.as_bytes());
        lp(&mut out, self.path.as_bytes());
        out.extend_from_slice(&self.wrap_no.to_be_bytes());
        lp(&mut out, self.wrapped_by.as_bytes());
        out
    }

    /// Reads `H_wrap`.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let [wrap_suite] = r.array()?;
        if wrap_suite != WRAP_SUITE {
            return Err(FormatError::UnknownWrapSuite(wrap_suite));
        }
        let label = Self {
            wrap_suite,
            keyring_id: r.array()?,
            namespace: text(r.lp()?)?,
            path: text(r.lp()?)?,
            wrap_no: u32::from_be_bytes(r.array()?),
            wrapped_by: text(r.lp()?)?,
        };
        r.finish()?;
        label.check()?;
        Ok(label)
    }

    pub(super) fn check(&self) -> Result<(), FormatError> {
        check_namespace(&self.namespace)?;
        check_path(&self.path)?;
        check_principal(&self.wrapped_by)
    }
}

fn text(bytes: &[u8]) -> Result<String, FormatError> {
    core::str::from_utf8(bytes).map(str::to_owned).map_err(|_| FormatError::Malformed)
}

/// The rule for paths: 1..=512 bytes, no control characters, no empty, `.` or `..` segment.
///
/// # Errors
/// [`FormatError::Path`].
pub fn check_path(path: &str) -> Result<(), FormatError> {
    if is_name(path, MAX_PATH) { Ok(()) } else { Err(FormatError::Path) }
}

/// The rule for namespaces: as for paths, 1..=128 bytes.
///
/// # Errors
/// [`FormatError::Namespace`].
pub fn check_namespace(namespace: &str) -> Result<(), FormatError> {
    if is_name(namespace, MAX_NAMESPACE) { Ok(()) } else { Err(FormatError::Namespace) }
}

fn is_name(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.len())
        && !name.bytes().any(|b| b < 0x20 || b == 0x7f)
        && name.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// The rule for writers: 1..=256 bytes of printable ASCII without space.
///
/// # Errors
/// [`FormatError::Principal`].
pub fn check_principal(id: &str) -> Result<(), FormatError> {
    if (1..=MAX_PRINCIPAL).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(FormatError::Principal)
    }
}

/// The length that a plaintext of `len` bytes is padded to, its 8-byte true length included.
///
/// Powers of two from 64 to 64 KiB, then multiples of 64 KiB: short secrets, whose length tells most, get the coarsest
/// steps.
///
/// # Errors
/// [`FormatError::PlaintextLength`] for 0 bytes and for more than [`MAX_PLAINTEXT`].
pub fn padded_len(len: usize) -> Result<u64, FormatError> {
    if !(1..=MAX_PLAINTEXT).contains(&len) {
        return Err(FormatError::PlaintextLength(len));
    }
    let need = u64::try_from(len).map_err(|_| FormatError::PlaintextLength(len))? + 8;
    Ok(if need <= BIG_STEP { need.next_power_of_two().max(MIN_PADDED) } else { need.next_multiple_of(BIG_STEP) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_hides_short_lengths_and_stays_small() {
        let of = |n| padded_len(n).unwrap();
        assert_eq!([of(1), of(56), of(57), of(120), of(121)], [64, 64, 128, 128, 256]);
        assert_eq!([of(65_528), of(65_529), of(131_064), of(131_065)], [65_536, 131_072, 131_072, 196_608]);
        assert_eq!(of(MAX_PLAINTEXT), MAX_PADDED);
        assert_eq!(padded_len(0), Err(FormatError::PlaintextLength(0)));
        assert_eq!(padded_len(MAX_PLAINTEXT + 1), Err(FormatError::PlaintextLength(MAX_PLAINTEXT + 1)));
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "a/b", "über/ключ", "a b", "...", "a/.b", "%2e%2e/x", &"p".repeat(512)] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        let long = "p".repeat(513);
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/..", "a\n", "a\0", "a\x7f", &long] {
            assert_eq!(check_path(bad), Err(FormatError::Path), "{bad:?}");
        }
        assert_eq!(check_namespace(&"n".repeat(128)), Ok(()));
        assert_eq!(check_namespace(&"n".repeat(129)), Err(FormatError::Namespace));
        assert_eq!(check_principal("spiffe://example.org/a"), Ok(()));
        for bad in ["", "a b", "ü", &"w".repeat(257)] {
            assert_eq!(check_principal(bad), Err(FormatError::Principal));
        }
    }

    #[test]
    fn impossible_padded_lengths_are_refused() {
        let mut label = ObjectLabel {
            payload_suite: 1,
            cluster: [1; 32],
            secret_id: [2; 16],
            version_id: [3; 16],
            created: 4,
            writer_id: "w".into(),
            padded_len: 0,
        };
        for bad in [0, 32, 65, 96, 65_537, 98_304, MAX_PADDED + BIG_STEP, 1 << 17 | 1, u64::MAX] {
            label.padded_len = bad;
            assert_eq!(ObjectLabel::decode(&label.encode()), Err(FormatError::PaddedLength(bad)));
        }
        label.padded_len = 3 * BIG_STEP;
        assert_eq!(ObjectLabel::decode(&label.encode()), Ok(label));
    }
}
