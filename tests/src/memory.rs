//! What a process has in its memory, its arguments and its environment: read as a debugger would, or from a core dump.
//!
//! It takes the rights of a debugger: a test reads the memory of what it started, where that left it open; a core is written by gdb
//! with root's rights, its own or sudo's.

use crate::as_root;
use crate::canary::{Found, Searcher};
use anyhow::Context as _;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;

/// How much is read at once.
const PART: usize = 1 << 20;

/// Searches all memory of a process that it can write to or that no file stands behind. `place` is what to call it.
///
/// # Errors
/// When it may not be read; the error says what is missing.
pub fn search(searcher: &Searcher, place: &str, pid: u32) -> anyhow::Result<Found> {
    let denied = || {
        format!(
            "cannot read the memory of {place} (pid {pid}): run the tests as root, or as the user of the processes with \
             QUORATE_DUMPABLE in their environment and kernel.yama.ptrace_scope at 1 or 0"
        )
    };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).with_context(denied)?;
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(denied)?;
    let (mut found, mut read) = (Found::default(), 0u64);
    let mut part = vec![0; PART];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let file = words.nth(3).unwrap_or("anonymous");
        if !rights.starts_with('r')
            || (rights.get(1..2) != Some("w") && file.starts_with('/'))
            || file.starts_with("[v")
        {
            continue;
        }
        let name = format!("{place}, {}", if file.starts_with('/') { "data" } else { file });
        let (from, to) = range.split_once('-').context("/proc/PID/maps")?;
        let (mut at, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(PART).min(PART);
            let slice = part.get_mut(..length).unwrap_or_default();
            // What was unmapped in this moment is gone.
            let Ok(got) = memory.read_at(slice, at) else { break };
            let slice = slice.get(..got).unwrap_or_default();
            searcher.search(&name, slice, &mut found);
            read += got as u64;
            let last = got == 0 || at + got as u64 >= to;
            at += if last { got.max(1) } else { got.saturating_sub(searcher.overlap()).max(1) } as u64;
        }
    }
    anyhow::ensure!(read > 1 << 20, "{}: only {read} bytes of it could be read", denied());
    Ok(found)
}

/// Searches the arguments and the environment of a process and of all that it started, and that started by these.
///
/// # Errors
/// When they may not be read.
pub fn search_arguments(searcher: &Searcher, place: &str, pid: u32) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut family = vec![pid];
    for entry in std::fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let mut ancestor = Some(id);
        while let Some(id_of) = ancestor.filter(|a| *a > 1 && *a != pid) {
            ancestor = crate::database::parent(id_of);
        }
        if ancestor == Some(pid) && id != pid {
            family.push(id);
        }
    }
    for id in family {
        for (what, file) in [("arguments", "cmdline"), ("environment", "environ")] {
            match std::fs::read(format!("/proc/{id}/{file}")) {
                Ok(bytes) => searcher.search(&format!("{what} of {place}"), &bytes, &mut found),
                // A child that has ended.
                Err(_) if id != pid => {}
                Err(why) => return Err(why).with_context(|| format!("the {what} of {place} (pid {id})")),
            }
        }
    }
    Ok(found)
}

/// Has gdb write a core dump of a process that goes on running, and searches it.
///
/// # Errors
/// When there is no gdb, or it may not.
pub fn search_core(searcher: &Searcher, place: &str, pid: u32, folder: &Path) -> anyhow::Result<Found> {
    let file = folder.join(format!("dump.{pid}"));
    // Without symbols: a core needs none, and reading them takes longer than all the rest.
    let output = as_root("gdb")
        .args(["-nx", "-batch", "-readnever", "-p", &pid.to_string(), "-ex"])
        .arg(format!("gcore {}", file.display()))
        .stdin(Stdio::null())
        .output()
        .context("gdb cannot be run: `make setup` installs it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success() && file.is_file(),
        "gdb writes no core of {place} (pid {pid}); it takes root, or sudo without a password: {said}"
    );
    let own = as_root("chown").arg(rustix::process::geteuid().as_raw().to_string()).arg(&file).status()?;
    anyhow::ensure!(own.success(), "a core that is root's stays root's: {own}");
    let (mut found, mut core) = (Found::default(), File::open(&file)?);
    let (mut text, mut kept) = (vec![0; PART], 0);
    loop {
        let got = core.read(text.get_mut(kept..).unwrap_or_default())?;
        searcher.search(place, text.get(..kept + got).unwrap_or_default(), &mut found);
        if got == 0 {
            break;
        }
        let end = kept + got;
        kept = searcher.overlap().min(end);
        text.copy_within(end - kept..end, 0);
    }
    anyhow::ensure!(found.searched > 4 << 20, "a core of {} bytes is none", found.searched);
    std::fs::remove_file(&file)?;
    Ok(found)
}
