//! A MariaDB. It has no numbers for accounts: a session keeps the name of its account, also when that is dropped.

use super::first_line;
use crate::judge::{Identity, Look, Role, Session};
use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use serde_json::Value;
use std::path::PathBuf;
use std::str::FromStr;

/// Accounts of the cluster, by name and by what the server keeps of each. A row without a host is a role's.
const ACCOUNTS: &str = "SELECT User, Priv FROM mysql.global_priv WHERE Host <> '' AND LEFT(User, CHAR_LENGTH(?)) = ?";

/// Sessions. One that only asks to be let in is none: the server shows it by whatever name it has said, also of an account that is locked or
/// gone, until it has proved what it says (`Connect`, `Change user`). If it is let in, the next look finds it.
const SESSIONS: &str = "SELECT CAST(ID AS SIGNED), USER FROM information_schema.PROCESSLIST
  WHERE LEFT(USER, CHAR_LENGTH(?)) = ? AND COMMAND NOT IN ('Connect', 'Change user')";

/// When the server began, in seconds since 1970; and whether we are shown other accounts' sessions than our own, of which a lack is not told.
const SERVER: &str = "SELECT CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS SIGNED),
    EXISTS (SELECT * FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'PROCESS'
      AND GRANTEE = CONCAT('\\'', REPLACE(CURRENT_USER(), '@', '\\'@\\''), '\\''))
  FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'";

/// Two answers of when the server began differ by so many seconds, for they are differences of rounded ones.
const ROUNDED: u64 = 2;

/// How to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    at: At,
    user: String,
    password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Socket(String),
    Host(String, u16),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut socket, mut host, mut port, mut user, mut password_file) = (None, None, None, None, None);
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is no name=value"))?;
            match name {
                "socket" => socket = Some(value.to_owned()),
                "host" => host = Some(value.to_owned()),
                "port" => port = Some(value.parse().map_err(|_| format!("`{value}` is no port"))?),
                "user" => user = Some(value.to_owned()),
                "password-file" => password_file = Some(value.into()),
                _ => return Err(format!("`{name}` is none of socket, host, port, user, password-file")),
            }
        }
        let at = match (socket, host) {
            (Some(socket), None) if port.is_none() => At::Socket(socket),
            (None, Some(host)) => At::Host(host, port.unwrap_or(3306)),
            _ => return Err("give either socket, or host and port".to_owned()),
        };
        Ok(Self { at, user: user.unwrap_or_else(|| "root".to_owned()), password_file })
    }
}

/// A connection, made anew when it is lost.
pub(crate) struct MariaDb {
    options: OptsBuilder,
    prefix: String,
    conn: Option<Conn>,
    /// When the server began, as it was first told of this life of its.
    began: i64,
}

impl MariaDb {
    pub(super) fn new(address: Address, prefix: String) -> anyhow::Result<Self> {
        let Address { at, user, password_file } = address;
        let options = OptsBuilder::default()
            .user(Some(user))
            .pass(password_file.map(first_line).transpose()?)
            // The driver would go wherever the server says that its socket is.
            .prefer_socket(false);
        let options = match at {
            At::Socket(path) => options.socket(Some(path)),
            At::Host(host, port) => options.ip_or_hostname(host).tcp_port(port),
        };
        Ok(Self { options, prefix, conn: None, began: 0 })
    }

    /// Accounts first. A look that fails half-way gives up its connection.
    pub(super) async fn look(&mut self) -> anyhow::Result<Look> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        let both = (&self.prefix, &self.prefix);
        let accounts: Vec<(String, String)> = conn.exec(ACCOUNTS, both).await?;
        let sessions: Vec<(i64, String)> = conn.exec(SESSIONS, both).await?;
        self.conn = Some(conn);
        let mut seen = Look::default();
        for (name, kept) in accounts {
            let role = Role { identity: Identity::Name(name.clone()), can_login: false };
            // A name may have several, each for its host.
            seen.roles.entry(name).or_insert(role).can_login |= can_login(&kept);
        }
        // Names are told apart byte by byte, and here they were compared as words are.
        for (id, name) in sessions.into_iter().filter(|(_, name)| name.starts_with(&self.prefix)) {
            let role = seen.roles.contains_key(&name).then(|| name.clone());
            seen.sessions.push(Session { id, began: self.began, of: Identity::Name(name), role });
        }
        Ok(seen)
    }

    async fn connect(&mut self) -> anyhow::Result<Conn> {
        let mut conn = Conn::new(self.options.clone()).await?;
        let (began, sees): (i64, bool) = conn.query_first(SERVER).await?.context("the server does not say its age")?;
        anyhow::ensure!(sees, "PROCESS is needed to see sessions: the server shows others' to nobody else");
        if began.abs_diff(self.began) > ROUNDED {
            self.began = began;
        }
        Ok(conn)
    }
}

/// Whether somebody could be let in, by what `mysql.global_priv` keeps of an account. What cannot be read lets somebody in.
fn can_login(kept: &str) -> bool {
    let Ok(kept) = serde_json::from_str::<Value>(kept) else { return true };
    let is = |value: &Value| value.as_bool().unwrap_or_else(|| value.as_i64().is_some_and(|number| number != 0));
    if kept.get("account_locked").is_some_and(is) {
        return false;
    }
    // Several ways, of which one may be as good as none: then it has others.
    if kept.get("auth_or").is_some() {
        return true;
    }
    let text = |name: &str| kept.get(name).and_then(Value::as_str).unwrap_or_default();
    let native = text("plugin") == "mysql_native_password";
    // Nobody has a password for what is neither a verifier nor nothing at all.
    let verifier = text("authentication_string");
    let digits = verifier.strip_prefix('*').filter(|digits| digits.len() == 40);
    let fits = digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    !native || verifier.is_empty() || fits
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_account_lets_in_unless_it_is_locked_or_has_no_password() {
        let verifier = "*D821809F681A40A6E379B50D0463EFAE20BDD122";
        let native = |rest: &str| format!(r#"{{"access":0,"plugin":"mysql_native_password",{rest}}}"#);
        let password = format!(r#""authentication_string":"{verifier}""#);
        assert!(can_login(&native(&password)));
        assert!(can_login(&native(&format!(r#"{password},"account_locked":false"#))));
        assert!(can_login(&native(r#""authentication_string":"""#)), "no password lets in everybody");
        assert!(can_login(r#"{"access":0}"#), "of an old server: no password");
        assert!(can_login(&native(r#""authentication_string":"invalid","auth_or":[{},{"plugin":"unix_socket"}]"#)));
        assert!(can_login(r#"{"plugin":"ed25519","authentication_string":"x"}"#), "what is not known may be good");
        assert!(can_login("no JSON"));
        for locked in ["true", "1"] {
            assert!(!can_login(&native(&format!(r#"{password},"account_locked":{locked}"#))), "{locked}");
        }
        assert!(!can_login(&native(r#""authentication_string":"invalid""#)), "as the server writes `USING 'invalid'`");
        assert!(!can_login(&native(&format!(r#""authentication_string":"{verifier}0""#))));
    }

    #[test]
    fn an_address_is_a_socket_or_a_host() {
        let address = |text: &str| text.parse::<Address>();
        let root = |at| Address { at, user: "root".to_owned(), password_file: None };
        assert_eq!(address("socket=/run/my.sock").unwrap(), root(At::Socket("/run/my.sock".to_owned())));
        assert_eq!(address(" host=db  port=33 ").unwrap(), root(At::Host("db".to_owned(), 33)));
        let full = address("host=db user=auditor password-file=/etc/p").unwrap();
        assert_eq!((full.at, full.user.as_str()), (At::Host("db".to_owned(), 3306), "auditor"));
        assert_eq!(full.password_file, Some("/etc/p".into()));
        for bad in ["", "db", "port=33", "socket=/s host=db", "socket=/s port=33", "host=db port=x", "host=db x=y"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }
}
