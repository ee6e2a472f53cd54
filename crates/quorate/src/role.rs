//! `quorate role`: what a lease gets; and `quorate quota`: how many there may be.

use crate::connection::Connection;
use crate::duration;
use crate::effect::Effect;
use crate::failure::Stop;
use crate::output::{Format, table};
use crate::target::{findings, prove_with_role, system_of};
use quorate_api::client::{Form, Role, System};
use quorate_state::change::Change;
use quorate_state::ids::Millis;
use quorate_state::lease::{BadUsername, Subject, Username};
use quorate_state::outcome::Outcome;
use serde_json::json;

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
    /// A group role of the target that the login becomes a member of; once for each. At Redis and RabbitMQ, which have none, a list of rules.
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
    /// The SCRAM iterations of passwords' verifiers, where they have any: 4096 when nobody says.
    #[arg(long)]
    scram_iterations: Option<u32>,
    /// The form of passwords' verifiers: scram-sha-256, mysql_native_password, ed25519, redis-sha256, rabbitmq-sha256; the target's usual one when
    /// nobody says.
    #[arg(long, value_name = "FORM")]
    verifier: Option<String>,
    /// The namespace whose quota its leases count against, and with which they can be ended.
    #[arg(long, default_value = "")]
    namespace: String,
    /// Further statements for each login, `{{name}}` standing for it: `ALTER ROLE {{name}} SET search_path = app`. Separated
    /// by semicolons.
    #[arg(long, value_name = "SQL", default_value = "")]
    statements: String,
    /// What the name of each login ends with, for whoever reads the target's log: `{{role}}_{{identity}}`. `{{namespace}}` is the role's;
    /// `{{role:8}}` is at most 8 bytes of it. The name begins with the lease's id as before, and 20 bytes are left.
    #[arg(long, value_name = "TEMPLATE", value_parser = username)]
    username: Option<String>,
    /// Do not wait for what is found out about the role at the target: `quorate target show` says it later.
    #[arg(long)]
    unproved: bool,
    #[command(flatten)]
    effect: Effect,
}

/// `quorate quota`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum QuotaCommand {
    /// Bound how many leases there may be at once, those that are ending included.
    #[command(group = clap::ArgGroup::new("whose").required(true))]
    Set {
        /// All at this target.
        #[arg(long, group = "whose")]
        target: Option<String>,
        /// Those of the roles of this namespace, and of those below it.
        #[arg(long, group = "whose")]
        namespace: Option<String>,
        /// Those of this identity.
        #[arg(long, group = "whose")]
        owner: Option<String>,
        /// Those of each identity that has no bound of its own.
        #[arg(long, group = "whose")]
        each_identity: bool,
        /// How many, or `none`.
        #[arg(long, value_parser = limit)]
        limit: Bound,
    },
    /// List the bounds. Those of roles are listed with the roles.
    List,
}

/// A bound, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound(Option<u32>);

fn limit(text: &str) -> Result<Bound, String> {
    match text {
        "none" => Ok(Bound(None)),
        number => number.parse().map(|n| Bound(Some(n))).map_err(|_| "must be a number, or `none`".to_owned()),
    }
}

/// The form of a role's verifiers: what was said of it, and the system's own for the rest.
fn form(system: System, name: Option<&str>, iterations: Option<u32>) -> anyhow::Result<Form> {
    let usual = system.default_form();
    let of = |name: &str| Form::named(name, iterations.unwrap_or_else(|| Form::default().iterations()));
    let refuse = |what: String, hint: &str| Err(Stop::refused("invalid_argument", what, hint.to_owned()));
    match of(name.unwrap_or_else(|| usual.name())) {
        None => refuse(
            format!("--verifier {}: there is no such form", name.unwrap_or_default()),
            "give scram-sha-256, mysql_native_password, ed25519, redis-sha256 or rabbitmq-sha256",
        ),
        Some(form) if form.iterations() == 0 && iterations.is_some_and(|n| n > 0) => {
            refuse(format!("--scram-iterations: {form} has none"), "leave it out, or give --verifier scram-sha-256")
        }
        Some(form) => Ok(form),
    }
}

fn username(text: &str) -> Result<String, BadUsername> {
    Username::parse(text).map(|_| text.to_owned())
}

/// Runs `quorate quota`.
pub(crate) async fn quota(command: QuotaCommand, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        QuotaCommand::Set { target, namespace, owner, each_identity: _, limit: Bound(limit) } => {
            let named = [target.map(Subject::Target), namespace.map(Subject::Namespace), owner.map(Subject::Identity)];
            // One of them is there, or it is about each identity.
            let subject = named.into_iter().flatten().next().unwrap_or(Subject::EachIdentity);
            let done = client.change(Change::SetQuota { subject: subject.clone(), limit }).await?;
            output.show(&json!({ "whose": subject.to_string(), "limit": limit, "index": done.index }), || match limit {
                Some(limit) => format!("{subject} may have {limit} leases at once"),
                None => format!("the leases of {subject} are not bounded"),
            })
        }
        QuotaCommand::List => {
            let quotas = client.roles().await?.quotas;
            let document = json!({ "quotas": quotas.iter().map(|q| json!({
                "kind": q.kind, "name": q.name, "limit": q.limit,
            })).collect::<Vec<_>>() });
            output.show(&document, || {
                let row = |q: &quorate_api::vault::Quota| [q.kind.clone(), q.name.clone(), q.limit.to_string()];
                table(["WHOSE", "NAME", "LEASES AT MOST"], quotas.iter().map(row))
            })
        }
    }
}

/// Runs `quorate role`.
pub(crate) async fn role(command: RoleCommand, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        RoleCommand::Add(add) => {
            let targets = client.roles().await?.targets;
            let described = targets.iter().find(|t| t.name == add.target);
            let system = described.map(system_of).transpose()?.unwrap_or_default();
            let role = Role {
                form: form(system, add.verifier.as_deref(), add.scram_iterations)?,
                target: add.target.clone(),
                namespace: add.namespace,
                groups: add.groups,
                default_ttl: add.ttl,
                max_ttl: add.max_ttl,
                connection_limit: add.connections,
                max_leases: add.max_leases,
                statements: add.statements,
                username: add.username.unwrap_or_default(),
            };
            let done = client.put_role(&add.name, &role).await?;
            let effect = add.effect.seen_by(&client, &done).await?;
            // With its groups, which the target may lack or which may be too powerful.
            let proof =
                if add.unproved { None } else { Some(prove_with_role(&client, &add.target, done.index).await?) };
            let bad = proof.filter(|p| !p.missing.is_empty() || !p.failed.is_empty());
            let document = json!({
                "name": add.name, "index": done.index, "effect": effect.document(),
                "missing": bad.as_ref().map_or(&[][..], |p| &p.missing), "failed": bad.as_ref().map_or(&[][..], |p| &p.failed),
            });
            output.show(&document, || match &bad {
                None => format!("role {} is described; next: quorate lease issue {}\n{effect}", add.name, add.name),
                Some(proof) => {
                    format!("role {} is described, but {}\n{effect}", add.name, findings(&add.target, system, proof))
                }
            })
        }
        RoleCommand::List => {
            let roles = client.roles().await?.roles;
            let document = json!({ "roles": roles.iter().map(|r| json!({
                "name": r.name, "target": r.target, "groups": r.groups, "ttl": r.default_ttl, "max_ttl": r.max_ttl,
                "connections": r.connection_limit, "max_leases": r.max_leases, "scram_iterations": r.scram_iterations, "verifier": r.verifier,
                "live_leases": r.live_leases, "namespace": r.namespace, "statements": r.statements,
                "username": r.username,
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
