//! What can go wrong, as callers see it, and how openraft's errors come to be these.

use std::io;

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};

use crate::{MachineError, Node, entry::Types, kv::KvError};

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store belongs to another raft id or another cluster. Starting on it could make a node vote twice.
    #[error("the store belongs to another node or cluster")]
    ForeignStore,
    /// What was synced is not there any more. Set the log aside and have the node re-admitted under a new raft id: it has promised what it
    /// no longer knows.
    #[error("the log is damaged: {0}")]
    Damaged(#[from] Damage),
    /// The times or sizes in the configuration contradict each other.
    #[error("raft configuration: {0}")]
    Config(String),
    /// The store failed; nothing is known to be wrong with what it holds.
    #[error(transparent)]
    Storage(KvError),
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It ends before entries that were synced, or holds others in their place.
    #[error("it ends at {end}, and {witnessed} was synced")]
    Short {
        /// Index of the last entry that a sync covered.
        witnessed: u64,
        /// Where the log ends now.
        end: u64,
    },
    /// It does not know of a vote that was synced: the node could vote again in the same term.
    #[error("the vote of term {witnessed} is gone; the last one that it knows is of term {held}")]
    VoteLost {
        /// Term of the last vote that a sync covered.
        witnessed: u64,
        /// Term of the vote that the log holds; 0 for none.
        held: u64,
    },
    /// Entries are missing in its middle.
    #[error("entry {missing} is missing, and later ones are there")]
    Hole {
        /// Index of the first that is missing.
        missing: u64,
    },
    /// The store does not open, or what it holds cannot be read.
    #[error("{0}")]
    Unreadable(KvError),
}

impl From<KvError> for OpenError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::Damaged(_) | KvError::Unsealed => Self::Damaged(Damage::Unreadable(error)),
            other => Self::Storage(other),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        KvError::from(&error).into()
    }
}

/// Why a running node can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// A write or a sync failed, or what was read is damaged.
    #[error(transparent)]
    Storage(#[from] KvError),
    /// The machine gave up.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Consensus ended by itself.
    #[error("consensus ended: {0}")]
    Consensus(String),
}

/// Why a cluster could not be founded here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// This node has a log or has voted: it is part of a cluster already.
    #[error("already initialized")]
    Initialized,
    /// This node is not among the members.
    #[error("this node is not among the members")]
    NotAMember,
    /// The node has stopped.
    #[error("raft has stopped")]
    Stopped,
}

/// Why a proposal was not answered with its effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed: another node leads, or none is known to.
    #[error("not the leader")]
    NotLeader {
        /// Where to go instead.
        leader: Option<(u64, Node)>,
    },
    /// Not proposed: this node leads but has not heard from a quorum of late, as just after its election. Try again here, soon.
    #[error("leadership is not confirmed yet")]
    Retry,
    /// Not proposed: larger than the limit.
    #[error("proposal of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not proposed: too many bytes are under way.
    #[error("too many proposals under way")]
    Busy,
    /// It may be committed, now or later, or never. Retry only what can be recognised as a repetition.
    #[error("outcome unknown")]
    Unknown,
    /// The node has stopped. If it was proposed before, the outcome is unknown.
    #[error("raft has stopped")]
    Stopped,
}

/// The state has not reached the index in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("state is behind, at {applied}")]
pub struct Behind {
    /// How far it is.
    pub applied: u64,
}

/// Why a node can't say what its checkpoint at an index is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It is not there yet.
    #[error(transparent)]
    Behind(#[from] Behind),
    /// It passed that index too long ago, or came past it by a snapshot.
    #[error("the checkpoint at that index is not remembered")]
    Forgotten,
    /// The node's store failed.
    #[error("raft has stopped")]
    Stopped,
}

/// Why no read index was obtained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader can't be reached, or could not confirm with a quorum that it leads.
    #[error("leadership could not be confirmed")]
    Unconfirmed,
    /// The time is up.
    #[error("timed out")]
    Timeout,
    /// The leader answered, but this node has not applied that far.
    #[error(transparent)]
    Behind(#[from] Behind),
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// As for a proposal.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The change is not possible from the current membership.
    #[error("membership change refused: {0}")]
    Refused(String),
}

/// Translates the refusal of a write by node `me`.
pub(crate) fn refusal(me: u64, error: RaftError<Types, ClientWriteError<Types>>) -> MembershipError {
    let error = match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => not_leader(me, forward),
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            return MembershipError::Refused(error.to_string());
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
            return MembershipError::Refused(error.to_string());
        }
        RaftError::Fatal(_) => ProposeError::Stopped,
    };
    MembershipError::Propose(error)
}

fn not_leader(me: u64, forward: ForwardToLeader<Types>) -> ProposeError {
    match (forward.reason, forward.leader_id.zip(forward.leader_node)) {
        (ForwardReason::LeaseExpired | ForwardReason::LeadershipTransfer, None) => ProposeError::Retry,
        (_, Some((leader, _))) if leader == me => ProposeError::Retry,
        (_, leader) => ProposeError::NotLeader { leader },
    }
}
