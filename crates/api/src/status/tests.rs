use super::*;
use std::collections::BTreeSet;

/// One of each. The match makes a new refusal fail to compile until it stands here.
fn refusals() -> Vec<Refusal> {
    use Refusal as R;
    let text = String::new;
    let all = vec![
        R::Malformed,
        R::WrongCluster,
        R::BadSignature,
        R::NotEndorsed { got: 1, needed: 2 },
        R::NotByAdministrators { got: 1, needed: 2 },
        R::Stale { current: 3 },
        R::TooLate { not_after: 1, now: 2 },
        R::TooFar { limit: 1 },
        R::RequestIdReused,
        R::CheckAndSet { current: 4 },
        R::NotFound { what: text() },
        R::Exists { what: text() },
        R::Invalid { field: text(), why: text() },
        R::Unacceptable { why: text() },
        R::LeaseState { state: text() },
        R::Quota { what: text(), limit: 5 },
        R::Blocked,
        R::Unjustified,
        R::Ceremony { why: text() },
        R::ExpiryPaused { until: 6 },
        R::TargetStanding { standing: text() },
        R::Quarantined { counter: 7 },
    ];
    for refusal in &all {
        match refusal {
            R::Malformed
            | R::WrongCluster
            | R::BadSignature
            | R::NotEndorsed { .. }
            | R::NotByAdministrators { .. }
            | R::Stale { .. }
            | R::TooLate { .. }
            | R::TooFar { .. }
            | R::RequestIdReused
            | R::CheckAndSet { .. }
            | R::NotFound { .. }
            | R::Exists { .. }
            | R::Invalid { .. }
            | R::Unacceptable { .. }
            | R::LeaseState { .. }
            | R::Quota { .. }
            | R::Blocked
            | R::Unjustified
            | R::Ceremony { .. }
            | R::ExpiryPaused { .. }
            | R::TargetStanding { .. }
            | R::Quarantined { .. } => {}
        }
    }
    all
}

#[test]
fn every_refusal_has_its_own_row() {
    let codes: BTreeSet<_> = refusals().iter().map(Refusal::code).collect();
    assert_eq!(codes.len(), refusals().len());
    for refusal in refusals() {
        let code = refusal.code();
        assert!(TABLE.iter().any(|row| row.code == code), "{code}");
        // What consumed its request id gives the same answer for ever.
        assert!(refusal.consumes_nothing() || row(code).retry == Retry::No || code == EXPIRY_PAUSED, "{code}");
    }
}

#[test]
fn codes_are_distinct() {
    let codes: BTreeSet<_> = TABLE.iter().map(|row| row.code).collect();
    assert_eq!(codes.len(), TABLE.len());
}

#[test]
fn failures_survive_the_wire() {
    for row in TABLE {
        let sent = Failure::new(row.code, "something about db/password");
        assert_eq!(Failure::from(Status::from(sent.clone())), sent);
        assert_eq!(Status::from(sent).code(), row.grpc);
    }
    let sent = Failure::new("unauthenticated_expired", "the certificate has ended");
    let got = Failure::from(Status::from(sent.clone()));
    assert_eq!((got.code, Status::from(sent).code()), (UNAUTHENTICATED, Code::Unauthenticated));
}

#[test]
fn statuses_without_a_code_are_told_apart() {
    assert_eq!(Failure::from(Status::unavailable("gone")).code, UNREACHABLE);
    assert_eq!(Failure::from(Status::deadline_exceeded("late")).code, DEADLINE);
    assert_eq!(Failure::from(Status::internal("?")).code, UNKNOWN);
    let mut newer = Status::aborted("x");
    newer.metadata_mut().insert(TRAILER, MetadataValue::from_static("of_a_later_release"));
    assert_eq!(Failure::from(newer).code, UNKNOWN);
}

#[test]
fn long_messages_are_cut_between_characters() {
    let status = Status::from(Failure::new(INTERNAL, "ü".repeat(2000)));
    assert!(status.message().len() <= MAX_MESSAGE && status.message().starts_with('ü'));
}

/// `docs/errors.md` is this table, row for row: a change of either is a change of both.
#[test]
fn the_index_for_people_is_this_table() {
    let index = include_str!("../../../../docs/errors.md");
    let written: Vec<&str> = index.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = TABLE
        .iter()
        .map(|r| {
            let again = match r.retry {
                Retry::No => "no",
                Retry::Later => "later",
                Retry::Elsewhere => "elsewhere",
            };
            format!("| `{}` | {:?} | {again} | {} | {} |", r.code, r.grpc, r.meaning, r.advice)
        })
        .collect();
    assert_eq!(written, expected, "\n{}\n", expected.join("\n"));
}

/// A handshake that takes too long has no gRPC code of its own, and is worth another try.
#[test]
fn what_the_transport_says_is_no_members_answer() {
    let transport = std::io::Error::new(std::io::ErrorKind::TimedOut, "deadline has elapsed");
    let failure = Failure::from(Status::from_error(Box::new(transport)));
    assert_eq!((failure.code, failure.retry), (UNREACHABLE, Retry::Elsewhere));
    assert_eq!(Failure::from(Status::unknown("of a newer member")).code, UNKNOWN);
}
