//! Members that are recorded as gone, as this one sees them: nothing is taken from who is destroyed, nor sent to it; who is off and is
//! heard of all the same is waited for again; and who learns that it is destroyed itself, ends.

use crate::certificates::Alarm;
use crate::core::Core;
use crate::peers::Peers;
use quorate_api::net::{Listener, Net, Stream};
use quorate_api::peer::{AttestRequest, ReadClockRequest};
use quorate_api::status::Failure;
use quorate_state::absence::{Absence, Record, Records, records};
use quorate_state::attest::{Attestation, Excuses, excused};
use quorate_state::command::Command;
use quorate_state::genesis::Roster;
use quorate_state::ids::{ClusterId, MemberIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How often records are looked after.
const LOOK: Duration = Duration::from_millis(500);
/// After how many looks without anything new a member asks whether that is because it is destroyed.
const QUIET: u32 = 3;
/// How long another member may take to answer then.
const ANSWER: Duration = Duration::from_secs(2);

/// What this member knows of members that are gone.
pub(crate) struct Absences {
    me: MemberIndex,
    roster: Roster,
    known: Mutex<Known>,
    /// Whether this member itself is recorded as destroyed, by its own state or by the word of t others.
    condemned: watch::Sender<bool>,
}

#[derive(Default)]
struct Known {
    records: Records,
    /// Who was heard of since it was recorded: by whatever it signed or called.
    heard: BTreeSet<MemberIndex>,
    /// The other members' own words, the newest of each.
    words: BTreeMap<MemberIndex, Excuses>,
}

impl Absences {
    pub(crate) fn new(me: MemberIndex, roster: Roster) -> Self {
        Self { me, roster, known: Mutex::default(), condemned: watch::Sender::new(false) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the state has.
    pub(crate) fn follow(&self, records: Records) {
        if records.get(&self.me).is_some_and(|r| r.absence == Absence::Destroyed) {
            self.condemned.send_replace(true);
        }
        let mut known = self.known();
        if known.records != records {
            let Known { records: old, heard, .. } = &mut *known;
            // Another record of the same member begins anew.
            heard.retain(|m| old.get(m).map(|r| r.index) == records.get(m).map(|r| r.index));
            known.records = records;
        }
    }

    /// Hears of a member that calls or answers; refuses it if it is destroyed.
    pub(crate) fn hear(&self, member: MemberIndex) -> Result<(), Failure> {
        let mut known = self.known();
        let Some(absence) = known.records.get(&member).map(|r| r.absence) else { return Ok(()) };
        let first = known.heard.insert(member);
        drop(known);
        let name = self.name(member);
        match absence {
            Absence::PoweredOff => {
                if first {
                    tracing::warn!(
                        member = name,
                        "it is recorded as powered off, and it is there: its word counts again"
                    );
                }
                Ok(())
            }
            Absence::Destroyed => {
                if first {
                    tracing::error!(member = name, "it is recorded as destroyed, and somebody calls with its key");
                }
                Err(Failure::new("member_destroyed", format!("{name} is recorded as destroyed")))
            }
        }
    }

    /// Whether nothing of a member counts any more.
    pub(crate) fn is_destroyed(&self, member: MemberIndex) -> bool {
        self.known().records.get(&member).is_some_and(|r| r.absence == Absence::Destroyed)
    }

    /// Whose word nobody need wait for.
    pub(crate) fn gone(&self) -> BTreeSet<MemberIndex> {
        let known = self.known();
        let silent = known.records.iter().filter(|(m, r)| r.absence == Absence::Destroyed || !known.heard.contains(*m));
        silent.map(|(member, _)| *member).collect()
    }

    /// The members whose signatures count.
    pub(crate) fn contributors(&self) -> Roster {
        let known = self.known();
        let counts = |m: &MemberIndex| known.records.get(m).is_none_or(|r| r.absence != Absence::Destroyed);
        let members = self.roster.members.iter().filter(|m| counts(&m.index)).cloned().collect();
        Roster { members, ..self.roster.clone() }
    }

    /// The records, and of whom was heard since.
    pub(crate) fn seen(&self) -> (Records, BTreeSet<MemberIndex>) {
        let known = self.known();
        (known.records.clone(), known.heard.clone())
    }

    /// What another member says of who is gone; nothing when it says of nobody.
    pub(crate) fn word(&self, member: MemberIndex) -> Option<Excuses> {
        self.known().words.get(&member).cloned()
    }

    /// Takes note of what another member says of who is gone.
    pub(crate) fn note(&self, cluster: &ClusterId, member: MemberIndex, bytes: &[u8]) {
        let word = borsh::from_slice::<Excuses>(bytes).ok();
        let key = self.roster.member(member).map(|m| m.key);
        let valid = |w: &Excuses| {
            w.member == member && w.roster == self.roster.number && key.is_some_and(|k| w.is_signed(cluster, &k))
        };
        let mut known = self.known();
        match word.filter(valid) {
            Some(word) => drop(known.words.insert(member, word)),
            None => drop(known.words.remove(&member)),
        }
        // One member may lie; t of them do not all.
        let words: Vec<Excuses> = known.words.values().cloned().collect();
        drop(known);
        if excused(0, self.roster.threshold, &words).get(&self.me) == Some(&Absence::Destroyed) {
            self.condemned.send_replace(true);
        }
    }

    /// Returns when this member is recorded as destroyed.
    pub(crate) async fn condemned(&self) {
        let mut condemned = self.condemned.subscribe();
        if condemned.wait_for(|condemned| *condemned).await.is_err() {
            std::future::pending().await
        }
    }

    /// Members that are there though they are recorded as gone.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        let known = self.known();
        let there = known.records.iter().filter(|(member, _)| known.heard.contains(*member));
        let alarm = |(member, record): (&MemberIndex, &Record)| {
            let name = self.name(*member);
            let (code, what) = match record.absence {
                Absence::PoweredOff => {
                    ("powered_off_member_there", "its word counts again, and its record ends with it")
                }
                Absence::Destroyed => ("destroyed_member_there", "it is refused; find out who has its key"),
            };
            Alarm { code, message: format!("{name} is recorded as {}, and was heard of: {what}", record.absence) }
        };
        there.map(alarm).collect()
    }

    fn name(&self, member: MemberIndex) -> String {
        self.roster.member(member).map_or_else(|| member.to_string(), |m| m.name.clone())
    }
}

/// A network without the members that are destroyed: whatever has a connection to one gets no other when that breaks.
pub(crate) struct Without {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) absences: Arc<Absences>,
}

#[async_trait::async_trait]
impl Net for Without {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let member = self.absences.roster.members.iter().find(|m| m.peer_address == address);
        if member.is_some_and(|m| self.absences.is_destroyed(m.index)) {
            return Err(io::Error::other("the member is recorded as destroyed"));
        }
        self.net.connect(address).await
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        self.net.listen(address).await
    }
}

impl Core {
    /// This member's word on who is gone, by a state that is at least as new as `index`; empty when that is nobody.
    pub(crate) fn excuses_at(&self, index: u64) -> Vec<u8> {
        if self.follow_absences().is_err() {
            return Vec::new();
        }
        let (records, heard) = self.absences.seen();
        if records.is_empty() {
            return Vec::new();
        }
        let who = (self.roster.number, self.me);
        let word = Excuses::sign(&self.cluster, who, index, &records, &heard, self.keys.identity());
        borsh::to_vec(&word).unwrap_or_default()
    }

    /// Takes over what the state says now.
    pub(crate) fn follow_absences(&self) -> Result<(), Failure> {
        self.absences.follow(self.read(|store, _| records(store))?);
        Ok(())
    }

    /// The member's task: follows the records, ends those of members that are back, and asks the others when nobody leads it.
    pub(crate) async fn drive_absences(self: Arc<Self>) {
        let (mut seen, mut quiet) = (0, 0u32);
        loop {
            if let Err(error) = self.follow_absences() {
                tracing::warn!(error = error.message, "the records of members are followed later");
            }
            let status = self.raft.watch().borrow().clone();
            quiet = if status.committed == seen { quiet.saturating_add(1) } else { 0 };
            seen = status.committed;
            if status.is_leader {
                self.end_records().await;
            } else if quiet % QUIET == QUIET - 1 {
                self.ask_whether_destroyed().await;
            }
            sleep(LOOK).await;
        }
    }

    /// Whoever is destroyed hears nothing any more, and is refused by all the others. They tell it why, signed: t of them have to.
    async fn ask_whether_destroyed(self: &Arc<Self>) {
        let mut asked = JoinSet::new();
        for (member, mut peer) in self.peers.all() {
            asked.spawn(async move {
                // What every member answers at no cost, so long as it answers.
                let probe = timeout(ANSWER, peer.read_clock(ReadClockRequest::default())).await;
                let Ok(Err(refused)) = probe else { return None };
                if Failure::from(refused).code != "member_destroyed" {
                    return None;
                }
                let reply = timeout(ANSWER, peer.attest(AttestRequest::default())).await.ok()?.ok()?;
                Some((member, reply.into_inner().excuses))
            });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some((member, excuses))) = answer {
                self.absences.note(&self.cluster, member, &excuses);
            }
        }
    }

    /// The record of a member that is off ends when it attests an index at or past it.
    async fn end_records(self: &Arc<Self>) {
        let (records, _) = self.absences.seen();
        for (member, record) in records.iter().filter(|(_, r)| r.absence == Absence::PoweredOff) {
            if self.attestor.known(*member).newest.is_none_or(|a| a.applied.index < record.index) {
                self.ask(*member, record.index).await;
            }
            let back = |a: &Attestation| a.applied.index >= record.index;
            let Some(attestation) = self.attestor.known(*member).newest.filter(back) else { continue };
            match self.propose(Command::Returned { attestation }).await {
                Ok(_) => tracing::info!(member = self.absences.name(*member), "it is back: its record has ended"),
                Err(error) => tracing::debug!(error = error.message, "the record of a member stands for now"),
            }
        }
    }

    /// Asks one member for its word at or past `index`, and who it says is gone.
    pub(crate) async fn ask(self: &Arc<Self>, member: MemberIndex, index: u64) {
        let Some(mut peer) = Peers::client(&self.peers, member) else { return };
        let ask = AttestRequest { index, exact: false, attestation: Vec::new() };
        let Ok(Ok(reply)) = timeout(ANSWER, peer.attest(ask)).await else { return };
        let reply = reply.into_inner();
        // It answers, whatever it says.
        let _ = self.absences.hear(member);
        self.absences.note(&self.cluster, member, &reply.excuses);
        if !reply.attestation.is_empty() {
            self.compare(member, &reply.attestation).await;
        }
    }
}
