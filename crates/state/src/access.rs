//! Namespaces, mounts, customer keys, keyrings, policies, blocked identities.

use crate::change::KeyringClass;
use crate::genesis::{ClientRoots, client_roots};
use crate::ids::{ClusterId, CustomerKeyId, KeyringId, MemberIndex, SessionId, check_label, check_namespace};
use crate::lease::{Selector, Why, end_all};
use crate::outcome::{Outcome, Refusal};
use crate::request::tighten;
use crate::store::{Store, StoreError, Table, Tx, Value, key, name, read, read_prefix};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::identity::VerifyKey;
use std::collections::BTreeSet;

/// The namespace that the vault keeps for itself: no client may make, mount or write in it.
pub const SYSTEM_NAMESPACE: &str = "sys";

/// Whether a namespace is the vault's own or stands below it.
#[must_use]
pub fn is_system(namespace: &str) -> bool {
    namespace.split('/').next() == Some(SYSTEM_NAMESPACE)
}

/// A policy: Cedar text that every endorser validated.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Policy {
    /// The text.
    pub text: String,
    /// The log index of its last change.
    pub changed_index: u64,
}

impl Value for Policy {}

/// The longest policy, in bytes.
pub const MAX_POLICY: usize = 64 * 1024;

impl Policy {
    pub(crate) fn save(&self, tx: &mut Tx<'_>, policy: &str) {
        tx.put(key(Table::Policy, &[&name(policy)]), self);
    }
}

/// All policies, by name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn policies(store: &dyn Store) -> Result<Vec<(String, Policy)>, StoreError> {
    named(read_prefix(store, &key(Table::Policy, &[]), usize::MAX)?)
}

/// The last part of each key as a name.
pub(crate) fn named<T>(rows: Vec<(Vec<u8>, T)>) -> Result<Vec<(String, T)>, StoreError> {
    rows.into_iter()
        .map(|(key, value)| {
            let table = key.first().copied().unwrap_or(0);
            let label = key.get(1..key.len().saturating_sub(1)).unwrap_or_default();
            let label = String::from_utf8(label.to_vec()).map_err(|_| StoreError::Corrupt { table })?;
            Ok((label, value))
        })
        .collect()
}

/// The log index of the last change to any policy: decisions cached before it are worthless.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn policy_epoch(store: &dyn Store) -> Result<u64, StoreError> {
    Ok(read(store, &key(Table::Meta, &[b"policy-epoch"]))?.unwrap_or(0))
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Namespace {
    /// The log index that made it.
    pub created_index: u64,
}

impl Value for Namespace {}

/// What decides how secrets below it are sealed.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Mount {
    /// The keyring.
    pub keyring: KeyringId,
    /// Its class.
    pub class: KeyringClass,
    /// The customer keys of the one slot, sorted.
    pub customer_keys: Vec<CustomerKeyId>,
}

impl Value for Mount {}

/// The mount of a path: that of its first segment.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn mount_of(store: &dyn Store, namespace: &str, path: &str) -> Result<Option<Mount>, StoreError> {
    let first = path.split('/').next().unwrap_or_default();
    read(store, &key(Table::Mount, &[&name(namespace), &name(first)]))
}

/// The mounts of a namespace, by name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn mounts(store: &dyn Store, namespace: &str) -> Result<Vec<(String, Mount)>, StoreError> {
    let prefix = key(Table::Mount, &[&name(namespace)]);
    let rows: Vec<(Vec<u8>, Mount)> = read_prefix(store, &prefix, usize::MAX)?;
    let skip = prefix.len().saturating_sub(1);
    named(rows.into_iter().map(|(key, mount)| (key.get(skip..).unwrap_or_default().to_vec(), mount)).collect())
}

/// Whether a namespace was made.
pub(crate) fn has_namespace(store: &dyn Store, namespace: &str) -> Result<bool, StoreError> {
    Ok(store.get(&key(Table::Namespace, &[&name(namespace)]))?.is_some())
}

/// The namespaces, by name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn namespaces(store: &dyn Store) -> Result<Vec<(String, Namespace)>, StoreError> {
    named(read_prefix(store, &key(Table::Namespace, &[]), usize::MAX)?)
}

/// A keyring in its current epoch.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Keyring {
    /// What it opens.
    pub class: KeyringClass,
    /// The public key `Y`.
    pub y: [u8; 32],
    /// Counts up with every resharing.
    pub epoch: u64,
    /// How many shares open.
    pub threshold: u8,
    /// `Y_j` of every holder, by member index.
    pub public_shares: Vec<(MemberIndex, [u8; 32])>,
    /// The roster in which its epoch was made.
    pub roster: u64,
    /// The ceremony that made this epoch.
    pub session: SessionId,
}

impl Value for Keyring {}

/// The keyring of an id.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn keyring(store: &dyn Store, id: &KeyringId) -> Result<Option<Keyring>, StoreError> {
    read(store, &key(Table::Keyring, &[&id.0]))
}

/// All keyrings, by id.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn keyrings(store: &dyn Store) -> Result<Vec<(KeyringId, Keyring)>, StoreError> {
    let rows: Vec<(Vec<u8>, Keyring)> = read_prefix(store, &key(Table::Keyring, &[]), usize::MAX)?;
    rows.into_iter()
        .map(|(key, ring)| {
            let id = key.get(1..).and_then(|k| <[u8; 32]>::try_from(k).ok());
            id.map(|id| (KeyringId(id), ring)).ok_or(StoreError::Corrupt { table: Table::Keyring as u8 })
        })
        .collect()
}

pub(crate) fn save_keyring(tx: &mut Tx<'_>, id: &KeyringId, ring: &Keyring) {
    tx.put(key(Table::Keyring, &[&id.0]), ring);
}

/// A customer's public keys.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CustomerKey {
    /// A name for people.
    pub name: String,
    /// The public keys, as `docs/format.md` encodes them.
    pub public: Vec<u8>,
    /// The customer's key that signed for them.
    pub owner: [u8; 32],
}

impl Value for CustomerKey {}

/// The customer key of an id.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn customer_key(store: &dyn Store, id: &CustomerKeyId) -> Result<Option<CustomerKey>, StoreError> {
    read(store, &key(Table::CustomerKey, &[&id.0]))
}

/// Whether an identity is blocked.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn is_blocked(store: &dyn Store, principal: &str) -> Result<bool, StoreError> {
    Ok(store.get(&key(Table::Blocked, &[&name(principal)]))?.is_some())
}

pub(crate) fn create_namespace(tx: &mut Tx<'_>, index: u64, namespace: &str) -> Result<Outcome, StoreError> {
    if let Err(why) = check_namespace(namespace) {
        return Ok(Outcome::Refused(Refusal::invalid("namespace", why)));
    }
    if namespace.contains(':') {
        // `namespace:path` is how a secret is named to people and to Cedar.
        return Ok(Outcome::Refused(Refusal::invalid("namespace", "must not contain ':'")));
    }
    let at = key(Table::Namespace, &[&name(namespace)]);
    if is_system(namespace) || tx.get(&at)?.is_some() {
        return Ok(Outcome::Refused(Refusal::exists("namespace")));
    }
    tx.put(at, &Namespace { created_index: index });
    Ok(Outcome::Done)
}

pub(crate) fn create_mount(
    tx: &mut Tx<'_>,
    namespace: &str,
    mount: &str,
    keyring_id: &KeyringId,
    customer_keys: &[CustomerKeyId],
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if let Err(why) = check_label(mount) {
        return refuse(Refusal::invalid("mount", why));
    }
    if !has_namespace(tx, namespace)? {
        return refuse(Refusal::not_found("namespace"));
    }
    let at = key(Table::Mount, &[&name(namespace), &name(mount)]);
    if tx.get(&at)?.is_some() {
        return refuse(Refusal::exists("mount"));
    }
    let Some(ring) = keyring(tx, keyring_id)? else { return refuse(Refusal::not_found("keyring")) };
    let mut sorted = customer_keys.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != customer_keys.len() {
        return refuse(Refusal::invalid("customer_keys", "must be distinct"));
    }
    if (ring.class == KeyringClass::Customer) == sorted.is_empty() || sorted.len() > 8 {
        return refuse(Refusal::invalid(
            "customer_keys",
            "a keyring of class customer needs 1 to 8, one of class cluster none",
        ));
    }
    for id in &sorted {
        if customer_key(tx, id)?.is_none() {
            return refuse(Refusal::not_found("customer key"));
        }
    }
    tx.put(at, &Mount { keyring: *keyring_id, class: ring.class, customer_keys: sorted });
    Ok(Outcome::Done)
}

pub(crate) fn register_customer_key(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    label: &str,
    public: &[u8],
    owner: &[u8; 32],
    signature: &[u8; 64],
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if let Err(why) = check_label(label) {
        return refuse(Refusal::invalid("name", why));
    }
    let id = match quorate_crypto::customer::CustomerPublic::decode(public) {
        Ok(public) => CustomerKeyId(public.id()),
        Err(why) => return refuse(Refusal::invalid("public", why)),
    };
    let signed = VerifyKey(*owner).verify("customer-key", &[&cluster.0, label.as_bytes(), public], signature);
    if signed.is_err() {
        return refuse(Refusal::invalid("signature", "the customer's own signature over the key does not verify"));
    }
    let at = key(Table::CustomerKey, &[&id.0]);
    if tx.get(&at)?.is_some() {
        return refuse(Refusal::exists("customer key"));
    }
    tx.put(at, &CustomerKey { name: label.to_owned(), public: public.to_vec(), owner: *owner });
    Ok(Outcome::Done)
}

/// Every change of a policy can take something away: a new one may forbid.
fn policy_changed(tx: &mut Tx<'_>, index: u64) -> Result<(), StoreError> {
    tx.put(key(Table::Meta, &[b"policy-epoch"]), &index);
    tighten(tx, index)
}

pub(crate) fn put_policy(tx: &mut Tx<'_>, index: u64, label: &str, text: &str) -> Result<Outcome, StoreError> {
    if let Err(why) = check_label(label) {
        return Ok(Outcome::Refused(Refusal::invalid("name", why)));
    }
    if text.len() > MAX_POLICY {
        return Ok(Outcome::Refused(Refusal::invalid("text", "longer than 64 KiB")));
    }
    Policy { text: text.to_owned(), changed_index: index }.save(tx, label);
    policy_changed(tx, index)?;
    Ok(Outcome::Done)
}

pub(crate) fn delete_policy(tx: &mut Tx<'_>, index: u64, label: &str) -> Result<Outcome, StoreError> {
    let at = key(Table::Policy, &[&name(label)]);
    if tx.get(&at)?.is_none() {
        return Ok(Outcome::Refused(Refusal::not_found("policy")));
    }
    tx.delete(at);
    policy_changed(tx, index)?;
    Ok(Outcome::Done)
}

/// How many client CAs there can be.
pub const MAX_ROOTS: usize = 4;
/// The largest certificate of one, in bytes.
pub const MAX_ROOT: usize = 16 * 1024;

/// Other roots can take something away: from everybody whom the old ones vouched for.
pub(crate) fn set_client_roots(tx: &mut Tx<'_>, index: u64, certificates: &[Vec<u8>]) -> Result<Outcome, StoreError> {
    let distinct: BTreeSet<&Vec<u8>> = certificates.iter().collect();
    let fits = (1..=MAX_ROOTS).contains(&certificates.len()) && distinct.len() == certificates.len();
    if !fits || certificates.iter().any(|der| der.is_empty() || der.len() > MAX_ROOT) {
        let why = "must be 1 to 4 distinct certificates of at most 16 KiB";
        return Ok(Outcome::Refused(Refusal::invalid("certificates", why)));
    }
    // The trust domain stays: policies name callers in it.
    let roots = ClientRoots { certificates: certificates.to_vec(), ..client_roots(tx)? };
    roots.save(tx);
    tighten(tx, index)?;
    Ok(Outcome::Done)
}

pub(crate) fn block(tx: &mut Tx<'_>, index: u64, principal: &str) -> Result<Outcome, StoreError> {
    if principal.is_empty() || principal.len() > 256 || principal.chars().any(char::is_control) {
        return Ok(Outcome::Refused(Refusal::invalid("principal", "must be a SPIFFE id of at most 256 bytes")));
    }
    let at = key(Table::Blocked, &[&name(principal)]);
    if tx.get(&at)?.is_none() {
        tx.put(at, &index);
        tighten(tx, index)?;
    }
    let changed = end_all(tx, index, Why::IdentityBlocked, Selector::Identity(principal.to_owned()))?;
    Ok(Outcome::Leases { changed })
}

pub(crate) fn unblock(tx: &mut Tx<'_>, principal: &str) -> Result<Outcome, StoreError> {
    let at = key(Table::Blocked, &[&name(principal)]);
    if tx.get(&at)?.is_none() {
        return Ok(Outcome::Refused(Refusal::not_found("block of that identity")));
    }
    tx.delete(at);
    Ok(Outcome::Done)
}
