//! Three nodes over real gRPC on loopback: elections, replication, crashes, snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod damage;
mod durability;
mod harness;
mod images;
mod leadership;
mod reads;
mod snapshots;
