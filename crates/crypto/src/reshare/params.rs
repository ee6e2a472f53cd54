//! What a ceremony is about: the sets, the thresholds and, for a reshare, the epoch that ends.

use super::sharing::{lagrange, weighted_sum};
use crate::encoding;
use crate::group::{self, BadEncoding};
use crate::identity::VerifyKey;
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::{BTreeMap, BTreeSet};

/// The largest set, old or new.
pub const MAX_MEMBERS: usize = 16;

/// The terms of one ceremony, fixed by the entry that begins it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Params {
    /// Names the ceremony: 32 random bytes, never used twice.
    pub session: [u8; 32],
    /// Where the secret comes from.
    pub kind: Kind,
    /// The number of the epoch that the ceremony makes.
    pub epoch: u64,
    /// The number of the roster whose members take part: what is signed in one roster proves nothing in another.
    pub roster: u64,
    /// How many of the new shares open: t' of the new epoch, at least 2.
    pub threshold: u8,
    /// Who receives a share, by index. The index is the evaluation point, so it is never 0.
    #[borsh(serialize_with = "members::write", deserialize_with = "members::read")]
    pub members: BTreeMap<u8, VerifyKey>,
}

/// Where the secret comes from.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Kind {
    /// From all members of the new set together: each deals a random value, the key is their sum.
    KeyGeneration,
    /// From the shares of the epoch before.
    Reshare(OldEpoch),
}

/// What is public of the epoch before, from its certificate.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OldEpoch {
    /// The public key Y, which stays.
    pub key: [u8; 32],
    /// t of the old epoch: so many dealers are needed.
    pub threshold: u8,
    /// Who holds a share.
    #[borsh(serialize_with = "members::write", deserialize_with = "members::read")]
    pub members: BTreeMap<u8, VerifyKey>,
    /// `Y_i = k_i G` for each of them.
    pub public_shares: BTreeMap<u8, [u8; 32]>,
}

/// Terms under which no ceremony can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// A set is empty or larger than [`MAX_MEMBERS`].
    #[error("a set has {0} members, from 2 to {MAX_MEMBERS} are possible")]
    SetSize(usize),
    /// A threshold is below 2 or above the size of its set.
    #[error("threshold {threshold} does not fit a set of {members}")]
    Threshold {
        /// The threshold given.
        threshold: u8,
        /// The size of the set it belongs to.
        members: usize,
    },
    /// Index 0 is where the secret lies.
    #[error("a member has index 0")]
    IndexZero,
    /// One identity stands at two indices of a set.
    #[error("member {0} has the identity key of another member")]
    SharedIdentity(u8),
    /// The old epoch's points are not canonical, or don't lie on one polynomial of its degree through Y.
    #[error("the old epoch's public shares do not fit its key")]
    OldShares,
}

impl Params {
    /// What every message, derivation and proof of this ceremony is bound to.
    #[must_use]
    pub fn context(&self) -> [u8; 64] {
        // Serialising to memory fails only if a collection is longer than u32::MAX.
        encoding::hash("ceremony/begin", &[&borsh::to_vec(self).unwrap_or_default()])
    }

    /// Who deals: the old set, or everybody where a key is made.
    #[must_use]
    pub fn dealers(&self) -> &BTreeMap<u8, VerifyKey> {
        match &self.kind {
            Kind::KeyGeneration => &self.members,
            Kind::Reshare(old) => &old.members,
        }
    }

    /// How many dealings make the new shares.
    #[must_use]
    pub fn dealings_needed(&self) -> usize {
        match &self.kind {
            Kind::KeyGeneration => self.members.len(),
            Kind::Reshare(old) => usize::from(old.threshold),
        }
    }

    pub(super) fn check(&self) -> Result<(), BadParams> {
        check_set(&self.members, self.threshold)?;
        match &self.kind {
            Kind::KeyGeneration => Ok(()),
            Kind::Reshare(old) => {
                check_set(&old.members, old.threshold)?;
                if !old.members.keys().eq(old.public_shares.keys()) {
                    return Err(BadParams::OldShares);
                }
                fits(&old.key, old.threshold, &old.public_shares).map_err(|BadEncoding| BadParams::OldShares)
            }
        }
    }
}

fn check_set(members: &BTreeMap<u8, VerifyKey>, threshold: u8) -> Result<(), BadParams> {
    if !(2..=MAX_MEMBERS).contains(&members.len()) {
        return Err(BadParams::SetSize(members.len()));
    }
    if threshold < 2 || usize::from(threshold) > members.len() {
        return Err(BadParams::Threshold { threshold, members: members.len() });
    }
    if members.contains_key(&0) {
        return Err(BadParams::IndexZero);
    }
    let mut seen = BTreeSet::new();
    match members.iter().find(|(_, key)| !seen.insert(**key)) {
        Some((index, _)) => Err(BadParams::SharedIdentity(*index)),
        None => Ok(()),
    }
}

/// Checks that all public shares lie on one polynomial of degree t - 1 whose value at 0 is the key.
pub(super) fn fits(key: &[u8; 32], threshold: u8, shares: &BTreeMap<u8, [u8; 32]>) -> Result<(), BadEncoding> {
    let points = shares.iter().map(|(i, y)| Ok((*i, group::point(y)?))).collect::<Result<Vec<_>, BadEncoding>>()?;
    let (basis, rest) = points.split_at_checked(usize::from(threshold)).ok_or(BadEncoding)?;
    let indices: Vec<u8> = basis.iter().map(|(i, _)| *i).collect();
    let wanted = core::iter::once((0, group::point(key)?)).chain(rest.iter().copied());
    for (at, expected) in wanted {
        let weights = basis.iter().map(|(i, p)| Some((lagrange(&indices, *i, at)?, *p)));
        if weighted_sum(weights) != Some(expected) {
            return Err(BadEncoding);
        }
    }
    Ok(())
}

/// `VerifyKey` is written as its 32 bytes.
mod members {
    use crate::identity::VerifyKey;
    use borsh::io::{Read, Result, Write};
    use borsh::{BorshDeserialize, BorshSerialize};
    use std::collections::BTreeMap;

    pub(super) fn write<W: Write>(members: &BTreeMap<u8, VerifyKey>, out: &mut W) -> Result<()> {
        let bytes: BTreeMap<u8, [u8; 32]> = members.iter().map(|(i, key)| (*i, key.0)).collect();
        bytes.serialize(out)
    }

    pub(super) fn read<R: Read>(input: &mut R) -> Result<BTreeMap<u8, VerifyKey>> {
        let bytes = BTreeMap::<u8, [u8; 32]>::deserialize_reader(input)?;
        Ok(bytes.into_iter().map(|(i, key)| (i, VerifyKey(key))).collect())
    }
}
