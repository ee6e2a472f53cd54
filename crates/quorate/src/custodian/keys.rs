//! The customer's folder: what a customer keeps, and neither the cluster nor its operator ever sees.
//!
//! ```text
//! fragment.key            the customer key, sealed by a passphrase        fragment.toml   public keys and ids
//!                         (none where it lives in a token)                fragment.kem    beside a token: the wrapped ML-KEM key
//! owner.key               the key that vouches for it, sealed
//! customer-ca.key, .pem   the CA of the custodian's callers; the key is sealed
//! server.pem              the custodian's own key and certificate, readable by its owner only
//! ```

use crate::authority::{Authority, CA_LIFE, server_identity, signing_key};
use crate::connection::FRAGMENT;
use crate::failure::Stop;
use crate::files;
use crate::operator::identity;
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_authz::spiffe::SpiffeId;
use quorate_crypto::customer::{CustomerPublic, CustomerSecret, PartSuite};
use quorate_crypto::identity::SigningKey;
use quorate_server::env::Env;
use quorate_state::ids::{Millis, hex};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the CA's files, and purpose of its sealed key.
const CUSTOMER_CA: &str = "customer-ca";
/// Purpose of the owner's sealed key.
const OWNER: &str = "customer-owner";

/// `quorate custodian keygen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Keygen {
    /// The customer's folder to make.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// 1: P-256 and ML-KEM-768; 2: P-256 alone.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) suite: u8,
    /// The trust domain of the custodian's callers: the customer's own.
    #[arg(long)]
    pub(crate) trust_domain: String,
}

/// A customer's folder.
#[derive(Debug, Clone)]
pub(crate) struct CustomerFolder(pub(crate) PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicFile {
    id: String,
    suite: u8,
    public: String,
    trust_domain: String,
    /// The custodian's own key, which its callers pin.
    custodian_key: String,
}

impl Keygen {
    /// Makes the folder.
    pub(crate) fn create(&self, passphrases: &Passphrases, env: &Env) -> anyhow::Result<CustomerFolder> {
        let suite = PartSuite::from_u8(self.suite).context("--suite")?;
        CustomerFolder::make(&self.out, &self.trust_domain, passphrases, env, |folder| {
            let secret = CustomerSecret::generate(suite, &mut env.rng());
            folder.seal("fragment.key", FRAGMENT, secret.encode().expose(), passphrases, env)?;
            Ok(secret.public().clone())
        })
    }
}

impl CustomerFolder {
    /// Makes a folder with all that a customer needs beside the fragment, and last of all that, where `home` says.
    pub(crate) fn make(
        out: &Path,
        trust_domain: &str,
        passphrases: &Passphrases,
        env: &Env,
        home: impl FnOnce(&Self) -> anyhow::Result<CustomerPublic>,
    ) -> anyhow::Result<Self> {
        identity(trust_domain, "x").context("--trust-domain")?;
        let folder = Self(out.to_owned());
        if ["fragment.key", "fragment.toml", "fragment.kem"].iter().any(|file| folder.file(file).exists()) {
            let message = format!("{} holds a customer key already", out.display());
            return Err(Stop::refused("exists", message, "name a new folder with --out"));
        }
        files::private_folder(&folder.0)?;
        let owner = SigningKey::generate(&mut env.rng());
        folder.seal("owner.key", OWNER, owner.seed().expose(), passphrases, env)?;
        Authority::create(&folder.0, CUSTOMER_CA, trust_domain, CA_LIFE, passphrases, env)?;
        let server_key = SigningKey::generate(&mut env.rng());
        let server = server_identity("custodian", &server_key)?;
        files::make(&folder.file("server.pem"), server.as_bytes(), files::PRIVATE)?;
        let public = home(&folder)?;
        let public = PublicFile {
            id: hex(&public.id()),
            suite: public.suite().as_u8(),
            public: STANDARD.encode(public.encode()),
            trust_domain: trust_domain.to_owned(),
            custodian_key: hex(&server_key.verify_key().0),
        };
        files::make(&folder.file("fragment.toml"), toml::to_string(&public)?.as_bytes(), files::PUBLIC)?;
        Ok(folder)
    }

    fn seal(
        &self,
        file: &str,
        purpose: &str,
        secret: &[u8],
        passphrases: &Passphrases,
        env: &Env,
    ) -> anyhow::Result<()> {
        let sealed = passphrases.seal(purpose, file, secret, &mut env.rng())?;
        files::make(&self.file(file), &sealed, files::PRIVATE)
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn public_file(&self) -> anyhow::Result<PublicFile> {
        PublicFile::read(&self.file("fragment.toml"))
    }

    /// The public keys.
    pub(crate) fn public(&self) -> anyhow::Result<CustomerPublic> {
        read_public(&self.file("fragment.toml"))
    }

    /// The owner's key.
    pub(crate) fn owner(&self, passphrases: &Passphrases) -> anyhow::Result<SigningKey> {
        signing_key(&passphrases.open(OWNER, &self.file("owner.key"))?)
    }

    /// The custodian's own key, which its callers pin, hexadecimal.
    pub(crate) fn server_key(&self) -> anyhow::Result<String> {
        Ok(self.public_file()?.custodian_key)
    }

    /// Issues an identity for a caller of the custodian.
    pub(crate) fn issue(
        &self,
        path: &str,
        ttl: Millis,
        passphrases: &Passphrases,
        env: &Env,
    ) -> anyhow::Result<(SpiffeId, Zeroizing<String>)> {
        let trust_domain = self.public_file()?.trust_domain;
        let id = identity(&trust_domain, path)?;
        let pem = Authority::open(&self.0, CUSTOMER_CA, &trust_domain, passphrases, env)?.issue(&id, ttl, env)?;
        Ok((id, pem))
    }
}

impl PublicFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        toml::from_str(&files::read_text(path)?).with_context(|| path.display().to_string())
    }
}

/// The public keys of a `fragment.toml`.
pub(crate) fn read_public(path: &Path) -> anyhow::Result<CustomerPublic> {
    let name = path.display();
    let file = PublicFile::read(path)?;
    let bytes = STANDARD.decode(&file.public).with_context(|| format!("{name}: `public` is not base64"))?;
    let public = CustomerPublic::decode(&bytes).with_context(|| name.to_string())?;
    anyhow::ensure!(hex(&public.id()) == file.id, "{name}: `id` is not that of `public`");
    Ok(public)
}
