//! A node from its configuration to its end.

use crate::attest::Attestor;
use crate::certificates::OwnCertificate;
use crate::config::NodeConfig;
use crate::core::{Caches, Core};
use crate::env::Env;
use crate::executor::{Executors, MakeEngine, make_real};
use crate::issue::Creating;
use crate::journal::WAITING;
use crate::keystore::{Keystore, KeystoreError};
use crate::machine::VaultMachine;
use crate::peers::{Peers, RaftDialer};
use crate::services::{PeerPort, VaultPort};
use crate::store::Seal;
use quorate_api::MAX_MESSAGE;
use quorate_api::net::Listener;
use quorate_api::peer::peer_server::PeerServer;
use quorate_api::status::coded;
use quorate_api::tls::{
    Callers, PeerKey, TlsError, TlsIdentity, accept_clients, accept_peers, callers_server_config, peer_server_config,
};
use quorate_api::vault::vault_server::VaultServer;
use quorate_audit::AuditLog;
use quorate_raft::kv::{Kv, KvError, RocksKv};
use quorate_raft::{Config, InitError, Node, Notary, Raft};
use quorate_state::genesis::{BadGenesis, Genesis};
use quorate_state::ids::ClusterId;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many calls one client's connection may have under way.
const MAX_STREAMS: u32 = 256;

/// Why a node did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The genesis file.
    #[error("{path}: {source}")]
    Genesis {
        /// Where.
        path: PathBuf,
        /// Why.
        source: BadGenesis,
    },
    /// The genesis file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The genesis is not the one that the configuration pins.
    #[error("{path} is the genesis of cluster {found}, and the configuration pins {pinned}")]
    OtherCluster {
        /// Where.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The pinned one.
        pinned: String,
    },
    /// The member's own files.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// This member is not in the roster.
    #[error("the identity in {data} is not a member of this cluster: its key is not in the genesis")]
    NotAMember {
        /// The data folder.
        data: PathBuf,
    },
    /// The store.
    #[error("the store in {path} cannot be opened: {source}; it is left as it is")]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        source: KvError,
    },
    /// The data folder belongs to another cluster.
    #[error("the store in {path} belongs to another cluster")]
    OtherStore {
        /// Where.
        path: PathBuf,
    },
    /// Consensus.
    #[error(transparent)]
    Raft(#[from] quorate_raft::OpenError),
    /// The data folder was written by a later release.
    #[error(
        "{path} is a data folder of format {found}, and this release knows format 1 only; it is left as it is: start the release that wrote it"
    )]
    LaterFormat {
        /// Where.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The audit log.
    #[error("the audit log in {path}: {source}")]
    Audit {
        /// Where.
        path: PathBuf,
        /// Why.
        source: quorate_audit::OpenError,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A port stopped serving.
    #[error("a port stopped serving: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The log can no longer be relied on: the process must end at once.
    #[error("the replicated log failed: {0}; the process ends, so that it promises nothing that it cannot keep")]
    Fatal(String),
    /// This member's state is not that of the others.
    #[error(
        "t members attest another state at index {index} than this member has: it is damaged, and the process ends; \
         `quorate member forget-state` has it rebuilt at the next start"
    )]
    Diverged {
        /// Where.
        index: u64,
    },
}

/// What a node is made of. [`run`] makes it of files, RocksDB, PostgreSQL and the operating system; a simulation of its own.
pub struct Parts {
    /// Clocks, randomness, network.
    pub env: Env,
    /// The cluster.
    pub genesis: Genesis,
    /// Who this member is, and its shares.
    pub keys: Keystore,
    /// Its audit log.
    pub audit: AuditLog,
    /// The replicated store, which may be empty.
    pub kv: Arc<dyn Kv>,
    /// Settings of the log; identifiers are filled in.
    pub raft: Config,
    /// The port for the other members.
    pub peer_listener: Box<dyn Listener>,
    /// The port for clients.
    pub api_listener: Box<dyn Listener>,
    /// Makes the engine of a target.
    pub engines: Box<MakeEngine>,
    /// Members compare their states at every index divisible by this. Each asks by itself, so it need not be the same on all.
    pub attest_every: u64,
}

/// Runs a node until `shutdown`, then hands leadership over and stops.
///
/// # Errors
/// [`RunError`], before the first port is opened wherever that is possible.
pub async fn run(config: NodeConfig, env: Env, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let genesis = read_genesis(&config)?;
    let keys = Keystore::open(&config.data_dir, &config.seal_key)?;
    let me = genesis.roster.by_key(&keys.identity().verify_key().0);
    let me = me.ok_or_else(|| RunError::NotAMember { data: config.data_dir.clone() })?;
    crate::format::check(&config.data_dir)?;
    let parts = Parts {
        audit: open_audit(&config, &me.name, &genesis.cluster(), &env)?,
        kv: open_store(&config, &keys, &env)?,
        raft: raft_config(&config),
        peer_listener: listen(&env, config.peer_listen).await?,
        api_listener: listen(&env, config.api_listen).await?,
        engines: make_real(),
        attest_every: config.raft.attest_every,
        env,
        genesis,
        keys,
    };
    serve(parts, &config.data_dir, shutdown).await
}

/// Runs a node of given parts; otherwise as [`run`]. `name` is what errors call the place where they are stored.
///
/// # Errors
/// [`RunError`].
pub async fn serve(parts: Parts, name: &Path, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let Parts { env, genesis, keys, audit, kv, raft, peer_listener, api_listener, engines, attest_every } = parts;
    let cluster = genesis.cluster();
    let me = genesis.roster.by_key(&keys.identity().verify_key().0).cloned();
    let me = me.ok_or_else(|| RunError::NotAMember { data: name.to_owned() })?;
    begin_state(&*kv, &genesis, &name.join("db"))?;
    let certificate = OwnCertificate::make(keys.identity(), &me.name, env.clock.wall())?;
    let tls = certificate.shown().clone();
    let roots = &genesis.client_roots.certificates;
    let callers = Arc::new(Callers::new(roots, genesis.administrators.keys.clone())?);

    let (journal, applied) = mpsc::channel(WAITING);
    let lost = Arc::new(AtomicU64::new(0));
    let machine = Arc::new(VaultMachine::new(cluster, journal, Arc::clone(&lost)));
    let dialer = Arc::new(RaftDialer {
        net: Arc::clone(&env.net),
        members: genesis.roster.members.clone(),
        identity: tls.clone(),
    });
    let peers = Arc::new(Peers::new(&env.net, &genesis.roster, me.index, &tls)?);
    let keys = Arc::new(keys);
    let attestor = Arc::new(Attestor {
        cluster,
        roster: genesis.roster.clone(),
        me: me.index,
        keys: Arc::clone(&keys),
        peers: Arc::clone(&peers),
        seen: Mutex::default(),
        diverged: watch::Sender::new(None),
    });
    let raft = Config { id: me.raft_id, cluster: cluster.0, ..raft };
    let opening = Raft::open(raft, kv, machine, dialer, Arc::clone(&attestor) as Arc<dyn Notary>);
    let mut shutdown = pin!(shutdown);
    // A member that lost its state waits here for the others, for as long as it takes.
    let raft = tokio::select! {
        biased;
        raft = opening => raft?,
        () = &mut shutdown => return Ok(()),
    };
    let core = Arc::new(Core {
        cluster,
        name: me.name.clone(),
        me: me.index,
        peers,
        attestor,
        env,
        roster: genesis.roster.clone(),
        keys,
        raft: raft.clone(),
        audit,
        executors: Executors::new(engines),
        creating: Creating::default(),
        caches: Caches::default(),
        certificate,
        callers,
    });

    let (stop_clients, clients_stopped) = watch::channel(false);
    let (stop_peers, peers_stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    clients.spawn(serve_clients(Arc::clone(&core), api_listener, tls.clone(), clients_stopped));
    let mut peers = JoinSet::new();
    peers.spawn(serve_peers(Arc::clone(&core), peer_listener, tls, peers_stopped));
    found(&raft, &genesis).await;
    tracing::info!(member = me.name, index = me.index, %cluster, "started");

    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&core).keep_journal(applied, lost));
    tasks.spawn(Arc::clone(&core).drive_clock());
    tasks.spawn(Arc::clone(&core).drive_leases());
    tasks.spawn(Arc::clone(&core).drive_ceremonies());
    tasks.spawn(Arc::clone(&core).keep_certificates());
    tasks.spawn(Arc::clone(&core).keep_callers());
    tasks.spawn(Arc::clone(&core).drive_attestations(attest_every));
    let mut fatal = raft.fatal();
    let mut diverged = core.attestor.diverged.subscribe();
    let port = |ended: Option<Result<Result<(), RunError>, _>>| match ended {
        Some(Ok(Err(error))) => Err(error),
        _ => Err(RunError::Fatal("a port ended".to_owned())),
    };
    tokio::select! {
        // The cause before its consequences.
        biased;
        // At once: what is under way must not be answered by a node whose log cannot be relied on.
        why = failed(&mut fatal) => return Err(RunError::Fatal(why)),
        index = alone(&mut diverged) => return Err(RunError::Diverged { index }),
        () = &mut shutdown => {}
        ended = clients.join_next() => return port(ended),
        ended = peers.join_next() => return port(ended),
        // None of them ends by itself, and a node without one of them would only seem to work.
        _ = tasks.join_next() => return Err(RunError::Fatal("a task of the node ended".to_owned())),
    }
    tracing::info!("handing over and stopping");
    hand_over(&core, &raft).await;
    // Answers under way get a moment, while this node can still get them from the next leader; a client that will not let
    // go does not keep the node. Then the log, which needs the peers' port.
    let _ = stop_clients.send(true);
    let _ = timeout(Duration::from_secs(3), clients.join_next()).await;
    tasks.abort_all();
    let _ = timeout(Duration::from_secs(1), core.say_goodbye()).await;
    let _ = timeout(Duration::from_secs(5), raft.shutdown()).await;
    let _ = stop_peers.send(true);
    let _ = timeout(Duration::from_secs(1), peers.join_next()).await;
    Ok(())
}

/// Gives the leadership away, if this node has it, while everything still works: nobody has to wait for an election.
async fn hand_over(core: &Core, raft: &Raft) {
    if !raft.watch().borrow().is_leader {
        return;
    }
    // Leases that are being made: their targets may be slow, but not for ever.
    let _ = timeout(Duration::from_secs(2), core.creating.finish()).await;
    match timeout(Duration::from_secs(5), raft.hand_over()).await {
        Ok(Some(leader)) => {
            let to = core.roster.by_raft_id(leader).map_or("?", |m| m.name.as_str());
            tracing::info!(to, "leadership handed over");
        }
        _ => tracing::warn!("nobody took the leadership over: the others will elect a leader"),
    }
}

/// Drops the applied state of a member that is down: at its next start it is rebuilt from the log, or from a state that t members vouch
/// for. Keys, shares, log and audit log stay.
///
/// # Errors
/// [`RunError`]
pub fn forget_state(config: &NodeConfig) -> Result<(), RunError> {
    let path = config.data_dir.join("db");
    RocksKv::drop_state(&path).map_err(|source| RunError::Store { path, source })
}

/// The index at which t others have another state than this member.
async fn alone(diverged: &mut watch::Receiver<Option<u64>>) -> u64 {
    let index = diverged.wait_for(Option::is_some).await.ok().and_then(|index| *index);
    match index {
        Some(index) => index,
        // It is never sent again; the others end this.
        None => std::future::pending().await,
    }
}

async fn failed(fatal: &mut watch::Receiver<Option<String>>) -> String {
    match fatal.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "it stopped".to_owned(),
    }
}

fn read_genesis(config: &NodeConfig) -> Result<Genesis, RunError> {
    let path = config.genesis.clone();
    let bytes = std::fs::read(&path).map_err(|source| RunError::Read { path: path.clone(), source })?;
    let genesis = Genesis::from_bytes(&bytes).map_err(|source| RunError::Genesis { path: path.clone(), source })?;
    let found = genesis.cluster();
    if config.cluster_id() != Some(found) {
        return Err(RunError::OtherCluster { path, found, pinned: config.cluster.clone() });
    }
    Ok(genesis)
}

fn open_audit(config: &NodeConfig, name: &str, cluster: &ClusterId, env: &Env) -> Result<AuditLog, RunError> {
    let path = config.data_dir.join("audit");
    let mut settings = quorate_audit::Config::new(name, &cluster.to_string(), env.clock.wall());
    settings.segment_bytes = config.audit.segment_bytes;
    settings.reserve_bytes = config.audit.reserve_bytes;
    let failed = |source| RunError::Audit { path: path.clone(), source };
    std::fs::create_dir_all(&path).map_err(|source| RunError::Read { path: path.clone(), source })?;
    let (audit, recovered) = AuditLog::open(&path, settings).map_err(failed)?;
    if recovered.torn_bytes > 0 {
        tracing::warn!(bytes = recovered.torn_bytes, "an unfinished audit record was trimmed");
    }
    Ok(audit)
}

fn open_store(config: &NodeConfig, keys: &Keystore, env: &Env) -> Result<Arc<dyn Kv>, RunError> {
    let path = config.data_dir.join("db");
    let failed = |source| RunError::Store { path: path.clone(), source };
    let kv = RocksKv::open(&path, Arc::new(Seal::new(keys.storage(), env.clone()))).map_err(failed)?;
    Ok(Arc::new(kv))
}

/// A new store begins with the state of the genesis, which is the same on every member.
fn begin_state(kv: &dyn Kv, genesis: &Genesis, path: &Path) -> Result<(), RunError> {
    let initial = genesis.initial_state();
    let marker = quorate_state::store::key(quorate_state::store::Table::Meta, &[b"genesis"]);
    let ours = initial.get(&marker).cloned().flatten();
    let pairs = initial.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let found =
        quorate_raft::begin(kv, pairs, &marker).map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    if found.is_none() || found == ours { Ok(()) } else { Err(RunError::OtherStore { path: path.to_owned() }) }
}

fn raft_config(config: &NodeConfig) -> Config {
    let mut raft = Config::new(0, [0; 32]);
    raft.heartbeat = Duration::from_millis(config.raft.heartbeat_ms);
    raft.election_min = Duration::from_millis(config.raft.election_min_ms);
    raft.election_max = Duration::from_millis(config.raft.election_max_ms);
    raft.snapshot_every = config.raft.snapshot_every;
    raft.keep_entries = config.raft.keep_entries;
    // Beside the store, not in it: it tells when the store has lost the end of its log.
    raft.witness = Some(config.data_dir.join("log.witness"));
    raft
}

/// Founds the cluster at the first start. Every member does it, with the same members, so that no member is special.
async fn found(raft: &Raft, genesis: &Genesis) {
    let members: BTreeMap<u64, Node> = genesis
        .roster
        .members
        .iter()
        .map(|m| (m.raft_id, Node { member: m.name.clone(), peer_addr: m.peer_address.clone() }))
        .collect();
    match raft.initialize(members).await {
        Ok(()) | Err(InitError::Initialized) => {}
        Err(error) => tracing::warn!(%error, "the cluster was not founded here"),
    }
}

async fn listen(env: &Env, address: std::net::SocketAddr) -> Result<Box<dyn Listener>, RunError> {
    env.net.listen(address).await.map_err(|source| RunError::Listen { address, source })
}

async fn serve_peers(
    core: Arc<Core>,
    listener: Box<dyn Listener>,
    tls: TlsIdentity,
    stopped: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let keys: Vec<[u8; 32]> = core.roster.members.iter().map(|m| m.key).collect();
    let config = peer_server_config(&tls, Arc::new(move |key| keys.contains(key)))?;
    let roster = core.roster.clone();
    let authenticate: quorate_raft::Authenticate = Arc::new(move |extensions| {
        let key = extensions.get::<PeerKey>()?;
        roster.by_key(&key.0).map(|m| m.raft_id)
    });
    let raft = core.raft.service(authenticate);
    let peer = PeerServer::new(PeerPort(core)).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .add_service(raft)
        .add_service(peer)
        .serve_with_incoming_shutdown(accept_peers(listener, config), until(stopped))
        .await?;
    Ok(())
}

/// The time at which a client's certificate must be valid: what this node decides by, not what its own clock shows.
struct ClusterTime(Arc<Core>);

impl std::fmt::Debug for ClusterTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterTime")
    }
}

impl TimeProvider for ClusterTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.clock().ok()?)))
    }
}

async fn serve_clients(
    core: Arc<Core>,
    listener: Box<dyn Listener>,
    tls: TlsIdentity,
    stopped: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let time = Arc::new(ClusterTime(Arc::clone(&core)));
    let config = callers_server_config(&tls, Arc::clone(&core.callers), time)?;
    let vault = VaultServer::new(VaultPort(core)).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .layer(coded())
        .add_service(vault)
        .serve_with_incoming_shutdown(accept_clients(listener, config), until(stopped))
        .await?;
    Ok(())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
