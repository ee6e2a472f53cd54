//! What the machine reads and writes: an ordered map of bytes, and a transaction over it.

use borsh::{BorshDeserialize, BorshSerialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A store that cannot answer. Fatal: a replica that cannot read its own state must not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the seal over the values.
    #[error("the state store cannot be read: {0}")]
    Io(String),
    /// A value that no version of this program wrote.
    #[error("a value of table {table} is not in any known format")]
    Corrupt {
        /// The first byte of the key.
        table: u8,
    },
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The read side of the state: an ordered map from keys to values.
pub trait Store {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot answer.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` pairs with `from <= key < to`, in order.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot answer.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError>;
}

/// The writes of one command: `None` deletes.
pub type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An in-memory store: the fake of tests and simulation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemStore(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl MemStore {
    /// Takes over the writes of one command.
    pub fn commit(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

impl Store for MemStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from.to_vec()), Bound::Excluded(to.to_vec()));
        Ok(self.0.range(range).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

/// A command's own view: what it wrote over what was there.
pub struct Tx<'a> {
    base: &'a dyn Store,
    writes: Writes,
    /// What stands in `base`, where that is known: whoever hashes what becomes of a row need not read it again.
    known: RefCell<Writes>,
}

impl<'a> Tx<'a> {
    /// Begins over `base`, which does not change until the writes are committed.
    #[must_use]
    pub fn new(base: &'a dyn Store) -> Self {
        Self { base, writes: Writes::new(), known: RefCell::default() }
    }

    /// What this command wrote.
    #[must_use]
    pub fn into_writes(self) -> Writes {
        self.writes
    }

    /// What this command wrote, and what it knows of the rows that stood there before.
    pub(crate) fn into_parts(self) -> (Writes, Writes) {
        (self.writes, self.known.into_inner())
    }

    /// Forgets what was written so far: a refused command changes nothing.
    pub fn rollback(&mut self) {
        self.writes.clear();
    }

    /// Writes a value in the format of its table.
    pub fn put<T: Value>(&mut self, key: Vec<u8>, value: &T) {
        self.writes.insert(key, Some(encode(value)));
    }

    /// Deletes.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// Adds a row that is not there to a set of keys. What is known of it is not read: of a row that is there, the hash of the
    /// state would be wrong from then on.
    pub(crate) fn add(&mut self, key: Vec<u8>) {
        self.know(&key, None);
        self.put(key, &());
    }

    /// Takes a row that is there out of a set of keys, without reading it: as [`Tx::add`].
    pub(crate) fn take_out(&mut self, key: Vec<u8>) {
        self.know(&key, Some(encode(&())));
        self.delete(key);
    }

    /// What stands in `base`, which is read once.
    fn below(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.known.borrow().get(key) {
            return Ok(value.clone());
        }
        let value = self.base.get(key)?;
        self.known.borrow_mut().insert(key.to_vec(), value.clone());
        Ok(value)
    }

    fn know(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        if !self.writes.contains_key(key) {
            self.known.get_mut().entry(key.to_vec()).or_insert(value);
        }
    }
}

impl Store for Tx<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from.to_vec()), Bound::Excluded(to.to_vec()));
        let own: BTreeMap<_, _> = self.writes.range::<Vec<u8>, _>(range).collect();
        // Every deletion of ours may hide one pair below.
        let below = self.base.scan(from, to, limit.saturating_add(own.len()))?;
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = below.into_iter().collect();
        for (key, value) in own {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

/// A value of the state: borsh behind one byte of format version.
pub trait Value: BorshSerialize + BorshDeserialize {
    /// The version that this program writes. An older one is read as long as a reader for it stands here.
    const VERSION: u8 = 1;
}

/// That of a row of a set of keys.
impl Value for () {}

/// Encodes a value with its version.
pub fn encode<T: Value>(value: &T) -> Vec<u8> {
    let mut out = vec![T::VERSION];
    // Writing into a vector fails only for lengths above u32::MAX, which no command can carry.
    let _ = value.serialize(&mut out);
    out
}

/// Decodes a value of `table`.
///
/// # Errors
/// [`StoreError::Corrupt`] when the version is unknown or the bytes are not exactly one value.
pub fn decode<T: Value>(table: u8, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&version, rest)) if version == T::VERSION => {
            T::try_from_slice(rest).map_err(|_| StoreError::Corrupt { table })
        }
        _ => Err(StoreError::Corrupt { table }),
    }
}

/// Reads the value of a key.
///
/// # Errors
/// As [`Store::get`] and [`decode`].
pub fn read<T: Value>(store: &dyn Store, key: &[u8]) -> Result<Option<T>, StoreError> {
    store.get(key)?.map(|bytes| decode(key.first().copied().unwrap_or(0), &bytes)).transpose()
}

/// Reads the pairs of a whole prefix, at most `limit`.
///
/// # Errors
/// As [`Store::scan`] and [`decode`].
pub fn read_prefix<T: Value>(store: &dyn Store, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
    store
        .scan(prefix, &after_prefix(prefix), limit)?
        .into_iter()
        .map(|(key, bytes)| {
            let value = decode(key.first().copied().unwrap_or(0), &bytes)?;
            Ok((key, value))
        })
        .collect()
}

/// The smallest key that is above every key with this prefix.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0xff; prefix.len() + 1]
}

/// Which table a key belongs to: its first byte. Numbers are for ever; a new table takes the next free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// The hash of all other tables: [`crate::hash`]. Sorts before them.
    Hash = 0x00,
    /// Singletons: genesis, clock, authority.
    Meta = 0x01,
    /// `namespace 0 path` to [`crate::secrets::Secret`].
    Secret = 0x02,
    /// `secret id, number` to the sealed header.
    Version = 0x03,
    /// `secret id, number` to the sealed payload.
    Payload = 0x04,
    /// Every secret id that was ever used.
    UsedSecret = 0x05,
    /// Every version id that was ever used, under its secret.
    UsedVersion = 0x06,
    /// Namespaces.
    Namespace = 0x07,
    /// `namespace 0 mount`.
    Mount = 0x08,
    /// Cedar texts by name.
    Policy = 0x09,
    /// Keyrings by id.
    Keyring = 0x0a,
    /// Customer keys by id.
    CustomerKey = 0x0b,
    /// Key ceremonies by session.
    Ceremony = 0x0c,
    /// Target systems by name.
    Target = 0x0d,
    /// Roles by name.
    Role = 0x0e,
    /// Leases by id.
    Lease = 0x0f,
    /// A set: `target 0 end (u64), lease` of leases that have not ended.
    LeaseDue = 0x10,
    /// A set: `target 0 queue, since (u64), lease` of leases that are not revoked: what an executor has to do, in order, and which
    /// leases end with a target.
    LeaseWork = 0x11,
    /// `signer, request id` to the outcome.
    Request = 0x12,
    /// `not_after (u64), signer, request id`.
    RequestEnd = 0x13,
    /// Blocked identities.
    Blocked = 0x14,
    /// `kind, role or target or owner or namespace 0` to the number of leases that are not revoked.
    LeaseCount = 0x15,
    /// `session, member` to what was established against the member in that ceremony.
    CeremonyFault = 0x16,
    /// `target 0 queue` to the number of leases in that queue.
    LeaseTally = 0x17,
    /// A set: `kind, role or owner or namespace 0, since (u64), lease` of leases that have not ended.
    LeaseOf = 0x18,
    /// `log index (u64)` to an end of many leases that is not complete.
    LeaseSweep = 0x19,
    /// `revoked index (u64), lease` of leases that are revoked, to the time: until they are forgotten.
    LeaseGone = 0x1a,
    /// A set: the digest of signer and request id of each lease that is remembered.
    LeaseOrigin = 0x1b,
    /// Targets at which the cluster touches nothing, by name.
    Quarantine = 0x1c,
    /// `kind, what 0` to how many leases it may have.
    Quota = 0x1d,
}

/// The key of `parts` in a table. Parts of variable length are followed by a zero byte, which no name holds.
#[must_use]
pub fn key(table: Table, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![table as u8];
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A name as a part of a key: its bytes and the zero byte that ends it.
#[must_use]
pub fn name(s: &str) -> Vec<u8> {
    let mut out = s.as_bytes().to_vec();
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefix_ends() {
        assert_eq!(after_prefix(b"ab"), b"ac");
        assert_eq!(after_prefix(&[1, 0xff]), vec![2]);
    }

    proptest! {
        /// A transaction shows what a store would show after its writes are committed.
        #[test]
        fn tx_reads_its_writes(base in proptest::collection::btree_map(0u8..40, 0u8..9, 0..20),
                               ours in proptest::collection::btree_map(0u8..40, proptest::option::of(0u8..9), 0..20),
                               from in 0u8..40, to in 0u8..40, limit in 0usize..12) {
            let mut store = MemStore(base.into_iter().map(|(k, v)| (vec![k], vec![v])).collect());
            let before = store.clone();
            let mut tx = Tx::new(&before);
            for (k, v) in ours {
                tx.writes.insert(vec![k], v.map(|v| vec![v]));
            }
            let scanned = tx.scan(&[from], &[to], limit).unwrap();
            let all: Vec<_> = (0u8..40).map(|k| tx.get(&[k]).unwrap()).collect();
            store.commit(tx.into_writes());
            prop_assert_eq!(scanned, store.scan(&[from], &[to], limit).unwrap());
            prop_assert_eq!(all, (0u8..40).map(|k| store.get(&[k]).unwrap()).collect::<Vec<_>>());
        }
    }
}
