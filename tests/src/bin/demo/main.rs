//! `make demo`: three nodes, a custodian and a PostgreSQL, and what takes a quorum of them.
//!
//! Every line tells what was seen in this run; what was expected and not seen ends it with exit code 1. `BREAK` leaves out
//! what one act depends on, and that act must then fail: `custodian`, `one-node`, `revoke` or `audit`.

mod leases;
mod logs;
mod opening;
mod story;

use anyhow::Context as _;
use quorate_api::client::Client;
use quorate_tests::{Cluster, Options};
use std::io::Write as _;
use std::process::ExitCode;
use story::Story;

/// How many members it takes.
const THRESHOLD: usize = 2;

/// What is left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// Nothing.
    Nothing,
    /// The custodian is not frozen.
    Custodian,
    /// One node too many stays up.
    OneNode,
    /// The lease is not revoked.
    Revoke,
    /// A byte of an audit log is changed before it is verified.
    Audit,
}

impl Break {
    fn from_environment() -> anyhow::Result<Self> {
        let Some(value) = std::env::var_os("BREAK") else { return Ok(Self::Nothing) };
        match value.to_str() {
            Some("") => Ok(Self::Nothing),
            Some("custodian") => Ok(Self::Custodian),
            Some("one-node") => Ok(Self::OneNode),
            Some("revoke") => Ok(Self::Revoke),
            Some("audit") => Ok(Self::Audit),
            _ => anyhow::bail!("BREAK must be custodian, one-node, revoke or audit"),
        }
    }
}

/// What the acts share.
pub(crate) struct Demo {
    pub(crate) cluster: Cluster,
    pub(crate) story: Story,
    pub(crate) broken: Break,
    /// The application.
    pub(crate) app: Client,
    /// PostgreSQL's own superuser, who sees what is really there.
    pub(crate) superuser: tokio_postgres::Client,
}

// One thread: the nodes that are started again die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "\n{why:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let broken = Break::from_environment()?;
    let story = Story::new();
    story.act(0, "Three nodes, a custodian and a PostgreSQL: processes of their own")?;
    story.fact("`quorate dev` starts them, makes their keys, and is ready in some seconds")?;
    let cluster = Cluster::start(&Options::default()).await.context("act 0 failed")?;
    let (app, superuser) = (cluster.client("demo")?, cluster.superuser().await.context("act 0 failed")?);
    let mut demo = Demo { cluster, story, broken, app, superuser };
    let told = acts(&mut demo).await;
    if told.is_err() && broken == Break::Nothing {
        demo.show_logs()?;
    }
    told
}

async fn acts(demo: &mut Demo) -> anyhow::Result<()> {
    demo.processes().context("act 0 failed")?;
    demo.sealed_and_opened().await.context("act 1 failed")?;
    demo.custodian_frozen().await.context("act 2 failed")?;
    demo.one_node().await.context("act 3 failed")?;
    demo.leader_stopped().await.context("act 4 failed")?;
    demo.lease_revoked().await.context("act 5 failed")?;
    demo.leases_expire().await.context("act 6 failed")?;
    demo.logs_verified().await.context("act 7 failed")?;
    let seconds = demo.story.elapsed().as_secs_f64();
    demo.story.end(&format!("all of it was seen in this run, in {seconds:.1} s"))
}

impl Demo {
    fn processes(&self) -> anyhow::Result<()> {
        for process in self.cluster.processes() {
            anyhow::ensure!(process.alive(), "expected {} to run, but it ended", process.name());
            self.story.fact(&format!("{:<9} pid {}", process.name(), process.pid()))?;
        }
        let profile = self.cluster.profile();
        let (n, t) = (profile.members.len(), profile.threshold);
        anyhow::ensure!(usize::from(t) == THRESHOLD, "expected a threshold of {THRESHOLD}, but it is {t}");
        self.story.fact(&format!("cluster {}: {t} of {n} members are needed for anything", profile.cluster))
    }

    /// For whoever has to find out why an act failed.
    fn show_logs(&self) -> anyhow::Result<()> {
        let mut out = std::io::stderr().lock();
        for process in self.cluster.processes() {
            let log = process.log();
            let lines: Vec<&str> = log.lines().collect();
            writeln!(out, "\nthe end of the log of {}:", process.name())?;
            for line in lines.iter().skip(lines.len().saturating_sub(15)) {
                writeln!(out, "  | {line}")?;
            }
        }
        Ok(())
    }
}
