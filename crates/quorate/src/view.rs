//! Leases for people who watch them: as a tree of who has taken them, as a view that keeps itself up to date, and as metrics with
//! which alerts are made (`deploy/alerts.yml`).

use crate::connection::Connection;
use crate::duration::instant;
use crate::output::{Format, raw, table};
use quorate_api::client::Client;
use quorate_api::vault::{Lease, ListLeasesRequest, ReadRolesReply, ReadStatusReply, Target};
use quorate_state::ids::{MemberIndex, hex};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

/// How many leases of a target stand somewhere.
type Count = fn(&Target) -> u32;

/// What a terminal does to begin a picture anew.
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";

/// The leases below each identity, each folder of identities with how many are below it.
pub(crate) fn tree(leases: &[Lease]) -> String {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    let mut owned: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in leases {
        owned.entry(&lease.owner).or_default().push(lease);
        for folder in parents(&lease.owner) {
            *folders.entry(folder).or_default() += 1;
        }
    }
    let mut text = String::new();
    for (folder, count) in &folders {
        let depth = parents(folder).len().saturating_sub(1);
        let shown = if depth == 0 { folder.as_str() } else { folder.rsplit('/').next().unwrap_or(folder) };
        let leases = if *count == 1 { "lease" } else { "leases" };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{:indent$}{shown}  {count} {leases}", "", indent = depth * 2);
        for lease in owned.get(folder.as_str()).into_iter().flatten() {
            let _ = writeln!(
                text,
                "{:indent$}{}  {}, {} at {}, ends {}",
                "",
                hex(&lease.id),
                lease.state,
                lease.role,
                lease.target,
                instant(lease.expires_at),
                indent = depth * 2 + 2
            );
        }
    }
    if text.is_empty() { "no leases\n".to_owned() } else { text }
}

/// An identity and everything above it, from the trust domain down; an owner that is no identity stands alone.
fn parents(id: &str) -> Vec<String> {
    let Some(rest) = id.strip_prefix("spiffe://") else { return vec![id.to_owned()] };
    let cuts = rest.match_indices('/').map(|(at, _)| at).chain([rest.len()]);
    cuts.filter_map(|at| rest.get(..at)).map(|part| format!("spiffe://{part}")).collect()
}

/// Prints the tree.
pub(crate) async fn show_tree(client: &Client, wanted: ListLeasesRequest, output: Format) -> anyhow::Result<()> {
    let leases = client.leases_that(wanted).await?;
    let mut owners: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for lease in &leases {
        owners.entry(&lease.owner).or_default().push(hex(&lease.id));
    }
    output.show(&json!({ "owners": owners }), || tree(&leases))
}

/// Looks again and again, until it is ended or as often as told: on a terminal one picture, otherwise one after the other.
pub(crate) async fn watch(client: &Client, every: Duration, times: Option<u64>, output: Format) -> anyhow::Result<()> {
    let clear = output == Format::Table && std::io::stdout().is_terminal();
    let mut left = times;
    loop {
        let targets = client.roles().await?.targets;
        let now = now(client).await;
        if clear {
            raw(HOME_AND_CLEAR.as_bytes())?;
        }
        match output {
            // One line for each look, so that a program can read them as they come.
            Format::Json => raw(format!("{}\n", live_document(&targets, now)).as_bytes())?,
            Format::Table => raw(live(&targets, now).as_bytes())?,
        }
        left = left.map(|n| n.saturating_sub(1));
        if left == Some(0) {
            return Ok(());
        }
        tokio::time::sleep(every).await;
    }
}

/// Cluster time as the first member that answers reckons it.
async fn now(client: &Client) -> u64 {
    client.status().await.into_iter().filter_map(|(_, status)| status.ok()).map(|s| s.cluster_time).max().unwrap_or(0)
}

fn age(since: u64, now: u64) -> u64 {
    if since == 0 { 0 } else { now.saturating_sub(since) / 1_000 }
}

fn revoking(target: &Target) -> u32 {
    target.leases_due.saturating_add(target.leases_asked)
}

fn live_document(targets: &[Target], now: u64) -> serde_json::Value {
    json!({ "cluster_time": now, "targets": targets.iter().map(|t| json!({
        "name": t.name, "standing": t.standing, "quarantined": t.quarantine.is_some(),
        "intent": t.leases_intent, "active": t.leases_active, "due": t.leases_due, "asked": t.leases_asked,
        "exposed": revoking(t), "oldest_unconfirmed_seconds": age(t.oldest_revoking, now),
    })).collect::<Vec<_>>() })
}

fn live(targets: &[Target], now: u64) -> String {
    let rows = targets.iter().map(|t| {
        let oldest = if t.oldest_revoking == 0 { "-".to_owned() } else { format!("{} s", age(t.oldest_revoking, now)) };
        let standing = if t.quarantine.is_some() { "QUARANTINED".to_owned() } else { t.standing.clone() };
        let [making, active, due, asked] =
            [t.leases_intent, t.leases_active, t.leases_due, t.leases_asked].map(|n| n.to_string());
        [t.name.clone(), standing, making, active, due, asked, oldest]
    });
    let exposed: u32 = targets.iter().map(revoking).sum();
    let oldest = targets.iter().map(|t| age(t.oldest_revoking, now)).max().unwrap_or(0);
    let header = ["TARGET", "STANDING", "MAKING", "ACTIVE", "DUE", "ASKED", "OLDEST UNCONFIRMED"];
    format!(
        "{}  exposure: {exposed} logins whose end is not confirmed, the oldest for {oldest} s\n\n{}\n",
        instant(now),
        table(header, rows)
    )
}

/// `quorate metrics`: for a collector that reads text files, or any that runs a command.
pub(crate) async fn metrics(connection: &Connection) -> anyhow::Result<()> {
    let client = connection.client()?;
    let profile = client.profile().clone();
    let name = |index: MemberIndex| profile.member(index).map_or_else(|| index.to_string(), |m| m.name.clone());
    let members: Vec<_> = client.status().await.into_iter().map(|(index, status)| (name(index), status.ok())).collect();
    let roles = client.roles().await?;
    raw(exposition(&members, &roles).as_bytes())
}

/// The text format of Prometheus, version 0.0.4.
fn exposition(members: &[(String, Option<ReadStatusReply>)], roles: &ReadRolesReply) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, rows: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    };
    let label = |name: &str, value: &str| {
        format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    };
    let now = members.iter().filter_map(|(_, s)| s.as_ref()).map(|s| s.cluster_time).max().unwrap_or(0);
    let of_targets = |value: fn(&Target) -> u64| -> Vec<(String, u64)> {
        roles.targets.iter().map(|t| (label("target", &t.name), value(t))).collect()
    };
    let up = |s: &Option<ReadStatusReply>| u64::from(s.is_some());
    family("quorate_member_up", "Whether the member answers.", {
        members.iter().map(|(name, s)| (label("member", name), up(s))).collect()
    });
    let of_members = |value: fn(&ReadStatusReply) -> u64| -> Vec<(String, u64)> {
        members.iter().filter_map(|(name, s)| Some((label("member", name), value(s.as_ref()?)))).collect()
    };
    family("quorate_raft_term", "The term that the member is in.", of_members(|s| s.term));
    family("quorate_raft_applied_index", "What the member has applied.", of_members(|s| s.applied));
    family("quorate_raft_leader", "Whether the member leads.", of_members(|s| u64::from(s.leader == s.member)));
    family("quorate_disk_free_bytes", "Free space on the member's data disk.", of_members(|s| s.disk_free));
    family("quorate_audit_ready", "Whether the member can write audit records.", {
        of_members(|s| u64::from(s.audit == "ready"))
    });
    family("quorate_alarms", "What people have to see to on the member.", {
        of_members(|s| u64::try_from(s.alarms.len()).unwrap_or(u64::MAX))
    });
    let states: [(&str, Count); 4] = [
        ("intent", |t| t.leases_intent),
        ("active", |t| t.leases_active),
        ("due", |t| t.leases_due),
        ("asked", |t| t.leases_asked),
    ];
    let mut leases = Vec::new();
    for target in &roles.targets {
        for (state, count) in states {
            let labels = format!("{},{}", label("target", &target.name), label("state", state));
            leases.push((labels, u64::from(count(target))));
        }
    }
    family("quorate_leases", "Leases that are not revoked; due and asked are being revoked.", leases);
    family("quorate_leases_exposed", "Logins whose end is not confirmed.", of_targets(|t| u64::from(revoking(t))));
    family("quorate_oldest_unconfirmed_revocation_seconds", "Age of the oldest such end; 0 for none.", {
        roles.targets.iter().map(|t| (label("target", &t.name), age(t.oldest_revoking, now))).collect()
    });
    family("quorate_target_enabled", "Whether leases are issued at the target.", {
        of_targets(|t| u64::from(t.standing == "enabled" && t.quarantine.is_none()))
    });
    family("quorate_target_quarantined", "Whether the target has seen more of this cluster than it knows.", {
        of_targets(|t| u64::from(t.quarantine.is_some()))
    });
    family("quorate_target_findings", "What the last proof of the target found wrong.", {
        of_targets(|t| {
            let found = t.proof.as_ref().map_or(0, |p| p.missing.len() + p.failed.len());
            u64::try_from(found).unwrap_or(u64::MAX)
        })
    });
    let of_roles = |value: fn(&quorate_api::vault::Role) -> u32| -> Vec<(String, u64)> {
        roles.roles.iter().map(|r| (label("role", &r.name), u64::from(value(r)))).collect()
    };
    family("quorate_role_leases", "Leases of the role that are not revoked.", of_roles(|r| r.live_leases));
    family("quorate_role_leases_limit", "How many it may have.", of_roles(|r| r.max_leases));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(n: u8, owner: &str) -> Lease {
        Lease {
            id: vec![n; 16],
            owner: owner.into(),
            state: "active".into(),
            role: "r".into(),
            target: "t".into(),
            ..Lease::default()
        }
    }

    #[test]
    fn a_tree_counts_what_is_below_each_folder() {
        let leases = [
            lease(1, "spiffe://td/app/a"),
            lease(2, "spiffe://td/app/a/run"),
            lease(3, "spiffe://td/ab"),
            lease(4, "-"),
        ];
        let text = tree(&leases);
        let lines: Vec<&str> = text.lines().map(|l| l.split("  active").next().unwrap()).collect();
        let one = "01".repeat(16);
        assert_eq!(
            lines,
            [
                "-  1 lease",
                &format!("  {}", "04".repeat(16)),
                "spiffe://td  3 leases",
                "  ab  1 lease",
                &format!("    {}", "03".repeat(16)),
                "  app  2 leases",
                "    a  2 leases",
                &format!("      {one}"),
                "      run  1 lease",
                &format!("        {}", "02".repeat(16)),
            ]
        );
        assert_eq!(tree(&[]), "no leases\n");
    }

    #[test]
    fn metrics_are_well_formed_and_tell_what_waits() {
        let target = Target {
            name: "a\"b".into(),
            standing: "enabled".into(),
            leases_due: 2,
            leases_asked: 1,
            oldest_revoking: 4_000,
            ..Target::default()
        };
        let status = ReadStatusReply { member: 1, leader: 1, cluster_time: 9_500, ..ReadStatusReply::default() };
        let roles = ReadRolesReply { targets: vec![target], ..ReadRolesReply::default() };
        let text = exposition(&[("n1".into(), Some(status)), ("n2".into(), None)], &roles);
        for line in [
            "quorate_member_up{member=\"n1\"} 1",
            "quorate_member_up{member=\"n2\"} 0",
            "quorate_leases{target=\"a\\\"b\",state=\"due\"} 2",
            "quorate_leases_exposed{target=\"a\\\"b\"} 3",
            "quorate_oldest_unconfirmed_revocation_seconds{target=\"a\\\"b\"} 5",
            "quorate_target_enabled{target=\"a\\\"b\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
        }
        let families = text.lines().filter(|l| l.starts_with("# TYPE")).count();
        assert_eq!(families, text.lines().filter(|l| l.starts_with("# HELP")).count());
        for alert in include_str!("../../../deploy/alerts.yml").lines().filter_map(|l| l.trim().strip_prefix("expr: "))
        {
            let named = alert.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let used: Vec<&str> = named.filter(|word| word.starts_with("quorate_")).collect();
            assert!(!used.is_empty(), "{alert}");
            for name in used {
                assert!(text.contains(&format!("# TYPE {name} gauge")), "an alert is about {name}, which is no metric");
            }
        }
    }
}
