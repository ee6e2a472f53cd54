//! The load: closed loop (so many clients, each waiting for its answer) and open loop (arrivals that wait for nobody).
//!
//! In the open loop the latency of a request counts from when it was to be sent, not from when it was: a server that stalls is
//! charged for those who would have come meanwhile ("coordinated omission", Gil Tene).

use crate::machine::{Cpu, Spent, float};
use crate::side::Connection;
use crate::work::Work;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// How a load arrives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arrival {
    /// So many clients, each with one request at a time.
    Closed {
        /// How many.
        clients: usize,
    },
    /// Requests at random times, so many in a second on average (a Poisson process).
    Open {
        /// Requests in a second.
        rate: f64,
    },
}

impl core::fmt::Display for Arrival {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Closed { clients: 1 } => f.write_str("1 client"),
            Self::Closed { clients } => write!(f, "{clients} clients"),
            Self::Open { rate } => write!(f, "{rate:.0} requests/s"),
        }
    }
}

/// What came of a block. Latencies are those of requests, everything else counts operations.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// What the first failure said.
    pub(crate) failure: Option<String>,
    pub(crate) per_second: f64,
    /// Microseconds of processor time for one operation.
    pub(crate) server_cpu: f64,
    pub(crate) client_cpu: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    /// Only of 100,000 requests and more: of fewer it is mostly chance.
    pub(crate) p999: Option<f64>,
    pub(crate) max: f64,
    pub(crate) spent: Spent,
}

/// The fewest requests of which the 99.9th percentile is told.
const ENOUGH_FOR_P999: u64 = 100_000;
/// How many requests of an open loop may be under way: beyond them the side does not keep up, and the rest fails.
const UNDER_WAY: usize = 8_192;

/// One request: when it counts from, when it ended.
struct Call {
    from: Instant,
    to: Instant,
    failure: Option<String>,
}

/// How long a block is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Not counted.
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// Loads a side, and measures.
pub(crate) async fn run(
    connections: &[Arc<dyn Connection>],
    work: Work,
    arrival: Arrival,
    span: Span,
    servers: &[u32],
    numbers: &Arc<AtomicU64>,
) -> anyhow::Result<Outcome> {
    let over = Arc::new(AtomicBool::new(false));
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let load = Load { work, over: Arc::clone(&over), calls: Arc::clone(&calls), numbers: Arc::clone(numbers) };
    let load = match arrival {
        Arrival::Closed { clients } => {
            anyhow::ensure!(connections.len() >= clients, "{clients} clients need as many connections");
            tokio::spawn(closed(connections.iter().take(clients).cloned().collect(), load))
        }
        Arrival::Open { rate } => tokio::spawn(open(connections.to_vec(), rate, load)),
    };
    sleep(span.warm_up).await;
    let (begun, before) = (Instant::now(), Cpu::now(servers)?);
    sleep(span.length).await;
    let (ended, after) = (Instant::now(), Cpu::now(servers)?);
    over.store(true, Ordering::Relaxed);
    load.await?;
    let calls = std::mem::take(&mut *calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    summarise(&calls, work, arrival, (begun, ended), after.since(&before))
}

/// What every caller needs.
#[derive(Clone)]
struct Load {
    work: Work,
    over: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    numbers: Arc<AtomicU64>,
}

impl Load {
    async fn call(&self, connection: &dyn Connection, from: Instant) {
        let n = self.numbers.fetch_add(1, Ordering::Relaxed);
        let failure = connection.call(&self.work, n).await.err().map(|why| format!("{why:#}"));
        self.note(from, failure);
    }

    fn note(&self, from: Instant, failure: Option<String>) {
        let call = Call { from, to: Instant::now(), failure };
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(call);
    }
}

async fn closed(connections: Vec<Arc<dyn Connection>>, load: Load) {
    let clients = connections.into_iter().map(|connection| {
        let load = load.clone();
        tokio::spawn(async move {
            while !load.over.load(Ordering::Relaxed) {
                load.call(connection.as_ref(), Instant::now()).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        // A client that panicked has noted less.
        let _ = client.await;
    }
}

async fn open(connections: Vec<Arc<dyn Connection>>, rate: f64, load: Load) {
    let (due, mut arrivals) = mpsc::unbounded_channel();
    let pacer = std::thread::spawn({
        let over = Arc::clone(&load.over);
        move || pace(rate, &over, &due)
    });
    // Who finds no free connection waits for one, in the order of arrival.
    let (free, mut idle) = mpsc::unbounded_channel();
    let (taken, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<Arc<dyn Connection>>>();
    for connection in connections {
        let _ = free.send(connection);
    }
    let lender = tokio::spawn(async move {
        while let Some(who) = waiting.recv().await {
            let Some(connection) = idle.recv().await else { break };
            let _ = who.send(connection);
        }
    });
    let under_way = Arc::new(AtomicU64::new(0));
    let mut requests = tokio::task::JoinSet::new();
    while let Some(from) = arrivals.recv().await {
        if requests.len() >= UNDER_WAY {
            while requests.try_join_next().is_some() {}
        }
        if under_way.load(Ordering::Relaxed) >= u64::try_from(UNDER_WAY).unwrap_or(u64::MAX) {
            load.note(from, Some(format!("{UNDER_WAY} requests are under way: the side does not keep up")));
            continue;
        }
        let (get, got) = oneshot::channel();
        let _ = taken.send(get);
        under_way.fetch_add(1, Ordering::Relaxed);
        let (load, free, under_way) = (load.clone(), free.clone(), Arc::clone(&under_way));
        requests.spawn(async move {
            if let Ok(connection) = got.await {
                load.call(connection.as_ref(), from).await;
                let _ = free.send(connection);
            }
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
    while requests.join_next().await.is_some() {}
    lender.abort();
    let _ = pacer.join();
}

/// Says when requests are due, on a thread of its own: the runtime's timers are as coarse as a millisecond.
fn pace(rate: f64, over: &AtomicBool, due: &mpsc::UnboundedSender<Instant>) {
    // The same arrivals in each block and for each side.
    let mut rng = SmallRng::seed_from_u64(1);
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        next += gap(rng.random(), rate);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if due.send(next).is_err() {
            return;
        }
    }
}

/// The time between two arrivals of a Poisson process: exponential, from a number that is uniform in [0, 1).
fn gap(uniform: f64, rate: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
}

fn summarise(
    calls: &[Call],
    work: Work,
    arrival: Arrival,
    (begun, ended): (Instant, Instant),
    spent: Spent,
) -> anyhow::Result<Outcome> {
    // From a microsecond to a minute, to three digits, in nanoseconds.
    let mut latencies = Histogram::<u64>::new_with_bounds(1_000, 600_000_000_000, 3)?;
    let (mut requests, mut failures, mut failure) = (0, 0, None);
    for call in calls {
        // Rates count what ended inside. Who came inside and waits beyond the end counts for the latencies of an open loop.
        let inside = begun <= call.to && call.to < ended;
        let counts = match arrival {
            Arrival::Closed { .. } => inside,
            Arrival::Open { .. } => begun <= call.from && call.from < ended,
        };
        if let Some(why) = call.failure.as_ref().filter(|_| counts) {
            failures += 1;
            failure.get_or_insert_with(|| why.clone());
            continue;
        }
        if call.failure.is_none() && inside {
            requests += 1;
        }
        if counts {
            let nanos = call.to.saturating_duration_since(call.from).as_nanos();
            latencies.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }
    let seconds = (ended - begun).as_secs_f64();
    let operations = float(requests * work.weight());
    let at = |quantile: f64| float(latencies.value_at_quantile(quantile)) / 1e6;
    Ok(Outcome {
        seconds,
        requests,
        failures,
        failure,
        per_second: operations / seconds,
        server_cpu: spent.servers / operations.max(1.0),
        client_cpu: spent.client / operations.max(1.0),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: (latencies.len() >= ENOUGH_FOR_P999).then(|| at(0.999)),
        max: float(latencies.max()) / 1e6,
        spent,
    })
}

#[cfg(test)]
mod tests;
