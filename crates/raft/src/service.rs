//! The server side of the peer protocol.

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use openraft::{
    ReadPolicy, alias,
    raft::{AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    Config,
    entry::{LogId, Types},
    snapshot::{self, Image, Outgoing, Point},
    state::StateStore,
    wire::{self, peer_server::PeerServer, snapshot_chunk::Part},
};

/// The raft id that a connection authenticated, from the extensions that the listener put on the request; `None` if it authenticated no
/// member.
pub type Authenticate = Arc<dyn Fn(&Extensions) -> Option<u64> + Send + Sync>;

/// The peer protocol as a tonic service, for the peers' port only.
pub type PeerService = PeerServer<Peers>;

pub(crate) type Consensus = openraft::Raft<Types, StateStore>;

/// Answers peers.
///
/// # Security
/// The consensus protocol trusts its members to follow it: who may speak here can stop the cluster. Every call must come over a connection
/// that authenticated the raft id it claims, be meant for this node, and belong to this cluster.
pub struct Peers {
    id: u64,
    cluster: [u8; 32],
    /// Held while a snapshot is received.
    receiving: tokio::sync::Mutex<()>,
    raft: Consensus,
    state: StateStore,
    authenticate: Authenticate,
}

impl Peers {
    pub(crate) fn service(
        config: &Config,
        raft: Consensus,
        state: StateStore,
        authenticate: Authenticate,
    ) -> PeerService {
        let Config { id, cluster, .. } = *config;
        PeerServer::new(Self { id, cluster, receiving: tokio::sync::Mutex::default(), raft, state, authenticate })
            .max_decoding_message_size(wire::MAX_MESSAGE)
            .max_encoding_message_size(wire::MAX_MESSAGE)
    }

    /// The authenticated sender of a call, if the call may be answered at all.
    fn sender<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let metadata = request.metadata();
        let cluster = metadata.get_bin(wire::CLUSTER_HEADER).and_then(|value| value.to_bytes().ok());
        if cluster.as_deref() != Some(self.cluster.as_slice()) {
            return Err(Status::failed_precondition("another cluster"));
        }
        if id(metadata, wire::TO_HEADER) != Some(self.id) {
            return Err(Status::failed_precondition("meant for another node"));
        }
        let claimed = id(metadata, wire::FROM_HEADER);
        match (self.authenticate)(request.extensions()) {
            Some(authenticated) if claimed == Some(authenticated) => Ok(authenticated),
            Some(_) => Err(Status::permission_denied("claims another raft id than it authenticated")),
            None => Err(Status::unauthenticated("not a member's connection")),
        }
    }

    /// Only whom a vote names may send it: a candidate stands for itself, a leader appends under its own vote.
    fn own_vote(sender: u64, vote: Option<&wire::Vote>) -> Result<(), Status> {
        match vote {
            Some(vote) if vote.node == sender => Ok(()),
            Some(_) => Err(Status::permission_denied("a vote of another node")),
            None => Err(wire::missing("vote")),
        }
    }

    async fn receive(
        &self,
        sender: u64,
        mut chunks: Streaming<wire::SnapshotChunk>,
    ) -> Result<wire::SnapshotReply, Status> {
        // One at a time: each takes as much disk as the state.
        let _alone =
            self.receiving.try_lock().map_err(|_| Status::unavailable("another snapshot is on its way here"))?;
        let Some(Part::Begin(mut begin)) = snapshot::next(&mut chunks).await? else {
            return Err(wire::missing("begin"));
        };
        Self::own_vote(sender, begin.vote.as_ref())?;
        let vote = wire::vote(begin.vote.take())?;
        // No leader holds what a later leader wrote.
        if begin.last.is_some_and(|id| id.term > vote.leader_id.term) {
            return Err(Status::invalid_argument("snapshot is not this leader's"));
        }
        let stage = |point| self.state.stage(point);
        let staged = snapshot::receive(&begin, &mut chunks, self.state.notary(), stage).await?;
        let Point { applied, membership, .. } = staged.point.clone();
        tracing::info!(sender, index = applied.map(|id| id.index), "a snapshot that members vouch for is taken over");
        let meta = alias::SnapshotMetaOf::<Types> { last_log_id: applied, last_membership: membership };
        let snapshot = alias::SnapshotOf::<Types, Image> { meta, snapshot: Image::Incoming(staged) };
        let reply = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(wire::SnapshotReply { vote: Some((&reply.vote).into()) })
    }

    /// This node's kept image, or else its state as it is now, with a proof.
    async fn image(&self, min_index: u64) -> Result<(wire::SnapshotChunk, Outgoing), Status> {
        // In turn with applying.
        let pinned = self.raft.with_state_machine(move |state: &mut StateStore| {
            let state = state.clone();
            Box::pin(async move { state.image(min_index).await })
        });
        let image = pinned.await.map_err(stopped)?.map_err(stopped)?;
        if image.point.applied.is_none_or(|id| id.index < min_index) {
            return Err(Status::failed_precondition("this node's state is older"));
        }
        let proof = match &image.proof {
            Some(proof) => proof.clone(),
            None => self.state.notary().attest(&image.point.checkpoint()).await.map_err(stopped)?,
        };
        Ok((image.point.begin(None, proof), image))
    }
}

#[tonic::async_trait]
impl wire::peer_server::Peer for Peers {
    type AppendStreamStream = BoxStream<'static, Result<wire::AppendReply, Status>>;
    type FetchStream = BoxStream<'static, Result<wire::SnapshotChunk, Status>>;

    async fn append(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendReply>, Status> {
        let sender = self.sender(&request)?;
        let request = request.into_inner();
        Self::own_vote(sender, request.vote.as_ref())?;
        let prev = request.prev;
        let reply = self.raft.append_entries(request.try_into()?).await.map_err(stopped)?;
        let result = match reply {
            AppendEntriesResponse::Success => Ok(None),
            AppendEntriesResponse::PartialSuccess(matched) => Ok(matched),
            AppendEntriesResponse::Conflict => {
                Err(StreamAppendError::Conflict(prev.ok_or_else(|| wire::missing("prev"))?.into()))
            }
            AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        };
        Ok(Response::new(append_reply(result)))
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let sender = self.sender(&request)?;
        // A bad request ends the stream: what was accepted before it is still answered, what follows is not read.
        let requests = request.into_inner().scan((), move |(), request| {
            let checked = request.and_then(|request| {
                Self::own_vote(sender, request.vote.as_ref())?;
                request.try_into()
            });
            std::future::ready(checked.ok())
        });
        let replies = self.raft.stream_append(requests).map(|result| result.map(append_reply).map_err(stopped));
        Ok(Response::new(replies.boxed()))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let sender = self.sender(&request)?;
        let request = request.into_inner();
        Self::own_vote(sender, request.vote.as_ref())?;
        let reply = self.raft.vote(request.try_into()?).await.map_err(stopped)?;
        Ok(Response::new(reply.into()))
    }

    async fn pre_vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let sender = self.sender(&request)?;
        let request = request.into_inner();
        Self::own_vote(sender, request.vote.as_ref())?;
        let reply = self.raft.pre_vote(request.try_into()?).await.map_err(stopped)?;
        Ok(Response::new(reply.into()))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let sender = self.sender(&request)?;
        let received = self.receive(sender, request.into_inner()).await;
        if let Err(refused) = &received {
            tracing::error!(sender, why = refused.message(), "a snapshot was not taken; nothing of it is left");
        }
        received.map(Response::new)
    }

    async fn fetch(&self, request: Request<wire::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let sender = self.sender(&request)?;
        let (begin, image) = self.image(request.get_ref().min_index).await?;
        tracing::warn!(sender, "this member lost its state and is sent this one's");
        let body = ReceiverStream::new(image.parts).map(|part| part.map(wire::SnapshotChunk::from).map_err(stopped));
        Ok(Response::new(futures::stream::iter([Ok(begin)]).chain(body).boxed()))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<wire::TransferReply>, Status> {
        use wire::transfer_reply::{Accepted, NotFlushed, Result as Reply, VoteChanged};
        let sender = self.sender(&request)?;
        let request = request.into_inner();
        Self::own_vote(sender, request.from_leader.as_ref())?;
        let transfer =
            TransferLeaderRequest::new(wire::vote(request.from_leader)?, request.to, request.last.map(LogId::from));
        let result = match self.raft.handle_transfer_leader(transfer).await.map_err(stopped)? {
            Ok(()) => Reply::Accepted(Accepted {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Reply::VoteChanged(VoteChanged { expected: Some((&expected).into()), actual: Some((&actual).into()) })
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Reply::NotFlushed(NotFlushed {
                expected: wire::log_id(expected.as_ref()),
                actual: wire::log_id(actual.as_ref()),
            }),
        };
        Ok(Response::new(wire::TransferReply { result: Some(result) }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        self.sender(&request)?;
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(read) => Ok(Response::new(wire::ReadIndexReply { index: read.read_log_id().index() })),
            Err(_) => Err(Status::unavailable("leadership not confirmed")),
        }
    }
}

fn id(metadata: &MetadataMap, header: &str) -> Option<u64> {
    metadata.get(header)?.to_str().ok()?.parse().ok()
}

fn append_reply(result: StreamAppendResult<Types>) -> wire::AppendReply {
    use wire::append_reply::Result as Reply;
    let result = match result {
        Ok(matched) => Reply::Matched(wire::Matched { log_id: wire::log_id(matched.as_ref()) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict((&id).into()),
        Err(StreamAppendError::HigherVote(vote)) => Reply::Higher((&vote).into()),
    };
    wire::AppendReply { result: Some(result) }
}

/// This node's consensus has ended; the peer should treat it as one that is down.
fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
