//! A state that is gone while the log, the votes and the member's own keys are not: it is rebuilt under the same raft id.
//!
//! If the log still holds every entry, they are applied again from the beginning, and nobody is asked. If its beginning was purged, a state
//! that enough members vouch for is fetched from one of them before consensus starts: until then this node votes for nothing, because
//! it is not there.

use std::{io, sync::Arc, time::Duration};

use tonic::Status;

use crate::{
    Config, Node,
    checkpoint::Notary,
    entry::LogId,
    kept::Keeper,
    kv::Kv,
    log::{self, LogStore},
    machine::Machine,
    network::{Link, Pool},
    snapshot::{self, Staged, Staging},
    state::{self, Current},
    wire,
};

/// How long to wait before all members are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a rebuild works with.
pub(crate) struct Rebuild<'a> {
    pub(crate) config: &'a Config,
    pub(crate) kv: &'a Arc<dyn Kv>,
    pub(crate) machine: &'a Arc<dyn Machine>,
    pub(crate) notary: &'a dyn Notary,
    pub(crate) pool: &'a Pool,
}

impl Rebuild<'_> {
    /// Sees to it that the store has a state from which its log goes on. Waits for other members as long as it takes.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn run(&self) -> io::Result<()> {
        let Some(membership) = state::lost(&**self.kv)? else { return Ok(()) };
        let Some(purged) = log::purged(&**self.kv)? else {
            tracing::warn!("the state is rebuilt from the log, which holds every entry");
            return state::found(&**self.kv);
        };
        tracing::warn!(purged = purged.index, "the state is rebuilt from that of another member");
        loop {
            for (id, node) in membership.nodes().filter(|(id, _)| **id != self.config.id) {
                match self.fetch(*id, node, &purged).await {
                    Ok(staged) => return self.install(staged).await,
                    Err(status) => {
                        tracing::warn!(from = id, error = status.message(), "no state could be fetched there");
                    }
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn fetch(&self, id: u64, node: &Node, purged: &LogId) -> Result<Staged, Status> {
        let unreachable = |error: io::Error| Status::unavailable(error.to_string());
        let failed = |error: io::Error| Status::internal(error.to_string());
        let mut client = self.pool.client(id, node, Link::Snapshot).await.map_err(unreachable)?;
        let ask = wire::FetchRequest { min_index: purged.index };
        let reply = tokio::time::timeout(self.config.snapshot_timeout, client.fetch(ask)).await;
        let mut chunks = reply.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
        let Some(wire::snapshot_chunk::Part::Begin(begin)) = snapshot::next(&mut chunks).await? else {
            return Err(wire::missing("begin"));
        };
        let last = begin.last.map(LogId::from).ok_or_else(|| wire::missing("last"))?;
        // Entries that this log has in other forms were never committed; when the others are past them, they do not matter.
        if last.index < purged.index || LogStore::contradicts(&**self.kv, &last).map_err(failed)? {
            return Err(Status::out_of_range("its state does not meet this log"));
        }
        let generation = Current::load(&**self.kv).map_err(failed)?.generation + 1;
        let stage = |point| Staging::new(self.kv.clone(), generation, &**self.machine, point);
        snapshot::receive(&begin, &mut chunks, self.notary, stage).await
    }

    async fn install(&self, mut staged: Staged) -> io::Result<()> {
        let index = staged.point.applied.map_or(0, |id| id.index);
        self.kv.write(state::switch(&staged))?;
        staged.installed = true;
        tracing::warn!(index, "the state is rebuilt");
        let kv = self.kv.clone();
        if kv.blocks() {
            tokio::task::spawn_blocking(move || kv.sync()).await.map_err(io::Error::other)??
        } else {
            kv.sync()?
        }
        if let Some(proof) = staged.proof.take() {
            let keeper = Keeper::new(self.kv.clone(), self.machine.clone());
            keeper.keep_taken(&staged.point, &proof).await;
        }
        Ok(())
    }
}
