//! Room on the disk of the data folder: an alarm before it runs out, a mark below which nothing that grows is taken, and a reserve.
//!
//! ```text
//! free space:   ample  |  low: an alarm  |  full: only what takes away goes on  |  the reserve, given back
//!                 alarm_free_bytes   refuse_free_bytes                   reserve_bytes / 2
//! ```
//! What is left below the mark is for the commands that end things: revocations and their proofs, expiry, ceremonies. The reserve is a
//! preallocated file, for the case that somebody else has filled the disk. All of it comes back by itself when there is room again.

use crate::config::StorageConfig;
use crate::core::Core;
use quorate_api::status::Failure;
use quorate_audit::{Broken, Status};
use quorate_state::change::Kind;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const RESERVE: &str = "disk.reserve";
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often a leader without room tries to hand its leadership over: the others may have no more than it.
const HAND_OVER: Duration = Duration::from_secs(60);

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Enough.
    Ample,
    /// Somebody has to make room; everything goes on.
    Low,
    /// Nothing that grows is taken.
    Full,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ample => "ample",
            Self::Low => "low",
            Self::Full => "full",
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::Ample,
            1 => Self::Low,
            _ => Self::Full,
        }
    }

    /// With room for `free` bytes, coming from `self`: the way back takes an eighth more than the way here.
    fn next(self, free: u64, config: &StorageConfig) -> Self {
        let below = |mark: u64, was: bool| free < if was { mark.saturating_add(mark / 8) } else { mark };
        if below(config.refuse_free_bytes, self == Self::Full) {
            Self::Full
        } else if below(config.alarm_free_bytes, self >= Self::Low) {
            Self::Low
        } else {
            Self::Ample
        }
    }
}

/// The room of one data folder, or of a store that lies on no disk.
pub struct Room {
    data: Option<PathBuf>,
    config: StorageConfig,
    free: AtomicU64,
    level: AtomicU8,
}

impl Room {
    /// Looks for the first time, and gives the reserve back if that is what it takes to start.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(data: &Path, config: &StorageConfig) -> io::Result<Self> {
        let room = Self { data: Some(data.to_owned()), config: config.clone(), ..Self::boundless() };
        room.look()?;
        Ok(room)
    }

    /// That of a store that lies on no disk.
    #[must_use]
    pub fn boundless() -> Self {
        let (free, level) = (AtomicU64::new(u64::MAX), AtomicU8::new(0));
        Self { data: None, config: StorageConfig::default(), free, level }
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    pub(crate) fn level(&self) -> Level {
        Level::of(self.level.load(Ordering::Relaxed))
    }

    /// Bytes, as of the last look.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Whether a change may be decided on, or proposed, with the room that there is.
    pub(crate) fn admits(&self, kind: Kind) -> Result<(), Failure> {
        if self.level() < Level::Full || !grows(kind) {
            return Ok(());
        }
        let (free, mark) = (self.free(), self.config.refuse_free_bytes);
        Err(Failure::new(
            "storage_full",
            format!("this node's disk has {free} bytes left, and keeps {mark} for revocation"),
        ))
    }

    /// Measures, and sees to the reserve.
    fn look(&self) -> io::Result<Level> {
        let Some(data) = &self.data else { return Ok(Level::Ample) };
        let mut free = measure(data)?;
        let (reserve, kept) = (data.join(RESERVE), self.config.reserve_bytes);
        if reserve.exists() {
            if free < kept / 2 {
                fs::remove_file(&reserve)?;
                tracing::error!(free, "the disk is full: the reserve was given back");
                free = measure(data)?;
            }
        } else if free >= kept.saturating_mul(2).saturating_add(self.config.refuse_free_bytes)
            && keep(&reserve, kept).is_ok()
        {
            tracing::info!(bytes = kept, "the reserve on the data disk is there");
            free = measure(data)?;
        }
        self.free.store(free, Ordering::Relaxed);
        let (was, now) = (self.level(), self.level().next(free, &self.config));
        self.level.store(now as u8, Ordering::Relaxed);
        match now {
            _ if now == was => {}
            Level::Ample => tracing::info!(free, "the data disk has room again"),
            Level::Low => tracing::warn!(free, "the data disk runs full: make room"),
            Level::Full => tracing::error!(free, "the data disk is full: only what takes away goes on; make room"),
        }
        Ok(now)
    }
}

fn measure(data: &Path) -> io::Result<u64> {
    let disk = statvfs(data)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// A reserve that is not whole is none.
fn keep(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(|error| {
        let _ = fs::remove_file(path);
        error.into()
    })
}

/// Whether carrying it out leaves more than it found. What does not, goes on when the disk is full.
fn grows(kind: Kind) -> bool {
    match kind {
        Kind::PutSecret
        | Kind::UndeleteSecret
        | Kind::CreateNamespace
        | Kind::CreateMount
        | Kind::RegisterCustomerKey
        | Kind::UnblockIdentity
        | Kind::BeginKeyGeneration
        | Kind::PutTarget
        | Kind::PutRole
        | Kind::IssueLease
        | Kind::RenewLease => true,
        Kind::DeleteSecret
        | Kind::DestroySecret
        | Kind::PutPolicy
        | Kind::DeletePolicy
        | Kind::SetClientRoots
        | Kind::ResetClock
        | Kind::RecordMember
        | Kind::BlockIdentity
        | Kind::DeleteRole
        | Kind::DeleteTarget
        | Kind::ProveTarget
        | Kind::SetQuota
        | Kind::TakeOver
        | Kind::ReplacePassword
        | Kind::ReviseTarget
        | Kind::RevokeLease
        | Kind::RevokeLeases
        | Kind::OpenSecret
        | Kind::ListSecrets
        | Kind::ReadVersions
        | Kind::ReadMounts
        | Kind::ReadPolicies
        | Kind::ReadRoles
        | Kind::ReadLease
        | Kind::ListLeases
        | Kind::ReadStatus => false,
    }
}

/// Whether it takes something away from somebody: a right, a role, a credential, a secret that leaked. Its records may use the reserve of the audit log.
pub(crate) fn lessens(kind: Kind) -> bool {
    match kind {
        Kind::DeleteSecret
        | Kind::DestroySecret
        | Kind::PutPolicy
        | Kind::DeletePolicy
        | Kind::BlockIdentity
        | Kind::DeleteRole
        | Kind::DeleteTarget
        | Kind::RevokeLease
        | Kind::RevokeLeases
        | Kind::SetClientRoots
        | Kind::RecordMember
        // While time has run away no request is in time, those that revoke neither.
        | Kind::ResetClock => true,
        // That of a role can lower what its leases get; what has to end now is ended by removing the role.
        Kind::PutRole
        | Kind::PutSecret
        | Kind::UndeleteSecret
        | Kind::CreateNamespace
        | Kind::CreateMount
        | Kind::RegisterCustomerKey
        | Kind::UnblockIdentity
        | Kind::BeginKeyGeneration
        | Kind::PutTarget
        | Kind::ProveTarget
        | Kind::SetQuota
        | Kind::TakeOver
        | Kind::ReplacePassword
        | Kind::ReviseTarget
        | Kind::IssueLease
        | Kind::RenewLease
        | Kind::OpenSecret
        | Kind::ListSecrets
        | Kind::ReadVersions
        | Kind::ReadMounts
        | Kind::ReadPolicies
        | Kind::ReadRoles
        | Kind::ReadLease
        | Kind::ListLeases
        | Kind::ReadStatus => false,
    }
}

impl Core {
    /// The task that looks at the disks. A leader without room for data or records hands its leadership over: others may have more.
    pub(crate) async fn keep_room(self: Arc<Self>) {
        let mut handed_over: Option<Instant> = None;
        loop {
            sleep(LOOK).await;
            if self.room.data.is_none() {
                std::future::pending::<()>().await;
            }
            let core = Arc::clone(&self);
            let level = match tokio::task::spawn_blocking(move || core.room.look()).await {
                Ok(Ok(level)) => level,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the data disk cannot be looked at");
                    continue;
                }
                Err(_) => return,
            };
            let short = level == Level::Full || matches!(self.audit.status(), Status::Full { .. });
            let leads = self.raft.watch().borrow().is_leader;
            if short && leads && handed_over.is_none_or(|at| at.elapsed() > HAND_OVER) {
                tracing::warn!("this leader has no room: it hands its leadership over");
                handed_over = Some(Instant::now());
                // It may lead again later, so leases that are being made are not waited for: the next leader ends or follows them.
                let _ = self.raft.hand_over().await;
            }
        }
    }

    /// Returns when the audit log has failed for good, with the kind of the error.
    pub(crate) async fn audit_failed(&self) -> Arc<Broken> {
        loop {
            if let Status::Failed(broken) = self.audit.status() {
                return broken;
            }
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::change::Change;
    use quorate_state::ids::LeaseId;

    const CONFIG: StorageConfig = StorageConfig { alarm_free_bytes: 800, refuse_free_bytes: 400, reserve_bytes: 100 };

    #[test]
    fn the_way_back_is_longer_than_the_way_there() {
        let mut level = Level::Ample;
        let path = [(900, Level::Ample), (799, Level::Low), (850, Level::Low), (399, Level::Full), (449, Level::Full)];
        for (free, expected) in path.into_iter().chain([(450, Level::Low), (899, Level::Low), (900, Level::Ample)]) {
            level = level.next(free, &CONFIG);
            assert_eq!(level, expected, "with {free} bytes");
        }
        assert_eq!(Level::Ample.next(0, &CONFIG), Level::Full);
    }

    #[test]
    fn a_full_disk_takes_nothing_that_grows_and_everything_that_ends_something() {
        let folder = tempfile::tempdir().unwrap();
        let huge = StorageConfig { alarm_free_bytes: u64::MAX, refuse_free_bytes: u64::MAX, reserve_bytes: 1 };
        let room = Room::open(folder.path(), &huge).unwrap();
        assert_eq!(room.level(), Level::Full);
        for kind in Kind::ALL {
            match room.admits(*kind) {
                Ok(()) => assert!(!grows(*kind), "{kind:?} was admitted"),
                Err(refused) => assert!(refused.code == "storage_full" && !lessens(*kind), "{kind:?}: {refused}"),
            }
        }
        assert!(room.admits(Kind::PutSecret).is_err() && room.admits(Kind::IssueLease).is_err());
        assert!(room.admits(Kind::RevokeLease).is_ok() && room.admits(Kind::OpenSecret).is_ok());
        assert!(!folder.path().join(RESERVE).exists(), "no reserve is taken from a disk that has none to give");
    }

    #[test]
    fn what_takes_something_away_is_recorded_from_the_reserve() {
        // A role that is described anew may take something away, and grows the state all the same.
        for change in one_of_each() {
            let kind = change.kind();
            assert_eq!(lessens(kind), change.takes_away() && kind != Kind::PutRole, "{kind:?}");
        }
    }

    fn one_of_each() -> Vec<Change> {
        let text = || "a".to_owned();
        let (namespace, path, numbers) = (text(), text(), vec![1]);
        vec![
            Change::DeleteSecret { namespace: text(), path: text(), numbers: vec![1] },
            Change::UndeleteSecret { namespace: text(), path: text(), numbers: vec![1] },
            Change::DestroySecret { namespace, path, numbers },
            Change::CreateNamespace { namespace: text() },
            Change::PutPolicy { name: text(), text: text() },
            Change::DeletePolicy { name: text() },
            Change::BlockIdentity { principal: text() },
            Change::UnblockIdentity { principal: text() },
            Change::DeleteRole { name: text() },
            Change::DeleteTarget { name: text() },
            Change::IssueLease { role: text(), verifier: text(), ttl: None },
            Change::RenewLease { lease: LeaseId([1; 16]), ttl: 1 },
            Change::RevokeLease { lease: LeaseId([1; 16]) },
            Change::SetClientRoots { certificates: Vec::new() },
            Change::RecordMember { member: 1, name: text(), absence: None, reason: text() },
        ]
    }

    #[test]
    fn the_reserve_is_kept_where_there_is_room_and_given_back_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let ample = StorageConfig { alarm_free_bytes: 2, refuse_free_bytes: 1, reserve_bytes: 1 << 16 };
        let room = Room::open(folder.path(), &ample).unwrap();
        assert_eq!((room.level(), fs::metadata(folder.path().join(RESERVE)).unwrap().len()), (Level::Ample, 1 << 16));
        let none = StorageConfig { reserve_bytes: u64::MAX, ..ample };
        Room::open(folder.path(), &none).unwrap();
        assert!(!folder.path().join(RESERVE).exists(), "less than half of the reserve is free");
    }
}
