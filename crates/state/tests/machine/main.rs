//! The machine as every replica runs it: commands in, writes and outcomes out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod absences;
mod access;
mod attestations;
mod canary;
mod ceremonies;
mod check;
mod clock;
mod footprints;
mod genesis;
mod golden;
mod graves;
mod histories;
mod leases;
mod replay;
mod requests;
mod secrets;
mod sweeps;
mod targets;
mod versions;
mod world;
