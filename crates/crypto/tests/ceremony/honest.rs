//! Honest members: what a ceremony gives, and what a crash changes (nothing).

use crate::cast::*;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use quorate_crypto::group;
use quorate_crypto::reshare::{Abort, BadCertificate, BadParams, Cause, Ceremony, Kind, MemberError, Outcome, Phase};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use std::collections::BTreeMap;

fn check_epoch(epoch: &Epoch) {
    let c = &epoch.certificate;
    let indices: Vec<u8> = epoch.shares.keys().copied().collect();
    let key = group::point(&c.key).unwrap();
    let t = usize::from(c.threshold);
    for subset in subsets(&indices, t) {
        assert_eq!(open(&epoch.shares, &subset, &G), key, "{subset:?}");
    }
    for subset in subsets(&indices, t - 1) {
        assert_ne!(open(&epoch.shares, &subset, &G), key, "{subset:?} are too few");
    }
    for (j, share) in &epoch.shares {
        assert_eq!(share.index, *j);
        assert_eq!(group::encode(&(G * group::scalar(share.scalar.expose()).unwrap())), c.public_shares[j]);
    }
    assert_eq!(c.verify(&keys(&epoch.players)), Ok(()));
}

#[test]
fn any_t_members_of_a_generated_key_open() {
    for (t, n) in [(2, 2), (2, 3), (3, 5)] {
        let epoch = generated(t * 16 + n, t, n);
        assert_eq!((epoch.certificate.threshold, epoch.certificate.public_shares.len()), (t, usize::from(n)));
        check_epoch(&epoch);
    }
}

#[test]
fn every_session_makes_another_key() {
    assert_ne!(generated(1, 2, 3).certificate.key, generated(2, 2, 3).certificate.key);
}

#[test]
fn new_shares_open_what_old_shares_open() {
    let r = group::encode(&(G * group::hash_to_scalar("test", &[b"ciphertext"])));
    let opened = |epoch: &Epoch, by: &[u8]| {
        let partial = |i: &u8| {
            let share = KeyShare::new(*i, &epoch.shares[i].scalar).unwrap();
            assert_eq!(share.public_share(), epoch.certificate.public_shares[i]);
            (*i, partial(&share, &r).unwrap())
        };
        *combine(&by.iter().map(partial).collect::<Vec<_>>()).unwrap().expose()
    };
    let first = generated(14, 2, 3);
    let second = reshared(15, &first, 3, &[1, 2, 3, 4, 5], &[1, 3]);
    assert_eq!(opened(&first, &[1, 2]), opened(&first, &[2, 3]));
    assert_eq!(opened(&first, &[1, 2]), opened(&second, &[2, 4, 5]));
    assert_ne!(opened(&first, &[1, 2]), opened(&second, &[2, 4]));
}

/// Reshares `old` to `new` members: the dealers are `dealing` of the old ones.
fn reshared(session: u8, old: &Epoch, t: u8, new: &[u8], dealing: &[u8]) -> Epoch {
    let all: std::collections::BTreeSet<u8> = new.iter().chain(dealing).copied().collect();
    let players: Vec<Player> = all
        .iter()
        .map(|i| Player::new(session, *i).holding(old.shares.get(i).filter(|_| dealing.contains(i))))
        .collect();
    let receivers: Vec<Player> = new.iter().map(|i| Player::new(session, *i)).collect();
    let params = reshare(session, &old.certificate, keys(&old.players), t, &receivers);
    let mut ceremony = Ceremony::begin(params).unwrap();
    run(&mut ceremony, &players);
    assert_eq!(ceremony.phase(), Phase::Active);
    let shares = shares(&ceremony, &players);
    Epoch { certificate: ceremony.certificate().unwrap().clone(), players: receivers, shares }
}

#[test]
fn a_reshare_keeps_the_key() {
    let r = G * group::hash_to_scalar("test", &[b"ciphertext"]);
    let first = generated(10, 2, 3);
    let opened = open(&first.shares, &[1, 3], &r);
    // A larger set, a refresh of it by three of five dealers, a smaller set without member 1.
    let second = reshared(11, &first, 3, &[1, 2, 3, 4, 5], &[2, 3]);
    let third = reshared(12, &second, 3, &[1, 2, 3, 4, 5], &[1, 4, 5]);
    let fourth = reshared(13, &third, 2, &[2, 3, 4], &[1, 2, 3, 4, 5]);
    for (epoch, number) in [(&second, 2), (&third, 3), (&fourth, 4)] {
        assert_eq!(epoch.certificate.key, first.certificate.key);
        assert_eq!(epoch.certificate.epoch, number);
        check_epoch(epoch);
        let t = usize::from(epoch.certificate.threshold);
        let some: Vec<u8> = epoch.shares.keys().copied().take(t).collect();
        assert_eq!(open(&epoch.shares, &some, &r), opened);
    }
    // Shares of two epochs don't mix: what a thief took before a refresh is worth nothing after it.
    let mixed: BTreeMap<u8, _> = third.shares.into_iter().take(2).chain(second.shares.into_iter().skip(2)).collect();
    assert_ne!(open(&mixed, &[1, 2, 3], &r), opened);
}

#[test]
fn a_member_that_crashed_says_the_same_again() {
    let first = generated(20, 2, 3);
    let players: Vec<Player> = (1..=3).map(|i| Player::new(21, i).holding(first.shares.get(&i))).collect();
    let params = reshare(21, &first.certificate, keys(&first.players), 2, &players);
    for (params, players) in [(generation(20, 2, &first.players), &first.players), (params, &players)] {
        let mut ceremony = Ceremony::begin(params).unwrap();
        let mut steps = 0;
        while let Some(p) = players.iter().find(|p| !p.says(&ceremony).is_empty()) {
            let said = p.says(&ceremony);
            // All that survives is the seed, the identity, the old share and the replicated state.
            let restored: Ceremony = borsh::from_slice(&borsh::to_vec(&ceremony).unwrap()).unwrap();
            assert_eq!(restored, ceremony);
            assert_eq!(p.says(&restored), said);
            for message in &said {
                assert_eq!(ceremony.receive(message), Ok(Outcome::Accepted));
                let before = ceremony.clone();
                assert_eq!(ceremony.receive(message), Ok(Outcome::Repeated), "{message:?}");
                assert_eq!(ceremony, before);
            }
            steps += 1;
        }
        assert_eq!(ceremony.phase(), Phase::Active);
        assert!(steps >= 8, "{steps}");
        let again = shares(&ceremony, players);
        for (j, share) in shares(&ceremony, players) {
            assert_eq!(share.scalar.expose(), again[&j].scalar.expose());
        }
    }
}

#[test]
fn silence_is_named() {
    let players = players(30, 1..=3);
    let mut ceremony = Ceremony::begin(generation(30, 2, &players)).unwrap();
    for phase in [Phase::Keys, Phase::Deal, Phase::Ready] {
        assert_eq!(ceremony.phase(), phase);
        assert_eq!(ceremony.awaited(), [1, 2, 3].into());
        round(&mut ceremony, &players[..2]);
        assert_eq!(ceremony.awaited(), [3].into());
        assert!(ceremony.certificate().is_none());
        round(&mut ceremony, &players[2..]);
    }
    assert_eq!(ceremony.phase(), Phase::Active);
    assert!(ceremony.awaited().is_empty());
}

#[test]
fn an_abort_ends_a_ceremony_that_is_not_active() {
    let players = players(31, 1..=3);
    let mut ceremony = Ceremony::begin(generation(31, 2, &players)).unwrap();
    round(&mut ceremony, &players);
    round(&mut ceremony, &players);
    let mut finished = ceremony.clone();
    assert_eq!(ceremony.abort(), Ok(()));
    assert_eq!(ceremony.phase(), Phase::Aborted(Abort::Ordered));
    assert_eq!(ceremony.abort(), Ok(()));
    assert!(players[0].says(&ceremony).is_empty());
    assert_eq!(players[0].member().finish(&ceremony).unwrap_err(), MemberError::NoResult);
    run(&mut finished, &players);
    assert_eq!(finished.abort().unwrap_err().cause, Cause::Phase);
    assert!(finished.certificate().is_some());
}

#[test]
fn a_member_with_other_secrets_says_nothing_wrong() {
    let first = generated(40, 2, 3);
    let players: Vec<Player> = (1..=3).map(|i| Player::new(41, i).holding(first.shares.get(&i))).collect();
    let params = reshare(41, &first.certificate, keys(&first.players), 2, &players);
    let mut ceremony = Ceremony::begin(params).unwrap();
    round(&mut ceremony, &players);
    // An older backup's share.
    let stale = Player::new(41, 1).holding(first.shares.get(&2));
    assert_eq!(stale.member().next(&ceremony), Err(MemberError::WrongOldShare));
    // Another seed would find every share wrong: it must not accuse.
    round(&mut ceremony, &players);
    let mut other = Player::new(41, 1);
    other.seed = Secret::init_with(|s| s.fill(9));
    assert_eq!(other.member().next(&ceremony), Err(MemberError::WrongSeed));
    let stranger = Player::new(41, 7);
    assert_eq!(stranger.member().next(&ceremony), Err(MemberError::NotAMember));
    assert_eq!(stranger.member().finish(&ceremony).unwrap_err(), MemberError::NotAMember);
}

#[test]
fn impossible_terms_are_refused() {
    let players = players(50, 1..=3);
    let good = generation(50, 2, &players);
    let with = |change: &dyn Fn(&mut quorate_crypto::reshare::Params)| {
        let mut params = good.clone();
        change(&mut params);
        Ceremony::begin(params).map(|_| ())
    };
    assert_eq!(with(&|_| ()), Ok(()));
    for threshold in [0, 1, 4] {
        assert_eq!(with(&|p| p.threshold = threshold), Err(BadParams::Threshold { threshold, members: 3 }));
    }
    assert_eq!(with(&|p| p.members = keys(&players[..1])), Err(BadParams::SetSize(1)));
    assert_eq!(with(&|p| p.members = keys(&crate::cast::players(50, 1..=17))), Err(BadParams::SetSize(17)));
    assert_eq!(with(&|p| _ = p.members.insert(0, Player::new(1, 9).key.verify_key())), Err(BadParams::IndexZero));
    assert_eq!(with(&|p| _ = p.members.insert(4, p.members[&1])), Err(BadParams::SharedIdentity(4)));

    let first = generated(51, 2, 3);
    let good = reshare(52, &first.certificate, keys(&first.players), 2, &players);
    let old = |change: &dyn Fn(&mut quorate_crypto::reshare::OldEpoch)| {
        let mut params = good.clone();
        let Kind::Reshare(old) = &mut params.kind else { panic!() };
        change(old);
        Ceremony::begin(params).map(|_| ())
    };
    assert_eq!(old(&|_| ()), Ok(()));
    assert_eq!(old(&|o| o.key = o.public_shares[&1]), Err(BadParams::OldShares));
    assert_eq!(old(&|o| _ = o.public_shares.insert(3, o.public_shares[&1])), Err(BadParams::OldShares));
    assert_eq!(old(&|o| _ = o.public_shares.insert(3, [0; 32])), Err(BadParams::OldShares));
    assert_eq!(old(&|o| _ = o.public_shares.remove(&3)), Err(BadParams::OldShares));
}

#[test]
fn a_certificate_with_anything_changed_proves_nothing() {
    let epoch = generated(60, 2, 3);
    let members = keys(&epoch.players);
    let with = |change: &dyn Fn(&mut quorate_crypto::reshare::EpochCertificate)| {
        let mut c = epoch.certificate.clone();
        change(&mut c);
        c.verify(&members)
    };
    assert_eq!(with(&|_| ()), Ok(()));
    assert_eq!(with(&|c| c.session[0] ^= 1), Err(BadCertificate::Signature(1)));
    assert_eq!(with(&|c| c.epoch += 1), Err(BadCertificate::Signature(1)));
    assert_eq!(with(&|c| c.transcript[63] ^= 1), Err(BadCertificate::Signature(1)));
    assert_eq!(with(&|c| c.roster += 1), Err(BadCertificate::Signature(1)));
    assert_eq!(with(&|c| c.threshold = 3), Err(BadCertificate::Signature(1)));
    assert_eq!(with(&|c| c.threshold = 1), Err(BadCertificate::Shares));
    assert_eq!(with(&|c| c.key = c.public_shares[&1]), Err(BadCertificate::Shares));
    assert_eq!(with(&|c| _ = c.ready.remove(&2)), Err(BadCertificate::Signature(2)));
    assert_eq!(with(&|c| _ = c.ready.insert(2, c.ready[&1])), Err(BadCertificate::Signature(2)));
    assert_eq!(with(&|c| _ = c.ready.insert(9, c.ready[&1])), Err(BadCertificate::Members));
    assert_eq!(with(&|c| _ = c.public_shares.remove(&3)), Err(BadCertificate::Members));
    let mut steep = generated(62, 3, 5);
    steep.certificate.threshold = 2;
    assert_eq!(steep.certificate.verify(&keys(&steep.players)), Err(BadCertificate::Shares));
    // Another key with fitting shares, but nobody's signatures.
    let other = generated(61, 2, 3).certificate;
    let forged = with(&|c| (c.key, c.public_shares) = (other.key, other.public_shares.clone()));
    assert_eq!(forged, Err(BadCertificate::Signature(1)));
}
