//! Tokens that are slow, fail, or give wrong answers: SoftHSM, with a module between (`between.c`).

use crate::lab::{Lab, PIN, ask, lab, module, open, pin, question, right, rng, run, settings, wait_until};
use quorate_crypto::customer::PartSuite;
use quorate_fragment::token::{Created, Given, Settings, create};
use quorate_fragment::{DeriveError, Fragment};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The module between, and the file that tells it what to do.
struct Between {
    module: PathBuf,
    mode: PathBuf,
}

impl Between {
    fn build(lab: &Lab) -> Self {
        let [library, mode, source] = ["between.so", "mode", "between.c"].map(|name| lab.tokens().with_file_name(name));
        std::fs::write(&source, include_str!("between.c")).unwrap();
        let told =
            [("MODULE", &module()), ("MODE", &mode)].map(|(name, path)| format!("-D{name}=\"{}\"", path.display()));
        let [library_text, source] = [&library, &source].map(|path| path.to_str().unwrap());
        run("cc", &["-Wall", "-Werror", "-shared", "-fPIC", &told[0], &told[1], "-o", library_text, source, "-ldl"]);
        let between = Self { module: library, mode };
        between.does("");
        between
    }

    /// What it does from now on; nothing, if nothing is said.
    fn does(&self, what: &str) {
        // At once: nobody reads half of it.
        let next = self.mode.with_extension("next");
        std::fs::write(&next, what).unwrap();
        std::fs::rename(next, &self.mode).unwrap();
    }

    fn pool(&self, created: &Created) -> Fragment {
        let settings = Settings { module: self.module.clone(), ..settings(&["one"], created) };
        Fragment::Token(open(settings).unwrap())
    }
}

/// Runs with one token behind a module that stands between.
fn behind(name: &str, body: impl FnOnce(&Between, &Created)) {
    let name = format!("wrong::{name}");
    lab(&name, |lab| {
        lab.init("one");
        let between = Between::build(lab);
        let created = create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng());
        body(&between, &created.unwrap());
    });
}

fn code(fragment: &Fragment) -> Option<&'static str> {
    fragment.health()[0].trouble.as_ref().map(|(code, _)| *code)
}

#[test]
fn what_no_multiplication_gives_is_no_answer() {
    behind("what_no_multiplication_gives_is_no_answer", |between, created| {
        let fragment = between.pool(created);
        assert_eq!(right(&fragment), Ok(true));
        for (what, trouble) in [
            ("short", "token_wrong_answer"),
            ("long", "token_wrong_answer"),
            ("nonsense", "token_wrong_answer"),
            ("failed", "token_failed"),
        ] {
            between.does(what);
            let answer = right(&fragment);
            assert!(
                matches!(&answer, Err(DeriveError::Unavailable(why)) if why.contains("`one`")),
                "{what}: {answer:?}"
            );
            wait_until(&format!("{what} is said"), || code(&fragment) == Some(trouble));
            assert_eq!(fragment.health()[0].ready, 0, "{what}: no session serves");
            between.does("");
            wait_until(&format!("it serves again after {what}"), || right(&fragment) == Ok(true));
        }
    });
}

#[test]
fn a_slow_token_is_waited_for() {
    behind("a_slow_token_is_waited_for", |between, created| {
        let fragment = between.pool(created);
        between.does("slow");
        let (questions, values): (Vec<_>, Vec<_>) = (0..6).map(|_| question(&created.public)).unzip();
        let answers = ask(&fragment, questions);
        for (answer, value) in answers.iter().zip(values) {
            assert!(answer.as_ref().is_ok_and(|answer| answer.expose() == value.expose()), "{answer:?}");
        }
        assert_eq!(code(&fragment), None);
    });
}

/// The coordinate of a point, but of another one. Only a question whose answer is known shows it, and one is asked however busy it is.
#[test]
fn a_token_that_answers_another_question_is_found_out_while_it_is_busy() {
    behind("a_token_that_answers_another_question_is_found_out_while_it_is_busy", |between, created| {
        let fragment = between.pool(created);
        assert_eq!(right(&fragment), Ok(true));
        between.does("stale");
        let (over, begun) = (AtomicBool::new(false), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Not for ever, if nobody says that it is over.
                    while !over.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(30) {
                        drop(right(&fragment));
                    }
                });
            }
            wait_until("it is found out", || code(&fragment) == Some("token_key_other"));
            over.store(true, Ordering::Relaxed);
        });
        let answer = right(&fragment);
        assert!(matches!(answer, Err(DeriveError::Unavailable(_))), "it answers nothing any more: {answer:?}");
    });
}
