//! The end of many leases at once: how long until the database lets none of them in, and how long somebody waits meanwhile who
//! asks for a new one. The database tells, not the side.

use crate::machine::{Cpu, float};
use crate::side::{Connection, Database, OpenBao, Quorate, Side};
use crate::stats::digits;
use crate::work::{Operation, Work};
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

/// `quorate-bench ends`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ends {
    /// How many leases end together.
    #[arg(long, default_value_t = 1_000)]
    leases: usize,
    /// How often, on each side in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a side may take before it is left to itself.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// The vault's program, of the release build.
    #[arg(long, env = "QUORATE_BIN")]
    quorate: PathBuf,
    /// The folder of the peers' programs.
    #[arg(long, env = "QUORATE_PEERS")]
    peers: PathBuf,
    /// Where the data of all sides lies.
    #[arg(long, default_value = "/var/tmp")]
    data: PathBuf,
    /// The folder to write `ends.json` and `ends.md` to.
    #[arg(long)]
    out: PathBuf,
}

/// One round of one side.
#[derive(Debug, Serialize)]
struct Round {
    side: &'static str,
    round: usize,
    leases: usize,
    issued_per_second: f64,
    /// Of the servers and of the database, for one.
    issue_cpu_us: f64,
    /// Until the database let none of them in; none when that took longer than the patience.
    gone_after_seconds: Option<f64>,
    left: u64,
    end_cpu_us: f64,
    /// Milliseconds from when a request was due, before the end and while it went on: how many, median, 99th percentile, longest.
    issue_alone_ms: Waits,
    issue_meanwhile_ms: Waits,
}

#[derive(Debug, Serialize)]
struct Waits {
    count: usize,
    failed: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

const WORK: Work = Work { operation: Operation::Issue, size: 1, batch: 1 };
/// How many issue at once.
const ABREAST: usize = 16;
/// One asks so often.
const EVERY: Duration = Duration::from_millis(200);
/// So long before the end.
const ALONE: Duration = Duration::from_secs(10);
/// Between two looks at the database.
const LOOK: Duration = Duration::from_millis(250);

impl Ends {
    /// Does all of it.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.out)?;
        let folder = tempfile::Builder::new().prefix("quorate-bench").tempdir_in(&self.data)?;
        let quorate = Quorate::start(&self.quorate, folder.path()).await?;
        quorate.allow_many_leases().await?;
        let database = quorate.database()?;
        let bao = OpenBao::start(&self.peers.join("bao"), folder.path(), 1, Some(&database)).await?;
        let sides: [&dyn Side; 2] = [&quorate, &bao];
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            // ABBA: what the machine does slowly weighs on both.
            let mut order = sides;
            if round % 2 == 1 {
                order.reverse();
            }
            for side in order {
                let done = self.round(side, &database, round).await.with_context(|| side.name())?;
                eprintln!("{done:?}");
                rounds.push(done);
                self.write(&rounds)?;
            }
        }
        Ok(())
    }

    async fn round(&self, side: &dyn Side, database: &Database, round: usize) -> anyhow::Result<Round> {
        let mut servers = side.servers(Operation::Issue);
        servers.push(database.pid);
        let clients = futures::stream::iter(0..ABREAST).then(|_| side.connect(&WORK)).try_collect::<Vec<_>>().await?;
        // Apart from what logins may have rights on: a peer takes those away one table after the other.
        database.execute("DROP SCHEMA IF EXISTS bench CASCADE; CREATE SCHEMA bench")?;
        database.execute("CREATE TABLE bench.before AS SELECT rolname FROM pg_roles WHERE rolcanlogin")?;
        let (begun, before) = (Instant::now(), Cpu::now(&servers)?);
        issue(&clients, self.leases).await?;
        let (took, spent) = (begun.elapsed(), Cpu::now(&servers)?.since(&before));
        let count = float(u64::try_from(self.leases)?);
        database.execute(
            "CREATE TABLE bench.mass AS SELECT rolname FROM pg_roles WHERE rolcanlogin
             AND rolname NOT IN (SELECT rolname FROM bench.before)",
        )?;
        let there = left(database).await?;
        anyhow::ensure!(there >= u64::try_from(self.leases)?, "{there} logins are there of {}", self.leases);

        let asker = side.connect(&WORK).await?;
        let alone = ask(&asker, async {
            sleep(ALONE).await;
            anyhow::Ok(())
        });
        let ((), alone) = alone.await?;
        let before = Cpu::now(&servers)?;
        let end = async {
            let begun = Instant::now();
            side.end_all().await?;
            loop {
                let left = left(database).await?;
                let waited = begun.elapsed();
                if left == 0 {
                    return anyhow::Ok((Some(waited.as_secs_f64()), 0));
                }
                if waited > Duration::from_secs(self.patience) {
                    return Ok((None, left));
                }
                sleep(LOOK).await;
            }
        };
        let ((gone_after_seconds, left), meanwhile) = ask(&asker, end).await?;
        let ended = Cpu::now(&servers)?.since(&before);
        Ok(Round {
            side: side.name(),
            round,
            leases: self.leases,
            issued_per_second: count / took.as_secs_f64(),
            issue_cpu_us: spent.servers / count,
            gone_after_seconds,
            left,
            end_cpu_us: ended.servers / (count - float(left)).max(1.0),
            issue_alone_ms: alone,
            issue_meanwhile_ms: meanwhile,
        })
    }

    fn write(&self, rounds: &[Round]) -> anyhow::Result<()> {
        std::fs::write(self.out.join("ends.json"), serde_json::to_string_pretty(rounds)?)?;
        let mut out = String::from(
            "| side | round | leases | issued/s | CPU µs each | gone after s | left | CPU µs each | p99 alone ms | p99 meanwhile ms |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for r in rounds {
            // Writing into a String cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                r.side,
                r.round,
                r.leases,
                digits(r.issued_per_second),
                digits(r.issue_cpu_us),
                r.gone_after_seconds.map_or("-".to_owned(), digits),
                r.left,
                digits(r.end_cpu_us),
                digits(r.issue_alone_ms.p99),
                digits(r.issue_meanwhile_ms.p99),
            );
        }
        std::fs::write(self.out.join("ends.md"), out)?;
        Ok(())
    }
}

/// How many of the logins the database still lets in.
async fn left(database: &Database) -> anyhow::Result<u64> {
    let sql = "SELECT count(*) FROM pg_roles JOIN bench.mass USING (rolname) WHERE rolcanlogin";
    // Not on the thread of those who ask meanwhile.
    let database = database.clone();
    tokio::task::spawn_blocking(move || database.execute(sql)).await??.parse().context("a count")
}

async fn issue(clients: &[Arc<dyn Connection>], leases: usize) -> anyhow::Result<()> {
    let each = |(at, client): (usize, &Arc<dyn Connection>)| {
        let client = Arc::clone(client);
        async move {
            for n in (at..leases).step_by(ABREAST) {
                client.call(&WORK, u64::try_from(n)?).await?;
            }
            anyhow::Ok(())
        }
    };
    futures::future::try_join_all(clients.iter().enumerate().map(each)).await?;
    Ok(())
}

/// Asks for a lease every [`EVERY`] until `work` is done, and notes how long each took from when it was due.
async fn ask<T>(
    client: &Arc<dyn Connection>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Waits)> {
    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn({
        let (client, over) = (Arc::clone(client), Arc::clone(&over));
        async move {
            let mut requests = JoinSet::new();
            let mut due = tokio::time::Instant::now();
            while !over.load(Ordering::Relaxed) {
                due += EVERY;
                sleep_until(due).await;
                let client = Arc::clone(&client);
                requests.spawn(async move {
                    let done = client.call(&WORK, 0).await;
                    done.map(|()| due.elapsed().as_secs_f64() * 1e3)
                });
            }
            requests.join_all().await
        }
    });
    let done = work.await;
    over.store(true, Ordering::Relaxed);
    let answers = asking.await?;
    let mut waits: Vec<f64> = answers.iter().filter_map(|a| a.as_ref().ok().copied()).collect();
    waits.sort_by(f64::total_cmp);
    let at = |hundredths: usize| waits.get(waits.len().saturating_sub(1) * hundredths / 100).copied().unwrap_or(0.0);
    let failed = answers.len() - waits.len();
    Ok((done?, Waits { count: waits.len(), failed, p50: at(50), p99: at(99), max: at(100) }))
}
