//! Leases before an auditor that shares no code with the vault (`tests/auditor`): it finds nothing to say of this build, however its
//! nodes are killed and its users behave, and it names what is wrong with builds that are broken on purpose, and at targets into which somebody
//! has meddled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

mod bugs;
mod churn;
mod four;
mod kills;
mod places;
mod sabotage;
mod servers;
mod three;
mod users;

// What the engines' own tests have of these targets, which has more than is used here.
#[allow(dead_code, reason = "shared")]
#[path = "../../../crates/engines/tests/rabbitmq/amqp.rs"]
mod amqp;
#[allow(dead_code, reason = "shared")]
#[path = "../../../crates/engines/tests/kubernetes/server.rs"]
mod api_server;
#[allow(dead_code, reason = "shared")]
#[path = "../../../crates/engines/tests/kubernetes/cluster.rs"]
mod cluster;
#[path = "../../../crates/engines/tests/kubernetes/jwt.rs"]
mod jwt;
#[allow(dead_code, reason = "shared")]
#[path = "../../../crates/engines/tests/aws/server.rs"]
mod moto;
#[allow(dead_code, reason = "shared")]
#[path = "../../../crates/engines/tests/aws/network.rs"]
mod network;
