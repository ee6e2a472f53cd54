//! Every kind of target beside one cluster, each as its administrator sees it: the leader is lost while leases live there and at points of a
//! lease's life, and targets are dead, slow and lying beside others that are well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "tests fail by panicking and say what they have measured, and what the engines' tests share has more than is used here"
)]

#[path = "../../../crates/engines/tests/rabbitmq/amqp.rs"]
mod amqp;
#[path = "../../../crates/engines/tests/aws/server.rs"]
mod aws;
#[path = "../../../crates/engines/tests/kubernetes/cluster.rs"]
mod cluster;
#[path = "../../../crates/engines/tests/kubernetes/jwt.rs"]
mod jwt;
#[path = "../../../crates/engines/tests/kubernetes/server.rs"]
mod kubernetes;
#[path = "../../../crates/engines/tests/mariadb/server.rs"]
mod mariadb;
#[path = "../../../crates/engines/tests/aws/network.rs"]
mod network;
#[path = "../../../crates/engines/tests/rabbitmq/server.rs"]
mod rabbitmq;
#[path = "../../../crates/engines/tests/redis/server.rs"]
mod redis;
#[path = "../../../crates/engines/tests/webhook/server.rs"]
mod webhook;

mod moods;
mod places;
mod points;
