//! The freshness rule under simulated faults: a small Raft, nodes that die and lose what was not synced, a network that loses,
//! doubles and reorders, and clients that open while others write and revoke.
//!
//! Raft is a model. What decides about freshness is not: the ledger of noted indexes and the membership rule are
//! [`quorate_raft::freshness`], what an entry can change is [`quorate_state::footprint`], and what a client believes is
//! [`quorate_api::client::quorum`]: the code that nodes and clients run.
//!
//! A run is a function of its seed and its [`Setup`]. It holds when
//! - every answer that a client took is that of the committed log at some moment between question and answer
//!   (linearizable; no older value and no revoked right), and
//! - once all faults have ended, every question comes to an answer soon, and no node waits for what will never come.
//!
//! A [`Mutant`] breaks one rule. That each is found is what makes the runs without one worth anything.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a model of fixed arrays, which fails by panicking: no part of the product"
)]

mod client;
mod commands;
mod mutant;
mod node;
mod random;
mod world;

pub use mutant::Mutant;
pub use world::run;

use std::fmt;

/// The cluster of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// For people.
    pub name: &'static str,
    /// How many nodes there are; clients ask all of them.
    pub nodes: usize,
    /// How many equal answers a client needs.
    pub threshold: usize,
    /// Voters at the beginning, as bits.
    pub voters: u16,
    /// Voters after a change in the middle of the run, by joint consensus.
    pub later: u16,
}

/// Three nodes, two answers.
pub const THREE: Setup = Setup { name: "2 of 3", nodes: 3, threshold: 2, voters: 0b111, later: 0b111 };
/// Five nodes, three answers.
pub const FIVE: Setup = Setup { name: "3 of 5", nodes: 5, threshold: 3, voters: 0b11111, later: 0b11111 };
/// Five nodes, two answers: too few for the rule, so every node asks the leader.
pub const TOO_FEW: Setup = Setup { name: "2 of 5", nodes: 5, threshold: 2, voters: 0b11111, later: 0b11111 };
/// Three voters become five: two answers are enough before, and too few afterwards.
pub const GROWING: Setup = Setup { name: "2 of 3, then of 5", nodes: 5, threshold: 2, voters: 0b111, later: 0b11111 };
/// Five voters become three.
pub const SHRINKING: Setup = Setup { name: "3 of 5, then of 3", nodes: 5, threshold: 3, voters: 0b11111, later: 0b111 };

/// The clusters that the product is run as, or could come to be.
pub const SETUPS: [Setup; 5] = [THREE, FIVE, TOO_FEW, GROWING, SHRINKING];

/// What a run has seen. A batch of runs that has not seen enough proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries committed.
    pub committed: u64,
    /// Questions answered.
    pub opens: u64,
    /// Of these, refused because of a revocation.
    pub denied: u64,
    /// Of these, after more than one round.
    pub repeated: u64,
    /// Questions that had to wait at a node.
    pub waits: u64,
    /// Questions that a node answered at once although its tail held entries that do not meet them.
    pub passed: u64,
    /// Waiting questions whose index was lowered by a truncation.
    pub lowered: u64,
    /// Answers that a node gave up on.
    pub behind: u64,
    /// Questions for which a node asked the leader.
    pub leader_asked: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Nodes that were killed.
    pub kills: u64,
    /// Nodes that also lost what they had not synced.
    pub power_cuts: u64,
    /// Partitions.
    pub partitions: u64,
    /// Changes of the voters that were committed.
    pub changes: u64,
    /// Answers of liars that reached a client.
    pub lies: u64,
}

macro_rules! sum {
    ($($field:ident)*) => {
        impl Seen {
            /// Adds another run.
            pub fn add(&mut self, other: &Self) { $(self.$field += other.$field;)* }
        }

        impl fmt::Display for Seen {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, "{} {}, ", self.$field, stringify!($field).replace('_', " "))?;)*
                Ok(())
            }
        }
    };
}
sum!(committed opens denied repeated waits passed lowered behind leader_asked leaders kills power_cuts partitions changes lies);

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A client took an answer that the committed log never gave between question and answer.
    Stale(String),
    /// A question came to no answer although all was well.
    Stuck(String),
    /// The model of Raft lost or forked a committed entry: then nothing above it means anything.
    Raft(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(what) => write!(f, "stale: {what}"),
            Self::Stuck(what) => write!(f, "stuck: {what}"),
            Self::Raft(what) => write!(f, "raft: {what}"),
        }
    }
}
