//! AWS as a target, on a real moto.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod canary;
mod fence;
mod hostile;
mod network;
mod rights;
mod server;
mod sessions;

use quorate_engines::conformance;
use server::Moto;

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    conformance::run(&*Moto::start().await).await;
}
