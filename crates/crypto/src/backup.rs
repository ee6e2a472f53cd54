//! A customer key in software, kept k of m: what is left of it when the custodian's host is lost (`docs/format.md`, section 18).
//!
//! The key is sealed under a fresh key, and that one is shared (Shamir 1979, over the scalars of ristretto255). Each share
//! brings the sealed key along, so that k shares are all that a restore needs: no passphrase, no other file.
//!
//! # Security
//! k shares are the customer's key. Here, and nowhere else, shares are put together to a secret, because that is what a backup
//! is for; it is the customer's own key, in the customer's own process, and never a keyring of a cluster.

use crate::customer::CustomerSecret;
use crate::encoding::{Reader, hash32, lp, transcript};
use crate::kdf::{expand256, extract256};
use crate::keyfile::{Protection, open_file, seal_file};
use crate::secret::Secret;
use core::fmt;
use curve25519_dalek::scalar::Scalar;
use rand_core::CryptoRng;
use std::collections::BTreeSet;
use subtle::ConstantTimeEq;
use vsss_rs::{DefaultShare, IdentifierPrimeField, ReadableShareSet, shamir};
use zeroize::{Zeroize, Zeroizing};

const MAGIC: &[u8; 7] = b"QUORSHR";
const VERSION: u8 = 1;
/// Purpose of the sealed key that each share carries.
const PURPOSE: &str = "customer-backup";
/// The longest sealed key, in bytes: those of today have 167 at most.
const MAX_SEALED: usize = 4096;

type FieldShare = DefaultShare<IdentifierPrimeField<Scalar>, IdentifierPrimeField<Scalar>>;

/// Why a backup is not made, or its shares restore nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Not 2 <= threshold <= shares <= 255.
    #[error("{threshold} of {shares} shares is not possible: at least 2, and not more than there are")]
    Bounds {
        /// How many restore.
        threshold: u8,
        /// How many there are.
        shares: u8,
    },
    /// Not a share.
    #[error("not a share of a customer key")]
    NotAShare,
    /// Written by a later version.
    #[error("unknown version {0} of a share")]
    UnknownVersion(u8),
    /// Cut short, or not what was written.
    #[error("the share is damaged: its checksum is not that of its content")]
    Damaged,
    /// A share of another customer key.
    #[error("share {index} is of another customer key than the first one")]
    OtherKey {
        /// The share.
        index: u8,
    },
    /// A share of another backup of the same key.
    #[error("share {index} is of another backup than the first one: shares of two backups do not go together")]
    OtherBackup {
        /// The share.
        index: u8,
    },
    /// The same share twice.
    #[error("share {index} is there twice")]
    Twice {
        /// The share.
        index: u8,
    },
    /// Fewer than it takes.
    #[error("{have} shares are there, and it takes {need}")]
    TooFew {
        /// How many are there.
        have: usize,
        /// How many it takes.
        need: u8,
    },
    /// Together they give another secret than the one that was shared: one was made or changed by somebody.
    #[error("the shares do not fit together: at least one is not what was made")]
    DoNotFit,
    /// The randomness gave nothing usable.
    #[error("the randomness gave no shares")]
    Randomness,
}

/// One share of a backup.
pub struct BackupShare {
    set: [u8; 16],
    customer_key: [u8; 32],
    threshold: u8,
    shares: u8,
    index: u8,
    value: Secret<32>,
    sealed: Vec<u8>,
}

impl BackupShare {
    /// The id of the customer key.
    #[must_use]
    pub fn customer_key(&self) -> [u8; 32] {
        self.customer_key
    }

    /// Which backup it is of: 16 random bytes.
    #[must_use]
    pub fn set(&self) -> [u8; 16] {
        self.set
    }

    /// How many shares restore the key.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// How many were made.
    #[must_use]
    pub fn shares(&self) -> u8 {
        self.shares
    }

    /// Which one this is, from 1.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The bytes of its file.
    ///
    /// # Security
    /// As secret as a share is: threshold of them are the key.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(160 + self.sealed.len()));
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&self.customer_key);
        out.extend_from_slice(&self.set);
        out.extend_from_slice(&[self.threshold, self.shares, self.index]);
        out.extend_from_slice(self.value.expose());
        lp(&mut out, &self.sealed);
        let check = hash32("backup-share", &[&out]);
        out.extend_from_slice(&check);
        out
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`BackupError::NotAShare`], [`BackupError::UnknownVersion`], [`BackupError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |_| BackupError::Damaged;
        let mut r = Reader::new(bytes);
        if r.array().map_err(|_| BackupError::NotAShare)? != *MAGIC {
            return Err(BackupError::NotAShare);
        }
        let [version] = r.array().map_err(damaged)?;
        if version != VERSION {
            return Err(BackupError::UnknownVersion(version));
        }
        let body = bytes.len().checked_sub(32).and_then(|end| bytes.split_at_checked(end));
        let (body, check) = body.ok_or(BackupError::Damaged)?;
        if hash32("backup-share", &[body]) != *check {
            return Err(BackupError::Damaged);
        }
        let (customer_key, set) = (r.array().map_err(damaged)?, r.array().map_err(damaged)?);
        let [threshold, shares, index] = r.array().map_err(damaged)?;
        let value = Secret::from_slice(r.take(32).map_err(damaged)?).ok_or(BackupError::Damaged)?;
        let sealed = r.lp().map_err(damaged)?.to_vec();
        r.take(32).map_err(damaged)?;
        r.finish().map_err(damaged)?;
        let bounded = 2 <= threshold && threshold <= shares && (1..=shares).contains(&index);
        if !bounded || sealed.len() > MAX_SEALED || crate::group::scalar(value.expose()).is_err() {
            return Err(BackupError::Damaged);
        }
        Ok(Self { set, customer_key, threshold, shares, index, value, sealed })
    }
}

impl fmt::Debug for BackupShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupShare({} of {}, any {}, redacted)", self.index, self.shares, self.threshold)
    }
}

/// Makes `shares` shares of which any `threshold` restore the key; fewer say nothing about it.
///
/// # Errors
/// [`BackupError::Bounds`], [`BackupError::Randomness`].
pub fn backup(
    secret: &CustomerSecret,
    threshold: u8,
    shares: u8,
    rng: &mut impl CryptoRng,
) -> Result<Vec<BackupShare>, BackupError> {
    if threshold < 2 || threshold > shares {
        return Err(BackupError::Bounds { threshold, shares });
    }
    let mut set = [0; 16];
    rng.fill_bytes(&mut set);
    let mut shared = Zeroizing::new(Scalar::from_bytes_mod_order_wide(Secret::<64>::random(rng).expose()));
    let mut value = IdentifierPrimeField(*shared);
    let dealt = shamir::split_secret::<FieldShare>(usize::from(threshold), usize::from(shares), &value, &mut *rng);
    value.0.zeroize();
    let mut dealt = dealt.map_err(|_| BackupError::Randomness)?;
    let customer_key = secret.public().id();
    let key = backup_key(&shared, &customer_key, &set);
    shared.zeroize();
    let content = secret.encode();
    let sealed = seal_file(PURPOSE, content.expose(), &Protection::RawKey(&key), rng);
    let sealed = sealed.map_err(|_| BackupError::Randomness)?;
    let made = (1..=shares).zip(&mut dealt).map(|(index, share)| {
        // The library numbers them 1, 2 and so on; restoring relies on it, so it is looked at.
        if share.identifier.0 != Scalar::from(index) {
            return Err(BackupError::Randomness);
        }
        let value = Secret::init_with(|out| *out = share.value.0.to_bytes());
        share.value.0.zeroize();
        Ok(BackupShare { set, customer_key, threshold, shares, index, value, sealed: sealed.clone() })
    });
    made.collect()
}

/// Restores the key of shares of one backup. All that are given are used, so give those that are to be trusted.
///
/// # Errors
/// [`BackupError`]: nothing is restored of mixed, repeated, too few or changed shares.
pub fn restore(shares: &[BackupShare]) -> Result<CustomerSecret, BackupError> {
    let first = shares.first().ok_or(BackupError::TooFew { have: 0, need: 2 })?;
    let mut seen = BTreeSet::new();
    for share in shares {
        let index = share.index;
        if share.customer_key != first.customer_key {
            return Err(BackupError::OtherKey { index });
        }
        let alike = share.threshold == first.threshold && share.shares == first.shares;
        if share.set != first.set || !alike || share.sealed != first.sealed {
            return Err(BackupError::OtherBackup { index });
        }
        if !seen.insert(index) {
            return Err(BackupError::Twice { index });
        }
    }
    if shares.len() < usize::from(first.threshold) {
        return Err(BackupError::TooFew { have: shares.len(), need: first.threshold });
    }
    let mut points: Vec<FieldShare> = Vec::with_capacity(shares.len());
    for share in shares {
        let value = crate::group::scalar(share.value.expose()).map_err(|_| BackupError::Damaged)?;
        let identifier = IdentifierPrimeField(Scalar::from(share.index));
        points.push(DefaultShare { identifier, value: IdentifierPrimeField(value) });
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a customer's own backup: the key of it is to come back, in the customer's process"
    )]
    let combined = points.combine();
    for point in &mut points {
        point.value.0.zeroize();
    }
    let shared = Zeroizing::new(combined.map_err(|_| BackupError::DoNotFit)?.0);
    let key = backup_key(&shared, &first.customer_key, &first.set);
    let content = open_file(PURPOSE, &first.sealed, &Protection::RawKey(&key)).map_err(|_| BackupError::DoNotFit)?;
    let secret = CustomerSecret::decode(content.expose()).map_err(|_| BackupError::DoNotFit)?;
    if bool::from(secret.public().id().ct_eq(&first.customer_key)) { Ok(secret) } else { Err(BackupError::DoNotFit) }
}

fn backup_key(shared: &Scalar, customer_key: &[u8; 32], set: &[u8; 16]) -> Secret<32> {
    let bytes = Zeroizing::new(shared.to_bytes());
    let prk = extract256(&transcript("backup", &[]), &[bytes.as_slice()]);
    expand256(&prk, &transcript("backup-key", &[customer_key, set]))
}
