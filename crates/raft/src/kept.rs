//! The kept image: the state as it was when enough members last vouched for it, and their word.
//!
//! A state goes to another member only with a proof that enough members have it. Members that are to vouch for the state as it is *now* have to
//! be there now, and so far: where one has everything, and the others are dead or behind, nobody would ever be brought up. So each member keeps,
//! besides its state, the one that was vouched for when it last compacted its log, with the proof, and its log goes on from no later than that.
//! What dead members have signed still counts.
//!
//! Promised: a log is compacted only when the image that it goes on from is on the disk. Not promised: that there is one. It is a help and no part of the
//! state; one that does not open, or is of no use, is removed, and then a state is sent as it is now, if enough members vouch for it.

use std::{io, sync::Arc};

use tokio::sync::{Mutex, MutexGuard};

use crate::{
    codec,
    kv::{Kv, KvError, Table},
    log,
    machine::Machine,
    raft::IDENTITY,
    snapshot::{Check, Outgoing, Point, read_kept},
    state::{Current, StateView},
};

/// Makes, keeps and reads the image of one node.
#[derive(Clone)]
pub(crate) struct Keeper {
    kv: Arc<dyn Kv>,
    machine: Arc<dyn Machine>,
    /// A store has one draft: who made it either keeps it or drops it before another is made.
    turn: Arc<Mutex<()>>,
}

/// A copy that may become the image.
pub(crate) struct Draft<'a> {
    /// What it is of.
    pub(crate) point: Point,
    keeper: &'a Keeper,
    _turn: MutexGuard<'a, ()>,
}

/// The image that is kept.
pub(crate) struct Kept {
    copy: Arc<dyn Kv>,
    generation: u64,
    pub(crate) point: Point,
    pub(crate) proof: Vec<u8>,
}

impl Keeper {
    pub(crate) fn new(kv: Arc<dyn Kv>, machine: Arc<dyn Machine>) -> Self {
        Self { kv, machine, turn: Arc::default() }
    }

    /// Copies the store, and says which state is in the copy. Entries are applied meanwhile: the copy itself knows which is its last.
    ///
    /// # Errors
    /// There is no room, or the store failed.
    pub(crate) async fn draft(&self) -> io::Result<Draft<'_>> {
        let turn = self.turn.lock().await;
        let point = self.off_the_runtime(|kv, machine| {
            let copy = kv.copies().draft()?;
            let current = Current::load(&*copy)?;
            let digest = machine.digest(&StateView { kv: &*copy, generation: current.generation });
            Ok(current.at(digest.map_err(io::Error::other)?).point())
        });
        Ok(Draft { point: point.await?, keeper: self, _turn: turn })
    }

    /// Keeps an image of a state that was just taken over from another member, while nothing is applied: from here on the log goes on. The node
    /// can do without.
    pub(crate) async fn keep_taken(&self, point: &Point, proof: &[u8]) {
        let kept = async {
            let draft = self.draft().await?;
            if draft.point == *point { draft.keep(proof).await } else { Err(io::ErrorKind::InvalidData.into()) }
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "no image of the state that was taken over could be kept");
        }
    }

    /// The image, if there is one from which the log goes on. One that cannot be used is removed.
    pub(crate) async fn kept(&self) -> Option<Kept> {
        let found = self.off_the_runtime(|kv, _| Ok(usable(&**kv))).await;
        found.unwrap_or_default()
    }

    /// Begins to read the image. Its records are recounted on the way: they may have been damaged, and the receiver would only refuse them.
    ///
    /// # Errors
    /// The reading could not be begun.
    pub(crate) async fn read(&self, kept: Kept) -> Result<Outgoing, KvError> {
        let kv = self.kv.clone();
        let broken = Box::new(move |error: &KvError| remove(&*kv, error));
        let check = Check { recount: self.machine.recount(kept.point.state), broken };
        read_kept(kept.copy, kept.generation, kept.point, kept.proof, check).await
    }

    async fn off_the_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<dyn Kv>, &dyn Machine) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Self { kv, machine, .. } = self.clone();
        if !kv.blocks() {
            return work(&kv, &*machine);
        }
        tokio::task::spawn_blocking(move || work(&kv, &*machine)).await.map_err(io::Error::other)?
    }
}

impl Draft<'_> {
    /// Keeps it as the image; durable at return.
    ///
    /// # Errors
    /// The store failed. The image before is kept then.
    pub(crate) async fn keep(&self, proof: &[u8]) -> io::Result<()> {
        let note = codec::encode_vouched(&self.point, proof);
        self.keeper.off_the_runtime(move |kv, _| Ok(kv.copies().keep(&note)?)).await
    }
}

/// The image of a store, as far as it can be used; what cannot be is removed.
pub(crate) fn usable(kv: &dyn Kv) -> Option<Kept> {
    open(kv).unwrap_or_else(|why| {
        remove(kv, &why);
        None
    })
}

fn remove(kv: &dyn Kv, why: &dyn std::fmt::Display) {
    tracing::warn!(%why, "the kept image of the state is of no use, and removed: the next compaction of the log makes another");
    if let Err(error) = kv.copies().forget() {
        tracing::warn!(%error, "the kept image of the state could not be removed");
    }
}

fn open(kv: &dyn Kv) -> io::Result<Option<Kept>> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let Some((copy, note)) = kv.copies().kept()? else { return Ok(None) };
    if copy.get(Table::Meta, IDENTITY)? != kv.get(Table::Meta, IDENTITY)? {
        return wrong("it is that of another node or cluster");
    }
    let (point, proof) = codec::decode_vouched(&note)?;
    let current = Current::load(&*copy)?;
    let generation = current.generation;
    if current.at(point.state).point() != point {
        return wrong("it is of another state than its proof");
    }
    if log::purged(kv)? > point.applied {
        return wrong("the log begins after it");
    }
    Ok(Some(Kept { copy, generation, point, proof }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{LogId, StoredMembership},
        kv::{Batch, MemKv},
    };

    const APPLIED: &[u8] = b"applied";
    const CHAIN: &[u8] = b"chain";
    const PURGED: &[u8] = b"purged";

    fn set(kv: &dyn Kv, key: &[u8], value: Vec<u8>) {
        let mut batch = Batch::new();
        batch.put(Table::Meta, key, value);
        kv.write(batch).unwrap();
    }

    fn applied(index: u64) -> Vec<u8> {
        codec::encode_applied(Some(&LogId::new_term_index(1, index)), &StoredMembership::default())
    }

    /// A store at index 9, and its image there.
    fn store() -> MemKv {
        let kv = MemKv::new();
        set(&kv, IDENTITY, b"this node".to_vec());
        set(&kv, APPLIED, applied(9));
        set(&kv, CHAIN, vec![5; 32]);
        kv.copies().draft().unwrap();
        let point =
            Point { applied: Some(LogId::new_term_index(1, 9)), chain: [5; 32], state: [6; 32], ..Point::default() };
        kv.copies().keep(&codec::encode_vouched(&point, b"proof")).unwrap();
        kv
    }

    #[test]
    fn an_image_is_used_as_it_was_kept() {
        let kv = store();
        set(&kv, APPLIED, applied(12));
        set(&kv, PURGED, codec::encode_log_id(Some(&LogId::new_term_index(1, 9))));
        let kept = usable(&kv).unwrap();
        assert_eq!((kept.point.applied, kept.proof.as_slice()), (Some(LogId::new_term_index(1, 9)), &b"proof"[..]));
    }

    #[test]
    fn what_is_not_this_stores_image_is_removed() {
        type Change = fn(&MemKv);
        let cases: [(&str, Change); 5] = [
            ("of another node", |kv| set(kv, IDENTITY, b"another".to_vec())),
            ("the log begins after it", |kv| {
                set(kv, PURGED, codec::encode_log_id(Some(&LogId::new_term_index(1, 10))))
            }),
            ("another index", |kv| set(&*kv.copies().kept().unwrap().unwrap().0, APPLIED, applied(8))),
            ("another chain", |kv| set(&*kv.copies().kept().unwrap().unwrap().0, CHAIN, vec![4; 32])),
            ("a note that is none", |kv| {
                kv.copies().draft().unwrap();
                kv.copies().keep(b"a note").unwrap();
            }),
        ];
        for (what, change) in cases {
            let kv = store();
            change(&kv);
            assert!(usable(&kv).is_none(), "{what}: it is used");
            assert!(kv.copies().kept().unwrap().is_none(), "{what}: it is still there");
        }
    }
}
