//! What no process may know, worked out by a test that has all disks and all seal keys: keyrings' secret keys, and everything
//! that members make on the way to one. Nothing of the product does this.

use crate::canary::Canary;
use anyhow::Context as _;
use curve25519_dalek::scalar::Scalar;
use hkdf::Hkdf;
use quorate_api::client::Profile;
use quorate_crypto::encoding::{hash, transcript};
use quorate_crypto::keyfile::{Protection, open_file};
use quorate_crypto::reshare::{Kind, Params};
use quorate_crypto::sealed::Header;
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_state::ids::{MemberIndex, SessionId};
use sha2::{Sha256, Sha512};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A canary, and the members that may know it: as long as the ceremony runs, and afterwards.
#[derive(Debug)]
pub struct Kept {
    /// What.
    pub canary: Canary,
    /// Who may know it in the ceremony.
    pub during: Vec<MemberIndex>,
    /// Who may know it for good.
    pub after: Vec<MemberIndex>,
}

impl Kept {
    fn scalar(name: String, scalar: &[u8; 32], during: &[MemberIndex], after: &[MemberIndex]) -> Self {
        Self { canary: Canary::scalar(name, scalar), during: during.to_vec(), after: after.to_vec() }
    }
}

/// The data folders of all members, each with its seal key.
#[derive(Debug)]
pub struct Disks {
    profile: Profile,
    folders: BTreeMap<MemberIndex, PathBuf>,
}

impl Disks {
    /// Of members whose folders a test names itself.
    #[must_use]
    pub fn new(profile: Profile, folders: BTreeMap<MemberIndex, PathBuf>) -> Self {
        Self { profile, folders }
    }

    fn folder(&self, member: MemberIndex) -> anyhow::Result<&PathBuf> {
        self.folders.get(&member).with_context(|| format!("no member {member}"))
    }

    fn seal_key(&self, member: MemberIndex) -> anyhow::Result<Secret<32>> {
        let key = std::fs::read(self.folder(member)?.join("seal.key"))?;
        Secret::from_slice(&key).context("a seal key of another length")
    }

    /// The keys that each member has to itself.
    ///
    /// # Errors
    /// When one does not open with the member's seal key.
    pub fn own_keys(&self) -> anyhow::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for (member, folder) in &self.folders {
            let seal = self.seal_key(*member)?;
            let mut own = |name: String, secret: &[u8]| {
                kept.push(Kept { canary: Canary::new(name, secret), during: vec![*member], after: vec![*member] });
            };
            own(format!("seal key of {member}"), seal.expose());
            for (file, purpose) in [("member.key", "member-identity"), ("storage.key", "storage-key")] {
                let bytes = std::fs::read(folder.join("identity").join(file))?;
                let secret =
                    open_file(purpose, &bytes, &Protection::RawKey(&seal)).context("a key that does not open")?;
                own(format!("{purpose} of {member}"), secret.expose());
            }
        }
        Ok(kept)
    }

    /// The members that have a seed of a session, and so have not ended it.
    #[must_use]
    pub fn seeds(&self, session: &SessionId) -> Vec<MemberIndex> {
        let seed = |folder: &PathBuf| folder.join("slots").join(format!("{session}.seed")).exists();
        self.folders.iter().filter(|(_, folder)| seed(folder)).map(|(member, _)| *member).collect()
    }

    /// The content of a file in a member's slots, if it is there: `share` or `seed`.
    ///
    /// # Errors
    /// When it does not open with the member's seal key.
    pub fn slot(&self, member: MemberIndex, session: &SessionId, kind: &str) -> anyhow::Result<Option<SecretVec>> {
        let slot = self.folder(member)?.join("slots").join(format!("{session}.{kind}"));
        let Ok(file) = std::fs::read(slot) else { return Ok(None) };
        let seal = self.seal_key(member)?;
        let purpose = if kind == "seed" { "ceremony-seed" } else { kind };
        Ok(Some(open_file(purpose, &file, &Protection::RawKey(&seal)).context("a slot that does not open")?))
    }

    /// The sessions of which a member has a slot of a kind: `share` or `seed`.
    ///
    /// # Errors
    /// When its slots cannot be listed.
    pub fn sessions(&self, member: MemberIndex, kind: &str) -> anyhow::Result<Vec<SessionId>> {
        let mut sessions = Vec::new();
        for entry in std::fs::read_dir(self.folder(member)?.join("slots"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == kind) {
                let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
                sessions.extend(quorate_state::ids::parse_hex(name).map(SessionId));
            }
        }
        sessions.sort();
        Ok(sessions)
    }

    /// The shares of a session, each its holder's, and the key that they are of, which is nobody's.
    ///
    /// # Errors
    /// When a member has no share of it.
    pub fn key_of(&self, session: &SessionId) -> anyhow::Result<Vec<Kept>> {
        let mut shares = BTreeMap::new();
        for member in self.profile.members.iter().map(|m| m.index) {
            let share =
                self.slot(member, session, "share")?.with_context(|| format!("member {member} has no share"))?;
            shares.insert(member, scalar(share.expose().get(1..).unwrap_or_default())?);
        }
        let key = |holders: &[MemberIndex]| -> Scalar {
            let weight = |i: &MemberIndex| {
                let others = holders.iter().filter(|j| *j != i).map(|j| (Scalar::from(*j), Scalar::from(*i)));
                others.map(|(j, i)| j * (j - i).invert()).product::<Scalar>()
            };
            holders.iter().map(|i| weight(i) * shares.get(i).unwrap_or(&Scalar::ZERO)).sum()
        };
        anyhow::ensure!(key(&[1, 2]) == key(&[2, 3]), "any two shares give the same key: they do not");
        let id: String = session.to_string().chars().take(8).collect();
        let mut all = vec![Kept::scalar(format!("s of {id}"), key(&[1, 2]).as_bytes(), &[], &[])];
        all.extend(
            shares.iter().map(|(i, share)| Kept::scalar(format!("share {i} of {id}"), share.as_bytes(), &[*i], &[*i])),
        );
        Ok(all)
    }

    /// Everything secret in a key generation, recomputed from the seeds of all members as `docs/ceremony.md` says: the key,
    /// seeds, coefficients, dealt shares, nonces, the receivers' key seeds, and the shares that come of it.
    ///
    /// # Errors
    /// When a member has made no seed yet.
    pub fn dealings(&self, session: &SessionId) -> anyhow::Result<Vec<Kept>> {
        let members = self.profile.members.iter().map(|m| m.index).collect::<Vec<_>>();
        let params = Params {
            session: session.0,
            kind: Kind::KeyGeneration,
            epoch: 1,
            roster: 1,
            threshold: self.profile.threshold,
            members: self
                .profile
                .members
                .iter()
                .map(|m| (m.index, quorate_crypto::identity::VerifyKey(m.key)))
                .collect(),
        };
        let (context, mut all) = (params.context(), Vec::new());
        let (mut key, mut shares) = (Scalar::ZERO, BTreeMap::<MemberIndex, Scalar>::new());
        for i in &members {
            let seed = self.slot(*i, session, "seed")?.with_context(|| format!("member {i} has no seed"))?;
            let derive = Hkdf::<Sha256>::new(Some(&context), seed.expose());
            let expand = |purpose: &str, fields: &[&[u8]], out: &mut [u8]| {
                derive.expand(&transcript(purpose, fields), out).map_err(|_| anyhow::anyhow!("too long"))
            };
            let wide = |purpose: &str, fields: &[&[u8]]| -> anyhow::Result<Scalar> {
                let mut out = [0; 64];
                expand(purpose, fields, &mut out)?;
                Ok(Scalar::from_bytes_mod_order_wide(&out))
            };
            let own = |canary| Kept { canary, during: vec![*i], after: Vec::new() };
            all.push(own(Canary::new(format!("ceremony seed of {i}"), seed.expose())));
            let coefficients =
                (0..params.threshold).map(|k| wide("ceremony/coefficient", &[&[k]])).collect::<Result<Vec<_>, _>>()?;
            for (k, coefficient) in coefficients.iter().enumerate() {
                all.push(own(Canary::scalar(format!("coefficient {k} of {i}"), coefficient.as_bytes())));
            }
            let points: Vec<[u8; 32]> = coefficients
                .iter()
                .map(|c| curve25519_dalek::RistrettoPoint::mul_base(c).compress().to_bytes())
                .collect();
            let points: Vec<&[u8]> = points.iter().map(<[u8; 32]>::as_slice).collect();
            let nonce = wide("dkg/pok-nonce", &[&hash("ceremony/commitments", &points)])?;
            all.push(own(Canary::scalar(format!("proof nonce of {i}"), nonce.as_bytes())));
            key += coefficients.first().unwrap_or(&Scalar::ZERO);
            for j in &members {
                let mut key_seed = [0; 32];
                expand("ceremony/receiver-key", &[&[*j]], &mut key_seed)?;
                all.push(own(Canary::new(format!("key seed of {i} for dealer {j}"), &key_seed)));
                let dealt = coefficients.iter().rev().fold(Scalar::ZERO, |sum, c| sum * Scalar::from(*j) + c);
                *shares.entry(*j).or_default() += dealt;
                all.push(Kept::scalar(format!("share from {i} to {j}"), dealt.as_bytes(), &[*i, *j], &[]));
            }
        }
        all.push(Kept::scalar("s under way".to_owned(), key.as_bytes(), &[], &[]));
        all.extend(
            shares.iter().map(|(j, s)| Kept::scalar(format!("share {j} under way"), s.as_bytes(), &[*j], &[*j])),
        );
        Ok(all)
    }
}

fn scalar(bytes: &[u8]) -> anyhow::Result<Scalar> {
    Option::from(Scalar::from_canonical_bytes(bytes.try_into()?)).context("no scalar")
}

/// The data key of a version, from its random input, as `docs/format.md` says; checked against the header's commitment.
///
/// # Errors
/// When it is not the one that the header commits to.
pub fn data_key(fresh: &Secret<64>, plaintext: &[u8], header: &Header) -> anyhow::Result<[u8; 32]> {
    let seed = Hkdf::<Sha512>::new(Some(&transcript("fresh", &[])), fresh.expose());
    let content = hash("fresh-obj", &[plaintext, &header.object_bytes()]);
    let mut key = [0; 32];
    seed.expand(&transcript("fresh-dek", &[&content]), &mut key).map_err(|_| anyhow::anyhow!("too long"))?;
    let mut commitment = [0; 32];
    let committed = Hkdf::<Sha256>::from_prk(&key).map_err(|_| anyhow::anyhow!("too short"))?;
    committed.expand(&transcript("dek", &[]), &mut commitment).map_err(|_| anyhow::anyhow!("too long"))?;
    anyhow::ensure!(commitment == *header.dek_commitment(), "the header commits to another data key");
    Ok(key)
}
