//! Key ceremonies through the log: what members said, in the order of the log, and the keyring that follows.
//!
//! The protocol is `crypto::reshare`; this module begins it, hands it the messages, ends it at its deadline, and turns
//! its certificate into a keyring.

use crate::access::{Keyring, keyring, save_keyring};
use crate::change::KeyringClass;
use crate::clock::ClusterClock;
use crate::genesis::Roster;
use crate::ids::{KeyringId, MemberIndex, Millis, SessionId};
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, after_prefix, key, read, read_prefix};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::reshare::{self, Ceremony, Kind, Message, Params, Phase, Verdict};

/// How long a ceremony may take, in cluster time.
pub const DEADLINE: Millis = 600_000;

/// A ceremony and what it is for.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Session {
    /// What the keyring is for.
    pub class: KeyringClass,
    /// When it is given up.
    pub deadline: Millis,
    /// The log index that began it.
    pub begun_index: u64,
    /// The roster whose members take part.
    pub roster: u64,
    /// What was said.
    pub ceremony: Ceremony,
    /// The keyring that it made.
    pub keyring: Option<KeyringId>,
}

impl Value for Session {}

impl Session {
    /// Whether members still have something to say.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.ceremony.phase(), Phase::Keys | Phase::Deal | Phase::Ready)
    }
}

/// What was established against a member of a ceremony: by its own signature, or by its silence.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Fault {
    /// Whether its own signature proves it. Silence proves nothing: the network or the leader may have kept it quiet.
    pub proven: bool,
    /// What it did, or did not.
    pub what: String,
    /// The log index that established it; 0 where time did.
    pub index: u64,
}

impl Value for Fault {}

/// What was established against members of a ceremony, the first thing for each. It stands for as long as the ceremony.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn faults(store: &dyn Store, id: &SessionId) -> Result<Vec<(MemberIndex, Fault)>, StoreError> {
    read_prefix::<Fault>(store, &key(Table::CeremonyFault, &[&id.0]), usize::MAX)?
        .into_iter()
        .map(|(key, fault)| {
            let member = key.last().copied().ok_or(StoreError::Corrupt { table: Table::CeremonyFault as u8 })?;
            Ok((member, fault))
        })
        .collect()
}

fn note_fault(tx: &mut Tx<'_>, id: &SessionId, member: MemberIndex, fault: &Fault) -> Result<(), StoreError> {
    let at = key(Table::CeremonyFault, &[&id.0, &[member]]);
    if tx.get(&at)?.is_none() {
        tx.put(at, fault);
    }
    Ok(())
}

fn session_key(id: &SessionId) -> Vec<u8> {
    key(Table::Ceremony, &[&id.0])
}

/// The ceremony of a session.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn session(store: &dyn Store, id: &SessionId) -> Result<Option<Session>, StoreError> {
    read(store, &session_key(id))
}

/// The sessions of all ceremonies, without what was said in them.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn session_ids(store: &dyn Store) -> Result<Vec<SessionId>, StoreError> {
    let prefix = key(Table::Ceremony, &[]);
    store
        .scan(&prefix, &after_prefix(&prefix), usize::MAX)?
        .into_iter()
        .map(|(key, _)| {
            let id = key.get(1..).and_then(|k| <[u8; 32]>::try_from(k).ok());
            id.map(SessionId).ok_or(StoreError::Corrupt { table: Table::Ceremony as u8 })
        })
        .collect()
}

/// Every ceremony, by session.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn sessions(store: &dyn Store) -> Result<Vec<(SessionId, Session)>, StoreError> {
    read_prefix::<Session>(store, &key(Table::Ceremony, &[]), usize::MAX)?
        .into_iter()
        .map(|(key, session)| {
            let id = key.get(1..).and_then(|k| <[u8; 32]>::try_from(k).ok());
            id.map(|id| (SessionId(id), session)).ok_or(StoreError::Corrupt { table: Table::Ceremony as u8 })
        })
        .collect()
}

pub(crate) fn begin(
    tx: &mut Tx<'_>,
    index: u64,
    roster: &Roster,
    id: &SessionId,
    class: KeyringClass,
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    if tx.get(&session_key(id))?.is_some() {
        return refuse(Refusal::exists("ceremony"));
    }
    let params = Params {
        session: id.0,
        kind: Kind::KeyGeneration,
        epoch: 1,
        roster: roster.number,
        threshold: roster.threshold,
        members: roster.members.iter().map(|m| (m.index, m.verify_key())).collect(),
    };
    let ceremony = match Ceremony::begin(params) {
        Ok(ceremony) => ceremony,
        Err(why) => return refuse(Refusal::Ceremony { why: why.to_string() }),
    };
    let deadline = ClusterClock::load(tx)?.now.saturating_add(DEADLINE);
    tx.put(
        session_key(id),
        &Session { class, deadline, begun_index: index, roster: roster.number, ceremony, keyring: None },
    );
    Ok(Outcome::Ceremony { keyring: None })
}

pub(crate) fn receive(tx: &mut Tx<'_>, index: u64, roster: &Roster, message: &[u8]) -> Result<Outcome, StoreError> {
    let refuse = |why: String| Ok(Outcome::Refused(Refusal::Ceremony { why }));
    let message = match Message::decode(message) {
        Ok(message) => message,
        Err(why) => return refuse(why.to_string()),
    };
    let id = SessionId(message.session);
    if roster.member(message.member).is_none() {
        return refuse(format!("member {} is not in the roster, or is recorded as destroyed", message.member));
    }
    let Some(mut found) = session(tx, &id)? else { return Ok(Outcome::Refused(Refusal::not_found("ceremony"))) };
    let fault = match found.ceremony.receive(&message) {
        Ok(reshare::Outcome::Accepted | reshare::Outcome::Repeated) => None,
        Ok(reshare::Outcome::Ruled(ruling)) => {
            let what = match ruling.verdict {
                Verdict::DealerOut => format!("its share for member {} does not open or fit", ruling.accuser),
                Verdict::AccuserOut => format!("complained of member {}, whose share fits", ruling.dealer),
                Verdict::ReceiverOut => format!("complained of member {} with another key", ruling.dealer),
            };
            Some((ruling.culprit(), what))
        }
        Err(reshare::Refusal { culprit: None, cause }) => return refuse(cause.to_string()),
        Err(reshare::Refusal { culprit: Some(member), cause }) => {
            if found.is_open() && found.ceremony.params().kind == Kind::KeyGeneration {
                // Every member must deal and hold a share, and this one is out: nothing comes of it any more.
                let _ = found.ceremony.abort();
            }
            Some((member, cause.to_string()))
        }
    };
    if let Some((member, what)) = fault {
        note_fault(tx, &id, member, &Fault { proven: true, what: what.clone(), index })?;
        tx.put(session_key(&id), &found);
        return Ok(Outcome::Fault { session: id, member, what });
    }
    if let (Some(certificate), None) = (found.ceremony.certificate(), found.keyring) {
        let ring = Keyring {
            class: found.class,
            y: certificate.key,
            epoch: certificate.epoch,
            threshold: certificate.threshold,
            public_shares: certificate.public_shares.iter().map(|(i, y)| (*i, *y)).collect(),
            roster: found.roster,
            session: id,
        };
        let ring_id = KeyringId(quorate_crypto::keyring::keyring_id(&ring.y));
        if keyring(tx, &ring_id)?.is_some() {
            return refuse("a keyring with this key stands already".to_owned());
        }
        save_keyring(tx, &ring_id, &ring);
        found.keyring = Some(ring_id);
    }
    tx.put(session_key(&id), &found);
    Ok(Outcome::Ceremony { keyring: found.keyring })
}

/// Gives up what is past its deadline, and says whom it waited for.
pub(crate) fn give_up_old(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let now = ClusterClock::load(tx)?.now;
    for (id, mut found) in sessions(tx)? {
        let awaited = found.ceremony.awaited();
        if found.is_open() && found.deadline < now && found.ceremony.abort().is_ok() {
            for member in awaited {
                let what = "was not heard before the deadline".to_owned();
                note_fault(tx, &id, member, &Fault { proven: false, what, index: 0 })?;
            }
            tx.put(session_key(&id), &found);
        }
    }
    Ok(())
}
