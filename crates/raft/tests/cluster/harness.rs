//! A cluster in one process. Every node has a runtime of its own, so that it can be killed between two instructions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::points::Trap;
use quorate_raft::{
    Checkpoint, Committed, Config, Dialer, Effect, Entry, Link, Machine, MachineError, Node, Notary, ProposeError,
    Raft, Recount, Status, Unattested, View, WrongState,
    kv::{Batch, Kv, KvError, MemKv, RocksKv, Table, ValueSeal},
};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Server};

pub(crate) const CLUSTER: [u8; 32] = [7; 32];
/// The row that every state begins with.
const MARKER: &[u8] = b"\0marker";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// `key=value` sets a key and replies with its former value; a payload without `=` changes nothing.
pub(crate) struct Register;

impl Machine for Register {
    fn apply(&self, view: &dyn View, entry: Entry<'_>) -> Result<Effect, MachineError> {
        let Some(at) = entry.payload.iter().position(|b| *b == b'=') else { return Ok(Effect::default()) };
        let (key, value) = entry.payload.split_at(at);
        let reply = view.get(key).map_err(|error| MachineError(error.to_string()))?.unwrap_or_default();
        Ok(Effect { writes: vec![(key.to_vec(), Some(value[1..].to_vec()))], reply })
    }

    fn digest(&self, view: &dyn View) -> Result<[u8; 32], MachineError> {
        let mut rows = Rows { hash: Sha256::new(), expected: [0; 32] };
        for (key, value) in view.scan(b"", b"", usize::MAX).map_err(|error| MachineError(error.to_string()))? {
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

/// Stands in for keys and signatures: a majority of all nodes must vouch for a checkpoint. Only a node that runs and has it can be asked for its
/// voucher; what it has given counts when it is gone, too.
#[derive(Default)]
pub(crate) struct Registry {
    nodes: Mutex<BTreeMap<u64, Raft>>,
    size: AtomicUsize,
    /// Nobody vouches for anything, and nobody's voucher counts.
    pub(crate) mute: AtomicBool,
}

impl Registry {
    fn gather(&self, checkpoint: &Checkpoint) -> Vec<u8> {
        let nodes = self.nodes.lock().unwrap();
        let agree = nodes.iter().filter(|(_, node)| node.checkpoint_at(checkpoint.index) == Some(*checkpoint));
        agree.flat_map(|(id, _)| voucher(*id, checkpoint)).collect()
    }
}

/// What a node says of a checkpoint: its id, and a hash in place of a signature.
fn voucher(id: u64, checkpoint: &Checkpoint) -> [u8; VOUCHER] {
    let mut hash = Sha256::new_with_prefix(CLUSTER);
    for number in [id, checkpoint.index] {
        hash.update(number.to_be_bytes());
    }
    hash.update(checkpoint.log);
    hash.update(checkpoint.state);
    let mut voucher = [0; VOUCHER];
    voucher[..8].copy_from_slice(&id.to_be_bytes());
    voucher[8..].copy_from_slice(&hash.finalize());
    voucher
}

const VOUCHER: usize = 8 + 32;

#[async_trait::async_trait]
impl Notary for Registry {
    async fn attest(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, Unattested> {
        for _ in 0..50 {
            if self.verify(checkpoint, &self.gather(checkpoint)).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let proof = self.gather(checkpoint);
        self.verify(checkpoint, &proof).map(|()| proof)
    }

    fn verify(&self, checkpoint: &Checkpoint, proof: &[u8]) -> Result<(), Unattested> {
        let size = self.size.load(Ordering::SeqCst);
        let needed = size / 2 + 1;
        let given = |id: &u64| proof.chunks(VOUCHER).any(|one| one == voucher(*id, checkpoint));
        let got = (1..=u64::try_from(size).unwrap()).filter(given).count();
        let got = if self.mute.load(Ordering::SeqCst) { 0 } else { got };
        if got < needed { Err(Unattested { index: checkpoint.index, got, needed }) } else { Ok(()) }
    }
}

/// A seal that shows when it is bypassed: values are inverted, and bound to their place by its length.
pub(crate) struct Inverting;

impl ValueSeal for Inverting {
    fn seal(&self, table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
        let place = (table.name().len() + key.len()) as u8;
        value.iter().map(|b| !b).chain([place]).collect()
    }

    fn open(&self, table: Table, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KvError> {
        match sealed.split_last() {
            Some((place, value)) if usize::from(*place) == (table.name().len() + key.len()) % 256 => {
                Ok(value.iter().map(|b| !b).collect())
            }
            _ => Err(KvError::Unsealed),
        }
    }
}

/// Each node listens on one port per peer: who calls there is that peer, which stands in for a certificate.
struct Ports(BTreeMap<(u64, u64), SocketAddr>);

struct Tcp {
    from: u64,
    ports: Arc<Ports>,
}

#[async_trait::async_trait]
impl Dialer for Tcp {
    async fn dial(&self, id: u64, _: &Node, _: Link) -> Result<Channel, std::io::Error> {
        let address = self.ports.0[&(id, self.from)];
        Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_millis(200))
            .keep_alive_timeout(Duration::from_millis(400))
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(std::io::Error::other)
    }
}

pub(crate) enum Store {
    Memory(Arc<MemKv>),
    Disk(tempfile::TempDir),
}

struct Running {
    runtime: Runtime,
    raft: Raft,
}

pub(crate) struct Cluster {
    ports: Arc<Ports>,
    /// Nodes whose calls nobody answers, and who answer nobody.
    cut: Arc<Mutex<BTreeSet<u64>>>,
    stores: BTreeMap<u64, Store>,
    running: BTreeMap<u64, Running>,
    pub(crate) registry: Arc<Registry>,
    /// What stands before the store in memory of a node that is started.
    pub(crate) traps: BTreeMap<u64, Arc<Trap>>,
    tune: fn(&mut Config),
}

impl Cluster {
    /// Nodes `1..=size`, started and initialised by node 1.
    pub(crate) async fn start(size: u64, on_disk: bool, tune: fn(&mut Config)) -> Self {
        let mut ports = BTreeMap::new();
        let mut held = Vec::new();
        for pair in (1..=size).flat_map(|to| (1..=size).map(move |from| (to, from))) {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            ports.insert(pair, listener.local_addr().unwrap());
            held.push(listener);
        }
        drop(held);
        let store = |_| if on_disk { Store::Disk(tempfile::tempdir().unwrap()) } else { Store::Memory(Arc::default()) };
        let stores = (1..=size).map(|id| (id, store(id))).collect();
        let registry = Arc::new(Registry::default());
        registry.size.store(usize::try_from(size).unwrap(), Ordering::SeqCst);
        let (ports, running) = (Arc::new(Ports(ports)), BTreeMap::new());
        let traps = BTreeMap::new();
        let mut cluster = Self { ports, cut: Arc::default(), stores, running, registry, traps, tune };
        for id in 1..=size {
            cluster.start_node(id).await;
        }
        let members = (1..=size).map(|id| (id, node(id))).collect();
        cluster.node(1).initialize(members).await.unwrap();
        cluster.leader().await;
        cluster
    }

    pub(crate) async fn start_node(&mut self, id: u64) {
        let mut config = Config::new(id, CLUSTER);
        // Slower than in production: test machines stall.
        config.heartbeat = Duration::from_millis(150);
        config.election_min = Duration::from_millis(600);
        config.election_max = Duration::from_millis(900);
        (self.tune)(&mut config);
        let kv: Arc<dyn Kv> = match &self.stores[&id] {
            Store::Memory(kv) => match self.traps.get(&id) {
                Some(trap) => trap.before(kv.clone()),
                None => kv.clone(),
            },
            Store::Disk(directory) => Arc::new(open_rocks(&directory.path().join("db")).await),
        };
        let begun = quorate_raft::begin(&*kv, vec![(MARKER.to_vec(), b"the beginning".to_vec())], MARKER);
        let dialer = Arc::new(Tcp { from: id, ports: self.ports.clone() });
        let notary = self.registry.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let opened = runtime.spawn(Raft::open(config, kv, Arc::new(Register), dialer, notary)).await.unwrap();
        let raft = match (begun, opened) {
            (Ok(_), Ok(raft)) => raft,
            (_, Err(_)) if self.traps.get(&id).is_some_and(|trap| trap.has_hit()) => {
                return runtime.shutdown_background();
            }
            (begun, opened) => panic!("node {id}: {begun:?}, {:?}", opened.err()),
        };
        for (&(to, from), &address) in &self.ports.0 {
            if to == id && from != id {
                let cut = self.cut.clone();
                let service = raft.service(Arc::new(move |_| {
                    let cut = cut.lock().unwrap();
                    (!cut.contains(&to) && !cut.contains(&from)).then_some(from)
                }));
                runtime.spawn(async move {
                    let listener = loop {
                        match tokio::net::TcpListener::bind(address).await {
                            Ok(listener) => break listener,
                            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    };
                    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                    Server::builder().add_service(service).serve_with_incoming(incoming).await
                });
            }
        }
        self.registry.nodes.lock().unwrap().insert(id, raft.clone());
        self.running.insert(id, Running { runtime, raft });
    }

    /// Takes the state of a node that is down, and leaves it everything else.
    pub(crate) fn wipe_state(&self, id: u64) {
        let mut wipe = Batch::new();
        wipe.delete_range(Table::State, Vec::new(), [0xff; 9]);
        self.memory(id).write(wipe).unwrap();
        self.memory(id).sync().unwrap();
    }

    pub(crate) fn node(&self, id: u64) -> &Raft {
        &self.running[&id].raft
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    pub(crate) fn runs(&self, id: u64) -> bool {
        self.running.contains_key(&id)
    }

    /// Ends a node's tasks where they stand, if it has come so far as to have any.
    pub(crate) fn kill(&mut self, id: u64) {
        self.registry.nodes.lock().unwrap().remove(&id);
        if let Some(running) = self.running.remove(&id) {
            running.runtime.shutdown_background();
        }
    }

    /// Kills a node with its power: a store in memory also loses what was not synced.
    pub(crate) fn lose_power(&mut self, id: u64) {
        self.lose_power_keeping(id, 0);
    }

    /// The same, but the first so many batches that were not synced stay: a device may keep any prefix.
    pub(crate) fn lose_power_keeping(&mut self, id: u64, unsynced: usize) {
        self.kill(id);
        if let Store::Memory(kv) = self.stores.get_mut(&id).unwrap() {
            *kv = Arc::new(kv.crash_keeping(unsynced));
        }
    }

    pub(crate) fn memory(&self, id: u64) -> &MemKv {
        let Store::Memory(kv) = &self.stores[&id] else { panic!("not in memory") };
        kv
    }

    pub(crate) fn cut(&self, id: u64) {
        self.cut.lock().unwrap().insert(id);
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }

    /// Waits until some running node leads and knows it; returns it.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(&self.ids()).await
    }

    pub(crate) async fn leader_among(&self, ids: &[u64]) -> u64 {
        within("a leader", async {
            loop {
                for id in ids {
                    let status = self.status(*id);
                    let followed = ids.iter().all(|id| self.status(*id).leader == status.leader);
                    if status.is_leader && followed {
                        return *id;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    pub(crate) fn status(&self, id: u64) -> Status {
        self.node(id).watch().borrow().clone()
    }

    /// Proposes until it is committed, wherever the leader is.
    pub(crate) async fn set(&self, key: &str, value: &str) -> Committed {
        within("a commit", async {
            loop {
                let leader = self.leader().await;
                match self.node(leader).propose(format!("{key}={value}").into_bytes()).await {
                    Ok(done) => return done,
                    Err(ProposeError::Retry | ProposeError::NotLeader { .. } | ProposeError::Unknown) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }

    pub(crate) fn get(&self, id: u64, key: &str) -> Option<String> {
        let value = self.node(id).read(|view, _| view.get(key.as_bytes())).unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    }

    /// Waits until every running node has applied up to `index`.
    pub(crate) async fn converge(&self, index: u64) {
        for id in self.ids() {
            self.node(id).wait_applied(index, PATIENCE).await.unwrap_or_else(|behind| panic!("node {id}: {behind}"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in self.ids() {
            self.kill(id);
        }
    }
}

pub(crate) fn node(id: u64) -> Node {
    Node { member: format!("node-{id}"), peer_addr: format!("node-{id}.test:1") }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Opens the directory as soon as the node that was killed has let go of it.
async fn open_rocks(path: &std::path::Path) -> RocksKv {
    within("the store's lock", async {
        loop {
            match RocksKv::open(path, Arc::new(Inverting)) {
                Ok(kv) => return kv,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

/// Waits until the log holds nothing up to `index`.
pub(crate) async fn purged(kv: &MemKv, index: u64) {
    within("the purge", async {
        while first_index(kv) <= index {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) fn first_index(kv: &MemKv) -> u64 {
    kv.scan(Table::Log, &[], &[], 1).unwrap().first().map_or(u64::MAX, index)
}

pub(crate) fn last_index(kv: &MemKv) -> u64 {
    kv.last(Table::Log).unwrap().as_ref().map_or(0, index)
}

fn index(pair: &quorate_raft::kv::Pair) -> u64 {
    u64::from_be_bytes(pair.0.as_slice().try_into().unwrap())
}
