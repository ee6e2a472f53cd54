//! The vocabulary of the vault and the deterministic machine over it.
//!
//! [`machine::apply`] is a function of a store's content and one command. It reads no clock, draws no randomness, does no
//! I/O of its own, parses no foreign text and evaluates no policy: whatever is not deterministic stands in the command
//! before it is proposed. That is why a write is *endorsed*: t members have authenticated the caller, evaluated Cedar on
//! their own state and signed that they allow it; here only their signatures are counted.
//!
//! | module | the one home of |
//! |---|---|
//! | [`request`] | canonical bytes, signatures, endorsements; the request table |
//! | [`change`] | every operation there is, and what each may touch |
//! | [`clock`] | cluster time: it comes only from the log, and only administrators set it back |
//! | [`lease`] | the transitions of a lease |
//! | [`secrets`] | versions, check-and-set, what a sealed version must look like to be accepted |
//! | [`footprint`] | which answers an entry can change |
//! | [`access`] | namespaces, mounts, customer keys, policies, blocked identities |
//! | [`ceremony`] | key generation through the log |
//! | [`hash`] | the hash of the state, which every command brings up to date |
//! | [`absence`] | members that administrators have recorded as powered off or destroyed |
//! | [`attest`] | what members sign about the state, and who counts |
//!
//! Refusals are outcomes, not errors: they are final, recorded under the request id, and the same on every node. Only a
//! store that cannot be read is an error, and it ends the process.

pub mod absence;
pub mod access;
pub mod attest;
pub mod ceremony;
pub mod change;
pub mod clock;
pub mod command;
pub mod footprint;
pub mod genesis;
pub mod hash;
pub mod ids;
pub mod lease;
pub mod machine;
pub mod outcome;
pub mod request;
pub mod secrets;
pub mod store;
pub mod target;
