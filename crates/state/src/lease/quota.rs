//! How many leases there may be at once: by role, which says it itself, and by target, namespace and identity.

use super::index::{Kind, count, with_parents};
use crate::access::has_namespace;
use crate::ids::check_namespace;
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, after_prefix, decode, key, name, read};
use crate::target::{Role, target};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// Whose leases are bounded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Subject {
    /// All at a target.
    Target(String),
    /// Those of the roles of a namespace, and of the namespaces below it.
    Namespace(String),
    /// Those of one identity.
    Identity(String),
    /// Those of each identity that has no bound of its own.
    EachIdentity,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(name) => write!(f, "target {name}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Identity(id) => write!(f, "identity {id}"),
            Self::EachIdentity => f.write_str("each identity"),
        }
    }
}

fn quota_key(subject: &Subject) -> Vec<u8> {
    let (kind, of) = match subject {
        Subject::Target(name) => (0, name.as_str()),
        Subject::Namespace(name) => (1, name.as_str()),
        Subject::Identity(id) => (2, id.as_str()),
        Subject::EachIdentity => (3, ""),
    };
    key(Table::Quota, &[&[kind], &name(of)])
}

fn quota(store: &dyn Store, subject: &Subject) -> Result<Option<u32>, StoreError> {
    read(store, &quota_key(subject))
}

/// Every bound, by whose it is.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn quotas(store: &dyn Store) -> Result<Vec<(Subject, u32)>, StoreError> {
    let corrupt = StoreError::Corrupt { table: Table::Quota as u8 };
    let prefix = key(Table::Quota, &[]);
    let mut out = Vec::new();
    for (row, value) in store.scan(&prefix, &after_prefix(&prefix), usize::MAX)? {
        let of = row.get(2..row.len().saturating_sub(1)).and_then(|of| String::from_utf8(of.to_vec()).ok());
        let subject = match (row.get(1), of) {
            (Some(0), Some(name)) => Subject::Target(name),
            (Some(1), Some(name)) => Subject::Namespace(name),
            (Some(2), Some(id)) => Subject::Identity(id),
            (Some(3), Some(_)) => Subject::EachIdentity,
            _ => return Err(corrupt),
        };
        out.push((subject, decode(Table::Quota as u8, &value)?));
    }
    Ok(out)
}

/// Sets a bound, or takes it away. Leases that there are already stay.
pub(crate) fn set(tx: &mut Tx<'_>, subject: &Subject, limit: Option<u32>) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    match subject {
        Subject::Target(name) if limit.is_some() && target(tx, name)?.is_none() => {
            return refuse(Refusal::not_found("target"));
        }
        Subject::Namespace(name) if limit.is_some() => {
            if let Err(why) = check_namespace(name) {
                return refuse(Refusal::invalid("namespace", why));
            }
            if !has_namespace(tx, name)? {
                return refuse(Refusal::not_found("namespace"));
            }
        }
        Subject::Identity(id) if !id.starts_with("spiffe://") || id.len() > 256 || id.chars().any(char::is_control) => {
            return refuse(Refusal::invalid("identity", "must be a SPIFFE id of at most 256 bytes"));
        }
        _ => {}
    }
    match limit {
        Some(limit) => tx.put(quota_key(subject), &limit),
        None => tx.delete(quota_key(subject)),
    }
    Ok(Outcome::Done)
}

/// A target is no more.
pub(crate) fn forget(tx: &mut Tx<'_>, target: &str) {
    tx.delete(quota_key(&Subject::Target(target.to_owned())));
}

/// Whether one lease more of a role may be issued to `owner`.
pub(super) fn check(
    store: &dyn Store,
    label: &str,
    role: &Role,
    owner: &str,
) -> Result<Result<(), Refusal>, StoreError> {
    let own = Subject::Identity(owner.to_owned());
    let identity = match quota(store, &own)? {
        Some(limit) => Some(limit),
        None => quota(store, &Subject::EachIdentity)?,
    };
    let target = Subject::Target(role.target.clone());
    let mut bounds = vec![
        (format!("role {label}"), Kind::Role, label, Some(role.max_leases)),
        (target.to_string(), Kind::Target, role.target.as_str(), quota(store, &target)?),
        (own.to_string(), Kind::Owner, owner, identity),
    ];
    for namespace in with_parents(&role.namespace) {
        let subject = Subject::Namespace(namespace.to_owned());
        bounds.push((subject.to_string(), Kind::Namespace, namespace, quota(store, &subject)?));
    }
    for (what, kind, of, limit) in bounds {
        let Some(limit) = limit else { continue };
        if count(store, kind, of)? >= limit {
            return Ok(Err(Refusal::Quota { what, limit }));
        }
    }
    Ok(Ok(()))
}
