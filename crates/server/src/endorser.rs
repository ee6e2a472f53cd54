//! Endorsements, signed for several requests at once: those whose records came to the disk together are named by one signature, which
//! whoever applies them verifies once. Who is alone waits for nobody.

use crate::core::Core;
use crate::pipeline::Recorded;
use quorate_api::status::Failure;
use quorate_state::request::{Endorsement, SignedRequest};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// How many requests one endorsement names at most: each is 64 bytes in the log entry of every other.
const TOGETHER: usize = 16;

/// What waits to be endorsed.
#[derive(Default)]
pub(crate) struct Endorser(Mutex<Vec<Waiting>>);

/// A request whose decision is on disk.
struct Waiting {
    recorded: Recorded,
    hash: [u8; 64],
    answer: oneshot::Sender<Result<Endorsement, Failure>>,
}

impl Core {
    /// This member's endorsement of a request, and of what others it has decided on meanwhile.
    pub(crate) async fn sign_endorsement(
        self: &Arc<Self>,
        recorded: Recorded,
        signed: &SignedRequest,
    ) -> Result<Endorsement, Failure> {
        let (answer, signing) = oneshot::channel();
        let first = {
            let mut waiting = self.endorser.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { recorded, hash: signed.hash(), answer });
            waiting.len() == 1
        };
        if first {
            // A task of its own: whoever asked first may give up, and the others wait all the same.
            let core = Arc::clone(self);
            tokio::spawn(async move {
                // All whose record the same sync has brought to the disk are ready to run, and come first.
                tokio::task::yield_now().await;
                core.endorse_waiting();
            });
        }
        signing.await.unwrap_or_else(|_| Err(Failure::new("shutting_down", "this node is shutting down")))
    }

    fn endorse_waiting(&self) {
        let waiting = core::mem::take(&mut *self.endorser.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rest = waiting.into_iter().peekable();
        while let Some(first) = rest.next() {
            let version = first.recorded.authority_version();
            let mut together = vec![first];
            // Of one state of the rules: whoever decided by earlier ones takes nobody else's endorsement along when it is refused as stale.
            while together.len() < TOGETHER
                && let Some(next) = rest.next_if(|next| next.recorded.authority_version() == version)
            {
                together.push(next);
            }
            let endorsed = self.said_clock().map(|clock| {
                let (cluster, roster, key) = (&self.cluster, self.roster.number, self.keys.identity());
                let hashes = together.iter().map(|waiting| waiting.hash).collect();
                Endorsement::sign(cluster, roster, version, self.me, clock, hashes, key)
            });
            for Waiting { answer, .. } in together {
                // Who has given up meanwhile needs none.
                let _ = answer.send(endorsed.clone());
            }
        }
    }
}
