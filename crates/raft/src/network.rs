//! The client side of the peer protocol.
//!
//! Each peer is reached over up to three connections, by class: bulk entries, and snapshots, must not hold up heartbeats, votes and read
//! confirmations. Connections are made by the [`Dialer`] on first use, shared by all calls of the class and dropped on failure, so that the
//! next call dials again.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, Shared},
    stream::BoxStream,
};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, alias,
    errors::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{
        Backoff, NetAppend, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
        stream_append_sequential,
    },
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, metadata::MetadataValue, transport::Channel};

use crate::{
    Node,
    checkpoint::Notary,
    entry::{LogId, Types, Vote},
    snapshot::{Image, Outgoing},
    wire::{self, peer_client::PeerClient},
};

/// How long to leave a peer alone whose stream could not be begun.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// What a connection to a peer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Log entries: bulk.
    Append,
    /// Heartbeats, votes, leadership transfer, read index: small and urgent.
    Heartbeat,
    /// Snapshots: bulk, rare, long.
    Snapshot,
}

/// Makes connections to peers.
///
/// The channel decides how fast a dead peer is noticed. It should have a connect timeout of about a second, TCP_NODELAY, and HTTP/2
/// keep-alives, also while idle, every 200 ms with a timeout of 400 ms: a half-open connection or a stopped process answers no pings, and
/// nothing else would tell. Links of different classes must not share a connection.
///
/// # Security
/// The channel must authenticate the peer: it must be the member that `node` names, or the call must fail.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A channel to the peer with raft id `id`.
    ///
    /// # Errors
    /// The peer can't be reached, or is not who it should be.
    async fn dial(&self, id: u64, node: &Node, class: Link) -> Result<Channel, io::Error>;
}

type Client = PeerClient<tonic::service::interceptor::InterceptedService<Channel, Introduction>>;

/// Stamps every call with who sends it to whom.
#[derive(Clone)]
pub(crate) struct Introduction {
    cluster: [u8; 32],
    from: u64,
    to: u64,
}

impl tonic::service::Interceptor for Introduction {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert_bin(wire::CLUSTER_HEADER, MetadataValue::from_bytes(&self.cluster));
        metadata.insert(wire::FROM_HEADER, MetadataValue::from(self.from));
        metadata.insert(wire::TO_HEADER, MetadataValue::from(self.to));
        Ok(request)
    }
}

/// A connection being made, or made. Anyone may wait for it; it is made whether or not somebody does.
type Dialed = Shared<BoxFuture<'static, Result<Channel, Arc<io::Error>>>>;

/// The connections of one node.
pub(crate) struct Pool {
    id: u64,
    cluster: [u8; 32],
    dialer: Arc<dyn Dialer>,
    notary: Arc<dyn Notary>,
    /// Connections live on the runtime of consensus, whoever asks for them.
    runtime: tokio::runtime::Handle,
    /// How long a stream with unanswered requests may stay silent.
    patience: Duration,
    channels: Mutex<BTreeMap<(u64, Link), (Node, Dialed)>>,
}

impl Pool {
    /// The pool of the node that runs on the current runtime.
    pub(crate) fn new(
        id: u64,
        cluster: [u8; 32],
        dialer: Arc<dyn Dialer>,
        notary: Arc<dyn Notary>,
        patience: Duration,
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { id, cluster, dialer, notary, runtime, patience, channels: Mutex::default() }
    }

    pub(crate) async fn client(&self, to: u64, node: &Node, class: Link) -> io::Result<Client> {
        let channel = self.dialed(to, node, class).await.map_err(|error| io::Error::new(error.kind(), error))?;
        let introduction = Introduction { cluster: self.cluster, from: self.id, to };
        Ok(PeerClient::with_interceptor(channel, introduction)
            .max_decoding_message_size(wire::MAX_MESSAGE)
            .max_encoding_message_size(wire::MAX_MESSAGE))
    }

    /// Calls have deadlines as short as a heartbeat, in which no handshake may fit: dialing goes on when its caller has given up, and the next
    /// call finds the connection.
    fn dialed(&self, to: u64, node: &Node, class: Link) -> Dialed {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        match channels.get(&(to, class)) {
            Some((known, dialed)) if known == node && !matches!(dialed.peek(), Some(Err(_))) => dialed.clone(),
            _ => {
                let (dialer, peer) = (self.dialer.clone(), node.clone());
                let dialing = self.runtime.spawn(async move { dialer.dial(to, &peer, class).await });
                let dialed =
                    async { dialing.await.map_err(io::Error::other).flatten().map_err(Arc::new) }.boxed().shared();
                channels.insert((to, class), (node.clone(), dialed.clone()));
                dialed
            }
        }
    }

    /// Forgets a connection that failed.
    pub(crate) fn drop_channel(&self, to: u64, class: Link) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&(to, class));
    }
}

/// Makes openraft's clients.
pub(crate) struct Network {
    pub(crate) pool: Arc<Pool>,
}

impl Network {
    fn peer(&self, target: u64, node: &Node, class: Link) -> Peer {
        Peer { pool: self.pool.clone(), target, node: node.clone(), class }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Link::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Link::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Link::Snapshot)
    }
}

/// One peer, as seen by one of openraft's tasks.
pub(crate) struct Peer {
    pool: Arc<Pool>,
    target: u64,
    node: Node,
    /// What appends of this client go over; other calls have a class of their own.
    class: Link,
}

impl Peer {
    async fn client(&self, class: Link) -> Result<Client, RPCError<Types>> {
        self.pool.client(self.target, &self.node, class).await.map_err(|error| Unreachable::new(&error).into())
    }

    /// Runs `call` within `limit`. A late answer does not condemn the connection: the channel's keep-alives do, if it is dead.
    async fn within<T>(
        &self,
        limit: Duration,
        action: RPCTypes,
        call: impl Future<Output = Result<T, RPCError<Types>>>,
    ) -> Result<T, RPCError<Types>> {
        let late = Timeout { action, id: self.pool.id, target: self.target, timeout: limit };
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late.into()))
    }

    fn failed(&self, class: Link, status: &Status) -> RPCError<Types> {
        match status.code() {
            // The peer answered: the connection is good, the message or this node was not to its liking.
            Code::InvalidArgument | Code::DataLoss | Code::OutOfRange => NetworkError::new(status).into(),
            _ => {
                self.pool.drop_channel(self.target, class);
                Unreachable::new(status).into()
            }
        }
    }

    async fn vote_call(
        &self,
        rpc: VoteRequest<Types>,
        limit: Duration,
        pre: bool,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        const CLASS: Link = Link::Heartbeat;
        self.within(limit, RPCTypes::Vote, async {
            let mut client = self.client(CLASS).await?;
            let request = wire::VoteRequest::from(rpc);
            let reply = if pre { client.pre_vote(request).await } else { client.vote(request).await };
            reply.and_then(|reply| reply.into_inner().try_into()).map_err(|status| self.failed(CLASS, &status))
        })
        .await
    }
}

impl NetBackoff<Types> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetVote<Types> for Peer {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_call(rpc, option.soft_ttl(), false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_call(rpc, option.soft_ttl(), true).await
    }
}

impl NetAppend<Types> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let class = self.class;
        self.within(option.soft_ttl(), RPCTypes::AppendEntries, async {
            let from_start = rpc.prev_log_id.is_none();
            let mut client = self.client(class).await?;
            let reply =
                client.append(wire::AppendRequest::from(rpc)).await.and_then(|reply| append_result(reply.into_inner()));
            match reply.map_err(|status| self.failed(class, &status))? {
                Ok(_) => Ok(AppendEntriesResponse::Success),
                // Nothing precedes the first entry, so nothing can be in conflict there.
                Err(StreamAppendError::Conflict(_)) if from_start => {
                    Err(NetworkError::from_string("conflict at the beginning of the log").into())
                }
                Err(StreamAppendError::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
                Err(StreamAppendError::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote)),
            }
        })
        .await
    }
}

type AppendReplies<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl NetStreamAppend<Types> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendReplies<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if self.class == Link::Heartbeat {
            // One request and one reply: a stream for it would cost a round trip and bring nothing.
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let class = self.class;
            let patience = self.pool.patience;
            let sent = Arc::new(AtomicU64::new(0));
            let count = sent.clone();
            let requests = input.map(move |request| {
                count.fetch_add(1, Ordering::Relaxed);
                wire::AppendRequest::from(request)
            });
            let begun = self
                .within(patience, RPCTypes::AppendEntries, async {
                    let mut client = self.client(class).await?;
                    client.append_stream(requests).await.map_err(|status| self.failed(class, &status))
                })
                .await;
            let replies = match begun {
                Ok(replies) => replies.into_inner(),
                Err(error) => {
                    // openraft backs off inside the stream of requests only; without a stream it would ask again at once, for ever.
                    tokio::time::sleep(UNREACHABLE_PAUSE).await;
                    return Err(error);
                }
            };
            let peer = &*self;
            let start = Some((replies, 0_u64));
            let out = futures::stream::unfold(start, move |state| {
                let sent = sent.clone();
                async move {
                    let (mut replies, answered) = state?;
                    let reply = loop {
                        let unanswered = sent.load(Ordering::Relaxed) > answered;
                        match tokio::time::timeout(patience, replies.message()).await {
                            Ok(reply) => break reply,
                            // Silence is fine only if nothing was asked, neither before nor during the wait.
                            Err(_) if !unanswered => {}
                            Err(_) => {
                                peer.pool.drop_channel(peer.target, class);
                                let action = RPCTypes::AppendEntries;
                                let (id, target) = (peer.pool.id, peer.target);
                                return Some((Err(Timeout { action, id, target, timeout: patience }.into()), None));
                            }
                        }
                    };
                    let result = reply.and_then(|reply| reply.map(append_result).transpose());
                    match result.map_err(|status| peer.failed(class, &status)) {
                        Ok(None) => None,
                        Ok(Some(Ok(matched))) => Some((Ok(Ok(matched)), Some((replies, answered + 1)))),
                        Ok(Some(refused)) => Some((Ok(refused), None)),
                        Err(error) => Some((Err(error), None)),
                    }
                }
            });
            let out: AppendReplies<'s> = Box::pin(out);
            Ok(out)
        })
    }
}

fn append_result(reply: wire::AppendReply) -> Result<StreamAppendResult<Types>, Status> {
    use wire::append_reply::Result as Reply;
    Ok(match reply.result.ok_or_else(|| wire::missing("result"))? {
        Reply::Matched(matched) => Ok(matched.log_id.map(LogId::from)),
        Reply::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
        Reply::Higher(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    })
}

impl NetTransferLeader<Types> for Peer {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        use wire::transfer_reply::Result as Reply;
        const CLASS: Link = Link::Heartbeat;
        self.within(option.soft_ttl(), RPCTypes::TransferLeader, async {
            let mut client = self.client(CLASS).await?;
            let request = wire::TransferRequest {
                from_leader: Some(req.from_leader().into()),
                to: *req.to_node_id(),
                last: wire::log_id(req.last_log_id()),
            };
            let reply = client.transfer_leader(request).await.and_then(|reply| {
                Ok(match reply.into_inner().result.ok_or_else(|| wire::missing("result"))? {
                    Reply::Accepted(_) => Ok(()),
                    Reply::VoteChanged(votes) => Err(TransferLeaderError::VoteChanged {
                        expected: wire::vote(votes.expected)?,
                        actual: wire::vote(votes.actual)?,
                    }),
                    Reply::NotFlushed(ids) => Err(TransferLeaderError::LogNotFlushed {
                        expected: ids.expected.map(LogId::from),
                        actual: ids.actual.map(LogId::from),
                    }),
                })
            });
            reply.map_err(|status| self.failed(CLASS, &status))
        })
        .await
    }
}

impl NetSnapshot<Types> for Peer {
    type SnapshotData = Image;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: alias::SnapshotOf<Types, Image>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        const CLASS: Link = Link::Snapshot;
        let Image::Outgoing(Outgoing { point, proof, parts }) = snapshot.snapshot else {
            return Err(NetworkError::from_string("a received snapshot is not for sending").into());
        };
        // No member would take it without. Of a state that is not the kept image there may be enough who vouch for it a moment later.
        let kept = proof.is_some();
        let proof = match proof {
            Some(proof) => proof,
            None => {
                let proof = self.pool.notary.attest(&point.checkpoint()).await;
                proof.map_err(|error| Unreachable::<Types>::new(&error))?
            }
        };
        let begin = point.begin(Some((&vote).into()), proof);
        let broken = Arc::new(Mutex::new(None));
        let noted = broken.clone();
        let body = ReceiverStream::new(parts).scan((), move |(), part| {
            let chunk = part
                .map(wire::SnapshotChunk::from)
                // The stream ends before its end, and the receiver throws away what it has.
                .map_err(|error| *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error));
            std::future::ready(chunk.ok())
        });
        let chunks = futures::stream::iter([begin]).chain(body);
        let send = self.within(option.soft_ttl(), RPCTypes::InstallSnapshot, async {
            let mut client = self.client(CLASS).await?;
            let reply = client.snapshot(chunks).await.map_err(|status| self.failed(CLASS, &status))?;
            let vote = wire::vote(reply.into_inner().vote).map_err(|status| self.failed(CLASS, &status))?;
            Ok(SnapshotResponse::new(vote))
        });
        let result = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            result = send => result,
        };
        if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The image was removed; the state itself is none the worse for it.
            if kept {
                return Err(Unreachable::new(&error).into());
            }
            return Err(
                openraft::StorageError::read_snapshot(None, alias::ErrorSourceOf::<Types>::from_error(&error)).into()
            );
        }
        Ok(result?)
    }
}
