//! What a role's groups are at AWS: what is made for each lease, and what it may do, of which only these shapes are let through.
//!
//! ```text
//! group:readers                                      policy:arn:aws:iam::123456789012:policy/app
//! boundary:arn:aws:iam::123456789012:policy/edge     tag:team=billing
//!
//! assume:arn:aws:iam::123456789012:role/app          deny
//! inline:{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}
//!
//! federate
//! ```
//!
//! A role without `assume` and `federate` has an IAM user made for each lease; with one of them, a session of STS. One kind per role.
//!
//! # Security
//! Managed policies that give power over the account or over IAM are refused by their names. What a policy of the customer's own says is not
//! read: whoever may describe a role gives what its policies give.

use serde_json::{Map, Value, json};

use crate::EngineError;

/// Why a rule is not acceptable.
pub(super) type Reason = &'static str;

/// The most managed policies of a user (by default) and of a session.
const MAX_POLICIES: usize = 10;
/// The most groups that a user is in.
const MAX_GROUPS: usize = 10;
/// The most tags besides our own.
const MAX_TAGS: usize = 40;
/// The longest policy of a session, in characters.
const MAX_INLINE: usize = 2_048;
/// Names of managed policies with which a login would get at the executor itself. Longer ones that go on with `-` too.
const POWERFUL: [&str; 2] = ["AdministratorAccess", "IAMFullAccess"];
/// What the tags of ours begin with.
pub(super) const TAG: &str = "quorate-";

/// One group.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Group(String),
    Policy(String),
    Boundary(String),
    Tag(String, String),
    Assume(Role),
    Federate,
    Deny,
    Inline(Value),
}

/// A role of IAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) arn: String,
    /// The account that it is in, in 12 digits.
    pub(super) account: String,
    /// The last part of its name.
    pub(super) name: String,
}

/// What is made for a lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rights {
    pub(super) kind: Kind,
    /// The ARNs of managed policies: attached to a user, or what a session is narrowed to.
    pub(super) policies: Vec<String>,
    pub(super) tags: Vec<(String, String)>,
}

/// Its kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    User { groups: Vec<String>, boundary: Option<String> },
    Session(Session),
}

/// What kind of session, and what it is narrowed to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    /// `None` is a federated user: what the executor itself may do, narrowed.
    pub(super) role: Option<Role>,
    /// The executor may write inline policies of the role, and so cut a session off.
    pub(super) deny: bool,
    /// A policy, in JSON.
    pub(super) inline: Option<String>,
}

/// What all groups of a role say together.
///
/// # Errors
/// [`EngineError::Invalid`] for one that is not acceptable, for two kinds in one, and for more than the services take.
pub(super) fn rights(groups: &[String]) -> Result<Rights, EngineError> {
    let invalid = |reason| EngineError::Invalid { field: "groups", reason };
    let rules: Vec<Rule> = groups.iter().map(|group| parse(group)).collect::<Result<_, _>>().map_err(invalid)?;
    collect(rules).map_err(invalid)
}

fn collect(rules: Vec<Rule>) -> Result<Rights, Reason> {
    let (mut policies, mut tags, mut in_groups, mut statements) = (vec![], vec![], vec![], vec![]);
    let (mut boundary, mut role, mut federate, mut deny) = (None, None, false, false);
    for rule in rules {
        match rule {
            Rule::Group(name) if in_groups.contains(&name) => return Err("the same group twice"),
            Rule::Group(name) => in_groups.push(name),
            Rule::Policy(arn) if policies.contains(&arn) => return Err("the same policy twice"),
            Rule::Policy(arn) => policies.push(arn),
            Rule::Tag(key, _) if tags.iter().any(|(other, _)| *other == key) => return Err("two tags of the same key"),
            Rule::Tag(key, value) => tags.push((key, value)),
            Rule::Boundary(_) if boundary.is_some() => return Err("two boundaries"),
            Rule::Boundary(arn) => boundary = Some(arn),
            Rule::Assume(_) if role.is_some() => return Err("two roles: a session is of one"),
            Rule::Assume(arn) => role = Some(arn),
            Rule::Inline(statement) => statements.push(statement),
            Rule::Federate => federate = true,
            Rule::Deny => deny = true,
        }
    }
    if policies.len() > MAX_POLICIES || in_groups.len() > MAX_GROUPS || tags.len() > MAX_TAGS {
        return Err("more than 10 policies, 10 groups or 40 tags");
    }
    if role.is_none() && !federate {
        if deny || !statements.is_empty() {
            return Err("`deny` and `inline` are of sessions: there is no `assume` or `federate`");
        }
        return Ok(Rights { kind: Kind::User { groups: in_groups, boundary }, policies, tags });
    }
    if role.is_some() && federate {
        return Err("two kinds: `assume` and `federate`");
    }
    if !in_groups.is_empty() || boundary.is_some() {
        return Err("two kinds: `group` and `boundary` are of users, `assume` and `federate` of sessions");
    }
    if deny && federate {
        return Err("`deny` is of roles: a federated user has none");
    }
    if federate && policies.is_empty() && statements.is_empty() {
        return Err("a federated user without a policy may do nothing");
    }
    let inline =
        (!statements.is_empty()).then(|| json!({ "Version": "2012-10-17", "Statement": statements }).to_string());
    if inline.as_ref().is_some_and(|policy| policy.len() > MAX_INLINE) {
        return Err("all `inline` together are longer than 2048 characters as one policy");
    }
    Ok(Rights { kind: Kind::Session(Session { role, deny, inline }), policies, tags })
}

/// The boundary that a group says, if it does.
pub(super) fn boundary(group: &str) -> Option<String> {
    match parse(group).ok()? {
        Rule::Boundary(arn) => Some(arn),
        _ => None,
    }
}

/// What has to be there for one group to be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Group(String),
    Policy(String),
    Role(Role),
}

/// Whether one group is acceptable by itself, and of what it speaks.
pub(super) fn needs(group: &str) -> Result<Needs, Reason> {
    Ok(match parse(group)? {
        Rule::Group(name) => Needs::Group(name),
        Rule::Policy(arn) | Rule::Boundary(arn) => Needs::Policy(arn),
        Rule::Assume(role) => Needs::Role(role),
        Rule::Tag(..) | Rule::Federate | Rule::Deny | Rule::Inline(_) => Needs::Nothing,
    })
}

const SHAPES: Reason = "not `group:NAME`, `policy:ARN`, `boundary:ARN`, `tag:KEY=VALUE`, `assume:ARN`, `federate`, `deny` or `inline:STATEMENT`";

fn parse(text: &str) -> Result<Rule, Reason> {
    if text.is_empty() || text.len() > crate::MAX_RULES {
        return Err("not 1 to 512 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err("a rule has printable ASCII characters only");
    }
    match text.split_once(':') {
        None if text == "federate" => Ok(Rule::Federate),
        None if text == "deny" => Ok(Rule::Deny),
        Some(("group", name)) => Ok(Rule::Group(named(name)?)),
        Some(("policy", arn)) => Ok(Rule::Policy(policy(arn)?)),
        Some(("boundary", arn)) => Ok(Rule::Boundary(policy(arn)?)),
        Some(("assume", arn)) => Ok(Rule::Assume(role(arn)?)),
        Some(("tag", tag)) => {
            let (key, value) = tag.split_once('=').ok_or("a tag is not `KEY=VALUE`")?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || b" _.:/+-@".contains(&b);
            let reserved = [TAG, "aws:"].iter().any(|start| key.to_ascii_lowercase().starts_with(start));
            if reserved
                || !(1..=128).contains(&key.len())
                || value.len() > 256
                || !tag.replacen('=', "", 1).bytes().all(plain)
            {
                return Err(
                    "a tag has a key of 1 to 128, a value of at most 256 letters, digits, spaces and _.:/+-@, and a key of its own",
                );
            }
            Ok(Rule::Tag(key.to_owned(), value.to_owned()))
        }
        Some(("inline", statement)) => inline(statement).map(Rule::Inline),
        _ => Err(SHAPES),
    }
}

/// One statement of a policy. What it allows is not read: a session has no more than its role.
fn inline(text: &str) -> Result<Value, Reason> {
    const KNOWN: [&str; 7] = ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"];
    let statement: Map<String, Value> = serde_json::from_str(text).map_err(|_| "a statement is not one JSON object")?;
    let has = |names: &[&str]| names.iter().any(|name| statement.contains_key(*name));
    if statement.keys().any(|key| !KNOWN.contains(&key.as_str()))
        || !has(&["Effect"])
        || !has(&["Action", "NotAction"])
        || !has(&["Resource", "NotResource"])
    {
        return Err("a statement has Effect, Action and Resource, and nothing else but Sid and Condition");
    }
    Ok(Value::Object(statement))
}

/// The name of a group or role.
fn named(name: &str) -> Result<String, Reason> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if (1..=128).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name.to_owned());
    }
    Err("a name has 1 to 128 letters, digits and +=,.@_-")
}

/// The account, and what comes after it, of an ARN of IAM.
fn arn(text: &str) -> Result<(&str, &str), Reason> {
    const NONE: Reason = "not an ARN of IAM";
    let mut parts = text.splitn(6, ':');
    let mut next = || parts.next().ok_or(NONE);
    let (start, partition, service, region, account, resource) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&b);
    let partition = partition.starts_with("aws") && partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    if start == "arn" && partition && service == "iam" && region.is_empty() && resource.bytes().all(plain) {
        return Ok((account, resource));
    }
    Err(NONE)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

fn policy(text: &str) -> Result<String, Reason> {
    let (account, resource) = arn(text)?;
    let name = resource.strip_prefix("policy/").filter(|_| account == "aws" || is_account(account));
    let last = name.ok_or("not the ARN of a managed policy")?.rsplit('/').next().unwrap_or_default();
    named(last)?;
    if gives_power(last) {
        return Err("a policy that gives power over the account, or over the executor");
    }
    Ok(text.to_owned())
}

/// Whether a managed policy of that name gives power over IAM, and so over the executor.
pub(super) fn gives_power(name: &str) -> bool {
    POWERFUL.iter().any(|power| name.strip_prefix(power).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
}

fn role(text: &str) -> Result<Role, Reason> {
    let (account, resource) = arn(text)?;
    let name = resource.strip_prefix("role/").filter(|_| is_account(account)).ok_or("not the ARN of a role")?;
    let name = named(name.rsplit('/').next().unwrap_or_default())?;
    Ok(Role { arn: text.to_owned(), account: account.to_owned(), name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "assume:arn:aws:iam::123456789012:role/a/app";
    const POLICY: &str = "policy:arn:aws:iam::aws:policy/ReadOnlyAccess";
    const INLINE: &str = r#"inline:{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}"#;

    fn all(groups: &[&str]) -> Result<Rights, EngineError> {
        rights(&groups.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn each_kind_is_understood() {
        let boundary = "boundary:arn:aws-us-gov:iam::123456789012:policy/x/edge";
        let user = all(&["group:readers", POLICY, boundary, "tag:team=a b/c"]).unwrap();
        let kind = Kind::User { groups: vec!["readers".into()], boundary: Some(boundary[9..].into()) };
        let (policies, tags) = (vec![POLICY[7..].to_owned()], vec![("team".into(), "a b/c".into())]);
        assert_eq!(user, Rights { kind, policies: policies.clone(), tags });
        assert_eq!(all(&[]).unwrap().kind, Kind::User { groups: vec![], boundary: None });
        let session = all(&[ROLE, "deny", INLINE, POLICY]).unwrap();
        let Kind::Session(Session { role: Some(role), deny: true, inline: Some(inline) }) = session.kind else {
            panic!()
        };
        assert_eq!((role.account.as_str(), role.name.as_str(), role.arn.as_str()), ("123456789012", "app", &ROLE[7..]));
        assert_eq!(session.policies, policies);
        let policy: Value = serde_json::from_str(&inline).unwrap();
        assert_eq!(policy["Statement"][0]["Action"], "s3:GetObject");
        let federated = all(&["federate", INLINE, INLINE]).unwrap();
        assert!(matches!(federated.kind, Kind::Session(Session { role: None, deny: false, inline: Some(_) })));
        assert_eq!(needs(ROLE), Ok(Needs::Role(role)));
        assert_eq!((super::boundary(boundary), super::boundary(POLICY)), (Some(boundary[9..].into()), None));
        assert_eq!(needs("group:a"), Ok(Needs::Group("a".into())));
        assert_eq!((needs(boundary), needs("deny")), (Ok(Needs::Policy(boundary[9..].into())), Ok(Needs::Nothing)));
    }

    #[test]
    fn what_is_no_such_rule_is_refused() {
        let long = format!("group:{}", "a".repeat(507));
        for bad in [
            "",
            " ",
            "readers",
            "Group:a",
            "group:",
            "group:a b",
            "group:a&Action=DeleteUser",
            "group:\u{e4}",
            "group:a\n",
            "policy:",
            "policy:AdministratorAccess",
            "policy:arn:aws:iam::aws:policy/AdministratorAccess",
            "policy:arn:aws:iam::aws:policy/AdministratorAccess-Amplify",
            "policy:arn:aws:iam::aws:policy/job-function/AdministratorAccess",
            "policy:arn:aws:iam::123456789012:policy/IAMFullAccess",
            "boundary:arn:aws:iam::aws:policy/IAMFullAccess",
            "policy:arn:aws:iam::12345678901:policy/a",
            "policy:arn:aws:iam::123456789012:role/a",
            "policy:arn:aws:s3:::policy/a",
            "policy:arn:aws:iam:us-east-1:123456789012:policy/a",
            "policy:arn:aws:iam::123456789012:policy/",
            "policy:arn:aws:iam::123456789012:policy/a*",
            "policy: arn:aws:iam::123456789012:policy/a",
            "assume:arn:aws:iam::aws:role/a",
            "assume:arn:aws:iam::123456789012:user/a",
            "assume:arn:aws:sts::123456789012:assumed-role/a/b",
            "federate:",
            "deny ",
            "deny:all",
            "inline:",
            "inline:[]",
            "inline:{}",
            r#"inline:{"Effect":"Allow","Action":"*"}"#,
            r#"inline:{"Effect":"Allow","Action":"*","Resource":"*","Principal":"*"}"#,
            r#"inline:{"Effect":"Allow","Action":"*","Resource":"*"} {}"#,
            "tag:a",
            "tag:=b",
            "tag:aws:a=b",
            "tag:Quorate-target=b",
            "tag:a=b&c",
            "tag:a=b=c",
            &long,
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
            assert!(matches!(all(&[bad]), Err(EngineError::Invalid { field: "groups", .. })), "{bad:?}");
        }
        assert!(parse("policy:arn:aws:iam::123456789012:policy/NotAdministratorAccess").is_ok());
    }

    #[test]
    fn a_role_is_of_one_kind_and_says_nothing_twice() {
        let other = ROLE.replace("app", "other");
        for bad in [
            &[ROLE, "federate"][..],
            &[ROLE, &other],
            &[ROLE, "group:a"],
            &[ROLE, "boundary:arn:aws:iam::123456789012:policy/a"],
            &["federate"],
            &["federate", "deny", POLICY],
            &["deny"],
            &[INLINE],
            &["group:a", "group:a"],
            &[POLICY, POLICY],
            &["tag:a=1", "tag:a=2"],
            &["boundary:arn:aws:iam::123456789012:policy/a", "boundary:arn:aws:iam::123456789012:policy/b"],
        ] {
            assert!(all(bad).is_err(), "{bad:?}");
        }
        let statement = format!(r#"inline:{{"Effect":"Allow","Action":"s3:*","Resource":"{}"}}"#, "r".repeat(430));
        assert!(all(&[ROLE, &statement, &statement]).is_ok());
        assert!(all(&[ROLE, &statement, &statement, &statement, &statement, &statement]).is_err(), "2048 characters");
        let many: Vec<String> = (0..11).map(|n| format!("group:g{n}")).collect();
        assert!(rights(&many).is_err() && rights(&many[1..]).is_ok());
    }
}
