//! `quorate target`: the systems in which leases make logins.

use crate::connection::Connection;
use crate::duration::instant;
use crate::effect::Effect;
use crate::failure::Stop;
use crate::output::{Format, UNEXPLAINED, printable, progress, table};
use crate::passphrase::Passphrases;
use crate::policy::Signers;
use crate::secret::password;
use quorate_api::client::{Client, Endpoint, Profile, Revision, System, TargetSpec, TargetTls};
use quorate_api::vault::{Leftover, Target, TargetProof};
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyring::KeyringClass;
use quorate_engines::Missing;
use quorate_state::change::Change;
use quorate_state::ids::{KeyringId, check_label};
use quorate_state::outcome::Outcome;
use quorate_state::target::{Standing, is_loopback};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a proof may take: the cluster gives up before.
const PROOF: Duration = Duration::from_secs(60);

/// `quorate target`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TargetCommand {
    /// Describe a server, and have the cluster prove that it can issue a credential there, use it, and revoke it. What is
    /// not given is asked for. The password of the administrative login is sealed here, and opened by t members together only.
    Add(Box<Add>),
    /// Have the cluster prove again that it can issue, use and revoke there, and say what is missing.
    Check {
        /// Its name.
        name: String,
    },
    /// List the targets.
    List,
    /// Show a target and what was found out about it.
    Show {
        /// Its name.
        name: String,
    },
    /// End every lease at a target, and remove the target with the last of them.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        effect: Effect,
    },
    /// Say what the password of a target's administrative login is now, after it was changed there. It is sealed here, and taken up
    /// by the cluster without a restart; then the cluster proves the target again.
    Password {
        /// Its name.
        name: String,
        /// Read it from the first line of this file.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Describe it anew: what is given, and the rest stays. Nothing is issued there until it is proved, which is done at once.
    /// Administrators sign that: whoever says where the vault logs in could be given its password there.
    Change(Box<Revised>),
    /// Say that this cluster is the one that counts, at a target that has seen more of it than it knows: after a restore, or when
    /// a copy of it has run elsewhere. `target show` says what that ends.
    TakeOver {
        /// Its name.
        name: String,
        /// The count that `target show` shows: what is taken over is what was looked at.
        #[arg(long)]
        counter: u64,
        #[command(flatten)]
        signers: Signers,
    },
}

/// `quorate target add`.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Its name.
    name: Option<String>,
    /// What kind of system it is: postgresql, mariadb, redis, rabbitmq, webhook, aws, kubernetes.
    #[arg(long, value_name = "SYSTEM")]
    system: Option<System>,
    /// Where the receiver of webhooks is, in place of host, port and database: https://HOST[:PORT][/PATH].
    #[arg(long, value_name = "URL", value_parser = receiver, conflicts_with_all = ["host", "port", "database"])]
    url: Option<Receiver>,
    /// Host name or address.
    #[arg(long)]
    host: Option<String>,
    /// Port.
    #[arg(long)]
    port: Option<u16>,
    /// The database to connect to. At MariaDB and RabbitMQ the one that clients are told; of a receiver the path.
    #[arg(long)]
    database: Option<String>,
    /// The administrative login. A receiver has none: it is told by the secret who asks.
    #[arg(long)]
    user: Option<String>,
    /// A further database of the server in which leased logins may own something; once for each.
    #[arg(long = "also-database", value_name = "DATABASE")]
    databases: Vec<String>,
    /// A hot standby that clients can log in to (HOST:PORT); once for each. No lease is called revoked before it was looked at.
    #[arg(long = "standby", value_name = "HOST:PORT", value_parser = endpoint)]
    standbys: Vec<Endpoint>,
    /// Give what leased logins own to this role, which has no rights, instead of dropping it.
    #[arg(long, value_name = "ROLE", default_value = "")]
    owner: String,
    /// Certificates (PEM) of which one must have issued the server's; without any, the server must be on each node's own
    /// machine, and is spoken to in clear.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// What the server's certificate must be for, when that is not HOST.
    #[arg(long, value_name = "NAME", requires = "ca_file")]
    server_name: Option<String>,
    /// `require`: the login must be bound to the server's certificate (SCRAM-SHA-256-PLUS). `prefer`: where the server
    /// offers it.
    ///
    /// PostgreSQL only, where `require` is the default.
    #[arg(long, value_name = "HOW")]
    channel_binding: Option<ChannelBinding>,
    /// Read its password from the first line of this file.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Have the vault replace the password by one that nobody knows, and again in each term of office of an executor. Give the vault a
    /// login of its own then. Asked for on a terminal.
    #[arg(long)]
    rotate: bool,
    /// Leave the password as it is.
    #[arg(long, conflicts_with = "rotate")]
    no_rotate: bool,
    /// Have each statement of the vault wait until the server's synchronous standbys have applied it, so that none of them lets in whom
    /// the primary no longer does; without, until they have written it. While none of them does, nothing is made or ended there.
    #[arg(long)]
    remote_apply: bool,
    /// Tell clients to come here (HOST:PORT) and not to where the vault works: to a pooler, by a name of their network.
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    clients_at: Option<Endpoint>,
    /// Describe it only. No lease is issued there until `quorate target check` has succeeded.
    #[arg(long)]
    unproved: bool,
}

/// `quorate target change`.
#[derive(Debug, clap::Args)]
pub(crate) struct Revised {
    /// Its name.
    name: String,
    /// Host name or address of the same server; only while nothing is leased there.
    #[arg(long)]
    host: Option<String>,
    /// Its port; only while nothing is leased there.
    #[arg(long)]
    port: Option<u16>,
    /// The database to connect to; of a receiver the path, only while nothing is leased there.
    #[arg(long)]
    database: Option<String>,
    /// A further database of the server in which leased logins may own something; once for each, in place of all before.
    #[arg(long = "also-database", value_name = "DATABASE")]
    databases: Vec<String>,
    /// There is none any more.
    #[arg(long, conflicts_with = "databases")]
    no_databases: bool,
    /// A hot standby that clients can log in to (HOST:PORT); once for each, in place of all before.
    #[arg(long = "standby", value_name = "HOST:PORT", value_parser = endpoint)]
    standbys: Vec<Endpoint>,
    /// There is none any more.
    #[arg(long, conflicts_with = "standbys")]
    no_standbys: bool,
    /// Give what leased logins own to this role, which has no rights; empty to drop it.
    #[arg(long, value_name = "ROLE")]
    owner: Option<String>,
    /// Certificates (PEM) of which one must have issued the server's, in place of all before: give the old and the new one while
    /// they are exchanged.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// What the server's certificate must be for, when that is not its host.
    #[arg(long, value_name = "NAME", requires = "ca_file")]
    server_name: Option<String>,
    /// As of `target add`.
    #[arg(long, value_name = "HOW", requires = "ca_file")]
    channel_binding: Option<ChannelBinding>,
    /// Have the vault replace the password from now on.
    #[arg(long)]
    rotate: bool,
    /// Leave the password as it is from now on.
    #[arg(long, conflicts_with = "rotate")]
    no_rotate: bool,
    /// Have statements wait until synchronous standbys have applied them.
    #[arg(long)]
    remote_apply: bool,
    /// Have them wait until they are written there only.
    #[arg(long, conflicts_with = "remote_apply")]
    no_remote_apply: bool,
    /// As of `target add`.
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    clients_at: Option<Endpoint>,
    /// Tell clients to come to where the vault works.
    #[arg(long, conflicts_with = "clients_at")]
    no_clients_at: bool,
    #[command(flatten)]
    signers: Signers,
}

impl Revised {
    fn revision(self, system: System) -> anyhow::Result<Revision> {
        let tls = match self.ca_file {
            Some(path) => Some(TargetTls {
                roots: roots(&path)?,
                server_name: self.server_name.unwrap_or_default(),
                require_binding: binds(self.channel_binding, system),
            }),
            None => None,
        };
        Ok(Revision {
            host: self.host,
            port: self.port,
            database: self.database,
            tls,
            databases: (self.no_databases || !self.databases.is_empty()).then_some(self.databases),
            standbys: (self.no_standbys || !self.standbys.is_empty()).then_some(self.standbys),
            owner: self.owner,
            rotate: (self.rotate || self.no_rotate).then_some(self.rotate),
            remote_apply: (self.remote_apply || self.no_remote_apply).then_some(self.remote_apply),
            clients: (self.no_clients_at || self.clients_at.is_some()).then_some(self.clients_at),
        })
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (host, port) = text.rsplit_once(':').ok_or("must be HOST:PORT")?;
    let port = port.parse().map_err(|_| "the port must be 1 to 65535")?;
    Ok(Endpoint { host: host.trim_matches(['[', ']']).to_owned(), port })
}

/// Where a receiver of webhooks is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Receiver {
    host: String,
    port: u16,
    /// Empty, or from its first slash.
    path: String,
}

/// What it may consist of is for the cluster to say.
fn receiver(url: &str) -> Result<Receiver, String> {
    let rest = url.strip_prefix("https://").ok_or("must be https://HOST[:PORT][/PATH]")?;
    let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    // An IPv6 address has colons too, in brackets.
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let Endpoint { host, port } =
        if has_port { endpoint(place)? } else { endpoint(&format!("{place}:{}", usual_port(System::Webhook)))? };
    Ok(Receiver { host, port, path: path.trim_end_matches('/').to_owned() })
}

/// Whether a login must be bound to the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ChannelBinding {
    Require,
    Prefer,
}

fn binds(said: Option<ChannelBinding>, system: System) -> bool {
    said.map_or(system == System::PostgreSql, |how| how == ChannelBinding::Require)
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

/// The one pinned keyring of class `cluster`.
pub(crate) fn cluster_keyring(profile: &Profile) -> anyhow::Result<KeyringId> {
    let ring = profile.keyrings.iter().find(|k| k.class == KeyringClass::Cluster);
    ring.map(|k| KeyringId(k.id())).ok_or_else(|| {
        let hint = "run `quorate keyring create`, and use the cluster.toml that it writes";
        Stop::refused("not_pinned", "cluster.toml pins no keyring of class cluster", hint)
    })
}

/// What was given, or is asked for on a terminal until the answer can be one; an empty answer is the default.
fn asked<T>(
    given: Option<T>,
    question: &str,
    default: Option<&str>,
    option: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> anyhow::Result<T> {
    if let Some(given) = given {
        return Ok(given);
    }
    let refuse = |why: &str| {
        let hint = format!("give {option}, or run the command on a terminal, where it asks");
        Stop::refused("invalid_argument", format!("{question}: {why}"), hint)
    };
    let (stdin, terminal) = (std::io::stdin(), std::io::stdin().is_terminal());
    loop {
        let mut line = String::new();
        if terminal {
            let shown = default.map_or_else(String::new, |default| format!(" [{default}]"));
            // Nobody may be reading it.
            let _ = write!(std::io::stderr(), "{question}{shown}: ");
            if stdin.lock().read_line(&mut line)? == 0 {
                return Err(refuse("the input has ended"));
            }
        }
        let answer = match (line.trim(), default) {
            ("", Some(default)) => read(default),
            ("", None) => Err("nothing was given".to_owned()),
            (answer, _) => read(answer),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(why) if terminal => {
                let _ = writeln!(std::io::stderr(), "{why}");
            }
            Err(why) => return Err(refuse(&why)),
        }
    }
}

/// What `quorate target add` asks.
const ROTATE: &str = "Have the vault replace the password whenever another node works with it? Nobody will know it then, so the login should be the vault's own";

/// The answer to a question on a terminal, yes unless it is no; no where nobody can be asked.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    asked(None, question, Some("yes"), "--rotate or --no-rotate", |answer| match answer.to_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("yes or no".to_owned()),
    })
}

/// Runs `quorate target`.
pub(crate) async fn target(
    command: TargetCommand,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        TargetCommand::Add(add) => self::add(*add, &client, output).await,
        TargetCommand::Check { name } => {
            let system = system_of(&find(&client, &name).await?.0)?;
            let proof = prove(&client, &name).await?;
            judge(&name, system, &proof)?;
            output.show(&json!({ "name": name, "proof": proof_document(&proof) }), || proved(&name, &proof))
        }
        TargetCommand::List => {
            let targets = client.roles().await?.targets;
            let document = json!({ "targets": targets.iter().map(document).collect::<Vec<_>>() });
            output.show(&document, || {
                let rows = targets.iter().map(|t| {
                    let ending = t.leases_due.saturating_add(t.leases_asked);
                    let oldest = if t.oldest_revoking == 0 { "-".to_owned() } else { instant(t.oldest_revoking) };
                    let at = place(&t.host, t.port, &t.database);
                    let standing = if t.quarantine.is_some() { "QUARANTINED".to_owned() } else { t.standing.clone() };
                    let (active, ending) = (t.leases_active.to_string(), ending.to_string());
                    let rotated = match (t.rotate, t.rotated_at) {
                        (false, _) => "no".to_owned(),
                        (true, 0) => "never yet".to_owned(),
                        (true, at) => instant(at),
                    };
                    let user = if t.user.is_empty() { "-".to_owned() } else { t.user.clone() };
                    let (name, tls) = (t.name.clone(), protection(t).to_owned());
                    [name, standing, at, user, tls, rotated, active, ending, oldest]
                });
                let header =
                    ["TARGET", "STANDING", "WHERE", "USER", "TLS", "ROTATED", "ACTIVE", "ENDING", "OLDEST END SINCE"];
                table(header, rows)
            })
        }
        TargetCommand::Show { name } => {
            let (found, explained) = find(&client, &name).await?;
            let mut document = document(&found);
            // Null, where nobody has said.
            let left = |l: &Leftover| json!({ "login": l.login, "why": l.why });
            let left = explained.then(|| found.leftovers.iter().map(left).collect::<Vec<_>>());
            if let Some(fields) = document.as_object_mut() {
                fields.insert("trouble".to_owned(), json!(explained.then_some(&found.trouble)));
                fields.insert("leftovers".to_owned(), json!(left));
                fields.insert("ghosts".to_owned(), json!(explained.then_some(&found.ghosts)));
            }
            output.show(&document, || shown(&found, explained))
        }
        TargetCommand::Remove { name, effect } => {
            let done = client.change(Change::DeleteTarget { name: name.clone() }).await?;
            let ended = if let Outcome::Leases { changed } = &done.outcome { changed.len() } else { 0 };
            let effect = effect.seen_by(&client, &done).await?;
            let gone = !client.roles().await?.targets.iter().any(|t| t.name == name);
            let document = json!({ "name": name, "index": done.index, "leases_ended": ended, "removed": gone, "effect": effect.document() });
            output.show(&document, || match gone {
                true => format!("target {name} is removed\n{effect}"),
                false => format!(
                    "nothing is issued at target {name} any more; it goes when its last lease is proved to be revoked: quorate lease list --target {name}\n{effect}"
                ),
            })
        }
        TargetCommand::Password { name, password_file } => {
            let (found, _) = find(&client, &name).await?;
            let keyring = cluster_keyring(client.profile())?;
            let question =
                format!("{} now: ", whose(system_of(&found)?, &found.user, &place(&found.host, found.port, "")));
            let password = password(password_file.as_deref(), &question)?;
            let done = client.replace_password(&name, password.expose(), keyring).await?;
            if found.standing == Standing::Removing.to_string() {
                return output.show(&json!({ "name": name, "index": done.index }), || {
                    format!("target {name}: the vault logs in with this password from now on")
                });
            }
            let proof = prove(&client, &name).await?;
            judge(&name, system_of(&found)?, &proof)?;
            let document = json!({ "name": name, "index": done.index, "proof": proof_document(&proof) });
            output.show(&document, || proved(&name, &proof))
        }
        TargetCommand::Change(revised) => change(*revised, &client, passphrases, output).await,
        TargetCommand::TakeOver { name, counter, signers } => {
            let keys = signers.open(passphrases)?;
            let keys: Vec<&SigningKey> = keys.iter().collect();
            let done = client.administer_now(Change::TakeOver { target: name.clone(), counter }, &keys).await?;
            output.show(&json!({ "name": name, "counter": counter, "index": done.index }), || {
                format!("this cluster goes on at target {name}: what is there and what no lease here knows of is being ended")
            })
        }
    }
}

async fn add(add: Add, client: &Client, output: Format) -> anyhow::Result<()> {
    let label = |text: &str| check_label(text).map(|()| text.to_owned()).map_err(|why| why.to_string());
    let port = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text}: is no port: give a number between 1 and 65535")),
        Ok(port) => Ok(port),
    };
    let any = |text: &str| Ok(text.to_owned());
    let name = asked(add.name, "Name of the target", None, "NAME", label)?;
    let which = |text: &str| text.parse::<System>().map_err(|why| why.to_string());
    let system = match add.system {
        None if add.url.is_some() => System::Webhook,
        // Those who have said where it is have said all that there was to say before there were others.
        None if add.host.is_some() => System::PostgreSql,
        given => asked(given, "What kind of system it is", Some(System::PostgreSql.name()), "--system SYSTEM", which)?,
    };
    if add.url.is_some() && system != System::Webhook {
        let hint = "say where it is with --host and --port";
        return Err(Stop::refused("invalid_argument", format!("--url: a target of {system} has none"), hint));
    }
    let (host, port, database) = if system == System::Webhook && add.host.is_none() {
        let at = asked(add.url, "URL of the receiver", None, "--url https://HOST:PORT/PATH", receiver)?;
        (at.host, at.port, at.path)
    } else {
        let host = asked(add.host, &format!("Host of the {system} server"), None, "--host HOST", any)?;
        let port = asked(add.port, "Port", Some(usual_port(system)), "--port PORT", port)?;
        let database = match system {
            System::PostgreSql => {
                asked(add.database, "Database to connect to", Some("postgres"), "--database DATABASE", any)?
            }
            System::Aws => asked(add.database, "Region", None, "--database REGION", any)?,
            System::Kubernetes => asked(add.database, "Namespace", Some("default"), "--database NAMESPACE", any)?,
            _ => add.database.unwrap_or_default(),
        };
        (host, port, database)
    };
    let user = match system {
        System::Aws => asked(add.user, "ARN of the vault's IAM user", None, "--user ARN", any)?,
        system if system.has_login() => asked(add.user, "Administrative login", None, "--user LOGIN", any)?,
        _ => add.user.unwrap_or_default(),
    };
    let here = is_loopback(&host) && add.standbys.iter().all(|standby| is_loopback(&standby.host));
    let roots = match add.ca_file {
        Some(path) => Some(roots(&path)?),
        // In clear to each node's own machine, and nowhere else.
        None if here && !system.needs_tls() => None,
        None => {
            let read = |path: &str| roots(Path::new(path)).map_err(|why| why.to_string());
            Some(asked(
                None,
                "File of root certificates (PEM), of which one has issued the server's",
                None,
                "--ca-file FILE",
                read,
            )?)
        }
    };
    let tls = roots.map(|roots| TargetTls {
        roots,
        server_name: add.server_name.unwrap_or_default(),
        require_binding: binds(add.channel_binding, system),
    });
    let keyring = cluster_keyring(client.profile())?;
    let question = format!("{}: ", whose(system, &user, &place(&host, port.into(), "")));
    let password = password(add.password_file.as_deref(), &question)?;
    let rotate = !add.no_rotate && (add.rotate || system.rotates() && confirmed(ROTATE)?);
    let spec = TargetSpec {
        system,
        host,
        port,
        database,
        user,
        tls,
        databases: add.databases,
        standbys: add.standbys,
        owner: add.owner,
        rotate,
        remote_apply: add.remote_apply,
        clients: add.clients_at,
    };
    let done = client.put_target(&name, &spec, password.expose(), keyring).await?;
    if add.unproved {
        return output.show(&json!({ "name": name, "index": done.index }), || {
            format!("target {name} is described; nothing is issued there before: quorate target check {name}")
        });
    }
    let proof = prove(client, &name).await?;
    judge(&name, system, &proof)?;
    output.show(&json!({ "name": name, "index": done.index, "proof": proof_document(&proof) }), || {
        format!(
            "{}next: quorate role add NAME --target {name} --group GROUP --ttl 1h --max-ttl 24h",
            proved(&name, &proof)
        )
    })
}

fn usual_port(system: System) -> &'static str {
    match system {
        System::PostgreSql => "5432",
        System::MariaDb => "3306",
        System::Redis => "6379",
        System::RabbitMq => "15671",
        System::Webhook | System::Aws => "443",
        System::Kubernetes => "6443",
    }
}

async fn change(revised: Revised, client: &Client, passphrases: &Passphrases, output: Format) -> anyhow::Result<()> {
    let name = revised.name.clone();
    let keys = revised.signers.open(passphrases)?;
    let (found, _) = find(client, &name).await?;
    let revision = revised.revision(system_of(&found)?)?;
    if revision == Revision::default() {
        let hint = "say what is to change: quorate target change --help";
        return Err(Stop::refused("invalid_argument", format!("nothing is changed at target {name}"), hint.to_owned()));
    }
    let keys: Vec<&SigningKey> = keys.iter().collect();
    let done = client.administer_now(Change::ReviseTarget { name: name.clone(), revision }, &keys).await?;
    if found.standing == Standing::Removing.to_string() {
        return output.show(&json!({ "name": name, "index": done.index }), || {
            format!("target {name}: what is left there is ended by this description from now on")
        });
    }
    let proof = prove(client, &name).await?;
    judge(&name, system_of(&found)?, &proof)?;
    let document = json!({ "name": name, "index": done.index, "proof": proof_document(&proof) });
    output.show(&document, || proved(&name, &proof))
}

/// Has the cluster find out, and says that it does.
pub(crate) async fn prove(client: &Client, name: &str) -> anyhow::Result<TargetProof> {
    say_that_it_is_proved(name);
    Ok(client.prove_target(name, PROOF).await?)
}

/// What the cluster finds out about a target at which a role was described at a log index. An enabled one is looked at because of that;
/// any other is asked.
pub(crate) async fn prove_with_role(client: &Client, name: &str, index: u64) -> anyhow::Result<TargetProof> {
    let found = client.roles().await?.targets.into_iter().find(|target| target.name == name);
    if found.is_none_or(|target| target.asked < index) {
        return prove(client, name).await;
    }
    say_that_it_is_proved(name);
    Ok(client.found_out(name, index, PROOF).await?)
}

fn say_that_it_is_proved(name: &str) {
    progress(format_args!("target {name}: looking at its rights, then issuing, using and revoking one credential"));
}

/// Stops with what is missing.
fn judge(name: &str, system: System, proof: &TargetProof) -> anyhow::Result<()> {
    if proof.missing.is_empty() && proof.failed.is_empty() {
        return Ok(());
    }
    let hint = format!("mend it, then: quorate target check {name}");
    Err(Stop::refused("target_not_enabled", findings(name, system, proof), hint))
}

/// What a target's administrator does with what is missing, and what ends a statement there.
fn remedy(system: System) -> (&'static str, &'static str) {
    match system {
        System::PostgreSql => ("run there in psql, as its administrator", ";"),
        System::MariaDb => ("run there in mariadb, as its administrator", ";"),
        System::Redis => ("run there in redis-cli, as its administrator", ""),
        System::RabbitMq => ("run there in a shell of its server", ""),
        // Nothing to paste: each is a sentence.
        System::Webhook => ("its receiver is to", ""),
        System::Aws => ("add these policies to the vault's IAM user", ""),
        System::Kubernetes => ("apply there with kubectl", ""),
    }
}

/// What is wrong with a target, for people: what is missing can be pasted.
pub(crate) fn findings(name: &str, system: System, proof: &TargetProof) -> String {
    let mut text = format!("target {name} does not do what leases need");
    // Writing into a String cannot fail.
    for failed in &proof.failed {
        let _ = write!(text, "\n  {failed}");
    }
    if !proof.missing.is_empty() {
        let missing: Vec<Missing> = proof.missing.iter().map(|text| Missing::parse(text)).collect();
        let (remedy, end) = remedy(system);
        let _ = write!(text, "\n{remedy}:\n\n{}", Missing::script(&missing, end));
    }
    text
}

fn proved(name: &str, proof: &TargetProof) -> String {
    let mut text = format!(
        "target {name} is enabled: a credential was issued there, used, and revoked (server version {})\n",
        proof.version
    );
    for note in &proof.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// A target, and whether it is known why ends wait there.
async fn find(client: &Client, name: &str) -> anyhow::Result<(Target, bool)> {
    let all = client.explained_roles().await?;
    let found = all.targets.into_iter().find(|t| t.name == name).map(|t| (t, all.explained));
    found.ok_or_else(|| {
        Stop::refused("not_found", format!("there is no target {name}"), "list them with `quorate target list`")
    })
}

/// What kind of system a target is.
pub(crate) fn system_of(t: &Target) -> anyhow::Result<System> {
    t.system.parse().map_err(|_| {
        let what = format!("target {} is of a kind of system, `{}`, that this version does not know", t.name, t.system);
        Stop::refused("version_mismatch", what, "use the version of the cluster's members")
    })
}

fn protection(t: &Target) -> &'static str {
    match (t.tls, t.channel_binding) {
        (false, _) => "none",
        (true, true) => "verified, bound",
        (true, false) => "verified",
    }
}

fn proof_document(proof: &TargetProof) -> Value {
    json!({
        "asked": proof.asked, "at": proof.at, "version": proof.version, "timeline": proof.timeline,
        "missing": proof.missing, "failed": proof.failed, "notes": proof.notes,
    })
}

fn document(t: &Target) -> Value {
    json!({
        "name": t.name, "system": t.system, "standing": t.standing, "host": t.host, "port": t.port, "database": t.database, "user": t.user,
        "databases": t.databases, "standbys": t.standbys, "owner": t.owner,
        "tls": t.tls, "server_name": t.server_name, "channel_binding": t.channel_binding,
        "leases": { "intent": t.leases_intent, "active": t.leases_active, "due": t.leases_due, "asked": t.leases_asked },
        "oldest_revoking": t.oldest_revoking,
        "remote_apply": t.remote_apply, "clients_at": t.clients,
        "rotate": t.rotate, "rotated": { "index": t.rotated_index, "at": t.rotated_at }, "rotating": t.rotating,
        "password_index": t.password_index,
        "proof": t.proof.as_ref().map(proof_document),
        "quarantine": t.quarantine.as_ref().map(|q| json!({
            "counter": q.counter, "index": q.index, "unknown": q.unknown, "missing": q.missing, "sample": q.sample,
        })),
    })
}

/// Where a login is used. What is a path already begins with its slash.
pub(crate) fn place(host: &str, port: u32, database: &str) -> String {
    let slash = if database.is_empty() || database.starts_with('/') { "" } else { "/" };
    format!("{host}:{port}{slash}{database}")
}

/// Of which password a person is asked.
fn whose(system: System, user: &str, place: &str) -> String {
    match system {
        System::Aws => format!("Access key of {user}: its id, a space, its secret"),
        System::Kubernetes => format!("Token of {user} at {place}"),
        _ if user.is_empty() => format!("Secret that is shared with {place}"),
        _ => format!("Password of {user} at {place}"),
    }
}

/// What is known of a target's password.
fn rotation(t: &Target) -> String {
    let last = match t.rotated_index {
        0 => "never rotated yet".to_owned(),
        index => format!("last rotated {} (log index {index})", instant(t.rotated_at)),
    };
    match (t.rotate, t.rotating) {
        (false, _) => "is not rotated".to_owned(),
        (true, false) => last,
        (true, true) => format!("{last}; being rotated"),
    }
}

fn commits(t: &Target) -> &'static str {
    if t.remote_apply { "synchronous standbys have applied them" } else { "synchronous standbys have written them" }
}

/// How many are shown to people.
const MOST_LEFTOVERS: usize = 20;

fn shown(t: &Target, explained: bool) -> String {
    let list = |items: &[String], none: &str| if items.is_empty() { none.to_owned() } else { items.join(", ") };
    let ending = t.leases_due.saturating_add(t.leases_asked);
    let owner = if t.owner.is_empty() { "is dropped".to_owned() } else { format!("goes to {}", t.owner) };
    let at = place(&t.host, t.port, &t.database);
    let mut rows = vec![
        ["target".to_owned(), t.name.clone()],
        ["system".to_owned(), t.system.clone()],
        ["standing".to_owned(), t.standing.clone()],
        ["where".to_owned(), if t.user.is_empty() { at } else { format!("{at} as {}", t.user) }],
        ["protection".to_owned(), protection(t).to_owned()],
    ];
    if !t.clients.is_empty() {
        rows.push(["clients come to".to_owned(), t.clients.clone()]);
    }
    if t.system == System::PostgreSql.name() {
        rows.extend([
            ["standbys".to_owned(), list(&t.standbys, "none: sessions are looked for at the primary only")],
            ["also cleaned up in".to_owned(), list(&t.databases, "-")],
            ["what logins own".to_owned(), owner],
            ["commits wait until".to_owned(), commits(t).to_owned()],
        ]);
    }
    rows.extend([
        ["password".to_owned(), rotation(t)],
        ["leases".to_owned(), format!("{} active, {ending} ending, {} being made", t.leases_active, t.leases_intent)],
    ]);
    if t.oldest_revoking > 0 {
        rows.push(["oldest end since".to_owned(), instant(t.oldest_revoking)]);
    }
    if !t.trouble.is_empty() {
        rows.push(["ends wait because".to_owned(), printable(&t.trouble)]);
    } else if ending > 0 && !explained {
        rows.push(["ends wait because".to_owned(), UNEXPLAINED.to_owned()]);
    }
    if !t.leftovers.is_empty() {
        rows.push([
            "not cleaned up".to_owned(),
            format!("after {} logins that have ended, see below", t.leftovers.len()),
        ]);
    }
    if let Some(proof) = &t.proof {
        let good = proof.missing.is_empty() && proof.failed.is_empty();
        let how = if good { "issued, used and revoked" } else { "not good" };
        let what = format!("{how}, {} (version {}, timeline {})", instant(proof.at), proof.version, proof.timeline);
        rows.push(["proof".to_owned(), what]);
    }
    let mut text = table(["", ""], rows);
    if let Some(proof) = t.proof.as_ref().filter(|p| !p.missing.is_empty() || !p.failed.is_empty()) {
        let _ = write!(text, "\n\n{}", findings(&t.name, system_of(t).unwrap_or_default(), proof));
    }
    for left in t.leftovers.iter().take(MOST_LEFTOVERS) {
        let _ = write!(text, "\n{} has left: {}", printable(&left.login), printable(&left.why));
    }
    if t.leftovers.len() > MOST_LEFTOVERS {
        let _ = write!(text, "\nand {} more: --output json shows all", t.leftovers.len() - MOST_LEFTOVERS);
    }
    for ghost in &t.ghosts {
        let _ = write!(text, "\nnobody accounts for a session: {}", printable(ghost));
    }
    if let Some(q) = &t.quarantine {
        let _ = write!(
            text,
            "\n\nQUARANTINED since log index {}: the target has seen term of office {} of this cluster, of which this cluster knows nothing. \
             It was rolled back, or a copy of it has run.\nNothing is issued, honoured or ended there. Taking over would end {} logins that no lease here \
             knows of{}; {} leases are active here whose login is not there.\n\n  quorate target take-over {} --counter {}",
            q.index,
            q.counter,
            q.unknown,
            if q.sample.is_empty() { String::new() } else { format!(" ({} ...)", q.sample.join(", ")) },
            q.missing,
            t.name,
            q.counter
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_a_host_and_a_port() {
        let at = |host: &str, port| Ok(Endpoint { host: host.to_owned(), port });
        assert_eq!(endpoint("db.example.org:5433"), at("db.example.org", 5433));
        assert_eq!(endpoint("[::1]:5433"), at("::1", 5433));
        for bad in ["", "db", "db:", "db:x", "db:65536"] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_receiver_is_where_its_url_says() {
        let at = |host: &str, port, path: &str| Ok(Receiver { host: host.to_owned(), port, path: path.to_owned() });
        assert_eq!(receiver("https://shop.example.org:8443/vault"), at("shop.example.org", 8443, "/vault"));
        assert_eq!(receiver("https://shop.example.org"), at("shop.example.org", 443, ""));
        assert_eq!(receiver("https://shop.example.org/"), at("shop.example.org", 443, ""));
        assert_eq!(receiver("https://[::1]/a/b/"), at("::1", 443, "/a/b"));
        assert_eq!(receiver("https://[::1]:8443"), at("::1", 8443, ""));
        for bad in ["", "http://shop", "shop.example.org", "HTTPS://shop", "https://shop:", "https://shop:65536/x"] {
            assert!(receiver(bad).is_err(), "{bad:?}");
        }
        // What is no host and no path is sent, and refused.
        assert_eq!(receiver("https://a@b/c?d"), at("a@b", 443, "/c?d"));
    }

    #[test]
    fn what_is_missing_can_be_pasted() {
        let proof = TargetProof {
            missing: ["A -- in database app", "B -- in database more", "C -- in database app"]
                .map(str::to_owned)
                .to_vec(),
            failed: vec!["it burns".to_owned()],
            ..TargetProof::default()
        };
        let text = findings("db", System::PostgreSql, &proof);
        let script = "\n\n\\connect \"app\"\nA;\nC;\n\\connect \"more\"\nB;\n";
        assert!(text.contains("\n  it burns\n") && text.ends_with(script), "{text}");
    }
}
