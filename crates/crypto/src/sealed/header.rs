//! The header: its bytes, and every check that needs nothing but the bytes and what the state names
//! (`docs/format.md`, sections 7, 9 and 11). The proof is in [`super::proof`].

use super::label::{ObjectLabel, WrapLabel};
use super::{FormatError, payload};
use crate::customer::{Part, PartSuite};
use crate::encoding::{Reader, hash, lp};
use crate::group;
use crate::keyring::{KeyringClass, KeyringPublic};
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;

/// The most parts in a slot.
pub const MAX_PARTS: usize = 8;

/// One way in: all of its parts together with the cluster's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Strictly ascending by `cust_key_id`; empty in class `cluster`.
    pub parts: Vec<Part>,
    /// The key commitment.
    pub kc: [u8; 32],
    /// The wrapped data key.
    pub wdek: [u8; 48],
}

impl Slot {
    /// The bytes of `parts`, which enter the KDF.
    pub(super) fn parts_bytes(parts: &[Part]) -> Vec<u8> {
        let mut out = vec![u8::try_from(parts.len()).unwrap_or(u8::MAX)];
        for part in parts {
            part.encode(&mut out);
        }
        out
    }

    /// The bytes of `slots`, of which this is the only one.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend(Self::parts_bytes(&self.parts));
        out.extend_from_slice(&self.kc);
        out.extend_from_slice(&self.wdek);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let [slots] = r.array()?;
        if slots != 1 {
            return Err(FormatError::SlotCount(slots));
        }
        let [count] = r.array()?;
        if usize::from(count) > MAX_PARTS {
            return Err(FormatError::PartCount(usize::from(count)));
        }
        let mut parts: Vec<Part> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let [suite] = r.array()?;
            let suite = PartSuite::from_u8(suite).ok_or(FormatError::UnknownPartSuite(suite))?;
            let part = Part { suite, cust_key_id: r.array()?, ct: r.lp()?.to_vec() };
            part.check().map_err(|_| FormatError::BadPart)?;
            if parts.last().is_some_and(|last| last.cust_key_id >= part.cust_key_id) {
                return Err(FormatError::PartOrder);
            }
            parts.push(part);
        }
        let slot = Self { parts, kc: r.array()?, wdek: r.array()? };
        r.finish()?;
        Ok(slot)
    }
}

/// A header that is canonical in every byte. That its proof holds is a separate question: [`Header::verify_proof`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    /// Where `LP(f)` starts.
    f_at: usize,
    object: ObjectLabel,
    wrap: WrapLabel,
    payload_hash: [u8; 64],
    dek_commitment: [u8; 32],
    slot: Slot,
    pub(super) r: RistrettoPoint,
    pub(super) r_bar: RistrettoPoint,
    pub(super) a: RistrettoPoint,
    pub(super) a_bar: RistrettoPoint,
    pub(super) f: Scalar,
}

impl Header {
    /// Reads a header and checks everything that the bytes alone show.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let object = ObjectLabel::decode(r.lp()?)?;
        let wrap = WrapLabel::decode(r.lp()?)?;
        let payload_hash = fixed(r.lp()?)?;
        let dek_commitment = fixed(r.lp()?)?;
        let (r_point, r_bar) = two_points(r.lp()?)?;
        let slot = Slot::decode(r.lp()?)?;
        let (a, a_bar) = two_points(r.lp()?)?;
        let f = group::scalar(&fixed(r.lp()?)?).map_err(|_| FormatError::BadScalar)?;
        r.finish()?;
        let f_at = bytes.len().saturating_sub(36);
        let (bytes, r) = (bytes.to_vec(), r_point);
        Ok(Self { bytes, f_at, object, wrap, payload_hash, dek_commitment, slot, r, r_bar, a, a_bar, f })
    }

    /// The bytes it was read from, which are the only ones it can have.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `header_hash`, over all of it: the name under which a verdict on the proof may be remembered.
    #[must_use]
    pub fn hash(&self) -> [u8; 64] {
        hash("header", &[&self.bytes])
    }

    /// `H_obj`.
    #[must_use]
    pub fn object(&self) -> &ObjectLabel {
        &self.object
    }

    /// The bytes of `H_obj`.
    #[must_use]
    pub fn object_bytes(&self) -> Vec<u8> {
        self.object.encode()
    }

    /// `H_wrap`.
    #[must_use]
    pub fn wrap(&self) -> &WrapLabel {
        &self.wrap
    }

    /// The bytes of `H_wrap`.
    #[must_use]
    pub fn wrap_bytes(&self) -> Vec<u8> {
        self.wrap.encode()
    }

    /// The only slot.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// What the payload hashes to.
    #[must_use]
    pub fn payload_hash(&self) -> &[u8; 64] {
        &self.payload_hash
    }

    /// The commitment to the data key; a re-wrap keeps it.
    #[must_use]
    pub fn dek_commitment(&self) -> &[u8; 32] {
        &self.dek_commitment
    }

    /// `R`, the point that partials are computed from.
    #[must_use]
    pub fn r(&self) -> [u8; 32] {
        group::encode(&self.r)
    }

    /// The header without `f`: what the challenge hashes.
    pub(super) fn without_f(&self) -> &[u8] {
        self.bytes.get(..self.f_at).unwrap_or_default()
    }

    /// Checks that the header is wrapped to `keyring` and that its slot names exactly `customers`: the rule that keeps
    /// one writer from leaving the customer, or one of several, out.
    ///
    /// `customers` are the keys that the state names for the mount, in any order.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub fn check_slot(&self, keyring: &KeyringPublic, customers: &[(PartSuite, [u8; 32])]) -> Result<(), AcceptError> {
        if self.wrap.keyring_id != keyring.id() {
            return Err(AcceptError::OtherKeyring);
        }
        match (keyring.class, customers.is_empty()) {
            (KeyringClass::Cluster, true) | (KeyringClass::Customer, false) => {}
            (KeyringClass::Cluster, false) | (KeyringClass::Customer, true) => return Err(AcceptError::Class),
        }
        let mut expected = customers.to_vec();
        expected.sort_unstable_by_key(|(_, id)| *id);
        if self.slot.parts.iter().map(|p| (p.suite, p.cust_key_id)).eq(expected) {
            Ok(())
        } else {
            Err(AcceptError::Customers)
        }
    }

    /// Checks the payload against its length and hash.
    ///
    /// # Errors
    /// [`AcceptError::PayloadLength`], [`AcceptError::PayloadHash`].
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), AcceptError> {
        if u64::try_from(payload.len()).ok() != Some(payload::sealed_len(self.object.padded_len)) {
            return Err(AcceptError::PayloadLength);
        }
        if payload::payload_hash(payload) != self.payload_hash {
            return Err(AcceptError::PayloadHash);
        }
        Ok(())
    }

    /// Checks that this header is a re-wrap of the same version as `old`: the next `wrap_no`, everything that belongs
    /// to the payload unchanged.
    ///
    /// # Errors
    /// [`AcceptError::Rewrap`].
    pub fn check_rewrap_of(&self, old: &Self) -> Result<(), AcceptError> {
        let same = self.object == old.object
            && self.payload_hash == old.payload_hash
            && self.dek_commitment == old.dek_commitment
            && old.wrap.wrap_no.checked_add(1) == Some(self.wrap.wrap_no);
        if same { Ok(()) } else { Err(AcceptError::Rewrap) }
    }
}

/// Why a well-formed header is not acceptable where it is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Wrapped to another keyring.
    #[error("the header is wrapped to another keyring")]
    OtherKeyring,
    /// Customer keys in class `cluster`, or none in class `customer`.
    #[error("the customer keys of the mount do not fit the class of its keyring")]
    Class,
    /// The slot does not name exactly the customer keys of the mount.
    #[error("the slot does not name exactly the customer keys of the mount")]
    Customers,
    /// Not the length that `padded_len` gives.
    #[error("the payload has not the length the header names")]
    PayloadLength,
    /// Another payload.
    #[error("the payload is not the one the header names")]
    PayloadHash,
    /// Not the next wrap of the same version.
    #[error("the header is not the next wrap of the same version")]
    Rewrap,
}

/// Everything of a header ahead of its proof.
pub(super) struct Body<'a> {
    pub(super) object: &'a [u8],
    pub(super) wrap: &'a [u8],
    pub(super) payload_hash: &'a [u8; 64],
    pub(super) dek_commitment: &'a [u8; 32],
    pub(super) kem: &'a [u8; 64],
    pub(super) slot: &'a Slot,
}

impl Body<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let slots = self.slot.encode();
        let mut out = Vec::with_capacity(512 + self.object.len() + self.wrap.len() + slots.len());
        lp(&mut out, self.object);
        lp(&mut out, self.wrap);
        lp(&mut out, self.payload_hash);
        lp(&mut out, self.dek_commitment);
        lp(&mut out, self.kem);
        lp(&mut out, &slots);
        out
    }
}

/// Two encodings side by side: `kem` and the commitments of the proof.
pub(super) fn pair(first: &[u8; 32], second: &[u8; 32]) -> [u8; 64] {
    let mut out = [0; 64];
    for (o, b) in out.iter_mut().zip(first.iter().chain(second)) {
        *o = *b;
    }
    out
}

fn two_points(bytes: &[u8]) -> Result<(RistrettoPoint, RistrettoPoint), FormatError> {
    let mut r = Reader::new(bytes);
    let first = group::point(&r.array()?).map_err(|_| FormatError::BadPoint)?;
    let second = group::point(&r.array()?).map_err(|_| FormatError::BadPoint)?;
    r.finish()?;
    Ok((first, second))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], FormatError> {
    bytes.try_into().map_err(|_| FormatError::Malformed)
}
