//! Audit logs, read by a reader of their own, written from `docs/audit.md` alone: every chain holds, and what clients were told stands in the
//! logs of at least t members, decided by each of them.

use crate::history::{Action, Answer, Operation};
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
    // Who has allowed a request, by operation and request.
    let mut allowed: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    // Requests by the place in the log at which they took effect, and opens by what was opened.
    let mut placed: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut opened: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (member, files) in logs {
        let records = match read(files) {
            Ok(records) => records,
            Err(why) => {
                found.violations.push(format!("the audit log of {member}: {why}"));
                continue;
            }
        };
        found.records += records.len();
        for record in records {
            let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind, id, operation) = (text("kind"), text("id"), text("operation"));
            if kind == "decision" && text("decision") == "allow" {
                if operation == "secret.open" {
                    opened.entry(text("resource")).or_default().insert(id.clone());
                }
                allowed.entry((operation, id)).or_default().insert(member);
            } else if kind == "outcome"
                && let Some(index) = record.get("index").and_then(Value::as_u64)
            {
                placed.entry(index).or_default().insert(id);
            }
        }
    }
    let by = |operation: &str, id: &String| allowed.get(&(operation.to_owned(), id.clone())).map_or(0, BTreeSet::len);
    let mut opens: BTreeMap<&str, usize> = BTreeMap::new();
    for operation in all {
        match (&operation.action, &operation.back) {
            (Action::Put { key, .. }, Some((_, Answer::Stored { index, .. }))) => {
                found.sought += 1;
                let most = placed.get(index).into_iter().flatten().map(|id| by("secret.put", id)).max().unwrap_or(0);
                if most < threshold {
                    found.violations.push(format!(
                        "a put of {key} was acknowledged at log index {index}, and {most} members have recorded that they allowed it"
                    ));
                }
            }
            (Action::Get { key }, Some((_, Answer::Value { .. }))) => {
                found.sought += 1;
                *opens.entry(key).or_default() += 1;
            }
            _ => {}
        }
    }
    for (key, answered) in opens {
        let requests = opened.get(&format!("secret default:{key}"));
        let full = requests.into_iter().flatten().filter(|id| by("secret.open", id) >= threshold).count();
        if full < answered {
            found
                .violations
                .push(format!("{answered} opens of {key} were answered, and {full} were recorded by t members"));
        }
    }
    found
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

    /// A log of one member with these records: kind, id, operation, resource, index.
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
            let front = format!(
                "{{\"v\":1,\"seq\":{at},\"member\":\"{member}\",\"kind\":\"{kind}\",\"id\":\"{id}\",\"operation\":\"{operation}\",\
                 \"resource\":\"{resource}\",\"decision\":\"allow\",\"index\":{index},\"prev\":\"{prev}\""
            );
            add("audit-record", front, &mut prev);
        }
        log(text.as_bytes())
    }

    #[test]
    fn what_was_acknowledged_with_fewer_than_t_records_is_found() {
        let told = |action, answer| Operation { number: 1, client: 1, action, call: 1, back: Some((2, answer)) };
        let key = || "app/chaos/r1".to_owned();
        let put = told(Action::Put { key: key(), value: 1, cas: None }, Answer::Stored { number: 1, index: 9 });
        let get = told(Action::Get { key: key() }, Answer::Value { number: 1, value: 1 });
        let allow = [
            ("decision", "aa", "secret.put", "secret default:app/chaos/r1", 8),
            ("decision", "bb", "secret.open", "secret default:app/chaos/r1", 9),
            ("outcome", "aa", "secret.put", "secret default:app/chaos/r1", 9),
        ];
        let logs = |second: &[(&str, &str, &str, &str, u64)]| {
            BTreeMap::from([("n1".to_owned(), of("n1", &allow)), ("n2".to_owned(), of("n2", second))])
        };
        let all = [put, get.clone()];
        let good = judge(&logs(&allow), &all, 2);
        assert_eq!((good.sought, good.records, good.violations.len()), (2, 6, 0), "{good:?}");
        let no_put = judge(&logs(&allow[1..]), &all, 2).violations;
        assert!(no_put.len() == 1 && no_put[0].contains("1 members have recorded"), "{no_put:?}");
        let no_open = judge(&logs(&allow[..1]), &all, 2).violations;
        assert!(no_open.len() == 1 && no_open[0].contains("0 were recorded by t"), "{no_open:?}");
        let two = judge(&logs(&allow), &[all[0].clone(), get.clone(), get], 2).violations;
        assert!(two.len() == 1 && two[0].contains("2 opens"), "{two:?}");
    }
}
