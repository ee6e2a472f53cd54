//! The face of this crate: one node of the replicated log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    ReadPolicy,
    async_runtime::{Instant as _, watch::WatchReceiver},
    errors::{InitializeError, LinearizableReadError, RaftError},
};
use tokio::sync::{Semaphore, watch};

use crate::{
    AcceptedMembership, Node,
    checkpoint::{Checkpoint, Notary},
    config::Config,
    entry::{Payload, Types},
    errors::{
        Behind, CheckpointError, Fatal, InitError, MembershipError, OpenError, ProposeError, ReadIndexError, refusal,
    },
    flush::Flusher,
    freshness::Footprint,
    kept,
    kv::{Batch, Kv, KvError, Table},
    log::LogStore,
    machine::{Machine, View},
    network::{Dialer, Link, Network, Pool},
    rebuild::Rebuild,
    runtime,
    service::{Authenticate, Consensus, PeerService, Peers},
    state::{Current, StateStore},
    tail::Tail,
    wire,
    witness::Witness,
};

pub(crate) const IDENTITY: &[u8] = b"identity";

/// What a node knows of the cluster; it may be behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// This node.
    pub id: u64,
    /// The current term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// Whether it is this node.
    pub is_leader: bool,
    /// Last entry in this node's log, committed or not.
    pub last_log_index: u64,
    /// Last entry that this node knows to be committed.
    pub committed: u64,
    /// Last entry applied to the state.
    pub applied: u64,
    /// Last entry that was purged from this node's log; 0 for none.
    pub purged: u64,
    /// Voters of the accepted membership.
    pub voters: BTreeSet<u64>,
    /// Nodes that follow without a vote.
    pub learners: BTreeSet<u64>,
    /// A membership change is under way.
    pub joint: bool,
}

/// A proposal that is committed and applied.
#[derive(Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its index.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// The machine's reply.
    pub reply: Vec<u8>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Committed({}.{}, reply of {} bytes)", self.term, self.index, self.reply.len())
    }
}

/// A node of the replicated log. Clones are handles to the same node.
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    raft: Consensus,
    state: StateStore,
    tail: Arc<Tail>,
    flusher: Flusher,
    pool: Arc<Pool>,
    budget: Semaphore,
    status: watch::Receiver<Status>,
    fatal: watch::Receiver<Option<Fatal>>,
}

impl Raft {
    /// Starts the node on its store.
    ///
    /// All tasks of consensus run on the runtime on which this is called. Give it one of its own (one or two threads): work on the
    /// application's runtime then can't delay heartbeats. The handle may be used from any runtime. Serve [`Raft::service`] on the same
    /// runtime as this.
    ///
    /// # Errors
    /// [`OpenError`]; nothing runs then.
    pub async fn open(
        config: Config,
        kv: Arc<dyn Kv>,
        machine: Arc<dyn Machine>,
        dialer: Arc<dyn Dialer>,
        notary: Arc<dyn Notary>,
    ) -> Result<Self, OpenError> {
        let settings = Arc::new(config.openraft()?);
        claim(&*kv, &config)?;
        let fatal = watch::Sender::new(None);
        let patience = config.election_max * 2;
        let pool = Arc::new(Pool::new(config.id, config.cluster, dialer, notary.clone(), patience));
        let rebuild = Rebuild { config: &config, kv: &kv, machine: &machine, notary: &*notary, pool: &pool };
        rebuild.run().await?;
        drop(kept::usable(&*kv));
        let current = Current::load(&*kv)?;
        let tail = Arc::new(LogStore::load_tail(&*kv, &*machine, current.applied, &current.membership)?);
        let witness = config.witness.as_deref().map(Witness::open).transpose()?;
        if let Some(witness) = &witness {
            LogStore::compare(&*kv, &tail, witness.seen())?;
        }
        let flusher = Flusher::start(kv.clone(), tail.clone(), witness, fatal.clone());
        flusher.sync().await?;
        let state = StateStore::open(
            kv.clone(),
            machine.clone(),
            notary,
            flusher.clone(),
            tail.clone(),
            current,
            fatal.clone(),
        )?;
        let log = LogStore::new(kv, flusher.clone(), tail.clone(), machine, wire::MAX_MESSAGE / 2);
        let network = Network { pool: pool.clone() };
        let seed = config.seed.unwrap_or_else(runtime::any);
        let consensus = Consensus::new(config.id, settings, network, log, state.clone());
        let raft = runtime::seeded(seed, consensus).await.map_err(|error| {
            match &*fatal.borrow() {
                // What the log store has said tells more than that consensus ended by it.
                Some(Fatal::Storage(cause)) => OpenError::from(cause.clone()),
                _ => OpenError::Storage(KvError::Engine(error.to_string())),
            }
        })?;
        state.run();
        let budget = Semaphore::new(config.in_flight_bytes.min(Semaphore::MAX_PERMITS));
        let status = follow(&raft, fatal.clone());
        let fatal = fatal.subscribe();
        Ok(Self { inner: Arc::new(Inner { config, raft, state, tail, flusher, pool, budget, status, fatal }) })
    }

    /// The service that peers call. It belongs on a port of its own, behind connections that authenticate members.
    ///
    /// # Security
    /// `authenticate` must take the raft id from the connection (the peer's certificate), never from what the request says.
    pub fn service(&self, authenticate: Authenticate) -> PeerService {
        let Inner { config, raft, state, .. } = &*self.inner;
        Peers::service(config, raft.clone(), state.clone(), authenticate)
    }

    /// Founds the cluster with these members. Exactly one node may do it, once.
    ///
    /// # Errors
    /// [`InitError`].
    pub async fn initialize(&self, members: BTreeMap<u64, Node>) -> Result<(), InitError> {
        self.inner.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => InitError::Initialized,
            RaftError::APIError(InitializeError::NotInMembers(_)) => InitError::NotAMember,
            RaftError::Fatal(_) => InitError::Stopped,
        })
    }

    /// Proposes an entry, and waits until it is committed and applied here.
    ///
    /// # Errors
    /// [`ProposeError`] says for each case whether the entry may still come to be committed.
    pub async fn propose(&self, payload: Vec<u8>) -> Result<Committed, ProposeError> {
        let Inner { config, raft, budget, .. } = &*self.inner;
        let (size, limit) = (payload.len(), config.max_proposal);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let permits = u32::try_from(size.max(1)).map_err(|_| ProposeError::TooLarge { size, limit })?;
        let _permit = budget.try_acquire_many(permits).map_err(|_| ProposeError::Busy)?;
        let write = raft.client_write(Payload(Bytes::from(payload)));
        match tokio::time::timeout(config.propose_timeout, write).await {
            Ok(Ok(done)) => {
                let (index, term) = (done.log_id.index, done.log_id.leader_id.term);
                Ok(Committed { index, term, reply: done.data.0 })
            }
            Ok(Err(error)) => Err(match refusal(config.id, error) {
                MembershipError::Propose(error) => error,
                // Not an answer to a proposal.
                MembershipError::Refused(_) => ProposeError::Unknown,
            }),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Reads the applied state. Nothing is applied while `f` runs, so what it sees is the state after one entry, whose index it is
    /// given. Keep it short.
    pub fn read<R>(&self, f: impl FnOnce(&dyn View, u64) -> R) -> R {
        self.inner.state.read(f)
    }

    /// Where this node is, and what its state is there.
    pub fn checkpoint(&self) -> Checkpoint {
        self.inner.state.checkpoint(None).unwrap_or(Checkpoint { index: 0, log: [0; 32], state: [0; 32] })
    }

    /// The checkpoint at exactly `index`, if this node passed it, and not too long ago.
    pub fn checkpoint_at(&self, index: u64) -> Option<Checkpoint> {
        self.inner.state.checkpoint(Some(index))
    }

    /// A checkpoint that this node can sign for: it has applied `index`, and no crash will take it back behind that. Exactly the one of
    /// `index`, or the newest.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub async fn settled(&self, index: u64, exact: bool, timeout: Duration) -> Result<Checkpoint, CheckpointError> {
        self.wait_applied(index, timeout).await?;
        let found = self.inner.state.checkpoint(exact.then_some(index)).ok_or(CheckpointError::Forgotten)?;
        self.inner.flusher.sync().await.map_err(|_| CheckpointError::Stopped)?;
        Ok(found)
    }

    /// The node's status as it changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    /// Becomes `Some` when this node can't go on: a sync or write failed, the machine gave up, or consensus ended by itself.
    ///
    /// # Security
    /// The process must then end at once. After a failed sync, what the device holds is unknown, and nothing may be acknowledged.
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.inner.fatal.clone()
    }

    /// Freshness without the leader: notes the last entry of this node's own log that can change the answer to `question`, and returns when
    /// the state has reached it. If the tail is truncated meanwhile, the noted index falls with it. See [`crate::freshness`].
    ///
    /// More than half of the voters answering equally from states so reached have answered with every write acknowledged before they were
    /// asked. One alone says nothing; nor do they if [`AcceptedMembership::suffices`] denies it.
    ///
    /// # Errors
    /// [`Behind`] after `timeout`.
    pub async fn tail_barrier(&self, question: &Footprint, timeout: Duration) -> Result<u64, Behind> {
        let mut applied = self.inner.state.applied();
        let mut note = self.inner.tail.note(question);
        match tokio::time::timeout(timeout, note.reached(&mut applied)).await {
            Ok(applied) => Ok(applied),
            Err(_) => Err(Behind { applied: *applied.borrow() }),
        }
    }

    /// Waits until the state has reached `index`; returns where it is.
    ///
    /// # Errors
    /// [`Behind`] after `timeout`.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<u64, Behind> {
        let mut applied = self.inner.state.applied();
        let wait = async { applied.wait_for(|applied| *applied >= index).await.map(|at| *at) };
        let reached = tokio::time::timeout(timeout, wait).await;
        match reached {
            Ok(Ok(at)) => Ok(at),
            Ok(Err(_)) | Err(_) => Err(Behind { applied: *applied.borrow() }),
        }
    }

    /// An index at or after every write that was acknowledged, by whatever node, before the call; confirmed with a quorum by the leader. The
    /// state of this node has reached it at return.
    ///
    /// # Errors
    /// [`ReadIndexError`].
    pub async fn read_index(&self, timeout: Duration) -> Result<u64, ReadIndexError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let mut reason = ReadIndexError::Timeout;
        let index = loop {
            // Around an election the question is asked again: it changes nothing, and the answer holds whenever it comes.
            match tokio::time::timeout_at(deadline, self.confirmed_index()).await {
                Ok(Ok(index)) => break index,
                Ok(Err(error)) => reason = error,
                Err(_) => return Err(reason),
            }
            let pause = tokio::time::Instant::now() + self.inner.config.heartbeat / 2;
            if pause >= deadline {
                return Err(reason);
            }
            tokio::time::sleep_until(pause).await;
        };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        self.wait_applied(index, left).await?;
        Ok(index)
    }

    /// The membership that this node goes by: the latest in its log, committed or not.
    pub fn membership(&self) -> AcceptedMembership {
        self.inner.tail.membership()
    }

    /// Adds a node that follows without a vote, and waits until it has nearly caught up.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_learner(&self, id: u64, node: Node) -> Result<(), MembershipError> {
        let change = self.inner.raft.add_learner(id, node, true).await;
        change.map(drop).map_err(|error| refusal(self.inner.config.id, error))
    }

    /// Makes exactly these nodes voters, by joint consensus; voters that are left out are removed. All must be members already. If it is
    /// interrupted half-way the membership stays joint until the same call is made again.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), MembershipError> {
        let change = self.inner.raft.change_membership(voters, false).await;
        change.map(drop).map_err(|error| refusal(self.inner.config.id, error))
    }

    /// Compacts the log as soon as enough members vouch for the state: purges it up to the entries to keep.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.inner.raft.trigger().snapshot().await.map_err(|_| ProposeError::Stopped)
    }

    /// Asks `to` to take over the leadership. Returns who leads then, or nothing when nobody else does after four times the longest
    /// election time-out.
    pub async fn transfer_leadership(&self, to: u64) -> Option<u64> {
        let Inner { config, raft, status, .. } = &*self.inner;
        raft.trigger().transfer_leader(to).await.ok()?;
        let mut status = status.clone();
        let moved = status.wait_for(|status| status.leader.is_some_and(|leader| leader != config.id));
        tokio::time::timeout(config.election_max * 4, moved).await.ok()?.ok()?.leader
    }

    /// Hands the leadership over if this node has it: to the voter whose log is furthest. Returns who leads then.
    pub async fn hand_over(&self) -> Option<u64> {
        self.transfer_leadership(self.best_successor()?).await
    }

    /// Stands for election although there may be a leader, which steps down when it hears of the new term: for a member that has reason to
    /// doubt it.
    pub async fn stand(&self) {
        // A core that has ended is reported as fatal.
        drop(self.inner.raft.trigger().elect(false).await);
    }

    /// Stops the node. A leader hands over first, and waits for it, for a bounded time.
    pub async fn shutdown(&self) {
        self.inner.state.stop();
        let _ = self.hand_over().await;
        // A panic of the core has been reported as fatal already.
        drop(self.inner.raft.shutdown().await);
    }

    async fn confirmed_index(&self) -> Result<u64, ReadIndexError> {
        let Inner { config, raft, pool, .. } = &*self.inner;
        match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(read) => Ok(read.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let (Some(leader), Some(node)) = (forward.leader_id, forward.leader_node) else {
                    return Err(ReadIndexError::NoLeader);
                };
                if leader == config.id {
                    return Err(ReadIndexError::Unconfirmed);
                }
                let unconfirmed = |_| ReadIndexError::Unconfirmed;
                let client = pool.client(leader, &node, Link::Heartbeat).await;
                let reply =
                    client.map_err(|_| ReadIndexError::Unconfirmed)?.read_index(wire::ReadIndexRequest {}).await;
                Ok(reply.map_err(unconfirmed)?.into_inner().index)
            }
            Err(_) => Err(ReadIndexError::Unconfirmed),
        }
    }

    /// The voter whose log is furthest among those that answer, if this node leads and there is another.
    fn best_successor(&self) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let progress = metrics.replication.as_ref()?;
        let heard = |id: &u64| metrics.heartbeat.as_ref()?.get(id)?.as_ref().map(|at| at.elapsed());
        // One that is down has as much of the log as the others, where nothing has happened since.
        let answers = |id: &u64| heard(id).is_some_and(|ago| ago < self.inner.config.election_max);
        progress
            .iter()
            .filter(|(id, _)| **id != self.inner.config.id && voters.contains(id))
            .max_by_key(|(id, matched)| (answers(id), matched.as_ref().map(|id| id.index)))
            .map(|(id, _)| *id)
    }
}

/// Binds the store to this raft id and cluster, or finds that it is bound to others.
fn claim(kv: &dyn Kv, config: &Config) -> Result<(), OpenError> {
    let identity = [&[1], config.id.to_be_bytes().as_slice(), &config.cluster].concat();
    match kv.get(Table::Meta, IDENTITY) {
        Ok(Some(bound)) if bound == identity => Ok(()),
        // Another node's store does not even open under this one's storage key.
        Ok(Some(_)) | Err(KvError::Unsealed) => Err(OpenError::ForeignStore),
        Err(error) => Err(error.into()),
        Ok(None) => {
            let mut batch = Batch::new();
            batch.put(Table::Meta, IDENTITY, identity);
            Ok(kv.write(batch)?)
        }
    }
}

/// Translates openraft's metrics for as long as consensus runs.
fn follow(raft: &Consensus, fatal: watch::Sender<Option<Fatal>>) -> watch::Receiver<Status> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(status(&metrics.borrow_watched()));
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let (next, ended) = {
                let metrics = metrics.borrow_watched();
                (status(&metrics), metrics.running_state.as_ref().err().cloned())
            };
            sender.send_replace(next);
            match ended {
                None => {}
                Some(openraft::errors::Fatal::Stopped) => return,
                Some(error) => {
                    // The first cause says more than its consequence.
                    fatal.send_if_modified(|known| {
                        known.is_none().then(|| *known = Some(Fatal::Consensus(error.to_string()))).is_some()
                    });
                    return;
                }
            }
        }
    });
    receiver
}

fn status(metrics: &openraft::RaftMetrics<Types>) -> Status {
    let membership = &metrics.membership_config;
    Status {
        id: metrics.id,
        term: metrics.current_term,
        leader: metrics.current_leader,
        is_leader: metrics.current_leader == Some(metrics.id),
        last_log_index: metrics.last_log_index.unwrap_or_default(),
        committed: metrics.local_committed.map_or(0, |id| id.index),
        applied: metrics.last_applied.map_or(0, |id| id.index),
        purged: metrics.purged.map_or(0, |id| id.index),
        voters: membership.voter_ids().collect(),
        learners: membership.membership().learner_ids().collect(),
        joint: membership.get_joint_config().len() > 1,
    }
}
