//! The replicated log: consensus by openraft, storage by RocksDB, peers over gRPC.
//!
//! This crate keeps one promise: what [`Raft::propose`] answered survives the loss of any minority of the nodes, and every node applies the
//! same entries in the same order to a state that is a function of them. It is the only one that knows of openraft and RocksDB.
//!
//! It refuses to know what the entries mean. A payload is opaque bytes, the state opaque keys and values, and the machine over them a
//! [`Machine`] of the caller. Nothing here prints a payload, a key or a value; openraft's own log lines see only lengths.
//!
//! Durability, in one paragraph. Log, vote and state share one write-ahead log, so that whatever a crash leaves is a prefix of what was
//! written. Only the vote, appended entries and an installed snapshot wait for a sync, and one thread does all syncing, for all who wait at
//! once. Applied entries are not synced: a crash loses some, and the log, which still holds them, brings them back. The first failed
//! sync ends the node, see [`Raft::fatal`].
//!
//! What it does not protect from: a member that does not follow the protocol. Consensus decides the order of entries, not whether they
//! should be believed; that is decided above, by signatures in the entries. A state without its entries, which is what a snapshot is, is
//! taken only against a proof that the caller's [`Notary`] accepts, and after every row was counted.

mod checkpoint;
mod codec;
mod config;
mod entry;
mod errors;
mod flush;
pub mod freshness;
mod kept;
pub mod kv;
mod log;
mod machine;
mod network;
mod raft;
mod rebuild;
mod runtime;
mod service;
mod snapshot;
mod state;
mod tail;
mod wire;
mod witness;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fuzz;

pub use checkpoint::{Checkpoint, Notary, Unattested};
pub use codec::CodecError;
pub use config::Config;
pub use errors::{
    Behind, CheckpointError, Damage, Fatal, InitError, MembershipError, OpenError, ProposeError, ReadIndexError,
};
pub use freshness::AcceptedMembership;
pub use machine::{Effect, Entry, Machine, MachineError, Recount, View, WrongState};
pub use network::{Dialer, Link};
pub use raft::{Committed, Raft, Status};
pub use service::{Authenticate, PeerService, Peers};
pub use state::begin;

/// A member of the cluster, as the membership names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The member's name; the connection to it must authenticate this one.
    pub member: String,
    /// Where its peer port is.
    pub peer_addr: String,
}
