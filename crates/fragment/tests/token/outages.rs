//! Tokens that go away, come back, are full, or are two.

use crate::lab::{
    PIN, ask, bring_in, created_of, lab, module, open, own_session, pin, question, right, rng, run, settings,
    wait_until,
};
use quorate_crypto::customer::PartSuite;
use quorate_fragment::token::{Given, create};
use quorate_fragment::{DeriveError, Fragment};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn a_token_that_goes_away_in_the_middle_of_work_is_taken_up_again() {
    lab("outages::a_token_that_goes_away_in_the_middle_of_work_is_taken_up_again", |lab| {
        let folder = lab.init("one");
        let created =
            create(&module(), "one", "customer", PartSuite::Hybrid, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
        let fragment = Arc::new(Fragment::Token(open(settings(&["one"], &created)).unwrap()));
        let (stop, given, refused) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Callers without a pause: each answer is right, or says that there is none; none is wrong, and none is missing.
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let (fragment, stop) = (Arc::clone(&fragment), Arc::clone(&stop));
                let (given, refused) = (Arc::clone(&given), Arc::clone(&refused));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        match right(&fragment) {
                            Ok(right) => {
                                assert!(right, "a wrong value");
                                given.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(DeriveError::Unavailable(_)) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                std::thread::sleep(std::time::Duration::from_millis(1));
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        for round in 0..2 {
            let before = given.load(Ordering::Relaxed);
            wait_until("values are given", || given.load(Ordering::Relaxed) > before + 20);
            let away = lab.unplug(&folder);
            wait_until("it is missed", || fragment.health()[0].ready == 0);
            let trouble = fragment.health()[0].trouble.clone().unwrap();
            assert!(["token_not_found", "token_failed", "token_key_not_found"].contains(&trouble.0), "{trouble:?}");
            let before = refused.load(Ordering::Relaxed);
            wait_until("callers are told at once", || refused.load(Ordering::Relaxed) > before + 20);
            std::fs::rename(&away, &folder).unwrap();
            wait_until(&format!("it is back, round {round}"), || fragment.health()[0].ready == 2);
        }
        let before = given.load(Ordering::Relaxed);
        wait_until("values are given again", || given.load(Ordering::Relaxed) > before + 20);
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}

#[test]
fn a_custodian_that_starts_before_its_token_waits_for_it() {
    lab("outages::a_custodian_that_starts_before_its_token_waits_for_it", |lab| {
        let folder = lab.init("one");
        let created =
            create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
        let away = lab.unplug(&folder);
        let fragment = Fragment::Token(open(settings(&["one"], &created)).unwrap());
        let why = right(&fragment).unwrap_err();
        assert!(matches!(&why, DeriveError::Unavailable(words) if words.contains("`one`")), "{why}");
        std::fs::rename(&away, &folder).unwrap();
        wait_until("it is there", || right(&fragment) == Ok(true));
    });
}

#[test]
fn tokens_with_the_same_key_stand_in_for_each_other() {
    lab("outages::tokens_with_the_same_key_stand_in_for_each_other", |lab| {
        let scalar = [11; 32];
        let created = created_of(&scalar);
        let folders = ["one", "two"].map(|token| {
            let folder = lab.init(token);
            let _ = bring_in(&own_session(token), "customer", &scalar, &[]);
            folder
        });
        let fragment = Fragment::Token(open(settings(&["one", "two"], &created)).unwrap());
        wait_until("both serve", || fragment.health().iter().all(|token| token.ready == 2));
        let fewest = || fragment.health().iter().map(|token| token.answered).min().unwrap();
        wait_until("both answer", || {
            ask(&fragment, (0..64).map(|_| question(&created.public).0).collect());
            fewest() > 0
        });
        for (gone, folder) in folders.iter().enumerate() {
            let away = lab.unplug(folder);
            // Questions that a session of the lost token has begun are finished by the other.
            for _ in 0..50 {
                assert_eq!(right(&fragment), Ok(true), "token {gone} is gone");
            }
            wait_until("its loss shows", || fragment.health()[gone].ready == 0);
            assert!(fragment.health()[gone].trouble.is_some());
            wait_until("the other one serves", || fragment.health()[1 - gone].ready == 2);
            assert_eq!(right(&fragment), Ok(true));
            std::fs::rename(&away, folder).unwrap();
            wait_until("both serve again", || fragment.health().iter().all(|token| token.ready == 2));
        }
        // One of them with another key is not used, and the other one is.
        let session = own_session("one");
        let _ = bring_in(&session, "customer", &[12; 32], &[]);
        let other = Fragment::Token(open(settings(&["one", "two"], &created)).unwrap());
        wait_until("one is shown", || other.health()[0].trouble.is_some());
        assert_eq!((other.health()[0].ready, right(&other)), (0, Ok(true)));
    });
}

#[test]
fn more_than_may_wait_is_refused_and_the_rest_is_answered() {
    lab("outages::more_than_may_wait_is_refused_and_the_rest_is_answered", |lab| {
        lab.init("one");
        let created =
            create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
        let fragment = Fragment::Token(open(settings(&["one"], &created)).unwrap());
        assert_eq!(right(&fragment), Ok(true));
        let (asked, kc) = question(&created.public);
        let copies = (0..1100).map(|_| quorate_fragment::Question {
            object: asked.object.clone(),
            wrap: asked.wrap.clone(),
            part: asked.part.clone(),
        });
        let answers = ask(&fragment, copies.collect());
        let busy = answers.iter().filter(|a| matches!(a, Err(DeriveError::Busy(_)))).count();
        let given = answers.iter().filter(|a| a.as_ref().is_ok_and(|value| value.expose() == kc.expose())).count();
        assert_eq!((given, busy), (1024, 76));
    });
}

/// A file system of its own for the tokens, of this size. Ended when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, size: &str) -> Self {
        privileged(&["mount", "-t", "tmpfs", "-o", &format!("size={size},mode=0777"), "tmpfs", at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        privileged(&["umount", "--lazy", self.0.to_str().unwrap()]);
    }
}

/// As root, or by sudo without a password: without either the test fails, and says so.
fn privileged(command: &[&str]) {
    if run("id", &["-u"]).trim() == "0" {
        run(command[0], &command[1..]);
    } else {
        run("sudo", &[&["-n"], command].concat());
    }
}

#[test]
fn a_full_token_says_so_keeps_nothing_half_made_and_goes_on_deriving() {
    lab("outages::a_full_token_says_so_keeps_nothing_half_made_and_goes_on_deriving", |lab| {
        let tokens = lab.tokens();
        let _disk = SmallDisk::mount(&tokens, "96k");
        lab.init("one");
        let made = |key: &str, suite| create(&module(), "one", key, suite, &pin(PIN, Given::ByFile), &mut rng());
        let created = made("customer", PartSuite::P256).unwrap();
        let fragment = Fragment::Token(open(settings(&["one"], &created)).unwrap());
        let listed = || lab.pkcs11_tool("one", &["--list-objects"]).1.matches("Key Object").count();
        let before = listed();
        // No room at all, then for one object and not for the next.
        for left in [0, 4096, 8192] {
            let filler = tokens.join("filler");
            std::fs::write(&filler, vec![1; left]).unwrap();
            let rest = tokens.join("rest");
            let _ = std::fs::write(&rest, vec![1; 1 << 20]);
            std::fs::remove_file(&filler).unwrap();
            let why = made("second", PartSuite::Hybrid).expect_err("there is no room");
            assert!(["token_failed", "token_full"].contains(&why.code()), "{why}");
            assert_eq!(right(&fragment), Ok(true), "what is derived needs no room on it");
            std::fs::remove_file(&rest).unwrap();
            assert_eq!(listed(), before, "nothing of the second key is there with {left} bytes left");
        }
        assert!(made("second", PartSuite::Hybrid).is_ok(), "with room again");
    });
}
