//! Kubernetes as a target, at an API server of ours that is written after the real one ([`cluster`]).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod canary;
mod check;
mod cluster;
mod fence;
mod hostile;
mod jwt;
mod restart;
mod server;
mod stub;
mod tokens;

use quorate_engines::conformance;
use server::Stub;

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    conformance::run(&*Stub::start().await).await;
}
