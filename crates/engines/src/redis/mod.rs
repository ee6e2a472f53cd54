//! Redis 7.0 and later.
//!
//! Two connections. One makes principals, and is the one that bindings name; the other ends them, and is opened early and kept.
//! Both say in their name for which target and which term of the executor they work, so that the next executor can end those of
//! the one before.
//!
//! A principal is a user of the server's access lists (ACL). Redis gives users no numbers: its sessions know their user's name, and
//! the number in [`Principal::oid`] is a hash of that and says nothing more. A [`Binding`] is the number of a connection, which
//! one process of the server never gives twice, and 31 bits of a hash of that process' `run_id`.
//!
//! `ACL SETUSER` makes a user or changes the one there is, so the name fences nothing. What fences is the connection: the server
//! executes nothing that came on one that it has ended ([`clients::end`]), and a connection whose caller gave up is
//! ended before anything else is sent ([`kept`]).
//!
//! # Security
//! * The verifier is `#` and 64 hexadecimal digits: the SHA-256 of the password, without salt and in one round. That is enough
//!   for a password of at least 128 random bits, which nobody finds by trying, and for nothing else: never for one that
//!   a person chose. Whoever makes it must draw it at random; nobody here can tell.
//! * Redis has no right to change users that is not the right to become any of them: whoever has the executor's password has
//!   the server. The executor's own password is sent to the server at each login, and the driver keeps a copy for as long as that
//!   takes and does not wipe it.
//! * A user has neither a time after which the server lets it in no more, nor a limit of sessions: `max_ttl_seconds` and
//!   `connection_limit` of a [`Create`] are checked and have no effect there.

mod accounts;
mod check;
mod clients;
mod kept;
mod rules;
mod session;

use core::time::Duration;
use std::collections::BTreeSet;

use async_trait::async_trait;

use self::kept::{Kept, Taken};
use self::session::Session;
use crate::connection::{on, within};
use crate::names::{Spared, check_name, check_target};
use crate::{
    Binding, Checked, Class, Cleaned, Create, Created, Endpoint, Engine, EngineError, Fault, Fenced, Ghost,
    OwnSessions, Passwords, Principal, Refused, Seen, Tls,
};

/// The oldest version that is worked with, 7.0: the first with selectors, and with rights to read and to write a key told apart.
const OLDEST: u32 = 70_000;
/// The user that every connection begins as.
const DEFAULT: &str = "default";
/// The verifier of the empty password.
const EMPTY: &str = "#e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Where a Redis server is, and who we are there.
#[derive(Debug)]
pub struct RedisConfig {
    /// One server, directly: what stands between may hand our commands to another. Its replicas and the other nodes of a
    /// cluster have users of their own, and are targets of their own.
    pub endpoint: Endpoint,
    /// The administrative user.
    pub user: String,
    /// Its password, or several while nobody knows which one the server has.
    pub passwords: Passwords,
    /// Where the connections are noted that are opened.
    pub own: OwnSessions,
    /// Whether the connection is encrypted. There is no channel binding.
    pub tls: Tls,
    /// Names the target in the connections' names: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    pub target: String,
    /// The executor's term of office at this target.
    pub term: u64,
    /// Whether a script that keeps the server from answering (`busy-reply-threshold`, 5 s) is ended, whoever runs it. Otherwise a
    /// principal that may run scripts can put off its own end.
    pub end_scripts: bool,
    /// For a connection, from the name look-up to the first answer.
    pub connect_timeout: Duration,
    /// How long the server may take for one call. Without an answer for so long the connection is given up, and ended at the
    /// server before the next call there.
    pub answer_timeout: Duration,
}

impl RedisConfig {
    fn client_name(&self) -> String {
        format!("{}{}", self.client_prefix(), self.term)
    }

    fn client_prefix(&self) -> String {
        format!("quorate/{}/", self.target)
    }
}

/// The executor's hold on one Redis server. Connects when first asked for something.
#[derive(Debug)]
pub struct Redis {
    config: RedisConfig,
    creates: Kept,
    revocation: Kept,
}

impl Redis {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: RedisConfig) -> Result<Self, EngineError> {
        check_target(&config.target)?;
        if config.user.is_empty() || config.user == DEFAULT || !config.user.bytes().all(|b| b.is_ascii_graphic()) {
            let reason = "not the name of a user made for this, of printable ASCII characters without a space";
            return Err(EngineError::Invalid { field: "user", reason });
        }
        if let Tls::Verified(trust) = &config.tls
            && trust.requires_binding()
        {
            return Err(EngineError::Invalid { field: "tls", reason: "Redis has no channel binding" });
        }
        Ok(Self { config, creates: Kept::default(), revocation: Kept::default() })
    }

    fn endpoint(&self) -> String {
        self.config.endpoint.to_string()
    }

    /// The connection that ends principals.
    async fn take(&self) -> Result<Taken<'_>, EngineError> {
        self.revocation.take(&self.config).await
    }

    fn limit(&self) -> Duration {
        self.config.answer_timeout
    }

    /// Ends sessions of our own user; how many were told to end.
    async fn end_own(
        session: &mut Session,
        user: &str,
        which: impl Fn(&clients::Client) -> bool + Send,
    ) -> Result<usize, EngineError> {
        let all = clients::list(session).await?;
        let ids: BTreeSet<i64> = all.iter().filter(|c| c.user == user && which(c)).map(|c| c.id).collect();
        clients::kill(session, &ids).await
    }
}

/// `#` and the SHA-256 of a password in 64 small hexadecimal digits, but not that of no password.
fn check_verifier(verifier: &str) -> Result<(), EngineError> {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let digits = verifier.strip_prefix('#').unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(is_hex) && verifier != EMPTY {
        return Ok(());
    }
    Err(EngineError::Invalid { field: "verifier", reason: "not # and the SHA-256 of a password in hexadecimal" })
}

/// Neither the user that everybody begins as nor the executor's own.
impl Spared for Redis {
    const WHY: &'static str = "the default user, or the executor's own";

    fn is_spared(&self, name: &str) -> bool {
        name == DEFAULT || name == self.config.user
    }
}

#[async_trait]
impl Engine for Redis {
    fn class(&self) -> Class {
        Class::Upsert
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint()]
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        let prefix = self.config.client_prefix();
        // The name can be anybody's, so it counts only together with our own user.
        let is_older = |client: &clients::Client| {
            let term = client.name.strip_prefix(&prefix).and_then(|term| term.parse::<u64>().ok());
            term.is_some_and(|term| term < self.config.term)
        };
        on!(self.take().await?, self.limit(), |s| Self::end_own(s, &self.config.user, is_older))
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        let taken = self.creates.take(&self.config).await?;
        let binding = taken.session.binding;
        taken.settle(Ok(binding))
    }

    async fn visit(&self) -> Result<(), EngineError> {
        // Whoever may do nothing but read one key may be let in all the same.
        Session::visit(&self.config).await
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        create.validate_with(check_verifier)?;
        self.check_theirs(&create.name)?;
        let rules = accounts::arguments(&create.groups)?;
        if !create.statements.is_empty() {
            return Err(EngineError::Invalid { field: "statements", reason: "Redis has none: all rights are groups" });
        }
        let mut taken = self.creates.bound(&create.binding).await?;
        let work = within(self.limit(), accounts::create(&mut taken.session, create, &rules));
        let result = work.await.map_err(|error| match error {
            EngineError::Unavailable { reason } => EngineError::Unknown { reason },
            other => other,
        });
        taken.settle(result)
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        self.check_theirs(name)?;
        on!(self.take().await?, self.limit(), |s| accounts::fence(s, name, binding))
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        self.check_all(principals)?;
        on!(self.take().await?, self.limit(), |s| accounts::refuse(s, principals))
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        self.check_all(principals)?;
        on!(self.take().await?, self.limit(), |s| accounts::kill(s, principals))
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        self.check_all(principals)?;
        let endpoint = self.endpoint();
        on!(self.take().await?, self.limit(), |s| accounts::look(s, &endpoint, principals))
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        self.check_all(principals)?;
        on!(self.take().await?, self.limit(), |s| accounts::clean(s, principals))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        on!(self.take().await?, self.limit(), |s| accounts::list(s, prefix))
    }

    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Fault>), EngineError> {
        let endpoint = self.endpoint();
        let ghosts = on!(self.take().await?, self.limit(), |s| accounts::ghosts(s, &endpoint))?;
        Ok((ghosts, Vec::new()))
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        let taken = match self.take().await {
            Ok(taken) => taken,
            // It lets us in, and no further.
            Err(EngineError::Refused { code, .. }) if code == "NOPERM" => {
                return Ok(check::nothing(&self.config, groups));
            }
            Err(error) => return Err(error),
        };
        on!(taken, self.limit(), |s| check::check(s, &self.config, groups))
    }

    async fn timeline(&self) -> Result<u32, EngineError> {
        on!(self.take().await?, self.limit(), |s| check::timeline(s))
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        on!(self.take().await?, self.limit(), |s| accounts::names(s, prefix))
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        self.check_theirs(name)?;
        on!(self.take().await?, self.limit(), |s| accounts::claim(s, name))
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| self.check_theirs(name))?;
        on!(self.take().await?, self.limit(), |s| accounts::disclaim(s, names))
    }

    async fn set_password(&self, verifier: &str, binding: &Binding) -> Result<(), EngineError> {
        check_verifier(verifier)?;
        let taken = self.creates.bound(binding).await?;
        on!(taken, self.limit(), |s| accounts::set_password(s, &self.config.user, verifier))
    }

    async fn end_strangers(&self) -> Result<usize, EngineError> {
        let taken = self.take().await?;
        let _settled = self.config.own.settled().await;
        let process = taken.session.binding.pid;
        let ours = self.config.own.all();
        let is_strange = |c: &clients::Client| !ours.contains(&Binding { pid: process, backend_start_micros: c.id });
        on!(taken, self.limit(), |s| Self::end_own(s, &self.config.user, is_strange))
    }

    fn passwords(&self) -> &Passwords {
        &self.config.passwords
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_a_hash_and_nothing_else() {
        let good = format!("#{}", "0f".repeat(32));
        assert_eq!(check_verifier(&good), Ok(()));
        let upper = good.to_uppercase();
        let (short, long, clear) = (&good[..64], format!("{good}0"), format!(">{}", &good[1..]));
        for bad in ["", "#", short, &long, &clear, &upper, &good[1..], EMPTY, "nopass", &format!("{} ", &good[..64])] {
            assert!(check_verifier(bad).is_err(), "{bad:?}");
        }
    }
}
