//! This member's part in key ceremonies. What it says is a function of its seed and of the log, so that it says the same
//! again after a crash; what it must not lose is durable before the log can rely on it.

#[cfg(feature = "failpoints")]
mod hostile;

use crate::core::Core;
use crate::issue::injected;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_crypto::reshare::{Body, Member, Message};
use quorate_crypto::threshold::KeyShare;
use quorate_state::ceremony::{Session, session, session_ids};
use quorate_state::command::Command;
use quorate_state::ids::SessionId;
use quorate_state::outcome::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What this member need not do again until it restarts.
#[derive(Default)]
struct Known {
    /// The transcript at which it last said what there was to say.
    said: BTreeMap<SessionId, [u8; 64]>,
    /// Ceremonies that are over, and whose seed is gone.
    erased: BTreeSet<SessionId>,
}

impl Core {
    /// The task of every member: takes part in whatever ceremony the log knows.
    pub(crate) async fn drive_ceremonies(self: Arc<Self>) {
        let mut known = Known::default();
        loop {
            if let Err(error) = self.ceremonies_once(&mut known).await {
                tracing::warn!(error = error.message, "the ceremonies go on later");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn ceremonies_once(self: &Arc<Self>, known: &mut Known) -> Result<(), Failure> {
        // What is over stays over: it is not read again, so that a cluster without a ceremony under way decodes none.
        let open = self.read(|store, _| {
            let ids = session_ids(store)?.into_iter().filter(|id| !known.erased.contains(id));
            ids.filter_map(|id| session(store, &id).map(|found| found.map(|s| (id, s))).transpose())
                .collect::<Result<Vec<_>, _>>()
        })?;
        for (id, session) in open {
            // One in which this member cannot take part must not keep it from the others.
            if let Err(error) = self.ceremony_once(&id, &session, known).await {
                tracing::warn!(session = %id, error = error.message, "the ceremony goes on later");
            }
        }
        Ok(())
    }

    async fn ceremony_once(
        self: &Arc<Self>,
        id: &SessionId,
        session: &Session,
        known: &mut Known,
    ) -> Result<(), Failure> {
        if !session.is_open() {
            // The share is in use, or never will be: what it was made from is worth nothing but to a thief.
            if !known.erased.contains(id) {
                self.erase(id)?;
                known.erased.insert(*id);
            }
            return Ok(());
        }
        let transcript = *session.ceremony.transcript();
        if session.ceremony.awaited().contains(&self.me) && known.said.get(id) != Some(&transcript) {
            self.take_part(id, session).await?;
            known.said.insert(*id, transcript);
        }
        Ok(())
    }

    async fn take_part(self: &Arc<Self>, id: &SessionId, session: &Session) -> Result<(), Failure> {
        let own = |what: &str, e: &dyn core::fmt::Display| {
            Failure::new("ceremony", format!("this member cannot take part in session {id}: {what}: {e}"))
        };
        injected("ceremony.seed.before")?;
        let session_id = *id;
        let seed = self.on_disk(move |core| core.keys.ceremony_seed(&session_id, &core.env)).await?;
        let seed = seed.map_err(|e| own("its seed", &e))?;
        #[cfg(feature = "failpoints")]
        self.leak("leak.seed", seed.expose()).await;
        injected("ceremony.seed")?;
        let member = Member { index: self.me, seed: &seed, key: self.keys.identity(), old_share: None };
        let messages = member.next(&session.ceremony).map_err(|e| own("its part", &e))?;
        #[cfg(feature = "failpoints")]
        let messages = hostile::instead(&member, &session.ceremony, messages);
        for message in messages {
            let [step, after] = steps(&message);
            if matches!(message.body, Body::Ready(_)) {
                // Ready says that the share is on disk.
                let share = member.finish(&session.ceremony).map_err(|e| own("its share", &e))?;
                let share = KeyShare::new(share.index, &share.scalar).map_err(|e| own("its share", &e))?;
                injected("ceremony.share.before")?;
                #[cfg(feature = "failpoints")]
                self.leak("leak.share", share.to_secret().expose().get(1..).unwrap_or_default()).await;
                let saved = self.on_disk(move |core| core.keys.save_share(&session_id, &share, &core.env)).await?;
                saved.map_err(|e| own("its share", &e))?;
                injected("ceremony.share")?;
            }
            self.record(
                self.internal_entry(step, session.begun_index)
                    .resource("cluster")
                    .index(session.begun_index)
                    .detail("session", Detail::hash(&id.0)),
                Class::Essential,
            )
            .await?;
            injected(step)?;
            let command = Command::Ceremony { message: message.encode() };
            let done = self.propose_somewhere(command, Instant::now() + Duration::from_secs(5)).await?;
            injected(after)?;
            match done.outcome {
                Outcome::Refused(refusal) => {
                    tracing::warn!(session = %id, step, %refusal, "the ceremony did not take this member's message");
                }
                Outcome::Fault { member, what, .. } => {
                    tracing::warn!(session = %id, step, member, what, "a member breaks the rules of the ceremony");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs what waits for the disk on a thread that may wait.
    async fn on_disk<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let core = Arc::clone(self);
        let done = self.env.wait_for(move || work(&core)).await;
        done.ok_or_else(|| Failure::new("internal", "the key store failed in a way that it should not"))
    }

    fn erase(&self, id: &SessionId) -> Result<(), Failure> {
        injected("ceremony.erase")?;
        self.keys
            .erase_seed(id)
            .map_err(|e| Failure::new("storage_failed", format!("a ceremony seed cannot be erased: {e}")))
    }
}

/// The names of a message's points: before it is proposed, where its audit record says so too, and after it is committed.
fn steps(message: &Message) -> [&'static str; 2] {
    match message.body {
        Body::Keys(_) => ["ceremony.keys", "ceremony.keys.after"],
        Body::Deal(_) => ["ceremony.deal", "ceremony.deal.after"],
        Body::Complaint(_) => ["ceremony.complaint", "ceremony.complaint.after"],
        Body::Ready(_) => ["ceremony.ready", "ceremony.ready.after"],
    }
}
