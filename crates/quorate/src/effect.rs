//! When a change holds everywhere: not only where it was applied, but on every member, which each of them says itself.

use crate::connection::Connection;
use crate::duration;
use quorate_api::client::{Client, Submitted};
use quorate_api::status::{Failure, NOT_EFFECTIVE};
use quorate_state::ids::{MemberIndex, Millis};
use serde_json::{Value, json};
use std::time::Duration;

/// Whether to wait for that.
#[derive(Debug, clap::Args)]
pub(crate) struct Effect {
    /// Wait until every member has confirmed that it has applied the change, and fail when that takes longer.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    wait_effective: Option<Millis>,
}

impl Effect {
    /// Says whether the change is effective, after waiting for it if that was asked for.
    ///
    /// # Errors
    /// `not_effective`, only when it was to wait: the change itself is committed all the same.
    pub(crate) async fn of(&self, connection: &Connection, done: &Submitted) -> anyhow::Result<Effective> {
        let client = connection.client()?;
        let Some(patience) = self.wait_effective else {
            return Ok(Effective::named(&client, &done.unconfirmed));
        };
        let missing = client.effective(done.index, Duration::from_millis(patience)).await;
        let effective = Effective::named(&client, &missing);
        if effective.unconfirmed.is_empty() {
            return Ok(effective);
        }
        let what = format!("the change at log index {} is {effective}", done.index);
        Err(Failure::new(NOT_EFFECTIVE, what).into())
    }
}

/// How far a change has come.
#[derive(Debug)]
pub(crate) struct Effective {
    unconfirmed: Vec<String>,
}

impl Effective {
    pub(crate) fn named(client: &Client, unconfirmed: &[MemberIndex]) -> Self {
        let name = |m: &MemberIndex| client.profile().member(*m).map_or_else(|| m.to_string(), |m| m.name.clone());
        Self { unconfirmed: unconfirmed.iter().map(name).collect() }
    }

    /// As a document.
    pub(crate) fn document(&self) -> Value {
        json!({ "effective": self.unconfirmed.is_empty(), "unconfirmed": self.unconfirmed })
    }
}

impl core::fmt::Display for Effective {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.unconfirmed.is_empty() {
            f.write_str("effective: every member has confirmed it")
        } else {
            write!(f, "committed, not yet confirmed by {}", self.unconfirmed.join(", "))
        }
    }
}
