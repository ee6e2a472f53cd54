//! `quorate node`: one member of a cluster.

use crate::failure::Stop;
use crate::process;
use quorate_server::config::NodeConfig;
use quorate_server::env::Env;
use std::path::PathBuf;

/// `quorate node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    /// Its configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Die with the process that started it.
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// Runs a node until SIGTERM or SIGINT.
pub(crate) async fn run(node: &Node) -> anyhow::Result<()> {
    if node.die_with_parent {
        process::die_with_parent(rustix::process::Signal::KILL)?;
    }
    process::log_to_stderr();
    // Alive until the node has ended: dropping it turns the failpoints off.
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();
    let config = NodeConfig::load(&node.config).map_err(Stop::configuration)?;
    let shutdown = process::asked_to_end()?;
    quorate_server::run(config, Env::system(), shutdown).await.map_err(|why| Stop::Node(why).into())
}
