//! What a role's groups are at a RabbitMQ server: permissions in virtual hosts, of which only these shapes are let through.
//!
//! ```text
//! vhost=/ configure=^$ write=^app\. read=.*
//! topic vhost=/ exchange=amq.topic write=^a\. read=.*
//! limit channels=32
//! ```
//!
//! A group is one such rule, with its words in this order and single spaces between them; a role's groups together are the rights of
//! its logins. A value has no space in it: in a pattern, `\x20` is one. Nothing reaches the server as it is: what was understood
//! becomes values of JSON and parts of a path.
//!
//! # Security
//! A rule says what the login that is being made may do in a virtual host. There is none for a tag, which would give power over
//! the server, nor for a password. Patterns are regular expressions (PCRE) that match anywhere unless they are anchored: `app` is also `myapps`.

use std::collections::BTreeSet;

use crate::EngineError;

/// The most channels of one connection (AMQP 0-9-1, `channel-max`).
const MAX_CHANNELS: u32 = 65_535;

/// Why a rule is not acceptable.
pub(super) type Reason = &'static str;

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Permission(Permission),
    Topic(Topic),
    Channels(u32),
}

/// What a login may do with queues and exchanges of one virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permission {
    pub(super) vhost: String,
    pub(super) configure: String,
    pub(super) write: String,
    pub(super) read: String,
}

/// With which routing keys it may do so at one topic exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) vhost: String,
    pub(super) exchange: String,
    pub(super) write: String,
    pub(super) read: String,
}

/// All that a role's groups give.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) permissions: Vec<Permission>,
    pub(super) topics: Vec<Topic>,
    /// How many channels the login may have open, in all connections together.
    pub(super) channels: Option<u32>,
}

/// What all groups of a role say together.
///
/// # Errors
/// [`EngineError::Invalid`] for one that is not acceptable, for two that say something of the same, and for topics of a virtual host into which
/// no group lets.
pub(super) fn rights(groups: &[String]) -> Result<Rights, EngineError> {
    let invalid = |reason| EngineError::Invalid { field: "groups", reason };
    let mut rights = Rights::default();
    let (mut vhosts, mut exchanges) = (BTreeSet::new(), BTreeSet::new());
    for group in groups {
        match parse(group).map_err(invalid)? {
            Rule::Permission(permission) => {
                if !vhosts.insert(permission.vhost.clone()) {
                    return Err(invalid("two groups for the same virtual host: the server keeps one"));
                }
                rights.permissions.push(permission);
            }
            Rule::Topic(topic) => {
                if !exchanges.insert((topic.vhost.clone(), topic.exchange.clone())) {
                    return Err(invalid("two groups for the topics of the same exchange: the server keeps one"));
                }
                rights.topics.push(topic);
            }
            Rule::Channels(channels) => {
                if rights.channels.replace(channels).is_some() {
                    return Err(invalid("two limits of channels"));
                }
            }
        }
    }
    if rights.topics.iter().any(|topic| !vhosts.contains(&topic.vhost)) {
        return Err(invalid("topics of a virtual host into which no group lets"));
    }
    Ok(rights)
}

/// Whether one group is acceptable by itself, and of which virtual host it speaks.
pub(super) fn vhost_of(group: &str) -> Result<Option<String>, Reason> {
    Ok(match parse(group)? {
        Rule::Permission(Permission { vhost, .. }) | Rule::Topic(Topic { vhost, .. }) => Some(vhost),
        Rule::Channels(_) => None,
    })
}

fn parse(text: &str) -> Result<Rule, Reason> {
    if text.is_empty() || text.len() > crate::MAX_RULES {
        return Err("not 1 to 512 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err("a rule has printable ASCII characters only");
    }
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        [a, b, c, d] => Ok(Rule::Permission(Permission {
            vhost: vhost(a)?,
            configure: value(b, "configure=")?,
            write: value(c, "write=")?,
            read: value(d, "read=")?,
        })),
        ["topic", a, b, c, d] => Ok(Rule::Topic(Topic {
            vhost: vhost(a)?,
            exchange: value(b, "exchange=")?,
            write: value(c, "write=")?,
            read: value(d, "read=")?,
        })),
        ["limit", a] => {
            let digits = value(a, "channels=")?;
            let plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
            let channels = digits.parse().ok().filter(|n| plain && (1..=MAX_CHANNELS).contains(n));
            Ok(Rule::Channels(channels.ok_or("channels is not a number from 1 to 65535")?))
        }
        _ => Err(SHAPES),
    }
}

const SHAPES: Reason = "not `vhost=V configure=RE write=RE read=RE`, `topic vhost=V exchange=E write=RE read=RE` or \
                        `limit channels=N`, with single spaces and no value empty";

fn value(word: &str, name: &str) -> Result<String, Reason> {
    match word.strip_prefix(name) {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(SHAPES),
    }
}

fn vhost(word: &str) -> Result<String, Reason> {
    let vhost = value(word, "vhost=")?;
    // Not as part of a path.
    if vhost == "." || vhost == ".." {
        Err("a virtual host of one or two dots can't be said over HTTP")
    } else {
        Ok(vhost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(groups: &[&str]) -> Result<Rights, EngineError> {
        rights(&groups.iter().map(|group| (*group).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rights_in_virtual_hosts_are_understood() {
        let groups =
            ["vhost=/ configure=^$ write=^app\\. read=.*", "topic vhost=/ exchange=amq.topic write=^a=b read=.*"];
        let understood = all(&[groups[0], "limit channels=32", groups[1]]).unwrap();
        let text = str::to_owned;
        let permission =
            Permission { vhost: text("/"), configure: text("^$"), write: text("^app\\."), read: text(".*") };
        let topic = Topic { vhost: text("/"), exchange: text("amq.topic"), write: text("^a=b"), read: text(".*") };
        assert_eq!(understood, Rights { permissions: vec![permission], topics: vec![topic], channels: Some(32) });
        assert_eq!(all(&[]).unwrap(), Rights::default());
        assert_eq!(vhost_of(groups[1]), Ok(Some(text("/"))));
        assert_eq!(vhost_of("limit channels=1"), Ok(None));
    }

    #[test]
    fn what_is_no_such_rule_is_refused() {
        let long = format!("vhost=/ configure=^$ write=.* read={}", "a".repeat(478));
        for bad in [
            "",
            " ",
            "administrator",
            "tags=administrator",
            "limit tags=administrator",
            "vhost=/",
            "vhost=/ configure= write=.* read=.*",
            "vhost= configure=^$ write=.* read=.*",
            "vhost=. configure=^$ write=.* read=.*",
            "vhost=.. configure=^$ write=.* read=.*",
            "vhost=/ configure=^$ read=.* write=.*",
            "vhost=/ configure=^$ write=.* read=.* ",
            " vhost=/ configure=^$ write=.* read=.*",
            "vhost=/  configure=^$ write=.* read=.*",
            "vhost=/ configure=^$ write=.* read=.* tags=x",
            "Vhost=/ configure=^$ write=.* read=.*",
            "vhost=/\tconfigure=^$ write=.* read=.*",
            "vhost=/ configure=^$ write=.* read=\u{e4}",
            "vhost=/ configure=^$ write=.* read=a\0",
            "topic vhost=/ write=.* read=.*",
            "topic vhost=/ exchange= write=.* read=.*",
            "limit channels=0",
            "limit channels=01",
            "limit channels=+1",
            "limit channels=65536",
            "limit channels=",
            "limit connections=1",
            &long,
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
            assert!(matches!(all(&[bad]), Err(EngineError::Invalid { field: "groups", .. })));
        }
    }

    #[test]
    fn no_two_groups_speak_of_the_same() {
        let (one, other) = ("vhost=/ configure=^$ write=.* read=.*", "vhost=/ configure=.* write=.* read=.*");
        let topic = "topic vhost=/ exchange=amq.topic write=a read=b";
        assert!(all(&[one, other]).is_err());
        assert!(all(&[one, "vhost=b configure=^$ write=.* read=.*", topic]).is_ok());
        assert!(all(&[one, topic, topic]).is_err());
        assert!(all(&["limit channels=1", "limit channels=2"]).is_err());
        assert!(all(&[topic]).is_err(), "a topic of nowhere");
    }
}
