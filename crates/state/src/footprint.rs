//! What a log entry can change in the answer to a question about a secret.
//!
//! A member that answers from its own state waits until everything is applied that its own log held when it was asked and
//! that could change the answer. What can change no answer, or only other answers, need not be waited for: an entry that
//! cannot be committed just now holds up only the questions that it is about.
//!
//! Whoever adds an operation decides here. In doubt it is [`Footprint::Everything`]: that costs a wait and is never wrong.

use crate::change::Change;
use crate::command::Command;
use quorate_crypto::encoding::hash;

/// What an entry can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Footprint {
    /// No answer about any secret.
    Nothing,
    /// Answers about one secret, as [`secret`] numbers it.
    Secret(u64),
    /// Any answer: who may do what, with which keys, and whatever is not known.
    Everything,
}

/// What the log entry with these bytes can change. An entry of a format that this program does not know can change anything.
#[must_use]
pub fn of_entry(entry: &[u8]) -> Footprint {
    Command::decode(entry).map_or(Footprint::Everything, |command| of_command(&command))
}

/// The number of a secret: 64 bits of a hash. Two secrets with one number cost a wait, never a wrong answer.
#[must_use]
pub fn secret(namespace: &str, path: &str) -> u64 {
    let digest = hash("footprint", &[namespace.as_bytes(), path.as_bytes()]);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn of_command(command: &Command) -> Footprint {
    match command {
        Command::Endorsed { request, .. } => {
            request.request().map_or(Footprint::Everything, |request| of_change(&request.change))
        }
        // Steps of a lease that take nothing from anybody; and who is waited for before a change is called effective.
        Command::Executor { .. }
        | Command::CountOn { .. }
        | Command::LeaseActive { .. }
        | Command::LeaseFailed { .. }
        | Command::Remain { .. }
        | Command::Cleared { .. }
        | Command::Returned { .. } => Footprint::Nothing,
        // Time, ends of leases and keyrings.
        Command::Tick { .. }
        | Command::Expire { .. }
        | Command::LeaseRevoked { .. }
        | Command::Adopt { .. }
        | Command::Sweep { .. }
        | Command::Quarantine { .. }
        | Command::TargetProved { .. }
        | Command::RotatePassword { .. }
        | Command::PasswordRotated { .. }
        | Command::Ceremony { .. } => Footprint::Everything,
    }
}

fn of_change(change: &Change) -> Footprint {
    match change {
        Change::PutSecret { namespace, path, .. }
        | Change::DeleteSecret { namespace, path, .. }
        | Change::UndeleteSecret { namespace, path, .. }
        | Change::DestroySecret { namespace, path, .. } => Footprint::Secret(secret(namespace, path)),
        Change::IssueLease { .. } | Change::RenewLease { .. } => Footprint::Nothing,
        Change::CreateNamespace { .. }
        | Change::CreateMount { .. }
        | Change::RegisterCustomerKey { .. }
        | Change::PutPolicy { .. }
        | Change::DeletePolicy { .. }
        | Change::BlockIdentity { .. }
        | Change::UnblockIdentity { .. }
        | Change::BeginKeyGeneration { .. }
        | Change::PutTarget { .. }
        | Change::PutRole { .. }
        | Change::DeleteRole { .. }
        | Change::ProveTarget { .. }
        | Change::DeleteTarget { .. }
        | Change::SetQuota { .. }
        | Change::TakeOver { .. }
        | Change::ReplacePassword { .. }
        | Change::ReviseTarget { .. }
        | Change::RevokeLease { .. }
        | Change::RevokeLeases { .. }
        | Change::SetClientRoots { .. }
        | Change::ResetClock { .. }
        | Change::RecordMember { .. } => Footprint::Everything,
    }
}
