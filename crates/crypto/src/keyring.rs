//! The public face of a keyring: its key `Y`, its id, its class (`docs/format.md`, section 3).

use crate::encoding::hash32;
use crate::group::{self, BadEncoding};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use curve25519_dalek::ristretto::RistrettoPoint;

/// Who must take part in opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub enum KeyringClass {
    /// t of n nodes.
    Cluster,
    /// t of n nodes and the customer.
    Customer,
}

impl fmt::Display for KeyringClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Customer => "customer",
        })
    }
}

/// What a writer needs to know of a keyring.
///
/// # Security
/// Take it from configuration, or compare [`KeyringPublic::id`] with a pinned id: whoever chooses `y` can open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyringPublic {
    /// Who must take part in opening.
    pub class: KeyringClass,
    /// `Y = sG`, encoded.
    pub y: [u8; 32],
}

impl KeyringPublic {
    /// [`keyring_id`] of `y`.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        keyring_id(&self.y)
    }

    pub(crate) fn point(&self) -> Result<RistrettoPoint, BadEncoding> {
        group::point(&self.y)
    }
}

/// The id of the keyring with the public key `y`.
#[must_use]
pub fn keyring_id(y: &[u8; 32]) -> [u8; 32] {
    hash32("keyring-id", &[y])
}

/// The second base of a keyring: a point whose logarithm nobody knows.
#[must_use]
pub fn g_bar(keyring_id: &[u8; 32]) -> RistrettoPoint {
    group::hash_to_point("gbar", &[keyring_id])
}
