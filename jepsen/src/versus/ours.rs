//! This vault, by its SDK.

use super::fact::Millis;
use super::side::{Failed, Left, Login, Vault};
use super::users::PATIENCE;
use crate::history::Answer;
use crate::lab::database::ROLES;
use crate::lab::{FOLDERS, Lab, NAMESPACE};
use crate::workload::answer;
use quorate_api::client::Client;
use quorate_api::status::Failure;
use quorate_state::ids::LeaseId;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long one question may take whether a lease is over.
const LOOK: Duration = Duration::from_millis(1);
/// What is not over.
const LIVING: [&str; 3] = ["intent", "active", "revoking"];

/// A caller.
pub(crate) struct Ours {
    client: Client,
    observer: Client,
}

impl Ours {
    pub(crate) fn connect(lab: &Arc<Lab>) -> anyhow::Result<Self> {
        let observer = lab.observer()?.with_timeout(PATIENCE);
        Ok(Self { client: lab.worker("chaos", PATIENCE)?, observer })
    }
}

fn failed(failure: &Failure) -> Failed {
    let known = matches!(answer(failure, true), Answer::Refused { .. });
    // That a login did not come about is no refusal: its lease is ended by the vault, and watched.
    Failed { known: known && failure.code != "lease_failed", why: format!("{}: {}", failure.code, failure.message) }
}

fn parse(lease: &str) -> Result<LeaseId, Failed> {
    lease.parse().map_err(|_| Failed { known: true, why: "no lease".to_owned() })
}

#[async_trait::async_trait]
impl Vault for Ours {
    async fn issue(&self, ttl: Millis) -> Result<Login, Failed> {
        let role = ROLES.first().copied().unwrap_or_default();
        let made = self.client.issue_lease(role, Some(ttl)).await.map_err(|why| failed(&why))?;
        let password = made.password().and_then(|password| std::str::from_utf8(password.expose()).ok());
        let password = Zeroizing::new(password.unwrap_or_default().to_owned());
        Ok(Login { lease: made.lease.to_string(), name: made.username.clone(), password, ends: made.expires_at })
    }

    async fn renew(&self, lease: &str, ttl: Millis) -> Result<Millis, Failed> {
        self.client.renew(parse(lease)?, ttl).await.map_err(|why| failed(&why))
    }

    async fn end(&self, lease: &str) -> Result<bool, Failed> {
        let id = parse(lease)?;
        self.client.revoke(id).await.map_err(|why| failed(&why))?;
        self.over(lease, false).await
    }

    async fn over(&self, lease: &str, ended: bool) -> Result<bool, Failed> {
        let id = parse(lease)?;
        if ended {
            // One that has ended meanwhile refuses it, and is over all the same.
            let _ = self.client.revoke(id).await;
        }
        match self.client.wait_revoked(id, LOOK).await {
            Ok(_) => Ok(true),
            Err(why) if why.code == "deadline" => Ok(false),
            Err(why) => Err(failed(&why)),
        }
    }

    async fn write(&self, number: u64) -> Result<(), Failed> {
        let path = format!("{}/w{}", FOLDERS.first().copied().unwrap_or_default(), number % 50);
        let done = self.client.put(NAMESPACE, &path, number.to_string().as_bytes(), None).await;
        done.map(drop).map_err(|why| failed(&why))
    }

    async fn left(&self) -> Result<Left, Failed> {
        let mut left = Left::default();
        for state in LIVING {
            for lease in self.observer.leases(state).await.map_err(|why| failed(&why))? {
                left.leases.push(format!("{state} {}", lease.principal));
                left.logins.push(lease.principal);
            }
        }
        Ok(left)
    }
}
