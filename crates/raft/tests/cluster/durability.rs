//! What survives: restarts, power loss, a lagging node, a failing disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_raft::{
    Config, Damage, Dialer, Fatal, Link, Node, OpenError, ProposeError, Raft,
    kv::{Batch, Copies, Kv, KvError, MemKv, Pair, RocksKv, Table},
};

use crate::harness::{CLUSTER, Cluster, Inverting, PATIENCE, Register, Registry, last_index, node, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_from_disk_keeps_everything() {
    let mut cluster = Cluster::start(3, true, |_| ()).await;
    let mut last = 0;
    for i in 0..20 {
        last = cluster.set(&format!("k{i}"), &i.to_string()).await.index;
    }
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    for id in [1, 2, 3] {
        cluster.start_node(id).await;
    }
    cluster.leader().await;
    cluster.converge(last).await;
    for id in cluster.ids() {
        for i in 0..20 {
            assert_eq!(cluster.get(id, &format!("k{i}")), Some(i.to_string()), "node {id}");
        }
    }
    cluster.set("k0", "again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_power_everywhere_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(3, false, |_| ()).await;
    for round in 0..3 {
        let mut last = 0;
        for i in 0..20 {
            last = cluster.set(&format!("k{i}"), &format!("{round}.{i}")).await.index;
        }
        for id in [1, 2, 3] {
            cluster.lose_power(id);
        }
        for id in [1, 2, 3] {
            cluster.start_node(id).await;
        }
        cluster.leader().await;
        cluster.converge(last).await;
        for id in cluster.ids() {
            for i in 0..20 {
                assert_eq!(cluster.get(id, &format!("k{i}")), Some(format!("{round}.{i}")), "node {id}");
            }
        }
    }
}

/// The check of the test before this one, on stores that acknowledge and do not sync: it finds what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledging_before_the_sync_is_found_out() {
    let mut cluster = Cluster::start(3, false, |_| ()).await;
    cluster.set("before", "durable").await;
    for id in [1, 2, 3] {
        cluster.memory(id).lie_about_syncs();
    }
    for i in 0..20 {
        cluster.set(&format!("k{i}"), "acknowledged").await;
    }
    for id in [1, 2, 3] {
        cluster.lose_power(id);
    }
    for id in [1, 2, 3] {
        cluster.start_node(id).await;
    }
    let leader = cluster.leader().await;
    let applied = cluster.node(leader).read_index(PATIENCE).await.unwrap();
    cluster.converge(applied).await;
    let lost = (0..20).filter(|i| cluster.get(leader, &format!("k{i}")).is_none()).count();
    assert!(lost > 0, "20 writes were acknowledged, none of them was synced, and none is missing after the power cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_node() {
    let cluster = Cluster::start(1, false, |config| config.propose_timeout = Duration::from_secs(2)).await;
    cluster.set("a", "1").await;
    let mut fatal = cluster.node(1).fatal();
    assert!(fatal.borrow().is_none());
    cluster.memory(1).fail_next_sync();
    let refused = cluster.node(1).propose(b"a=2".to_vec()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Stopped | ProposeError::Unknown), "{refused:?}");
    let reason = within("the alarm", fatal.wait_for(Option::is_some)).await.unwrap().clone();
    assert_eq!(reason, Some(Fatal::Storage(KvError::Injected)));
    // The device works again, and it makes no difference.
    cluster.node(1).propose(b"a=3".to_vec()).await.unwrap_err();
    assert_eq!(cluster.get(1, "a").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_starts_only_the_node_it_belongs_to() {
    let kv: Arc<dyn Kv> = Arc::new(MemKv::new());
    drop(alone(Config::new(1, CLUSTER), kv.clone()).await.unwrap());
    for config in [Config::new(2, CLUSTER), Config::new(1, [8; 32])] {
        let refused = alone(config, kv.clone()).await.err();
        assert!(matches!(refused, Some(OpenError::ForeignStore)), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_synced_entries_is_not_started_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::new(1, CLUSTER);
    config.witness = Some(directory.path().join("witness"));
    let kv = Arc::new(MemKv::new());
    let raft = alone(config.clone(), kv.clone()).await.unwrap();
    raft.initialize([(1, node(1))].into()).await.unwrap();
    within("a commit", async {
        while raft.propose(b"a=1".to_vec()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    raft.shutdown().await;
    // An honest crash is no damage.
    let kv = Arc::new(kv.crash());
    let raft = alone(config.clone(), kv.clone()).await.unwrap();
    raft.shutdown().await;

    let last = last_index(&kv);
    let mut cut = Batch::new();
    cut.delete(Table::Log, last.to_be_bytes());
    cut.delete(Table::Meta, b"applied".as_slice());
    kv.write(cut).unwrap();
    let refused = alone(config, kv).await.err();
    assert!(
        matches!(refused, Some(OpenError::Damaged(Damage::Short { witnessed, end })) if witnessed == last && end == last - 1),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_under_way_share_syncs() {
    const PROPOSALS: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let inner = RocksKv::open(directory.path(), Arc::new(Inverting)).unwrap();
    let kv = Arc::new(Counting { inner, syncs: AtomicU64::new(0) });
    let raft = alone(Config::new(1, CLUSTER), kv.clone()).await.unwrap();
    raft.initialize([(1, node(1))].into()).await.unwrap();
    within("leadership", async {
        while raft.propose(b"first=1".to_vec()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let before = kv.syncs.load(Ordering::SeqCst);
    let proposals = (0..PROPOSALS).map(|i| raft.propose(format!("k{i}=v").into_bytes()));
    for done in futures::future::join_all(proposals).await {
        done.unwrap();
    }
    let syncs = kv.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs > 0, "acknowledged without a sync");
    assert!(syncs < PROPOSALS / 3, "{syncs} syncs for {PROPOSALS} proposals");
    raft.shutdown().await;
}

pub(crate) async fn alone(config: Config, kv: Arc<dyn Kv>) -> Result<Raft, OpenError> {
    struct Nobody;
    #[async_trait::async_trait]
    impl Dialer for Nobody {
        async fn dial(&self, _: u64, _: &Node, _: Link) -> Result<tonic::transport::Channel, std::io::Error> {
            Err(std::io::ErrorKind::NotConnected.into())
        }
    }
    tokio::time::timeout(
        PATIENCE,
        Raft::open(config, kv, Arc::new(Register), Arc::new(Nobody), Arc::new(Registry::default())),
    )
    .await
    .unwrap()
}

/// A store that counts its syncs.
struct Counting {
    inner: RocksKv,
    syncs: AtomicU64,
}

impl Kv for Counting {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.inner.scan(table, from, to, limit)
    }

    fn last(&self, table: Table) -> Result<Option<Pair>, KvError> {
        self.inner.last(table)
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        pinned: Box<dyn FnOnce() + Send>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), KvError> {
        self.inner.walk(table, from, to, pinned, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.inner.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.inner.sync()
    }

    fn copies(&self) -> &dyn Copies {
        self.inner.copies()
    }
}
