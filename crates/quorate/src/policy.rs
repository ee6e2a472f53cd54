//! `quorate policy`: the rules, and the administrators' signatures that changing them takes.

use crate::connection::Connection;
use crate::effect::Effect;
use crate::failure::Stop;
use crate::files;
use crate::operator::{Operator, open_administrators};
use crate::output::{Format, table};
use crate::passphrase::Passphrases;
use quorate_api::client::Submitted;
use quorate_crypto::identity::SigningKey;
use quorate_state::change::Change;
use serde_json::json;
use std::path::PathBuf;

/// Where the administrators' keys lie.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Signers {
    /// The operator's folder, with the administrators' keys in it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) operator: Option<PathBuf>,
    /// An administrator's sealed key; once for each that must sign.
    #[arg(long = "administrator", value_name = "FILE")]
    pub(crate) administrators: Vec<PathBuf>,
}

impl Signers {
    pub(crate) fn open(&self, passphrases: &Passphrases) -> anyhow::Result<Vec<SigningKey>> {
        match &self.operator {
            Some(folder) => Operator(folder.clone()).administrators(passphrases),
            None => open_administrators(&self.administrators, passphrases),
        }
    }

    /// Has the administrators sign a change, and sends it.
    pub(crate) async fn administer(
        &self,
        connection: &Connection,
        passphrases: &Passphrases,
        change: Change,
    ) -> anyhow::Result<Submitted> {
        let client = connection.client()?;
        let keys = self.open(passphrases)?;
        let keys: Vec<&SigningKey> = keys.iter().collect();
        Ok(client.administer_now(change, &keys).await?)
    }
}

/// `quorate policy`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a policy from a Cedar file.
    Put {
        /// Its name.
        name: String,
        /// The file.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        signers: Signers,
        #[command(flatten)]
        effect: Effect,
    },
    /// Show a policy's text.
    Get {
        /// Its name.
        name: String,
    },
    /// List the policies.
    List,
    /// Remove a policy.
    Delete {
        /// Its name.
        name: String,
        #[command(flatten)]
        signers: Signers,
        #[command(flatten)]
        effect: Effect,
    },
}

/// Runs `quorate policy`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    match command {
        Command::Put { name, file, signers, effect } => {
            let text = files::read_text(&file)?;
            // The same check that every endorser makes, before anybody types a passphrase.
            quorate_authz::validate(&name, &text).map_err(|why| {
                let hint =
                    why.help.clone().unwrap_or_else(|| "docs/policies.md lists what policies can say".to_owned());
                Stop::refused("invalid_argument", why, hint)
            })?;
            let change = Change::PutPolicy { name: name.clone(), text };
            let done = signers.administer(connection, passphrases, change).await?;
            let effect = effect.of(connection, &done).await?;
            output.show(&json!({ "name": name, "index": done.index, "effect": effect.document() }), || {
                format!("policy {name} holds from log index {} on\n{effect}", done.index)
            })
        }
        Command::Get { name } => {
            let policies = connection.client()?.policies().await?.policies;
            let policy = policies.into_iter().find(|p| p.name == name);
            let policy = policy.ok_or_else(|| {
                Stop::refused("not_found", format!("there is no policy {name}"), "`quorate policy list` shows them")
            })?;
            output.show(&json!({ "name": policy.name, "text": policy.text }), || policy.text.clone())
        }
        Command::List => {
            let answer = connection.client()?.policies().await?;
            let document = json!({
                "authority_version": answer.authority_version,
                "policies": answer.policies.iter().map(|p| json!({ "name": p.name, "text": p.text })).collect::<Vec<_>>(),
            });
            output.show(&document, || {
                table(["POLICY", "BYTES"], answer.policies.iter().map(|p| [p.name.clone(), p.text.len().to_string()]))
            })
        }
        Command::Delete { name, signers, effect } => {
            let change = Change::DeletePolicy { name: name.clone() };
            let done = signers.administer(connection, passphrases, change).await?;
            let effect = effect.of(connection, &done).await?;
            output.show(&json!({ "name": name, "index": done.index, "effect": effect.document() }), || {
                format!("policy {name} is removed\n{effect}")
            })
        }
    }
}
