//! Targets, roles, and who is in office as a target's executor.

mod credential;
mod office;
mod proof;
mod revised;
mod system;

pub use credential::{Credential, MAX_FORMER, Rotated, credential_path, executor_author};
pub(crate) use credential::{password_rotated, replace_password, rotate_password};
pub use office::{Executor, Quarantine, claim, claim_prefix, executor, judge, quarantine, quarantines};
pub use office::{Judged, MAX_COUNT, MAX_PAST, MAX_SAMPLE};
pub(crate) use office::{count_on, quarantine_at, take_office, take_over};
pub use proof::{Finding, MAX_FINDING, MAX_FINDINGS, Proof};
pub(crate) use proof::{ask, proved};
pub use revised::Revision;
pub(crate) use revised::revise;
use system::check_name;
pub use system::{System, UnknownSystem};

use crate::access::has_namespace;
use crate::ids::{ClusterId, Millis, check_label};
use crate::lease::{Form, Selector, Username, Why, end_all, forget_due, forget_quota, forget_remains, unrevoked};
use crate::outcome::{Outcome, Refusal};
use crate::request::tighten;
use crate::store::{Store, StoreError, Table, Tx, Value, key, name, read, read_prefix};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use std::collections::BTreeSet;

/// How many further databases, and how many standbys, a target may have.
pub const MAX_PLACES: usize = 16;

/// How many iterations verifiers of a role may have.
pub const MAX_ITERATIONS: u32 = 100_000;

/// How many bytes the statements of a role may have.
pub const MAX_STATEMENTS: usize = 4_096;

/// Where a target is, and how it is spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TargetSpec {
    /// What kind of system it is.
    pub system: System,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// PostgreSQL: the database that the executor connects to. MariaDB, RabbitMQ: the schema or virtual host that clients are told, or
    /// nothing. Webhooks: the path of the receiver's URL before its version, or nothing.
    pub database: String,
    /// The administrative login; of webhooks there is none.
    pub user: String,
    /// How connections are protected; nothing protects those that stay on the machine, but of webhooks.
    pub tls: Option<TargetTls>,
    /// Further databases of the server in which leased logins may own something: it is cleaned up there too.
    pub databases: Vec<String>,
    /// Hot standbys, where sessions of leased logins live too: no lease is called revoked before they were looked at.
    pub standbys: Vec<Endpoint>,
    /// Who gets what leased logins own: a role without any right; empty when it is dropped with them.
    pub owner: String,
    /// Whether the executor replaces the password by one that nobody knows, once in each of its terms of office.
    pub rotate: bool,
    /// Whether each statement of the executor waits until the server's synchronous standbys have applied it, and not only written it.
    pub remote_apply: bool,
    /// Where clients are told to come, where that is elsewhere: a pooler, a name of another network.
    pub clients: Option<Endpoint>,
}

impl TargetSpec {
    /// Where clients are told to come.
    #[must_use]
    pub fn for_clients(&self) -> Endpoint {
        let port = self.system.client_port(self.port, self.tls.is_some());
        self.clients.clone().unwrap_or_else(|| Endpoint { host: self.host.clone(), port })
    }
}

/// A server of a target besides its primary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Whether leases are issued at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Standing {
    /// Not yet: nobody has seen that a credential can be issued, used and revoked there.
    Unproved,
    /// Yes.
    Enabled,
    /// No more. It goes when its last lease is proved to be revoked.
    Removing,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unproved => "not proved yet",
            Self::Enabled => "enabled",
            Self::Removing => "being removed",
        })
    }
}

/// A target system.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Target {
    /// Where it is.
    pub spec: TargetSpec,
    /// Its administrative password.
    pub current: Credential,
    /// What the password is being replaced by: the target may have it already.
    pub next: Option<Credential>,
    /// What the password was before, the newest first: at most [`MAX_FORMER`]. The target may have forgotten a change.
    pub former: Vec<Credential>,
    /// When the password was last replaced by the executor.
    pub rotated: Option<Rotated>,
    /// The log index of this description.
    pub index: u64,
    /// Whether leases are issued there.
    pub standing: Standing,
    /// The log index at which it was last asked for a proof, by somebody or by the description of a role.
    pub asked: u64,
    /// What was last found out about it.
    pub proof: Option<Proof>,
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

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TargetSpec { system, host, port, database, user, .. } = &self.spec;
        write!(f, "Target({system}, {user}@{host}:{port}/{database})")
    }
}

/// What a lease of a role gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Role {
    /// The target.
    pub target: String,
    /// The namespace whose quota its leases count against, and with which they are ended; empty for none.
    pub namespace: String,
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
    /// What verifiers must be.
    pub form: Form,
    /// Further statements of the CREATE, with places to fill in; every endorser has read them.
    pub statements: String,
    /// What a login's name ends with, for people ([`crate::lease::Username`]); empty for nothing.
    pub username: String,
}

impl Value for Role {}

impl Role {
    /// Whether its template of usernames is one, or is not there. Endorsers ask too, before they sign.
    ///
    /// # Errors
    /// The refusal, with what is wrong.
    pub fn check_username(&self) -> Result<(), Refusal> {
        match Username::parse(&self.username) {
            Err(why) if !self.username.is_empty() => Err(Refusal::invalid("username", why)),
            Ok(_) | Err(_) => Ok(()),
        }
    }
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

/// The arguments of [`crate::change::Change::PutTarget`].
pub(crate) struct Described<'a> {
    pub(crate) label: &'a str,
    pub(crate) spec: &'a TargetSpec,
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// Whether what is sent to `host` stays on the machine: a loopback address, `localhost`, or the folder of a Unix socket.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.starts_with('/') || host.parse::<core::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn check_tls(host: &str, tls: &TargetTls) -> Result<(), Refusal> {
    if host.starts_with('/') {
        return Err(Refusal::invalid("host", "must not be a socket's folder: no TLS is spoken there"));
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

fn check_spec(spec: &TargetSpec) -> Result<(), Refusal> {
    check_place("host", &spec.host, spec.port)?;
    spec.system.check_spec(spec)?;
    if spec.tls.is_none() && !(is_loopback(&spec.host) && spec.standbys.iter().all(|s| is_loopback(&s.host))) {
        return Err(Refusal::invalid(
            "host",
            "without TLS it must be localhost, a loopback address or a socket's folder: give the root certificates of its server",
        ));
    }
    if let Some(tls) = &spec.tls {
        check_tls(&spec.host, tls)?;
        for standby in &spec.standbys {
            check_tls(&standby.host, tls)?;
        }
    }
    let databases: BTreeSet<&String> = spec.databases.iter().chain([&spec.database]).collect();
    if spec.databases.len() > MAX_PLACES || databases.len() != spec.databases.len() + 1 {
        return Err(Refusal::invalid("databases", "must be at most 16, all of them others than the first"));
    }
    spec.databases.iter().try_for_each(|database| check_name("databases", database))?;
    let primary = Endpoint { host: spec.host.clone(), port: spec.port };
    let endpoints: BTreeSet<&Endpoint> = spec.standbys.iter().chain([&primary]).collect();
    if spec.standbys.len() > MAX_PLACES || endpoints.len() != spec.standbys.len() + 1 {
        return Err(Refusal::invalid("standbys", "must be at most 16, all of them others than the primary"));
    }
    spec.standbys.iter().try_for_each(|s| check_place("standbys", &s.host, s.port))?;
    spec.clients.iter().try_for_each(|at| check_place("clients", &at.host, at.port))?;
    if !spec.owner.is_empty() && (spec.owner.len() > 63 || spec.owner == spec.user) {
        return Err(Refusal::invalid(
            "owner",
            "must have at most 63 bytes, and be another than the administrative login",
        ));
    }
    if spec.owner.is_empty() { Ok(()) } else { check_name("owner", &spec.owner) }
}

fn check_place(field: &str, host: &str, port: u16) -> Result<(), Refusal> {
    if host.is_empty() || host.len() > 253 || host.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, "must have 1 to 253 bytes and no control characters"));
    }
    let address = |b: u8| b.is_ascii_alphanumeric() || b".:-_".contains(&b);
    if !host.starts_with('/') && !host.bytes().all(address) {
        return Err(Refusal::invalid(field, "must be one DNS name, one address or a socket's folder"));
    }
    if port == 0 {
        return Err(Refusal::invalid(if field == "host" { "port" } else { field }, "the port must be 1 to 65535"));
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
    if let Err(refusal) = check_spec(d.spec) {
        return refuse(refusal);
    }
    if target(tx, d.label)?.is_some() {
        // Leases at the old server would have an executor that looks at another one.
        return refuse(Refusal::exists("target"));
    }
    let current = match credential::sealed(tx, (cluster, d.label), author, d.header, d.payload)? {
        Ok(()) => Credential { header: d.header.to_vec(), payload: d.payload.to_vec(), index, term: 0 },
        Err(refusal) => return refuse(refusal),
    };
    tx.put(
        key(Table::Target, &[&name(d.label)]),
        &Target {
            spec: d.spec.clone(),
            current,
            next: None,
            former: Vec::new(),
            rotated: None,
            index,
            standing: Standing::Unproved,
            asked: 0,
            proof: None,
        },
    );
    Ok(Outcome::Done)
}

/// Describes a role. An enabled target is asked for a proof by this.
pub(crate) fn put_role(tx: &mut Tx<'_>, index: u64, label: &str, role: &Role) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if let Err(why) = check_label(label) {
        return refuse(Refusal::invalid("name", why));
    }
    let Some(mut at) = target(tx, &role.target)? else { return refuse(Refusal::not_found("target")) };
    match at.standing {
        Standing::Removing => return refuse(Refusal::TargetStanding { standing: at.standing.to_string() }),
        Standing::Unproved | Standing::Enabled => {}
    }
    let system = at.spec.system;
    if !role.namespace.is_empty() && !has_namespace(tx, &role.namespace)? {
        return refuse(Refusal::not_found("namespace"));
    }
    if role.statements.len() > MAX_STATEMENTS {
        return refuse(Refusal::invalid("statements", "must have at most 4096 bytes"));
    }
    if let Err(refusal) = role.check_username() {
        return refuse(refusal);
    }
    if role.default_ttl < 1_000 || role.default_ttl > role.max_ttl || role.max_ttl > 366 * 86_400_000 {
        return refuse(Refusal::invalid("ttl", "must be 1 s <= default <= maximum <= 366 days"));
    }
    if role.connection_limit == 0 || role.max_leases == 0 {
        return refuse(Refusal::invalid("connection_limit, max_leases", "must be at least 1"));
    }
    if !role.form.is_bounded() {
        return refuse(Refusal::invalid("scram_iterations", "must be 1 to 100000"));
    }
    if let Err(refusal) = system.check_role(role) {
        return refuse(refusal);
    }
    tx.put(key(Table::Role, &[&name(label)]), role);
    // Nobody has looked at its groups and statements yet, and leases are issued there. Elsewhere the first proof looks at them.
    if at.standing == Standing::Enabled {
        at.asked = index;
        tx.put(key(Table::Target, &[&name(&role.target)]), &at);
    }
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

/// Ends every lease at a target, and the target with the last of them. Nothing is issued there any more.
pub(crate) fn delete_target(tx: &mut Tx<'_>, index: u64, label: &str) -> Result<Outcome, StoreError> {
    let Some(mut found) = target(tx, label)?.filter(|t| t.standing != Standing::Removing) else {
        return Ok(Outcome::Refused(Refusal::not_found("target")));
    };
    found.standing = Standing::Removing;
    tx.put(key(Table::Target, &[&name(label)]), &found);
    for (role, _) in roles(tx)?.into_iter().filter(|(_, role)| role.target == label) {
        tx.delete(key(Table::Role, &[&name(&role)]));
    }
    tighten(tx, index)?;
    let changed = end_all(tx, index, Why::TargetDeleted, Selector::Target(label.to_owned()))?;
    remove_when_over(tx, label)?;
    Ok(Outcome::Leases { changed })
}

/// Forgets a target that is to go, once nothing is left at it. Who was in office there is not forgotten: a target of that name which is
/// described later goes on counting.
pub(crate) fn remove_when_over(tx: &mut Tx<'_>, label: &str) -> Result<(), StoreError> {
    let removing = target(tx, label)?.is_some_and(|t| t.standing == Standing::Removing);
    if removing && unrevoked(tx, label)? == 0 {
        tx.delete(key(Table::Target, &[&name(label)]));
        forget_quota(tx, label);
        forget_due(tx, label);
        forget_remains(tx, label);
        office::forget(tx, label);
    }
    Ok(())
}
