//! Questions that reach this member through another, and those that it passes on.
//!
//! Passing on takes no trust in whoever does it: the caller signed the question, and each member authenticates that caller,
//! decides and records by itself, and seals its answer to the key in the question. A member that passes a question on learns
//! who asks for what, as every member does that answers, and no part.

use crate::core::Core;
use crate::open::Passage;
use futures::stream::{FuturesUnordered, Stream};
use quorate_api::MAX_OPEN_REPLY;
use quorate_api::peer::AnswerRequest;
use quorate_api::relay::{Answer, Asked, Question, SignedQuestion, seal};
use quorate_api::status::Failure;
use quorate_api::vault::{OpenRequest, ReadMountsRequest, RelayedAnswer, SecretVersion};
use quorate_audit::Detail;
use quorate_state::ids::MemberIndex;
use quorate_state::outcome::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(4);

impl Core {
    /// Passes a question on to the members that it names, and their answers back as they come. The caller of the connection
    /// must be the caller of the question: nobody's question is carried for somebody else.
    pub(crate) fn relay(
        self: &Arc<Self>,
        chain: &[Vec<u8>],
        bytes: Vec<u8>,
    ) -> Result<impl Stream<Item = RelayedAnswer> + Send + 'static, Failure> {
        let question = SignedQuestion::decode(&bytes).and_then(|signed| signed.question()).map_err(Failure::from)?;
        if question.chain.as_slice() != chain {
            return Err(Failure::new(
                "not_your_request",
                "the question's certificate chain is not that of the connection that brought it",
            ));
        }
        if let Some(stranger) = question.members.iter().find(|m| self.roster.member(**m).is_none()) {
            return Err(Failure::from(Refusal::invalid("members", format!("{stranger} is no member"))));
        }
        let bytes = Arc::new(bytes);
        let ask = |member: &MemberIndex| Arc::clone(self).pass_on(*member, Arc::clone(&bytes));
        Ok(question.members.iter().map(ask).collect::<FuturesUnordered<_>>())
    }

    async fn pass_on(self: Arc<Self>, member: MemberIndex, question: Arc<Vec<u8>>) -> RelayedAnswer {
        let answer = async {
            if member == self.me {
                return self.answer(&question, self.me).await;
            }
            let unknown = || Failure::new("unreachable", "it is not among this node's peers");
            let mut peer = self.peers.client(member).ok_or_else(unknown)?.max_decoding_message_size(MAX_OPEN_REPLY);
            let ask = AnswerRequest { signed_question: question.to_vec() };
            match timeout(ANSWER, peer.answer(ask)).await {
                Ok(Ok(reply)) => Ok(reply.into_inner().sealed),
                Ok(Err(status)) => Err(Failure::from(status)),
                Err(_) => Err(Failure::new("unreachable", "it does not answer")),
            }
        };
        let said = RelayedAnswer { member: u32::from(member), ..RelayedAnswer::default() };
        match answer.await {
            Ok(sealed) => RelayedAnswer { sealed, ..said },
            Err(failure) => RelayedAnswer { refusal: failure.code.to_owned(), reason: failure.message, ..said },
        }
    }

    /// This member's answer to a question that `via` passed on, sealed: a refusal too. Only what is no question, or names no
    /// usable key to seal to, is refused in clear.
    pub(crate) async fn answer(&self, bytes: &[u8], via: MemberIndex) -> Result<Vec<u8>, Failure> {
        let signed = SignedQuestion::decode(bytes).map_err(Failure::from)?;
        let question = signed.question().map_err(Failure::from)?;
        let answer = self
            .weigh(&signed, &question, via)
            .await
            .unwrap_or_else(|failure| Answer::Refused { code: failure.code.to_owned(), reason: failure.message });
        seal(&question, &signed.hash(), self.me, self.keys.identity(), &answer, &mut self.env.rng())
            .map_err(|why| Failure::from(Refusal::invalid("epk", why)))
    }

    /// Nothing that `via` says counts: the caller is who the certificate and the signature say, by this member's own roots
    /// and clock.
    async fn weigh(&self, signed: &SignedQuestion, question: &Question, via: MemberIndex) -> Result<Answer, Failure> {
        if question.cluster != self.cluster {
            return Err(Failure::from(Refusal::WrongCluster));
        }
        if !question.members.contains(&self.me) {
            return Err(Failure::from(Refusal::invalid("members", "the question is for other members")));
        }
        let principal = self.authenticate(&question.chain)?;
        if principal.id().as_str() != question.principal || &signed.key != principal.key() {
            return Err(Failure::new(
                "not_your_request",
                "the question's caller or key is not that of its certificate",
            ));
        }
        signed.verify().map_err(Failure::from)?;
        self.in_time(question.not_after)?;
        match &question.ask {
            Asked::Open { min_index, prove, content, items } => {
                let version = |v: &quorate_api::relay::Version| SecretVersion {
                    namespace: v.namespace.clone(),
                    path: v.path.clone(),
                    number: v.number,
                };
                let ask = OpenRequest {
                    request_id: question.id.0.to_vec(),
                    not_after: question.not_after,
                    min_index: *min_index,
                    prove: *prove,
                    content: content.contains(&self.me),
                    items: items.iter().map(version).collect(),
                };
                let passage = Passage { via: Some(via), sharing: content.len() };
                Ok(Answer::opened(&self.open(&principal, &ask, passage).await?))
            }
            Asked::ReadMounts { namespace } => {
                let ask = ReadMountsRequest { namespace: namespace.clone() };
                let mounts = self.read_mounts_as(&principal, ask, question.id, Some(via)).await?;
                Ok(Answer::mounts(&mounts))
            }
        }
    }

    /// For the record: who passed a question on.
    pub(crate) fn passed_on_by(&self, via: Option<MemberIndex>) -> Vec<(&'static str, Detail)> {
        let name = via.and_then(|via| self.roster.member(via)).map(|member| Detail::text(&member.name));
        name.map(|name| ("passed_on_by", name)).into_iter().collect()
    }
}
