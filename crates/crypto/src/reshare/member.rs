//! The private half: what one member says, as a function of its seed and of the ceremony.

use super::ceremony::{Ceremony, Phase};
use super::message::{Body, Complaint, Message, Ready, ReceiverKeys};
use super::params::Kind;
use super::sharing::{Derivation, deal, open_share, receiver_key};
use crate::group;
use crate::identity::SigningKey;
use crate::secret::Secret;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE as G;
use curve25519_dalek::scalar::Scalar;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// One member's part in one ceremony. It keeps nothing: whatever is asked of it is computed from what it borrows.
///
/// # Security
/// `seed` is 32 random bytes, used for this ceremony only. It must be durable before the first message leaves the
/// member, and must be erased only after the new share is durable or the abort of the ceremony is certain.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its index, in the old set, the new set or both.
    pub index: u8,
    /// The ceremony seed.
    pub seed: &'a Secret<32>,
    /// Its identity.
    pub key: &'a SigningKey,
    /// Its share of the old epoch as a canonical scalar; `None` where it has none, and then it does not deal.
    pub old_share: Option<&'a Secret<32>>,
}

/// A share of the new epoch, from which the caller makes a [`KeyShare`](crate::threshold::KeyShare).
#[derive(Debug)]
pub struct NewShare {
    /// The holder's index.
    pub index: u8,
    /// `k'_j`, a canonical scalar of ristretto255, little-endian.
    pub scalar: Secret<32>,
}

/// Why a member can't take part, or has no share to take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// The index with this identity key stands in neither set.
    #[error("not a member of this ceremony")]
    NotAMember,
    /// The old share is not the one the old epoch's certificate names: this node was restored from an older backup.
    #[error("the old share is not of the epoch that ends")]
    WrongOldShare,
    /// The keys published under this index don't come from this seed.
    #[error("the published keys do not come from this seed")]
    WrongSeed,
    /// The dealers are not named yet, or the ceremony was aborted.
    #[error("the ceremony has no result")]
    NoResult,
    /// A share doesn't open or fit; [`Member::next`] gives the complaint.
    #[error("the share of dealer {0} does not fit")]
    BadShare(u8),
    /// The shares fit and their sum doesn't: this process computes wrongly.
    #[error("the new share does not fit its public share")]
    Fault,
}

impl Member<'_> {
    /// What this member should send now; empty while it is others' turn. The same messages, byte for byte, each time it
    /// is asked in the same state.
    ///
    /// # Errors
    /// [`MemberError`] where the member's own secrets don't belong to this ceremony.
    ///
    /// # Security
    /// A [`Ready`] among the messages says that the new share is stored: store what [`Member::finish`] gives and wait
    /// until it is durable before sending it.
    pub fn next(&self, ceremony: &Ceremony) -> Result<Vec<Message>, MemberError> {
        if !self.receives(ceremony) && !self.deals(ceremony) {
            return Err(MemberError::NotAMember);
        }
        let bodies = match ceremony.phase() {
            Phase::Keys => self.keys(ceremony)?,
            Phase::Deal => {
                let mut bodies = self.complaints(ceremony)?;
                bodies.extend(self.deal(ceremony)?);
                bodies
            }
            Phase::Ready => {
                let mut bodies = self.complaints(ceremony)?;
                if bodies.is_empty() {
                    bodies.extend(self.ready(ceremony)?);
                }
                bodies
            }
            Phase::Active | Phase::Aborted(_) => Vec::new(),
        };
        let sign = |body| Message::sign(ceremony.params(), self.index, body, self.key);
        Ok(bodies.into_iter().map(sign).collect())
    }

    /// This member's share of the new epoch: from the moment the dealers are named, for as long as the ceremony and the
    /// seed exist.
    ///
    /// # Errors
    /// [`MemberError::NoResult`] before that, [`MemberError::BadShare`] where a dealer cheated this member.
    pub fn finish(&self, ceremony: &Ceremony) -> Result<NewShare, MemberError> {
        if !self.receives(ceremony) {
            return Err(MemberError::NotAMember);
        }
        let public = ceremony.public_shares().and_then(|s| s.get(&self.index)).ok_or(MemberError::NoResult)?;
        let context = ceremony.params().context();
        let derivation = Derivation::new(self.seed, &context);
        let qualified = ceremony.qualified();
        let mut sum = Zeroizing::new(Scalar::ZERO);
        for i in &qualified {
            let deal = ceremony.deal_of(*i).ok_or(MemberError::NoResult)?;
            let weight = ceremony.weight(&qualified, *i).ok_or(MemberError::NoResult)?;
            let share = open_share(&context, *i, self.index, deal, derivation.key_seed(*i).expose())
                .ok_or(MemberError::BadShare(*i))?;
            *sum += weight * *share;
        }
        if group::encode(&(G * &*sum)) != *public {
            return Err(MemberError::Fault);
        }
        Ok(NewShare { index: self.index, scalar: Secret::init_with(|out| *out = sum.to_bytes()) })
    }

    fn keys(&self, ceremony: &Ceremony) -> Result<Vec<Body>, MemberError> {
        if !self.receives(ceremony) {
            return Ok(Vec::new());
        }
        let keys = self.receiver_keys(ceremony);
        match ceremony.keys_of(self.index) {
            None => Ok(vec![Body::Keys(ReceiverKeys { keys })]),
            Some(published) if published.keys == keys => Ok(Vec::new()),
            Some(_) => Err(MemberError::WrongSeed),
        }
    }

    fn receiver_keys(&self, ceremony: &Ceremony) -> BTreeMap<u8, [u8; super::RECEIVER_KEY]> {
        let derivation = Derivation::new(self.seed, &ceremony.params().context());
        let dealers = ceremony.params().dealers().keys();
        dealers.map(|i| (*i, receiver_key(derivation.key_seed(*i).expose()))).collect()
    }

    fn deal(&self, ceremony: &Ceremony) -> Result<Option<Body>, MemberError> {
        if !self.deals(ceremony) || ceremony.deal_of(self.index).is_some() {
            return Ok(None);
        }
        let secret = match (&ceremony.params().kind, self.old_share) {
            (Kind::KeyGeneration, _) => None,
            (Kind::Reshare(_), None) => return Ok(None),
            (Kind::Reshare(old), Some(share)) => {
                let scalar = group::scalar(share.expose()).map_err(|_| MemberError::WrongOldShare)?;
                let scalar = Zeroizing::new(scalar);
                if old.public_shares.get(&self.index) != Some(&group::encode(&(G * &*scalar))) {
                    return Err(MemberError::WrongOldShare);
                }
                Some(scalar)
            }
        };
        let derivation = Derivation::new(self.seed, &ceremony.params().context());
        let receivers = ceremony.receiver_keys(self.index);
        Ok(deal(&derivation, ceremony.params(), self.index, secret.as_deref(), receivers).map(Body::Deal))
    }

    /// One complaint for each standing deal whose share doesn't open or fit.
    fn complaints(&self, ceremony: &Ceremony) -> Result<Vec<Body>, MemberError> {
        if !self.receives(ceremony) {
            return Ok(Vec::new());
        }
        // With another seed every share would look wrong, and this member would accuse the innocent.
        if ceremony.keys_of(self.index).map(|k| &k.keys) != Some(&self.receiver_keys(ceremony)) {
            return Err(MemberError::WrongSeed);
        }
        let context = ceremony.params().context();
        let derivation = Derivation::new(self.seed, &context);
        let complaint = |(dealer, deal): (u8, &super::Deal)| {
            let seed = derivation.key_seed(dealer);
            match open_share(&context, dealer, self.index, deal, seed.expose()) {
                Some(_) => None,
                None => Some(Body::Complaint(Complaint { dealer, key_seed: *seed.expose() })),
            }
        };
        Ok(ceremony.standing().filter_map(complaint).collect())
    }

    fn ready(&self, ceremony: &Ceremony) -> Result<Option<Body>, MemberError> {
        if !self.receives(ceremony) || ceremony.is_ready(self.index) {
            return Ok(None);
        }
        _ = self.finish(ceremony)?;
        Ok(ceremony.result_hash().map(|result| Body::Ready(Ready { result })))
    }

    fn receives(&self, ceremony: &Ceremony) -> bool {
        ceremony.params().members.get(&self.index) == Some(&self.key.verify_key())
    }

    fn deals(&self, ceremony: &Ceremony) -> bool {
        ceremony.params().dealers().get(&self.index) == Some(&self.key.verify_key())
    }
}
