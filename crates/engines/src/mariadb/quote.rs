//! Names and values in statements. Each session of ours has set `NO_BACKSLASH_ESCAPES`, no `ANSI_QUOTES`, and `utf8mb4`: a quote
//! is written twice, and nothing else means anything within quotes.

/// A name, in backticks.
pub(super) fn ident(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A value, in quotes.
pub(super) fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Values as a list, never empty: that would be no statement.
pub(super) fn literals<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = values.into_iter().map(literal).collect();
    if all.is_empty() { "NULL".to_owned() } else { all.join(", ") }
}

/// An account.
pub(super) fn account(user: &str, host: &str) -> String {
    format!("{}@{}", literal(user), literal(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(ident("a`b'c\\"), "`a``b'c\\`");
        assert_eq!(account("a'b\\", "%"), "'a''b\\'@'%'");
        assert_eq!(literals(["a", "b'"]), "'a', 'b'''");
        assert_eq!(literals([]), "NULL");
    }
}
