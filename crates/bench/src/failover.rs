//! Fail-over: the leader is killed, and a write that begins at that moment is timed. With leases alive, because peers read them all
//! before they serve.

use crate::side::{Database, OpenBao, Quorate, Side};
use crate::stats::{Estimate, digits};
use crate::work::{Operation, Work};
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// `quorate-bench failover`.
#[derive(Debug, clap::Args)]
pub(crate) struct Failover {
    /// How many leases are alive meanwhile, issued at a real database; first without, then with so many.
    #[arg(long, value_delimiter = ',', default_value = "0,1000")]
    leases: Vec<usize>,
    /// How often the leader of each side is killed, for each number of leases.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The vault's program, of the release build.
    #[arg(long, env = "QUORATE_BIN")]
    quorate: PathBuf,
    /// The folder of the peers' programs.
    #[arg(long, env = "QUORATE_PEERS")]
    peers: PathBuf,
    /// Where the data of all sides lies.
    #[arg(long, default_value = "/var/tmp")]
    data: PathBuf,
    /// The folder to write `failover.json` and `failover.md` to.
    #[arg(long)]
    out: PathBuf,
}

/// A cluster whose leader can be killed.
#[async_trait::async_trait]
pub(crate) trait Leads: Side {
    /// Kills the leader with SIGKILL; says which it was.
    async fn kill_leader(&self) -> anyhow::Result<usize>;

    /// Has one write done as soon as anybody takes it. `n` is no other write's.
    async fn write_somewhere(&self, n: u64) -> anyhow::Result<()>;

    /// Starts the killed one again, and returns when all are followers or leader.
    async fn revive(&self, which: usize) -> anyhow::Result<()>;
}

/// One kill.
#[derive(Debug, Serialize)]
struct Kill {
    side: &'static str,
    leases: usize,
    round: usize,
    seconds_to_write: f64,
}

const ISSUE: Work = Work { operation: Operation::Issue, size: 1, batch: 1 };
/// How many issue at once.
const ABREAST: usize = 16;
/// A cluster rests between two kills.
const REST: Duration = Duration::from_secs(3);

impl Failover {
    /// Does all of it.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.out)?;
        let folder = tempfile::Builder::new().prefix("quorate-bench").tempdir_in(&self.data)?;
        let quorate = Quorate::start(&self.quorate, folder.path()).await?;
        quorate.allow_many_leases().await?;
        let database: Database = quorate.database()?;
        let bao = OpenBao::start(&self.peers.join("bao"), folder.path(), 3, Some(&database)).await?;
        let sides: [&dyn Leads; 2] = [&quorate, &bao];
        let (mut kills, mut there, mut n) = (Vec::new(), 0, 0);
        for leases in &self.leases {
            for side in sides {
                issue(side, leases.saturating_sub(there)).await?;
            }
            there = *leases;
            for round in 0..self.rounds {
                for side in sides {
                    n += 1;
                    // Its connections stand, as those of a program that runs.
                    side.write_somewhere(1_000_000 + n).await?;
                    let which = side.kill_leader().await?;
                    let begun = Instant::now();
                    side.write_somewhere(n).await.with_context(|| side.name())?;
                    let seconds_to_write = begun.elapsed().as_secs_f64();
                    side.revive(which).await.with_context(|| side.name())?;
                    eprintln!("{} with {leases} leases: {seconds_to_write:.3} s", side.name());
                    kills.push(Kill { side: side.name(), leases: *leases, round, seconds_to_write });
                    sleep(REST).await;
                }
                self.write(&kills)?;
            }
        }
        Ok(())
    }

    fn write(&self, kills: &[Kill]) -> anyhow::Result<()> {
        std::fs::write(self.out.join("failover.json"), serde_json::to_string_pretty(kills)?)?;
        let mut out =
            String::from("| side | leases | kills | seconds to the first write | longest |\n|---|---|---|---|---|\n");
        for leases in &self.leases {
            for side in ["quorate", "openbao-3"] {
                let of: Vec<f64> = kills
                    .iter()
                    .filter(|k| k.side == side && k.leases == *leases)
                    .map(|k| k.seconds_to_write)
                    .collect();
                let Some(estimate) = Estimate::of(of.iter().copied()) else { continue };
                let longest = of.iter().copied().fold(0.0, f64::max);
                // Writing into a String cannot fail.
                let _ =
                    writeln!(out, "| {side} | {leases} | {} | {} | {} |", of.len(), estimate.show(), digits(longest));
            }
        }
        std::fs::write(self.out.join("failover.md"), out)?;
        Ok(())
    }
}

/// Leases that live for ten minutes, on which the run must be over.
async fn issue(side: &dyn Leads, leases: usize) -> anyhow::Result<()> {
    let clients = futures::stream::iter(0..ABREAST).then(|_| side.connect(&ISSUE)).try_collect::<Vec<_>>().await?;
    let each = clients.iter().enumerate().map(|(at, client)| async move {
        for n in (at..leases).step_by(ABREAST) {
            client.call(&ISSUE, u64::try_from(n)?).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(each).await?;
    Ok(())
}
