//! `quorate audit`: reading and verifying a member's audit log, without the member.

use crate::duration::instant;
use crate::failure::Stop;
use crate::output::{Format, table};
use quorate_audit::{Decision, Expected, Hash, Head, Record, VerifyError, read, verify};
use quorate_state::ids::LeaseId;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `quorate audit`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check every link of a log.
    Verify {
        /// The folder of the log.
        folder: PathBuf,
        /// A head noted earlier: the log must go through it. SEQ:HASH, as `quorate status` and this command show it.
        #[arg(long, value_parser = head, value_name = "SEQ:HASH")]
        expect: Option<Head>,
        /// Where the archived part ended, if the folder holds only what came after it.
        #[arg(long, value_parser = head, value_name = "SEQ:HASH")]
        start: Option<Head>,
    },
    /// Show records.
    Show {
        /// The folder of the log.
        folder: PathBuf,
        /// Only those of this request, 32 hexadecimal digits, or internal act.
        #[arg(long)]
        request: Option<String>,
        /// Only those about this index of the replicated log.
        #[arg(long)]
        index: Option<u64>,
        /// Only those that name this lease: its id, or its login as the target's own log has it.
        #[arg(long, value_parser = lease, value_name = "ID|LOGIN")]
        lease: Option<LeaseId>,
    },
}

/// Reads a lease's id, or its login's name: `q`, 8 digits of cluster and target, `_`, the id, and perhaps `_` and something
/// readable. For clap.
fn lease(text: &str) -> Result<LeaseId, String> {
    let hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let of_login = || {
        let (place, rest) = text.strip_prefix('q')?.split_at_checked(8)?;
        let (id, label) = rest.strip_prefix('_')?.split_at_checked(32)?;
        (hex(place) && (label.is_empty() || label.starts_with('_'))).then_some(id)
    };
    let id = of_login().unwrap_or(text);
    let id = id.parse().ok().filter(|_| hex(id));
    id.ok_or_else(|| format!("`{text}` is no lease: expected 32 hexadecimal digits, or a login that begins with q"))
}

/// Whether a record is about a lease, or names it among others.
fn names(record: &Record, lease: LeaseId) -> bool {
    let id = lease.to_string();
    let named = |(key, value): (&String, &String)| key.starts_with("lease") && *value == id;
    record.resource.strip_prefix("lease ") == Some(id.as_str()) || record.details.iter().any(named)
}

/// Reads `SEQ:HASH`. For clap.
fn head(text: &str) -> Result<Head, String> {
    let parts = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, hash.parse::<Hash>().ok()?)));
    parts.map(|(seq, hash)| Head { seq, hash }).ok_or_else(|| format!("`{text}` is no head: expected SEQ:HASH"))
}

/// Runs `quorate audit`.
pub(crate) fn run(command: &Command, output: Format) -> anyhow::Result<()> {
    match command {
        Command::Verify { folder, expect, start } => {
            let expected = Expected { head: *expect, start: *start };
            let summary = verify(folder, expected).map_err(|why| refused(folder, why))?;
            let head = format!("{}:{}", summary.head.seq, summary.head.hash);
            let document = json!({
                "member": summary.member,
                "cluster": summary.cluster,
                "records": summary.records,
                "segments": summary.segments,
                "first_seq": summary.first_seq,
                "head": head,
            });
            output.show(&document, || {
                let compared = if expect.is_some() {
                    "it goes through the expected head"
                } else {
                    "compare the head with one noted elsewhere"
                };
                format!(
                    "the log of {} is whole: {} records in {} segments\nhead {head}\n{compared}\n",
                    summary.member, summary.records, summary.segments
                )
            })
        }
        Command::Show { folder, request, index, lease } => {
            let mut records = Vec::new();
            for record in read(folder).map_err(|why| refused(folder, why))? {
                let record = record.map_err(|why| refused(folder, why))?;
                let asked = request.as_ref().is_none_or(|id| *id == record.id);
                let named = lease.is_none_or(|lease| names(&record, lease));
                if asked && named && (index.is_none() || record.index == *index) {
                    records.push(record);
                }
            }
            output.show(&json!({ "records": records }), || rows(&records))
        }
    }
}

fn rows(records: &[Record]) -> String {
    let header = ["SEQ", "AT", "KIND", "OPERATION", "RESOURCE", "PRINCIPAL", "DECISION", "REASON", "INDEX", "ID"];
    let row = |r: &Record| {
        let decision = r.decision.map_or("", |d| match d {
            Decision::Allow => "allow",
            Decision::Deny => "deny",
            Decision::Error => "error",
        });
        [
            r.seq.to_string(),
            instant(r.at),
            format!("{:?}", r.kind).to_lowercase(),
            r.operation.clone(),
            r.resource.clone(),
            r.principal.clone(),
            decision.to_owned(),
            r.reason.clone().unwrap_or_default(),
            r.index.map(|i| i.to_string()).unwrap_or_default(),
            r.id.clone(),
        ]
    };
    table(header, records.iter().map(row))
}

fn refused(folder: &Path, why: VerifyError) -> anyhow::Error {
    let at = folder.display();
    match why {
        VerifyError::Corrupt(what) => {
            let hint = "keep the folder as it is, and compare it with a copy; a member that runs or crashed leaves an unfinished tail";
            Stop::refused("audit_corrupt", format!("{at}: {what}"), hint)
        }
        VerifyError::Empty => {
            Stop::refused("not_found", format!("{at}: no audit log here"), "name the folder with audit-*.jsonl in it")
        }
        VerifyError::Io(why) => Stop::refused("io", format!("{at}: {why}"), "check the folder and its permissions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Told;
    use quorate_audit::{AuditLog, Class, Config, Entry, Kind, RecordId};

    #[test]
    fn a_changed_log_and_a_cut_one_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = AuditLog::open(folder.path(), Config::new("n1", "c", 1)).unwrap();
        for n in 0..3 {
            let entry = Entry::new(n, Kind::Internal, RecordId::internal("test", n), "test.act");
            log.append(entry, Class::Normal).wait().unwrap();
        }
        let noted = log.head();
        drop(log);
        let verify =
            |expect| run(&Command::Verify { folder: folder.path().to_owned(), expect, start: None }, Format::Json);
        verify(Some(noted)).unwrap();
        let beyond = Head { seq: noted.seq + 1, hash: noted.hash };
        assert!(Told::of(&verify(Some(beyond)).unwrap_err()).text().contains("ends at record"));
        let path = folder.path().join("audit-00000001.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|w| w == b"test.act").unwrap();
        bytes[at] = b'T';
        std::fs::write(&path, bytes).unwrap();
        let told = Told::of(&verify(None).unwrap_err()).text();
        assert!(told.starts_with("error[audit_corrupt]:"), "{told}");
    }

    #[test]
    fn heads() {
        assert_eq!(head(&format!("7:{}", "ab".repeat(32))).unwrap().seq, 7);
        assert!(head("7").is_err() && head("7:ab").is_err() && head(&format!("x:{}", "ab".repeat(32))).is_err());
    }

    #[test]
    fn a_lease_is_found_by_its_id_and_by_its_login() {
        let id = "0f".repeat(16);
        for good in [id.clone(), format!("q80651021_{id}"), format!("q80651021_{id}_reader_billing")] {
            assert_eq!(lease(&good).map(|lease| lease.to_string()), Ok(id.clone()), "{good}");
        }
        for bad in [
            "",
            "q",
            "q80651021_",
            &id[1..],
            &id.to_uppercase(),
            &format!("q80651021_{id}x"),
            &format!("qz0651021_{id}"),
        ] {
            assert!(lease(bad).is_err(), "{bad}");
        }
    }
}
