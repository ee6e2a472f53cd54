//! The customer's folder: what a customer keeps, and neither the cluster nor its operator ever sees.
//!
//! ```text
//! fragment.key            the customer key, sealed by a passphrase        fragment.toml   public keys and ids
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
use std::path::PathBuf;
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
        identity(&self.trust_domain, "x").context("--trust-domain")?;
        let folder = CustomerFolder(self.out.clone());
        if folder.file("fragment.key").exists() || folder.file("fragment.toml").exists() {
            let message = format!("{} holds a customer key already", self.out.display());
            return Err(Stop::refused("exists", message, "name a new folder with --out"));
        }
        files::private_folder(&folder.0)?;
        let seal = |file: &str, purpose: &str, secret: &[u8]| {
            let sealed = passphrases.seal(purpose, file, secret, &mut env.rng())?;
            files::make(&folder.file(file), &sealed, files::PRIVATE)
        };
        let owner = SigningKey::generate(&mut env.rng());
        seal("owner.key", OWNER, owner.seed().expose())?;
        let secret = CustomerSecret::generate(suite, &mut env.rng());
        seal("fragment.key", FRAGMENT, secret.encode().expose())?;
        Authority::create(&folder.0, CUSTOMER_CA, &self.trust_domain, CA_LIFE, passphrases, env)?;
        let server_key = SigningKey::generate(&mut env.rng());
        let server = server_identity("custodian", &server_key)?;
        files::make(&folder.file("server.pem"), server.as_bytes(), files::PRIVATE)?;
        let public = PublicFile {
            id: hex(&secret.public().id()),
            suite: self.suite,
            public: STANDARD.encode(secret.public().encode()),
            trust_domain: self.trust_domain.clone(),
            custodian_key: hex(&server_key.verify_key().0),
        };
        files::make(&folder.file("fragment.toml"), toml::to_string(&public)?.as_bytes(), files::PUBLIC)?;
        Ok(folder)
    }
}

impl CustomerFolder {
    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn public_file(&self) -> anyhow::Result<PublicFile> {
        let path = self.file("fragment.toml");
        toml::from_str(&files::read_text(&path)?).with_context(|| path.display().to_string())
    }

    /// The public keys.
    pub(crate) fn public(&self) -> anyhow::Result<CustomerPublic> {
        let file = self.public_file()?;
        let bytes = STANDARD.decode(&file.public).context("fragment.toml: `public` is not base64")?;
        let public = CustomerPublic::decode(&bytes).context("fragment.toml")?;
        anyhow::ensure!(hex(&public.id()) == file.id, "fragment.toml: `id` is not that of `public`");
        Ok(public)
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
