//! What a target says of itself, for the person who adds it.

use std::fmt::{self, Display, Formatter, Write as _};

/// What a target says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// PostgreSQL: `server_version_num`, for example 150018. MariaDB 10.11.19: 101119. Redis 7.0.15: 70015. RabbitMQ 3.10.8: 31008. Kubernetes 1.30.2: 13002. 0 where we may not ask.
    pub server_version: u32,
    /// It changes with each fail-over. After one, accounts that were ended may be back: reconcile at once.
    pub timeline: u32,
    /// What was checked, and what is looked at: see [`Engine::endpoints`](crate::Engine::endpoints). Nothing is known of
    /// any other.
    pub endpoints: Vec<String>,
    /// Who streams from it. Compare with the endpoints: sessions at a standby that is not among them are not seen.
    pub standbys: Vec<Standby>,
    /// Standbys among the endpoints that can't be looked at, and why. Until they can, nothing is proved to have ended.
    pub unseen: Vec<Fault>,
    /// Databases which were to be cleaned up in and can't be, and why.
    pub databases: Vec<Fault>,
    /// Groups that must not be granted, whatever is changed at the target, and why.
    pub unfit: Vec<Fault>,
    /// Whether there is a connection for a new executor when leased logins have taken all that they can.
    pub slots: Slots,
    /// What is missing. Empty when all is well.
    pub missing: Vec<Missing>,
}

/// The connections that a target takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How many logins without any right take at most, all together.
    pub free: u32,
    /// Whether the target keeps others that an executor may have; `None` where it can keep none. PostgreSQL can from 16 on.
    pub kept: Option<bool>,
}

/// One statement that an administrator has to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// In which database. What concerns roles only is the same in each. Empty where a target has none that it has to be run in.
    pub database: String,
    /// Without a semicolon.
    pub statement: String,
}

/// What stands between statement and database in [`Missing`] as one line.
const PLACE: &str = " -- in database ";

/// One line: the statement, and in a comment where.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.database.is_empty() {
            return f.write_str(&self.statement);
        }
        write!(f, "{}{PLACE}{}", self.statement, self.database)
    }
}

impl Missing {
    /// Reads the line back. One that names no database is for the one that psql is in.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let (statement, database) = line.rsplit_once(PLACE).unwrap_or((line, ""));
        Self { database: database.to_owned(), statement: statement.to_owned() }
    }

    /// All of them, as one text that `psql` takes, or another system's own tool: what belongs into one database stands together, in the order
    /// in which it was found. `end` is what that tool ends a statement with.
    #[must_use]
    pub fn script(all: &[Self], end: &str) -> String {
        let mut databases: Vec<&str> = Vec::new();
        for missing in all {
            if !databases.contains(&missing.database.as_str()) {
                databases.push(&missing.database);
            }
        }
        let mut script = String::new();
        for database in databases {
            // Writing into a String cannot fail.
            if !database.is_empty() {
                let _ = writeln!(script, "{}", connect(database));
            }
            for missing in all.iter().filter(|missing| missing.database == database) {
                let _ = writeln!(script, "{}{end}", missing.statement);
            }
        }
        script
    }
}

/// `psql` takes a name for a whole connection string when it looks like one; as pg_dump, a name that could is given inside one.
fn connect(database: &str) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    if database.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
        return format!("\\connect {}", quoted(database));
    }
    let value = database.replace('\\', "\\\\").replace('\'', "\\'");
    format!("\\connect -reuse-previous=on {}", quoted(&format!("dbname='{value}'")))
}

/// One that receives the target's log as a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standby {
    /// What it calls itself.
    pub application_name: String,
    /// Where it connects from; `None` for a Unix socket.
    pub client_addr: Option<String>,
    /// For example `streaming`.
    pub state: String,
}

/// Something of a target that can't be worked with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// An endpoint, a database or a group.
    pub name: String,
    /// The target's words.
    pub reason: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_connects_where_its_statements_belong() {
        let missing =
            |database: &str, statement: &str| Missing { database: database.into(), statement: statement.into() };
        let all = [missing("a", "ONE"), missing("My-db", "TWO"), missing("a", "THREE"), missing("b\"c", "FOUR")];
        let script = [
            "\\connect \"a\"",
            "ONE;",
            "THREE;",
            "\\connect \"My-db\"",
            "TWO;",
            "\\connect -reuse-previous=on \"dbname='b\"\"c'\"",
            "FOUR;\n",
        ];
        assert_eq!(Missing::script(&all, ";"), script.join("\n"));
        assert_eq!(connect("a=b'c\\d"), "\\connect -reuse-previous=on \"dbname='a=b\\'c\\\\d'\"");
        assert_eq!(Missing::script(&[], ";"), "");
        for one in &all {
            assert_eq!(Missing::parse(&one.to_string()), *one, "a line is read back");
        }
        assert_eq!(missing("", "SIX").to_string(), "SIX", "where there is no database to connect to");
        assert_eq!(Missing::script(&[Missing::parse("FIVE")], ";"), "FIVE;\n", "a line without a database");
    }
}
