//! Carries a plan out: each fault begins at its time, whatever others are at work, and ends at its own.

use super::{Grip, Kind, Planned, Victims, clock, disk, folder, leader, limits, process, target, wire};
use crate::cage::{Stop, stopped};
use crate::history::{Event, Recorder};
use crate::lab::Lab;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a fault waits for victims that others have hold of.
const HELD: Duration = Duration::from_secs(6);

/// What was seen of a fault at its victims, by name.
pub(crate) type Seen = BTreeMap<String, u64>;

/// A fault at work.
pub(crate) struct At<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) recorder: &'a Recorder,
    pub(crate) planned: &'a Planned,
    /// Who is hit, of whom it has hold.
    pub(crate) victims: &'a [u8],
    stop: Stop,
}

impl At<'_> {
    /// Says that it begins now.
    pub(crate) fn begins(&self, what: impl Into<String>) {
        let (fault, kind) = (self.planned.number, self.planned.kind.name().to_owned());
        self.recorder.note(Event::Fault { fault, kind, what: what.into(), victims: self.victims.to_vec() });
    }

    /// Waits until it is to end.
    pub(crate) async fn lasts(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(Duration::from_millis(self.planned.lasts)) => {}
            () = stopped(&mut stop) => {}
        }
    }
}

/// Carries a plan out, to its end or until told to stop. Afterwards no fault is at work.
pub(crate) async fn carry_out(lab: Arc<Lab>, recorder: Recorder, plan: Vec<Planned>) {
    let begin = Instant::now();
    let mut faults = JoinSet::new();
    for planned in plan {
        let (lab, recorder, mut stop) = (Arc::clone(&lab), recorder.clone(), lab.stop.clone());
        faults.spawn(async move {
            tokio::select! {
                () = sleep_until(begin + Duration::from_millis(planned.at)) => {}
                () = stopped(&mut stop) => return,
            }
            one(&lab, &recorder, &planned).await;
        });
    }
    while let Some(done) = faults.join_next().await {
        if let Err(why) = done {
            recorder.note(Event::Broken { why: format!("a fault came to no end: {why}") });
        }
    }
}

/// Takes hold of those that a fault is meant for, and that no other one has.
fn seize(lab: &Lab, planned: &Planned, grip: Grip) -> Vec<u8> {
    let wanted = match &planned.victims {
        Victims::Members(members) => members.clone(),
        // Before anybody was seen to lead it is the first.
        Victims::Leader => vec![lab.leader().0.max(1)],
    };
    let free = |victim: &u8| !lab.is_lost(*victim) && lab.node(*victim).is_ok_and(|node| node.seize(grip));
    wanted.into_iter().filter(free).collect()
}

async fn one(lab: &Lab, recorder: &Recorder, planned: &Planned) {
    let grip = planned.kind.grip();
    let elsewhere = matches!(grip, Grip::Target | Grip::Custodian);
    let deadline = Instant::now() + HELD;
    let held = loop {
        let held = seize(lab, planned, grip);
        if !held.is_empty() || elsewhere && lab.seize(grip) {
            break held;
        }
        if Instant::now() >= deadline || *lab.stop.borrow() {
            // Other faults have hold of them; nothing was tried.
            return;
        }
        sleep(Duration::from_millis(100)).await;
    };
    let at = At { lab, recorder, planned, victims: &held, stop: lab.stop.clone() };
    let done = match planned.kind {
        Kind::Kill => process::kill(&at).await,
        Kind::Pause => process::pause(&at).await,
        Kind::Flap => process::flap(&at).await,
        Kind::Partition => wire::partition(&at).await,
        Kind::Loss => wire::loss(&at).await,
        Kind::Delay => wire::delay(&at).await,
        Kind::SlowLink => wire::slow(&at).await,
        Kind::Reset => wire::reset(&at).await,
        Kind::Clock => clock::wrong(&at).await,
        Kind::Power => disk::power(&at).await,
        Kind::DeadDisk => disk::dead(&at).await,
        Kind::SyncError => disk::sync_error(&at).await,
        Kind::GrayDisk => disk::gray(&at).await,
        Kind::FullDisk => disk::full(&at).await,
        Kind::Rot => disk::rot(&at).await,
        Kind::Forget => process::forget(&at).await,
        Kind::Snapshot => process::snapshot(&at).await,
        Kind::OldFolder => folder::old(&at).await,
        Kind::Rolling => process::rolling(&at).await,
        Kind::LostLeader => leader::lost(&at).await,
        Kind::Cpu => limits::cpu(&at).await,
        Kind::Memory => limits::memory(&at).await,
        Kind::Custodian => target::custodian(&at).await,
        Kind::TargetDown => target::down(&at).await,
        Kind::TargetPause => target::pause(&at).await,
        Kind::TargetSlow => target::slow(&at).await,
        Kind::TargetReset => target::reset(&at).await,
        Kind::TargetUnknown => target::unknown(&at).await,
        Kind::TargetLate => target::late(&at).await,
        Kind::TargetFailover => target::failover(&at).await,
    };
    let fault = planned.number;
    match done {
        Ok(seen) => recorder.note(Event::Healed { fault, seen, note: String::new() }),
        Err(why) => {
            recorder.note(Event::Healed { fault, seen: Seen::new(), note: format!("{why:#}") });
            recorder.note(Event::Broken { why: format!("fault {fault} ({}): {why:#}", planned.kind.name()) });
        }
    }
    for victim in &held {
        if let Ok(node) = lab.node(*victim) {
            node.release(grip);
        }
    }
    if elsewhere {
        lab.release(grip);
    }
}

/// Looks for members whose process has ended without a fault, says so, and starts them again.
pub(crate) async fn watch(lab: Arc<Lab>, recorder: Recorder) {
    loop {
        sleep(Duration::from_millis(150)).await;
        for node in &lab.nodes {
            if node.process.runs() || lab.is_lost(node.index) || !node.seize(Grip::Process) {
                continue;
            }
            // A fault may have ended in this moment, and have started it again.
            if !node.process.runs() {
                let status = node.process.ended();
                if status.and_then(|status| status.code()) == Some(disk::DAMAGED) && lab.rotten() == Some(node.index) {
                    // It has read what rotted long ago, and stays out as it should.
                    lab.lose(node.index);
                    node.release(Grip::Process);
                    continue;
                }
                let how = status.map_or_else(|| "nobody knows".to_owned(), |status| status.to_string());
                recorder.note(Event::Died { member: node.index, how });
                // One that cannot run is not started ten times in a second.
                sleep(Duration::from_secs(1)).await;
                if let Err(why) = node.start() {
                    recorder.note(Event::Broken { why: format!("{} cannot be started again: {why:#}", node.name) });
                }
            }
            node.release(Grip::Process);
        }
    }
}
