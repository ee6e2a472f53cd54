//! Opening: t members' parts, the customer's part, and the plaintext nowhere but here.
//!
//! What is believed: an answer that t members signed alike, about the version that was asked for, sealed to pinned keys.
//! Content comes from one member and is bound by hashes. A wrong partial shows in the key commitment; then every member
//! has to prove its part, and who cannot is named and left out ([`prove`]). When all are right, the customer's key is tested
//! before the wrap is blamed. Where only one member is reached the others are asked through it ([`relayed`]).

mod ask;
mod prove;
mod relayed;

use super::custodian::Wanted;
use super::{Client, lock};
use crate::status::{CUSTOMER_VALUE_WRONG, DOES_NOT_OPEN, Failure, INVALID_ARGUMENT, NOT_PINNED, WRONG_LABEL};
use crate::vault::OpenedItem;
use quorate_crypto::sealed::{Header, OpenError, open};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_crypto::threshold::combine;
use quorate_state::ids::{MemberIndex, Millis, SecretId, VersionId, hex};
use subtle::ConstantTimeEq as _;

/// The most items of one question.
const MAX_ITEMS: usize = 256;

/// A version of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// The namespace.
    pub namespace: String,
    /// The path.
    pub path: String,
    /// Its number, or the newest.
    pub number: Option<u64>,
}

/// An opened version.
#[derive(Debug)]
pub struct Opened {
    /// What was sealed.
    pub plaintext: SecretVec,
    /// The secret.
    pub secret: SecretId,
    /// The version.
    pub version: VersionId,
    /// Its number.
    pub number: u64,
    /// Whether it is the newest.
    pub newest: bool,
    /// Who sealed it.
    pub writer: String,
    /// The writer's clock then.
    pub created: Millis,
}

/// A version that t members agree on, with content and with their partials; labels and pins are checked.
struct Agreed {
    item: OpenedItem,
    header: Header,
    payload: Vec<u8>,
    partials: Vec<(MemberIndex, [u8; 32])>,
}

impl Client {
    /// Opens one version.
    ///
    /// # Errors
    /// As each of [`Client::get_many`].
    pub async fn get(&self, namespace: &str, path: &str, number: Option<u64>) -> Result<Opened, Failure> {
        let item = SecretRef { namespace: namespace.to_owned(), path: path.to_owned(), number };
        let one = self.get_many(std::slice::from_ref(&item)).await?.pop();
        one.unwrap_or_else(|| Err(Failure::new(INVALID_ARGUMENT, "nothing was asked for")))
    }

    /// Opens up to 256 versions with one question. Each has its own result, in the order of the question.
    ///
    /// # Errors
    /// Of the whole: `not_enough_members`, `disagreement`, what t members answer alike, the custodian's. Of one:
    /// `denied`, `not_found` and other refusals of t members; `not_pinned`, `wrong_label`, `does_not_open`,
    /// `customer_value_wrong`.
    pub async fn get_many(&self, items: &[SecretRef]) -> Result<Vec<Result<Opened, Failure>>, Failure> {
        if items.is_empty() || items.len() > MAX_ITEMS {
            return Err(Failure::new(INVALID_ARGUMENT, format!("{} items instead of 1 to {MAX_ITEMS}", items.len())));
        }
        let (id, answers) = self.agree(items).await?;
        let mut results: Vec<Result<Agreed, Failure>> = items
            .iter()
            .zip(answers)
            .map(|(asked, answer)| {
                let agreed = answer?;
                self.check(asked, &agreed)?;
                Ok(agreed)
            })
            .collect();
        let wanted: Vec<Wanted> = results.iter().flatten().map(|agreed| Wanted::of(&agreed.header)).collect();
        let mut kcs = self.customer.derive(&id.0, &wanted).await?.into_iter();
        let mut opened: Vec<Result<Opened, Failure>> = Vec::with_capacity(items.len());
        let mut disputed = Vec::new();
        for (at, result) in results.drain(..).enumerate() {
            let outcome = match result {
                Err(failure) => Err(failure),
                Ok(agreed) => match kcs.next() {
                    Some(Err(failure)) => Err(failure),
                    // A source answers for each header that it was given.
                    None => Err(Failure::new(DOES_NOT_OPEN, "no customer's value")),
                    Some(Ok(kcs)) => match self.open_with(&agreed, &agreed.partials, &kcs) {
                        Ok(plaintext) => Ok(finish(&agreed, plaintext)),
                        Err(Unopened::Partials) => {
                            disputed.push((at, agreed, kcs));
                            Err(Failure::new(DOES_NOT_OPEN, "a part is wrong"))
                        }
                        Err(Unopened::For(failure)) => Err(failure),
                    },
                },
            };
            opened.push(outcome);
        }
        if !disputed.is_empty() {
            self.settle(items, disputed, &mut opened).await?;
        }
        Ok(opened)
    }

    /// Asks for proofs, and opens what is disputed with the parts that were proved.
    async fn settle(
        &self,
        items: &[SecretRef],
        disputed: Vec<(usize, Agreed, Vec<Secret<32>>)>,
        opened: &mut [Result<Opened, Failure>],
    ) -> Result<(), Failure> {
        let versions: Vec<(&SecretRef, &Agreed)> =
            disputed.iter().filter_map(|(at, agreed, _)| Some((items.get(*at)?, agreed))).collect();
        let proved = self.proved(&versions).await?;
        for ((at, agreed, kcs), partials) in disputed.iter().zip(proved) {
            let result = match partials.map(|partials| self.open_with(agreed, &partials, kcs)) {
                Ok(Ok(plaintext)) => Ok(finish(agreed, plaintext)),
                Ok(Err(Unopened::Partials)) => Err(self.beyond_the_members(&agreed.header).await),
                Ok(Err(Unopened::For(failure))) | Err(failure) => Err(failure),
            };
            if let Some(slot) = opened.get_mut(*at) {
                *slot = result;
            }
        }
        Ok(())
    }

    /// Whose fault it is that a version stays shut with parts that were all proved: the customer's key has to open what this
    /// client seals to it now, and only if it does is the wrap to blame.
    async fn beyond_the_members(&self, header: &Header) -> Failure {
        let wanted = Wanted::of(header);
        let keys: Vec<_> =
            header.slot().parts.iter().filter_map(|part| self.profile.customer_key(&part.cust_key_id)).collect();
        let (test, right) = wanted.test(&keys, &mut *lock(&self.rng));
        let wrap = |tested: &str| {
            let (version, by) = (name(header), &header.wrap().wrapped_by);
            Failure::new(
                DOES_NOT_OPEN,
                format!("{version}: every member proved its part{tested}, so the wrap by {by} is wrong"),
            )
        };
        if right.is_empty() {
            return wrap("");
        }
        let given = match self.customer.derive(&self.request_id().0, &[test]).await.map(|mut all| all.pop()) {
            Ok(Some(Ok(given))) => given,
            Ok(Some(Err(failure))) | Err(failure) => return failure,
            Ok(None) => Vec::new(),
        };
        let wrong = |at: usize, right: &Secret<32>| given.get(at).is_none_or(|given| !bool::from(given.ct_eq(right)));
        let wrong: Vec<String> = keys
            .iter()
            .zip(&right)
            .enumerate()
            .filter(|(at, (_, r))| wrong(*at, r))
            .map(|(_, (k, _))| hex(&k.id()))
            .collect();
        if wrong.is_empty() {
            return wrap(", and the customer's key opened a test");
        }
        let what = format!("{}: the value for customer key {} is wrong", name(header), wrong.join(", "));
        Failure::new(CUSTOMER_VALUE_WRONG, what)
    }

    /// Compares a version with the question and the pins.
    fn check(&self, asked: &SecretRef, agreed: &Agreed) -> Result<(), Failure> {
        let (object, wrap, item) = (agreed.header.object(), agreed.header.wrap(), &agreed.item);
        let wrong = |what: &str| Err(Failure::new(WRONG_LABEL, format!("{}:{}: {what}", asked.namespace, asked.path)));
        if object.cluster != self.profile.cluster.0 {
            return wrong("the header is of another cluster");
        }
        if wrap.namespace != asked.namespace || wrap.path != asked.path {
            return wrong("the header is of another path");
        }
        if object.secret_id != *item.secret_id || object.version_id != *item.version_id {
            return wrong("the header is of another version");
        }
        if wrap.keyring_id != *item.keyring_id {
            return wrong("the header is wrapped to another keyring than the members name");
        }
        let not_pinned = |what: String| Failure::new(NOT_PINNED, format!("{}:{}: {what}", asked.namespace, asked.path));
        let keyring = self
            .profile
            .keyring(&wrap.keyring_id)
            .ok_or_else(|| not_pinned(format!("keyring {} is not pinned", hex(&wrap.keyring_id))))?;
        let parts = &agreed.header.slot().parts;
        for part in parts {
            let pinned = self.profile.customer_key(&part.cust_key_id).is_some_and(|key| key.suite() == part.suite);
            if !pinned {
                return Err(not_pinned(format!("customer key {} is not pinned", hex(&part.cust_key_id))));
            }
        }
        let named: Vec<_> = parts.iter().map(|p| (p.suite, p.cust_key_id)).collect();
        agreed.header.check_slot(keyring, &named).map_err(|why| not_pinned(why.to_string()))
    }

    fn open_with(
        &self,
        agreed: &Agreed,
        partials: &[(MemberIndex, [u8; 32])],
        kcs: &[Secret<32>],
    ) -> Result<SecretVec, Unopened> {
        let Some(partials) = partials.get(..self.threshold()) else { return Err(Unopened::Partials) };
        let Ok(ss1) = combine(partials) else { return Err(Unopened::Partials) };
        let header = &agreed.header;
        let Some(keyring) = self.profile.keyring(&header.wrap().keyring_id) else { return Err(Unopened::Partials) };
        let blame = |who: &str, why: OpenError| {
            Unopened::For(Failure::new(DOES_NOT_OPEN, format!("{}, {who}: {why}", name(header))))
        };
        open(header, &agreed.payload, &keyring.y, &ss1, kcs).map_err(|why| match why {
            OpenError::KeyCommitment => Unopened::Partials,
            OpenError::WrappedKey | OpenError::DekCommitment => {
                blame(&format!("wrapped by {}", header.wrap().wrapped_by), why)
            }
            OpenError::PayloadTag | OpenError::Padding => {
                blame(&format!("written by {}", header.object().writer_id), why)
            }
            OpenError::OtherKeyring
            | OpenError::CustomerValues { .. }
            | OpenError::PayloadLength
            | OpenError::PayloadHash => blame("as the members hold it", why),
        })
    }
}

/// Why a version stayed shut.
enum Unopened {
    /// A partial or a customer's value is wrong.
    Partials,
    /// For a reason that no other partials change.
    For(Failure),
}

fn name(header: &Header) -> String {
    format!("{}:{}", header.wrap().namespace, header.wrap().path)
}

fn finish(agreed: &Agreed, plaintext: SecretVec) -> Opened {
    let object = agreed.header.object();
    Opened {
        plaintext,
        secret: SecretId(object.secret_id),
        version: VersionId(object.version_id),
        number: agreed.item.number,
        newest: agreed.item.newest,
        writer: object.writer_id.clone(),
        created: object.created,
    }
}
