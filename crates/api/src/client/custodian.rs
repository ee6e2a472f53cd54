//! The customer's part: from a key in this process, or from a custodian.

use super::call;
use crate::custodian::custodian_client::CustodianClient;
use crate::custodian::{DeriveItem, DeriveRequest, FreezeRequest, StatusReply, StatusRequest, ThawRequest};
use crate::status::{CLIENT_SETUP, CUSTODIAN_OTHER_KEY, Failure, INTERNAL, NO_CUSTOMER_KEY};
use crate::tls::{CLIENT, TlsIdentity, connect};
use quorate_crypto::customer::{CustomerError, CustomerPublic, CustomerSecret, Part, PartSuite, derive_kc};
use quorate_crypto::encoding::{Reader, lp};
use quorate_crypto::sealed::Header;
use quorate_crypto::secret::Secret;
use quorate_state::ids::hex;
use rand_core::CryptoRng;
use std::time::Duration;
use tonic::transport::Channel;
use zeroize::Zeroizing;

/// How long a custodian may take; an HSM behind it is slow.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a client gets the customer's part of what it opens.
#[derive(Debug)]
pub enum CustomerSource {
    /// Nowhere: only class `cluster` opens.
    None,
    /// From a key in this process.
    InProcess(CustomerSecret),
    /// From a custodian.
    Custodian(Custodian),
}

/// What a source is asked about one version: its labels, and the parts in the order of the slot.
pub(super) struct Wanted {
    name: String,
    object: Vec<u8>,
    wrap: Vec<u8>,
    parts: Vec<Part>,
}

impl Wanted {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            name: format!("{}:{}", header.wrap().namespace, header.wrap().path),
            object: header.object_bytes(),
            wrap: header.wrap_bytes(),
            parts: header.slot().parts.clone(),
        }
    }

    /// The same labels, so that a custodian's rules say the same, with parts made a moment ago; and the values that the
    /// holder of these keys must give. A key that is not there is left out: nothing can be said about it.
    pub(super) fn test(&self, keys: &[&CustomerPublic], rng: &mut impl CryptoRng) -> (Self, Vec<Secret<32>>) {
        let seals = keys.iter().filter_map(|key| key.test_seal(&self.object, &self.wrap, rng).ok());
        let (parts, values) = seals.unzip();
        (Self { name: self.name.clone(), object: self.object.clone(), wrap: self.wrap.clone(), parts }, values)
    }
}

/// One result for each version that was asked about: `Kc` of each part, in the order of the slot.
type Derived = Vec<Result<Vec<Secret<32>>, Failure>>;

impl CustomerSource {
    /// `Kc` of each part of each version, in the order of the slots.
    pub(super) async fn derive(&self, request_id: &[u8; 16], wanted: &[Wanted]) -> Result<Derived, Failure> {
        match self {
            Self::None => Ok(wanted
                .iter()
                .map(|version| match version.parts.len() {
                    0 => Ok(Vec::new()),
                    n => Err(Failure::new(NO_CUSTOMER_KEY, format!("{} needs {n} customer parts", version.name))),
                })
                .collect()),
            Self::InProcess(secret) => Ok(wanted
                .iter()
                .map(|version| version.parts.iter().map(|part| in_process(secret, version, part)).collect())
                .collect()),
            Self::Custodian(custodian) => custodian.derive_each(request_id, wanted).await,
        }
    }
}

fn in_process(secret: &CustomerSecret, version: &Wanted, part: &Part) -> Result<Secret<32>, Failure> {
    derive_kc(secret, &version.object, &version.wrap, part).map_err(|why| match why {
        CustomerError::OtherKey => {
            let what = other_key(part, secret.public());
            Failure::new(CUSTODIAN_OTHER_KEY, format!("{}: {what} in this process", version.name))
        }
        // A malformed part was never accepted by a member, and no header with one decodes.
        _ => Failure::new(INTERNAL, format!("{}: {why}", version.name)),
    })
}

/// Which customer key a part is sealed to, and which one is there instead.
#[must_use]
pub fn other_key(part: &Part, held: &CustomerPublic) -> String {
    format!(
        "customer key {} (part suite {}) is needed, and {} (part suite {}) is the one",
        hex(&part.cust_key_id),
        part.suite.as_u8(),
        hex(&held.id()),
        held.suite().as_u8()
    )
}

/// A client of a custodian.
#[derive(Debug, Clone)]
pub struct Custodian(CustodianClient<Channel>);

impl Custodian {
    /// The custodian at `address` (`host:port`) whose Ed25519 key is `key`, as the caller `identity`: a certificate of the
    /// customer's own CA.
    ///
    /// # Errors
    /// `client_setup`.
    pub fn new(address: &str, key: [u8; 32], identity: &TlsIdentity) -> Result<Self, Failure> {
        let channel =
            connect(address, key, identity, "custodian", CLIENT).map_err(|why| Failure::new(CLIENT_SETUP, why))?;
        Ok(Self(CustodianClient::new(channel)))
    }

    /// `Kc` of each part of each header, in the order of the slots. `request_id` is the one under which the members were
    /// asked, so that the audit records of both sides meet.
    ///
    /// # Errors
    /// Of the whole: `unreachable`, `bad_answer`. Of one header: what the custodian refused.
    pub async fn derive(&self, request_id: &[u8; 16], headers: &[&Header]) -> Result<Derived, Failure> {
        let wanted: Vec<Wanted> = headers.iter().map(|header| Wanted::of(header)).collect();
        self.derive_each(request_id, &wanted).await
    }

    async fn derive_each(&self, request_id: &[u8; 16], wanted: &[Wanted]) -> Result<Derived, Failure> {
        let item = |version: &Wanted, part: &Part| DeriveItem {
            object_label: version.object.clone(),
            wrap_label: version.wrap.clone(),
            part: encode_part(part),
        };
        let items = wanted.iter().flat_map(|version| version.parts.iter().map(move |part| item(version, part)));
        let mut values = self.ask(request_id, items.collect()).await?.into_iter();
        Ok(wanted
            .iter()
            // Each version takes its values even if one of them is a refusal.
            .map(|version| {
                let own: Vec<_> = values.by_ref().take(version.parts.len()).collect();
                let named =
                    |failure: Failure| Failure { message: format!("{}: {}", version.name, failure.message), ..failure };
                own.into_iter().collect::<Result<Vec<_>, _>>().map_err(named)
            })
            .collect())
    }

    async fn ask(
        &self,
        request_id: &[u8; 16],
        items: Vec<DeriveItem>,
    ) -> Result<Vec<Result<Secret<32>, Failure>>, Failure> {
        let asked = items.len();
        if asked == 0 {
            return Ok(Vec::new());
        }
        let request = DeriveRequest { request_id: request_id.to_vec(), items };
        let reply = call(TIMEOUT, self.0.clone().derive(request)).await?;
        if reply.items.len() != asked {
            let what = format!("the custodian answered {} of {asked} items", reply.items.len());
            return Err(Failure::new(crate::status::BAD_ANSWER, what));
        }
        Ok(reply
            .items
            .into_iter()
            .map(|item| {
                let value = Zeroizing::new(item.value);
                if !item.refusal.is_empty() {
                    return Err(Failure::from_words(&item.refusal, format!("the custodian refuses: {}", item.reason)));
                }
                Secret::from_slice(&value)
                    .ok_or_else(|| Failure::new(crate::status::BAD_ANSWER, "the custodian's value has not 32 bytes"))
            })
            .collect())
    }

    /// Stops every derivation from here on, across restarts.
    ///
    /// # Errors
    /// The custodian's.
    pub async fn freeze(&self, reason: &str) -> Result<StatusReply, Failure> {
        call(TIMEOUT, self.0.clone().freeze(FreezeRequest { reason: reason.to_owned() })).await
    }

    /// Ends a freeze.
    ///
    /// # Errors
    /// The custodian's.
    pub async fn thaw(&self) -> Result<StatusReply, Failure> {
        call(TIMEOUT, self.0.clone().thaw(ThawRequest {})).await
    }

    /// Which key it holds, and whether it is frozen.
    ///
    /// # Errors
    /// The custodian's.
    pub async fn status(&self) -> Result<StatusReply, Failure> {
        call(TIMEOUT, self.0.clone().status(StatusRequest {})).await
    }
}

/// A part as it stands in a slot: `suite || cust_key_id || LP ct`.
#[must_use]
pub fn encode_part(part: &Part) -> Vec<u8> {
    let mut out = vec![part.suite.as_u8()];
    out.extend_from_slice(&part.cust_key_id);
    lp(&mut out, &part.ct);
    out
}

/// The inverse of [`encode_part`], for custodians. [`Part::check`] is still to be called, which `derive_kc` does.
#[must_use]
pub fn decode_part(bytes: &[u8]) -> Option<Part> {
    let mut r = Reader::new(bytes);
    let [suite] = r.array().ok()?;
    let part = Part { suite: PartSuite::from_u8(suite)?, cust_key_id: r.array().ok()?, ct: r.lp().ok()?.to_vec() };
    r.finish().ok()?;
    Some(part)
}
