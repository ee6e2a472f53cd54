//! The hash of the state: kept by every [`crate::machine::apply`], attested by members, recomputed by whoever takes a
//! state over.
//!
//! A row of its own says how many other rows there are, how many bytes, and their [`LtHash`]. It is written in the same
//! batch as what it is about, so that a state and its hash cannot come apart, and it sorts before every other row: whoever
//! receives a state row by row knows first what is to come, and need not take in more than that.

use crate::store::{MemStore, Store, StoreError, Table, Value, Writes, decode, encode, key};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::encoding::hash32;
use quorate_crypto::lthash::LtHash;

/// How many rows a full scan holds in memory at once.
const PAGE: usize = 256;

/// What the state is, in 2 KiB.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StateHash {
    /// Rows, without the one in which this stands.
    rows: u64,
    /// Bytes of their keys and values.
    bytes: u64,
    /// [`LtHash::bytes`] of `(key, value)` of each, purpose `state-row`.
    sum: [u8; LtHash::LEN],
}

impl Value for StateHash {}

impl core::fmt::Debug for StateHash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "StateHash({} rows, {} bytes)", self.rows, self.bytes)
    }
}

/// The key of the row in which the hash stands: the least of all.
#[must_use]
pub fn hash_key() -> Vec<u8> {
    key(Table::Hash, &[])
}

impl StateHash {
    /// Of a state without rows.
    #[must_use]
    pub fn empty() -> Self {
        Self { rows: 0, bytes: 0, sum: LtHash::empty().bytes() }
    }

    /// As the state itself has it.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot answer, or the state has none.
    pub fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let found = store.get(&hash_key())?.ok_or(StoreError::Corrupt { table: Table::Hash as u8 })?;
        Self::from_row(&found)
    }

    fn from_row(value: &[u8]) -> Result<Self, StoreError> {
        decode(Table::Hash as u8, value)
    }

    /// By reading every row. The store must not change meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot answer.
    pub fn recompute(store: &dyn Store) -> Result<Self, StoreError> {
        let mut found = Delta::of(&Self::empty());
        let mut from = key(Table::Meta, &[]);
        loop {
            let rows = store.scan(&from, &[0xff], PAGE)?;
            for (key, value) in &rows {
                found.insert(key, value);
            }
            match rows.into_iter().nth(PAGE - 1) {
                Some((last, _)) => from = [last, vec![0]].concat(),
                None => return Ok(found.done()),
            }
        }
    }

    /// What members attest: 32 bytes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        hash32("state-hash", &[&self.rows.to_be_bytes(), &self.bytes.to_be_bytes(), &self.sum])
    }
}

/// A hash on its way from one state to the next.
struct Delta {
    rows: u64,
    bytes: u64,
    sum: LtHash,
}

impl Delta {
    fn of(hash: &StateHash) -> Self {
        Self { rows: hash.rows, bytes: hash.bytes, sum: LtHash::from_bytes(&hash.sum) }
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.saturating_add(1);
        self.bytes = self.bytes.saturating_add(size(key, value));
        self.sum.insert("state-row", &[key, value]);
    }

    fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size(key, value));
        self.sum.remove("state-row", &[key, value]);
    }

    fn done(self) -> StateHash {
        StateHash { rows: self.rows, bytes: self.bytes, sum: self.sum.bytes() }
    }
}

fn size(key: &[u8], value: &[u8]) -> u64 {
    u64::try_from(key.len().saturating_add(value.len())).unwrap_or(u64::MAX)
}

/// Adds to `writes`, which are to be made on `store`, what becomes of the hash. What stands in `store` is read where it is not `known`.
pub(crate) fn follow(store: &dyn Store, writes: &mut Writes, known: &Writes) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let before = StateHash::load(store)?;
    let after = moved(store, &before, writes, known)?;
    if after != before {
        writes.insert(hash_key(), Some(encode(&after)));
    }
    Ok(())
}

/// Adds the hash to the rows of a state that begins.
pub(crate) fn begin(writes: &mut Writes) {
    // An empty map in memory always answers.
    if let Ok(hash) = moved(&MemStore::default(), &StateHash::empty(), writes, &Writes::new()) {
        writes.insert(hash_key(), Some(encode(&hash)));
    }
}

fn moved(store: &dyn Store, before: &StateHash, writes: &Writes, known: &Writes) -> Result<StateHash, StoreError> {
    let mut delta = Delta::of(before);
    for (key, new) in writes {
        let read;
        let old = match known.get(key) {
            Some(old) => old,
            None => {
                read = store.get(key)?;
                &read
            }
        };
        if old != new {
            if let Some(old) = old {
                delta.remove(key, old);
            }
            if let Some(new) = new {
                delta.insert(key, new);
            }
        }
    }
    Ok(delta.done())
}

/// A state that is not the one that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It does not begin with its hash, or with another than the one that is expected.
    #[error("the state does not begin with the hash that is expected")]
    Beginning,
    /// There is more than the hash says.
    #[error("the state goes on after the rows and bytes that its hash names")]
    TooMuch,
    /// A row is missing, added or altered.
    #[error("the rows of the state do not have its hash")]
    Rows,
}

/// Checks a state that comes row by row, in the order of keys, against a digest that somebody vouches for.
pub struct Recount {
    expected: [u8; 32],
    claimed: Option<StateHash>,
    found: Delta,
}

impl Recount {
    /// Expects the state with this [`StateHash::digest`].
    #[must_use]
    pub fn of(expected: [u8; 32]) -> Self {
        Self { expected, claimed: None, found: Delta::of(&StateHash::empty()) }
    }

    /// The next row. The first must be the hash's own.
    ///
    /// # Errors
    /// [`Mismatch`]: nothing that comes later can make this the expected state.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Mismatch> {
        let Some(claimed) = &self.claimed else {
            let claimed = StateHash::from_row(value).map_err(|_| Mismatch::Beginning)?;
            if key != hash_key() || claimed.digest() != self.expected {
                return Err(Mismatch::Beginning);
            }
            self.claimed = Some(claimed);
            return Ok(());
        };
        self.found.insert(key, value);
        if self.found.rows > claimed.rows || self.found.bytes > claimed.bytes {
            return Err(Mismatch::TooMuch);
        }
        Ok(())
    }

    /// The state is complete.
    ///
    /// # Errors
    /// [`Mismatch`] when it is not the expected one.
    pub fn finish(self) -> Result<(), Mismatch> {
        let claimed = self.claimed.ok_or(Mismatch::Beginning)?;
        if self.found.done() == claimed { Ok(()) } else { Err(Mismatch::Rows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut writes: Writes = (1u8..6).map(|n| (vec![n, n], Some(vec![n; usize::from(n)]))).collect();
        begin(&mut writes);
        writes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    fn digest() -> [u8; 32] {
        StateHash::load(&MemStore(rows().into_iter().collect())).unwrap().digest()
    }

    fn verdict(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Mismatch> {
        let mut recount = Recount::of(digest());
        rows.iter().try_for_each(|(key, value)| recount.row(key, value))?;
        recount.finish()
    }

    #[test]
    fn only_the_state_itself_is_taken() {
        assert_eq!(verdict(&rows()), Ok(()));
        assert_eq!(verdict(&[]), Err(Mismatch::Beginning));
        assert_eq!(verdict(&rows()[1..]), Err(Mismatch::Beginning));
        for at in 1..rows().len() {
            let mut missing = rows();
            missing.remove(at);
            assert_eq!(verdict(&missing), Err(Mismatch::Rows), "row {at} is missing");
            let mut altered = rows();
            altered[at].1[0] ^= 1;
            assert_eq!(verdict(&altered), Err(Mismatch::Rows), "row {at} is altered");
            let mut renamed = rows();
            renamed[at].0[1] ^= 0x80;
            assert_eq!(verdict(&renamed), Err(Mismatch::Rows), "row {at} has another key");
            let mut twice = rows();
            twice.insert(at, twice[at].clone());
            assert_eq!(verdict(&twice), Err(Mismatch::TooMuch), "row {at} comes twice");
        }
        let mut added = rows();
        added.push((vec![9], Vec::new()));
        assert_eq!(verdict(&added), Err(Mismatch::TooMuch));
        let mut longer = rows();
        longer[1].1.push(0);
        assert_eq!(verdict(&longer), Err(Mismatch::TooMuch));
    }

    #[test]
    fn a_hash_that_nobody_vouched_for_is_refused_at_once() {
        let mut forged = rows();
        forged[2].1[0] ^= 1;
        let honest: MemStore = MemStore(forged.clone().into_iter().collect());
        forged[0].1 = encode(&StateHash::recompute(&honest).unwrap());
        let mut recount = Recount::of(digest());
        assert_eq!(recount.row(&forged[0].0, &forged[0].1), Err(Mismatch::Beginning));
    }

    #[test]
    fn nothing_written_leaves_the_hash_alone() {
        let store = MemStore(rows().into_iter().collect());
        let mut same = Writes::from([(vec![1, 1], Some(vec![1]))]);
        follow(&store, &mut same, &Writes::new()).unwrap();
        assert_eq!(same.len(), 1);
        let mut none = Writes::new();
        follow(&MemStore::default(), &mut none, &Writes::new()).unwrap();
        assert!(none.is_empty());
        let mut some = Writes::from([(vec![1, 1], None)]);
        assert_eq!(follow(&MemStore::default(), &mut some, &Writes::new()), Err(StoreError::Corrupt { table: 0 }));
    }
}
