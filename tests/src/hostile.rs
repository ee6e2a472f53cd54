//! What the SDK never does: bytes that are no message, requests that are altered and signed again, a member whose key was
//! stolen. Everything goes through the real sockets of real nodes.

use crate::Cluster;
use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _};
use quorate_api::client::Identity;
use quorate_api::peer::peer_client::PeerClient;
use quorate_api::peer::{EndorseRequest, ProposeRequest};
use quorate_api::status::Failure;
use quorate_api::tls::{CLIENT, TlsIdentity, connect};
use quorate_api::vault::SubmitRequest;
use quorate_api::vault::vault_client::VaultClient;
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{Protection, open_file};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{ObjectTemplate, Sealed, WrapTemplate, seal};
use quorate_crypto::secret::Secret;
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::genesis::Genesis;
use quorate_state::ids::{ClusterId, MemberIndex, Millis, RequestId};
use quorate_state::outcome::Outcome;
use quorate_state::request::{Endorsement, Request, SignedRequest};
use quorate_state::store::decode;
use rand_core::UnwrapErr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{self, uri::PathAndQuery};
use tonic::codegen::{Bytes, Service as _};
use tonic::transport::Channel;
use tonic::{Request as Call, Status};

/// What a request of the SDK is valid for.
const VALIDITY: Millis = 300_000;

/// A connection over which anything may be said.
#[derive(Debug, Clone)]
pub struct Wire(Channel);

impl Wire {
    /// To the server at `address` whose key is `key`, showing `identity`.
    ///
    /// # Errors
    /// When the address is none.
    pub fn to(address: &str, key: [u8; 32], identity: &TlsIdentity) -> anyhow::Result<Self> {
        Ok(Self(connect(address, key, identity, "the server", CLIENT)?))
    }

    /// One call, as `/package.Service/Rpc`, whose message is these bytes.
    ///
    /// # Errors
    /// The server's.
    pub async fn say(&self, call: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let path = PathAndQuery::try_from(call).map_err(|why| Status::internal(why.to_string()))?;
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|why| Status::unavailable(why.to_string()))?;
        let answer = grpc.unary(Call::new(Bytes::copy_from_slice(message)), path, Raw).await?;
        Ok(answer.into_inner().to_vec())
    }

    /// One call whose body is this text: a frame with a wrong head, a cut one, none at all.
    ///
    /// # Errors
    /// The server's; also when it answers no gRPC.
    pub async fn frame(&self, call: &str, body: &str) -> Result<(), Failure> {
        let mut channel = self.0.clone();
        let request = http::Request::post(call)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(body.to_owned()))
            .map_err(|why| Status::internal(why.to_string()))?;
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.map_err(|why| Status::unavailable(why.to_string()))?;
        let answer = channel.call(request).await.map_err(|why| Status::unavailable(why.to_string()))?;
        match Status::from_header_map(answer.headers()) {
            Some(status) => Err(status.into()),
            None => Ok(()),
        }
    }

    /// Sends a signed request once, as it is.
    ///
    /// # Errors
    /// The node's.
    pub async fn submit(&self, signed: &SignedRequest) -> Result<Outcome, Failure> {
        let signed_request = borsh::to_vec(signed).unwrap_or_default();
        let reply = VaultClient::new(self.0.clone()).submit(SubmitRequest { signed_request }).await?.into_inner();
        decode(0, &reply.outcome).map_err(|why| Status::internal(why.to_string()).into())
    }

    /// The vault's client over it.
    #[must_use]
    pub fn vault(&self) -> VaultClient<Channel> {
        VaultClient::new(self.0.clone())
    }
}

/// Messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

impl Cluster {
    /// A connection to a member's clients' port.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn wire(&self, member: MemberIndex, identity: &TlsIdentity) -> anyhow::Result<Wire> {
        let pinned = self.profile().member(member).with_context(|| format!("no member {member}"))?;
        Wire::to(&pinned.api_address, pinned.key, identity)
    }

    /// A connection to a member's peers' port.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn peer_wire(&self, member: MemberIndex, identity: &TlsIdentity) -> anyhow::Result<Wire> {
        let pinned = self.profile().member(member).with_context(|| format!("no member {member}"))?;
        Wire::to(self.text(&format!("/members/{}/peer_address", pinned.name))?, pinned.key, identity)
    }

    /// A connection to the custodian.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub fn custodian_wire(&self, identity: &TlsIdentity) -> anyhow::Result<Wire> {
        let key = quorate_state::ids::parse_hex(self.text("/custodian/key")?).context("the custodian's key")?;
        Wire::to(self.text("/custodian/address")?, key, identity)
    }

    /// Takes a member's key from its disk, as whoever has become root there.
    ///
    /// # Errors
    /// When its files do not open.
    pub fn steal(&self, member: MemberIndex) -> anyhow::Result<Stolen> {
        let data = Path::new(self.text(&format!("/members/{}/data_dir", self.name(member)))?);
        let seal = Secret::from_slice(&std::fs::read(data.join("seal.key"))?).context("the seal key")?;
        let sealed = std::fs::read(data.join("identity").join("member.key"))?;
        let seed = open_file("member-identity", &sealed, &Protection::RawKey(&seal))?;
        let key = SigningKey::from_seed(&Secret::from_slice(seed.expose()).context("the member's key")?);
        let genesis = Genesis::from_bytes(&std::fs::read(data.join("genesis.bin"))?)?;
        let tls = TlsIdentity::self_signed(&key, self.name(member))?;
        Ok(Stolen { member, key, tls, cluster: genesis.cluster(), roster: genesis.roster.number })
    }

    /// A request of this caller, ready to be altered and signed.
    #[must_use]
    pub fn request(&self, caller: &Identity, change: Change) -> Request {
        Request {
            cluster: self.profile().cluster,
            id: RequestId(random()),
            change,
            reply_to: None,
            expected_authority_version: None,
            not_after: crate::now() + VALIDITY,
            principal: caller.principal().to_owned(),
            chain: caller.chain().to_vec(),
        }
    }

    /// What there is to be changed, as one text: authority, policies, mounts, secrets and their versions but those below
    /// `app/demo/well`, targets, roles, and leases.
    ///
    /// # Errors
    /// The members'.
    pub async fn facts(&self) -> anyhow::Result<String> {
        let admin = self.admin()?;
        let policies = admin.policies().await?;
        let mut secrets = admin.list("default", "").await?;
        secrets.retain(|secret| secret.path != "app/demo/well");
        let (mounts, roles) = (admin.mounts("default").await?, admin.roles().await?);
        let mut leases = admin.leases("").await?;
        leases.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(format!("{policies:?}\n{mounts:?}\n{secrets:?}\n{roles:?}\n{leases:?}"))
    }

    /// The pinned keyring of a class.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub fn ring(&self, class: KeyringClass) -> anyhow::Result<KeyringPublic> {
        let ring = self.profile().keyrings.iter().find(|ring| ring.class == class);
        ring.copied().with_context(|| format!("no keyring of class {class}"))
    }
}

/// A member's identity in the wrong hands.
#[derive(Debug)]
pub struct Stolen {
    /// Whose.
    pub member: MemberIndex,
    /// Its signing key.
    pub key: SigningKey,
    /// What it shows to its peers.
    pub tls: TlsIdentity,
    cluster: ClusterId,
    roster: u64,
}

impl Stolen {
    /// A client of another member's peers' port.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn peer(&self, cluster: &Cluster, member: MemberIndex) -> anyhow::Result<PeerClient<Channel>> {
        Ok(PeerClient::new(cluster.peer_wire(member, &self.tls)?.0))
    }

    /// Asks an honest member for its endorsement.
    ///
    /// # Errors
    /// The member's refusal.
    pub async fn ask(
        &self,
        cluster: &Cluster,
        member: MemberIndex,
        signed: &SignedRequest,
        min_index: u64,
    ) -> Result<Endorsement, Failure> {
        let mut peer = self.peer(cluster, member).map_err(|why| Status::internal(why.to_string()))?;
        let signed_request = borsh::to_vec(signed).unwrap_or_default();
        let reply = peer.endorse(EndorseRequest { signed_request, min_index }).await?.into_inner();
        if !reply.refusal.is_empty() {
            return Err(Failure::from_words(&reply.refusal, reply.reason));
        }
        borsh::from_slice(&reply.endorsement).map_err(|why| Status::internal(why.to_string()).into())
    }

    /// Endorses whatever it is.
    #[must_use]
    pub fn endorse(&self, authority_version: u64, clock: Millis, signed: &[&SignedRequest]) -> Endorsement {
        self.endorse_as(self.member, self.roster, authority_version, clock, signed)
    }

    /// Endorses in any member's name and for any roster, with the one key that it has.
    #[must_use]
    pub fn endorse_as(
        &self,
        member: MemberIndex,
        roster: u64,
        authority_version: u64,
        clock: Millis,
        signed: &[&SignedRequest],
    ) -> Endorsement {
        let hashes = signed.iter().map(|s| s.hash()).collect();
        Endorsement::sign(&self.cluster, roster, authority_version, member, clock, hashes, &self.key)
    }

    /// The number of the roster.
    #[must_use]
    pub fn roster(&self) -> u64 {
        self.roster
    }

    /// Hands the bytes of a command to a leader.
    ///
    /// # Errors
    /// What the leader, or `apply`, refused it with.
    pub async fn propose(&self, cluster: &Cluster, leader: MemberIndex, command: &[u8]) -> Result<Outcome, Failure> {
        let mut leader = leader;
        let reply = loop {
            let mut peer = self.peer(cluster, leader).map_err(|why| Status::internal(why.to_string()))?;
            let reply = peer.propose(ProposeRequest { command: command.to_vec() }).await?.into_inner();
            if !reply.not_leader {
                break reply;
            }
            // On a busy machine the office may have changed hands.
            let next = cluster.wait_leader(Duration::from_secs(20)).await;
            leader = next.map_err(|why| Status::unavailable(why.to_string()))?;
        };
        if !reply.refusal.is_empty() {
            return Err(Failure::from_words(&reply.refusal, reply.reason));
        }
        match decode(0, &reply.outcome).map_err(|why| Status::internal(why.to_string()))? {
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok(outcome),
        }
    }

    /// Hands an endorsed request to a leader.
    ///
    /// # Errors
    /// As [`Stolen::propose`].
    pub async fn push(
        &self,
        cluster: &Cluster,
        leader: MemberIndex,
        request: &SignedRequest,
        endorsements: Vec<Endorsement>,
    ) -> Result<Outcome, Failure> {
        let command = Command::Endorsed {
            request: request.clone(),
            endorsements,
            stamp: quorate_state::command::Stamp::default(),
        };
        self.propose(cluster, leader, &command.encode()).await
    }
}

/// A sealed version with whatever its writer wants in it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it is to be stored.
    pub namespace: String,
    /// Where it is to be stored.
    pub path: String,
    /// Where its header says that it belongs, when that is elsewhere.
    pub label: Option<(String, String)>,
    /// Its ids.
    pub secret_id: [u8; 16],
    /// Its ids.
    pub version_id: [u8; 16],
    /// The cluster in its header.
    pub cluster: [u8; 32],
    /// Who wrote it, by its header.
    pub writer: String,
    /// The number of its wrap.
    pub wrap_no: u32,
    /// What it is sealed to.
    pub ring: KeyringPublic,
    /// What it is sealed to.
    pub customers: Vec<CustomerPublic>,
    /// What is in it.
    pub value: Vec<u8>,
}

impl Draft {
    /// One that would be taken: of class `cluster` below `app`, of class `customer` below `vault`.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub fn new(cluster: &Cluster, caller: &Identity, path: &str) -> anyhow::Result<Self> {
        let customer = path.starts_with("vault/");
        let class = if customer { KeyringClass::Customer } else { KeyringClass::Cluster };
        let customers = if customer { cluster.profile().customer_keys.clone() } else { Vec::new() };
        Ok(Self {
            namespace: "default".to_owned(),
            path: path.to_owned(),
            label: None,
            secret_id: random(),
            version_id: random(),
            cluster: cluster.profile().cluster.0,
            writer: caller.principal().to_owned(),
            wrap_no: 0,
            ring: cluster.ring(class)?,
            customers,
            value: b"what is in it".to_vec(),
        })
    }

    /// Seals it.
    ///
    /// # Errors
    /// What the format does not allow.
    pub fn seal(&self) -> anyhow::Result<Sealed> {
        let (namespace, path) = self.label.clone().unwrap_or_else(|| (self.namespace.clone(), self.path.clone()));
        let object = ObjectTemplate {
            cluster: self.cluster,
            secret_id: self.secret_id,
            version_id: self.version_id,
            created: crate::now(),
            writer_id: self.writer.clone(),
        };
        let wrap = WrapTemplate { namespace, path, wrap_no: self.wrap_no, wrapped_by: self.writer.clone() };
        let rng = &mut UnwrapErr(getrandom::SysRng);
        Ok(seal(&self.value, &object, &wrap, &self.ring, &self.customers, rng)?)
    }

    /// The change that stores a header and a payload where this one is to be stored.
    #[must_use]
    pub fn change(&self, header: &[u8], payload: &[u8]) -> Change {
        Change::PutSecret {
            namespace: self.namespace.clone(),
            path: self.path.clone(),
            header: header.to_vec(),
            payload: payload.to_vec(),
            expected: None,
        }
    }
}

/// The fields of a header by `docs/format.md`, sections 4 to 7 and 9, with where their bytes are; lengths are fields too.
///
/// # Errors
/// When the bytes are no header.
pub fn fields(header: &[u8]) -> anyhow::Result<Vec<(&'static str, Range<usize>)>> {
    let mut map = Map { header, at: 0, found: Vec::new() };
    map.take("length of the object label", 4)?;
    map.take("payload suite", 1)?;
    map.take("cluster", 32)?;
    map.take("secret id", 16)?;
    map.take("version id", 16)?;
    map.take("created", 8)?;
    map.prefixed("length of the writer", "writer")?;
    map.take("padded length", 8)?;
    map.take("length of the wrap label", 4)?;
    map.take("wrap suite", 1)?;
    map.take("keyring id", 32)?;
    map.prefixed("length of the namespace", "namespace")?;
    map.prefixed("length of the path", "path")?;
    map.take("wrap number", 4)?;
    map.prefixed("length of the wrapper", "wrapper")?;
    map.prefixed("length of the payload hash", "payload hash")?;
    map.prefixed("length of the commitment", "commitment to the data key")?;
    map.take("length of the points", 4)?;
    map.take("R", 32)?;
    map.take("second R", 32)?;
    map.take("length of the slots", 4)?;
    map.take("number of slots", 1)?;
    let parts = map.take("number of parts", 1)?;
    for _ in 0..parts.first().copied().unwrap_or(0) {
        map.take("part suite", 1)?;
        map.take("customer key id", 32)?;
        map.take("length of the part", 4)?;
        map.take("R2", 65)?;
        map.take("ML-KEM ciphertext", 1_088)?;
    }
    map.take("key commitment", 32)?;
    map.take("wrapped data key", 48)?;
    map.take("length of the commitments", 4)?;
    map.take("A", 32)?;
    map.take("second A", 32)?;
    map.prefixed("length of f", "f")?;
    anyhow::ensure!(map.at == header.len(), "{} of {} bytes are fields", map.at, header.len());
    Ok(map.found)
}

struct Map<'a> {
    header: &'a [u8],
    at: usize,
    found: Vec<(&'static str, Range<usize>)>,
}

impl<'a> Map<'a> {
    fn take(&mut self, name: &'static str, length: usize) -> anyhow::Result<&'a [u8]> {
        let range = self.at..self.at + length;
        let bytes = self.header.get(range.clone()).with_context(|| format!("the header ends before its {name}"))?;
        self.at = range.end;
        self.found.push((name, range));
        Ok(bytes)
    }

    fn prefixed(&mut self, length: &'static str, name: &'static str) -> anyhow::Result<()> {
        let n = self.take(length, 4)?;
        self.take(name, usize::try_from(u32::from_be_bytes(n.try_into()?))?)?;
        Ok(())
    }
}

/// Fresh bytes.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    use rand_core::Rng as _;
    let mut out = [0; N];
    UnwrapErr(getrandom::SysRng).fill_bytes(&mut out);
    out
}
