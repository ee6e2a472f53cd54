//! What goes over the loopback: captured by dumpcap, decrypted by tshark with the keys that a test build writes down.
//!
//! A capture takes root, or sudo without a password; its file is the user's own.

use crate::as_root;
use anyhow::Context as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long dumpcap may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until it ends by itself, in seconds: a test that is killed cannot end what sudo has started.
const LONGEST: &str = "duration:900";

/// A running capture of all TCP on the loopback; ended when dropped.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Begins one, with its files in `folder`.
    ///
    /// # Errors
    /// When dumpcap is missing or may not: with what it said.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let (file, log) = (folder.join("loopback.pcapng"), folder.join("dumpcap.log"));
        let child = as_root("dumpcap")
            .args(["-q", "-i", "lo", "-B", "64", "-f", "tcp", "-a", LONGEST, "-w", "-"])
            .stdin(Stdio::null())
            .stdout(File::create(&file)?)
            .stderr(File::create(&log)?)
            .spawn()
            .context("dumpcap cannot be run: `make setup` installs it with tshark")?;
        let mut capture = Self { child, file, log };
        let deadline = Instant::now() + PATIENCE;
        // Its header is written once the kernel gives it frames.
        while std::fs::metadata(&capture.file).map_or(0, |m| m.len()) == 0 {
            let said = std::fs::read_to_string(&capture.log).unwrap_or_default();
            let ended = capture.child.try_wait()?;
            anyhow::ensure!(
                ended.is_none() && Instant::now() < deadline,
                "dumpcap captures nothing ({ended:?}); it takes root, or sudo without a password: {said}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(capture)
    }

    /// Ends it. Returns the frames as they went, and what they say when they are decrypted with `keys`: the streams of all
    /// connections, then all values of HTTP/2 headers.
    ///
    /// # Errors
    /// tshark's.
    pub fn finish(mut self, keys: &Path) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        self.end()?;
        let said = std::fs::read_to_string(&self.log)?;
        let dropped = said.lines().find(|l| l.contains("dropped")).unwrap_or_default().to_owned();
        anyhow::ensure!(!said.contains("packets dropped") || dropped.contains("/0"), "frames were lost: {dropped}");
        let pdus = self.file.with_extension("decrypted");
        let keys = format!("tls.keylog_file:{}", keys.display());
        tshark(&[&"-r", &self.file, &"-o", &keys, &"-U", &"OSI layer 7", &"-w", &pdus])?;
        let mut plain = std::fs::read(&pdus)?;
        // Names and messages may be compressed (RFC 7541); values of other headers end in base64.
        let headers = tshark(&[
            &"-r",
            &self.file,
            &"-o",
            &keys,
            &"-Y",
            &"http2.header",
            &"-T",
            &"fields",
            &"-e",
            &"http2.header.value",
        ])?;
        plain.extend_from_slice(&headers);
        Ok((std::fs::read(&self.file)?, plain))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        // By the same rights: sudo hands the signal on. The shell's own kill: the program comes with a package.
        let told = as_root("sh").args(["-c", "kill -INT $0", &self.child.id().to_string()]).status()?;
        anyhow::ensure!(told.success(), "dumpcap cannot be told to end: {told}");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "dumpcap does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}

fn tshark(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new("tshark");
    command.arg("-n").args(arguments.iter().map(|a| a.as_ref())).stdin(Stdio::null());
    let output = command.output().context("tshark cannot be run: `make setup` installs it")?;
    anyhow::ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
