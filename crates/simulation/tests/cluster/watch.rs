//! What must hold at every moment, looked at from outside: in the stores of the members, and at the targets themselves.
//!
//! Nothing here asks a member. The state is read out of the stores that members lie on, and what can log in is asked of the target.

use crate::world::World;
use quorate_raft::kv::{Kv, MemKv, Table};
use quorate_state::clock::ClusterClock;
use quorate_state::hash::StateHash;
use quorate_state::ids::LeaseId;
use quorate_state::lease::{self, Lease, State, Why};
use quorate_state::store::{Pair, Store, StoreError};
use quorate_state::target::claim_prefix;
use std::collections::BTreeMap;

/// The targets at which there are leases, one of each class.
pub(crate) const TARGETS: [&str; 4] = ["t", "auto", "over", "made"];

/// The applied state in a member's store.
struct Applied<'a> {
    kv: &'a MemKv,
    generation: [u8; 8],
}

impl<'a> Applied<'a> {
    fn of(kv: &'a MemKv) -> Self {
        let generation = kv.get(Table::Meta, b"generation").unwrap();
        Self { kv, generation: generation.map_or([0; 8], |bytes| bytes.try_into().unwrap()) }
    }

    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.generation, key].concat()
    }
}

impl Store for Applied<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.kv.get(Table::State, &self.key(key)).unwrap())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let rows = self.kv.scan(Table::State, &self.key(from), &self.key(to), limit).unwrap();
        Ok(rows.into_iter().map(|(key, value)| (key[8..].to_vec(), value)).collect())
    }
}

/// What was seen of one member last.
#[derive(Default, Clone, PartialEq, Eq)]
struct At {
    applied: Vec<u8>,
    digest: [u8; 32],
}

/// A lease, as far as any member ever was with it.
#[derive(Clone)]
struct Known {
    lease: Lease,
    /// Whether a client was given it.
    handed: bool,
}

#[derive(Default)]
pub(crate) struct Watch {
    members: BTreeMap<u8, At>,
    /// What any member had at an applied entry: the chain of entries, and the hash of the state.
    agreed: BTreeMap<Vec<u8>, (Vec<u8>, [u8; 32])>,
    leases: BTreeMap<LeaseId, Known>,
    logins: BTreeMap<(usize, String), LeaseId>,
    /// Sessions that leased logins have opened.
    sessions: Vec<(&'static str, u64, LeaseId)>,
    /// The last entry that somebody was told of, as more than half of the members had it then.
    acknowledged: Option<(u64, Vec<u8>)>,
    /// How often something was there to be judged.
    pub(crate) states: u64,
}

fn furthest(state: State) -> u8 {
    match state {
        State::Intent => 0,
        State::Active => 1,
        State::Revoking => 2,
        State::Revoked => 3,
    }
}

impl Watch {
    /// Looks at everything.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) fn look(&mut self, world: &World) -> Result<(), String> {
        for index in world.members() {
            if let Some(why) = world.fate(index) {
                return Err(format!("member {index} ended by itself: {why}"));
            }
            self.member(world, index)?;
        }
        TARGETS.iter().enumerate().try_for_each(|(at, name)| self.target(world, at, name))
    }

    fn member(&mut self, world: &World, index: u8) -> Result<(), String> {
        let kv = world.store(index);
        let applied = kv.get(Table::Meta, b"applied").unwrap().unwrap_or_default();
        if self.members.get(&index).is_some_and(|at| at.applied == applied) {
            return Ok(());
        }
        let chain = kv.get(Table::Meta, b"chain").unwrap().unwrap_or_default();
        let store = Applied::of(&kv);
        let digest = StateHash::load(&store).map_err(|why| why.to_string())?.digest();
        self.states += 1;
        let agreed = self.agreed.entry(applied.clone()).or_insert_with(|| (chain.clone(), digest));
        if *agreed != (chain, digest) {
            return Err(format!("K5: member {index} has another state than others had after the same entry"));
        }
        let (time, now) = (ClusterClock::load(&store).map_err(|why| why.to_string())?.now, world.now());
        if time > now {
            return Err(format!("T1: cluster time is {} ms ahead of every right clock, at member {index}", time - now));
        }
        for (id, lease) in lease::leases(&store, None, usize::MAX).map_err(|why| why.to_string())? {
            let early = lease.expires_at.saturating_sub(now);
            if lease.why == Some(Why::Expired) && early > 0 {
                return Err(format!("T1: lease {id} has expired {early} ms before its end by every right clock"));
            }
            self.lease(id, lease)?;
        }
        world.hub.journal.note(format_args!(
            "member {index} applied {:02x?} {:02x?}",
            &applied[..applied.len().min(24)],
            &digest[..4]
        ));
        self.members.insert(index, At { applied, digest });
        Ok(())
    }

    /// Looks for the last entry that somebody was told of. If all power went now, more than half of the members would have it still, and so have
    /// all before it; what they have in its place is what it was.
    ///
    /// # Errors
    /// It is not so.
    pub(crate) fn acknowledged(&mut self, world: &World, index: u64) -> Result<(), String> {
        let lasting = |member| world.store(member).lasting(Table::Log, &index.to_be_bytes());
        let there: Vec<Vec<u8>> = world.members().filter_map(lasting).collect();
        let half = world.members().count() / 2;
        let held = there.iter().find(|entry| there.iter().filter(|other| other == entry).count() > half);
        let Some(entry) = held else {
            return Err(format!(
                "K1: entry {index} was acknowledged, and would not outlive a power cut of all members"
            ));
        };
        match &self.acknowledged {
            Some((at, was)) if *at == index && was != entry => {
                Err(format!("K1: entry {index} was acknowledged, and another is in its place"))
            }
            _ => {
                self.acknowledged = Some((index, entry.clone()));
                Ok(())
            }
        }
    }

    fn lease(&mut self, id: LeaseId, lease: Lease) -> Result<(), String> {
        if let Some(at) = TARGETS.iter().position(|name| *name == lease.target) {
            self.logins.insert((at, lease.principal.clone()), id);
        }
        match self.leases.get_mut(&id) {
            None => {
                self.leases.insert(id, Known { lease, handed: false });
            }
            Some(known) => {
                // A member may be behind, but for one thing: what one has seen to be gone is never alive with another at a later entry.
                let later = lease.revoking_index > known.lease.revoking_index;
                if known.lease.state == State::Revoked && later {
                    return Err(format!("L4: lease {id} was revoked, and ends again: {:?}", lease.why));
                }
                let (new, old) = (furthest(lease.state), furthest(known.lease.state));
                if new > old || (new == old && lease.expires_at > known.lease.expires_at) {
                    known.lease = lease;
                }
            }
        }
        Ok(())
    }

    fn target(&mut self, world: &World, at: usize, name: &'static str) -> Result<(), String> {
        let claims = claim_prefix(&world.profile.cluster, name);
        let (open, _) = world.target(name).exposure();
        for login in open.iter().filter(|login| !login.starts_with(&claims)) {
            let Some(known) = self.logins.get(&(at, login.clone())).and_then(|id| self.leases.get(id)) else {
                return Err(format!("L2: {login} can log in at {name}, and no lease accounts for it"));
            };
            if known.lease.state == State::Revoked {
                return Err(format!("L1: {login} can log in at {name}, and its lease is revoked"));
            }
        }
        for (_, session, id) in self.sessions.iter().filter(|(at, ..)| *at == name) {
            let revoked = self.leases.get(id).is_some_and(|known| known.lease.state == State::Revoked);
            if revoked && world.target(name).alive(*session) {
                return Err(format!("L1: a session of lease {id} lives at {name}, and the lease is revoked"));
            }
        }
        let gone =
            |known: &&Known| known.handed && known.lease.target == name && !open.contains(&known.lease.principal);
        if let Some(early) = self.leases.values().filter(|known| known.lease.state == State::Active).find(gone) {
            return Err(format!(
                "L6: {} cannot log in at {name} any more, and its lease is active",
                early.lease.principal
            ));
        }
        Ok(())
    }

    /// A client was given a lease.
    ///
    /// # Errors
    /// No member has it as active, or ended since.
    pub(crate) fn handed(&mut self, world: &World, id: LeaseId) -> Result<(), String> {
        self.look(world)?;
        match self.leases.get_mut(&id) {
            Some(known) if known.lease.active_index.is_some() => known.handed = true,
            _ => return Err(format!("L3: lease {id} was handed out, and is active at no member")),
        }
        Ok(())
    }

    pub(crate) fn entered(&mut self, target: &'static str, session: u64, id: LeaseId) {
        self.sessions.push((target, session, id));
    }

    /// What has not come to its end; `None` when all has: every lease is revoked, nothing can log in, and all members are equal.
    pub(crate) fn left(&self, world: &World) -> Option<String> {
        let open: Vec<_> = self.leases.values().filter(|known| known.lease.state != State::Revoked).collect();
        if let Some(one) = open.first() {
            return Some(format!("{} leases, {:?} among them", open.len(), one.lease));
        }
        if let Some(name) = TARGETS.iter().find(|name| !world.logins(name).is_empty()) {
            return Some(format!("logins at {name}: {:?}", world.logins(name)));
        }
        let mut all = self.members.values();
        let first = all.next();
        (!all.all(|at| Some(at) == first)).then(|| "members that are not equal".to_owned())
    }

    /// A login at a target whose lease is revoked.
    pub(crate) fn revoked(&self, target: &str) -> Option<String> {
        let revoked = |known: &&Known| known.lease.target == target && known.lease.state == State::Revoked;
        self.leases.values().find(revoked).map(|known| known.lease.principal.clone())
    }

    /// How many leases there were.
    pub(crate) fn leases(&self) -> u64 {
        self.leases.len() as u64
    }
}
