//! `quorate custodian`: the customer's side. Holds a fragment, and gives values of it to callers whom its own rules allow.
//!
//! Nothing here trusts the cluster: callers come with certificates of the customer's own CA, rules are a file of the
//! customer's, and a freeze is a file too, so that it survives restarts.

mod config;
mod freeze;
mod keys;
mod service;

pub(crate) use config::CustodianConfig;
pub(crate) use keys::{CustomerFolder, Keygen};
pub(crate) use service::serve;

use crate::connection::Connection;
use crate::duration;
use crate::failure::Stop;
use crate::files;
use crate::output::Format;
use crate::passphrase::Passphrases;
use crate::process;
use quorate_api::custodian::StatusReply;
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
    /// Run the custodian.
    Run {
        /// Its configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Die with the process that started it.
        #[arg(long, hide = true)]
        die_with_parent: bool,
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
        Command::Run { config, die_with_parent } => {
            if die_with_parent {
                process::die_with_parent(rustix::process::Signal::KILL)?;
            }
            process::log_to_stderr();
            #[cfg(feature = "failpoints")]
            let _failpoints = fail::FailScenario::setup();
            let config = CustodianConfig::load(&config).map_err(Stop::configuration)?;
            serve(config, Env::system(), process::asked_to_end()?).await
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
    });
    output.show(&document, || {
        let state = if status.frozen {
            format!("FROZEN since {}: {}", duration::instant(status.frozen_at), status.frozen_reason)
        } else {
            "not frozen".to_owned()
        };
        let id = hex(&status.customer_key_id);
        format!(
            "customer key {id}\n{state}\n{} values given, {} refused since its start\n",
            status.derived, status.refused
        )
    })
}
