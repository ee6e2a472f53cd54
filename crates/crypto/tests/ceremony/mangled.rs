//! Bytes cut, flipped and lengthened: no panic, and never another valid message.

use crate::cast::*;
use quorate_crypto::reshare::{Body, Ceremony, Complaint, MAX_MESSAGE, Message, MessageError};

/// One message of each kind, each with the ceremony that would accept it.
fn one_of_each() -> Vec<(Ceremony, Message)> {
    let players = players(200, 1..=2);
    let mut ceremony = Ceremony::begin(generation(200, 2, &players)).unwrap();
    let mut out = Vec::new();
    for _ in 0..3 {
        out.push((ceremony.clone(), players[0].says(&ceremony).remove(0)));
        round(&mut ceremony, &players);
    }
    let body = Body::Complaint(Complaint { dealer: 2, key_seed: [3; 32] });
    let accusing = out[2].0.clone();
    let complaint = Message::sign(accusing.params(), 1, body, &players[0].key);
    out.push((accusing, complaint));
    out
}

#[test]
fn what_is_encoded_is_decoded() {
    for (mut ceremony, message) in one_of_each() {
        let decoded = Message::decode(&message.encode()).unwrap();
        assert!(decoded == message);
        assert!(ceremony.receive(&decoded).is_ok());
    }
}

#[test]
fn a_message_cut_short_or_lengthened_is_refused() {
    for (_, message) in one_of_each() {
        let bytes = message.encode();
        for len in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..len]), Err(MessageError::Malformed), "{message:?} at {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Message::decode(&longer), Err(MessageError::Malformed));
    }
    assert_eq!(Message::decode(&[1; MAX_MESSAGE + 1]), Err(MessageError::TooLong(MAX_MESSAGE + 1)));
    assert_eq!(Message::decode(&[2; 64]), Err(MessageError::Version(2)));
}

#[test]
fn a_message_with_one_byte_flipped_changes_nothing() {
    for (ceremony, message) in one_of_each() {
        let bytes = message.encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let Ok(decoded) = Message::decode(&flipped) else { continue };
            let mut after = ceremony.clone();
            let refusal = after.receive(&decoded).unwrap_err();
            assert_eq!(refusal.culprit, None, "nobody is blamed for what he did not sign: {refusal}");
            assert!(after == ceremony);
        }
    }
}

#[test]
fn maps_have_one_order() {
    let (_, message) = one_of_each().remove(0);
    let bytes = message.encode();
    // version, session, member, kind, count, then (index, key) twice.
    let first = 1 + 32 + 1 + 1 + 4;
    let entry = 1 + 1216;
    let (a, b) = bytes[first..first + 2 * entry].split_at(entry);
    let swapped = [&bytes[..first], b, a, &bytes[first + 2 * entry..]].concat();
    let doubled = [&bytes[..first], a, a, &bytes[first + 2 * entry..]].concat();
    for bad in [swapped, doubled] {
        assert_eq!(Message::decode(&bad), Err(MessageError::Malformed));
    }
}

#[test]
fn the_largest_message_fits_the_limit() {
    let players = players(201, 1..=16);
    let mut ceremony = Ceremony::begin(generation(201, 16, &players)).unwrap();
    for _ in 0..2 {
        let bytes = players[0].says(&ceremony).remove(0).encode();
        assert!(bytes.len() <= MAX_MESSAGE, "{}", bytes.len());
        for p in &players {
            ceremony.receive(&p.says(&ceremony).remove(0)).unwrap();
        }
    }
}

#[test]
fn a_stored_ceremony_of_another_version_or_cut_short_is_refused() {
    let (ceremony, _) = one_of_each().remove(1);
    let bytes = borsh::to_vec(&ceremony).unwrap();
    assert!(borsh::from_slice::<Ceremony>(&bytes).unwrap() == ceremony);
    for len in 0..bytes.len() {
        assert!(borsh::from_slice::<Ceremony>(&bytes[..len]).is_err());
    }
    let mut other = bytes;
    other[0] = 2;
    assert!(borsh::from_slice::<Ceremony>(&other).is_err());
}

#[test]
fn a_stored_ceremony_with_a_byte_flipped_makes_nobody_panic() {
    let players = players(200, 1..=2);
    for (ceremony, message) in one_of_each() {
        let bytes = borsh::to_vec(&ceremony).unwrap();
        // Every byte of the terms and the phase, then some of the long keys and shares.
        for at in (0..130).chain((130..bytes.len()).step_by(509)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let Ok(mut other) = borsh::from_slice::<Ceremony>(&flipped) else { continue };
            _ = players[0].member().next(&other);
            _ = players[1].member().finish(&other);
            _ = other.receive(&message);
            _ = other.awaited();
        }
    }
}

#[test]
fn a_stored_ceremony_with_impossible_terms_is_refused() {
    let (ceremony, _) = one_of_each().remove(0);
    let mut bytes = borsh::to_vec(&ceremony).unwrap();
    // version, session, kind, epoch, roster, then the threshold.
    let at = 1 + 32 + 1 + 8 + 8;
    assert_eq!(bytes[at], 2);
    for threshold in [0, 1, 3] {
        bytes[at] = threshold;
        assert!(borsh::from_slice::<Ceremony>(&bytes).is_err());
    }
}
