//! What clients do meanwhile: they ask through the SDK, as applications would, and note what they were told.

pub(crate) mod apart;
pub(crate) mod lease;
pub(crate) mod policy;
pub(crate) mod register;

use crate::history::Answer;
use quorate_api::status::Failure;

/// What an error of the SDK says about a change, or, if nothing was to be changed, about a question. `jepsen/README.md` settles it.
pub(crate) fn answer(failure: &Failure, changes: bool) -> Answer {
    let code = failure.code.to_owned();
    match failure.code {
        // Nobody lies here: these would be the vault's own faults.
        "bad_answer"
        | "wrong_label"
        | "does_not_open"
        | "not_pinned"
        | "internal"
        | "unknown"
        | "customer_value_wrong"
        | "relay_altered"
        | "custodian_other_key"
        | "malformed_command"
        | "bad_signature"
        | "request_id_reused"
        | "client_setup" => Answer::Wrong { code, message: failure.message.clone() },
        // The outcome of a rule, which the state keeps: the same request would be told the same again. A seal is not acceptable when
        // two begin a path at once: the second has drawn another id for it.
        "check_and_set" | "not_found" | "denied" | "quota" | "exists" | "invalid_argument" | "lease_state"
        | "identity_blocked" | "unacceptable_seal" | "target_refused" | "target_not_enabled" | "lease_failed" => {
            Answer::Refused { code }
        }
        // An earlier try of it may have been proposed, and may be decided still.
        _ if changes => Answer::Unknown { code },
        _ => Answer::Unanswered { code },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::status::TABLE;

    #[test]
    fn what_may_have_happened_is_never_called_refused() {
        let open = ["unknown_outcome", "deadline", "unreachable", "no_leader", "not_enough_members", "overloaded"];
        let more = ["not_endorsed", "stale_authority", "storage_full", "audit_unavailable", "shutting_down", "behind"];
        for code in open.iter().chain(&more) {
            assert!(TABLE.iter().any(|row| row.code == *code), "{code} is a code");
            let failure = Failure::new(code, "what");
            assert!(matches!(answer(&failure, true), Answer::Unknown { .. }), "{code}");
            assert!(matches!(answer(&failure, false), Answer::Unanswered { .. }), "{code}");
        }
        for code in ["check_and_set", "denied", "not_found"] {
            assert!(matches!(answer(&Failure::new(code, "what"), true), Answer::Refused { .. }), "{code}");
        }
        for code in ["bad_answer", "does_not_open", "internal"] {
            assert!(matches!(answer(&Failure::new(code, "what"), true), Answer::Wrong { .. }), "{code}");
        }
    }
}
