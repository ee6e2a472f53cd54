//! How a command reaches the cluster, and the customer's part: the global client options.

use crate::duration::instant;
use crate::failure::Stop;
use crate::operator::load_profile;
use crate::output::progress;
use crate::passphrase::Passphrases;
use quorate_api::client::{Client, Custodian, CustomerSource, Identity, Profile, Seams};
use quorate_api::net::Tcp;
use quorate_authz::told_ahead;
use quorate_crypto::customer::CustomerSecret;
use quorate_server::env::Env;
use quorate_state::ids::{Millis, parse_hex};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Purpose of a customer's sealed fragment.
pub(crate) const FRAGMENT: &str = "customer-fragment";

/// Options of every command that talks to a cluster or a custodian.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Connection {
    /// What to pin of the cluster: cluster.toml.
    #[arg(long, global = true, env = "QUORATE_PROFILE", value_name = "FILE", help_heading = "Connection")]
    pub(crate) profile: Option<PathBuf>,
    /// Who is calling: a PEM file of certificate and key.
    #[arg(long, global = true, env = "QUORATE_IDENTITY", value_name = "FILE", help_heading = "Connection")]
    pub(crate) identity: Option<PathBuf>,
    /// The one member that is reached, by its name: it passes questions on to the others.
    #[arg(long, global = true, env = "QUORATE_VIA", value_name = "NAME", help_heading = "Connection")]
    pub(crate) via: Option<String>,
    /// How long an operation may take, retries included.
    #[arg(long, global = true, value_parser = crate::duration::parse, help_heading = "Connection")]
    pub(crate) timeout: Option<Millis>,
    /// The customer's custodian, host:port.
    #[arg(long, global = true, env = "QUORATE_CUSTODIAN", value_name = "ADDRESS", help_heading = "Connection")]
    pub(crate) custodian: Option<String>,
    /// The custodian's own key, 64 hexadecimal digits.
    #[arg(long, global = true, env = "QUORATE_CUSTODIAN_KEY", value_name = "HEX", help_heading = "Connection")]
    pub(crate) custodian_key: Option<String>,
    /// Who is calling the custodian: a PEM file of the customer's own CA.
    #[arg(long, global = true, env = "QUORATE_CUSTODIAN_IDENTITY", value_name = "FILE", help_heading = "Connection")]
    pub(crate) custodian_identity: Option<PathBuf>,
    /// Hold the customer's sealed fragment in this process instead of asking a custodian.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "custodian", help_heading = "Connection")]
    pub(crate) fragment: Option<PathBuf>,
    /// Read the fragment's passphrase from this file.
    #[arg(long, global = true, value_name = "FILE", requires = "fragment", help_heading = "Connection")]
    pub(crate) fragment_passphrase_file: Option<PathBuf>,
}

impl Connection {
    /// What is pinned.
    pub(crate) fn profile(&self) -> anyhow::Result<Profile> {
        load_profile(self.profile_path()?)
    }

    /// The same, with the way to the members that was asked for.
    fn reached(&self) -> anyhow::Result<Profile> {
        let profile = self.profile()?;
        let via = self.via.clone().filter(|name| !name.is_empty());
        Ok(Profile { via: via.or(profile.via), ..profile })
    }

    /// Where what is pinned lies.
    pub(crate) fn profile_path(&self) -> anyhow::Result<&Path> {
        let missing =
            || Stop::configuration("no cluster is named: give --profile cluster.toml, or set QUORATE_PROFILE");
        self.profile.as_deref().ok_or_else(missing)
    }

    /// A client that needs no customer's part.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        self.connect(self.reached()?, CustomerSource::None)
    }

    /// A client that needs no customer's part, whose operations take so long at most when nobody says otherwise.
    pub(crate) fn client_within(&self, limit: Duration) -> anyhow::Result<Client> {
        let client = self.client()?;
        Ok(if self.timeout.is_none() { client.with_timeout(limit) } else { client })
    }

    /// A client that can open class `customer` where a source is named.
    pub(crate) fn opening_client(&self) -> anyhow::Result<Client> {
        let custodian = self.custodian.as_ref().filter(|address| !address.is_empty());
        let source = match (custodian, &self.fragment) {
            (Some(_), _) => CustomerSource::Custodian(self.custodian()?),
            (None, Some(path)) => CustomerSource::InProcess(self.open_fragment(path)?),
            (None, None) => CustomerSource::None,
        };
        self.connect(self.reached()?, source)
    }

    /// A client of some or all members.
    pub(crate) fn connect(&self, profile: Profile, source: CustomerSource) -> anyhow::Result<Client> {
        self.connect_as(self.identity()?, profile, source)
    }

    /// The same as somebody else than the options name.
    pub(crate) fn connect_as(
        &self,
        identity: Identity,
        profile: Profile,
        source: CustomerSource,
    ) -> anyhow::Result<Client> {
        let env = Env::system();
        let clock = Arc::clone(&env.clock);
        let seams = Seams { rng: Box::new(env.rng()), clock: Arc::new(move || clock.wall()), net: Arc::new(Tcp) };
        let client = Client::new(profile, identity, source, seams)?;
        Ok(match self.timeout {
            Some(ms) => client.with_timeout(Duration::from_millis(ms)),
            None => client,
        })
    }

    /// A client of the custodian.
    pub(crate) fn custodian(&self) -> anyhow::Result<Custodian> {
        let missing = |what: &str| Stop::configuration(format!("no {what} is named: docs/cli.md, connection"));
        let address = self.custodian.as_deref().ok_or_else(|| missing("custodian (--custodian)"))?;
        let key = self.custodian_key.as_deref().ok_or_else(|| missing("key of the custodian (--custodian-key)"))?;
        let key = parse_hex(key).ok_or_else(|| Stop::configuration("--custodian-key must be 64 hexadecimal digits"))?;
        let path = self.custodian_identity.as_deref();
        let path = path.ok_or_else(|| missing("identity for the custodian (--custodian-identity)"))?;
        let identity = load_identity(path)?;
        warn_of_end(path, &identity, Env::system().clock.wall());
        Ok(Custodian::new(address, key, identity.tls())?)
    }

    fn identity(&self) -> anyhow::Result<Identity> {
        let missing = || Stop::configuration("nobody is calling: give --identity FILE, or set QUORATE_IDENTITY");
        let path = self.identity.as_deref().ok_or_else(missing)?;
        let identity = load_identity(path)?;
        warn_of_end(path, &identity, Env::system().clock.wall());
        Ok(identity)
    }

    fn open_fragment(&self, path: &Path) -> anyhow::Result<CustomerSecret> {
        let passphrases = self.fragment_passphrase_file.as_deref().map(Passphrases::file).unwrap_or_default();
        open_fragment(path, &passphrases)
    }
}

/// Opens a customer's sealed fragment.
pub(crate) fn open_fragment(path: &Path, passphrases: &Passphrases) -> anyhow::Result<CustomerSecret> {
    let opened = passphrases.open(FRAGMENT, path)?;
    CustomerSecret::decode(opened.expose()).map_err(|why| {
        let hint = "restore the file from its backup";
        Stop::refused("key_file", format!("{}: {why}", path.display()), hint)
    })
}

/// Reads an identity.
pub(crate) fn load_identity(path: &Path) -> anyhow::Result<Identity> {
    Identity::load(path).map_err(|why| {
        let why = why.to_string();
        let name = path.display().to_string();
        Stop::configuration(if why.starts_with(&name) { why } else { format!("{name}: {why}") })
    })
}

/// Tells whoever calls that the certificate has ended, or ends soon: a month ahead, or a third of its life.
fn warn_of_end(path: &Path, identity: &Identity, now: Millis) {
    // One command may make several clients.
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let Some(line) = identity.valid().and_then(|valid| end_of(valid, now)) else { return };
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        progress(format_args!(
            "warning: {}: the certificate {line}; `quorate identity renew` renews it",
            path.display()
        ));
    }
}

fn end_of((from, to): (Millis, Millis), now: Millis) -> Option<String> {
    match to.checked_sub(now) {
        None => Some(format!("ended on {}", instant(to))),
        Some(left) if left < told_ahead(from, to) => Some(format!("ends on {}", instant(to))),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_thirty_days_ahead() {
        const DAY: Millis = 86_400_000;
        let year = (1_000 * DAY, 1_365 * DAY);
        assert_eq!(end_of(year, 1_335 * DAY), None);
        assert_eq!(end_of(year, 1_335 * DAY + 1).as_deref(), Some("ends on 1973-09-27 00:00:00Z"));
        assert_eq!(end_of(year, 1_365 * DAY + 1).as_deref(), Some("ended on 1973-09-27 00:00:00Z"));
        let day = (1_000 * DAY, 1_001 * DAY);
        assert_eq!(end_of(day, 1_000 * DAY), None, "what lives for a day is not told of when it is young");
        assert!(end_of(day, 1_001 * DAY - DAY / 3 + 1).is_some(), "but when two thirds of it are over");
    }
}
