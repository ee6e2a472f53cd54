//! What became of a command: the same on every node, kept under the request id, and what the client is told.

use crate::ids::{KeyringId, LeaseId, MemberIndex, Millis, SecretId, SessionId, VersionId};
use crate::store::Value;
use borsh::{BorshDeserialize, BorshSerialize};

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// Done, and there is nothing more to say.
    Done,
    /// A version was stored.
    Stored {
        /// Its number.
        number: u64,
        /// Its secret.
        secret: SecretId,
        /// Its id.
        version: VersionId,
    },
    /// Versions were deleted, brought back or destroyed.
    Versions {
        /// Those whose state changed.
        changed: Vec<u64>,
    },
    /// The intent of a lease is in the log; the target comes next.
    Intent {
        /// The lease.
        lease: LeaseId,
        /// The login that the target will know.
        principal: String,
        /// When it ends.
        expires_at: Millis,
    },
    /// The end of a lease was moved.
    Renewed {
        /// The lease.
        lease: LeaseId,
        /// When it ends now.
        expires_at: Millis,
    },
    /// Leases moved on.
    Leases {
        /// Those whose state changed.
        changed: Vec<LeaseId>,
    },
    /// A ceremony moved on.
    Ceremony {
        /// The keyring, once it stands.
        keyring: Option<KeyringId>,
    },
    /// Cluster time moved.
    Time {
        /// What it is now.
        now: Millis,
        /// Whether it jumped, so that expiry pauses.
        jumped: bool,
    },
    /// Nothing was done.
    Refused(Refusal),
    /// A member's own signature proves that it broke the rules of a ceremony. It is kept with the ceremony.
    Fault {
        /// The ceremony.
        session: SessionId,
        /// Who.
        member: MemberIndex,
        /// What it did.
        what: String,
    },
}

impl Value for Outcome {}

/// Why nothing was done. Facts only; words are `api::status`'s.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no command, or of a version that this program does not know.
    #[error("the command is not in a known format")]
    Malformed,
    /// The request names another cluster.
    #[error("the request is for another cluster")]
    WrongCluster,
    /// A signature of the caller or of an administrator does not verify.
    #[error("a signature over the request does not verify")]
    BadSignature,
    /// Fewer endorsements of distinct members than it takes.
    #[error("{got} of {needed} endorsements are valid")]
    NotEndorsed {
        /// Valid ones.
        got: u8,
        /// How many it takes.
        needed: u8,
    },
    /// Fewer administrators' signatures than it takes.
    #[error("{got} of {needed} administrators have signed")]
    NotByAdministrators {
        /// Valid ones.
        got: u8,
        /// How many it takes.
        needed: u8,
    },
    /// The authority has changed since the endorsement: ask again.
    #[error("the rules changed while the request was under way (authority version {current})")]
    Stale {
        /// The version now.
        current: u64,
    },
    /// The request's time is over.
    #[error("the request was valid until {not_after}, and it is {now}")]
    TooLate {
        /// Its end.
        not_after: Millis,
        /// Cluster time.
        now: Millis,
    },
    /// The request would be valid for too long.
    #[error("a request may be valid for at most {limit} ms")]
    TooFar {
        /// The longest.
        limit: Millis,
    },
    /// The same request id was used for other bytes.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// Somebody wrote in between.
    #[error("the newest version is {current}, not the expected one")]
    CheckAndSet {
        /// The newest version, 0 for none.
        current: u64,
    },
    /// There is no such thing.
    #[error("there is no {what}")]
    NotFound {
        /// The kind of thing.
        what: String,
    },
    /// There is one already.
    #[error("there is a {what} of that name already")]
    Exists {
        /// The kind of thing.
        what: String,
    },
    /// An argument that cannot be.
    #[error("{field}: {why}")]
    Invalid {
        /// Which.
        field: String,
        /// What is wrong with it. Never its value.
        why: String,
    },
    /// The sealed version does not match the command, the mount or itself.
    #[error("the sealed version is not acceptable: {why}")]
    Unacceptable {
        /// Which rule.
        why: String,
    },
    /// Not in the state that this needs.
    #[error("the lease is {state}")]
    LeaseState {
        /// The state it is in.
        state: String,
    },
    /// There are as many leases as there may be.
    #[error("{what} has {limit} leases, as many as it may")]
    Quota {
        /// Whose.
        what: String,
        /// The limit.
        limit: u32,
    },
    /// The identity was blocked.
    #[error("the identity is blocked")]
    Blocked,
    /// A leader's command from a term that is over, or that the state does not justify.
    #[error("the command is from an earlier term, or nothing calls for it")]
    Unjustified,
    /// A ceremony message that the ceremony does not admit.
    #[error("the ceremony does not admit it: {why}")]
    Ceremony {
        /// Why.
        why: String,
    },
    /// Expiry pauses after a jump of time.
    #[error("expiry pauses until {until}, since time jumped")]
    ExpiryPaused {
        /// Cluster time at which it goes on.
        until: Millis,
    },
    /// No leases are issued at the target.
    #[error("the target is {standing}")]
    TargetStanding {
        /// What it is instead of enabled.
        standing: String,
    },
    /// The target has seen more of this cluster than this cluster knows: it was rolled back or copied.
    #[error(
        "the target is quarantined: it has seen term of office {counter} of this cluster, which does not know of it"
    )]
    Quarantined {
        /// The highest that the target has seen.
        counter: u64,
    },
}

impl Refusal {
    /// The stable code that users and programs see (`docs/errors.md`).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed_command",
            Self::WrongCluster => "wrong_cluster",
            Self::BadSignature => "bad_signature",
            Self::NotEndorsed { .. } => "not_endorsed",
            Self::NotByAdministrators { .. } => "not_by_administrators",
            Self::Stale { .. } => "stale_authority",
            Self::TooLate { .. } => "request_too_late",
            Self::TooFar { .. } => "request_too_long",
            Self::RequestIdReused => "request_id_reused",
            Self::CheckAndSet { .. } => "check_and_set",
            Self::NotFound { .. } => "not_found",
            Self::Exists { .. } => "exists",
            Self::Invalid { .. } => "invalid_argument",
            Self::Unacceptable { .. } => "unacceptable_seal",
            Self::LeaseState { .. } => "lease_state",
            Self::Quota { .. } => "quota",
            Self::Blocked => "identity_blocked",
            Self::Unjustified => "unjustified",
            Self::Ceremony { .. } => "ceremony",
            Self::ExpiryPaused { .. } => "expiry_paused",
            Self::TargetStanding { .. } => "target_not_enabled",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    /// Whether this outcome leaves the request id unused, so that the client may send the same request again.
    #[must_use]
    pub fn consumes_nothing(&self) -> bool {
        matches!(
            self,
            Self::Malformed
                | Self::WrongCluster
                | Self::BadSignature
                | Self::NotEndorsed { .. }
                | Self::NotByAdministrators { .. }
                | Self::Stale { .. }
                | Self::TooLate { .. }
                | Self::TooFar { .. }
                | Self::RequestIdReused
                | Self::Unjustified
        )
    }

    /// Shorthand for [`Refusal::NotFound`].
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::NotFound { what: what.to_owned() }
    }

    /// Shorthand for [`Refusal::Exists`].
    #[must_use]
    pub fn exists(what: &str) -> Self {
        Self::Exists { what: what.to_owned() }
    }

    /// Shorthand for [`Refusal::Invalid`].
    #[must_use]
    pub fn invalid(field: &str, why: impl core::fmt::Display) -> Self {
        Self::Invalid { field: field.to_owned(), why: why.to_string() }
    }

    /// Shorthand for [`Refusal::Unacceptable`].
    #[must_use]
    pub fn unacceptable(why: impl core::fmt::Display) -> Self {
        Self::Unacceptable { why: why.to_string() }
    }
}
