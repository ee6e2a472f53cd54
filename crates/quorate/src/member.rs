//! `quorate member`: a member's own keys, the card by which others know it, and the record that it is gone.

use crate::connection::Connection;
use crate::effect::Effect;
use crate::failure::Stop;
use crate::files;
use crate::output::Format;
use crate::passphrase::Passphrases;
use crate::policy::Signers;
use anyhow::Context as _;
use quorate_server::config::NodeConfig;
use quorate_server::env::Env;
use quorate_server::keystore::{Keystore, KeystoreError};
use quorate_state::absence::Absence;
use quorate_state::ids::{check_label, hex, parse_hex};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What a member shows of itself: public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Card {
    /// Its name.
    pub(crate) name: String,
    /// Its Ed25519 identity key, hexadecimal.
    pub(crate) key: String,
    /// Where peers reach it, `host:port`.
    pub(crate) peer_address: String,
    /// Where clients reach it, `host:port`.
    pub(crate) api_address: String,
}

impl Card {
    /// Reads and checks a card.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let card: Self = toml::from_str(&files::read_text(path)?).with_context(|| path.display().to_string())?;
        card.check().with_context(|| path.display().to_string())?;
        Ok(card)
    }

    /// The key.
    pub(crate) fn key(&self) -> anyhow::Result<[u8; 32]> {
        parse_hex(&self.key).context("`key` must be 64 hexadecimal digits")
    }

    fn check(&self) -> anyhow::Result<()> {
        check_label(&self.name).context("`name`")?;
        self.key()?;
        for (field, address) in [("peer_address", &self.peer_address), ("api_address", &self.api_address)] {
            address_of(address).map_err(|why| anyhow::anyhow!("`{field}`: {why}"))?;
        }
        Ok(())
    }
}

/// Checks a `host:port`. For clap.
pub(crate) fn address_of(text: &str) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) if !text.contains(char::is_whitespace) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no address: expected host:port")),
    }
}

/// `quorate member`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a new member: its identity, its storage key, and its public card.
    Create(Create),
    /// Drop the applied state of a member that is down: its next start rebuilds it from the log or from other members.
    ForgetState {
        /// Its configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Record, with the administrators' signatures, that a member is gone: changes are effective without it from then on.
    Record(Record),
}

/// `quorate member record`.
#[derive(Debug, clap::Args)]
pub(crate) struct Record {
    #[command(flatten)]
    how: How,
    /// How that is known: stands in the state and in every audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    signers: Signers,
    #[command(flatten)]
    effect: Effect,
}

/// Which member, and how it is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct How {
    /// The member does not run, and will not where it could be kept from hearing what has changed. Over when it attests again.
    #[arg(long, value_name = "NAME")]
    powered_off: Option<String>,
    /// Nobody has the member's disk and keys any more. For ever: whatever is signed with its key counts nowhere from then on.
    #[arg(long, value_name = "NAME")]
    destroyed: Option<String>,
    /// The member that was recorded as powered off is waited for again.
    #[arg(long, value_name = "NAME")]
    present: Option<String>,
}

impl Record {
    async fn run(self, connection: &Connection, passphrases: &Passphrases, output: Format) -> anyhow::Result<()> {
        let How { powered_off, destroyed, present } = self.how;
        let absence = match (&powered_off, &destroyed) {
            (Some(_), _) => Some(Absence::PoweredOff),
            (None, Some(_)) => Some(Absence::Destroyed),
            (None, None) => None,
        };
        let name = powered_off.or(destroyed).or(present).context("no member is named")?;
        let change = connection.client()?.member_record(&name, absence, &self.reason)?;
        let done = self.signers.administer(connection, passphrases, change).await?;
        let effect = self.effect.of(connection, &done).await?;
        let how = absence.map_or_else(|| "present".to_owned(), |a| a.to_string());
        let document = json!({ "name": name, "recorded": how, "index": done.index, "effect": effect.document() });
        output.show(&document, || {
            let next = match absence {
                Some(Absence::PoweredOff) => {
                    "changes are effective without it; let it reach the other members before anybody else when it is started again"
                }
                Some(Absence::Destroyed) => "changes are effective without it, and nothing that it signs counts any more",
                None => "changes are effective when it has confirmed them",
            };
            format!("{name} is recorded as {how} from log index {} on: {next}\n{effect}", done.index)
        })
    }
}

/// `quorate member create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Where everything of the member is to lie.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: PathBuf,
    /// The key that seals the member's own files; made where there is none.
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_key: PathBuf,
    /// A name for people: a-z, 0-9, - and _.
    #[arg(long)]
    pub(crate) name: String,
    /// Where peers reach it, host:port.
    #[arg(long, value_parser = address_of)]
    pub(crate) peer_address: String,
    /// Where clients reach it, host:port.
    #[arg(long, value_parser = address_of)]
    pub(crate) api_address: String,
    /// Where to write the public card.
    #[arg(long, value_name = "FILE")]
    pub(crate) card: PathBuf,
}

impl Create {
    /// Makes the member.
    pub(crate) fn create(&self, env: &Env) -> anyhow::Result<Card> {
        check_label(&self.name).context("--name")?;
        let key = Keystore::create(&self.data_dir, &self.seal_key, env).map_err(|why| match why {
            KeystoreError::Exists { .. } => Stop::refused("exists", why, "name a new folder with --data-dir"),
            other => other.into(),
        })?;
        let card = Card {
            name: self.name.clone(),
            key: hex(&key.verify_key().0),
            peer_address: self.peer_address.clone(),
            api_address: self.api_address.clone(),
        };
        files::make(&self.card, toml::to_string(&card)?.as_bytes(), files::PUBLIC)?;
        Ok(card)
    }
}

/// Runs `quorate member`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    let create = match command {
        Command::Record(record) => return record.run(connection, passphrases, output).await,
        Command::Create(create) => create,
        Command::ForgetState { config } => {
            let config = NodeConfig::load(&config).map_err(Stop::configuration)?;
            quorate_server::forget_state(&config).map_err(|why| Stop::Fatal(why.to_string()))?;
            let folder = config.data_dir.display();
            return output.show(&serde_json::json!({ "data_dir": config.data_dir }), || {
                format!("the applied state in {folder} is gone; the next start of the member rebuilds it\n")
            });
        }
    };
    let card = create.create(&Env::system())?;
    output.show(&serde_json::json!({ "name": card.name, "key": card.key, "card": create.card }), || {
        format!(
            "member {} has the key {}\n\
             next: give {} to the operator, who runs `quorate init --member {} ..`;\n\
             keep {} and {} here: they never leave this machine\n",
            card.name,
            card.key,
            create.card.display(),
            create.card.display(),
            create.data_dir.display(),
            create.seal_key.display(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(address_of("n1.example.org:7000").is_ok() && address_of("[::1]:7000").is_ok());
        for bad in ["n1", "n1:", ":7000", "n1:0", "n1:70000", "n 1:7000"] {
            assert!(address_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_card_is_checked_field_by_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n1.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Card::load(&path).map_err(|e| format!("{e:#}"))
        };
        let good = format!("name = 'n1'\nkey = '{}'\npeer_address = 'a:1'\napi_address = 'a:2'\n", "ab".repeat(32));
        assert!(load(&good).is_ok());
        assert!(load(&good.replace("abab'", "ab'")).unwrap_err().contains("`key`"));
        assert!(load(&good.replace("a:2", "a")).unwrap_err().contains("`api_address`"));
        assert!(load(&good.replace("'n1'", "'N 1'")).unwrap_err().contains("`name`"));
        assert!(load(&format!("{good}seed = 'x'\n")).unwrap_err().contains("seed"));
    }
}
