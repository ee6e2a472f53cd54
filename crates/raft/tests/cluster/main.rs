//! Three nodes over real gRPC on loopback: elections, replication, crashes, snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

mod damage;
#[path = "../../../../fuzz/driver.rs"]
#[allow(dead_code, reason = "its choices are used here, and its corpus is not")]
mod driver;
mod durability;
mod harness;
mod images;
mod leadership;
mod points;
mod reads;
mod snapshots;
