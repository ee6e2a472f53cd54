//! The operator's folder: what people keep of a cluster, and nodes never see.
//!
//! ```text
//! genesis.bin            the beginning of the cluster: public, the same on every node
//! cluster.toml           what clients pin: public
//! client-ca.key, .pem    the CA of callers; the key is sealed by a passphrase
//! administrator-N.key    an administrator's signing key, sealed by a passphrase: to be taken apart and given to N people
//! admin.pem              the first identity, readable by its owner only
//! ```

use crate::authority::{Authority, signing_key};
use crate::failure::Stop;
use crate::files;
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use quorate_api::client::Profile;
use quorate_authz::spiffe::SpiffeId;
use quorate_crypto::identity::SigningKey;
use quorate_server::env::Env;
use quorate_state::genesis::Genesis;
use quorate_state::ids::Millis;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the CA's files, and purpose of its sealed key.
pub(crate) const CLIENT_CA: &str = "client-ca";
/// Purpose of an administrator's sealed key.
pub(crate) const ADMINISTRATOR: &str = "administrator";

/// An operator's folder.
#[derive(Debug, Clone)]
pub(crate) struct Operator(pub(crate) PathBuf);

impl Operator {
    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The genesis.
    pub(crate) fn genesis(&self) -> anyhow::Result<Genesis> {
        let path = self.file("genesis.bin");
        Genesis::from_bytes(&files::read(&path)?).with_context(|| path.display().to_string())
    }

    /// What clients pin.
    pub(crate) fn profile(&self) -> anyhow::Result<Profile> {
        load_profile(&self.file("cluster.toml"))
    }

    /// Writes what clients pin.
    pub(crate) fn save_profile(&self, profile: &Profile) -> anyhow::Result<()> {
        save_profile(&self.file("cluster.toml"), profile)
    }

    /// Opens as many administrators' keys as it takes, in the order of their numbers.
    pub(crate) fn administrators(&self, passphrases: &Passphrases) -> anyhow::Result<Vec<SigningKey>> {
        let administrators = self.genesis()?.administrators;
        let needed = usize::from(administrators.needed);
        let paths = (1..=administrators.keys.len()).map(|n| self.file(&format!("{ADMINISTRATOR}-{n}.key")));
        let here: Vec<PathBuf> = paths.filter(|path| path.exists()).take(needed).collect();
        if here.len() < needed {
            return Err(Stop::refused(
                "not_by_administrators",
                format!("{} of {needed} administrators' keys are in {}", here.len(), self.0.display()),
                "name the others with --administrator FILE",
            ));
        }
        open_administrators(&here, passphrases)
    }

    /// Issues an identity of the cluster's trust domain to `path` below it.
    pub(crate) fn issue(
        &self,
        path: &str,
        ttl: Millis,
        passphrases: &Passphrases,
        env: &Env,
    ) -> anyhow::Result<(SpiffeId, Zeroizing<String>)> {
        let trust_domain = self.genesis()?.client_roots.trust_domain;
        let id = identity(&trust_domain, path)?;
        let authority = Authority::open(&self.0, CLIENT_CA, &trust_domain, passphrases, env)?;
        let pem = authority.issue(&id, ttl, env)?;
        Ok((id, pem))
    }
}

/// Opens administrators' keys.
pub(crate) fn open_administrators(paths: &[PathBuf], passphrases: &Passphrases) -> anyhow::Result<Vec<SigningKey>> {
    paths.iter().map(|path| signing_key(&passphrases.open(ADMINISTRATOR, path)?)).collect()
}

/// `spiffe://<trust domain>/<path>`; a whole id of that trust domain is taken as well.
pub(crate) fn identity(trust_domain: &str, path: &str) -> anyhow::Result<SpiffeId> {
    let whole = format!("spiffe://{trust_domain}/");
    let text = if path.starts_with(&whole) { path.to_owned() } else { format!("{whole}{path}") };
    SpiffeId::parse(&text).with_context(|| format!("`{text}`"))
}

/// Reads a `cluster.toml`.
pub(crate) fn load_profile(path: &Path) -> anyhow::Result<Profile> {
    let text =
        std::fs::read_to_string(path).map_err(|why| Stop::configuration(format!("{}: {why}", path.display())))?;
    Profile::parse(&text).map_err(|why| Stop::configuration(format!("{}: {why}", path.display())))
}

/// Writes a `cluster.toml`, in one step.
pub(crate) fn save_profile(path: &Path, profile: &Profile) -> anyhow::Result<()> {
    files::replace(path, profile.to_toml().as_bytes(), files::PUBLIC).with_context(|| path.display().to_string())
}
