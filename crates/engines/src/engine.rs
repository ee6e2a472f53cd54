//! The trait every target stands behind, and its vocabulary.

use core::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::{SecretFields, SecretVec};
use subtle::ConstantTimeEq as _;

use crate::names::{MAX_NAME, check_name};
use crate::postgres::template::{MAX_STATEMENTS, Statement};
use crate::{Checked, Fault, Passwords};

/// The longest group in bytes where it is not a name but a list of rules.
pub const MAX_RULES: usize = 512;
/// The most PBKDF2 iterations a verifier may ask of a target: 20 million kept a PostgreSQL 15 backend deaf to
/// `statement_timeout` and to termination for 14 seconds.
pub const MAX_ITERATIONS: u32 = 100_000;

/// One target system, driven by the node that is its executor.
///
/// Every call but [`create`](Engine::create) may be repeated at any time, by any node, with the same result. A future
/// that is dropped half-way leaves the outcome unknown, as [`EngineError::Unknown`] does.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What kind of system this is, which decides how an intent ends.
    fn class(&self) -> Class;

    /// Every endpoint that [`kill`](Engine::kill) and [`look`](Engine::look) cover, the one at which accounts are made
    /// first: what a proof of an end may name.
    fn endpoints(&self) -> Vec<String>;

    /// Called once at the beginning of an executor's term, before anything else: opens what ending principals will need,
    /// and ends the sessions that executors of earlier terms left; how many were told to end.
    async fn take_over(&self) -> Result<usize, EngineError> {
        Ok(0)
    }

    /// The connection that the next [`create`](Engine::create) will use; opened when there is none.
    ///
    /// The caller commits the binding to the log before it sends the create.
    async fn bind(&self) -> Result<Binding, EngineError>;

    /// Logs in as the configured user and out again, as an application would, whatever that user may do there.
    async fn visit(&self) -> Result<(), EngineError> {
        self.bind().await.map(drop)
    }

    /// Does what an application does with a leased principal and its secret, once, from this executor's place: `secret` is its password,
    /// or what [`Created::issued`] was, encoded. For systems at which a login has no connection of its own to come by; all others are
    /// tried by an engine that is given the login, and [`visit`](Engine::visit).
    async fn try_out(&self, name: &str, secret: &SecretVec) -> Result<(), EngineError> {
        let _ = (name, secret);
        Err(EngineError::Invalid {
            field: "name",
            reason: "logins of this system are tried by a connection of their own",
        })
    }

    /// Makes the principal with one autocommitted statement, on exactly the bound connection, never after a reconnect.
    /// Where each account statement commits by itself ([`Class::Autocommit`]) it takes several, of which the last lets it log in.
    ///
    /// # Errors
    /// [`StaleBinding`](EngineError::StaleBinding), [`Invalid`](EngineError::Invalid),
    /// [`Refused`](EngineError::Refused), [`Busy`](EngineError::Busy): no effect.
    /// [`Duplicate`](EngineError::Duplicate): the name exists, and this call did not make it. An earlier create of the
    /// same lease did, or a fence holds the name just now: [`look`](Engine::look) tells, since a fence can't log in.
    /// [`Unknown`](EngineError::Unknown): it may exist now.
    async fn create(&self, create: &Create) -> Result<Created, EngineError>;

    /// Ends an intent: when this returns, no create that was bound to `binding` can take effect any more.
    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError>;

    /// [`fence`](Engine::fence) for many, of different names: what came of each, in the order asked. The targets that can do it together
    /// are asked together; at the others it is one after another.
    ///
    /// # Errors
    /// [`Unavailable`](EngineError::Unavailable): of the connection, and so about all of them; [`Invalid`](EngineError::Invalid): of a name.
    /// Either says nothing of what was done.
    async fn fence_all(&self, intents: &[(&str, Binding)]) -> Result<Vec<Result<Fenced, EngineError>>, EngineError> {
        let mut fenced = Vec::with_capacity(intents.len());
        for (name, binding) in intents {
            match self.fence(name, binding).await {
                Err(error @ (EngineError::Unavailable { .. } | EngineError::Invalid { .. })) => return Err(error),
                outcome => fenced.push(outcome),
            }
        }
        Ok(fenced)
    }

    /// Has the target refuse login to all of these, committed there. One outcome per principal, in the order asked.
    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError>;

    /// Ends the open sessions of these, by the number of the account and not by its name; how many were told to end.
    ///
    /// At every endpoint that can be reached. One that can't be, beside the first, is no error here:
    /// [`look`](Engine::look) tells of it, and so of what lives there.
    ///
    /// An account that is gone still has its sessions: pass both the number that the lease recorded and the one that
    /// [`refuse`](Engine::refuse) found.
    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError>;

    /// What the target shows of these at all its [`endpoints`](Engine::endpoints), in a transaction of its own. One look is
    /// not enough: the caller looks again a second later, so that a login already under way is seen.
    ///
    /// An endpoint that can't be looked at, beside the first, is among [`Seen::behind`] of each: what lives there is not
    /// known, and what the others show is.
    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError>;

    /// Removes what the principals left behind, and then the principals. Never a condition of a lease's end.
    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError>;

    /// The principals whose name starts with `prefix`, for the reconciler.
    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError>;

    /// Sessions whose account does not exist any more. Those that no lease explains are an alarm. And the endpoints at which
    /// that can't be seen.
    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError>;

    /// Whether the administrative account can do its work here, and `groups` are fit to be granted.
    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError>;

    /// A number that is another one after each fail-over of the target, and grows where the target counts them. One cheap question on the connection that ends
    /// principals, which it keeps open and opens anew when it broke: ask often.
    async fn timeline(&self) -> Result<u32, EngineError>;

    /// The names of all accounts that start with `prefix`, in order: whose target this is.
    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError>;

    /// Leaves a mark in the target for others to see: an account that can't log in and has no rights.
    ///
    /// # Errors
    /// [`Duplicate`](EngineError::Duplicate) when the name exists, also when a call that was given up made it.
    async fn claim(&self, name: &str) -> Result<(), EngineError>;

    /// Takes marks away; the names that stay, because what has them is no mark.
    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError>;

    /// Gives the administrative account, which needs no right for that, the password of this verifier, of the kind that
    /// [`Create::verifier`] is; or this password, where both sides hold it as it is (webhooks). Sessions go on. Logins are tried with it
    /// once it was learnt: [`learn_password`](Engine::learn_password), first.
    ///
    /// On exactly the bound connection, never after a reconnect: whoever was allowed to send it may be allowed no more.
    ///
    /// # Errors
    /// [`StaleBinding`](EngineError::StaleBinding): no effect. [`Unavailable`](EngineError::Unavailable): the target may have it now.
    async fn set_password(&self, verifier: &str, binding: &Binding) -> Result<(), EngineError>;

    /// Ends all sessions of the administrative account that this executor has not opened, by whatever name they go; how many were
    /// told to end. At the first endpoint, and at each other that can be reached: what lives there changes nothing.
    ///
    /// # Security
    /// Only where the account is the vault's alone.
    async fn end_strangers(&self) -> Result<usize, EngineError>;

    /// What the administrative account logs in with.
    fn passwords(&self) -> &Passwords;

    /// From here on a login whose password the target refuses is tried with this one too, which the caller knows by a number.
    fn learn_password(&self, number: u64, password: SecretVec) {
        self.passwords().learn(number, password);
    }

    /// The target has the password of this number: another login was let in with it.
    fn has_password(&self, number: u64) {
        self.passwords().let_in(number);
    }

    /// The number of the password with which the administrative account was let in last.
    fn let_in_with(&self) -> Option<u64> {
        self.passwords().last_let_in()
    }

    /// What the target said when it last refused the administrative login, with every password that is known, or why it was not
    /// trusted with any; nothing since it let one in.
    fn login_refused(&self) -> Option<String> {
        self.passwords().last_refusal()
    }
}

/// What a target does with a create, which decides how one in flight is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Account changes are transactional: PostgreSQL.
    Transactional,
    /// Each account statement commits by itself, and a second create of a name fails: MariaDB.
    Autocommit,
    /// A create overwrites, so the name is no fence: Redis, RabbitMQ.
    Upsert,
    /// The target makes the credential and its name: cloud tokens.
    IssuedByTarget,
}

/// One connection to the target, told apart from every other that it ever had.
///
/// A target that has one process for all of them, Redis, says which process, and by which number it knows the connection. One that knows
/// no connections, RabbitMQ or Kubernetes, knows an account or an object that is there for this one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The number of the target's process or thread behind it; for RabbitMQ and Kubernetes one that was drawn at random.
    pub pid: i32,
    /// When that process began, in microseconds since 1970 by the target's clock: process numbers come back. For Redis the number
    /// of the connection, for RabbitMQ and Kubernetes the executor's term of office.
    pub backend_start_micros: i64,
}

/// An account in the target: its name, and the number that survives the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Principal {
    /// See [`valid_name`](crate::valid_name).
    pub name: String,
    /// The number the target gave it, when it is known; where a target gives none, that of its name
    /// ([`number_of`](crate::number_of)).
    pub oid: Option<u32>,
}

/// A principal to be made.
pub struct Create {
    /// See [`valid_name`](crate::valid_name).
    pub name: String,
    /// What the target stores in place of the password, in its own form, checked here byte for byte. PostgreSQL: a SCRAM-SHA-256 verifier
    /// (RFC 5803); what is not one, it takes for a clear password without a word. Redis: `#` and 64 hexadecimal digits. RabbitMQ: base64 of
    /// a salt and a hash. MariaDB: see its module. Of [`Class::IssuedByTarget`] it is no business of the engine: whoever calls it seals
    /// with it what was issued.
    pub verifier: String,
    /// The roles it becomes a member of; for Redis each a list of rules of its access lists, for RabbitMQ a permission. All its rights come from them.
    pub groups: Vec<String>,
    /// What else is said of it in the same transaction, from [`Template::for_lease`](crate::postgres::template::Template).
    pub statements: Vec<Statement>,
    /// How many sessions it may have at once; at least 1.
    pub connection_limit: i32,
    /// After how many seconds, by the target's clock, a new login is refused whatever becomes of us. The maximum of the
    /// lease's life, so that renewing never touches the target. At least 1.
    pub max_ttl_seconds: u64,
    /// The connection to use, from [`Engine::bind`].
    pub binding: Binding,
}

impl Create {
    /// Every group of which it becomes a member, by its statements too.
    pub(crate) fn all_groups(&self) -> impl Iterator<Item = &String> {
        self.groups.iter().chain(self.statements.iter().flat_map(Statement::groups))
    }

    /// Whether every field is fit to be sent.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] naming the first field that is not.
    pub fn validate(&self) -> Result<(), EngineError> {
        if self.groups.iter().any(|g| g.len() > MAX_NAME) {
            return Err(EngineError::Invalid { field: "groups", reason: "longer than 63 bytes" });
        }
        self.validate_with(check_verifier)
    }

    /// The same for a target with verifiers of another form.
    pub(crate) fn validate_with(&self, check_verifier: fn(&str) -> Result<(), EngineError>) -> Result<(), EngineError> {
        let invalid = |field, reason| Err(EngineError::Invalid { field, reason });
        check_name(&self.name)?;
        check_verifier(&self.verifier)?;
        if self.groups.iter().any(|g| g.is_empty() || g.len() > MAX_RULES || g.chars().any(char::is_control)) {
            return invalid("groups", "not 1 to 512 bytes without control characters");
        }
        if self.all_groups().any(|g| gives_power(g)) {
            return invalid("groups", "a role with power over the server, or over what ends principals");
        }
        if self.statements.len() > MAX_STATEMENTS || !self.statements.iter().all(Statement::is_valid) {
            return invalid("statements", "too many, or with a value that can't be sent");
        }
        if self.connection_limit < 1 {
            return invalid("connection_limit", "below 1");
        }
        if !(1..=u64::from(u32::MAX)).contains(&self.max_ttl_seconds) {
            return invalid("max_ttl_seconds", "not between 1 and 2^32 - 1");
        }
        Ok(())
    }
}

impl fmt::Debug for Create {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Create")
            .field("name", &self.name)
            .field("groups", &self.groups)
            .field("binding", &self.binding)
            .finish_non_exhaustive()
    }
}

/// A principal that was made.
#[derive(Debug)]
pub struct Created {
    /// The number the target gave it.
    pub oid: u32,
    /// What the target made for whoever asked, and shows this once: of [`Class::IssuedByTarget`] always, of others never.
    ///
    /// # Security
    /// It is in the executor's memory until it is sealed to who asked, which is to be at once. No other call returns any of it.
    pub issued: Option<SecretFields>,
}

impl Created {
    /// Where whoever asked made the secret.
    pub(crate) fn by_client(oid: u32) -> Self {
        Self { oid, issued: None }
    }
}

/// Secrets are compared in constant time.
impl PartialEq for Created {
    fn eq(&self, other: &Self) -> bool {
        let issued = match (&self.issued, &other.issued) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => mine.encode().expose().ct_eq(theirs.encode().expose()).into(),
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.oid == other.oid && issued
    }
}

/// How an intent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// The create had no effect, and never will.
    Absent,
    /// The create won: the principal exists, and is to be ended as any other.
    Won {
        /// The number the target gave it.
        oid: u32,
    },
}

/// What became of one principal in [`Engine::refuse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name, as asked.
    pub name: String,
    /// The number that the name had in the target just now. It differs from the recorded one after a restore.
    pub oid: Option<u32>,
    /// What was done.
    pub outcome: Refusal,
}

/// How login is refused, or why it is not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The account is gone. Its sessions are not.
    Dropped,
    /// The account exists and can't log in.
    Disabled {
        /// Memberships that could not be taken away.
        groups_left: Vec<String>,
    },
    /// There was none.
    Absent,
    /// Login may still be possible.
    Failed(EngineError),
}

/// What one look at one principal shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name, as asked.
    pub name: String,
    /// The number the name has now; `None` when there is no such account.
    pub oid: Option<u32>,
    /// Whether an account of that name may log in at some endpoint, as far as can be proved: `login_at` or `behind` is not
    /// empty.
    pub can_login: bool,
    /// The endpoints whose accounts say so.
    pub login_at: Vec<String>,
    /// The endpoints whose view proves nothing yet, and why: a standby can't be reached, or was promoted; one that has yet
    /// to replay what was committed before this look began may let in, then or now, an account that is gone; a login may be
    /// under way of which the target does not say whose it is.
    pub behind: Vec<Fault>,
    /// Sessions of the number asked for, and of the number the name has now, at all endpoints.
    pub sessions: u64,
    /// The name under which the *number* asked for lives now, when that is another: the target was restored, or the
    /// account renamed. Its sessions are neither counted nor killed, and a person has to look.
    pub held_by: Option<String>,
}

impl Seen {
    /// Adds what another endpoint shows of the same principal.
    pub(crate) fn add(&mut self, there: Self) {
        self.oid = self.oid.or(there.oid);
        self.login_at.extend(there.login_at);
        self.behind.extend(there.behind);
        self.can_login |= there.can_login;
        self.sessions = self.sessions.saturating_add(there.sessions);
        self.held_by = self.held_by.take().or(there.held_by);
    }

    /// Notes that what an endpoint shows, if anything, proves nothing.
    pub(crate) fn doubt(&mut self, why: &Fault) {
        self.can_login = true;
        self.behind.push(why.clone());
    }
}

/// What became of one principal in [`Engine::clean`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// Its name, as asked.
    pub name: String,
    /// What is left.
    pub outcome: Cleaning,
}

/// What is left of a principal after cleaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleaning {
    /// Nothing.
    Gone,
    /// The account, which can't log in, because of what it owns; or what it made, where that stays without its account
    /// (MariaDB).
    Left {
        /// The databases in which something depends on it: not to be cleaned up in, or it failed. `(shared)` are objects
        /// of the whole server.
        databases: Vec<String>,
        /// What the target said, if it refused.
        reason: Option<String>,
    },
}

/// A session without an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ghost {
    /// Where it is.
    pub endpoint: String,
    /// The process behind it.
    pub pid: i32,
    /// The number that its account had.
    pub oid: u32,
}

/// What a target's answer, or its silence, means.
///
/// Messages are the target's own main message. Its context is never kept: it can quote the statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Never sent.
    #[error("`{field}` is not acceptable: {reason}")]
    Invalid {
        /// Which argument.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Definite: no effect, and the same again will be refused again.
    #[error("the target refuses: {message} ({code})")]
    Refused {
        /// The target's code; for PostgreSQL the SQLSTATE.
        code: String,
        /// The target's words.
        message: String,
    },
    /// The name exists already.
    #[error("the principal exists already")]
    Duplicate,
    /// Never sent: the connection of the binding is not open here.
    #[error("the bound connection is not open")]
    StaleBinding,
    /// The target answered that it can't now. No effect; worth another try.
    #[error("the target is busy: {message} ({code})")]
    Busy {
        /// The target's code.
        code: String,
        /// The target's words.
        message: String,
    },
    /// The target can't be reached. No effect that is not safe to repeat.
    #[error("the target can't be reached: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// The answer is lost: the create may have happened.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl EngineError {
    /// Whether the target refuses the login for what it presents, so that another password may be right.
    #[must_use]
    pub fn is_login_refused(&self) -> bool {
        // invalid_password, invalid_authorization_specification; of MariaDB ER_ACCESS_DENIED_ERROR; of Redis; of RabbitMQ and Kubernetes; of webhooks; of AWS,
        // for a key that is unknown or inactive, and for a secret that is not its own.
        let codes = [
            "28P01",
            "28000",
            "1045",
            "WRONGPASS",
            "401",
            "signature",
            "InvalidClientTokenId",
            "SignatureDoesNotMatch",
        ];
        matches!(self, Self::Refused { code, .. } if codes.contains(&code.as_str()))
    }
}

/// Roles of PostgreSQL with which a leased user would get at the server itself, end the executor's connections, or take the
/// slots that are kept for it.
pub(crate) const POWERFUL: [&str; 5] = [
    "pg_execute_server_program",
    "pg_read_server_files",
    "pg_signal_backend",
    "pg_use_reserved_connections",
    "pg_write_server_files",
];

pub(crate) fn gives_power(group: &str) -> bool {
    POWERFUL.contains(&group)
}

pub(crate) fn check_verifier(verifier: &str) -> Result<(), EngineError> {
    if valid_verifier(verifier) {
        return Ok(());
    }
    Err(EngineError::Invalid { field: "verifier", reason: "not a SCRAM-SHA-256 verifier" })
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, all in canonical base64 (RFC 5803, RFC 4648 section 4).
fn valid_verifier(verifier: &str) -> bool {
    let decoded = |text: &str| STANDARD.decode(text).map(|bytes| bytes.len()).unwrap_or(0);
    let parts = || {
        let (iterations, rest) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        Some((iterations, salt, stored, server))
    };
    let Some((iterations, salt, stored, server)) = parts() else { return false };
    let canonical = !iterations.starts_with('0') && iterations.bytes().all(|b| b.is_ascii_digit());
    let bounded = iterations.parse::<u32>().is_ok_and(|n| (1..=MAX_ITERATIONS).contains(&n));
    canonical && bounded && (16..=32).contains(&decoded(salt)) && decoded(stored) == 32 && decoded(server) == 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::template::parse;

    fn verifier(iterations: &str, salt: usize, key: usize) -> String {
        let b64 = |n: usize| STANDARD.encode(vec![7u8; n]);
        format!("SCRAM-SHA-256${iterations}:{}${}:{}", b64(salt), b64(key), b64(32))
    }

    fn create(change: impl FnOnce(&mut Create)) -> Result<(), EngineError> {
        let mut create = Create {
            name: "q_1".into(),
            verifier: verifier("4096", 16, 32),
            groups: vec!["Readers %s".into()],
            statements: vec![],
            connection_limit: 1,
            max_ttl_seconds: 60,
            binding: Binding { pid: 1, backend_start_micros: 1 },
        };
        change(&mut create);
        create.validate()
    }

    #[test]
    fn verifiers() {
        assert!(valid_verifier(&verifier("4096", 16, 32)) && valid_verifier(&verifier("1", 32, 32)));
        assert!(valid_verifier(&verifier("100000", 16, 32)));
        for bad in ["0", "04096", "+4096", "-1", "20000000", "100001", "", "4096 "] {
            assert!(!valid_verifier(&verifier(bad, 16, 32)), "{bad:?}");
        }
        assert!(!valid_verifier(&verifier("4096", 15, 32)) && !valid_verifier(&verifier("4096", 33, 32)));
        assert!(!valid_verifier(&verifier("4096", 16, 31)));
        let good = verifier("4096", 16, 32);
        assert!(!valid_verifier(&good[..good.len() - 1]), "a truncated one would be stored as a clear password");
        assert!(!valid_verifier(&format!("{good}\n")) && !valid_verifier("hunter2"));
        // The last base64 digit carries bits that nobody reads: only zeroes there are canonical.
        assert!(good.ends_with("c="));
        assert!(!valid_verifier(&format!("{}d=", &good[..good.len() - 2])));
    }

    #[test]
    fn fields() {
        assert_eq!(create(|_| ()), Ok(()));
        let field = |r: Result<(), EngineError>| match r {
            Err(EngineError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(create(|c| c.name = "x\"; DROP ROLE y".into())), "name");
        assert_eq!(field(create(|c| c.verifier = "'; --".into())), "verifier");
        assert_eq!(field(create(|c| c.groups.push("a\0b".into()))), "groups");
        assert_eq!(field(create(|c| c.groups.push("g".repeat(64)))), "groups");
        assert_eq!(field(create(|c| c.groups.push("pg_signal_backend".into()))), "groups");
        let template = parse("COMMENT ON ROLE {{name}} IS {{lease}}").unwrap();
        assert_eq!(create(|c| c.statements = template.for_lease("id")), Ok(()));
        assert_eq!(field(create(|c| c.statements = template.for_lease("i\0d"))), "statements");
        let many = || (0..=MAX_STATEMENTS).flat_map(|_| template.for_lease("id")).collect();
        assert_eq!(field(create(|c| c.statements = many())), "statements");
        assert_eq!(field(create(|c| c.connection_limit = -1)), "connection_limit");
        assert_eq!(field(create(|c| c.max_ttl_seconds = 0)), "max_ttl_seconds");
        assert_eq!(field(create(|c| c.max_ttl_seconds = u64::MAX)), "max_ttl_seconds");
    }

    #[test]
    fn debug_shows_no_verifier() {
        let create = Create {
            name: "q_1".into(),
            verifier: "canary".into(),
            groups: vec![],
            statements: vec![],
            connection_limit: 1,
            max_ttl_seconds: 1,
            binding: Binding { pid: 1, backend_start_micros: 1 },
        };
        assert!(!format!("{create:?}").contains("canary"));
    }
}
