//! The audit log of one member: what was asked, what this member decided and why, and what it did by itself.
//!
//! A record is durable before the part, the endorsement or the effect that it describes leaves the process: the caller
//! waits for the [`Receipt`] of [`AuditLog::append`]. Records are lines of JSON in preallocated files, chained by hash
//! across files; [`verify`] checks them offline. The bytes are specified in `docs/audit.md`.
//!
//! This crate refuses to know secrets (no value has a field to go into), what operations mean, what time it is
//! (the caller stamps its entries) and any runtime: the writer is one thread of its own, and a receipt is a plain future.
//!
//! # Security
//! The chain shows any change to somebody who knows a later head; the cluster keeps the heads of its members for that
//! purpose. Someone who can write to the directory and knows no later head stands against them can still cut the tail
//! off or rewrite the whole log. Record text comes from outside: it is escaped on the way in ([`text`]).

pub mod disk;
mod encoding;
mod log;
mod record;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
mod verify;
mod writer;

pub use encoding::{FORMAT, Hash, Header, MAX_LINE};
pub use log::{AuditLog, ESSENTIAL_QUEUE, NORMAL_QUEUE, Receipt};
pub use record::{Decision, Entry, Kind, Record, RecordId};
pub use text::Detail;
pub use verify::{
    Corruption, Expected, Head, Records, Summary, VerifyError, What, read, read_from, verify, verify_from,
};
pub use writer::{AuditError, Broken, Class, Config, Durable, MIN_BYTES, OpenError, Recovered, Status};
