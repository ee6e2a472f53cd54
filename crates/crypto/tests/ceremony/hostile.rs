//! One member lies; the ceremony names it, and never an honest one.

use crate::cast::*;
use curve25519_dalek::scalar::Scalar;
use quorate_crypto::group;
use quorate_crypto::reshare::{
    Abort, Body, Cause, Ceremony, Complaint, Deal, Message, Outcome, Params, Phase, Ready, Refusal, Ruling, Verdict,
};

/// A 2-of-3 key generation in the deal phase, and what was said so far.
fn dealing(session: u8) -> (Ceremony, Vec<Player>, Vec<Message>) {
    let players = players(session, 1..=3);
    let mut ceremony = Ceremony::begin(generation(session, 2, &players)).unwrap();
    let said = round(&mut ceremony, &players);
    assert_eq!(ceremony.phase(), Phase::Deal);
    (ceremony, players, said)
}

/// Asserts that the message is refused with this blame, and changes nothing.
#[track_caller]
fn refused(ceremony: &mut Ceremony, message: &Message, culprit: Option<u8>, cause: Cause) {
    let before = ceremony.clone();
    assert_eq!(ceremony.receive(message), Err(Refusal { culprit, cause }));
    assert!(*ceremony == before);
}

fn deal_of(player: &Player, ceremony: &Ceremony) -> Deal {
    match player.says(ceremony).remove(0).body {
        Body::Deal(deal) => deal,
        other => panic!("{other:?}"),
    }
}

fn send_deal(ceremony: &Ceremony, player: &Player, deal: Deal) -> Message {
    Message::sign(ceremony.params(), player.index, Body::Deal(deal), &player.key)
}

fn plain(_: u8, share: Scalar) -> [u8; 32] {
    share.to_bytes()
}

#[test]
fn a_crafted_honest_deal_is_accepted() {
    // Otherwise the crafted hostile ones below might be refused for another reason.
    let (mut ceremony, players, said) = dealing(100);
    let deal = craft(ceremony.params(), 1, &scalars(2), &keys_for(1, &said), plain);
    let message = send_deal(&ceremony, &players[0], deal);
    assert_eq!(ceremony.receive(&message), Ok(Outcome::Accepted));
    run(&mut ceremony, &players);
    assert_eq!(ceremony.phase(), Phase::Active);
}

#[test]
fn a_wrong_share_to_one_victim_puts_the_dealer_out() {
    let order = Scalar::ZERO - Scalar::ONE;
    let mut not_reduced = order.to_bytes();
    not_reduced[0] += 1;
    let bends: [&dyn Fn(u8, Scalar) -> [u8; 32]; 2] =
        [&|j, share| if j == 3 { (share + Scalar::ONE).to_bytes() } else { share.to_bytes() }, &|j, share| {
            if j == 3 { not_reduced } else { share.to_bytes() }
        }];
    for bend in bends {
        let (mut ceremony, players, said) = dealing(101);
        let deal = craft(ceremony.params(), 1, &scalars(2), &keys_for(1, &said), bend);
        ceremony.receive(&send_deal(&ceremony, &players[0], deal)).unwrap();
        check_dealer_out(ceremony, &players);
    }
}

#[test]
fn a_share_that_does_not_open_puts_the_dealer_out() {
    let (mut ceremony, players, _) = dealing(102);
    let mut deal = deal_of(&players[0], &ceremony);
    deal.shares.insert(3, deal.shares[&2]);
    ceremony.receive(&send_deal(&ceremony, &players[0], deal)).unwrap();
    check_dealer_out(ceremony, &players);
}

/// Dealer 1 has cheated member 3 of a key generation: he is named, all dealings are void.
fn check_dealer_out(mut ceremony: Ceremony, players: &[Player]) {
    assert!(players[1].says(&ceremony).iter().all(|m| !matches!(m.body, Body::Complaint(_))));
    let complaint = players[2].says(&ceremony).remove(0);
    assert!(matches!(complaint.body, Body::Complaint(Complaint { dealer: 1, .. })));
    let ruling = Ruling { dealer: 1, accuser: 3, verdict: Verdict::DealerOut };
    assert_eq!(ceremony.receive(&complaint), Ok(Outcome::Ruled(ruling)));
    assert_eq!(ceremony.phase(), Phase::Aborted(Abort::Ruled(ruling)));
    assert_eq!(ceremony.culprits(), [1].into());
    assert_eq!(ceremony.receive(&complaint), Ok(Outcome::Repeated));
    assert!(ceremony.public_shares().is_none());
    assert!(players.iter().all(|p| p.says(&ceremony).is_empty()));
}

#[test]
fn nobody_signs_while_a_share_does_not_fit() {
    let (mut ceremony, players, said) = dealing(103);
    let bend = |j: u8, s: Scalar| if j == 3 { [7; 32] } else { s.to_bytes() };
    let deal = craft(ceremony.params(), 1, &scalars(2), &keys_for(1, &said), bend);
    ceremony.receive(&send_deal(&ceremony, &players[0], deal)).unwrap();
    for p in &players[1..] {
        let deal = p.says(&ceremony).into_iter().find(|m| matches!(m.body, Body::Deal(_))).unwrap();
        ceremony.receive(&deal).unwrap();
    }
    assert_eq!(ceremony.phase(), Phase::Ready);
    assert!(matches!(players[2].says(&ceremony)[..], [Message { body: Body::Complaint(_), .. }]));
    assert!(players[2].member().finish(&ceremony).is_err());
    // The others are content, and that is not enough.
    for p in &players[..2] {
        ceremony.receive(&p.says(&ceremony)[0]).unwrap();
    }
    assert_eq!(ceremony.phase(), Phase::Ready);
    assert!(ceremony.certificate().is_none());
}

#[test]
fn a_false_complaint_puts_the_accuser_out() {
    let (mut ceremony, players, _) = dealing(104);
    round(&mut ceremony, &players);
    assert_eq!(ceremony.phase(), Phase::Ready);
    // The seed is the right one, and the share fits.
    let seed = key_seed(ceremony.params(), &players[2], 1);
    let body = Body::Complaint(Complaint { dealer: 1, key_seed: seed });
    let complaint = Message::sign(ceremony.params(), 3, body, &players[2].key);
    let ruling = Ruling { dealer: 1, accuser: 3, verdict: Verdict::AccuserOut };
    assert_eq!(ceremony.receive(&complaint), Ok(Outcome::Ruled(ruling)));
    assert_eq!(ceremony.phase(), Phase::Aborted(Abort::Ruled(ruling)));
    assert_eq!(ceremony.culprits(), [3].into());
}

#[test]
fn a_complaint_with_another_seed_puts_the_receiver_out() {
    let (mut ceremony, players, _) = dealing(105);
    round(&mut ceremony, &players);
    let body = Body::Complaint(Complaint { dealer: 1, key_seed: key_seed(ceremony.params(), &players[2], 2) });
    let complaint = Message::sign(ceremony.params(), 3, body, &players[2].key);
    let ruling = Ruling { dealer: 1, accuser: 3, verdict: Verdict::ReceiverOut };
    assert_eq!(ceremony.receive(&complaint), Ok(Outcome::Ruled(ruling)));
    assert_eq!(ceremony.culprits(), [3].into());
    // A second version of the same complaint is another lie.
    let body = Body::Complaint(Complaint { dealer: 1, key_seed: [1; 32] });
    let second = Message::sign(ceremony.params(), 3, body, &players[2].key);
    refused(&mut ceremony, &second, Some(3), Cause::Different);
}

/// Derived here from `docs/ceremony.md`.
fn key_seed(params: &Params, player: &Player, dealer: u8) -> [u8; 32] {
    let kdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(&params.context()), player.seed.expose());
    let mut out = [0; 32];
    let info = quorate_crypto::encoding::transcript("ceremony/receiver-key", &[&[dealer]]);
    kdf.expand(&info, &mut out).unwrap();
    out
}

#[test]
fn complaints_need_a_deal() {
    let (mut ceremony, players, _) = dealing(106);
    for dealer in [2, 9] {
        let body = Body::Complaint(Complaint { dealer, key_seed: [1; 32] });
        let early = Message::sign(ceremony.params(), 3, body, &players[2].key);
        refused(&mut ceremony, &early, None, Cause::NoDeal(dealer));
    }
}

#[test]
fn bad_receiver_keys_are_refused() {
    let players = players(107, 1..=3);
    let mut ceremony = Ceremony::begin(generation(107, 2, &players)).unwrap();
    let Body::Keys(good) = players[0].says(&ceremony).remove(0).body else { panic!() };
    let mut send = |keys, cause| {
        let message = Message::sign(ceremony.params(), 1, Body::Keys(keys), &players[0].key);
        refused(&mut ceremony, &message, Some(1), cause);
    };
    let mut keys = good.clone();
    // Coefficients of an ML-KEM key are below 3329 (FIPS 203 section 7.2).
    keys.keys.get_mut(&2).unwrap()[..2].fill(0xff);
    send(keys, Cause::ReceiverKey(2));
    let mut keys = good.clone();
    keys.keys.remove(&3);
    send(keys, Cause::KeySet);
    let mut keys = good.clone();
    keys.keys.insert(4, good.keys[&1]);
    send(keys, Cause::KeySet);
    assert_eq!(ceremony.awaited(), [1, 2, 3].into());
}

#[test]
fn malformed_deals_name_the_dealer() {
    let (mut ceremony, players, said) = dealing(108);
    let to = keys_for(1, &said);
    let honest = deal_of(&players[0], &ceremony);
    let mut check = |deal, cause| {
        let message = send_deal(&ceremony, &players[0], deal);
        refused(&mut ceremony, &message, Some(1), cause);
    };
    let params = generation(108, 2, &players);
    for degree in [1, 3] {
        let deal = craft(&params, 1, &scalars(degree), &to, plain);
        check(deal, Cause::Degree { expected: 2, given: usize::from(degree) });
    }
    for k in 0..2 {
        for bad in [[0; 32], [0xff; 32], not_a_point()] {
            let mut deal = honest.clone();
            deal.commitments[k] = bad;
            check(deal, Cause::Commitment(k));
        }
    }
    let mut deal = honest.clone();
    deal.proof.response = (group::scalar(&deal.proof.response).unwrap() + Scalar::ONE).to_bytes();
    check(deal, Cause::Proof);
    for bad in [[0; 32], [0xff; 32]] {
        let mut deal = honest.clone();
        deal.proof.commitment = bad;
        check(deal, Cause::Proof);
        let mut deal = honest.clone();
        deal.proof.response = bad;
        check(deal, Cause::Proof);
    }
    let mut deal = honest.clone();
    deal.commitments[1] = deal.commitments[0];
    check(deal, Cause::Proof);
    let mut deal = honest.clone();
    deal.shares.remove(&2);
    check(deal, Cause::ShareSet);
    let mut deal = honest.clone();
    deal.shares.insert(4, honest.shares[&1]);
    check(deal, Cause::ShareSet);
    assert!(ceremony.awaited().contains(&1));
}

/// A field element below p that no point encodes to: RFC 9496 wants it non-negative, so an odd one is refused.
fn not_a_point() -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes
}

#[test]
fn a_proof_counts_in_its_own_ceremony_and_for_its_own_dealer_only() {
    let (other, _, said) = dealing(110);
    let (mut ceremony, players, keys) = dealing(109);
    let replayed = craft(other.params(), 1, &scalars(2), &keys_for(1, &said), plain);
    let mut deal = craft(ceremony.params(), 1, &scalars(2), &keys_for(1, &keys), plain);
    deal.proof = replayed.proof;
    let message = send_deal(&ceremony, &players[0], deal);
    refused(&mut ceremony, &message, Some(1), Cause::Proof);
    // Dealer 2 repeats dealer 1's commitments and proof: the rogue-key attack without its key.
    let honest = deal_of(&players[0], &ceremony);
    let message = send_deal(&ceremony, &players[1], honest);
    refused(&mut ceremony, &message, Some(2), Cause::Proof);
}

#[test]
fn a_second_different_message_is_refused() {
    let (mut ceremony, players, said) = dealing(111);
    let first = send_deal(&ceremony, &players[0], deal_of(&players[0], &ceremony));
    assert_eq!(ceremony.receive(&first), Ok(Outcome::Accepted));
    let second = craft(ceremony.params(), 1, &scalars(2), &keys_for(1, &said), plain);
    let second = send_deal(&ceremony, &players[0], second);
    refused(&mut ceremony, &second, Some(1), Cause::Different);
    assert_eq!(ceremony.receive(&first), Ok(Outcome::Repeated));
    // Keys too.
    let Body::Keys(mut keys) = said[0].body.clone() else { panic!() };
    keys.keys.insert(1, keys.keys[&2]);
    let message = Message::sign(ceremony.params(), 1, Body::Keys(keys), &players[0].key);
    refused(&mut ceremony, &message, Some(1), Cause::Different);
}

#[test]
fn nobody_speaks_for_another_and_nobody_is_blamed_for_it() {
    let (mut ceremony, players, _) = dealing(112);
    let deal = deal_of(&players[0], &ceremony);
    let forged = Message::sign(ceremony.params(), 1, Body::Deal(deal.clone()), &players[1].key);
    refused(&mut ceremony, &forged, None, Cause::Signature);
    let stranger = Message::sign(ceremony.params(), 9, Body::Deal(deal.clone()), &players[1].key);
    refused(&mut ceremony, &stranger, None, Cause::Role(9));
    // The same session number with other terms is another ceremony.
    let mut terms = ceremony.params().clone();
    terms.epoch += 1;
    let other_terms = Message::sign(&terms, 1, Body::Deal(deal.clone()), &players[0].key);
    refused(&mut ceremony, &other_terms, None, Cause::Signature);
    terms.session = [0; 32];
    let other_session = Message::sign(&terms, 1, Body::Deal(deal), &players[0].key);
    refused(&mut ceremony, &other_session, None, Cause::Session);
}

#[test]
fn ready_counts_for_this_result_only() {
    let (mut ceremony, players, _) = dealing(113);
    let ready = |ceremony: &Ceremony, result| {
        Message::sign(ceremony.params(), 1, Body::Ready(Ready { result }), &players[0].key)
    };
    let early = ready(&ceremony, [0; 64]);
    refused(&mut ceremony, &early, None, Cause::Phase);
    round(&mut ceremony, &players);
    let wrong = ready(&ceremony, [0; 64]);
    refused(&mut ceremony, &wrong, None, Cause::Result);
    let result = ceremony.result_hash().unwrap();
    let forged = Message::sign(ceremony.params(), 2, Body::Ready(Ready { result }), &players[0].key);
    refused(&mut ceremony, &forged, None, Cause::Signature);
    assert_eq!(ceremony.awaited(), [1, 2, 3].into());
}

/// A reshare of a 2-of-3 key to (3,5), in the deal phase.
fn redealing(session: u8) -> (Ceremony, Vec<Player>, Vec<Message>, Epoch) {
    let old = generated(session, 2, 3);
    let players: Vec<Player> = (1..=5).map(|i| Player::new(session + 1, i).holding(old.shares.get(&i))).collect();
    let params = reshare(session + 1, &old.certificate, keys(&old.players), 3, &players);
    let mut ceremony = Ceremony::begin(params).unwrap();
    let said = round(&mut ceremony, &players);
    assert_eq!(ceremony.phase(), Phase::Deal);
    (ceremony, players, said, old)
}

#[test]
fn a_reshare_of_something_else_than_the_old_share_is_refused() {
    let (mut ceremony, players, said, _) = redealing(120);
    let deal = craft(ceremony.params(), 1, &scalars(3), &keys_for(1, &said), plain);
    let message = send_deal(&ceremony, &players[0], deal);
    refused(&mut ceremony, &message, Some(1), Cause::Constant);
    // Who holds no old share does not deal at all.
    let message =
        send_deal(&ceremony, &players[4], craft(ceremony.params(), 5, &scalars(3), &keys_for(1, &said), plain));
    refused(&mut ceremony, &message, None, Cause::Role(5));
}

#[test]
fn a_reshare_goes_on_with_another_dealer() {
    let (mut ceremony, players, said, old) = redealing(122);
    let mut coefficients = scalars(3);
    coefficients[0] = group::scalar(old.shares[&1].scalar.expose()).unwrap();
    let bend = |j: u8, s: Scalar| if j == 4 { [7; 32] } else { s.to_bytes() };
    let deal = craft(ceremony.params(), 1, &coefficients, &keys_for(1, &said), bend);
    ceremony.receive(&send_deal(&ceremony, &players[0], deal)).unwrap();
    ceremony.receive(&send_deal(&ceremony, &players[1], deal_of(&players[1], &ceremony))).unwrap();
    assert_eq!((ceremony.phase(), ceremony.qualified()), (Phase::Ready, vec![1, 2]));
    // Members 1 to 3 and 5 sign at once; the victim complains; those signatures are void.
    let signed: Vec<Message> = players.iter().filter(|p| p.index != 4).map(|p| p.says(&ceremony).remove(0)).collect();
    for message in &signed {
        assert_eq!(ceremony.receive(message), Ok(Outcome::Accepted));
    }
    let before = *ceremony.transcript();
    let complaint = players[3].says(&ceremony).remove(0);
    let ruling = Ruling { dealer: 1, accuser: 4, verdict: Verdict::DealerOut };
    assert_eq!(ceremony.receive(&complaint), Ok(Outcome::Ruled(ruling)));
    assert_eq!(ceremony.phase(), Phase::Deal);
    assert_eq!(ceremony.awaited(), [3].into());
    assert_ne!(*ceremony.transcript(), before);
    refused(&mut ceremony, &signed[0], None, Cause::Phase);
    assert!(players[0].says(&ceremony).is_empty(), "a dealer who is out stays out");
    ceremony.receive(&send_deal(&ceremony, &players[2], deal_of(&players[2], &ceremony))).unwrap();
    assert_eq!((ceremony.phase(), ceremony.qualified()), (Phase::Ready, vec![2, 3]));
    refused(&mut ceremony, &signed[0], None, Cause::Result);
    run(&mut ceremony, &players);
    let certificate = ceremony.certificate().unwrap();
    assert_eq!(certificate.key, old.certificate.key);
    assert_eq!(certificate.verify(&keys(&players)), Ok(()));
    assert_eq!(ceremony.culprits(), [1].into());
    let shares = shares(&ceremony, &players);
    let key = group::point(&certificate.key).unwrap();
    for subset in subsets(&[1, 2, 3, 4, 5], 3) {
        assert_eq!(open(&shares, &subset, &curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT), key);
    }
}

#[test]
fn a_reshare_with_too_few_honest_dealers_ends() {
    let (mut ceremony, players, said, old) = redealing(124);
    for i in [1u8, 2] {
        let mut coefficients = scalars(3);
        coefficients[0] = group::scalar(old.shares[&i].scalar.expose()).unwrap();
        let deal = craft(ceremony.params(), i, &coefficients, &keys_for(i, &said), |_, _| [7; 32]);
        let player = &players[usize::from(i) - 1];
        ceremony.receive(&send_deal(&ceremony, player, deal)).unwrap();
    }
    for complaint in players[3].says(&ceremony) {
        assert!(matches!(ceremony.receive(&complaint), Ok(Outcome::Ruled(_))));
    }
    let ruling = Ruling { dealer: 2, accuser: 4, verdict: Verdict::DealerOut };
    assert_eq!(ceremony.phase(), Phase::Aborted(Abort::Ruled(ruling)));
    assert_eq!(ceremony.culprits(), [1, 2].into());
}

#[test]
fn a_late_deal_is_nobodys_fault() {
    let (mut ceremony, players, _, _) = redealing(126);
    let late = send_deal(&ceremony, &players[2], deal_of(&players[2], &ceremony));
    for p in &players[..2] {
        ceremony.receive(&send_deal(&ceremony, p, deal_of(p, &ceremony))).unwrap();
    }
    refused(&mut ceremony, &late, None, Cause::Phase);
}

#[test]
fn what_the_members_of_one_roster_say_counts_in_no_other() {
    let players = players(63, 1..=3);
    let params = generation(63, 2, &players);
    let other = Params { roster: params.roster + 1, ..params.clone() };
    assert_ne!(params.context(), other.context());
    let said = players[0].says(&Ceremony::begin(other).unwrap()).remove(0);
    let mut ceremony = Ceremony::begin(params).unwrap();
    refused(&mut ceremony, &said, None, Cause::Signature);
}
