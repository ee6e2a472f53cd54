//! Sealing, threshold opening, key generation and signatures: pure functions and state machines without I/O.
//!
//! Everything here is a function of its arguments. Randomness is an argument, time is unknown, and nothing touches a
//! file or a socket. The formats this crate writes are specified byte by byte in `docs/format.md`; a second
//! implementation in Python (`tests/vectors`), written from that page alone, is compared with it in both directions.
//!
//! # Security
//! Secret values live in [`secret::Secret`] or in types built on it: wiped on drop, redacted in `Debug`, neither `Clone`
//! nor `Copy`. No function in this crate, and no sequence of calls by one party, yields the secret key of a keyring:
//! shares are combined in the exponent of one ciphertext only ([`threshold`]).

pub mod answer;
pub mod backup;
pub mod customer;
pub mod dleq;
pub mod encoding;
pub mod group;
pub mod identity;
mod kdf;
pub mod keyfile;
pub mod keyring;
pub mod lthash;
pub mod reshare;
pub mod sealed;
pub mod secret;
pub mod storage;
pub mod threshold;
