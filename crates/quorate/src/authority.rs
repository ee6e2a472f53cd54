//! Certificate authorities of people: the operator's for callers of the cluster, a customer's for callers of a custodian.
//!
//! The key lies in a file sealed by a passphrase, is open while it signs, and never on a node or custodian.

use crate::duration::instant;
use crate::files;
use crate::output::progress;
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_api::tls::ed25519_key;
use quorate_authz::spiffe::SpiffeId;
use quorate_authz::{root_begin, root_end, told_ahead};
use quorate_crypto::identity::SigningKey;
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_server::env::Env;
use quorate_state::ids::Millis;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::path::Path;
use time::OffsetDateTime;
use zeroize::{Zeroize as _, Zeroizing};

/// How long a CA is valid when nobody says.
pub(crate) const CA_LIFE: Millis = 10 * 365 * 86_400_000;
/// How far clocks may differ.
pub(crate) const SKEW: Millis = 60_000;

/// A CA in a folder: `<name>.key`, sealed, and `<name>.pem`.
pub(crate) struct Authority {
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a CA. `name` is the purpose of the sealed file as well.
    pub(crate) fn create(
        folder: &Path,
        name: &str,
        trust_domain: &str,
        life: Millis,
        passphrases: &Passphrases,
        env: &Env,
    ) -> anyhow::Result<Self> {
        let key = SigningKey::generate(&mut env.rng());
        let pair = key_pair(&key)?;
        let params = ca_params(name, trust_domain, env.clock.wall(), life)?;
        let certificate = params.self_signed(&pair)?;
        let what = format!("the key of the CA ({name}.key)");
        let sealed = passphrases.seal(name, &what, key.seed().expose(), &mut env.rng())?;
        files::make(&folder.join(format!("{name}.key")), &sealed, files::PRIVATE)?;
        files::make(&folder.join(format!("{name}.pem")), certificate.pem().as_bytes(), files::PUBLIC)?;
        Ok(Self { certificate: certificate.der().to_vec(), issuer: Issuer::new(params, pair) })
    }

    /// Opens a CA.
    pub(crate) fn open(
        folder: &Path,
        name: &str,
        trust_domain: &str,
        passphrases: &Passphrases,
        env: &Env,
    ) -> anyhow::Result<Self> {
        let key = signing_key(&passphrases.open(name, &folder.join(format!("{name}.key")))?)?;
        let path = folder.join(format!("{name}.pem"));
        let certificate = quorate_api::client::certificates(&files::read(&path)?)?.pop();
        let certificate = certificate.with_context(|| format!("{} holds no certificate", path.display()))?;
        if ed25519_key(&certificate.as_slice().into()) != Some(key.verify_key().0) {
            anyhow::bail!("{} is not the certificate of {name}.key beside it", path.display());
        }
        // Only the name and the key count for what it issues.
        let params = ca_params(name, trust_domain, 0, CA_LIFE)?;
        let opened = Self { certificate, issuer: Issuer::new(params, key_pair(&key)?) };
        opened.warn(&path.display().to_string(), env.clock.wall());
        Ok(opened)
    }

    /// The CA's certificate, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Tells people when it ends soon, or has.
    fn warn(&self, name: &str, now: Millis) {
        let (Some(from), Some(to)) = (root_begin(&self.certificate), root_end(&self.certificate)) else { return };
        if to < now {
            progress(format_args!(
                "warning: {name} has ended on {}: nobody is admitted with what it issues; make another one with \
                 `quorate client-ca replace`, or whoever's CA it is",
                instant(to)
            ));
        } else if to - now < told_ahead(from, to) {
            progress(format_args!("warning: {name} ends on {}, and with it whatever it has issued", instant(to)));
        }
    }

    /// Issues an identity: a fresh key and a certificate for `id`, as the PEM file that clients load.
    pub(crate) fn issue(&self, id: &SpiffeId, ttl: Millis, env: &Env) -> anyhow::Result<Zeroizing<String>> {
        let key = SigningKey::generate(&mut env.rng());
        let pair = key_pair(&key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id.path());
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let now = env.clock.wall();
        (params.not_before, params.not_after) = (moment(now.saturating_sub(SKEW))?, moment(now.saturating_add(ttl))?);
        let certificate = params.signed_by(&pair, &self.issuer)?;
        Ok(pem(&certificate.pem(), &key))
    }
}

/// A server's own key under a self-signed certificate, which clients pin: the PEM file that it loads.
pub(crate) fn server_identity(name: &str, key: &SigningKey) -> anyhow::Result<Zeroizing<String>> {
    let params = CertificateParams::new(vec![name.to_owned()])?;
    Ok(pem(&params.self_signed(&key_pair(key)?)?.pem(), key))
}

/// The Ed25519 key whose seed a sealed file held.
pub(crate) fn signing_key(seed: &SecretVec) -> anyhow::Result<SigningKey> {
    let seed = Secret::<32>::from_slice(seed.expose()).context("the sealed file does not hold a signing key")?;
    Ok(SigningKey::from_seed(&seed))
}

fn ca_params(name: &str, trust_domain: &str, now: Millis, life: Millis) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Quorate {name} of {trust_domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (moment(now.saturating_sub(SKEW))?, moment(now.saturating_add(life))?);
    Ok(params)
}

fn moment(ms: Millis) -> anyhow::Result<OffsetDateTime> {
    let seconds = i64::try_from(ms / 1_000)?;
    OffsetDateTime::from_unix_timestamp(seconds).context("a time beyond the year 9999")
}

fn key_pair(key: &SigningKey) -> anyhow::Result<KeyPair> {
    let der = pkcs8(key);
    let mut der = PrivatePkcs8KeyDer::from(der.to_vec());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519);
    der.zeroize();
    Ok(pair?)
}

/// RFC 8410 section 7, version 1: a fixed head and the seed.
fn pkcs8(key: &SigningKey) -> Zeroizing<[u8; 48]> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut der = Zeroizing::new([0; 48]);
    let (head, seed) = der.split_at_mut(HEAD.len());
    head.copy_from_slice(&HEAD);
    seed.copy_from_slice(key.seed().expose());
    der
}

fn pem(certificate: &str, key: &SigningKey) -> Zeroizing<String> {
    let key = Zeroizing::new(STANDARD.encode(*pkcs8(key)));
    let mut text = Zeroizing::new(String::with_capacity(certificate.len() + 160));
    text.push_str(certificate);
    for line in ["-----BEGIN PRIVATE KEY-----\n", &key, "\n-----END PRIVATE KEY-----\n"] {
        text.push_str(line);
    }
    text
}
