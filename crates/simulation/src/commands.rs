//! What stands in the model's log, and what the product's own code says that it can change.

use quorate_raft::freshness::Footprint;
use quorate_state::change::Change;
use quorate_state::command::{Command as Real, Stamp};
use quorate_state::footprint;
use quorate_state::ids::{ClusterId, RequestId};
use quorate_state::request::{Request, SignedRequest};
use quorate_state::store::encode;

/// How many secrets there are.
pub(crate) const ITEMS: usize = 3;

/// An entry's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Of a new leader.
    Blank,
    /// A new version of an item.
    Put(u8),
    /// All opens are forbidden from here on, or allowed again.
    Policy { deny: bool },
    /// Something that changes no answer.
    Lease,
    /// The voters; two sets while a change is under way.
    Voters { old: u16, new: u16 },
}

/// What the entries of a log can change, by the product's own rule over the product's own commands.
pub(crate) struct Footprints {
    put: Vec<Footprint>,
    policy: [Footprint; 2],
    lease: Footprint,
}

fn path(item: usize) -> String {
    format!("app/item-{item}")
}

fn of(change: Change) -> Footprint {
    let request = Request {
        cluster: ClusterId([1; 32]),
        id: RequestId([2; 16]),
        change,
        reply_to: None,
        expected_authority_version: None,
        not_after: 0,
        principal: String::new(),
        chain: Vec::new(),
    };
    let request = SignedRequest { bytes: encode(&request), signatures: Vec::new() };
    let entry = Real::Endorsed { request, endorsements: Vec::new(), stamp: Stamp::default() }.encode();
    match footprint::of_entry(&entry) {
        footprint::Footprint::Nothing => Footprint::Nothing,
        footprint::Footprint::Secret(number) => Footprint::Items(vec![number]),
        footprint::Footprint::Everything => Footprint::Everything,
    }
}

impl Footprints {
    pub(crate) fn new() -> Self {
        let put = |item| {
            of(Change::PutSecret {
                namespace: "default".to_owned(),
                path: path(item),
                header: vec![0; 8],
                payload: vec![0; 8],
                expected: None,
            })
        };
        let deny = Change::BlockIdentity { principal: "spiffe://td/app".to_owned() };
        let allow =
            Change::PutPolicy { name: "p".to_owned(), text: "permit (principal, action, resource);".to_owned() };
        let lease = Change::IssueLease { role: "reader".to_owned(), verifier: String::new(), ttl: None };
        Self { put: (0..ITEMS).map(put).collect(), policy: [of(allow), of(deny)], lease: of(lease) }
    }

    pub(crate) fn of(&self, command: Command) -> Footprint {
        match command {
            // A leader's empty entry has no payload: the log store classifies it.
            Command::Blank | Command::Voters { .. } => Footprint::Nothing,
            Command::Put(item) => self.put[usize::from(item)].clone(),
            Command::Policy { deny } => self.policy[usize::from(deny)].clone(),
            Command::Lease => self.lease.clone(),
        }
    }

    /// A question about an item.
    pub(crate) fn question(item: u8) -> Footprint {
        Footprint::Items(vec![footprint::secret("default", &path(usize::from(item)))])
    }
}
