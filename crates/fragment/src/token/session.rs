//! One session with one token: logged in, its key found and proved to be the right one, and then one thing again and again, `x(d P)`.

use super::Expected;
use super::error::TokenError;
use super::module::{Module, Opened, Outlived};
use super::pin::{Pin, take_secret};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use quorate_crypto::customer::{CustomerPublic, is_x_coordinate};
use quorate_crypto::secret::Secret;
use rand_core::UnwrapErr;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// `OBJECT IDENTIFIER secp256r1`, DER: what `CKA_EC_PARAMS` says of P-256.
pub(super) const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The refusal of a token's PIN, once there was one: no session tries after that.
pub(super) type Refused = Mutex<Option<TokenError>>;

/// How a token wants points. PKCS#11 asks for the raw one; some modules read only what they write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    /// In a DER OCTET STRING.
    Der,
}

/// What a private key says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFacts {
    /// Made in this token, not brought in.
    pub local: bool,
    /// Was never extractable: no copy of it is anywhere, unless the vendor made one.
    pub never_extractable: bool,
}

/// Why a session did not answer.
pub(super) enum Trouble {
    /// The module began a new life.
    Outlived,
    Token(TokenError),
}

impl From<Outlived> for Trouble {
    fn from(_: Outlived) -> Self {
        Self::Outlived
    }
}

impl From<TokenError> for Trouble {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Trouble {
    /// What is told of it.
    pub(super) fn told(self, token: &str) -> TokenError {
        match self {
            Self::Outlived => {
                TokenError::Failed { token: token.to_owned(), why: "the module was initialised anew".to_owned() }
            }
            Self::Token(error) => error,
        }
    }
}

/// A session that answers.
pub(super) struct Connection {
    opened: Opened,
    key: ObjectHandle,
    form: Form,
    token: String,
    pub(super) facts: KeyFacts,
}

impl Connection {
    /// Opens a session, logs in, finds the key, and has it answer a challenge: what does not fit is found here, not at the first
    /// question of a caller.
    pub(super) fn open(
        module: &Module,
        token: &str,
        expected: &Expected,
        pin: &Pin,
        refused: &Refused,
    ) -> Result<Self, TokenError> {
        let opened = log_in(module, token, pin, refused, false)?;
        match Self::prove(module, &opened, token, expected) {
            Ok((key, facts, form)) => Ok(Self { opened, key, form, token: token.to_owned(), facts }),
            Err(trouble) => {
                module.close(opened);
                Err(trouble.told(token))
            }
        }
    }

    fn prove(
        module: &Module,
        opened: &Opened,
        token: &str,
        expected: &Expected,
    ) -> Result<(ObjectHandle, KeyFacts, Form), Trouble> {
        let (key, facts) = module.call(opened, |session| find_key(session, token, &expected.key))??;
        let raw = challenge(module, opened, token, key, Form::Raw, expected);
        let form = match raw {
            Ok(()) => Form::Raw,
            Err(Trouble::Token(first @ TokenError::Failed { .. })) => {
                challenge(module, opened, token, key, Form::Der, expected).map_err(|_| Trouble::Token(first))?;
                Form::Der
            }
            Err(other) => return Err(other),
        };
        if let Some(wrapped) = &expected.kem
            && expected.seed.get().is_none()
        {
            let open = |session: &Session| {
                let label = super::kem_label(&expected.key);
                wrapped.open(|iv, encrypted| {
                    let aes = find_wrapping_key(session, token, &label)?;
                    let clear = session.decrypt(&Mechanism::AesCbc(*iv), aes, encrypted);
                    let clear = clear.map_err(|error| TokenError::of(token, &error))?;
                    let why = "a block that was decrypted has not 32 bytes";
                    take_secret(clear).ok_or(TokenError::WrongAnswer { token: token.to_owned(), why })
                })
            };
            let kem = |why| TokenError::Kem { token: token.to_owned(), why };
            let seed = module.call(opened, open)??.map_err(kem)?;
            if !expected.public.is_of_seed(&seed) {
                return Err(kem(crate::kem::KemError::OtherKey).into());
            }
            // Another session may have been faster: with the same.
            let _ = expected.seed.set(seed);
        }
        Ok((key, facts, form))
    }

    /// `x(d P)`. The point has been seen to be on the curve; the answer is one that a point can have.
    pub(super) fn multiply(&self, module: &Module, point: &[u8]) -> Result<Secret<32>, Trouble> {
        multiply(module, &self.opened, &self.token, self.key, self.form, point)
    }

    /// Asks something whose answer is known.
    pub(super) fn check(&self, module: &Module, expected: &Expected) -> Result<(), Trouble> {
        challenge(module, &self.opened, &self.token, self.key, self.form, expected)
    }

    pub(super) fn close(self, module: &Module) {
        module.close(self.opened);
    }
}

/// Opens a session and logs in, where the token's flags allow a try.
pub(super) fn log_in(
    module: &Module,
    token: &str,
    pin: &Pin,
    refused: &Refused,
    writing: bool,
) -> Result<Opened, TokenError> {
    let (slot, _) = module.find(token)?;
    let opened = module.open(slot, writing).map_err(|error| TokenError::of(token, &error))?;
    match try_pin(module, &opened, slot, token, pin, refused) {
        Ok(()) => Ok(opened),
        Err(trouble) => {
            module.close(opened);
            Err(trouble.told(token))
        }
    }
}

/// Logs in. One session at a time, so that a wrong PIN is tried once and not once by each.
fn try_pin(
    module: &Module,
    opened: &Opened,
    slot: Slot,
    token: &str,
    pin: &Pin,
    refused: &Refused,
) -> Result<(), Trouble> {
    let of = |error: Error| TokenError::of(token, &error);
    let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(refusal) = &*refused {
        return Err(refusal.clone().into());
    }
    let state = module.call(opened, Session::get_session_info)?.map_err(of)?.session_state();
    if matches!(state, SessionState::RoUser | SessionState::RwUser) {
        return Ok(());
    }
    pin.may_try(&module.info(slot).map_err(of)?)?;
    match module.call(opened, |session| session.login(UserType::User, Some(pin.secret())))? {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => {
            let why = Pin::refused(token, &error, module.info(slot).ok().as_ref());
            if why.is_final() {
                *refused = Some(why.clone());
            }
            Err(why.into())
        }
    }
}

/// The private key of this label, which must be the only one that could be meant.
pub(super) fn find_key(session: &Session, token: &str, label: &str) -> Result<(ObjectHandle, KeyFacts), TokenError> {
    let (token, key) = (token.to_owned(), label.to_owned());
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label.as_bytes().to_vec())];
    let found = session.find_objects(&template).map_err(|error| TokenError::of(&token, &error))?;
    let mut unfit = None;
    let mut fit = Vec::new();
    for object in found {
        match key_facts(session, object) {
            Ok(facts) => fit.push((object, facts)),
            Err(why) => unfit = Some(why),
        }
    }
    match (fit.pop(), fit.is_empty(), unfit) {
        (Some(one), true, None) => Ok(one),
        // What is unfit and bears the same name was put there to be mistaken for it, or by mistake.
        (Some(_), _, _) => Err(TokenError::AmbiguousKey { token, key }),
        (None, _, Some(why)) => Err(TokenError::UnfitKey { token, key, why }),
        (None, _, None) => Err(TokenError::NoKey { token, key }),
    }
}

/// What a private key says of itself, or why it cannot be a customer key.
fn key_facts(session: &Session, object: ObjectHandle) -> Result<KeyFacts, String> {
    let asked = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Derive,
        AttributeType::AlwaysAuthenticate,
        AttributeType::Local,
        AttributeType::NeverExtractable,
    ];
    let said = session.get_attributes(object, &asked).map_err(|error| super::error::words(&error))?;
    let is = |wanted: &Attribute| said.contains(wanted);
    let curve =
        said.iter().find_map(|a| if let Attribute::EcParams(curve) = a { Some(curve.as_slice()) } else { None });
    if !is(&Attribute::KeyType(KeyType::EC)) {
        return Err("it is no EC key".to_owned());
    }
    if curve.is_some_and(|curve| curve != P256) {
        return Err("it is on another curve than P-256".to_owned());
    }
    if !is(&Attribute::Sensitive(true)) || !is(&Attribute::Extractable(false)) {
        return Err("it can be taken out of the token (CKA_SENSITIVE, CKA_EXTRACTABLE)".to_owned());
    }
    if is(&Attribute::Derive(false)) {
        return Err("it may not derive (CKA_DERIVE)".to_owned());
    }
    if is(&Attribute::AlwaysAuthenticate(true)) {
        return Err("it asks for the PIN at each use (CKA_ALWAYS_AUTHENTICATE)".to_owned());
    }
    let (local, never) = (is(&Attribute::Local(true)), is(&Attribute::NeverExtractable(true)));
    Ok(KeyFacts { local, never_extractable: never })
}

/// The AES key that opens the file of the ML-KEM key.
pub(super) fn find_wrapping_key(session: &Session, token: &str, label: &str) -> Result<ObjectHandle, TokenError> {
    let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
    let found = session.find_objects(&template).map_err(|error| TokenError::of(token, &error))?;
    let (token, key) = (token.to_owned(), label.to_owned());
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(TokenError::NoKey { token, key }),
        [..] => Err(TokenError::AmbiguousKey { token, key }),
    }
}

fn challenge(
    module: &Module,
    opened: &Opened,
    token: &str,
    key: ObjectHandle,
    form: Form,
    expected: &Expected,
) -> Result<(), Trouble> {
    let asked = expected.public.challenge(&mut UnwrapErr(getrandom::SysRng));
    let why = "the machine's randomness gives no question to ask";
    let asked = asked.map_err(|_| TokenError::WrongAnswer { token: token.to_owned(), why })?;
    let x = multiply(module, opened, token, key, form, &asked.point)?;
    if bool::from(x.ct_eq(&asked.x)) {
        return Ok(());
    }
    Err(TokenError::OtherKey { token: token.to_owned(), key: expected.key.clone() }.into())
}

fn multiply(
    module: &Module,
    opened: &Opened,
    token: &str,
    key: ObjectHandle,
    form: Form,
    point: &[u8],
) -> Result<Secret<32>, Trouble> {
    let wrong = |why| TokenError::WrongAnswer { token: token.to_owned(), why };
    let encoded = match form {
        Form::Raw => point.to_vec(),
        Form::Der => octet_string(point).ok_or_else(|| wrong("a point too long to be asked for"))?,
    };
    let value = module.call(opened, |session| derive(session, key, &encoded))?;
    let value = value.map_err(|error| TokenError::of(token, &error))?;
    let value = value.ok_or_else(|| wrong("the derived value cannot be read"))?;
    let x = take_secret::<32>(value).ok_or_else(|| wrong("the derived value has not 32 bytes"))?;
    if is_x_coordinate(&x) { Ok(x) } else { Err(wrong("the derived value is no coordinate of a point").into()) }
}

/// ECDH1-DERIVE with no key derivation: that is ours, and bound to the label. The result is an object of the session, read and destroyed.
fn derive(session: &Session, key: ObjectHandle, point: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::ValueLen(32.into()),
    ];
    let object = session.derive_key(&mechanism, key, &template)?;
    let read = session.get_attributes(object, &[AttributeType::Value]);
    // Whatever became of the reading: what stays would be there for every session of this process.
    let destroyed = session.destroy_object(object);
    let mut values = read?.into_iter().filter_map(|a| if let Attribute::Value(value) = a { Some(value) } else { None });
    let value = values.next();
    if let Err(error) = destroyed {
        if let Some(mut value) = value {
            value.zeroize();
        }
        return Err(error);
    }
    Ok(value)
}

/// A DER OCTET STRING of a point.
pub(super) fn octet_string(point: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(point.len()).ok().filter(|length| *length < 0x80)?;
    Some([&[0x04, length], point].concat())
}

/// The raw point of `CKA_EC_POINT`, which is in a DER OCTET STRING, or with some modules is not.
pub(super) fn raw_point(said: &[u8]) -> &[u8] {
    match said {
        [0x04, 0x41, point @ ..] if point.len() == 65 => point,
        raw => raw,
    }
}

/// The public key of a point, as suite 2.
pub(super) fn public_of(token: &str, key: &str, point: &[u8]) -> Result<CustomerPublic, TokenError> {
    let why = "its public key is no point of P-256".to_owned();
    let unfit = |_| TokenError::UnfitKey { token: token.to_owned(), key: key.to_owned(), why };
    CustomerPublic::of_device(raw_point(point), None).map_err(unfit)
}
