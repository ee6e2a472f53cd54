//! Dynamic credentials: the password is made here, and only its verifier leaves.

use super::change::{Submitted, unexpected};
use super::{BACKOFF, Client, Form, System, lock};
use crate::issued;
use crate::status::{BAD_ANSWER, DEADLINE, DENIED, Failure, INVALID_ARGUMENT, NOT_FOUND};
use crate::vault::{Lease, ListLeasesRequest};
use crate::verifier::verifier;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_crypto::secret::{Secret, SecretFields};
use quorate_state::change::Change;
use quorate_state::ids::{LeaseId, Millis};
use quorate_state::lease::Selector;
use quorate_state::outcome::Outcome;
use std::time::Duration;
use tokio::time::Instant;

/// What a login proves itself with.
#[derive(Debug)]
pub enum Proof {
    /// A password of 32 characters of base64url: 192 random bits. No server has seen it.
    Password(Secret<32>),
    /// What the target issued. It and its executor have seen it, and nobody else.
    Issued(SecretFields),
}

/// A login that works until its lease ends.
#[derive(Debug)]
pub struct Credential {
    /// The lease.
    pub lease: LeaseId,
    /// The login.
    pub username: String,
    /// What it proves itself with.
    pub proof: Proof,
    /// What kind of system it is for.
    pub system: System,
    /// Where to use it.
    pub host: String,
    /// Where to use it.
    pub port: u16,
    /// Where to use it: the database of PostgreSQL; of MariaDB the schema and of RabbitMQ the virtual host, if the target names one.
    pub database: String,
    /// Cluster time, milliseconds since 1970.
    pub expires_at: Millis,
    /// Where nothing can end it before its time: that time. It works until then, whoever ends the lease before.
    pub dies_at: Option<Millis>,
}

impl Credential {
    /// Its password; none where the target issues something else.
    #[must_use]
    pub fn password(&self) -> Option<&Secret<32>> {
        match &self.proof {
            Proof::Password(password) => Some(password),
            Proof::Issued(_) => None,
        }
    }
}

impl Client {
    /// Gets a credential of a role, for `ttl` milliseconds or the role's default.
    ///
    /// # Errors
    /// `not_found` without such a role, `quota`, `target_unavailable`; the members'.
    pub async fn issue_lease(&self, role: &str, ttl: Option<Millis>) -> Result<Credential, Failure> {
        let remembered = lock(&self.forms).get(role).copied();
        if let Some(form) = remembered {
            match self.issue_with(role, form, ttl).await {
                // Perhaps the role was changed since.
                Err(failure) if failure.code == INVALID_ARGUMENT => {}
                done => return done,
            }
        }
        let roles = self.roles().await?.roles;
        let Some(found) = roles.iter().find(|r| r.name == role) else {
            lock(&self.forms).remove(role);
            return Err(Failure::new(NOT_FOUND, format!("there is no role {role}")));
        };
        // One member's word: what no role can have would keep a processor busy for hours.
        let form = Form::named(&found.verifier, found.scram_iterations).filter(|form| form.is_bounded());
        let form = form.ok_or_else(|| {
            let (verifier, iterations) = (&found.verifier, found.scram_iterations);
            Failure::new(
                BAD_ANSWER,
                format!("role {role} would have verifiers `{verifier}` of {iterations} iterations"),
            )
        })?;
        let issued = self.issue_with(role, form, ttl).await?;
        lock(&self.forms).insert(role.to_owned(), form);
        Ok(issued)
    }

    async fn issue_with(&self, role: &str, form: Form, ttl: Option<Millis>) -> Result<Credential, Failure> {
        let password = self.password();
        // Some are expensive on purpose, so not among the tasks that others wait for.
        let (salt, copy) = (self.random::<16>(), Secret::<32>::init_with(|out| *out = *password.expose()));
        let verifier = tokio::task::spawn_blocking(move || verifier(form, copy.expose(), &salt))
            .await
            .map_err(|why| Failure::new(crate::status::INTERNAL, why))?;
        let submitted = self.change(Change::IssueLease { role: role.to_owned(), verifier, ttl }).await?;
        let Submitted {
            outcome: Outcome::Intent { lease, principal, expires_at }, lease: Some(described), issued, ..
        } = submitted
        else {
            return Err(unexpected(&submitted.outcome));
        };
        let proof = match form {
            Form::Sealed => {
                let opened = issued::open(password.expose(), &lease, &issued).map(Proof::Issued);
                let what = if issued.is_empty() { "has ended" } else { "is not sealed to this client" };
                opened.ok_or_else(|| Failure::new(BAD_ANSWER, format!("what was issued for lease {lease} {what}")))?
            }
            _ => Proof::Password(password),
        };
        let port = u16::try_from(described.port).map_err(|_| Failure::new(BAD_ANSWER, "the port is none"))?;
        let system = described.system.parse();
        let system = system.map_err(|why| Failure::new(BAD_ANSWER, format!("the kind of system {why}")))?;
        let Lease { host, database, dies_at, .. } = described;
        let dies_at = (dies_at > 0).then_some(dies_at);
        Ok(Credential { lease, username: principal, proof, system, host, port, database, expires_at, dies_at })
    }

    fn password(&self) -> Secret<32> {
        let raw = Secret::<24>::random(&mut *lock(&self.rng));
        // 24 bytes are 32 characters exactly.
        Secret::init_with(|out| URL_SAFE_NO_PAD.encode_slice(raw.expose(), out).map_or((), drop))
    }

    /// Moves the end of a lease to `ttl` milliseconds from now. Returns the new end, in cluster time.
    ///
    /// # Errors
    /// `lease_state` when it has ended; the members'.
    pub async fn renew(&self, lease: LeaseId, ttl: Millis) -> Result<Millis, Failure> {
        match self.change(Change::RenewLease { lease, ttl }).await?.outcome {
            Outcome::Renewed { expires_at, .. } => Ok(expires_at),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a lease: from the returned log index on no node honours it. That the target has ended it too is known when
    /// [`Client::wait_revoked`] returns.
    ///
    /// # Errors
    /// The members'.
    pub async fn revoke(&self, lease: LeaseId) -> Result<u64, Failure> {
        Ok(self.change(Change::RevokeLease { lease }).await?.index)
    }

    /// Ends every lease that `selector` names: from the returned log index on no node honours any that was asked for before. That
    /// their targets have ended them too is known when [`Client::wait_all_revoked`] returns.
    ///
    /// # Errors
    /// The members'.
    pub async fn revoke_all(&self, selector: Selector) -> Result<u64, Failure> {
        Ok(self.change(Change::RevokeLeases { selector }).await?.index)
    }

    /// Waits until the ends of all leases that `selector` names, and that were asked for before `index`, were seen at their targets.
    /// Of others than the caller's own it takes the right to list leases, `lease:list`.
    ///
    /// # Errors
    /// `deadline` when some were not seen in time, `denied` when the caller may not see them: revocation goes on by itself.
    pub async fn wait_all_revoked(&self, selector: &Selector, index: u64, limit: Duration) -> Result<(), Failure> {
        let wanted = match selector.clone() {
            Selector::Role(role) => ListLeasesRequest { role, ..Default::default() },
            Selector::Target(target) => ListLeasesRequest { target, ..Default::default() },
            Selector::Identity(owner) => ListLeasesRequest { owner, ..Default::default() },
            Selector::Below(below) => ListLeasesRequest { below, ..Default::default() },
            Selector::Namespace(namespace) => ListLeasesRequest { namespace, ..Default::default() },
        };
        let blind = |failure: Failure| match failure.code {
            DENIED => {
                let what = "whether they have ended at their targets cannot be seen without the action lease:list";
                let what = format!("from log index {index} on no node honours the leases of {selector}, but {what}");
                Failure::new(DENIED, what)
            }
            _ => failure,
        };
        let deadline = Instant::now() + limit;
        let mut pause = BACKOFF.0;
        loop {
            let mut left = false;
            // In the direction in which they move, so that none is missed between two questions; what is mostly there comes first.
            for state in ["revoking", "intent", "active", "revoking"] {
                let wanted = ListLeasesRequest { state: state.to_owned(), ..wanted.clone() };
                left = left
                    || self.find_lease(wanted, |lease| lease.intent_index <= index).await.map_err(blind)?.is_some();
            }
            if !left {
                return Ok(());
            }
            if Instant::now() + pause >= deadline {
                let what = format!("some leases of {selector} were not yet seen to have ended at their targets");
                return Err(Failure::new(DEADLINE, what));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Waits until the end of a lease was seen at its target.
    ///
    /// # Errors
    /// `deadline` when it was not seen in time: revocation goes on by itself.
    pub async fn wait_revoked(&self, lease: LeaseId, limit: Duration) -> Result<Lease, Failure> {
        let deadline = Instant::now() + limit;
        let mut pause = BACKOFF.0;
        loop {
            let now = self.lease(lease).await?;
            if now.state == "revoked" {
                return Ok(now);
            }
            if Instant::now() + pause >= deadline {
                let what = format!("lease {lease} is {}, and its end was not yet seen at the target", now.state);
                return Err(Failure::new(DEADLINE, what));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}
