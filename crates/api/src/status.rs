//! The one table from errors to gRPC statuses and words.
//!
//! A code is for ever: programs branch on it. It travels in the trailer `quorate-code`; the message beside it says what
//! happened, to what, and what to do next. `docs/errors.md` is the same table for people; a test compares them.

use quorate_state::outcome::Refusal;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

mod uncoded;

pub use uncoded::coded;

/// The trailer that carries the code.
pub const TRAILER: &str = "quorate-code";

/// The longest message, in bytes: it travels in a header.
const MAX_MESSAGE: usize = 1024;

/// Whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not with this request.
    No,
    /// The same request, a little later, at any node.
    Later,
    /// The same request, at another node.
    Elsewhere,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The stable code.
    pub code: &'static str,
    /// Its gRPC status.
    pub grpc: Code,
    /// Whether asking again can help.
    pub retry: Retry,
    /// What it means.
    pub meaning: &'static str,
    /// What to do: stands at the end of each message.
    pub advice: &'static str,
}

macro_rules! table {
    ($($code:literal $constant:ident $grpc:ident $retry:ident $meaning:literal $advice:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $code;)*
        /// Every code that a node or custodian answers with.
        pub const TABLE: &[Row] = &[$(Row {
            code: $code, grpc: Code::$grpc, retry: Retry::$retry, meaning: $meaning, advice: $advice,
        },)*];
    };
}

table! {
    // Refusals: final outcomes of the state.
    "malformed_command" MALFORMED InvalidArgument No
        "The bytes are no request in a known format." "use a client of this release or an older one";
    "wrong_cluster" WRONG_CLUSTER FailedPrecondition No
        "The request names another cluster." "check the cluster id in cluster.toml";
    "bad_signature" BAD_SIGNATURE InvalidArgument No
        "A signature over the request does not verify." "sign with the key of the certificate, and with keys of administrators only";
    "not_endorsed" NOT_ENDORSED Unavailable Later
        "Fewer members endorsed the request than it takes." "try again; if it stays, look at the status of the members";
    "not_by_administrators" NOT_BY_ADMINISTRATORS FailedPrecondition No
        "Fewer administrators signed than it takes." "gather more administrators' signatures over the same request";
    "stale_authority" STALE_AUTHORITY Aborted Later
        "The rules changed while the request was under way." "try again; a request that names an authority version must be signed anew";
    "request_too_late" REQUEST_TOO_LATE DeadlineExceeded No
        "The request's time was over in cluster time." "send a new request; compare the caller's clock with cluster time";
    "request_too_long" REQUEST_TOO_LONG InvalidArgument No
        "The request would be valid for too long." "name an earlier end; compare the caller's clock with cluster time";
    "request_id_reused" REQUEST_ID_REUSED AlreadyExists No
        "The request id was used for another request." "draw a fresh request id";
    "check_and_set" CHECK_AND_SET Aborted No
        "Somebody wrote a newer version in between." "read the newest version and decide again";
    "not_found" NOT_FOUND NotFound No
        "There is no such thing." "check the name";
    "exists" EXISTS AlreadyExists No
        "There is one of that name already." "choose another name";
    "invalid_argument" INVALID_ARGUMENT InvalidArgument No
        "An argument breaks its rule." "correct the argument";
    "unacceptable_seal" UNACCEPTABLE_SEAL InvalidArgument No
        "The sealed version does not fit the request, the mount or itself." "seal for this path, with the keys of its mount";
    "lease_state" LEASE_STATE FailedPrecondition No
        "The lease is not in a state that allows this." "look at the lease";
    "quota" QUOTA ResourceExhausted No
        "The role, the target, the namespace or the identity has as many leases as it may." "revoke leases that are not needed, or raise the bound: `quorate quota`, or the role's own";
    "identity_blocked" IDENTITY_BLOCKED PermissionDenied No
        "The identity is blocked." "ask the administrators";
    "unjustified" UNJUSTIFIED FailedPrecondition No
        "A command of a leader whose term is over, or that nothing calls for." "nothing: members see this among themselves";
    "ceremony" CEREMONY FailedPrecondition No
        "The key ceremony does not admit it." "look at the ceremony in the status; begin a new one if it was given up";
    "expiry_paused" EXPIRY_PAUSED Unavailable Later
        "Expiry pauses after a jump of cluster time." "wait until it goes on";
    "target_not_enabled" TARGET_NOT_ENABLED FailedPrecondition No
        "No leases are issued at the target: it is not proved yet, or being removed." "run `quorate target check NAME`, which says what is missing";
    "quarantined" QUARANTINED FailedPrecondition No
        "The target has seen more of this cluster than this cluster knows: it was rolled back, or its folders were copied." "look for another cluster with the same folders; `quorate target show NAME` says what taking over would end";
    // Decisions about the caller.
    "unauthenticated" UNAUTHENTICATED Unauthenticated No
        "The caller's certificate was not accepted; a suffix says why." "use a valid certificate of the client CA, with a SPIFFE id of the trust domain";
    "denied" DENIED PermissionDenied No
        "No policy allows it, or one forbids it." "ask the administrators for a policy that allows this action on this resource";
    "member_destroyed" MEMBER_DESTROYED PermissionDenied No
        "The calling member is recorded as destroyed: nothing of it is taken." "find out who has its key; its data folder and seal key must be erased";
    // What a node cannot do at the moment.
    "behind" BEHIND Unavailable Elsewhere
        "The node has not applied what the answer needs." "ask other nodes; this one catches up";
    "clock_ahead" CLOCK_AHEAD Unavailable Elsewhere
        "By the member's own clock the request ended long ago; in cluster time it has not." "ask other members; compare this one's clock with cluster time";
    "no_leader" NO_LEADER Unavailable Later
        "The cluster has no leader, or this node knows none." "try again in a second; if it stays, look whether a majority is up";
    "not_enough_members" NOT_ENOUGH_MEMBERS Unavailable Later
        "Fewer members answered than it takes." "bring members back";
    "not_effective" NOT_EFFECTIVE Unavailable Later
        "The change is committed, and not every member has confirmed that it has applied it." "wait, or bring back the members that are named: until then do not rely on them to refuse";
    "unknown_outcome" UNKNOWN_OUTCOME Unavailable Later
        "The request was proposed, and what became of it is not known." "send the same request with the same id: it happens once";
    "audit_unavailable" AUDIT_UNAVAILABLE Unavailable Elsewhere
        "The node cannot write its audit record, so it decides nothing." "ask other nodes; make room on this node's audit disk";
    "storage_full" STORAGE_FULL ResourceExhausted Elsewhere
        "The node's disk is above its watermark: nothing that grows is taken." "make room on the node's disk; revocation goes on meanwhile";
    "no_share" NO_SHARE Unavailable Elsewhere
        "The node holds no share of the keyring in its current epoch." "ask other nodes; look at the node's ceremonies";
    "overloaded" OVERLOADED ResourceExhausted Later
        "The node has as much to do as it may." "try again more slowly";
    "shutting_down" SHUTTING_DOWN Unavailable Elsewhere
        "The node is ending." "ask other nodes";
    "target_unavailable" TARGET_UNAVAILABLE Unavailable Later
        "The target system could not be reached, or refused the vault." "check the target, its address and the vault's login there; a lease that did not become active is revoked by itself";
    "target_refused" TARGET_REFUSED FailedPrecondition No
        "The target system refused what it was asked." "look at the role's groups and at the rights of the vault's login there";
    "engine_missing" ENGINE_MISSING FailedPrecondition No
        "The member's program was built without the engine for targets of this kind." "build it with `--features engines` on every member";
    "lease_failed" LEASE_FAILED Aborted No
        "The lease did not become usable, or has ended; nothing of it stays at the target." "ask for a new lease";
    "not_your_request" NOT_YOUR_REQUEST PermissionDenied No
        "The request's caller is not the one of its connection or certificate." "send requests on a connection with the certificate that they name";
    "policy_invalid" POLICY_INVALID InvalidArgument No
        "The policy does not compile or does not fit the schema." "correct the policy";
    "too_large" TOO_LARGE InvalidArgument No
        "The request has more bytes than a log entry may." "send less at once";
    "storage_failed" STORAGE_FAILED Unavailable Elsewhere
        "The node cannot read its own store, or what it reads is damaged." "ask other nodes; look at this node's log";
    "version_mismatch" VERSION_MISMATCH Unavailable Elsewhere
        "A member answered in a format of another release." "ask other nodes; bring all members to one release";
    "not_in_office" NOT_IN_OFFICE PermissionDenied No
        "The member is not the executor of that target, or has no work there." "nothing: members see this among themselves";
    "credential_unopenable" CREDENTIAL_UNOPENABLE Unavailable No
        "All members gave their parts of a target's password, and it does not open: it was never sealed as it should be, or more members than may be are wrong."
        "say what the password is: `quorate target password NAME`";
    "too_much_content" TOO_MUCH_CONTENT ResourceExhausted No
        "The answer would be longer than 64 MiB." "ask for fewer items at once";
    "internal" INTERNAL Internal Elsewhere
        "The node failed in a way that it should not." "ask other nodes; look at this node's log";
    // Of custodians.
    "custodian_frozen" CUSTODIAN_FROZEN FailedPrecondition No
        "The customer has frozen the key: nobody obtains its part." "ask the customer";
    "custodian_denied" CUSTODIAN_DENIED PermissionDenied No
        "The custodian's own policy does not allow it." "ask the customer";
    "custodian_other_key" CUSTODIAN_OTHER_KEY FailedPrecondition No
        "The custodian or key file holds another customer key than the version is sealed to." "use the custodian or key file of the customer key that is named as needed; neither members nor writers are at fault";
    "custodian_unavailable" CUSTODIAN_UNAVAILABLE Unavailable Later
        "The custodian holds the key in tokens (HSMs), and none of them answers." "try again; if it stays, ask the customer: `quorate custodian status` names the tokens and what is wrong with them";
    // Seen by clients alone.
    "relay_altered" RELAY_ALTERED DataLoss Elsewhere
        "An answer is not what its member signed for this question: it was altered or swapped where it was passed on, or made so." "go through another member, and report both members that are named";
    "customer_value_wrong" CUSTOMER_VALUE_WRONG DataLoss No
        "The customer's key gives wrong values: it did not open what was sealed to it a moment before." "ask the customer: the custodian, its device or its key file is damaged; neither members nor writers are at fault";
    "unreachable" UNREACHABLE Unavailable Elsewhere
        "The node could not be reached, or the connection broke." "check the address, the network and the pinned key";
    "deadline" DEADLINE DeadlineExceeded Later
        "No answer came in time." "try again with the same request id";
    "disagreement" DISAGREEMENT Aborted Later
        "No t members gave the same answer." "try again; if it stays, compare the status of the members";
    "bad_answer" BAD_ANSWER DataLoss Elsewhere
        "A member's answer contradicts itself, its signature or its proof; it is named and no longer asked first." "report the member to the operators";
    "not_pinned" NOT_PINNED FailedPrecondition No
        "A keyring, mount or customer key is not the one pinned in cluster.toml." "do not go on; compare cluster.toml with the operators and the customer";
    "wrong_label" WRONG_LABEL DataLoss No
        "The sealed version is labelled for another cluster, namespace, path, secret or version." "do not trust the value; report it to the operators";
    "does_not_open" DOES_NOT_OPEN DataLoss No
        "The members' parts are right, and the version still does not open." "write a new version; whoever wrapped or wrote this one is named";
    "no_customer_key" NO_CUSTOMER_KEY FailedPrecondition No
        "The version needs a customer's part, and no source for it is configured." "name the custodian or the key file";
    "client_setup" CLIENT_SETUP FailedPrecondition No
        "The client's own configuration is not usable." "correct cluster.toml, the identity or the address";
    "unknown" UNKNOWN Unknown No
        "The answer carries no code that this client knows." "use a newer client";
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Failure {
    /// A code of [`TABLE`], or `unauthenticated_` and a cause.
    pub code: &'static str,
    /// What happened, to what, and what to do next. Never a secret.
    pub message: String,
    /// Whether asking again can help.
    pub retry: Retry,
}

impl Failure {
    /// `what` happened; what to do follows from the code. `what` is a lower-case fragment that names what it is about.
    ///
    /// A code that begins with `unauthenticated_` counts as `unauthenticated`, one that is in no row as `unknown`.
    #[must_use]
    pub fn new(code: &'static str, what: impl core::fmt::Display) -> Self {
        let row = row(code);
        Self { code, message: format!("{what}; {}", row.advice), retry: row.retry }
    }

    /// A failure that a member sent as a code and words, in a message instead of a status.
    #[must_use]
    pub fn from_words(code: &str, message: String) -> Self {
        let row = row(code);
        Self { code: row.code, message, retry: row.retry }
    }

    /// Its gRPC status.
    #[must_use]
    pub fn grpc(&self) -> Code {
        row(self.code).grpc
    }
}

/// The row of a code.
fn row(code: &str) -> &'static Row {
    let find = |code: &str| TABLE.iter().find(|row| row.code == code);
    let family = if code.starts_with("unauthenticated_") { UNAUTHENTICATED } else { UNKNOWN };
    const FALLBACK: &Row = &Row {
        code: UNKNOWN,
        grpc: Code::Unknown,
        retry: Retry::No,
        meaning: "Unknown.",
        advice: "use a newer client",
    };
    find(code).or_else(|| find(family)).unwrap_or(FALLBACK)
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut trailers = MetadataMap::new();
        trailers.insert(TRAILER, MetadataValue::from_static(failure.code));
        let mut message = failure.message.clone();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self::with_metadata(failure.grpc(), message, trailers)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(code) = status.metadata().get(TRAILER).and_then(|code| code.to_str().ok()) {
            return Self::from_words(code, status.message().to_owned());
        }
        let code = match status.code() {
            Code::Unavailable | Code::Cancelled => UNREACHABLE,
            Code::DeadlineExceeded => DEADLINE,
            // Only the transport on this side gives a status a source: no member has answered.
            _ if std::error::Error::source(&status).is_some() => UNREACHABLE,
            _ => UNKNOWN,
        };
        // The causes below a transport error are the ones that say something.
        let mut what = status.message().to_owned();
        let mut cause = std::error::Error::source(&status);
        while let Some(deeper) = cause {
            what = deeper.to_string();
            cause = deeper.source();
        }
        Self::new(code, what)
    }
}

#[cfg(test)]
mod tests;
