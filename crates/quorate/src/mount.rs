//! `quorate customer-key`, `namespace`, `mount`: where secrets lie and what they are sealed to.

use crate::connection::Connection;
use crate::custodian::CustomerFolder;
use crate::failure::Stop;
use crate::operator::save_profile;
use crate::output::{Format, table};
use crate::passphrase::Passphrases;
use crate::target::cluster_keyring;
use anyhow::Context as _;
use quorate_api::client::{PinnedMount, Profile};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::ids::{CustomerKeyId, KeyringId, hex};
use serde_json::json;
use std::path::PathBuf;

/// `quorate customer-key`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CustomerKeyCommand {
    /// Register a customer's public keys, vouched for by the customer's owner key, and pin them in cluster.toml.
    Register {
        /// The customer's folder, from `quorate custodian keygen`.
        #[arg(long, value_name = "FOLDER")]
        customer: PathBuf,
        /// A name for people.
        #[arg(long)]
        name: String,
    },
}

/// `quorate namespace`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Make a namespace.
    Create {
        /// Its name.
        name: String,
    },
}

/// `quorate mount`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MountCommand {
    /// Make a mount: it decides what every secret below it is sealed to. Pins that in cluster.toml.
    Create {
        /// NAMESPACE/MOUNT, as in default/app.
        name: String,
        /// cluster: t members open; customer: t members and the customer.
        #[arg(long, value_enum, default_value = "cluster")]
        class: Class,
        /// The id of a customer key; once for each that opening is to take. For class customer.
        #[arg(long = "customer-key", value_name = "ID")]
        customer_keys: Vec<CustomerKeyId>,
    },
    /// List the mounts of a namespace.
    List {
        /// The namespace.
        #[arg(default_value = "default")]
        namespace: String,
    },
}

/// What opening takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Class {
    /// t members.
    Cluster,
    /// t members and the customer.
    Customer,
}

/// Runs `quorate customer-key`.
pub(crate) async fn customer_key(
    command: CustomerKeyCommand,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    let CustomerKeyCommand::Register { customer, name } = command;
    let folder = CustomerFolder(customer);
    let (public, owner) = (folder.public()?, folder.owner(passphrases)?);
    let client = connection.client()?;
    let done = client.register_customer_key(&name, &public, &owner).await?;
    let mut profile = client.profile().clone();
    let id = public.id();
    if profile.customer_key(&id).is_none() {
        profile.customer_keys.push(public);
        save_profile(connection.profile_path()?, &profile)?;
    }
    output.show(&json!({ "name": name, "customer_key_id": hex(&id), "index": done.index }), || {
        let id = hex(&id);
        format!(
            "customer key {name} is {id}\nnext: quorate mount create default/vault --class customer --customer-key {id}"
        )
    })
}

/// Runs `quorate namespace`.
pub(crate) async fn namespace(
    command: NamespaceCommand,
    connection: &Connection,
    output: Format,
) -> anyhow::Result<()> {
    let NamespaceCommand::Create { name } = command;
    let done = connection.client()?.create_namespace(&name).await?;
    output.show(&json!({ "name": name, "index": done.index }), || format!("namespace {name} is made"))
}

/// Runs `quorate mount`.
pub(crate) async fn mount(command: MountCommand, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        MountCommand::Create { name, class, mut customer_keys } => {
            let (namespace, mount) =
                name.rsplit_once('/').context("the name of a mount is NAMESPACE/MOUNT, as in default/app")?;
            let mut profile = client.profile().clone();
            let keyring = keyring_of(&profile, class)?;
            customer_keys.sort_unstable();
            for id in &customer_keys {
                if profile.customer_key(&id.0).is_none() {
                    let hint = "register it, or add it to cluster.toml after comparing it with the customer";
                    return Err(Stop::refused(
                        "not_pinned",
                        format!("customer key {id} is not pinned in cluster.toml"),
                        hint,
                    ));
                }
            }
            let done = client.create_mount(namespace, mount, keyring, &customer_keys).await?;
            profile.mounts.push(PinnedMount {
                namespace: namespace.to_owned(),
                mount: mount.to_owned(),
                keyring: keyring.to_string(),
                customer_keys: customer_keys.iter().map(ToString::to_string).collect(),
            });
            save_profile(connection.profile_path()?, &profile)?;
            let document =
                json!({ "namespace": namespace, "mount": mount, "keyring": keyring.to_string(), "index": done.index });
            output.show(&document, || {
                format!("mount {mount} of namespace {namespace} is made, and pinned in cluster.toml")
            })
        }
        MountCommand::List { namespace } => {
            let mounts = client.mounts(&namespace).await?.mounts;
            let customers = |ids: &[Vec<u8>]| ids.iter().map(|id| hex(id)).collect::<Vec<_>>();
            let document = json!({ "namespace": namespace, "mounts": mounts.iter().map(|m| json!({
                "name": m.name, "keyring": hex(&m.keyring_id), "customer_keys": customers(&m.customer_key_ids),
            })).collect::<Vec<_>>() });
            output.show(&document, || {
                let row = |m: &quorate_api::vault::Mount| {
                    [m.name.clone(), hex(&m.keyring_id), customers(&m.customer_key_ids).join(",")]
                };
                table(["MOUNT", "KEYRING", "CUSTOMER KEYS"], mounts.iter().map(row))
            })
        }
    }
}

fn keyring_of(profile: &Profile, class: Class) -> anyhow::Result<KeyringId> {
    if class == Class::Cluster {
        return cluster_keyring(profile);
    }
    let ring = profile.keyrings.iter().find(|k| k.class == KeyringClass::Customer);
    ring.map(|k| KeyringId(k.id())).ok_or_else(|| {
        let hint = "run `quorate keyring create`, and use the cluster.toml that it writes";
        Stop::refused("not_pinned", "cluster.toml pins no keyring of class customer", hint)
    })
}
