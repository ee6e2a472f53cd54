//! A disk of the test's own: a file system on a loop device, to fill up, and to cut the power of. Mounting takes root, or sudo
//! without a password.

use crate::as_root;
use anyhow::Context as _;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Sparse: it takes from the machine's disk what is written to it.
const BYTES: u64 = 1 << 30;
/// How long the file system may be busy after its last process has ended.
const BUSY: Duration = Duration::from_secs(10);
const BALLAST: &str = "ballast";

/// A mounted XFS; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    _folder: TempDir,
}

impl Disk {
    /// Makes and mounts one.
    ///
    /// # Errors
    /// Without root or sudo, loop devices, XFS in the kernel, or xfsprogs: the error says which.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("quorate-disk").tempdir()?;
        let (image, at) = (folder.path().join("image"), folder.path().join("at"));
        File::create(&image)?.set_len(BYTES)?;
        // Where it lies, only root's PATH leads.
        run(as_root("mkfs.xfs").args(["-q", "-f"]).arg(&image))?;
        fs::create_dir(&at)?;
        let mut disk = Self { image, at, mounted: false, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Moves a folder to this disk, under `name`; a link stays in its place.
    ///
    /// # Errors
    /// The file system's.
    pub fn adopt(&self, folder: &Path, name: &str) -> anyhow::Result<()> {
        let here = self.at.join(name);
        run(Command::new("cp").arg("-a").arg(folder).arg(&here))?;
        fs::remove_dir_all(folder)?;
        std::os::unix::fs::symlink(&here, folder)?;
        Ok(())
    }

    /// Cuts the power: what was not synced is gone, and every later access fails until [`Disk::power_up`].
    ///
    /// # Errors
    /// When the file system cannot be shut down.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        // Without -f: its own log is not written out first.
        run(as_root("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at))
    }

    /// Mounts it again after a power cut. Nothing may use it any more.
    ///
    /// # Errors
    /// When something does, or the file system cannot be recovered.
    pub fn power_up(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Takes or gives back space until `free` bytes are left.
    ///
    /// # Errors
    /// The file system's.
    pub fn fill(&self, free: u64) -> anyhow::Result<()> {
        let file = File::options().create(true).append(true).open(self.at.join(BALLAST))?;
        let (disk, taken) = (statvfs(&self.at)?, file.metadata()?.len());
        let now = disk.f_bavail * disk.f_frsize;
        if now >= free {
            return Ok(fallocate(&file, FallocateFlags::empty(), taken, now - free)?);
        }
        Ok(file.set_len(taken.checked_sub(free - now).context("there is no ballast to give back")?)?)
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// The file system's.
    pub fn relieve(&self) -> anyhow::Result<()> {
        Ok(File::options().write(true).open(self.at.join(BALLAST))?.set_len(0)?)
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        run(as_root("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at))?;
        self.mounted = true;
        let owner = format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        run(as_root("chown").arg(owner).arg(&self.at))?;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUSY;
        while let Err(why) = run(as_root("umount").arg(&self.at)) {
            anyhow::ensure!(Instant::now() < deadline, "after {BUSY:?}: {why}");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            // Its processes are ended after it: it goes with the last of them.
            let _ = run(as_root("umount").arg("-l").arg(&self.at));
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}: see deploy/build/setup"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}
