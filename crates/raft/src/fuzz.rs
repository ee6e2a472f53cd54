//! What this crate reads from disks and peers, with mutations of what it writes: nothing panics, and one value has one encoding.

#[path = "../../../fuzz/driver.rs"]
mod driver;

use crate::{codec, snapshot::Unframer, wire, witness};
use prost::Message as _;

/// `name hexadecimal digits` a line.
fn golden(text: &str) -> Vec<Vec<u8>> {
    let hex = |digits: &str| {
        (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
    };
    text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(hex).collect()
}

/// Entries, votes, log ids, applied positions with their membership, notes of kept images: the golden bytes first.
#[test]
fn every_codec_for_a_moment() {
    let mut seeds = golden(include_str!("../tests/golden/codec-v1.hex"));
    assert!(seeds.len() > 3, "the golden bytes are found");
    seeds.extend(golden(&format!("vouched {}", include_str!("../tests/golden/vouched-v1.hex"))));
    let tried = driver::fuzz("log-codec", seeds, |input| {
        if let Ok(entry) = codec::decode_entry(input.to_vec()) {
            let again = codec::encode_entry(&entry);
            assert!(codec::decode_entry(again).is_ok_and(|again| again.log_id == entry.log_id), "an entry reads back");
        }
        if let Ok(vote) = codec::decode_vote(input) {
            assert_eq!(codec::encode_vote(&vote), input, "a vote has one encoding");
        }
        if let Ok((point, proof)) = codec::decode_vouched(input) {
            let again = codec::encode_vouched(&point, &proof);
            assert_eq!(codec::decode_vouched(&again), Ok((point, proof)), "a note reads back");
        }
        let _ = (codec::decode_log_id(input), codec::decode_applied(input));
    });
    assert!(tried > 0);
}

/// The records of an image, whole and in two chunks.
#[test]
fn every_image_for_a_moment() {
    let record = |key: &[u8], value: &[u8]| {
        let field = |f: &[u8]| [&u32::try_from(f.len()).unwrap().to_be_bytes(), f].concat();
        [field(key), field(value)].concat()
    };
    let seed = [record(b"a", b"1"), record(b"b", b""), record(b"bc", &[7; 40])].concat();
    let tried = driver::fuzz("image", vec![seed], |input| {
        let whole = Unframer::default().records(input);
        if let Ok(pairs) = &whole {
            assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "the keys of an image rise");
            assert_eq!(
                pairs.iter().flat_map(|(k, v)| record(k, v)).collect::<Vec<u8>>(),
                input,
                "an image has one encoding"
            );
        }
        let (first, second) = input.split_at(input.len() / 2);
        let mut unframer = Unframer::default();
        let _ = unframer.records(first).and_then(|_| unframer.records(second));
    });
    assert!(tried > 0);
}

/// What a peer sends, as it becomes openraft's: the votes, positions and entries in it are read strictly, and entries follow each other.
#[test]
fn every_message_of_a_peer_for_a_moment() {
    let entries = golden(include_str!("../tests/golden/codec-v1.hex"));
    let vote = Some(wire::Vote { term: 3, node: 2, committed: true });
    let append = wire::AppendRequest {
        vote,
        prev: Some(wire::LogId { term: 3, index: 8 }),
        leader_commit: None,
        entries: entries.into_iter().map(Into::into).collect(),
    };
    let asks = wire::VoteRequest { vote, last: None, leadership_transfer: true };
    let seeds = vec![append.encode_to_vec(), asks.encode_to_vec()];
    let tried = driver::fuzz("peer-message", seeds, |input| {
        use crate::entry::Types;
        use openraft::raft as messages;
        if let Ok(append) = wire::AppendRequest::decode(input)
            && let Ok(read) = messages::AppendEntriesRequest::<Types>::try_from(append)
        {
            let first = read.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
            assert!((first..).zip(&read.entries).all(|(at, entry)| entry.log_id.index == at), "no hole");
        }
        if let Ok(asked) = wire::VoteRequest::decode(input) {
            drop(messages::VoteRequest::<Types>::try_from(asked));
        }
        if let Ok(reply) = wire::VoteReply::decode(input) {
            drop(messages::VoteResponse::<Types>::try_from(reply));
        }
        drop((wire::AppendReply::decode(input), wire::SnapshotChunk::decode(input)));
    });
    assert!(tried > 0);
}

/// Two versions of one file, and what is neither is none.
#[test]
fn every_witness_for_a_moment() {
    let seeds = golden(include_str!("../tests/golden/witness.hex"));
    let tried = driver::fuzz("log-witness", seeds, |input| {
        // Its checksum is no secret: whoever damages a file by design computes it.
        let (body, _) = input.split_at(input.len().saturating_sub(witness::CHECKSUM));
        for bytes in [input.to_vec(), witness::checked(body.to_vec())] {
            if let Some(seen) = witness::decode(&bytes) {
                assert_eq!(witness::decode(&witness::encode(seen)), Some(seen), "what was seen is noted alike");
            }
        }
    });
    assert!(tried > 0);
}

/// A file that lies beside the log: with any byte changed it has no word.
#[test]
fn a_witness_with_any_byte_changed_or_cut_anywhere_counts_as_none() {
    for bytes in golden(include_str!("../tests/golden/witness.hex")) {
        assert!(witness::decode(&bytes).is_some());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(witness::decode(&changed), None, "byte {at}, bit {bit}");
            }
            assert_eq!(witness::decode(&bytes[..at]), None, "cut to {at} bytes");
        }
    }
}

/// Values lie sealed; what is opened and yet changed is refused, or is what its bytes say.
#[test]
fn a_changed_byte_of_what_the_log_holds_is_refused_or_another_value() {
    let all = golden(include_str!("../tests/golden/codec-v1.hex"));
    assert!(all.len() > 3, "the golden bytes are found");
    let mut refused = 0;
    for bytes in all {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let vote = codec::decode_vote(&changed).map(|vote| codec::encode_vote(&vote));
                let id = codec::decode_log_id(&changed).map(|id| codec::encode_log_id(id.as_ref()));
                let applied =
                    codec::decode_applied(&changed).map(|(id, members)| codec::encode_applied(id.as_ref(), &members));
                let entry = codec::decode_entry(changed.clone()).map(|entry| codec::encode_entry(&entry));
                let mut read = [vote, id, applied, entry].into_iter().flatten().peekable();
                refused += usize::from(read.peek().is_none());
                assert!(read.all(|again| again == changed), "byte {at}, bit {bit}: read, and not as it stands there");
            }
        }
    }
    assert!(refused > 100, "{refused} refused");
}
