//! `quorate identity`: callers' certificates, made from the sealed CA; and ending an identity everywhere.

use crate::connection::Connection;
use crate::duration;
use crate::files;
use crate::operator::Operator;
use crate::output::Format;
use crate::passphrase::Passphrases;
use crate::policy::Signers;
use quorate_server::env::Env;
use quorate_state::change::Change;
use quorate_state::ids::Millis;
use quorate_state::outcome::Outcome;
use serde_json::json;
use std::path::PathBuf;

/// `quorate identity`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Issue a certificate from the operator's sealed CA.
    Issue {
        /// The operator's folder.
        #[arg(long, value_name = "FOLDER")]
        operator: PathBuf,
        /// The path of the SPIFFE id, as in app/billing.
        #[arg(long)]
        name: String,
        /// How long it is to be valid.
        #[arg(long, default_value = "24h", value_parser = duration::parse)]
        ttl: Millis,
        /// Where to write the PEM file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Refuse an identity from here on, everywhere, and end its leases.
    Block {
        /// The SPIFFE id.
        id: String,
        #[command(flatten)]
        signers: Signers,
    },
    /// Admit a blocked identity again.
    Unblock {
        /// The SPIFFE id.
        id: String,
        #[command(flatten)]
        signers: Signers,
    },
}

/// Runs `quorate identity`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    match command {
        Command::Issue { operator, name, ttl, out } => {
            let (id, pem) = Operator(operator).issue(&name, ttl, passphrases, &Env::system())?;
            files::make(&out, pem.as_bytes(), files::PRIVATE)?;
            let valid = ttl / 1_000;
            output.show(&json!({ "id": id.as_str(), "identity": out, "valid_seconds": valid }), || {
                format!("{} is {id}, valid for {valid} s", out.display(), id = id.as_str())
            })
        }
        Command::Block { id, signers } => {
            let change = Change::BlockIdentity { principal: id.clone() };
            let done = signers.administer(connection, passphrases, change).await?;
            let ended = if let Outcome::Leases { changed } = &done.outcome { changed.len() } else { 0 };
            output.show(&json!({ "id": id, "index": done.index, "leases_ended": ended }), || {
                format!("{id} is blocked from log index {} on; {ended} of its leases are being revoked", done.index)
            })
        }
        Command::Unblock { id, signers } => {
            let change = Change::UnblockIdentity { principal: id.clone() };
            let done = signers.administer(connection, passphrases, change).await?;
            output.show(&json!({ "id": id, "index": done.index }), || format!("{id} is admitted again"))
        }
    }
}
