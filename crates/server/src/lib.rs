//! A cluster member: the request pipeline, the lease driver, the ceremony driver, configuration. It wires everything to
//! everything, and holds no rule that has a home elsewhere.
//!
//! Read [`pipeline`](self) first: `pipeline.rs` is the security story on one page.
//!
//! | module | does |
//! |---|---|
//! | `pipeline` | authenticate, authorise, record; only then may anything leave |
//! | `submit` | changes: decisions of t members, the leader, the outcome |
//! | `open` | this node's part in opening |
//! | `query` | what one node answers alone |
//! | `executor` | being in office at a target, with a credential that t members opened |
//! | `driver` | leases at their targets, from intent to proof |
//! | `clock` | cluster time |
//! | `ceremony` | this member's part in key generation |
//! | `keystore` | what a member keeps outside the replicated store |
//! | `journal` | the audit records of applied commands |

mod ceremony;
mod clock;
pub mod config;
mod core;
mod driver;
pub mod env;
mod executor;
mod failpoint;
mod journal;
pub mod keystore;
mod machine;
mod open;
mod peers;
mod pipeline;
mod query;
mod run;
mod services;
mod store;
mod submit;

pub use run::{RunError, run};
