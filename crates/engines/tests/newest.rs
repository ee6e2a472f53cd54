//! All that runs against the distribution's PostgreSQL, once more against the newest that is installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::duplicate_mod,
    reason = "tests fail by panicking; each file brings the same support"
)]

#[path = "canary.rs"]
mod canary;
#[path = "hostile.rs"]
mod hostile;
#[path = "postgres.rs"]
mod postgres;
#[path = "standbys.rs"]
mod standbys;
#[path = "tls.rs"]
mod tls;
