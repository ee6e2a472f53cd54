//! What a target says of itself, for the person who adds it.

use std::fmt::Write as _;

/// What a target says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// PostgreSQL: `server_version_num`, for example 150018.
    pub server_version: u32,
    /// It grows with each fail-over. After one, accounts that were ended may be back: reconcile at once.
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
    /// What is missing. Empty when all is well.
    pub missing: Vec<Missing>,
}

impl Checked {
    /// What is missing, as one text that `psql` takes.
    #[must_use]
    pub fn script(&self) -> String {
        let (mut script, mut database) = (String::new(), None);
        for missing in &self.missing {
            if database != Some(&missing.database) {
                let _ = writeln!(script, "\\connect \"{}\"", missing.database.replace('"', "\"\""));
                database = Some(&missing.database);
            }
            let _ = writeln!(script, "{};", missing.statement);
        }
        script
    }
}

/// One statement that an administrator has to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// In which database. What concerns roles only is the same in each.
    pub database: String,
    /// Without a semicolon.
    pub statement: String,
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
    /// An endpoint or a database.
    pub name: String,
    /// The target's words.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_connects_where_its_statements_belong() {
        let missing =
            |database: &str, statement: &str| Missing { database: database.into(), statement: statement.into() };
        let checked = Checked {
            server_version: 1,
            timeline: 1,
            endpoints: vec![],
            standbys: vec![],
            unseen: vec![],
            databases: vec![],
            missing: vec![missing("a", "ONE"), missing("a", "TWO"), missing("b\"c", "THREE")],
        };
        assert_eq!(checked.script(), "\\connect \"a\"\nONE;\nTWO;\n\\connect \"b\"\"c\"\nTHREE;\n");
    }
}
