//! A cluster of `quorate dev`: started, reached, ended.

use crate::process::{Process, send};
use crate::shares::Disks;
use crate::{LOOK, quorate};
use anyhow::Context as _;
use quorate_api::client::{Client, Custodian, CustomerSource, Identity, Profile, Seams};
use quorate_api::net::Tcp;
use quorate_api::vault::ReadStatusReply;
use quorate_state::ids::{MemberIndex, parse_hex};
use rand_core::UnwrapErr;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a cluster may take to be ready, for each of its nodes: they share a machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one member may take to say how it is.
const STATUS: Duration = Duration::from_secs(1);
/// How long a cluster may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes.
    pub nodes: u8,
    /// Variables for every process, as FAILPOINTS.
    pub environment: Vec<(String, String)>,
    /// Whether the executor rotates its password.
    pub rotate: bool,
    /// The major version of its PostgreSQL; the distribution's newest for none.
    pub postgres: Option<u32>,
}

impl Default for Options {
    /// With the PostgreSQL that `QUORATE_POSTGRES` names, so that every test can be run on another version.
    fn default() -> Self {
        let postgres = std::env::var("QUORATE_POSTGRES").ok();
        // What is no number is refused by the program, which says so.
        let postgres = postgres.map(|version| version.parse().unwrap_or(0));
        Self { nodes: 3, environment: Vec::new(), rotate: false, postgres }
    }
}

/// Nodes, a custodian and a PostgreSQL, each a process of its own on the loopback; ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    processes: Vec<Process>,
    document: Value,
    audit_folders: Vec<(String, PathBuf)>,
    profile: Profile,
    program: PathBuf,
    dev: Dev,
    // After everything that runs in it.
    _folder: TempDir,
}

/// The running `quorate dev`; ended when dropped, and its children with it.
#[derive(Debug)]
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        end(&mut self.0, Instant::now() + GRACE);
    }
}

/// A cluster that is not ready yet: its processes run, and its members make their first keys.
#[derive(Debug)]
pub struct Starting {
    program: PathBuf,
    dev: Dev,
    home: PathBuf,
    patience: Duration,
    folder: TempDir,
}

impl Starting {
    /// The folder of everything.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The process that sets the cluster up, as an operator and a customer would.
    #[must_use]
    pub fn dev(&self) -> u32 {
        self.dev.0.id()
    }

    /// What it has started by now: nodes, custodian, database.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn processes(&self) -> anyhow::Result<Vec<Process>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if crate::database::parent(pid) != Some(self.dev()) {
                continue;
            }
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let argv: Vec<String> = String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_owned).collect();
            let name = match argv.get(1).map(String::as_str) {
                Some("node") => {
                    argv.get(3).and_then(|file| Path::new(file).parent()?.file_name()?.to_str()).unwrap_or("?")
                }
                Some("custodian") => "custodian",
                Some("scratch-postgres") => "postgres",
                // Not yet what it is to be.
                _ => continue,
            };
            let log = self.home.join("logs").join(format!("{name}.log"));
            all.push(Process::new(name.to_owned(), argv, log, pid));
        }
        Ok(all)
    }

    /// The disks of all members, once `quorate init` is done.
    ///
    /// # Errors
    /// When it is not.
    pub fn disks(&self) -> anyhow::Result<Disks> {
        let profile = Profile::parse(&std::fs::read_to_string(self.home.join("operator").join("cluster.toml"))?)?;
        let folders = profile.members.iter().map(|m| (m.index, self.home.join(&m.name))).collect();
        Ok(Disks::new(profile, folders))
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up: with the end of what it said.
    pub async fn ready(mut self) -> anyhow::Result<Cluster> {
        let ready = wait_ready(&mut self.dev.0, &self.home.join("dev.json"), self.patience).await;
        let made = ready.and_then(|document| {
            let processes = processes(&document)?;
            let audit_folders = audit_folders(&document)?;
            let profile = Profile::parse(&std::fs::read_to_string(text(&document, "/profile")?)?)?;
            Ok((document, processes, audit_folders, profile))
        });
        let Self { program, dev, folder, .. } = self;
        match made {
            Ok((document, processes, audit_folders, profile)) => {
                Ok(Cluster { processes, document, audit_folders, profile, program, dev, _folder: folder })
            }
            Err(why) => {
                drop(dev);
                let said = std::fs::read_to_string(folder.path().join("dev.log")).unwrap_or_default();
                Err(why.context(format!("`quorate dev` said:\n{said}")))
            }
        }
    }
}

impl Cluster {
    /// Starts a cluster, and waits until it is ready.
    ///
    /// # Errors
    /// When there is no program, or the cluster does not come up: with the end of what it said.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        Self::spawn(options)?.ready().await
    }

    /// Starts a cluster.
    ///
    /// # Errors
    /// When there is no program.
    pub fn spawn(options: &Options) -> anyhow::Result<Starting> {
        let program = quorate()?;
        let folder = tempfile::Builder::new().prefix("quorate-test").tempdir()?;
        let (home, said) = (folder.path().join("dev"), folder.path().join("dev.log"));
        let log = File::create(&said)?;
        let dev = Command::new(&program)
            .args(["dev", "--nodes", &options.nodes.to_string(), "--folder"])
            .arg(&home)
            .args(options.rotate.then_some("--rotate"))
            .args(options.postgres.map(|version| format!("--postgres={version}")))
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Starting { program, dev: Dev(dev), home, patience: PATIENCE * u32::from(options.nodes), folder })
    }

    /// The disks of all members.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub fn disks(&self) -> anyhow::Result<Disks> {
        let folder = |member: MemberIndex| Ok((member, self.data_folder(member)?));
        let folders = self.profile.members.iter().map(|m| folder(m.index)).collect::<anyhow::Result<_>>()?;
        Ok(Disks::new(self.profile.clone(), folders))
    }

    /// The process that set it up.
    #[must_use]
    pub fn dev(&self) -> u32 {
        self.dev.0.id()
    }

    /// A member's process, by the member's index: 1 to n.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn node(&self, member: MemberIndex) -> anyhow::Result<&Process> {
        let name = &self.profile.member(member).with_context(|| format!("no member {member}"))?.name;
        self.process(name)
    }

    /// The custodian's process.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub fn custodian(&self) -> anyhow::Result<&Process> {
        self.process("custodian")
    }

    /// A process by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn process(&self, name: &str) -> anyhow::Result<&Process> {
        self.processes.iter().find(|p| p.name() == name).with_context(|| format!("no process {name}"))
    }

    /// All processes.
    #[must_use]
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// What clients pin.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// A member's name.
    #[must_use]
    pub fn name(&self, member: MemberIndex) -> &str {
        self.profile.member(member).map_or("?", |m| m.name.as_str())
    }

    /// What `dev.json` says at a JSON pointer.
    ///
    /// # Errors
    /// When no text stands there.
    pub fn text(&self, pointer: &str) -> anyhow::Result<&str> {
        text(&self.document, pointer)
    }

    /// A client as the caller `identity` (`demo` or `admin`); `demo` opens class `customer` by the custodian.
    ///
    /// # Errors
    /// When there is no such caller.
    pub fn client(&self, identity: &str) -> anyhow::Result<Client> {
        let source = match self.document.pointer(&format!("/custodian/identities/{identity}")) {
            Some(_) => CustomerSource::Custodian(self.custodian_as(identity)?),
            None => CustomerSource::None,
        };
        self.connect(self.profile.clone(), identity, source)
    }

    /// A client as the caller `identity` with other pins, or another way to the members.
    ///
    /// # Errors
    /// When there is no such caller.
    pub fn client_to(&self, profile: Profile, identity: &str) -> anyhow::Result<Client> {
        self.client_by(profile, identity, CustomerSource::Custodian(self.custodian_as(identity)?))
    }

    /// The same, with another source of the customer's part.
    ///
    /// # Errors
    /// When there is no such caller.
    pub fn client_by(&self, profile: Profile, identity: &str, source: CustomerSource) -> anyhow::Result<Client> {
        self.connect(profile, identity, source)
    }

    /// A client as the administrator.
    ///
    /// # Errors
    /// As [`Cluster::client`].
    pub fn admin(&self) -> anyhow::Result<Client> {
        self.client("admin")
    }

    /// A client of the custodian, as one who may freeze and thaw it.
    ///
    /// # Errors
    /// As [`Cluster::client`].
    pub fn warden(&self) -> anyhow::Result<Custodian> {
        self.custodian_as("warden")
    }

    fn custodian_as(&self, identity: &str) -> anyhow::Result<Custodian> {
        let key = parse_hex(self.text("/custodian/key")?).context("the custodian's key")?;
        let caller = Identity::load(Path::new(self.text(&format!("/custodian/identities/{identity}"))?))?;
        Ok(Custodian::new(self.text("/custodian/address")?, key, caller.tls())?)
    }

    fn connect(&self, profile: Profile, identity: &str, source: CustomerSource) -> anyhow::Result<Client> {
        let caller = Identity::load(Path::new(self.text(&format!("/identities/{identity}"))?))?;
        let seams =
            Seams { rng: Box::new(UnwrapErr(getrandom::SysRng)), clock: Arc::new(crate::now), net: Arc::new(Tcp) };
        Ok(Client::new(profile, caller, source, seams)?)
    }

    /// Runs `quorate` as the caller `identity`, with the whole connection in its environment.
    ///
    /// # Errors
    /// When it cannot be run; how it ended is in the output.
    pub fn cli(&self, identity: &str, arguments: &[&str], input: &[u8]) -> anyhow::Result<Output> {
        let mut command = self.command(identity, arguments)?;
        command
            .env("QUORATE_CUSTODIAN", self.text("/custodian/address")?)
            .env("QUORATE_CUSTODIAN_KEY", self.text("/custodian/key")?)
            .env("QUORATE_CUSTODIAN_IDENTITY", self.text("/custodian/identities/demo")?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may have ended without reading it.
            let _ = stdin.write_all(input);
        }
        Ok(child.wait_with_output()?)
    }

    /// The same without a custodian, nor anything on standard input.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn cli_without_custodian(&self, identity: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(identity, arguments)?.stdin(Stdio::null()).output()?)
    }

    /// `quorate` as that caller, to be run.
    ///
    /// # Errors
    /// When the cluster has no such identity.
    pub fn command(&self, identity: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("QUORATE_PROFILE", self.text("/profile")?)
            .env("QUORATE_IDENTITY", self.text(&format!("/identities/{identity}"))?);
        Ok(command)
    }

    /// What one member says of itself, if it does within a second.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn status(&self, member: MemberIndex) -> anyhow::Result<Option<ReadStatusReply>> {
        let mut profile = self.profile.clone();
        profile.members.retain(|m| m.index == member);
        let client = self.connect(profile, "admin", CustomerSource::None)?;
        let answer = tokio::time::timeout(STATUS, client.status()).await;
        Ok(answer.ok().and_then(|mut all| all.pop()?.1.ok()))
    }

    /// The member that leads by its own word and that of a majority, if there is one now.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub async fn leader(&self) -> anyhow::Result<Option<MemberIndex>> {
        let mut answers = Vec::new();
        for member in &self.profile.members {
            answers.extend(self.status(member.index).await?);
        }
        let Some(term) = answers.iter().map(|a| a.term).max() else { return Ok(None) };
        let newest: Vec<_> = answers.iter().filter(|a| a.term == term).collect();
        let leader = newest.iter().find(|a| a.leader != 0 && a.leader == a.member).map(|a| a.member);
        let followed = newest.iter().filter(|a| Some(a.leader) == leader).count() * 2 > self.profile.members.len();
        Ok(leader.filter(|_| followed).and_then(|l| MemberIndex::try_from(l).ok()))
    }

    /// Waits for a leader.
    ///
    /// # Errors
    /// When there is none after `limit`.
    pub async fn wait_leader(&self, limit: Duration) -> anyhow::Result<MemberIndex> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(leader) = self.leader().await? {
                return Ok(leader);
            }
            anyhow::ensure!(Instant::now() < deadline, "no leader in {limit:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a member has applied the log up to `index`.
    ///
    /// # Errors
    /// When it has not after `limit`.
    pub async fn wait_applied(&self, member: MemberIndex, index: u64, limit: Duration) -> anyhow::Result<u64> {
        let what = format!("to have applied {index}");
        Ok(self.wait_status(member, &what, limit, |status| status.applied >= index).await?.applied)
    }

    /// Waits until a member says of itself what `fits`; `what` names it. A member that does not answer in time, or does not admit the
    /// caller yet because it is behind, is asked again.
    ///
    /// # Errors
    /// When it has not after `limit`: with what it said last.
    pub async fn wait_status(
        &self,
        member: MemberIndex,
        what: &str,
        limit: Duration,
        fits: impl Fn(&ReadStatusReply) -> bool,
    ) -> anyhow::Result<ReadStatusReply> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            let answer = self.status(member).await?;
            if let Some(status) = answer.as_ref().filter(|status| fits(status)) {
                return Ok(status.clone());
            }
            last = answer.or(last);
            let name = self.name(member);
            anyhow::ensure!(Instant::now() < deadline, "{name} was {what}, and after {limit:?} it says {last:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The folder of a member: configuration, keys, store, audit log.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn data_folder(&self, member: MemberIndex) -> anyhow::Result<PathBuf> {
        Ok(self.text(&format!("/members/{}/data_dir", self.name(member)))?.into())
    }

    /// The audit logs by their writers: the members' and the custodian's.
    pub fn audit_folders(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.audit_folders.iter().map(|(name, folder)| (name.as_str(), folder.as_path()))
    }

    /// The folder of the database's Unix socket, and its port there and on the loopback.
    ///
    /// # Errors
    /// When there is none.
    pub fn postgres_socket(&self) -> anyhow::Result<(&str, u16)> {
        let port = self.document.pointer("/postgres/port").and_then(Value::as_u64);
        let port = port.context("there is no PostgreSQL: is the package postgresql installed?")?;
        Ok((self.text("/postgres/socket_folder")?, u16::try_from(port)?))
    }
}

impl Cluster {
    /// Saves the processes' logs in the folder that `QUORATE_TEST_LOGS` names: everything else goes with the test.
    fn save_logs(&self) {
        let Some(folder) = std::env::var_os("QUORATE_TEST_LOGS").map(PathBuf::from) else { return };
        // The failure is reported with or without them.
        let _ = std::fs::create_dir_all(&folder);
        for process in &self.processes {
            let _ = std::fs::write(folder.join(format!("{}.log", process.name())), process.log());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.save_logs();
        }
        let deadline = Instant::now() + GRACE;
        for process in &self.processes {
            process.ask_child_to_end();
        }
        end(&mut self.dev.0, deadline);
        for process in &self.processes {
            process.end_by(deadline);
        }
    }
}

/// Asks `quorate dev` to end, which ends its children; insists at `deadline`, when they end with it.
fn end(dev: &mut Child, deadline: Instant) {
    if matches!(dev.try_wait(), Ok(None)) {
        // It may have ended in this moment.
        let _ = send(dev.id(), Signal::TERM);
    }
    while matches!(dev.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            let _ = dev.kill();
            let _ = dev.wait();
            return;
        }
        std::thread::sleep(LOOK);
    }
}

async fn wait_ready(dev: &mut Child, path: &Path, patience: Duration) -> anyhow::Result<Value> {
    let deadline = Instant::now() + patience;
    loop {
        if path.exists() {
            return Ok(serde_json::from_slice(&std::fs::read(path)?)?);
        }
        if let Some(status) = dev.try_wait()? {
            anyhow::bail!("`quorate dev` ended: {status}");
        }
        anyhow::ensure!(Instant::now() < deadline, "the cluster is not ready after {patience:?}");
        tokio::time::sleep(LOOK).await;
    }
}

fn processes(document: &Value) -> anyhow::Result<Vec<Process>> {
    let all = document.get("processes").and_then(Value::as_object).context("dev.json: processes")?;
    let one = |(name, entry): (&String, &Value)| {
        let pid = entry.get("pid").and_then(Value::as_u64).context("dev.json: pid")?;
        let argv = entry.get("argv").and_then(Value::as_array).context("dev.json: argv")?;
        let argv = argv.iter().map(|word| word.as_str().map(str::to_owned).context("dev.json: argv"));
        let argv = argv.collect::<anyhow::Result<_>>()?;
        Ok(Process::new(name.clone(), argv, text(entry, "/log")?.into(), u32::try_from(pid)?))
    };
    all.iter().map(one).collect()
}

fn audit_folders(document: &Value) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let members = document.get("members").and_then(Value::as_object).context("dev.json: members")?;
    let mut folders = Vec::new();
    for (name, member) in members {
        folders.push((name.clone(), PathBuf::from(text(member, "/audit_dir")?)));
    }
    folders.push(("custodian".to_owned(), PathBuf::from(text(document, "/custodian/audit_dir")?)));
    Ok(folders)
}

fn text<'a>(document: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    document.pointer(pointer).and_then(Value::as_str).with_context(|| format!("dev.json: no text at {pointer}"))
}
