//! What the kernel counts: processor time by process, what else ran, calls of fsync.

use crate::process;
use anyhow::Context as _;
use rustix::process::Signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Processor time so far, in clock ticks of 1/100 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    servers: u64,
    client: u64,
    /// Of all processors, with and without idle time.
    all: u64,
    busy: u64,
    stolen: u64,
}

/// Where processor time went in a block, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spent {
    pub(crate) servers: f64,
    pub(crate) client: f64,
    /// Of everything else that ran, as a share of the machine.
    pub(crate) others_share: f64,
    /// Of all processors, as a share of the machine.
    pub(crate) busy_share: f64,
    /// What the host took away, as a share of the machine.
    pub(crate) stolen_share: f64,
}

/// One tick of /proc in microseconds (USER_HZ is 100 on every architecture that this runs on).
const TICK: f64 = 10_000.0;

impl Cpu {
    /// Reads the time of `servers`, of what they started, and of this process.
    pub(crate) fn now(servers: &[u32]) -> anyhow::Result<Self> {
        let processes = processes()?;
        let of = |roots: &[u32]| {
            processes
                .keys()
                .filter(|pid| below(&processes, **pid, roots))
                .filter_map(|pid| processes.get(pid))
                .map(|p| p.ticks)
                .sum::<u64>()
        };
        let own = std::process::id();
        let client = processes.get(&own).map_or(0, |p| p.own);
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or(0);
        // user nice system idle iowait irq softirq steal: proc_stat(5). What follows is counted in user and nice already.
        let all = fields.iter().take(8).sum();
        let busy = field(0) + field(1) + field(2) + field(5) + field(6);
        Ok(Self { servers: of(servers), client, all, busy, stolen: field(7) })
    }

    /// What was spent since `before`.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        let ticks = |now: u64, then: u64| float(now.saturating_sub(then));
        let (servers, client) = (ticks(self.servers, before.servers), ticks(self.client, before.client));
        let all = ticks(self.all, before.all).max(1.0);
        let busy = ticks(self.busy, before.busy);
        Spent {
            servers: servers * TICK,
            client: client * TICK,
            others_share: ((busy - servers - client) / all).max(0.0),
            busy_share: busy / all,
            stolen_share: ticks(self.stolen, before.stolen) / all,
        }
    }
}

/// Counts are far below what a float holds exactly.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

struct Process {
    parent: u32,
    /// Its own ticks.
    own: u64,
    /// With those of its children that ended and were waited for.
    ticks: u64,
}

fn processes() -> anyhow::Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").context("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may have ended meanwhile: then its parent has its time.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(process) = parse(&stat) {
            found.insert(pid, process);
        }
    }
    Ok(found)
}

/// A line of /proc/PID/stat: proc_pid_stat(5).
fn parse(stat: &str) -> Option<Process> {
    // Behind the name, which may hold anything: state, parent, then from the 14th field on the times.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let own = number(11)? + number(12)?;
    Some(Process { parent: fields.get(1)?.parse().ok()?, own, ticks: own + number(13)? + number(14)? })
}

/// Whether a process is one of `roots` or was started by one, at any depth.
fn below(processes: &BTreeMap<u32, Process>, pid: u32, roots: &[u32]) -> bool {
    let mut at = pid;
    while !roots.contains(&at) {
        match processes.get(&at) {
            Some(process) if process.parent != 0 => at = process.parent,
            _ => return false,
        }
    }
    true
}

/// What processes and all that they started have had written to storage, in bytes (proc_pid_io(5)): the page cache's write-back of
/// what nobody has synced is counted when it is dirtied.
pub(crate) fn written(roots: &[u32]) -> anyhow::Result<u64> {
    let processes = processes()?;
    let mut bytes = 0;
    for pid in processes.keys().filter(|pid| below(&processes, **pid, roots)) {
        let Ok(io) = std::fs::read_to_string(format!("/proc/{pid}/io")) else { continue };
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        bytes += line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(bytes)
}

/// Counts calls of fsync and fdatasync by some processes, in the kernel (`perf stat`): nothing is stopped at a call, as under
/// strace. It still touches every system call a little, so blocks in which calls are counted give no other figures.
pub(crate) struct Syncs {
    perf: Child,
    output: PathBuf,
}

/// What perf counts.
const EVENTS: &str = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";
/// How long perf may take to open its counters.
const OPENING: Duration = Duration::from_millis(600);

impl Syncs {
    /// Begins to count. Takes root, and perf.
    pub(crate) async fn begin(servers: &[u32], folder: &Path) -> anyhow::Result<Self> {
        let output = folder.join("syncs.csv");
        let pids: Vec<String> = servers.iter().map(u32::to_string).collect();
        let mut perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", EVENTS, "-p", &pids.join(","), "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("perf counts calls of fsync: apt-get install linux-perf")?;
        tokio::time::sleep(OPENING).await;
        if let Some(status) = perf.try_wait()? {
            anyhow::bail!("perf cannot count calls of fsync ({status}): it takes root, and /sys/kernel/tracing");
        }
        Ok(Self { perf, output })
    }

    /// Ends, and says how many calls there were.
    pub(crate) fn end(mut self) -> anyhow::Result<u64> {
        process::signal(&self.perf, Signal::INT);
        self.perf.wait()?;
        let said = std::fs::read_to_string(&self.output).context("what perf counted")?;
        counted(&said).with_context(|| format!("perf said `{}`", said.trim()))
    }
}

/// Adds the lines of `perf stat -x ,` up: each event has to be there.
fn counted(said: &str) -> Option<u64> {
    let count = |event: &str| {
        let line = said.lines().find(|line| line.split(',').nth(2) == Some(event))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    EVENTS.split(',').map(count).sum()
}

/// What the machine is, for the report.
pub(crate) fn describe() -> BTreeMap<&'static str, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("?");
    let memory = read("/proc/meminfo");
    let total = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or("?");
    BTreeMap::from([
        ("processor", model.trim_start_matches(['\t', ' ', ':']).to_owned()),
        ("processors", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("memory", total.trim().to_owned()),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load", read("/proc/loadavg").trim().to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_behind_a_name_with_spaces() {
        let p = parse("7 (a) b ) S 3 1 1 0 -1 4 0 0 0 0 10 20 30 40 20 0 1 0 5").unwrap();
        assert_eq!((p.parent, p.own, p.ticks), (3, 30, 100));
    }

    #[test]
    fn a_child_is_below_its_ancestors_and_below_no_other() {
        let process = |parent| Process { parent, own: 0, ticks: 0 };
        let all = BTreeMap::from([(1, process(0)), (2, process(1)), (3, process(2)), (4, process(1))]);
        assert!(below(&all, 3, &[2]) && below(&all, 2, &[2]));
        assert!(!below(&all, 4, &[2]) && !below(&all, 1, &[2]));
    }

    #[test]
    fn what_perf_says_is_added_up_and_a_missing_event_is_no_zero() {
        let line = |n: &str, event: &str| format!("{n},,{event},10,100.00,,\n");
        let both = line("5", "syscalls:sys_enter_fsync") + &line("7", "syscalls:sys_enter_fdatasync");
        assert_eq!(counted(&both), Some(12));
        assert_eq!(counted(&line("5", "syscalls:sys_enter_fsync")), None);
        let not = line("5", "syscalls:sys_enter_fsync") + &line("<not counted>", "syscalls:sys_enter_fdatasync");
        assert_eq!(counted(&not), None);
    }

    #[tokio::test]
    async fn a_sync_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let script =
            format!("sleep 2; dd if=/dev/zero of={}/x bs=1 count=1 conv=fsync; sleep 1", folder.path().display());
        let mut sh = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
        let syncs = Syncs::begin(&[sh.id()], folder.path()).await.unwrap();
        sh.wait().unwrap();
        assert_eq!(syncs.end().unwrap(), 1);
    }
}
