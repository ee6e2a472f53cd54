//! An auditor that trusts nobody: it looks at a target of any kind as whoever administers it, asks the vault by its public command line what
//! leases there are, and says what cannot both be right. It shares no code with the vault.
//!
//! ```text
//! quorate-auditor --target "host=/run/postgresql user=postgres" --prefix q80651021_ --program quorate --json report.json
//! quorate-auditor --mariadb "socket=/run/mysqld/mysqld.sock" --prefix q80651021_ --program quorate --json report.json
//! quorate-auditor --redis 127.0.0.1:6379 --redis-user admin --redis-password-file p --prefix q80651021_ --program quorate --json report.json
//! quorate-auditor --webhook users.sqlite --prefix q80651021_ --program quorate --json report.json
//! ```
//! It runs until `--for` is over or somebody sends SIGTERM or SIGINT, prints a table, and ends with 0 if everything is right, with 1 if
//! something is not, with 2 if it saw too little to say, and with 3 if it could not begin.

mod judge;
mod report;
mod target;
mod vault;

use anyhow::Context as _;
use clap::Parser as _;
use judge::{Bounds, Judge, Moment, Span};
use report::Enough;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use target::{Place, Target};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};
use vault::Vault;

/// How long one look at the target may take before it counts as none.
const LOOK: Duration = Duration::from_secs(3);
/// How often the target is looked at for each time that the vault is asked: what ends in between is timed by it.
const LOOKS: u32 = 3;
/// How many times in a row the vault is asked at the end, until it answers twice.
const LAST: usize = 20;

#[derive(Debug, clap::Parser)]
#[command(about = "Compares what is at a target with what the vault says of its leases")]
struct Arguments {
    #[command(flatten)]
    place: Place,
    /// What the names of this cluster's logins there begin with.
    #[arg(long)]
    prefix: String,
    /// The vault's command line.
    #[arg(long)]
    program: PathBuf,
    /// What the vault calls the target.
    #[arg(long, default_value = "pg")]
    target_name: String,
    /// Milliseconds between two times that the vault is asked; the target is looked at three times as often.
    #[arg(long, default_value_t = 1_000)]
    every: u64,
    /// How many seconds to go on; until a signal otherwise.
    #[arg(long = "for")]
    seconds: Option<u64>,
    /// How many milliseconds after the end of a lease its login and sessions may live.
    #[arg(long, default_value_t = 5_000)]
    bound: u64,
    /// The same where the vault lost its leader in between.
    #[arg(long, default_value_t = 7_000)]
    failover_bound: u64,
    /// How many milliseconds a session may be there whose role is gone and was never seen.
    #[arg(long, default_value_t = 5_000)]
    stranger_bound: u64,
    /// What is longer than the first two bounds is no finding: it is listed, for whoever knows what was broken meanwhile.
    #[arg(long)]
    unjudged: bool,
    /// Where to write the report for programs.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    enough: Enough,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = run.context("no runtime").and_then(|runtime| runtime.block_on(audit(arguments)));
    result.unwrap_or_else(|error| {
        say(&format!("{error:#}"));
        ExitCode::from(3)
    })
}

async fn audit(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let over = async {
        let time = async {
            match arguments.seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { () = time => {}, _ = terminated.recv() => {}, _ = interrupted.recv() => {} }
    };
    let mut audit = Audit {
        clock: Clock::start(),
        target: Target::new(arguments.place, arguments.prefix)?,
        vault: Vault { program: arguments.program, target: arguments.target_name },
        judge: Judge::new(Bounds {
            calm: arguments.bound,
            failover: arguments.failover_bound,
            stranger: arguments.stranger_bound,
            elsewhere: arguments.unjudged,
        }),
        every: Duration::from_millis(arguments.every),
    };
    let ended = {
        let mut over = std::pin::pin!(over);
        'audit: loop {
            let next = Instant::now() + audit.every;
            audit.round().await;
            loop {
                let soon = next.min(Instant::now() + audit.every / LOOKS);
                tokio::select! { () = sleep_until(soon) => {}, () = &mut over => break 'audit audit.clock.now() }
                if soon == next {
                    break;
                }
                look(&audit.clock, &mut audit.target, &mut audit.judge).await;
            }
        }
    };
    // What was seen last is judged by what the vault says after it.
    let mut answers = 0;
    for _ in 0..LAST {
        answers += usize::from(audit.round().await);
        if answers == 2 {
            break;
        }
    }
    let report = audit.judge.report(ended);
    let lacks = arguments.enough.lacks(&report);
    if let Some(path) = arguments.json {
        let document = serde_json::to_string_pretty(&report.document(&lacks))?;
        std::fs::write(&path, document).with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(report.table(&lacks).as_bytes())?;
    Ok(ExitCode::from(if !report.violations.is_empty() { 1 } else { u8::from(!lacks.is_empty()) * 2 }))
}

struct Audit {
    clock: Clock,
    target: Target,
    vault: Vault,
    judge: Judge,
    every: Duration,
}

impl Audit {
    /// A look at the target before, and as long as, the vault is asked, and so between each two answers. Whether the vault answered.
    async fn round(&mut self) -> bool {
        let Self { clock, target, vault, judge, every } = self;
        look(clock, target, judge).await;
        let asked = clock.now();
        let answer = async {
            let leases = vault.leases().await;
            (leases, clock.now())
        };
        let members = async {
            let members = vault.members().await;
            (members, clock.now())
        };
        let mut both = std::pin::pin!(async { tokio::join!(answer, members) });
        let ((leases, to), (members, until)) = loop {
            // The target does not wait for a vault that has lost its leader.
            match timeout(*every / LOOKS, &mut both).await {
                Ok(both) => break both,
                Err(_) => look(clock, target, judge).await,
            }
        };
        match members {
            Ok((answered, term)) => judge.members(Span { from: asked, to: until }, &answered, term),
            Err(error) => say(&format!("the vault does not say how it is: {error:#}")),
        }
        match &leases {
            Ok(leases) => judge.answer(Span { from: asked, to }, leases),
            Err(error) => {
                say(&format!("the vault does not answer: {error:#}"));
                judge.no_answer();
            }
        }
        leases.is_ok()
    }
}

async fn look(clock: &Clock, target: &mut Target, judge: &mut Judge) {
    let from = clock.now();
    match timeout(LOOK, target.look()).await {
        Ok(Ok(seen)) => judge.look(Span { from, to: clock.now() }, &seen),
        Ok(Err(error)) => say(&format!("the target does not answer: {error:#}")),
        Err(_) => say("the target does not answer in time"),
    }
}

/// The time of day at the beginning, and since then a clock that nobody sets.
struct Clock {
    began: Instant,
    then: Moment,
}

impl Clock {
    fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), then: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
    }

    fn now(&self) -> Moment {
        self.then.saturating_add(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// To standard error; nobody may be reading it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
