//! Holds packets back: each for a time of its own, so that later ones overtake earlier ones. Where the kernel has `netem` that would do it; this
//! does the same with its packet queue, which every kernel with a packet filter has. Runs as a process of its own in the namespace of
//! whose packets it holds, and ends with its standard input.

use crate::random::Random;
use anyhow::Context as _;
use nfq::{Message, Queue, Verdict};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The number of the queue, one in each namespace of networks.
pub(crate) const QUEUE: u16 = 5;
/// Between two looks at the queue.
const LOOK: Duration = Duration::from_millis(1);

/// How packets are held back.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Hold {
    /// At least so many milliseconds.
    #[arg(long)]
    delay: u64,
    /// And up to so many more.
    #[arg(long)]
    jitter: u64,
    /// Where the times come from.
    #[arg(long)]
    seed: u64,
}

/// Holds packets until standard input is closed, then lets the rest go. Prints how many were held, and how many were overtaken.
pub(crate) fn run(hold: &Hold) -> anyhow::Result<()> {
    let mut queue = Queue::open().context("no packet queue: this takes root, or a namespace of users")?;
    queue.bind(QUEUE)?;
    // What a packet says is nobody's business here.
    queue.set_copy_range(QUEUE, 0)?;
    queue.set_nonblocking(true);
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    thread::spawn(move || {
        let mut nothing = Vec::new();
        // Closed or broken: it is over.
        let _ = std::io::stdin().read_to_end(&mut nothing);
        told.store(true, Ordering::Relaxed);
    });
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    let mut random = Random::new(hold.seed);
    let mut waiting: BTreeMap<(Instant, u64), Message> = BTreeMap::new();
    let (mut held, mut newest, mut overtaken) = (0, 0, 0);
    loop {
        loop {
            match queue.recv() {
                Ok(packet) => {
                    held += 1;
                    let time = hold.delay + random.between(0, hold.jitter + 1);
                    waiting.insert((Instant::now() + Duration::from_millis(time), held), packet);
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                // An answer to a verdict: the kernel has dropped that packet meanwhile, with its connection.
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                Err(why) => return Err(why).context("the packet queue"),
            }
        }
        let ending = over.load(Ordering::Relaxed);
        while let Some(first) = waiting.first_entry() {
            let (due, number) = *first.key();
            if due > Instant::now() && !ending {
                break;
            }
            let mut packet = first.remove();
            overtaken += u64::from(number < newest);
            newest = newest.max(number);
            packet.set_verdict(Verdict::Accept);
            queue.verdict(packet)?;
        }
        if ending {
            writeln!(out, "{held} {overtaken}")?;
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}
