//! What only looks, answered by one member.
//!
//! One member's answer is one member's word. Nothing that decides whom a secret is sealed to, or what a secret is, rests
//! on it: [`super::Client::put`] compares with pins, [`super::Client::get`] asks t members.

use super::{CALL, Client, call};
use crate::status::Failure;
use crate::vault::{
    Lease, ListLeasesRequest, ListSecretsReply, ListSecretsRequest, ReadLeaseRequest, ReadMountsReply,
    ReadMountsRequest, ReadPoliciesReply, ReadPoliciesRequest, ReadRolesReply, ReadRolesRequest, ReadStatusReply,
    ReadStatusRequest, ReadVersionsReply, ReadVersionsRequest, SecretInfo,
};
use futures::future::join_all;
use quorate_state::ids::{LeaseId, MemberIndex};

impl Client {
    /// Every path below a prefix.
    ///
    /// # Errors
    /// The member's.
    pub async fn list(&self, namespace: &str, prefix: &str) -> Result<Vec<SecretInfo>, Failure> {
        let mut all: Vec<SecretInfo> = Vec::new();
        loop {
            let after = all.last().map(|s| s.path.clone()).unwrap_or_default();
            let request = ListSecretsRequest {
                namespace: namespace.to_owned(),
                prefix: prefix.to_owned(),
                after: after.clone(),
                limit: 0,
            };
            let ListSecretsReply { secrets, more } = self
                .any(|mut vault| {
                    let request = request.clone();
                    async move { vault.list_secrets(request).await }
                })
                .await?;
            let stuck = secrets.last().is_none_or(|last| last.path <= after);
            all.extend(secrets);
            if !more || stuck {
                return Ok(all);
            }
        }
    }

    /// The versions of a secret, without their content.
    ///
    /// # Errors
    /// The member's.
    pub async fn versions(&self, namespace: &str, path: &str) -> Result<ReadVersionsReply, Failure> {
        let request = ReadVersionsRequest { namespace: namespace.to_owned(), path: path.to_owned() };
        self.any(|mut vault| {
            let request = request.clone();
            async move { vault.read_versions(request).await }
        })
        .await
    }

    /// Mounts, keyrings and customer keys of a namespace.
    ///
    /// # Errors
    /// The member's.
    pub async fn mounts(&self, namespace: &str) -> Result<ReadMountsReply, Failure> {
        let request = ReadMountsRequest { namespace: namespace.to_owned() };
        self.any(|mut vault| {
            let request = request.clone();
            async move { vault.read_mounts(request).await }
        })
        .await
    }

    /// The policies, and the authority version that changes of them must name.
    ///
    /// # Errors
    /// The member's.
    pub async fn policies(&self) -> Result<ReadPoliciesReply, Failure> {
        self.any(|mut vault| async move { vault.read_policies(ReadPoliciesRequest {}).await }).await
    }

    /// Targets and roles.
    ///
    /// # Errors
    /// The member's.
    pub async fn roles(&self) -> Result<ReadRolesReply, Failure> {
        self.any(|mut vault| async move { vault.read_roles(ReadRolesRequest {}).await }).await
    }

    /// One lease.
    ///
    /// # Errors
    /// The member's.
    pub async fn lease(&self, id: LeaseId) -> Result<Lease, Failure> {
        let request = ReadLeaseRequest { id: id.0.to_vec() };
        self.any(|mut vault| {
            let request = request.clone();
            async move { vault.read_lease(request).await }
        })
        .await
    }

    /// Every lease that the caller may see, in one state or, with nothing, in any.
    ///
    /// # Errors
    /// The member's.
    pub async fn leases(&self, state: &str) -> Result<Vec<Lease>, Failure> {
        let mut all: Vec<Lease> = Vec::new();
        loop {
            let after = all.last().map(|l| l.id.clone()).unwrap_or_default();
            let request = ListLeasesRequest { after: after.clone(), limit: 0, state: state.to_owned() };
            let reply = self
                .any(|mut vault| {
                    let request = request.clone();
                    async move { vault.list_leases(request).await }
                })
                .await?;
            let stuck = reply.leases.last().is_none_or(|last| last.id <= after);
            all.extend(reply.leases);
            if !reply.more || stuck {
                return Ok(all);
            }
        }
    }

    /// Every member's own view, asked at once.
    pub async fn status(&self) -> Vec<(MemberIndex, Result<ReadStatusReply, Failure>)> {
        let ask = |(member, vault): (&MemberIndex, &crate::vault::vault_client::VaultClient<_>)| {
            let (member, mut vault) = (*member, vault.clone());
            async move { (member, call(CALL, vault.read_status(ReadStatusRequest {})).await) }
        };
        join_all(self.vaults.iter().map(ask)).await
    }
}
