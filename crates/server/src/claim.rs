//! The claim of a term of office at a target: before anything is touched there, this cluster makes sure that it is the only one
//! of its kind. See [`quorate_state::target::claim`].

use crate::core::Core;
use crate::executor::{Office, engine_failure};
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_engines::EngineError;
use quorate_state::command::Command;
use quorate_state::lease::{self, Queue, State, principal_prefix};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{Judged, MAX_SAMPLE, Quarantine, claim, claim_prefix, executor, judge, quarantine};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many leases are read together.
const PAGE: usize = 1_000;

impl Core {
    /// Reads the claims at a target, and makes the one of this term of office.
    ///
    /// # Errors
    /// `quarantined` when one is there of which this cluster knows nothing; what the target answers.
    pub(crate) async fn stake(self: &Arc<Self>, name: &str, office: &Office) -> Result<(), Failure> {
        let at_target = |e: EngineError| engine_failure(name, &e);
        let held = self.read(|store, _| executor(store, name))?;
        let held =
            held.filter(|e| e.term == office.term && e.member == self.me).ok_or_else(crate::submit::no_leader)?;
        let (prefix, own) = (claim_prefix(&self.cluster, name), claim(&self.cluster, name, &held));
        for _ in 0..2 {
            let found = office.engine.claims(&prefix).await.map_err(at_target)?;
            match judge(&self.cluster, name, &held, &found) {
                Judged::Foreign { counter } => return Err(self.quarantine(name, office, counter).await?),
                Judged::Mine { older } => {
                    // They say nothing that this one does not say: whether they can be removed is no condition of anything.
                    if !older.is_empty()
                        && let Err(error) = office.engine.disclaim(&older).await
                    {
                        tracing::warn!(target = name, %error, "older claims are left at the target");
                    }
                    return Ok(());
                }
                // Written second: the log has it. Then looked at again, for whoever did the same at the same time.
                Judged::Older => match office.engine.claim(&own).await {
                    Ok(()) | Err(EngineError::Duplicate) => {}
                    Err(error) => return Err(at_target(error)),
                },
            }
        }
        Err(Failure::new(
            "target_unavailable",
            format!("target {name}: the claim of this term of office does not stay there"),
        ))
    }

    /// Claims a target anew if logins were made there since the last claim: a cluster that is rolled back to before does not know it.
    pub(crate) async fn count_on(self: &Arc<Self>, name: &str, office: &Office) -> Result<(), Failure> {
        if !self.executors.has_made(name) {
            return Ok(());
        }
        let command = Command::CountOn { term: office.term, target: name.to_owned(), nonce: self.env.random() };
        let done = self.propose(command).await.and_then(|done| match done.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            _ => Ok(()),
        });
        if done.is_err() {
            self.executors.note_made(name);
        }
        done?;
        self.stake(name, office).await
    }

    /// Has the log say that the target has seen what this cluster does not know, and what taking over would end.
    async fn quarantine(self: &Arc<Self>, name: &str, office: &Office, counter: u64) -> Result<Failure, Failure> {
        let prefix = principal_prefix(&self.cluster, name);
        let listed = office.engine.list(&prefix).await.map_err(|e| engine_failure(name, &e))?;
        self.linearize().await?;
        let (mut unknown, mut there) = (Vec::new(), BTreeSet::new());
        for principal in listed {
            let id = lease::lease_of(&self.cluster, name, &principal.name);
            let known = match &id {
                Some(id) => self.read(|store, _| lease::lease(store, id))?,
                None => None,
            };
            match known.filter(|lease| lease.state != State::Revoked && lease.principal == principal.name) {
                Some(_) => there.extend(id),
                None => unknown.push(principal.name),
            }
        }
        let (mut missing, mut after) = (0u32, None);
        loop {
            let page = self.read(|store, _| lease::work(store, name, Queue::Living, after, PAGE))?;
            let Some((last, lease)) = page.last() else { break };
            after = Some(lease::Place::of(*last, lease));
            let absent = page.iter().filter(|(id, _)| !there.contains(id)).count();
            missing = missing.saturating_add(u32::try_from(absent).unwrap_or(u32::MAX));
        }
        let found = Quarantine {
            counter,
            index: 0,
            unknown: u32::try_from(unknown.len()).unwrap_or(u32::MAX),
            missing,
            sample: unknown.into_iter().take(MAX_SAMPLE).collect(),
        };
        let before = self.read(|store, _| quarantine(store, name))?;
        let same = |q: &Quarantine| Quarantine { index: 0, ..q.clone() } == found;
        if !before.as_ref().is_some_and(same) {
            tracing::error!(
                target = name,
                counter,
                unknown = found.unknown,
                missing,
                "the target has seen more of this cluster than it knows: it was rolled back or copied, and touches nothing there"
            );
            self.record(
                self.internal_entry("target.quarantine", counter)
                    .resource(&format!("target {name}"))
                    .term(office.term)
                    .detail("unknown", Detail::number(u64::from(found.unknown)))
                    .detail("missing", Detail::number(u64::from(missing))),
                Class::Essential,
            )
            .await?;
            let command = Command::Quarantine { term: office.term, target: name.to_owned(), found };
            if let Outcome::Refused(refusal) = self.propose(command).await?.outcome {
                return Err(Failure::from(refusal));
            }
        }
        Ok(Failure::from(Refusal::Quarantined { counter }))
    }
}
