//! LtHash16: a collision-resistant hash of a set that is kept up to date while the set changes.
//!
//! The hash of a set is the sum of its elements' hashes, 1,024 numbers modulo 2^16 each: elements are added and removed
//! in any order at the cost of one hash each, whatever the size of the set. An element's hash is 2,048 bytes of BLAKE3's
//! extendable output over its transcript ([`crate::encoding`]).
//!
//! Bellare and Micciancio, *A new paradigm for collision-free hashing: incrementality at reduced cost* (EUROCRYPT 1997);
//! parameters from Lewi, Kim, Maykov and Weis, *Securing update propagation with homomorphic hashing* (ePrint 2019/227),
//! section 4.2: n = 1,024 and q = 2^16 give more than 200 bits. A collision is a short vector in a random lattice; sums of
//! ordinary hashes (n = 1), or an exclusive or, fall to Wagner's generalised birthday attack.
//!
//! # Security
//! It hashes multisets: an element that is added 65,536 times is as if it had never been. Whoever uses it makes sure that
//! elements are distinct, as rows with a key are. The sum is not the digest to sign: hash it, [`LtHash::bytes`].

use crate::encoding::DOMAIN;
use core::fmt;

/// Numbers in a sum.
const LANES: usize = 1_024;

/// The hash of a set of elements. Equal sets have equal hashes; that two known sets do is out of anybody's reach.
#[derive(Clone, PartialEq, Eq)]
pub struct LtHash([u16; LANES]);

impl LtHash {
    /// Length of the bytes of a sum.
    pub const LEN: usize = 2 * LANES;

    /// The hash of the empty set.
    #[must_use]
    pub fn empty() -> Self {
        Self([0; LANES])
    }

    /// Adds the element `fields`; it must not be in the set.
    pub fn insert(&mut self, purpose: &str, fields: &[&[u8]]) {
        for (sum, lane) in self.0.iter_mut().zip(element(purpose, fields)) {
            *sum = sum.wrapping_add(lane);
        }
    }

    /// Takes the element `fields` away; it must be in the set.
    pub fn remove(&mut self, purpose: &str, fields: &[&[u8]]) {
        for (sum, lane) in self.0.iter_mut().zip(element(purpose, fields)) {
            *sum = sum.wrapping_sub(lane);
        }
    }

    /// The sum: its numbers in order, little-endian.
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0u8; Self::LEN];
        for (bytes, lane) in out.chunks_exact_mut(2).zip(self.0) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }

    /// The hash whose sum has these bytes. Every string of this length is one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self(lanes(bytes))
    }
}

impl fmt::Debug for LtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LtHash(")?;
        for lane in self.0.iter().take(4) {
            write!(f, "{lane:04x}")?;
        }
        f.write_str("..)")
    }
}

/// 2,048 bytes of BLAKE3 over `LP("quorate/v1/<purpose>") LP(field) ..`, without building that.
fn element(purpose: &str, fields: &[&[u8]]) -> [u16; LANES] {
    let mut hasher = blake3::Hasher::new();
    let prefix = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    hasher.update(&prefix(DOMAIN.len() + purpose.len()));
    hasher.update(DOMAIN.as_bytes());
    hasher.update(purpose.as_bytes());
    for field in fields {
        hasher.update(&prefix(field.len()));
        hasher.update(field);
    }
    let mut out = [0u8; LtHash::LEN];
    hasher.finalize_xof().fill(&mut out);
    lanes(&out)
}

fn lanes(bytes: &[u8; LtHash::LEN]) -> [u16; LANES] {
    let mut out = [0u16; LANES];
    for (lane, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *lane = u16::from_le_bytes(*pair);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::transcript;
    use proptest::collection::btree_map;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn of(rows: &Rows) -> LtHash {
        let mut hash = LtHash::empty();
        for (key, value) in rows {
            hash.insert("test-row", &[key, value]);
        }
        hash
    }

    fn rows() -> impl Strategy<Value = Rows> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        btree_map(bytes(), bytes(), 0..12)
    }

    /// A change of these values is a change of what members attest: the cluster would fall apart at an upgrade.
    #[test]
    fn the_hash_is_frozen() {
        let rows = Rows::from([(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new())]);
        let sum = of(&rows).bytes();
        assert_eq!(hex::encode(&sum[..32]), "f1734e0aa7ea85574e79a148f5def42f8c8744351e0765dd160ffcf19c153b68");
        assert_eq!(LtHash::empty().bytes(), [0; 2_048]);
    }

    #[test]
    fn an_element_is_blake3_of_its_transcript() {
        let mut out = [0; LtHash::LEN];
        blake3::Hasher::new().update(&transcript("test-row", &[b"a", b"1"])).finalize_xof().fill(&mut out);
        let mut hash = LtHash::empty();
        hash.insert("test-row", &[b"a", b"1"]);
        assert_eq!(hash.bytes(), out);
    }

    /// The published test vector of BLAKE3 (`test_vectors.json`, input length 0): the extendable output is the one meant.
    #[test]
    fn the_extendable_output_is_blake3() {
        let mut out = [0; 64];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        assert_eq!(
            hex::encode(out),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\
             e00f03e7b69af26b7faaf09fcd333050338ddfe085b8cc869ca98b206c08243a"
        );
    }

    #[test]
    fn lanes_do_not_carry_into_each_other() {
        let mut ones = [0u8; LtHash::LEN];
        ones[..2].copy_from_slice(&[0xff, 0xff]);
        let mut hash = LtHash::from_bytes(&ones);
        let element = element("test-row", &[b"x"]);
        hash.insert("test-row", &[b"x"]);
        assert_eq!(hash.0[0], element[0].wrapping_sub(1));
        assert_eq!(hash.0[1..], element[1..]);
    }

    proptest! {
        #[test]
        fn what_was_done_in_between_and_in_which_order_does_not_show(
            rows in rows(), others in rows(), seed in any::<u64>()
        ) {
            let mut steps: Vec<_> = rows.iter().collect();
            let shift = usize::try_from(seed % 97).unwrap() % steps.len().max(1);
            steps.rotate_left(shift);
            let mut hash = LtHash::empty();
            for (key, value) in &others {
                hash.insert("test-row", &[key, value]);
            }
            for (key, value) in steps {
                hash.insert("test-row", &[key, value]);
            }
            for (key, value) in others.iter().rev() {
                hash.remove("test-row", &[key, value]);
            }
            prop_assert_eq!(&hash, &of(&rows));
            prop_assert_eq!(&LtHash::from_bytes(&hash.bytes()), &hash);
        }

        #[test]
        fn a_flipped_bit_shows(rows in rows(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            prop_assume!(!rows.is_empty());
            let mut other = rows.clone();
            let (key, mut value) = rows.iter().nth(at.index(rows.len())).map(|(k, v)| (k.clone(), v.clone())).unwrap();
            other.remove(&key);
            value.push(0);
            let last = at.index(value.len());
            value[last] ^= 1 << bit;
            other.insert(key, value);
            prop_assert_ne!(of(&other), of(&rows));
        }
    }
}
