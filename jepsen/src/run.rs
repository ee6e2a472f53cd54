//! One run, in the cage: a cluster, clients, faults; then none; then everything that is left is read and noted.

use crate::auditor::Auditor;
use crate::cage::{self, Stop, stopped};
use crate::check::audit;
use crate::fragments;
use crate::history::{self, Event, Floors, Outcome, Recorder, Run, operations};
use crate::lab::setup::{self, Wanted};
use crate::lab::{HOME, Lab};
use crate::mutants::{self, Mutant};
use crate::nemesis::{Kind, execute, plan};
use crate::observe;
use crate::random::Random;
use crate::workload::register::{self, Paths};
use crate::workload::{apart, lease, policy};
use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// What the numbers of users of leases begin after, so that in a history nobody takes them for others.
const USERS_FROM: u32 = 10_000;
/// How long a cluster may take to be set up.
const SET_UP: Duration = Duration::from_secs(300);
/// How long everything may take to come right once no fault is at work.
const RECOVERY: Duration = Duration::from_secs(90);

/// `chaos run`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Where all choices come from; one is drawn and printed otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// How many members.
    #[arg(long, default_value_t = 3, value_parser = sizes())]
    nodes: u8,
    /// How many minutes with faults, as in 2 or 0.5.
    #[arg(long = "minutes", default_value = "2", value_name = "MINUTES", value_parser = minutes)]
    seconds: u64,
    /// Which faults, by commas; `chaos list` has them. With `none` the run is void, whatever it sees.
    #[arg(long, default_value = "kill,pause,partition", value_parser = nemeses)]
    nemeses: Nemeses,
    /// What clients do, by commas: `register`, `policy`, `lease`.
    #[arg(long, default_value = "register,policy", value_parser = workloads)]
    workloads: Workloads,
    /// How many clients of registers.
    #[arg(long, default_value_t = 6)]
    clients: u32,
    /// How many users of leases, each with one at a time.
    #[arg(long, default_value_t = 6)]
    users: u32,
    /// The folder to make for history, report and logs; one among the temporary files otherwise.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The program to break; `quorate` beside this one otherwise.
    #[arg(long, env = "QUORATE_BIN", value_name = "FILE")]
    program: Option<PathBuf>,
    /// What the program was built from, for the report.
    #[arg(long, value_name = "ID")]
    commit: Option<String>,
    /// The run is void with fewer answered operations; 5 for each second otherwise.
    #[arg(long, value_name = "N")]
    least_operations: Option<u64>,
    /// Break the members themselves, to see that it is found out: the run must end with 1 then. All but `no-sync` take a program that was
    /// built with `--features failpoints`; `chaos mutants` tries all.
    #[arg(long, value_name = "MUTANT", value_parser = mutants::names())]
    mutant: Option<String>,
    /// That nothing can be mounted, because this is not root.
    #[arg(long, hide = true)]
    without_disks: bool,
    /// The run is void with fewer faults of any kind that were seen to bite.
    #[arg(long, value_name = "N", default_value_t = 1)]
    least_faults: u64,
}

fn sizes() -> impl clap::builder::TypedValueParser<Value = u8> {
    PossibleValuesParser::new(["3", "5"]).map(|n| if n == "5" { 5 } else { 3 })
}

/// Kinds of faults.
#[derive(Debug, Clone)]
pub(crate) struct Nemeses(Vec<Kind>);

fn nemeses(text: &str) -> Result<Nemeses, String> {
    match text {
        "none" => Ok(Nemeses(Vec::new())),
        "all" => Ok(Nemeses(Kind::ALL.to_vec())),
        names => names.split(',').map(Kind::parse).collect::<Result<_, _>>().map(Nemeses),
    }
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Workloads {
    register: bool,
    policy: bool,
    lease: bool,
}

fn workloads(text: &str) -> Result<Workloads, String> {
    let mut wanted = Workloads::default();
    for name in text.split(',') {
        match name {
            "register" => wanted.register = true,
            "policy" => wanted.policy = true,
            "lease" => wanted.lease = true,
            _ => return Err(format!("there is no workload `{name}`; there are: register, policy, lease")),
        }
    }
    Ok(wanted)
}

impl Workloads {
    fn names(self) -> Vec<String> {
        let all = [("register", self.register), ("policy", self.policy), ("lease", self.lease)];
        all.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// Seconds of a number of minutes with at most one decimal.
fn minutes(text: &str) -> Result<u64, String> {
    let (whole, tenths) = text.split_once('.').unwrap_or((text, "0"));
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| format!("`{text}` is no number of minutes"));
    if tenths.len() != 1 {
        return Err(format!("`{text}` has more than one decimal"));
    }
    Ok(number(whole)? * 60 + number(tenths)? * 6)
}

impl Options {
    /// With everything chosen that was left open, and the folder made.
    pub(crate) fn settle(mut self) -> anyhow::Result<Self> {
        let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos()));
        let seed = *self.seed.get_or_insert_with(|| Random::new(drawn()).between(1, 1 << 32));
        let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("quorate"));
        let program = self.program.take().or_else(beside).context("no program")?;
        let target = self.nemeses.0.iter().find(|kind| kind.is_of_target()).filter(|_| !self.workloads.lease);
        if let Some(kind) = target {
            anyhow::bail!("the nemesis {} needs the workload `lease`: without it there is no database", kind.name());
        }
        let alone = self.nemeses.0.iter().find(|kind| Kind::ALONE.contains(kind));
        if let Some(kind) = alone.filter(|_| self.nemeses.0.len() > 1) {
            anyhow::bail!("the nemesis {} is for a run of its own", kind.name());
        }
        self.without_disks = !cage::is_root();
        if self.without_disks {
            let taken = self.nemeses.0.iter().filter(|kind| kind.takes_root()).map(|kind| kind.name());
            let lease = self.workloads.lease.then_some("the workload lease");
            let taken: Vec<&str> = taken.chain(lease).collect();
            anyhow::ensure!(taken.is_empty(), "without root there is no {}: run it with sudo", taken.join(", "));
        }
        anyhow::ensure!(program.is_file(), "{} is no file: build `quorate`, or set QUORATE_BIN", program.display());
        self.program = Some(std::fs::canonicalize(program)?);
        let out = self.out.take().unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            std::env::temp_dir().join(format!("quorate-chaos-{seed}-{now}"))
        });
        std::fs::create_dir(&out).with_context(|| out.display().to_string())?;
        self.out = Some(std::fs::canonicalize(out)?);
        self.least_operations.get_or_insert(self.seconds * 5);
        Ok(self)
    }

    /// Where everything goes.
    pub(crate) fn folder(&self) -> anyhow::Result<&Path> {
        self.out.as_deref().context("no folder")
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.nemeses.0.iter().map(|kind| kind.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(",") }
    }

    fn shape(&self) -> Vec<String> {
        let pairs = [
            ("--seed", self.seed.unwrap_or(0).to_string()),
            ("--nodes", self.nodes.to_string()),
            ("--minutes", format!("{}.{}", self.seconds / 60, self.seconds % 60 / 6)),
            ("--nemeses", self.names()),
            ("--workloads", self.workloads.names().join(",")),
            ("--clients", self.clients.to_string()),
            ("--users", self.users.to_string()),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    /// The command that runs the same again.
    pub(crate) fn again(&self) -> String {
        let mutant = self.mutant.as_ref().map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
        format!("chaos run {}{mutant}", self.shape().join(" "))
    }

    /// The arguments for the cage.
    pub(crate) fn arguments(&self) -> anyhow::Result<Vec<String>> {
        let mut all = self.shape();
        let program = self.program.as_deref().context("no program")?;
        for (name, value) in [
            ("--out", self.folder()?.display().to_string()),
            ("--program", program.display().to_string()),
            ("--least-operations", self.least_operations.unwrap_or(0).to_string()),
            ("--least-faults", self.least_faults.to_string()),
        ] {
            all.extend([name.to_owned(), value]);
        }
        all.extend(self.commit.iter().flat_map(|commit| ["--commit".to_owned(), commit.clone()]));
        all.extend(self.mutant.iter().flat_map(|mutant| ["--mutant".to_owned(), mutant.clone()]));
        all.extend(self.without_disks.then(|| "--without-disks".to_owned()));
        Ok(all)
    }
}

/// Whether the faults are such that a majority and the database are always there.
fn alone(options: &Options) -> bool {
    options.nemeses.0.iter().all(|kind| Kind::ALONE.contains(kind))
}

/// Does everything, and notes it. What it means is for the checkers.
pub(crate) async fn inside(options: &Options) -> anyhow::Result<()> {
    cage::furnish().await?;
    let folder = options.folder()?;
    let program = options.program.as_deref().context("no program")?;
    let mut stop = cage::listen();
    let recorder = Recorder::create(&folder.join("history.jsonl"))?;
    let version = cage::tool(&program.display().to_string(), &["--version"]).await?;
    recorder.note(Event::Run(Run {
        seed: options.seed.unwrap_or(0),
        nodes: options.nodes,
        seconds: options.seconds,
        nemeses: options.nemeses.0.iter().map(|kind| kind.name().to_owned()).collect(),
        workloads: options.workloads.names(),
        clients: options.clients,
        users: options.users,
        commit: options.commit.clone(),
        program: version.trim().to_owned(),
        again: options.again(),
        floors: Floors { operations: options.least_operations.unwrap_or(0), each: options.least_faults },
    }));
    let logs = folder.join("logs");
    let wanted = Wanted {
        program,
        nodes: options.nodes,
        logs: &logs,
        clocks: options.nemeses.0.contains(&Kind::Clock),
        database: options.workloads.lease,
        disks: !options.without_disks,
        patient: options.nemeses.0.contains(&Kind::Rolling),
        shipped: alone(options),
        mutant: options.mutant.as_deref().and_then(Mutant::named),
    };
    let made = tokio::select! {
        made = tokio::time::timeout(SET_UP, setup::set_up(&wanted, stop.clone())) => made,
        () = stopped(&mut stop) => anyhow::bail!("told to end while the cluster was set up"),
    };
    let (lab, operator) = made.context("the cluster was not set up in time")??;
    let lab = Arc::new(lab);
    if options.workloads.policy {
        policy::prepare(&lab, &operator).await?;
    }
    wanted.mutant.map_or(Ok(()), Mutant::plant)?;
    let done = work(options, &lab, &recorder, stop).await;
    if let Err(why) = &done {
        recorder.note(Event::Broken { why: format!("{why:#}") });
    }
    recorder.flush()?;
    Ok(())
}

/// Keeps what the members have on their disks, for whoever looks into a run that failed: it would go with the cage.
pub(crate) fn keep(folder: &Path) -> anyhow::Result<()> {
    let nodes = folder.join("nodes");
    std::fs::create_dir(&nodes)?;
    for index in 1..=9 {
        let data = Path::new(HOME).join(format!("n{index}/data"));
        // A disk that is dead has nothing to give.
        if std::fs::read_dir(&data).is_ok() {
            Command::new("cp").arg("-a").arg(&data).arg(nodes.join(format!("n{index}"))).status()?;
        }
    }
    Ok(())
}

/// The clients of a run, at work.
struct Clients {
    paths: Arc<Paths>,
    over: Arc<AtomicBool>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Clients {
    fn begin(options: &Options, lab: &Arc<Lab>, recorder: &Recorder) -> Self {
        let seed = options.seed.unwrap_or(0);
        let (paths, over, mut tasks) = (Paths::new(options.clients), Arc::new(AtomicBool::new(false)), JoinSet::new());
        let shared = || (Arc::clone(lab), recorder.clone());
        for number in (1..=options.clients).filter(|_| options.workloads.register) {
            let (lab, recorder) = shared();
            tasks.spawn(register::work(lab, recorder, Arc::clone(&paths), number, seed));
        }
        for number in (1..=options.users).filter(|_| options.workloads.lease) {
            let (lab, recorder) = shared();
            tasks.spawn(lease::work(lab, recorder, Arc::clone(&over), USERS_FROM + number, seed));
        }
        // Where every operation has to be answered nobody insists on a member that is away.
        for number in (1..=apart::CLIENTS).filter(|_| options.workloads.register && !lab.patient) {
            let (lab, recorder) = shared();
            tasks.spawn(apart::work(lab, recorder, Arc::clone(&paths), 300 + number, seed));
        }
        if options.workloads.policy {
            let (lab, recorder) = shared();
            tasks.spawn(policy::rule(lab, recorder, Arc::clone(&over), seed));
            for subject in 1..=policy::SUBJECTS {
                let (lab, recorder) = shared();
                tasks.spawn(policy::try_on(lab, recorder, Arc::clone(&over), subject, seed));
            }
        }
        Self { paths, over, tasks }
    }

    /// Has them come to an end, each with its operation.
    async fn end(mut self) -> anyhow::Result<Arc<Paths>> {
        self.over.store(true, Ordering::Relaxed);
        self.paths.over.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        Ok(self.paths)
    }
}

async fn work(options: &Options, lab: &Arc<Lab>, recorder: &Recorder, mut stop: Stop) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or(0);
    let folder = options.folder()?;
    let attested = observe::Attested::default();
    let mut watchers = JoinSet::new();
    for node in &lab.nodes {
        let (lab, recorder, attested, index) = (Arc::clone(lab), recorder.clone(), Arc::clone(&attested), node.index);
        watchers.spawn(observe::member(lab, recorder, attested, index));
    }
    let dead = tokio::spawn(execute::watch(Arc::clone(lab), recorder.clone()));
    let least = options.seconds / 6;
    let begin = || Auditor::begin(lab, &folder.join("logs"), alone(options), least);
    let auditor = options.workloads.lease.then(begin).transpose()?;

    recorder.note(Event::Phase { name: "faults".to_owned() });
    let clients = Clients::begin(options, lab, recorder);
    let length = Duration::from_secs(options.seconds);
    let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let plan = plan(seed, &options.nemeses.0, options.nodes, millis);
    let faults = tokio::spawn(execute::carry_out(Arc::clone(lab), recorder.clone(), plan));
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        () = stopped(&mut stop) => recorder.note(Event::Broken { why: "told to end before its time".to_owned() }),
    }
    faults.await?;
    if *stop.borrow() {
        // Nobody waits for the rest of it, and the cage ends what runs.
        return Ok(());
    }
    recorder.note(Event::Phase { name: "liveness".to_owned() });
    for node in &lab.nodes {
        if node.process.runs() {
            // One that is not stopped hears nothing of it.
            node.process.signal(Signal::CONT)?;
        }
    }
    let back = observe::settled(lab, recorder, &attested, RECOVERY);
    let (paths, back) = tokio::join!(clients.end(), back);
    let (paths, back) = (paths?, back?);
    if back {
        recorder.note(Event::Phase { name: "settled".to_owned() });
        last(lab, recorder, &paths, options.clients).await?;
    }
    if let Some(auditor) = auditor {
        auditor.end(recorder).await?;
    }
    // After the last operations: what is stored does not change any more. A cluster that has not come back has nobody to say what that is.
    if back && observe::settled(lab, recorder, &attested, RECOVERY).await? {
        let client = lab.client("chaos")?;
        for key in paths.all() {
            recorder.note(register::kept(&client, &key).await?);
        }
    }
    recorder.flush()?;
    recorder.note(audited(lab, &folder.join("history.jsonl"))?);
    recorder.note(fragments::judge(lab)?);
    recorder.note(Event::Phase { name: "end".to_owned() });
    dead.abort();
    watchers.abort_all();
    Ok(())
}

/// Reads all members' audit logs from their disks, and judges them.
fn audited(lab: &Lab, history: &Path) -> anyhow::Result<Event> {
    let mut logs = BTreeMap::new();
    for node in &lab.nodes {
        let mut files = BTreeMap::new();
        // A log that is gone has recorded nothing.
        let folder = std::fs::read_dir(node.disk.path().join("data/audit"));
        for entry in folder.into_iter().flatten() {
            let entry = entry?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
        }
        logs.insert(node.name.clone(), files);
    }
    let all = operations(&history::read(history)?);
    let found = audit::judge(&logs, &all, usize::from(lab.profile.threshold));
    let outcome = match (found.violations.is_empty(), found.records) {
        (false, _) => Outcome::Violated,
        (_, 0) => Outcome::Void,
        _ => Outcome::Holds,
    };
    let numbers = [("records, link by link", found.records), ("answers looked for", found.sought)];
    let numbers = numbers.map(|(what, number)| (what.to_owned(), u64::try_from(number).unwrap_or(u64::MAX)));
    let by = "A1, A2: audit logs hold, and nothing was answered but what t members have recorded".to_owned();
    let said = found.violations.iter().take(20).cloned().collect::<Vec<_>>().join("; ");
    Ok(Event::Judged { by, outcome, said, numbers: numbers.into() })
}

/// The last operations: with no fault at work each has to be answered.
async fn last(lab: &Arc<Lab>, recorder: &Recorder, paths: &Arc<Paths>, clients: u32) -> anyhow::Result<()> {
    let client = lab.client("chaos")?;
    for number in 0..clients.max(4) {
        for action in paths.final_pair() {
            let op = recorder.number();
            recorder.note(Event::Invoke { op, client: number, action: action.clone() });
            let answer = register::ask(&client, &action).await;
            recorder.note(Event::Return { op, answer });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_have_one_decimal() {
        assert_eq!(minutes("2"), Ok(120));
        assert_eq!(minutes("0.5"), Ok(30));
        assert!(minutes("1.25").is_err() && minutes("soon").is_err());
    }

    #[test]
    fn nemeses_are_named() {
        assert_eq!(nemeses("kill,pause").unwrap().0, [Kind::Kill, Kind::Pause]);
        assert!(nemeses("none").unwrap().0.is_empty());
        assert_eq!(nemeses("all").unwrap().0, Kind::ALL);
        assert!(nemeses("kill,gremlin").is_err());
    }
}
