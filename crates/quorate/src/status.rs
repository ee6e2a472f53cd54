//! `quorate status`: the cluster as every member sees it.

use crate::connection::Connection;
use crate::duration::instant;
use crate::output::{Format, progress, table};
use quorate_api::status::{Failure, NOT_ENOUGH_MEMBERS, Retry};
use quorate_api::vault::{Confirmation, ReadStatusReply};
use quorate_state::ids::{MemberIndex, hex};
use serde_json::{Value, json};

/// Runs `quorate status`. Fails when fewer than t members answer.
pub(crate) async fn run(connection: &Connection, output: Format) -> anyhow::Result<()> {
    let client = connection.client()?;
    let profile = client.profile().clone();
    let name = |index: MemberIndex| profile.member(index).map_or_else(|| index.to_string(), |m| m.name.clone());
    let answers = client.status().await;
    let members: Vec<Value> = answers.iter().map(|(index, answer)| member(*index, &name(*index), answer)).collect();
    output.show(
        &json!({ "cluster": profile.cluster.to_string(), "threshold": profile.threshold, "members": members }),
        || text(&answers, &name),
    )?;
    for (index, answer) in &answers {
        for alarm in answer.iter().flat_map(|s| &s.alarms) {
            progress(format_args!("warning: {}: {} [{}]", name(*index), alarm.message, alarm.code));
        }
    }
    let up = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    // Where all refuse for one reason, that is the answer, and not that too few are up.
    let refused = answers.iter().find_map(|(_, answer)| answer.as_ref().err().filter(|f| f.retry == Retry::No));
    if let Some(failure) = refused.filter(|_| up == 0) {
        return Err(failure.clone().into());
    }
    if up < usize::from(profile.threshold) {
        let what = format!("{up} of {} members answered, and it takes {}", answers.len(), profile.threshold);
        return Err(Failure::new(NOT_ENOUGH_MEMBERS, what).into());
    }
    if up < answers.len() {
        progress(format_args!("warning: {} of {} members did not answer", answers.len() - up, answers.len()));
    }
    Ok(())
}

fn member(index: MemberIndex, name: &str, answer: &Result<ReadStatusReply, Failure>) -> Value {
    match answer {
        Err(failure) => {
            json!({ "index": index, "name": name, "error": { "code": failure.code, "message": failure.message } })
        }
        Ok(s) => json!({
            "index": index,
            "name": name,
            "term": s.term,
            "leader": s.leader,
            "last_log_index": s.last_log_index,
            "committed": s.committed,
            "applied": s.applied,
            "cluster_time": s.cluster_time,
            "authority_version": s.authority_version,
            "keyrings": s.keyrings.iter().map(|k| json!({
                "id": hex(&k.id), "class": k.class, "epoch": k.epoch, "threshold": k.threshold,
            })).collect::<Vec<_>>(),
            "ceremonies": s.ceremonies.iter().map(|c| json!({
                "session": hex(&c.session), "class": c.class, "phase": c.phase, "awaited": c.awaited,
                "culprits": c.culprits, "keyring_id": hex(&c.keyring_id),
                "faults": c.faults.iter().map(|f| json!({
                    "member": f.member, "proven": f.proven, "what": f.what,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "leases": { "intent": s.leases_intent, "active": s.leases_active, "revoking": s.leases_revoking },
            "oldest_revoking": s.oldest_revoking,
            "audit_head": format!("{}:{}", s.audit_seq, s.audit_head),
            "certificate_not_after": s.certificate_not_after,
            "client_roots_not_after": s.client_roots_not_after,
            "alarms": s.alarms.iter().map(|a| json!({ "code": a.code, "message": a.message })).collect::<Vec<_>>(),
            "purged": s.purged,
            "tightened_index": s.tightened_index,
            "absences": s.absences.iter().map(|a| json!({
                "member": a.member, "how": a.how, "reason": a.reason, "index": a.index, "recorded_at": a.recorded_at,
                "heard": a.heard,
            })).collect::<Vec<_>>(),
            "confirmations": s.confirmations.iter().map(|c| json!({
                "member": c.member, "index": c.index, "complaint": c.complaint,
            })).collect::<Vec<_>>(),
            "disk": s.disk,
            "disk_free": s.disk_free,
            "audit": s.audit,
        }),
    }
}

fn text(answers: &[(MemberIndex, Result<ReadStatusReply, Failure>)], name: &dyn Fn(MemberIndex) -> String) -> String {
    let header =
        ["MEMBER", "STATE", "TERM", "LEADER", "COMMITTED", "APPLIED", "AUTHORITY", "ACTIVE", "REVOKING", "AUDIT"];
    let row = |(index, answer): &(MemberIndex, Result<ReadStatusReply, Failure>)| match answer {
        Err(failure) => {
            let mut row = [const { String::new() }; 10];
            let [first, state, ..] = &mut row;
            (*first, *state) = (name(*index), failure.code.to_owned());
            row
        }
        Ok(s) => [
            name(*index),
            "up".to_owned(),
            s.term.to_string(),
            MemberIndex::try_from(s.leader).ok().filter(|l| *l > 0).map_or("none".to_owned(), name),
            s.committed.to_string(),
            s.applied.to_string(),
            s.authority_version.to_string(),
            (s.leases_intent + s.leases_active).to_string(),
            s.leases_revoking.to_string(),
            s.audit_seq.to_string(),
        ],
    };
    let mut out = table(header, answers.iter().map(row));
    out.push('\n');
    for (index, answer) in answers {
        let Ok(s) = answer else { continue };
        if !matches!(s.disk.as_str(), "ample" | "") {
            out.push_str(&format!(
                "ALARM {}: its data disk is {}, {} bytes are free\n",
                name(*index),
                s.disk,
                s.disk_free
            ));
        }
        if !matches!(s.audit.as_str(), "ready" | "") {
            out.push_str(&format!("ALARM {}: its audit log is {}\n", name(*index), s.audit));
        }
    }
    // Keys and ceremonies are the same everywhere: those of whoever has applied most.
    let best = answers.iter().filter_map(|(_, a)| a.as_ref().ok()).max_by_key(|s| s.applied);
    let Some(best) = best else { return out };
    for k in &best.keyrings {
        out.push_str(&format!(
            "keyring {} class {} epoch {} threshold {}\n",
            hex(&k.id),
            k.class,
            k.epoch,
            k.threshold
        ));
    }
    let named = |index: &u32| MemberIndex::try_from(*index).map_or_else(|_| index.to_string(), name);
    for c in best.ceremonies.iter().filter(|c| c.phase != "active" || !c.faults.is_empty()) {
        out.push_str(&format!("ceremony {} class {} is in phase {}", hex(&c.session), c.class, c.phase));
        if !c.awaited.is_empty() {
            let awaited: Vec<String> = c.awaited.iter().map(named).collect();
            out.push_str(&format!(", waiting for {}", awaited.join(", ")));
        }
        out.push('\n');
        for fault in &c.faults {
            let proven = if fault.proven { "proven" } else { "not proven" };
            out.push_str(&format!("    {} ({proven}): {}\n", named(&fault.member), fault.what));
        }
    }
    for ends in &best.client_roots_not_after {
        out.push_str(&format!("the client CA ends on {}\n", instant(*ends)));
    }
    for (index, answer) in answers {
        if let Ok(s) = answer {
            let ends = instant(s.certificate_not_after);
            out.push_str(&format!("the certificate of {} ends on {ends}, and renews itself\n", name(*index)));
        }
    }
    for a in &best.absences {
        let heard = if a.heard { ", AND WAS HEARD OF SINCE" } else { "" };
        let (who, since) = (named(&a.member), instant(a.recorded_at));
        out.push_str(&format!(
            "{who} is recorded as {} since {since} (log index {}){heard}: {}\n",
            a.how, a.index, a.reason
        ));
    }
    // Who has not confirmed the rules in force, and whose word is not believed.
    let gone = |c: &Confirmation| best.absences.iter().any(|a| a.member == c.member && !a.heard);
    let behind = |c: &&Confirmation| c.index < best.tightened_index && !gone(c);
    let member = |c: &Confirmation| MemberIndex::try_from(c.member).map_or_else(|_| c.member.to_string(), name);
    let missing: Vec<String> = best.confirmations.iter().filter(behind).map(member).collect();
    if !missing.is_empty() {
        let (index, missing) = (best.tightened_index, missing.join(", "));
        out.push_str(&format!("the rules of log index {index} are in force, not yet confirmed by {missing}\n"));
    }
    for (index, answer) in answers {
        for c in answer.iter().flat_map(|s| &s.confirmations).filter(|c| !c.complaint.is_empty()) {
            out.push_str(&format!("{} says of {}: {}\n", name(*index), member(c), c.complaint));
        }
    }
    if best.oldest_revoking > 0 {
        let since = instant(best.oldest_revoking);
        out.push_str(&format!(
            "the oldest revocation is not confirmed since {since} (cluster time {})\n",
            instant(best.cluster_time)
        ));
    }
    out
}
