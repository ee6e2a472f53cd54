//! Watches the members all the time, as an operator would: who leads, and what each attests.

use crate::history::{Event, Recorder};
use crate::lab::{Lab, now};
use quorate_api::client::Client;
use quorate_api::vault::ReadStatusReply;
use quorate_state::attest::Attestation;
use quorate_state::ids::hex;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two questions to a member.
const EVERY: Duration = Duration::from_millis(250);
/// Between two looks at whether all is well again.
const LOOK: Duration = Duration::from_millis(300);

/// What members have attested, so that each word is noted once.
pub(crate) type Attested = Arc<Mutex<BTreeSet<(u8, u64)>>>;

/// Watches one member until it is aborted.
pub(crate) async fn member(lab: Arc<Lab>, recorder: Recorder, attested: Attested, member: u8) -> anyhow::Result<()> {
    let client = lab.watcher(member)?;
    loop {
        for (_, answer) in client.status().await {
            let Ok(status) = answer else { continue };
            let leader = u8::try_from(status.leader).unwrap_or(0);
            // By its own word: what others think may be old.
            if leader == member && lab.leads(member, status.term) {
                recorder.note(Event::Leader { member, term: status.term });
            }
            recorder.note(Event::Time { member, cluster: status.cluster_time, wall: now() });
            attests(&recorder, &attested, &status, &client);
        }
        sleep(EVERY).await;
    }
}

/// Notes what members say that they have applied; signatures are those of the pinned keys.
fn attests(recorder: &Recorder, attested: &Attested, status: &ReadStatusReply, client: &Client) {
    for confirmation in &status.confirmations {
        let Ok(word) = borsh::from_slice::<Attestation>(&confirmation.attestation) else { continue };
        let pinned = client.profile();
        let known = key_of(status, word.member);
        if !known.is_some_and(|key| word.is_signed(&pinned.cluster, &key)) {
            continue;
        }
        if crate::lab::lock(attested).insert((word.member, word.applied.index)) {
            let (log, state) = (hex(&word.applied.log), hex(&word.applied.state));
            recorder.note(Event::State { member: word.member, index: word.applied.index, log, state });
        }
    }
}

/// The key of a member.
fn key_of(status: &ReadStatusReply, member: u8) -> Option<[u8; 32]> {
    let found = status.members.iter().find(|m| m.index == u32::from(member))?;
    found.key.as_slice().try_into().ok()
}

/// Waits until every member answers, all follow one leader, and all have applied and attested what was committed. Whether that came
/// true in time.
pub(crate) async fn settled(
    lab: &Lab,
    recorder: &Recorder,
    attested: &Attested,
    limit: Duration,
) -> anyhow::Result<bool> {
    let observer = lab.observer()?.with_timeout(Duration::from_secs(5));
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        sleep(LOOK).await;
        let all: Vec<ReadStatusReply> = observer.status().await.into_iter().filter_map(|(_, s)| s.ok()).collect();
        let Some(first) = all.first() else { continue };
        let one = all.iter().all(|s| s.leader != 0 && s.leader == first.leader && s.term == first.term);
        let applied = all.iter().map(|s| s.applied).max().unwrap_or(0);
        let there = lab.nodes.iter().filter(|node| !lab.is_lost(node.index)).count();
        if all.len() < there || !one || all.iter().any(|s| s.applied < applied) {
            continue;
        }
        let missing = observer.effect(applied, Duration::from_secs(3)).await.missing;
        if missing.iter().any(|member| !lab.is_lost(*member)) {
            continue;
        }
        let mut indexes = BTreeSet::new();
        for (_, status) in observer.status().await {
            let Ok(status) = status else { continue };
            attests(recorder, attested, &status, &observer);
            let lost = |member: u32| u8::try_from(member).is_ok_and(|member| lab.is_lost(member));
            indexes.extend(status.confirmations.iter().filter(|c| !lost(c.member)).map(|c| c.index));
        }
        // Each has vouched for all of it.
        if indexes.first().is_some_and(|lowest| *lowest >= applied) {
            return Ok(true);
        }
    }
    Ok(false)
}
