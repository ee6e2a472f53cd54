//! The binary form of what the log and the meta table hold, version 1. The same bytes travel between peers.
//!
//! An entry is `version:u8 | index:u64 | term:u64 | kind:u8 | body`, integers little endian. Kind 0 is a blank entry, 1 a proposal (the
//! body is its bytes), 2 a membership (borsh). Decoding is strict: an unknown version or kind, missing or trailing bytes are errors.
//! `tests/golden/codec-v1.hex` freezes it.

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use crate::{
    Node,
    entry::{EntryPayload, LogEntry, LogId, Membership, Payload, StoredMembership, Vote},
    snapshot::Point,
};

const VERSION: u8 = 1;
/// Version, index, term, kind.
pub(crate) const ENTRY_HEADER: usize = 1 + 8 + 8 + 1;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Stored or received bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a version of this program that this one does not know.
    #[error("unknown encoding version {0}")]
    Version(u8),
    /// An entry of a kind this version does not know.
    #[error("unknown kind of log entry {0}")]
    Kind(u8),
    /// Too short, too long, or not a value of the type.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn encode_entry(entry: &LogEntry) -> Vec<u8> {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(payload) => (NORMAL, payload.0.clone()),
        EntryPayload::Membership(membership) => (MEMBERSHIP, encode_membership(membership).into()),
    };
    let mut out = Vec::with_capacity(ENTRY_HEADER + body.len());
    out.push(VERSION);
    out.extend_from_slice(&entry.log_id.index.to_le_bytes());
    out.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&body);
    out
}

pub(crate) fn decode_entry(bytes: impl Into<Bytes>) -> Result<LogEntry, CodecError> {
    let bytes = bytes.into();
    let malformed = CodecError::Malformed("log entry");
    let (version, rest) = bytes.split_first().ok_or(malformed.clone())?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    let (index, rest) = rest.split_first_chunk::<8>().ok_or(malformed.clone())?;
    let (term, rest) = rest.split_first_chunk::<8>().ok_or(malformed.clone())?;
    let (kind, body) = rest.split_first().ok_or(malformed.clone())?;
    let payload = match *kind {
        BLANK if body.is_empty() => EntryPayload::Blank,
        BLANK => return Err(malformed),
        NORMAL => EntryPayload::Normal(Payload(bytes.slice(ENTRY_HEADER..))),
        MEMBERSHIP => EntryPayload::Membership(decode_membership(body)?),
        other => return Err(CodecError::Kind(other)),
    };
    Ok(LogEntry { log_id: LogId::new_term_index(u64::from_le_bytes(*term), u64::from_le_bytes(*index)), payload })
}

#[derive(BorshSerialize, BorshDeserialize)]
struct LogIdV1 {
    term: u64,
    index: u64,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct MembershipV1 {
    /// One set of voters, or two while a change is under way.
    configs: Vec<BTreeSet<u64>>,
    /// Member name and peer address of each node, learners included.
    nodes: BTreeMap<u64, (String, String)>,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct AppliedV1 {
    applied: Option<LogIdV1>,
    membership_at: Option<LogIdV1>,
    membership: MembershipV1,
}

pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    versioned(&VoteV1 { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed })
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let vote: VoteV1 = unversioned(bytes, "vote")?;
    Ok(if vote.committed { Vote::new_committed(vote.term, vote.node) } else { Vote::new(vote.term, vote.node) })
}

pub(crate) fn encode_log_id(id: Option<&LogId>) -> Vec<u8> {
    versioned(&id.map(LogIdV1::from))
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<Option<LogId>, CodecError> {
    Ok(unversioned::<Option<LogIdV1>>(bytes, "log id")?.map(LogId::from))
}

/// The last applied entry and the membership in force there.
pub(crate) fn encode_applied(applied: Option<&LogId>, membership: &StoredMembership) -> Vec<u8> {
    versioned(&AppliedV1 {
        applied: applied.map(LogIdV1::from),
        membership_at: membership.log_id().as_ref().map(LogIdV1::from),
        membership: MembershipV1::from(membership.membership()),
    })
}

pub(crate) fn decode_applied(bytes: &[u8]) -> Result<(Option<LogId>, StoredMembership), CodecError> {
    let stored: AppliedV1 = unversioned(bytes, "applied state")?;
    let membership = membership_from(stored.membership)?;
    Ok((stored.applied.map(LogId::from), StoredMembership::new(stored.membership_at.map(LogId::from), membership)))
}

#[derive(BorshSerialize, BorshDeserialize)]
struct VouchedV1 {
    /// As [`encode_applied`].
    applied: Vec<u8>,
    chain: [u8; 32],
    state: [u8; 32],
    proof: Vec<u8>,
}

/// The note of a kept image: which state it is, and who vouches for it.
pub(crate) fn encode_vouched(point: &Point, proof: &[u8]) -> Vec<u8> {
    let applied = encode_applied(point.applied.as_ref(), &point.membership);
    versioned(&VouchedV1 { applied, chain: point.chain, state: point.state, proof: proof.to_vec() })
}

pub(crate) fn decode_vouched(bytes: &[u8]) -> Result<(Point, Vec<u8>), CodecError> {
    let VouchedV1 { applied, chain, state, proof } = unversioned(bytes, "note of an image")?;
    let (applied, membership) = decode_applied(&applied)?;
    Ok((Point { applied, membership, chain, state }, proof))
}

fn encode_membership(membership: &Membership) -> Vec<u8> {
    versioned(&MembershipV1::from(membership))
}

fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    membership_from(unversioned(bytes, "membership")?)
}

fn versioned(value: &impl BorshSerialize) -> Vec<u8> {
    let mut out = vec![VERSION];
    // Writing to a vector can't fail; a failure would leave a value that does not decode, which is noticed.
    if value.serialize(&mut out).is_err() {
        out.clear();
    }
    out
}

fn unversioned<T: BorshDeserialize>(bytes: &[u8], what: &'static str) -> Result<T, CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError::Malformed(what))?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    T::try_from_slice(body).map_err(|_| CodecError::Malformed(what))
}

impl From<&LogId> for LogIdV1 {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        Self::new_term_index(id.term, id.index)
    }
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, n)| (*id, (n.member.clone(), n.peer_addr.clone()))).collect(),
        }
    }
}

fn membership_from(stored: MembershipV1) -> Result<Membership, CodecError> {
    if stored.configs.is_empty() && stored.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: BTreeMap<u64, Node> =
        stored.nodes.into_iter().map(|(id, (member, peer_addr))| (id, Node { member, peer_addr })).collect();
    Membership::new(stored.configs, nodes).map_err(|_| CodecError::Malformed("membership"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen beside the other forms, which are older: what lies on disks in `note`.
    #[test]
    fn the_note_of_an_image_is_frozen_and_nothing_else_is_one() {
        let (at, membership) = decode_applied(&samples().pop().unwrap().1).unwrap();
        let point = Point { applied: at, membership, chain: [1; 32], state: [2; 32] };
        let bytes = encode_vouched(&point, b"a proof");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("../tests/golden/vouched-v1.hex").trim(), "kept images could no longer be used");
        assert_eq!(decode_vouched(&bytes).unwrap(), (point, b"a proof".to_vec()));
        assert_eq!(decode_vouched(&[&[9], &bytes[1..]].concat()), Err(CodecError::Version(9)));
        for cut in 0..bytes.len() {
            decode_vouched(&bytes[..cut]).unwrap_err();
        }
        decode_vouched(&[bytes.as_slice(), &[0]].concat()).unwrap_err();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_ne!(decode_vouched(&changed).ok(), decode_vouched(&bytes).ok(), "byte {place} counts for nothing");
        }
    }

    fn samples() -> Vec<(&'static str, Vec<u8>)> {
        let node = |n: &str| Node { member: n.into(), peer_addr: format!("{n}.example:7402") };
        let nodes = BTreeMap::from([(1, node("a")), (2, node("b")), (3, node("c"))]);
        let joint = Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes).unwrap();
        let entry = |payload| encode_entry(&LogEntry { log_id: LogId::new_term_index(258, 772), payload });
        vec![
            ("blank", entry(EntryPayload::Blank)),
            ("normal", entry(EntryPayload::Normal(Payload(Bytes::from_static(b"opaque"))))),
            ("membership", entry(EntryPayload::Membership(joint.clone()))),
            ("vote", encode_vote(&Vote::new_committed(5, 2))),
            ("log-id", encode_log_id(Some(&LogId::new_term_index(5, 9)))),
            ("no-log-id", encode_log_id(None)),
            ("applied", {
                let at = LogId::new_term_index(4, 6);
                encode_applied(Some(&LogId::new_term_index(5, 9)), &StoredMembership::new(Some(at), joint))
            }),
        ]
    }

    #[test]
    fn the_encoding_is_frozen() {
        let lines: String = samples()
            .into_iter()
            .map(|(name, bytes)| {
                let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                format!("{name} {hex}\n")
            })
            .collect();
        let golden = include_str!("../tests/golden/codec-v1.hex");
        assert_eq!(lines, golden, "stored logs could no longer be read; add a version instead");
    }

    #[test]
    fn entries_survive_the_round_trip() {
        for (name, bytes) in samples().into_iter().take(3) {
            let entry = decode_entry(bytes.clone()).unwrap();
            assert_eq!(encode_entry(&entry), bytes, "{name}");
            assert_eq!((entry.log_id.leader_id.term, entry.log_id.index), (258, 772));
            let membership = matches!(entry.payload, EntryPayload::Membership(_));
            assert_eq!(membership, name == "membership");
        }
        let (_, applied) = samples().pop().unwrap();
        let (at, membership) = decode_applied(&applied).unwrap();
        assert_eq!(encode_applied(at.as_ref(), &membership), applied);
        assert_eq!(decode_vote(&encode_vote(&Vote::new(5, 2))).unwrap(), Vote::new(5, 2));
        assert_eq!(decode_log_id(&encode_log_id(None)).unwrap(), None);
    }

    #[test]
    fn malformed_bytes_are_refused() {
        for (name, bytes) in samples() {
            let mut other_version = bytes.clone();
            other_version[0] = 9;
            let decode = |bytes: &[u8]| match name {
                "vote" => decode_vote(bytes).map(drop),
                "log-id" | "no-log-id" => decode_log_id(bytes).map(drop),
                "applied" => decode_applied(bytes).map(drop),
                _ => decode_entry(bytes.to_vec()).map(drop),
            };
            decode(&bytes).unwrap();
            assert_eq!(decode(&other_version), Err(CodecError::Version(9)), "{name}");
            decode(&[]).unwrap_err();
            if name != "normal" {
                decode(&[bytes.as_slice(), &[0]].concat()).expect_err(name);
                decode(&bytes[..bytes.len() - 1]).expect_err(name);
            }
        }
        let mut unknown = samples().remove(0).1;
        unknown[ENTRY_HEADER - 1] = 7;
        assert_eq!(decode_entry(unknown), Err(CodecError::Kind(7)));
    }
}
