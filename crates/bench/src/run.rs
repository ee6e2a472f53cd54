//! A run: all sides up, blocks in turns, a report.

use crate::load::{self, Arrival, Span};
use crate::machine::{self, Syncs, float};
use crate::picture;
use crate::plan::{Choice, Step};
use crate::report::{self, Block, Counted, Report};
use crate::side::{Connection, Etcd, Floor, OpenBao, Quorate, Side};
use crate::work::Work;
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// `quorate-bench run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    choice: Choice,
    /// Who takes part. Ratios are those of quorate to each other one.
    #[arg(long, value_delimiter = ',', default_value = "quorate,openbao-1,openbao-3,etcd-3,floor")]
    sides: Vec<Name>,
    /// How often each load is repeated on each side.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long a block is measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long it runs before that.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// What the order of sides in each round is made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The vault's program, of the release build.
    #[arg(long, env = "QUORATE_BIN")]
    quorate: PathBuf,
    /// The folder of the peers' programs: `bao`, `etcd`.
    #[arg(long, env = "QUORATE_PEERS")]
    peers: PathBuf,
    /// Where the data of all sides lies: on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    data: PathBuf,
    /// The folder to write the report to: `report.json`, `report.md`, a picture of each load.
    #[arg(long)]
    out: PathBuf,
}

/// A side's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Name {
    Quorate,
    #[value(name = "openbao-1")]
    OpenBao1,
    #[value(name = "openbao-3")]
    OpenBao3,
    #[value(name = "etcd-3")]
    Etcd3,
    Floor,
}

/// A side and the clients that it has so far.
struct Player {
    side: Box<dyn Side>,
    clients: BTreeMap<Work, Vec<Arc<dyn Connection>>>,
    /// What numbers calls, so that every write has its own path.
    numbers: Arc<AtomicU64>,
}

/// How many connections an open loop has: as many requests can be under way, the others wait.
const OPEN_LOOP: usize = 64;

impl Run {
    /// Does all of it.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        let folder = tempfile::Builder::new().prefix("quorate-bench").tempdir_in(&self.data)?;
        let steps = self.choice.steps();
        let machine = machine::describe();
        let mut players = self.players(folder.path(), &steps).await?;
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let (mut blocks, mut counted) = (Vec::new(), Vec::new());
        for (n, step) in steps.iter().enumerate() {
            eprintln!("{} of {}: {}, {}", n + 1, steps.len(), step.work, step.arrival);
            for player in players.iter_mut().filter(|p| p.side.knows(step.work.operation)) {
                player.get_ready(step).await.with_context(|| format!("{}: {}", player.side.name(), step.work))?;
            }
            for round in 0..self.rounds {
                let mut order: Vec<&Player> = players.iter().filter(|p| p.side.knows(step.work.operation)).collect();
                order.shuffle(&mut rng);
                for player in order {
                    blocks.push(player.block(step, round, self.span()).await?);
                }
            }
            if matches!(step.arrival, Arrival::Closed { .. }) {
                for player in players.iter().filter(|p| p.side.knows(step.work.operation)) {
                    counted.push(player.count(step, self.span(), folder.path()).await?);
                }
            }
            // What there is by now is not lost when something ends the run.
            self.write(&players, &machine, &blocks, &counted)?;
        }
        drop(players);
        eprintln!("{}", self.out.join("report.md").display());
        Ok(())
    }

    fn span(&self) -> Span {
        let seconds = Duration::from_secs_f64;
        Span { warm_up: seconds(self.warm_up), length: seconds(self.seconds) }
    }

    async fn players(&self, folder: &Path, steps: &[Step]) -> anyhow::Result<Vec<Player>> {
        let wanted: BTreeSet<Name> = self.sides.iter().copied().collect();
        let leases = steps.iter().any(|step| step.work.operation.leases());
        let mut sides: Vec<Box<dyn Side>> = Vec::new();
        let mut database = None;
        if wanted.contains(&Name::Quorate) {
            eprintln!("starting quorate");
            let quorate = Quorate::start(&self.quorate, folder).await?;
            if leases {
                database = Some(quorate.database()?);
                quorate.allow_many_leases().await?;
            }
            sides.push(Box::new(quorate));
        }
        let bao = self.peers.join("bao");
        for (name, nodes) in [(Name::OpenBao1, 1), (Name::OpenBao3, 3)] {
            if wanted.contains(&name) {
                eprintln!("starting openbao, {nodes} servers");
                anyhow::ensure!(!leases || database.is_some(), "leases need the database of the side quorate");
                sides.push(Box::new(OpenBao::start(&bao, folder, nodes, database.as_ref()).await?));
            }
        }
        if wanted.contains(&Name::Etcd3) {
            eprintln!("starting etcd");
            sides.push(Box::new(Etcd::start(&self.peers.join("etcd"), folder).await?));
        }
        if wanted.contains(&Name::Floor) {
            sides.push(Box::new(Floor::start(folder).await?));
        }
        let player = |side| Player { side, clients: BTreeMap::new(), numbers: Arc::default() };
        Ok(sides.into_iter().map(player).collect())
    }

    fn write(
        &self,
        players: &[Player],
        machine: &BTreeMap<&'static str, String>,
        blocks: &[Block],
        counted: &[Counted],
    ) -> anyhow::Result<()> {
        // Only what is behind the program's name: where it lies says nothing.
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let report = Report {
            command: format!("quorate-bench {}", arguments.join(" ")),
            seed: self.seed,
            machine: machine.clone(),
            doubts: report::doubts(blocks),
            sides: players.iter().map(|p| (p.side.name(), p.side.facts())).collect(),
            blocks: blocks.to_vec(),
            counted: counted.to_vec(),
            cells: report::cells(blocks),
        };
        let write = |name: &str, text: &str| {
            let path = self.out.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())
        };
        for cell in &report.cells {
            write(&report::picture_name(cell), &picture::draw(cell))?;
        }
        write("report.json", &serde_json::to_string_pretty(&report)?)?;
        write("report.md", &report.markdown())
    }
}

impl Player {
    /// Makes what a step needs, and connects; each client has done its work once.
    async fn get_ready(&mut self, step: &Step) -> anyhow::Result<()> {
        let wanted = match step.arrival {
            Arrival::Closed { clients } => clients,
            Arrival::Open { .. } => OPEN_LOOP,
        };
        self.side.prepare(&step.work).await?;
        let clients = self.clients.entry(step.work).or_default();
        let missing = wanted.saturating_sub(clients.len());
        let (side, numbers) = (&self.side, &self.numbers);
        let connect = (0..missing).map(|_| async move {
            let client = side.connect(&step.work).await?;
            client.call(&step.work, numbers.fetch_add(1, Ordering::Relaxed)).await?;
            anyhow::Ok(client)
        });
        clients.extend(futures::stream::iter(connect).buffer_unordered(4).try_collect::<Vec<_>>().await?);
        Ok(())
    }

    fn clients(&self, work: &Work) -> &[Arc<dyn Connection>] {
        self.clients.get(work).map_or(&[], Vec::as_slice)
    }

    async fn block(&self, step: &Step, round: usize, span: Span) -> anyhow::Result<Block> {
        let servers = self.side.servers(step.work.operation);
        let clients = self.clients(&step.work);
        let outcome = load::run(clients, step.work, step.arrival, span, &servers, &self.numbers).await?;
        eprintln!(
            "  {round} {:10} {:8.0}/s  {:6.0} us of servers  {:6.0} us of client  p99 {:8.2} ms  {} failed",
            self.side.name(),
            outcome.per_second,
            outcome.server_cpu,
            outcome.client_cpu,
            outcome.p99,
            outcome.failures
        );
        Ok(Block { work: step.work, arrival: step.arrival, round, side: self.side.name(), outcome })
    }

    /// Counts what the load has the side sync, record and write.
    async fn count(&self, step: &Step, span: Span, folder: &Path) -> anyhow::Result<Counted> {
        let servers = self.side.servers(step.work.operation);
        let sum = || -> anyhow::Result<(u64, u64, u64)> {
            // A server that only stands by has none yet.
            let files = self.side.audit_files().into_iter().filter(|path| path.exists());
            let audit = files.map(|path| content(&path)).sum::<anyhow::Result<u64>>()?;
            Ok((self.numbers.load(Ordering::Relaxed), audit, machine::written(&servers)?))
        };
        let syncs = Syncs::begin(&servers, folder).await?;
        let before = sum()?;
        let span = Span { warm_up: Duration::ZERO, length: span.length };
        load::run(self.clients(&step.work), step.work, step.arrival, span, &servers, &self.numbers).await?;
        let (syncs, after) = (syncs.end()?, sum()?);
        let operations = (after.0 - before.0) * step.work.weight();
        let per = |n: u64| float(n) / float(operations.max(1));
        Ok(Counted {
            work: step.work,
            arrival: step.arrival,
            side: self.side.name(),
            operations,
            syncs_per_operation: per(syncs),
            audit_bytes_per_operation: per(after.1.saturating_sub(before.1)),
            written_bytes_per_operation: per(after.2.saturating_sub(before.2)),
        })
    }
}

/// The bytes of a file, or of all files of a folder, without the zeros that a preallocated file ends with.
fn content(path: &Path) -> anyhow::Result<u64> {
    if path.is_dir() {
        let files = std::fs::read_dir(path)?.map(|entry| content(&entry?.path()));
        return files.sum();
    }
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut end = file.metadata()?.len();
    let mut chunk = vec![0; 1 << 16];
    while end > 0 {
        let length = usize::try_from(end)?.min(chunk.len());
        let from = end - u64::try_from(length)?;
        let part = chunk.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, from)?;
        if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
            return Ok(from + u64::try_from(last)? + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preallocated_file_has_the_size_of_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let mut long = b"{}\n".to_vec();
        long.resize(200_000, 0);
        file("a", &long);
        file("b", &[0; 70_000]);
        file("c", b"12345");
        assert_eq!(content(folder.path()).unwrap(), 8);
    }
}
