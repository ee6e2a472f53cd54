//! The gRPC contracts, TLS, the one table from errors to statuses, and the client SDK.
//!
//! | module | the one home of |
//! |---|---|
//! | [`vault`], [`peer`], [`custodian`] | the generated contracts of `proto/` |
//! | [`net`] | the seam to the network |
//! | [`tls`] | who may talk to whom: four roots of trust that never mix |
//! | [`status`] | every code that a user can see, its gRPC status, and whether to try again |
//! | [`transcript`] | what nodes sign in answers to clients |
//! | [`relay`] | questions and sealed answers that pass through another node |
//! | [`client`] | the SDK: sealing, fanning out, combining, opening |
//! | [`verifier`], [`scram`] | what targets store in the place of passwords |
//! | [`issued`] | what a target issued, sealed to who asked |
//!
//! It refuses to know how a node decides: the services that implement the contracts live in `server`.

pub mod client;
pub mod issued;
pub mod net;
pub mod relay;
pub mod scram;
pub mod status;
pub mod tls;
pub mod transcript;
pub mod verifier;

mod redact;

/// What clients call on a node (`proto/vault.proto`).
pub mod vault {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated; documented in the proto file"
    )]
    tonic::include_proto!("quorate.vault.v1");
}

/// What members call on each other (`proto/peer.proto`).
pub mod peer {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated; documented in the proto file"
    )]
    tonic::include_proto!("quorate.peer.v1");
}

/// What clients call on a custodian (`proto/custodian.proto`).
pub mod custodian {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated; documented in the proto file"
    )]
    tonic::include_proto!("quorate.custodian.v1");
}

/// The largest message in bytes, but for answers to Open: servers set it as their decoding limit, for every service.
pub const MAX_MESSAGE: usize = 8 << 20;

/// The largest answer to Open in bytes: clients set it as their decoding limit, and nodes refuse to send more content
/// ([`status::TOO_MUCH_CONTENT`]), so that a client asks for fewer items at once.
pub const MAX_OPEN_REPLY: usize = 64 << 20;
