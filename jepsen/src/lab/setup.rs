//! Sets a cluster up with the command line alone: the steps of an operator and of a customer, in their order.

use super::database::Database;
use super::disk::Disk;
use super::network::{self, Network, address, namespace};
use super::process::Process;
use super::{Customer, FOLDERS, HOME, Lab, Node, lock};
use crate::cage::Stop;
use crate::mutants::Mutant;
use crate::nemesis::clock;
use crate::nemesis::cuts::End;
use anyhow::Context as _;
use quorate_api::client::Profile;
use quorate_state::ids::parse_hex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use tokio::process::Command;

/// The trust domain of callers, and that of the custodian's.
pub(crate) const DOMAIN: &str = "chaos.quorate";
const CUSTOMER: &str = "customer.chaos.quorate";
/// Where members listen for each other, and for clients.
const PEERS: u16 = 7001;
const CALLERS: u16 = 7002;
const CUSTODIAN: u16 = 7100;

/// `quorate`, run by the operator.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    program: PathBuf,
    home: PathBuf,
}

impl Operator {
    /// Runs a command to its end: the JSON document that it printed.
    pub(crate) async fn run(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let operator = self.home.join("operator");
        let output = Command::new(&self.program)
            .args(["--output", "json"])
            .arg("--passphrase-file")
            .arg(self.home.join("passphrase"))
            .args(arguments)
            .env("QUORATE_PROFILE", operator.join("cluster.toml"))
            .env("QUORATE_IDENTITY", operator.join("admin.pem"))
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let what = arguments.join(" ");
        anyhow::ensure!(output.status.success(), "`quorate {what}` ended with {}: {}", output.status, said.trim());
        let text = String::from_utf8_lossy(&output.stdout);
        if text.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).context(what) }
    }

    /// Has administrators put a policy.
    pub(crate) async fn policy(&self, name: &str, text: &str) -> anyhow::Result<Value> {
        let file = self.home.join(format!("{name}.cedar"));
        fs::write(&file, text)?;
        let operator = self.file("operator");
        self.run(&["policy", "put", name, "--file", &file.display().to_string(), "--operator", &operator]).await
    }

    /// Issues an identity `app/NAME`, in a file that [`Lab::client`] finds.
    pub(crate) async fn issue(&self, name: &str) -> anyhow::Result<()> {
        let (operator, out) = (self.file("operator"), self.file(&format!("operator/{name}.pem")));
        let caller = format!("app/{name}");
        self.run(&["identity", "issue", "--operator", &operator, "--name", &caller, "--ttl", "7d", "--out", &out])
            .await?;
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.home.join(name).display().to_string()
    }
}

/// Who may do what in a policy.
pub(crate) fn principal(name: &str) -> String {
    format!("Quorate::Workload::\"spiffe://{DOMAIN}/app/{name}\"")
}

/// What is to be set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) program: &'a Path,
    /// How many members.
    pub(crate) nodes: u8,
    /// Where processes write their logs.
    pub(crate) logs: &'a Path,
    /// Whether members' clocks can be moved: a library is in the way of each reading then.
    pub(crate) clocks: bool,
    /// Whether there is a database for leases.
    pub(crate) database: bool,
    /// Whether disks can be mounted.
    pub(crate) disks: bool,
    /// Whether clients wait as long as the SDK would by itself.
    pub(crate) patient: bool,
    /// Whether elections have the time-outs that are shipped.
    pub(crate) shipped: bool,
    /// In which way members are broken themselves.
    pub(crate) mutant: Option<&'static Mutant>,
}

/// Makes a cluster.
pub(crate) async fn set_up(wanted: &Wanted<'_>, stop: Stop) -> anyhow::Result<(Lab, Operator)> {
    let Wanted { program, nodes, logs, clocks, database, .. } = *wanted;
    let home = PathBuf::from(HOME);
    fs::create_dir(&home)?;
    fs::create_dir_all(logs)?;
    let operator = Operator { program: program.to_owned(), home: home.clone() };
    fs::write(home.join("passphrase"), "of this run\n")?;
    private(&home.join("passphrase"))?;
    let network = Network::create(nodes).await?;
    let mut members = Vec::new();
    for index in 1..=nodes {
        members.push(member(&operator, index, wanted).await?);
    }
    init(&operator, &members, wanted.shipped).await?;
    let custodian = custodian(&operator, program, logs).await?;
    if clocks {
        clock::prepare(&members)?;
    }
    for node in &members {
        node.start()?;
    }
    custodian.start(&BTreeMap::new())?;
    operator.run(&["keyring", "create", "--operator", &operator.file("operator")]).await?;
    let customer = register(&operator).await?;
    operator.issue("chaos").await?;
    operator.policy("chaos", &policy("chaos")).await?;
    let database = if database {
        let database = Database::create(logs).await?;
        database.describe(&operator).await?;
        Some(database)
    } else {
        None
    };
    let text = fs::read_to_string(home.join("operator/cluster.toml"))?;
    let profile = Profile::parse(&text)?;
    let lab = Lab {
        nodes: members,
        custodian,
        network,
        profile,
        program: program.to_owned(),
        database,
        customer,
        leader: Mutex::default(),
        held: Mutex::default(),
        lost: Mutex::default(),
        rotten: Mutex::default(),
        stop,
        patient: wanted.patient,
    };
    Ok((lab, operator))
}

async fn member(operator: &Operator, index: u8, wanted: &Wanted<'_>) -> anyhow::Result<Node> {
    let name = format!("n{index}");
    let home = PathBuf::from(HOME);
    let disk = if wanted.disks { Disk::create(&home, &name).await? } else { Disk::folder(&home, &name)? };
    let data = disk.path().join("data");
    let host = address(End::Member(index));
    let (peer, api) = (format!("{host}:{PEERS}"), format!("{host}:{CALLERS}"));
    let (folder, seal, card) =
        (data.display().to_string(), operator.file(&format!("{name}.seal")), card(operator, index));
    let create = ["member", "create", "--data-dir", &folder, "--seal-key", &seal, "--name", &name];
    let places = ["--peer-address", &peer, "--api-address", &api, "--card", &card];
    operator.run(&[create.as_slice(), &places].concat()).await?;
    let config = data.join("node.toml").display().to_string();
    let arguments = ["node", "--config", &config];
    let log = wanted.logs.join(format!("{name}.log"));
    let space = namespace(End::Member(index)).unwrap_or_default();
    let process = Process::new(&name, &space, wanted.program.to_owned(), &arguments, log);
    let (environment, held) = (Mutex::<BTreeMap<String, String>>::default(), Mutex::new(BTreeSet::new()));
    lock(&environment).extend(wanted.mutant.and_then(Mutant::told));
    let pretends = wanted.mutant.is_some_and(Mutant::pretends);
    Ok(Node { index, name, process, disk, environment, held, pretends })
}

fn card(operator: &Operator, index: u8) -> String {
    operator.file(&format!("n{index}.card"))
}

/// Begins the cluster, and writes the members' configurations.
async fn init(operator: &Operator, members: &[Node], shipped: bool) -> anyhow::Result<()> {
    let out = operator.file("operator");
    let cards: Vec<String> = members.iter().map(|node| card(operator, node.index)).collect();
    let mut arguments = vec!["init", "--name", "chaos", "--trust-domain", DOMAIN, "--out", &out];
    arguments.extend(["--administrators", "1", "--needed", "1"]);
    for card in &cards {
        arguments.extend(["--member", card]);
    }
    let made = operator.run(&arguments).await?;
    let cluster = made.get("cluster").and_then(Value::as_str).context("`quorate init` names no cluster")?;
    // With a tenth of a processor or packets that come late, the shipped ones would call elections for ever.
    let slower = "heartbeat_ms = 150\nelection_min_ms = 600\nelection_max_ms = 1200\n";
    let elections = if shipped { "" } else { slower };
    for node in members {
        let data = node.disk.path().join("data");
        durable(&data.join("genesis.bin"), &fs::read(operator.home.join("operator/genesis.bin"))?)?;
        let host = address(End::Member(node.index));
        // Small numbers: a run of minutes is to see compaction, attestation and snapshots, on disks of 1 GiB.
        let config = format!(
            "data_dir = \".\"\nseal_key = \"{}\"\ngenesis = \"genesis.bin\"\ncluster = \"{cluster}\"\n\
             peer_listen = \"{host}:{PEERS}\"\napi_listen = \"{host}:{CALLERS}\"\n\n\
             [raft]\n{elections}snapshot_every = 300\nkeep_entries = 150\nattest_every = 100\n\n\
             [storage]\nalarm_free_bytes = {}\nrefuse_free_bytes = {}\nreserve_bytes = {}\n",
            operator.file(&format!("{}.seal", node.name)),
            300 << 20,
            200 << 20,
            32 << 20,
        );
        durable(&data.join("node.toml"), config.as_bytes())?;
    }
    Ok(())
}

async fn custodian(operator: &Operator, program: &Path, logs: &Path) -> anyhow::Result<Process> {
    let folder = operator.file("customer");
    operator.run(&["custodian", "keygen", "--out", &folder, "--trust-domain", CUSTOMER]).await?;
    let out = operator.file("customer/chaos.pem");
    let caller = ["custodian", "caller", "--customer", &folder, "--name", "app/chaos", "--ttl", "7d", "--out", &out];
    operator.run(&caller).await?;
    let genesis = operator.home.join("n1/data/node.toml");
    let config: Vec<String> = fs::read_to_string(genesis)?.lines().map(str::to_owned).collect();
    let cluster = config.iter().find(|line| line.starts_with("cluster = ")).context("no cluster")?;
    let config = format!(
        "listen = \"{}:{CUSTODIAN}\"\nfragment = \"fragment.key\"\npassphrase_file = \"../passphrase\"\n\
         server = \"server.pem\"\nclient_roots = [\"customer-ca.pem\"]\ntrust_domain = \"{CUSTOMER}\"\n{cluster}\n\
         state_dir = \"state\"\n\n[[allow]]\ncallers = [\"spiffe://{CUSTOMER}/app/chaos\"]\nnamespace = \"default\"\n\
         paths = [\"{}/\"]\n",
        network::CUSTODIAN,
        FOLDERS.last().copied().unwrap_or_default(),
    );
    let file = operator.file("customer/custodian.toml");
    fs::write(&file, config)?;
    let arguments = ["custodian", "run", "--config", &file];
    let space = namespace(End::Custodian).unwrap_or_default();
    Ok(Process::new("custodian", &space, program.to_owned(), &arguments, logs.join("custodian.log")))
}

/// Registers the customer's key, and makes the mount that needs it.
async fn register(operator: &Operator) -> anyhow::Result<Customer> {
    let folder = operator.file("customer");
    let done = operator.run(&["customer-key", "register", "--customer", &folder, "--name", "customer"]).await?;
    let key = done.get("customer_key_id").and_then(Value::as_str).context("the customer key has no id")?;
    operator.run(&["mount", "create", "default/vault", "--class", "customer", "--customer-key", key]).await?;
    let public = fs::read_to_string(operator.home.join("customer/fragment.toml"))?;
    let server =
        public.lines().find_map(|line| line.strip_prefix("custodian_key = ")).context("no key of the custodian")?;
    let key = parse_hex(server.trim_matches('"')).context("the custodian's key")?;
    let address = format!("{}:{CUSTODIAN}", network::CUSTODIAN);
    Ok(Customer { address, key, identity: operator.home.join("customer/chaos.pem") })
}

/// What the callers of the workloads may do.
fn policy(name: &str) -> String {
    let principal = principal(name);
    let mut text = String::new();
    for folder in FOLDERS {
        for action in
            ["in [Quorate::Action::\"read\", Quorate::Action::\"write\"]", "== Quorate::Action::\"secret:open\""]
        {
            text += &format!(
                "permit (principal == {principal}, action {action}, resource in Quorate::Folder::\"default:{folder}\");\n"
            );
        }
    }
    text += &format!(
        "permit (principal == {principal}, action == Quorate::Action::\"mount:read\", resource == Quorate::Namespace::\"default\");\n\
         permit (principal == {principal}, action == Quorate::Action::\"role:read\", resource);\n\
         permit (principal == {principal}, action == Quorate::Action::\"lease:issue\", resource);\n"
    );
    text
}

/// Writes a file that a power cut leaves as it is, as an operator's tools would have long ago.
fn durable(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let folder = path.parent().context("a file in no folder")?;
    Ok(File::open(folder)?.sync_all()?)
}

fn private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
