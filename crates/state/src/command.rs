//! What stands in the log.

use crate::attest::Attestation;
use crate::clock::Reading;
use crate::ids::{LeaseId, MemberIndex, Millis};
use crate::outcome::Refusal;
use crate::request::{Endorsement, SignedRequest};
use crate::target::{Proof, Quarantine};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// The version of the encoding below. A command of another version is refused by `apply` on every node alike.
pub const VERSION: u8 = 1;

/// A command. Variants are numbered by their order: new ones go to the end, none is removed.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Command {
    /// A client's request with the endorsements of t members.
    Endorsed {
        /// The request as the caller signed it.
        request: SignedRequest,
        /// At least t of distinct members.
        endorsements: Vec<Endorsement>,
        /// What the leader adds, because only it can know it.
        stamp: Stamp,
    },
    /// Moves cluster time.
    Tick {
        /// At least t of distinct members.
        readings: Vec<Reading>,
    },
    /// Ends what is due.
    Expire {
        /// The term in which the leader saw it due.
        term: u64,
        /// Leases that end at or before this are due; cluster time must have passed it.
        upto: Millis,
    },
    /// A leader takes office as the executor of a target.
    Executor {
        /// The target.
        target: String,
        /// The leader.
        member: MemberIndex,
        /// Its term.
        term: u64,
        /// Random, for the claim at the target.
        nonce: [u8; 8],
    },
    /// The credential of an intent exists at the target.
    LeaseActive {
        /// The executor's term.
        term: u64,
        /// The lease.
        lease: LeaseId,
        /// The principal's oid at the target.
        oid: u32,
        /// What the target issued, sealed to who asked; empty where it issues nothing.
        issued: Vec<u8>,
    },
    /// The credential of an intent was refused by the target, or nobody knows whether it was made: the intent ends.
    LeaseFailed {
        /// The executor's term.
        term: u64,
        /// The lease.
        lease: LeaseId,
    },
    /// Credentials are gone: login refused, no session, looked at twice.
    LeaseRevoked {
        /// The executor's term.
        term: u64,
        /// The log index of the target's description by which was looked.
        described: u64,
        /// What was verified.
        proofs: Vec<RevocationProof>,
    },
    /// A principal was found at the target that no lease accounts for.
    Adopt {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// Its name there.
        principal: String,
        /// Its oid there.
        oid: u32,
    },
    /// A message of a member in a key ceremony, signed by it, as `docs/ceremony.md` encodes it.
    Ceremony {
        /// The message.
        message: Vec<u8>,
    },
    /// A member that was recorded as powered off is back: the record ends.
    Returned {
        /// Its own word for an index at or past the record.
        attestation: Attestation,
    },
    /// The next step of the oldest end of many leases that is not complete.
    Sweep {
        /// The leader's term.
        term: u64,
    },
    /// What the executor found out about a target, because somebody asked for it.
    TargetProved {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// What.
        proof: Proof,
    },
    /// The target has seen as many terms of office of this cluster as the executor's own, or more.
    Quarantine {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// What was found there.
        found: Quarantine,
    },
    /// The executor is about to give a target another administrative password.
    RotatePassword {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// The password's sealed header; its author is [`crate::target::executor_author`].
        header: Vec<u8>,
        /// Its sealed payload.
        payload: Vec<u8>,
    },
    /// The target lets the executor in with the password that is under way.
    PasswordRotated {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// The log index of its [`Command::RotatePassword`].
        index: u64,
    },
    /// Whoever is in office counts on within its term, because it has made logins since the claim that stands at the target.
    CountOn {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// Random, for the next claim.
        nonce: [u8; 8],
    },
    /// Accounts of leases that are ending are refused at the target and still there, because they were in use or own something.
    Remain {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
    },
    /// A search of the target has found nothing that ended leases left there.
    Cleared {
        /// The executor's term.
        term: u64,
        /// The target.
        target: String,
        /// The log index that the executor had applied when the search began.
        upto: u64,
    },
}

/// What the leader adds to an endorsed request.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Stamp {
    /// For an intent: the connection that its CREATE will use.
    pub binding: Option<Binding>,
    /// For an intent: the executor's term.
    pub executor_term: u64,
}

/// One connection to a target, as the target names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Binding {
    /// The backend's process id.
    pub pid: i32,
    /// When the backend began, in microseconds since 1970 by the target's clock: pids repeat.
    pub backend_start: i64,
}

/// How the end of a credential was seen.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RevocationProof {
    /// The lease.
    pub lease: LeaseId,
    /// Whether the name was taken and the CREATE's connection seen gone. Without it, "already gone" is no proof for a
    /// lease that was never active: its CREATE may still be on its way.
    pub fenced: bool,
    /// When the second look was taken, by the executor's clock.
    pub looked_at: Millis,
    /// How many sessions were ended.
    pub sessions_ended: u32,
    /// Where was looked, for people.
    pub endpoint: String,
}

impl Command {
    /// The bytes of a log entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        // Writing into a vector does not fail.
        let _ = self.serialize(&mut out);
        out
    }

    /// Reads a log entry.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] for another version and for anything that is not exactly one command.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Self::try_from_slice(rest).map_err(|_| Refusal::Malformed),
            _ => Err(Refusal::Malformed),
        }
    }

    /// A name for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Endorsed { .. } => "endorsed",
            Self::Tick { .. } => "tick",
            Self::Expire { .. } => "expire",
            Self::Executor { .. } => "executor",
            Self::LeaseActive { .. } => "lease-active",
            Self::LeaseFailed { .. } => "lease-failed",
            Self::LeaseRevoked { .. } => "lease-revoked",
            Self::Adopt { .. } => "adopt",
            Self::Ceremony { .. } => "ceremony",
            Self::Returned { .. } => "returned",
            Self::Sweep { .. } => "sweep",
            Self::TargetProved { .. } => "target-proved",
            Self::Quarantine { .. } => "quarantine",
            Self::RotatePassword { .. } => "rotate-password",
            Self::PasswordRotated { .. } => "password-rotated",
            Self::CountOn { .. } => "count-on",
            Self::Remain { .. } => "remain",
            Self::Cleared { .. } => "cleared",
        }
    }
}

/// The name only: commands carry sealed payloads and verifiers, and libraries print what they are given.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
