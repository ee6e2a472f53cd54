//! The people of a test: administrators who sign, callers with certificates of their own, clients that reach some members only.

use crate::Cluster;
use anyhow::Context as _;
use quorate_api::client::{Administrators, Client, CustomerSource, Identity, Profile, Seams, Submitted};
use quorate_api::net::Tcp;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_state::change::Change;
use quorate_state::ids::MemberIndex;
use rand_core::UnwrapErr;
use std::path::Path;
use std::sync::Arc;

impl Cluster {
    /// The identity of a caller that `quorate dev` made: `demo` or `admin`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn identity(&self, name: &str) -> anyhow::Result<Identity> {
        Ok(Identity::load(Path::new(self.text(&format!("/identities/{name}"))?))?)
    }

    /// Has the operator issue a new identity of the cluster's trust domain, as `app/other`.
    ///
    /// # Errors
    /// When `quorate identity issue` fails.
    pub fn issue(&self, path: &str) -> anyhow::Result<Identity> {
        let out = self.issued(path)?;
        let (operator, passphrase) = (self.text("/operator")?, self.text("/passphrase_file")?);
        let arguments = [
            "identity",
            "issue",
            "--operator",
            operator,
            "--name",
            path,
            "--out",
            &out,
            "--passphrase-file",
            passphrase,
        ];
        let output = self.cli("admin", &arguments, b"")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "`quorate identity issue` ended with {}: {said}", output.status);
        self.identity_file(path)
    }

    /// An identity that was issued before.
    ///
    /// # Errors
    /// When it was not.
    pub fn identity_file(&self, path: &str) -> anyhow::Result<Identity> {
        Ok(Identity::load(Path::new(&self.issued(path)?))?)
    }

    /// The file of an identity that was issued before.
    ///
    /// # Errors
    /// Never in a cluster that is ready.
    pub fn issued(&self, path: &str) -> anyhow::Result<String> {
        Ok(format!("{}/{}.pem", self.text("/folder")?, path.replace('/', "-")))
    }

    /// A client with any identity that knows of `members` only, and of no custodian.
    ///
    /// # Errors
    /// When an address is none.
    pub fn client_as(&self, identity: Identity, members: &[MemberIndex]) -> anyhow::Result<Client> {
        let mut profile: Profile = self.profile().clone();
        profile.members.retain(|m| members.contains(&m.index));
        self.client_with(profile, identity)
    }

    /// A client with any identity and any pins, and no custodian.
    ///
    /// # Errors
    /// When an address is none.
    pub fn client_with(&self, profile: Profile, identity: Identity) -> anyhow::Result<Client> {
        let seams =
            Seams { rng: Box::new(UnwrapErr(getrandom::SysRng)), clock: Arc::new(crate::now), net: Arc::new(Tcp) };
        Ok(Client::new(profile, identity, CustomerSource::None, seams)?)
    }

    /// A client of a caller that `quorate dev` made, which knows of `members` only.
    ///
    /// # Errors
    /// As [`Cluster::client_as`].
    pub fn through(&self, name: &str, members: &[MemberIndex]) -> anyhow::Result<Client> {
        self.client_as(self.identity(name)?, members)
    }

    /// The signing key of the one administrator.
    ///
    /// # Errors
    /// When its file does not open.
    pub fn administrator(&self) -> anyhow::Result<SigningKey> {
        let path = Path::new(self.text("/operator")?).join("administrator-1.key");
        let line = std::fs::read_to_string(self.text("/passphrase_file")?)?;
        let passphrase = SecretVec::new(line.trim_end().as_bytes().to_vec());
        let protection = Protection::Passphrase(&passphrase, PassphraseCost::default());
        let seed = open_file("administrator", &std::fs::read(path)?, &protection)?;
        let seed = Secret::from_slice(seed.expose()).context("the administrator's key has not 32 bytes")?;
        Ok(SigningKey::from_seed(&seed))
    }

    /// A change that needs an administrator's signature.
    ///
    /// # Errors
    /// The members'.
    pub async fn administer(&self, change: Change) -> anyhow::Result<Submitted> {
        let (client, key) = (self.admin()?, self.administrator()?);
        let authority_version = client.policies().await?.authority_version;
        Ok(client.administer(change, &Administrators { keys: &[&key], authority_version }).await?)
    }

    /// Permits a caller what `scope` says: the actions and resources of a Cedar permit, without its principal.
    ///
    /// # Errors
    /// The members'.
    pub async fn permit(&self, policy: &str, who: &Identity, scope: &str) -> anyhow::Result<Submitted> {
        let text = format!("permit (principal == Quorate::Workload::\"{}\", {scope});\n", who.principal());
        self.administer(Change::PutPolicy { name: policy.to_owned(), text }).await
    }
}
