//! What the cluster begins with: written once by `quorate init`, the same file on every node, its hash the cluster's id.

use crate::access::{MAX_POLICY, Policy};
use crate::clock::ClusterClock;
use crate::ids::{BadName, ClusterId, MemberIndex, Millis, check_label, check_trust_domain};
use crate::store::{MemStore, Store, StoreError, Table, Tx, Value, Writes, encode, key, read};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::encoding::hash32;
use quorate_crypto::identity::VerifyKey;
use std::collections::BTreeSet;

/// One member of the roster.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Member {
    /// Its name, for people.
    pub name: String,
    /// Its index, 1 to n: never changes, never reused.
    pub index: MemberIndex,
    /// Its Ed25519 identity key: pinned by peers and clients.
    pub key: [u8; 32],
    /// Its raft id, which changes when it loses its log.
    pub raft_id: u64,
    /// Where its peers reach it, `host:port`.
    pub peer_address: String,
    /// Where clients reach it, `host:port`.
    pub api_address: String,
}

impl Member {
    /// Its identity key.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.key)
    }
}

/// Who counts: authority (endorsements, readings) is counted in a roster, never in Raft's voters.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Roster {
    /// Counts up with every change of members.
    pub number: u64,
    /// By index.
    pub members: Vec<Member>,
    /// How many it takes for anything.
    pub threshold: u8,
}

impl Value for Roster {}

impl Roster {
    /// The member of an index.
    #[must_use]
    pub fn member(&self, index: MemberIndex) -> Option<&Member> {
        self.members.iter().find(|m| m.index == index)
    }

    /// The member of a raft id.
    #[must_use]
    pub fn by_raft_id(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|m| m.raft_id == id)
    }

    /// The member of an identity key.
    #[must_use]
    pub fn by_key(&self, key: &[u8; 32]) -> Option<&Member> {
        self.members.iter().find(|m| &m.key == key)
    }
}

/// The administrators: m of k keys, held by people, never by a node.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Administrators {
    /// Their Ed25519 keys.
    pub keys: Vec<[u8; 32]>,
    /// How many must sign.
    pub needed: u8,
}

impl Value for Administrators {}

/// Where callers' certificates come from.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ClientRoots {
    /// CA certificates, DER. Their keys stay with the operator.
    pub certificates: Vec<Vec<u8>>,
    /// SPIFFE trust domain that every caller must be of.
    pub trust_domain: String,
}

impl Value for ClientRoots {}

impl ClientRoots {
    pub(crate) fn save(&self, tx: &mut Tx<'_>) {
        tx.put(key(Table::Meta, &[b"client-roots"]), self);
    }
}

/// The beginning of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Genesis {
    /// A name for people.
    pub name: String,
    /// Random: two clusters are never the same.
    pub nonce: [u8; 32],
    /// When it was made.
    pub created: Millis,
    /// The members.
    pub roster: Roster,
    /// The administrators.
    pub administrators: Administrators,
    /// Who may be a client.
    pub client_roots: ClientRoots,
    /// The first policies: name and Cedar text, validated by `quorate init`.
    pub policies: Vec<(String, String)>,
}

impl Value for Genesis {}

/// How many members a cluster can have.
///
/// With n = 2f + 1 members and the threshold t = f + 1, f members may be down or corrupt: t others are enough to go on, and f are
/// not enough to do anything. An even n would need a larger t and bear no more; below 3 nothing is shared. Above 9 every
/// change would cost more decisions than anybody has members to make good use of.
pub const SIZES: [usize; 4] = [3, 5, 7, 9];

/// The threshold of a cluster of `n` members, one of [`SIZES`]: its majority, (n + 1) / 2.
#[must_use]
pub fn majority(n: usize) -> u8 {
    u8::try_from(n / 2 + 1).unwrap_or(u8::MAX)
}

/// A genesis that no cluster can begin with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadGenesis {
    /// Not the bytes of a genesis.
    #[error("the file is not a genesis, or is of a newer version")]
    Format,
    /// A name.
    #[error("{field}: {source}")]
    Name {
        /// Whose.
        field: &'static str,
        /// What is wrong.
        source: BadName,
    },
    /// Not one of [`SIZES`], or the threshold is not its majority.
    #[error(
        "{members} members with threshold {threshold}: a cluster has 3, 5, 7 or 9 members, and its threshold is their majority"
    )]
    Threshold {
        /// n.
        members: usize,
        /// t.
        threshold: u8,
    },
    /// Two members share what must be distinct, or the indexes are not 1 to n.
    #[error("members must have the indexes 1 to n, and distinct names, keys and raft ids")]
    Members,
    /// m of k.
    #[error("administrators: {needed} of {keys} is not possible")]
    Administrators {
        /// m.
        needed: u8,
        /// k.
        keys: usize,
    },
    /// No client could ever be authenticated.
    #[error("there is no client CA")]
    ClientRoots,
    /// Two policies share a name, or one is longer than [`MAX_POLICY`].
    #[error("policies must have distinct names and at most {MAX_POLICY} bytes each")]
    Policies,
}

impl Genesis {
    /// Checks everything that a cluster relies on for ever.
    ///
    /// # Errors
    /// [`BadGenesis`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), BadGenesis> {
        check_label(&self.name).map_err(|source| BadGenesis::Name { field: "name", source })?;
        let members = &self.roster.members;
        let n = members.len();
        let t = self.roster.threshold;
        if !SIZES.contains(&n) || t != majority(n) {
            return Err(BadGenesis::Threshold { members: n, threshold: t });
        }
        for (i, member) in members.iter().enumerate() {
            check_label(&member.name).map_err(|source| BadGenesis::Name { field: "member", source })?;
            let later = members.get(i + 1..).unwrap_or_default();
            let twice =
                later.iter().any(|o| o.name == member.name || o.key == member.key || o.raft_id == member.raft_id);
            if twice || usize::from(member.index) != i + 1 {
                return Err(BadGenesis::Members);
            }
        }
        let admins = &self.administrators;
        let mut distinct = admins.keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if admins.needed == 0 || usize::from(admins.needed) > admins.keys.len() || distinct.len() != admins.keys.len() {
            return Err(BadGenesis::Administrators { needed: admins.needed, keys: admins.keys.len() });
        }
        if self.client_roots.certificates.is_empty() {
            return Err(BadGenesis::ClientRoots);
        }
        check_trust_domain(&self.client_roots.trust_domain)
            .map_err(|source| BadGenesis::Name { field: "trust domain", source })?;
        let mut names = BTreeSet::new();
        for (name, text) in &self.policies {
            check_label(name).map_err(|source| BadGenesis::Name { field: "policy", source })?;
            // The later of two would silently take the place of the earlier, a forbidding one perhaps.
            if text.len() > MAX_POLICY || !names.insert(name) {
                return Err(BadGenesis::Policies);
            }
        }
        Ok(())
    }

    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`BadGenesis`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadGenesis> {
        let genesis: Self = crate::store::decode(Table::Meta as u8, bytes).map_err(|_| BadGenesis::Format)?;
        genesis.check()?;
        Ok(genesis)
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId(hash32("genesis", &[&self.to_bytes()]))
    }

    /// The state before the first log entry: the same on every node.
    #[must_use]
    pub fn initial_state(&self) -> Writes {
        let empty = MemStore::default();
        let mut tx = Tx::new(&empty);
        tx.put(key(Table::Meta, &[b"genesis"]), self);
        tx.put(key(Table::Meta, &[b"roster"]), &self.roster);
        tx.put(key(Table::Meta, &[b"administrators"]), &self.administrators);
        self.client_roots.save(&mut tx);
        ClusterClock::genesis(self.created).save(&mut tx);
        for (name, text) in &self.policies {
            Policy { text: text.clone(), changed_index: 0 }.save(&mut tx, name);
        }
        let mut writes = tx.into_writes();
        crate::hash::begin(&mut writes);
        writes
    }
}

/// The roster now.
///
/// # Errors
/// [`StoreError`] when the store cannot answer or holds no genesis.
pub fn roster(store: &dyn Store) -> Result<Roster, StoreError> {
    read(store, &key(Table::Meta, &[b"roster"]))?.ok_or(StoreError::Corrupt { table: Table::Meta as u8 })
}

/// The administrators now.
///
/// # Errors
/// As [`roster`].
pub fn administrators(store: &dyn Store) -> Result<Administrators, StoreError> {
    read(store, &key(Table::Meta, &[b"administrators"]))?.ok_or(StoreError::Corrupt { table: Table::Meta as u8 })
}

/// The roots of callers' certificates now.
///
/// # Errors
/// As [`roster`].
pub fn client_roots(store: &dyn Store) -> Result<ClientRoots, StoreError> {
    read(store, &key(Table::Meta, &[b"client-roots"]))?.ok_or(StoreError::Corrupt { table: Table::Meta as u8 })
}

/// The genesis of a state.
///
/// # Errors
/// As [`roster`].
pub fn genesis(store: &dyn Store) -> Result<Genesis, StoreError> {
    read(store, &key(Table::Meta, &[b"genesis"]))?.ok_or(StoreError::Corrupt { table: Table::Meta as u8 })
}
