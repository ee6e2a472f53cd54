//! What kind of system a target is, and what follows from that for its description, its roles and its leases.

use super::{Role, TargetSpec};
use crate::lease::Form;
use crate::outcome::Refusal;
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use core::str::FromStr;

/// What kind of system a target is. Which of them a node can work with is a matter of its build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum System {
    /// PostgreSQL.
    #[default]
    PostgreSql = 0,
    /// MariaDB.
    MariaDb = 1,
    /// Redis.
    Redis = 2,
    /// RabbitMQ.
    RabbitMq = 3,
    /// Anything that speaks the protocol of our webhooks.
    Webhook = 4,
}

/// The iterations of a SCRAM verifier of which nobody has said anything: what PostgreSQL itself takes.
const ITERATIONS: u32 = 4_096;
/// How many bytes a name in PostgreSQL has at most: it cuts a longer one without a word, and so means another one.
const MAX_NAME: usize = 63;
/// How many bytes a group has at most that is a text of rules.
const MAX_RULES: usize = 512;

impl System {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::PostgreSql, Self::MariaDb, Self::Redis, Self::RabbitMq, Self::Webhook];

    /// Its name in commands, answers and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::MariaDb => "mariadb",
            Self::Redis => "redis",
            Self::RabbitMq => "rabbitmq",
            Self::Webhook => "webhook",
        }
    }

    /// What a lease's client sends there in place of its password when the role does not say.
    #[must_use]
    pub fn default_form(self) -> Form {
        match self {
            Self::PostgreSql | Self::Webhook => Form::Scram { iterations: ITERATIONS },
            Self::MariaDb => Form::MySqlNative,
            Self::Redis => Form::RedisSha256,
            Self::RabbitMq => Form::RabbitMqSha256,
        }
    }

    /// In which form an executor gives the target a new password for its own login; `None` where both sides hold it as it is.
    #[must_use]
    pub fn own_form(self) -> Option<Form> {
        (self != Self::Webhook).then(|| self.default_form())
    }

    /// Whether it takes a verifier of this form.
    #[must_use]
    pub fn takes(self, form: Form) -> bool {
        match form {
            Form::Scram { .. } => matches!(self, Self::PostgreSql | Self::Webhook),
            Form::MySqlNative | Form::MariaDbEd25519 => self == Self::MariaDb,
            Form::RedisSha256 => self == Self::Redis,
            Form::RabbitMqSha256 => self == Self::RabbitMq,
        }
    }

    /// Checks what is particular to a kind of system in a target's description.
    pub(super) fn check_spec(self, spec: &TargetSpec) -> Result<(), Refusal> {
        let only = |field, of| Err(Refusal::invalid(field, format_args!("is for {of}: a target of {self} has none")));
        match (self, spec.database.as_str()) {
            // Where logins are to begin; for the client.
            (Self::PostgreSql, database) => check_name("database", database)?,
            (Self::MariaDb | Self::RabbitMq, "") => {}
            (Self::MariaDb | Self::RabbitMq, database) => check_text("database", database, 255)?,
            (Self::Redis | Self::Webhook, "") => {}
            (Self::Redis | Self::Webhook, _) => return only("database", "PostgreSQL, MariaDB and RabbitMQ"),
        }
        match self {
            Self::PostgreSql => check_name("user", &spec.user)?,
            _ => check_text("user", &spec.user, 80)?,
        }
        if self == Self::PostgreSql {
            return Ok(());
        }
        let postgres = "PostgreSQL";
        if !spec.databases.is_empty() {
            return only("databases", postgres);
        }
        if !spec.standbys.is_empty() {
            return only("standbys", postgres);
        }
        if !spec.owner.is_empty() {
            return only("owner", postgres);
        }
        if spec.remote_apply {
            return only("remote_apply", postgres);
        }
        if spec.tls.as_ref().is_some_and(|tls| tls.require_binding) {
            return only("channel_binding", postgres);
        }
        if spec.host.starts_with('/') && self != Self::MariaDb {
            return only("host", "PostgreSQL and MariaDB when it is a socket");
        }
        Ok(())
    }

    /// Checks what is particular to a kind of system in a role.
    pub(super) fn check_role(self, role: &Role) -> Result<(), Refusal> {
        if !self.takes(role.form) {
            return Err(Refusal::invalid("verifier", format_args!("{self} takes none of the form {}", role.form)));
        }
        if self != Self::PostgreSql && !role.statements.is_empty() {
            return Err(Refusal::invalid("statements", format_args!("there are none for {self}")));
        }
        let (most, each) = match self {
            Self::PostgreSql | Self::Webhook => (16, MAX_NAME),
            // A session has one role at a time.
            Self::MariaDb => (1, MAX_NAME),
            Self::Redis | Self::RabbitMq => (16, MAX_RULES),
        };
        let bad = |g: &String| g.is_empty() || g.len() > each || g.chars().any(char::is_control);
        if role.groups.len() > most || role.groups.iter().any(bad) {
            let why =
                format_args!("must be at most {most} at {self}, each of 1 to {each} bytes without control characters");
            return Err(Refusal::invalid("groups", why));
        }
        Ok(())
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name of no system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of postgresql, mariadb, redis, rabbitmq, webhook")]
pub struct UnknownSystem;

impl FromStr for System {
    type Err = UnknownSystem;

    fn from_str(text: &str) -> Result<Self, UnknownSystem> {
        Self::ALL.into_iter().find(|system| system.name() == text).ok_or(UnknownSystem)
    }
}

/// As PostgreSQL's names are.
pub(super) fn check_name(field: &str, value: &str) -> Result<(), Refusal> {
    if value.is_empty() || value.len() > MAX_NAME || value.chars().any(char::is_control) {
        let why = "must have 1 to 63 bytes, as PostgreSQL's names have, and no control characters";
        return Err(Refusal::invalid(field, why));
    }
    Ok(())
}

fn check_text(field: &str, value: &str, most: usize) -> Result<(), Refusal> {
    if value.is_empty() || value.len() > most || value.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, format_args!("must have 1 to {most} bytes and no control characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_has_one_name() {
        for system in System::ALL {
            assert_eq!(system.name().parse(), Ok(system));
            assert!(system.takes(system.default_form()) && system.own_form().is_none_or(|form| system.takes(form)));
        }
        assert_eq!("PostgreSQL".parse::<System>(), Err(UnknownSystem));
    }
}
