//! A member hit before and after every change that it makes to its disk while it takes over a state, or keeps an image of its own: killed, stopped,
//! without power, or told that it failed. It comes back with one state or the other, has the right one in the end, and nothing is left of the attempt.
//!
//! A seeded few; `QUORATE_SEED` repeats a run's choices, `QUORATE_POINTS=all` goes through all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use quorate_raft::kv::{Batch, Copies, KeptCopy, Kv, KvError, MemKv, Pair, Table};
use quorate_raft::{Fatal, Machine as _};

use crate::driver::Random;
use crate::harness::{Cluster, Register, within};
use crate::snapshots::{far_behind, small};

/// How long a stopped member stays stopped: longer than an election takes.
const STOPPED: Duration = Duration::from_millis(1_500);
/// How long a member is at work on its disk after it has a state.
const AFTER: Duration = Duration::from_secs(1);
/// How many cases of each of the two each `make test` goes through.
const FEW: usize = 6;
/// How many changes of a member that keeps an image count as part of it, from the first draft on.
const KEEPING: usize = 8;

/// What is done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// It ends, and its disk has all that it was given.
    Kill,
    /// Its disk has lost all that was not synced.
    Power,
    /// Its disk has lost some of it, the newest.
    Torn,
    /// It stands still, and goes on.
    Stop,
    /// It is told that the device failed.
    Fail,
}

const ACTIONS: [Action; 5] = [Action::Kill, Action::Power, Action::Torn, Action::Stop, Action::Fail];

/// A change to what a member has on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Write,
    Sync,
    Draft,
    Keep,
    Forget,
}

/// Where a member is hit: at so manyth a change, from 1.
#[derive(Debug, Clone, Copy)]
struct Plan {
    at: usize,
    before: bool,
    action: Action,
}

/// Stands before a member's store, counts the changes, and hits the member at one of them.
pub(crate) struct Trap {
    store: OnceLock<Arc<MemKv>>,
    plan: Option<Plan>,
    /// With which change the count begins.
    begins: Option<Change>,
    changes: Mutex<Vec<Change>>,
    hit: AtomicBool,
    /// The member is dead: whatever of it still runs changes nothing, and knows nothing.
    dead: AtomicBool,
}

impl Trap {
    fn set(plan: Option<Plan>, begins: Option<Change>) -> Arc<Self> {
        let (changes, hit, dead) = Default::default();
        Arc::new(Self { store: OnceLock::new(), plan, begins, changes, hit, dead })
    }

    /// The store as its member sees it.
    pub(crate) fn before(self: &Arc<Self>, store: Arc<MemKv>) -> Arc<dyn Kv> {
        assert!(self.store.set(store).is_ok(), "a trap is for one life of one member");
        self.clone()
    }

    pub(crate) fn has_hit(&self) -> bool {
        self.hit.load(Ordering::SeqCst)
    }

    /// Whether it has hit; from now on it does so no more.
    fn strikes(&self) -> bool {
        self.hit.swap(true, Ordering::SeqCst)
    }

    /// What was hit.
    fn change(&self, plan: Plan) -> Change {
        *self.changes.lock().unwrap().get(plan.at - 1).unwrap()
    }

    fn store(&self) -> Result<&MemKv, KvError> {
        self.store.get().filter(|_| !self.dead.load(Ordering::SeqCst)).map(|store| &**store).ok_or(KvError::Closed)
    }

    fn pass<T>(&self, change: Change, make: impl FnOnce(&MemKv) -> Result<T, KvError>) -> Result<T, KvError> {
        let store = self.store()?;
        let due = {
            let mut changes = self.changes.lock().unwrap();
            if !changes.is_empty() || self.begins.is_none_or(|begins| begins == change) {
                changes.push(change);
            }
            self.plan.filter(|plan| plan.at == changes.len() && !self.has_hit())
        };
        let Some(plan) = due else { return make(store) };
        match plan.action {
            Action::Kill | Action::Power | Action::Torn => {
                let made = if plan.before { None } else { Some(make(store).map(drop)) };
                self.dead.store(true, Ordering::SeqCst);
                self.hit.store(true, Ordering::SeqCst);
                Err(made.and_then(Result::err).unwrap_or(KvError::Closed))
            }
            Action::Stop => {
                self.hit.store(true, Ordering::SeqCst);
                // Everything of a member runs on one thread here.
                let stop = || std::thread::sleep(STOPPED);
                if plan.before {
                    stop();
                }
                let made = make(store);
                if !plan.before {
                    stop();
                }
                made
            }
            Action::Fail => {
                let made = if plan.before { Ok(()) } else { make(store).map(drop) };
                self.hit.store(true, Ordering::SeqCst);
                Err(made.err().unwrap_or(KvError::Injected))
            }
        }
    }
}

impl Kv for Trap {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.store()?.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        self.store()?.scan(table, from, to, limit)
    }

    fn last(&self, table: Table) -> Result<Option<Pair>, KvError> {
        self.store()?.last(table)
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        pinned: Box<dyn FnOnce() + Send>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), KvError> {
        self.store()?.walk(table, from, to, pinned, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.pass(Change::Write, |store| store.write(batch))
    }

    fn sync(&self) -> Result<(), KvError> {
        self.pass(Change::Sync, Kv::sync)
    }

    fn blocks(&self) -> bool {
        false
    }

    fn copies(&self) -> &dyn Copies {
        self
    }
}

impl Copies for Trap {
    fn draft(&self) -> Result<Arc<dyn Kv>, KvError> {
        self.pass(Change::Draft, |store| store.copies().draft())
    }

    fn keep(&self, note: &[u8]) -> Result<(), KvError> {
        self.pass(Change::Keep, |store| store.copies().keep(note))
    }

    fn kept(&self) -> Result<Option<KeptCopy>, KvError> {
        self.store()?.copies().kept()
    }

    fn forget(&self) -> Result<(), KvError> {
        self.pass(Change::Forget, |store| store.copies().forget())
    }
}

/// Seeded few of so many changes, or all of them, each before and after, and each action.
fn cases(changes: usize) -> Vec<Plan> {
    let all = (1..=changes).flat_map(|at| {
        let sides = [true, false].into_iter();
        sides.flat_map(move |before| ACTIONS.map(|action| Plan { at, before, action }))
    });
    let mut all: Vec<Plan> = all.collect();
    if std::env::var("QUORATE_POINTS").is_ok_and(|which| which == "all") {
        return all;
    }
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("QUORATE_SEED={seed}");
    let mut random = Random(seed);
    (0..FEW).map(|_| all.swap_remove(random.below(all.len()))).collect()
}

/// Brings a member back that was hit, and sees that the state it comes back with is whole.
async fn recover(cluster: &mut Cluster, member: u64, trap: &Trap, plan: Plan) {
    match plan.action {
        Action::Stop => return,
        Action::Fail if cluster.runs(member) => {
            // What is told that a sync failed never goes on; what else failed it may be able to try again.
            let mut fatal = cluster.node(member).fatal();
            let ended = tokio::time::timeout(Duration::from_secs(1), fatal.wait_for(Option::is_some)).await;
            let Ok(ended) = ended.map(|why| why.unwrap().clone()) else {
                assert_ne!(trap.change(plan), Change::Sync, "{plan:?}: it goes on after a sync that failed");
                return;
            };
            assert_eq!(ended, Some(Fatal::Storage(KvError::Injected)), "{plan:?}");
            cluster.kill(member);
        }
        Action::Kill | Action::Fail => cluster.kill(member),
        Action::Power => cluster.lose_power(member),
        Action::Torn => {
            let unsynced = cluster.memory(member).unsynced();
            cluster.lose_power_keeping(member, unsynced.div_ceil(2));
        }
    }
    cluster.traps.remove(&member);
    cluster.start_node(member).await;
    let node = cluster.node(member);
    let (counted, at) = node.read(|view, at| (Register.digest(view).unwrap(), at));
    let known = node.checkpoint_at(at).or_else(|| Some(node.checkpoint()).filter(|known| known.index == at));
    assert!(known.is_none_or(|known| known.state == counted), "{plan:?}: it came back with what nobody ever had");
}

/// Everybody has the same state, and as many rows of it.
async fn is_whole(cluster: &Cluster, member: u64, what: &str) {
    let last = cluster.set("after", what).await.index;
    cluster.converge(last).await;
    let leader = cluster.leader().await;
    let of = |id: u64| cluster.node(id).checkpoint_at(last);
    assert!(
        of(member).is_some() && of(member) == of(leader),
        "{what}: {:?}, and the leader {:?}",
        of(member),
        of(leader)
    );
    within("nothing to be left of the attempt", async {
        let rows = |id: u64| cluster.memory(id).scan(Table::State, &[], &[], usize::MAX).unwrap().len();
        while rows(member) != rows(leader) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// One line for each change: what was done to the member there, and how often.
fn table(done: &BTreeMap<(usize, bool, Change), Vec<Action>>) {
    for ((at, before, change), actions) in done {
        println!("{at:>3} {} {change:?}: {actions:?}", if *before { "before" } else { "after " });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_hit_while_it_takes_a_state_over_has_it_in_the_end() {
    let mut cluster = small().await;
    let (behind, last) = far_behind(&mut cluster).await;
    let counting = Trap::set(None, None);
    cluster.traps.insert(behind, counting.clone());
    cluster.start_node(behind).await;
    cluster.converge(last).await;
    // What goes on when it has the state already: the one before is removed, and an image is kept.
    tokio::time::sleep(AFTER).await;
    cluster.traps.clear();
    let changes = counting.changes.lock().unwrap().len();
    let (mut done, mut missed) = (BTreeMap::<_, Vec<Action>>::new(), 0);
    for plan in cases(changes) {
        let (behind, last) = far_behind(&mut cluster).await;
        let trap = Trap::set(Some(plan), None);
        cluster.traps.insert(behind, trap.clone());
        cluster.start_node(behind).await;
        within("the state, or that the member is hit", async {
            while !(trap.has_hit() || cluster.runs(behind) && cluster.status(behind).applied >= last) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let begun = Instant::now();
        while !trap.has_hit() && begun.elapsed() < AFTER {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if trap.strikes() {
            recover(&mut cluster, behind, &trap, plan).await;
            done.entry((plan.at, plan.before, trap.change(plan))).or_default().push(plan.action);
        } else {
            missed += 1;
        }
        cluster.traps.clear();
        cluster.converge(last).await;
        is_whole(&cluster, behind, &format!("{plan:?}")).await;
        assert_eq!(cluster.get(behind, "k59").map(|v| v.len()), Some(20_000), "{plan:?}");
    }
    println!("a state is taken over with {changes} changes; {missed} cases came to an end before they were hit");
    table(&done);
    let hit: usize = done.values().map(Vec::len).sum();
    assert!(missed * 4 <= hit, "{hit} cases were hit and {missed} were not: too few to say anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_hit_while_it_keeps_an_image_of_its_state_loses_nothing() {
    let mut cluster = small().await;
    let (mut done, mut missed) = (BTreeMap::<_, Vec<Action>>::new(), 0);
    for plan in cases(KEEPING) {
        let member = cluster.leader().await % 3 + 1;
        cluster.kill(member);
        let trap = Trap::set(Some(plan), Some(Change::Draft));
        cluster.traps.insert(member, trap.clone());
        cluster.start_node(member).await;
        let mut last = 0;
        for i in 0..150 {
            last = cluster.set(&format!("k{i}"), &format!("{plan:?}")).await.index;
            if trap.has_hit() {
                break;
            }
        }
        // The image is made when enough members vouch for it, and that is some time after the last write.
        let begun = Instant::now();
        while !trap.has_hit() && begun.elapsed() < Duration::from_secs(3) {
            last = cluster.set("more", &format!("{plan:?}")).await.index;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if trap.strikes() {
            recover(&mut cluster, member, &trap, plan).await;
            done.entry((plan.at, plan.before, trap.change(plan))).or_default().push(plan.action);
        } else {
            missed += 1;
        }
        cluster.traps.clear();
        cluster.converge(last).await;
        is_whole(&cluster, member, &format!("{plan:?}")).await;
    }
    println!("{missed} cases came to an end before they were hit");
    table(&done);
    let hit: usize = done.values().map(Vec::len).sum();
    assert!(missed * 4 <= hit, "{hit} cases were hit and {missed} were not: too few to say anything");
}
