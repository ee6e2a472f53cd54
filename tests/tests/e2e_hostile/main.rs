//! Hostile input through the real sockets of real nodes. Each case has a stable code and a clear message, changes nothing,
//! and the node that was sent it answers a good request afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod answers;
mod bytes;
mod identities;
mod member;
mod names;
mod requests;
mod seals;
mod stage;

use quorate_tests::{Cluster, Options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    stage::prepare(&cluster).await;
    stage::run("bytes", bytes::section(&cluster)).await;
    stage::run("identities", identities::section(&cluster)).await;
    stage::run("requests", requests::section(&cluster)).await;
    stage::run("member", member::section(&cluster)).await;
    stage::run("seals", seals::section(&cluster)).await;
    stage::run("names", names::section(&cluster)).await;
    stage::run("answers", answers::section(&cluster)).await;
    stage::judge();
}
