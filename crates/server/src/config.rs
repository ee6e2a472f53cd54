//! A node's configuration file: TOML, every key known, every mistake named.

use quorate_state::ids::ClusterId;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// `node.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Where everything of the node lies.
    pub data_dir: PathBuf,
    /// The 32-byte key that seals the node's own files; mode 0600.
    pub seal_key: PathBuf,
    /// The genesis file of the cluster.
    pub genesis: PathBuf,
    /// The hash of that file, in hexadecimal digits: another genesis is refused.
    pub cluster: String,
    /// Where peers connect.
    pub peer_listen: SocketAddr,
    /// Where clients connect.
    pub api_listen: SocketAddr,
    /// Timing of elections.
    #[serde(default)]
    pub raft: RaftConfig,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Room on the disk.
    #[serde(default)]
    pub storage: StorageConfig,
}

/// `[raft]`: longer times on busy machines.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// How often the leader shows that it lives.
    pub heartbeat_ms: u64,
    /// The shortest election time-out.
    pub election_min_ms: u64,
    /// The longest; also how long a leader's silence must last before anybody stands.
    pub election_max_ms: u64,
    /// The log is compacted every so many entries, as soon as t members vouch for the state.
    pub snapshot_every: u64,
    /// Entries that stay in the log all the same: a member that is no further behind needs no snapshot.
    pub keep_entries: u64,
    /// Members compare their states at every index divisible by this.
    pub attest_every: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 450,
            snapshot_every: 10_000,
            keep_entries: 20_000,
            attest_every: 4_096,
        }
    }
}

/// `[audit]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Size of one file.
    pub segment_bytes: u64,
    /// What expiry, revocation and ceremonies may still use when the disk is full.
    pub reserve_bytes: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, reserve_bytes: 4 << 20 }
    }
}

/// `[storage]`: room on the disk of `data_dir`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Less free space than this is an alarm.
    pub alarm_free_bytes: u64,
    /// With less than this nothing that grows is taken: what is left is for revocation.
    pub refuse_free_bytes: u64,
    /// A file that is given back when others have filled the disk.
    pub reserve_bytes: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { alarm_free_bytes: 1 << 30, refuse_free_bytes: 256 << 20, reserve_bytes: 64 << 20 }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its content.
    #[error("{path} is not a valid configuration:\n{source}")]
    Parse {
        /// Where.
        path: PathBuf,
        /// What, with line and column.
        source: toml::de::Error,
    },
    /// A value that cannot be.
    #[error("{path}: `{key}`: {why}")]
    Value {
        /// Where.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl NodeConfig {
    /// Reads and checks a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, key and reason.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self =
            toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        let base = path.parent().unwrap_or_else(|| Path::new("."));
        for file in [&mut config.data_dir, &mut config.seal_key, &mut config.genesis] {
            *file = base.join(&*file);
        }
        let value = |key, why: &str| ConfigError::Value { path: path.to_owned(), key, why: why.to_owned() };
        config
            .cluster_id()
            .ok_or_else(|| value("cluster", "must be the 64 hexadecimal digits that `quorate init` printed"))?;
        let raft = &config.raft;
        if raft.heartbeat_ms == 0
            || raft.election_min_ms < 2 * raft.heartbeat_ms
            || raft.election_max_ms <= raft.election_min_ms
        {
            return Err(value("raft", "must have election_max_ms > election_min_ms >= 2 * heartbeat_ms > 0"));
        }
        if config.audit.segment_bytes < quorate_audit::MIN_BYTES
            || config.audit.reserve_bytes < quorate_audit::MIN_BYTES
        {
            return Err(value("audit", "has a size that is too small"));
        }
        if config.storage.alarm_free_bytes < config.storage.refuse_free_bytes {
            return Err(value("storage", "must have alarm_free_bytes >= refuse_free_bytes"));
        }
        Ok(config)
    }

    /// The pinned cluster.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.parse().ok()
    }
}

#[cfg(test)]
#[path = "../../../fuzz/driver.rs"]
mod driver;

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<NodeConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        NodeConfig::load(&path)
    }

    const GOOD: &str =
        "data_dir = 'd'\nseal_key = 'k'\ngenesis = 'g'\npeer_listen = '127.0.0.1:1'\napi_listen = '127.0.0.1:2'\n";

    #[test]
    fn a_typo_is_named() {
        let good = format!("cluster = '{}'\n{GOOD}", "ab".repeat(32));
        assert!(load(&good).is_ok());
        let error = load(&format!("{good}[raft]\nheartbeat = 3\n")).unwrap_err().to_string();
        assert!(error.contains("unknown field `heartbeat`"), "{error}");
        let error = load(&format!("cluster = 'xyz'\n{GOOD}")).unwrap_err().to_string();
        assert!(error.contains("`cluster`"), "{error}");
        assert!(load(GOOD).unwrap_err().to_string().contains("cluster"));
        assert!(load(&format!("{good}[raft]\nelection_min_ms = 100\n")).is_err());
        assert!(load(&format!("{good}[storage]\nalarm_free_bytes = 100\n")).is_err());
    }

    fn example() -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.example.toml");
        std::fs::read_to_string(path).unwrap()
    }

    /// Mutations of a good file: a message that names the file, or a configuration with which a member can run.
    #[test]
    fn every_configuration_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        let tried = super::driver::fuzz("node-toml", vec![example().into_bytes()], |input| {
            std::fs::write(&path, input).unwrap();
            match NodeConfig::load(&path) {
                Ok(config) => {
                    let raft = &config.raft;
                    assert!(config.cluster_id().is_some() && raft.heartbeat_ms > 0);
                    assert!(
                        raft.election_max_ms > raft.election_min_ms && raft.election_min_ms / 2 >= raft.heartbeat_ms
                    );
                    assert!(config.data_dir.is_absolute() && config.seal_key.is_absolute());
                }
                Err(why) => assert!(why.to_string().contains("node.toml"), "{why}"),
            }
        });
        assert!(tried > 0);
    }

    /// Of a key that is misspelt nothing is left out: it is refused.
    #[test]
    fn a_misspelt_key_of_a_node_is_refused() {
        let text = example();
        assert!(load(&text).is_ok());
        let mut keys = 0;
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let end = line.find(" = ").filter(|_| !line.starts_with('#')).unwrap_or(0);
            for at in start..start + end {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1;
                assert!(load(&String::from_utf8(changed).unwrap()).is_err(), "{line:?}, byte {at}");
                keys += 1;
            }
            start += line.len();
        }
        assert!(keys > 150, "the keys are found: {keys} bytes");
    }
}
