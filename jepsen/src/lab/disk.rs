//! A member's disk: an XFS on a loop device over a file in memory. What a process has not synced is in the file system's cache, and a power
//! cut loses it.

use crate::cage::tool;
use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Sparse: it takes what is written to it.
const BYTES: u64 = 1 << 30;
/// How long a file system may be busy after its last process has ended.
const BUSY: Duration = Duration::from_secs(15);
const BALLAST: &str = "ballast";

/// One disk, mounted.
#[derive(Debug)]
pub(crate) struct Disk {
    /// None where it is a mere folder, which no fault of disks can be done to.
    image: Option<PathBuf>,
    at: PathBuf,
}

impl Disk {
    /// Makes and mounts one at `HOME/name`.
    pub(crate) async fn create(home: &Path, name: &str) -> anyhow::Result<Self> {
        let image = home.join(format!("{name}.image"));
        File::create(&image)?.set_len(BYTES)?;
        tool("mkfs.xfs", &["-q", "-f", &image.display().to_string()]).await?;
        let disk = Self { image: Some(image), ..Self::folder(home, name)? };
        disk.mount().await?;
        Ok(disk)
    }

    /// Makes a mere folder, where nothing can be mounted.
    pub(crate) fn folder(home: &Path, name: &str) -> anyhow::Result<Self> {
        let at = home.join(name);
        std::fs::create_dir(&at)?;
        Ok(Self { image: None, at })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Cuts its power: what was not synced is gone, and every access fails until [`Disk::power_up`].
    pub(crate) async fn cut_power(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.image.is_some(), "faults of disks take root");
        // Without -f: the file system's own log is not written out first.
        tool("xfs_io", &["-x", "-c", "shutdown", &self.at.display().to_string()]).await?;
        Ok(())
    }

    /// Whether every access fails.
    pub(crate) fn is_dead(&self) -> bool {
        std::fs::read_dir(&self.at).is_err()
    }

    /// Mounts it again. Nothing may use it any more.
    pub(crate) async fn power_up(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUSY;
        while let Err(why) = tool("umount", &[&self.at.display().to_string()]).await {
            anyhow::ensure!(Instant::now() < deadline, "after {BUSY:?}: {why}");
            sleep(Duration::from_millis(200)).await;
        }
        self.mount().await
    }

    /// Takes space until `free` bytes are left.
    pub(crate) fn fill(&self, free: u64) -> anyhow::Result<()> {
        anyhow::ensure!(self.image.is_some(), "faults of disks take root");
        let file = File::options().create(true).append(true).open(self.at.join(BALLAST))?;
        let (disk, taken) = (statvfs(&self.at)?, file.metadata()?.len());
        let now = disk.f_bavail * disk.f_frsize;
        let more = now.checked_sub(free).context("the disk is fuller than that already")?;
        Ok(fallocate(&file, FallocateFlags::empty(), taken, more)?)
    }

    /// Gives it back, for good: a power cut that comes next would bring back what is only in memory gone.
    pub(crate) fn relieve(&self) -> anyhow::Result<()> {
        let file = File::options().write(true).open(self.at.join(BALLAST))?;
        file.set_len(0)?;
        Ok(file.sync_all()?)
    }

    async fn mount(&self) -> anyhow::Result<()> {
        let image = self.image.as_ref().context("faults of disks take root")?;
        let (image, at) = (image.display().to_string(), self.at.display().to_string());
        tool("mount", &["-o", "loop", &image, &at]).await?;
        Ok(())
    }
}
