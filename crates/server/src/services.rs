//! The two ports: each handler decodes, runs one piece of the pipeline, and encodes.

use crate::core::Core;
use crate::failpoint;
use crate::issue::injected;
use crate::open::Passage;
use futures::stream::{BoxStream, StreamExt as _};
use quorate_api::peer as pw;
use quorate_api::peer::peer_server::Peer;
use quorate_api::status::Failure;
use quorate_api::tls::{ClientChain, PeerKey};
use quorate_api::vault as vw;
use quorate_api::vault::vault_server::Vault;
use quorate_authz::Principal;
use quorate_state::change::{Change, Kind};
use quorate_state::command::Command;
use quorate_state::ids::{MemberIndex, RequestId};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::SignedRequest;
use quorate_state::store::encode;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The clients' port.
pub(crate) struct VaultPort(pub(crate) Arc<Core>);

impl VaultPort {
    fn chain<T>(request: &Request<T>) -> Result<Arc<Vec<Vec<u8>>>, Failure> {
        let chain = request.extensions().get::<ClientChain>().map(|c| Arc::clone(&c.0));
        chain.ok_or_else(|| Failure::new("unauthenticated", "the connection carries no client certificate"))
    }

    /// Who is calling, checked for every call: a connection may outlive the certificate it was made with.
    fn caller<T>(&self, request: &Request<T>) -> Result<Principal, Failure> {
        self.0.authenticate(&Self::chain(request)?)
    }
}

#[tonic::async_trait]
impl Vault for VaultPort {
    async fn submit(&self, request: Request<vw::SubmitRequest>) -> Result<Response<vw::SubmitReply>, Status> {
        let chain = Self::chain(&request)?;
        let signed = decode_signed(&request.get_ref().signed_request)?;
        let change = signed.request().ok().map(|r| r.change);
        let issues = matches!(change, Some(Change::IssueLease { .. }));
        #[cfg(feature = "failpoints")]
        if let Some(Change::PutSecret { path, .. }) = &change {
            self.0.leak_told(path).await;
        }
        let takes_away = change.is_some_and(|c| c.takes_away());
        let done = self.0.submit(&chain, signed).await?;
        let lease = match &done.outcome {
            // The leader answered when the lease was active; this node's own state may be a little behind.
            Outcome::Intent { lease, .. } if issues => {
                self.0.wait_applied(done.index, std::time::Duration::from_secs(1)).await?;
                self.0.wait_active(lease).await?;
                let shown = self.0.show_lease(lease)?;
                self.0.record_answer(lease, &shown).await?;
                Some((shown, self.0.issued(lease)?))
            }
            _ => None,
        };
        let (lease, issued) = lease.unzip();
        let unconfirmed = if takes_away { self.0.glance(done.index).await } else { Vec::new() };
        let unconfirmed = unconfirmed.into_iter().map(u32::from).collect();
        let gone = self.0.absences.gone().into_iter().filter(|_| takes_away).map(u32::from).collect();
        let outcome = encode(&done.outcome);
        if lease.is_some() {
            injected("lease.p5")?;
        }
        Ok(Response::new(vw::SubmitReply {
            outcome,
            index: done.index,
            term: done.term,
            lease,
            unconfirmed,
            gone,
            issued: issued.unwrap_or_default(),
        }))
    }

    async fn open(&self, request: Request<vw::OpenRequest>) -> Result<Response<vw::OpenReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.open(&caller, request.get_ref(), Passage::DIRECT).await?))
    }

    async fn list_secrets(
        &self,
        request: Request<vw::ListSecretsRequest>,
    ) -> Result<Response<vw::ListSecretsReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.list_secrets(&caller, request.into_inner()).await?))
    }

    async fn read_versions(
        &self,
        request: Request<vw::ReadVersionsRequest>,
    ) -> Result<Response<vw::ReadVersionsReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.read_versions(&caller, request.into_inner()).await?))
    }

    async fn read_mounts(
        &self,
        request: Request<vw::ReadMountsRequest>,
    ) -> Result<Response<vw::ReadMountsReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.read_mounts(&caller, request.into_inner()).await?))
    }

    async fn read_policies(
        &self,
        request: Request<vw::ReadPoliciesRequest>,
    ) -> Result<Response<vw::ReadPoliciesReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.read_policies(&caller).await?))
    }

    async fn read_roles(&self, request: Request<vw::ReadRolesRequest>) -> Result<Response<vw::ReadRolesReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.read_roles(&caller, request.into_inner()).await?))
    }

    async fn read_lease(&self, request: Request<vw::ReadLeaseRequest>) -> Result<Response<vw::Lease>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.read_lease(&caller, request.into_inner()).await?))
    }

    async fn list_leases(
        &self,
        request: Request<vw::ListLeasesRequest>,
    ) -> Result<Response<vw::ListLeasesReply>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.0.list_leases(&caller, request.into_inner()).await?))
    }

    async fn read_status(
        &self,
        request: Request<vw::ReadStatusRequest>,
    ) -> Result<Response<vw::ReadStatusReply>, Status> {
        #[cfg(feature = "failpoints")]
        crate::leak::blurt()?;
        let caller = self.0.authenticate_for(Kind::ReadStatus, &Self::chain(&request)?)?;
        Ok(Response::new(self.0.read_status(&caller, request.get_ref()).await?))
    }

    type RelayStream = BoxStream<'static, Result<vw::RelayedAnswer, Status>>;

    async fn relay(&self, request: Request<vw::RelayRequest>) -> Result<Response<Self::RelayStream>, Status> {
        let chain = Self::chain(&request)?;
        Ok(Response::new(self.0.relay(&chain, request.into_inner().signed_question)?.map(Ok).boxed()))
    }
}

/// The members' port.
pub(crate) struct PeerPort(pub(crate) Arc<Core>);

impl PeerPort {
    /// Which member is calling, by the key that its connection showed.
    fn caller<T>(&self, request: &Request<T>) -> Result<MemberIndex, Failure> {
        let key = request.extensions().get::<PeerKey>();
        let member = key.and_then(|key| self.0.roster.by_key(&key.0));
        let stranger = || Failure::new("unauthenticated", "the connection is not a member's");
        member.map(|m| m.index).ok_or_else(stranger)
    }

    /// The same, of members that are not recorded as destroyed.
    fn member<T>(&self, request: &Request<T>) -> Result<MemberIndex, Failure> {
        let member = self.caller(request)?;
        self.0.absences.hear(member).map(|()| member)
    }
}

#[tonic::async_trait]
impl Peer for PeerPort {
    async fn endorse(&self, request: Request<pw::EndorseRequest>) -> Result<Response<pw::EndorseReply>, Status> {
        self.member(&request)?;
        let ask = request.into_inner();
        let endorse = async {
            let signed = decode_signed(&ask.signed_request)?;
            let parsed = signed.request().map_err(Failure::from)?;
            self.0.endorse(&signed, &parsed, Some(ask.min_index)).await
        };
        let reply = match endorse.await {
            Ok((endorsement, _)) => pw::EndorseReply {
                endorsement: borsh::to_vec(&endorsement).unwrap_or_default(),
                refusal: String::new(),
                reason: String::new(),
            },
            Err(f) => pw::EndorseReply { endorsement: Vec::new(), refusal: f.code.to_owned(), reason: f.message },
        };
        Ok(Response::new(reply))
    }

    async fn propose(&self, request: Request<pw::ProposeRequest>) -> Result<Response<pw::ProposeReply>, Status> {
        self.member(&request)?;
        let command = Command::decode(&request.get_ref().command).map_err(Failure::from)?;
        if !self.0.raft.watch().borrow().is_leader {
            return Ok(Response::new(pw::ProposeReply { not_leader: true, ..pw::ProposeReply::default() }));
        }
        let reply = match self.0.lead(command).await {
            Ok(done) => pw::ProposeReply {
                outcome: encode(&done.outcome),
                index: done.index,
                term: done.term,
                ..pw::ProposeReply::default()
            },
            Err(f) if f.code == "no_leader" => pw::ProposeReply { not_leader: true, ..pw::ProposeReply::default() },
            Err(f) => pw::ProposeReply { refusal: f.code.to_owned(), reason: f.message, ..pw::ProposeReply::default() },
        };
        Ok(Response::new(reply))
    }

    async fn read_clock(&self, request: Request<pw::ReadClockRequest>) -> Result<Response<pw::ReadClockReply>, Status> {
        self.member(&request)?;
        // A test makes a member that does not say what time it is.
        if failpoint::hit("clock.silent").is_err() {
            std::future::pending::<()>().await;
        }
        let reading = self.0.reading(request.get_ref().follows)?;
        Ok(Response::new(pw::ReadClockReply { reading: borsh::to_vec(&reading).unwrap_or_default() }))
    }

    async fn attest(&self, request: Request<pw::AttestRequest>) -> Result<Response<pw::AttestReply>, Status> {
        let member = self.caller(&request)?;
        if self.0.absences.hear(member).is_err() {
            // So that it learns why nobody answers it.
            let excuses = self.0.excuses_at(0);
            return Ok(Response::new(pw::AttestReply { excuses, ..pw::AttestReply::default() }));
        }
        Ok(Response::new(self.0.attested(member, request.into_inner()).await))
    }

    async fn open_target(
        &self,
        request: Request<pw::OpenTargetRequest>,
    ) -> Result<Response<pw::OpenTargetReply>, Status> {
        let member = self.member(&request)?;
        let ask = request.into_inner();
        #[cfg(feature = "failpoints")]
        crate::leak::keep(&ask.target);
        let part = async {
            let id = <[u8; 16]>::try_from(ask.request_id.as_slice())
                .map(RequestId)
                .map_err(|_| Failure::from(Refusal::invalid("request_id", "must have 16 bytes")))?;
            self.0.wait_applied(ask.min_index, std::time::Duration::from_secs(1)).await?;
            self.0.target_part((&ask.target, ask.credential), member, ask.term, &id).await
        };
        let reply = match part.await {
            Ok(part) => pw::OpenTargetReply {
                epoch: part.epoch,
                partial: part.partial.to_vec(),
                header_hash: part.header_hash.to_vec(),
                ..pw::OpenTargetReply::default()
            },
            Err(f) => {
                pw::OpenTargetReply { refusal: f.code.to_owned(), reason: f.message, ..pw::OpenTargetReply::default() }
            }
        };
        Ok(Response::new(reply))
    }

    async fn answer(&self, request: Request<pw::AnswerRequest>) -> Result<Response<pw::AnswerReply>, Status> {
        let via = self.member(&request)?;
        let sealed = self.0.answer(&request.get_ref().signed_question, via).await?;
        Ok(Response::new(pw::AnswerReply { sealed }))
    }
}

fn decode_signed(bytes: &[u8]) -> Result<SignedRequest, Failure> {
    borsh::from_slice(bytes).map_err(|_| Failure::from(Refusal::Malformed))
}
