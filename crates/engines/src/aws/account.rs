//! What there is of ours in an account, all of it IAM users, told apart by their paths:
//!
//! | path | |
//! |---|---|
//! | `/quorate/TARGET/user/` | a principal, with a key |
//! | `/quorate/TARGET/session/UNTIL/`, and `.../UNTIL/ROLE/` | what a session of STS is known by, which has no list of them; with the role whose inline policies we may write |
//! | `/quorate/TARGET/fence/UNTIL/` | a name that is taken, so that no create can have it |
//! | `/quorate/TARGET/claim/` | a claim |
//!
//! `UNTIL` is in seconds since 1970. Only the first of them ever has a key or a right. A user of another path is somebody else's, whatever its name.

use serde_json::{Value, json};

use crate::number_of;

/// The name of the inline policy by which a user is cut off; of a role, what its name begins with.
pub(super) const ENDED: &str = "quorate-ended";
/// What its statement's identifier begins with: when it was written follows, in seconds since 1970.
const SID: &str = "EndedAt";
/// A number below this is that of a user; one from here on is when a session ends, in seconds since 1970.
pub(super) const INSTANTS: u32 = 1_000_000_000;

/// What a user of ours is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    User,
    Session { until: u64, role: Option<String> },
    Fence { until: u64 },
    Claim,
}

impl Mark {
    /// Its path at a target.
    pub(super) fn path(&self, target: &str) -> String {
        let base = base(target);
        match self {
            Self::User => format!("{base}user/"),
            Self::Session { until, role: None } => format!("{base}session/{until}/"),
            Self::Session { until, role: Some(role) } => format!("{base}session/{until}/{role}/"),
            Self::Fence { until } => format!("{base}fence/{until}/"),
            Self::Claim => format!("{base}claim/"),
        }
    }

    /// What has this path; `None` for somebody else's.
    pub(super) fn of(path: &str, target: &str) -> Option<Self> {
        let rest = path.strip_prefix(&base(target))?.strip_suffix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        let mark = match parts.as_slice() {
            ["user"] => Self::User,
            ["claim"] => Self::Claim,
            ["fence", until] => Self::Fence { until: until.parse().ok()? },
            ["session", until] => Self::Session { until: until.parse().ok()?, role: None },
            ["session", until, role] if !role.is_empty() => {
                Self::Session { until: until.parse().ok()?, role: Some((*role).to_owned()) }
            }
            _ => return None,
        };
        (mark.path(target) == path).then_some(mark)
    }

    /// The number of a principal that is this.
    pub(super) fn number(&self, name: &str) -> u32 {
        match self {
            Self::Session { until, .. } => instant(*until),
            Self::User | Self::Claim | Self::Fence { .. } => number(name),
        }
    }
}

/// What all paths of ours at a target begin with.
pub(super) fn base(target: &str) -> String {
    format!("/quorate/{target}/")
}

/// The number of a user: of its name, and never an instant of our days.
pub(super) fn number(name: &str) -> u32 {
    (number_of(name) % INSTANTS).max(1)
}

/// The number of a session: when it ends.
pub(super) fn instant(until: u64) -> u32 {
    u32::try_from(until).unwrap_or(u32::MAX).max(INSTANTS)
}

/// The inline policy that cuts a user off, whatever else it was given: an explicit denial wins.
pub(super) fn cut_user(now: u64) -> Value {
    json!({ "Version": "2012-10-17", "Statement": [
        { "Sid": format!("{SID}{now}"), "Effect": "Deny", "Action": "*", "Resource": "*" }
    ] })
}

/// The inline policy of a role that cuts off the sessions of a name, and no others.
pub(super) fn cut_session(now: u64, name: &str) -> Value {
    json!({ "Version": "2012-10-17", "Statement": [
        { "Sid": format!("{SID}{now}"), "Effect": "Deny", "Action": "*", "Resource": "*",
          "Condition": { "StringLike": { "aws:userid": format!("*:{name}") } } }
    ] })
}

/// When a policy was written, if it is exactly what `cut` makes.
pub(super) fn cut_at(document: &str, cut: impl Fn(u64) -> Value) -> Option<u64> {
    // As the services have it: percent-encoded (RFC 3986).
    let document = percent_encoding::percent_decode_str(document).decode_utf8().ok()?;
    let document: Value = serde_json::from_str(&document).ok()?;
    let at = document.pointer("/Statement/0/Sid")?.as_str()?.strip_prefix(SID)?.parse().ok()?;
    (document == cut(at)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_a_user_is() {
        for (mark, path) in [
            (Mark::User, "/quorate/t1/user/"),
            (Mark::Claim, "/quorate/t1/claim/"),
            (Mark::Fence { until: 1_800_000_000 }, "/quorate/t1/fence/1800000000/"),
            (Mark::Session { until: 7, role: None }, "/quorate/t1/session/7/"),
            (Mark::Session { until: 7, role: Some("a+b@c".into()) }, "/quorate/t1/session/7/a+b@c/"),
        ] {
            assert_eq!(mark.path("t1"), path);
            assert_eq!(Mark::of(path, "t1"), Some(mark));
            assert_eq!(Mark::of(path, "t"), None, "another target's");
        }
        for bad in [
            "/",
            "/quorate/t1/",
            "/quorate/t1/user",
            "/quorate/t1/user/x/",
            "/quorate/t1/fence/",
            "/quorate/t1/fence/07/",
            "/quorate/t1/fence/+7/",
            "/quorate/t1/session/x/",
            "/quorate/t1/session/7//",
            "/quorate/t1/session/7/a/b/",
            "/a/quorate/t1/user/",
        ] {
            assert_eq!(Mark::of(bad, "t1"), None, "{bad}");
        }
    }

    #[test]
    fn the_number_of_a_user_is_no_instant() {
        for name in ["q_1", "q_2", "abc", ""] {
            assert!((1..INSTANTS).contains(&number(name)));
        }
        assert_eq!((instant(1_900_000_000), instant(u64::MAX), instant(5)), (1_900_000_000, u32::MAX, INSTANTS));
    }

    #[test]
    fn only_our_own_policy_cuts() {
        let ours = cut_user(1_800_000_000).to_string();
        assert_eq!(cut_at(&ours, cut_user), Some(1_800_000_000));
        let encoded: String = ours.bytes().map(|b| format!("%{b:02X}")).collect();
        assert_eq!(cut_at(&encoded, cut_user), Some(1_800_000_000));
        for (from, to) in
            [("Deny", "Allow"), ("\"Action\":\"*\"", "\"Action\":\"s3:*\""), ("EndedAt", "Ended"), ("2012", "2008")]
        {
            assert!(ours.contains(from), "{from}");
            assert_eq!(cut_at(&ours.replace(from, to), cut_user), None, "{to}");
        }
        let session = cut_session(5, "q_1").to_string();
        assert_eq!(cut_at(&session, |at| cut_session(at, "q_1")), Some(5));
        assert_eq!(cut_at(&session, |at| cut_session(at, "q_2")), None, "that of another");
        assert_eq!(cut_at(&session, cut_user), None);
        assert_eq!(cut_at("garbage", cut_user), None);
    }
}
