//! What administrators decide by themselves: new client CAs, when nobody may be left whom the old ones admit.
//!
//! Everything else takes a client whom the client CA vouches for and a policy that allows it. This takes neither, since it is what
//! mends the first; it takes m of the k administrators' signatures, and t members, as everything does.

use crate::identity::{root_end, root_is_usable};
use quorate_state::change::{Change, Kind, Resource};
use quorate_state::genesis::Administrators;
use quorate_state::ids::{Millis, hex};
use quorate_state::outcome::Refusal;
use quorate_state::request::Verified;
use quorate_state::request::{Request, SignedRequest};

/// The right to one [`Change::SetClientRoots`], which m administrators signed.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Mandate {
    bearer: String,
}

/// What an administrator who brings a request calls itself in it.
#[must_use]
pub fn bearer_name(key: &[u8; 32]) -> String {
    format!("administrator:{}", hex(key))
}

impl Mandate {
    /// Checks a request that no client stands behind.
    ///
    /// # Security
    /// Of no use for any other change, whoever signed it: with m administrators' signatures alone, policies stay what they are.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`] when it is of another kind, or is not brought by an administrator under its own name;
    /// [`Refusal::NotByAdministrators`] when too few signed.
    pub fn of(
        signed: &SignedRequest,
        request: &Request,
        administrators: &Administrators,
        seen: &Verified,
    ) -> Result<Self, Refusal> {
        let Change::SetClientRoots { .. } = request.change else { return Err(Refusal::BadSignature) };
        let bearer = signed.caller().filter(|key| administrators.keys.contains(key));
        let bearer = bearer.map(bearer_name).ok_or(Refusal::BadSignature)?;
        if request.principal != bearer {
            return Err(Refusal::BadSignature);
        }
        signed.verify(request, administrators, seen)?;
        Ok(Self { bearer })
    }

    /// Who brought it, as audit records name it.
    #[must_use]
    pub fn bearer(&self) -> &str {
        &self.bearer
    }

    /// May do what.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::SetClientRoots
    }

    /// On what.
    #[must_use]
    pub fn resource(&self) -> Resource {
        Resource::Cluster
    }
}

/// Whether a cluster whose client CAs these are would admit anybody at `now`.
///
/// # Errors
/// [`Refusal::Invalid`] naming the first certificate that is no CA's, has a key of another kind, or has ended.
pub fn check_client_roots(certificates: &[Vec<u8>], now: Millis) -> Result<(), Refusal> {
    for der in certificates {
        if !root_is_usable(der) {
            let why = "one is not the certificate of a CA with an Ed25519 or ECDSA P-256 key";
            return Err(Refusal::invalid("certificates", why));
        }
        if root_end(der).is_none_or(|end| end < now) {
            return Err(Refusal::invalid("certificates", "one has ended already"));
        }
    }
    Ok(())
}
