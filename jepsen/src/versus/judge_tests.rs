//! Planted histories: each finding beside the innocent story that looks alike.

use super::*;

const BEGIN: Millis = 1_000_000;

fn issued(lease: &str, ends: Millis) -> Fact {
    let (lease, login) = (lease.to_owned(), format!("v-{lease}"));
    Fact::Issued { lease, login, asked: BEGIN, at: BEGIN + 10, ends: BEGIN + ends }
}

/// What is there at a time: logins, with `-` before those that let nobody in, and with `+` sessions.
fn look(at: Millis, what: &[&str]) -> Fact {
    let (mut roles, mut sessions) = (BTreeMap::new(), Vec::new());
    for name in what {
        match name.split_at(1) {
            ("+", name) => sessions.push(name.to_owned()),
            ("-", name) => drop(roles.insert(name.to_owned(), false)),
            _ => drop(roles.insert((*name).to_owned(), true)),
        }
    }
    Fact::Look { from: BEGIN + at, to: BEGIN + at + 5, roles, sessions }
}

fn over(lease: &str, at: Millis) -> Fact {
    Fact::Over { lease: lease.to_owned(), at: BEGIN + at }
}

fn left(leases: &[&str], given_up: u64) -> Fact {
    Fact::Left { leases: leases.iter().map(|lease| (*lease).to_owned()).collect(), given_up, logins: Vec::new() }
}

fn ending(lease: &str, at: Millis) -> Fact {
    Fact::Ending { lease: lease.to_owned(), at: BEGIN + at }
}

fn renewed(asked: Millis, ends: Option<Millis>, ttl: Millis) -> Fact {
    let at = BEGIN + asked + 20;
    let ends = ends.map(|ends| BEGIN + ends);
    Fact::Renewed { lease: "a".into(), asked: BEGIN + asked, at, ends, unknown: ends.is_none(), latest: at + ttl }
}

#[test]
fn nothing_is_said_against_a_lease_that_ends_when_it_should() {
    let facts = [
        issued("a", 5_000),
        look(1_000, &["v-a", "+v-a"]),
        look(4_900, &["v-a", "+v-a"]),
        look(5_500, &[]),
        over("a", 5_600),
        left(&[], 0),
        look(9_000, &[]),
    ];
    let sum = judge(&facts);
    assert_eq!((sum.expired, sum.sessions, sum.login_overruns, sum.session_overruns), (1, 1, vec![0], vec![0]));
    assert!(sum.orphans.is_empty() && sum.early.is_empty() && sum.twice.is_empty() && sum.to_nobody.is_empty());
    assert!(sum.logins_after_word.is_empty() && sum.sessions_after_word.is_empty() && sum.broken.is_empty());
}

#[test]
fn an_orphan_is_a_login_without_a_lease_and_not_one_that_the_vault_still_knows() {
    let seen = || [issued("a", 5_000), look(1_000, &["v-a", "v-x"])];
    let end = |lists: &[&str]| [seen().to_vec(), vec![left(lists, 0), look(90_000, &["v-a", "-v-x"])]].concat();
    let orphan = |login: &str, lets_in| Orphan { login: login.to_owned(), ms: 89_000, lets_in };
    assert_eq!(judge(&end(&["a"])).orphans, [orphan("v-x", false)], "a is known");
    assert_eq!(judge(&end(&[])).orphans, [orphan("v-a", true), orphan("v-x", false)]);
    // One whose login nobody knows may be that of x.
    assert_eq!(judge(&end(&["a", "unheard of"])).orphans, []);
    assert_eq!(judge(&end(&["a"])).to_nobody, [89_000]);
    assert_eq!((judge(&end(&["a"])).waiting, judge(&end(&["a"])).given_up), (1, 0));
    // What was there only before the vault was asked is no orphan.
    assert_eq!(judge(&[seen().to_vec(), vec![left(&[], 0), look(90_000, &[])]].concat()).orphans, []);
    assert!(!judge(&[seen().to_vec(), vec![left(&[], 0)]].concat()).broken.is_empty(), "nobody looked after it");
}

#[test]
fn an_overrun_is_from_the_latest_end_to_the_last_look_that_saw_it() {
    let story = |between: Vec<Fact>| {
        let looks = vec![look(1_000, &["v-a"]), look(9_000, &["v-a", "+v-a"]), look(12_000, &["+v-a"])];
        judge(&[vec![issued("a", 5_000)], between, looks, vec![left(&[], 0), look(60_000, &[])]].concat())
    };
    let late = story(Vec::new());
    assert_eq!((late.login_overruns, late.session_overruns), (vec![4_000], vec![7_000]));
    let renewed_once = story(vec![renewed(1_000, Some(11_000), 10_000)]);
    assert_eq!((renewed_once.login_overruns, renewed_once.session_overruns), (vec![0], vec![1_000]));
    // Nobody knows whether it was: then it was.
    let perhaps = story(vec![renewed(1_000, None, 10_000)]);
    assert_eq!((perhaps.login_overruns, perhaps.session_overruns), (vec![0], vec![980]));
}

#[test]
fn a_ghost_is_a_session_after_the_word_that_its_lease_is_over() {
    let story = |looks: Vec<Fact>| {
        let begin = vec![issued("a", 30_000), ending("a", 2_000), over("a", 2_100)];
        judge(&[begin, looks, vec![left(&[], 0), look(60_000, &[])]].concat())
    };
    let ghost = story(vec![look(2_500, &["+v-a"]), look(10_000, &["+v-a"])]);
    assert_eq!((ghost.sessions_after_word, ghost.asked_to_end), (vec![7_900], 1));
    assert!(ghost.logins_after_word.is_empty() && ghost.early.is_empty());
    let login = story(vec![look(2_500, &["v-a"])]);
    assert_eq!((login.logins_after_word, login.sessions_after_word), (vec![400], vec![]));
    // A look that began before the word may have seen it before.
    let innocent = story(vec![look(2_099, &["v-a", "+v-a"])]);
    assert!(innocent.sessions_after_word.is_empty() && innocent.logins_after_word.is_empty());
}

#[test]
fn a_login_that_dies_before_its_end_is_found_unless_somebody_asked_for_it() {
    let story = |more: Vec<Fact>| {
        let looks = vec![look(500, &["v-a"]), look(2_500, &["-v-a"]), left(&[], 0), look(60_000, &[])];
        judge(&[vec![issued("a", 8_000)], more, looks].concat()).early
    };
    assert_eq!(story(Vec::new()), ["v-a"]);
    assert!(story(vec![ending("a", 2_000)]).is_empty());
    assert!(story(vec![renewed(100, Some(3_100), 3_000)]).is_empty(), "it ends within a second");
    assert!(story(vec![renewed(100, None, 3_000)]).is_empty(), "perhaps it does");
}

#[test]
fn what_is_handed_out_twice_is_found() {
    let facts = [issued("a", 5_000), issued("a", 5_000), left(&[], 0), look(60_000, &[])];
    assert_eq!(judge(&facts).twice, ["v-a"]);
}

#[test]
fn an_outage_is_from_the_end_of_a_leader_to_a_write_that_was_asked_for_after_it() {
    let write = |asked: Millis, at: Millis, done| Fact::Write { asked: BEGIN + asked, at: BEGIN + at, done };
    let kill = |at: Millis, kind: &str, seen| Fact::Fault {
        kind: kind.to_owned(),
        what: String::new(),
        at: BEGIN + at,
        until: BEGIN + at + 900,
        seen,
    };
    let facts = [
        // Asked for before, answered after: it may have been done before.
        write(900, 1_100, true),
        write(1_200, 3_000, false),
        write(3_010, 3_100, true),
        kill(1_000, "kill", 1),
        kill(1_000, "pause", 1),
        kill(1_000, "power", 0),
    ];
    let sum = judge(&facts);
    assert_eq!(sum.write_outages, [2_100]);
    assert_eq!(sum.faults.get("power"), Some(&(1, 0)));
}

#[test]
fn a_side_that_did_too_little_is_void() {
    let sum = judge(&[left(&[], 0), look(1, &[])]);
    assert!(sum.lacks().iter().any(|lack| lack.contains("kill")), "{:?}", sum.lacks());
    let mut enough = Sum { seconds: 120, issued: 500, looks: 300, sessions: 50, asked_to_end: 50, expired: 50, ..sum };
    enough.write_outages = vec![1_000; 4];
    enough.faults = plan::kinds().into_iter().map(|kind| (kind.name().to_owned(), (2, 1))).collect();
    assert!(enough.lacks().is_empty(), "{:?}", enough.lacks());
    enough.add(Sum::broken("quorate".to_owned(), "part 2: nothing".to_owned()));
    assert_eq!(enough.lacks(), ["part 2: nothing"]);
}
