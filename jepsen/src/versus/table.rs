//! The table: one row for each question, one column for each side.

use super::fact::Millis;
use super::judge::Sum;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A question: what is asked, what an answer other than none is by each side's own documentation, and the answer.
type Row = (&'static str, &'static str, fn(&Sum) -> String);

/// What was done, before what came of it.
const DONE: &[Row] = &[
    ("parts, and seconds of faults", "", |s| format!("{}, {}", s.parts, s.seconds)),
    ("logins handed out; refused; nobody knows", "", |s| format!("{}; {}; {}", s.issued, s.refused, s.unknown)),
    ("renewed; asked to end; expired", "", |s| format!("{}; {}; {}", s.renewed, s.asked_to_end, s.expired)),
    ("leases with a session; looks at the database", "", |s| format!("{}; {}", s.sessions, s.looks)),
    ("faults begun, and seen to bite", "", |s| {
        let all: Vec<String> = s.faults.iter().map(|(kind, (begun, bit))| format!("{kind} {begun}/{bit}")).collect();
        all.join(", ")
    }),
];

const FOUND: &[Row] = &[
    ("orphans at the end: logins without a lease; of these, that let in; the oldest", "violation, of both", |s| {
        let oldest = s.orphans.iter().map(|orphan| orphan.ms).max();
        let let_in = s.orphans.iter().filter(|orphan| orphan.lets_in).count();
        format!("{}; {let_in}; {}", s.orphans.len(), seconds(oldest))
    }),
    ("logins that let in after the word that the lease is over; the longest", "violation, of both", |s| {
        outlived(&s.logins_after_word)
    }),
    ("sessions alive after that word; the longest", "violation of Quorate's, not of OpenBao's", |s| {
        outlived(&s.sessions_after_word)
    }),
    ("logins dead before their end", "violation, of both", |s| s.early.len().to_string()),
    ("logins handed out twice", "violation, of both", |s| s.twice.len().to_string()),
    ("leases given up at the end; others not over", "difference", |s| format!("{}; {}", s.given_up, s.waiting)),
    ("login outlives its lease: median, p99, worst", "difference", |s| spread(&s.login_overruns)),
    ("session outlives its lease: median, p99, worst", "difference", |s| spread(&s.session_overruns)),
    ("logins that were made and handed to nobody; the longest there", "difference", |s| outlived(&s.to_nobody)),
    ("no write after the end of a leader: how often, median, p99, worst", "difference", |s| {
        format!("{}; {}", s.write_outages.len(), spread(&s.write_outages))
    }),
];

fn seconds(ms: Option<Millis>) -> String {
    ms.map_or_else(|| "none".to_owned(), |ms| format!("{}.{} s", ms / 1_000, ms % 1_000 / 100))
}

fn outlived(all: &[Millis]) -> String {
    format!("{}; {}", all.len(), seconds(all.iter().copied().max()))
}

/// The middle, the 99th of a hundred, the worst.
fn spread(all: &[Millis]) -> String {
    let [median, p99, worst] = parts(all).map(seconds);
    format!("{median}, {p99}, {worst}")
}

fn parts(all: &[Millis]) -> [Option<Millis>; 3] {
    let mut all = all.to_vec();
    all.sort_unstable();
    // The nearest rank.
    let part = |hundredths: usize| all.get((all.len() * hundredths).div_ceil(100).saturating_sub(1)).copied();
    [part(50), part(99), all.last().copied()]
}

/// For people.
pub(crate) fn markdown(sides: &BTreeMap<(bool, String), Sum>) -> String {
    let mut text = String::from("# Beside OpenBao\n");
    for outage in [false, true] {
        let columns: Vec<&Sum> = sides.iter().filter(|((of, _), _)| *of == outage).map(|(_, sum)| sum).collect();
        if columns.is_empty() {
            continue;
        }
        // Writing into a String cannot fail.
        let _ = write!(text, "\n## {}\n\n| |", if outage { "The database is away for long" } else { "Faults" });
        for sum in &columns {
            let _ = write!(text, " {} |", sum.side);
        }
        let _ = write!(text, " what it is |\n|---|{}---|\n", "---|".repeat(columns.len()));
        for (question, what, answer) in DONE.iter().chain(FOUND) {
            let _ = write!(text, "| {question} |");
            for sum in &columns {
                let _ = write!(text, " {} |", answer(sum));
            }
            let _ = writeln!(text, " {what} |");
        }
        for sum in columns {
            let _ = writeln!(text, "\n{}: {}", sum.side, sum.version);
            for lack in sum.lacks() {
                let _ = writeln!(text, "- **void**: {lack}");
            }
            for login in sum.early.iter().chain(&sum.twice).chain(sum.orphans.iter().map(|o| &o.login)).take(20) {
                let _ = writeln!(text, "- {login}");
            }
        }
    }
    text
}

/// For programs.
pub(crate) fn document(sides: &BTreeMap<(bool, String), Sum>) -> Value {
    let all: Vec<Value> = sides
        .values()
        .map(|sum| {
            let answers: BTreeMap<&str, String> =
                DONE.iter().chain(FOUND).map(|(question, _, answer)| (*question, answer(sum))).collect();
            json!({ "side": sum.side, "outage": sum.outage, "lacks": sum.lacks(), "answers": answers, "sum": sum })
        })
        .collect();
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_hundred_are_by_the_nearest_rank() {
        let all: Vec<Millis> = (1..=200).collect();
        assert_eq!(parts(&all), [Some(100), Some(198), Some(200)]);
        assert_eq!(parts(&[7]), [Some(7); 3]);
        assert_eq!(spread(&[]), "none, none, none");
    }

    #[test]
    fn each_side_has_a_column_and_what_is_void_says_so() {
        let side = |name: &str| ((false, name.to_owned()), Sum { side: name.to_owned(), ..Sum::default() });
        let text = markdown(&BTreeMap::from([side("quorate"), side("openbao")]));
        assert!(text.contains("| | openbao | quorate | what it is |"), "{text}");
        assert!(text.contains("**void**: no kill was seen to bite") && !text.contains("away for long"), "{text}");
    }
}
