//! Secrets that belong together, each with a name: what a cloud issues as one credential.

use super::SecretVec;
use core::fmt;

/// How many there may be.
const MOST: usize = 8;
/// How many bytes a name may have.
const NAME: usize = 32;
/// How many bytes a value may have: tokens of clouds have some thousands.
const VALUE: usize = 8 * 1024;
/// The first byte of the encoding.
const VERSION: u8 = 1;

/// 1 to 8 secrets, each with a name of its own: 1 to 32 of `a-z`, `0-9` and `_`. A value has at most 8 KiB.
pub struct SecretFields(Vec<(String, SecretVec)>);

impl SecretFields {
    /// Takes them over; `None` where they are too many, too few or too long, or a name is none or comes twice.
    #[must_use]
    pub fn new(fields: Vec<(String, SecretVec)>) -> Option<Self> {
        let name = |n: &str| {
            (1..=NAME).contains(&n.len())
                && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let good = (1..=MOST).contains(&fields.len())
            && fields.iter().all(|(n, value)| name(n) && value.len() <= VALUE)
            && fields.iter().enumerate().all(|(at, (n, _))| fields.iter().skip(at + 1).all(|(other, _)| other != n));
        good.then_some(Self(fields))
    }

    /// The one of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SecretVec> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretVec)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// As bytes: a version, 1, and of each the length of its name in one byte, its name, the length of its value in two, big-endian, and
    /// its value.
    #[must_use]
    pub fn encode(&self) -> SecretVec {
        // In one piece: a vector that grows leaves what it held behind.
        let len = self.0.iter().map(|(name, value)| 3 + name.len() + value.len()).sum::<usize>() + 1;
        let mut out = Vec::with_capacity(len);
        out.push(VERSION);
        for (name, value) in &self.0 {
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(value.expose());
        }
        SecretVec::new(out)
    }

    /// What was encoded; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, mut rest) = bytes.split_first()?;
        if version != VERSION {
            return None;
        }
        let mut fields = Vec::new();
        while let Some((&len, tail)) = rest.split_first() {
            let (name, tail) = tail.split_at_checked(usize::from(len))?;
            let (len, tail) = tail.split_first_chunk::<2>()?;
            let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            fields.push((core::str::from_utf8(name).ok()?.to_owned(), SecretVec::new(value.to_vec())));
            if fields.len() > MOST {
                return None;
            }
            rest = tail;
        }
        Self::new(fields)
    }
}

/// Names only.
impl fmt::Debug for SecretFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&str, &[u8])]) -> Option<SecretFields> {
        SecretFields::new(all.iter().map(|(n, v)| ((*n).to_owned(), SecretVec::new(v.to_vec()))).collect())
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let all = fields(&[("access_key_id", b"AKIA"), ("token", &[0; 8 * 1024]), ("empty", b"")]).unwrap();
        let bytes = all.encode();
        let again = SecretFields::decode(bytes.expose()).unwrap();
        assert_eq!(again.encode().expose(), bytes.expose());
        assert_eq!(again.get("access_key_id").map(SecretVec::expose), Some(&b"AKIA"[..]));
        assert!(again.get("token").is_some_and(|t| t.len() == 8 * 1024) && again.get("Token").is_none());
        assert_eq!(again.iter().map(|(n, _)| n).collect::<Vec<_>>(), ["access_key_id", "token", "empty"]);
    }

    #[test]
    fn what_is_encoded_is_frozen() {
        let bytes = b"\x01\x02ab\x00\x03xyz\x01_\x00\x00";
        assert_eq!(fields(&[("ab", b"xyz"), ("_", b"")]).unwrap().encode().expose(), bytes);
        assert_eq!(SecretFields::decode(bytes).unwrap().get("ab").map(SecretVec::expose), Some(&b"xyz"[..]));
    }

    /// It travels sealed; what is opened and yet changed is refused, or is what its bytes say.
    #[test]
    fn a_changed_byte_is_refused_or_another_value() {
        let bytes = fields(&[("access_key_id", b"AKIA"), ("empty", b"")]).unwrap().encode();
        let mut refused = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.expose().to_vec();
                changed[at] ^= 1 << bit;
                match SecretFields::decode(&changed) {
                    None => refused += 1,
                    Some(other) => assert_eq!(other.encode().expose(), changed, "byte {at}, bit {bit}"),
                }
            }
        }
        assert!(refused > bytes.len(), "{refused} refused");
    }

    #[test]
    fn nothing_else_is_decoded() {
        let bytes = fields(&[("a", b"1"), ("b", b"22")]).unwrap().encode();
        let whole = [6];
        for at in 0..bytes.len() {
            let cut = SecretFields::decode(&bytes.expose()[..at]);
            assert_eq!(cut.is_some(), whole.contains(&at), "cut to {at} bytes");
        }
        let mut more = bytes.expose().to_vec();
        more.push(1);
        assert!(SecretFields::decode(&more).is_none() && SecretFields::decode(b"\x02\x01a\x00\x00").is_none());
        assert!(SecretFields::decode(b"\x01\x01\xff\x00\x00").is_none());
    }

    #[test]
    fn bounds() {
        let long = [0; 8 * 1024 + 1];
        let all: [&[(&str, &[u8])]; 6] =
            [&[], &[("a", b""), ("a", b"")], &[("", b"")], &[("A", b"")], &[("a-b", b"")], &[("a", &long)]];
        for bad in all {
            assert!(fields(bad).is_none(), "{:?}", bad.iter().map(|(n, _)| n).collect::<Vec<_>>());
        }
        let nine: Vec<_> = (0..9u8).map(|n| (n.to_string(), SecretVec::new(vec![]))).collect();
        assert!(SecretFields::new(nine).is_none());
        let name = "n".repeat(33);
        assert!(fields(&[(&name, b"")]).is_none() && fields(&[(&name[1..], b"")]).is_some());
    }

    #[test]
    fn debug_shows_names_only() {
        assert_eq!(format!("{:?}", fields(&[("token", b"canary")]).unwrap()), r#"{"token"}"#);
    }
}
