//! SPIFFE ids: `spiffe://<trust domain>/<path>` (SPIFFE-ID specification, section 2).
//!
//! Stricter than the specification where that costs nothing: a path is required, the whole id has at most
//! [`MAX_ID`] bytes, and the scheme is lower-case. There is one spelling of each id, so bytes can be compared.

use core::fmt;

/// The longest id, in bytes.
pub const MAX_ID: usize = 256;

const SCHEME: &str = "spiffe://";

/// A well-formed id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins: the index of the slash after the trust domain.
    slash: usize,
}

/// Why a text is not a SPIFFE id of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSpiffeId {
    /// Too long.
    #[error("longer than {MAX_ID} bytes")]
    Length,
    /// Another scheme.
    #[error("does not begin with `spiffe://`")]
    Scheme,
    /// The trust domain is empty or has other characters.
    #[error("the trust domain must be of `a-z 0-9 . - _`")]
    TrustDomain,
    /// No path: an id of the trust domain itself, which no workload has.
    #[error("has no path")]
    NoPath,
    /// An empty, `.` or `..` segment, or other characters; wildcards and percent-encoding are among them.
    #[error("path segments must be of `A-Z a-z 0-9 . - _`, and not empty, `.` or `..`")]
    Path,
}

impl SpiffeId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`BadSpiffeId`] with the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadSpiffeId> {
        if text.len() > MAX_ID {
            return Err(BadSpiffeId::Length);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(BadSpiffeId::Scheme)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        check_trust_domain(domain)?;
        let path = path.ok_or(BadSpiffeId::NoPath)?;
        if !path.split('/').all(is_segment) {
            return Err(BadSpiffeId::Path);
        }
        Ok(Self { text: text.to_owned(), slash: SCHEME.len() + domain.len() })
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.slash).unwrap_or_default()
    }

    /// The path, without its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.slash.saturating_add(1)..).unwrap_or_default()
    }

    /// The groups it is in: every prefix that ends with a whole segment, from the trust domain to the id itself.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        let ends = self.text.bytes().enumerate().skip(self.slash).filter(|(_, b)| *b == b'/').map(|(at, _)| at);
        ends.chain([self.text.len()]).filter_map(|end| self.text.get(..end))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks a trust domain, for whoever writes a genesis.
///
/// # Errors
/// [`BadSpiffeId::TrustDomain`].
pub fn check_trust_domain(domain: &str) -> Result<(), BadSpiffeId> {
    let ok = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if !domain.is_empty() && domain.bytes().all(ok) { Ok(()) } else { Err(BadSpiffeId::TrustDomain) }
}

fn is_segment(segment: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_groups() {
        let id = SpiffeId::parse("spiffe://td.example/app/Billing_1").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("td.example", "app/Billing_1"));
        let groups: Vec<_> = id.groups().collect();
        assert_eq!(groups, ["spiffe://td.example", "spiffe://td.example/app", "spiffe://td.example/app/Billing_1"]);
    }

    #[test]
    fn one_spelling_of_each_id() {
        use BadSpiffeId::{Length, NoPath, Path, Scheme, TrustDomain};
        let long = format!("spiffe://td/{}", "a".repeat(MAX_ID - "spiffe://td/".len()));
        assert!(SpiffeId::parse(&long).is_ok());
        for (text, why) in [
            (&*format!("{long}a"), Length),
            ("", Scheme),
            ("https://td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("spiffe:/td/a", Scheme),
            ("spiffe://", TrustDomain),
            ("spiffe:///a", TrustDomain),
            ("spiffe://TD/a", TrustDomain),
            ("spiffe://td:443/a", TrustDomain),
            ("spiffe://user@td/a", TrustDomain),
            ("spiffe://*/a", TrustDomain),
            ("spiffe://td", NoPath),
            ("spiffe://td?q", TrustDomain),
            ("spiffe://td/", Path),
            ("spiffe://td/a/", Path),
            ("spiffe://td//a", Path),
            ("spiffe://td/a/./b", Path),
            ("spiffe://td/a/../b", Path),
            ("spiffe://td/a/*", Path),
            ("spiffe://td/a%2fb", Path),
            ("spiffe://td/a?q", Path),
            ("spiffe://td/a#f", Path),
            ("spiffe://td/é", Path),
            ("spiffe://td/a b", Path),
            ("spiffe://td/a\0", Path),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(why), "{text}");
        }
        assert!(SpiffeId::parse("spiffe://td/.../..a").is_ok(), "only whole segments are special");
    }
}
