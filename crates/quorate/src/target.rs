//! `quorate target` and `quorate role`: the systems in which leases make logins, and what a lease gets there.

use crate::connection::Connection;
use crate::duration;
use crate::effect::Effect;
use crate::failure::Stop;
use crate::output::{Format, table};
use crate::secret::password;
use quorate_api::client::{Profile, RoleDescription, TargetDescription, TargetTls};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::change::Change;
use quorate_state::ids::{KeyringId, Millis};
use quorate_state::outcome::Outcome;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `quorate target`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TargetCommand {
    /// Describe a PostgreSQL server. The password of the administrative login is asked for, sealed here, and opened by
    /// t members together only.
    Add {
        /// Its name.
        name: String,
        /// Host name or address.
        #[arg(long)]
        host: String,
        /// Port.
        #[arg(long, default_value_t = 5432)]
        port: u16,
        /// The database to connect to.
        #[arg(long, default_value = "postgres")]
        database: String,
        /// The administrative login.
        #[arg(long)]
        user: String,
        /// Certificates (PEM) of which one must have issued the server's; without any, the server must be on each node's own
        /// machine, and is spoken to in clear.
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// What the server's certificate must be for, when that is not HOST.
        #[arg(long, value_name = "NAME", requires = "ca_file")]
        server_name: Option<String>,
        /// `require`: the login must be bound to the server's certificate (SCRAM-SHA-256-PLUS). `prefer`: where the server
        /// offers it.
        #[arg(long, value_name = "HOW", default_value = "require")]
        channel_binding: ChannelBinding,
        /// Read its password from the first line of this file.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// List the targets.
    List,
}

/// Whether a login must be bound to the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ChannelBinding {
    Require,
    Prefer,
}

/// The certificates of a file.
pub(crate) fn roots(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let bad = |why: String| {
        let hint = "give the certificates, in PEM, of which one has issued the server's";
        Stop::refused("invalid_argument", format!("{}: {why}", path.display()), hint)
    };
    let read = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
    let roots =
        read.map(|der| der.map(|der| der.to_vec())).collect::<Result<Vec<_>, _>>().map_err(|e| bad(e.to_string()))?;
    if roots.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// `quorate role`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RoleCommand {
    /// Describe what a lease gets.
    Add(RoleAdd),
    /// List the roles.
    List,
    /// Remove a role and end its leases.
    Delete {
        /// Its name.
        name: String,
        #[command(flatten)]
        effect: Effect,
    },
}

/// `quorate role add`.
#[derive(Debug, clap::Args)]
pub(crate) struct RoleAdd {
    /// Its name.
    name: String,
    /// The target.
    #[arg(long)]
    target: String,
    /// A group role of the target that the login becomes a member of; once for each.
    #[arg(long = "group")]
    groups: Vec<String>,
    /// How long a lease lives when nobody says.
    #[arg(long, value_parser = duration::parse)]
    ttl: Millis,
    /// How long with every renewal.
    #[arg(long, value_parser = duration::parse)]
    max_ttl: Millis,
    /// How many connections a login may have.
    #[arg(long, default_value_t = 4)]
    connections: u16,
    /// How many leases of this role may live at once.
    #[arg(long, default_value_t = 1000)]
    max_leases: u32,
    /// The SCRAM iterations of passwords' verifiers.
    #[arg(long, default_value_t = 4096)]
    scram_iterations: u32,
    #[command(flatten)]
    effect: Effect,
}

/// The one pinned keyring of class `cluster`.
pub(crate) fn cluster_keyring(profile: &Profile) -> anyhow::Result<KeyringId> {
    let ring = profile.keyrings.iter().find(|k| k.class == KeyringClass::Cluster);
    ring.map(|k| KeyringId(k.id())).ok_or_else(|| {
        let hint = "run `quorate keyring create`, and use the cluster.toml that it writes";
        Stop::refused("not_pinned", "cluster.toml pins no keyring of class cluster", hint)
    })
}

/// Runs `quorate target`.
pub(crate) async fn target(command: TargetCommand, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        TargetCommand::Add {
            name,
            host,
            port,
            database,
            user,
            ca_file,
            server_name,
            channel_binding,
            password_file,
        } => {
            let tls = match ca_file {
                Some(path) => Some(TargetTls {
                    roots: roots(&path)?,
                    server_name: server_name.unwrap_or_default(),
                    require_binding: channel_binding == ChannelBinding::Require,
                }),
                None => None,
            };
            let keyring = cluster_keyring(client.profile())?;
            let password = password(password_file.as_deref(), &format!("Password of {user} at {host}:{port}: "))?;
            let description = TargetDescription { name: name.clone(), host, port, database, user, tls };
            let done = client.put_target(&description, password.expose(), keyring).await?;
            output.show(&json!({ "name": name, "index": done.index }), || {
                format!("target {name} is described; next: quorate role add NAME --target {name} --group GROUP --ttl 1h --max-ttl 24h")
            })
        }
        TargetCommand::List => {
            let targets = client.roles().await?.targets;
            let document = json!({ "targets": targets.iter().map(|t| json!({
                "name": t.name, "host": t.host, "port": t.port, "database": t.database, "user": t.user,
                "tls": t.tls, "server_name": t.server_name, "channel_binding": t.channel_binding,
                "leases": { "intent": t.leases_intent, "active": t.leases_active, "due": t.leases_due, "asked": t.leases_asked },
                "oldest_revoking": t.oldest_revoking,
            })).collect::<Vec<_>>() });
            output.show(&document, || {
                let rows = targets.iter().map(|t| {
                    let tls = match (t.tls, t.channel_binding) {
                        (false, _) => "none",
                        (true, true) => "verified, bound",
                        (true, false) => "verified",
                    };
                    let ending = t.leases_due.saturating_add(t.leases_asked);
                    let oldest =
                        if t.oldest_revoking == 0 { "-".to_owned() } else { duration::instant(t.oldest_revoking) };
                    let at = format!("{}:{}/{}", t.host, t.port, t.database);
                    let (active, ending) = (t.leases_active.to_string(), ending.to_string());
                    [t.name.clone(), at, t.user.clone(), tls.to_owned(), active, ending, oldest]
                });
                table(["TARGET", "WHERE", "USER", "TLS", "ACTIVE", "ENDING", "OLDEST END SINCE"], rows)
            })
        }
    }
}

/// Runs `quorate role`.
pub(crate) async fn role(command: RoleCommand, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        RoleCommand::Add(add) => {
            let description = RoleDescription {
                name: add.name.clone(),
                target: add.target,
                groups: add.groups,
                default_ttl: add.ttl,
                max_ttl: add.max_ttl,
                connection_limit: add.connections,
                max_leases: add.max_leases,
                scram_iterations: add.scram_iterations,
            };
            let done = client.put_role(&description).await?;
            let effect = add.effect.seen_by(&client, &done).await?;
            output.show(&json!({ "name": add.name, "index": done.index, "effect": effect.document() }), || {
                format!("role {} is described; next: quorate lease issue {}\n{effect}", add.name, add.name)
            })
        }
        RoleCommand::List => {
            let roles = client.roles().await?.roles;
            let document = json!({ "roles": roles.iter().map(|r| json!({
                "name": r.name, "target": r.target, "groups": r.groups, "ttl": r.default_ttl, "max_ttl": r.max_ttl,
                "connections": r.connection_limit, "max_leases": r.max_leases, "scram_iterations": r.scram_iterations,
                "live_leases": r.live_leases,
            })).collect::<Vec<_>>() });
            output.show(&document, || {
                let rows = roles.iter().map(|r| {
                    let (ttl, max) = (format!("{} s", r.default_ttl / 1_000), format!("{} s", r.max_ttl / 1_000));
                    [r.name.clone(), r.target.clone(), r.groups.join(","), ttl, max, r.live_leases.to_string()]
                });
                table(["ROLE", "TARGET", "GROUPS", "TTL", "MAX TTL", "LEASES"], rows)
            })
        }
        RoleCommand::Delete { name, effect } => {
            let done = client.change(Change::DeleteRole { name: name.clone() }).await?;
            let ended = if let Outcome::Leases { changed } = &done.outcome { changed.len() } else { 0 };
            let effect = effect.seen_by(&client, &done).await?;
            let document =
                json!({ "name": name, "index": done.index, "leases_ended": ended, "effect": effect.document() });
            output.show(&document, || format!("role {name} is removed; {ended} leases are being revoked\n{effect}"))
        }
    }
}
