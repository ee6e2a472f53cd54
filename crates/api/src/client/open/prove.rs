//! Finding out whose part is wrong: every member proves its own.

use super::{Agreed, SecretRef};
use crate::client::open::ask::{Said, partial};
use crate::client::{CALL, Client, call};
use crate::status::{Failure, NOT_ENOUGH_MEMBERS};
use crate::transcript::open_proof_context;
use crate::vault::{Keyring, OpenReply, ReadMountsReply, ReadMountsRequest};
use futures::future::join_all;
use futures::stream::StreamExt as _;
use quorate_crypto::dleq;
use quorate_crypto::threshold::combine;
use quorate_state::ids::{MemberIndex, RequestId, hex};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

type Partials = Vec<(MemberIndex, [u8; 32])>;
/// `Y_j` by member.
type PublicShares = BTreeMap<MemberIndex, [u8; 32]>;

impl Client {
    /// The proved partials of each version, of at least t members. Members whose part is wrong become suspects.
    pub(super) async fn proved(
        &self,
        versions: &[(&SecretRef, &Agreed)],
    ) -> Result<Vec<Result<Partials, Failure>>, Failure> {
        let Some((first, _)) = versions.first() else { return Ok(Vec::new()) };
        let mut shares: BTreeMap<(Vec<u8>, u64), PublicShares> = BTreeMap::new();
        for (_, agreed) in versions {
            let ring = (agreed.item.keyring_id.clone(), agreed.item.epoch);
            if let Entry::Vacant(unknown) = shares.entry(ring) {
                let (keyring, epoch) = unknown.key();
                let of = self.public_shares(&first.namespace, keyring, *epoch).await?;
                unknown.insert(of);
            }
        }
        let id = self.request_id();
        // By number: the newest could be another one by now.
        let items: Vec<SecretRef> = versions
            .iter()
            .map(|(asked, agreed)| SecretRef { number: Some(agreed.item.number), ..(*asked).clone() })
            .collect();
        let mut good: Vec<Partials> = versions.iter().map(|_| Vec::new()).collect();
        let mut answers = self.ask(&self.order(), &[], &self.question(id, &items, 0, true), CALL);
        while let Some((member, answer)) = answers.next().await {
            let Ok(reply) = answer else { continue };
            match check_member(member, id, versions, &reply, &shares) {
                Ok(proved) => {
                    for (at, partial) in proved {
                        if let Some(list) = good.get_mut(at) {
                            list.push((member, partial));
                        }
                    }
                }
                // Named and left out; the failure of the whole, if any, follows from who is left.
                Err(why) => drop(self.suspect(member, why)),
            }
        }
        let needed = self.threshold();
        Ok(good
            .into_iter()
            .zip(versions)
            .map(|(partials, (asked, _))| {
                if partials.len() >= needed {
                    return Ok(partials);
                }
                let what = format!(
                    "{}:{}: {} of {needed} members proved their part",
                    asked.namespace,
                    asked.path,
                    partials.len()
                );
                Err(Failure::new(NOT_ENOUGH_MEMBERS, what))
            })
            .collect())
    }

    /// The public shares of a keyring, as t members state them alike, and as the pinned `Y` bears out.
    async fn public_shares(&self, namespace: &str, keyring: &[u8], epoch: u64) -> Result<PublicShares, Failure> {
        let answers = match self.via {
            Some(via) => self.mounts_through(via, namespace).await,
            None => self.mounts_of_all(namespace).await,
        };
        let mut votes: BTreeMap<PublicShares, usize> = BTreeMap::new();
        for ring in answers.into_iter().flat_map(|answer| answer.keyrings) {
            if ring.id == keyring && ring.epoch == epoch {
                *votes.entry(public_shares(&ring)).or_default() += 1;
            }
        }
        let y = self.profile.keyring(keyring).map(|ring| ring.y);
        let lies_on_y = |shares: &PublicShares| {
            let some: Vec<_> = shares.iter().take(self.threshold()).map(|(member, point)| (*member, *point)).collect();
            some.len() == self.threshold() && combine(&some).is_ok_and(|point| Some(*point.expose()) == y)
        };
        votes
            .into_iter()
            .find(|(shares, count)| *count >= self.threshold() && lies_on_y(shares))
            .map(|(shares, _)| shares)
            .ok_or_else(|| {
                let what =
                    format!("no {} members name the same public shares of keyring {}", self.threshold(), hex(keyring));
                Failure::new(NOT_ENOUGH_MEMBERS, what)
            })
    }
}

impl Client {
    async fn mounts_of_all(&self, namespace: &str) -> Vec<ReadMountsReply> {
        let request = ReadMountsRequest { namespace: namespace.to_owned() };
        let answers = join_all(self.vaults.values().map(|vault| {
            let (mut vault, request) = (vault.clone(), request.clone());
            async move { call(CALL, vault.read_mounts(request)).await }
        }));
        answers.await.into_iter().flatten().collect()
    }
}

fn public_shares(ring: &Keyring) -> PublicShares {
    let share =
        |s: &crate::vault::PublicShare| Some((u8::try_from(s.member).ok()?, s.point.as_slice().try_into().ok()?));
    ring.public_shares.iter().filter_map(share).collect()
}

/// The partials that a member proved, by version; an error says what it did wrong.
fn check_member(
    member: MemberIndex,
    id: RequestId,
    versions: &[(&SecretRef, &Agreed)],
    reply: &OpenReply,
    shares: &BTreeMap<(Vec<u8>, u64), PublicShares>,
) -> Result<Partials32, &'static str> {
    let mut proved = Vec::new();
    for (ring, of_members) in shares {
        let (mut places, mut points, mut partials) = (Vec::new(), Vec::new(), Vec::new());
        let mut covered = true;
        for (at, ((_, agreed), item)) in versions.iter().zip(&reply.items).enumerate() {
            if !item.refusal.is_empty() || (&item.keyring_id, item.epoch) != (&ring.0, ring.1) {
                continue;
            }
            let Some(now) = partial(item) else { continue };
            if agreed.partials.iter().any(|(m, before)| *m == member && *before != now) {
                return Err("it signed two different parts of one version");
            }
            // `newest` may have changed since; whatever else differs is another version, for which the point is unknown.
            let mut same = item.clone();
            same.newest = agreed.item.newest;
            covered &= Said::of(&same) == Said::of(&agreed.item);
            places.push(at);
            points.push(agreed.header.r());
            partials.push(now);
        }
        if places.is_empty() || !covered {
            continue;
        }
        let Some(public) = of_members.get(&member) else { continue };
        let proof = reply
            .proofs
            .iter()
            .find(|p| (&p.keyring_id, p.epoch) == (&ring.0, ring.1))
            .and_then(|p| <[u8; 64]>::try_from(p.proof.as_slice()).ok())
            .ok_or("it sent no proof of its parts")?;
        let context = open_proof_context(&id.0, &ring.0, ring.1);
        dleq::verify(public, &points, &partials, &context, &proof)
            .map_err(|_| "the proof of its parts does not verify")?;
        proved.extend(places.into_iter().zip(partials));
    }
    Ok(proved)
}

/// Partials by the place of their version.
type Partials32 = Vec<(usize, [u8; 32])>;
