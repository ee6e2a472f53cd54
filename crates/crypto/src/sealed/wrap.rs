//! The key schedule from the shared points to the key that wraps the data key (`docs/format.md`, sections 6 and 7).

use super::header::Slot;
use crate::customer::Part;
use crate::encoding::{hash, lp, transcript};
use crate::kdf::{expand256, extract256};
use crate::secret::Secret;
use crate::threshold::SecretPoint;
use zeroize::Zeroizing;

/// What the key schedule binds besides the secrets.
pub(super) struct Context<'a> {
    pub(super) object: &'a [u8],
    pub(super) wrap: &'a [u8],
    pub(super) y: &'a [u8; 32],
    pub(super) kem: &'a [u8; 64],
}

impl Context<'_> {
    /// `KEK` and the key commitment `kc`.
    pub(super) fn kek(&self, ss1: &SecretPoint, parts: &[Part], kcs: &[Secret<32>]) -> (Secret<32>, Secret<32>) {
        let prk = extract256(&transcript("kem", &[]), &[ss1.expose(), customers(kcs).expose()]);
        let info = hash("kek", &[self.object, self.wrap, self.y, &Slot::parts_bytes(parts), self.kem]);
        let both: Secret<64> = expand256(&prk, &info);
        let (kek, kc) = both.expose().split_at(32);
        (Secret::init_with(|o| o.copy_from_slice(kek)), Secret::init_with(|o| o.copy_from_slice(kc)))
    }

    /// The associated data of `wdek`.
    pub(super) fn aad(&self) -> [u8; 64] {
        hash("wdek", &[self.object, self.wrap])
    }
}

/// `Kc`: all customers' values together.
fn customers(kcs: &[Secret<32>]) -> Secret<32> {
    if kcs.is_empty() {
        return Secret::init_with(|_| {});
    }
    let mut all = Zeroizing::new(Vec::with_capacity(36 * kcs.len()));
    for kc in kcs {
        lp(&mut all, kc.expose());
    }
    extract256(&transcript("all", &[]), &[&all])
}
