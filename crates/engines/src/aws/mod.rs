//! Amazon Web Services: IAM users and sessions of STS, by the Query API of both.
//!
//! AWS makes the credentials ([`Class::IssuedByTarget`]): they come with the answer to a create and with no other. What a role's groups say
//! ([`rules`]) decides what is made: an IAM user with an access key, a session of a role, or one of a federated user.
//!
//! Whatever is made, an IAM user of the lease's name is made first, and says by its path what it is ([`account`]). The services make one of a name,
//! whoever asks and however often. So the name is the fence: who ends an intent takes it, and keeps it as long as a create may arrive, which is as
//! long as the services take its signature ([`bound`]).
//!
//! The number in [`Principal::oid`] is a hash of a user's name; of a session it is when that ends, in seconds since 1970.
//!
//! # Security
//! * A user is ended by a policy that denies it everything, also to what it has made with its key by `GetSessionToken`, and then by the end of its
//!   keys. Sessions of *roles* that it has assumed are not its own any more, and live on.
//! * A session can't be revoked. Where the role's groups let the executor write an inline policy of the role, it is denied everything; elsewhere
//!   a look says until when it lives, and it counts as alive until then.
//! * The services take seconds to tell all their servers of a change. A look says so for [`AwsConfig::propagation`], and knows no more after it.
//! * The executor's access key has power over all users of its path, and nothing here asks for more. What is attached to them is a matter of its own
//!   policy (`iam:PolicyARN`, `iam:PermissionsBoundary`): see docs/aws.md.

mod account;
mod api;
mod bound;
mod check;
mod clean;
mod executor;
mod issue;
mod revoke;
mod rules;
mod xml;

use core::time::Duration;
use std::time::SystemTime;

use async_trait::async_trait;
use quorate_crypto::secret::{SecretFields, SecretVec};
use tokio::time::{Instant, sleep};

use self::account::Mark;
use self::api::{Api, Key, Query, is_absent, repeatable, unreadable};
use self::bound::{Bindings, boottime};
use self::executor::{Executor, access_key};
use self::revoke::{Holder, find, keys};
use self::xml::Node;
use crate::names::{check_name, check_names, check_target};
use crate::{
    Binding, Checked, Class, Cleaned, Cleaning, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    Passwords, Principal, Refused, Seen, Tls, number_of,
};

/// Between tries of what is not known everywhere yet.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Where the services are, and who we are there.
#[derive(Debug)]
pub struct AwsConfig {
    /// STS, that of the region.
    pub sts: Endpoint,
    /// IAM, one for all regions of a partition.
    pub iam: Endpoint,
    /// For example `eu-central-1`: what requests to STS are signed for. IAM's own follows from it.
    pub region: String,
    /// The ARN of the executor's IAM user: the account is part of it.
    pub user: String,
    /// Its access key, an id and a secret with a space between, or several while nobody knows which one is right.
    pub passwords: Passwords,
    /// Whether connections are encrypted. There is no channel binding.
    pub tls: Tls,
    /// Names the target in the paths of its users: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target.
    pub term: u64,
    /// How long the services are given to tell all their servers of a change: a refusal is no end before that. 10 s is more than twice what others
    /// have measured; AWS promises no bound.
    pub propagation: Duration,
    /// For a connection, from the name look-up to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// For one answer.
    pub answer_timeout: Duration,
}

/// Both services, each with a connection of its own.
#[derive(Debug)]
struct Services {
    iam: Api,
    sts: Api,
}

impl Services {
    fn new(config: &AwsConfig) -> Result<Self, EngineError> {
        Ok(Self { iam: Api::iam(config)?, sts: Api::sts(config)? })
    }
}

/// The executor's hold on one account. Connects when first asked for something.
#[derive(Debug)]
pub struct Aws {
    config: AwsConfig,
    /// What ends principals, and looks, waits for nothing that makes one.
    ends: Services,
    makes: Services,
    bindings: Bindings,
    executor: Executor,
}

impl Aws {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: AwsConfig) -> Result<Self, EngineError> {
        let invalid = |field, reason| Err(EngineError::Invalid { field, reason });
        check_target(&config.target)?;
        let Some(executor) = Executor::parse(&config.user) else {
            return invalid("user", "not the ARN of an IAM user: arn:aws:iam::ACCOUNT:user/NAME");
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if config.region.is_empty() || config.region.len() > 32 || !config.region.bytes().all(plain) {
            return invalid("region", "not the name of a region");
        }
        let (ends, makes) = (Services::new(&config)?, Services::new(&config)?);
        Ok(Self { config, ends, makes, bindings: Bindings::default(), executor })
    }

    /// One that sends requests of a create for so long only.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.bindings.patience = patience;
        self
    }

    fn endpoint(&self) -> String {
        self.config.iam.to_string()
    }

    /// Asks the services who we are, and what time it is there, in seconds since 1970.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the code `account` or `executor` when we are somebody else: nothing of ours is there.
    async fn now_as_executor(&self, services: &Services) -> Result<u64, EngineError> {
        let said = services.sts.ask(&self.config, Query::sts("GetCallerIdentity")).await?;
        let field = |name| said.root.text(&["GetCallerIdentityResult", name]).map(str::to_owned).ok_or_else(unreadable);
        let (account, arn, ours) = (field("Account")?, field("Arn")?, &self.executor);
        let code = if account != ours.account { "account" } else { "executor" };
        if account != ours.account || arn != ours.arn {
            let message = format!("the access key is that of {arn}, in the account {account}, and not of {}", ours.arn);
            return Err(EngineError::Refused { code: code.to_owned(), message });
        }
        said.now()
    }
}

#[async_trait]
impl Engine for Aws {
    fn class(&self) -> Class {
        Class::IssuedByTarget
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint()]
    }

    /// There are no sessions of executors: each create is fenced by its own name.
    async fn take_over(&self) -> Result<usize, EngineError> {
        self.now_as_executor(&self.ends).await.map(|_| 0)
    }

    /// Another one each time: it is good for one create.
    async fn bind(&self) -> Result<Binding, EngineError> {
        let began = boottime();
        self.now_as_executor(&self.makes).await?;
        self.bindings.add(began)
    }

    async fn visit(&self) -> Result<(), EngineError> {
        self.now_as_executor(&self.ends).await.map(drop)
    }

    /// Asks STS who it is that has this credential. One that is new is tried again for [`AwsConfig::propagation`].
    async fn try_out(&self, name: &str, secret: &SecretVec) -> Result<(), EngineError> {
        check_name(name)?;
        let invalid = |reason| EngineError::Invalid { field: "secret", reason };
        let fields = SecretFields::decode(secret.expose()).ok_or_else(|| invalid("not what was issued"))?;
        let field = |name| fields.get(name).ok_or_else(|| invalid("not what was issued"));
        let id = core::str::from_utf8(field("access_key_id")?.expose()).map_err(|_| invalid("no text"))?;
        let key = Key { id, secret: field("secret_access_key")?, token: fields.get("session_token") };
        let until = Instant::now() + self.config.propagation;
        let said = loop {
            let query = Query::sts("GetCallerIdentity").again();
            match repeatable(self.ends.sts.call_as(&key, &query, SystemTime::now()).await) {
                Err(error) if error.is_login_refused() && Instant::now() < until => sleep(TRY_AGAIN).await,
                other => break other?,
            }
        };
        let arn = said.root.text(&["GetCallerIdentityResult", "Arn"]).unwrap_or_default();
        let is_it =
            [true, false].iter().any(|is_role| arn.ends_with(&format!("/{}", issue::session_name(name, *is_role))));
        if is_it {
            return Ok(());
        }
        Err(EngineError::Refused { code: "identity".to_owned(), message: "the credential is another's".to_owned() })
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        // Whoever calls seals with its verifier what is issued: it is nothing that is sent.
        create.validate_with(|_| Ok(()))?;
        let rights = rules::rights(&create.groups)?;
        if let rules::Kind::Session(session) = &rights.kind {
            issue::duration(session, create.max_ttl_seconds)?;
        }
        if !create.statements.is_empty() {
            return Err(EngineError::Invalid { field: "statements", reason: "AWS has none: all rights are groups" });
        }
        let bound = self.bindings.spend(&create.binding)?;
        issue::create(self, create, &rights, &bound).await
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        check_name(name)?;
        revoke::fence(self, name, binding).await
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        check_names(principals)?;
        revoke::refuse(self, principals).await
    }

    /// There is nothing to be ended: each request is let in by itself.
    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        check_names(principals)?;
        Ok(0)
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        check_names(principals)?;
        revoke::look(self, &self.endpoint(), principals).await
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        check_names(principals)?;
        clean::clean(self, principals).await
    }

    /// Names that are kept for a fence, and claims, are among them.
    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        self.now_as_executor(&self.ends).await?;
        let all = revoke::all(self).await?.into_iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(all.map(|(name, mark)| Principal { oid: Some(mark.number(&name)), name }).collect())
    }

    /// There are none: what a user has goes with it.
    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        Ok((Vec::new(), Vec::new()))
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        check::check(self, groups).await
    }

    /// A number of the account. There is no fail-over that could be seen from outside.
    async fn timeline(&self) -> Result<u32, EngineError> {
        self.now_as_executor(&self.ends).await?;
        Ok(number_of(&self.executor.account))
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        self.now_as_executor(&self.ends).await?;
        Ok(revoke::all(self).await?.into_keys().filter(|name| name.starts_with(prefix)).collect())
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        self.now_as_executor(&self.makes).await?;
        let path = Mark::Claim.path(&self.config.target);
        let query = Query::iam("CreateUser").with("UserName", name).with("Path", &path);
        let query = query.tagged([("quorate-target", self.config.target.as_str())]);
        repeatable(self.makes.iam.call(&self.config, &query).await).map(drop)
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| check_name(name))?;
        self.now_as_executor(&self.ends).await?;
        let mut left = Vec::new();
        for name in names {
            let is_gone = match find(self, name).await? {
                None => true,
                Some(Holder::Ours(Mark::Claim)) if keys(self, name).await?.is_empty() => {
                    clean::remove(self, &self.ends.iam, name).await? == Cleaning::Gone
                }
                Some(_) => false,
            };
            if !is_gone {
                left.push(name.clone());
            }
        }
        Ok(left)
    }

    /// AWS makes its secrets itself.
    async fn set_password(&self, _: &str, _: &Binding) -> Result<(), EngineError> {
        Err(EngineError::Invalid {
            field: "password",
            reason: "AWS makes its secrets itself: give the executor another access key",
        })
    }

    /// Deactivates the executor's other access key, if it has one. What was made with that one by `GetSessionToken` lives on.
    async fn end_strangers(&self) -> Result<usize, EngineError> {
        self.now_as_executor(&self.ends).await?;
        // The one that was let in just now.
        let Some(known) = self.config.passwords.all().into_iter().next() else { return Ok(0) };
        let (ours, _) = access_key(&known.password)?;
        let user = self.executor.name.as_str();
        let query = Query::iam("ListAccessKeys").with("UserName", user);
        let key = |key: &Node| Some((key.text(&["AccessKeyId"])?.to_owned(), key.text(&["Status"])? == "Active"));
        let listed =
            self.ends.iam.list(&self.config, query, ["ListAccessKeysResult", "AccessKeyMetadata"], key).await?;
        let mut ended = 0;
        for (id, _) in listed.into_iter().filter(|(id, is_active)| *is_active && id != ours) {
            let query = Query::iam("UpdateAccessKey")
                .with("UserName", user)
                .with("AccessKeyId", &id)
                .with("Status", "Inactive");
            match self.ends.iam.ask(&self.config, query).await {
                Ok(_) => ended += 1,
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}
