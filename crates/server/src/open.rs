//! This node's part in opening sealed versions.
//!
//! The leader is not asked. The node notes the last entry of its own log that could change the answer when the question
//! arrives, and answers when it has applied it: of any t nodes one holds every committed entry, and t equal answers are the newest state.

use crate::core::{Core, behind_failure};
use crate::failpoint::planted;
use crate::pipeline::{Ask, Recorded};
use quorate_api::MAX_OPEN_REPLY;
use quorate_api::status::Failure;
use quorate_api::transcript::{open_proof_context, sign_open_reply};
use quorate_api::vault::{OpenReply, OpenRequest, OpenedItem, PartialProof};
use quorate_audit::Detail;
use quorate_authz::Principal;
use quorate_crypto::sealed::Header;
use quorate_crypto::{dleq, threshold};
use quorate_raft::freshness::Footprint;
use quorate_state::access::{Keyring, keyring};
use quorate_state::change::{Kind, Resource};
use quorate_state::footprint;
use quorate_state::ids::{KeyringId, MemberIndex, Millis, RequestId, check_namespace, check_path};
use quorate_state::outcome::Refusal;
use quorate_state::secrets::{self, VersionInfo, VersionState};
use quorate_state::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many versions one question may name.
const MAX_ITEMS: usize = 256;
/// How far ahead a question's end may lie.
const MAX_AHEAD: u64 = 30_000;
/// How long a node waits for its own state.
const PATIENCE: Duration = Duration::from_secs(1);

/// Room in an answer for all but content.
const MAX_REST: usize = 1 << 20;

/// How a question came here.
#[derive(Clone, Copy)]
pub(crate) struct Passage {
    /// The member that passed it on, if one did.
    pub(crate) via: Option<MemberIndex>,
    /// Among how many answers the room of one is shared.
    pub(crate) sharing: usize,
}

impl Passage {
    /// From the caller itself.
    pub(crate) const DIRECT: Self = Self { via: None, sharing: 1 };
}

/// A version as this node's own state has it.
struct Found {
    secret: [u8; 16],
    info: VersionInfo,
    newest: bool,
    header: Vec<u8>,
    payload: Vec<u8>,
    keyring: KeyringId,
    ring: Keyring,
}

impl Core {
    /// Waits until this node's state is as new as it must be to answer alone or as one of t.
    async fn freshen(&self, question: &Footprint, min_index: u64) -> Result<(), Failure> {
        if planted("bug.stale") {
            return self.wait_applied(min_index, PATIENCE).await;
        }
        let me = self.roster.member(self.me).map_or(0, |m| m.raft_id);
        if self.raft.membership().suffices(me, self.threshold()) {
            self.raft.tail_barrier(question, PATIENCE).await.map_err(|b| behind_failure(b.applied))?;
        } else {
            // Then t answers need not contain a voter of the latest majority: the leader has to confirm.
            self.linearize().await?;
        }
        self.wait_applied(min_index, PATIENCE).await
    }

    /// Waits until this node's state holds everything that was committed when it was asked: for answers of one node.
    pub(crate) async fn linearize(&self) -> Result<(), Failure> {
        self.raft.read_index(PATIENCE).await.map(|_| ()).map_err(|error| {
            Failure::new("no_leader", format!("this node cannot confirm that it is up to date ({error})"))
        })
    }

    /// Whether a question is still, and not yet for too long, to be answered by this member's clock.
    pub(crate) fn in_time(&self, not_after: Millis) -> Result<(), Failure> {
        self.check_end(not_after, 0)?;
        if not_after.saturating_sub(self.clock()?) > MAX_AHEAD {
            return Err(Failure::from(Refusal::TooFar { limit: MAX_AHEAD }));
        }
        Ok(())
    }

    /// Answers a question for parts.
    pub(crate) async fn open(
        &self,
        principal: &Principal,
        ask: &OpenRequest,
        passage: Passage,
    ) -> Result<OpenReply, Failure> {
        let request = <[u8; 16]>::try_from(ask.request_id.as_slice())
            .map(RequestId)
            .map_err(|_| Failure::from(Refusal::invalid("request_id", "must have 16 bytes")))?;
        if ask.items.is_empty() || ask.items.len() > MAX_ITEMS {
            return Err(Failure::from(Refusal::invalid("items", "must be 1 to 256")));
        }
        self.in_time(ask.not_after)?;
        for item in &ask.items {
            check_namespace(&item.namespace).map_err(|e| Failure::from(Refusal::invalid("namespace", e)))?;
            check_path(&item.path).map_err(|e| Failure::from(Refusal::invalid("path", e)))?;
        }
        let question = ask.items.iter().map(|item| footprint::secret(&item.namespace, &item.path)).collect();
        match self.freshen(&Footprint::Items(question), ask.min_index).await {
            Err(failure) if failure.code == "behind" => return Ok(self.behind(ask)),
            fresh => fresh?,
        }
        let asks = ask
            .items
            .iter()
            .map(|item| Ask {
                request,
                kind: Kind::OpenSecret,
                resource: Resource::Secret { namespace: item.namespace.clone(), path: item.path.clone() },
                numbers: Vec::new(),
                details: self
                    .passed_on_by(passage.via)
                    .into_iter()
                    .chain([("number", Detail::number(item.number))])
                    .collect(),
            })
            .collect();
        let (decided, (found, applied)) = self
            .allow_each(principal, asks, |store, applied| {
                let mut room = (MAX_OPEN_REPLY - MAX_REST) / passage.sharing.max(1);
                let mut found = Vec::with_capacity(ask.items.len());
                for item in &ask.items {
                    let one = find(store, &item.namespace, &item.path, item.number)?;
                    let size = one.as_ref().map_or(0, |f| f.header.len() + f.payload.len());
                    found.push(match room.checked_sub(size) {
                        Some(rest) if ask.content => {
                            room = rest;
                            one
                        }
                        None if ask.content => return Ok((Err(too_much()), applied)),
                        _ => one.map(|f| Found { payload: Vec::new(), ..f }),
                    });
                }
                Ok((Ok(found), applied))
            })
            .await?;
        let found = found?;
        let mut items = Vec::with_capacity(found.len());
        let mut proving: BTreeMap<KeyringId, Proving> = BTreeMap::new();
        for (recorded, found) in decided.into_iter().zip(found) {
            let item = match (recorded, found) {
                (Ok(recorded), Ok(found)) => self.part(&recorded, found, ask.content, &mut proving),
                (Err(failure), _) | (Ok(_), Err(failure)) => Err(failure),
            };
            items.push(item.unwrap_or_else(|failure| OpenedItem {
                refusal: failure.code.to_owned(),
                reason: failure.message.to_owned(),
                ..OpenedItem::default()
            }));
        }
        let mut reply =
            OpenReply { member: u32::from(self.me), applied, items, proofs: Vec::new(), signature: Vec::new() };
        if ask.prove {
            reply.proofs = self.prove(&ask.request_id, &proving)?;
        }
        sign_open_reply(self.keys.identity(), &self.cluster.0, &ask.request_id, &mut reply);
        Ok(reply)
    }

    /// That this node has not caught up, said so that the caller can believe it.
    fn behind(&self, ask: &OpenRequest) -> OpenReply {
        let applied = self.raft.read(|_, applied| applied);
        let failure = behind_failure(applied);
        let item = OpenedItem { refusal: failure.code.to_owned(), reason: failure.message, ..OpenedItem::default() };
        let items = vec![item; ask.items.len()];
        let mut reply =
            OpenReply { member: u32::from(self.me), applied, items, proofs: Vec::new(), signature: Vec::new() };
        sign_open_reply(self.keys.identity(), &self.cluster.0, &ask.request_id, &mut reply);
        reply
    }

    /// The part itself: this node's share times the point of the header in this node's own state. Takes a recorded
    /// grant, and a version that this node found by itself.
    fn part(
        &self,
        recorded: &Recorded,
        found: Found,
        content: bool,
        proving: &mut BTreeMap<KeyringId, Proving>,
    ) -> Result<OpenedItem, Failure> {
        debug_assert_eq!(recorded.kind(), Kind::OpenSecret);
        let damaged = || Failure::new("storage_failed", "this node's copy of the version is damaged");
        let header = Header::decode(&found.header).map_err(|_| damaged())?;
        let share = self.share(&found.ring)?;
        let point = header.r();
        let partial = threshold::partial(&share, &point).map_err(|_| damaged())?;
        let entry = proving.entry(found.keyring).or_insert_with(|| Proving::new(found.ring.clone()));
        entry.points.push(point);
        entry.partials.push(partial);
        Ok(OpenedItem {
            refusal: String::new(),
            reason: String::new(),
            secret_id: found.secret.to_vec(),
            version_id: found.info.id.0.to_vec(),
            number: found.info.number,
            newest: found.newest,
            header_hash: header.hash().to_vec(),
            keyring_id: found.keyring.0.to_vec(),
            epoch: found.ring.epoch,
            partial: partial.to_vec(),
            header: if content { found.header } else { Vec::new() },
            payload: if content { found.payload } else { Vec::new() },
        })
    }

    fn prove(&self, request: &[u8], proving: &BTreeMap<KeyringId, Proving>) -> Result<Vec<PartialProof>, Failure> {
        proving
            .iter()
            .map(|(id, p)| {
                let share = self.share(&p.ring)?;
                let context = open_proof_context(request, &id.0, p.ring.epoch);
                let proof = dleq::prove(&share, &p.points, &p.partials, &context, &mut self.env.rng())
                    .map_err(|e| Failure::new("internal", format!("the proof could not be made: {e}")))?;
                Ok(PartialProof { keyring_id: id.0.to_vec(), epoch: p.ring.epoch, proof: proof.to_vec() })
            })
            .collect()
    }
}

struct Proving {
    ring: Keyring,
    points: Vec<[u8; 32]>,
    partials: Vec<[u8; 32]>,
}

impl Proving {
    fn new(ring: Keyring) -> Self {
        Self { ring, points: Vec::new(), partials: Vec::new() }
    }
}

fn too_much() -> Failure {
    Failure::new("too_much_content", format!("the answers together would have more than {} MiB", MAX_OPEN_REPLY >> 20))
}

fn find(store: &dyn Store, namespace: &str, path: &str, number: u64) -> Result<Result<Found, Failure>, StoreError> {
    let none = |what| Ok(Err(Failure::from(Refusal::not_found(what))));
    let Some(secret) = secrets::secret(store, namespace, path)? else { return none("secret") };
    let newest = secret.newest().map_or(0, |v| v.number);
    let number = if number == 0 { newest } else { number };
    let Some(info) = secret.version(number).cloned() else { return none("version") };
    match info.state {
        VersionState::Live => {}
        VersionState::Deleted => return none("version that is not deleted"),
        VersionState::Destroyed => return none("version that is not destroyed"),
    }
    let (Some(header), Some(payload)) =
        (secrets::header(store, &secret.id, number)?, secrets::payload(store, &secret.id, number)?)
    else {
        return none("content of the version");
    };
    let id = match Header::decode(&header) {
        Ok(header) => KeyringId(header.wrap().keyring_id),
        Err(_) => return none("readable header of the version"),
    };
    let Some(ring) = keyring(store, &id)? else { return none("keyring") };
    Ok(Ok(Found { secret: secret.id.0, newest: number == newest, info, header, payload, keyring: id, ring }))
}
