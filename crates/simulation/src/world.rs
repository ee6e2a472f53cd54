//! A run: time, the network, the faults, and Raft between the nodes.

use crate::client::Question;
use crate::commands::{Command, Footprints, ITEMS};
use crate::node::{Answer, Asked, Entry, Leading, Node, Role, State, Wait, held};
use crate::random::Random;
use crate::{Mutant, Seen, Setup, Violation};
use quorate_raft::freshness::Footprint;
use std::collections::BTreeMap;

// Microseconds.
const MS: u64 = 1_000;
const BEAT: u64 = 40 * MS;
const ELECTION: (u64, u64) = (150 * MS, 300 * MS);
const PATIENCE: u64 = 1_000 * MS;
const HEDGE: u64 = 150 * MS;
const CALL: u64 = 2_000 * MS;
/// How long everything may take to come right once the faults have ended.
const RECOVERY: u64 = 8_000 * MS;
/// What a liar names.
const LIE: u64 = 1_000_000_000;

#[derive(Debug, Clone)]
enum Message {
    AskVote { term: u64, last: (u64, u64) },
    Vote { term: u64, granted: bool },
    Append { term: u64, prev: u64, prev_term: u64, entries: Vec<Entry>, commit: u64, round: u64 },
    Appended { term: u64, ok: bool, matched: u64, round: u64 },
    AskIndex { wait: u64 },
    Index { wait: u64, index: u64 },
}

#[derive(Debug, Clone)]
enum Event {
    Deliver { from: usize, to: usize, message: Message },
    Election { node: usize, token: u64 },
    Beat { node: usize, life: u64, term: u64 },
    Synced { node: usize, life: u64 },
    Apply { node: usize, life: u64 },
    AskLeader { node: usize, life: u64, wait: u64 },
    GiveUp { node: usize, life: u64, wait: u64 },
    Write { node: usize, command: Command },
    Ask,
    Asked { node: usize, question: usize, round: u32, item: u8, min_index: u64 },
    Answered { from: usize, question: usize, round: u32, applied: u64, said: Option<Answer> },
    Hedge { question: usize, round: u32 },
    CallOver { question: usize, round: u32 },
    Again { question: usize },
    Writes,
    Fault,
    Start { node: usize },
    Isolate { node: usize, lasts: u64 },
    Mend { cuts: Vec<(usize, usize)> },
    ChangeVoters,
    AllWell,
}

/// One run.
///
/// # Errors
/// The first [`Violation`].
pub fn run(setup: &Setup, seed: u64, mutant: Option<Mutant>) -> Result<Seen, Violation> {
    World::new(setup, seed, mutant).run()
}

struct World {
    setup: Setup,
    mutant: Option<Mutant>,
    random: Random,
    now: u64,
    next: u64,
    queue: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    /// How often each way of the network is cut.
    cut: Vec<Vec<u32>>,
    /// Percent of messages between nodes that are lost, and that come twice.
    loss: u64,
    /// When the faults end.
    calm: u64,
    /// Nodes wait as long as it takes instead of giving up.
    patient: bool,
    /// Every sync takes long.
    slow_disks: bool,
    footprints: Footprints,
    committed: Vec<Entry>,
    history: Vec<State>,
    questions: Vec<Question>,
    wait: u64,
    seen: Seen,
    violation: Option<Violation>,
}

impl World {
    fn new(setup: &Setup, seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = Random::new(seed);
        let nodes = (0..setup.nodes).map(|_| Node::new(setup.voters)).collect::<Vec<_>>();
        let committed = vec![nodes[0].log[0]];
        let calm = random.between(1_500, 3_500) * MS;
        let (loss, patient, slow_disks) = (random.between(0, 8), random.chance(40), random.chance(20));
        let mut world = Self {
            setup: *setup,
            mutant,
            now: 0,
            next: 0,
            queue: BTreeMap::new(),
            cut: vec![vec![0; setup.nodes]; setup.nodes],
            loss,
            calm,
            patient,
            slow_disks,
            footprints: Footprints::new(),
            committed,
            history: vec![State::new(setup.voters)],
            questions: Vec::new(),
            wait: 0,
            seen: Seen::default(),
            violation: None,
            nodes,
            random,
        };
        if world.random.chance(30) {
            for _ in 1..world.setup.threshold {
                let liar = world.random.below(world.setup.nodes);
                world.nodes[liar].liar = true;
            }
        }
        for node in 0..world.nodes.len() {
            world.await_leader(node);
        }
        world.after(400 * MS, Event::Writes);
        world.after(400 * MS, Event::Ask);
        world.after(500 * MS, Event::Fault);
        world.at(calm, Event::AllWell);
        if setup.later != setup.voters {
            let when = world.random.between(calm / 4, calm * 3 / 4);
            world.at(when, Event::ChangeVoters);
        }
        world
    }

    fn run(mut self) -> Result<Seen, Violation> {
        let end = self.calm + RECOVERY;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            self.step(event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.now > self.calm + PATIENCE && self.is_quiet() {
                return Ok(self.seen);
            }
        }
        let open: Vec<usize> = (0..self.questions.len()).filter(|q| !self.questions[*q].done).collect();
        let waits: Vec<(usize, &Wait)> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(at, node)| node.waits.iter().map(move |wait| (at, wait)))
            .collect();
        let ends: Vec<_> = self.nodes.iter().map(|n| (n.last(), n.commit, n.applied)).collect();
        Err(Violation::Stuck(format!(
            "{} s after the last fault, questions {open:?} are open and nodes wait: {waits:?}; (end, commit, applied) of each: {ends:?}",
            RECOVERY / 1_000_000
        )))
    }

    fn is_quiet(&self) -> bool {
        self.questions.iter().all(|question| question.done) && self.nodes.iter().all(|node| node.waits.is_empty())
    }

    fn at(&mut self, at: u64, event: Event) {
        self.next += 1;
        self.queue.insert((at, self.next), event);
    }

    fn after(&mut self, pause: u64, event: Event) {
        self.at(self.now + pause, event);
    }

    fn fail(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    fn step(&mut self, event: Event) {
        // A node that is stopped does what was due when it goes on.
        let node = match &event {
            Event::Deliver { to: node, .. }
            | Event::Election { node, .. }
            | Event::Beat { node, .. }
            | Event::Synced { node, .. }
            | Event::Apply { node, .. }
            | Event::AskLeader { node, .. }
            | Event::GiveUp { node, .. }
            | Event::Write { node, .. }
            | Event::Asked { node, .. } => Some(*node),
            _ => None,
        };
        if let Some(node) = node {
            let until = self.nodes[node].paused_until;
            if until > self.now {
                let jitter = self.random.below(1_000) as u64;
                return self.at(until + jitter, event);
            }
            if !self.nodes[node].up {
                return;
            }
        }
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Election { node, token } => {
                if self.nodes[node].token == token {
                    self.campaign(node);
                }
            }
            Event::Beat { node, life, term } => {
                let leads = matches!(self.nodes[node].role, Role::Leader(_));
                if leads && self.nodes[node].life == life && self.nodes[node].term == term {
                    self.replicate_all(node);
                    self.after(BEAT, Event::Beat { node, life, term });
                }
            }
            Event::Synced { node, life } => {
                if self.nodes[node].life == life {
                    self.synced(node);
                }
            }
            Event::Apply { node, life } => {
                if self.nodes[node].life == life {
                    self.apply(node);
                }
            }
            Event::AskLeader { node, life, wait } => {
                if self.nodes[node].life == life {
                    self.ask_leader(node, wait);
                }
            }
            Event::GiveUp { node, life, wait } => {
                if self.nodes[node].life == life {
                    self.give_up(node, wait);
                }
            }
            Event::Write { node, command } => {
                if matches!(self.nodes[node].role, Role::Leader(_)) {
                    self.propose(node, command);
                }
            }
            Event::Ask => self.ask(),
            Event::Asked { node, question, round, item, min_index } => {
                self.asked(node, question, round, item, min_index)
            }
            Event::Answered { from, question, round, applied, said } => {
                self.answered(from, question, round, applied, said)
            }
            Event::Hedge { question, round } => self.send_question(question, round, self.setup.nodes),
            Event::CallOver { question, round } => self.round_over(question, round),
            Event::Again { question } => self.begin_round(question),
            Event::Writes => self.writes(),
            Event::Fault => self.fault(),
            Event::Start { node } => self.start(node),
            Event::Isolate { node, lasts } => self.isolate(node, lasts),
            Event::Mend { cuts } => {
                for (from, to) in cuts {
                    self.cut[from][to] -= 1;
                }
            }
            Event::ChangeVoters => self.change_voters(),
            Event::AllWell => self.all_well(),
        }
    }
}

// The network.
impl World {
    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.cut[from][to] > 0 || self.random.chance(self.loss) {
            return;
        }
        let copies = 1 + usize::from(self.random.chance(self.loss));
        for _ in 0..copies {
            let delay = self.delay();
            self.after(delay, Event::Deliver { from, to, message: message.clone() });
        }
    }

    fn delay(&mut self) -> u64 {
        match self.random.below(if self.now < self.calm { 20 } else { 1_000 }) {
            0 => self.random.between(5 * MS, 80 * MS),
            _ => self.random.between(200, 3 * MS),
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::AskVote { term, last } => self.asked_for_vote(from, to, term, last),
            Message::Vote { term, granted } => self.voted(from, to, term, granted),
            Message::Append { term, prev, prev_term, entries, commit, round } => {
                self.append(from, to, term, (prev, prev_term), &entries, commit, round);
            }
            Message::Appended { term, ok, matched, round } => self.appended(from, to, term, ok, matched, round),
            Message::AskIndex { wait } => self.asked_for_index(from, to, wait),
            Message::Index { wait, index } => self.index(to, wait, index),
        }
    }
}

// Raft: elections.
impl World {
    fn await_leader(&mut self, node: usize) {
        self.nodes[node].token += 1;
        let token = self.nodes[node].token;
        let pause = self.random.between(ELECTION.0, ELECTION.1);
        self.after(pause, Event::Election { node, token });
    }

    fn follow(&mut self, node: usize, term: u64, leader: Option<usize>) {
        let it = &mut self.nodes[node];
        if term > it.term {
            (it.term, it.voted) = (term, None);
        }
        it.role = Role::Follower;
        it.leader = leader;
        self.await_leader(node);
    }

    fn campaign(&mut self, node: usize) {
        self.await_leader(node);
        let it = &mut self.nodes[node];
        if matches!(it.role, Role::Leader(_)) || !it.voters().has(node) {
            return;
        }
        it.term += 1;
        it.voted = Some(node);
        it.leader = None;
        it.role = Role::Candidate { votes: 1 << node };
        let (term, last) = (it.term, (it.log.last().unwrap().term, it.last()));
        for to in (0..self.setup.nodes).filter(|to| *to != node) {
            self.send(node, to, Message::AskVote { term, last });
        }
        self.count_votes(node);
    }

    fn asked_for_vote(&mut self, from: usize, to: usize, term: u64, last: (u64, u64)) {
        if term > self.nodes[to].term {
            self.follow(to, term, None);
        }
        let it = &mut self.nodes[to];
        let newer = last >= (it.log.last().unwrap().term, it.last());
        let granted = term == it.term && newer && it.voted.is_none_or(|voted| voted == from);
        if granted {
            it.voted = Some(from);
        }
        let term = it.term;
        self.send(to, from, Message::Vote { term, granted });
    }

    fn voted(&mut self, from: usize, to: usize, term: u64, granted: bool) {
        if term > self.nodes[to].term {
            return self.follow(to, term, None);
        }
        let same = term == self.nodes[to].term;
        if let Role::Candidate { votes } = &mut self.nodes[to].role
            && granted
            && same
        {
            *votes |= 1 << from;
            self.count_votes(to);
        }
    }

    fn count_votes(&mut self, node: usize) {
        let it = &self.nodes[node];
        let Role::Candidate { votes } = it.role else { return };
        if !it.voters().quorum(votes) {
            return;
        }
        let (life, term, nodes) = (it.life, it.term, self.setup.nodes);
        let leading = Leading {
            next: vec![it.last() + 1; nodes],
            matched: vec![0; nodes],
            round: 0,
            rounds: vec![0; nodes],
            reads: Vec::new(),
        };
        self.nodes[node].role = Role::Leader(leading);
        self.nodes[node].leader = Some(node);
        self.seen.leaders += 1;
        self.propose(node, Command::Blank);
        self.after(BEAT, Event::Beat { node, life, term });
    }
}

// Raft: the log.
impl World {
    fn propose(&mut self, node: usize, command: Command) {
        let entry = Entry { term: self.nodes[node].term, command };
        self.append_entry(node, entry);
        self.begin_sync(node);
        self.replicate_all(node);
    }

    fn append_entry(&mut self, node: usize, entry: Entry) {
        let index = self.nodes[node].last() + 1;
        let mut held = held(index, entry.command, &self.footprints);
        match (self.mutant, entry.command) {
            (Some(Mutant::PolicyPassedOver), Command::Policy { .. })
            | (Some(Mutant::ItemPassedOver), Command::Put(_)) => held.footprint = Footprint::Nothing,
            _ => {}
        }
        self.nodes[node].append(entry, held);
    }

    fn replicate_all(&mut self, node: usize) {
        if let Role::Leader(leading) = &mut self.nodes[node].role {
            leading.round += 1;
        }
        for to in (0..self.setup.nodes).filter(|to| *to != node) {
            self.replicate(node, to);
        }
    }

    fn replicate(&mut self, node: usize, to: usize) {
        let it = &self.nodes[node];
        let Role::Leader(leading) = &it.role else { return };
        let prev = leading.next[to] - 1;
        let from = usize::try_from(leading.next[to]).unwrap();
        let entries = it.log[from..].iter().take(32).copied().collect();
        let prev_term = it.at(prev).unwrap().term;
        let message =
            Message::Append { term: it.term, prev, prev_term, entries, commit: it.commit, round: leading.round };
        self.send(node, to, message);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message of Raft")]
    fn append(
        &mut self,
        from: usize,
        to: usize,
        term: u64,
        (prev, prev_term): (u64, u64),
        entries: &[Entry],
        commit: u64,
        round: u64,
    ) {
        if term < self.nodes[to].term {
            let term = self.nodes[to].term;
            return self.send(to, from, Message::Appended { term, ok: false, matched: 0, round });
        }
        self.follow(to, term, Some(from));
        if self.nodes[to].at(prev).is_none_or(|entry| entry.term != prev_term) {
            let matched = self.nodes[to].last().min(prev.saturating_sub(1));
            return self.send(to, from, Message::Appended { term, ok: false, matched, round });
        }
        for (index, entry) in (prev + 1..).zip(entries) {
            match self.nodes[to].at(index) {
                Some(here) if here.term == entry.term => continue,
                Some(_) => {
                    if index <= self.nodes[to].commit {
                        return self.fail(Violation::Raft(format!("node {to} would cut the committed entry {index}")));
                    }
                    let forget = self.mutant == Some(Mutant::CutForgets);
                    self.seen.lowered += self.nodes[to].truncate(index - 1, forget);
                    self.answer_ready(to);
                }
                None => {}
            }
            self.append_entry(to, *entry);
        }
        let matched = prev + entries.len() as u64;
        self.commit(to, commit.min(matched));
        if matched > self.nodes[to].synced && self.mutant != Some(Mutant::AcknowledgedUnsynced) {
            self.nodes[to].unsent.push((from, term, matched, round));
        } else {
            self.send(to, from, Message::Appended { term, ok: true, matched, round });
        }
        self.begin_sync(to);
    }

    fn begin_sync(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.sync_running || it.synced >= it.last() {
            return;
        }
        it.sync_running = true;
        let life = it.life;
        let slow = self.slow_disks || self.random.chance(4);
        let pause = if slow { self.random.between(10 * MS, 60 * MS) } else { self.random.between(100, 2 * MS) };
        self.after(pause, Event::Synced { node, life });
    }

    fn synced(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.sync_running = false;
        it.sync();
        let (term, unsent) = (it.term, std::mem::take(&mut it.unsent));
        for (to, of, matched, round) in unsent {
            if of == term {
                self.send(node, to, Message::Appended { term, ok: true, matched, round });
            }
        }
        self.count_matched(node);
    }

    fn appended(&mut self, from: usize, to: usize, term: u64, ok: bool, matched: u64, round: u64) {
        if term > self.nodes[to].term {
            return self.follow(to, term, None);
        }
        let it = &mut self.nodes[to];
        let (last, same) = (it.last(), term == it.term);
        let Role::Leader(leading) = &mut it.role else { return };
        if !same {
            return;
        }
        leading.rounds[from] = leading.rounds[from].max(round);
        if !ok {
            leading.next[from] = (matched + 1).min(leading.next[from]).max(1);
            self.replicate(to, from);
        } else {
            leading.matched[from] = leading.matched[from].max(matched);
            leading.next[from] = leading.next[from].max(matched + 1);
            if leading.next[from] <= last && matched + 1 == leading.next[from] {
                self.replicate(to, from);
            }
            self.count_matched(to);
        }
        self.confirm_reads(to);
    }

    fn count_matched(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let (term, voters, synced) = (it.term, it.voters(), it.synced);
        let Role::Leader(leading) = &mut it.role else { return };
        leading.matched[node] = synced;
        let mut candidates = leading.matched.clone();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        let held_by =
            |index: u64| (0..leading.matched.len()).filter(|n| leading.matched[*n] >= index).fold(0, |m, n| m | 1 << n);
        let index = candidates.into_iter().find(|index| voters.quorum(held_by(*index))).unwrap_or(0);
        if index > it.commit && it.at(index).is_some_and(|entry| entry.term == term) {
            self.commit(node, index);
            self.voters_committed(node);
        }
    }

    fn commit(&mut self, node: usize, index: u64) {
        if index <= self.nodes[node].commit {
            return;
        }
        for at in self.nodes[node].commit + 1..=index {
            let entry = self.nodes[node].at(at).unwrap();
            match self.committed.get(usize::try_from(at).unwrap()) {
                Some(there) if *there == entry => {}
                Some(there) => {
                    let what = format!("entry {at} was committed as {there:?}, and by node {node} as {entry:?}");
                    return self.fail(Violation::Raft(what));
                }
                None => {
                    let mut state = *self.history.last().unwrap();
                    state.apply(at, entry);
                    self.history.push(state);
                    self.committed.push(entry);
                    self.seen.committed += 1;
                }
            }
        }
        self.nodes[node].commit = index;
        self.begin_apply(node);
    }

    fn begin_apply(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.apply_running || it.applied >= it.commit {
            return;
        }
        it.apply_running = true;
        let (life, slow) = (it.life, it.slow_until > self.now);
        let pause = if slow { self.random.between(20 * MS, 200 * MS) } else { self.random.between(50, 1_500) };
        self.after(pause, Event::Apply { node, life });
    }

    fn apply(&mut self, node: usize) {
        self.nodes[node].apply_running = false;
        let some = if self.nodes[node].slow_until > self.now { 1 } else { self.random.between(1, 32) };
        let upto = self.nodes[node].commit.min(self.nodes[node].applied + some);
        while self.nodes[node].applied < upto {
            self.nodes[node].apply_next();
        }
        self.answer_ready(node);
        self.begin_apply(node);
    }
}

// Raft: the voters.
impl World {
    fn change_voters(&mut self) {
        let (later, old) = (self.setup.later, self.setup.voters);
        let leader = (0..self.setup.nodes).find(|node| {
            let it = &self.nodes[*node];
            it.up && matches!(it.role, Role::Leader(_)) && it.at(it.commit).is_some_and(|entry| entry.term == it.term)
        });
        if self.history.last().unwrap().voters().index > 0 {
            return;
        }
        if let Some(leader) = leader
            && self.nodes[leader].voters().index == 0
            && self.nodes[leader].paused_until <= self.now
        {
            if self.random.chance(60) {
                self.cut_off_during_change(leader);
            }
            self.propose(leader, Command::Voters { old, new: later });
        }
        if self.now < self.calm {
            self.after(100 * MS, Event::ChangeVoters);
        }
    }

    /// Some nodes never hear of the change, and one hears of its beginning only: chance alone seldom finds that moment.
    fn cut_off_during_change(&mut self, leader: usize) {
        let mut others: Vec<usize> = (0..self.setup.nodes).filter(|node| *node != leader).collect();
        self.random.shuffle(&mut others);
        let deaf = 1 + self.random.below((self.setup.nodes - 1) / 2);
        let lasts = self.random.between(400 * MS, 1_000 * MS);
        for node in others.iter().take(deaf) {
            self.isolate(*node, lasts);
        }
        let (node, pause) = (others[deaf], self.random.between(MS, 7 * MS));
        self.nodes[node].slow_until = self.now + lasts;
        // It hears of the rest before the others hear of anything, and is slow to apply it.
        let lasts = self.random.between(20 * MS, 120 * MS);
        self.after(pause, Event::Isolate { node, lasts });
    }

    fn isolate(&mut self, node: usize, lasts: u64) {
        let others = (0..self.setup.nodes).filter(|other| *other != node);
        self.cut_ways(others.flat_map(|other| [(node, other), (other, node)]).collect(), lasts);
    }

    /// A change that is half done is finished by whoever leads; a leader that has no vote any more steps down.
    fn voters_committed(&mut self, node: usize) {
        let it = &self.nodes[node];
        let voters = it.voters();
        if voters.index == 0 || voters.index > it.commit {
            return;
        }
        if voters.old != 0 {
            self.seen.changes += 1;
            self.propose(node, Command::Voters { old: 0, new: voters.new });
        } else if !voters.has(node) {
            let term = it.term;
            self.follow(node, term, None);
        }
    }
}

// Reading with the leader.
impl World {
    fn ask_leader(&mut self, node: usize, wait: u64) {
        let it = &self.nodes[node];
        if it.waits.iter().all(|w| w.id != wait || w.leader != Asked::Pending) {
            return;
        }
        let life = it.life;
        match it.leader {
            Some(leader) if leader == node => self.asked_for_index(node, node, wait),
            Some(leader) => self.send(node, leader, Message::AskIndex { wait }),
            None => {}
        }
        self.after(50 * MS, Event::AskLeader { node, life, wait });
    }

    fn asked_for_index(&mut self, from: usize, to: usize, wait: u64) {
        let it = &mut self.nodes[to];
        let (commit, own) = (it.commit, it.at(it.commit).is_some_and(|entry| entry.term == it.term));
        let Role::Leader(leading) = &mut it.role else { return };
        if own {
            leading.reads.push((from, wait, commit, leading.round + 1));
            self.replicate_all(to);
            self.confirm_reads(to);
        }
    }

    fn confirm_reads(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let voters = it.voters();
        let Role::Leader(leading) = &mut it.role else { return };
        leading.rounds[node] = leading.round;
        let confirms =
            |round: u64| (0..leading.rounds.len()).filter(|n| leading.rounds[*n] >= round).fold(0, |m, n| m | 1 << n);
        let ready = |read: &(usize, u64, u64, u64)| voters.quorum(confirms(read.3));
        let (confirmed, rest): (Vec<_>, Vec<_>) = leading.reads.iter().copied().partition(ready);
        leading.reads = rest;
        for (to, wait, index, _) in confirmed {
            if to == node { self.index(node, wait, index) } else { self.send(node, to, Message::Index { wait, index }) }
        }
    }

    fn index(&mut self, node: usize, wait: u64, index: u64) {
        if let Some(wait) = self.nodes[node].waits.iter_mut().find(|w| w.id == wait && w.leader == Asked::Pending) {
            wait.leader = Asked::At(index);
            self.answer_ready(node);
        }
    }
}

// Questions, at the node.
impl World {
    fn asked(&mut self, node: usize, question: usize, round: u32, item: u8, min_index: u64) {
        let about = Footprints::question(item);
        let (threshold, raft_id) = (self.setup.threshold, node as u64);
        let it = &mut self.nodes[node];
        let accepted = it.ledger.membership();
        let suffices = match self.mutant {
            Some(Mutant::MembershipIgnored) => true,
            Some(Mutant::MembershipApplied) => it.state.voters().accepted().suffices(raft_id, threshold),
            Some(Mutant::LearnersAnswer) => !accepted.joint && 2 * threshold > accepted.voters.len(),
            Some(Mutant::JointIgnored) => accepted.voters.contains(&raft_id) && 2 * threshold > accepted.voters.len(),
            _ => accepted.suffices(raft_id, threshold),
        };
        self.wait += 1;
        let (id, life) = (self.wait, it.life);
        let mut wait = Wait { id, question, round, item, ticket: None, fixed: 0, leader: Asked::No, min_index };
        if suffices {
            let ticket = it.ledger.note(&about);
            let awaited = it.ledger.awaited(ticket);
            let last_meets = held(it.last(), it.log.last().unwrap().command, &self.footprints).footprint.meets(&about);
            let fixed = match self.mutant {
                Some(Mutant::NothingNoted) => Some(0),
                Some(Mutant::AppliedNoted) => Some(it.applied),
                Some(Mutant::CommittedNoted) => Some(it.commit),
                Some(Mutant::CutIgnored | Mutant::CutForgets) => Some(awaited),
                Some(Mutant::LastEntryOnly) => Some(if last_meets { it.last() } else { 0 }),
                Some(Mutant::UnappliedRead) => Some(0),
                _ => None,
            };
            match fixed {
                Some(fixed) => {
                    it.ledger.forget(ticket);
                    wait.fixed = fixed;
                }
                None => {
                    wait.ticket = Some(ticket);
                    self.seen.waits += u64::from(awaited > it.applied);
                    self.seen.passed += u64::from(awaited <= it.applied && it.last() > it.applied);
                }
            }
        } else {
            wait.leader = Asked::Pending;
            self.seen.leader_asked += 1;
        }
        it.waits.push(wait);
        if !suffices {
            self.ask_leader(node, id);
        }
        if !self.patient {
            self.after(PATIENCE, Event::GiveUp { node, life, wait: id });
        }
        self.answer_ready(node);
    }

    fn answer_ready(&mut self, node: usize) {
        while let Some(at) = (0..self.nodes[node].waits.len()).find(|at| {
            let it = &self.nodes[node];
            it.is_ready(&it.waits[*at])
        }) {
            self.reply(node, at, false);
        }
    }

    fn give_up(&mut self, node: usize, wait: u64) {
        if let Some(at) = self.nodes[node].waits.iter().position(|w| w.id == wait) {
            self.seen.behind += 1;
            self.reply(node, at, true);
        }
    }

    fn reply(&mut self, node: usize, at: usize, behind: bool) {
        let it = &mut self.nodes[node];
        let wait = it.waits.swap_remove(at);
        if let Some(ticket) = wait.ticket {
            it.ledger.forget(ticket);
        }
        let mut state = it.state;
        if self.mutant == Some(Mutant::UnappliedRead) {
            for index in it.applied + 1..=it.last() {
                state.apply(index, it.at(index).unwrap());
            }
        }
        let (mut applied, mut said) = (it.applied, (!behind).then(|| state.answer(wait.item)));
        if it.liar {
            (applied, said) = (LIE, Some(Answer::Lie(wait.id)));
            self.seen.lies += 1;
        }
        if self.random.chance(self.loss / 2) {
            return;
        }
        let (question, round, delay) = (wait.question, wait.round, self.delay());
        self.after(delay, Event::Answered { from: node, question, round, applied, said });
    }
}

// Questions, at the client.
impl World {
    fn ask(&mut self) {
        let item = u8::try_from(self.random.below(ITEMS)).unwrap();
        self.questions.push(Question::new(item, self.committed.len() - 1, self.setup.nodes));
        self.begin_round(self.questions.len() - 1);
        if self.now < self.calm {
            let pause = self.random.between(2 * MS, 40 * MS);
            self.after(pause, Event::Ask);
        }
    }

    fn begin_round(&mut self, question: usize) {
        let mut order = std::mem::take(&mut self.questions[question].order);
        self.random.shuffle(&mut order);
        let asked = &mut self.questions[question];
        asked.order = order;
        asked.begin_round();
        let round = asked.round;
        self.send_question(question, round, self.setup.threshold);
        self.after(HEDGE, Event::Hedge { question, round });
        self.after(CALL, Event::CallOver { question, round });
    }

    /// Asks members until `upto` of them are asked.
    fn send_question(&mut self, question: usize, round: u32, upto: usize) {
        while self.questions[question].sent < upto && !self.questions[question].done {
            let asked = &mut self.questions[question];
            if asked.round != round {
                return;
            }
            let (node, item, min_index) = (asked.order[asked.sent], asked.item, asked.min_index);
            asked.sent += 1;
            let delay = self.delay();
            if !self.random.chance(self.loss / 2) {
                self.after(delay, Event::Asked { node, question, round, item, min_index });
            }
        }
    }

    fn answered(&mut self, from: usize, question: usize, round: u32, applied: u64, said: Option<Answer>) {
        let (setup, mutant) = (self.setup, self.mutant);
        let asked = &mut self.questions[question];
        if asked.done || asked.round != round {
            return;
        }
        if let Some(answer) = asked.reply(from, applied, said, &setup, mutant) {
            asked.done = true;
            self.seen.opens += 1;
            self.seen.denied += u64::from(answer == Answer::Denied);
            self.seen.repeated += u64::from(asked.round > 1);
            if !asked.is_true(answer, &self.history) {
                let (item, floor) = (asked.item, asked.floor);
                let truth = self.history[floor].answer(item);
                let what = format!(
                    "question {question} about item {item} was asked when entry {floor} was committed ({truth:?}), and answered {answer:?}"
                );
                self.fail(Violation::Stale(what));
            }
        } else if asked.all_replied() {
            self.round_over(question, round);
        } else if asked.needs_more() {
            self.send_question(question, round, setup.nodes);
        }
    }

    fn round_over(&mut self, question: usize, round: u32) {
        let (setup, mutant) = (self.setup, self.mutant);
        let asked = &mut self.questions[question];
        if !asked.done && asked.round == round {
            asked.raise(&setup, mutant);
            asked.round += 1;
            let pause = self.random.between(20 * MS, 100 * MS);
            self.after(pause, Event::Again { question });
        }
    }

    fn writes(&mut self) {
        if self.now >= self.calm {
            return;
        }
        let item = u8::try_from(self.random.below(ITEMS)).unwrap();
        let command = match self.random.below(10) {
            0..6 => Command::Put(item),
            6..8 => Command::Policy { deny: self.random.chance(50) },
            _ => Command::Lease,
        };
        // To every node that may think it leads: a leader that was deposed appends entries that will be cut.
        for node in 0..self.setup.nodes {
            let delay = self.delay();
            self.after(delay, Event::Write { node, command });
        }
        let pause = self.random.between(2 * MS, 60 * MS);
        self.after(pause, Event::Writes);
    }
}

// Faults.
impl World {
    fn fault(&mut self) {
        if self.now >= self.calm {
            return;
        }
        let node = self.random.below(self.setup.nodes);
        let lasts = self.random.between(50 * MS, 600 * MS);
        match self.random.below(20) {
            0..5 if self.nodes[node].up => {
                let power_cut = self.random.chance(50);
                self.nodes[node].die(power_cut);
                self.seen.kills += 1;
                self.seen.power_cuts += u64::from(power_cut);
                self.after(lasts, Event::Start { node });
            }
            5..11 => self.partition(lasts),
            11..13 => {
                let other = self.random.below(self.setup.nodes);
                self.cut_ways(vec![(node, other)], lasts);
            }
            13..16 => self.nodes[node].paused_until = self.now + lasts,
            _ => self.nodes[node].slow_until = self.now + 2 * lasts,
        }
        let pause = self.random.between(30 * MS, 250 * MS);
        self.after(pause, Event::Fault);
    }

    /// Splits the nodes in two, the leader with a minority more often than by chance.
    fn partition(&mut self, lasts: u64) {
        let leader = self.nodes.iter().position(|node| matches!(node.role, Role::Leader(_)));
        let mut side = self.random.next();
        if let Some(leader) = leader
            && self.random.chance(50)
        {
            side = 1 << leader | u64::from(self.random.chance(50)) << self.random.below(self.setup.nodes);
        }
        let on = |node: usize| side >> node & 1;
        let nodes = 0..self.setup.nodes;
        let cuts = nodes.clone().flat_map(|from| nodes.clone().map(move |to| (from, to)));
        let cuts: Vec<_> = cuts.filter(|(from, to)| on(*from) != on(*to)).collect();
        self.seen.partitions += 1;
        self.cut_ways(cuts, lasts);
    }

    fn cut_ways(&mut self, cuts: Vec<(usize, usize)>, lasts: u64) {
        for (from, to) in &cuts {
            self.cut[*from][*to] += 1;
        }
        self.after(lasts, Event::Mend { cuts });
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        let applied = self.nodes[node].applied.saturating_sub(self.random.between(0, 20));
        let tail_lost = self.mutant == Some(Mutant::TailLostAtStart);
        self.nodes[node].start(applied, &self.footprints, tail_lost);
        self.await_leader(node);
    }

    fn all_well(&mut self) {
        self.loss = 0;
        for node in 0..self.setup.nodes {
            self.start(node);
            (self.nodes[node].paused_until, self.nodes[node].slow_until) = (self.now, self.now);
            self.cut[node].fill(0);
        }
        // What is under way would cut, or count down, again.
        self.queue.retain(|_, event| !matches!(event, Event::Mend { .. } | Event::Isolate { .. }));
        for _ in 0..ITEMS {
            self.after(PATIENCE / 2, Event::Ask);
        }
    }
}
