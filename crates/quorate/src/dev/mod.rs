//! `quorate dev`: a cluster of real processes on this machine, set up the way an operator and a customer would, ready to
//! use. For trying, and for tests: its administrators are one, and its passphrase lies in a file.

mod layout;
mod postgres;
mod setup;
mod supervise;

pub(crate) use postgres::{ScratchPostgres, run as scratch_postgres};

use crate::failure::Stop;
use crate::files;
use crate::output::progress;
use crate::process;
use anyhow::Context as _;
use layout::Layout;
use quorate_engines::scratch::Installed;
use quorate_server::env::Env;
use quorate_state::genesis::SIZES;
use std::path::PathBuf;
use supervise::Children;

/// `quorate dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// The folder to make; one among the temporary files otherwise.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// How many members: 3, 5, 7 or 9.
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: usize,
    /// Have the vault rotate the password with which it logs in to the database.
    #[arg(long)]
    rotate: bool,
    /// The major version of the scratch PostgreSQL, of those that are installed; the distribution's newest otherwise.
    #[arg(long, value_name = "MAJOR")]
    postgres: Option<u32>,
    /// Keep the folder at the end.
    #[arg(long)]
    keep: bool,
    /// Stop with the process that started it.
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// Runs a development cluster until Ctrl-C or SIGTERM.
pub(crate) async fn run(dev: &Dev) -> anyhow::Result<()> {
    if !SIZES.contains(&dev.nodes) {
        return Err(Stop::refused("invalid_argument", format!("--nodes {}", dev.nodes), "a cluster has 3, 5, 7 or 9"));
    }
    if let Some(version) = dev.postgres {
        // Before anything is made: a cluster without the target that was asked for is of no use.
        Installed::of(version)
            .map_err(|why| Stop::refused("invalid_argument", format!("--postgres {version}"), why.to_string()))?;
    }
    let asked_to_end = process::asked_to_end()?;
    if dev.die_with_parent {
        process::die_with_parent(rustix::process::Signal::TERM)?;
    }
    let env = Env::system();
    let folder = match &dev.folder {
        Some(folder) => {
            anyhow::ensure!(!folder.exists(), "{} exists already: name a new folder", folder.display());
            files::private_folder(folder)?;
            std::fs::canonicalize(folder)?
        }
        None => tempfile::Builder::new().prefix("quorate-dev").tempdir().context("cannot make a folder")?.keep(),
    };
    let layout = Layout::choose(folder.clone(), dev.nodes, &env)?;
    let mut children = Children::new(layout.logs())?;
    let work = async {
        let ready = setup::set_up(&layout, &mut children, &env, dev.rotate, dev.postgres).await?;
        setup::publish(&layout, &children, &ready)?;
        children.watch().await;
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = asked_to_end => Ok(()),
    };
    progress("stopping");
    children.stop().await;
    if dev.keep || ended.is_err() {
        progress(format_args!("everything is left in {}", folder.display()));
    } else {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    ended
}
