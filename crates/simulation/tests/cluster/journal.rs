//! What happened in a run, line by line with its virtual time. Two runs of a seed have the same bytes here, or something in a node is not a
//! function of the seed.
//!
//! What every line costs would be more than the run itself, so deliveries of the network are counted and summed up, and stand in the next line.

use std::fmt::{Display, Write as _};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Journal(Arc<(Instant, Mutex<Lines>)>);

#[derive(Default)]
struct Lines {
    text: String,
    /// How many deliveries there were, and a sum over their times and ends, in their order.
    delivered: (u64, u64),
    /// Whether lines are shown as they come.
    aloud: bool,
}

impl Journal {
    pub(crate) fn new() -> Self {
        let aloud = std::env::var_os("QUORATE_ALOUD").is_some();
        Self(Arc::new((Instant::now(), Mutex::new(Lines { aloud, ..Lines::default() }))))
    }

    /// Virtual milliseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.0.0.elapsed().as_millis()).unwrap()
    }

    pub(crate) fn note(&self, what: impl Display) {
        let now = self.now();
        let mut lines = self.0.1.lock().unwrap();
        let (count, sum) = lines.delivered;
        let line = format!("{now:>6} {what} [{count} {sum:016x}]");
        if lines.aloud {
            eprintln!("{line}");
        }
        writeln!(lines.text, "{line}").unwrap();
    }

    /// A delivery between two hosts, by the last number of their addresses.
    pub(crate) fn delivered(&self, from: u8, to: u8) {
        let now = self.now();
        let (count, sum) = &mut self.0.1.lock().unwrap().delivered;
        *count += 1;
        // FNV-1a, by words.
        for word in [now, u64::from(from), u64::from(to)] {
            *sum = (*sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn text(&self) -> String {
        self.0.1.lock().unwrap().text.clone()
    }
}
