//! Asking members until t of them say the same.

use super::{Agreed, SecretRef};
use crate::client::quorum::{alike, index_to_ask_for};
use crate::client::{BACKOFF, CALL, Client, call};
use crate::status::{BEHIND, DISAGREEMENT, Failure, NOT_ENOUGH_MEMBERS, RELAY_ALTERED, Retry};
use crate::transcript::verify_open_reply;
use crate::vault::{OpenReply, OpenRequest, OpenedItem, SecretVersion};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt as _};
use quorate_crypto::identity::VerifyKey;
use quorate_crypto::sealed::Header;
use quorate_state::ids::{MemberIndex, Millis, RequestId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long the first t may take before the others are asked as well.
const HEDGE: Duration = Duration::from_millis(150);
/// How long a question stays valid: below the limit of 30 s by more than clocks differ.
pub(super) const VALIDITY: Millis = 15_000;

/// The answers to one question, by member; their signatures and their form are checked.
#[derive(Default)]
pub(super) struct Round {
    pub(super) replies: BTreeMap<MemberIndex, OpenReply>,
    pub(super) failures: BTreeMap<MemberIndex, Failure>,
}

/// What members must say alike.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said<'a> {
    Refused(&'a str),
    Version {
        secret: &'a [u8],
        version: &'a [u8],
        number: u64,
        newest: bool,
        header: &'a [u8],
        keyring: &'a [u8],
        epoch: u64,
    },
}

impl<'a> Said<'a> {
    /// Nothing, when the member is only behind, or says of itself that it cannot: that is no word on the version.
    pub(super) fn of(item: &'a OpenedItem) -> Option<Self> {
        match item.refusal.as_str() {
            "" => Some(Self::Version {
                secret: &item.secret_id,
                version: &item.version_id,
                number: item.number,
                newest: item.newest,
                header: &item.header_hash,
                keyring: &item.keyring_id,
                epoch: item.epoch,
            }),
            BEHIND => None,
            _ if unable(item) => None,
            code => Some(Self::Refused(code)),
        }
    }
}

impl Round {
    /// What t members say alike of item `at`.
    fn agreed(&self, at: usize, threshold: usize) -> Option<Result<Agreed, Failure>> {
        let answers = self.replies.iter().filter_map(|(member, reply)| Some((*member, reply.items.get(at)?)));
        let said = answers.filter_map(|(member, item)| Some(((member, item), Said::of(item)?)));
        let Some((said, group)) = alike(said, threshold) else {
            // n is 2t-1: the others are fewer than it takes, whatever they say.
            return self.cannot(at).filter(|(_, members)| *members >= threshold).map(|(failure, _)| Err(failure));
        };
        let (_, first) = group.first()?;
        if let Said::Refused(code) = said {
            return Some(Err(Failure::from_words(code, first.reason.clone())));
        }
        let (_, content) = group.iter().find(|(_, item)| !item.header.is_empty())?;
        let header = Header::decode(&content.header).ok()?;
        let partials = group.iter().filter_map(|(member, item)| Some((*member, partial(item)?))).collect();
        Some(Ok(Agreed { item: (*first).clone(), header, payload: content.payload.clone(), partials }))
    }

    /// What members say of item `at` that cannot give a part of it, and how many they are.
    fn cannot(&self, at: usize) -> Option<(Failure, usize)> {
        let of = |(member, reply): (&MemberIndex, &'_ OpenReply)| {
            let item = reply.items.get(at).filter(|item| unable(item))?;
            Some((*member, Failure::from_words(&item.refusal, item.reason.clone())))
        };
        let said: Vec<(MemberIndex, Failure)> = self.replies.iter().filter_map(of).collect();
        let (_, first) = said.first()?;
        let who = said.iter().map(|(m, _)| m.to_string()).collect::<Vec<_>>().join(", ");
        let message = format!("members {who} can give no part: {}", first.message);
        Some((Failure { message, ..first.clone() }, said.len()))
    }

    fn all_agreed(&self, items: usize, threshold: usize) -> Option<Vec<Result<Agreed, Failure>>> {
        (0..items).map(|at| self.agreed(at, threshold)).collect()
    }

    /// The failure for good that t members share: asking on would not change it.
    fn refused_alike(&self, threshold: usize) -> Option<Failure> {
        let of = |code| self.failures.values().filter(move |f| f.code == code);
        self.failures.values().find(|f| f.retry == Retry::No && of(f.code).count() >= threshold).cloned()
    }

    /// See [`index_to_ask_for`].
    fn index_to_wait_for(&self, threshold: usize) -> u64 {
        index_to_ask_for(self.replies.values().map(|r| r.applied), threshold)
    }

    fn into_failure(self, client: &Client) -> Failure {
        let name = |m: &MemberIndex| client.name(*m);
        let mut said: Vec<String> =
            self.replies.iter().map(|(m, r)| format!("{} answered at index {}", name(m), r.applied)).collect();
        let items = self.replies.values().map(|r| r.items.len()).max().unwrap_or(0);
        // Whoever cannot does not disagree.
        let cannot = (0..items).find_map(|at| self.cannot(at)).map(|(failure, _)| failure);
        said.extend(cannot.iter().map(|failure| failure.message.clone()));
        said.extend(self.failures.iter().map(|(m, f)| format!("{}: {}", name(m), f.message)));
        let code = if let Some(failure) = &cannot {
            failure.code
        } else if self.replies.len() >= client.threshold() {
            DISAGREEMENT
        } else if self.failures.values().any(|f| f.code == RELAY_ALTERED) {
            RELAY_ALTERED
        } else {
            NOT_ENOUGH_MEMBERS
        };
        Failure::new(code, said.join(". "))
    }
}

/// Whether a member says that it cannot, where another one could: it is not about the version.
fn unable(item: &OpenedItem) -> bool {
    item.refusal != BEHIND
        && !item.refusal.is_empty()
        && Failure::from_words(&item.refusal, String::new()).retry == Retry::Elsewhere
}

pub(super) fn partial(item: &OpenedItem) -> Option<[u8; 32]> {
    item.partial.as_slice().try_into().ok()
}

impl Client {
    /// Asks until t members agree on every item.
    pub(super) async fn agree(
        &self,
        items: &[SecretRef],
    ) -> Result<(RequestId, Vec<Result<Agreed, Failure>>), Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = BACKOFF.0;
        let mut min_index = 0;
        loop {
            let id = self.request_id();
            let left = deadline.saturating_duration_since(Instant::now());
            let round = self.round(id, items, min_index, left.min(CALL)).await;
            if let Some(agreed) = round.all_agreed(items.len(), self.threshold()) {
                return Ok((id, agreed));
            }
            if let Some(failure) = round.refused_alike(self.threshold()) {
                return Err(failure);
            }
            if Instant::now() + pause >= deadline || self.hopeless(&round) {
                return Err(round.into_failure(self));
            }
            min_index = min_index.max(round.index_to_wait_for(self.threshold()));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Whether so many answers were altered that no t members can be heard through the one that passes them on.
    fn hopeless(&self, round: &Round) -> bool {
        let altered = round.failures.values().filter(|f| f.code == RELAY_ALTERED).count();
        altered + self.threshold() > self.profile.members.len()
    }

    /// One question: t members first, the first of them for content; the others after [`HEDGE`], on a failure, or when
    /// the first do not agree.
    async fn round(&self, id: RequestId, items: &[SecretRef], min_index: u64, limit: Duration) -> Round {
        let mut round = Round::default();
        let mut first = self.order();
        let others = first.split_off(self.threshold().min(first.len()));
        let question = self.question(id, items, min_index, false);
        let mut waiting = SelectAll::new();
        waiting.push(self.ask(&first, first.get(..1).unwrap_or_default(), &question, limit));
        let hedge = tokio::time::sleep(HEDGE);
        tokio::pin!(hedge);
        let mut all = false;
        loop {
            tokio::select! {
                biased;
                answer = waiting.next() => {
                    match answer {
                        Some((member, Ok(reply))) => { round.replies.insert(member, reply); }
                        Some((member, Err(failure))) => { round.failures.insert(member, failure); }
                        None if all => return round,
                        None => {}
                    }
                    if round.all_agreed(items.len(), self.threshold()).is_some() {
                        return round;
                    }
                    if all || (round.failures.is_empty() && !waiting.is_empty()) {
                        continue;
                    }
                }
                () = &mut hedge, if !all => {
                    let heard = |m: &MemberIndex| round.replies.contains_key(m) || round.failures.contains_key(m);
                    self.keeps_waiting(first.iter().copied().filter(|m| !heard(m)));
                }
            }
            all = true;
            if !others.is_empty() {
                waiting.push(self.ask(&others, &others, &question, limit));
            }
        }
    }

    /// The answers of `members` to one question, as they come: directly, or through the one member that is reached. Those of
    /// `content` are asked for headers and payloads as well.
    pub(super) fn ask<'a>(
        &'a self,
        members: &[MemberIndex],
        content: &[MemberIndex],
        question: &OpenRequest,
        limit: Duration,
    ) -> BoxStream<'a, (MemberIndex, Result<OpenReply, Failure>)> {
        if let Some(via) = self.via {
            return self.open_through(via, members, content, question, limit);
        }
        let ask = |member: &MemberIndex| {
            let question = OpenRequest { content: content.contains(member), ..question.clone() };
            self.ask_one(*member, question, limit)
        };
        members.iter().map(ask).collect::<FuturesUnordered<_>>().boxed()
    }

    /// The question under an id.
    pub(super) fn question(&self, id: RequestId, items: &[SecretRef], min_index: u64, prove: bool) -> OpenRequest {
        let version = |item: &SecretRef| SecretVersion {
            namespace: item.namespace.clone(),
            path: item.path.clone(),
            number: item.number.unwrap_or(0),
        };
        OpenRequest {
            request_id: id.0.to_vec(),
            not_after: self.now().saturating_add(VALIDITY),
            min_index,
            prove,
            content: false,
            items: items.iter().map(version).collect(),
        }
    }

    /// One member's answer, checked as far as it can be without the others'.
    async fn ask_one(
        &self,
        member: MemberIndex,
        question: OpenRequest,
        limit: Duration,
    ) -> (MemberIndex, Result<OpenReply, Failure>) {
        let answer = async {
            let unknown = || Failure::new(NOT_ENOUGH_MEMBERS, format!("member {member} is not known"));
            let mut vault = self.vaults.get(&member).ok_or_else(unknown)?.clone();
            let key = self.profile.member(member).ok_or_else(unknown)?.key;
            let reply = self.heard(member, call(limit, vault.open(question.clone())).await)?;
            self.check_reply(member, &VerifyKey(key), &question, &reply).map_err(|why| self.suspect(member, why))?;
            Ok(reply)
        };
        (member, answer.await)
    }

    pub(super) fn check_reply(
        &self,
        member: MemberIndex,
        key: &VerifyKey,
        question: &OpenRequest,
        reply: &OpenReply,
    ) -> Result<(), &'static str> {
        if verify_open_reply(key, &self.profile.cluster.0, &question.request_id, reply).is_err() {
            return Err("its signature does not verify");
        }
        if reply.member != u32::from(member) || reply.items.len() != question.items.len() {
            return Err("its answer is not to the question");
        }
        for (asked, item) in question.items.iter().zip(&reply.items) {
            if !item.refusal.is_empty() {
                continue;
            }
            let lengths = [item.secret_id.len(), item.version_id.len(), item.keyring_id.len(), item.partial.len()];
            if lengths != [16, 16, 32, 32] || item.header_hash.len() != 64 {
                return Err("its answer is malformed");
            }
            if asked.number != 0 && asked.number != item.number || asked.number == 0 && !item.newest {
                return Err("its answer is about another version");
            }
            if question.content {
                check_content(item)?;
            }
        }
        Ok(())
    }
}

/// Content against the hashes that the member itself signed.
fn check_content(item: &OpenedItem) -> Result<(), &'static str> {
    let header = Header::decode(&item.header).map_err(|_| "the header it sent is malformed")?;
    if header.hash() != *item.header_hash {
        return Err("the header it sent is not the one it signed for");
    }
    header.check_payload(&item.payload).map_err(|_| "the payload it sent is not the header's")
}
