//! A cluster to be broken: every member with a network namespace, a disk and processes of its own, a custodian, a database.

pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod network;
pub(crate) mod process;
pub(crate) mod setup;

use crate::cage::Stop;
use crate::nemesis::{Grip, trace};
use anyhow::Context as _;
use database::Database;
use disk::Disk;
use network::Network;
use process::Process;
use quorate_api::client::{Client, Custodian, CustomerSource, Identity, Profile, Seams};
use quorate_api::net::{Listener, Net, Stream};
use quorate_state::ids::ClusterId;
use rand_core::UnwrapErr;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpSocket;

/// Where everything lies, in memory: it goes with the cage.
pub(crate) const HOME: &str = "/run/chaos";
/// The namespace of secrets.
pub(crate) const NAMESPACE: &str = "default";
/// Below it, in the mount of class cluster and in that of class customer.
pub(crate) const FOLDERS: [&str; 2] = ["app/chaos", "vault/chaos"];
/// How long a member may take to say how it is.
const STATUS: Duration = Duration::from_secs(2);

/// One member.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: u8,
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) disk: Disk,
    /// What it is started with besides, as long as a fault says so.
    pub(crate) environment: Mutex<BTreeMap<String, String>>,
    held: Mutex<BTreeSet<Grip>>,
    /// A mutant: its syncs do nothing.
    pretends: bool,
}

impl Node {
    /// One that does not run yet.
    pub(crate) fn new(index: u8, name: &str, process: Process, disk: Disk) -> Self {
        let (environment, held) = (Mutex::default(), Mutex::default());
        Self { index, name: name.to_owned(), process, disk, environment, held, pretends: false }
    }

    /// Starts its process as it is to be started now.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        self.start_in(Path::new("/dev/null"))
    }

    /// The same in a control group, whose file of processes is named.
    pub(crate) fn start_in(&self, group: &Path) -> anyhow::Result<()> {
        let environment = lock(&self.environment).clone();
        self.process.start_in(&environment, group)?;
        if self.pretends { trace::pretend(self) } else { Ok(()) }
    }

    /// Takes hold of it for a fault, if no other one has.
    pub(crate) fn seize(&self, grip: Grip) -> bool {
        grip == Grip::Filter || lock(&self.held).insert(grip)
    }

    /// Lets go.
    pub(crate) fn release(&self, grip: Grip) {
        lock(&self.held).remove(&grip);
    }
}

/// The whole.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) nodes: Vec<Node>,
    pub(crate) custodian: Process,
    pub(crate) network: Network,
    pub(crate) profile: Profile,
    pub(crate) program: PathBuf,
    pub(crate) database: Option<Database>,
    customer: Customer,
    leader: Mutex<(u8, u64)>,
    held: Mutex<BTreeSet<Grip>>,
    /// Members that are out for good: their logs were damaged, and they have said so.
    lost: Mutex<BTreeSet<u8>>,
    /// The member whose files have rotted: one in a run. It may find out long afterwards.
    rotten: Mutex<Option<u8>>,
    pub(crate) stop: Stop,
    /// Whether clients wait as long as the SDK would by itself.
    pub(crate) patient: bool,
}

/// How callers reach the custodian.
#[derive(Debug, Clone)]
struct Customer {
    address: String,
    key: [u8; 32],
    identity: PathBuf,
}

impl Lab {
    /// One whose members are not Quorate's: faults find them, and the SDK finds nobody.
    pub(crate) fn of_others(
        nodes: Vec<Node>,
        network: Network,
        database: Database,
        program: &Path,
        stop: Stop,
    ) -> Self {
        let profile = Profile {
            cluster: ClusterId([0; 32]),
            threshold: 0,
            members: Vec::new(),
            keyrings: Vec::new(),
            customer_keys: Vec::new(),
            mounts: Vec::new(),
            via: None,
        };
        let customer = Customer { address: String::new(), key: [0; 32], identity: PathBuf::new() };
        Self {
            nodes,
            // Never started.
            custodian: Process::new("custodian", "custodian", program.to_owned(), &[], PathBuf::from("/dev/null")),
            network,
            profile,
            program: program.to_owned(),
            database: Some(database),
            customer,
            leader: Mutex::default(),
            held: Mutex::default(),
            lost: Mutex::default(),
            rotten: Mutex::default(),
            stop,
            patient: false,
        }
    }

    /// A member.
    pub(crate) fn node(&self, index: u8) -> anyhow::Result<&Node> {
        self.nodes.iter().find(|node| node.index == index).with_context(|| format!("there is no member {index}"))
    }

    /// How many members there are.
    pub(crate) fn size(&self) -> u8 {
        u8::try_from(self.nodes.len()).unwrap_or(u8::MAX)
    }

    /// Takes hold of what is no member for a fault, if no other one has.
    pub(crate) fn seize(&self, grip: Grip) -> bool {
        lock(&self.held).insert(grip)
    }

    /// Lets go.
    pub(crate) fn release(&self, grip: Grip) {
        lock(&self.held).remove(&grip);
    }

    /// Notes that a member's files have rotted.
    pub(crate) fn rots(&self, member: u8) {
        *lock(&self.rotten) = Some(member);
    }

    /// The member whose files have rotted.
    pub(crate) fn rotten(&self) -> Option<u8> {
        *lock(&self.rotten)
    }

    /// Notes that a member is out for good.
    pub(crate) fn lose(&self, member: u8) {
        lock(&self.lost).insert(member);
    }

    /// Whether it is.
    pub(crate) fn is_lost(&self, member: u8) -> bool {
        lock(&self.lost).contains(&member)
    }

    /// Who was last seen to lead, and in which term.
    pub(crate) fn leader(&self) -> (u8, u64) {
        *lock(&self.leader)
    }

    /// Notes who leads; whether that is news.
    pub(crate) fn leads(&self, member: u8, term: u64) -> bool {
        let mut leader = lock(&self.leader);
        let news = term > leader.1;
        if news {
            *leader = (member, term);
        }
        news
    }

    /// A client of all members as the caller of an identity file, from an address that partitions from clients cut off.
    pub(crate) fn client(&self, identity: &str) -> anyhow::Result<Client> {
        self.connect(self.profile.clone(), identity, network::CLIENTS)
    }

    /// The same for a workload, whose operations are given up after `limit`: faults may leave nobody to answer. Where every operation has to be
    /// answered, it waits as long as the SDK does by itself.
    pub(crate) fn worker(&self, identity: &str, limit: Duration) -> anyhow::Result<Client> {
        let client = self.client(identity)?;
        Ok(if self.patient { client } else { client.with_timeout(limit) })
    }

    /// The same for a workload of whose network only one member is reached, which passes on to the others what they are to answer.
    pub(crate) fn through(&self, member: u8, limit: Duration) -> anyhow::Result<Client> {
        let profile = Profile { via: Some(self.node(member)?.name.clone()), ..self.profile.clone() };
        Ok(self.connect(profile, "chaos", network::CLIENTS)?.with_timeout(limit))
    }

    /// The same for one that asks every member but one.
    pub(crate) fn past(&self, member: u8, limit: Duration) -> anyhow::Result<Client> {
        let mut profile = self.profile.clone();
        profile.members.retain(|m| m.index != member);
        Ok(self.connect(profile, "chaos", network::CLIENTS)?.with_timeout(limit))
    }

    /// The same as somebody who watches: nothing cuts it off but what cuts off the member itself.
    pub(crate) fn observer(&self) -> anyhow::Result<Client> {
        self.connect(self.profile.clone(), "admin", network::OBSERVER)
    }

    /// A watcher of one member.
    pub(crate) fn watcher(&self, member: u8) -> anyhow::Result<Client> {
        let mut profile = self.profile.clone();
        profile.members.retain(|m| m.index == member);
        Ok(self.connect(profile, "admin", network::OBSERVER)?.with_timeout(STATUS))
    }

    fn connect(&self, profile: Profile, identity: &str, from: Ipv4Addr) -> anyhow::Result<Client> {
        let caller = Identity::load(&Path::new(HOME).join("operator").join(format!("{identity}.pem")))?;
        let customer = Identity::load(&self.customer.identity)?;
        let custodian = Custodian::new(&self.customer.address, self.customer.key, customer.tls())?;
        let seams =
            Seams { rng: Box::new(UnwrapErr(getrandom::SysRng)), clock: Arc::new(now), net: Arc::new(Leaving(from)) };
        Ok(Client::new(profile, caller, CustomerSource::Custodian(custodian), seams)?)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The network, from one of the addresses of the hub.
struct Leaving(Ipv4Addr);

#[async_trait::async_trait]
impl Net for Leaving {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let to: SocketAddr = address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.0, 0).into())?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn listen(&self, _: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What is behind these locks is whole after every statement, so a panic elsewhere harms nothing.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
