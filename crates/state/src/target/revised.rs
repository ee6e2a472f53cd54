//! A target's description is revised: its certificates are renewed, its standbys and databases come and go.

use super::{Endpoint, Standing, Target, TargetTls, check_spec, target};
use crate::lease::unrevoked;
use crate::outcome::{Outcome, Refusal};
use crate::store::{StoreError, Table, Tx, key, name};
use borsh::{BorshDeserialize, BorshSerialize};

/// What is said anew of a target; what is not said stays. Not the login: what leases there have was made by it, and on
/// PostgreSQL 16 and later nobody else can end it. Its password is another matter ([`crate::change::Change::ReplacePassword`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Revision {
    /// Host name or address; only while nothing is leased there.
    pub host: Option<String>,
    /// Port; only while nothing is leased there.
    pub port: Option<u16>,
    /// The database that the executor connects to; a webhook's path, a region, a namespace, only while nothing is leased there.
    pub database: Option<String>,
    /// Whom its certificate must be from.
    pub tls: Option<TargetTls>,
    /// All further databases.
    pub databases: Option<Vec<String>>,
    /// All hot standbys.
    pub standbys: Option<Vec<Endpoint>>,
    /// Who gets what leased logins own; empty for nobody.
    pub owner: Option<String>,
    /// Whether the executor replaces the password.
    pub rotate: Option<bool>,
    /// Whether the executor's statements wait until synchronous standbys have applied them.
    pub remote_apply: Option<bool>,
    /// Where clients are told to come; inside none for where the target is.
    pub clients: Option<Option<Endpoint>>,
}

impl Revision {
    /// Says it of a target.
    fn of(&self, found: &mut Target) {
        fn set<T: Clone>(to: &mut T, said: Option<&T>) {
            if let Some(said) = said {
                to.clone_from(said);
            }
        }
        let (said, spec) = (self.clone(), &mut found.spec);
        set(&mut spec.host, said.host.as_ref());
        set(&mut spec.port, said.port.as_ref());
        set(&mut spec.database, said.database.as_ref());
        set(&mut spec.databases, said.databases.as_ref());
        set(&mut spec.standbys, said.standbys.as_ref());
        set(&mut spec.owner, said.owner.as_ref());
        set(&mut spec.rotate, said.rotate.as_ref());
        set(&mut spec.remote_apply, said.remote_apply.as_ref());
        set(&mut spec.clients, said.clients.as_ref());
        spec.tls = said.tls.or(spec.tls.take());
    }
}

/// Describes a target anew. Nothing is issued there until that is proved, which is asked for by this: ends go on, with what is said
/// now. Where leases are, it stays the same server: at another one they would all seem to be gone.
pub(crate) fn revise(tx: &mut Tx<'_>, index: u64, label: &str, revision: &Revision) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    let Some(before) = target(tx, label)? else { return refuse(Refusal::not_found("target")) };
    if before.standing == Standing::Removing && revision.rotate.is_some() {
        return refuse(Refusal::TargetStanding { standing: before.standing.to_string() });
    }
    let mut after = before.clone();
    revision.of(&mut after);
    if let Err(refusal) = check_spec(&after.spec) {
        return refuse(refusal);
    }
    let moved = (&after.spec.host, after.spec.port) != (&before.spec.host, before.spec.port);
    if moved && unrevoked(tx, label)? > 0 {
        let why = "must stay while leases are there: revoke them, or wait for their end; at another server all would seem to be gone";
        return refuse(Refusal::invalid("host, port", why));
    }
    let says_where = after.spec.system.has_path() || after.spec.system.issues();
    let is_another = says_where && after.spec.database != before.spec.database;
    if is_another && unrevoked(tx, label)? > 0 {
        let why = "must stay while leases are there: at another path, region or namespace all would seem to be gone";
        return refuse(Refusal::invalid("database", why));
    }
    after.index = index;
    if after.standing == Standing::Enabled {
        after.standing = Standing::Unproved;
    }
    if after.standing != Standing::Removing {
        after.asked = index;
    }
    if !after.spec.rotate {
        // It may be there already: then it is what the target has from before.
        if let Some(next) = after.next.take() {
            after.keep(next);
        }
    }
    tx.put(key(Table::Target, &[&name(label)]), &after);
    Ok(Outcome::Done)
}
