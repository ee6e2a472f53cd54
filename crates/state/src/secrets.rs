//! Secrets: versions, check-and-set, and what a sealed version must look like to be accepted.
//!
//! Nothing here opens anything. A node takes a header only if it says what the command says, is sealed to what the
//! mount names, and carries a proof over every one of its bytes: otherwise a writer could relabel another's ciphertext,
//! or seal around the customer.

use crate::access::{customer_key, is_system, keyring, mount_of};
use crate::change::KeyringClass;
use crate::ids::{ClusterId, Millis, SecretId, VersionId, check_namespace, check_path};
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, key, name, read};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::customer::{CustomerPublic, PartSuite};
use quorate_crypto::keyring::KeyringPublic;
use quorate_crypto::sealed::Header;

/// How many versions a secret may have that are not destroyed.
pub const MAX_VERSIONS: usize = 1_024;

/// A secret: its id and its versions.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Secret {
    /// Its id, whatever its path becomes.
    pub id: SecretId,
    /// By number, from 1.
    pub versions: Vec<VersionInfo>,
}

impl Value for Secret {}

impl Secret {
    /// The newest version, whatever its state.
    #[must_use]
    pub fn newest(&self) -> Option<&VersionInfo> {
        self.versions.last()
    }

    /// The version of a number.
    #[must_use]
    pub fn version(&self, number: u64) -> Option<&VersionInfo> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        self.versions.get(at)
    }
}

/// What everybody who may look is told of a version.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VersionInfo {
    /// Counts up from 1.
    pub number: u64,
    /// Its id.
    pub id: VersionId,
    /// Cluster time when it was stored.
    pub stored_at: Millis,
    /// Who wrote it.
    pub writer: String,
    /// The log index that stored it.
    pub index: u64,
    /// Whether it can be opened.
    pub state: VersionState,
}

/// Whether a version can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum VersionState {
    /// It can.
    Live,
    /// Not until it is brought back.
    Deleted,
    /// Never again.
    Destroyed,
}

/// The sealed header of a version.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SealedHeader(pub Vec<u8>);
impl Value for SealedHeader {}

/// The sealed payload of a version.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SealedPayload(pub Vec<u8>);
impl Value for SealedPayload {}

fn secret_key(namespace: &str, path: &str) -> Vec<u8> {
    key(Table::Secret, &[&name(namespace), &name(path)])
}

fn version_key(table: Table, id: &SecretId, number: u64) -> Vec<u8> {
    key(table, &[&id.0, &number.to_be_bytes()])
}

/// The secret at a path.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn secret(store: &dyn Store, namespace: &str, path: &str) -> Result<Option<Secret>, StoreError> {
    read(store, &secret_key(namespace, path))
}

/// The sealed header of a version.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn header(store: &dyn Store, id: &SecretId, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(read::<SealedHeader>(store, &version_key(Table::Version, id, number))?.map(|h| h.0))
}

/// The sealed payload of a version.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn payload(store: &dyn Store, id: &SecretId, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(read::<SealedPayload>(store, &version_key(Table::Payload, id, number))?.map(|p| p.0))
}

/// At most `limit` paths of a namespace below `prefix` (a path, or empty), above `after`.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn list(
    store: &dyn Store,
    namespace: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Secret)>, StoreError> {
    let mut all = key(Table::Secret, &[&name(namespace)]);
    let skip = all.len();
    if !prefix.is_empty() {
        all.extend_from_slice(prefix.as_bytes());
        // Below the path, not beside it: `app` lists `app/x`, not `apple`.
        all.push(b'/');
    }
    let from = match after {
        Some(path) => secret_key(namespace, path).into_iter().chain([0]).collect(),
        None => all.clone(),
    };
    let from = if from < all { all.clone() } else { from };
    store
        .scan(&from, &crate::store::after_prefix(&all), limit)?
        .into_iter()
        .map(|(key, bytes)| {
            let path = key.get(skip..key.len().saturating_sub(1)).unwrap_or_default().to_vec();
            let path = String::from_utf8(path).map_err(|_| StoreError::Corrupt { table: Table::Secret as u8 })?;
            Ok((path, crate::store::decode(Table::Secret as u8, &bytes)?))
        })
        .collect()
}

/// What a sealed version must be sealed for.
pub(crate) struct Sealing<'a> {
    pub(crate) cluster: &'a ClusterId,
    pub(crate) namespace: &'a str,
    pub(crate) path: &'a str,
    pub(crate) author: &'a str,
    pub(crate) y: &'a [u8; 32],
    pub(crate) class: KeyringClass,
    /// The customer keys of the slot, with their suites.
    pub(crate) customers: &'a [(PartSuite, [u8; 32])],
}

/// Checks that a header says exactly what the command and the mount say, belongs to this payload, and is proved.
pub(crate) fn accept(sealing: &Sealing<'_>, header: &[u8], payload: &[u8]) -> Result<Header, Refusal> {
    let header = Header::decode(header).map_err(Refusal::unacceptable)?;
    let (object, wrap) = (header.object(), header.wrap());
    let same = [
        ("cluster", object.cluster == sealing.cluster.0),
        ("writer", object.writer_id == sealing.author),
        ("namespace", wrap.namespace == sealing.namespace),
        ("path", wrap.path == sealing.path),
        ("wrap number", wrap.wrap_no == 0),
        ("wrapped by", wrap.wrapped_by == sealing.author),
    ];
    if let Some((field, _)) = same.iter().find(|(_, same)| !same) {
        return Err(Refusal::unacceptable(format_args!("its {field} is not that of the request")));
    }
    let keyring = KeyringPublic { class: sealing.class, y: *sealing.y };
    header.check_slot(&keyring, sealing.customers).map_err(Refusal::unacceptable)?;
    header.check_payload(payload).map_err(Refusal::unacceptable)?;
    header.verify_proof().map_err(Refusal::unacceptable)?;
    Ok(header)
}

/// The arguments of [`crate::change::Change::PutSecret`].
pub(crate) struct Put<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) path: &'a str,
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) expected: Option<u64>,
}

/// Checks a path and finds the mount that it belongs to.
fn check_place(namespace: &str, path: &str) -> Result<(), Refusal> {
    check_namespace(namespace).map_err(|why| Refusal::invalid("namespace", why))?;
    check_path(path).map_err(|why| Refusal::invalid("path", why))?;
    if is_system(namespace) {
        return Err(Refusal::invalid("namespace", "is the vault's own"));
    }
    Ok(())
}

/// Whether the secret at a path, if there is one, has the id that a header names.
///
/// # Errors
/// `unacceptable_seal`: another one, or the header is none.
pub fn check_id(existing: Option<&Secret>, header: &[u8]) -> Result<(), Refusal> {
    let header = Header::decode(header).map_err(Refusal::unacceptable)?;
    is_of(existing, SecretId(header.object().secret_id))
}

fn is_of(existing: Option<&Secret>, id: SecretId) -> Result<(), Refusal> {
    match existing {
        Some(secret) if secret.id != id => Err(Refusal::unacceptable("its secret id is not that of the path")),
        _ => Ok(()),
    }
}

pub(crate) fn put(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    index: u64,
    now: Millis,
    author: &str,
    put: &Put<'_>,
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if let Err(refusal) = check_place(put.namespace, put.path) {
        return refuse(refusal);
    }
    if !put.path.contains('/') {
        return refuse(Refusal::invalid("path", "must have a mount and at least one segment below it"));
    }
    let Some(mount) = mount_of(tx, put.namespace, put.path)? else { return refuse(Refusal::not_found("mount")) };
    let Some(ring) = keyring(tx, &mount.keyring)? else { return refuse(Refusal::not_found("keyring")) };
    let existing = secret(tx, put.namespace, put.path)?;
    let newest = existing.as_ref().and_then(Secret::newest).map_or(0, |v| v.number);
    if put.expected.is_some_and(|expected| expected != newest) {
        return refuse(Refusal::CheckAndSet { current: newest });
    }
    let mut customers = Vec::with_capacity(mount.customer_keys.len());
    for id in &mount.customer_keys {
        let known = customer_key(tx, id)?.and_then(|k| CustomerPublic::decode(&k.public).ok());
        let Some(public) = known else { return refuse(Refusal::not_found("customer key")) };
        customers.push((public.suite(), id.0));
    }
    let sealing = Sealing {
        cluster,
        namespace: put.namespace,
        path: put.path,
        author,
        y: &ring.y,
        class: ring.class,
        customers: &customers,
    };
    let header = match accept(&sealing, put.header, put.payload) {
        Ok(header) => header,
        Err(refusal) => return refuse(refusal),
    };
    let id = SecretId(header.object().secret_id);
    let version = VersionId(header.object().version_id);
    let used = key(Table::UsedSecret, &[&id.0]);
    let used_version = key(Table::UsedVersion, &[&id.0, &version.0]);
    if let Err(refusal) = is_of(existing.as_ref(), id) {
        return refuse(refusal);
    }
    match &existing {
        Some(_) => {}
        None if tx.get(&used)?.is_some() => return refuse(Refusal::unacceptable("its secret id was used before")),
        None => tx.put(used, &0u32),
    }
    if tx.get(&used_version)?.is_some() {
        return refuse(Refusal::unacceptable("its version id was used before"));
    }
    tx.put(used_version, &0u32);
    let mut secret = existing.unwrap_or(Secret { id, versions: Vec::new() });
    if secret.versions.iter().filter(|v| v.state != VersionState::Destroyed).count() >= MAX_VERSIONS {
        return refuse(Refusal::invalid("path", format_args!("has {MAX_VERSIONS} versions: destroy some first")));
    }
    let number = newest.saturating_add(1);
    secret.versions.push(VersionInfo {
        number,
        id: version,
        stored_at: now,
        writer: author.to_owned(),
        index,
        state: VersionState::Live,
    });
    tx.put(version_key(Table::Version, &id, number), &SealedHeader(put.header.to_vec()));
    tx.put(version_key(Table::Payload, &id, number), &SealedPayload(put.payload.to_vec()));
    tx.put(secret_key(put.namespace, put.path), &secret);
    Ok(Outcome::Stored { number, secret: id, version })
}

/// Moves versions to another state. None named: the newest; but what is erased for ever must be named.
pub(crate) fn set_state(
    tx: &mut Tx<'_>,
    namespace: &str,
    path: &str,
    numbers: &[u64],
    to: VersionState,
) -> Result<Outcome, StoreError> {
    if let Err(refusal) = check_place(namespace, path) {
        return Ok(Outcome::Refused(refusal));
    }
    let Some(mut found) = secret(tx, namespace, path)? else {
        return Ok(Outcome::Refused(Refusal::not_found("secret")));
    };
    if numbers.is_empty() && to == VersionState::Destroyed {
        return Ok(Outcome::Refused(Refusal::invalid("numbers", "must name at least one version")));
    }
    let numbers =
        if numbers.is_empty() { found.newest().map(|v| v.number).into_iter().collect() } else { numbers.to_vec() };
    let mut changed = Vec::new();
    for number in numbers {
        let at = number.checked_sub(1).and_then(|n| usize::try_from(n).ok());
        let Some(version) = at.and_then(|at| found.versions.get_mut(at)) else {
            return Ok(Outcome::Refused(Refusal::not_found("version")));
        };
        if version.state == VersionState::Destroyed || version.state == to {
            continue;
        }
        version.state = to;
        changed.push(number);
        if to == VersionState::Destroyed {
            tx.delete(version_key(Table::Version, &found.id, number));
            tx.delete(version_key(Table::Payload, &found.id, number));
        }
    }
    tx.put(secret_key(namespace, path), &found);
    Ok(Outcome::Versions { changed })
}
