//! How a node ends: why, with which exit status, and what to do next.

use crate::aside::Lost;
use crate::keystore::KeystoreError;
use quorate_api::tls::TlsError;
use quorate_audit::Broken;
use quorate_raft::kv::KvError;
use quorate_raft::{Fatal, OpenError};
use quorate_state::genesis::BadGenesis;
use quorate_state::ids::ClusterId;
use std::path::{Path, PathBuf};

/// The folder of the audit log, in the data folder.
pub(crate) const AUDIT: &str = "audit";

/// Why a node did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The genesis file.
    #[error("{path}: {source}")]
    Genesis {
        /// Where.
        path: PathBuf,
        /// Why.
        source: BadGenesis,
    },
    /// There is no genesis file where the configuration names one.
    #[error(
        "{path}, which the configuration names as `genesis`, cannot be read: {source}; copy the genesis.bin of `quorate init` there"
    )]
    NoGenesis {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder, or a file in it, cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The genesis is not the one that the configuration pins.
    #[error("{path} is the genesis of cluster {found}, and the configuration pins {pinned}")]
    OtherCluster {
        /// Where.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The pinned one.
        pinned: String,
    },
    /// The member's own files.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// This member is not in the roster.
    #[error("the identity in {data} is not a member of this cluster: its key is not in the genesis")]
    NotAMember {
        /// The data folder.
        data: PathBuf,
    },
    /// The log was damaged, now or before, and lies aside.
    #[error("{0}; this member stays out, and its identity, shares and audit log are untouched")]
    Lost(Lost),
    /// A damaged log could not be set aside.
    #[error("the log in {path} is damaged ({why}), and could not be set aside: {source}")]
    NotAside {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Why it is still there.
        source: std::io::Error,
    },
    /// The store.
    #[error("the store in {path} cannot be opened: {source}; it is left as it is")]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        source: KvError,
    },
    /// The data folder belongs to another cluster.
    #[error("the store in {path} belongs to another cluster or another member")]
    OtherStore {
        /// Where.
        path: PathBuf,
    },
    /// The data folder was written by another release.
    #[error(
        "{path} is a data folder of format {found}, and this release knows format {} only; it is left as it is: start the release that wrote it",
        crate::format::FORMAT
    )]
    OtherFormat {
        /// Where.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Consensus.
    #[error(transparent)]
    Raft(#[from] quorate_raft::OpenError),
    /// The audit log.
    #[error("the audit log in {path}: {source}")]
    Audit {
        /// Where.
        path: PathBuf,
        /// Why.
        source: quorate_audit::OpenError,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A port stopped serving.
    #[error("a port stopped serving: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The log can no longer be relied on: the process must end at once.
    #[error("the replicated log failed: {0}; the process ends, so that it promises nothing that it cannot keep")]
    Log(quorate_raft::Fatal),
    /// The audit log can no longer be written: this member can decide nothing.
    #[error(
        "the audit log failed: {path} cannot be {call}: {source}; the process ends, because it may do nothing without a record"
    )]
    AuditFailed {
        /// The file.
        path: PathBuf,
        /// What could not be done with it, as a participle.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// This member's state is not that of the others.
    #[error(
        "t members attest another state at index {index} than this member has: it is damaged, and the process ends; \
         `quorate member forget-state` has it rebuilt at the next start"
    )]
    Diverged {
        /// Where.
        index: u64,
    },
    /// Administrators have recorded this member as destroyed.
    #[error(
        "administrators have recorded this member as destroyed: nothing that it signs counts any more, and the process ends"
    )]
    Destroyed,
    /// A part of the node ended by itself.
    #[error("{0}; the process ends, because it would only seem to work")]
    Fatal(String),
}

/// How a node's process ends, for programs: in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// A stable code.
    pub code: &'static str,
    /// The exit status.
    pub exit: u8,
    /// What to do.
    pub hint: &'static str,
}

const FATAL: Ending = Ending { code: "fatal", exit: 70, hint: "" };
/// Nothing that another start would change.
const CONFIGURATION: Ending = Ending { code: "configuration", exit: 64, hint: "" };
const DAMAGED: Ending = Ending {
    code: "log_damaged",
    exit: 65,
    hint: "the others go on without this member; never start it on an older copy; docs/storage.md has what to do",
};
const DISK_FULL: Ending =
    Ending { code: "disk_full", exit: 73, hint: "make room on this node's disk, and start the node again" };
const DEVICE: Ending = Ending {
    code: "device_failed",
    exit: 74,
    hint: "look at the disk and the kernel's log before the node is started again",
};

const DESTROYED: Ending = Ending {
    code: "member_destroyed",
    exit: 77,
    hint: "erase its data folder and its seal key; if it was not destroyed, tell the administrators: what they rely on is untrue",
};

impl RunError {
    /// The end of a node that keeps its files in `data`, if it has a folder.
    pub(crate) fn audit_failed(data: Option<&Path>, broken: &Broken) -> Self {
        let path = data.map_or_else(PathBuf::new, |data| data.join(AUDIT)).join(&broken.file);
        Self::AuditFailed { path, call: broken.call, source: broken.error() }
    }

    /// How the process ends with it.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self {
            Self::Destroyed => DESTROYED,
            Self::Lost(_) | Self::NotAside { .. } | Self::Raft(OpenError::Damaged(_)) => DAMAGED,
            Self::Store { source, .. } | Self::Raft(OpenError::Storage(source)) | Self::Log(Fatal::Storage(source)) => {
                of_store(source)
            }
            Self::Read { source, .. }
            | Self::AuditFailed { source, .. }
            | Self::Keystore(KeystoreError::Io { source, .. })
            | Self::Audit { source: quorate_audit::OpenError::Io(source), .. } => of_store(&KvError::from(source)),
            Self::NoGenesis { .. } | Self::Genesis { .. } | Self::OtherCluster { .. } | Self::NotAMember { .. } => {
                CONFIGURATION
            }
            Self::Keystore(_)
            | Self::OtherStore { .. }
            | Self::OtherFormat { .. }
            | Self::Diverged { .. }
            | Self::Raft(_)
            | Self::Audit { .. }
            | Self::Tls(_)
            | Self::Listen { .. }
            | Self::Serve(_)
            | Self::Log(_)
            | Self::Fatal(_) => FATAL,
        }
    }
}

fn of_store(error: &KvError) -> Ending {
    match error {
        KvError::Damaged(_) | KvError::Unsealed => DAMAGED,
        KvError::NoRoom(_) => DISK_FULL,
        KvError::Device(_) => DEVICE,
        KvError::Engine(_) | KvError::Closed | KvError::Injected => FATAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_audit_disk_is_a_device_that_failed_and_names_the_file() {
        let eio = std::io::Error::from_raw_os_error(5);
        let file = "audit-00000001.jsonl".to_owned();
        let broken = Broken { file, call: "synced", kind: eio.kind(), os: eio.raw_os_error() };
        let why = RunError::audit_failed(Some(Path::new("/data")), &broken);
        assert_eq!((why.ending(), why.ending().exit), (DEVICE, 74));
        assert!(!why.ending().hint.is_empty());
        let said = why.to_string();
        let expected = "the audit log failed: /data/audit/audit-00000001.jsonl cannot be synced: Input/output error (os error 5); ";
        assert!(said.starts_with(expected), "{said}");
        let deleted = Broken { kind: std::io::ErrorKind::NotFound, os: None, ..broken };
        assert_eq!(RunError::audit_failed(None, &deleted).ending(), FATAL, "somebody has taken it away");
    }
}
