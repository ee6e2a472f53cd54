//! How a node is tuned.

use std::{path::PathBuf, time::Duration};

use openraft::SnapshotPolicy;

use crate::{errors::OpenError, wire};

/// What a node is and how it is tuned. [`Config::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's raft id. Never reused: a node that lost its log gets a new one.
    pub id: u64,
    /// The cluster's random id. Stores and peers of another are refused.
    pub cluster: [u8; 32],
    /// How often the leader shows that it lives. 100 ms.
    pub heartbeat: Duration,
    /// A follower stands for election after the leader has been silent for `election_max` and then a random time of
    /// `election_min..election_max`. 300 and 450 ms; longer on busy machines.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
    /// The log is compacted every so many entries, as soon as enough members vouch for the state there; 0 for never. 10,000.
    pub snapshot_every: u64,
    /// Entries that stay in the log below a snapshot, so that a restarted follower needs no snapshot. 20,000.
    pub keep_entries: u64,
    /// Largest proposal, in bytes. 2 MiB; at most 4 MiB, so that an append fits its message.
    pub max_proposal: usize,
    /// Bytes of proposals under way at once; more are answered with [`ProposeError::Busy`]. 16 MiB.
    pub in_flight_bytes: usize,
    /// After this time an unanswered proposal is [`ProposeError::Unknown`]. 10 s.
    pub propose_timeout: Duration,
    /// Longest transfer of a snapshot. 10 minutes.
    pub snapshot_timeout: Duration,
    /// A small file beside the store (not in its directory) that notes where the log ended at the last sync, so that a log that lost its end
    /// without the store noticing is not started on. Set aside together with the store. `None`, as by default, only for stores that lose
    /// nothing.
    pub witness: Option<PathBuf>,
    /// What the random part of election timeouts begins with: a run of whole nodes is repeated by it. `None`, the default: nobody chose it.
    pub seed: Option<u64>,
}

impl Config {
    /// The defaults for a node of a cluster.
    pub fn new(id: u64, cluster: [u8; 32]) -> Self {
        Self {
            id,
            cluster,
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(450),
            snapshot_every: 10_000,
            keep_entries: 20_000,
            max_proposal: 2 << 20,
            in_flight_bytes: 16 << 20,
            propose_timeout: Duration::from_secs(10),
            snapshot_timeout: Duration::from_secs(600),
            witness: None,
            seed: None,
        }
    }

    pub(crate) fn openraft(&self) -> Result<openraft::Config, OpenError> {
        if self.max_proposal > wire::MAX_MESSAGE / 2 {
            return Err(OpenError::Config("proposals must fit half a message".into()));
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "quorate".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.snapshot_timeout),
            snapshot_policy: match self.snapshot_every {
                0 => SnapshotPolicy::Never,
                entries => SnapshotPolicy::LogsSinceLast(entries),
            },
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_every.max(self.keep_entries).saturating_mul(2),
            // One range deletion for many entries: each leaves a tombstone in the store.
            purge_batch_size: 512.min(self.keep_entries.max(1)),
            enable_pre_vote: Some(true),
            // Applied entries are not synced, so a restarted leader must not resume before it has heard from a quorum.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            // A leader that lost its quorum must not hold back a majority that can still talk (partial partitions of five).
            quorum_loss_probe_interval: Some(millis(self.election_max).saturating_mul(2)),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| OpenError::Config(error.to_string()))
    }
}
