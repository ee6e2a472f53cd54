//! A fragment in SoftHSM: a real PKCS#11 module, with tokens that are full, locked, gone, slow or wrong, or hold what
//! should not be there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod keys;
mod lab;
mod outages;
mod pins;
mod vectors;
mod wrong;
