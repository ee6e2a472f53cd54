//! Making what a lease gets: a user with a key, or a session. One request after the other, each when the one before was answered.
//!
//! The first makes the user that has the lease's name. It fails where there is one, and so decides between a create and its fence. What lets in comes
//! last: the key, or the session, of which only its answer has the secret.

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use quorate_crypto::secret::{SecretFields, SecretVec};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::account::{self, Mark};
use super::api::{Api, Query, Said, is_absent};
use super::bound::{Bound, last_of};
use super::revoke::Holder;
use super::rules::{Kind, Rights, Session};
use super::{Aws, TRY_AGAIN};
use super::{clean, revoke};
use crate::engine::Create;
use crate::{Cleaning, Created, EngineError};

/// The shortest session.
const SHORTEST: u64 = 900;
/// The longest session of a role, if it lets have one as long.
const LONGEST: u64 = 12 * 3_600;
/// The longest of a federated user.
const LONGEST_FEDERATED: u64 = 36 * 3_600;
/// The longest name of a federated user.
const FEDERATED_NAME: usize = 32;

/// How long a session is to live, in seconds.
///
/// # Errors
/// [`EngineError::Invalid`] where none lives as long as the lease may.
pub(super) fn duration(session: &Session, max_ttl_seconds: u64) -> Result<u64, EngineError> {
    let longest = if session.role.is_some() { LONGEST } else { LONGEST_FEDERATED };
    if max_ttl_seconds > longest {
        let reason = "longer than a session can live: 12 hours of a role, 36 of a federated user";
        return Err(EngineError::Invalid { field: "max_ttl_seconds", reason });
    }
    Ok(max_ttl_seconds.max(SHORTEST))
}

/// By what name STS knows a session.
pub(super) fn session_name(name: &str, is_role: bool) -> String {
    if is_role || name.len() <= FEDERATED_NAME {
        return name.to_owned();
    }
    let hash = Sha256::digest(name.as_bytes());
    let mut short = String::from("q_");
    hash.iter().take(15).for_each(|byte| short.push_str(&format!("{byte:02x}")));
    short
}

/// The requests of one create.
struct Steps<'a> {
    aws: &'a Aws,
    create: &'a Create,
    rights: &'a Rights,
    bound: &'a Bound,
}

/// See [`crate::Engine::create`]. `rights` were understood before, and `bound` was nobody else's.
pub(super) async fn create(aws: &Aws, create: &Create, rights: &Rights, bound: &Bound) -> Result<Created, EngineError> {
    let steps = Steps { aws, create, rights, bound };
    let made = match &rights.kind {
        Kind::User { groups, boundary } => steps.user(groups, boundary.as_deref()).await,
        Kind::Session(session) => steps.session(session).await,
    };
    let made = made?;
    // Its fence may have been here, which cuts off what it finds, and what was cut off may be gone by now: nobody is given what was fenced.
    match is_fenced(aws, &create.name).await {
        Ok(false) if !bound.is_over() => Ok(made),
        Ok(_) => Err(unknown("its binding was fenced, or its time was over, before it was answered")),
        Err(error) => Err(EngineError::Unknown { reason: format!("made, and then: {error}") }),
    }
}

/// In this order: what is there after it was not cut off has not been before.
async fn is_fenced(aws: &Aws, name: &str) -> Result<bool, EngineError> {
    let cut = revoke::cut_since(aws, name).await?;
    let until = Instant::now() + aws.config.propagation;
    loop {
        match revoke::find(aws, name).await? {
            // It is gone, or not shown yet.
            None if Instant::now() < until => sleep(TRY_AGAIN).await,
            there => {
                return Ok(cut.is_some() || !matches!(there, Some(Holder::Ours(Mark::User | Mark::Session { .. }))));
            }
        }
    }
}

impl Steps<'_> {
    async fn send(&self, api: &Api, query: &Query) -> Result<Said, EngineError> {
        if self.bound.is_over() {
            return Err(unknown("the time of its binding was over between two requests"));
        }
        match api.call_at(&self.aws.config, query, self.bound.at).await {
            Err(EngineError::Unavailable { reason }) => Err(EngineError::Unknown { reason }),
            other => other,
        }
    }

    /// The same of what is done to a user that is new, and that not all servers may know yet.
    async fn send_soon(&self, query: &Query) -> Result<Said, EngineError> {
        let until = Instant::now() + self.aws.config.propagation;
        loop {
            match self.send(&self.aws.makes.iam, query).await {
                Err(error) if is_absent(&error) && Instant::now() < until => sleep(TRY_AGAIN).await,
                other => return other,
            }
        }
    }

    /// Takes the name.
    async fn take(&self, mark: &Mark, boundary: Option<&str>) -> Result<(), EngineError> {
        let Self { aws, create, rights, .. } = self;
        let term = aws.config.term.to_string();
        let ours = [("quorate-target", aws.config.target.as_str()), ("quorate-term", &term)];
        let theirs = rights.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let path = mark.path(&aws.config.target);
        let query = Query::iam("CreateUser")
            .with("UserName", &create.name)
            .with("Path", &path)
            .tagged(ours.into_iter().chain(theirs));
        let query = boundary.iter().fold(query, |query, arn| query.with("PermissionsBoundary", arn));
        let said = self.send(&aws.makes.iam, &query).await?;
        let user = |field| said.root.text(&["CreateUserResult", "User", field]);
        let arn = format!(":iam::{}:user{path}{}", aws.executor.account, create.name);
        if user("UserName") != Some(&create.name) || !user("Arn").is_some_and(|said| said.ends_with(&arn)) {
            return Err(unknown("it was answered for another user, or in another account"));
        }
        Ok(())
    }

    async fn user(&self, groups: &[String], boundary: Option<&str>) -> Result<Created, EngineError> {
        self.take(&Mark::User, boundary).await?;
        let made = self.key(groups).await;
        self.settle(made).await
    }

    /// Its rights, and then its key.
    async fn key(&self, groups: &[String]) -> Result<Created, EngineError> {
        let Self { create, rights, .. } = self;
        let name = create.name.as_str();
        for group in groups {
            let query = Query::iam("AddUserToGroup").with("GroupName", group).with("UserName", name);
            self.send_soon(&query).await?;
        }
        for arn in &rights.policies {
            self.send_soon(&Query::iam("AttachUserPolicy").with("UserName", name).with("PolicyArn", arn)).await?;
        }
        let mut said = self.send_soon(&Query::iam("CreateAccessKey").with("UserName", name)).await?;
        let mut field = |field| said.root.take(&["CreateAccessKeyResult", "AccessKey", field]);
        if field("UserName").as_deref() != Some(name) {
            return Err(unknown("a key of another user was answered"));
        }
        let fields = [("access_key_id", field("AccessKeyId")), ("secret_access_key", field("SecretAccessKey"))];
        Ok(Created { oid: account::number(name), issued: Some(issued(fields)?) })
    }

    async fn session(&self, session: &Session) -> Result<Created, EngineError> {
        let Self { aws, create, bound, .. } = self;
        let duration = duration(session, create.max_ttl_seconds)?;
        let denied = session.role.as_ref().filter(|_| session.deny);
        if denied.is_some_and(|role| role.account != aws.executor.account) {
            return Err(EngineError::Invalid { field: "groups", reason: "`deny` of a role of another account" });
        }
        // The latest end: it may be made as long as its signature is taken.
        let until = last_of(bound).saturating_add(duration);
        self.take(&Mark::Session { until, role: denied.map(|role| role.name.clone()) }, None).await?;
        let made = self.token(session, duration, until).await;
        self.settle(made).await
    }

    async fn token(&self, session: &Session, duration: u64, until: u64) -> Result<Created, EngineError> {
        let Self { aws, create, rights, .. } = self;
        let name = session_name(&create.name, session.role.is_some());
        let (query, result, who) = match &session.role {
            Some(role) => (
                Query::sts("AssumeRole").with("RoleArn", &role.arn).with("RoleSessionName", &name),
                "AssumeRoleResult",
                "AssumedRoleUser",
            ),
            None => (Query::sts("GetFederationToken").with("Name", &name), "GetFederationTokenResult", "FederatedUser"),
        };
        let query = query.with("DurationSeconds", &duration.to_string());
        let query = session.inline.iter().fold(query, |query, policy| query.with("Policy", policy));
        let query = rights
            .policies
            .iter()
            .zip(1_u32..)
            .fold(query, |query, (arn, n)| query.with(&format!("PolicyArns.member.{n}.arn"), arn));
        let query = query.tagged(rights.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let mut said = self.send(&aws.makes.sts, &query).await?;
        let mut field = |path: [&str; 2]| said.root.take(&[result, path[0], path[1]]);
        if !field([who, "Arn"]).is_some_and(|arn| arn.ends_with(&format!("/{name}"))) {
            return Err(unknown("a session of another name was answered"));
        }
        let expiration = field(["Credentials", "Expiration"]).unwrap_or_default();
        let ends = instant_of(&expiration).filter(|ends| *ends <= until);
        let ends =
            ends.ok_or_else(|| unknown("a session was answered that ends at no time, or later than was asked for"))?;
        let fields = [
            ("access_key_id", field(["Credentials", "AccessKeyId"])),
            ("secret_access_key", field(["Credentials", "SecretAccessKey"])),
            ("session_token", field(["Credentials", "SessionToken"])),
            ("expiration", Some(expiration)),
        ];
        Ok(Created { oid: account::instant(ends), issued: Some(issued(fields)?) })
    }

    /// Where it is refused after the name was taken, there is to be no effect.
    async fn settle(&self, made: Result<Created, EngineError>) -> Result<Created, EngineError> {
        let error = match made {
            Err(error @ (EngineError::Refused { .. } | EngineError::Busy { .. })) => error,
            // The name is ours, so something else was there.
            Err(EngineError::Duplicate) => return Err(unknown("something of it was there")),
            other => return other,
        };
        match clean::remove(self.aws, &self.aws.makes.iam, &self.create.name).await {
            Ok(Cleaning::Gone) => Err(error),
            Ok(Cleaning::Left { .. }) | Err(_) => {
                Err(EngineError::Unknown { reason: format!("{error}; and it could not be undone") })
            }
        }
    }
}

/// What a service has made.
fn issued<const N: usize>(fields: [(&str, Option<String>); N]) -> Result<SecretFields, EngineError> {
    let mut all = Vec::with_capacity(N);
    for (name, value) in fields {
        let value =
            value.filter(|value| !value.is_empty()).ok_or_else(|| unknown("an answer lacks what was issued"))?;
        all.push((name.to_owned(), SecretVec::new(value.into_bytes())));
    }
    SecretFields::new(all).ok_or_else(|| unknown("what was issued is longer than it can be"))
}

/// In seconds since 1970.
fn instant_of(text: &str) -> Option<u64> {
    u64::try_from(DateTime::from_str(text, Format::DateTimeWithOffset).ok()?.secs()).ok()
}

/// As RFC 3339 has it.
pub(super) fn instant_text(seconds: u64) -> String {
    let at = DateTime::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    at.fmt(Format::DateTime).unwrap_or_else(|_| format!("{seconds} s after 1970"))
}

fn unknown(reason: &str) -> EngineError {
    EngineError::Unknown { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_as_long_as_its_lease_may_or_there_is_none() {
        let of = |role: bool| {
            let role =
                role.then(|| super::super::rules::Role { arn: "a".into(), account: "1".into(), name: "r".into() });
            Session { role, deny: false, inline: None }
        };
        assert_eq!(duration(&of(true), 60), Ok(900), "there is none that is shorter");
        assert_eq!((duration(&of(true), 43_200), duration(&of(false), 129_600)), (Ok(43_200), Ok(129_600)));
        assert!(duration(&of(true), 43_201).is_err() && duration(&of(false), 129_601).is_err());
    }

    #[test]
    fn a_long_name_is_shortened_where_it_must_be() {
        let name = "q0123abcd_".repeat(5);
        assert_eq!(session_name(&name, true), name);
        assert_eq!(session_name("q_1", false), "q_1");
        let short = session_name(&name, false);
        assert!(short.len() == 32 && crate::valid_name(&short) && short != session_name(&name[1..], false));
    }

    #[test]
    fn instants() {
        assert_eq!(instant_of("2026-11-23T14:05:00Z"), Some(1_795_442_700));
        assert_eq!(instant_of("2026-11-23T14:05:00.123456+00:00"), Some(1_795_442_700));
        assert_eq!((instant_of("never"), instant_of("1969-01-01T00:00:00Z")), (None, None));
        assert_eq!(instant_text(1_795_442_700), "2026-11-23T14:05:00Z");
    }
}
