//! This vault beside OpenBao: the same users, the same faults at the same times, and the same eyes at the database, which trust neither.
//!
//! Parts of a few minutes are run on each side in turn, each in a cage of its own, so that a machine that is busy hurts all alike. What was seen
//! is put down as facts ([`fact`]); what follows from them is decided from those alone ([`judge`]) and told in one table ([`table`]).

mod eyes;
mod fact;
mod https;
mod judge;
mod openbao;
mod ours;
mod plan;
mod side;
mod table;
mod users;

use crate::cage::{self, stopped};
use crate::history::{self, Entry, Event, Recorder};
use crate::lab::setup::{self, Wanted};
use crate::lab::{Lab, now};
use crate::nemesis::execute;
use crate::observe;
use crate::random::Random;
use anyhow::Context as _;
use eyes::Eyes;
use fact::{Fact, Millis, Story};
use openbao::{Caller, Revocation};
use quorate_state::lease::principal_prefix;
use rustix::process::Signal;
use side::Vault;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use users::User;

/// How long a cluster may take to be set up.
const SET_UP: Duration = Duration::from_secs(600);
/// How long users may take to come to their end.
const END: Duration = Duration::from_secs(90);
/// How long either side has to end what is left, once no fault is at work: more than OpenBao takes for three tries.
const QUIET: Duration = Duration::from_secs(120);
/// After an outage, which began long before.
const AFTER: Duration = Duration::from_secs(60);
/// What logins of OpenBao's database engine begin with.
const PREFIX: &str = "v-";

/// One column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Side {
    /// This vault.
    Quorate,
    /// OpenBao with the statements of its documentation.
    Openbao,
    /// OpenBao with statements that end sessions.
    OpenbaoHardened,
}

impl Part {
    pub(crate) fn folder(&self) -> &Path {
        &self.out
    }
}

impl Side {
    /// Its name on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::Openbao => "openbao",
            Self::OpenbaoHardened => "openbao-hardened",
        }
    }
}

/// `chaos versus`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where all choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many parts, on each side in turn.
    #[arg(long, default_value_t = 4)]
    parts: u64,
    /// How many seconds of faults each part has.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// One more part, of so many seconds, for all but the first and last 20 of which the database is away; 0 for none. OpenBao gives a lease up after six tries, about ten
    /// minutes.
    #[arg(long, default_value_t = 0)]
    outage: u64,
    /// Which sides, by commas.
    #[arg(long, value_delimiter = ',', default_value = "quorate,openbao,openbao-hardened")]
    of: Vec<Side>,
    /// All sides of a part at once, instead of one after the other.
    #[arg(long)]
    together: bool,
    /// How many users.
    #[arg(long, default_value_t = 10)]
    users: u64,
    /// How many makers beside them: each asks for one login after the other, so that leaders die while some are being made.
    #[arg(long, default_value_t = 3)]
    makers: u64,
    /// OpenBao's `performance_multiplier`: 1 is its fastest fail-over, 5 its default.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=10))]
    multiplier: u8,
    /// The folder to make for facts, logs and the table.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// This vault's program, as it is released; `quorate` beside this one otherwise.
    #[arg(long, env = "QUORATE_BIN", value_name = "FILE")]
    program: Option<PathBuf>,
    /// OpenBao's: `crates/bench/fetch-peers` fetches it.
    #[arg(long, value_name = "FILE")]
    openbao: PathBuf,
}

/// One part on one side, in the cage.
#[derive(Debug, clap::Args)]
pub(crate) struct Part {
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    number: u64,
    #[arg(long)]
    seconds: u64,
    #[arg(long)]
    outage: bool,
    #[arg(long)]
    side: Side,
    #[arg(long)]
    users: u64,
    #[arg(long)]
    makers: u64,
    #[arg(long)]
    multiplier: u8,
    #[arg(long)]
    out: PathBuf,
    #[arg(long)]
    program: PathBuf,
}

/// Runs all parts, and judges them.
pub(crate) async fn compare(options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(cage::is_root(), "this takes root: disks are mounted, and lose their power");
    std::fs::create_dir(&options.out).with_context(|| options.out.display().to_string())?;
    let out = std::fs::canonicalize(&options.out)?;
    let mut parts: Vec<(u64, u64, bool)> = (1..=options.parts).map(|number| (number, options.seconds, false)).collect();
    if options.outage > 0 {
        parts.push((options.parts + 1, options.outage, true));
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = all(options, &out, parts) => done?,
        // The kernel ends the cages with this process.
        _ = interrupt.recv() => anyhow::bail!("told to end"),
        _ = terminate.recv() => anyhow::bail!("told to end"),
    }
    judged(&out)
}

async fn all(options: &Options, out: &Path, parts: Vec<(u64, u64, bool)>) -> anyhow::Result<()> {
    for (number, seconds, outage) in parts {
        let mut order = options.of.clone();
        // Whoever is first finds another machine than whoever is last.
        let first = usize::try_from(number).unwrap_or(0) % order.len().max(1);
        order.rotate_left(first);
        let runs = order.into_iter().map(|side| run(options, out, side, number, seconds, outage));
        if options.together {
            futures::future::try_join_all(runs).await?;
        } else {
            for run in runs {
                run.await?;
            }
        }
    }
    Ok(())
}

async fn run(options: &Options, out: &Path, side: Side, number: u64, seconds: u64, outage: bool) -> anyhow::Result<()> {
    let program = match side {
        Side::Quorate => {
            let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("quorate"));
            options.program.clone().or_else(beside).context("no program")?
        }
        Side::Openbao | Side::OpenbaoHardened => options.openbao.clone(),
    };
    let program = std::fs::canonicalize(&program).with_context(|| program.display().to_string())?;
    let folder = out.join(format!("{number}-{}", side.name()));
    std::fs::create_dir(&folder)?;
    let pairs = [
        ("--seed", options.seed.to_string()),
        ("--number", number.to_string()),
        ("--seconds", seconds.to_string()),
        ("--side", side.name().to_owned()),
        ("--users", options.users.to_string()),
        ("--makers", options.makers.to_string()),
        ("--multiplier", options.multiplier.to_string()),
        ("--out", folder.display().to_string()),
        ("--program", program.display().to_string()),
    ];
    let mut arguments: Vec<String> = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    arguments.extend(outage.then(|| "--outage".to_owned()));
    // How it ended is in the folder: without facts the table is void.
    cage::enter("versus-inside", &arguments).await?;
    Ok(())
}

/// Judges all parts of a folder, and writes the table.
pub(crate) fn judged(out: &Path) -> anyhow::Result<ExitCode> {
    let mut sides: BTreeMap<(bool, String), judge::Sum> = BTreeMap::new();
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(out)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    folders.sort();
    for folder in folders.iter().filter(|path| path.is_dir()) {
        let facts = folder.join("facts.jsonl");
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let found = if facts.is_file() {
            judge::judge(&fact::read(&facts)?)
        } else {
            let side = name.split_once('-').map(|(_, side)| side.to_owned()).unwrap_or_default();
            let why = std::fs::read_to_string(folder.join("broken.txt")).unwrap_or_else(|_| "no facts".to_owned());
            judge::Sum::broken(side, format!("part {name}: {}", why.trim()))
        };
        sides.entry((found.outage, found.side.clone())).or_default().add(found);
    }
    let text = table::markdown(&sides);
    std::fs::write(out.join("versus.md"), &text)?;
    std::fs::write(out.join("versus.json"), serde_json::to_string_pretty(&table::document(&sides))?)?;
    crate::say(&text)?;
    let sound = !sides.is_empty() && sides.values().all(|sum| sum.lacks().is_empty());
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(cage::VOID) })
}

/// How callers of one side are made.
type Connect = Box<dyn Fn() -> anyhow::Result<Box<dyn Vault>> + Send>;

/// In the cage: one part on one side.
pub(crate) async fn inside(part: &Part) -> anyhow::Result<()> {
    cage::furnish().await?;
    let mut stop = cage::listen();
    let logs = part.out.join("logs");
    let recorder = Recorder::create(&part.out.join("history.jsonl"))?;
    let began = now();
    let story = Story::default();
    let version = if part.side == Side::Quorate { "--version" } else { "version" };
    let version = cage::tool(&part.program.display().to_string(), &[version]).await?;
    story.note(Fact::Part {
        side: part.side.name().to_owned(),
        version: version.trim().to_owned(),
        seed: part.seed,
        number: part.number,
        seconds: part.seconds,
        outage: part.outage,
    });
    let mut watchers = JoinSet::new();
    let made = timeout(SET_UP, set_up(part, &logs, &recorder, &mut watchers, stop.clone()));
    let (lab, prefix, connect) = made.await.context("the cluster was not set up in time")??;
    watchers.spawn(execute::watch(Arc::clone(&lab), recorder.clone()));
    watchers.spawn(Eyes { lab: Arc::clone(&lab), story: story.clone(), prefix }.watch());

    let over = Arc::new(AtomicBool::new(false));
    let mut users = JoinSet::new();
    let user = |purpose: &str, number: u64| -> anyhow::Result<User> {
        let random = Random::of(part.seed.wrapping_add(part.number), purpose, number);
        Ok(User { vault: connect()?, story: story.clone(), over: Arc::clone(&over), random })
    };
    for number in 1..=part.users {
        users.spawn(user("user", number)?.work());
    }
    for number in 1..=part.makers {
        users.spawn(user("maker", number)?.make());
    }
    users.spawn(user("writer", 1)?.write());
    let millis = part.seconds * 1_000;
    let faults =
        if part.outage { plan::outage(part.seed, millis) } else { plan::faults(part.seed, part.number, millis) };
    let faults = tokio::spawn(execute::carry_out(Arc::clone(&lab), recorder.clone(), faults));
    tokio::select! {
        () = sleep(Duration::from_secs(part.seconds)) => {}
        () = stopped(&mut stop) => anyhow::bail!("told to end before its time"),
    }
    faults.await?;
    for node in &lab.nodes {
        if node.process.runs() {
            // One that is not stopped hears nothing of it.
            node.process.signal(Signal::CONT)?;
        }
    }
    over.store(true, Ordering::Relaxed);
    story.note(Fact::Quiet { at: now() });
    let quiet = Instant::now();
    timeout(END, async { while users.join_next().await.is_some() {} }).await.context("users come to no end")?;
    settle(&story, quiet + if part.outage { AFTER } else { QUIET }).await;
    story.note(left(connect()?.as_ref()).await?);
    // One more look after the vault's last word.
    sleep(Duration::from_secs(2)).await;
    watchers.abort_all();
    recorder.flush()?;
    for fact in faults_of(&history::read(&part.out.join("history.jsonl"))?, began)? {
        story.note(fact);
    }
    story.write(&part.out.join("facts.jsonl"))
}

async fn set_up(
    part: &Part,
    logs: &Path,
    recorder: &Recorder,
    watchers: &mut JoinSet<()>,
    stop: cage::Stop,
) -> anyhow::Result<(Arc<Lab>, String, Connect)> {
    let revocation = match part.side {
        Side::Quorate => {
            let wanted = Wanted {
                program: &part.program,
                nodes: 3,
                logs,
                clocks: false,
                database: true,
                disks: true,
                patient: false,
                shipped: true,
                mutant: None,
            };
            let (lab, _) = setup::set_up(&wanted, stop).await?;
            let lab = Arc::new(lab);
            let attested = observe::Attested::default();
            for node in &lab.nodes {
                let watch = observe::member(Arc::clone(&lab), recorder.clone(), Arc::clone(&attested), node.index);
                // It ends with an error only if nobody can be asked at all, and then no fault finds a leader.
                watchers.spawn(async move { drop(watch.await) });
            }
            let prefix = principal_prefix(&lab.profile.cluster, crate::lab::database::TARGET);
            let callers = Arc::clone(&lab);
            let connect: Connect = Box::new(move || Ok(Box::new(ours::Ours::connect(&callers)?)));
            return Ok((lab, prefix, connect));
        }
        Side::Openbao => Revocation::Documented,
        Side::OpenbaoHardened => Revocation::Hardened,
    };
    let (lab, cluster) = openbao::set_up(&part.program, logs, revocation, part.multiplier, stop).await?;
    let lab = Arc::new(lab);
    watchers.spawn(cluster.clone().watch(Arc::clone(&lab)));
    Ok((lab, PREFIX.to_owned(), Box::new(move || Ok(Box::new(Caller::new(&cluster))))))
}

/// Waits until the database has no login left, or so long.
async fn settle(story: &Story, deadline: Instant) {
    while Instant::now() < deadline && story.newest().is_none_or(|roles| !roles.is_empty()) {
        sleep(Duration::from_millis(500)).await;
    }
}

/// What the vault lists in the end.
async fn left(vault: &dyn Vault) -> anyhow::Result<Fact> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match vault.left().await {
            Ok(side::Left { leases, given_up, logins }) => return Ok(Fact::Left { leases, given_up, logins }),
            Err(why) => anyhow::ensure!(Instant::now() < deadline, "the vault does not say what is left: {}", why.why),
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// The faults of a history that began at a time.
fn faults_of(entries: &[Entry], began: Millis) -> anyhow::Result<Vec<Fact>> {
    let mut open = BTreeMap::new();
    let mut all = Vec::new();
    for Entry { at, event } in entries {
        let at = began + at / 1_000_000;
        match event {
            Event::Fault { fault, kind, what, .. } => drop(open.insert(*fault, (at, kind.clone(), what.clone()))),
            Event::Healed { fault, seen, .. } => {
                if let Some((begin, kind, what)) = open.remove(fault) {
                    all.push(Fact::Fault { kind, what, at: begin, until: at, seen: seen.values().copied().sum() });
                }
            }
            Event::Died { member, how } => {
                let what = format!("member {member}: {how}");
                all.push(Fact::Fault { kind: "died by itself".to_owned(), what, at, until: at, seen: 1 });
            }
            Event::Broken { why } => anyhow::bail!("{why}"),
            _ => {}
        }
    }
    Ok(all)
}
