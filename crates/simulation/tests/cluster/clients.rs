//! What callers do meanwhile: they write and read paths, take leases and log in with them, and lose and get back rights.

use crate::history::History;
use crate::journal::Journal;
use crate::random::Random;
use crate::watch::TARGETS;
use crate::world::{World, verifier};
use quorate_api::client::{Client, Submitted};
use quorate_api::{issued, verifier as made};
use quorate_crypto::identity::SigningKey;
use quorate_engines::Class;
use quorate_engines::fake::{FakeTarget, presented};
use quorate_state::change::Change;
use quorate_state::ids::LeaseId;
use quorate_state::lease::Form;
use quorate_state::outcome::Outcome;
use quorate_state::request::SignedRequest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How many paths there are.
pub(crate) const PATHS: u64 = 3;
/// How long a client tries.
const PATIENCE: Duration = Duration::from_secs(8);
const MAY: &str = r#"permit (principal == Quorate::Workload::"spiffe://example.org/guest", action, resource);"#;
const MAY_NOT: &str = r#"forbid (principal == Quorate::Workload::"spiffe://example.org/guest", action, resource);"#;

/// What clients tell those who judge.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) history: History,
    /// Leases that were handed out since somebody looked, and sessions that were opened with them.
    pub(crate) handed: Vec<LeaseId>,
    pub(crate) entered: Vec<(&'static str, u64, LeaseId)>,
    /// What did not hold.
    pub(crate) wrong: Option<String>,
    /// Nobody begins anything any more.
    pub(crate) over: bool,
    values: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) denials: u64,
    /// The last entry of the log that somebody was told of.
    pub(crate) index: u64,
}

impl Told {
    /// What was found out first is said.
    fn judged(&mut self, held: Result<(), String>) {
        self.wrong = self.wrong.take().or(held.err());
    }

    /// Somebody was told that this entry of the log says what he asked for.
    fn acknowledged(&mut self, index: u64) {
        self.index = self.index.max(index);
    }
}

pub(crate) type Shared = Arc<Mutex<Told>>;

pub(crate) fn path(number: u64) -> String {
    format!("app/k{number}")
}

struct Caller {
    name: String,
    client: Client,
    /// Somebody else who asks what this one has just been told, and knows of no entry of the log himself.
    other: Client,
    random: Random,
    told: Shared,
    journal: Journal,
    targets: BTreeMap<&'static str, FakeTarget>,
    /// The last number of each path, and leases, as far as this one knows.
    numbers: BTreeMap<u64, u64>,
    leases: Vec<LeaseId>,
}

/// Sets all callers to work; they end by themselves once it is over.
pub(crate) fn all(world: &World, seed: u64, told: &Shared) -> Vec<JoinHandle<()>> {
    let caller = |name: &str, identity: &str| Caller {
        name: name.to_owned(),
        client: world.client(identity).with_timeout(PATIENCE),
        other: world.client(identity).with_timeout(PATIENCE),
        random: Random::new(seed.rotate_left(17) ^ name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte))),
        told: Arc::clone(told),
        journal: world.hub.journal.clone(),
        targets: TARGETS.map(|target| (target, world.target(target).clone())).into(),
        numbers: BTreeMap::new(),
        leases: Vec::new(),
    };
    let key = SigningKey::from_seed(&world.administrator().seed());
    vec![
        tokio::spawn(caller("a", "app").work()),
        tokio::spawn(caller("b", "app").work()),
        tokio::spawn(caller("guest", "guest").look()),
        tokio::spawn(caller("admin", "admin/first").rule(key)),
    ]
}

impl Caller {
    fn told<T>(&self, tell: impl FnOnce(&mut Told) -> T) -> T {
        tell(&mut self.told.lock().unwrap())
    }

    /// A pause; whether it goes on.
    async fn next(&mut self) -> bool {
        sleep(Duration::from_millis(self.random.between(20, 400))).await;
        !self.told(|told| told.over)
    }

    async fn work(mut self) {
        while self.next().await {
            match self.random.below(10) {
                0..=3 => self.put().await,
                4 | 5 => self.get(None).await,
                6 | 7 => self.issue().await,
                8 => self.renew().await,
                _ => self.revoke().await,
            }
        }
    }

    async fn put(&mut self) {
        let at = self.random.between(0, PATHS);
        let expected = self.random.chance(60).then(|| self.numbers.get(&at).copied().unwrap_or_default());
        let (value, began) = self.told(|told| {
            told.values += 1;
            (told.values, told.history.begin(at, told.values))
        });
        let done = self.client.put("default", &path(at), &value.to_be_bytes(), expected).await;
        self.journal.note(format_args!(
            "{} writes {value} to {at} behind {expected:?}: {:?}",
            self.name,
            done.as_ref().map(|put| (put.number, put.index)).map_err(|failure| failure.code)
        ));
        match done {
            Ok(put) => {
                self.numbers.insert(at, put.number);
                self.told(|told| {
                    if expected.is_some_and(|expected| put.number != expected + 1) {
                        told.judged(Err(format!("K3: written as {} behind {expected:?}", put.number)));
                    }
                    let held = told.history.wrote(at, began, value, put.number);
                    told.judged(held);
                    told.acknowledged(put.index);
                    told.writes += 1;
                });
                if self.random.chance(60) {
                    self.get(Some(at)).await;
                }
            }
            Err(failure) => {
                self.numbers.remove(&at);
                if failure.code == "check_and_set" {
                    self.told(|told| {
                        let held = told.history.refused(at, value);
                        told.judged(held);
                    });
                }
            }
        }
    }

    /// Reads a path: any, or, as somebody else, this one.
    async fn get(&mut self, written: Option<u64>) {
        let at = written.unwrap_or_else(|| self.random.between(0, PATHS));
        let client = if written.is_some() { &self.other } else { &self.client };
        let began = self.told(|told| told.history.moment());
        let done = client.get("default", &path(at), None).await;
        let found = match done {
            Ok(opened) => {
                let value = u64::from_be_bytes(opened.plaintext.expose().try_into().unwrap());
                self.numbers.insert(at, opened.number);
                Some((opened.number, value))
            }
            Err(failure) if failure.code == "not_found" => None,
            Err(failure) => {
                self.journal.note(format_args!("{} cannot read {at}: {}", self.name, failure.code));
                return;
            }
        };
        self.journal.note(format_args!("{} reads {at}: {found:?}", self.name));
        self.told(|told| {
            told.reads += 1;
            let held = told.history.read(at, began, found);
            told.judged(held);
        });
    }

    async fn issue(&mut self) {
        let target = TARGETS[self.random.below(TARGETS.len())];
        let issues = self.targets[target].class() == Class::IssuedByTarget;
        let password = self.random.next().to_be_bytes();
        let verifier = if issues { made::verifier(Form::Sealed, &password, &[5; 16]) } else { verifier(&password) };
        let ttl = Some(self.random.between(3_000, 10_000));
        let change = Change::IssueLease { role: format!("{target}-readers"), verifier: verifier.clone(), ttl };
        let signed = self.client.sign(change, None);
        let done = self.client.submit(&signed).await;
        let code = done.as_ref().map(|done| done.index).map_err(|failure| failure.code);
        self.journal.note(format_args!("{} asks for a lease at {target}: {code:?}", self.name));
        let Ok(done) = done else { return };
        let Outcome::Intent { lease, principal, .. } = &done.outcome else {
            return self.told(|told| told.judged(Err(format!("a lease is answered by {:?}", done.outcome))));
        };
        self.told(|told| {
            told.handed.push(*lease);
            told.acknowledged(done.index);
        });
        self.leases.push(*lease);
        let secret = if issues {
            match issued::open(&password, lease, &done.issued) {
                Some(fields) => presented(&fields),
                // Nothing is kept of what has ended since.
                None if done.issued.is_empty() => return,
                None => {
                    let wrong = Err(format!("L3: what was issued for {lease} does not open"));
                    return self.told(|told| told.judged(wrong));
                }
            }
        } else {
            verifier
        };
        if let Some(session) = self.targets[target].login(principal, &secret) {
            self.told(|told| told.entered.push((target, session, *lease)));
        }
        self.again(&signed, &done).await;
    }

    /// Now and then sends a request again.
    async fn again(&mut self, signed: &SignedRequest, done: &Submitted) {
        if self.random.chance(30)
            && let Ok(again) = self.client.submit(signed).await
            && (&again.outcome, again.index) != (&done.outcome, done.index)
        {
            let (was, is) = ((&done.outcome, done.index), (&again.outcome, again.index));
            self.told(|told| {
                told.judged(Err(format!("L5: sent again, a request has another answer: {was:?}, {is:?}")))
            });
        }
    }

    fn any_lease(&mut self) -> Option<LeaseId> {
        let at = self.random.below(self.leases.len());
        self.leases.get(at).copied()
    }

    async fn renew(&mut self) {
        let Some(lease) = self.any_lease() else { return };
        let ttl = self.random.between(2_000, 8_000);
        let signed = self.client.sign(Change::RenewLease { lease, ttl }, None);
        let done = self.client.submit(&signed).await;
        let code = done.as_ref().map(|done| done.index).map_err(|failure| failure.code);
        self.journal.note(format_args!("{} renews {lease}: {code:?}", self.name));
        if let Ok(done) = done {
            self.told(|told| told.acknowledged(done.index));
            self.again(&signed, &done).await;
        }
    }

    async fn revoke(&mut self) {
        let Some(lease) = self.any_lease() else { return };
        self.leases.retain(|other| *other != lease);
        let done = self.client.revoke(lease).await;
        let code = done.as_ref().map_err(|failure| failure.code);
        self.journal.note(format_args!("{} revokes {lease}: {code:?}", self.name));
        let Ok(index) = done else { return };
        self.told(|told| told.acknowledged(index));
        if self.client.renew(lease, 5_000).await.is_ok() {
            self.told(|told| told.judged(Err(format!("L4: lease {lease} was revoked, and then renewed"))));
        }
    }

    /// Opens for ever, whether or not that is allowed.
    async fn look(mut self) {
        while self.next().await {
            let at = self.random.between(0, PATHS);
            let began = self.told(|told| told.history.moment());
            match self.client.get("default", &path(at), None).await {
                Ok(_) => self.told(|told| {
                    let held = told.history.opened(began);
                    told.judged(held);
                }),
                Err(failure) => {
                    self.journal.note(format_args!("{} is told {}", self.name, failure.code));
                    self.told(|told| told.denials += u64::from(failure.code == "denied"));
                }
            }
        }
    }

    /// Gives the guest its right, and takes it away.
    async fn rule(mut self, key: SigningKey) {
        let put = |text: &str| Change::PutPolicy { name: "guest".to_owned(), text: text.to_owned() };
        while self.next().await {
            self.told(|told| told.history.permit());
            let given = self.client.administer_now(put(MAY), &[&key]).await;
            self.journal.note(format_args!(
                "{} gives: {:?}",
                self.name,
                given.map(|done| done.index).map_err(|f| f.code)
            ));
            sleep(Duration::from_millis(self.random.between(300, 1_500))).await;
            let taken = self.client.administer_now(put(MAY_NOT), &[&key]).await;
            self.journal.note(format_args!(
                "{} takes: {:?}",
                self.name,
                taken.as_ref().map(|done| done.index).map_err(|f| f.code)
            ));
            if let Ok(done) = taken {
                self.told(|told| {
                    told.history.forbid();
                    told.acknowledged(done.index);
                });
                sleep(Duration::from_millis(self.random.between(300, 1_500))).await;
            }
        }
    }
}
