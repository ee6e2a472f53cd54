//! `quorate-bench`: one load generator and one report, for the vault and for its peers.
//!
//! It starts every side as real processes on this machine, loads them in turns, round by round, and divides what it measured
//! in one round by what it measured in the same round: what else runs on the machine then weighs on both. It knows the vault
//! only from outside: the binary, its files, the SDK. How to read its figures, and what they leave out, is in
//! `docs/performance.md`.
#![allow(clippy::print_stderr, reason = "a program that says how far it is")]

mod ends;
mod failover;
mod guard;
mod https;
mod load;
mod machine;
mod picture;
mod plan;
mod process;
mod report;
mod run;
mod side;
mod stats;
mod work;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(version, about = "One load generator and one report, for the vault and for its peers.")]
enum Command {
    /// Start all sides, load them in turns, and write a report.
    Run(run::Run),
    /// End many leases at once on each side in turn, and write what became of them and of who asked for one meanwhile.
    Ends(ends::Ends),
    /// Kill each side's leader, again and again, and time the first write after.
    Failover(failover::Failover),
    /// Count the syncs of a thousand operations, and compare them with the committed figures.
    Guard(guard::Guard),
    /// One server of the side `floor`.
    #[command(hide = true)]
    Floor(side::Serve),
}

// One thread: a generator that spreads over all processors takes them from those whom it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(run) => run.run().await,
        Command::Ends(ends) => ends.run().await,
        Command::Guard(guard) => guard.run().await,
        Command::Failover(failover) => failover.run().await,
        Command::Floor(serve) => serve.run().await,
    }
}
