//! Redis as a target, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod canary;
mod hostile;
mod restart;
mod server;
mod tls;

use quorate_engines::conformance;
use server::Redis;

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    conformance::run(&*Redis::start(&[]).await).await;
}

/// The same where users are kept in the configuration, and begin with all channels.
#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite_with_other_settings() {
    use quorate_engines::scratch::Users;
    let settings = ["acl-pubsub-default allchannels", "io-threads 2", "io-threads-do-reads yes"];
    conformance::run(&*Redis::start_with(Users::ConfigFile, &settings).await).await;
}
