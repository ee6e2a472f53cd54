//! What this crate reads from disks and peers, with mutations of what it writes: nothing panics, and one value has one encoding.

#[path = "../../../fuzz/driver.rs"]
mod driver;

use crate::{codec, snapshot::Unframer};

/// Entries, votes, log ids, applied positions with their membership: the golden bytes first.
#[test]
fn every_codec_for_a_moment() {
    let golden = include_str!("../tests/golden/codec-v1.hex");
    let hex = |digits: &str| {
        (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
    };
    let seeds: Vec<Vec<u8>> = golden.lines().filter_map(|line| line.split_whitespace().nth(1)).map(hex).collect();
    assert!(seeds.len() > 3, "the golden bytes are found");
    let tried = driver::fuzz("log-codec", seeds, |input| {
        if let Ok(entry) = codec::decode_entry(input.to_vec()) {
            let again = codec::encode_entry(&entry);
            assert!(codec::decode_entry(again).is_ok_and(|again| again.log_id == entry.log_id), "an entry reads back");
        }
        if let Ok(vote) = codec::decode_vote(input) {
            assert_eq!(codec::encode_vote(&vote), input, "a vote has one encoding");
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
