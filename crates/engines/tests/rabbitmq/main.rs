//! RabbitMQ as a target, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod amqp;
mod fence;
mod hostile;
mod restart;
mod rights;
mod server;

use quorate_engines::conformance;
use server::Rabbit;

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    conformance::run(&*Rabbit::start(&[], vec![]).await).await;
}
