//! `quorate clock`: cluster time that wrong clocks have moved ahead is set back.

use crate::connection::Connection;
use crate::output::Format;
use crate::passphrase::Passphrases;
use crate::policy::Signers;
use quorate_crypto::identity::SigningKey;
use quorate_server::env::Env;
use serde_json::json;

/// `quorate clock`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Set cluster time back to this machine's clock, or to `--to`. The members' own clocks must be right by then.
    Reset {
        /// Milliseconds since 1970.
        #[arg(long, value_name = "MS")]
        to: Option<u64>,
        #[command(flatten)]
        signers: Signers,
    },
}

/// Runs `quorate clock`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    let Command::Reset { to, signers } = command;
    let to = to.unwrap_or_else(|| Env::system().clock.wall());
    let client = connection.client()?;
    let keys = signers.open(passphrases)?;
    let keys: Vec<&SigningKey> = keys.iter().collect();
    let done = client.reset_clock(to, &keys).await?;
    output.show(&json!({ "cluster_time": to, "index": done.index }), || {
        format!("cluster time is set back to {to} ms from log index {} on; expiry pauses for 30 s", done.index)
    })
}
