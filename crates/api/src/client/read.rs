//! What only looks, answered by one member.
//!
//! One member's answer is one member's word. Nothing that decides whom a secret is sealed to, or what a secret is, rests
//! on it: [`super::Client::put`] compares with pins, [`super::Client::get`] asks t members.

use super::{CALL, Client, call};
use crate::status::{DENIED, Failure};
use crate::vault::vault_client::VaultClient;
use crate::vault::{
    Lease, ListLeasesReply, ListLeasesRequest, ListSecretsReply, ListSecretsRequest, ReadLeaseRequest, ReadMountsReply,
    ReadMountsRequest, ReadPoliciesReply, ReadPoliciesRequest, ReadRolesReply, ReadRolesRequest, ReadStatusReply,
    ReadStatusRequest, ReadVersionsReply, ReadVersionsRequest, SecretInfo,
};
use futures::future::join_all;
use quorate_state::absence::Absence;
use quorate_state::attest::{Attestation, Excuses, excused};
use quorate_state::ids::{LeaseId, MemberIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// How long one question waits for members to attest.
const ATTEST: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// How far a change has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// Who has not confirmed that it has applied it, and is not gone.
    pub missing: Vec<MemberIndex>,
    /// Who has not, and administrators have recorded that it is gone: nobody waits for it.
    pub gone: BTreeMap<MemberIndex, Absence>,
}

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
        self.any(|mut vault| async move { vault.read_roles(ReadRolesRequest::default()).await }).await
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

    /// One lease; of one that has to end, with why it has not, and of one that has ended, with what it has left behind, if the member
    /// that leads is heard (`leads`).
    ///
    /// # Errors
    /// The member's.
    pub async fn explained_lease(&self, id: LeaseId) -> Result<Lease, Failure> {
        let request = ReadLeaseRequest { id: id.0.to_vec() };
        let ask = |mut vault: VaultClient<Channel>| {
            let request = request.clone();
            async move { vault.read_lease(request).await }
        };
        self.leading(|lease| lease.leads || lease.state == "active" || lease.state == "intent", ask).await
    }

    /// As [`Client::roles`], with why leases at targets have not ended and what they have left there, if the member that leads is heard
    /// and the caller may list everybody's leases (`explained`).
    ///
    /// # Errors
    /// The member's.
    pub async fn explained_roles(&self) -> Result<ReadRolesReply, Failure> {
        let ask =
            |mut vault: VaultClient<Channel>| async move { vault.read_roles(ReadRolesRequest { explain: true }).await };
        self.leading(|reply| reply.explained, ask).await
    }

    /// Any member's answer that will do, be it that others are asked for it; otherwise what the first one says.
    async fn leading<T, F>(
        &self,
        will_do: impl Fn(&T) -> bool,
        ask: impl Fn(VaultClient<Channel>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let first = self.any(&ask).await?;
        if will_do(&first) {
            return Ok(first);
        }
        let others = join_all(self.vaults.values().map(|vault| call(CALL, ask(vault.clone())))).await;
        Ok(others.into_iter().flatten().find(will_do).unwrap_or(first))
    }

    /// Every lease that the caller may see, in one state or, with nothing, in any.
    ///
    /// # Errors
    /// The member's.
    pub async fn leases(&self, state: &str) -> Result<Vec<Lease>, Failure> {
        self.leases_that(ListLeasesRequest { state: state.to_owned(), ..ListLeasesRequest::default() }).await
    }

    /// Those of [`Client::leases`] that a request names: `after` and `limit` are seen to.
    ///
    /// # Errors
    /// The member's.
    pub async fn leases_that(&self, wanted: ListLeasesRequest) -> Result<Vec<Lease>, Failure> {
        let mut all: Vec<Lease> = Vec::new();
        loop {
            let page = self.lease_page(&wanted, all.last()).await?;
            all.extend(page.leases);
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// The first that a request names and `fits`: what comes behind it is not asked for.
    ///
    /// # Errors
    /// `denied` when the caller may list its own only, and others may have taken some that the request names: that none was found
    /// would say nothing of those. A member of an earlier release does not say what it has looked through, and counts as one
    /// that denies. The member's.
    pub(super) async fn find_lease(
        &self,
        wanted: ListLeasesRequest,
        fits: impl Fn(&Lease) -> bool,
    ) -> Result<Option<Lease>, Failure> {
        let own = wanted.owner == self.identity.principal();
        let mut last = None;
        loop {
            let mut page = self.lease_page(&wanted, last.as_ref()).await?;
            if !page.everybody && !own {
                let what = "what leases others have taken cannot be seen without the action lease:list";
                return Err(Failure::new(DENIED, what));
            }
            if let Some(at) = page.leases.iter().position(&fits) {
                return Ok(Some(page.leases.swap_remove(at)));
            }
            if !page.more {
                return Ok(None);
            }
            last = page.leases.pop();
        }
    }

    /// The page behind a lease; there is no more when it has nothing new, whatever the member says.
    async fn lease_page(&self, wanted: &ListLeasesRequest, after: Option<&Lease>) -> Result<ListLeasesReply, Failure> {
        let after = after.map(|lease| lease.id.clone()).unwrap_or_default();
        let request = ListLeasesRequest { after: after.clone(), limit: 0, ..wanted.clone() };
        let ask = |mut vault: VaultClient<Channel>| {
            let request = request.clone();
            async move { vault.list_leases(request).await }
        };
        let mut page = self.any(ask).await?;
        if page.leases.last().is_none_or(|last| last.id <= after) {
            page.leases.clear();
            page.more = false;
        }
        Ok(page)
    }

    /// Whom [`Client::effect`] misses: the change at `index` is *effective* when that is nobody.
    pub async fn effective(&self, index: u64, patience: Duration) -> Vec<MemberIndex> {
        self.effect(index, patience).await.missing
    }

    /// Asks until every pinned member has attested an index at or past `index`, or is recorded as gone by the word of t members
    /// that have, or `patience` is over. When nobody is missing, no honest member acts on the rules before `index`.
    ///
    /// # Security
    /// What counts is each member's own signature, whoever passes it on: members that lie can hold this up, not bring it about. Of
    /// those that are gone it is as true as what the administrators recorded.
    pub async fn effect(&self, index: u64, patience: Duration) -> Effect {
        let deadline = Instant::now() + patience;
        let mut missing: BTreeSet<MemberIndex> = self.profile.members.iter().map(|m| m.index).collect();
        let mut words: BTreeMap<MemberIndex, Excuses> = BTreeMap::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait_ms = u32::try_from(left.min(ATTEST).as_millis()).unwrap_or(0);
            let asked = self.vaults.values().cloned().map(|mut vault| async move {
                let question = ReadStatusRequest { effective_index: index, wait_ms };
                call(CALL, vault.read_status(question)).await
            });
            for reply in join_all(asked).await.into_iter().flatten() {
                for word in reply.confirmations {
                    if let Some(member) = self.confirms(index, &word.attestation) {
                        missing.remove(&member);
                    }
                    if let Some(said) = self.excuses(&word.excuses) {
                        words.insert(said.member, said);
                    }
                }
            }
            let said: Vec<Excuses> = words.values().cloned().collect();
            let mut gone = excused(index, self.profile.threshold, &said);
            gone.retain(|member, _| missing.contains(member));
            if missing.len() == gone.len() || Instant::now() >= deadline {
                missing.retain(|member| !gone.contains_key(member));
                return Effect { missing: missing.into_iter().collect(), gone };
            }
            sleep(PAUSE).await;
        }
    }

    /// The member whose attestation of an index at or past `index` this is.
    fn confirms(&self, index: u64, attestation: &[u8]) -> Option<MemberIndex> {
        let word: Attestation = borsh::from_slice(attestation).ok()?;
        let member = self.profile.member(word.member)?;
        let counts = word.applied.index >= index && word.is_signed(&self.profile.cluster, &member.key);
        counts.then_some(member.index)
    }

    /// What a pinned member has signed about who is gone.
    fn excuses(&self, word: &[u8]) -> Option<Excuses> {
        let word: Excuses = borsh::from_slice(word).ok()?;
        let member = self.profile.member(word.member)?;
        word.is_signed(&self.profile.cluster, &member.key).then_some(word)
    }

    /// Every member's own view, asked at once: what each knows by itself, without a majority.
    pub async fn status(&self) -> Vec<(MemberIndex, Result<ReadStatusReply, Failure>)> {
        let ask = |(member, vault): (&MemberIndex, &crate::vault::vault_client::VaultClient<_>)| {
            let (member, mut vault) = (*member, vault.clone());
            let limit = self.timeout.min(CALL);
            async move {
                let answer = call(limit, vault.read_status(ReadStatusRequest::default())).await;
                (member, answer.map_err(|failure| self.unless_ended(failure)))
            }
        };
        join_all(self.vaults.iter().map(ask)).await
    }
}
