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
//! | `relay` | questions that came through another node, and passing them on |
//! | `executor` | being in office at a target, with a credential that t members opened |
//! | `issue` | leases, from an endorsed request to a credential that can be used |
//! | `driver` | leases at their targets, from their end to its proof |
//! | `gone` | refuse, kill, look, look again |
//! | `proving` | whether a target does what leases need |
//! | `clock` | cluster time |
//! | `ceremony` | this member's part in key generation |
//! | `keystore` | what a member keeps outside the replicated store |
//! | `journal` | the audit records of applied commands |
//! | `room` | free space on the disk: alarm, watermark, reserve |
//! | `aside` | a damaged log is set aside, and the member stays out |
//! | `durable` | files that survive a power cut |

mod absence;
mod access;
mod aside;
mod attest;
mod breaker;
mod ceremony;
mod certificates;
mod claim;
mod clock;
pub mod config;
mod core;
mod driver;
pub mod durable;
mod ending;
mod endorser;
pub mod env;
mod executor;
mod failpoint;
mod format;
mod gone;
mod issue;
mod journal;
pub mod keystore;
mod lane;
#[cfg(feature = "failpoints")]
pub mod leak;
mod leftovers;
mod machine;
mod open;
mod peers;
mod pipeline;
#[cfg(feature = "failpoints")]
mod planted;
mod proving;
mod query;
mod reconcile;
mod relay;
mod room;
mod rotation;
mod run;
mod services;
mod store;
mod submit;
mod trouble;

pub use access::{Access, MakeEngine};
pub use aside::Lost;
pub use ending::{Ending, RunError};
#[cfg(feature = "failpoints")]
pub use failpoint::pass;
pub use room::Room;
pub use run::{Parts, forget_state, run, serve};

#[cfg(test)]
mod tests {
    use quorate_api::status::TABLE;

    const SOURCES: &[&str] = &[
        include_str!("absence.rs"),
        include_str!("ceremony.rs"),
        include_str!("clock.rs"),
        include_str!("core.rs"),
        include_str!("driver.rs"),
        include_str!("executor.rs"),
        include_str!("issue.rs"),
        include_str!("open.rs"),
        include_str!("pipeline.rs"),
        include_str!("query.rs"),
        include_str!("relay.rs"),
        include_str!("room.rs"),
        include_str!("services.rs"),
        include_str!("submit.rs"),
    ];

    #[test]
    fn every_code_is_in_the_table() {
        let known = |code: &str| TABLE.iter().any(|row| row.code == code);
        let mut seen = 0;
        for source in SOURCES {
            for after in source.split("Failure::new(").skip(1) {
                let Some(code) = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                    continue;
                };
                assert!(known(code), "{code} has no row");
                seen += 1;
            }
            // What is compared with a failure's code must be one too.
            for after in source.split(".code == \"").skip(1) {
                let code = after.split('"').next().unwrap();
                assert!(known(code), "{code} has no row");
            }
        }
        assert!(seen > 25, "the sources say it otherwise now: {seen}");
    }
}
