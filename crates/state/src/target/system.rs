//! What kind of system a target is, and what follows from that for its description, its roles and its leases.

use super::{Role, TargetSpec};
use crate::ids::Millis;
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
    /// Amazon Web Services: IAM and STS.
    Aws = 5,
    /// Service accounts of a Kubernetes cluster.
    Kubernetes = 6,
}

/// The iterations of a SCRAM verifier of which nobody has said anything: what PostgreSQL itself takes.
const ITERATIONS: u32 = 4_096;
/// How many bytes a name in PostgreSQL has at most: it cuts a longer one without a word, and so means another one.
const MAX_NAME: usize = 63;
/// How many bytes a group has at most that is a text of rules.
const MAX_RULES: usize = 512;

impl System {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::PostgreSql, Self::MariaDb, Self::Redis, Self::RabbitMq, Self::Webhook, Self::Aws, Self::Kubernetes];

    /// Its name in commands, answers and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::MariaDb => "mariadb",
            Self::Redis => "redis",
            Self::RabbitMq => "rabbitmq",
            Self::Webhook => "webhook",
            Self::Aws => "aws",
            Self::Kubernetes => "kubernetes",
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
            Self::Aws | Self::Kubernetes => Form::Sealed,
        }
    }

    /// Whether it makes the secrets of its logins itself, and shows each once.
    #[must_use]
    pub fn issues(self) -> bool {
        self.default_form() == Form::Sealed
    }

    /// Whether what is issued under these groups can be ended before its time: a session of STS can't, unless its role of IAM may be
    /// written (docs/aws.md).
    #[must_use]
    pub fn ends_early(self, groups: &[String]) -> bool {
        let says = |rule: &str| groups.iter().any(|g| g == rule || rule.ends_with(':') && g.starts_with(rule));
        self != Self::Aws || says("deny") || !(says("assume:") || says("federate"))
    }

    /// When what was issued under these groups dies, whoever ends its lease before; `None` where that ends it. `number` is the executor's for
    /// the login, which is the second in which a session of STS ends; where it is not known yet, it lives as long as the lease may at most.
    #[must_use]
    pub fn dies_at(self, groups: &[String], number: Option<u32>, max_expires_at: Millis) -> Option<Millis> {
        let ends = number.map_or(max_expires_at, |seconds| Millis::from(seconds).saturating_mul(1_000));
        (!self.ends_early(groups)).then_some(ends)
    }

    /// Whether there is a login without any group, so that a target without roles can be proved.
    #[must_use]
    pub fn has_logins_without_groups(self) -> bool {
        self != Self::Kubernetes
    }

    /// In which form an executor gives the target a new password for its own login; `None` where both sides hold it as it is.
    #[must_use]
    pub fn own_form(self) -> Option<Form> {
        (self != Self::Webhook && self.rotates()).then(|| self.default_form())
    }

    /// Whether an executor can give itself another password there.
    #[must_use]
    pub fn rotates(self) -> bool {
        !self.issues()
    }

    /// The port at which clients come, of one that the executor works with at `port`.
    #[must_use]
    pub fn client_port(self, port: u16, tls: bool) -> u16 {
        match self {
            // The executor's is the management interface. The registered ones of AMQP, and of AMQP over TLS.
            Self::RabbitMq if tls => 5_671,
            Self::RabbitMq => 5_672,
            _ => port,
        }
    }

    /// Whether its logins are tried by the executor's own engine: where a login has no connection of its own that the vault could come by.
    #[must_use]
    pub fn is_tried_by_executor(self) -> bool {
        self == Self::Webhook || self.issues()
    }

    /// Whether an executor has an account there, which a description names. Without one the secret alone says who asks.
    #[must_use]
    pub fn has_login(self) -> bool {
        self != Self::Webhook
    }

    /// Whether it is spoken to by TLS only, also on the machine itself.
    #[must_use]
    pub fn needs_tls(self) -> bool {
        self == Self::Webhook
    }

    /// Whether what a description has for a database says, with host and port, where the server is: a path of its URL.
    #[must_use]
    pub fn has_path(self) -> bool {
        self == Self::Webhook
    }

    /// Whether it takes a verifier of this form.
    #[must_use]
    pub fn takes(self, form: Form) -> bool {
        match form {
            Form::Scram { .. } => matches!(self, Self::PostgreSql | Self::Webhook),
            Form::MySqlNative | Form::MariaDbEd25519 => self == Self::MariaDb,
            Form::RedisSha256 => self == Self::Redis,
            Form::RabbitMqSha256 => self == Self::RabbitMq,
            Form::Sealed => self.issues(),
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
            (Self::Redis, _) => return only("database", "all systems but this one"),
            // The region, and the namespace.
            (Self::Aws | Self::Kubernetes, label) => check_dns_label("database", label)?,
            (Self::Webhook, path) => check_path(path)?,
        }
        match self {
            Self::PostgreSql => check_name("user", &spec.user)?,
            Self::Aws | Self::Kubernetes => check_text("user", &spec.user, 253)?,
            _ if self.has_login() => check_text("user", &spec.user, 80)?,
            _ if spec.user.is_empty() => {}
            _ => return only("user", "systems in which the vault has an account"),
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
        if spec.rotate && !self.rotates() {
            return only("rotate", "systems at which the vault's own password can be replaced");
        }
        if spec.tls.as_ref().is_some_and(|tls| tls.require_binding) {
            return only("channel_binding", postgres);
        }
        if spec.host.starts_with('/') && self != Self::MariaDb {
            return only("host", "PostgreSQL and MariaDB when it is a socket");
        }
        if self.needs_tls() && spec.tls.is_none() {
            let why = "are missing: it is spoken to by TLS only, also on the same machine";
            return Err(Refusal::invalid("roots", why));
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
        if !self.ends_early(&role.groups) && role.default_ttl != role.max_ttl {
            let why =
                "must be the same for all leases: a session that can't be ended early lives as long as the longest";
            return Err(Refusal::invalid("ttl", why));
        }
        let (most, each) = match self {
            Self::PostgreSql | Self::Webhook => (16, MAX_NAME),
            // A session has one role at a time.
            Self::MariaDb => (1, MAX_NAME),
            Self::Redis | Self::RabbitMq | Self::Aws | Self::Kubernetes => (16, MAX_RULES),
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
#[error("must be one of postgresql, mariadb, redis, rabbitmq, webhook, aws, kubernetes")]
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

/// As regions and namespaces are named (RFC 1123 section 2.1).
fn check_dns_label(field: &str, value: &str) -> Result<(), Refusal> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if value.is_empty()
        || value.len() > MAX_NAME
        || !value.bytes().all(inner)
        || value.starts_with('-')
        || value.ends_with('-')
    {
        return Err(Refusal::invalid(field, "must be 1 to 63 of a-z, 0-9 and -, and neither begin nor end with -"));
    }
    Ok(())
}

fn check_text(field: &str, value: &str, most: usize) -> Result<(), Refusal> {
    if value.is_empty() || value.len() > most || value.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, format_args!("must have 1 to {most} bytes and no control characters")));
    }
    Ok(())
}

/// The path of a URL, of unreserved characters only (RFC 3986 section 2.3), so that no two texts mean the same one.
fn check_path(path: &str) -> Result<(), Refusal> {
    let good = |part: &str| {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        !matches!(part, "" | "." | "..") && part.bytes().all(unreserved)
    };
    if path.len() > 255 || !path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(good)) {
        let why =
            "must be empty, or a path of at most 255 bytes: before each part a /, in each A-Z, a-z, 0-9, -, ., _ and ~";
        return Err(Refusal::invalid("database", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_where_the_vault_works_or_where_it_is_said() {
        use crate::target::{Endpoint, TargetTls};
        let tls = Some(TargetTls { roots: vec![vec![0x30]], server_name: String::new(), require_binding: false });
        let spec = |system, tls| TargetSpec { system, host: "h".to_owned(), port: 9, tls, ..TargetSpec::default() };
        for (system, tls, port) in [
            (System::PostgreSql, None, 9),
            (System::Redis, tls.clone(), 9),
            (System::RabbitMq, None, 5_672),
            (System::RabbitMq, tls, 5_671),
        ] {
            let mut spec = spec(system, tls);
            assert_eq!(spec.for_clients(), Endpoint { host: "h".to_owned(), port }, "{system}");
            spec.clients = Some(Endpoint { host: "pooler".to_owned(), port: 1 });
            assert_eq!(spec.for_clients().to_string(), "pooler:1", "{system}");
        }
    }

    #[test]
    fn a_session_of_aws_ends_early_where_its_role_may_be_written() {
        let groups = |all: &[&str]| all.iter().map(|g| (*g).to_owned()).collect::<Vec<String>>();
        let (role, deny) = ("assume:arn:aws:iam::123456789012:role/app", "deny");
        for (all, early) in [
            (&["group:readers"][..], true),
            (&[], true),
            (&[role], false),
            (&[role, deny], true),
            (&["federate"], false),
            (&["federated"], true),
        ] {
            assert_eq!(System::Aws.ends_early(&groups(all)), early, "{all:?}");
            assert!(System::Redis.ends_early(&groups(all)));
            let role = |max_ttl| Role {
                form: Form::Sealed,
                groups: groups(all),
                default_ttl: 900_000,
                max_ttl,
                ..Role::default()
            };
            assert_eq!(
                System::Aws.dies_at(&groups(all), Some(1_900_000_000), 7),
                (!early).then_some(1_900_000_000_000)
            );
            assert_eq!(System::Aws.dies_at(&groups(all), None, 7), (!early).then_some(7));
            assert_eq!(System::Aws.check_role(&role(900_000)), Ok(()), "{all:?}");
            assert_eq!(System::Aws.check_role(&role(900_001)).is_ok(), early, "{all:?}");
        }
    }

    #[test]
    fn a_system_has_one_name() {
        for system in System::ALL {
            assert_eq!(system.name().parse(), Ok(system));
            assert!(system.takes(system.default_form()) && system.own_form().is_none_or(|form| system.takes(form)));
            assert_eq!(system.issues(), system.takes(Form::Sealed));
        }
        assert_eq!("PostgreSQL".parse::<System>(), Err(UnknownSystem));
    }
}
