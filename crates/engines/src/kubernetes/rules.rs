//! What a role's groups are at a cluster: whose tokens its leases are, and who is to take them.
//!
//! ```text
//! serviceaccount:deployer
//! audience:https://vault.example
//! ```
//!
//! A group is one such rule; a role has exactly one service account, and as many audiences as it likes. Without any, tokens are
//! for the API server itself.
//!
//! # Security
//! There is no rule for what a token may do: that is what the cluster's own roles give to its service account.

use crate::EngineError;

use super::object::is_dns;

/// Why a rule is not acceptable.
pub(super) type Reason = &'static str;

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Account(String),
    Audience(String),
}

/// What all groups of a role say together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A service account of the target's namespace.
    pub(super) account: String,
    /// In their order; none for the API server's own.
    pub(super) audiences: Vec<String>,
}

/// What all groups of a role say together.
///
/// # Errors
/// [`EngineError::Invalid`] for one that is not acceptable, for no service account or two, and for the executor's own.
pub(super) fn wanted(groups: &[String], own: Option<&str>) -> Result<Wanted, EngineError> {
    let invalid = |reason| EngineError::Invalid { field: "groups", reason };
    let (mut account, mut audiences) = (None, Vec::new());
    for group in groups {
        match parse(group, own).map_err(invalid)? {
            Rule::Account(name) => {
                if account.replace(name).is_some() {
                    return Err(invalid("two service accounts: a token is one's"));
                }
            }
            Rule::Audience(audience) if audiences.contains(&audience) => {
                return Err(invalid("the same audience twice"));
            }
            Rule::Audience(audience) => audiences.push(audience),
        }
    }
    let account = account.ok_or_else(|| invalid("no service account (serviceaccount:NAME)"))?;
    Ok(Wanted { account, audiences })
}

/// One group by itself. `own` is the executor's service account, where it is one of the same namespace.
pub(super) fn parse(group: &str, own: Option<&str>) -> Result<Rule, Reason> {
    if group.is_empty() || group.len() > crate::MAX_RULES {
        return Err("not 1 to 512 bytes");
    }
    match group.split_once(':') {
        Some(("serviceaccount", name)) if Some(name) == own => Err("the executor's own service account"),
        Some(("serviceaccount", name)) if is_dns(name, true) => Ok(Rule::Account(name.to_owned())),
        Some(("serviceaccount", _)) => Err("not the name of a service account"),
        Some(("audience", audience)) if !audience.is_empty() && audience.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Rule::Audience(audience.to_owned()))
        }
        Some(("audience", _)) => Err("not an audience: printable ASCII without a space"),
        _ => Err("neither serviceaccount:NAME nor audience:AUDIENCE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(groups: &[&str]) -> Result<Wanted, EngineError> {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        wanted(&groups, Some("executor"))
    }

    #[test]
    fn a_role_is_one_account_and_its_audiences() {
        let text = str::to_owned;
        let understood = all(&["audience:https://a.example", "serviceaccount:app.one", "audience:b:c"]).unwrap();
        let audiences = vec![text("https://a.example"), text("b:c")];
        assert_eq!(understood, Wanted { account: text("app.one"), audiences });
        assert_eq!(all(&["serviceaccount:app"]).unwrap().audiences, Vec::<String>::new());
        for bad in [&[][..], &["audience:a"], &["serviceaccount:a", "serviceaccount:b"], &["serviceaccount:a"; 2]] {
            assert!(all(bad).is_err(), "{bad:?}");
        }
        assert!(all(&["serviceaccount:a", "audience:x", "audience:x"]).is_err());
    }

    #[test]
    fn what_is_no_such_rule_is_refused() {
        let long = format!("audience:{}", "a".repeat(504));
        for bad in [
            "",
            "app",
            "serviceaccount",
            "serviceaccount:",
            "serviceaccount:executor",
            "serviceaccount:kube-system/admin",
            "serviceaccount:../../secrets",
            "serviceaccount:a/token?dryRun=All",
            "serviceaccount:A",
            "serviceaccount: a",
            "ServiceAccount:a",
            "serviceaccount:a\"}",
            "serviceaccount:a\n",
            "audience:",
            "audience:a b",
            "audience:a\0",
            "audience:\u{e4}",
            "expiration:100000",
            &long,
        ] {
            assert!(parse(bad, Some("executor")).is_err(), "{bad:?}");
            assert!(matches!(all(&["serviceaccount:a", bad]), Err(EngineError::Invalid { field: "groups", .. })));
        }
        assert!(parse("serviceaccount:executor", None).is_ok(), "somebody's in another namespace");
    }
}
