//! What the members' audit logs say about a request, a log index or a lease.

use crate::{Cluster, LOOK};
use anyhow::Context as _;
use quorate_audit::disk::{Dir, Segments};
use quorate_audit::{Corruption, Record, VerifyError, What, read_from};
use quorate_state::ids::LeaseId;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// The records of one request, by its id in hexadecimal.
    Request(String),
    /// The records of one index of the replicated log.
    Index(u64),
    /// The records that name one lease.
    Lease(LeaseId),
}

impl Sought {
    /// Whether a record is about it.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        match self {
            Self::Request(id) => record.id == *id,
            Self::Index(index) => record.index == Some(*index),
            Self::Lease(lease) => {
                let id = lease.to_string();
                record.resource.strip_prefix("lease ") == Some(id.as_str())
                    || record.details.iter().any(|(key, value)| key.starts_with("lease") && *value == id)
            }
        }
    }
}

impl core::fmt::Display for Sought {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Request(id) => write!(f, "request {id}"),
            Self::Index(index) => write!(f, "log index {index}"),
            Self::Lease(lease) => write!(f, "lease {lease}"),
        }
    }
}

/// A record, and whose log it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `n1` to `n9`, or `custodian`.
    pub member: String,
    /// The record.
    pub record: Record,
}

/// Every record in a folder, each link checked. The unfinished end of a log that is being written is left out.
///
/// # Errors
/// When the log is damaged.
pub fn records(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let mut found = Vec::new();
    let written = Written(folder, Dir::new(folder));
    for record in read_from(&written, None).with_context(|| folder.display().to_string())? {
        match record {
            Ok(record) => found.push(record),
            Err(VerifyError::Corrupt(Corruption { what: What::TornTail { .. }, .. })) => break,
            Err(why) => return Err(why).with_context(|| folder.display().to_string()),
        }
    }
    Ok(found)
}

/// A log without the zeros behind it: these are most of a young one, and this is read often.
struct Written<'a>(&'a Path, Dir);

impl Segments for Written<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.1.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        const CHUNK: usize = 1 << 16;
        let (mut file, mut bytes) = (File::open(self.0.join(name))?, Vec::new());
        loop {
            let from = bytes.len();
            let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut bytes)?;
            // Records hold no zeros: where a chunk is nothing else, the content has ended.
            if bytes.get(from..) == Some([0; CHUNK].as_slice()) {
                bytes.truncate(from);
                return Ok(bytes);
            }
            if read == 0 {
                return Ok(bytes);
            }
        }
    }
}

impl Cluster {
    /// What the members' logs say now, member after member; the custodian's last.
    ///
    /// # Errors
    /// When a log is damaged.
    pub fn audit_lines(&self, sought: &Sought) -> anyhow::Result<Vec<Line>> {
        let mut lines = Vec::new();
        for (member, folder) in self.audit_folders() {
            let records = records(folder)?.into_iter().filter(|record| sought.matches(record));
            lines.extend(records.map(|record| Line { member: member.to_owned(), record }));
        }
        Ok(lines)
    }

    /// The same, once `members` nodes say something: what is applied is recorded a moment later, and later still on a
    /// node that is behind.
    ///
    /// # Errors
    /// When they do not in `limit`.
    pub async fn wait_audit_lines(
        &self,
        sought: &Sought,
        members: usize,
        limit: Duration,
    ) -> anyhow::Result<Vec<Line>> {
        let deadline = Instant::now() + limit;
        loop {
            let lines = self.audit_lines(sought)?;
            let mut said: Vec<&str> = lines.iter().map(|l| l.member.as_str()).filter(|m| *m != "custodian").collect();
            said.dedup();
            if said.len() >= members {
                return Ok(lines);
            }
            let found = said.join(", ");
            anyhow::ensure!(Instant::now() < deadline, "{sought} is in the audit logs of [{found}] only");
            tokio::time::sleep(LOOK).await;
        }
    }
}
