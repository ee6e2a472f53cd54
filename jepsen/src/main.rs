//! `chaos`: breaks real clusters of real processes, and checks what they said.
//!
//! A run makes a cage of namespaces ([`cage`]), in it a cluster ([`lab`]) with the command line alone, has clients work through the SDK
//! ([`workload`]) while faults that were planned from a seed are at work ([`nemesis`]), and notes all of it in a [`history`]. What it
//! proves is decided from that alone ([`check`]), and told by a [`report`]. This program knows the product from outside only: its binary,
//! its files, its SDK. It refuses to know how a node works.

mod auditor;
mod cage;
mod check;
mod fragments;
mod history;
mod hold;
mod lab;
mod mutants;
mod nemesis;
mod observe;
mod random;
mod report;
mod run;
mod versus;
mod workload;

use clap::{Parser, Subcommand};
use history::Outcome;
use nemesis::Kind;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the search for an order may take, for all keys together.
const SEARCH: Duration = Duration::from_secs(120);

/// Breaks real clusters of Quorate, and checks what they said.
#[derive(Debug, Parser)]
#[command(name = "chaos", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a cluster in namespaces of its own, break it, and judge it. Takes root. Exits with 0 if every rule holds, 1 if one is
    /// broken, 2 if the run proves nothing.
    Run(Box<run::Options>),
    /// The same, in the cage: for `run` to call.
    #[command(hide = true)]
    Inside(Box<run::Options>),
    /// Hold packets of a namespace back: for faults to call.
    #[command(hide = true)]
    Hold(hold::Hold),
    /// Judge a history again, and write its report beside it.
    Check {
        /// `history.jsonl` of a run.
        history: PathBuf,
    },
    /// Add up what runs have done, by their folders, and print it as one table. Exits like the worst of them.
    Sum {
        #[arg(required = true)]
        folders: Vec<PathBuf>,
    },
    /// Run every mutant, and the same without it: the first has to be found out by its rule, the second to break none. Prints a table.
    Mutants(mutants::Options),
    /// The same leases under the same faults, here and at OpenBao, in one table. Takes root. Exits with 0 whoever does better, and with 2 if too
    /// little was seen.
    Versus(versus::Options),
    /// Judge the facts of a comparison again, and write its table again.
    VersusAgain {
        /// The folder of `versus`.
        folder: PathBuf,
    },
    /// One part of it in the cage: for `versus` to call.
    #[command(hide = true)]
    VersusInside(versus::Part),
    /// List the nemeses, and by what each is seen to bite.
    List,
}

fn main() -> ExitCode {
    let done = work(Cli::parse());
    done.unwrap_or_else(|why| {
        // There is nobody else to tell.
        let _ = writeln!(std::io::stderr(), "chaos: {why:#}");
        ExitCode::from(cage::VOID)
    })
}

fn work(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(options) => {
            // On this thread: the kernel ends the cage with the thread that has made it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(cage::possible())?;
            let options = options.settle()?;
            say(&format!("chaos: {}\nchaos: everything goes to {}\n", options.again(), options.folder()?.display()))?;
            runtime.block_on(cage::enter("inside", &options.arguments()?))
        }
        Command::Inside(options) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let done = runtime.block_on(run::inside(&options));
            // A thread may still wait for standard input.
            runtime.shutdown_background();
            if let Err(why) = &done {
                std::fs::write(options.folder()?.join("broken.txt"), format!("{why:#}\n"))?;
            }
            done?;
            let code = judge(&options.folder()?.join("history.jsonl"))?;
            if code != ExitCode::SUCCESS {
                run::keep(options.folder()?)?;
            }
            Ok(code)
        }
        Command::Hold(hold) => {
            hold::run(&hold)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { history } => judge(&history),
        Command::Sum { folders } => {
            let (table, outcome) = report::sum::table(&folders)?;
            say(&table)?;
            Ok(exit(outcome))
        }
        Command::Mutants(options) => {
            let (table, outcome) = mutants::all(&options)?;
            say(&table)?;
            Ok(exit(outcome))
        }
        Command::Versus(options) => {
            // On this thread: the kernel ends the cage with the thread that has made it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                cage::possible().await?;
                versus::compare(&options).await
            })
        }
        Command::VersusAgain { folder } => versus::judged(&folder),
        Command::VersusInside(part) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let done = runtime.block_on(versus::inside(&part));
            // A thread may still wait for standard input.
            runtime.shutdown_background();
            if let Err(why) = &done {
                std::fs::write(part.folder().join("broken.txt"), format!("{why:#}\n"))?;
            }
            done?;
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            for kind in Kind::every() {
                say(&format!("{:<15} {}\n", kind.name(), kind.about()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Judges a history, and writes the report beside it.
fn judge(path: &Path) -> anyhow::Result<ExitCode> {
    let entries = history::read(path)?;
    let deadline = Instant::now() + SEARCH;
    let judgement = check::judge(&entries, || Instant::now() > deadline);
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    say(&report::write(folder, &entries, &judgement)?)?;
    Ok(exit(judgement.outcome))
}

fn exit(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Holds => ExitCode::SUCCESS,
        Outcome::Violated => ExitCode::FAILURE,
        Outcome::Void => ExitCode::from(cage::VOID),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
