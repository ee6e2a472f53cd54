//! Each finding, and beside it the innocent story that looks alike.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use super::*;

const BOUNDS: Bounds = Bounds { calm: 5_000, failover: 7_000, stranger: 5_000, elsewhere: false };
const NAME: &str = "q1_a";
const OID: u32 = 77;

/// Observations at whole milliseconds, 10 ms each.
struct Story(Judge);

fn at(millis: u64) -> Span {
    Span { from: millis * 1_000, to: (millis + 10) * 1_000 }
}

fn lease(state: State, expires_at: u64, ended_at: u64) -> Lease {
    let why = if ended_at == 0 { String::new() } else { "requested".to_owned() };
    Lease { state, was_active: state != State::Intent, expires_at, ended_at, why }
}

impl Story {
    fn new() -> Self {
        Self(Judge::new(BOUNDS))
    }

    /// A look that finds the role, or not, and so many sessions of it.
    fn sees(self, millis: u64, login: Option<bool>, sessions: i64) -> Self {
        self.sees_by(&Identity::Number(OID), millis, login, sessions)
    }

    /// The same at a target whose roles have no numbers.
    fn sees_named(self, millis: u64, login: Option<bool>, sessions: i64) -> Self {
        self.sees_by(&Identity::Name(NAME.to_owned()), millis, login, sessions)
    }

    fn sees_by(mut self, identity: &Identity, millis: u64, login: Option<bool>, sessions: i64) -> Self {
        let mut seen = Look::default();
        let role = login.map(|can_login| Role { identity: identity.clone(), can_login });
        let name = role.is_some().then(|| NAME.to_owned());
        seen.roles.extend(role.map(|role| (NAME.to_owned(), role)));
        let session = |id| Session { id, began: 1, of: identity.clone(), role: name.clone() };
        seen.sessions.extend((0..sessions).map(session));
        self.0.look(at(millis), &seen);
        self
    }

    fn says(mut self, millis: u64, lease: Lease) -> Self {
        self.0.answer(at(millis), &BTreeMap::from([(NAME.to_owned(), lease)]));
        self
    }

    fn says_nothing_of_it(mut self, millis: u64) -> Self {
        self.0.answer(at(millis), &BTreeMap::new());
        self
    }

    fn term(mut self, millis: u64, term: u64) -> Self {
        self.0.members(at(millis), &BTreeMap::new(), Some(term));
        self
    }

    fn ends(self) -> Report {
        self.0.report(0)
    }

    fn found(self) -> Vec<&'static str> {
        self.ends().violations.iter().map(|v| v.kind).collect()
    }
}

use State::{Active, Intent, Revoked, Revoking};

#[test]
fn a_whole_life_is_no_finding() {
    let story = Story::new()
        .sees(0, None, 0)
        .says(20, lease(Intent, 9_000, 0))
        .sees(40, Some(true), 0)
        .says(60, lease(Active, 9_000, 0))
        .sees(80, Some(true), 2)
        .says(2_000, lease(Revoking, 9_000, 1_900))
        .sees(2_500, Some(false), 1)
        .sees(3_000, None, 1)
        .says(3_500, lease(Revoked, 9_000, 1_900))
        .sees(4_000, None, 0);
    let report = story.ends();
    assert!(report.violations.is_empty(), "{report:?}");
    assert_eq!((report.leases, report.sessions, report.revocations, report.expiries), (1, 2, 1, 0), "{report:?}");
    let worst = report.worst_calm.map(|o| (o.seen, o.millis));
    assert_eq!(worst, Some((1_100, 2_110)), "from 1,900 to the look at 3,000, and to the end of the one at 4,000");
}

#[test]
fn a_principal_that_nobody_accounts_for_is_an_orphan() {
    assert_eq!(Story::new().sees(0, Some(true), 0).says_nothing_of_it(20).found(), ["orphan"]);
    assert_eq!(
        Story::new().sees(0, Some(false), 0).says_nothing_of_it(20).found(),
        ["orphan"],
        "even one that cannot log in"
    );
    assert!(
        Story::new().says_nothing_of_it(0).sees(20, Some(true), 0).found().is_empty(),
        "its intent may be newer than the answer"
    );
    assert!(
        Story::new().sees(0, Some(true), 0).says_nothing_of_it(5).found().is_empty(),
        "nor do both at once prove it"
    );
}

#[test]
fn a_revoked_intent_whose_principal_comes_to_life_is_an_orphan() {
    let never = Lease { was_active: false, ..lease(Revoked, 9_000, 100) };
    assert_eq!(Story::new().says(200, never.clone()).sees(300, Some(true), 0).found(), ["orphan"]);
    assert!(Story::new().sees(100, Some(true), 0).says(200, never).found().is_empty(), "it was gone by then");
}

#[test]
fn alive_after_the_vault_has_said_revoked_is_a_survivor() {
    let revoked = || lease(Revoked, 9_000, 100);
    assert_eq!(Story::new().says(200, revoked()).sees(300, Some(true), 0).found(), ["survivor"]);
    assert_eq!(Story::new().says(200, revoked()).sees(300, Some(false), 1).found(), ["survivor"]);
    assert!(
        Story::new().says(200, revoked()).sees(300, Some(false), 0).found().is_empty(),
        "only left to be cleaned up"
    );
    let twice =
        Story::new().says(200, revoked()).sees(300, Some(true), 0).sees(20_000, Some(true), 0).says(20_100, revoked());
    assert_eq!(twice.found(), ["survivor"], "told once, however long it lives");
    assert!(Story::new().sees(100, Some(true), 1).says(200, revoked()).found().is_empty(), "it ended between the two");
    assert!(
        Story::new().says(200, revoked()).sees(205, Some(true), 1).found().is_empty(),
        "nor do both at once prove it"
    );
}

#[test]
fn a_session_of_a_role_that_is_gone_is_a_ghost() {
    let story = |to| {
        let story = Story::new().says(0, lease(Active, 9_000, 0)).sees(100, Some(true), 1);
        story.says(200, lease(to, 9_000, 150)).sees(300, None, 1)
    };
    assert_eq!(story(Revoked).found(), ["ghost"], "known by the number of its role");
    assert!(story(Revoking).found().is_empty(), "it is being ended");
    let stranger = |from: u64, to: u64| Story::new().sees(from, None, 1).sees(to, None, 1).found();
    assert_eq!(stranger(0, 5_100), ["ghost"], "whoever it was");
    assert!(stranger(0, 4_900).is_empty(), "a role may be made while a look goes on, or be ending");
    assert!(
        Story::new().sees(0, None, 1).sees(100, None, 0).sees(5_100, None, 1).found().is_empty(),
        "not for all that time"
    );
}

#[test]
fn where_roles_have_no_numbers_a_session_of_one_that_is_gone_tells_its_name() {
    let revoked = || lease(Revoked, 9_000, 100);
    assert_eq!(Story::new().says(200, revoked()).sees_named(300, None, 1).found(), ["ghost"], "no look had its role");
    assert!(Story::new().sees_named(100, None, 1).says(200, revoked()).found().is_empty(), "it ended between the two");
    assert_eq!(Story::new().sees_named(0, None, 1).says_nothing_of_it(20).found(), ["orphan"]);
    assert!(Story::new().says_nothing_of_it(0).sees_named(20, None, 1).found().is_empty(), "its intent may be newer");
    let stranger = Story::new().sees_named(0, None, 1).says(20, lease(Active, 9_000, 0)).sees_named(5_100, None, 1);
    assert!(!stranger.found().contains(&"ghost"), "it is no stranger, and its lease is active");
    assert_eq!(Story::new().says(200, revoked()).sees_named(300, Some(true), 1).found(), ["survivor"]);
}

#[test]
fn where_somebody_else_judges_an_overrun_it_is_listed_and_no_finding() {
    let story = |bounds| {
        let story = Story(Judge::new(bounds)).says(0, lease(Active, 9_000, 0)).sees(20, Some(true), 0);
        story.sees(16_000, Some(true), 0).says(16_100, lease(Revoking, 9_000, 9_000)).sees(17_000, None, 0)
    };
    let report = story(Bounds { elsewhere: true, ..BOUNDS }).ends();
    let listed: Vec<_> = report.overruns.iter().map(|o| (o.seen, o.millis, o.ended_at)).collect();
    assert_eq!((listed, report.violations.len()), (vec![(7_000, 8_010, 9_000)], 0));
    assert_eq!(story(BOUNDS).found(), ["survivor"]);
    let revoked = story(Bounds { elsewhere: true, ..BOUNDS }).says(17_100, lease(Revoked, 9_000, 9_000));
    assert_eq!(revoked.sees(17_200, Some(true), 0).found(), ["survivor"], "what was called revoked is not excused");
}

#[test]
fn alive_long_after_its_end_is_a_survivor() {
    let expired = |seen| Story::new().sees(seen, Some(true), 0).says(seen + 100, lease(Active, 9_000, 0));
    assert_eq!(expired(14_001).found(), ["survivor"], "though the vault still calls it active");
    assert!(expired(14_000).found().is_empty());
    assert_eq!(expired(13_000).ends().worst_calm.map(|o| o.millis), Some(4_000));
    let gone = |seen: u64, at: u64| expired(seen).sees(at, None, 0).says(at + 100, lease(Revoked, 9_000, 0));
    assert!(gone(13_800, 13_990).found().is_empty(), "gone by 14,000");
    assert_eq!(gone(13_800, 13_991).found(), ["survivor"], "it may have lived until 14,001");
    let left = gone(10_000, 10_150).sees(10_300, Some(false), 0).sees(20_000, None, 0).ends();
    assert_eq!(left.worst_calm.map(|o| (o.seen, o.millis)), Some((1_000, 1_160)), "the first look without it counts");
    let renewed = Story::new().says(0, lease(Active, 9_000, 0)).sees(20_000, Some(true), 0);
    assert!(renewed.says(20_100, lease(Active, 30_000, 0)).found().is_empty(), "its end was moved before it came");
    let asked = |seen| Story::new().sees(seen, Some(false), 1).says(seen + 100, lease(Revoking, 90_000, 1_000));
    assert_eq!(asked(6_001).found(), ["survivor"], "from the moment at which it was revoked");
    assert!(asked(6_000).found().is_empty());
    // Nothing was written in the vault's log for eight seconds, and so its clock stood still.
    let late = Story::new().says(9_000, lease(Active, 90_000, 0)).sees(10_000, Some(true), 0);
    let late = late.says(11_000, lease(Revoking, 90_000, 1_000)).ends();
    assert_eq!(late.worst_calm.map(|o| o.millis), Some(1_000), "it was alive by the vault's word at 9,000");
    assert!(late.violations.is_empty());
}

#[test]
fn a_failover_allows_more_where_it_overlaps() {
    let story = |seen: u64| Story::new().sees(seen, Some(true), 0).says(seen + 100, lease(Active, 9_000, 0));
    let overlapping = story(15_500).term(10_000, 1).term(12_000, 2).ends();
    assert!(overlapping.violations.is_empty() && overlapping.worst_failover.is_some(), "{overlapping:?}");
    assert_eq!(story(16_001).term(10_000, 1).term(12_000, 2).found(), ["survivor"], "but not any time");
    assert_eq!(story(15_500).term(5_000, 1).term(8_000, 2).found(), ["survivor"], "one that was over before");
    assert_eq!(story(15_500).term(10_000, 2).term(12_000, 2).found(), ["survivor"], "the same leader");
}

#[test]
fn a_lease_that_is_active_on_both_sides_and_cannot_log_in_died_early() {
    let active = || lease(Active, 9_000, 0);
    assert_eq!(Story::new().says(0, active()).sees(100, None, 0).says(200, active()).found(), ["early death"]);
    assert_eq!(Story::new().says(0, active()).sees(100, Some(false), 0).says(200, active()).found(), ["early death"]);
    let ended = Story::new().says(0, active()).sees(100, None, 0).says(200, lease(Revoking, 9_000, 50));
    assert!(ended.found().is_empty(), "it was revoked between the two");
    assert!(Story::new().sees(100, None, 0).says(200, active()).found().is_empty(), "it may not have been there yet");
    let made = Story::new().says(0, lease(Intent, 9_000, 0)).sees(100, None, 0).says(200, active());
    assert!(made.found().is_empty(), "it was made between the two");
    assert!(
        Story::new().says(0, active()).sees(9_100, None, 0).says(9_200, active()).found().is_empty(),
        "its time was over"
    );
}

#[test]
fn what_was_not_seen_is_told() {
    let mut judge = Judge::new(BOUNDS);
    let up = |up: bool| BTreeMap::from([("n1".to_owned(), up)]);
    for (millis, state) in [(0, true), (100, false), (200, false), (300, true), (400, false)] {
        judge.members(at(millis), &up(state), Some(1));
    }
    judge.look(at(0), &Look::default());
    judge.look(at(4_000), &Look::default());
    let report = judge.report(10_000_000);
    assert_eq!((report.outages, report.failovers.len()), (2, 0));
    assert_eq!(report.longest_pause, 6_000, "from the last look to the end");
    assert_eq!(report.longest_silence, u64::MAX / 1_000, "it never answered");
}

#[test]
fn an_audit_that_saw_too_little_says_so() {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        enough: crate::report::Enough,
    }
    let seen = || Story::new().sees(0, Some(true), 1).says(20, lease(Active, 9_000, 0)).ends();
    let lacks = |arguments: &[&str]| {
        let only = Only::parse_from([&["auditor"][..], arguments].concat());
        only.enough.lacks(&seen())
    };
    assert!(lacks(&[]).is_empty());
    for (name, enough, most) in [
        ("leases", "1", "2"),
        ("sessions", "1", "2"),
        ("expiries", "0", "1"),
        ("revocations", "0", "1"),
        ("looks", "1", "2"),
        ("answers", "1", "2"),
        ("kills", "0", "1"),
        ("failovers", "0", "1"),
        ("longest-pause", "10", "9"),
        ("longest-silence", "10", "9"),
    ] {
        let name = format!("--{name}");
        assert!(lacks(&[&name, enough]).is_empty(), "{name} {enough} is what was seen");
        assert_eq!(lacks(&[&name, most]).len(), 1, "{name} {most} is more");
    }
    let report = seen();
    assert_eq!(report.document(&lacks(&["--leases", "2"]))["verdict"], "saw too little");
    assert_eq!(report.document(&[])["verdict"], "clean");
    assert!(report.table(&[]).ends_with("clean\n"));
}
