//! Lines: canonical JSON, closed by a hash over all that stands before it.
//!
//! A line is `<body without its closing brace>,"hash":"<64 hex digits>"}` and a newline. The hash is
//! `hash32(purpose, body)`, the first 32 bytes of SHA-512 over the length-prefixed purpose and body. A body is read only in the very
//! bytes that writing it again gives: one record has one encoding.

use crate::record::Record;
use crate::verify::What;
use quorate_crypto::encoding::hash32;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The version of the format that this crate writes, and the only one there is so far.
pub const FORMAT: u32 = 1;

/// No line is longer than this, in bytes; the limits in [`crate::text`] keep every record well below.
pub const MAX_LINE: usize = 64 * 1024;

/// `,"hash":"` and 64 digits and `"}`.
const CLOSING: usize = 9 + 64 + 2;

/// A link of the chain: 32 bytes, in text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A hash is 64 lower- or upper-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hex digits")]
pub struct NotAHash;

impl std::str::FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let mut out = [0u8; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| NotAHash)?;
        Ok(Self(out))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The first line of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the format of the whole segment.
    pub format: u32,
    /// 1 for the first segment of a member, then one more each; the same as in the name of the file.
    pub segment: u64,
    /// The member whose log it is.
    pub member: String,
    /// The cluster it belongs to.
    pub cluster: String,
    /// Whether the segment was made of the reserve, and so holds only what may use the reserve.
    pub reserve: bool,
    /// The sequence number of the first record that follows, if one does.
    pub first_seq: u64,
    /// The hash of the last line of the segment before; zeros in the first one.
    pub prev: Hash,
}

/// A body that closes into a line.
pub(crate) trait Body: Serialize + DeserializeOwned {
    /// Keeps the hashes of different kinds of lines apart.
    const PURPOSE: &'static str;
}

impl Body for Header {
    const PURPOSE: &'static str = "audit-segment";
}

impl Body for Record {
    const PURPOSE: &'static str = "audit-record";
}

/// The line of a body, with its newline, and its hash.
pub(crate) fn close<T: Body>(body: &T) -> Result<(Vec<u8>, Hash), serde_json::Error> {
    let mut line = serde_json::to_vec(body)?;
    let hash = Hash(hash32(T::PURPOSE, &[&line]));
    line.pop();
    line.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
    Ok((line, hash))
}

/// The body of a line (without newline), and its hash, if the line is what [`close`] writes.
pub(crate) fn open<T: Body>(line: &[u8]) -> Result<(T, Hash), What> {
    let front = line.len().checked_sub(CLOSING).and_then(|at| line.get(..at)).ok_or(What::NotALine)?;
    let mut bytes = Vec::with_capacity(front.len() + 1);
    bytes.extend_from_slice(front);
    bytes.push(b'}');
    let body: T = serde_json::from_slice(&bytes).map_err(|_| What::NotALine)?;
    let (expected, hash) = close(&body).map_err(|_| What::NotALine)?;
    match expected.split_last() {
        Some((_, expected)) if expected == line => Ok((body, hash)),
        Some((_, expected)) if expected.get(..front.len()) == Some(front) => Err(What::WrongHash),
        _ => Err(What::NotALine),
    }
}
