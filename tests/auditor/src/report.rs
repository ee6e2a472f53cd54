//! What an audit has found, for programs and for people, and whether it saw enough to say anything.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// Something that must not be.
#[derive(Debug)]
pub(crate) struct Violation {
    /// `orphan`, `survivor`, `ghost` or `early death`.
    pub(crate) kind: &'static str,
    pub(crate) principal: String,
    pub(crate) what: String,
    /// When it was first and last seen, in microseconds since 1970.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The kinds of [`Violation`].
pub(crate) const KINDS: [&str; 4] = ["orphan", "survivor", "ghost", "early death"];

/// How long after its end a principal could still log in, or had a session.
#[derive(Debug, Clone)]
pub(crate) struct Overrun {
    /// Until it was seen to be gone: so long at most. Until it was last seen, when it never was.
    pub(crate) millis: u64,
    /// Until it was last seen: so long at least.
    pub(crate) seen: u64,
    pub(crate) principal: String,
    /// Milliseconds since 1970.
    pub(crate) ended_at: u64,
}

/// Everything. Durations in milliseconds.
#[derive(Debug)]
pub(crate) struct Report {
    /// Leases that were seen alive at the target.
    pub(crate) leases: usize,
    /// Their sessions that were seen.
    pub(crate) sessions: usize,
    /// Those of them that are revoked because their time was over, and for other reasons.
    pub(crate) expiries: usize,
    pub(crate) revocations: usize,
    pub(crate) looks: usize,
    pub(crate) answers: usize,
    pub(crate) unanswered: usize,
    /// The longest time for which nothing newer was known of the target, and of the vault.
    pub(crate) longest_pause: u64,
    pub(crate) longest_silence: u64,
    /// How often a member that had answered did not, and between which milliseconds since 1970 the vault got a new leader.
    pub(crate) outages: usize,
    pub(crate) failovers: Vec<String>,
    pub(crate) worst_calm: Option<Overrun>,
    pub(crate) worst_failover: Option<Overrun>,
    /// All that were seen for a second or longer.
    pub(crate) overruns: Vec<Overrun>,
    /// Roles that can do nothing any more and are still there: now, and at most.
    pub(crate) leftovers: Vec<String>,
    pub(crate) most_leftovers: usize,
    pub(crate) violations: Vec<Violation>,
}

/// What must at least have been seen, and for how long at most nothing. Fewer, and an audit says nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Enough {
    /// Leases that were seen alive at the target.
    #[arg(long, default_value_t = 1)]
    leases: usize,
    /// Sessions of theirs.
    #[arg(long, default_value_t = 0)]
    sessions: usize,
    /// Leases that were seen alive and ended because their time was over.
    #[arg(long, default_value_t = 0)]
    expiries: usize,
    /// Leases that were seen alive and ended for another reason.
    #[arg(long, default_value_t = 0)]
    revocations: usize,
    /// Looks at the target.
    #[arg(long, default_value_t = 1)]
    looks: usize,
    /// Answers of the vault.
    #[arg(long, default_value_t = 1)]
    answers: usize,
    /// How often a member was killed: had answered, and did not.
    #[arg(long, default_value_t = 0)]
    kills: usize,
    /// How often another member became the leader.
    #[arg(long, default_value_t = 0)]
    failovers: usize,
    /// The longest time, in milliseconds, without a look at the target.
    #[arg(long, default_value_t = 5_000)]
    longest_pause: u64,
    /// The longest time, in milliseconds, without an answer of the vault.
    #[arg(long, default_value_t = 30_000)]
    longest_silence: u64,
}

impl Enough {
    /// What was not seen often enough, or stalled for too long.
    pub(crate) fn lacks(&self, seen: &Report) -> Vec<String> {
        let counted = [
            ("leases", seen.leases, self.leases),
            ("sessions", seen.sessions, self.sessions),
            ("expiries", seen.expiries, self.expiries),
            ("revocations", seen.revocations, self.revocations),
            ("looks at the target", seen.looks, self.looks.max(1)),
            ("answers of the vault", seen.answers, self.answers.max(1)),
            ("kills", seen.outages, self.kills),
            ("fail-overs", seen.failovers.len(), self.failovers),
        ];
        let few = counted.iter().filter(|(_, seen, least)| seen < least);
        let mut lacks: Vec<String> =
            few.map(|(what, seen, least)| format!("{seen} {what}, and {least} is the least")).collect();
        let stalled = [
            ("look at the target", seen.longest_pause, self.longest_pause),
            ("answer of the vault", seen.longest_silence, self.longest_silence),
        ];
        let long = stalled.iter().filter(|(_, seen, most)| seen > most);
        lacks.extend(long.map(|(what, seen, most)| format!("{seen} ms without a {what}, and {most} ms is the most")));
        lacks
    }
}

impl Report {
    fn count(&self, kind: &str) -> usize {
        self.violations.iter().filter(|v| v.kind == kind).count()
    }

    /// For programs; its keys are stable.
    pub(crate) fn document(&self, lacks: &[String]) -> Value {
        let overrun = |o: &Overrun| json!({ "ms": o.millis, "seen_ms": o.seen, "principal": o.principal, "ended_at": o.ended_at });
        let worst = |o: &Option<Overrun>| o.as_ref().map(overrun);
        let violations = self.violations.iter().map(|v| {
            json!({
                "kind": v.kind, "principal": v.principal, "what": v.what,
                "first_seen": v.first / 1_000, "last_seen": v.last / 1_000,
            })
        });
        json!({
            "verdict": self.verdict(lacks),
            "orphans": self.count("orphan"),
            "survivors": self.count("survivor"),
            "ghosts": self.count("ghost"),
            "early_deaths": self.count("early death"),
            "worst_overrun": { "calm": worst(&self.worst_calm), "failover": worst(&self.worst_failover) },
            "overruns": self.overruns.iter().map(overrun).collect::<Vec<_>>(),
            "violations": violations.collect::<Vec<_>>(),
            "lacks": lacks,
            "leases": self.leases,
            "sessions": self.sessions,
            "expiries": self.expiries,
            "revocations": self.revocations,
            "looks": self.looks,
            "answers": self.answers,
            "unanswered": self.unanswered,
            "longest_pause_ms": self.longest_pause,
            "longest_silence_ms": self.longest_silence,
            "kills": self.outages,
            "failovers": self.failovers,
            "leftovers": self.leftovers,
            "most_leftovers": self.most_leftovers,
        })
    }

    fn verdict(&self, lacks: &[String]) -> &'static str {
        match (self.violations.is_empty(), lacks.is_empty()) {
            (false, _) => "violated",
            (true, false) => "saw too little",
            (true, true) => "clean",
        }
    }

    /// For people.
    pub(crate) fn table(&self, lacks: &[String]) -> String {
        let overrun = |o: &Option<Overrun>| {
            let told = |o: &Overrun| {
                format!("{} ms at most, {} ms seen, of {} after {}", o.millis, o.seen, o.principal, o.ended_at)
            };
            o.as_ref().map_or_else(|| "none".to_owned(), told)
        };
        let mut rows: Vec<(&str, String)> = KINDS.iter().map(|kind| (*kind, self.count(kind).to_string())).collect();
        rows.extend([
            ("worst overrun", overrun(&self.worst_calm)),
            ("worst overrun with a fail-over", overrun(&self.worst_failover)),
            ("leases seen alive", format!("{} with {} sessions", self.leases, self.sessions)),
            ("of them ended", format!("{} by their time, {} by request", self.expiries, self.revocations)),
            ("looks at the target", format!("{}, longest pause {} ms", self.looks, self.longest_pause)),
            (
                "answers of the vault",
                format!("{}, {} not given, longest silence {} ms", self.answers, self.unanswered, self.longest_silence),
            ),
            (
                "members lost",
                format!("{}, {} fail-overs, at {}", self.outages, self.failovers.len(), self.failovers.join(", ")),
            ),
            ("only left to be cleaned up", format!("{} now, {} at most", self.leftovers.len(), self.most_leftovers)),
        ]);
        let mut out = String::new();
        // Writing into a String cannot fail.
        for (what, how_much) in rows {
            let _ = writeln!(out, "{what:<32}{how_much}");
        }
        for v in &self.violations {
            let (kind, at) = (v.kind.to_uppercase(), v.first / 1_000);
            let _ = writeln!(out, "{kind}: {}: {}; first seen at {at}", v.principal, v.what);
        }
        for lack in lacks {
            let _ = writeln!(out, "TOO LITTLE: {lack}");
        }
        let _ = writeln!(out, "{}", self.verdict(lacks));
        out
    }
}
