//! Published vectors for every primitive that the formats stand on: the RFCs' own, and C2SP's Wycheproof.
//!
//! They run against this crate's wrappers where there is one, else against the very function that the wrapper calls. The
//! vectors of RFC 9497 (the proofs of `dleq`) stand beside the code, which shows their context string to nobody.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod customer;
mod drafts;
mod rfc;
mod ristretto;
mod symmetric;

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    hex::decode(hex).unwrap().try_into().unwrap()
}
