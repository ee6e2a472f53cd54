//! The store in memory, with a model of what a crash loses.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Batch, Change, Copies, KeptCopy, Kv, KvError, Pair, Table};

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Default)]
struct Inner {
    /// What reads see.
    live: Tables,
    /// What a crash is sure to leave.
    durable: Tables,
    /// Batches written since the last sync, oldest first.
    unsynced: Vec<Batch>,
    syncs: u64,
    /// Rows of the state that were read.
    read: u64,
    closed: bool,
    fail_next_write: bool,
    fail_next_sync: bool,
    fail_next_draft: bool,
    fail_next_keep: bool,
    lies: bool,
    draft: Option<Arc<MemKv>>,
    kept: Option<(Arc<MemKv>, Vec<u8>)>,
}

/// A [`Kv`] in memory. It forgets unsynced batches when [`MemKv::crash`] says so, and fails on request.
#[derive(Default)]
pub struct MemKv {
    inner: Mutex<Inner>,
}

impl MemKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Power loss: the store as it comes back, without anything written after the last sync. The old handle is dead, so that tasks that
    /// outlive the crash can't write to the new life.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// Power loss that leaves the first `unsynced` batches after the last sync as well: a device may keep any prefix.
    #[must_use]
    pub fn crash_keeping(&self, unsynced: usize) -> Self {
        let mut inner = self.lock();
        inner.closed = true;
        let mut tables = std::mem::take(&mut inner.durable);
        for batch in std::mem::take(&mut inner.unsynced).into_iter().take(unsynced) {
            apply(&mut tables, batch);
        }
        inner.live = Tables::new();
        Self::of(tables, inner.kept.take())
    }

    fn of(tables: Tables, kept: Option<(Arc<Self>, Vec<u8>)>) -> Self {
        Self { inner: Mutex::new(Inner { live: tables.clone(), durable: tables, kept, ..Inner::default() }) }
    }

    /// Number of batches that a crash now could lose.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// A row as a crash now would be sure to leave it.
    pub fn lasting(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().durable.get(&table)?.get(key).cloned()
    }

    /// Number of successful syncs so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Number of rows of the state that were read so far.
    pub fn state_rows_read(&self) -> u64 {
        self.lock().read
    }

    /// The next write fails and takes no effect.
    pub fn fail_next_write(&self) {
        self.lock().fail_next_write = true;
    }

    /// The next sync fails and makes nothing durable.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// The next draft of a copy fails.
    pub fn fail_next_draft(&self) {
        self.lock().fail_next_draft = true;
    }

    /// The next try to keep a copy fails.
    pub fn fail_next_keep(&self) {
        self.lock().fail_next_keep = true;
    }

    /// From now on syncs succeed and make nothing durable, as on a device that lies: for proving that a check would notice.
    pub fn lie_about_syncs(&self) {
        self.lock().lies = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, KvError> {
        let inner = self.lock();
        if inner.closed { Err(KvError::Closed) } else { Ok(inner) }
    }
}

impl Kv for MemKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let mut inner = self.open()?;
        inner.read += u64::from(table == Table::State);
        Ok(inner.live.get(&table).and_then(|rows| rows.get(key).cloned()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let mut inner = self.open()?;
        let rows: Vec<Pair> =
            range(&inner.live, table, from, to).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect();
        if table == Table::State {
            inner.read = inner.read.saturating_add(u64::try_from(rows.len()).unwrap_or(u64::MAX));
        }
        Ok(rows)
    }

    fn last(&self, table: Table) -> Result<Option<Pair>, KvError> {
        let inner = self.open()?;
        Ok(inner.live.get(&table).and_then(|rows| rows.last_key_value()).map(|(k, v)| (k.clone(), v.clone())))
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        pinned: Box<dyn FnOnce() + Send>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), KvError> {
        let rows = self.scan(table, from, to, usize::MAX)?;
        pinned();
        for (key, value) in rows {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut inner = self.open()?;
        if std::mem::take(&mut inner.fail_next_write) {
            return Err(KvError::Injected);
        }
        apply(&mut inner.live, batch.clone());
        inner.unsynced.push(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut inner = self.open()?;
        if std::mem::take(&mut inner.fail_next_sync) {
            return Err(KvError::Injected);
        }
        if inner.lies {
            return Ok(());
        }
        for batch in std::mem::take(&mut inner.unsynced) {
            apply(&mut inner.durable, batch);
        }
        inner.syncs += 1;
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }

    fn copies(&self) -> &dyn Copies {
        self
    }
}

impl Copies for MemKv {
    fn draft(&self) -> Result<Arc<dyn Kv>, KvError> {
        let mut inner = self.open()?;
        inner.draft = None;
        if std::mem::take(&mut inner.fail_next_draft) {
            return Err(KvError::Injected);
        }
        let copy = Arc::new(Self::of(inner.live.clone(), None));
        inner.draft = Some(copy.clone());
        Ok(copy)
    }

    fn keep(&self, note: &[u8]) -> Result<(), KvError> {
        let mut inner = self.open()?;
        if std::mem::take(&mut inner.fail_next_keep) {
            return Err(KvError::Injected);
        }
        let draft = inner.draft.take().ok_or(KvError::Closed)?;
        inner.kept = Some((draft, note.to_vec()));
        Ok(())
    }

    fn kept(&self) -> Result<Option<KeptCopy>, KvError> {
        let inner = self.open()?;
        Ok(inner.kept.clone().map(|(copy, note)| -> KeptCopy { (copy, note) }))
    }

    fn forget(&self) -> Result<(), KvError> {
        let mut inner = self.open()?;
        (inner.draft, inner.kept) = (None, None);
        Ok(())
    }
}

fn range<'a>(
    tables: &'a Tables,
    table: Table,
    from: &[u8],
    to: &[u8],
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)> {
    let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to.max(from)) };
    let bounds = (Bound::Included(from), upper);
    // A reversed range is an empty one: `to` was raised to `from`, and `from..from` holds nothing.
    tables
        .get(&table)
        .into_iter()
        .flat_map(move |rows| rows.range::<[u8], _>(bounds))
        .map(|pair| (pair.0, pair.1))
        .collect::<Vec<_>>()
        .into_iter()
}

fn apply(tables: &mut Tables, batch: Batch) {
    for change in batch.into_changes() {
        match change {
            Change::Put(table, key, value) => {
                tables.entry(table).or_default().insert(key, value);
            }
            Change::Delete(table, key) => {
                tables.entry(table).or_default().remove(&key);
            }
            Change::DeleteRange(table, from, to) => {
                tables.entry(table).or_default().retain(|key, _| *key < from || *key >= to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &MemKv, key: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Table::State, key, b"v".as_slice());
        kv.write(batch).unwrap();
    }

    #[test]
    fn a_crash_loses_what_was_not_synced_and_no_more() {
        let kv = MemKv::new();
        put(&kv, b"a");
        kv.sync().unwrap();
        put(&kv, b"b");
        put(&kv, b"c");
        assert!(kv.lasting(Table::State, b"a").is_some() && kv.lasting(Table::State, b"b").is_none());
        let back = kv.crash_keeping(1);
        assert!(back.get(Table::State, b"a").unwrap().is_some());
        assert!(back.get(Table::State, b"b").unwrap().is_some());
        assert!(back.get(Table::State, b"c").unwrap().is_none());
        assert_eq!(kv.get(Table::State, b"a"), Err(KvError::Closed));
        assert!(back.crash().get(Table::State, b"b").unwrap().is_some(), "what survived a crash is durable");
    }

    #[test]
    fn a_crash_leaves_the_copy_that_was_kept_last() {
        let kv = MemKv::new();
        put(&kv, b"a");
        kv.copies().draft().unwrap();
        let kv = kv.crash();
        assert!(kv.copies().kept().unwrap().is_none(), "a draft is not kept");
        put(&kv, b"b");
        kv.copies().draft().unwrap();
        kv.copies().keep(b"one").unwrap();
        put(&kv, b"c");
        kv.copies().draft().unwrap();
        kv.fail_next_keep();
        assert_eq!(kv.copies().keep(b"two"), Err(KvError::Injected));
        let kv = kv.crash();
        let (copy, note) = kv.copies().kept().unwrap().unwrap();
        assert_eq!(note, b"one");
        assert!(copy.get(Table::State, b"b").unwrap().is_some() && copy.get(Table::State, b"c").unwrap().is_none());
        kv.copies().forget().unwrap();
        assert!(kv.copies().kept().unwrap().is_none());
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let kv = MemKv::new();
        put(&kv, b"a");
        kv.fail_next_sync();
        assert_eq!(kv.sync(), Err(KvError::Injected));
        assert!(kv.crash().get(Table::State, b"a").unwrap().is_none());
    }
}
