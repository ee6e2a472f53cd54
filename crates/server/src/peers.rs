//! Connections of this node to the other members.

use crate::absence::Absences;
use crate::failpoint;
use quorate_api::MAX_MESSAGE;
use quorate_api::net::Net;
use quorate_api::peer::peer_client::PeerClient;
use quorate_api::tls::{PEER, TlsError, TlsIdentity, connect_over};
use quorate_raft::{Dialer, Link, Node};
use quorate_state::genesis::{Member, Roster};
use quorate_state::ids::MemberIndex;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// How long a member that did not answer soon is asked last.
const SLOW: Duration = Duration::from_secs(2);

/// One lazy channel to each other member, for everything but the log itself.
pub(crate) struct Peers {
    clients: BTreeMap<MemberIndex, PeerClient<Channel>>,
    absences: Arc<Absences>,
    /// Who did not answer soon, and when.
    slow: Mutex<BTreeMap<MemberIndex, Instant>>,
}

impl Peers {
    pub(crate) fn new(
        net: &Arc<dyn Net>,
        roster: &Roster,
        me: MemberIndex,
        identity: &TlsIdentity,
        absences: Arc<Absences>,
    ) -> Result<Self, TlsError> {
        let mut clients = BTreeMap::new();
        for member in roster.members.iter().filter(|m| m.index != me) {
            let channel = connect_over(net, &member.peer_address, member.key, identity, &member.name, PEER)?;
            let client =
                PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
            clients.insert(member.index, client);
        }
        Ok(Self { clients, absences, slow: Mutex::default() })
    }

    /// Every other member, but those that are destroyed.
    pub(crate) fn all(&self) -> impl Iterator<Item = (MemberIndex, PeerClient<Channel>)> + '_ {
        let there = |index: &MemberIndex| !self.absences.is_destroyed(*index);
        self.clients.iter().filter(move |(index, _)| there(index)).map(|(index, client)| (*index, client.clone()))
    }

    /// The same in the order in which to ask some of them: another one first for each `turn`, and those last who did not answer soon of late.
    pub(crate) fn in_turn(&self, turn: u8) -> Vec<(MemberIndex, PeerClient<Channel>)> {
        let mut all: Vec<_> = self.all().collect();
        let first = usize::from(turn).checked_rem(all.len()).unwrap_or(0);
        all.rotate_left(first);
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.retain(|_, since| since.elapsed() < SLOW);
        all.sort_by_key(|(member, _)| slow.contains_key(member));
        all
    }

    /// It has not answered soon.
    pub(crate) fn note_slow(&self, member: MemberIndex) {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).insert(member, Instant::now());
    }

    /// One of them.
    pub(crate) fn client(&self, index: MemberIndex) -> Option<PeerClient<Channel>> {
        self.clients.get(&index).filter(|_| !self.absences.is_destroyed(index)).cloned()
    }
}

/// Connections for the replicated log: each class of traffic has its own.
pub(crate) struct RaftDialer {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) members: Vec<Member>,
    pub(crate) identity: TlsIdentity,
}

#[async_trait::async_trait]
impl Dialer for RaftDialer {
    async fn dial(&self, id: u64, _node: &Node, _class: Link) -> Result<Channel, io::Error> {
        // A test can cut the log's links to one member and leave all others: a member that is behind and does not know it.
        failpoint::hit(&format!("raft.dial.{id}")).map_err(io::Error::other)?;
        // Address and key come from the roster, never from what a leader wrote into Raft's own membership.
        let member = self.members.iter().find(|m| m.raft_id == id);
        let member = member.ok_or_else(|| io::Error::other("no member of the roster has this raft id"))?;
        connect_over(&self.net, &member.peer_address, member.key, &self.identity, &member.name, PEER)
            .map_err(io::Error::other)
    }
}
