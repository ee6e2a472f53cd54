//! Secrets as registers: put, get and check-and-set on a few paths at a time. A path is left after a while for a fresh one, so that the
//! search for an order stays short.

use super::answer;
use crate::history::{Action, Answer, Event, Recorder, Version};
use crate::lab::{FOLDERS, Lab, NAMESPACE, lock};
use crate::random::Random;
use anyhow::Context as _;
use quorate_api::client::{Client, SecretRef};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

/// The fewest paths in use at once. With many clients there is one for every two of them: more at one path mostly wait for each other.
const PATHS: usize = 5;
/// How many operations one path sees.
const USES: u64 = 120;
/// How long one operation may take, retries included.
const PATIENCE: Duration = Duration::from_secs(4);
/// The most items of one question.
const ITEMS: usize = 200;

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Paths {
    /// How many are in use at once.
    at_once: usize,
    /// Path and how often it was used.
    open: Mutex<Vec<(String, u64)>>,
    all: Mutex<Vec<String>>,
    serial: AtomicU64,
    pub(crate) over: AtomicBool,
}

impl Paths {
    pub(crate) fn new(clients: u32) -> Arc<Self> {
        let (open, all) = (Mutex::default(), Mutex::default());
        let at_once = usize::try_from(clients / 2).unwrap_or(PATHS).max(PATHS);
        Arc::new(Self { at_once, open, all, serial: AtomicU64::new(0), over: AtomicBool::new(false) })
    }

    /// Every path that was ever used.
    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.all).clone()
    }

    /// A put and a get of it, of a path that is in use.
    pub(crate) fn final_pair(&self) -> [Action; 2] {
        let mut random = Random::new(self.serial.fetch_add(1, Ordering::Relaxed) + 1);
        let value = self.serial();
        let key = self.choose(&mut random);
        [Action::Put { key: key.clone(), value, cas: None }, Action::Get { key }]
    }

    /// A value that nobody has written.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A path that is in use.
    pub(super) fn choose(&self, random: &mut Random) -> String {
        let mut open = lock(&self.open);
        open.retain(|(_, uses)| *uses < USES);
        while open.len() < self.at_once {
            let mut all = lock(&self.all);
            // Mostly of class cluster; some need the custodian too.
            let folder = FOLDERS.get(usize::from(all.len() % 5 == 4)).copied().unwrap_or_default();
            let path = format!("{folder}/r{}", all.len());
            all.push(path.clone());
            open.push((path, 0));
        }
        let at = usize::try_from(random.between(0, u64::try_from(open.len()).unwrap_or(1))).unwrap_or(0);
        open.get_mut(at)
            .map(|(path, uses)| {
                *uses += 1;
                path.clone()
            })
            .unwrap_or_default()
    }
}

/// One client, until it is told that it is over.
pub(crate) async fn work(
    lab: Arc<Lab>,
    recorder: Recorder,
    paths: Arc<Paths>,
    number: u32,
    seed: u64,
) -> anyhow::Result<()> {
    let client = lab.worker("chaos", PATIENCE)?;
    let mut random = Random::of(seed, "register", u64::from(number));
    // The newest version of a path that this client has seen.
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    while !paths.over.load(Ordering::Relaxed) {
        let key = paths.choose(&mut random);
        let action = match random.between(0, 100) {
            0..45 => Action::Get { key: key.clone() },
            drawn => {
                let value = paths.serial();
                let newest = known.get(&key).copied().unwrap_or(0);
                Action::Put { key: key.clone(), value, cas: (drawn < 72).then_some(newest) }
            }
        };
        let op = recorder.number();
        recorder.note(Event::Invoke { op, client: number, action: action.clone() });
        let answer = ask(&client, &action).await;
        if let Answer::Stored { number, .. } | Answer::Value { number, .. } = &answer {
            let seen = known.entry(key).or_default();
            *seen = (*seen).max(*number);
        }
        let failed = matches!(answer, Answer::Unknown { .. } | Answer::Unanswered { .. });
        recorder.note(Event::Return { op, answer });
        let pause = if failed { random.between(50, 200) } else { random.between(2, 40) };
        sleep(Duration::from_millis(pause)).await;
    }
    Ok(())
}

/// Asks for a put or a get.
pub(crate) async fn ask(client: &Client, action: &Action) -> Answer {
    match action {
        Action::Put { key, value, cas } => match client.put(NAMESPACE, key, value.to_string().as_bytes(), *cas).await {
            Ok(put) => Answer::Stored { number: put.number, index: put.index },
            Err(failure) => answer(&failure, true),
        },
        Action::Get { key } => match client.get(NAMESPACE, key, None).await {
            Ok(opened) => match value(opened.plaintext.expose()) {
                Some(value) => Answer::Value { number: opened.number, value },
                None => Answer::Wrong { code: "value".to_owned(), message: "nobody has written that".to_owned() },
            },
            Err(failure) if failure.code == "not_found" => Answer::Absent,
            Err(failure) => answer(&failure, false),
        },
        _ => Answer::Wrong { code: "harness".to_owned(), message: "no operation of a register".to_owned() },
    }
}

fn value(plaintext: &[u8]) -> Option<u64> {
    std::str::from_utf8(plaintext).ok()?.parse().ok()
}

/// Everything that is stored at a path: every version, opened.
pub(crate) async fn kept(client: &Client, key: &str) -> anyhow::Result<Event> {
    let listed = match client.versions(NAMESPACE, key).await {
        Ok(reply) => reply.versions,
        Err(failure) if failure.code == "not_found" => Vec::new(),
        Err(failure) => return Err(failure).with_context(|| format!("versions of {key}")),
    };
    let mut versions = Vec::new();
    for some in listed.chunks(ITEMS) {
        let item = |number| SecretRef { namespace: NAMESPACE.to_owned(), path: key.to_owned(), number: Some(number) };
        let items: Vec<SecretRef> = some.iter().map(|version| item(version.number)).collect();
        let opened = client.get_many(&items).await.with_context(|| format!("opening {key}"))?;
        for (version, opened) in some.iter().zip(opened) {
            let value = opened.ok().and_then(|opened| value(opened.plaintext.expose()));
            versions.push(Version { number: version.number, index: version.index, value });
        }
    }
    Ok(Event::Kept { key: key.to_owned(), versions })
}
