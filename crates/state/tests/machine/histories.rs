//! Random histories of leases against a model of a page: the same answers, the same states, and indexes that agree.

use crate::world::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use quorate_crypto::identity::Verified;
use quorate_state::change::Change;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::{LeaseId, Millis};
use quorate_state::lease::{State, lease, leases, principal};
use quorate_state::machine::apply;
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::store::{MemStore, Store as _};
use std::collections::BTreeMap;

const DEFAULT: Millis = MINUTE;
const LONGEST: Millis = 4 * MINUTE;
const QUOTA: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Issue { bob: bool, ttl: Option<u64> },
    Activate(usize),
    Fail(usize),
    Revoke(usize),
    Renew(usize, u64),
    Revoked(Vec<(usize, bool)>),
    Adopt(usize),
    AdoptOrphan(u8),
    Pass(u64),
    Expire,
    NewTerm { office: bool },
    DeleteRole,
    PutRole,
    Block,
    Unblock,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<bool>(), option::of(0u64..300)).prop_map(|(bob, ttl)| Step::Issue { bob, ttl }),
        6 => (0usize..8).prop_map(Step::Activate),
        2 => (0usize..8).prop_map(Step::Fail),
        3 => (0usize..8).prop_map(Step::Revoke),
        3 => (0usize..8, 0u64..300).prop_map(|(i, ttl)| Step::Renew(i, ttl)),
        6 => vec((0usize..8, any::<bool>()), 0..5).prop_map(Step::Revoked),
        2 => (0usize..8).prop_map(Step::Adopt),
        1 => (0u8..3).prop_map(Step::AdoptOrphan),
        4 => (1u64..60).prop_map(Step::Pass),
        4 => Just(Step::Expire),
        2 => prop::bool::weighted(0.8).prop_map(|office| Step::NewTerm { office }),
        1 => Just(Step::DeleteRole),
        2 => Just(Step::PutRole),
        1 => Just(Step::Block),
        2 => Just(Step::Unblock),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    state: State,
    expires: Millis,
    longest: Millis,
    oid: bool,
    was_active: bool,
    bob: bool,
    orphan: bool,
}

struct Model {
    leases: BTreeMap<LeaseId, Known>,
    /// In the order of their intents, so that steps can name them.
    order: Vec<LeaseId>,
    role: bool,
    office: bool,
    blocked: bool,
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

fn wrong_state(state: State) -> Outcome {
    refused(Refusal::LeaseState { state: state.to_string() })
}

fn moved(mut ids: Vec<LeaseId>) -> Outcome {
    ids.sort_unstable();
    Outcome::Leases { changed: ids }
}

impl Model {
    fn pick(&self, i: usize) -> LeaseId {
        if self.order.is_empty() { LeaseId([0xee; 16]) } else { self.order[i % self.order.len()] }
    }

    fn end(&mut self, which: impl Fn(&Known) -> bool) -> Vec<LeaseId> {
        let alive = |k: &Known| matches!(k.state, State::Intent | State::Active);
        let ending = self.leases.iter_mut().filter(|(_, k)| alive(k) && which(k));
        ending
            .map(|(id, k)| {
                k.state = State::Revoking;
                *id
            })
            .collect()
    }

    fn issue(&mut self, now: Millis, bob: bool, ttl: Option<u64>, id: LeaseId, login: String) -> Outcome {
        let ttl = ttl.map_or(DEFAULT, |s| s * SECOND);
        let counted = self.leases.values().filter(|k| !k.orphan && k.state != State::Revoked).count();
        if bob && self.blocked {
            refused(Refusal::Blocked)
        } else if !self.role {
            refused(Refusal::not_found("role"))
        } else if !(SECOND..=LONGEST).contains(&ttl) {
            refused(Refusal::invalid("ttl", "must be 1 s to 240 s"))
        } else if counted >= QUOTA {
            refused(Refusal::Quota { what: "role reader".to_owned(), limit: QUOTA as u32 })
        } else if !self.office {
            refused(Refusal::Unjustified)
        } else {
            let (expires, longest) = (now + ttl, now + LONGEST);
            let (oid, was_active, orphan) = (false, false, false);
            self.leases.insert(id, Known { state: State::Intent, expires, longest, oid, was_active, bob, orphan });
            self.order.push(id);
            Outcome::Intent { lease: id, principal: login, expires_at: expires }
        }
    }

    fn activate(&mut self, id: LeaseId) -> Outcome {
        let Some(known) = self.leases.get_mut(&id) else { return refused(Refusal::not_found("lease")) };
        match known.state {
            _ if !self.office => refused(Refusal::Unjustified),
            State::Intent => {
                (known.state, known.oid, known.was_active) = (State::Active, true, true);
                moved(vec![id])
            }
            State::Revoking if !known.oid => {
                known.oid = true;
                moved(vec![])
            }
            other => wrong_state(other),
        }
    }

    fn renew(&mut self, now: Millis, id: LeaseId, ttl: u64) -> Outcome {
        let Some(known) = self.leases.get_mut(&id) else { return refused(Refusal::not_found("lease")) };
        if known.state != State::Active {
            return wrong_state(known.state);
        }
        if known.expires <= now {
            return refused(Refusal::LeaseState { state: "expired".to_owned() });
        }
        if ttl == 0 {
            return refused(Refusal::invalid("ttl", "must be at least 1 s"));
        }
        known.expires = known.longest.min(now + ttl * SECOND);
        Outcome::Renewed { lease: id, expires_at: known.expires }
    }

    fn revoked(&mut self, proofs: &[(LeaseId, bool)]) -> Outcome {
        let mut gone = Vec::new();
        for (id, fenced) in proofs {
            let Some(known) = self.leases.get_mut(id) else { continue };
            if self.office && known.state == State::Revoking && (*fenced || known.was_active) {
                known.state = State::Revoked;
                gone.push(*id);
            }
        }
        if gone.is_empty() { refused(Refusal::Unjustified) } else { moved(gone) }
    }

    fn adopt(&mut self, now: Millis, id: LeaseId) -> Outcome {
        if !self.office {
            return refused(Refusal::Unjustified);
        }
        let orphan = Known {
            state: State::Revoked,
            expires: now,
            longest: now,
            oid: true,
            was_active: true,
            bob: false,
            orphan: true,
        };
        let known = self.leases.entry(id).or_insert(orphan);
        if known.state != State::Revoked {
            return wrong_state(known.state);
        }
        (known.state, known.oid, known.was_active) = (State::Revoking, true, true);
        moved(vec![id])
    }
}

fn role() -> Change {
    role_with("reader", "db", |role| {
        (role.default_ttl, role.max_ttl, role.max_leases) = (DEFAULT, LONGEST, QUOTA as u32);
    })
}

/// What the machine and what the model answer.
fn take(world: &mut World, model: &mut Model, step: &Step) -> (Outcome, Outcome) {
    let (term, now) = (world.term, world.now());
    match step {
        Step::Issue { bob, ttl } => {
            let request = world.request(issue("reader", ttl.map(|s| s * SECOND)));
            let principal_name = if *bob { BOB } else { ALICE };
            let request = quorate_state::request::Request { principal: principal_name.to_owned(), ..request };
            let id = LeaseId::of(&world.cluster, &key(principal_name).verify_key().0, &request.id, request.not_after);
            let login = principal(&world.cluster, "db", &id);
            (world.send(&World::sign(&request)), model.issue(now, *bob, *ttl, id, login))
        }
        Step::Activate(i) => {
            let lease = model.pick(*i);
            (world.apply(&Command::LeaseActive { term, lease, oid: 7, issued: Vec::new() }), model.activate(lease))
        }
        Step::Fail(i) => {
            let id = model.pick(*i);
            let expected = match model.leases.get_mut(&id) {
                None => refused(Refusal::not_found("lease")),
                Some(known) if model.office && known.state == State::Intent => {
                    known.state = State::Revoking;
                    moved(vec![id])
                }
                Some(_) => refused(Refusal::Unjustified),
            };
            (world.apply(&Command::LeaseFailed { term, lease: id }), expected)
        }
        Step::Revoke(i) => {
            let lease = model.pick(*i);
            let expected = match model.leases.get_mut(&lease) {
                None => refused(Refusal::not_found("lease")),
                Some(k) if matches!(k.state, State::Intent | State::Active) => {
                    k.state = State::Revoking;
                    moved(vec![lease])
                }
                Some(_) => moved(vec![]),
            };
            (world.submit(Change::RevokeLease { lease }), expected)
        }
        Step::Renew(i, ttl) => {
            let lease = model.pick(*i);
            (world.submit(Change::RenewLease { lease, ttl: ttl * SECOND }), model.renew(now, lease, *ttl))
        }
        Step::Revoked(which) => {
            let named: Vec<(LeaseId, bool)> = which.iter().map(|(i, fenced)| (model.pick(*i), *fenced)).collect();
            let proof = |(lease, fenced): &(LeaseId, bool)| RevocationProof {
                lease: *lease,
                fenced: *fenced,
                looked_at: now,
                sessions_ended: 0,
                endpoint: String::new(),
            };
            let proofs = named.iter().map(proof).collect();
            (world.apply(&Command::LeaseRevoked { term, described: world.described(), proofs }), model.revoked(&named))
        }
        Step::Adopt(i) => adopt(world, model, model.pick(*i)),
        Step::AdoptOrphan(n) => adopt(world, model, LeaseId([*n; 16])),
        Step::Pass(seconds) => {
            let to = now + seconds * SECOND;
            (world.tick(to), Outcome::Time { now: to, jumped: false })
        }
        Step::Expire => {
            let expected = moved(model.end(|k| k.expires <= now));
            (world.apply(&Command::Expire { term, upto: now }), expected)
        }
        Step::NewTerm { office: taken } => {
            world.term += 1;
            model.office = *taken;
            if !taken {
                return (Outcome::Done, Outcome::Done);
            }
            (world.apply(&office("db", 2, world.term)), Outcome::Done)
        }
        Step::DeleteRole => {
            let expected = if model.role { moved(model.end(|_| true)) } else { refused(Refusal::not_found("role")) };
            model.role = false;
            (world.submit(Change::DeleteRole { name: "reader".to_owned() }), expected)
        }
        Step::PutRole => {
            model.role = true;
            (world.submit(role()), Outcome::Done)
        }
        Step::Block => {
            model.blocked = true;
            let expected = moved(model.end(|k| k.bob));
            (world.submit(Change::BlockIdentity { principal: BOB.to_owned() }), expected)
        }
        Step::Unblock => {
            let there = core::mem::take(&mut model.blocked);
            let expected = if there { Outcome::Done } else { refused(Refusal::not_found("block of that identity")) };
            (world.submit(Change::UnblockIdentity { principal: BOB.to_owned() }), expected)
        }
    }
}

fn adopt(world: &mut World, model: &mut Model, id: LeaseId) -> (Outcome, Outcome) {
    let (now, principal) = (world.now(), principal(&world.cluster, "db", &id));
    let command = Command::Adopt { term: world.term, target: "db".to_owned(), principal, oid: 9 };
    (world.apply(&command), model.adopt(now, id))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn leases_do_what_the_model_does(steps in vec(step(), 1..60), restored in any::<prop::sample::Index>()) {
        let mut world = World::with_target();
        prop_assert_eq!(world.submit(role()), Outcome::Done);
        let (leases_known, order) = (BTreeMap::new(), Vec::new());
        let mut model = Model { leases: leases_known, order, role: true, office: true, blocked: false };
        for step in &steps {
            // `World::apply` checks every index after every command.
            let (mut outcome, expected) = take(&mut world, &mut model, step);
            if let Outcome::Leases { changed } = &mut outcome {
                changed.sort_unstable();
            }
            prop_assert_eq!(outcome, expected, "{:?}", step);
            for (id, known) in &model.leases {
                let found = lease(&world.store, id).unwrap().unwrap();
                let seen = (found.state, found.expires_at, found.oid.is_some(), found.was_active);
                prop_assert_eq!(seen, (known.state, known.expires, known.oid, known.was_active), "{:?}", step);
            }
            prop_assert_eq!(leases(&world.store, None, usize::MAX).unwrap().len(), model.leases.len());
        }
        // A replica that is restored from the rows of another, somewhere on the way, is the same at the end.
        let restored = restored.index(world.log.len());
        let mut replica = MemStore::default();
        replica.commit(genesis().initial_state());
        for (n, (at, entry)) in world.log.iter().enumerate() {
            if n == restored {
                let rows = replica.scan(&[], &[0xff], usize::MAX).unwrap();
                replica = MemStore(rows.into_iter().collect());
            }
            let writes = apply(&replica, &world.cluster, *at, entry, &Verified::default()).unwrap().0;
            replica.commit(writes);
        }
        prop_assert!(replica == world.store, "restored before entry {}", restored);
    }
}
