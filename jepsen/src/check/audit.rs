//! Audit logs, read by a reader of their own, written from `docs/audit.md` alone: every chain holds, and what clients were told stands in the
//! logs of at least t members, decided by each of them.

use crate::history::{Action, Answer, Operation};
use crate::workload::policy::{name, path};
use serde_json::Value;
use sha2::{Digest as _, Sha512};
use std::collections::{BTreeMap, BTreeSet};

/// The files of one member's log by their names.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) records: usize,
    /// Acknowledged operations that were looked for.
    pub(crate) sought: usize,
    pub(crate) violations: Vec<String>,
}

/// Judges the logs of all members against what clients were told.
pub(crate) fn judge(logs: &BTreeMap<String, Files>, all: &[Operation], threshold: usize) -> Findings {
    let mut found = Findings::default();
    let mut decided = Decided::default();
    for (member, files) in logs {
        let records = match read(files) {
            Ok(records) => records,
            Err(why) => {
                found.violations.push(format!("the audit log of {member}: {why}"));
                continue;
            }
        };
        found.records += records.len();
        for record in &records {
            decided.note(member, record);
        }
    }
    let mut told: BTreeMap<Claim, usize> = BTreeMap::new();
    for operation in all {
        let Some((claim, index)) = claim(operation) else { continue };
        found.sought += 1;
        // An outcome is nobody's promise: the members that had written it down may have been killed before it was synced.
        let placed = index.and_then(|index| decided.placed.get(&index));
        if let (Some(requests), Some(index)) = (placed, index) {
            let most = requests.iter().map(|id| decided.by(claim.operation, claim.decision, id)).max().unwrap_or(0);
            if most < threshold {
                found.violations.push(format!(
                    "a {} of {} was acknowledged at log index {index}, and {most} members have recorded that they allowed it",
                    claim.operation, claim.resource
                ));
            }
        }
        if let (Action::Issue { .. }, Some((_, Answer::Done { note, .. }))) = (&operation.action, &operation.back) {
            let login = note.rsplit_once(' ').map_or(note.as_str(), |(_, login)| login);
            if !decided.logins.contains(login) {
                found
                    .violations
                    .push(format!("the login {login} was handed out, and nobody has recorded that it would be"));
            }
        }
        *told.entry(claim).or_default() += 1;
    }
    for (claim, answered) in told {
        let requests = decided.about.get(&(claim.operation.to_owned(), claim.resource.clone()));
        let full = |id: &&String| decided.by(claim.operation, claim.decision, id) >= threshold;
        let full = requests.into_iter().flatten().filter(full).count();
        if full < answered {
            let Claim { operation, resource, decision } = claim;
            found.violations.push(format!(
                "{answered} answers to {operation} of {resource} rest on `{decision}`, and {full} were recorded so by t members"
            ));
        }
    }
    found
}

/// What an answer says that t members have decided.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    operation: &'static str,
    resource: String,
    decision: &'static str,
}

/// What the answer to an operation says that members have decided, and at which place in the log it took effect, if it says so.
fn claim(operation: &Operation) -> Option<(Claim, Option<u64>)> {
    let (_, answer) = operation.back.as_ref()?;
    let of = |operation, resource: String, decision| Claim { operation, resource, decision };
    let secret = |key: &str| format!("secret default:{key}");
    Some(match (&operation.action, answer) {
        (Action::Put { key, .. }, Answer::Stored { index, .. }) => {
            (of("secret.put", secret(key), "allow"), Some(*index))
        }
        (Action::Get { key }, Answer::Value { .. }) => (of("secret.open", secret(key), "allow"), None),
        (Action::Try { subject }, Answer::Value { .. }) => (of("secret.open", secret(&path(*subject)), "allow"), None),
        (Action::Try { subject }, Answer::Refused { code }) if code == "denied" => {
            (of("secret.open", secret(&path(*subject)), "deny"), None)
        }
        (Action::Permit { subject, .. }, Answer::Done { index, .. }) => {
            (of("policy.put", format!("policy {}", name(*subject)), "allow"), Some(*index))
        }
        (Action::Issue { role, .. }, Answer::Done { .. }) => (of("lease.issue", format!("role {role}"), "allow"), None),
        (Action::Renew { lease, .. }, Answer::Done { .. }) => {
            (of("lease.renew", format!("lease {lease}"), "allow"), None)
        }
        (Action::Revoke { lease }, Answer::Done { index, .. }) => {
            (of("lease.revoke", format!("lease {lease}"), "allow"), Some(*index))
        }
        _ => return None,
    })
}

/// What members have written down.
#[derive(Debug, Default)]
struct Decided {
    /// Who has decided so, by operation, decision and request.
    members: BTreeMap<(String, String, String), BTreeSet<String>>,
    /// Requests by operation and resource.
    about: BTreeMap<(String, String), BTreeSet<String>>,
    /// Requests by the place in the log at which they took effect.
    placed: BTreeMap<u64, BTreeSet<String>>,
    /// Logins that somebody was about to hand out.
    logins: BTreeSet<String>,
}

impl Decided {
    fn note(&mut self, member: &str, record: &Value) {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, id, operation) = (text("kind"), text("id"), text("operation"));
        match kind.as_str() {
            "decision" => {
                self.about.entry((operation.clone(), text("resource"))).or_default().insert(id.clone());
                self.members.entry((operation, text("decision"), id)).or_default().insert(member.to_owned());
            }
            "outcome" => {
                if let Some(index) = record.get("index").and_then(Value::as_u64) {
                    self.placed.entry(index).or_default().insert(id);
                }
            }
            "internal" if operation == "lease.answer" => {
                let login = record.pointer("/details/login").and_then(Value::as_str);
                self.logins.extend(login.map(str::to_owned));
            }
            _ => {}
        }
    }

    fn by(&self, operation: &str, decision: &str, id: &str) -> usize {
        let key = (operation.to_owned(), decision.to_owned(), id.to_owned());
        self.members.get(&key).map_or(0, BTreeSet::len)
    }
}

/// Reads a log, link by link.
fn read(files: &Files) -> Result<Vec<Value>, String> {
    let mut records = Vec::new();
    let mut link = Link::default();
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("audit-") && name.ends_with(".jsonl")) {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).map_err(|why| format!("{name}: {why}"))?;
        let mut head = true;
        // A last line without an end is a write under way: it is nobody's promise.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let value = link.check(line.trim_end_matches('\n'), head).map_err(|why| format!("{name}: {why}"))?;
            if !head {
                records.push(value);
            }
            head = false;
        }
    }
    Ok(records)
}

/// The end of a chain.
#[derive(Debug, Default)]
struct Link {
    hash: Option<String>,
    sequence: u64,
    segment: u64,
    member: String,
    cluster: String,
}

/// What follows the part of a line that is hashed: `,"hash":"`, 64 digits, `"}`.
const TAIL: usize = 75;

impl Link {
    fn check(&mut self, line: &str, head: bool) -> Result<Value, String> {
        let at = line.len().checked_sub(TAIL).ok_or("a line is too short")?;
        let (front, tail) = line.split_at_checked(at).ok_or("a line that is no text")?;
        let hash = tail.strip_prefix(",\"hash\":\"").and_then(|rest| rest.strip_suffix("\"}"));
        let hash = hash.ok_or("a line without a hash")?;
        let purpose = if head { "audit-segment" } else { "audit-record" };
        let seen = digest(purpose, &format!("{front}}}"));
        if seen != hash {
            return Err(format!("behind record {}: the hash is {hash} and should be {seen}", self.sequence));
        }
        let value: Value =
            serde_json::from_str(line).map_err(|why| format!("behind record {}: {why}", self.sequence))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        if text("prev") != self.hash.clone().unwrap_or_else(|| "0".repeat(64)) {
            return Err(format!("record {} is not followed by what names it", self.sequence));
        }
        if head {
            if number("segment") != Some(self.segment + 1) || number("first_seq") != Some(self.sequence + 1) {
                return Err(format!("a segment is missing before {:?}", number("segment")));
            }
            self.segment += 1;
            if self.segment > 1 && text("cluster") != self.cluster {
                return Err("a segment of another cluster".to_owned());
            }
            self.cluster = text("cluster");
        } else {
            if number("seq") != Some(self.sequence + 1) {
                return Err(format!("record {} is followed by {:?}", self.sequence, number("seq")));
            }
            self.sequence += 1;
        }
        if !self.member.is_empty() && text("member") != self.member {
            return Err(format!("behind record {}: a line of another member", self.sequence));
        }
        self.member = text("member");
        self.hash = Some(hash.to_owned());
        Ok(value)
    }
}

/// The hash of a line: the first half of SHA-512 over purpose and body, each with its length before it.
fn digest(purpose: &str, body: &str) -> String {
    let mut hash = Sha512::new();
    for part in [format!("quorate/v1/{purpose}").as_bytes(), body.as_bytes()] {
        hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    }
    let whole = hash.finalize();
    whole.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../../crates/audit/tests/golden/v1.jsonl");

    fn log(bytes: &[u8]) -> Files {
        BTreeMap::from([("audit-00000001.jsonl".to_owned(), bytes.to_vec())])
    }

    #[test]
    fn the_published_log_is_read_and_any_change_of_it_is_found() {
        let records = read(&log(GOLDEN)).unwrap();
        assert!(records.len() >= 3, "{}", records.len());
        let mut preallocated = GOLDEN.to_vec();
        preallocated.extend([0; 500]);
        assert_eq!(read(&log(&preallocated)).unwrap().len(), records.len());
        for at in (0..GOLDEN.len()).step_by(97) {
            let mut changed = GOLDEN.to_vec();
            changed[at] ^= 1;
            assert!(read(&log(&changed)).is_err(), "byte {at}");
        }
        let lines: Vec<&[u8]> = GOLDEN.split_inclusive(|byte| *byte == b'\n').collect();
        let without: Vec<u8> =
            lines.iter().enumerate().filter(|(at, _)| *at != 2).flat_map(|(_, l)| l.to_vec()).collect();
        assert!(read(&log(&without)).is_err(), "a line is missing");
    }

    /// A log of one member with these records: kind (of a decision, what it is), id, operation, resource (or the login), index.
    fn of(member: &str, records: &[(&str, &str, &str, &str, u64)]) -> Files {
        let mut text = String::new();
        let mut prev = "0".repeat(64);
        let mut add = |purpose: &str, front: String, prev: &mut String| {
            let hash = digest(purpose, &format!("{front}}}"));
            text += &format!("{front},\"hash\":\"{hash}\"}}\n");
            *prev = hash;
        };
        let front = format!(
            "{{\"format\":1,\"segment\":1,\"member\":\"{member}\",\"cluster\":\"c\",\"reserve\":false,\"first_seq\":1,\"prev\":\"{prev}\""
        );
        add("audit-segment", front, &mut prev);
        for (at, (kind, id, operation, resource, index)) in (1..).zip(records) {
            let decision = if matches!(*kind, "allow" | "deny") { kind } else { &"allow" };
            let kind = if kind == decision { &"decision" } else { kind };
            let front = format!(
                "{{\"v\":1,\"seq\":{at},\"member\":\"{member}\",\"kind\":\"{kind}\",\"id\":\"{id}\",\"operation\":\"{operation}\",\
                 \"resource\":\"{resource}\",\"decision\":\"{decision}\",\"index\":{index},\"details\":{{\"login\":\"{resource}\"}},\"prev\":\"{prev}\""
            );
            add("audit-record", front, &mut prev);
        }
        log(text.as_bytes())
    }

    fn told(action: Action, answer: Answer) -> Operation {
        Operation { number: 1, client: 1, action, call: 1, back: Some((2, answer)) }
    }

    fn done(index: u64, note: &str) -> Answer {
        Answer::Done { index, note: note.to_owned() }
    }

    /// The logs of two members that both must have decided, and what they leave unsaid: of the second, the records of these requests.
    fn two(records: &[(&str, &str, &str, &str, u64)], without: &[&str]) -> BTreeMap<String, Files> {
        let second: Vec<_> = records.iter().filter(|(_, id, ..)| !without.contains(id)).copied().collect();
        BTreeMap::from([("n1".to_owned(), of("n1", records)), ("n2".to_owned(), of("n2", &second))])
    }

    #[test]
    fn what_was_answered_with_fewer_than_t_records_is_found() {
        let key = || "app/chaos/r1".to_owned();
        let lease = || "l1".to_owned();
        let put = |index| told(Action::Put { key: key(), value: 1, cas: None }, Answer::Stored { number: 1, index });
        let get = told(Action::Get { key: key() }, Answer::Value { number: 1, value: 1 });
        let all = [
            put(9),
            get.clone(),
            told(Action::Permit { subject: 2, allowed: true }, done(10, "")),
            told(Action::Issue { role: "reader".to_owned(), ttl: 5 }, done(0, "l1 q_l1")),
            told(Action::Renew { lease: lease(), ttl: 5 }, done(0, "")),
            told(Action::Revoke { lease: lease() }, done(11, "")),
            told(Action::Try { subject: 2 }, Answer::Refused { code: "denied".to_owned() }),
        ];
        let secret = "secret default:app/chaos/r1";
        let records = [
            ("allow", "aa", "secret.put", secret, 8),
            ("outcome", "aa", "secret.put", secret, 9),
            ("allow", "bb", "secret.open", secret, 9),
            ("allow", "cc", "policy.put", "policy subject2", 9),
            ("outcome", "cc", "policy.put", "policy subject2", 10),
            ("allow", "dd", "lease.issue", "role reader", 10),
            ("internal", "lease.answer-1", "lease.answer", "q_l1", 10),
            ("allow", "ee", "lease.renew", "lease l1", 10),
            ("allow", "ff", "lease.revoke", "lease l1", 10),
            ("outcome", "ff", "lease.revoke", "lease l1", 11),
            ("deny", "99", "secret.open", "secret default:app/chaos/subject2", 11),
        ];
        let good = judge(&two(&records, &["lease.answer-1"]), &all, 2);
        assert_eq!((good.sought, good.records), (7, 21), "{good:?}");
        assert_eq!(good.violations, Vec::<String>::new());
        for (at, id) in ["aa", "bb", "cc", "dd", "ee", "ff", "99"].into_iter().enumerate() {
            let found = judge(&two(&records, &[id]), &all, 2).violations;
            assert!(!found.is_empty(), "{id}: operation {at}");
        }
        let found = judge(&two(&records, &["aa"]), &all, 2).violations;
        assert!(found.iter().any(|v| v.contains("at log index 9, and 1 members have recorded")), "{found:?}");
        let twice = judge(&two(&records, &[]), &[get.clone(), get], 2).violations;
        assert!(twice.len() == 1 && twice[0].contains("2 answers to secret.open"), "{twice:?}");
        // The outcomes are gone with whoever had noted them; the decisions are not.
        let lost: Vec<_> = records.iter().filter(|(kind, ..)| *kind != "outcome").copied().collect();
        assert_eq!(judge(&two(&lost, &[]), &all, 2).violations, Vec::<String>::new());
        let unsaid: Vec<_> = records.iter().filter(|(kind, ..)| *kind != "internal").copied().collect();
        let found = judge(&two(&unsaid, &[]), &all, 2).violations;
        assert!(found.len() == 1 && found[0].contains("q_l1 was handed out"), "{found:?}");
    }
}
