//! What remains of a ceremony: the public half of an epoch, signed by everyone who holds a share of it.

use super::message::READY;
use super::params::fits;
use crate::encoding;
use crate::identity::VerifyKey;
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeMap;

/// The public half of an epoch. Verifiable without the ceremony that made it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EpochCertificate {
    /// The ceremony.
    pub session: [u8; 32],
    /// The public key Y.
    pub key: [u8; 32],
    /// The number of the epoch.
    pub epoch: u64,
    /// The number of the roster whose members hold the shares.
    pub roster: u64,
    /// How many shares open.
    pub threshold: u8,
    /// `Y_j = k_j G` of each of the n holders.
    pub public_shares: BTreeMap<u8, [u8; 32]>,
    /// Hash over the parameters, every accepted message and every ruling of the ceremony, in order.
    pub transcript: [u8; 64],
    /// Each holder's signature over [`EpochCertificate::result_hash`], purpose `ready`.
    pub ready: BTreeMap<u8, [u8; 64]>,
}

/// A certificate that proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// The holders are not exactly the given members.
    #[error("the holders are not the members")]
    Members,
    /// The public shares don't lie on one polynomial of degree t - 1 through the key.
    #[error("the public shares do not fit the key")]
    Shares,
    /// A holder's signature is missing or wrong.
    #[error("no valid signature of member {0}")]
    Signature(u8),
}

impl EpochCertificate {
    /// What a holder signs: key, epoch, roster, threshold, public shares and the transcript behind them.
    #[must_use]
    pub fn result_hash(&self) -> [u8; 64] {
        let shares: Vec<u8> =
            self.public_shares.iter().flat_map(|(j, y)| core::iter::once(*j).chain(y.iter().copied())).collect();
        let (epoch, roster) = (self.epoch.to_be_bytes(), self.roster.to_be_bytes());
        let fields: [&[u8]; 7] =
            [&self.session, &self.key, &epoch, &roster, &[self.threshold], &shares, &self.transcript];
        encoding::hash("ceremony/result", &fields)
    }

    /// Checks the certificate against the members that should hold shares.
    ///
    /// # Errors
    /// [`BadCertificate`], with the culprit where there is one.
    pub fn verify(&self, members: &BTreeMap<u8, VerifyKey>) -> Result<(), BadCertificate> {
        if !members.keys().eq(self.public_shares.keys()) || self.ready.keys().any(|j| !members.contains_key(j)) {
            return Err(BadCertificate::Members);
        }
        if self.threshold < 2 || fits(&self.key, self.threshold, &self.public_shares).is_err() {
            return Err(BadCertificate::Shares);
        }
        let hash = self.result_hash();
        for (j, key) in members {
            let signature = self.ready.get(j).ok_or(BadCertificate::Signature(*j))?;
            key.verify(READY, &[&hash], signature).map_err(|_| BadCertificate::Signature(*j))?;
        }
        Ok(())
    }
}
