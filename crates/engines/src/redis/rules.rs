//! What a role's groups are at a Redis server: rules of its access lists, of which only some shapes are let through.
//!
//! ```text
//! ~app:* %R~shared:* &news.* +@read +@write -keys
//! (~cache:* +get +set)
//! ```
//!
//! A group is a list of such rules, separated by spaces; a role's groups together are the rights of its logins, in their order.
//! Keys (`~`, `%R~`, `%W~`, `%RW~`, `allkeys`), channels (`&`, `allchannels`), commands and categories (`+`, `-`), and the same in
//! parentheses, as a *selector* with rights of its own. Nothing reaches the server as it is: what was understood is written anew.
//!
//! # Security
//! A rule says what the login that is being made may do with data. What says who it is (`on`, `nopass`, `>password`, `#hash`),
//! what takes back what came before (`reset`), and every command with power over the server, its accounts or the sessions
//! of others is refused; what a category has of the latter is taken out of it.

/// Commands with power over the server, its users, its copies, or what ends principals: whole, with all that is under them.
const POWER: [&str; 20] = [
    "acl",
    "bgrewriteaof",
    "bgsave",
    "cluster",
    "config",
    "debug",
    "failover",
    "migrate",
    "module",
    "monitor",
    "pfdebug",
    "pfselftest",
    "psync",
    "replconf",
    "replicaof",
    "restore-asking",
    "save",
    "shutdown",
    "slaveof",
    "sync",
];
/// The same for parts of commands; without them the rest of the command may be given.
const POWER_WITHIN: [(&str, &str); 7] = [
    ("client", "kill"),
    ("client", "no-evict"),
    ("client", "pause"),
    ("client", "unblock"),
    ("client", "unpause"),
    ("function", "kill"),
    ("script", "kill"),
];
/// Parts of commands with power that have none.
const HARMLESS: [(&str, &str); 10] = [
    ("acl", "whoami"),
    ("cluster", "countkeysinslot"),
    ("cluster", "getkeysinslot"),
    ("cluster", "info"),
    ("cluster", "keyslot"),
    ("cluster", "links"),
    ("cluster", "myid"),
    ("cluster", "nodes"),
    ("cluster", "shards"),
    ("cluster", "slots"),
];
/// What is taken out of a category that is given: the server's own list of what administrators do, and what is missing there.
const TAKEN_OUT: [&str; 5] = ["-@admin", "-migrate", "-restore-asking", "-function|kill", "-script|kill"];

/// Why a list of rules is not acceptable.
pub(super) type Reason = &'static str;

/// The arguments that say it to the server.
pub(super) fn parse(text: &str) -> Result<Vec<String>, Reason> {
    if text.is_empty() || text.len() > crate::MAX_RULES {
        return Err("not 1 to 512 bytes of rules");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err("a rule has printable ASCII characters only");
    }
    let mut arguments = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(selector) = rest.strip_prefix('(') {
            let (inside, after) = selector.split_once(')').ok_or("a selector is not closed")?;
            if !(after.is_empty() || after.starts_with(' ')) {
                return Err("rules are separated by spaces");
            }
            // A server can be told to begin every list, a selector's too, with all channels.
            let mut rules = vec!["resetchannels".to_owned()];
            for word in words(inside) {
                rule(word, &mut rules)?;
            }
            if rules.len() == 1 {
                return Err("a selector is empty");
            }
            arguments.push(format!("({})", rules.join(" ")));
            rest = after.trim_start_matches(' ');
        } else {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            if !word.is_empty() {
                rule(word, &mut arguments)?;
            }
            rest = after.trim_start_matches(' ');
        }
    }
    if arguments.is_empty() { Err("no rule") } else { Ok(arguments) }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

/// Adds one rule to the arguments that say it.
fn rule(word: &str, arguments: &mut Vec<String>) -> Result<(), Reason> {
    let lower = word.to_ascii_lowercase();
    if let Some(given) = lower.strip_prefix('+') {
        if let Some(category) = given.strip_prefix('@') {
            return category_given(category, arguments);
        }
        let (command, part) = command(given)?;
        if !is_harmless(command, part) && has_power(command, part) {
            return Err("a command with power over the server, its users, or the sessions of others");
        }
        arguments.push(lower);
    } else if let Some(taken) = lower.strip_prefix('-') {
        match taken.strip_prefix('@') {
            Some(category) => check_category(category)?,
            None => command(taken).map(drop)?,
        }
        arguments.push(lower);
    } else if matches!(lower.as_str(), "allkeys" | "allchannels") {
        arguments.push(lower);
    } else {
        pattern(word)?;
        arguments.push(word.to_owned());
    }
    Ok(())
}

fn category_given(category: &str, arguments: &mut Vec<String>) -> Result<(), Reason> {
    check_category(category)?;
    if matches!(category, "admin" | "dangerous") {
        return Err("a category of what administrators do: name the commands");
    }
    arguments.push(format!("+@{category}"));
    arguments.extend(TAKEN_OUT.map(str::to_owned));
    Ok(())
}

fn check_category(category: &str) -> Result<(), Reason> {
    let is_name = !category.is_empty() && category.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
    if is_name { Ok(()) } else { Err("not the name of a category") }
}

/// A command, and the part of it that is meant.
fn command(text: &str) -> Result<(&str, Option<&str>), Reason> {
    let is_name = |name: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        !name.is_empty() && name.bytes().all(plain)
    };
    let (command, part) = match text.split_once('|') {
        Some((command, part)) => (command, Some(part)),
        None => (text, None),
    };
    if is_name(command) && part.is_none_or(is_name) { Ok((command, part)) } else { Err("not the name of a command") }
}

fn is_harmless(command: &str, part: Option<&str>) -> bool {
    part.is_some_and(|part| HARMLESS.contains(&(command, part)))
}

fn has_power(command: &str, part: Option<&str>) -> bool {
    POWER.contains(&command) || POWER_WITHIN.iter().any(|(c, p)| *c == command && part.is_none_or(|part| part == *p))
}

/// Keys or channels. What a configuration file would read in another way than an access list is not let through: the server
/// could not start from it.
fn pattern(word: &str) -> Result<(), Reason> {
    let prefixes = ["~", "&", "%R~", "%W~", "%RW~", "%WR~"];
    let upper = word.get(..word.find('~').map_or(0, |at| at + 1)).unwrap_or_default().to_ascii_uppercase();
    let prefix = prefixes.iter().find(|prefix| upper == **prefix || (**prefix == "&" && word.starts_with('&')));
    let Some(pattern) = prefix.and_then(|prefix| word.get(prefix.len()..)) else {
        return Err("only keys (~ % allkeys), channels (& allchannels), commands and categories (+ -) can be said");
    };
    if pattern.is_empty() || pattern.bytes().any(|b| matches!(b, b'"' | b'\'' | b'\\' | b'(' | b')')) {
        return Err("a pattern is empty, or has a quote, a backslash or a parenthesis in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_over_data_are_understood() {
        let all = "~app:* %R~s:* %rw~t:* &news.* +GET +json.get -keys";
        assert_eq!(parse(all).unwrap(), ["~app:*", "%R~s:*", "%rw~t:*", "&news.*", "+get", "+json.get", "-keys"]);
        assert_eq!(parse("allkeys  allchannels ").unwrap(), ["allkeys", "allchannels"]);
        assert_eq!(parse("~a (~b:* +get) -@all").unwrap(), ["~a", "(resetchannels ~b:* +get)", "-@all"]);
        assert_eq!(
            parse("+config|get"),
            Err("a command with power over the server, its users, or the sessions of others")
        );
        assert_eq!(parse("+cluster|slots +client|id").unwrap(), ["+cluster|slots", "+client|id"]);
    }

    #[test]
    fn a_category_has_no_power() {
        let given = parse("+@all").unwrap();
        assert_eq!(given[0], "+@all");
        assert_eq!(given[1..], TAKEN_OUT);
        assert_eq!(parse("(+@read)").unwrap(), [format!("(resetchannels +@read {})", TAKEN_OUT.join(" "))]);
    }

    #[test]
    fn what_says_who_it_is_and_what_has_power_is_refused() {
        let who = [
            "on",
            "OFF",
            "nopass",
            "resetpass",
            "reset",
            "resetkeys",
            "resetchannels",
            "clearselectors",
            ">secret",
            "<secret",
            "nocommands",
            "allcommands",
            "sanitize-payload",
            "skip-sanitize-payload",
            "default",
            "user",
        ];
        let hashes = ["#", "!"].map(|sign| format!("{sign}{}", "0".repeat(62)));
        let power = [
            "+acl",
            "+ACL|setuser",
            "+config",
            "+client",
            "+client|kill",
            "+script",
            "+function|kill",
            "+debug",
            "+shutdown",
            "+@admin",
            "+@dangerous",
            "+@ADMIN",
            "+psync",
            "+monitor",
            "+cluster",
            "+cluster|reset",
            "(+acl|deluser)",
        ];
        let broken = [
            "",
            " ",
            "~",
            "&",
            "%~a",
            "%X~a",
            "+",
            "+@",
            "-",
            "+a b|",
            "+a|b|c",
            "(",
            "()",
            "( )",
            "(+get",
            "(+get)x",
            "~a\"b",
            "~a\\b",
            "~a'b",
            "~a)",
            "+get\nuser x",
            "~\u{e4}",
            "~a\0",
            "(~a (+get))",
            "%R",
            "R~a",
        ];
        let long = "+get ".repeat(103);
        let all = who.iter().chain(&power).chain(&broken).map(|text| (*text).to_owned()).chain(hashes).chain([long]);
        for text in all {
            for text in [text.clone(), format!("~a {text}")] {
                // What is nothing at all is nothing beside something.
                assert!(parse(&text).is_err() || text.trim() == "~a", "{text:?}: {:?}", parse(&text));
            }
        }
    }
}
