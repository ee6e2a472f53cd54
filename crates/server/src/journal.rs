//! This member's audit records of what the log brought: one for each applied command that a person may ask about.

use crate::core::Core;
use crate::machine::Applying;
use crate::room::lessens;
use quorate_audit::{Class, Decision, Detail, Entry, Kind as RecordKind, RecordId};
use quorate_state::outcome::Outcome;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::Receiver;

/// How many lease ids one record names; the rest are counted.
const NAMED: usize = 8;

/// How many may wait for a slow disk. What more comes is counted, and the count is recorded.
pub(crate) const WAITING: usize = 16_384;
/// How many are written together.
const TOGETHER: usize = 256;

impl Core {
    /// The task that writes them. They describe what has happened on a quorum: nobody waits for them.
    pub(crate) async fn keep_journal(self: Arc<Self>, mut applied: Receiver<Applying>, lost: Arc<AtomicU64>) {
        let mut some = Vec::with_capacity(TOGETHER);
        while applied.recv_many(&mut some, TOGETHER).await > 0 {
            let lost = lost.swap(0, Ordering::Relaxed);
            let last = some.last().map_or(0, |a| a.index);
            let gap = (lost > 0).then(|| {
                let entry =
                    self.internal_entry("journal.lost", last).index(last).detail("records", Detail::number(lost));
                (entry, Class::Essential)
            });
            let jumps: Vec<_> = some.iter().filter_map(|applying| self.jump_entry(applying)).collect();
            let entries = some.drain(..).filter_map(|applying| self.journal_entry(applying)).chain(jumps).chain(gap);
            let receipts: Vec<_> = entries.map(|(entry, class)| self.audit.append(entry, class)).collect();
            for receipt in receipts {
                if let Err(error) = receipt.await {
                    tracing::error!(%error, "an applied command could not be recorded");
                }
            }
        }
    }

    /// Time that jumps is worth a record whatever brought it: expiry pauses.
    fn jump_entry(&self, applying: &Applying) -> Option<(Entry, Class)> {
        let now = applying.jumped?;
        tracing::warn!(now, "cluster time jumped by more than a minute: expiry pauses for 30 s");
        let entry = self.internal_entry("clock.jump", applying.index).index(applying.index).term(applying.term);
        Some((entry.detail("cluster_time", Detail::number(now)), Class::Essential))
    }

    fn journal_entry(&self, applying: Applying) -> Option<(Entry, Class)> {
        let Applying { index, term, request, name, outcome, jumped: _, mut leases } = applying;
        // Time passing is not worth a record; a jump has one of its own.
        if request.is_none() && matches!(outcome, Outcome::Time { .. }) {
            return None;
        }
        if name == "lease-revoked"
            && let Err(error) = self.note_ended(&leases)
        {
            tracing::warn!(error = error.message, "the end of leases was not noted");
        }
        let refused = match &outcome {
            Outcome::Refused(_) => true,
            Outcome::Versions { changed } => changed.is_empty(),
            _ => false,
        };
        let class = match &request {
            Some((_, _, kind, _)) if refused || !lessens(*kind) => Class::Normal,
            _ => Class::Essential,
        };
        let mut entry = match request {
            Some((id, principal, operation, resource)) => {
                Entry::new(self.env.clock.wall(), RecordKind::Outcome, RecordId::request(&id.0), operation.name())
                    .principal(&principal)
                    .resource(&resource.to_string())
            }
            None => Entry::new(self.env.clock.wall(), RecordKind::Outcome, RecordId::internal("log", index), name),
        };
        entry = entry.index(index).term(term);
        entry = match &outcome {
            Outcome::Refused(refusal) => entry.decision(Decision::Error, refusal.code()),
            Outcome::Fault { .. } => entry.decision(Decision::Error, "ceremony_fault"),
            _ => entry.decision(Decision::Allow, "applied"),
        };
        match outcome {
            Outcome::Stored { number, version, .. } => {
                entry = entry.detail("number", Detail::number(number)).detail("version", Detail::id(&version.0));
            }
            Outcome::Intent { lease, principal, expires_at } => {
                leases = vec![lease];
                entry =
                    entry.detail("login", Detail::text(&principal)).detail("expires_at", Detail::number(expires_at));
            }
            Outcome::Renewed { lease, expires_at } => {
                leases = vec![lease];
                entry = entry.detail("expires_at", Detail::number(expires_at));
            }
            Outcome::Leases { changed } if !changed.is_empty() => leases = changed,
            Outcome::Leases { .. } if leases.is_empty() => {
                entry = entry.detail("changed", Detail::number(0));
            }
            Outcome::Ceremony { keyring: Some(id) } => entry = entry.detail("keyring", Detail::hash(&id.0)),
            Outcome::Fault { session, member, what } => {
                let name = self.roster.member(member).map_or_else(|| member.to_string(), |m| m.name.clone());
                entry = entry
                    .detail("session", Detail::hash(&session.0))
                    .detail("culprit", Detail::text(&name))
                    .detail("fault", Detail::text(&what));
            }
            Outcome::Ceremony { keyring: None }
            | Outcome::Time { .. }
            | Outcome::Versions { .. }
            | Outcome::Leases { .. }
            | Outcome::Done
            | Outcome::Refused(_) => {}
        }
        const KEYS: [&str; NAMED] =
            ["lease", "lease_2", "lease_3", "lease_4", "lease_5", "lease_6", "lease_7", "lease_8"];
        for (key, lease) in KEYS.into_iter().zip(&leases) {
            entry = entry.detail(key, Detail::id(&lease.0));
        }
        if leases.len() > NAMED {
            entry = entry.detail("leases", Detail::number(u64::try_from(leases.len()).unwrap_or(u64::MAX)));
        }
        Some((entry, class))
    }
}
