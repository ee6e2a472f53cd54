//! Writers that write down what was acknowledged, and the question whether all of it is still there.

use crate::Cluster;
use quorate_api::client::{Client, SecretRef};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How many are opened with one question.
const TOGETHER: usize = 100;
/// How long a cluster that is just back may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a write may take before its outcome counts as unknown.
const WRITE: Duration = Duration::from_secs(4);

/// Paths below `app/demo` with the value that was acknowledged there.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    acknowledged: Arc<Mutex<Vec<(String, String)>>>,
    next: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Ledger {
    /// Starts writing, until [`Ledger::finish`]. A write that fails is tried no second time: its outcome is unknown.
    ///
    /// # Errors
    /// As [`Cluster::client`].
    pub fn write(&self, cluster: &Cluster, writers: usize) -> anyhow::Result<Vec<JoinHandle<()>>> {
        self.stop.store(false, Ordering::Relaxed);
        let mut tasks = Vec::new();
        for _ in 0..writers {
            let (ledger, client) = (self.clone(), cluster.client("demo")?.with_timeout(WRITE));
            tasks.push(tokio::spawn(async move {
                while !ledger.stop.load(Ordering::Relaxed) {
                    ledger.write_one(&client).await;
                }
            }));
        }
        Ok(tasks)
    }

    async fn write_one(&self, client: &Client) {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let (path, value) = (format!("app/demo/ledger/{serial}"), format!("value {serial}"));
        match client.put("default", &path, value.as_bytes(), Some(0)).await {
            Ok(_) => self.lock().push((path, value)),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }

    /// Waits until `more` writes were acknowledged besides those that are there now.
    ///
    /// # Errors
    /// When they were not in half a minute.
    pub async fn wait_for(&self, more: usize) -> anyhow::Result<()> {
        let (from, deadline) = (self.len(), Instant::now() + PATIENCE);
        while self.len() < from + more {
            anyhow::ensure!(Instant::now() < deadline, "{} of {more} writes in {PATIENCE:?}", self.len() - from);
            tokio::time::sleep(crate::LOOK).await;
        }
        Ok(())
    }

    /// Ends the writers.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn finish(&self, writers: Vec<JoinHandle<()>>) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await?;
        }
        Ok(())
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was acknowledged and is not there, or is something else: the paths, with what is said of them.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn lost(&self, cluster: &Cluster) -> anyhow::Result<Vec<String>> {
        let client = cluster.client("demo")?.with_timeout(PATIENCE);
        let all = self.lock().clone();
        let mut lost = Vec::new();
        for some in all.chunks(TOGETHER) {
            let item = |path: &String| SecretRef { namespace: "default".to_owned(), path: path.clone(), number: None };
            let items: Vec<SecretRef> = some.iter().map(|(path, _)| item(path)).collect();
            for ((path, value), opened) in some.iter().zip(client.get_many(&items).await?) {
                match opened {
                    Ok(opened) if opened.plaintext.expose() == value.as_bytes() => {}
                    Ok(_) => lost.push(format!("{path}: another value")),
                    Err(why) => lost.push(format!("{path}: {why}")),
                }
            }
        }
        Ok(lost)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
