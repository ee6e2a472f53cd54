//! Images of the state: a canonical stream of its records, hashed.
//!
//! An image is read from the store as it was at one applied index, in key order, and framed as `key length:u32 | key | value length:u32 |
//! value` (big endian). Equal states have equal images, on every node and engine, so that their SHA-256 can be compared. Nothing is
//! kept: an image is produced while it is sent, and a received one is written beside the state it is to replace.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{
    kv::{Kv, KvError, Pair, Table},
    state::Staged,
};

/// Bytes of records to gather before they are sent; a chunk exceeds it by at most one record.
const CHUNK: usize = 512 << 10;
/// Chunks that wait for a slow receiver.
const QUEUE: usize = 4;

/// What follows the last record of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) records: u64,
    pub(crate) sha256: [u8; 32],
}

/// A piece of an image.
pub(crate) enum Part {
    Records(Bytes),
    End(Seal),
}

/// An image on its way: out of this node's state, or into it.
pub(crate) enum Image {
    /// Being read; a closed channel without an [`Part::End`] is a broken image.
    Outgoing(mpsc::Receiver<Result<Part, KvError>>),
    /// Received, verified, and waiting to become the state.
    Incoming(Staged),
}

/// Hashes records as they are framed.
#[derive(Default)]
pub(crate) struct Framer {
    hash: Sha256,
    records: u64,
    buffer: Vec<u8>,
}

impl Framer {
    /// Adds a record; hands out a chunk when one is full.
    fn push(&mut self, key: &[u8], value: &[u8]) -> Option<Bytes> {
        let start = self.buffer.len();
        for field in [key, value] {
            // Keys and values are far below 4 GiB: a proposal is at most a few MiB.
            self.buffer.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.buffer.extend_from_slice(field);
        }
        self.hash.update(self.buffer.get(start..).unwrap_or_default());
        self.records += 1;
        (self.buffer.len() >= CHUNK).then(|| std::mem::take(&mut self.buffer).into())
    }

    fn finish(self) -> (Option<Bytes>, Seal) {
        let rest = (!self.buffer.is_empty()).then(|| self.buffer.into());
        (rest, Seal { records: self.records, sha256: self.hash.finalize().into() })
    }
}

/// Starts reading the image of the keys that begin with `prefix`; returns when the store's state is pinned, so that later writes are not in
/// it. The prefix is not part of the image.
pub(crate) async fn read_image(kv: Arc<dyn Kv>, prefix: [u8; 8]) -> Result<Image, KvError> {
    let (parts, outgoing) = mpsc::channel(QUEUE);
    if !kv.blocks() {
        let mut ready = Vec::new();
        walk(&*kv, prefix, Box::new(|| ()), |part| {
            ready.push(part);
            true
        })?;
        tokio::spawn(async move {
            for part in ready {
                if parts.send(Ok(part)).await.is_err() {
                    return;
                }
            }
        });
        return Ok(Image::Outgoing(outgoing));
    }
    let (pinned, is_pinned) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let pin = Box::new(move || {
            let _ = pinned.send(());
        });
        // A receiver that hung up ends the walk; the channel is then closed and the result of no interest.
        if let Err(error) = walk(&*kv, prefix, pin, |part| parts.blocking_send(Ok(part)).is_ok()) {
            drop(parts.blocking_send(Err(error)));
        }
    });
    is_pinned.await.map_err(|_| KvError::Closed)?;
    Ok(Image::Outgoing(outgoing))
}

/// SHA-256 of the image, without keeping it.
pub(crate) fn digest(kv: &dyn Kv, prefix: [u8; 8]) -> Result<[u8; 32], KvError> {
    let mut sha256 = [0; 32];
    walk(kv, prefix, Box::new(|| ()), |part| {
        if let Part::End(seal) = part {
            sha256 = seal.sha256;
        }
        true
    })?;
    Ok(sha256)
}

fn walk(
    kv: &dyn Kv,
    prefix: [u8; 8],
    pinned: Box<dyn FnOnce() + Send>,
    mut emit: impl FnMut(Part) -> bool,
) -> Result<(), KvError> {
    let mut framer = Framer::default();
    let mut wanted = true;
    let end = (u64::from_be_bytes(prefix) + 1).to_be_bytes();
    kv.walk(Table::State, &prefix, &end, pinned, &mut |key, value| {
        if let Some(chunk) = framer.push(key.get(prefix.len()..).unwrap_or_default(), &value) {
            wanted = emit(Part::Records(chunk));
        }
        wanted
    })?;
    if wanted {
        let (rest, seal) = framer.finish();
        if rest.is_none_or(|chunk| emit(Part::Records(chunk))) {
            emit(Part::End(seal));
        }
    }
    Ok(())
}

/// Checks an image as it arrives.
#[derive(Default)]
pub(crate) struct Verifier {
    hash: Sha256,
    records: u64,
    last_key: Option<Vec<u8>>,
}

/// A received image that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("snapshot records are cut or misframed")]
    Framing,
    #[error("snapshot records are not in ascending order")]
    Order,
    #[error("snapshot differs from its hash or record count")]
    Hash,
}

impl Verifier {
    /// The records of one chunk.
    pub(crate) fn records(&mut self, mut chunk: &[u8]) -> Result<Vec<Pair>, ImageError> {
        self.hash.update(chunk);
        let mut pairs = Vec::new();
        while !chunk.is_empty() {
            let key = field(&mut chunk)?;
            let value = field(&mut chunk)?;
            if self.last_key.as_ref().is_some_and(|last| last.as_slice() >= key) {
                return Err(ImageError::Order);
            }
            self.last_key = Some(key.to_vec());
            self.records += 1;
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok(pairs)
    }

    pub(crate) fn finish(self, seal: &Seal) -> Result<(), ImageError> {
        let complete = self.records == seal.records && <[u8; 32]>::from(self.hash.finalize()) == seal.sha256;
        if complete { Ok(()) } else { Err(ImageError::Hash) }
    }
}

fn field<'a>(chunk: &mut &'a [u8]) -> Result<&'a [u8], ImageError> {
    let (len, rest) = chunk.split_first_chunk::<4>().ok_or(ImageError::Framing)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| ImageError::Framing)?;
    let (field, rest) = rest.split_at_checked(len).ok_or(ImageError::Framing)?;
    *chunk = rest;
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(pairs: &[(&[u8], &[u8])]) -> (Vec<u8>, Seal) {
        let mut framer = Framer::default();
        for (key, value) in pairs {
            assert!(framer.push(key, value).is_none());
        }
        let (rest, seal) = framer.finish();
        (rest.unwrap_or_default().to_vec(), seal)
    }

    #[test]
    fn an_image_verifies_only_whole_and_unchanged() {
        let (bytes, seal) = framed(&[(b"a", b"1"), (b"b", b"")]);
        let mut verifier = Verifier::default();
        assert_eq!(verifier.records(&bytes).unwrap(), [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), vec![])]);
        verifier.finish(&seal).unwrap();

        assert_eq!(Verifier::default().finish(&seal), Err(ImageError::Hash), "nothing is not the image");
        let mut changed = bytes.clone();
        changed[9] ^= 1;
        let mut verifier = Verifier::default();
        verifier.records(&changed).unwrap();
        assert_eq!(verifier.finish(&seal), Err(ImageError::Hash));
        assert_eq!(Verifier::default().records(&bytes[..bytes.len() - 1]), Err(ImageError::Framing));
    }

    #[test]
    fn records_out_of_order_or_twice_are_refused() {
        for pairs in [[(b"b".as_slice(), b"".as_slice()), (b"a", b"")], [(b"a", b"1"), (b"a", b"2")]] {
            let (bytes, _) = framed(&pairs);
            assert_eq!(Verifier::default().records(&bytes), Err(ImageError::Order));
        }
    }
}
