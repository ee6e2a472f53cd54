//! The Secrets that the vault makes: what they are called, and how they are told from all others.
//!
//! They hold no data. What they are says their `type`, which the API server lets nobody change after they were made
//! (`ValidateSecretUpdate`), so that nobody hides one by editing it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::names::check_name;
use crate::{Binding, EngineError, number_of, valid_name};

/// What the names of leases and marks end with: a name of Kubernetes ends with a letter or a digit, ours may not.
const SUFFIX: &str = "-quorate";
/// What the names of sessions begin with. No lease and no mark has a dot in its name.
const SESSION: &str = "quorate.";

/// What a Secret is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A lease's token is bound to it.
    Lease,
    /// Somebody's mark.
    Claim,
    /// A session of an executor.
    Session,
}

impl Kind {
    /// Its `type`.
    pub(super) fn as_type(self) -> &'static str {
        match self {
            Self::Lease => "quorate/lease",
            Self::Claim => "quorate/claim",
            Self::Session => "quorate/session",
        }
    }
}

/// A Secret, as far as it matters: never its data.
#[derive(Clone, Deserialize)]
pub(super) struct Secret {
    pub(super) metadata: Metadata,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) uid: String,
    /// When somebody removed it, where something holds it back.
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

impl Secret {
    pub(super) fn is(&self, kind: Kind) -> bool {
        self.kind == kind.as_type()
    }

    /// Whether somebody removed it, and something (a finalizer) holds it back.
    pub(super) fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The number that it has: a name that is made anew has another one.
    pub(super) fn number(&self) -> u32 {
        number_of(&self.metadata.uid)
    }

    /// The principal or mark whose Secret this is, if it is one's.
    pub(super) fn principal(&self) -> Option<String> {
        let name = self.metadata.name.strip_suffix(SUFFIX)?.replace('-', "_");
        (secret_name(&name).ok()? == self.metadata.name).then_some(name)
    }
}

/// The name of a principal's or mark's Secret. No two have the same: `-` is in no name of ours, and what is added is the same for all.
///
/// # Errors
/// [`EngineError::Invalid`] for what is no name, and for one that begins with `_`, as none of ours does.
pub(super) fn secret_name(name: &str) -> Result<String, EngineError> {
    check_name(name)?;
    if name.starts_with('_') {
        return Err(EngineError::Invalid {
            field: "name",
            reason: "begins with _, which no name of Kubernetes can say",
        });
    }
    Ok(format!("{}{SUFFIX}", name.replace('_', "-")))
}

/// The name of a session's Secret. That of a target is said in hexadecimal digits: it may have what a name of Kubernetes can't.
pub(super) fn session_name(target: &str, binding: &Binding) -> String {
    let Binding { pid, backend_start_micros: term } = binding;
    format!("{}{term}.{pid:08x}", session_prefix(target))
}

/// The session of this target whose Secret has that name, of whatever term.
pub(super) fn session_of(target: &str, name: &str) -> Option<Binding> {
    let (term, number) = name.strip_prefix(&session_prefix(target))?.split_once('.')?;
    let binding = Binding { pid: i32::from_str_radix(number, 16).ok()?, backend_start_micros: term.parse().ok()? };
    (session_name(target, &binding) == name).then_some(binding)
}

fn session_prefix(target: &str) -> String {
    let digits: String = target.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{SESSION}{digits}.")
}

/// A Secret that is to be made. `of` and `account` are for people.
pub(super) fn secret(kind: Kind, name: &str, target: &str, of: &str, account: Option<&str>) -> Value {
    let mut annotations = json!({ "quorate/target": target, "quorate/name": of });
    if let (Some(account), Some(annotations)) = (account, annotations.as_object_mut()) {
        annotations.insert("quorate/service-account".to_owned(), json!(account));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind.as_type(),
        "immutable": true,
        "metadata": {
            "name": name,
            "labels": { "app.kubernetes.io/managed-by": "quorate" },
            "annotations": annotations,
        },
    })
}

/// Whether this can be the name of a namespace or a service account in a path: a label of RFC 1123, or several with dots
/// between them where `dots` is.
pub(super) fn is_dns(name: &str, dots: bool) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().all(|b| edge(b) || b == b'-')
            && label.bytes().next().is_some_and(edge)
            && label.bytes().next_back().is_some_and(edge)
    };
    let most = if dots { 253 } else { 63 };
    name.len() <= most && if dots { name.split('.').all(label) } else { label(name) }
}

/// Whether all of these can be principals here.
pub(super) fn check_all(principals: &[crate::Principal]) -> Result<(), EngineError> {
    principals.iter().try_for_each(|p| secret_name(&p.name).map(drop))
}

/// Whether this is a name that we look for: one of ours, of this prefix.
pub(super) fn is_ours(name: &str, prefix: &str) -> bool {
    name.starts_with(prefix) && valid_name(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Secret {
        let metadata = Metadata { name: name.to_owned(), uid: "u".to_owned(), deletion_timestamp: None };
        Secret { metadata, kind: Kind::Lease.as_type().to_owned() }
    }

    proptest! {
        /// Reversible, and so injective; and always a name that Kubernetes takes.
        #[test]
        fn a_name_is_had_back(name in "[a-z0-9][a-z0-9_]{0,62}") {
            prop_assume!(valid_name(&name));
            let secret = secret_name(&name).unwrap();
            prop_assert!(is_dns(&secret, true) && !secret.contains('.'), "{}", secret);
            prop_assert_eq!(named(&secret).principal(), Some(name));
        }

        #[test]
        fn a_session_is_had_back(target in "[a-z0-9_-]{1,32}", pid in 0..i32::MAX, term in 0..i64::MAX) {
            let binding = Binding { pid, backend_start_micros: term };
            let name = session_name(&target, &binding);
            prop_assert!(is_dns(&name, true) && name.split('.').all(|label| label.len() <= 64), "{}", name);
            prop_assert_eq!(session_of(&target, &name), Some(binding));
            prop_assert_eq!(session_of(&format!("{target}0"), &name), None);
        }
    }

    #[test]
    fn what_is_no_name_has_no_secret() {
        for bad in ["", "_a", "A", "a-b", "a.b", "pg_a", "a/../b", &"a".repeat(64)] {
            assert!(secret_name(bad).is_err(), "{bad:?}");
        }
        for other in
            ["default-token", "-quorate", "-a-quorate", "A-quorate", "a_b-quorate", "a.b-quorate", "pg-a-quorate"]
        {
            assert_eq!(named(other).principal(), None, "{other:?}");
        }
        for other in ["quorate.74.7", "quorate.74.07.00000001", "quorate.74.7.1", "quorate.75.7.00000001"] {
            assert_eq!(session_of("t", other), None, "{other:?}");
        }
    }

    #[test]
    fn names_of_kubernetes() {
        assert!(is_dns("a", false) && is_dns("a-1", false) && is_dns("a.b-c", true));
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "..", "a b", &"a".repeat(64)] {
            assert!(!is_dns(bad, false), "{bad:?}");
        }
        assert!(!is_dns("a.b", false) && !is_dns("a..b", true) && !is_dns(".", true) && !is_dns("a.-b", true));
    }
}
