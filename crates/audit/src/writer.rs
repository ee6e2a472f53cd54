//! The end of the log: recovery, batches, segments, the reserve. No thread and no waiting in here.
//!
//! A new segment is allocated and headed under another name and renamed when it is durable: a file with a segment's name
//! always has a durable head. When there is no room for one, the reserve file becomes the next segment, for
//! [`Class::Essential`] only.

use crate::disk::Disk;
use crate::encoding::{FORMAT, Hash, Header, MAX_LINE, close};
use crate::record::{Decision, Entry, Kind, Record, RecordId};
use crate::text::{Detail, MAX_NAME, escape};
use crate::verify::{Corruption, Cursor, Head, VerifyError, segment_name, segment_names};
use quorate_crypto::encoding::hash32;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// The smallest size of a segment and of the reserve, in bytes.
pub const MIN_BYTES: u64 = 2 * MAX_LINE as u64;

/// At most this much is written between two syncs, so no crash tears more.
const MAX_BATCH: usize = 1024 * 1024;

/// A head is written over this many bytes, so nothing stays of a head that an earlier crash left in the reserve.
const HEAD_ROOM: usize = 4096;

/// After a failed allocation none is tried for so long, by the clock of the entries: each try takes what room is left, for a moment,
/// from whatever shares the disk.
const RETRY_MS: u64 = 1000;

const RESERVE: &str = "audit.reserve";
const NEXT: &str = "audit.next";

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// The member whose log it is; at most 64 bytes are kept.
    pub member: String,
    /// The cluster it belongs to; at most 64 bytes are kept.
    pub cluster: String,
    /// Size of a segment in bytes, at least [`MIN_BYTES`].
    pub segment_bytes: u64,
    /// Size of the reserve in bytes, at least [`MIN_BYTES`].
    pub reserve_bytes: u64,
    /// Milliseconds since 1970, for a record about the recovery itself.
    pub opened_at: u64,
}

impl Config {
    /// Segments of 16 MiB and a reserve of 4 MiB.
    #[must_use]
    pub fn new(member: &str, cluster: &str, opened_at: u64) -> Self {
        let (member, cluster) = (member.to_owned(), cluster.to_owned());
        Self { member, cluster, segment_bytes: 16 << 20, reserve_bytes: 4 << 20, opened_at }
    }
}

/// What a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Requests and everything that can be refused.
    Normal,
    /// Expiry, revocation and ceremonies: these may use the reserve on disk and in the queue.
    ///
    /// # Security
    /// Never for anything that an outsider can cause in any number: a flood must not empty the reserve.
    Essential,
}

/// The record is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Its sequence number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The call to the storage after which a log takes no more records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The file in the log's directory.
    pub file: String,
    /// What could not be done with it, as a participle: `written`, `synced`.
    pub call: &'static str,
    /// The error's kind.
    pub kind: ErrorKind,
    /// The error's number in the operating system. The kind does not tell a device that failed (`EIO`) from other errors that have no name.
    pub os: Option<i32>,
}

impl Broken {
    /// The storage's error.
    #[must_use]
    pub fn error(&self) -> io::Error {
        self.os.map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be {}: {}", self.file, self.call, self.error())
    }
}

/// The record is not on disk: what it would have described must not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// There is no room for the class of this record.
    #[error("the audit log is full")]
    Full,
    /// Too many records are waiting.
    #[error("the audit log is busy")]
    Busy,
    /// A write or a sync failed, now or before. It stays so until the log is opened again: whether that record is on disk is unknown.
    #[error("the audit log failed: {0}")]
    Failed(Arc<Broken>),
    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,
    /// The record could not be encoded, or has more than [`MAX_LINE`] bytes.
    #[error("the audit record could not be encoded")]
    Encoding,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A segment or the reserve would be smaller than [`MIN_BYTES`], or a name is empty or too long.
    #[error("bad audit configuration")]
    Config,
    /// The log in this directory is another's.
    #[error("the audit log belongs to member {member} of cluster {cluster}")]
    Foreign {
        /// The member in the log.
        member: String,
        /// The cluster in the log.
        cluster: String,
    },
    /// More is damaged than a crash can tear. Nothing was changed.
    #[error("the audit log is damaged: {0}")]
    Corrupt(#[from] Corruption),
    /// The record about the recovery could not be written.
    #[error("the recovery could not be recorded: {0}")]
    NotRecorded(#[source] AuditError),
    /// The storage failed, or had no room for a new log; `ResourceBusy` if another process has the log open.
    #[error("could not open the audit log: {0}")]
    Io(#[from] io::Error),
}

/// What was found at opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The last record that was kept, 0 if there is none; a record about the recovery itself has a higher number.
    pub seq: u64,
    /// How many bytes of an unfinished write were trimmed.
    pub torn_bytes: u64,
}

/// Whether records can be written, as of the last one that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Yes; `reserve` says whether the reserve is there.
    Ready {
        /// The reserve file exists.
        reserve: bool,
    },
    /// Only essential ones: the disk is full.
    Full {
        /// The reserve file exists.
        reserve: bool,
    },
    /// None, until the log is opened again.
    Failed(Arc<Broken>),
}

/// An error of the storage, and what it was about.
struct Trouble {
    file: String,
    call: &'static str,
    error: io::Error,
}

/// What became of a call that would have `file` written, synced or whatever `call` is.
fn of<T>(file: &str, call: &'static str, done: Result<T, impl Into<io::Error>>) -> Result<T, Trouble> {
    done.map_err(|error| Trouble { file: file.to_owned(), call, error: error.into() })
}

impl From<Trouble> for OpenError {
    fn from(trouble: Trouble) -> Self {
        trouble.error.into()
    }
}

/// The segment that is being written.
struct Segment {
    number: u64,
    name: String,
    /// Behind the last durable line.
    end: u64,
    size: u64,
    reserve: bool,
}

pub(crate) struct Writer {
    disk: Box<dyn Disk>,
    config: Config,
    segment: Segment,
    head: Head,
    has_reserve: bool,
    /// When an allocation failed last, if none succeeded since.
    full_since: Option<u64>,
    failed: Option<Arc<Broken>>,
}

impl Writer {
    pub(crate) fn open(disk: Box<dyn Disk>, config: Config) -> Result<(Self, Recovered), OpenError> {
        let names = [&config.member, &config.cluster];
        if config.segment_bytes < MIN_BYTES
            || config.reserve_bytes < MIN_BYTES
            || names.iter().any(|name| name.is_empty() || escape(name, MAX_NAME) != **name)
        {
            return Err(OpenError::Config);
        }
        match segment_names(&*disk) {
            Err(VerifyError::Empty) => Self::begin(disk, config),
            Err(VerifyError::Io(e)) => Err(e.into()),
            Err(VerifyError::Corrupt(e)) => Err(e.into()),
            Ok(names) => {
                let (number, name) =
                    names.into_iter().next_back().ok_or(ErrorKind::NotFound).map_err(io::Error::from)?;
                let bytes = disk.read(&name)?;
                let cursor = Cursor::open(number, name.clone(), bytes)?;
                Self::resume(disk, config, cursor, name)
            }
        }
    }

    /// A new log. Its reserve must be there from the start.
    fn begin(mut disk: Box<dyn Disk>, config: Config) -> Result<(Self, Recovered), OpenError> {
        disk.allocate(RESERVE, config.reserve_bytes)?;
        let head = Head::BEGINNING;
        let segment = Segment { number: 0, name: String::new(), end: 0, size: 0, reserve: false };
        let mut writer = Self { disk, config, segment, head, has_reserve: true, full_since: None, failed: None };
        writer.disk.allocate(NEXT, writer.config.segment_bytes)?;
        writer.start(NEXT, writer.config.segment_bytes, false)?;
        Ok((writer, Recovered { seq: 0, torn_bytes: 0 }))
    }

    /// Goes on behind the last line that holds; what an unfinished write left there is set aside and trimmed.
    fn resume(
        mut disk: Box<dyn Disk>,
        config: Config,
        mut cursor: Cursor,
        name: String,
    ) -> Result<(Self, Recovered), OpenError> {
        let Header { member, cluster, segment: number, reserve, .. } = cursor.header.clone();
        if member != config.member || cluster != config.cluster {
            return Err(OpenError::Foreign { member, cluster });
        }
        let damage = loop {
            match cursor.next_record() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(corruption) => break Some(corruption),
            }
        };
        let torn = cursor.tail();
        if let Some(corruption) = damage.filter(|_| torn.len() > MAX_BATCH) {
            return Err(corruption.into());
        }
        // After a failed sync the page cache can hold what the disk does not: what may be so is written again.
        let (again, kept) = cursor.last(MAX_BATCH);
        disk.write_at(&name, again as u64, kept)?;
        disk.sync(&name)?;
        let has_reserve = keep_reserve(&mut *disk, &config)?;
        let recovered = Recovered { seq: cursor.head.seq, torn_bytes: torn.len() as u64 };
        let segment = Segment { number, name, end: cursor.end as u64, size: cursor.size(), reserve };
        let head = cursor.head;
        let mut writer = Self { disk, config, segment, head, has_reserve, full_since: None, failed: None };
        if !torn.is_empty() {
            writer.trim(torn, recovered)?;
        }
        Ok((writer, recovered))
    }

    fn trim(&mut self, torn: &[u8], recovered: Recovered) -> Result<(), OpenError> {
        let aside = format!("audit-torn-{:020}-{}", self.head.seq, hex::encode(hash32("audit-torn", &[torn])));
        match self.disk.allocate(&aside, torn.len() as u64) {
            Ok(()) => {
                self.disk.write_at(&aside, 0, torn)?;
                self.disk.sync(&aside)?;
            }
            // Room is for what must go on; the hash in the record still tells what was there.
            Err(e) if no_room(&e) => {
                tracing::warn!(bytes = torn.len(), "no room to keep the torn end of the audit log")
            }
            Err(e) => return Err(e.into()),
        }
        self.disk.write_at(&self.segment.name, self.segment.end, &vec![0; torn.len()])?;
        self.disk.sync(&self.segment.name)?;
        let entry = Entry::new(
            self.config.opened_at,
            Kind::Internal,
            RecordId::internal("recovered", recovered.seq),
            "audit.recover",
        )
        .decision(Decision::Allow, "torn-tail")
        .detail("last_seq", Detail::number(recovered.seq))
        .detail("torn_bytes", Detail::number(recovered.torn_bytes))
        .detail("torn_hash", Detail::hash(&hash32("audit-torn", &[torn])));
        match self.append(&[(entry, Class::Essential)]).into_iter().next() {
            Some(Err(e)) => Err(OpenError::NotRecorded(e)),
            _ => Ok(()),
        }
    }

    /// Writes a batch and syncs it; one answer for each entry, in order.
    pub(crate) fn append(&mut self, batch: &[(Entry, Class)]) -> Vec<Result<Durable, AuditError>> {
        let mut answers: Vec<Result<Durable, AuditError>> = Vec::with_capacity(batch.len());
        let mut pending = Pending { bytes: Vec::new(), head: self.head, answered: 0 };
        for (entry, class) in batch {
            let answer = self.put(entry, *class, &mut pending, &mut answers);
            answers.push(answer);
        }
        if let Err(e) = self.flush(&mut pending, &mut answers) {
            // The answers were corrected by flush.
            tracing::error!(error = %e, "the audit log stops");
        }
        answers
    }

    fn put(
        &mut self,
        entry: &Entry,
        class: Class,
        pending: &mut Pending,
        answers: &mut [Result<Durable, AuditError>],
    ) -> Result<Durable, AuditError> {
        if let Some(broken) = &self.failed {
            return Err(AuditError::Failed(Arc::clone(broken)));
        }
        // The reserve is not for normal records, however much of it is left.
        if self.segment.reserve && class == Class::Normal {
            self.turn(entry.at(), class, pending, answers)?;
        }
        let (mut line, mut head) = self.encode(entry, pending.head)?;
        if self.segment.end + (pending.bytes.len() + line.len()) as u64 > self.segment.size {
            self.turn(entry.at(), class, pending, answers)?;
            (line, head) = self.encode(entry, pending.head)?;
        }
        if pending.bytes.len() + line.len() > MAX_BATCH {
            self.flush(pending, answers)?;
        }
        pending.bytes.extend_from_slice(&line);
        pending.head = head;
        Ok(Durable { seq: head.seq, hash: head.hash })
    }

    fn encode(&self, entry: &Entry, prev: Head) -> Result<(Vec<u8>, Head), AuditError> {
        let seq = prev.seq + 1;
        let record: Record = entry.record(&self.config.member, seq, prev.hash);
        let (line, hash) = close(&record).map_err(|_| AuditError::Encoding)?;
        if line.len() > MAX_LINE { Err(AuditError::Encoding) } else { Ok((line, Head { seq, hash })) }
    }

    /// Makes what is pending durable. If that fails, the answers it holds become errors.
    fn flush(&mut self, pending: &mut Pending, answers: &mut [Result<Durable, AuditError>]) -> Result<(), AuditError> {
        if !pending.bytes.is_empty() {
            let name = &self.segment.name;
            let written = of(name, "written", self.disk.write_at(name, self.segment.end, &pending.bytes));
            if let Err(trouble) = written.and_then(|()| of(name, "synced", self.disk.sync(name))) {
                let failed = self.fail(trouble);
                pending.bytes.clear();
                for answer in answers.iter_mut().skip(pending.answered).filter(|a| a.is_ok()) {
                    *answer = Err(failed.clone());
                }
                return Err(failed);
            }
            self.segment.end += pending.bytes.len() as u64;
            self.head = pending.head;
            pending.bytes.clear();
        }
        pending.answered = answers.len();
        Ok(())
    }

    /// Goes on in a new segment that `class` may write to.
    fn turn(
        &mut self,
        at: u64,
        class: Class,
        pending: &mut Pending,
        answers: &mut [Result<Durable, AuditError>],
    ) -> Result<(), AuditError> {
        self.flush(pending, answers)?;
        if self.full_since.is_none_or(|since| at.abs_diff(since) >= RETRY_MS) {
            match self.allocate() {
                Ok(()) => {
                    self.full_since = None;
                    self.start(NEXT, self.config.segment_bytes, false).map_err(|trouble| self.fail(trouble))?;
                    pending.head = self.head;
                    return Ok(());
                }
                Err(trouble) if no_room(&trouble.error) => {
                    tracing::error!("no room for the audit log: only revocation and ceremonies go on");
                    self.full_since = Some(at);
                }
                Err(trouble) => return Err(self.fail(trouble)),
            }
        }
        if class == Class::Normal || !self.has_reserve {
            return Err(AuditError::Full);
        }
        self.has_reserve = false;
        self.start(RESERVE, self.config.reserve_bytes, true).map_err(|trouble| self.fail(trouble))?;
        pending.head = self.head;
        Ok(())
    }

    /// Makes room for a segment; a reserve that was used comes back first.
    fn allocate(&mut self) -> Result<(), Trouble> {
        if !self.has_reserve {
            of(RESERVE, "allocated", self.disk.allocate(RESERVE, self.config.reserve_bytes))?;
            self.has_reserve = true;
        }
        of(NEXT, "allocated", self.disk.allocate(NEXT, self.config.segment_bytes))
    }

    /// Makes the allocated file `from` the segment that is written.
    fn start(&mut self, from: &str, size: u64, reserve: bool) -> Result<(), Trouble> {
        let number = self.segment.number + 1;
        let header = Header {
            format: FORMAT,
            segment: number,
            member: self.config.member.clone(),
            cluster: self.config.cluster.clone(),
            reserve,
            first_seq: self.head.seq + 1,
            prev: self.head.hash,
        };
        let (mut line, hash) = of(from, "encoded", close(&header))?;
        let end = line.len() as u64;
        line.resize(line.len().max(HEAD_ROOM), 0);
        of(from, "written", self.disk.write_at(from, 0, &line))?;
        of(from, "synced", self.disk.sync(from))?;
        let name = segment_name(number);
        of(&name, "named so", self.disk.rename(from, &name))?;
        self.segment = Segment { number, name, end, size, reserve };
        self.head.hash = hash;
        Ok(())
    }

    /// For good, with the first trouble.
    fn fail(&mut self, Trouble { file, call, error }: Trouble) -> AuditError {
        let broken = || Arc::new(Broken { file, call, kind: error.kind(), os: error.raw_os_error() });
        AuditError::Failed(Arc::clone(self.failed.get_or_insert_with(broken)))
    }

    /// The end of what is durable, and whether more can follow.
    pub(crate) fn state(&self) -> (Head, Status) {
        let reserve = self.has_reserve;
        let full = self.full_since.is_some() || self.segment.reserve;
        let status = match &self.failed {
            Some(broken) => Status::Failed(Arc::clone(broken)),
            None if full => Status::Full { reserve },
            None => Status::Ready { reserve },
        };
        (self.head, status)
    }
}

/// What is encoded and not yet written.
struct Pending {
    bytes: Vec<u8>,
    /// The head once it is.
    head: Head,
    /// The answers before this place are final.
    answered: usize,
}

/// Whether the reserve is there, after trying to bring it back. A full disk must not keep a member from starting.
fn keep_reserve(disk: &mut dyn Disk, config: &Config) -> io::Result<bool> {
    let there = disk.list()?.iter().any(|name| name == RESERVE);
    if there && disk.read(RESERVE)?.len() as u64 == config.reserve_bytes {
        return Ok(true);
    }
    match disk.allocate(RESERVE, config.reserve_bytes) {
        Ok(()) => Ok(true),
        Err(e) if no_room(&e) => {
            tracing::error!("no room for the reserve of the audit log");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn no_room(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests;
