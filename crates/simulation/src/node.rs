//! One node: what it keeps, what a crash takes, and when it may answer.

use crate::commands::{Command, Footprints, ITEMS};
use quorate_raft::freshness::{AcceptedMembership, Held, Ledger, Ticket};

/// An entry of a log; entry 0 holds the first voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) command: Command,
}

/// What a node says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Denied,
    /// The item as that entry has written it; 0 for never.
    Version {
        term: u64,
        index: u64,
    },
    Lie(u64),
}

/// The state after some entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    items: [(u64, u64); ITEMS],
    deny: bool,
    voters: Voters,
}

/// Voters as bits, and where they stand in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Voters {
    pub(crate) index: u64,
    /// 0 unless a change is under way.
    pub(crate) old: u16,
    pub(crate) new: u16,
}

impl Voters {
    fn of(index: u64, command: Command) -> Option<Self> {
        match command {
            Command::Voters { old, new } => Some(Self { index, old, new }),
            _ => None,
        }
    }

    pub(crate) fn has(&self, node: usize) -> bool {
        (self.old | self.new) >> node & 1 == 1
    }

    /// Whether these nodes are a majority, of both sets while there are two.
    pub(crate) fn quorum(&self, nodes: u16) -> bool {
        let most = |set: u16| 2 * (nodes & set).count_ones() > set.count_ones();
        most(self.new) && (self.old == 0 || most(self.old))
    }

    pub(crate) fn accepted(&self) -> AcceptedMembership {
        let voters = (0..16).filter(|node| self.has(*node)).map(|node| node as u64).collect();
        AcceptedMembership { voters, joint: self.old != 0, index: self.index }
    }
}

impl State {
    pub(crate) fn new(voters: u16) -> Self {
        Self { items: [(0, 0); ITEMS], deny: false, voters: Voters { index: 0, old: 0, new: voters } }
    }

    pub(crate) fn apply(&mut self, index: u64, entry: Entry) {
        match entry.command {
            Command::Blank | Command::Lease => {}
            Command::Put(item) => self.items[usize::from(item)] = (entry.term, index),
            Command::Policy { deny } => self.deny = deny,
            Command::Voters { old, new } => self.voters = Voters { index, old, new },
        }
    }

    pub(crate) fn answer(&self, item: u8) -> Answer {
        let (term, index) = self.items[usize::from(item)];
        if self.deny { Answer::Denied } else { Answer::Version { term, index } }
    }

    pub(crate) fn voters(&self) -> Voters {
        self.voters
    }
}

/// A question that this node has not answered yet.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) id: u64,
    pub(crate) question: usize,
    pub(crate) round: u32,
    pub(crate) item: u8,
    pub(crate) ticket: Option<Ticket>,
    /// What a mutant waits for instead.
    pub(crate) fixed: u64,
    pub(crate) leader: Asked,
    pub(crate) min_index: u64,
}

/// Whether the leader was asked for an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    Pending,
    At(u64),
}

#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) next: Vec<u64>,
    pub(crate) matched: Vec<u64>,
    pub(crate) round: u64,
    pub(crate) rounds: Vec<u64>,
    /// Who asked for an index, for which wait, which index it is, and the round that confirms it.
    pub(crate) reads: Vec<(usize, u64, u64, u64)>,
}

#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    Candidate { votes: u16 },
    Leader(Leading),
}

pub(crate) struct Node {
    pub(crate) up: bool,
    /// Counts starts: timers of an earlier life mean nothing.
    pub(crate) life: u64,
    pub(crate) paused_until: u64,
    pub(crate) slow_until: u64,
    pub(crate) liar: bool,
    // On disk, synced before it is acted on.
    pub(crate) term: u64,
    pub(crate) voted: Option<usize>,
    /// As in memory and in the file; `disk` is what a power cut leaves.
    pub(crate) log: Vec<Entry>,
    disk: Vec<Entry>,
    pub(crate) synced: u64,
    pub(crate) sync_running: bool,
    /// Acknowledgements that wait for a sync: to whom, term, index, round.
    pub(crate) unsent: Vec<(usize, u64, u64, u64)>,
    pub(crate) role: Role,
    pub(crate) leader: Option<usize>,
    /// The timer of the next election.
    pub(crate) token: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) apply_running: bool,
    pub(crate) state: State,
    pub(crate) ledger: Ledger,
    pub(crate) waits: Vec<Wait>,
    voters: Vec<Voters>,
}

impl Node {
    pub(crate) fn new(voters: u16) -> Self {
        let log = vec![Entry { term: 0, command: Command::Voters { old: 0, new: voters } }];
        let state = State::new(voters);
        Self {
            up: true,
            life: 0,
            paused_until: 0,
            slow_until: 0,
            liar: false,
            term: 0,
            voted: None,
            disk: log.clone(),
            synced: 0,
            sync_running: false,
            unsent: Vec::new(),
            role: Role::Follower,
            leader: None,
            token: 0,
            commit: 0,
            applied: 0,
            apply_running: false,
            ledger: Ledger::new(state.voters().accepted(), []),
            voters: vec![state.voters()],
            state,
            log,
            waits: Vec::new(),
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.log.len() as u64 - 1
    }

    pub(crate) fn at(&self, index: u64) -> Option<Entry> {
        self.log.get(usize::try_from(index).unwrap()).copied()
    }

    /// The latest voters in its log.
    pub(crate) fn voters(&self) -> Voters {
        *self.voters.last().unwrap()
    }

    pub(crate) fn append(&mut self, entry: Entry, held: Held) {
        self.log.push(entry);
        self.voters.extend(Voters::of(held.index, entry.command));
        self.ledger.appended([held]);
    }

    /// Cuts the log after `end`; returns how many waits that lowered.
    pub(crate) fn truncate(&mut self, end: u64, forget: bool) -> u64 {
        let awaited =
            |node: &Self| -> u64 { node.waits.iter().filter_map(|w| w.ticket).map(|t| node.ledger.awaited(t)).sum() };
        let lowered =
            self.waits.iter().filter_map(|w| w.ticket).filter(|t| self.ledger.awaited(*t) > end).count() as u64;
        self.log.truncate(usize::try_from(end).unwrap() + 1);
        self.voters.retain(|v| v.index <= end);
        self.synced = self.synced.min(end);
        let before = awaited(self);
        self.ledger.truncated(Some(end));
        assert!(lowered == 0 || awaited(self) < before, "a truncation lowers what is noted");
        if forget {
            for wait in self.waits.iter_mut().filter(|w| w.fixed > end) {
                wait.fixed = 0;
            }
        }
        lowered
    }

    pub(crate) fn sync(&mut self) {
        self.disk.clone_from(&self.log);
        self.synced = self.last();
    }

    /// It is gone, with everything that only its memory held.
    pub(crate) fn die(&mut self, power_cut: bool) {
        self.up = false;
        self.life += 1;
        if power_cut {
            // Log and state share one write-ahead log: what was applied of an entry is lost with the entry.
            let same = self.log.iter().zip(&self.disk).take_while(|(here, there)| here == there).count() as u64;
            self.applied = self.applied.min(same - 1);
            self.log.clone_from(&self.disk);
        }
        self.waits.clear();
        self.unsent.clear();
    }

    /// It is back, with the state that was in its store: some entries behind where it was, which the log brings back.
    pub(crate) fn start(&mut self, applied: u64, footprints: &Footprints, tail_lost: bool) {
        let applied = applied.min(self.applied).min(self.last());
        self.up = true;
        self.role = Role::Follower;
        self.leader = None;
        self.sync();
        (self.sync_running, self.apply_running) = (false, false);
        (self.applied, self.commit) = (applied, applied);
        let first = Voters::of(0, self.log[0].command).unwrap();
        self.state = State::new(first.new);
        for index in 1..=applied {
            self.state.apply(index, self.at(index).unwrap());
        }
        let entries = self.log.iter().enumerate().map(|(index, entry)| (index as u64, *entry));
        self.voters = entries.clone().filter_map(|(index, entry)| Voters::of(index, entry.command)).collect();
        let tail = entries.filter(|(index, _)| *index > applied && !tail_lost);
        let held: Vec<Held> = tail.map(|(index, entry)| held(index, entry.command, footprints)).collect();
        self.ledger = Ledger::new(self.state.voters().accepted(), held);
    }

    pub(crate) fn apply_next(&mut self) {
        self.applied += 1;
        let entry = self.at(self.applied).unwrap();
        self.state.apply(self.applied, entry);
        self.ledger.applied(self.applied);
        if matches!(entry.command, Command::Voters { .. }) {
            self.ledger.settled(self.state.voters().accepted());
        }
    }

    pub(crate) fn is_ready(&self, wait: &Wait) -> bool {
        let noted = wait.ticket.is_none_or(|ticket| self.applied >= self.ledger.awaited(ticket));
        let confirmed = match wait.leader {
            Asked::No => true,
            Asked::Pending => false,
            Asked::At(index) => self.applied >= index,
        };
        noted && confirmed && self.applied >= wait.fixed && self.applied >= wait.min_index
    }
}

/// An entry as the ledger takes it.
pub(crate) fn held(index: u64, command: Command, footprints: &Footprints) -> Held {
    let membership = Voters::of(index, command).map(|voters| voters.accepted());
    Held { index, footprint: footprints.of(command), membership }
}
