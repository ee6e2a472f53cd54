//! Asking through the one member that is reached. It passes questions on and sees sealed answers; what comes out of here is
//! what each member itself signed, and is judged as if it had come directly.

use crate::client::{CALL, Client, lock};
use crate::relay::{Altered, Answer, Asked, Question, SignedQuestion, Version, open};
use crate::status::{BAD_ANSWER, DEADLINE, Failure, RELAY_ALTERED, UNREACHABLE};
use crate::vault::{OpenReply, OpenRequest, ReadMountsReply, RelayRequest, RelayedAnswer};
use futures::stream::{self, BoxStream, StreamExt as _};
use quorate_crypto::answer::AnswerKey;
use quorate_crypto::identity::VerifyKey;
use quorate_state::ids::{MemberIndex, RequestId};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status, Streaming};

/// A question under way.
struct Passage<'a> {
    client: &'a Client,
    via: MemberIndex,
    asked: SignedQuestion,
    hash: [u8; 64],
    key: AnswerKey,
    /// Who has not been heard.
    missing: BTreeSet<MemberIndex>,
    deadline: Instant,
    from: From,
}

enum From {
    /// Nothing was sent.
    Nowhere,
    Stream(Box<Streaming<RelayedAnswer>>),
    /// No more comes, for this reason.
    Ended(Failure),
}

impl Client {
    /// [`Client::ask`] through `via`.
    pub(super) fn open_through<'a>(
        &'a self,
        via: MemberIndex,
        members: &[MemberIndex],
        content: &[MemberIndex],
        question: &OpenRequest,
        limit: Duration,
    ) -> BoxStream<'a, (MemberIndex, Result<OpenReply, Failure>)> {
        let version = |item: &crate::vault::SecretVersion| Version {
            namespace: item.namespace.clone(),
            path: item.path.clone(),
            number: item.number,
        };
        let ask = Asked::Open {
            min_index: question.min_index,
            prove: question.prove,
            content: sorted(content),
            items: question.items.iter().map(version).collect(),
        };
        let id = question.request_id.as_slice().try_into().map_or(RequestId([0; 16]), RequestId);
        let (question, content) = (question.clone(), content.to_vec());
        self.pass(via, id, ask, question.not_after, members, limit)
            .map(move |(member, answer)| {
                let question = OpenRequest { content: content.contains(&member), ..question.clone() };
                let answer = self.heard(member, answer);
                (member, answer.and_then(|answer| self.opened(member, &question, &answer)))
            })
            .boxed()
    }

    /// What every member says of the mounts and keyrings of a namespace; who does not answer is left out.
    pub(super) async fn mounts_through(&self, via: MemberIndex, namespace: &str) -> Vec<ReadMountsReply> {
        let ask = Asked::ReadMounts { namespace: namespace.to_owned() };
        let not_after = self.now().saturating_add(super::ask::VALIDITY);
        let answers = self.pass(via, self.request_id(), ask, not_after, &self.order(), CALL);
        answers.filter_map(|(_, answer)| async move { answer.ok()?.as_mounts() }).collect().await
    }

    /// A member's answer to Open, with the checks of one that came directly.
    fn opened(&self, member: MemberIndex, question: &OpenRequest, answer: &Answer) -> Result<OpenReply, Failure> {
        let reply = answer.as_opened().ok_or_else(|| self.suspect(member, "its answer is not to the question"))?;
        let key = self.profile.member(member).map(|m| VerifyKey(m.key));
        let key = key.ok_or_else(|| Failure::new(BAD_ANSWER, format!("member {member} is not known")))?;
        self.check_reply(member, &key, question, &reply).map_err(|why| self.suspect(member, why))?;
        Ok(reply)
    }

    /// The answers of `members` to one question, as `via` passes them on, each opened and verified. One for each member.
    fn pass(
        &self,
        via: MemberIndex,
        id: RequestId,
        ask: Asked,
        not_after: u64,
        members: &[MemberIndex],
        limit: Duration,
    ) -> BoxStream<'_, (MemberIndex, Result<Answer, Failure>)> {
        let key = AnswerKey::generate(&mut *lock(&self.rng));
        let question = Question {
            cluster: self.profile.cluster,
            id,
            ask,
            epk: key.public(),
            members: sorted(members),
            not_after,
            principal: self.identity.principal().to_owned(),
            chain: self.identity.chain().to_vec(),
        };
        let asked = SignedQuestion::sign(&question, self.identity.key());
        let passage = Passage {
            client: self,
            via,
            hash: asked.hash(),
            asked,
            key,
            missing: question.members.into_iter().collect(),
            deadline: Instant::now() + limit,
            from: From::Nowhere,
        };
        stream::unfold(passage, Passage::next).boxed()
    }
}

impl Passage<'_> {
    /// The next member's answer. What is not of a member that is still missing is passed over: the first counts.
    async fn next(mut self) -> Option<((MemberIndex, Result<Answer, Failure>), Self)> {
        loop {
            let first = self.missing.first().copied()?;
            match &mut self.from {
                From::Nowhere => self.from = self.send().await,
                From::Ended(why) => {
                    let failure = why.clone();
                    self.missing.remove(&first);
                    return Some(((first, Err(failure)), self));
                }
                From::Stream(answers) => match timeout_at(self.deadline, answers.message()).await {
                    Ok(Ok(Some(passed))) => {
                        let Ok(member) = MemberIndex::try_from(passed.member) else { continue };
                        if self.missing.remove(&member) {
                            return Some(((member, self.judge(member, &passed)), self));
                        }
                    }
                    Ok(Ok(None)) => self.from = From::Ended(self.broken("it passed on no answer")),
                    Ok(Err(status)) => self.from = From::Ended(self.failed(status)),
                    Err(_) => self.from = From::Ended(self.late()),
                },
            }
        }
    }

    async fn send(&self) -> From {
        let Some(mut vault) = self.client.vaults.get(&self.via).cloned() else {
            return From::Ended(self.broken("it is not connected"));
        };
        let request = RelayRequest { signed_question: self.asked.encode() };
        match timeout_at(self.deadline, vault.relay(request)).await {
            Ok(Ok(answers)) => From::Stream(Box::new(Response::into_inner(answers))),
            Ok(Err(status)) => From::Ended(self.failed(status)),
            Err(_) => From::Ended(self.late()),
        }
    }

    /// Opens and verifies. The words of the node in between are only words: whatever they say, a member was not reached.
    fn judge(&self, member: MemberIndex, passed: &RelayedAnswer) -> Result<Answer, Failure> {
        let Client { profile, .. } = self.client;
        let (name, via) = (self.client.name(member), self.client.name(self.via));
        if passed.sealed.is_empty() {
            return Err(Failure::new(UNREACHABLE, format!("{via}, asked to pass it on, says: {}", passed.reason)));
        }
        let key = profile.member(member).map_or(VerifyKey([0; 32]), |m| VerifyKey(m.key));
        match open(&profile.cluster, &self.hash, member, &key, &self.key, &passed.sealed) {
            Ok(Answer::Refused { code, reason }) => Err(Failure::from_words(&code, reason)),
            Ok(answer) => Ok(answer),
            Err(why @ Altered::Unreadable) => Err(self.client.suspect(member, why)),
            Err(why @ (Altered::Seal | Altered::Signature)) => {
                tracing::warn!(member, name, via, %why, "an answer was altered on its way, or made wrong");
                Err(Failure::new(RELAY_ALTERED, format!("what {via} passed on as the answer of {name}: {why}")))
            }
        }
    }

    fn broken(&self, what: &str) -> Failure {
        Failure::new(UNREACHABLE, format!("{}, asked to pass questions on: {what}", self.client.name(self.via)))
    }

    fn failed(&self, status: Status) -> Failure {
        let failure = Failure::from(status);
        Failure { message: format!("{}: {}", self.client.name(self.via), failure.message), ..failure }
    }

    fn late(&self) -> Failure {
        Failure::new(DEADLINE, format!("{}, asked to pass questions on, is late", self.client.name(self.via)))
    }
}

fn sorted(members: &[MemberIndex]) -> Vec<MemberIndex> {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    sorted
}
