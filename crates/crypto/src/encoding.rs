//! The one encoding under every hash, KDF and signature: length-prefixed fields behind a domain string.
//!
//! `LP(x)` is the length of `x` as 4 bytes, big-endian, followed by `x`. A transcript is
//! `LP("quorate/v1/<purpose>") LP(field 1) ... LP(field n)`: two different lists of fields never give the same bytes,
//! and two purposes never share an input (`docs/format.md`, section 1).

use sha2::{Digest, Sha512};

/// What stands before every purpose.
pub const DOMAIN: &str = "quorate/v1/";

/// Appends `LP(x)` to `out`.
///
/// Fields are far below 4 GiB everywhere (the largest is a payload of about 1 MiB); a longer one is cut by the
/// length that its reader checks, never silently accepted, because the prefix then disagrees with the data.
pub fn lp(out: &mut Vec<u8>, x: &[u8]) {
    out.extend_from_slice(&u32::try_from(x.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(x);
}

/// `LP("quorate/v1/<purpose>") LP(field) ...` as bytes: the input of a signature.
#[must_use]
pub fn transcript(purpose: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + fields.iter().map(|f| f.len() + 4).sum::<usize>());
    let mut domain = String::with_capacity(DOMAIN.len() + purpose.len());
    domain.push_str(DOMAIN);
    domain.push_str(purpose);
    lp(&mut out, domain.as_bytes());
    for field in fields {
        lp(&mut out, field);
    }
    out
}

/// SHA-512 over [`transcript`], without building it: fields may be secret, and a buffer would keep them.
#[must_use]
pub fn hash(purpose: &str, fields: &[&[u8]]) -> [u8; 64] {
    let mut sha = Sha512::new();
    let prefix = |len: usize, sha: &mut Sha512| sha.update(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    prefix(DOMAIN.len() + purpose.len(), &mut sha);
    sha.update(DOMAIN);
    sha.update(purpose);
    for field in fields {
        prefix(field.len(), &mut sha);
        sha.update(field);
    }
    sha.finalize().into()
}

/// The first 32 bytes of [`hash`]: the width of ids derived from content.
#[must_use]
pub fn hash32(purpose: &str, fields: &[&[u8]]) -> [u8; 32] {
    let mut out = [0u8; 32];
    for (o, h) in out.iter_mut().zip(hash(purpose, fields)) {
        *o = h;
    }
    out
}

/// Reads fields back, front to back, refusing anything that is not there.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

/// The input ended early, or had bytes left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encoding is cut short or has trailing bytes")]
pub struct Malformed;

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    /// The next length-prefixed field.
    ///
    /// # Errors
    /// [`Malformed`] when the prefix or the field is cut short.
    pub fn lp(&mut self) -> Result<&'a [u8], Malformed> {
        let len = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(len).map_err(|_| Malformed)?)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Malformed`] when bytes are left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        assert_ne!(hash("t", &[b"ab", b"c"]), hash("t", &[b"a", b"bc"]));
        assert_ne!(hash("t", &[b"ab"]), hash("u", &[b"ab"]));
    }

    #[test]
    fn hash_is_that_of_the_transcript() {
        let fields: [&[u8]; 3] = [b"ab", b"", b"c"];
        assert_eq!(hash("t", &fields), <[u8; 64]>::from(Sha512::digest(transcript("t", &fields))));
    }

    #[test]
    fn reader_wants_exactly_what_is_there() {
        let mut out = Vec::new();
        lp(&mut out, b"abc");
        let mut r = Reader::new(&out);
        assert_eq!(r.lp(), Ok(&b"abc"[..]));
        assert_eq!(r.finish(), Ok(()));
        assert_eq!(Reader::new(&out[..6]).lp(), Err(Malformed));
        let mut r = Reader::new(&out);
        assert!(r.take(2).is_ok());
        assert_eq!(r.finish(), Err(Malformed));
    }
}
