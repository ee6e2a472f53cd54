//! How a command ends when it does not succeed: what is printed, and the exit code.

use quorate_api::status::{Failure, TABLE};
use quorate_server::RunError;
use std::fmt::Write as _;
use std::process::ExitCode;

/// An end with words of its own. Everything else that goes wrong is `error[failed]` with the chain of its causes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Refused, or not possible, for a reason with a stable code.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: &'static str,
        /// What happened.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Refused, and to try the same again could only make it worse.
    #[error("{message}")]
    NotAgain {
        /// For programs.
        code: &'static str,
        /// What happened.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// A configuration that cannot be used: names file and key.
    #[error("{0}")]
    Configuration(String),
    /// A custodian that had to end.
    #[error("{0}")]
    Fatal(String),
    /// A program that was run has ended with this status, and has said itself why.
    #[error("the program ended with status {0}")]
    Ended(u8),
    /// A node that had to end.
    #[error("{0}")]
    Node(#[from] RunError),
}

impl Stop {
    /// [`Stop::Refused`].
    pub(crate) fn refused(code: &'static str, message: impl ToString, hint: impl ToString) -> anyhow::Error {
        Self::Refused { code, message: message.to_string(), hint: hint.to_string() }.into()
    }

    /// [`Stop::Configuration`].
    pub(crate) fn configuration(message: impl ToString) -> anyhow::Error {
        Self::Configuration(message.to_string()).into()
    }
}

/// What a person, or with `--output json` a program, is told on standard error.
pub(crate) struct Told {
    code: String,
    message: String,
    hint: String,
    exit: u8,
}

impl Told {
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let told = |code: &str, message: String, hint: &str, exit| Self {
            code: code.to_owned(),
            message,
            hint: hint.to_owned(),
            exit,
        };
        if let Some(failure) = error.downcast_ref::<Failure>() {
            let advice = TABLE.iter().find(|row| row.code == failure.code).map_or("", |row| row.advice);
            // The advice stands at the end of the message; here it gets a line of its own.
            let what = failure.message.strip_suffix(advice).and_then(|m| m.strip_suffix("; "));
            return told(failure.code, what.unwrap_or(&failure.message).to_owned(), advice, 1);
        }
        match error.downcast_ref::<Stop>() {
            Some(Stop::Refused { code, message, hint }) => told(code, message.clone(), hint, 1),
            Some(Stop::NotAgain { code, message, hint }) => told(code, message.clone(), hint, 77),
            Some(Stop::Configuration(message)) => told("configuration", message.clone(), "", 64),
            Some(Stop::Node(why)) => {
                let ending = why.ending();
                told(ending.code, why.to_string(), ending.hint, ending.exit)
            }
            Some(Stop::Ended(status)) => told("", String::new(), "", *status),
            Some(Stop::Fatal(message)) => told("fatal", message.clone(), "", 70),
            None => told("failed", format!("{error:#}"), "", 1),
        }
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_silent(&self) -> bool {
        self.code.is_empty()
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("error[{}]: {}\n", self.code, self.message);
        if !self.hint.is_empty() {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "  hint: {}", self.hint);
        }
        text
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "error": { "code": self.code, "message": self.message, "hint": self.hint } })
    }

    pub(crate) fn exit(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::status::DENIED;

    #[test]
    fn a_failure_keeps_its_code_and_its_advice_stands_apart() {
        let told = Told::of(&Failure::new(DENIED, "put default:app/x").into());
        let text = told.text();
        assert!(text.starts_with("error[denied]: put default:app/x\n  hint: ask the administrators"), "{text}");
        assert_eq!(told.exit, 1);
    }

    #[test]
    fn exit_codes() {
        assert_eq!(Told::of(&Stop::configuration("x")).exit, 64);
        assert_eq!(Told::of(&Stop::Fatal("x".to_owned()).into()).exit, 70);
        let gone = RunError::NoGenesis { path: "g".into(), source: std::io::ErrorKind::NotFound.into() };
        let told = Told::of(&Stop::Node(gone).into());
        assert_eq!((told.code.as_str(), told.exit), ("configuration", 64), "what no second start changes");
        let source = std::io::Error::from_raw_os_error(5);
        let eio = RunError::AuditFailed { path: "audit-1".into(), call: "synced", source };
        let told = Told::of(&Stop::Node(eio).into());
        assert_eq!((told.code.as_str(), told.exit), ("device_failed", 74));
        assert_eq!(Told::of(&Stop::refused("a", "b", "c")).exit, 1);
        let told = Told::of(&Stop::NotAgain { code: "pin_wrong", message: "b".to_owned(), hint: "c" }.into());
        assert_eq!((told.code.as_str(), told.exit), ("pin_wrong", 77), "what a service manager must not do again");
        let told = Told::of(&anyhow::anyhow!("inner").context("outer"));
        assert_eq!((told.exit, told.text().as_str()), (1, "error[failed]: outer: inner\n"));
    }
}
