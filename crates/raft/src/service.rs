//! The server side of the peer protocol.

use std::sync::Arc;

use futures::{StreamExt, stream::BoxStream};
use openraft::{
    ReadPolicy, alias,
    raft::{AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest},
};
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    Config, codec,
    entry::{LogId, Types},
    snapshot::{Image, Seal},
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
    accept_snapshots: bool,
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
        let Config { id, cluster, accept_snapshots, .. } = *config;
        PeerServer::new(Self { id, cluster, accept_snapshots, raft, state, authenticate })
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
        if !self.accept_snapshots {
            tracing::error!(
                sender,
                "a snapshot was offered and refused: this node is further behind than any log reaches; allow one at its next start"
            );
            return Err(Status::failed_precondition("this node does not take snapshots"));
        }
        let Some(Part::Begin(begin)) = next(&mut chunks).await? else { return Err(wire::missing("begin")) };
        Self::own_vote(sender, begin.vote.as_ref())?;
        let vote = wire::vote(begin.vote)?;
        let last = begin.last.map(LogId::from);
        let (applied, membership) = codec::decode_applied(&begin.membership).map_err(invalid)?;
        // No leader holds what a later leader wrote.
        if applied != last || last.is_some_and(|id| id.leader_id.term > vote.leader_id.term) {
            return Err(Status::invalid_argument("snapshot is not this leader's"));
        }
        let mut staging = self.state.stage();
        let staged = loop {
            match next(&mut chunks).await? {
                Some(Part::Records(chunk)) => staging.write(&chunk).map_err(invalid)?,
                Some(Part::End(end)) => {
                    let sha256 = end.sha256.as_ref().try_into().map_err(invalid)?;
                    break staging.finish(&Seal { records: end.records, sha256 }).map_err(invalid)?;
                }
                Some(Part::Begin(_)) => return Err(Status::invalid_argument("snapshot begins twice")),
                None => return Err(Status::data_loss("snapshot ends before its hash")),
            }
        };
        let meta = alias::SnapshotMetaOf::<Types> { last_log_id: last, last_membership: membership };
        let snapshot = alias::SnapshotOf::<Types, Image> { meta, snapshot: Image::Incoming(staged) };
        let reply = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(wire::SnapshotReply { vote: Some((&reply.vote).into()) })
    }
}

#[tonic::async_trait]
impl wire::peer_server::Peer for Peers {
    type AppendStreamStream = BoxStream<'static, Result<wire::AppendReply, Status>>;

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
        self.receive(sender, request.into_inner()).await.map(Response::new)
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

async fn next(chunks: &mut Streaming<wire::SnapshotChunk>) -> Result<Option<Part>, Status> {
    chunks.message().await?.map(|chunk| chunk.part.ok_or_else(|| wire::missing("part"))).transpose()
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

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// This node's consensus has ended; the peer should treat it as one that is down.
fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tonic::{Code, transport::Channel};

    use super::*;
    use crate::{
        Config, Dialer, Effect, Entry, Link, Machine, MachineError, Node, Raft, View, kv::MemKv,
        wire::peer_client::PeerClient,
    };

    const CLUSTER: [u8; 32] = [7; 32];

    struct Inert;

    impl Machine for Inert {
        fn apply(&self, _: &dyn View, _: Entry<'_>) -> Result<Effect, MachineError> {
            Ok(Effect::default())
        }
    }

    struct Nobody;

    #[async_trait::async_trait]
    impl Dialer for Nobody {
        async fn dial(&self, _: u64, _: &Node, _: Link) -> Result<Channel, std::io::Error> {
            Err(std::io::ErrorKind::NotConnected.into())
        }
    }

    /// Node 1 of a cluster of two that takes snapshots, and a connection to it that authenticates as `peer`.
    async fn connect(peer: Option<u64>) -> (Raft, Channel) {
        let mut config = Config::new(1, CLUSTER);
        config.accept_snapshots = true;
        connect_to(config, peer).await
    }

    async fn connect_to(config: Config, peer: Option<u64>) -> (Raft, Channel) {
        let raft = Raft::open(config, Arc::new(MemKv::new()), Arc::new(Inert), Arc::new(Nobody)).await.unwrap();
        let members = BTreeMap::from([(1, Node::default()), (2, Node::default())]);
        raft.initialize(members).await.unwrap();
        let service = raft.service(Arc::new(move |_| peer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        (raft, channel)
    }

    fn request<T>(message: T, cluster: [u8; 32], from: u64, to: u64) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert_bin(wire::CLUSTER_HEADER, tonic::metadata::MetadataValue::from_bytes(&cluster));
        metadata.insert(wire::FROM_HEADER, from.into());
        metadata.insert(wire::TO_HEADER, to.into());
        request
    }

    fn ballot(node: u64) -> wire::VoteRequest {
        let last = Some(wire::LogId { term: 50, index: 50 });
        wire::VoteRequest {
            vote: Some(wire::Vote { term: 50, node, committed: false }),
            last,
            leadership_transfer: true,
        }
    }

    #[tokio::test]
    async fn only_an_authenticated_member_of_this_cluster_is_heard() {
        let (raft, channel) = connect(Some(2)).await;
        let mut client = PeerClient::new(channel);
        let cases = [
            (request(ballot(2), [8; 32], 2, 1), Code::FailedPrecondition),
            (request(ballot(2), CLUSTER, 2, 3), Code::FailedPrecondition),
            (request(ballot(3), CLUSTER, 3, 1), Code::PermissionDenied),
            (request(ballot(3), CLUSTER, 2, 1), Code::PermissionDenied),
            (Request::new(ballot(2)), Code::FailedPrecondition),
        ];
        for (request, expected) in cases {
            assert_eq!(client.vote(request).await.unwrap_err().code(), expected);
        }
        assert!(raft.watch().borrow().term < 50, "a refused ballot moved the term");
        let reply = client.vote(request(ballot(2), CLUSTER, 2, 1)).await.unwrap().into_inner();
        assert_eq!(reply.vote, Some(wire::Vote { term: 50, node: 2, committed: false }));

        let (_raft, channel) = connect(None).await;
        let refused = PeerClient::new(channel).vote(request(ballot(2), CLUSTER, 2, 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn every_call_checks_its_sender() {
        let (_raft, channel) = connect(Some(2)).await;
        let mut client = PeerClient::new(channel);
        let foreign = [8; 32];
        let refusals = [
            client.append(request(wire::AppendRequest::default(), foreign, 2, 1)).await.unwrap_err(),
            client.append_stream(request(futures::stream::empty(), foreign, 2, 1)).await.unwrap_err(),
            client.vote(request(ballot(2), foreign, 2, 1)).await.unwrap_err(),
            client.pre_vote(request(ballot(2), foreign, 2, 1)).await.unwrap_err(),
            client.snapshot(request(futures::stream::empty(), foreign, 2, 1)).await.unwrap_err(),
            client.transfer_leader(request(wire::TransferRequest::default(), foreign, 2, 1)).await.unwrap_err(),
            client.read_index(request(wire::ReadIndexRequest {}, foreign, 2, 1)).await.unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
        }
    }

    #[tokio::test]
    async fn a_pre_vote_moves_no_term_and_a_vote_does() {
        let (raft, channel) = connect(Some(2)).await;
        let mut client = PeerClient::new(channel);
        client.pre_vote(request(ballot(2), CLUSTER, 2, 1)).await.unwrap();
        let at_seven = wire::VoteRequest { vote: Some(wire::Vote { term: 7, node: 2, committed: false }), ..ballot(2) };
        let reply = client.vote(request(at_seven, CLUSTER, 2, 1)).await.unwrap().into_inner();
        assert_eq!(reply.vote.unwrap().term, 7, "term 50 was only asked about");
        drop(raft);
    }

    /// A member that claims to lead could otherwise plant any state here.
    #[tokio::test]
    async fn no_snapshot_is_taken_unless_the_operator_allowed_it() {
        let (raft, channel) = connect_to(Config::new(1, CLUSTER), Some(2)).await;
        let before = raft.digest().unwrap();
        let chunks = futures::stream::empty();
        let refused = PeerClient::new(channel).snapshot(request(chunks, CLUSTER, 2, 1)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        assert_eq!(raft.digest().unwrap(), before);
    }

    #[tokio::test]
    async fn a_broken_snapshot_installs_nothing() {
        let (raft, channel) = connect(Some(2)).await;
        let mut client = PeerClient::new(channel);
        let last = Some(wire::LogId { term: 5, index: 9 });
        let membership =
            codec::encode_applied(Some(&LogId::new_term_index(5, 9)), &crate::entry::StoredMembership::default());
        let begin = |vote_term, node| {
            let vote = Some(wire::Vote { term: vote_term, node, committed: true });
            Part::Begin(wire::SnapshotBegin { vote, last, membership: membership.clone().into() })
        };
        let records = Part::Records(vec![0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v'].into());
        let end = Part::End(wire::SnapshotEnd { records: 1, sha256: vec![0; 32].into() });
        let cases = [
            (vec![], Code::InvalidArgument),
            (vec![records.clone()], Code::InvalidArgument),
            (vec![begin(5, 2), records.clone()], Code::DataLoss),
            (vec![begin(5, 2), records.clone(), end.clone()], Code::InvalidArgument),
            (vec![begin(5, 2), records.clone(), begin(5, 2)], Code::InvalidArgument),
            (vec![begin(5, 3), records.clone(), end.clone()], Code::PermissionDenied),
            (vec![begin(4, 2), records, end], Code::InvalidArgument),
        ];
        for (parts, expected) in cases {
            let chunks: Vec<_> = parts.into_iter().map(|part| wire::SnapshotChunk { part: Some(part) }).collect();
            let refused = client.snapshot(request(futures::stream::iter(chunks), CLUSTER, 2, 1)).await.unwrap_err();
            assert_eq!(refused.code(), expected, "{refused}");
        }
        assert_eq!(raft.read(|view, _| view.scan(b"", b"", 10)).unwrap(), []);
    }
}
