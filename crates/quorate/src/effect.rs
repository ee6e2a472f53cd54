//! When a change holds everywhere: not only where it was applied, but on every member, which each of them says itself.

use crate::connection::Connection;
use crate::duration;
use quorate_api::client::{Client, Submitted};
use quorate_api::status::{Failure, NOT_EFFECTIVE};
use quorate_state::ids::{MemberIndex, Millis};
use serde_json::{Value, json};
use std::time::Duration;

/// Whether to wait for that. Of every command that can take something away.
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
        self.seen_by(&connection.client()?, done).await
    }

    /// The same, asked by this client.
    ///
    /// # Errors
    /// As [`Effect::of`].
    pub(crate) async fn seen_by(&self, client: &Client, done: &Submitted) -> anyhow::Result<Effective> {
        let Some(patience) = self.wait_effective else {
            return Ok(Effective::named(client, &done.unconfirmed, &done.gone));
        };
        let reached = client.effect(done.index, Duration::from_millis(patience)).await;
        let gone: Vec<MemberIndex> = reached.gone.into_keys().collect();
        let effective = Effective::named(client, &reached.missing, &gone);
        if effective.unconfirmed.is_empty() {
            return Ok(effective);
        }
        let what = format!("the change at log index {} is {effective}", done.index);
        Err(Failure::new(NOT_EFFECTIVE, what).into())
    }

    /// Whether to wait.
    pub(crate) fn is_awaited(&self) -> bool {
        self.wait_effective.is_some()
    }
}

/// How far a change has come.
#[derive(Debug)]
pub(crate) struct Effective {
    unconfirmed: Vec<String>,
    gone: Vec<String>,
}

impl Effective {
    fn named(client: &Client, unconfirmed: &[MemberIndex], gone: &[MemberIndex]) -> Self {
        let name = |m: &MemberIndex| client.profile().member(*m).map_or_else(|| m.to_string(), |m| m.name.clone());
        Self { unconfirmed: unconfirmed.iter().map(name).collect(), gone: gone.iter().map(name).collect() }
    }

    /// As a document.
    pub(crate) fn document(&self) -> Value {
        json!({ "effective": self.unconfirmed.is_empty(), "unconfirmed": self.unconfirmed, "gone": self.gone })
    }
}

impl core::fmt::Display for Effective {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let gone = self.gone.join(", ");
        match (self.unconfirmed.is_empty(), self.gone.is_empty()) {
            (true, true) => f.write_str("effective: every member has confirmed it"),
            (true, false) => write!(f, "effective: every member has confirmed it but {gone}, recorded as gone"),
            (false, true) => write!(f, "committed, not yet confirmed by {}", self.unconfirmed.join(", ")),
            (false, false) => {
                let missing = self.unconfirmed.join(", ");
                write!(f, "committed, not yet confirmed by {missing}; not waited for: {gone}, recorded as gone")
            }
        }
    }
}
