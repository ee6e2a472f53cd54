//! Whether a target does what leases need: asked for by a request, or by a role that is described there; found out by the executor, kept
//! for people to read.

use super::{Standing, executor, target};
use crate::ids::Millis;
use crate::outcome::{Outcome, Refusal};
use crate::store::{StoreError, Table, Tx, key, name};
use borsh::{BorshDeserialize, BorshSerialize};

/// How many findings a proof holds at most.
pub const MAX_FINDINGS: usize = 64;
/// How many bytes of text a finding has at most.
pub const MAX_FINDING: usize = 1_024;

/// What was found out about a target.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proof {
    /// The log index of the request that it answers.
    pub asked: u64,
    /// When, by the executor's clock.
    pub at: Millis,
    /// What the server says it is; for PostgreSQL `server_version_num`. 0 when it did not say.
    pub version: u32,
    /// How often it has failed over, by its own count.
    pub timeline: u32,
    /// What is wrong. Without any, a credential was issued there, used, and revoked.
    pub findings: Vec<Finding>,
    /// What is worth knowing and stands in nobody's way.
    pub notes: Vec<String>,
}

/// One thing that is wrong with a target.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Finding {
    /// A statement for its administrator to run there.
    Missing(String),
    /// What happened instead of what was to happen.
    Failed(String),
}

impl Proof {
    fn is_bounded(&self) -> bool {
        let text = |t: &String| t.len() <= MAX_FINDING;
        let finding = |f: &Finding| match f {
            Finding::Missing(t) | Finding::Failed(t) => text(t),
        };
        self.findings.len() <= MAX_FINDINGS
            && self.notes.len() <= MAX_FINDINGS
            && self.findings.iter().all(finding)
            && self.notes.iter().all(text)
    }
}

/// Somebody asks for a proof. It comes by itself.
pub(crate) fn ask(tx: &mut Tx<'_>, index: u64, label: &str) -> Result<Outcome, StoreError> {
    match target(tx, label)? {
        None => Ok(Outcome::Refused(Refusal::not_found("target"))),
        Some(found) if found.standing == Standing::Removing => {
            Ok(Outcome::Refused(Refusal::TargetStanding { standing: found.standing.to_string() }))
        }
        Some(mut found) => {
            found.asked = index;
            tx.put(key(Table::Target, &[&name(label)]), &found);
            Ok(Outcome::Done)
        }
    }
}

/// The executor has found out. A target at which nothing is wrong is enabled; one that was is not disabled, whose leases
/// have to be ended all the same.
pub(crate) fn proved(tx: &mut Tx<'_>, term: u64, label: &str, proof: &Proof) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    let Some(mut found) = target(tx, label)? else { return refuse(Refusal::not_found("target")) };
    let in_office = executor(tx, label)?.is_some_and(|e| e.term == term);
    if !in_office || !proof.is_bounded() || proof.asked != found.asked || found.asked == 0 {
        return refuse(Refusal::Unjustified);
    }
    if proof.findings.is_empty() && found.standing == Standing::Unproved {
        found.standing = Standing::Enabled;
    }
    found.proof = Some(proof.clone());
    tx.put(key(Table::Target, &[&name(label)]), &found);
    Ok(Outcome::Done)
}
