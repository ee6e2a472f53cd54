//! Three members that hold real shares and answer with real partials, and misbehave on demand.
//!
//! They stand in for `server` on the other side of the wire; what they decide on is no matter here.

use super::{Ca, ca, identity, key};
use futures::stream::{self, BoxStream, StreamExt as _};
use quorate_api::client::{Client, CustomerSource, Member, Profile, Seams};
use quorate_api::net::Tcp;
use quorate_api::relay::{self, Answer, Asked, Question, SignedQuestion};
use quorate_api::status::{BEHIND, DENIED, Failure, INTERNAL, NO_SHARE, NOT_FOUND};
use quorate_api::tls::{TlsIdentity, accept_clients, api_server_config};
use quorate_api::transcript::{open_proof_context, sign_open_reply};
use quorate_api::vault::vault_server::{Vault, VaultServer};
use quorate_api::vault::*;
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::dleq;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{Header, ObjectTemplate, WrapTemplate, seal};
use quorate_crypto::secret::{Secret, SecretFields, SecretVec};
use quorate_crypto::threshold::{KeyShare, combine, partial};
use quorate_state::change::Change;
use quorate_state::ids::{ClusterId, LeaseId, RequestId, SecretId, VersionId};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::SignedRequest;
use quorate_state::store::encode;
use rand_core::UnwrapErr;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

pub const CLUSTER: [u8; 32] = [0xc1; 32];
pub const NOW: u64 = 1_800_000_000_000;

pub fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// What a member does instead of what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    Honest,
    /// Every part is of another share.
    WrongPart,
    /// The first part is wrong, the one with a proof right.
    TwoParts,
    /// Has applied index 5 only.
    Behind,
    /// Still holds the version before as the newest.
    Stale,
    SwapsPayload,
    BadSignature,
    Denies,
    /// Has no share of the keyring.
    Shareless,
    /// Does not answer changes, once it has answered with the failures that it was given.
    Silent,
    Down,
}

/// What a member does with what it passes on, besides passing it on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trick {
    None,
    /// The answer of this member does not arrive.
    Drops(u8),
    /// One bit of it is another one.
    Flips(u8),
    /// The answers of these two members stand under each other's name.
    Swaps(u8, u8),
    /// Instead of this member's answer comes its answer to the question before.
    Replays(u8),
    /// An answer in this member's name, sealed to the asker and signed by whoever passes on.
    Forges(u8),
    /// Words instead of every answer but its own: that the caller may not.
    Words,
}

/// Header and payload.
pub type Version = (Vec<u8>, Vec<u8>);

#[derive(Default)]
pub struct State {
    /// By namespace and path.
    pub secrets: BTreeMap<(String, String), Vec<Version>>,
    /// What the next submissions fail with, first to last.
    pub failures: Vec<Failure>,
    /// Every request that arrived, by id.
    pub arrived: Vec<(RequestId, Vec<u8>)>,
    pub mount: Mount,
    pub min_index_seen: u64,
    pub lease_reads: u32,
    /// The answer to every question about leases.
    pub listed: ListLeasesReply,
    pub verifier: String,
    /// Every byte string that went through a member that passes on, with the member whose answer it is; 0 for questions.
    pub passed: Vec<(u8, Vec<u8>)>,
}

pub struct Node {
    index: u8,
    share: KeyShare,
    other: KeyShare,
    shares: Vec<(u32, Vec<u8>)>,
    ring: KeyringPublic,
    pub mood: Mutex<Mood>,
    pub trick: Mutex<Trick>,
    peers: OnceLock<Vec<Arc<Node>>>,
    state: Arc<Mutex<State>>,
}

pub struct Cluster {
    pub nodes: Vec<Arc<Node>>,
    pub state: Arc<Mutex<State>>,
    pub profile: Profile,
    pub ring: KeyringPublic,
    pub clients: Ca,
}

/// Shares of the polynomial 1000 + 77 x.
fn share(index: u8) -> KeyShare {
    let value = 1000 + 77 * u64::from(index);
    KeyShare::new(index, &Secret::init_with(|s| s[..8].copy_from_slice(&value.to_le_bytes()))).unwrap()
}

pub async fn cluster(customers: &[CustomerPublic]) -> Cluster {
    let publics: Vec<(u8, [u8; 32])> = (1..=3).map(|i| (i, share(i).public_share())).collect();
    let y = *combine(&publics[..2]).unwrap().expose();
    let class = if customers.is_empty() { KeyringClass::Cluster } else { KeyringClass::Customer };
    let ring = KeyringPublic { class, y };
    let mount = Mount {
        name: "db".into(),
        keyring_id: ring.id().to_vec(),
        customer_key_ids: customers.iter().map(|c| c.id().to_vec()).collect(),
    };
    let state = Arc::new(Mutex::new(State { mount, ..State::default() }));
    let clients = ca("clients");
    let (mut nodes, mut members) = (Vec::new(), Vec::new());
    for index in 1..=3u8 {
        let node = Arc::new(Node {
            index,
            share: share(index),
            other: share(index + 10),
            shares: publics.iter().map(|(i, p)| (u32::from(*i), p.to_vec())).collect(),
            ring,
            mood: Mutex::new(Mood::Honest),
            trick: Mutex::new(Trick::None),
            peers: OnceLock::new(),
            state: Arc::clone(&state),
        });
        let own = TlsIdentity::self_signed(&key(index), "node").unwrap();
        let config = api_server_config(&own, std::slice::from_ref(&clients.der)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        members.push(Member {
            index,
            name: format!("node-{index}"),
            key: key(index).verify_key().0,
            api_address: listener.local_addr().unwrap().to_string(),
        });
        let service = VaultServer::from_arc(Arc::clone(&node));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(accept_clients(listener, config)),
        );
        nodes.push(node);
    }
    for node in &nodes {
        let _ = node.peers.set(nodes.clone());
    }
    let profile = Profile {
        cluster: ClusterId(CLUSTER),
        threshold: 2,
        members,
        keyrings: vec![ring],
        customer_keys: customers.to_vec(),
        mounts: Vec::new(),
        via: None,
    };
    Cluster { nodes, state, profile, ring, clients }
}

impl Cluster {
    pub fn client(&self, customer: CustomerSource) -> Client {
        self.client_with(self.profile.clone(), customer)
    }

    pub fn client_with(&self, profile: Profile, customer: CustomerSource) -> Client {
        let seams = Seams { rng: Box::new(rng()), clock: Arc::new(|| NOW), net: Arc::new(Tcp) };
        Client::new(profile, identity(&self.clients, 9), customer, seams).unwrap().with_timeout(Duration::from_secs(3))
    }

    pub fn mood(&self, member: u8, mood: Mood) {
        *self.nodes[usize::from(member) - 1].mood.lock().unwrap() = mood;
    }

    /// Stores what some writer made of `path` with a wrong key commitment: the members took it, and it does not open.
    pub fn spoil(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        let version = state.secrets.get_mut(&("team".to_owned(), path.to_owned())).unwrap().last_mut().unwrap();
        let kc = Header::decode(&version.0).unwrap().slot().kc;
        let at = version.0.windows(32).position(|w| w == kc).unwrap();
        version.0[at] ^= 1;
    }

    /// What a client pins that reaches one member only: at the others' addresses there is nobody.
    pub fn profile_via(&self, member: u8) -> Profile {
        let mut profile = self.profile.clone();
        for other in profile.members.iter_mut().filter(|m| m.index != member) {
            other.api_address = "127.0.0.1:1".into();
        }
        profile.via = Some(format!("node-{member}"));
        profile
    }

    /// A client that reaches one member only.
    pub fn client_via(&self, member: u8, customer: CustomerSource) -> Client {
        self.client_with(self.profile_via(member), customer)
    }

    pub fn trick(&self, member: u8, trick: Trick) {
        *self.nodes[usize::from(member) - 1].trick.lock().unwrap() = trick;
    }

    /// This member's right part of the newest version.
    pub fn part(&self, member: u8, path: &str) -> [u8; 32] {
        let state = self.state.lock().unwrap();
        let versions = &state.secrets[&("team".to_owned(), path.to_owned())];
        partial(&share(member), &Header::decode(&versions.last().unwrap().0).unwrap().r()).unwrap()
    }

    /// Stores a version that is labelled for `labelled` under `path`, behind the members' backs.
    pub fn plant(&self, cluster: [u8; 32], path: &str, labelled: &str) {
        let object = ObjectTemplate {
            cluster,
            secret_id: [7; 16],
            version_id: [8; 16],
            created: NOW,
            writer_id: "spiffe://example.org/app".into(),
        };
        let wrap = WrapTemplate {
            namespace: "team".into(),
            path: labelled.into(),
            wrap_no: 0,
            wrapped_by: "spiffe://example.org/app".into(),
        };
        let sealed = seal(b"planted", &object, &wrap, &self.ring, &[], &mut rng()).unwrap();
        let at = ("team".to_owned(), path.to_owned());
        self.state.lock().unwrap().secrets.entry(at).or_default().push((sealed.header, sealed.payload));
    }
}

impl Node {
    fn item(&self, asked: &SecretVersion, request: &OpenRequest, mood: Mood) -> OpenedItem {
        let refuse =
            |code: &str| OpenedItem { refusal: code.into(), reason: format!("it is {code}"), ..OpenedItem::default() };
        match mood {
            Mood::Denies => return refuse(DENIED),
            Mood::Behind => return refuse(BEHIND),
            Mood::Shareless => return refuse(NO_SHARE),
            _ => {}
        }
        let state = self.state.lock().unwrap();
        let Some(versions) = state.secrets.get(&(asked.namespace.clone(), asked.path.clone())) else {
            return refuse(NOT_FOUND);
        };
        let held = if mood == Mood::Stale { versions.len() - 1 } else { versions.len() };
        let number = if asked.number == 0 { held } else { usize::try_from(asked.number).unwrap() };
        let (header_bytes, payload) = &versions[number - 1];
        let header = Header::decode(header_bytes).unwrap();
        let wrong = mood == Mood::WrongPart || mood == Mood::TwoParts && !request.prove;
        let share = if wrong { &self.other } else { &self.share };
        let mut payload = payload.clone();
        if mood == Mood::SwapsPayload {
            payload[30] ^= 1;
        }
        OpenedItem {
            secret_id: header.object().secret_id.to_vec(),
            version_id: header.object().version_id.to_vec(),
            number: number as u64,
            newest: number == held,
            header_hash: header.hash().to_vec(),
            keyring_id: header.wrap().keyring_id.to_vec(),
            epoch: 1,
            partial: partial(share, &header.r()).unwrap().to_vec(),
            header: if request.content { header_bytes.clone() } else { vec![] },
            payload: if request.content { payload } else { vec![] },
            ..OpenedItem::default()
        }
    }

    fn proof(&self, request: &OpenRequest, items: &[OpenedItem], mood: Mood) -> Vec<PartialProof> {
        let state = self.state.lock().unwrap();
        let (mut points, mut partials) = (Vec::new(), Vec::new());
        for (asked, item) in request.items.iter().zip(items).filter(|(_, i)| i.refusal.is_empty()) {
            let versions = &state.secrets[&(asked.namespace.clone(), asked.path.clone())];
            points.push(Header::decode(&versions[item.number as usize - 1].0).unwrap().r());
            partials.push(item.partial.clone().try_into().unwrap());
        }
        let context = open_proof_context(&request.request_id, &self.ring.id(), 1);
        let share = if mood == Mood::WrongPart { &self.other } else { &self.share };
        let proof = dleq::prove(share, &points, &partials, &context, &mut rng()).unwrap();
        vec![PartialProof { keyring_id: self.ring.id().to_vec(), epoch: 1, proof: proof.to_vec() }]
    }

    fn up(&self) -> Result<Mood, Status> {
        match *self.mood.lock().unwrap() {
            Mood::Down => Err(Status::unavailable("down")),
            mood => Ok(mood),
        }
    }
}

impl Node {
    /// Its own answer to a question that another member passes on.
    async fn answer(&self, signed: &SignedQuestion, question: &Question) -> Result<Vec<u8>, Status> {
        let answer = match &question.ask {
            Asked::Open { min_index, prove, content, items } => {
                let version = |v: &relay::Version| SecretVersion {
                    namespace: v.namespace.clone(),
                    path: v.path.clone(),
                    number: v.number,
                };
                let request = OpenRequest {
                    request_id: question.id.0.to_vec(),
                    not_after: question.not_after,
                    min_index: *min_index,
                    prove: *prove,
                    content: content.contains(&self.index),
                    items: items.iter().map(version).collect(),
                };
                Answer::opened(self.open(Request::new(request)).await?.get_ref())
            }
            Asked::ReadMounts { namespace } => {
                let request = ReadMountsRequest { namespace: namespace.clone() };
                Answer::mounts(self.read_mounts(Request::new(request)).await?.get_ref())
            }
        };
        Ok(relay::seal(question, &signed.hash(), self.index, &key(self.index), &answer, &mut rng()).unwrap())
    }

    fn tricked(
        &self,
        answers: &mut Vec<RelayedAnswer>,
        question: &Question,
        hash: &[u8; 64],
        before: &[(u8, Vec<u8>)],
    ) {
        let of = |answers: &[RelayedAnswer], m: u8| answers.iter().position(|a| a.member == u32::from(m));
        match *self.trick.lock().unwrap() {
            Trick::None => {}
            Trick::Drops(member) => answers.retain(|a| a.member != u32::from(member)),
            Trick::Flips(member) => {
                if let Some(at) = of(answers, member) {
                    answers[at].sealed[40] ^= 1;
                }
            }
            Trick::Swaps(a, b) => {
                if let (Some(a), Some(b)) = (of(answers, a), of(answers, b)) {
                    let sealed = answers[a].sealed.clone();
                    answers[a].sealed = std::mem::replace(&mut answers[b].sealed, sealed);
                }
            }
            Trick::Replays(member) => {
                if let (Some(at), Some((_, old))) = (of(answers, member), before.iter().find(|(m, _)| *m == member)) {
                    answers[at].sealed = old.clone();
                }
            }
            Trick::Forges(member) => {
                if let Some(at) = of(answers, member) {
                    let denied = Answer::Refused { code: DENIED.into(), reason: "no".into() };
                    let own = key(self.index);
                    answers[at].sealed = relay::seal(question, hash, member, &own, &denied, &mut rng()).unwrap();
                }
            }
            Trick::Words => {
                for answer in answers.iter_mut().filter(|a| a.member != u32::from(self.index)) {
                    answer.sealed.clear();
                    (answer.refusal, answer.reason) = (DENIED.into(), "you may not".into());
                }
            }
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn unused<T>() -> Reply<T> {
    Err(Failure::new(INTERNAL, "not part of this test").into())
}

#[tonic::async_trait]
impl Vault for Node {
    async fn open(&self, request: Request<OpenRequest>) -> Reply<OpenReply> {
        let mood = self.up()?;
        let request = request.into_inner();
        {
            let mut state = self.state.lock().unwrap();
            state.min_index_seen = state.min_index_seen.max(request.min_index);
        }
        // One that was only late has caught up when it is told what to wait for.
        let late = matches!(mood, Mood::Stale | Mood::Behind);
        let mood = if late && request.min_index > 5 { Mood::Honest } else { mood };
        let items: Vec<OpenedItem> = request.items.iter().map(|asked| self.item(asked, &request, mood)).collect();
        let proofs = if request.prove { self.proof(&request, &items, mood) } else { vec![] };
        let applied = if late && request.min_index <= 5 { 5 } else { 10 };
        let mut reply = OpenReply { member: self.index.into(), applied, items, proofs, signature: vec![] };
        sign_open_reply(&key(self.index), &CLUSTER, &request.request_id, &mut reply);
        if mood == Mood::BadSignature {
            reply.signature[0] ^= 1;
        }
        Ok(Response::new(reply))
    }

    type RelayStream = BoxStream<'static, Result<RelayedAnswer, Status>>;

    async fn relay(&self, request: Request<RelayRequest>) -> Reply<Self::RelayStream> {
        self.up()?;
        let bytes = request.into_inner().signed_question;
        let signed = SignedQuestion::decode(&bytes).unwrap();
        signed.verify().unwrap();
        let question = signed.question().unwrap();
        let mut answers = Vec::new();
        for member in &question.members {
            let said = RelayedAnswer { member: u32::from(*member), ..RelayedAnswer::default() };
            let peer = &self.peers.get().unwrap()[usize::from(*member) - 1];
            answers.push(match peer.answer(&signed, &question).await {
                Ok(sealed) => RelayedAnswer { sealed, ..said },
                Err(why) => RelayedAnswer { refusal: "unreachable".into(), reason: why.to_string(), ..said },
            });
        }
        let before = {
            let mut state = self.state.lock().unwrap();
            let before = state.passed.clone();
            state.passed.push((0, bytes));
            state.passed.extend(answers.iter().map(|a| (u8::try_from(a.member).unwrap(), a.sealed.clone())));
            before
        };
        self.tricked(&mut answers, &question, &signed.hash(), &before);
        Ok(Response::new(stream::iter(answers.into_iter().map(Ok)).boxed()))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Reply<SubmitReply> {
        if self.up()? == Mood::Silent && self.state.lock().unwrap().failures.is_empty() {
            std::future::pending::<()>().await;
        }
        let bytes = request.into_inner().signed_request;
        let signed: SignedRequest = borsh::from_slice(&bytes).unwrap();
        let parsed = signed.request().unwrap();
        let mut state = self.state.lock().unwrap();
        state.arrived.push((parsed.id, bytes));
        if !state.failures.is_empty() {
            return Err(state.failures.remove(0).into());
        }
        let (mut lease, mut issued) = (None, Vec::new());
        let outcome = match parsed.change {
            Change::PutSecret { namespace, path, header, payload, expected } => {
                let decoded = Header::decode(&header).unwrap();
                decoded.verify_proof().unwrap();
                let versions = state.secrets.entry((namespace, path)).or_default();
                if expected.is_some_and(|n| n != versions.len() as u64) {
                    return Err(Failure::from(Refusal::CheckAndSet { current: versions.len() as u64 }).into());
                }
                versions.push((header, payload));
                let object = decoded.object();
                Outcome::Stored {
                    number: versions.len() as u64,
                    secret: SecretId(object.secret_id),
                    version: VersionId(object.version_id),
                }
            }
            Change::IssueLease { role, verifier, .. } => {
                state.verifier = verifier;
                let id = LeaseId([6; 16]);
                // Of another lease, where that is what is to be tried.
                let sealed_for = if role == "swapped" { LeaseId([7; 16]) } else { id };
                let token = ("token".to_owned(), SecretVec::new(b"issued-by-the-target".to_vec()));
                let fields = SecretFields::new(vec![token]).unwrap();
                let rng = &mut rand_core::UnwrapErr(getrandom::SysRng);
                issued = quorate_api::issued::seal(&state.verifier, &sealed_for, &fields, rng).unwrap_or_default();
                if role == "ended" {
                    issued.clear();
                }
                lease = Some(Lease {
                    id: id.0.to_vec(),
                    system: "postgresql".into(),
                    host: "db.example.org".into(),
                    port: 5432,
                    database: "app".into(),
                    ..Lease::default()
                });
                Outcome::Intent { lease: id, principal: "q1_x".into(), expires_at: NOW + 60_000 }
            }
            _ => Outcome::Done,
        };
        Ok(Response::new(SubmitReply {
            outcome: encode(&outcome),
            index: 11,
            term: 1,
            lease,
            unconfirmed: Vec::new(),
            gone: Vec::new(),
            issued,
        }))
    }

    async fn read_mounts(&self, _: Request<ReadMountsRequest>) -> Reply<ReadMountsReply> {
        self.up()?;
        let shares = self.shares.iter().map(|(member, point)| PublicShare { member: *member, point: point.clone() });
        let keyring = Keyring {
            id: self.ring.id().to_vec(),
            class: self.ring.class.to_string(),
            y: self.ring.y.to_vec(),
            epoch: 1,
            threshold: 2,
            public_shares: shares.collect(),
        };
        let mounts = vec![self.state.lock().unwrap().mount.clone()];
        Ok(Response::new(ReadMountsReply { mounts, keyrings: vec![keyring], ..ReadMountsReply::default() }))
    }

    async fn read_versions(&self, request: Request<ReadVersionsRequest>) -> Reply<ReadVersionsReply> {
        self.up()?;
        let ReadVersionsRequest { namespace, path } = request.into_inner();
        let state = self.state.lock().unwrap();
        let Some(versions) = state.secrets.get(&(namespace, path)) else {
            return Err(Failure::from(Refusal::not_found("secret")).into());
        };
        let secret_id = Header::decode(&versions[0].0).unwrap().object().secret_id.to_vec();
        Ok(Response::new(ReadVersionsReply { secret_id, versions: vec![] }))
    }

    async fn read_roles(&self, _: Request<ReadRolesRequest>) -> Reply<ReadRolesReply> {
        self.up()?;
        let (name, verifier) = ("reader".into(), "scram-sha-256".into());
        let role = Role { name, verifier, scram_iterations: 4096, ..Role::default() };
        let sealed = |name: &str| Role { name: name.into(), verifier: "sealed".into(), ..Role::default() };
        let roles = [role].into_iter().chain(["cloud", "swapped", "ended"].map(sealed)).collect();
        Ok(Response::new(ReadRolesReply { roles, ..Default::default() }))
    }

    async fn read_lease(&self, request: Request<ReadLeaseRequest>) -> Reply<Lease> {
        self.up()?;
        let mut state = self.state.lock().unwrap();
        state.lease_reads += 1;
        let now = if state.lease_reads > 2 { "revoked" } else { "revoking" };
        Ok(Response::new(Lease { id: request.into_inner().id, state: now.into(), ..Lease::default() }))
    }

    async fn read_status(&self, _: Request<ReadStatusRequest>) -> Reply<ReadStatusReply> {
        self.up()?;
        Ok(Response::new(ReadStatusReply { member: self.index.into(), ..ReadStatusReply::default() }))
    }

    async fn list_secrets(&self, request: Request<ListSecretsRequest>) -> Reply<ListSecretsReply> {
        self.up()?;
        // Pages of one.
        let after = request.into_inner().after;
        let state = self.state.lock().unwrap();
        let mut left = state.secrets.keys().map(|(_, path)| path).filter(|path| **path > after);
        let secrets =
            left.next().map(|path| SecretInfo { path: path.clone(), ..SecretInfo::default() }).into_iter().collect();
        Ok(Response::new(ListSecretsReply { secrets, more: left.next().is_some() }))
    }

    async fn read_policies(&self, _: Request<ReadPoliciesRequest>) -> Reply<ReadPoliciesReply> {
        unused()
    }

    async fn list_leases(&self, _: Request<ListLeasesRequest>) -> Reply<ListLeasesReply> {
        self.up()?;
        Ok(Response::new(self.state.lock().unwrap().listed.clone()))
    }
}
