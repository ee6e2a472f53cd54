//! The peer protocol's messages and their translation to openraft's.
#![allow(private_interfaces, reason = "generated types are `pub` in a module that is not")]

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/raft.proto"
)]
mod generated {
    tonic::include_proto!("quorate.raft.v1");
}

use openraft::raft as raft_messages;
use tonic::Status;

pub(crate) use generated::*;

use crate::{
    codec,
    entry::{self, Types},
};

/// The largest message that is sent or accepted, in bytes. Appends stay far below, because reads of the log are cut by size.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;

pub(crate) const CLUSTER_HEADER: &str = "quorate-cluster-bin";
pub(crate) const FROM_HEADER: &str = "quorate-raft-from";
pub(crate) const TO_HEADER: &str = "quorate-raft-to";

/// A message without a field that it can't do without.
pub(crate) fn missing(field: &'static str) -> Status {
    Status::invalid_argument(format!("missing {field}"))
}

impl From<&entry::LogId> for LogId {
    fn from(id: &entry::LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<LogId> for entry::LogId {
    fn from(id: LogId) -> Self {
        Self::new_term_index(id.term, id.index)
    }
}

impl From<&entry::Vote> for Vote {
    fn from(vote: &entry::Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<Vote> for entry::Vote {
    fn from(vote: Vote) -> Self {
        if vote.committed { Self::new_committed(vote.term, vote.node) } else { Self::new(vote.term, vote.node) }
    }
}

pub(crate) fn log_id(id: Option<&entry::LogId>) -> Option<LogId> {
    id.map(LogId::from)
}

pub(crate) fn vote(vote: Option<Vote>) -> Result<entry::Vote, Status> {
    vote.map(entry::Vote::from).ok_or_else(|| missing("vote"))
}

impl From<raft_messages::AppendEntriesRequest<Types>> for AppendRequest {
    fn from(request: raft_messages::AppendEntriesRequest<Types>) -> Self {
        Self {
            vote: Some((&request.vote).into()),
            prev: log_id(request.prev_log_id.as_ref()),
            leader_commit: log_id(request.leader_commit.as_ref()),
            entries: request.entries.iter().map(|entry| codec::encode_entry(entry).into()).collect(),
        }
    }
}

impl TryFrom<AppendRequest> for raft_messages::AppendEntriesRequest<Types> {
    type Error = Status;

    fn try_from(request: AppendRequest) -> Result<Self, Status> {
        let prev_log_id = request.prev.map(entry::LogId::from);
        let entries: Vec<entry::LogEntry> = request
            .entries
            .into_iter()
            .map(codec::decode_entry)
            .collect::<Result<_, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // A gap would become a hole in the log, which nothing above would notice.
        let mut next = prev_log_id.map_or(0, |id| id.index.saturating_add(1));
        for entry in &entries {
            if entry.log_id.index != next {
                return Err(Status::invalid_argument("entries do not follow each other"));
            }
            next = next.saturating_add(1);
        }
        Ok(Self {
            vote: vote(request.vote)?,
            prev_log_id,
            entries,
            leader_commit: request.leader_commit.map(entry::LogId::from),
        })
    }
}

impl From<raft_messages::VoteRequest<Types>> for VoteRequest {
    fn from(request: raft_messages::VoteRequest<Types>) -> Self {
        Self {
            vote: Some((&request.vote).into()),
            last: log_id(request.last_log_id.as_ref()),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl TryFrom<VoteRequest> for raft_messages::VoteRequest<Types> {
    type Error = Status;

    fn try_from(request: VoteRequest) -> Result<Self, Status> {
        let mut out = Self::new(vote(request.vote)?, request.last.map(entry::LogId::from));
        out.leadership_transfer = request.leadership_transfer;
        Ok(out)
    }
}

impl From<raft_messages::VoteResponse<Types>> for VoteReply {
    fn from(reply: raft_messages::VoteResponse<Types>) -> Self {
        Self { vote: Some((&reply.vote).into()), granted: reply.vote_granted, last: log_id(reply.last_log_id.as_ref()) }
    }
}

impl TryFrom<VoteReply> for raft_messages::VoteResponse<Types> {
    type Error = Status;

    fn try_from(reply: VoteReply) -> Result<Self, Status> {
        Ok(Self::new(vote(reply.vote)?, reply.last.map(entry::LogId::from), reply.granted))
    }
}
