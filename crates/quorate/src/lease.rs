//! `quorate lease`: short-lived logins. The password is made here; no server ever sees it.

use crate::connection::Connection;
use crate::duration::{self, instant};
use crate::effect::Effect;
use crate::handed;
use crate::output::{Format, UNEXPLAINED, printable, progress, table};
use crate::target::place;
use crate::view;
use anyhow::Context as _;
use quorate_api::client::Client;
use quorate_api::vault::{Lease, ListLeasesRequest};
use quorate_state::change::Change;
use quorate_state::ids::{LeaseId, Millis, hex};
use quorate_state::lease::Selector;
use serde_json::{Value, json};
use std::time::Duration;

/// Of what nobody can end before it dies.
const ALONE: &str = "and can not be ended before";
/// How long `revoke --wait` waits.
const WAIT: &str = "60s";

/// `quorate lease`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Take a credential of a role.
    Issue {
        /// The role.
        role: String,
        /// How long it is to live; the role's default otherwise.
        #[arg(long, value_parser = duration::parse)]
        ttl: Option<Millis>,
    },
    /// List the leases that you may see.
    List {
        /// Only those in this state: intent, active, revoking or revoked.
        #[arg(long, default_value = "")]
        state: String,
        /// Only those of this role.
        #[arg(long, default_value = "")]
        role: String,
        /// Only those at this target.
        #[arg(long, default_value = "")]
        target: String,
        /// Only those that this identity has taken.
        #[arg(long, default_value = "")]
        owner: String,
        /// Only those of identities below this prefix of SPIFFE ids.
        #[arg(long, default_value = "")]
        below: String,
        /// Only those of the roles of this namespace, and of those below it.
        #[arg(long, default_value = "")]
        namespace: String,
    },
    /// Show who has taken the leases that you may see, as a tree of identities.
    Tree {
        /// Only those in this state: intent, active, revoking or revoked.
        #[arg(long, default_value = "")]
        state: String,
        /// Only those of identities below this prefix of SPIFFE ids.
        #[arg(long, default_value = "")]
        below: String,
    },
    /// Look again and again: counts by target and state, the oldest unconfirmed revocation, what is exposed.
    Watch {
        /// How often.
        #[arg(long, default_value = "1s", value_parser = duration::parse)]
        every: Millis,
        /// How many times; for ever otherwise.
        #[arg(long)]
        times: Option<u64>,
    },
    /// Show a lease.
    Show {
        /// Its id.
        id: LeaseId,
    },
    /// Move the end of a lease.
    Renew {
        /// Its id.
        id: LeaseId,
        /// How long from now.
        #[arg(long, value_parser = duration::parse)]
        ttl: Millis,
    },
    /// End a lease, or all leases that have something in common.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Revoke {
        /// Its id.
        #[arg(group = "which")]
        id: Option<LeaseId>,
        /// All of this role.
        #[arg(long, group = "which")]
        role: Option<String>,
        /// All at this target.
        #[arg(long, group = "which")]
        target: Option<String>,
        /// All that this identity has taken.
        #[arg(long, group = "which")]
        owner: Option<String>,
        /// All of identities below this prefix of SPIFFE ids.
        #[arg(long, group = "which")]
        below: Option<String>,
        /// All of the roles of this namespace, and of those below it.
        #[arg(long, group = "which")]
        namespace: Option<String>,
        /// Wait until its end was seen at the target.
        #[arg(long)]
        wait: bool,
        /// How long to wait.
        #[arg(long, default_value = WAIT, value_parser = duration::parse)]
        wait_at_most: Millis,
        #[command(flatten)]
        effect: Effect,
    },
}

/// Runs `quorate lease`.
pub(crate) async fn run(command: Command, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    match command {
        Command::Issue { role, ttl } => {
            let credential = client.issue_lease(&role, ttl).await?;
            let secrets = handed::secrets(&credential)?;
            let mut document = json!({
                "lease": credential.lease.to_string(),
                "username": credential.username,
                "system": credential.system.name(),
                "host": credential.host,
                "port": credential.port,
                "database": credential.database,
                "expires_at": credential.expires_at,
                "dies_at": credential.dies_at,
            });
            if let Some(document) = document.as_object_mut() {
                document.extend(secrets.iter().map(|(name, secret)| ((*name).to_owned(), json!(secret))));
            }
            output.show(&document, || {
                let secrets: String = secrets.iter().map(|(name, secret)| format!("{name:<9} {secret}\n")).collect();
                let database = match credential.database.as_str() {
                    "" => String::new(),
                    database => format!("database  {database}\n"),
                };
                format!(
                    "lease     {}\nusername  {}\n{secrets}system    {}\nhost      {}\nport      {}\n{database}expires   {}\n",
                    credential.lease,
                    credential.username,
                    credential.system,
                    credential.host,
                    credential.port,
                    instant(credential.expires_at),
                ) + &credential.dies_at.map_or_else(String::new, |at| format!("dies at   {}, {ALONE}\n", instant(at)))
            })
        }
        Command::List { state, role, target, owner, below, namespace } => {
            let wanted =
                ListLeasesRequest { state, role, target, owner, below, namespace, after: Vec::new(), limit: 0 };
            let leases = client.leases_that(wanted).await?;
            output.show(&json!({ "leases": leases.iter().map(document).collect::<Vec<_>>() }), || {
                let row = |l: &Lease| {
                    [
                        hex(&l.id),
                        l.role.clone(),
                        l.principal.clone(),
                        l.owner.clone(),
                        l.state.clone(),
                        instant(l.expires_at),
                    ]
                };
                table(["LEASE", "ROLE", "LOGIN", "OWNER", "STATE", "EXPIRES"], leases.iter().map(row))
            })
        }
        Command::Tree { state, below } => {
            view::show_tree(&client, ListLeasesRequest { state, below, ..Default::default() }, output).await
        }
        Command::Watch { every, times } => view::watch(connection, Duration::from_millis(every), times, output).await,
        Command::Show { id } => show(&client.explained_lease(id).await?, output),
        Command::Renew { id, ttl } => {
            let expires_at = client.renew(id, ttl).await?;
            output.show(&json!({ "lease": id.to_string(), "expires_at": expires_at }), || {
                format!("lease {id} now ends {}", instant(expires_at))
            })
        }
        Command::Revoke { id, role, target, owner, below, namespace, wait, wait_at_most, effect } => {
            let named = [
                role.map(Selector::Role),
                target.map(Selector::Target),
                owner.map(Selector::Identity),
                below.map(Selector::Below),
                namespace.map(Selector::Namespace),
            ];
            let limit = Duration::from_millis(wait_at_most);
            let id = match (id, named.into_iter().flatten().next()) {
                (_, Some(selector)) => {
                    return revoke_all(&client, &selector, wait.then_some(limit), &effect, output).await;
                }
                (id, None) => id.context("there is no lease to revoke")?,
            };
            let done = client.change(Change::RevokeLease { lease: id }).await?;
            let (index, effect) = (done.index, effect.seen_by(&client, &done).await?);
            if !wait {
                let document = json!({
                    "lease": id.to_string(), "index": index, "state": "revoking", "effect": effect.document(),
                });
                return output.show(&document, || {
                    format!(
                        "from log index {index} on no node honours lease {id}; its login is being ended at the target\n{effect}"
                    )
                });
            }
            progress(format_args!("the end of lease {id} is {effect}; waiting for the target"));
            show(&client.wait_revoked(id, limit).await?, output)
        }
    }
}

async fn revoke_all(
    client: &Client,
    selector: &Selector,
    wait: Option<Duration>,
    effect: &Effect,
    output: Format,
) -> anyhow::Result<()> {
    let done = client.change(Change::RevokeLeases { selector: selector.clone() }).await?;
    let (index, effect) = (done.index, effect.seen_by(client, &done).await?);
    let mut state = "revoking";
    if let Some(limit) = wait {
        progress(format_args!("the end of the leases of {selector} is {effect}; waiting for their targets"));
        client.wait_all_revoked(selector, index, limit).await?;
        state = "revoked";
    }
    output.show(&json!({ "which": selector.to_string(), "index": index, "state": state, "effect": effect.document() }), || match wait {
        Some(_) => format!("all leases of {selector} from before log index {index} were seen to have ended"),
        None => format!(
            "from log index {index} on no node honours the leases of {selector}; their logins are being ended at the targets\n{effect}"
        ),
    })
}

fn document(l: &Lease) -> Value {
    json!({
        "id": hex(&l.id),
        "role": l.role,
        "namespace": l.namespace,
        "target": l.target,
        "username": l.principal,
        "owner": l.owner,
        "state": l.state,
        "expires_at": l.expires_at,
        "max_expires_at": l.max_expires_at,
        "why": l.why,
        "ended_at": l.ended_at,
        "intent_index": l.intent_index,
        "active_index": l.active_index,
        "revoking_index": l.revoking_index,
        "revoked_index": l.revoked_index,
        "proof_endpoint": l.proof_endpoint,
        "proof_looked_at": l.proof_looked_at,
        "sessions_ended": l.sessions_ended,
        "proof_member": l.proof_member,
        "proof_term": l.proof_term,
        "trouble": l.leads.then_some(&l.trouble),
        "system": l.system,
        "host": l.host,
        "port": l.port,
        "database": l.database,
        "dies_at": (l.dies_at > 0).then_some(l.dies_at),
    })
}

fn show(lease: &Lease, output: Format) -> anyhow::Result<()> {
    output.show(&document(lease), || {
        let mut rows = vec![
            ["lease".to_owned(), hex(&lease.id)],
            ["state".to_owned(), lease.state.clone()],
            ["role".to_owned(), lease.role.clone()],
            ["login".to_owned(), format!("{} at {}", lease.principal, place(&lease.host, lease.port, &lease.database))],
            ["owner".to_owned(), lease.owner.clone()],
            ["expires".to_owned(), instant(lease.expires_at)],
            ["at the latest".to_owned(), instant(lease.max_expires_at)],
        ];
        if lease.dies_at > 0 && lease.state != "revoked" {
            rows.push(["dies at".to_owned(), format!("{}, {ALONE}", instant(lease.dies_at))]);
        }
        if !lease.why.is_empty() {
            rows.push(["ended".to_owned(), format!("{}, {}", lease.why, instant(lease.ended_at))]);
        }
        let what = if lease.state == "revoked" { "not cleaned up" } else { "not yet because" };
        match (lease.leads, lease.trouble.as_str()) {
            (_, trouble) if !trouble.is_empty() => rows.push([what.to_owned(), printable(trouble)]),
            (false, _) if lease.state == "revoking" => rows.push([what.to_owned(), UNEXPLAINED.to_owned()]),
            _ => {}
        }
        if lease.proof_looked_at > 0 {
            let seen = format!(
                "{}, {}, by member {} in term {}; {} sessions ended",
                lease.proof_endpoint,
                instant(lease.proof_looked_at),
                lease.proof_member,
                lease.proof_term,
                lease.sessions_ended
            );
            rows.push(["its end was seen".to_owned(), seen]);
        }
        table(["", ""], rows)
    })
}
