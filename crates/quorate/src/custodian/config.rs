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
    /// The sealed fragment, where it lives in a file.
    pub(crate) fragment: Option<PathBuf>,
    /// The file whose first line is its passphrase.
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The tokens, where it lives in some.
    pub(crate) pkcs11: Option<TokenConfig>,
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

/// `[pkcs11]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenConfig {
    /// The vendor's PKCS#11 library, by its whole path.
    pub(crate) module: PathBuf,
    /// The tokens that hold the key: serial numbers, or labels that are unique.
    pub(crate) tokens: Vec<String>,
    /// The label of the key, the same on each.
    pub(crate) key: String,
    /// The public key that it must belong to: `fragment.toml`.
    pub(crate) public: PathBuf,
    /// The wrapped ML-KEM key, for a key of suite 1.
    pub(crate) kem: Option<PathBuf>,
    /// The credential of systemd whose first line is the user PIN.
    pub(crate) pin_credential: Option<String>,
    /// Sessions with each token, 1 to 64.
    #[serde(default = "four")]
    pub(crate) sessions: u8,
}

fn four() -> u8 {
    4
}

/// Where the fragment lives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home<'a> {
    /// In a sealed file.
    File {
        /// The file.
        fragment: &'a Path,
        /// Where its passphrase is.
        passphrase_file: &'a Path,
    },
    /// In tokens.
    Tokens(&'a TokenConfig),
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
        let CustodianConfig { fragment, passphrase_file, pkcs11, server, state_dir, client_roots, .. } = &mut config;
        let tokens = pkcs11.iter_mut().flat_map(|tokens| [Some(&mut tokens.public), tokens.kem.as_mut()]).flatten();
        let files = fragment.iter_mut().chain(passphrase_file).chain(tokens).chain([server, state_dir]);
        for file in files.chain(client_roots) {
            *file = base.join(&*file);
        }
        config.check().map_err(|(key, why)| format!("{name}: `{key}`: {why}"))?;
        Ok(config)
    }

    /// Where the fragment lives: in one place.
    pub(crate) fn home(&self) -> Result<Home<'_>, (&'static str, String)> {
        match (&self.fragment, &self.passphrase_file, &self.pkcs11) {
            (Some(fragment), Some(passphrase_file), None) => Ok(Home::File { fragment, passphrase_file }),
            (None, None, Some(tokens)) => Ok(Home::Tokens(tokens)),
            (Some(_), None, None) => Err(("passphrase_file", "is missing beside `fragment`".to_owned())),
            (None, Some(_), None) => Err(("fragment", "is missing beside `passphrase_file`".to_owned())),
            (None, None, None) => {
                Err(("fragment", "is missing, and so is [pkcs11]: where does the key live?".to_owned()))
            }
            (_, _, Some(_)) => {
                Err(("pkcs11", "stands beside `fragment` or `passphrase_file`: one or the other".to_owned()))
            }
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if let Home::Tokens(tokens) = self.home()? {
            tokens.check()?;
        }
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

impl TokenConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.module.is_absolute() {
            return Err(("pkcs11.module", "must be a whole path: the loader would search for it".to_owned()));
        }
        let distinct: std::collections::BTreeSet<_> = self.tokens.iter().collect();
        if self.tokens.is_empty() || distinct.len() < self.tokens.len() || self.tokens.iter().any(String::is_empty) {
            return Err(("pkcs11.tokens", "must name each token that holds the key, once".to_owned()));
        }
        if self.key.is_empty() {
            return Err(("pkcs11.key", "must be the label of the key".to_owned()));
        }
        if !(1..=64).contains(&self.sessions) {
            return Err(("pkcs11.sessions", "must be 1 to 64".to_owned()));
        }
        let plain = |name: &String| !name.is_empty() && !name.contains('/') && name != "..";
        if self.pin_credential.as_ref().is_some_and(|name| !plain(name)) {
            return Err(("pkcs11.pin_credential", "must be the name of a credential, not a path".to_owned()));
        }
        Ok(())
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
        let tried = crate::driver::fuzz("custodian-toml", vec![good().into_bytes()], |input| {
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

    /// Of a key that is misspelt nothing is left out: it is refused.
    #[test]
    fn a_misspelt_key_of_a_custodian_is_refused() {
        let text = good();
        let (mut start, mut keys) = (0, 0);
        for line in text.split_inclusive('\n') {
            for at in start..start + line.find(" = ").unwrap_or(0) {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1;
                assert!(load(&String::from_utf8(changed).unwrap()).is_err(), "{line:?}, byte {at}");
                keys += 1;
            }
            start += line.len();
        }
        assert!(keys > 80, "the keys are found: {keys} bytes");
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
            ("fragment = 'f'\n", "", "`fragment`"),
            ("passphrase_file = 'p'\n", "", "`passphrase_file`"),
            ("fragment = 'f'\npassphrase_file = 'p'\n", "", "where does the key live"),
            (
                "[[allow]]",
                "[pkcs11]\nmodule = '/m'\ntokens = ['t']\nkey = 'k'\npublic = 'p'\n[[allow]]",
                "one or the other",
            ),
            ("'customer.example'\ncluster", "''\ncluster", "`trust_domain`"),
        ] {
            let error = load(&good().replace(from, to)).unwrap_err();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn tokens_are_described_completely() {
        let tokens = "[pkcs11]\nmodule = '/usr/lib/m.so'\ntokens = ['0001', 'two']\nkey = 'customer'\n\
                      public = 'fragment.toml'\n\
                      kem = 'fragment.kem'\npin_credential = 'pin'\n";
        let good = good()
            .replace("fragment = 'f'\npassphrase_file = 'p'\n", "")
            .replace("[[allow]]", &format!("{tokens}[[allow]]"));
        let config = load(&good).unwrap();
        let Ok(Home::Tokens(read)) = config.home() else { panic!("it lives in tokens") };
        assert!(read.sessions == 4 && read.public.is_absolute() && read.kem.as_ref().unwrap().is_absolute());
        for (from, to, named) in [
            ("'/usr/lib/m.so'", "'m.so'", "`pkcs11.module`"),
            ("['0001', 'two']", "[]", "`pkcs11.tokens`"),
            ("['0001', 'two']", "['0001', '0001']", "`pkcs11.tokens`"),
            ("'customer'\n", "''\n", "`pkcs11.key`"),
            ("'pin'", "'../pin'", "`pkcs11.pin_credential`"),
            ("key = ", "pin = '1234'\nkey = ", "unknown field `pin`"),
            ("key = ", "sessions = 0\nkey = ", "`pkcs11.sessions`"),
        ] {
            let error = load(&good.replacen(from, to, 1)).unwrap_err();
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
