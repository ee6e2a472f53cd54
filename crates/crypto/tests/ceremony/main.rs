//! Ceremonies from outside the crate: honest runs, hostile members, mangled bytes, and the frozen formats.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod cast;
mod golden;
mod honest;
mod hostile;
mod mangled;
