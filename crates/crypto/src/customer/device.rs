//! What a customer key in a device needs besides [`super::derive_kc_from_x`]: its public half, and the checks of what the
//! device answers. The device does one thing: `x(d R2)`.

use super::{CustomerError, CustomerPublic, KEM_SEED_LEN, POINT_LEN, PartSuite, ecdh, kem_key, p256_point};
use crate::secret::Secret;
use ml_kem::kem::KeyExport;
use p256::elliptic_curve::sec1::ToSec1Point;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A point whose product only the holder of the key, or whoever has drawn it, can know.
#[derive(Debug)]
pub struct Challenge {
    /// 65 bytes, uncompressed: what the device multiplies.
    pub point: [u8; POINT_LEN],
    /// The x coordinate that it must answer.
    pub x: Secret<32>,
}

impl CustomerPublic {
    /// The public half of a key whose P-256 point (65 bytes, uncompressed) a device gave. With `kem_seed` it is of suite 1,
    /// else of suite 2.
    ///
    /// # Errors
    /// [`CustomerError::BadKey`] for anything but a point on the curve.
    pub fn of_device(point: &[u8], kem_seed: Option<&Secret<KEM_SEED_LEN>>) -> Result<Self, CustomerError> {
        p256_point(point).ok_or(CustomerError::BadKey)?;
        let mut keys = point.to_vec();
        let mut suite = PartSuite::P256;
        if let Some(seed) = kem_seed {
            keys.extend_from_slice(&kem_key(seed).encapsulation_key().to_bytes());
            suite = PartSuite::Hybrid;
        }
        Ok(Self::from_valid(suite, keys))
    }

    /// The P-256 point, 65 bytes uncompressed.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        self.keys.get(..POINT_LEN).unwrap_or_default()
    }

    /// Whether an ML-KEM seed is the one of this key.
    #[must_use]
    pub fn is_of_seed(&self, kem_seed: &Secret<KEM_SEED_LEN>) -> bool {
        Self::of_device(self.point(), Some(kem_seed)).is_ok_and(|public| public.id == self.id)
    }

    /// A fresh question to a device that is to hold this key. It is answered before the device is used: nothing else proves
    /// that the private key is the one of this public key.
    ///
    /// # Errors
    /// [`CustomerError::BadKey`], [`CustomerError::Randomness`].
    pub fn challenge(&self, rng: &mut impl CryptoRng) -> Result<Challenge, CustomerError> {
        let (point, _) = self.points()?;
        let one_time = (0..=u8::MAX).find_map(|_| p256::SecretKey::from_slice(Secret::<32>::random(rng).expose()).ok());
        let one_time = one_time.ok_or(CustomerError::Randomness)?;
        let asked = one_time.public_key().to_sec1_point(false);
        let point_bytes = asked.as_bytes().try_into().map_err(|_| CustomerError::Randomness)?;
        let x = Secret::from_slice(&ecdh(&one_time, &point).0).ok_or(CustomerError::BadKey)?;
        Ok(Challenge { point: point_bytes, x })
    }
}

/// Whether 32 bytes are the x coordinate of a point on P-256: half of all values that a device could make up are not.
#[must_use]
pub fn is_x_coordinate(x: &Secret<32>) -> bool {
    let mut compressed = Zeroizing::new([2u8; 33]);
    for (to, from) in compressed.iter_mut().skip(1).zip(x.expose()) {
        *to = *from;
    }
    p256::PublicKey::from_sec1_bytes(compressed.as_slice()).is_ok()
}
