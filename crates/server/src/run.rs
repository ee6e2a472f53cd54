//! A node from its configuration to its end.

use crate::absence::{Absences, Without};
use crate::access::{MakeEngine, make_real};
use crate::aside;
use crate::attest::Attestor;
use crate::certificates::OwnCertificate;
use crate::config::NodeConfig;
use crate::core::{Caches, Core};
use crate::durable;
use crate::ending::{AUDIT, RunError};
use crate::endorser::Endorser;
use crate::env::{Clock, Env};
use crate::executor::Executors;
use crate::issue::Creating;
use crate::journal::WAITING;
use crate::keystore::Keystore;
use crate::lane::Heads;
use crate::machine::VaultMachine;
use crate::peers::{Peers, RaftDialer};
use crate::room::Room;
use crate::services::{PeerPort, VaultPort};
use crate::store::Seal;
use quorate_api::MAX_MESSAGE;
use quorate_api::net::{Listener, Net};
use quorate_api::peer::peer_server::PeerServer;
use quorate_api::status::coded;
use quorate_api::tls::{
    Callers, PeerKey, TlsIdentity, accept_clients, accept_peers, callers_server_config, peer_server_config,
};
use quorate_api::vault::vault_server::VaultServer;
use quorate_audit::AuditLog;
use quorate_crypto::identity::Verified;
use quorate_raft::kv::{Kv, KvError, RocksKv};
use quorate_raft::{Config, Damage, Fatal, InitError, Node, Notary, OpenError, Raft};
use quorate_state::genesis::Genesis;
use quorate_state::ids::ClusterId;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many calls one client's connection may have under way.
const MAX_STREAMS: u32 = 256;
/// How many calls that were given up before they were looked at a connection may bring at once: as many as it may have under way. With the
/// library's 20, a member that stood still for a moment ends the connection of all who call it over that, and every call on it.
const MAX_GIVEN_UP: usize = MAX_STREAMS as usize;
/// The same of a member, which calls for all of its own clients over one connection.
const MAX_GIVEN_UP_BY_PEER: usize = 16 * MAX_GIVEN_UP;

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
    /// Room on the disk that it lies on.
    pub room: Room,
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
    /// How many leases are ended together at most.
    pub together: usize,
}

/// Runs a node until `shutdown`, then hands leadership over and stops.
///
/// # Errors
/// [`RunError`], before the first port is opened wherever that is possible.
pub async fn run(config: NodeConfig, env: Env, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let data = config.data_dir.clone();
    if let Some(lost) = aside::lost(&data).map_err(|source| RunError::Read { path: data.clone(), source })? {
        return Err(RunError::Lost(lost));
    }
    let genesis = read_genesis(&config)?;
    let keys = Keystore::open(&config.data_dir, &config.seal_key)?;
    let me = genesis.roster.by_key(&keys.identity().verify_key().0);
    let me = me.ok_or_else(|| RunError::NotAMember { data: config.data_dir.clone() })?;
    crate::format::check(&config.data_dir)?;
    // Before the first write: a full disk gives its reserve back.
    let room = Room::open(&data, &config.storage).map_err(|source| RunError::Read { path: data.clone(), source })?;
    let parts = Parts {
        audit: open_audit(&config, &me.name, &genesis.cluster(), &env)?,
        kv: open_store(&config, &keys, &env)?,
        room,
        raft: raft_config(&config),
        peer_listener: listen(&env, config.peer_listen).await?,
        api_listener: listen(&env, config.api_listen).await?,
        engines: make_real(),
        attest_every: config.raft.attest_every,
        together: crate::lane::ROUND,
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
    let (attest_every, together) = (parts.attest_every, parts.together);
    let Parts { env, genesis, keys, audit, kv, room, raft, peer_listener, api_listener, engines, .. } = parts;
    let cluster = genesis.cluster();
    let me = genesis.roster.by_key(&keys.identity().verify_key().0).cloned();
    let me = me.ok_or_else(|| RunError::NotAMember { data: name.to_owned() })?;
    if let Err(why) = begin_state(&*kv, &genesis, &name.join("db")) {
        drop(kv);
        return Err(match why {
            RunError::Store { source: source @ KvError::Damaged(_), .. } => {
                set_aside(room.folder(), Damage::Unreadable(source), &env)
            }
            why => why,
        });
    }
    let certificate = OwnCertificate::make(keys.identity(), &me.name, env.clock.wall())?;
    let tls = certificate.shown().clone();
    let roots = &genesis.client_roots.certificates;
    let callers = Callers::new(roots, genesis.administrators.keys.clone())?;
    let callers = Arc::new(callers.or_by(Arc::new(OwnTime(Arc::clone(&env.clock)))));

    let (journal, applied) = mpsc::channel(WAITING);
    let lost = Arc::new(AtomicU64::new(0));
    let verified = Arc::new(Verified::default());
    let machine = Arc::new(VaultMachine::new(cluster, journal, Arc::clone(&verified), Arc::clone(&lost)));
    let absences = Arc::new(Absences::new(me.index, genesis.roster.clone()));
    let net: Arc<dyn Net> = Arc::new(Without { net: Arc::clone(&env.net), absences: Arc::clone(&absences) });
    let dialer =
        Arc::new(RaftDialer { net: Arc::clone(&net), members: genesis.roster.members.clone(), identity: tls.clone() });
    let peers = Arc::new(Peers::new(&net, &genesis.roster, me.index, &tls, Arc::clone(&absences))?);
    let keys = Arc::new(keys);
    let attestor = Arc::new(Attestor {
        cluster,
        roster: genesis.roster.clone(),
        me: me.index,
        keys: Arc::clone(&keys),
        peers: Arc::clone(&peers),
        absences: Arc::clone(&absences),
        seen: Mutex::default(),
        diverged: watch::Sender::new(None),
    });
    let seed = Some(u64::from_be_bytes(env.random()));
    let raft = Config { id: me.raft_id, cluster: cluster.0, seed, ..raft };
    let opening = Raft::open(raft, kv, machine, dialer, Arc::clone(&attestor) as Arc<dyn Notary>);
    let mut shutdown = pin!(shutdown);
    // A member that lost its state waits here for the others, for as long as it takes.
    let raft = tokio::select! {
        biased;
        raft = opening => match raft {
            Err(OpenError::Damaged(damage)) => return Err(set_aside(room.folder(), damage, &env)),
            opened => opened?,
        },
        () = &mut shutdown => return Ok(()),
    };
    if let Some(data) = room.folder() {
        aside::let_go(data);
    }
    let clock = Arc::clone(&env.clock);
    let core = Arc::new(Core {
        cluster,
        name: me.name.clone(),
        me: me.index,
        peers,
        attestor,
        absences,
        env,
        roster: genesis.roster.clone(),
        keys,
        raft: raft.clone(),
        audit,
        room,
        executors: Executors::new(engines),
        together,
        leftovers: crate::leftovers::Leftovers::default(),
        troubles: crate::trouble::Troubles::default(),
        creating: Creating::default(),
        heads: Heads::default(),
        proving: Creating::default(),
        breakers: crate::breaker::Breakers::default(),
        caches: Caches::default(),
        verified,
        endorser: Endorser::default(),
        certificate,
        callers,
    });

    core.follow_absences().map_err(|failure| RunError::Fatal(failure.message))?;

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
    tasks.spawn(Arc::clone(&core).watch_time());
    tasks.spawn(Arc::clone(&core).drive_leases());
    tasks.spawn(Arc::clone(&core).drive_ceremonies());
    tasks.spawn(Arc::clone(&core).keep_certificates());
    tasks.spawn(Arc::clone(&core).keep_callers());
    tasks.spawn(Arc::clone(&core).drive_attestations(attest_every));
    tasks.spawn(Arc::clone(&core).keep_room());
    tasks.spawn(Arc::clone(&core).drive_absences());
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
        why = failed(&mut fatal) => {
            if let (Fatal::Storage(KvError::Damaged(why)), Some(data)) = (&why, core.room.folder()) {
                // It is still open here; the next start finds the note, or the damage.
                let _ = aside::note(data, why, clock.wall());
            }
            return Err(RunError::Log(why));
        }
        // Leases must not wait for a leader that may record nothing: its log is sound, so it can hand over.
        broken = core.audit_failed() => {
            hand_over(&core).await;
            return Err(RunError::audit_failed(core.room.folder(), &broken));
        }
        index = alone(&mut diverged) => return Err(RunError::Diverged { index }),
        () = core.absences.condemned() => return Err(RunError::Destroyed),
        () = &mut shutdown => {}
        ended = clients.join_next() => return port(ended),
        ended = peers.join_next() => return port(ended),
        // None of them ends by itself, and a node without one of them would only seem to work.
        _ = tasks.join_next() => return Err(RunError::Fatal("a task of the node ended".to_owned())),
    }
    tracing::info!("handing over and stopping");
    hand_over(&core).await;
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
async fn hand_over(core: &Core) {
    let raft = &core.raft;
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

async fn failed(fatal: &mut watch::Receiver<Option<Fatal>>) -> Fatal {
    let why = fatal.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
    why.unwrap_or_else(|| Fatal::Consensus("it stopped".to_owned()))
}

/// Sets the log in a data folder aside; there is none where the store is not on a disk. The store must be closed.
fn set_aside(data: Option<&Path>, damage: Damage, env: &Env) -> RunError {
    let Some(data) = data else { return RunError::Raft(OpenError::Damaged(damage)) };
    let why = damage.to_string();
    match aside::set_aside(data, &why, env.clock.wall()) {
        Ok(lost) => RunError::Lost(lost),
        Err(source) => RunError::NotAside { path: data.join("db"), why, source },
    }
}

fn read_genesis(config: &NodeConfig) -> Result<Genesis, RunError> {
    let path = config.genesis.clone();
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::IsADirectory => {
            RunError::NoGenesis { path: path.clone(), source }
        }
        // A disk that fails.
        _ => RunError::Read { path: path.clone(), source },
    })?;
    let genesis = Genesis::from_bytes(&bytes).map_err(|source| RunError::Genesis { path: path.clone(), source })?;
    let found = genesis.cluster();
    if config.cluster_id() != Some(found) {
        return Err(RunError::OtherCluster { path, found, pinned: config.cluster.clone() });
    }
    Ok(genesis)
}

fn open_audit(config: &NodeConfig, name: &str, cluster: &ClusterId, env: &Env) -> Result<AuditLog, RunError> {
    let path = config.data_dir.join(AUDIT);
    let mut settings = quorate_audit::Config::new(name, &cluster.to_string(), env.clock.wall());
    settings.segment_bytes = config.audit.segment_bytes;
    settings.reserve_bytes = config.audit.reserve_bytes;
    let failed = |source| RunError::Audit { path: path.clone(), source };
    durable::folder(&path).map_err(|source| RunError::Read { path: path.clone(), source })?;
    #[cfg(not(feature = "failpoints"))]
    let opened = AuditLog::open(&path, settings);
    #[cfg(feature = "failpoints")]
    let opened = quorate_audit::disk::RealDisk::open(&path)
        .map_err(Into::into)
        .and_then(|disk| AuditLog::open_on(Box::new(crate::planted::Trusting(disk)), settings));
    let (audit, recovered) = opened.map_err(failed)?;
    if recovered.torn_bytes > 0 {
        tracing::warn!(bytes = recovered.torn_bytes, "an unfinished audit record was trimmed");
    }
    Ok(audit)
}

/// Opens the store. A member has one in its life: one that is not there any more is lost, and one that is damaged is set aside.
fn open_store(config: &NodeConfig, keys: &Keystore, env: &Env) -> Result<Arc<dyn Kv>, RunError> {
    let (data, path) = (&config.data_dir, config.data_dir.join("db"));
    let seal = Arc::new(Seal::new(keys.storage(), env.clone()));
    let io = |source| RunError::Read { path: data.clone(), source };
    let damaged = |why: &str| set_aside(Some(data), Damage::Unreadable(KvError::Damaged(why.to_owned())), env);
    if !path.exists() {
        if aside::begun(data) {
            return Err(damaged("it is gone"));
        }
        // Made elsewhere and put in its place whole: what a crash leaves of it was never used, and is no damage.
        let fresh = data.join("db.new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).map_err(io)?;
        }
        let made = RocksKv::open(&fresh, seal.clone());
        drop(made.map_err(|source| RunError::Store { path: fresh.clone(), source })?);
        std::fs::rename(&fresh, &path).and_then(|()| std::fs::File::open(data)?.sync_all()).map_err(io)?;
    }
    aside::begin(data).and_then(|()| aside::keep(data)).map_err(io)?;
    let kv = match RocksKv::open(&path, seal) {
        Err(KvError::Damaged(why)) => return Err(damaged(&why)),
        opened => opened.map_err(|source| RunError::Store { path: path.clone(), source })?,
    };
    #[cfg(feature = "failpoints")]
    let kv = crate::store::Faulty(kv);
    Ok(Arc::new(kv))
}

/// A new store begins with the state of the genesis, which is the same on every member.
fn begin_state(kv: &dyn Kv, genesis: &Genesis, path: &Path) -> Result<(), RunError> {
    let initial = genesis.initial_state();
    let marker = quorate_state::store::key(quorate_state::store::Table::Meta, &[b"genesis"]);
    let ours = initial.get(&marker).cloned().flatten();
    let pairs = initial.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let found = quorate_raft::begin(kv, pairs, &marker).map_err(|source| match KvError::from(&source) {
        // Another member's: its values do not open under this one's key.
        KvError::Unsealed => RunError::OtherStore { path: path.to_owned() },
        source => RunError::Store { path: path.to_owned(), source },
    })?;
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
    let (roster, absences) = (core.roster.clone(), Arc::clone(&core.absences));
    let authenticate: quorate_raft::Authenticate = Arc::new(move |extensions| {
        let key = extensions.get::<PeerKey>()?;
        let member = roster.by_key(&key.0)?;
        absences.hear(member.index).ok().map(|()| member.raft_id)
    });
    let raft = core.raft.service(authenticate);
    let peer = PeerServer::new(PeerPort(core)).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .http2_max_pending_accept_reset_streams(Some(MAX_GIVEN_UP_BY_PEER))
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

/// What this node's own clock shows.
struct OwnTime(Arc<dyn Clock>);

impl std::fmt::Debug for OwnTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnTime")
    }
}

impl TimeProvider for OwnTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall())))
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
        .http2_max_pending_accept_reset_streams(Some(MAX_GIVEN_UP))
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
