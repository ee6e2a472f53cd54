//! The customer's part: from a key in this process, or from a custodian.

use super::call;
use crate::custodian::custodian_client::CustodianClient;
use crate::custodian::{DeriveItem, DeriveRequest, FreezeRequest, StatusReply, StatusRequest, ThawRequest};
use crate::status::{CLIENT_SETUP, CUSTODIAN_OTHER_KEY, Failure, NO_CUSTOMER_KEY};
use crate::tls::{CLIENT, TlsIdentity, connect};
use quorate_crypto::customer::{CustomerSecret, Part, PartSuite, derive_kc};
use quorate_crypto::encoding::{Reader, lp};
use quorate_crypto::sealed::Header;
use quorate_crypto::secret::Secret;
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

impl CustomerSource {
    /// `Kc` of each part of each header, in the order of the slots.
    pub(super) async fn derive(
        &self,
        request_id: &[u8; 16],
        headers: &[&Header],
    ) -> Result<Vec<Result<Vec<Secret<32>>, Failure>>, Failure> {
        match self {
            Self::None => Ok(headers
                .iter()
                .map(|header| match header.slot().parts.len() {
                    0 => Ok(Vec::new()),
                    n => Err(Failure::new(NO_CUSTOMER_KEY, format!("{} needs {n} customer parts", header.wrap().path))),
                })
                .collect()),
            Self::InProcess(secret) => Ok(headers
                .iter()
                .map(|header| {
                    let (object, wrap) = (header.object_bytes(), header.wrap_bytes());
                    let derive = |part| derive_kc(secret, &object, &wrap, part);
                    let kcs = header.slot().parts.iter().map(derive).collect::<Result<_, _>>();
                    kcs.map_err(|why| Failure::new(CUSTODIAN_OTHER_KEY, why))
                })
                .collect()),
            Self::Custodian(custodian) => custodian.derive(request_id, headers).await,
        }
    }
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
    pub async fn derive(
        &self,
        request_id: &[u8; 16],
        headers: &[&Header],
    ) -> Result<Vec<Result<Vec<Secret<32>>, Failure>>, Failure> {
        let item = |header: &&Header| {
            let (object_label, wrap_label) = (header.object_bytes(), header.wrap_bytes());
            let parts = header.slot().parts.iter();
            parts
                .map(move |p| DeriveItem {
                    object_label: object_label.clone(),
                    wrap_label: wrap_label.clone(),
                    part: encode_part(p),
                })
                .collect::<Vec<_>>()
        };
        let items: Vec<DeriveItem> = headers.iter().flat_map(item).collect();
        let mut values = self.ask(request_id, items).await?.into_iter();
        Ok(headers
            .iter()
            // Each header takes its values even if one of them is a refusal.
            .map(|header| {
                let own: Vec<_> = values.by_ref().take(header.slot().parts.len()).collect();
                own.into_iter().collect::<Result<Vec<_>, _>>()
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
