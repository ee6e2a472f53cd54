//! What a cluster can begin with.

use crate::world::genesis;
use quorate_state::access::MAX_POLICY;
use quorate_state::genesis::{BadGenesis, Genesis};
use quorate_state::ids::BadName;
use quorate_state::machine::check;
use quorate_state::store::MemStore;

#[test]
fn a_genesis_reads_back_and_names_its_cluster() {
    let good = genesis();
    assert_eq!(Genesis::from_bytes(&good.to_bytes()), Ok(good.clone()));
    let mut other = good.clone();
    other.nonce[0] ^= 1;
    assert_ne!(other.cluster(), good.cluster());
    let mut store = MemStore::default();
    store.commit(good.initial_state());
    assert_eq!(check(&store), Ok(()));
    assert_eq!(quorate_state::genesis::genesis(&store), Ok(good.clone()));
    for bytes in [vec![], good.to_bytes()[1..].to_vec(), [good.to_bytes(), vec![0]].concat()] {
        assert_eq!(Genesis::from_bytes(&bytes), Err(BadGenesis::Format));
    }
}

#[test]
fn what_no_cluster_can_begin_with_is_refused() {
    type Spoil = fn(&mut Genesis);
    let name = |field, source| BadGenesis::Name { field, source };
    let cases: Vec<(Spoil, BadGenesis)> = vec![
        (|g| g.name = "No".to_owned(), name("name", BadName::Character)),
        (|g| g.roster.threshold = 1, BadGenesis::Threshold { members: 3, threshold: 1 }),
        (|g| g.roster.threshold = 3, BadGenesis::Threshold { members: 3, threshold: 3 }),
        (|g| g.roster.members.truncate(2), BadGenesis::Threshold { members: 2, threshold: 2 }),
        (|g| g.roster.members.clear(), BadGenesis::Threshold { members: 0, threshold: 2 }),
        (
            |g| {
                g.roster.members.truncate(1);
                g.roster.threshold = 1;
            },
            BadGenesis::Threshold { members: 1, threshold: 1 },
        ),
        (|g| g.roster.members[1].name = String::new(), name("member", BadName::Length(64))),
        (|g| g.roster.members[1].name = "node-1".to_owned(), BadGenesis::Members),
        (|g| g.roster.members[2].key = g.roster.members[0].key, BadGenesis::Members),
        (|g| g.roster.members[2].raft_id = g.roster.members[1].raft_id, BadGenesis::Members),
        (|g| g.roster.members[2].index = 4, BadGenesis::Members),
        (|g| g.roster.members.swap(0, 1), BadGenesis::Members),
        (|g| g.administrators.needed = 0, BadGenesis::Administrators { needed: 0, keys: 3 }),
        (|g| g.administrators.needed = 4, BadGenesis::Administrators { needed: 4, keys: 3 }),
        (|g| g.administrators.keys[1] = g.administrators.keys[0], BadGenesis::Administrators { needed: 2, keys: 3 }),
        (|g| g.client_roots.certificates.clear(), BadGenesis::ClientRoots),
        (|g| g.client_roots.trust_domain.clear(), name("trust domain", BadName::Length(255))),
        (|g| g.client_roots.trust_domain = "Example.org".to_owned(), name("trust domain", BadName::Character)),
        (|g| g.client_roots.trust_domain = "a/b".to_owned(), name("trust domain", BadName::Character)),
        (|g| g.client_roots.trust_domain = "a".repeat(256), name("trust domain", BadName::Length(255))),
        (|g| g.policies[0].0 = "a b".to_owned(), name("policy", BadName::Character)),
        (|g| g.policies.push(g.policies[0].clone()), BadGenesis::Policies),
        (|g| g.policies[0].1 = "x".repeat(MAX_POLICY + 1), BadGenesis::Policies),
    ];
    for (spoil, expected) in cases {
        let mut spoiled = genesis();
        spoil(&mut spoiled);
        assert_eq!(spoiled.check(), Err(expected.clone()));
        assert_eq!(Genesis::from_bytes(&spoiled.to_bytes()), Err(expected));
    }
    let mut fits = genesis();
    fits.policies[0].1 = "x".repeat(MAX_POLICY);
    assert_eq!(fits.check(), Ok(()));
}
