//! The image of a state as it travels: frozen bytes, and every other bytes are refused.

use super::*;
use crate::{
    entry::{Membership, StoredMembership},
    kv::Batch,
    snapshot::{Point, Staging, VERSION, read_image, state_key},
};
use prost::Message as _;
use std::collections::BTreeSet;

const GOLDEN: &str = include_str!("../../../tests/golden/image-v1.hex");
/// Where a receiver puts it.
const BESIDE: u64 = 2;

fn rows() -> Vec<(Vec<u8>, Vec<u8>)> {
    let row = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
    vec![
        row(b"\0", b"hash"),
        row(b"\x01roster", b"r"),
        row(b"\x02a\0", b""),
        row(b"\x02a\0b", b"1"),
        row(b"\x7f", &[9; 40]),
    ]
}

fn hash_of(rows: &[(Vec<u8>, Vec<u8>)]) -> [u8; 32] {
    let mut hash = Rows { hash: Sha256::new(), expected: [0; 32] };
    rows.iter().for_each(|(key, value)| hash.row(key, value).unwrap());
    hash.hash.finalize().into()
}

/// What a member sends whose state is these rows.
async fn sent(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<wire::SnapshotChunk> {
    let kv = Arc::new(MemKv::new());
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(Table::State, state_key(1, key), value.clone());
    }
    kv.write(batch).unwrap();
    let at = LogId::new_term_index(3, 9);
    let node = |name: &str| Node { member: name.to_owned(), peer_addr: format!("{name}.example.org:7000") };
    let nodes = BTreeMap::from([(1, node("n1")), (2, node("n2"))]);
    let voters = vec![nodes.keys().copied().collect::<BTreeSet<_>>()];
    let membership = StoredMembership::new(Some(LogId::new_term_index(1, 0)), Membership::new(voters, nodes).unwrap());
    let point = Point { applied: Some(at), membership, chain: [5; 32], state: hash_of(rows) };
    let proof = Two.attest(&point.checkpoint()).await.unwrap();
    let begin = point.begin(None, proof);
    let mut image = read_image(kv, 1, point).await.unwrap();
    let mut chunks = vec![begin];
    while let Some(part) = image.parts.recv().await {
        chunks.push(part.unwrap().into());
    }
    chunks
}

fn bytes_of(chunks: &[wire::SnapshotChunk]) -> Vec<u8> {
    chunks.iter().flat_map(wire::SnapshotChunk::encode_length_delimited_to_vec).collect()
}

fn chunks_of(mut bytes: &[u8]) -> Result<Vec<wire::SnapshotChunk>, Status> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let chunk = wire::SnapshotChunk::decode_length_delimited(&mut bytes);
        chunks.push(chunk.map_err(|why| Status::invalid_argument(why.to_string()))?);
    }
    Ok(chunks)
}

/// What a member makes of an image: the rows that it has then, or why it takes none.
async fn taken(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Status> {
    let kv = Arc::new(MemKv::new());
    let result = async {
        let mut chunks = futures::stream::iter(chunks_of(bytes)?.into_iter().map(Ok));
        let Some(Part::Begin(begin)) = snapshot::next(&mut chunks).await? else { return Err(wire::missing("begin")) };
        let stage = |point| Staging::new(kv.clone(), BESIDE, &Register, point);
        let mut staged = snapshot::receive(&begin, &mut chunks, &Two, stage).await?;
        staged.installed = true;
        Ok(())
    };
    let result = result.await;
    let found = kv.scan(Table::State, &BESIDE.to_be_bytes(), &[], usize::MAX).unwrap();
    if let Err(refused) = result {
        assert_eq!(found, [], "refused ({refused}), and rows of it are left");
        return Err(refused);
    }
    Ok(found.into_iter().map(|(key, value)| (key[8..].to_vec(), value)).collect())
}

#[track_caller]
fn clear(what: &str, refused: &Status, word: &str) {
    let codes = [Code::PermissionDenied, Code::InvalidArgument, Code::DataLoss];
    let said = refused.message();
    assert!(codes.contains(&refused.code()) && said.contains(word), "{what}: expected `{word}`, got: {refused}");
}

#[tokio::test]
async fn the_image_is_frozen_and_reads_as_it_was() {
    let now = bytes_of(&sent(&rows()).await);
    let hex: String = now.iter().map(|byte| format!("{byte:02x}")).collect();
    if std::env::var_os("QUORATE_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/image-v1.hex");
        std::fs::write(path, format!("{hex}\n")).unwrap();
    }
    assert_eq!(hex, GOLDEN.trim(), "tests/golden/image-v1.hex");
    assert_eq!(taken(&now).await.unwrap(), rows(), "a member that takes it has the rows that were sent");
}

#[tokio::test]
async fn an_image_with_any_byte_changed_or_cut_anywhere_is_refused() {
    let honest = bytes_of(&sent(&rows()).await);
    for at in 0..honest.len() {
        for flip in [1, 0x08, 0x80, 0xff] {
            let mut bytes = honest.clone();
            bytes[at] ^= flip;
            let refused = taken(&bytes).await.err();
            let refused = refused.unwrap_or_else(|| panic!("byte {at} changed by {flip:#04x}: it was taken"));
            clear(&format!("byte {at} changed by {flip:#04x}"), &refused, "");
        }
        let refused = taken(&honest[..at]).await.err();
        clear(&format!("cut after {at} bytes"), &refused.unwrap_or_else(|| panic!("cut after {at}: it was taken")), "");
    }
}

#[tokio::test]
async fn an_image_of_another_version_is_refused_by_its_number() {
    for version in [0, VERSION + 1, u32::MAX] {
        let mut chunks = sent(&rows()).await;
        begin_of(&mut chunks).version = version;
        let refused = taken(&bytes_of(&chunks)).await.unwrap_err();
        clear("another version", &refused, &format!("version {version}, and this release reads version {VERSION}"));
    }
}

#[tokio::test]
async fn rows_that_are_missing_doubled_or_out_of_order_are_refused() {
    let all = rows();
    let mut chunks = sent(&all).await;
    assert_eq!(chunks.len(), 3, "a beginning, all records, an end");
    let framed = |rows: &[&(Vec<u8>, Vec<u8>)]| -> bytes::Bytes {
        let field = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        rows.iter().flat_map(|(key, value)| [field(key), field(value)].concat()).collect::<Vec<u8>>().into()
    };
    let honest: Vec<_> = all.iter().collect();
    assert_eq!(*records_of(&mut chunks, 1), framed(&honest), "the test frames as the sender does");
    for at in 0..all.len() {
        let mut cut = honest.clone();
        cut.truncate(at);
        let mut missing = honest.clone();
        missing.remove(at);
        for (what, rows) in [("cut at a record", cut), ("a record is missing", missing)] {
            *records_of(&mut chunks, 1) = framed(&rows);
            clear(what, &taken(&bytes_of(&chunks)).await.unwrap_err(), "another state");
        }
        let mut doubled = honest.clone();
        doubled.insert(at, honest[at]);
        let mut swapped = honest.clone();
        swapped.swap(at, (at + 1) % all.len());
        for (what, rows) in [("a record twice", doubled), ("two records swapped", swapped)] {
            *records_of(&mut chunks, 1) = framed(&rows);
            clear(what, &taken(&bytes_of(&chunks)).await.unwrap_err(), "not in ascending order");
        }
    }
}
