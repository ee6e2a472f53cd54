//! What holds in every state: each index against what it indexes, each row against those it names.
//!
//! For tests, simulation and an operator's check of a backup: it reads everything.

use crate::access::{Keyring, Mount, customer_key, keyring, mount_of};
use crate::clock::ClusterClock;
use crate::genesis::{administrators, client_roots, genesis, roster};
use crate::hash::StateHash;
use crate::ids::{ClusterId, CustomerKeyId, KeyringId, LeaseId, SecretId};
use crate::lease::{self, Lease, Queue, State, lease_of, leases};
use crate::request::{Remembered, forgotten};
use crate::secrets::{SealedHeader, SealedPayload, Secret, VersionState};
use crate::store::{Pair, Store, StoreError, Table, after_prefix, decode, key, name, read};
use crate::target::{Credential, Standing, credential_path};
use crate::{absence, access, ceremony, target};
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::keyring::{KeyringClass, keyring_id};
use quorate_crypto::sealed::Header;
use std::collections::{BTreeMap, BTreeSet};

/// A state that no history leads to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The store cannot answer, or holds a value that is none.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row contradicts the others.
    #[error("table {table:#04x}: {what}")]
    Row {
        /// The table.
        table: u8,
        /// The row's key.
        key: Vec<u8>,
        /// The rule that it breaks.
        what: &'static str,
    },
    /// The rows are not those that the state's own hash is of.
    #[error("the rows of the state do not have its hash")]
    Hash,
}

/// Checks every rule that holds between rows, whatever was applied.
///
/// # Errors
/// The first [`Violation`].
pub fn check(store: &dyn Store) -> Result<(), Violation> {
    let cluster = genesis(store)?.cluster();
    ClusterClock::load(store)?;
    roster(store)?;
    administrators(store)?;
    client_roots(store)?;
    requests(store)?;
    secrets(store, &cluster)?;
    places(store)?;
    gone(store)?;
    keys(store)?;
    remains(store)?;
    lease_rows(store, &cluster)?;
    // Last, because it says least about what is wrong.
    if StateHash::load(store)? == StateHash::recompute(store)? { Ok(()) } else { Err(Violation::Hash) }
}

/// `rule` or the violation of it.
fn holds(rule: bool, table: Table, key: &[u8], what: &'static str) -> Result<(), Violation> {
    if rule { Ok(()) } else { Err(Violation::Row { table: table as u8, key: key.to_vec(), what }) }
}

fn rows(store: &dyn Store, table: Table) -> Result<Vec<Pair>, StoreError> {
    let prefix = key(table, &[]);
    store.scan(&prefix, &after_prefix(&prefix), usize::MAX)
}

/// The keys of a table without its number.
fn names(store: &dyn Store, table: Table) -> Result<BTreeSet<Vec<u8>>, StoreError> {
    Ok(rows(store, table)?.into_iter().map(|(key, _)| key.get(1..).unwrap_or_default().to_vec()).collect())
}

/// Every request is forgotten at some time, and nothing else is.
fn requests(store: &dyn Store) -> Result<(), Violation> {
    let mut known = BTreeSet::new();
    for (key, value) in rows(store, Table::Request)? {
        decode::<Remembered>(Table::Request as u8, &value)?;
        known.insert(key.get(1..).unwrap_or_default().to_vec());
    }
    for (end, _) in rows(store, Table::RequestEnd)? {
        let request = end.get(9..).unwrap_or_default();
        holds(known.remove(request), Table::RequestEnd, &end, "its request is not remembered, or ends twice")?;
        let found = end.get(1..9) >= Some(&forgotten(store)?.to_be_bytes());
        holds(found, Table::RequestEnd, &end, "it stands where nobody looks for it any more")?;
    }
    match known.first() {
        Some(key) => holds(false, Table::Request, key, "no end is noted"),
        None => Ok(()),
    }
}

/// A version that is not destroyed has a header that names its place, and a payload; every id is noted as used.
fn secrets(store: &dyn Store, cluster: &ClusterId) -> Result<(), Violation> {
    let (mut headers, mut payloads) = (names(store, Table::Version)?, names(store, Table::Payload)?);
    let (mut used, mut used_versions) = (names(store, Table::UsedSecret)?, names(store, Table::UsedVersion)?);
    for (at, value) in rows(store, Table::Secret)? {
        let secret: Secret = decode(Table::Secret as u8, &value)?;
        let broken = |rule, what| holds(rule, Table::Secret, &at, what);
        broken(used.remove(secret.id.0.as_slice()), "its id stands at two paths, or is not noted as used")?;
        broken(!secret.versions.is_empty(), "it has no version")?;
        for (number, version) in (1u64..).zip(&secret.versions) {
            let row = [&secret.id.0[..], &number.to_be_bytes()].concat();
            broken(version.number == number, "its versions are not numbered from 1")?;
            let id = [secret.id.0, version.id.0].concat();
            broken(used_versions.remove(&id), "a version id stands twice, or is not noted as used")?;
            let there = version.state != VersionState::Destroyed;
            broken(headers.remove(&row) == there, "a version lacks its header, or was destroyed and has one")?;
            broken(payloads.remove(&row) == there, "a version lacks its payload, or was destroyed and has one")?;
            if there {
                let fits = sealed_for(store, cluster, &secret.id, number, &at)?;
                broken(fits, "a sealed version is not that of its place")?;
            }
        }
    }
    for (table, left) in [
        (Table::Version, headers),
        (Table::Payload, payloads),
        (Table::UsedSecret, used),
        (Table::UsedVersion, used_versions),
    ] {
        if let Some(key) = left.first() {
            holds(false, table, key, "no secret has it")?;
        }
    }
    Ok(())
}

/// Whether header and payload of a version belong together, to its cluster and to the key `at` of its secret.
fn sealed_for(
    store: &dyn Store,
    cluster: &ClusterId,
    id: &SecretId,
    number: u64,
    at: &[u8],
) -> Result<bool, StoreError> {
    let row = |table| key(table, &[&id.0, &number.to_be_bytes()]);
    let header = read::<SealedHeader>(store, &row(Table::Version))?.and_then(|h| Header::decode(&h.0).ok());
    let payload = read::<SealedPayload>(store, &row(Table::Payload))?;
    let (Some(header), Some(payload)) = (header, payload) else { return Ok(false) };
    let (object, wrap) = (header.object(), header.wrap());
    let Some(mount) = mount_of(store, &wrap.namespace, &wrap.path)? else { return Ok(false) };
    let place = key(Table::Secret, &[&name(&wrap.namespace), &name(&wrap.path)]);
    let slot = header.slot().parts.iter().map(|p| CustomerKeyId(p.cust_key_id));
    Ok(object.cluster == cluster.0
        && object.secret_id == id.0
        && place == at
        && wrap.keyring_id == mount.keyring.0
        && slot.eq(mount.customer_keys)
        && header.check_payload(&payload.0).is_ok())
}

/// Mounts stand in namespaces and on keyrings; roles name targets and namespaces; targets are enabled by proof only.
fn places(store: &dyn Store) -> Result<(), Violation> {
    let namespaces: BTreeSet<String> = access::namespaces(store)?.into_iter().map(|(name, _)| name).collect();
    for (at, value) in rows(store, Table::Mount)? {
        let mount: Mount = decode(Table::Mount as u8, &value)?;
        let broken = |rule, what| holds(rule, Table::Mount, &at, what);
        let inside = at.get(1..).and_then(|k| k.split(|b| *b == 0).next()).and_then(|k| core::str::from_utf8(k).ok());
        broken(inside.is_some_and(|n| namespaces.contains(n)), "its namespace is missing")?;
        let class = keyring(store, &mount.keyring)?.map(|ring| ring.class);
        broken(class == Some(mount.class), "its keyring is missing or of another class")?;
        broken(mount.customer_keys.is_sorted_by(|a, b| a < b), "its customer keys are not sorted")?;
        let customers = (mount.class == KeyringClass::Customer) != mount.customer_keys.is_empty();
        broken(customers, "its customer keys do not fit its class")?;
        for id in &mount.customer_keys {
            broken(customer_key(store, id)?.is_some(), "a customer key is missing")?;
        }
    }
    for (label, role) in target::roles(store)? {
        let there = target::target(store, &role.target)?.is_some_and(|t| t.standing != Standing::Removing);
        holds(there, Table::Role, label.as_bytes(), "its target is missing, or being removed")?;
        let inside = role.namespace.is_empty() || namespaces.contains(&role.namespace);
        holds(inside, Table::Role, label.as_bytes(), "its namespace is missing")?;
    }
    for (label, found) in target::targets(store)? {
        let holds = |rule, what| holds(rule, Table::Target, label.as_bytes(), what);
        let over = found.standing == Standing::Removing && lease::unrevoked(store, &label)? == 0;
        holds(!over, "it is to be removed, and nothing is left at it")?;
        let proved = found.proof.as_ref().is_some_and(|p| p.asked <= found.asked);
        holds(found.standing != Standing::Enabled || proved, "it is enabled and was never proved")?;
        let later = |next: &Credential| found.spec.rotate && next.term > 0 && next.index > found.current.index;
        holds(found.next.as_ref().is_none_or(later), "a password is under way that no executor made")?;
        let indexes: BTreeSet<u64> = found.credentials().map(|c| c.index).collect();
        let kept = found.former.len() <= target::MAX_FORMER && indexes.len() == found.credentials().count();
        holds(kept, "it keeps too many passwords, or one twice")?;
        let its_own = |c: &Credential| {
            Header::decode(&c.header)
                .is_ok_and(|h| h.wrap().path == credential_path(&label) && h.check_payload(&c.payload).is_ok())
        };
        holds(found.credentials().all(its_own), "a password is not sealed for it")?;
    }
    for label in target::quarantines(store)?.keys() {
        let there = target::target(store, label)?.is_some();
        holds(there, Table::Quarantine, label.as_bytes(), "its target is missing")?;
    }
    lease::quotas(store)?;
    Ok(())
}

/// Only members are recorded as gone, and never so many that nothing could be decided any more.
fn gone(store: &dyn Store) -> Result<(), Violation> {
    let (roster, records) = (roster(store)?, absence::records(store)?);
    let known = records.keys().all(|member| roster.member(*member).is_some());
    holds(known, Table::Meta, b"absent", "it names somebody who is no member")?;
    let left = roster.members.len().saturating_sub(records.len());
    holds(left >= usize::from(roster.threshold), Table::Meta, b"absent", "fewer members are left than it takes")
}

/// Nothing is left at a target that is none.
fn remains(store: &dyn Store) -> Result<(), Violation> {
    let prefix = key(Table::Meta, &[b"remains/"]);
    for (at, _) in store.scan(&prefix, &after_prefix(&prefix), usize::MAX)? {
        let label = at.get(prefix.len()..).and_then(|label| core::str::from_utf8(label).ok());
        let there = label.map(|label| target::target(store, label)).transpose()?.flatten().is_some();
        holds(there, Table::Meta, &at, "leases left something at a target that is not there")?;
    }
    Ok(())
}

/// Keys have the ids that they hash to, and keyrings the certificates that made them.
fn keys(store: &dyn Store) -> Result<(), Violation> {
    let sessions: BTreeMap<_, _> = ceremony::sessions(store)?.into_iter().collect();
    for (id, ring) in access::keyrings(store)? {
        let Keyring { y, epoch, threshold, roster, session, .. } = &ring;
        let made = sessions.get(session).filter(|s| s.keyring == Some(id)).and_then(|s| s.ceremony.certificate());
        let fits = made.is_some_and(|c| (&c.key, &c.epoch, &c.threshold, &c.roster) == (y, epoch, threshold, roster));
        let signed = made.zip(sessions.get(session));
        let signed = signed.is_some_and(|(c, s)| c.verify(&s.ceremony.params().members).is_ok());
        holds(
            fits && signed && id == KeyringId(keyring_id(y)),
            Table::Keyring,
            &id.0,
            "its certificate is not its own",
        )?;
    }
    for (id, session) in &sessions {
        let named = session.ceremony.certificate().is_some() == session.keyring.is_some();
        holds(named, Table::Ceremony, &id.0, "it is complete without a keyring, or the other way round")?;
    }
    for (at, value) in rows(store, Table::CeremonyFault)? {
        decode::<ceremony::Fault>(Table::CeremonyFault as u8, &value)?;
        let of = at.get(1..33).and_then(|id| sessions.iter().find(|(known, _)| known.0 == id));
        let member = of.zip(at.get(33)).is_some_and(|((_, s), m)| s.ceremony.params().members.contains_key(m));
        holds(member && at.len() == 34, Table::CeremonyFault, &at, "of no ceremony, or of no member of it")?;
    }
    for (at, value) in rows(store, Table::CustomerKey)? {
        let found: access::CustomerKey = decode(Table::CustomerKey as u8, &value)?;
        let id = CustomerPublic::decode(&found.public).map(|public| public.id());
        holds(id.ok().as_ref().map(<[u8; 32]>::as_slice) == at.get(1..), Table::CustomerKey, &at, "its id is another")?;
    }
    Ok(())
}

/// The indexes over leases say exactly what the leases say, and each lease knows its own past.
fn lease_rows(store: &dyn Store, cluster: &ClusterId) -> Result<(), Violation> {
    let (mut indexed, gone) = (BTreeSet::new(), lease::gone_from(store)?);
    let mut counts: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut tallies: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for (id, lease) in leases(store, None, usize::MAX)? {
        if let Some(what) = misremembers(&id, &lease, cluster) {
            holds(false, Table::Lease, &id.0, what)?;
        }
        indexed.extend(lease::rows(&id, &lease));
        indexed.extend(lease::gone_row(&id, &lease));
        let due = matches!(lease.state, State::Intent | State::Active);
        let found = !due || lease.expires_at >= lease::due_from(store, &lease.target)?;
        let found = found && lease.revoked_index.is_none_or(|index| index >= gone);
        holds(found, Table::Lease, &id.0, "it stands where nobody looks for it any more")?;
        if let Some(queue) = Queue::of(&lease) {
            let there = target::target(store, &lease.target)?.is_some();
            holds(there, Table::Lease, &id.0, "its target is missing, and it is not revoked")?;
            for (kind, of) in lease::counted(&lease) {
                *counts.entry([&[kind as u8][..], &name(of)].concat()).or_default() += 1;
            }
            *tallies.entry([&name(&lease.target)[..], &[queue as u8]].concat()).or_default() += 1;
        }
    }
    for (table, what) in [
        (Table::LeaseDue, "not exactly the leases that can end"),
        (Table::LeaseWork, "not exactly the leases not revoked"),
        (Table::LeaseOf, "not exactly the leases that can be ended, by role, owner and namespace"),
        (Table::LeaseGone, "not exactly the leases that are revoked"),
        (Table::LeaseOrigin, "not exactly the requests of the leases"),
    ] {
        let there: BTreeSet<Vec<u8>> = rows(store, table)?.into_iter().map(|(key, _)| key).collect();
        let right = indexed.iter().filter(|key| key.first() == Some(&(table as u8)));
        holds(there.iter().eq(right), table, &[], what)?;
    }
    holds(
        numbers(store, Table::LeaseCount)? == counts,
        Table::LeaseCount,
        &[],
        "not the number of leases not revoked",
    )?;
    let right = numbers(store, Table::LeaseTally)? == tallies;
    holds(right, Table::LeaseTally, &[], "not the number of leases in that queue")
}

/// The numbers of a table by their keys.
fn numbers(store: &dyn Store, table: Table) -> Result<BTreeMap<Vec<u8>, u32>, StoreError> {
    let number =
        |(at, value): Pair| Ok((at.get(1..).unwrap_or_default().to_vec(), decode::<u32>(table as u8, &value)?));
    rows(store, table)?.into_iter().map(number).collect()
}

fn misremembers(id: &LeaseId, lease: &Lease, cluster: &ClusterId) -> Option<&'static str> {
    let ended = lease.why.is_some() && lease.ended_at.is_some() && lease.revoking_index.is_some();
    let past = match lease.state {
        State::Intent => !lease.was_active && lease.binding.is_some() && lease.oid.is_none(),
        State::Active => lease.was_active && lease.active_index.is_some() && lease.oid.is_some(),
        State::Revoking => ended,
        State::Revoked => ended && lease.revoked_index.is_some(),
    };
    // What was never active is not gone because it is not there: its CREATE may be on its way.
    let proof = lease.proof.as_ref().is_some_and(|p| p.lease == *id && (p.fenced || lease.was_active));
    let rules = [
        (lease_of(cluster, &lease.target, &lease.principal) == Some(*id), "its login is that of another lease"),
        (lease.expires_at <= lease.max_expires_at, "it ends after its maximum"),
        (past, "its state and its past contradict each other"),
        (proof == (lease.state == State::Revoked), "it is revoked without a proof, or the other way round"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, what)| what)
}
