//! How often the vault syncs for a thousand operations, against the committed figures of `guards.toml`. No clock: one sync more per
//! operation is one more on every machine.

use crate::machine::{Syncs, float};
use crate::side::{Connection, Quorate, Side};
use crate::work::{Operation, Work};
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// `quorate-bench guard`.
#[derive(Debug, clap::Args)]
pub(crate) struct Guard {
    /// The vault's program.
    #[arg(long, env = "QUORATE_BIN")]
    quorate: PathBuf,
    /// Where the cluster's data lies.
    #[arg(long, default_value = "/var/tmp")]
    data: PathBuf,
}

/// The committed figures.
const FIGURES: &str = include_str!("../guards.toml");
/// How many operations are counted.
const OPERATIONS: u64 = 500;
/// By how much a count may be above its figure: heartbeats, segments and the rest of what a cluster does by itself.
const TOLERANCE: f64 = 1.15;

#[derive(Deserialize)]
struct Figures {
    syncs_per_thousand: BTreeMap<String, f64>,
}

/// What is counted: an operation, by so many clients at once. By one: how many of many share a sync depends on how busy the machine is.
const COUNTED: [(Operation, u64); 2] = [(Operation::Open, 1), (Operation::Write, 1)];

impl Guard {
    /// Fails when anything is synced more often than committed.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let figures: Figures = toml::from_str(FIGURES).context("guards.toml")?;
        let folder = tempfile::Builder::new().prefix("quorate-guard").tempdir_in(&self.data)?;
        let quorate = Quorate::start(&self.quorate, folder.path()).await?;
        let mut wrong = Vec::new();
        for (operation, clients) in COUNTED {
            let name = format!("{}-{clients}", operation.name());
            let counted = count(&quorate, operation, clients, folder.path()).await?;
            let committed = figures.syncs_per_thousand.get(&name).copied();
            eprintln!("{name} = {counted:.0} syncs per thousand, committed {committed:?}");
            wrong.extend(judge(&name, counted, committed));
        }
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

/// What is wrong with a count, if anything.
fn judge(name: &str, counted: f64, committed: Option<f64>) -> Option<String> {
    let Some(committed) = committed else { return Some(format!("guards.toml has no syncs_per_thousand.{name}")) };
    let most = committed * TOLERANCE;
    (counted > most)
        .then(|| format!("{name}: {counted:.0} syncs per thousand operations, and {committed:.0} are committed"))
}

/// Calls of fsync and fdatasync of all members for a thousand operations.
async fn count(quorate: &Quorate, operation: Operation, clients: u64, folder: &Path) -> anyhow::Result<f64> {
    let work = Work { operation, size: 1024, batch: 1 };
    quorate.prepare(&work).await?;
    let numbers = AtomicU64::new(clients << 32);
    let connect = |_| async {
        let connection = quorate.connect(&work).await?;
        connection.call(&work, numbers.fetch_add(1, Ordering::Relaxed)).await?;
        anyhow::Ok(connection)
    };
    let connections: Vec<Arc<dyn Connection>> = futures::stream::iter(0..clients).then(connect).try_collect().await?;
    let syncs = Syncs::begin(&quorate.servers(operation), folder).await?;
    let left = AtomicU64::new(OPERATIONS);
    let each = connections.iter().map(|connection| async {
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            connection.call(&work, numbers.fetch_add(1, Ordering::Relaxed)).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(each).await?;
    Ok(float(syncs.end()?) * 1_000.0 / float(OPERATIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sync_more_is_found_and_a_few_of_a_cluster_at_rest_are_not() {
        assert_eq!(judge("w", 4_400.0, Some(4_000.0)), None);
        assert!(judge("w", 5_000.0, Some(4_000.0)).is_some());
        assert!(judge("w", 1.0, None).is_some());
    }

    #[test]
    fn everything_that_is_counted_has_a_figure() {
        let figures: Figures = toml::from_str(FIGURES).unwrap();
        for (operation, clients) in COUNTED {
            let name = format!("{}-{clients}", operation.name());
            assert!(figures.syncs_per_thousand.contains_key(&name), "{name}");
        }
    }
}
