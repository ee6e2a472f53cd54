//! The vault, as shipped: `quorate dev` starts members, a custodian and a PostgreSQL, and clients are the SDK's.

use super::{Connection, Facts, Side};
use crate::failover::Leads;
use crate::process::Server;
use crate::work::{LISTED, Operation, READABLE, Work, value};
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use quorate_api::client::{Client, Custodian, CustomerSource, Identity, Profile, Role, Seams, SecretRef};
use quorate_api::net::Tcp;
use quorate_state::ids::{LeaseId, parse_hex};
use quorate_state::lease::Selector;
use rand_core::UnwrapErr;
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// How long a cluster may take to be ready.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long it may take to end.
const GRACE: Duration = Duration::from_secs(20);
/// How long leases live, in milliseconds: longer than a run, on every side.
const TTL: u64 = 4 * 3_600_000;
/// The role of `quorate dev`.
pub(crate) const ROLE: &str = "reader";

/// A cluster.
pub(crate) struct Quorate {
    document: Value,
    profile: Profile,
    /// The processes, in the order of the profile; another one where a member was killed.
    members: std::sync::Mutex<Vec<Member>>,
    custodian: u32,
    /// Who writes while leaders are killed.
    writer: Client,
    program: PathBuf,
    _dev: Dev,
}

/// A member's process: a child of `quorate dev`, or ours.
struct Member {
    pid: u32,
    /// Ended with the side.
    #[expect(dead_code, reason = "held for its end")]
    own: Option<Server>,
}

/// The running `quorate dev`; ended when dropped, and its children with it.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        crate::process::signal(&self.0, Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        // It was asked.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Quorate {
    /// Starts three members in a new folder below `folder`.
    pub(crate) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let (home, said) = (folder.join("quorate"), folder.join("quorate.log"));
        let log = std::fs::File::create(&said)?;
        let child = Command::new(program)
            .args(["dev", "--die-with-parent", "--folder"])
            .arg(&home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut dev = Dev(child);
        let deadline = Instant::now() + PATIENCE;
        let ready = home.join("dev.json");
        while !ready.exists() {
            let ended = dev.0.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(&said).unwrap_or_default();
                anyhow::bail!("`quorate dev` is not ready ({ended:?}); it said:\n{said}");
            }
            sleep(Duration::from_millis(100)).await;
        }
        let document: Value = serde_json::from_slice(&std::fs::read(&ready)?)?;
        let profile = Profile::parse(&std::fs::read_to_string(text(&document, "/profile")?)?)?;
        let pid = |name: &str| -> anyhow::Result<u32> {
            let pid = document.pointer(&format!("/processes/{name}/pid")).and_then(Value::as_u64);
            Ok(u32::try_from(pid.with_context(|| format!("dev.json has no process {name}"))?)?)
        };
        let member = |m: &quorate_api::client::Member| anyhow::Ok(Member { pid: pid(&m.name)?, own: None });
        let members = profile.members.iter().map(member).collect::<anyhow::Result<Vec<_>>>()?;
        let custodian = pid("custodian")?;
        let caller = Identity::load(Path::new(text(&document, "/identities/demo")?))?;
        let writer = Client::new(profile.clone(), caller, CustomerSource::None, seams())?;
        let members = std::sync::Mutex::new(members);
        Ok(Self { members, custodian, writer, document, profile, program: program.to_owned(), _dev: dev })
    }

    /// The scratch database, which a peer uses as well.
    pub(crate) fn database(&self) -> anyhow::Result<Database> {
        let port = self.document.pointer("/postgres/port").and_then(Value::as_u64);
        let port = port.context("`quorate dev` has no database: install PostgreSQL")?;
        let pid = self.document.pointer("/processes/postgres/pid").and_then(Value::as_u64).context("its process")?;
        let socket = self.text("/postgres/socket_folder")?.into();
        Ok(Database { port: u16::try_from(port)?, pid: u32::try_from(pid)?, socket })
    }

    /// Lets the role of `quorate dev` have as many leases as a run makes; nothing else of it changes.
    pub(crate) async fn allow_many_leases(&self) -> anyhow::Result<()> {
        let role = Role {
            target: "pg".to_owned(),
            groups: vec!["readers".to_owned()],
            default_ttl: 60_000,
            max_ttl: TTL,
            connection_limit: 4,
            max_leases: 1_000_000,
            form: quorate_api::client::Form::Scram { iterations: 4_096 },
            ..Role::default()
        };
        self.admin()?.put_role(ROLE, &role).await?;
        Ok(())
    }

    fn admin(&self) -> anyhow::Result<Client> {
        let admin = Identity::load(Path::new(self.text("/identities/admin")?))?;
        Ok(Client::new(self.profile.clone(), admin, CustomerSource::None, seams())?)
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The place of the leader in the profile, as most members name it.
    async fn leader(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answers = self.writer.status().await;
            let up = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
            let named: Vec<u32> = up.map(|status| status.leader).collect();
            let leader = named.first().copied().unwrap_or(0);
            if leader != 0 && named.len() == self.profile.members.len() && named.iter().all(|l| *l == leader) {
                let at = self.profile.members.iter().position(|m| u32::from(m.index) == leader);
                return at.context("the leader is no member");
            }
            anyhow::ensure!(Instant::now() < deadline, "no leader that all know: {named:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn text(&self, pointer: &str) -> anyhow::Result<&str> {
        text(&self.document, pointer)
    }

    fn client(&self, operation: Operation) -> anyhow::Result<Client> {
        let caller = Identity::load(Path::new(self.text("/identities/demo")?))?;
        let source = if operation == Operation::OpenCustomer {
            let key = parse_hex(self.text("/custodian/key")?).context("the custodian's key")?;
            let identity = Identity::load(Path::new(self.text("/custodian/identities/demo")?))?;
            CustomerSource::Custodian(Custodian::new(self.text("/custodian/address")?, key, identity.tls())?)
        } else {
            CustomerSource::None
        };
        let mut profile = self.profile.clone();
        if operation == Operation::OpenRelayed {
            profile.via = profile.members.first().map(|m| m.name.clone());
        }
        Ok(Client::new(profile, caller, source, seams())?)
    }
}

/// A PostgreSQL on the loopback.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) port: u16,
    /// The process below which it runs.
    pub(crate) pid: u32,
    /// Where the superuser is let in.
    pub(crate) socket: PathBuf,
}

fn text<'a>(document: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    document.pointer(pointer).and_then(Value::as_str).with_context(|| format!("dev.json has no {pointer}"))
}

fn seams() -> Seams {
    Seams { rng: Box::new(UnwrapErr(getrandom::SysRng)), clock: Arc::new(now), net: Arc::new(Tcp) }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The folder of the caller, by class.
fn folder(operation: Operation) -> &'static str {
    if operation == Operation::OpenCustomer { "vault/demo" } else { "app/demo" }
}

#[async_trait::async_trait]
impl Side for Quorate {
    fn name(&self) -> &'static str {
        "quorate"
    }

    fn facts(&self) -> Facts {
        let version = Command::new(&self.program).arg("--version").output();
        let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        Facts {
            what: format!("{version}, {} members, 2 of 3 for everything", self.profile.members.len()),
            processes: "3 members on this machine; a custodian for class customer".into(),
            connection: "gRPC over TLS 1.3, client certificates; each client asks the members itself".into(),
            caller: "a certificate and Cedar policies, decided by 2 members each".into(),
            durability: "Raft log of 2 members synced".into(),
            audit: "one record for each request on each member that decides, synced before the answer".into(),
            database: "CREATE ROLE with groups and validity, a SCRAM verifier of 4,096 iterations made by the client"
                .into(),
        }
    }

    fn knows(&self, _: Operation) -> bool {
        true
    }

    fn servers(&self, operation: Operation) -> Vec<u32> {
        let mut servers: Vec<u32> = self.members().iter().map(|m| m.pid).collect();
        servers.extend((operation == Operation::OpenCustomer).then_some(self.custodian));
        servers
    }

    fn audit_files(&self) -> Vec<PathBuf> {
        let folders =
            self.profile.members.iter().filter_map(|m| self.text(&format!("/members/{}/audit_dir", m.name)).ok());
        folders.map(PathBuf::from).collect()
    }

    async fn prepare(&self, work: &Work) -> anyhow::Result<()> {
        let client = self.client(work.operation)?;
        let (name, count) = match work.operation {
            Operation::Open | Operation::OpenRelayed | Operation::OpenCustomer => (work.size.to_string(), READABLE),
            Operation::List => ("list".to_owned(), LISTED),
            Operation::Write | Operation::Issue | Operation::Renew => return Ok(()),
        };
        let base = format!("{}/{name}", folder(work.operation));
        let there = client.list("default", &base).await?;
        if there.len() >= usize::try_from(count)? {
            return Ok(());
        }
        let text = value(if work.operation == Operation::List { 100 } else { work.size });
        let puts = (0..count).map(|n| {
            let (client, path, text) = (&client, format!("{base}/{n}"), text.as_str());
            async move { client.put("default", &path, text.as_bytes(), None).await }
        });
        futures::stream::iter(puts).buffer_unordered(4).try_collect::<Vec<_>>().await?;
        Ok(())
    }

    async fn end_all(&self) -> anyhow::Result<()> {
        self.admin()?.revoke_all(Selector::Role(ROLE.to_owned())).await?;
        Ok(())
    }

    async fn connect(&self, work: &Work) -> anyhow::Result<Arc<dyn Connection>> {
        let client = self.client(work.operation)?;
        Ok(Arc::new(Caller { client, value: value(work.size), lease: Mutex::default() }))
    }
}

#[async_trait::async_trait]
impl Leads for Quorate {
    async fn kill_leader(&self) -> anyhow::Result<usize> {
        let at = self.leader().await?;
        let pid = self.members().get(at).map(|m| m.pid).context("a member")?;
        crate::process::kill(pid)?;
        Ok(at)
    }

    async fn write_somewhere(&self, n: u64) -> anyhow::Result<()> {
        self.writer.put("default", &format!("app/demo/failover/{n}"), value(1024).as_bytes(), None).await?;
        Ok(())
    }

    async fn revive(&self, which: usize) -> anyhow::Result<()> {
        let member = self.profile.members.get(which).context("a member")?;
        let config = self.text(&format!("/members/{}/config", member.name))?;
        let log = PathBuf::from(self.text("/folder")?).join("logs").join(format!("{}-again.log", member.name));
        let server = Server::start(&self.program, ["node", "--config", config], &log)?;
        if let Some(slot) = self.members().get_mut(which) {
            *slot = Member { pid: server.pid(), own: Some(server) };
        }
        self.leader().await.map(drop)
    }
}

/// One client.
struct Caller {
    client: Client,
    value: String,
    /// The one to renew.
    lease: Mutex<Option<LeaseId>>,
}

#[async_trait::async_trait]
impl Connection for Caller {
    async fn call(&self, work: &Work, n: u64) -> anyhow::Result<()> {
        match work.operation {
            Operation::Open | Operation::OpenRelayed | Operation::OpenCustomer => self.open(work, n).await,
            Operation::Write => {
                for at in 0..work.weight() {
                    let path = format!("app/demo/w/{n}-{at}");
                    self.client.put("default", &path, self.value.as_bytes(), None).await?;
                }
                Ok(())
            }
            Operation::List => {
                let listed = self.client.list("default", "app/demo/list").await?.len();
                anyhow::ensure!(u64::try_from(listed)? == LISTED, "{listed} secrets are listed");
                Ok(())
            }
            Operation::Issue => {
                self.client.issue_lease(ROLE, Some(TTL)).await?;
                Ok(())
            }
            Operation::Renew => {
                let mut held = self.lease.lock().await;
                let lease = match *held {
                    Some(lease) => lease,
                    None => self.client.issue_lease(ROLE, Some(TTL)).await?.lease,
                };
                *held = Some(lease);
                self.client.renew(lease, TTL).await?;
                Ok(())
            }
        }
    }
}

impl Caller {
    async fn open(&self, work: &Work, n: u64) -> anyhow::Result<()> {
        let folder = folder(work.operation);
        let asked: Vec<SecretRef> = (0..work.weight())
            .map(|at| SecretRef {
                namespace: "default".to_owned(),
                path: format!("{folder}/{}/{}", work.size, (n * work.weight() + at) % READABLE),
                number: None,
            })
            .collect();
        for opened in self.client.get_many(&asked).await? {
            let got = opened?.plaintext.expose().len();
            anyhow::ensure!(got == work.size, "{got} bytes instead of {}", work.size);
        }
        Ok(())
    }
}
