//! What a record says: the caller's part ([`Entry`]) and the whole, as read back ([`Record`]).

use crate::encoding::Hash;
use crate::text::{Detail, MAX_NAME, MAX_POLICY, MAX_PRINCIPAL, MAX_RESOURCE, escape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most policies and most details in one record; what is beyond is counted, not kept.
const MAX_LIST: usize = 32;

/// At which point of a request, or of the member's own work, a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A request arrived.
    Request,
    /// This member decided whether it contributes, before it does.
    Decision,
    /// What became of a request.
    Outcome,
    /// The member acted by itself: expiry, revocation, a ceremony, recovery.
    Internal,
}

/// The verdict of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Allowed, or done.
    Allow,
    /// Refused by a rule.
    Deny,
    /// Could not be decided or done.
    Error,
}

/// The id under which the records of one request, or of one internal act, are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordId(String);

impl RecordId {
    /// The 16-byte id of a request, as 32 hex digits.
    #[must_use]
    pub fn request(id: &[u8; 16]) -> Self {
        Self(hex::encode(id))
    }

    /// `<what>-<number>`, for acts that no request asked for.
    #[must_use]
    pub fn internal(what: &'static str, number: u64) -> Self {
        Self(format!("{}-{number}", escape(what, MAX_NAME)))
    }

    /// As it stands in the record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The caller's part of a record. The writer adds sequence number, member and chain.
///
/// # Security
/// Every text is escaped and cut (see [`crate::text`]). Names only: a value, a password or a token must not be given to any
/// method here.
#[derive(Debug, Clone)]
pub struct Entry {
    at: u64,
    kind: Kind,
    id: RecordId,
    principal: String,
    operation: &'static str,
    resource: String,
    decision: Option<(Decision, &'static str)>,
    policies: Vec<String>,
    more_policies: usize,
    index: Option<u64>,
    term: Option<u64>,
    details: BTreeMap<&'static str, Detail>,
    more_details: u64,
}

impl Entry {
    /// An entry made at `at` (milliseconds since 1970, the caller's clock) about `operation`.
    #[must_use]
    pub fn new(at: u64, kind: Kind, id: RecordId, operation: &'static str) -> Self {
        Self {
            at,
            kind,
            id,
            principal: String::new(),
            operation,
            resource: String::new(),
            decision: None,
            policies: Vec::new(),
            more_policies: 0,
            index: None,
            term: None,
            details: BTreeMap::new(),
            more_details: 0,
        }
    }

    /// Who asked.
    #[must_use]
    pub fn principal(mut self, principal: &str) -> Self {
        self.principal = escape(principal, MAX_PRINCIPAL);
        self
    }

    /// What it is about: a path, a lease id, a policy's name.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = escape(resource, MAX_RESOURCE);
        self
    }

    /// The verdict and the code of its reason.
    #[must_use]
    pub fn decision(mut self, decision: Decision, reason: &'static str) -> Self {
        self.decision = Some((decision, reason));
        self
    }

    /// The policies that determined the verdict. More than 32 are counted in a last element `\+N`.
    #[must_use]
    pub fn policies<T: AsRef<str>>(mut self, policies: impl IntoIterator<Item = T>) -> Self {
        for policy in policies {
            if self.policies.len() < MAX_LIST {
                self.policies.push(escape(policy.as_ref(), MAX_POLICY));
            } else {
                self.more_policies += 1;
            }
        }
        self
    }

    /// The Raft log index the verdict was made on, or that holds the change.
    #[must_use]
    pub fn index(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    /// The Raft term.
    #[must_use]
    pub fn term(mut self, term: u64) -> Self {
        self.term = Some(term);
        self
    }

    /// One more fact. More than 32 are counted in the detail `\+`.
    #[must_use]
    pub fn detail(mut self, key: &'static str, value: Detail) -> Self {
        if self.details.len() < MAX_LIST || self.details.contains_key(key) {
            self.details.insert(key, value);
        } else {
            self.more_details += 1;
        }
        self
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The record at a place in the chain; its own hash is still unset.
    pub(crate) fn record(&self, member: &str, seq: u64, prev: Hash) -> Record {
        let mut policies = self.policies.clone();
        if self.more_policies > 0 {
            policies.push(format!("\\+{}", self.more_policies));
        }
        let mut details: BTreeMap<String, String> =
            self.details.iter().map(|(k, v)| (escape(k, MAX_NAME), v.as_str().to_owned())).collect();
        if self.more_details > 0 {
            details.insert("\\+".to_owned(), self.more_details.to_string());
        }
        Record {
            v: crate::encoding::FORMAT,
            seq,
            at: self.at,
            member: member.to_owned(),
            kind: self.kind,
            id: self.id.0.clone(),
            principal: self.principal.clone(),
            operation: escape(self.operation, MAX_NAME),
            resource: self.resource.clone(),
            decision: self.decision.map(|(d, _)| d),
            reason: self.decision.map(|(_, r)| escape(r, MAX_NAME)),
            policies,
            index: self.index,
            term: self.term,
            details,
            prev,
            hash: Hash::default(),
        }
    }
}

/// A record as it stands in the log. The order of the fields is the order of the keys on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the format: [`crate::FORMAT`].
    pub v: u32,
    /// 1 for the first record of a member, then one more each.
    pub seq: u64,
    /// Milliseconds since 1970 by the clock of the member; not always rising.
    pub at: u64,
    /// The member that wrote it.
    pub member: String,
    /// At which point it was made.
    pub kind: Kind,
    /// See [`RecordId`].
    pub id: String,
    /// Who asked; empty for internal acts and for callers not yet known.
    pub principal: String,
    /// The operation's name.
    pub operation: String,
    /// What it is about; can be empty.
    pub resource: String,
    /// The verdict, if the record holds one.
    pub decision: Option<Decision>,
    /// The code of the reason; there exactly when `decision` is.
    pub reason: Option<String>,
    /// The policies that determined the verdict.
    pub policies: Vec<String>,
    /// Raft log index.
    pub index: Option<u64>,
    /// Raft term.
    pub term: Option<u64>,
    /// More facts.
    pub details: BTreeMap<String, String>,
    /// The hash of the line before, be it a record or the head of the segment.
    pub prev: Hash,
    /// The hash of this record; it stands behind all other keys and isn't part of what it covers.
    #[serde(skip)]
    pub hash: Hash,
}
