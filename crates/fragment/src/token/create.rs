//! Making a customer key inside a token. What was begun and did not end well is taken away again.

use super::error::TokenError;
use super::module::{Module, Opened};
use super::pin::Pin;
use super::session::{P256, Refused, find_key, log_in, public_of};
use super::{Expected, kem_label};
use crate::kem::WrappedKem;
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use quorate_crypto::customer::{CustomerPublic, PartSuite};
use quorate_crypto::secret::Secret;
use rand_core::CryptoRng;
use std::path::Path;
use std::sync::OnceLock;

/// What was made.
#[derive(Debug)]
pub struct Created {
    /// The public key.
    pub public: CustomerPublic,
    /// The file of the ML-KEM key, in suite 1. Without it and its copies the customer key is lost.
    pub kem: Option<Vec<u8>>,
}

/// Makes a customer key of `suite` with the label `key` in the token of that serial number or label.
///
/// # Errors
/// [`TokenError`]. Nothing is left behind, and nothing is written over.
pub fn create(
    module: &Path,
    token: &str,
    key: &str,
    suite: PartSuite,
    pin: &Pin,
    rng: &mut impl CryptoRng,
) -> Result<Created, TokenError> {
    let module = Module::load(module)?;
    let refused = Refused::default();
    let opened = log_in(&module, token, pin, &refused, true)?;
    let mut made = Vec::new();
    let created = make(&module, &opened, token, key, suite, rng, &mut made);
    let created = created.and_then(|created| {
        // In a session of its own, as the custodian will: what cannot be used is not handed over.
        let kem = created.kem.as_deref().map(|file| WrappedKem::decode(file, &created.public.id())).transpose();
        let kem = kem.map_err(|why| TokenError::Kem { token: token.to_owned(), why })?;
        let expected = Expected { key: key.to_owned(), public: created.public.clone(), kem, seed: OnceLock::new() };
        super::session::Connection::open(&module, token, &expected, pin, &refused)?.close(&module);
        Ok(created)
    });
    if created.is_err() {
        let _ = module.call(&opened, |session| made.iter().for_each(|object| drop(session.destroy_object(*object))));
    }
    module.close(opened);
    created
}

fn make(
    module: &Module,
    opened: &Opened,
    token: &str,
    key: &str,
    suite: PartSuite,
    rng: &mut impl CryptoRng,
    made: &mut Vec<ObjectHandle>,
) -> Result<Created, TokenError> {
    let gone = |_| TokenError::NoToken(token.to_owned());
    module
        .call(opened, |session| {
            for label in [key.to_owned(), kem_label(key)] {
                let taken = session.find_objects(&[Attribute::Label(label.as_bytes().to_vec())]);
                if !taken.map_err(|error| TokenError::of(token, &error))?.is_empty() {
                    return Err(TokenError::KeyExists { token: token.to_owned(), key: label });
                }
            }
            let mut id = [0; 16];
            rng.fill_bytes(&mut id);
            let point = key_pair(session, key, id, made).map_err(|error| TokenError::of(token, &error))?;
            let device = public_of(token, key, &point)?;
            let (_, facts) = find_key(session, token, key)?;
            if !facts.local || !facts.never_extractable {
                let why = "the token does not say that it was made inside and never was extractable".to_owned();
                return Err(TokenError::UnfitKey { token: token.to_owned(), key: key.to_owned(), why });
            }
            if suite == PartSuite::P256 {
                return Ok(Created { public: device, kem: None });
            }
            let seed = Secret::random(rng);
            let kem = |why| TokenError::Kem { token: token.to_owned(), why };
            let public = CustomerPublic::of_device(device.point(), Some(&seed));
            let public = public.map_err(|_| kem(crate::kem::KemError::Malformed))?;
            let label = kem_label(key);
            let wrapped = WrappedKem::seal(&seed, public.id(), rng, |iv, secret| {
                let encrypted = wrapping_key(session, &label, made)
                    .and_then(|aes| session.encrypt(&Mechanism::AesCbc(*iv), aes, secret.expose()));
                let encrypted = encrypted.map_err(|error| TokenError::of(token, &error))?;
                let why = "32 bytes that were encrypted are not 32 bytes";
                encrypted.try_into().map_err(|_| TokenError::WrongAnswer { token: token.to_owned(), why })
            })?;
            Ok(Created { public, kem: Some(wrapped.map_err(kem)?.encode()) })
        })
        .map_err(gone)?
}

/// Makes the pair; answers the public point as the token gives it.
fn key_pair(session: &Session, key: &str, id: [u8; 16], made: &mut Vec<ObjectHandle>) -> Result<Vec<u8>, Error> {
    let named = || [Attribute::Token(true), Attribute::Label(key.as_bytes().to_vec()), Attribute::Id(id.to_vec())];
    let public: Vec<Attribute> =
        named().into_iter().chain([Attribute::Private(false), Attribute::EcParams(P256.to_vec())]).collect();
    let private: Vec<Attribute> = named()
        .into_iter()
        .chain([
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Derive(true),
            // One purpose: what signs could be made to sign something.
            Attribute::Sign(false),
        ])
        .collect();
    let (public, private) = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    made.extend([public, private]);
    let said = session.get_attributes(public, &[AttributeType::EcPoint])?;
    let mut points =
        said.into_iter().filter_map(|a| if let Attribute::EcPoint(point) = a { Some(point) } else { None });
    Ok(points.next().unwrap_or_default())
}

/// Makes the AES key that opens the file of the ML-KEM key.
fn wrapping_key(session: &Session, label: &str, made: &mut Vec<ObjectHandle>) -> Result<ObjectHandle, Error> {
    let template = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(32.into()),
    ];
    let aes = session.generate_key(&Mechanism::AesKeyGen, &template)?;
    made.push(aes);
    Ok(aes)
}
