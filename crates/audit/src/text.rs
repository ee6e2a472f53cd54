//! Redaction: how text from outside gets into a record.
//!
//! Text is escaped so that a record can be shown on a terminal and one text can't pose as another, and cut so that a
//! caller can't flood the log with one long name. The escape is injective: nothing that differs looks the same,
//! except where the end was cut, and that is marked.

use std::fmt::Write as _;

/// Longest principal, in bytes after escaping.
pub const MAX_PRINCIPAL: usize = 256;
/// Longest resource, in bytes after escaping.
pub const MAX_RESOURCE: usize = 1024;
/// Longest policy id, in bytes after escaping.
pub const MAX_POLICY: usize = 256;
/// Longest detail, in bytes after escaping.
pub const MAX_DETAIL: usize = 256;
/// Longest static name (operation, reason, key of a detail), member or cluster name, in bytes after escaping.
pub const MAX_NAME: usize = 64;

/// Room for the mark of a cut: `\+` and up to 20 digits.
const MARK: usize = 22;

/// The text with every character that could mislead a reader escaped, in at most `max` bytes.
///
/// A backslash becomes `\\`. Control characters (C0, DEL, C1), line and paragraph separators, zero-width, bidirectional
/// and tag characters become `\u{..}` in lower-case hex. What doesn't fit is cut at a character and marked with `\+N`, where N
/// counts the bytes of `input` that were left out; no input yields a backslash followed by `+` otherwise.
#[must_use]
pub fn escape(input: &str, max: usize) -> String {
    let mut out = String::with_capacity(input.len().min(max));
    // Where to go back to if the text turns out not to fit: the longest prefix that leaves room for the mark.
    let mut cut = (0, 0);
    for (at, c) in input.char_indices() {
        if out.len() + MARK <= max {
            cut = (out.len(), at);
        }
        match c {
            '\\' => out.push_str("\\\\"),
            c if misleads(c) => {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
        if out.len() > max {
            let (kept, from) = cut;
            out.truncate(kept);
            let _ = write!(out, "\\+{}", input.len() - from);
            return out;
        }
    }
    out
}

fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The value of one detail of a record: an id, a number, a static name or a short escaped text.
///
/// # Security
/// There is no constructor from bytes of any length and none from `Secret`: a value doesn't get in by accident. Give
/// [`Detail::text`] names only, never what a caller sent as a value, a password or a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail(String);

impl Detail {
    /// A count, a size, an index.
    #[must_use]
    pub fn number(n: u64) -> Self {
        Self(n.to_string())
    }

    /// A 16-byte id, as hex.
    #[must_use]
    pub fn id(id: &[u8; 16]) -> Self {
        Self(hex::encode(id))
    }

    /// A 32-byte hash of public data, as hex.
    #[must_use]
    pub fn hash(hash: &[u8; 32]) -> Self {
        Self(hex::encode(hash))
    }

    /// The name of a variant.
    #[must_use]
    pub fn name(name: &'static str) -> Self {
        Self(escape(name, MAX_DETAIL))
    }

    /// A short text from outside, escaped and cut to [`MAX_DETAIL`].
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(escape(text, MAX_DETAIL))
    }

    /// What stands in the record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The inverse: the text that was kept, and how many bytes were cut.
    fn unescape(text: &str) -> (String, usize) {
        let mut out = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c != '\\' {
                out.push(c);
            } else if let Some(after) = rest.strip_prefix('\\') {
                out.push('\\');
                rest = after;
            } else if let Some(count) = rest.strip_prefix('+') {
                return (out, count.parse().unwrap());
            } else {
                let (code, after) = rest.strip_prefix("u{").unwrap().split_once('}').unwrap();
                out.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
                rest = after;
            }
        }
        (out, 0)
    }

    #[test]
    fn a_forged_line_stays_one_text() {
        assert_eq!(Detail::text("a\nseq\":1\r\x1b[2J\0").as_str(), "a\\u{a}seq\":1\\u{d}\\u{1b}[2J\\u{0}");
        assert_eq!(Detail::text("admin\u{202e}x\u{85}\u{feff}").as_str(), "admin\\u{202e}x\\u{85}\\u{feff}");
        assert_eq!(Detail::text("\\u{a}").as_str(), "\\\\u{a}", "a typed escape is not an escaped character");
        assert_eq!(Detail::text("zürich/日本").as_str(), "zürich/日本");
    }

    #[test]
    fn a_cut_is_marked_and_counted() {
        assert_eq!(escape(&"x".repeat(256), 256), "x".repeat(256));
        assert_eq!(escape(&"x".repeat(257), 256), format!("{}\\+{}", "x".repeat(234), 257 - 234));
        assert_eq!(escape(&"\n".repeat(100), 64), format!("{}\\+{}", "\\u{a}".repeat(8), 92));
    }

    #[test]
    fn details_from_types() {
        assert_eq!(Detail::number(u64::MAX).as_str(), "18446744073709551615");
        assert_eq!(Detail::id(&[0xab; 16]).as_str(), "ab".repeat(16));
        assert_eq!(Detail::hash(&[1; 32]).as_str(), "01".repeat(32));
        assert_eq!(Detail::name("sweep").as_str(), "sweep");
    }

    proptest! {
        #[test]
        fn escaped_text_is_printable_short_and_reversible(input in any::<String>(), max in 64usize..300) {
            let out = escape(&input, max);
            prop_assert!(out.len() <= max);
            prop_assert!(!out.chars().any(misleads));
            let (kept, cut) = unescape(&out);
            prop_assert!(input.starts_with(&kept));
            prop_assert_eq!(kept.len() + cut, input.len());
        }

        #[test]
        fn plain_text_is_left_alone(input in "[a-zA-Z0-9/_ .:@-]{0,64}") {
            prop_assert_eq!(escape(&input, 64), input);
        }
    }
}
