//! Targets, roles, and who is in office as a target's executor.

use crate::access::{SYSTEM_NAMESPACE, keyring};
use crate::change::KeyringClass;
use crate::genesis::Roster;
use crate::ids::{ClusterId, KeyringId, MemberIndex, Millis, check_label};
use crate::lease::{Selector, Why, end_all};
use crate::outcome::{Outcome, Refusal};
use crate::request::tighten;
use crate::secrets::{Sealing, accept};
use crate::store::{Store, StoreError, Table, Tx, Value, key, name, read, read_prefix};
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeSet;

/// A target system. Its administrative password is sealed: only t members together open it, for its executor.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The database that the executor connects to.
    pub database: String,
    /// The administrative login.
    pub user: String,
    /// The sealed password's header.
    pub header: Vec<u8>,
    /// The sealed password.
    pub payload: Vec<u8>,
    /// How connections are protected; nothing protects those that stay on the machine.
    pub tls: Option<TargetTls>,
    /// The log index of this description.
    pub index: u64,
}

impl Value for Target {}

/// Whom a target's certificate must be from, and for which name.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TargetTls {
    /// Certificates in DER, the only ones that count: 1 to 8 distinct ones of at most 16 KiB. That they are any is checked by
    /// every endorser.
    pub roots: Vec<Vec<u8>>,
    /// What the certificate must be for; empty for the host.
    pub server_name: String,
    /// Whether a server that does not bind the login to its certificate is refused (RFC 5929 section 4).
    pub require_binding: bool,
}

impl core::fmt::Debug for Target {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Target({}@{}:{}/{})", self.user, self.host, self.port, self.database)
    }
}

/// What a lease of a role gets.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Role {
    /// The target.
    pub target: String,
    /// Group roles.
    pub groups: Vec<String>,
    /// How long a lease lives when nobody says.
    pub default_ttl: Millis,
    /// How long with every renewal.
    pub max_ttl: Millis,
    /// Connections per leased role.
    pub connection_limit: u16,
    /// Leases at once.
    pub max_leases: u32,
    /// What verifiers must have.
    pub scram_iterations: u32,
}

impl Value for Role {}

/// Who is in office at a target: a leader in one term. Only it may say what became of leases there.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Executor {
    /// The member.
    pub member: MemberIndex,
    /// Its term.
    pub term: u64,
    /// Counts terms of office at this target.
    pub epoch: u64,
}

impl Value for Executor {}

/// The path under which a target's password is sealed.
#[must_use]
pub fn credential_path(target: &str) -> String {
    format!("target/{target}")
}

/// The target of a name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn target(store: &dyn Store, label: &str) -> Result<Option<Target>, StoreError> {
    read(store, &key(Table::Target, &[&name(label)]))
}

/// All targets, by name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn targets(store: &dyn Store) -> Result<Vec<(String, Target)>, StoreError> {
    crate::access::named(read_prefix(store, &key(Table::Target, &[]), usize::MAX)?)
}

/// The role of a name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn role(store: &dyn Store, label: &str) -> Result<Option<Role>, StoreError> {
    read(store, &key(Table::Role, &[&name(label)]))
}

/// All roles, by name.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn roles(store: &dyn Store) -> Result<Vec<(String, Role)>, StoreError> {
    crate::access::named(read_prefix(store, &key(Table::Role, &[]), usize::MAX)?)
}

fn executor_key(target: &str) -> Vec<u8> {
    key(Table::Meta, &[b"executor/", target.as_bytes()])
}

/// Who is in office at a target.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn executor(store: &dyn Store, target: &str) -> Result<Option<Executor>, StoreError> {
    read(store, &executor_key(target))
}

/// A leader takes office. Terms of the log only grow, so a leader of an earlier term never comes back into it.
pub(crate) fn take_office(
    tx: &mut Tx<'_>,
    roster: &Roster,
    label: &str,
    member: MemberIndex,
    term: u64,
) -> Result<Outcome, StoreError> {
    if target(tx, label)?.is_none() {
        return Ok(Outcome::Refused(Refusal::not_found("target")));
    }
    let before = executor(tx, label)?;
    let later = before.as_ref().is_none_or(|e| e.term < term);
    if roster.member(member).is_none() || !later {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    let epoch = before.map_or(0, |e| e.epoch).saturating_add(1);
    tx.put(executor_key(label), &Executor { member, term, epoch });
    Ok(Outcome::Done)
}

/// The arguments of [`crate::change::Change::PutTarget`].
pub(crate) struct Described<'a> {
    pub(crate) label: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) tls: Option<&'a TargetTls>,
}

/// Whether what is sent to `host` stays on the machine: a loopback address, `localhost`, or the folder of a Unix socket.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.starts_with('/') || host.parse::<core::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn check_tls(host: &str, tls: &TargetTls) -> Result<(), Refusal> {
    if host.starts_with('/') {
        return Err(Refusal::invalid("host", "must not be a socket's folder: PostgreSQL speaks no TLS there"));
    }
    let distinct: BTreeSet<&Vec<u8>> = tls.roots.iter().collect();
    let fits = (1..=8).contains(&tls.roots.len()) && distinct.len() == tls.roots.len();
    if !fits || tls.roots.iter().any(|der| der.is_empty() || der.len() > 16 * 1024) {
        return Err(Refusal::invalid("roots", "must be 1 to 8 distinct certificates of at most 16 KiB"));
    }
    if tls.server_name.len() > 253 || tls.server_name.chars().any(char::is_control) {
        return Err(Refusal::invalid("server_name", "must have at most 253 bytes and no control characters"));
    }
    Ok(())
}

pub(crate) fn put_target(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    index: u64,
    author: &str,
    d: &Described<'_>,
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if let Err(why) = check_label(d.label) {
        return refuse(Refusal::invalid("name", why));
    }
    // The executor's connections carry it beside the term, in a name that PostgreSQL cuts at 63 bytes.
    if d.label.len() > 32 {
        return refuse(Refusal::invalid("name", "must have at most 32 bytes"));
    }
    for (field, value) in [("host", d.host), ("database", d.database), ("user", d.user)] {
        if value.is_empty() || value.len() > 253 || value.chars().any(char::is_control) {
            return refuse(Refusal::invalid(field, "must have 1 to 253 bytes and no control characters"));
        }
    }
    let address = |b: u8| b.is_ascii_alphanumeric() || b".:-_".contains(&b);
    if !d.host.starts_with('/') && !d.host.bytes().all(address) {
        return refuse(Refusal::invalid("host", "must be one DNS name, one address or a socket's folder"));
    }
    if d.tls.is_none() && !is_loopback(d.host) {
        return refuse(Refusal::invalid(
            "host",
            "without TLS it must be localhost, a loopback address or a socket's folder: give the root certificates of its server",
        ));
    }
    if let Some(tls) = d.tls
        && let Err(refusal) = check_tls(d.host, tls)
    {
        return refuse(refusal);
    }
    if d.port == 0 {
        return refuse(Refusal::invalid("port", "must be 1 to 65535"));
    }
    if target(tx, d.label)?.is_some() {
        // Leases at the old server would have an executor that looks at another one.
        return refuse(Refusal::exists("target"));
    }
    // The executor must be able to open it without a customer: revocation waits for nobody.
    let ring = match quorate_crypto::sealed::Header::decode(d.header) {
        Ok(header) => keyring(tx, &KeyringId(header.wrap().keyring_id))?,
        Err(why) => return refuse(Refusal::unacceptable(why)),
    };
    let Some(ring) = ring.filter(|r| r.class == KeyringClass::Cluster) else {
        return refuse(Refusal::unacceptable("a target's password must be sealed to a keyring of class cluster"));
    };
    let path = credential_path(d.label);
    let sealing = Sealing {
        cluster,
        namespace: SYSTEM_NAMESPACE,
        path: &path,
        author,
        y: &ring.y,
        class: ring.class,
        customers: &[],
    };
    if let Err(refusal) = accept(&sealing, d.header, d.payload) {
        return refuse(refusal);
    }
    tx.put(
        key(Table::Target, &[&name(d.label)]),
        &Target {
            host: d.host.to_owned(),
            port: d.port,
            database: d.database.to_owned(),
            user: d.user.to_owned(),
            header: d.header.to_vec(),
            payload: d.payload.to_vec(),
            tls: d.tls.cloned(),
            index,
        },
    );
    Ok(Outcome::Done)
}

pub(crate) fn put_role(tx: &mut Tx<'_>, index: u64, label: &str, role: Role) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if let Err(why) = check_label(label) {
        return refuse(Refusal::invalid("name", why));
    }
    if target(tx, &role.target)?.is_none() {
        return refuse(Refusal::not_found("target"));
    }
    if role.default_ttl < 1_000 || role.default_ttl > role.max_ttl || role.max_ttl > 366 * 86_400_000 {
        return refuse(Refusal::invalid("ttl", "must be 1 s <= default <= maximum <= 366 days"));
    }
    let bad_group = |g: &String| g.is_empty() || g.len() > 63 || g.chars().any(char::is_control);
    if role.groups.len() > 16 || role.groups.iter().any(bad_group) {
        return refuse(Refusal::invalid(
            "groups",
            "must be at most 16, each of 1 to 63 bytes without control characters",
        ));
    }
    if role.connection_limit == 0 || role.max_leases == 0 {
        return refuse(Refusal::invalid("connection_limit, max_leases", "must be at least 1"));
    }
    if !(1..=100_000).contains(&role.scram_iterations) {
        return refuse(Refusal::invalid("scram_iterations", "must be 1 to 100000"));
    }
    tx.put(key(Table::Role, &[&name(label)]), &role);
    tighten(tx, index)?;
    Ok(Outcome::Done)
}

pub(crate) fn delete_role(tx: &mut Tx<'_>, index: u64, label: &str) -> Result<Outcome, StoreError> {
    if role(tx, label)?.is_none() {
        return Ok(Outcome::Refused(Refusal::not_found("role")));
    }
    tx.delete(key(Table::Role, &[&name(label)]));
    tighten(tx, index)?;
    let changed = end_all(tx, index, Why::RoleDeleted, Selector::Role(label.to_owned()))?;
    Ok(Outcome::Leases { changed })
}
