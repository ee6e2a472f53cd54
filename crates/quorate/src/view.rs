//! Leases for people who watch them: as a tree of who has taken them, as a view that keeps itself up to date, and as metrics with
//! which alerts are made (`deploy/alerts.yml`).

use crate::connection::Connection;
use crate::duration::instant;
use crate::output::{Format, raw, table};
use quorate_api::client::Client;
use quorate_api::status::{DEADLINE, Failure, Retry, UNAUTHENTICATED, UNREACHABLE};
use quorate_api::vault::{Lease, ListLeasesRequest, ReadRolesReply, ReadStatusReply, Target};
use quorate_state::ids::{MemberIndex, hex};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a look of `lease watch` may take when nobody says: longer, and what is shown is said not to be fresh.
const LOOK: Duration = Duration::from_secs(3);
/// How long `metrics` may take when nobody says.
const SCRAPE: Duration = Duration::from_secs(5);

/// A member by its name, and what it says of itself.
type Member = (String, Result<ReadStatusReply, Failure>);

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

/// Looks again and again, until it is ended or as often as told: on a terminal one picture, otherwise one after the other. What
/// cannot be read stays as it was read last, and says since when.
///
/// # Errors
/// What asking again does not help; after the last look, what this one failed with.
pub(crate) async fn watch(
    connection: &Connection,
    every: Duration,
    times: Option<u64>,
    output: Format,
) -> anyhow::Result<()> {
    let client = connection.client_within(LOOK)?;
    let clear = output == Format::Table && std::io::stdout().is_terminal();
    let (mut left, mut known) = (times, Known::default());
    loop {
        let (members, roles) = tokio::join!(client.status(), client.roles());
        known.take(members.into_iter().map(|(index, status)| (name(&client, index), status)).collect(), roles)?;
        if clear {
            raw(HOME_AND_CLEAR.as_bytes())?;
        }
        match output {
            // One line for each look, so that a program can read them as they come.
            Format::Json => raw(format!("{}\n", known.document()).as_bytes())?,
            Format::Table => raw(known.text().as_bytes())?,
        }
        left = left.map(|n| n.saturating_sub(1));
        if left == Some(0) {
            return known.failure.map_or(Ok(()), |failure| Err(failure.into()));
        }
        tokio::time::sleep(every).await;
    }
}

fn name(client: &Client, index: MemberIndex) -> String {
    client.profile().member(index).map_or_else(|| index.to_string(), |m| m.name.clone())
}

/// What is known after some looks.
#[derive(Default)]
struct Known {
    /// As they were read last, and at what cluster time.
    targets: Vec<Target>,
    read_at: u64,
    /// The last that a member said it was, and when it did.
    clock: Option<(u64, Instant)>,
    /// Members that have not said how they are, and why not.
    missing: Vec<(String, &'static str)>,
    /// Why the last look did not find the targets.
    failure: Option<Failure>,
}

impl Known {
    fn take(&mut self, members: Vec<Member>, roles: Result<ReadRolesReply, Failure>) -> Result<(), Failure> {
        let told = members.iter().filter_map(|(_, status)| status.as_ref().ok()).map(|s| s.cluster_time).max();
        self.clock = told.map(|told| (told, Instant::now())).or(self.clock);
        self.missing = members.into_iter().filter_map(|(name, status)| Some((name, status.err()?.code))).collect();
        self.failure = match roles {
            Ok(roles) => {
                (self.targets, self.read_at) = (roles.targets, self.now());
                None
            }
            Err(failure) if failure.retry == Retry::No => return Err(failure),
            Err(failure) => Some(failure),
        };
        Ok(())
    }

    /// Cluster time; it goes on while no member tells it.
    fn now(&self) -> u64 {
        let passed = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.clock.map_or(0, |(told, when)| told.saturating_add(passed(when)))
    }

    fn document(&self) -> serde_json::Value {
        let (targets, now) = (&self.targets, self.now());
        json!({
            "cluster_time": now, "read_at": self.read_at,
            "error": self.failure.as_ref().map(|f| json!({ "code": f.code, "message": f.message })),
            "missing": self.missing.iter().map(|(name, why)| json!({ "member": name, "code": why })).collect::<Vec<_>>(),
            "targets": targets.iter().map(|t| json!({
                "name": t.name, "standing": t.standing, "quarantined": t.quarantine.is_some(),
                "intent": t.leases_intent, "active": t.leases_active, "due": t.leases_due, "asked": t.leases_asked,
                "exposed": revoking(t), "oldest_unconfirmed_seconds": age(t.oldest_revoking, now),
            })).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let now = self.now();
        let mut text = live(&self.targets, now);
        if let Some(failure) = &self.failure {
            let since = match self.read_at {
                0 => "was never read".to_owned(),
                at => format!("is as it was at {}, {} s ago", instant(at), age(at, now)),
            };
            // Writing into a String cannot fail.
            let _ = writeln!(text, "NOT FRESH: this {since}: {}", failure.message);
        }
        if !self.missing.is_empty() {
            let missing: Vec<String> = self.missing.iter().map(|(name, why)| format!("{name} ({why})")).collect();
            let _ = writeln!(text, "not known how they are: {}", missing.join(", "));
        }
        text
    }
}

fn age(since: u64, now: u64) -> u64 {
    if since == 0 { 0 } else { now.saturating_sub(since) / 1_000 }
}

fn revoking(target: &Target) -> u32 {
    target.leases_due.saturating_add(target.leases_asked)
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

/// `quorate metrics`: for a collector that reads text files, or any that runs a command. What members say of themselves is printed
/// also when no majority says the rest.
///
/// # Errors
/// After what could be read was printed, why not all could be.
pub(crate) async fn metrics(connection: &Connection) -> anyhow::Result<()> {
    let client = connection.client_within(SCRAPE)?;
    let (members, roles) = tokio::join!(client.status(), client.roles());
    let members: Vec<Member> = members.into_iter().map(|(index, status)| (name(&client, index), status)).collect();
    // A member that is down is told of by what is printed.
    let refused = members.iter().find_map(|(_, status)| status.as_ref().err().filter(|why| !is_silence(why)));
    let failure = roles.as_ref().err().or(refused);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    raw(exposition(&members, roles.as_ref().ok(), failure.is_none(), now).as_bytes())?;
    failure.map_or(Ok(()), |failure| Err(failure.clone().into()))
}

/// Whether a member has not answered.
fn is_silence(failure: &Failure) -> bool {
    matches!(failure.code, UNREACHABLE | DEADLINE)
}

/// The text format of Prometheus, version 0.0.4.
fn exposition(members: &[Member], roles: Option<&ReadRolesReply>, complete: bool, unix_time: u64) -> String {
    let (targets, each_role) = roles.map_or((&[][..], &[][..]), |r| (&r.targets[..], &r.roles[..]));
    let mut text = String::new();
    let mut family = |name: &str, help: &str, rows: Vec<(String, u64)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let label = |name: &str, value: &str| {
        format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    };
    let now = members.iter().filter_map(|(_, s)| s.as_ref().ok()).map(|s| s.cluster_time).max().unwrap_or(0);
    let of_targets = |value: fn(&Target) -> u64| -> Vec<(String, u64)> {
        targets.iter().map(|t| (label("target", &t.name), value(t))).collect()
    };
    family("quorate_scrape_complete", "Whether all that follows could be read; what could not is left out.", {
        vec![(String::new(), u64::from(complete))]
    });
    family("quorate_scrape_time_seconds", "When this was read, by the clock of who did, in seconds since 1970.", {
        vec![(String::new(), unix_time)]
    });
    // Who is not admitted is told nothing of members, up or down.
    let up = |s: &Result<ReadStatusReply, Failure>| match s {
        Err(why) if why.code == UNAUTHENTICATED => None,
        answer => Some(u64::from(!answer.as_ref().is_err_and(is_silence))),
    };
    family("quorate_member_up", "Whether the member answers.", {
        members.iter().filter_map(|(name, s)| Some((label("member", name), up(s)?))).collect()
    });
    let of_members = |value: fn(&ReadStatusReply) -> u64| -> Vec<(String, u64)> {
        members.iter().filter_map(|(name, s)| Some((label("member", name), value(s.as_ref().ok()?)))).collect()
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
    family("quorate_member_leases_revoking", "Logins whose end is not confirmed, as far as the member knows.", {
        of_members(|s| s.leases_revoking)
    });
    family("quorate_member_oldest_unconfirmed_revocation_seconds", "Age of the oldest such end; 0 for none.", {
        of_members(|s| age(s.oldest_revoking, s.cluster_time))
    });
    let states: [(&str, Count); 4] = [
        ("intent", |t| t.leases_intent),
        ("active", |t| t.leases_active),
        ("due", |t| t.leases_due),
        ("asked", |t| t.leases_asked),
    ];
    let mut leases = Vec::new();
    for target in targets {
        for (state, count) in states {
            let labels = format!("{},{}", label("target", &target.name), label("state", state));
            leases.push((labels, u64::from(count(target))));
        }
    }
    family("quorate_leases", "Leases that are not revoked; due and asked are being revoked.", leases);
    family("quorate_leases_exposed", "Logins whose end is not confirmed.", of_targets(|t| u64::from(revoking(t))));
    family("quorate_oldest_unconfirmed_revocation_seconds", "Age of the oldest such end; 0 for none.", {
        targets.iter().map(|t| (label("target", &t.name), age(t.oldest_revoking, now))).collect()
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
        each_role.iter().map(|r| (label("role", &r.name), u64::from(value(r)))).collect()
    };
    family("quorate_role_leases", "Leases of the role that are not revoked.", of_roles(|r| r.live_leases));
    family("quorate_role_leases_limit", "How many it may have.", of_roles(|r| r.max_leases));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::status::{DENIED, NO_LEADER};

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
    fn what_cannot_be_read_is_shown_as_it_was_and_says_since_when() {
        let target = || Target { name: "db".into(), leases_active: 4, oldest_revoking: 4_000, ..Target::default() };
        let roles = || Ok(ReadRolesReply { targets: vec![target()], ..ReadRolesReply::default() });
        let at = |cluster_time| Ok(ReadStatusReply { cluster_time, ..ReadStatusReply::default() });
        let silent = || ("n2".to_owned(), Err(Failure::new(DEADLINE, "x")));
        let mut known = Known::default();
        known.take(vec![("n1".into(), at(9_000)), silent()], Err(Failure::new(NO_LEADER, "x"))).unwrap();
        assert!(known.text().contains("never read"), "{}", known.text());
        known.take(vec![("n1".into(), at(10_000))], roles()).unwrap();
        assert!(!known.text().contains("NOT FRESH"), "{}", known.text());
        assert_eq!(known.document()["error"], serde_json::Value::Null);
        known.take(vec![("n1".into(), at(40_000)), silent()], Err(Failure::new(NO_LEADER, "nobody leads"))).unwrap();
        let (text, document) = (known.text(), known.document());
        for part in ["NOT FRESH", "30 s ago: nobody leads", "n2 (deadline)", "the oldest for 36 s"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert_eq!(
            (&document["read_at"], &document["error"]["code"]),
            (&json!(10_000), &json!(NO_LEADER)),
            "{document}"
        );
        assert_eq!(document["targets"][0]["active"], 4, "what was known: {document}");
        known.take(vec![silent()], Err(Failure::new(UNREACHABLE, "x"))).unwrap();
        assert!(known.now() >= 40_000, "time goes on without a member: {}", known.now());
        let denied = known.take(vec![silent()], Err(Failure::new(DENIED, "x"))).unwrap_err();
        assert_eq!(denied.code, DENIED, "what asking again does not help ends it");
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
        let status = ReadStatusReply {
            member: 1,
            leader: 1,
            cluster_time: 9_500,
            leases_revoking: 3,
            oldest_revoking: 4_000,
            ..ReadStatusReply::default()
        };
        let roles = ReadRolesReply { targets: vec![target], ..ReadRolesReply::default() };
        let failed = |code| Err(Failure::new(code, "x"));
        let members: Vec<Member> = vec![
            ("n1".into(), Ok(status)),
            ("n2".into(), failed(UNREACHABLE)),
            ("n3".into(), failed(DENIED)),
            ("n4".into(), failed(UNAUTHENTICATED)),
        ];
        let text = exposition(&members, Some(&roles), true, 7);
        let alone = exposition(&members, None, false, 7);
        for line in
            ["quorate_scrape_complete 0", "quorate_member_up{member=\"n1\"} 1", "quorate_member_up{member=\"n2\"} 0"]
        {
            assert!(alone.lines().any(|l| l == line), "without a majority {line} is missing in:\n{alone}");
        }
        assert!(!alone.contains("target=") && !text.contains("n4"), "what is not known is left out:\n{alone}");
        for line in [
            "quorate_scrape_complete 1",
            "quorate_scrape_time_seconds 7",
            "quorate_member_up{member=\"n3\"} 1",
            "quorate_member_leases_revoking{member=\"n1\"} 3",
            "quorate_member_oldest_unconfirmed_revocation_seconds{member=\"n1\"} 5",
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
