//! Target systems: one trait, its conformance suite and fake, one module per system.
//!
//! A *target* is a system in which the vault makes short-lived principals: a PostgreSQL server, later others. This crate
//! knows how to make a principal there, and how to end it truthfully. It knows nothing of Raft, of clients, of leases'
//! states or of policy, and it decides nothing: which principal is made or ended stands in the log before anything here
//! is called.
//!
//! What "ended" means shapes the trait. `NOLOGIN`, `DROP ROLE` and an expiry date all leave an open session running, so
//! the end is a sequence of steps whose results can be observed one by one: [`Engine::refuse`], committed in the target;
//! [`Engine::kill`]; [`Engine::look`], twice, a second apart; and then, never a condition of truth, [`Engine::clean`].
//! The split is public because a caller can die between any two of them, and because each is safe to repeat.
//!
//! # Security
//! * No call here sees a password of a leased principal: the client makes it, and sends a verifier. What a target issues itself
//!   ([`Class::IssuedByTarget`]) comes with the answer to its create, and is nowhere but there.
//! * Neither a verifier nor the administrative password shows in an error, in `Debug`, or in a log line of this crate or
//!   of its driver at any level.
//! * While a node is the executor of a target it could act alone *at that target*. What bounds it is the rights of the
//!   administrative role; [`Engine::check`] names what is missing, and nothing asks for more.

#[cfg(feature = "aws")]
pub mod aws;
mod bounded;
mod check;
#[cfg(feature = "testing")]
pub mod conformance;
mod connection;
pub mod contained;
mod endpoint;
mod engine;
#[cfg(feature = "testing")]
pub mod fake;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "mariadb")]
pub mod mariadb;
mod names;
mod own;
mod passwords;
pub mod postgres;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
pub mod scratch;
mod tls;
#[cfg(feature = "webhook")]
pub mod webhook;

pub use check::{Checked, Fault, Missing, Slots, Standby};
pub use endpoint::Endpoint;
pub use engine::{
    Binding, Class, Cleaned, Cleaning, Create, Created, Engine, EngineError, Fenced, Ghost, MAX_ITERATIONS, MAX_RULES,
    Principal, Refusal, Refused, Seen,
};
pub use names::{MAX_NAME, number_of, valid_name};
pub use own::OwnSessions;
pub use passwords::Passwords;
pub use tls::{Tls, Trust};
