//! `quorate custodian`: the customer's side. Holds a fragment, and gives values of it to callers whom its own rules allow.
//!
//! Nothing here trusts the cluster: callers come with certificates of the customer's own CA, rules are a file of the
//! customer's, and a freeze is a file too, so that it survives restarts.

mod backup;
mod config;
#[cfg(feature = "pkcs11")]
mod doctor;
mod freeze;
mod home;
mod keys;
mod pin;
mod service;
#[cfg(feature = "pkcs11")]
mod token_key;

pub(crate) use config::CustodianConfig;
pub(crate) use keys::{CustomerFolder, Keygen};
pub(crate) use pin::PinSource;
pub(crate) use service::serve;

use crate::connection::Connection;
use crate::duration;
use crate::failure::Stop;
use crate::files;
use crate::output::{Format, printable};
use crate::passphrase::Passphrases;
use crate::process;
use quorate_api::custodian::{StatusReply, TokenStatus};
use quorate_server::env::Env;
use quorate_state::ids::{Millis, hex};
use serde_json::json;
use std::path::PathBuf;

/// `quorate custodian`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a customer's keys: fragment, owner key, CA of callers, the custodian's own key.
    Keygen(Keygen),
    /// Issue a certificate to a caller of the custodian, from the customer's own CA.
    Caller {
        /// The customer's folder, from `keygen`.
        #[arg(long, value_name = "FOLDER")]
        customer: PathBuf,
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
    /// Make a key inside a token (HSM); back a key file up, restore it.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Run the custodian.
    Run {
        /// Its configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        pin: PinSource,
        /// Die with the process that started it.
        #[arg(long, hide = true)]
        die_with_parent: bool,
    },
    /// Say whether the fragment can be used where it lives, and if not, why.
    #[cfg(feature = "pkcs11")]
    Doctor {
        /// The custodian's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Give no PIN: look at what tokens say of themselves.
        #[arg(long)]
        look_only: bool,
        #[command(flatten)]
        pin: PinSource,
    },
    /// Refuse every use of the fragment from here on, across restarts.
    Freeze {
        /// Why, for the record.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// End a freeze.
    Thaw,
    /// Show which key the custodian holds, and whether it is frozen.
    Status,
}

/// `quorate custodian key`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a customer's keys, the fragment inside a token, which it never leaves.
    #[cfg(feature = "pkcs11")]
    Create(token_key::Create),
    /// Back fragment.key up: shares of which some restore it.
    Backup(backup::Backup),
    /// Restore fragment.key from shares.
    Restore(backup::Restore),
}

/// Runs `quorate custodian`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    match command {
        Command::Keygen(keygen) => {
            let folder = keygen.create(passphrases, &Env::system())?;
            let public = folder.public()?;
            let id = hex(&public.id());
            let custodian_key = folder.server_key()?;
            let document = json!({
                "customer_key_id": id,
                "public": folder.file("fragment.toml"),
                "custodian_key": custodian_key,
            });
            output.show(&document, || {
                let at = folder.0.display();
                format!(
                    "customer key {id}\ncustodian's own key, for --custodian-key: {custodian_key}\n\
                     next:\n  1. write {at}/custodian.toml (docs/cli.md has an example) and run: quorate custodian run --config \
                     {at}/custodian.toml\n  2. register the key: quorate customer-key register --customer {at} --name NAME\n  \
                     3. for each caller: quorate custodian caller --customer {at} --name app/x --out x.pem\n"
                )
            })
        }
        Command::Caller { customer, name, ttl, out } => {
            let (id, pem) = CustomerFolder(customer).issue(&name, ttl, passphrases, &Env::system())?;
            files::make(&out, pem.as_bytes(), files::PRIVATE)?;
            let id = id.as_str();
            output.show(&json!({ "id": id, "identity": out, "valid_seconds": ttl / 1_000 }), || {
                format!("{} is {id} for custodians, valid for {} s", out.display(), ttl / 1_000)
            })
        }
        #[cfg(feature = "pkcs11")]
        Command::Key(KeyCommand::Create(create)) => {
            let folder = create.run(passphrases, &Env::system())?;
            let id = hex(&folder.public()?.id());
            let custodian_key = folder.server_key()?;
            let kem = Some(folder.file("fragment.kem")).filter(|file| file.exists());
            let document = json!({
                "customer_key_id": id,
                "public": folder.file("fragment.toml"),
                "custodian_key": custodian_key,
                "kem": kem,
                "pkcs11": { "module": create.pkcs11, "token": create.token, "key": create.key },
            });
            output.show(&document, || {
                let at = folder.0.display();
                let copy = kem.map_or_else(String::new, |kem| {
                    let kem = kem.display();
                    format!("keep copies of {kem}: without it the key is lost; it opens nothing without the token\n")
                });
                format!(
                    "customer key {id}, in the token `{}` as `{}`\n\
                     custodian's own key, for --custodian-key: {custodian_key}\n{copy}\
                     before the first secret is sealed to it: a second token with this key, by the vendor's way, or a \
                     second customer key (docs/hsm.md): a lost token cannot be brought back\n\
                     next:\n  1. write {at}/custodian.toml with [pkcs11] (docs/hsm.md has it) and run: \
                     quorate custodian doctor --config {at}/custodian.toml\n  \
                     2. register the key: quorate customer-key register --customer {at} --name NAME\n",
                    create.token, create.key
                )
            })
        }
        Command::Key(KeyCommand::Backup(backup)) => backup.run(passphrases, output),
        Command::Key(KeyCommand::Restore(restore)) => restore.run(passphrases, output),
        #[cfg(feature = "pkcs11")]
        Command::Doctor { config, look_only, pin } => {
            let config = CustodianConfig::load(&config).map_err(Stop::configuration)?;
            doctor::run(&config, &pin, look_only, output)
        }
        Command::Run { config, pin, die_with_parent } => {
            if die_with_parent {
                process::die_with_parent(rustix::process::Signal::KILL)?;
            }
            process::log_to_stderr();
            #[cfg(feature = "failpoints")]
            let _failpoints = fail::FailScenario::setup();
            let config = CustodianConfig::load(&config).map_err(Stop::configuration)?;
            let fragment = config.open_home(&pin)?;
            serve(config, fragment, Env::system(), process::asked_to_end()?).await
        }
        Command::Freeze { reason } => show(&connection.custodian()?.freeze(&reason).await?, output),
        Command::Thaw => show(&connection.custodian()?.thaw().await?, output),
        Command::Status => show(&connection.custodian()?.status().await?, output),
    }
}

fn show(status: &StatusReply, output: Format) -> anyhow::Result<()> {
    let document = json!({
        "customer_key_id": hex(&status.customer_key_id),
        "frozen": status.frozen,
        "frozen_reason": status.frozen_reason,
        "frozen_at": status.frozen_at,
        "derived": status.derived,
        "refused": status.refused,
        "home": status.home,
        "tokens": status.tokens.iter().map(token_document).collect::<Vec<_>>(),
    });
    output.show(&document, || {
        let state = if status.frozen {
            format!("FROZEN since {}: {}", duration::instant(status.frozen_at), status.frozen_reason)
        } else {
            "not frozen".to_owned()
        };
        let id = hex(&status.customer_key_id);
        let tokens: String = status.tokens.iter().map(token_line).collect();
        format!(
            "customer key {id}\n{state}\n{} values given, {} refused since its start\n{tokens}",
            status.derived, status.refused
        )
    })
}

/// A token as people see it.
fn token_line(token: &TokenStatus) -> String {
    let name = printable(&token.token);
    let counts = format!("{} questions answered, {} failed", token.answered, token.failed);
    if token.ready > 0 {
        let sessions = format!("{} of {} sessions", token.ready, token.sessions);
        return format!("token {name}: serves with {sessions} for {} s; {counts}\n", token.seconds);
    }
    let trouble = printable(&token.trouble);
    format!("token {name}: DOES NOT SERVE for {} s: {trouble} [{}]; {counts}\n", token.seconds, token.code)
}

fn token_document(token: &TokenStatus) -> serde_json::Value {
    json!({
        "token": token.token,
        "ready": token.ready,
        "sessions": token.sessions,
        "answered": token.answered,
        "failed": token.failed,
        "seconds": token.seconds,
        "code": token.code,
        "trouble": token.trouble,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_does_not_serve_is_seen_at_once_and_says_why() {
        let serving =
            TokenStatus { token: "0001".into(), ready: 3, sessions: 4, answered: 7, ..TokenStatus::default() };
        assert!(token_line(&serving).contains("serves with 3 of 4 sessions"), "{}", token_line(&serving));
        let gone = TokenStatus { code: "pin_locked".into(), trouble: "locked\u{1b}[2J".into(), ready: 0, ..serving };
        let line = token_line(&gone);
        assert!(line.contains("DOES NOT SERVE") && line.contains("[pin_locked]") && !line.contains('\u{1b}'), "{line}");
    }
}
