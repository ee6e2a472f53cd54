//! What nodes sign in answers to clients (`docs/wire.md`): one definition, for the node that signs and the client that
//! verifies.

use crate::vault::{OpenReply, OpenedItem, PartialProof};
use quorate_crypto::encoding::lp;
use quorate_crypto::identity::{BadSignature, SigningKey, VerifyKey};

/// The purpose of a signature over an answer to Open.
pub const OPEN: &str = "open";

/// The fields under a signature of purpose [`OPEN`], in their order: cluster, request id, and [`open_reply_transcript`].
fn sign_fields<'a>(cluster: &'a [u8; 32], request_id: &'a [u8], body: &'a [u8]) -> [&'a [u8]; 3] {
    [cluster, request_id, body]
}

/// The bytes of an answer that its signature covers: everything but content (header and payload, which the header's hash
/// and its payload hash bind) and the signature.
///
/// Numbers are big-endian, `LP` is a 4-byte length and the bytes:
/// ```text
/// u32 member || u64 applied || u32 items || item... || u32 proofs || proof...
/// item  = LP refusal || LP reason || LP secret_id || LP version_id || u64 number || u8 newest || LP header_hash
///         || LP keyring_id || u64 epoch || LP partial
/// proof = LP keyring_id || u64 epoch || LP proof
/// ```
#[must_use]
pub fn open_reply_transcript(reply: &OpenReply) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + reply.items.len() * 256);
    out.extend_from_slice(&reply.member.to_be_bytes());
    out.extend_from_slice(&reply.applied.to_be_bytes());
    out.extend_from_slice(&count(reply.items.len()));
    for item in &reply.items {
        item_bytes(&mut out, item);
    }
    out.extend_from_slice(&count(reply.proofs.len()));
    for PartialProof { keyring_id, epoch, proof } in &reply.proofs {
        lp(&mut out, keyring_id);
        out.extend_from_slice(&epoch.to_be_bytes());
        lp(&mut out, proof);
    }
    out
}

/// Signs an answer to Open: fills in `signature`. The request id is the client's, so that no old answer passes for new.
pub fn sign_open_reply(key: &SigningKey, cluster: &[u8; 32], request_id: &[u8], reply: &mut OpenReply) {
    let body = open_reply_transcript(reply);
    reply.signature = key.sign(OPEN, &sign_fields(cluster, request_id, &body)).to_vec();
}

/// Checks the signature of an answer to Open.
///
/// # Errors
/// [`BadSignature`].
pub fn verify_open_reply(
    key: &VerifyKey,
    cluster: &[u8; 32],
    request_id: &[u8],
    reply: &OpenReply,
) -> Result<(), BadSignature> {
    let signature = <[u8; 64]>::try_from(reply.signature.as_slice()).map_err(|_| BadSignature)?;
    key.verify(OPEN, &sign_fields(cluster, request_id, &open_reply_transcript(reply)), &signature)
}

/// The context of the proof over the partials of one keyring in one answer: a transcript of purpose `open-proof`.
///
/// A proof is made for one question and one epoch; it is worthless in any other answer.
#[must_use]
pub fn open_proof_context(request_id: &[u8], keyring_id: &[u8], epoch: u64) -> Vec<u8> {
    quorate_crypto::encoding::transcript("open-proof", &[request_id, keyring_id, &epoch.to_be_bytes()])
}

fn item_bytes(out: &mut Vec<u8>, item: &OpenedItem) {
    let OpenedItem {
        refusal,
        reason,
        secret_id,
        version_id,
        number,
        newest,
        header_hash,
        keyring_id,
        epoch,
        partial,
        header: _,
        payload: _,
    } = item;
    for field in [refusal.as_bytes(), reason.as_bytes(), secret_id, version_id] {
        lp(out, field);
    }
    out.extend_from_slice(&number.to_be_bytes());
    out.push(u8::from(*newest));
    lp(out, header_hash);
    lp(out, keyring_id);
    out.extend_from_slice(&epoch.to_be_bytes());
    lp(out, partial);
}

fn count(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crypto::secret::Secret;

    fn reply() -> OpenReply {
        let item = OpenedItem {
            secret_id: vec![1; 16],
            version_id: vec![2; 16],
            number: 3,
            newest: true,
            header_hash: vec![4; 64],
            keyring_id: vec![5; 32],
            epoch: 6,
            partial: vec![7; 32],
            ..OpenedItem::default()
        };
        let proof = PartialProof { keyring_id: vec![5; 32], epoch: 6, proof: vec![8; 64] };
        OpenReply { member: 2, applied: 9, items: vec![item], proofs: vec![proof], signature: vec![] }
    }

    #[test]
    fn every_field_but_content_is_signed() {
        let key = SigningKey::from_seed(&Secret::init_with(|s| s.fill(7)));
        let (cluster, id) = ([3; 32], [4; 16]);
        let mut good = reply();
        sign_open_reply(&key, &cluster, &id, &mut good);
        let check = |reply: &OpenReply, cluster, id| verify_open_reply(&key.verify_key(), cluster, id, reply);
        assert_eq!(check(&good, &cluster, &id), Ok(()));
        assert_eq!(check(&good, &[0; 32], &id), Err(BadSignature));
        assert_eq!(check(&good, &cluster, &[0; 16]), Err(BadSignature));
        let changes: [fn(&mut OpenReply); 16] = [
            |r| r.member = 1,
            |r| r.applied = 1,
            |r| r.items.clear(),
            |r| r.proofs.clear(),
            |r| r.signature[0] ^= 1,
            |r| r.items[0].refusal = "x".into(),
            |r| r.items[0].reason = "x".into(),
            |r| r.items[0].secret_id[0] ^= 1,
            |r| r.items[0].version_id[0] ^= 1,
            |r| r.items[0].number = 1,
            |r| r.items[0].newest = false,
            |r| r.items[0].header_hash[0] ^= 1,
            |r| r.items[0].keyring_id[0] ^= 1,
            |r| r.items[0].epoch = 1,
            |r| r.items[0].partial[0] ^= 1,
            |r| r.proofs[0].proof[0] ^= 1,
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(check(&bad, &cluster, &id), Err(BadSignature), "change {i}");
        }
        good.items[0].header = vec![1];
        good.items[0].payload = vec![1];
        assert_eq!(check(&good, &cluster, &id), Ok(()), "content is bound by its hashes");
    }
}
