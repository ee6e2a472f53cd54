//! `Debug` for messages that carry sealed bytes, verifiers or derived values: ids and lengths only. Libraries print what
//! they are given.

use crate::{custodian, peer, vault};
use core::fmt::{Debug, Formatter, Result};
use quorate_state::ids::hex;

impl Debug for vault::SubmitRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "SubmitRequest({} bytes)", self.signed_request.len())
    }
}

impl Debug for vault::SubmitReply {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "SubmitReply(index {}, term {})", self.index, self.term)
    }
}

impl Debug for vault::OpenReply {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "OpenReply(member {}, applied {}, {:?})", self.member, self.applied, self.items)
    }
}

impl Debug for vault::OpenedItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.refusal.is_empty() {
            write!(f, "OpenedItem(secret {}, number {})", hex(&self.secret_id), self.number)
        } else {
            write!(f, "OpenedItem(refused: {})", self.refusal)
        }
    }
}

impl Debug for peer::EndorseRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "EndorseRequest({} bytes, from index {})", self.signed_request.len(), self.min_index)
    }
}

impl Debug for peer::ProposeRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "ProposeRequest({} bytes)", self.command.len())
    }
}

impl Debug for peer::ProposeReply {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "ProposeReply(index {}, term {}, refusal {:?})", self.index, self.term, self.refusal)
    }
}

impl Debug for peer::OpenTargetReply {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "OpenTargetReply(epoch {}, refusal {:?})", self.epoch, self.refusal)
    }
}

impl Debug for vault::RelayRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "RelayRequest({} bytes)", self.signed_question.len())
    }
}

impl Debug for vault::RelayedAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "RelayedAnswer(member {}, {} bytes, refusal {:?})", self.member, self.sealed.len(), self.refusal)
    }
}

impl Debug for peer::AnswerRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "AnswerRequest({} bytes)", self.signed_question.len())
    }
}

impl Debug for peer::AnswerReply {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "AnswerReply({} bytes)", self.sealed.len())
    }
}

impl Debug for custodian::DeriveItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "DeriveItem({} bytes of labels)", self.object_label.len() + self.wrap_label.len())
    }
}

impl Debug for custodian::DerivedItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "DerivedItem(refusal {:?})", self.refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte of content is 0xab or `S`: neither may show, in any notation.
    #[test]
    fn no_content_is_printed() {
        let b = || vec![0xab; 32];
        let s = || "lower".to_owned();
        let item = vault::OpenedItem { partial: b(), header: b(), payload: b(), ..Default::default() };
        let shown = [
            format!("{:?}", vault::SubmitRequest { signed_request: b() }),
            format!("{:?}", vault::SubmitReply { outcome: b(), ..Default::default() }),
            format!("{:?}", vault::OpenReply { items: vec![item], signature: b(), ..Default::default() }),
            format!("{:?}", peer::EndorseRequest { signed_request: b(), min_index: 1 }),
            format!("{:?}", peer::ProposeRequest { command: b() }),
            format!("{:?}", peer::ProposeReply { outcome: b(), reason: s(), ..Default::default() }),
            format!("{:?}", peer::OpenTargetReply { partial: b(), ..Default::default() }),
            format!("{:?}", vault::RelayRequest { signed_question: b() }),
            format!("{:?}", vault::RelayedAnswer { sealed: b(), reason: s(), ..Default::default() }),
            format!("{:?}", peer::AnswerRequest { signed_question: b() }),
            format!("{:?}", peer::AnswerReply { sealed: b() }),
            format!("{:?}", custodian::DeriveItem { object_label: b(), wrap_label: b(), part: b() }),
            format!(
                "{:?}",
                custodian::DeriveReply { items: vec![custodian::DerivedItem { value: b(), ..Default::default() }] }
            ),
        ];
        for line in shown {
            assert!(!line.contains("171") && !line.to_lowercase().contains("abab"), "{line}");
        }
    }
}
