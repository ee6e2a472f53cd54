//! RESHARE: one ceremony that generates a key, refreshes its shares, repairs, adds and removes members, and changes t.
//!
//! Two halves, both without I/O. [`Ceremony`] is public: it lives in the replicated state, takes [`Message`]s in the
//! order of the log and rules, so that every node reaches the same verdict. [`Member`] is private: it says what one
//! member sends now, as a function of its ceremony seed and of the ceremony alone, so a member that crashed sends the
//! same bytes again and a dealer can't deal twice. The messages are specified byte by byte in `docs/ceremony.md`.
//!
//! The protocol is Pedersen's key generation with Feldman commitments ("A Threshold Cryptosystem without a Trusted
//! Party", EUROCRYPT '91), with the proof of knowledge of FROST (RFC 9591 appendix C; Komlo and Goldberg 2020, figure 1)
//! against a dealer who picks his part after seeing the others', and share redistribution after Desmedt and Jajodia
//! (1997). A dispute is settled in public: the accuser reveals the one decapsulation key under which the contested
//! share was sent, and everybody opens it.
//!
//! # What holds
//! With at most t - 1 corrupt members nobody learns the key, every honest member holds a share that fits the published
//! commitments, and a reshare leaves the key as it was. A corrupt member can stop a ceremony, but is named by it:
//! by [`Ceremony::awaited`] if it is silent, by a [`Refusal`] or a [`Ruling`] if it lies.
//!
//! # What it refuses to know
//! Time (deadlines belong to the caller, who ends a ceremony with [`Ceremony::abort`]), storage, and who may begin one.
//!
//! # Security
//! No function here, and no sequence of calls by one member, yields the secret key: a member sums *shares* at its own
//! index, never the secrets of dealers.

mod ceremony;
mod certificate;
mod member;
mod message;
mod params;
mod sharing;

pub use ceremony::{Abort, Cause, Ceremony, Outcome, Phase, Refusal, Ruling, Verdict};
pub use certificate::{BadCertificate, EpochCertificate};
pub use member::{Member, MemberError, NewShare};
pub use message::{
    Body, Complaint, Deal, MAX_MESSAGE, Message, MessageError, Proof, RECEIVER_KEY, Ready, ReceiverKeys, SEALED_SHARE,
};
pub use params::{BadParams, Kind, MAX_MEMBERS, OldEpoch, Params};
