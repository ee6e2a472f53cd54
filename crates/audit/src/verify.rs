//! Reading a log back and checking every link of it, without the member that wrote it.

use crate::disk::{Dir, Segments};
use crate::encoding::{FORMAT, Hash, Header, open};
use crate::record::Record;
use std::io;
use std::path::Path;

/// A place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the last record up to there, 0 before the first.
    pub seq: u64,
    /// The hash of the last line up to there: that record's, or the head's of a segment that begins behind it.
    pub hash: Hash,
}

impl Head {
    /// Before the first line of the first segment.
    pub const BEGINNING: Self = Self { seq: 0, hash: Hash([0; 32]) };
}

/// What the reader of a log knows about it from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// The log goes through here. Without it, a cut tail can't be seen.
    pub head: Option<Head>,
    /// The log was archived up to here, and the directory goes on after it. Without it, the log begins at record 1.
    pub start: Option<Head>,
}

/// A verified log, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many records.
    pub records: u64,
    /// How many segments.
    pub segments: u64,
    /// The sequence number of the first record, if there is one.
    pub first_seq: Option<u64>,
    /// Where the log ends: compare it with what the cluster knows.
    pub head: Head,
    /// Whose log it is.
    pub member: String,
    /// The cluster it belongs to.
    pub cluster: String,
}

/// Where and how a log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {what}")]
pub struct Corruption {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong there.
    pub what: What,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// Not in the one encoding of a record or a segment's head.
    #[error("not a line of the format")]
    NotALine,
    /// A format of another version.
    #[error("format {0} is not known")]
    UnknownFormat(u32),
    /// The hash is not that of the line.
    #[error("the hash does not match the line")]
    WrongHash,
    /// The line doesn't continue the line before it.
    #[error("the line does not continue the chain")]
    BrokenChain,
    /// Another sequence number was due.
    #[error("record {found} where {expected} is due")]
    WrongSeq {
        /// The one due.
        expected: u64,
        /// The one in the record.
        found: u64,
    },
    /// The member or the cluster is not that of the lines before.
    #[error("the member or the cluster changes")]
    Foreign,
    /// Another segment was due.
    #[error("segment {found} where {expected} is due")]
    WrongSegment {
        /// The one due.
        expected: u64,
        /// The one in the name or the head.
        found: u64,
    },
    /// There are bytes behind the last complete line. A member that crashed while writing leaves some, and trims them at its next start.
    #[error("{bytes} bytes behind the last complete line")]
    TornTail {
        /// How many, up to the last that is not zero.
        bytes: u64,
    },
    /// The expected head is beyond the end.
    #[error("the log ends at record {seq}, before the expected head")]
    EndsEarly {
        /// The last record.
        seq: u64,
    },
    /// The record of the expected head is another one.
    #[error("record {seq} is not the one expected")]
    OtherHead {
        /// The expected record.
        seq: u64,
    },
}

/// Why a log could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log is damaged or was changed.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// There is no segment.
    #[error("no audit log here")]
    Empty,
    /// The storage failed.
    #[error("could not read the audit log")]
    Io(#[from] io::Error),
}

/// Verifies the log in a directory.
///
/// # Errors
/// The first corruption found; `Empty`; those of the file system.
pub fn verify(dir: &Path, expected: Expected) -> Result<Summary, VerifyError> {
    verify_from(&Dir::new(dir), expected)
}

/// [`verify`], on any storage.
///
/// # Errors
/// As [`verify`].
pub fn verify_from(segments: &dyn Segments, expected: Expected) -> Result<Summary, VerifyError> {
    let mut reader = read_from(segments, expected.start)?;
    reader.watched = expected.head.filter(|head| *head != expected.start.unwrap_or(Head::BEGINNING));
    let (mut records, mut first_seq) = (0, None);
    for record in &mut reader {
        first_seq.get_or_insert(record?.seq);
        records += 1;
    }
    let Some(cursor) = &reader.cursor else { return Err(VerifyError::Empty) };
    let head = cursor.head;
    match reader.watched {
        Some(Head { seq, .. }) if seq > head.seq => {
            return Err(cursor.corruption(What::EndsEarly { seq: head.seq }).into());
        }
        Some(Head { seq, .. }) => return Err(cursor.corruption(What::OtherHead { seq }).into()),
        None => {}
    }
    let Header { member, cluster, .. } = &cursor.header;
    Ok(Summary { records, segments: reader.opened, first_seq, head, member: member.clone(), cluster: cluster.clone() })
}

/// The records of the log in a directory, verified one after the other; the first error ends the reading.
///
/// # Errors
/// `Empty`; those of the file system.
pub fn read(dir: &Path) -> Result<Records<Dir>, VerifyError> {
    let dir = Dir::new(dir);
    let names = segment_names(&dir)?;
    Ok(Records::new(dir, names, Begin::Anywhere))
}

/// [`read`], on any storage, beginning where the log was archived, or at record 1.
///
/// # Errors
/// As [`read`].
pub fn read_from(segments: &dyn Segments, start: Option<Head>) -> Result<Records<&dyn Segments>, VerifyError> {
    let names = segment_names(segments)?;
    Ok(Records::new(segments, names, Begin::At(start.unwrap_or(Head::BEGINNING))))
}

/// What the first segment must continue.
#[derive(Debug, Clone, Copy)]
enum Begin {
    At(Head),
    Anywhere,
}

/// An iterator over verified records; see [`read`].
#[derive(Debug)]
pub struct Records<S> {
    segments: S,
    /// What is left to open, last first.
    names: Vec<(u64, String)>,
    begin: Begin,
    cursor: Option<Cursor>,
    opened: u64,
    /// A place that the log must go through, until it was seen.
    watched: Option<Head>,
    done: bool,
}

impl<S> Records<S> {
    fn new(segments: S, mut names: Vec<(u64, String)>, begin: Begin) -> Self {
        names.reverse();
        Self { segments, names, begin, cursor: None, opened: 0, watched: None, done: false }
    }
}

impl<S: Segments> Records<S> {
    fn step(&mut self) -> Result<Option<Record>, VerifyError> {
        loop {
            if let Some(cursor) = &mut self.cursor
                && let Some(record) = cursor.next_record()?
            {
                self.watched = self.watched.filter(|head| *head != cursor.head);
                return Ok(Some(record));
            }
            let Some((number, name)) = self.names.pop() else { return Ok(None) };
            let bytes = self.segments.read(&name)?;
            let next = Cursor::open(number, name, bytes)?;
            self.continues(&next).map_err(|what| next.corruption(what))?;
            self.opened += 1;
            self.watched = self.watched.filter(|head| *head != next.head);
            self.cursor = Some(next);
        }
    }

    /// Whether the head of a segment follows from what was read before it.
    fn continues(&self, next: &Cursor) -> Result<(), What> {
        let header = &next.header;
        let Head { seq, hash } = match (&self.cursor, self.begin) {
            (Some(last), _) => {
                if header.segment != last.header.segment.saturating_add(1) {
                    return Err(What::WrongSegment {
                        expected: last.header.segment.saturating_add(1),
                        found: header.segment,
                    });
                }
                if header.member != last.header.member || header.cluster != last.header.cluster {
                    return Err(What::Foreign);
                }
                last.head
            }
            (None, Begin::At(head)) => {
                if head.seq == 0 && header.segment != 1 {
                    return Err(What::WrongSegment { expected: 1, found: header.segment });
                }
                head
            }
            (None, Begin::Anywhere) => return Ok(()),
        };
        if header.first_seq != seq.saturating_add(1) {
            return Err(What::WrongSeq { expected: seq.saturating_add(1), found: header.first_seq });
        }
        if header.prev == hash { Ok(()) } else { Err(What::BrokenChain) }
    }
}

impl<S: Segments> Iterator for Records<S> {
    type Item = Result<Record, VerifyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl<T: Segments + ?Sized> Segments for &T {
    fn list(&self) -> io::Result<Vec<String>> {
        (**self).list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        (**self).read(name)
    }
}

/// The name of a segment: `audit-` and at least 8 digits.
pub(crate) fn segment_name(number: u64) -> String {
    format!("audit-{number:08}.jsonl")
}

/// The segments in a directory, in order. Other files are not the log's.
pub(crate) fn segment_names(segments: &(impl Segments + ?Sized)) -> Result<Vec<(u64, String)>, VerifyError> {
    let mut names: Vec<_> = segments
        .list()?
        .into_iter()
        .filter_map(|name| {
            let number = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()?;
            (segment_name(number) == name).then_some((number, name))
        })
        .collect();
    names.sort();
    if names.is_empty() { Err(VerifyError::Empty) } else { Ok(names) }
}

/// One segment, read line by line.
#[derive(Debug)]
pub(crate) struct Cursor {
    file: String,
    bytes: Vec<u8>,
    /// Behind the last byte that is not zero.
    pub(crate) data_end: usize,
    /// Behind the last line that was verified.
    pub(crate) end: usize,
    /// The line at `end`, from 1.
    line: u64,
    pub(crate) header: Header,
    /// The last verified line.
    pub(crate) head: Head,
}

impl Cursor {
    pub(crate) fn open(number: u64, file: String, bytes: Vec<u8>) -> Result<Self, Corruption> {
        let data_end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        let wrong = |what| Corruption { file: file.clone(), line: 1, what };
        let line = line_at(&bytes, 0, data_end).ok_or_else(|| wrong(What::NotALine))?;
        let (header, hash) = open::<Header>(line).map_err(&wrong)?;
        if header.format != FORMAT {
            return Err(wrong(What::UnknownFormat(header.format)));
        }
        if header.segment != number {
            return Err(wrong(What::WrongSegment { expected: number, found: header.segment }));
        }
        let seq = header.first_seq.checked_sub(1).ok_or_else(|| wrong(What::WrongSeq { expected: 1, found: 0 }))?;
        let end = line.len() + 1;
        Ok(Self { file, bytes, data_end, end, line: 2, header, head: Head { seq, hash } })
    }

    /// The next record; `None` behind the last one.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record>, Corruption> {
        if self.end == self.data_end {
            return Ok(None);
        }
        let (record, length) = self.check().map_err(|what| self.corruption(what))?;
        self.end += length;
        self.line += 1;
        self.head = Head { seq: record.seq, hash: record.hash };
        Ok(Some(record))
    }

    fn check(&self) -> Result<(Record, usize), What> {
        let line = line_at(&self.bytes, self.end, self.data_end)
            .ok_or(What::TornTail { bytes: (self.data_end - self.end) as u64 })?;
        let (mut record, hash) = open::<Record>(line)?;
        if record.v != self.header.format {
            return Err(What::UnknownFormat(record.v));
        }
        if Some(record.seq) != self.head.seq.checked_add(1) {
            return Err(What::WrongSeq { expected: self.head.seq.saturating_add(1), found: record.seq });
        }
        if record.member != self.header.member {
            return Err(What::Foreign);
        }
        if record.prev != self.head.hash {
            return Err(What::BrokenChain);
        }
        record.hash = hash;
        Ok((record, line.len() + 1))
    }

    /// What stands behind the last verified line.
    pub(crate) fn tail(&self) -> &[u8] {
        self.bytes.get(self.end..self.data_end).unwrap_or_default()
    }

    /// The verified lines, or as many bytes of them as `bytes` from the end, and where these begin.
    pub(crate) fn last(&self, bytes: usize) -> (usize, &[u8]) {
        let from = self.end.saturating_sub(bytes);
        (from, self.bytes.get(from..self.end).unwrap_or_default())
    }

    /// The size of the file.
    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn corruption(&self, what: What) -> Corruption {
        Corruption { file: self.file.clone(), line: self.line, what }
    }
}

/// The line that begins at `from`, without its newline, if it ends before `end`.
fn line_at(bytes: &[u8], from: usize, end: usize) -> Option<&[u8]> {
    let rest = bytes.get(from..end)?;
    rest.get(..rest.iter().position(|b| *b == b'\n')?)
}

#[cfg(test)]
mod tests;
