//! A Redis. A user has no number: a session tells the name as which it is logged in.

use super::resp::Connection;
use crate::judge::{Identity, Look, Role, Session};
use anyhow::Context as _;
use tokio::net::TcpStream;

/// A connection, made anew when it is lost.
pub(crate) struct Redis {
    address: String,
    user: String,
    password: Option<String>,
    prefix: String,
    connection: Option<Connection<TcpStream>>,
}

impl Redis {
    pub(super) fn new(address: String, user: String, password: Option<String>, prefix: String) -> Self {
        Self { address, user, password, prefix, connection: None }
    }

    /// Users first. A look that fails half-way gives up its connection.
    pub(super) async fn look(&mut self) -> anyhow::Result<Look> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let life = life(&connection.call(&["INFO", "server"]).await?.text()?)?;
        let users = connection.call(&["ACL", "LIST"]).await.context("ACL LIST")?.texts()?;
        let clients = connection.call(&["CLIENT", "LIST"]).await.context("CLIENT LIST")?.text()?;
        self.connection = Some(connection);
        let mut seen = Look::default();
        for line in &users {
            let (name, can_login) = user(line)?;
            if name.starts_with(&self.prefix) {
                let role = Role { identity: Identity::Name(name.to_owned()), can_login };
                seen.roles.insert(name.to_owned(), role);
            }
        }
        for line in clients.lines().filter(|line| !line.is_empty()) {
            let (id, name) = client(line)?;
            if name.starts_with(&self.prefix) {
                let role = seen.roles.contains_key(name).then(|| name.to_owned());
                seen.sessions.push(Session { id, began: life, of: Identity::Name(name.to_owned()), role });
            }
        }
        Ok(seen)
    }

    async fn connect(&self) -> anyhow::Result<Connection<TcpStream>> {
        let mut connection = Connection::open(&self.address).await?;
        if let Some(password) = &self.password {
            connection.call(&["AUTH", &self.user, password]).await.context("AUTH")?;
        }
        Ok(connection)
    }
}

/// A user's name, and whether somebody could log in: a line of `ACL LIST`. What is said of passwords stands before any rule, and no rule has a
/// space in it.
fn user(line: &str) -> anyhow::Result<(&str, bool)> {
    let mut words = line.split(' ');
    let name = words.next().filter(|word| *word == "user").and_then(|_| words.next());
    let name = name.with_context(|| format!("no line of ACL LIST: {line}"))?;
    let (mut on, mut has_password) = (false, false);
    for word in words {
        on |= word == "on";
        has_password |= word == "nopass" || word.starts_with('#');
    }
    Ok((name, on && has_password))
}

/// A connection's number, which comes once in the server's life, and as whom it is logged in: a line of `CLIENT LIST`. Nobody can give his
/// connection a name with a space in it.
fn client(line: &str) -> anyhow::Result<(i64, &str)> {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let id = field("id").and_then(|id| id.parse().ok());
    id.zip(field("user")).with_context(|| format!("no line of CLIENT LIST: {line}"))
}

/// What tells one life of the server from another: the first 60 bits of what it calls its run.
fn life(info: &str) -> anyhow::Result<i64> {
    let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    let life = run.and_then(|run| i64::from_str_radix(run.get(..15)?, 16).ok());
    life.context("INFO server: no run_id")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_user_lets_in_when_it_is_on_and_has_a_password() {
        // As Redis 7.0.15 writes them.
        for (line, can_login) in [
            ("user q1_a on #30c9 ~app:* resetchannels &a.* -@all +@read (%R~x:* resetchannels -@all +get)", true),
            ("user q1_a on nopass sanitize-payload resetchannels -@all", true),
            ("user q1_a off sanitize-payload #30c9 resetchannels -@all", false),
            ("user q1_a off sanitize-payload resetchannels -@all", false),
            ("user q1_a on sanitize-payload resetchannels -@all", false),
        ] {
            assert_eq!(user(line).unwrap(), ("q1_a", can_login), "{line}");
        }
        assert!(user("").is_err() && user("user").is_err() && user("role q1_a on").is_err());
    }

    #[test]
    fn a_connection_says_whose_it_is() {
        let line = "id=8 addr=127.0.0.1:50476 fd=8 name=user=x age=1 flags=N cmd=command user=q1_a redir=-1 resp=2";
        assert_eq!(client(line).unwrap(), (8, "q1_a"));
        assert!(client("id=8 name=x").is_err() && client("id=x user=a").is_err());
    }

    #[test]
    fn a_run_is_told_from_another() {
        let info = |run: &str| format!("# Server\r\nredis_version:7.0.15\r\nrun_id:{run}\r\n");
        let run = life(&info("beb62466f5ec06614eb205f70d0b2aaf6cb75ffd")).unwrap();
        assert_eq!(run, 0x0beb_6246_6f5e_c066);
        assert!(life(&info("beb6")).is_err() && life("").is_err());
    }
}
