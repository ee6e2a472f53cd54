//! A custodian's configuration and its rules: TOML, every key known, everything refused that no rule allows.

use quorate_authz::spiffe::SpiffeId;
use quorate_crypto::sealed::{ObjectLabel, WrapLabel, check_namespace};
use quorate_state::ids::ClusterId;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// `custodian.toml`. Relative paths are relative to its folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustodianConfig {
    /// Where callers connect.
    pub(crate) listen: SocketAddr,
    /// The sealed fragment.
    pub(crate) fragment: PathBuf,
    /// The file whose first line is its passphrase.
    pub(crate) passphrase_file: PathBuf,
    /// The custodian's own key and certificate.
    pub(crate) server: PathBuf,
    /// CA certificates of callers, PEM: the customer's own, never the cluster's.
    pub(crate) client_roots: Vec<PathBuf>,
    /// The trust domain of callers.
    pub(crate) trust_domain: String,
    /// The cluster whose secrets it helps to open, hexadecimal.
    pub(crate) cluster: String,
    /// Where its audit log and a freeze lie.
    pub(crate) state_dir: PathBuf,
    /// Who may freeze, thaw and ask for the status: SPIFFE ids, or prefixes that end with a slash.
    #[serde(default)]
    pub(crate) wardens: Vec<String>,
    /// Who may open what. Nothing else is allowed.
    #[serde(default)]
    pub(crate) allow: Vec<Rule>,
}

/// `[[allow]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// SPIFFE ids, or prefixes that end with a slash.
    pub(crate) callers: Vec<String>,
    /// The namespace.
    pub(crate) namespace: String,
    /// Paths, or prefixes that end with a slash.
    pub(crate) paths: Vec<String>,
}

impl CustodianConfig {
    /// Reads and checks a file; the error names file and key.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|why| format!("cannot read {name}: {why}"))?;
        let mut config: Self = toml::from_str(&text).map_err(|why| format!("{name}:\n{why}"))?;
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        let CustodianConfig { fragment, passphrase_file, server, state_dir, client_roots, .. } = &mut config;
        for file in [fragment, passphrase_file, server, state_dir].into_iter().chain(client_roots) {
            *file = base.join(&*file);
        }
        config.check().map_err(|(key, why)| format!("{name}: `{key}`: {why}"))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let cluster = self.cluster.parse::<ClusterId>();
        cluster.map_err(|_| ("cluster", "must be the 64 hexadecimal digits of the cluster's id".to_owned()))?;
        if self.client_roots.is_empty() {
            return Err(("client_roots", "must name the customer's own CA".to_owned()));
        }
        let id = format!("spiffe://{}/x", self.trust_domain);
        SpiffeId::parse(&id).map_err(|why| ("trust_domain", why.to_string()))?;
        for warden in &self.wardens {
            check_caller(warden).map_err(|why| ("wardens", why))?;
        }
        for rule in &self.allow {
            check_namespace(&rule.namespace).map_err(|why| ("allow.namespace", why.to_string()))?;
            if rule.callers.is_empty() || rule.paths.is_empty() {
                return Err(("allow", "a rule must name callers and paths".to_owned()));
            }
            for caller in &rule.callers {
                check_caller(caller).map_err(|why| ("allow.callers", why))?;
            }
            for path in &rule.paths {
                let path = path.strip_suffix('/').unwrap_or(path);
                quorate_crypto::sealed::check_path(path).map_err(|why| ("allow.paths", format!("`{path}`: {why}")))?;
            }
        }
        Ok(())
    }

    /// Whether a rule lets `caller` have the value of a part under these labels.
    pub(crate) fn allows(&self, caller: &str, object: &ObjectLabel, wrap: &WrapLabel) -> bool {
        self.cluster.parse() == Ok(ClusterId(object.cluster))
            && self.allow.iter().any(|rule| {
                rule.namespace == wrap.namespace
                    && rule.callers.iter().any(|pattern| matches(pattern, caller))
                    && rule.paths.iter().any(|pattern| matches(pattern, &wrap.path))
            })
    }

    /// Whether `caller` may freeze and thaw.
    pub(crate) fn is_warden(&self, caller: &str) -> bool {
        self.wardens.iter().any(|pattern| matches(pattern, caller))
    }
}

/// A name matches itself, and `a/` everything below it: by whole segments, never `ab`.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.ends_with('/') { name.starts_with(pattern) && name.len() > pattern.len() } else { pattern == name }
}

fn check_caller(pattern: &str) -> Result<(), String> {
    let id = if pattern.ends_with('/') { format!("{pattern}x") } else { pattern.to_owned() };
    SpiffeId::parse(&id).map(drop).map_err(|why| format!("`{pattern}`: {why}"))
}

#[cfg(test)]
#[path = "../../../../fuzz/driver.rs"]
mod driver;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn load(text: &str) -> Result<CustodianConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("custodian.toml");
        std::fs::write(&path, text).unwrap();
        CustodianConfig::load(&path)
    }

    fn good() -> String {
        format!(
            "listen = '127.0.0.1:0'\nfragment = 'f'\npassphrase_file = 'p'\nserver = 's'\nclient_roots = ['c']\n\
             trust_domain = 'customer.example'\ncluster = '{}'\nstate_dir = 'd'\n\
             wardens = ['spiffe://customer.example/security/']\n\
             [[allow]]\ncallers = ['spiffe://customer.example/app/billing']\nnamespace = 'default'\n\
             paths = ['vault/billing/', 'vault/one']\n",
            "07".repeat(32)
        )
    }

    /// Mutations of a good file: a message or a configuration, never a panic.
    #[test]
    fn every_configuration_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("custodian.toml");
        let tried = driver::fuzz("custodian-toml", vec![good().into_bytes()], |input| {
            std::fs::write(&path, input).unwrap();
            let object = ObjectLabel {
                payload_suite: 1,
                cluster: [7; 32],
                secret_id: [1; 16],
                version_id: [1; 16],
                created: 1,
                writer_id: "spiffe://x/y".to_owned(),
                padded_len: 64,
            };
            if let Ok(config) = CustodianConfig::load(&path) {
                let wrap = WrapLabel {
                    wrap_suite: 1,
                    keyring_id: [1; 32],
                    namespace: "nobody".to_owned(),
                    path: "x/y".to_owned(),
                    wrap_no: 0,
                    wrapped_by: "spiffe://x/y".to_owned(),
                };
                let named = config.allow.iter().any(|rule| rule.namespace == "nobody");
                assert!(
                    named || !config.allows("spiffe://x/y", &object, &wrap),
                    "nothing is allowed that no rule names"
                );
            }
        });
        assert!(tried > 0);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(load(&good()).is_ok());
        for (from, to, named) in [
            ("namespace = 'default'", "namespace = 'default'\nmode = 'open'", "unknown field `mode`"),
            ("0707'", "'", "`cluster`"),
            ("['c']", "[]", "`client_roots`"),
            ("'vault/one'", "'/vault'", "`allow.paths`"),
            ("app/billing'", "app/*'", "`allow.callers`"),
            ("callers = ['spiffe://customer.example/app/billing']", "callers = []", "`allow`"),
            ("/security/'", "/security//'", "`wardens`"),
            ("'customer.example'\ncluster", "''\ncluster", "`trust_domain`"),
        ] {
            let error = load(&good().replace(from, to)).unwrap_err();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn everything_is_refused_that_no_rule_allows() {
        let config = load(&good()).unwrap();
        let object = |cluster| ObjectLabel {
            payload_suite: 1,
            cluster: [cluster; 32],
            secret_id: [1; 16],
            version_id: [2; 16],
            created: 3,
            writer_id: "w".to_owned(),
            padded_len: 64,
        };
        let wrap = |namespace: &str, path: &str| WrapLabel {
            wrap_suite: 1,
            keyring_id: [4; 32],
            namespace: namespace.to_owned(),
            path: path.to_owned(),
            wrap_no: 0,
            wrapped_by: "w".to_owned(),
        };
        let billing = "spiffe://customer.example/app/billing";
        assert!(config.allows(billing, &object(7), &wrap("default", "vault/billing/db")));
        assert!(config.allows(billing, &object(7), &wrap("default", "vault/one")));
        for (caller, cluster, namespace, path) in [
            (billing, 8, "default", "vault/one"),
            (billing, 7, "other", "vault/one"),
            (billing, 7, "default", "vault/one/more"),
            (billing, 7, "default", "vault/billing"),
            (billing, 7, "default", "vault/billing2/db"),
            ("spiffe://customer.example/app/billing/x", 7, "default", "vault/one"),
            ("spiffe://customer.example/app/other", 7, "default", "vault/one"),
        ] {
            assert!(!config.allows(caller, &object(cluster), &wrap(namespace, path)), "{caller} {namespace} {path}");
        }
        assert!(config.is_warden("spiffe://customer.example/security/on-call"));
        assert!(!config.is_warden("spiffe://customer.example/security") && !config.is_warden(billing));
    }
}
