//! One question of a client: whom it asks, what it believes, and whether that was true.

use crate::node::{Answer, State};
use crate::{Mutant, Setup};
use quorate_api::client::quorum::{alike, index_to_ask_for};

pub(crate) struct Question {
    pub(crate) item: u8,
    /// How many entries were committed when it was asked.
    pub(crate) floor: usize,
    pub(crate) round: u32,
    /// All nodes, those that are asked first in front.
    pub(crate) order: Vec<usize>,
    pub(crate) sent: usize,
    /// What they said in this round: nothing from one that is behind.
    replies: Vec<(usize, u64, Option<Answer>)>,
    pub(crate) min_index: u64,
    pub(crate) done: bool,
}

impl Question {
    pub(crate) fn new(item: u8, floor: usize, nodes: usize) -> Self {
        let order = (0..nodes).collect();
        Self { item, floor, round: 0, order, sent: 0, replies: Vec::new(), min_index: 0, done: false }
    }

    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
        self.sent = 0;
        self.replies.clear();
    }

    /// Takes a reply; what the client then believes, if anything.
    pub(crate) fn reply(
        &mut self,
        from: usize,
        applied: u64,
        said: Option<Answer>,
        setup: &Setup,
        mutant: Option<Mutant>,
    ) -> Option<Answer> {
        if self.replies.iter().all(|(node, ..)| *node != from) {
            self.replies.push((from, applied, said));
        }
        let answers = self.replies.iter().filter_map(|(node, _, said)| Some((*node, (*said)?)));
        match mutant {
            Some(Mutant::FirstAnswer) if answers.clone().count() >= setup.threshold => {
                answers.map(|(_, said)| said).next()
            }
            Some(Mutant::OneTooFew) => alike(answers, setup.threshold - 1).map(|(said, _)| said),
            _ => alike(answers, setup.threshold).map(|(said, _)| said),
        }
    }

    /// Whether the others should be asked as well: the first do not agree, or one is behind.
    pub(crate) fn needs_more(&self) -> bool {
        self.replies.len() >= self.sent || self.replies.iter().any(|(_, _, said)| said.is_none())
    }

    pub(crate) fn all_replied(&self) -> bool {
        self.replies.len() == self.order.len()
    }

    /// No t agree: the index to ask for next time.
    pub(crate) fn raise(&mut self, setup: &Setup, mutant: Option<Mutant>) {
        let named = self.replies.iter().map(|(_, applied, _)| *applied);
        let index = match mutant {
            Some(Mutant::HighestNamed) => named.max().unwrap_or(0),
            _ => index_to_ask_for(named, setup.threshold),
        };
        self.min_index = self.min_index.max(index);
    }

    /// Whether the committed log gave this answer at some moment since the question was asked. `history[i]` is the state after i entries.
    pub(crate) fn is_true(&self, answer: Answer, history: &[State]) -> bool {
        history[self.floor..].iter().any(|state| state.answer(self.item) == answer)
    }
}
