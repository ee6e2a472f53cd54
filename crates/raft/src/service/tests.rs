mod image;

use std::collections::BTreeMap;

use tonic::{Code, transport::Channel};

use super::*;
use crate::{
    Checkpoint, Config, Dialer, Effect, Entry, Link, Machine, MachineError, Node, Notary, Raft, Recount, Unattested,
    View, WrongState, codec,
    kv::{Kv, MemKv, Table},
    wire::peer_client::PeerClient,
};
use sha2::{Digest, Sha256};

const CLUSTER: [u8; 32] = [7; 32];

/// `key=value` sets a key. The state's hash is over all rows.
struct Register;

impl Machine for Register {
    fn apply(&self, _: &dyn View, entry: Entry<'_>) -> Result<Effect, MachineError> {
        let Some(at) = entry.payload.iter().position(|b| *b == b'=') else { return Ok(Effect::default()) };
        let (key, value) = entry.payload.split_at(at);
        Ok(Effect { writes: vec![(key.to_vec(), Some(value[1..].to_vec()))], reply: Vec::new() })
    }

    fn digest(&self, view: &dyn View) -> Result<[u8; 32], MachineError> {
        let mut rows = Rows { hash: Sha256::new(), expected: [0; 32] };
        for (key, value) in view.scan(b"", b"", usize::MAX).unwrap() {
            rows.row(&key, &value).unwrap();
        }
        Ok(rows.hash.finalize().into())
    }

    fn recount(&self, expected: [u8; 32]) -> Box<dyn Recount> {
        Box::new(Rows { hash: Sha256::new(), expected })
    }
}

struct Rows {
    hash: Sha256,
    expected: [u8; 32],
}

impl Recount for Rows {
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WrongState> {
        for field in [key, value] {
            self.hash.update((field.len() as u64).to_be_bytes());
            self.hash.update(field);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), WrongState> {
        let right = <[u8; 32]>::from(self.hash.finalize()) == self.expected;
        if right { Ok(()) } else { Err(WrongState("another state".into())) }
    }
}

/// Two distinct members must vouch: a proof is a list of members, each with the checkpoint that it vouches for.
struct Two;

fn voucher(member: u8, checkpoint: &Checkpoint) -> Vec<u8> {
    [&[member][..], &checkpoint.index.to_be_bytes(), &checkpoint.log, &checkpoint.state].concat()
}

#[async_trait::async_trait]
impl Notary for Two {
    async fn attest(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, Unattested> {
        Ok([voucher(2, checkpoint), voucher(3, checkpoint)].concat())
    }

    fn verify(&self, checkpoint: &Checkpoint, proof: &[u8]) -> Result<(), Unattested> {
        let valid = |v: &&[u8]| (1..=3).contains(&v[0]) && *v == voucher(v[0], checkpoint);
        let members: std::collections::BTreeSet<u8> = proof.chunks(73).filter(valid).map(|v| v[0]).collect();
        if members.len() >= 2 {
            return Ok(());
        }
        Err(Unattested { index: checkpoint.index, got: members.len(), needed: 2 })
    }
}

struct Nobody;

#[async_trait::async_trait]
impl Dialer for Nobody {
    async fn dial(&self, _: u64, _: &Node, _: Link) -> Result<Channel, std::io::Error> {
        Err(std::io::ErrorKind::NotConnected.into())
    }
}

/// Node 1 of a cluster of two, and a connection to it that authenticates as `peer`.
async fn connect(peer: Option<u64>) -> (Raft, Channel) {
    let (raft, channel, _) = connect_to(Config::new(1, CLUSTER), &[1, 2], peer).await;
    (raft, channel)
}

async fn connect_to(config: Config, members: &[u64], peer: Option<u64>) -> (Raft, Channel, Arc<MemKv>) {
    let kv = Arc::new(MemKv::new());
    let raft = Raft::open(config, kv.clone(), Arc::new(Register), Arc::new(Nobody), Arc::new(Two)).await.unwrap();
    raft.initialize(members.iter().map(|id| (*id, Node::default())).collect::<BTreeMap<_, _>>()).await.unwrap();
    let service = raft.service(Arc::new(move |_| peer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    (raft, channel, kv)
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
    wire::VoteRequest { vote: Some(wire::Vote { term: 50, node, committed: false }), last, leadership_transfer: true }
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
        client.fetch(request(wire::FetchRequest { min_index: 0 }, foreign, 2, 1)).await.unwrap_err(),
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

/// The state of a node with 40 rows in three chunks, as it sends it, with a vote that makes it a leader's.
async fn honest() -> Vec<wire::SnapshotChunk> {
    let (raft, channel, _kv) = connect_to(Config::new(2, CLUSTER), &[2], Some(1)).await;
    for i in 0..40 {
        let entry = format!("k{i:02}={}", "v".repeat(30_000)).into_bytes();
        while raft.propose(entry.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    let ask = request(wire::FetchRequest { min_index: 40 }, CLUSTER, 1, 2);
    let mut stream = PeerClient::new(channel).max_decoding_message_size(wire::MAX_MESSAGE).fetch(ask).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.get_mut().message().await.unwrap() {
        chunks.push(chunk);
    }
    let Some(Part::Begin(begin)) = &mut chunks[0].part else { panic!("no begin") };
    begin.vote = Some(wire::Vote { term: 50, node: 2, committed: true });
    assert!(chunks.len() >= 5, "{} chunks", chunks.len());
    chunks
}

fn begin_of(chunks: &mut [wire::SnapshotChunk]) -> &mut wire::SnapshotBegin {
    let Some(Part::Begin(begin)) = &mut chunks[0].part else { panic!("no begin") };
    begin
}

fn records_of(chunks: &mut [wire::SnapshotChunk], chunk: usize) -> &mut bytes::Bytes {
    let Some(Part::Records(records)) = &mut chunks[chunk].part else { panic!("no records") };
    records
}

#[tokio::test]
async fn a_snapshot_is_taken_only_as_members_vouch_for_it() {
    let honest = honest().await;
    let (raft, channel, kv) = connect_to(Config::new(1, CLUSTER), &[1, 2], Some(2)).await;
    let before = raft.checkpoint();
    let mut cases: Vec<(&str, Vec<wire::SnapshotChunk>)> = Vec::new();
    let mut lie = |what, change: &dyn Fn(&mut Vec<wire::SnapshotChunk>)| {
        let mut chunks = honest.clone();
        change(&mut chunks);
        cases.push((what, chunks));
    };
    // 4 + 3 bytes of a key, 4 of a length, 30,000 of a value.
    let row = 30_011;
    lie("an altered pair", &|c| {
        let mut bytes = records_of(c, 1).to_vec();
        bytes[100] ^= 1;
        *records_of(c, 1) = bytes.into();
    });
    lie("a missing pair", &|c| *records_of(c, 1) = records_of(c, 1).slice(row..));
    lie("a missing chunk", &|c| drop(c.remove(2)));
    lie("an extra pair", &|c| {
        let last = c.len() - 2;
        let more = [records_of(c, last), &[0, 0, 0, 2, b'z', b'z', 0, 0, 0, 1, b'z'][..]].concat();
        *records_of(c, last) = more.into();
    });
    lie("t-1 vouchers", &|c| begin_of(c).proof = begin_of(c).proof.slice(..73));
    lie("one member twice", &|c| {
        let one = begin_of(c).proof.slice(..73);
        begin_of(c).proof = [&one[..], &one].concat().into();
    });
    lie("no proof", &|c| begin_of(c).proof = bytes::Bytes::new());
    let other = |c: &mut Vec<wire::SnapshotChunk>, term, index| {
        let id = LogId::new_term_index(term, index);
        let (_, membership) = codec::decode_applied(&begin_of(c).membership).unwrap();
        begin_of(c).last = Some((&id).into());
        begin_of(c).membership = codec::encode_applied(Some(&id), &membership).into();
    };
    lie("another index", &|c| other(c, 1, 99));
    lie("another term", &|c| other(c, 49, begin_of(&mut c.clone()).last.unwrap().index));
    lie("another chain", &|c| begin_of(c).chain = bytes::Bytes::from_static(&[7; 32]));
    lie("another state", &|c| begin_of(c).state = bytes::Bytes::from_static(&[7; 32]));
    lie("another membership", &|c| {
        let (applied, _) = codec::decode_applied(&begin_of(c).membership).unwrap();
        let stored = crate::entry::StoredMembership::default();
        begin_of(c).membership = codec::encode_applied(applied.as_ref(), &stored).into();
    });
    lie("an end too early", &|c| drop(c.drain(2..c.len() - 1)));
    lie("no end", &|c| drop(c.pop()));
    lie("records in another order", &|c| c.swap(1, 2));
    let mut client = PeerClient::new(channel).max_encoding_message_size(wire::MAX_MESSAGE);
    for (what, chunks) in cases {
        let sent = request(futures::stream::iter(chunks), CLUSTER, 2, 1);
        let refused = client.snapshot(sent).await.expect_err(what);
        let expected = [Code::PermissionDenied, Code::InvalidArgument, Code::DataLoss];
        assert!(expected.contains(&refused.code()), "{what}: {refused}");
        assert_eq!(raft.checkpoint(), before, "{what} changed the state");
        assert_eq!(kv.scan(Table::State, &[], &[], 9).unwrap(), [], "{what} left rows behind");
    }
    // And after all that, the honest one, twice interrupted.
    for cut in [1, 3] {
        let sent = request(futures::stream::iter(honest[..cut].to_vec()), CLUSTER, 2, 1);
        client.snapshot(sent).await.unwrap_err();
        assert_eq!(raft.checkpoint(), before);
    }
    client.snapshot(request(futures::stream::iter(honest.clone()), CLUSTER, 2, 1)).await.unwrap();
    assert_eq!(raft.read(|view, _| view.get(b"k39")).unwrap().unwrap().len(), 30_000);
    let mut sent = honest;
    assert_eq!(raft.checkpoint().state, begin_of(&mut sent).state[..]);
}

#[tokio::test]
async fn only_the_leader_that_a_vote_names_sends_snapshots() {
    let mut honest = honest().await;
    let (raft, channel) = connect(Some(2)).await;
    let before = raft.checkpoint();
    let mut client = PeerClient::new(channel);
    begin_of(&mut honest).vote = Some(wire::Vote { term: 50, node: 3, committed: true });
    let refused = client.snapshot(request(futures::stream::iter(honest.clone()), CLUSTER, 2, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    begin_of(&mut honest).vote = Some(wire::Vote { term: 0, node: 2, committed: true });
    let refused = client.snapshot(request(futures::stream::iter(honest.clone()), CLUSTER, 2, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = client.snapshot(request(futures::stream::iter(honest.split_off(1)), CLUSTER, 2, 1)).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(raft.checkpoint(), before);
}
