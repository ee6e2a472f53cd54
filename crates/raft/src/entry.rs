//! The types that openraft is instantiated with. They stay inside this crate.

use std::fmt;

use bytes::Bytes;
use openraft::alias;

use crate::Node;

openraft::declare_raft_types!(
    /// openraft's type parameters: one leader per term, as in the paper.
    pub(crate) Types:
        D = Payload,
        R = Reply,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type LogEntry = alias::EntryOf<Types>;
pub(crate) type EntryPayload = alias::EntryPayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;

/// A proposal's bytes. openraft prints entries in its log lines, so this type prints its length and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the machine answered to a proposal; as tight-lipped as [`Payload`].
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply(pub(crate) Vec<u8>);

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rendering_of_an_entry_shows_its_bytes() {
        let canary = "canary-5f1d";
        let payload = Payload(Bytes::from_static(canary.as_bytes()));
        let entry = LogEntry { log_id: LogId::new_term_index(3, 7), payload: EntryPayload::Normal(payload.clone()) };
        let request = openraft::raft::AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(3, 1),
            prev_log_id: None,
            entries: vec![entry.clone()],
            leader_commit: None,
        };
        let number_form = format!("{:?}", canary.as_bytes());
        let renderings = [
            format!("{payload} {payload:?} {payload:#?}"),
            format!("{entry} {entry:?} {entry:#?}"),
            format!("{request} {request:?}"),
            format!("{:?}", Reply(canary.into())),
        ];
        for text in renderings {
            assert!(!text.contains(canary) && !text.contains(&number_form), "{text}");
        }
        assert!(format!("{entry}").contains("11 bytes"));
    }
}
