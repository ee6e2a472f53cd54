//! Removing what is left of principals: the user last, since the services remove none that has something.

use super::Aws;
use super::account::{ENDED, Mark};
use super::api::{Api, DELETE_CONFLICT, Query, is, is_absent};
use super::issue::instant_text;
use super::revoke::{Holder, cut, ends_at, find, policy_of};
use super::xml::Node;
use crate::{Cleaned, Cleaning, EngineError, Principal};

/// How often a user is tried that has something new each time.
const TRIES: usize = 3;
/// How long after its end a session is taken for one that may live, in seconds: the services' servers have clocks of their own.
const MARGIN: u64 = 60;

/// See [`crate::Engine::clean`].
pub(super) async fn clean(aws: &Aws, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
    let now = aws.now_as_executor(&aws.ends).await?;
    let mut all = Vec::with_capacity(principals.len());
    for principal in principals {
        all.push(Cleaned { name: principal.name.clone(), outcome: one(aws, principal, now).await? });
    }
    Ok(all)
}

async fn one(aws: &Aws, Principal { name, oid }: &Principal, now: u64) -> Result<Cleaning, EngineError> {
    match find(aws, name).await? {
        None => Ok(Cleaning::Gone),
        Some(Holder::Ours(Mark::User)) => remove(aws, &aws.ends.iam, name).await,
        Some(Holder::Ours(Mark::Fence { until })) if now > until => remove(aws, &aws.ends.iam, name).await,
        Some(Holder::Ours(Mark::Fence { until })) => {
            Ok(left(format!("its name is kept until {}, since a create may arrive yet", instant_text(until))))
        }
        Some(Holder::Ours(Mark::Session { until, role })) => {
            let ends = ends_at(*oid, until).saturating_add(MARGIN);
            if now <= ends {
                return Ok(left(format!("its session lives until {}, cut off or not", instant_text(ends))));
            }
            if let Some(role) = role {
                let query = Query::iam("DeleteRolePolicy").with("RoleName", &role).with("PolicyName", &policy_of(name));
                aws.ends.iam.find(&aws.config, query).await?;
            }
            remove(aws, &aws.ends.iam, name).await
        }
        Some(Holder::Ours(Mark::Claim)) => Ok(left("it is a claim".to_owned())),
        Some(Holder::Other(path)) => Ok(left(format!("it is not ours, but of the path {path}"))),
    }
}

fn left(reason: String) -> Cleaning {
    Cleaning::Left { databases: Vec::new(), reason: Some(reason) }
}

/// Removes a user and all that it has, in whatever state.
///
/// What cuts it off goes last: whatever comes to it meanwhile, it has no right any more.
pub(super) async fn remove(aws: &Aws, iam: &Api, name: &str) -> Result<Cleaning, EngineError> {
    let user = User { aws, iam, name };
    let mut reason = None;
    for _ in 0..TRIES {
        match user.strip().await {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return Ok(Cleaning::Gone),
            Err(EngineError::Refused { code, message }) => return Ok(left(format!("{message} ({code})"))),
            Err(error) => return Err(error),
        }
        match user.tell("DeleteUser", &[]).await {
            Ok(()) => return Ok(Cleaning::Gone),
            Err(error) if is(&error, DELETE_CONFLICT) => {
                let now = aws.now_as_executor(&aws.ends).await?;
                cut(aws, name, now).await?;
                reason = Some(user.strip_more().await.unwrap_or_else(|| error.to_string()));
            }
            Err(EngineError::Refused { code, message }) => return Ok(left(format!("{message} ({code})"))),
            Err(error) => return Err(error),
        }
    }
    Ok(Cleaning::Left { databases: Vec::new(), reason })
}

struct User<'a> {
    aws: &'a Aws,
    iam: &'a Api,
    name: &'a str,
}

impl User<'_> {
    /// Changes something of it, if it is there.
    async fn tell(&self, action: &str, parameters: &[(&str, &str)]) -> Result<(), EngineError> {
        let query = Query::iam(action).with("UserName", self.name);
        let query = parameters.iter().fold(query, |query, (name, value)| query.with(name, value));
        self.iam.find(&self.aws.config, query).await.map(drop)
    }

    /// All that it has of something.
    async fn all(&self, action: &str, list: &str, field: &str) -> Result<Vec<String>, EngineError> {
        let query = Query::iam(action).with("UserName", self.name);
        let entry = |node: &Node| Some(if field.is_empty() { node.own() } else { node.text(&[field])? }.to_owned());
        self.iam.list(&self.aws.config, query, [&format!("{action}Result"), list], entry).await
    }

    /// What ours have.
    async fn strip(&self) -> Result<(), EngineError> {
        for arn in self.all("ListAttachedUserPolicies", "AttachedPolicies", "PolicyArn").await? {
            self.tell("DetachUserPolicy", &[("PolicyArn", &arn)]).await?;
        }
        for group in self.all("ListGroupsForUser", "Groups", "GroupName").await? {
            self.tell("RemoveUserFromGroup", &[("GroupName", &group)]).await?;
        }
        let inline = self.all("ListUserPolicies", "PolicyNames", "").await?;
        for policy in inline.iter().filter(|policy| *policy != ENDED) {
            self.tell("DeleteUserPolicy", &[("PolicyName", policy)]).await?;
        }
        for id in self.all("ListAccessKeys", "AccessKeyMetadata", "AccessKeyId").await? {
            self.tell("DeleteAccessKey", &[("AccessKeyId", &id)]).await?;
        }
        if inline.iter().any(|policy| policy == ENDED) {
            self.tell("DeleteUserPolicy", &[("PolicyName", ENDED)]).await?;
        }
        Ok(())
    }

    /// What only somebody else can have given it, or it itself. What the services say of one that could not be removed.
    async fn strip_more(&self) -> Option<String> {
        const LISTS: [(&str, &str, &str, &str, &str); 4] = [
            ("ListMFADevices", "MFADevices", "SerialNumber", "DeactivateMFADevice", "SerialNumber"),
            ("ListSigningCertificates", "Certificates", "CertificateId", "DeleteSigningCertificate", "CertificateId"),
            ("ListSSHPublicKeys", "SSHPublicKeys", "SSHPublicKeyId", "DeleteSSHPublicKey", "SSHPublicKeyId"),
            (
                "ListServiceSpecificCredentials",
                "ServiceSpecificCredentials",
                "ServiceSpecificCredentialId",
                "DeleteServiceSpecificCredential",
                "ServiceSpecificCredentialId",
            ),
        ];
        let mut trouble = self.tell("DeleteLoginProfile", &[]).await.err();
        for (list, path, field, delete, parameter) in LISTS {
            match self.all(list, path, field).await {
                Ok(found) => {
                    for id in found {
                        let done = self.tell(delete, &[(parameter, &id)]).await;
                        trouble = trouble.or(done.err());
                    }
                }
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        trouble.map(|error| error.to_string())
    }
}
