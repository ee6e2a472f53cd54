//! The four messages of a ceremony and their envelope (`docs/ceremony.md`, section 2).

use crate::encoding;
use crate::identity::{BadSignature, SigningKey, VerifyKey};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use std::collections::BTreeMap;

/// The longest encoded message in bytes: a deal to 16 receivers is below 20 KiB.
pub const MAX_MESSAGE: usize = 20 * 1024;

/// An X-Wing public key in bytes: ML-KEM-768 followed by X25519.
pub const RECEIVER_KEY: usize = 1216;

/// A share sealed with HPKE in bytes: 1120 encapsulated, 32 share, 16 tag.
pub const SEALED_SHARE: usize = 1120 + 32 + 16;

const VERSION: u8 = 1;

/// One message of one member, signed.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Message {
    version: u8,
    /// The ceremony it belongs to.
    pub session: [u8; 32],
    /// Its author.
    pub member: u8,
    /// What it says.
    pub body: Body,
    /// Over the ceremony's context, the author and the body; for [`Ready`], over the result alone.
    pub signature: [u8; 64],
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Body {
    /// A receiver's keys.
    Keys(ReceiverKeys),
    /// A dealer's dealing.
    Deal(Deal),
    /// A receiver's share doesn't fit.
    Complaint(Complaint),
    /// A receiver's shares all fit, and its new share is stored.
    Ready(Ready),
}

/// One X-Wing public key for each dealer, so that a complaint reveals nothing but the contested share.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ReceiverKeys {
    /// By dealer.
    pub keys: BTreeMap<u8, [u8; RECEIVER_KEY]>,
}

/// A dealer's polynomial: committed to in public, evaluated for each receiver in private.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Deal {
    /// Coefficient times G, constant term first: exactly t' points.
    pub commitments: Vec<[u8; 32]>,
    /// That the dealer knows the constant term.
    pub proof: Proof,
    /// By receiver: the share, sealed with HPKE to that receiver's key for this dealer.
    pub shares: BTreeMap<u8, [u8; SEALED_SHARE]>,
}

/// Schnorr's proof of knowledge of the constant term, bound to the ceremony, the dealer and all commitments.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proof {
    /// `A = w G`.
    pub commitment: [u8; 32],
    /// `w + e a_0`.
    pub response: [u8; 32],
}

/// A receiver reveals the key under which one dealer's share was sent to it. From then on that share is public.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Complaint {
    /// Whose share doesn't fit.
    pub dealer: u8,
    /// What the receiver's X-Wing key pair for that dealer is derived from.
    pub key_seed: [u8; 32],
}

/// A receiver holds its new share.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ready {
    /// The hash of the result it agrees to ([`super::Ceremony::result_hash`]).
    pub result: [u8; 64],
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than any message.
    #[error("{0} bytes are more than a message has")]
    TooLong(usize),
    /// Cut short, trailing bytes, or not the one encoding of its content.
    #[error("not the canonical encoding of a message")]
    Malformed,
    /// Written by a later version.
    #[error("message version {0} is not known")]
    Version(u8),
}

impl Message {
    /// Signs `body` as `member` of the ceremony with these parameters.
    #[must_use]
    pub fn sign(params: &super::Params, member: u8, body: Body, key: &SigningKey) -> Self {
        let signature = match &body {
            Body::Ready(ready) => key.sign(READY, &[&ready.result]),
            _ => key.sign(body.purpose(), &[&params.context(), &[member], &body.to_bytes()]),
        };
        Self { version: VERSION, session: params.session, member, body, signature }
    }

    pub(super) fn verify(&self, context: &[u8; 64], key: &VerifyKey) -> Result<(), BadSignature> {
        match &self.body {
            Body::Ready(ready) => key.verify(READY, &[&ready.result], &self.signature),
            body => key.verify(body.purpose(), &[context, &[self.member], &body.to_bytes()], &self.signature),
        }
    }

    /// The encoding that travels and stands in the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Serialising to memory fails only if a collection is longer than u32::MAX.
        borsh::to_vec(self).unwrap_or_default()
    }

    /// Reads a message. One content has one encoding: maps stand in ascending order, nothing follows the signature.
    ///
    /// # Errors
    /// [`MessageError`]; the limit on the length is checked before anything is read.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong(bytes.len()));
        }
        if let Some(&version) = bytes.first().filter(|v| **v != VERSION) {
            return Err(MessageError::Version(version));
        }
        let message: Self = borsh::from_slice(bytes).map_err(|_| MessageError::Malformed)?;
        if message.encode() == bytes { Ok(message) } else { Err(MessageError::Malformed) }
    }
}

/// The purpose of the signature that ends up in the epoch certificate.
pub(super) const READY: &str = "ready";

impl Body {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).unwrap_or_default()
    }

    const fn purpose(&self) -> &'static str {
        match self {
            Self::Keys(_) => "ceremony/keys",
            Self::Deal(_) => "ceremony/deal",
            Self::Complaint(_) => "ceremony/complaint",
            Self::Ready(_) => READY,
        }
    }
}

impl Deal {
    /// What the sealed shares are bound to.
    pub(super) fn commitment_hash(&self) -> [u8; 64] {
        hash_commitments(&self.commitments)
    }
}

pub(super) fn hash_commitments(commitments: &[[u8; 32]]) -> [u8; 64] {
    let fields: Vec<&[u8]> = commitments.iter().map(<[u8; 32]>::as_slice).collect();
    encoding::hash("ceremony/commitments", &fields)
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} of member {})", self.body.purpose(), self.member)
    }
}
