//! One connection of ours, and what MariaDB's errors mean.

use core::time::Duration;
use std::sync::Arc;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, DriverError, Error, OptsBuilder, Row, ServerError, SslOpts, from_row_opt};
use quorate_crypto::secret::SecretVec;
use tokio::time::timeout;

use super::MariaDbConfig;
use super::quote::literal;
use crate::own::Open;
use crate::{Binding, EngineError, Tls};

/// How often a silent connection shows that it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The oldest version that locks accounts.
const OLDEST: u32 = 10_04_02;
/// As the server writes it. The first is what our quotes are written for. Without the second a `GRANT` to an account that is gone makes it
/// anew, without a password.
const MODE: &str = "NO_BACKSLASH_ESCAPES,NO_AUTO_CREATE_USER";
/// How many names of sessions of ours one look asks the server for, from this term on.
const TERMS: u64 = 16;

/// An open connection. Whoever drops it in the middle of a statement must not expect that the statement is over.
pub(super) struct Session {
    conn: Conn,
    pub(super) binding: Binding,
    /// For example 101119.
    pub(super) version: u32,
    /// Who the server takes us for: user and host of the account.
    pub(super) account: (String, String),
    _open: Open,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("binding", &self.binding).finish_non_exhaustive()
    }
}

type WhoAmI = (u32, i64, String, String, String);

impl Session {
    /// Connects, authenticates and asks which connection answers.
    pub(super) async fn open(config: &MariaDbConfig) -> Result<Self, EngineError> {
        let login = |password: Arc<SecretVec>| async move {
            let timed_out = |_| Err(EngineError::Unavailable { reason: "timed out while connecting".to_owned() });
            timeout(config.connect_timeout, Self::open_with(config, &password)).await.unwrap_or_else(timed_out)
        };
        config.passwords.log_in(login).await
    }

    async fn open_with(config: &MariaDbConfig, password: &SecretVec) -> Result<Self, EngineError> {
        let _opening = config.own.opening().await;
        let password = core::str::from_utf8(password.expose())
            .map_err(|_| EngineError::Invalid { field: "password", reason: "not UTF-8" })?;
        let mut options = OptsBuilder::default()
            .user(Some(&config.user))
            .pass(Some(password))
            // Otherwise the driver goes wherever the server says that its socket is.
            .prefer_socket(false)
            .stmt_cache_size(0)
            .tcp_keepalive(Some(KEEPALIVE))
            // What it would ask the server for.
            .max_allowed_packet(Some(16 << 20))
            .wait_timeout(Some(28800));
        options = if config.host.starts_with('/') {
            options.socket(Some(&config.host))
        } else {
            options.ip_or_hostname(&config.host).tcp_port(config.port)
        };
        if let Tls::Verified(trust) = &config.tls {
            let roots = trust.roots().iter().map(|root| root.clone().into()).collect();
            let tls = SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true);
            options = options.ssl_opts(tls.with_danger_tls_hostname_override(trust.name()));
        }
        let mut conn = Conn::new(options).await.map_err(|e| on_connect(&e))?;
        conn.query_drop(settings(config)).await.map_err(|e| on_connect(&e))?;
        let row: Option<Row> = conn.query_first(WHO_AM_I).await.map_err(|e| on_connect(&e))?;
        let row: Option<WhoAmI> = row.map(read).transpose()?;
        let refused =
            |message: &str| Err(EngineError::Refused { code: "version".to_owned(), message: message.to_owned() });
        let Some((id, started, version, mode, account)) = row else { return refused("it does not say who it is") };
        let Some(version) = number_of_version(&version).filter(|v| *v >= OLDEST) else {
            return refused(&format!("{version} is not MariaDB 10.4.2 or newer"));
        };
        if id != conn.id() {
            return refused(
                "another connection answers than was made: a proxy is not allowed between us and the target",
            );
        }
        if mode != MODE {
            return refused("it does not take the sql_mode that our statements are written for");
        }
        let account = account.rsplit_once('@').unwrap_or((&account, "%"));
        let account = (account.0.to_owned(), account.1.to_owned());
        let binding = Binding { pid: pid_of(id), backend_start_micros: started.saturating_mul(1_000_000) };
        let open = config.own.open(&config.endpoint(), binding);
        let mut session = Self { conn, binding, version, account, _open: open };
        // So that the next executor knows whose it is. Anybody can hold such a name first, and then it is not ours to say: that
        // must not keep us from our work.
        for lock in [mark(config, &id.to_string()), mark(config, &format!("{id}/{}", config.term))] {
            session.run(&format!("DO GET_LOCK({}, 0)", literal(&lock))).await?;
        }
        Ok(session)
    }

    /// # Errors
    /// As [`on_repeatable`].
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), EngineError> {
        self.try_run(sql).await.map_err(|e| on_repeatable(&e))
    }

    pub(super) async fn try_run(&mut self, sql: &str) -> Result<(), Error> {
        self.conn.query_drop(sql).await
    }

    /// # Errors
    /// As [`on_repeatable`].
    pub(super) async fn rows<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<T>, EngineError> {
        let rows: Vec<Row> = self.conn.query(sql).await.map_err(|e| on_repeatable(&e))?;
        rows.into_iter().map(read).collect()
    }

    /// Whether it still answers.
    pub(super) async fn answers(&mut self) -> Result<(), EngineError> {
        self.conn.ping().await.map_err(|e| on_repeatable(&e))
    }
}

/// The driver's own ways to read a row panic at what they do not expect.
fn read<T: FromRow>(row: Row) -> Result<T, EngineError> {
    let message = "an answer of another shape than was asked for".to_owned();
    from_row_opt(row).map_err(|_| EngineError::Refused { code: "answer".to_owned(), message })
}

/// The name of a lock that a connection of ours holds as long as it lives.
fn mark(config: &MariaDbConfig, rest: &str) -> String {
    format!("quorate/{}/{rest}", config.target)
}

/// Whether the connection of a row of the process list is of our target, and of an older term.
pub(super) fn is_of_older_term(config: &MariaDbConfig) -> String {
    let prefix = literal(&mark(config, ""));
    let ours = format!("IS_USED_LOCK(CONCAT({prefix}, ID)) = ID");
    let terms: Vec<String> = (config.term..config.term.saturating_add(TERMS))
        .map(|term| format!("IS_USED_LOCK(CONCAT({prefix}, ID, '/{term}'))"))
        .collect();
    format!("COALESCE({ours}, FALSE) AND NOT COALESCE(COALESCE({}) = ID, FALSE)", terms.join(", "))
}

/// What the server or an `init_connect` sets by default must not change what our statements mean, what they show, nor how long they
/// take.
fn settings(config: &MariaDbConfig) -> String {
    let limit = config.statement_timeout.as_millis();
    let (seconds, millis) = (limit / 1000, limit % 1000);
    let net = config.answer_timeout().as_secs().max(1);
    format!(
        "SET SESSION sql_mode = '{MODE}', SESSION character_set_client = utf8mb4, \
         SESSION character_set_results = utf8mb4, SESSION collation_connection = utf8mb4_bin, SESSION autocommit = 1, \
         SESSION timestamp = DEFAULT, SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1, \
         SESSION lc_messages = en_US, SESSION max_statement_time = {seconds}.{millis:03}, \
         SESSION net_read_timeout = {net}, SESSION net_write_timeout = {net}, \
         SESSION wait_timeout = 28800"
    )
}

/// The server has no number that a connection had from its beginning and that another can read, but its own begin, of which
/// both terms come from the clock of this one statement, and connection ids, which begin anew with it.
const WHO_AM_I: &str = "SELECT CONNECTION_ID(), CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS SIGNED), VERSION(), @@sql_mode, \
    CURRENT_USER() FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'";

/// See [`WHO_AM_I`].
pub(super) const STARTED: &str = "SELECT CAST(UNIX_TIMESTAMP() - VARIABLE_VALUE AS SIGNED), @@read_only \
    FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'";

/// `10.11.19-MariaDB-0+deb12u1`, or with `5.5.5-` before it, is 101119.
fn number_of_version(version: &str) -> Option<u32> {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let (numbers, rest) = version.split_once('-')?;
    let mut numbers = numbers.split('.').map(|n| n.parse::<u32>().ok());
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    rest.contains("MariaDB").then_some(major * 10_000 + minor * 100 + patch)
}

/// Connection ids have 32 bits without a sign.
fn pid_of(id: u32) -> i32 {
    i32::from_ne_bytes(id.to_ne_bytes())
}

/// The id that a binding means.
pub(super) fn id_of(binding: &Binding) -> u32 {
    u32::from_ne_bytes(binding.pid.to_ne_bytes())
}

/// The server's error, when it answered and the session lives on.
pub(super) fn answered(error: &Error) -> Option<&ServerError> {
    match error {
        // The connection was killed, or the server shuts down: what became of the last statement is not known.
        Error::Server(e) if matches!(e.code, 1053 | 1079 | 1080 | 1152 | 1184 | 1927) => None,
        Error::Server(e) => Some(e),
        _ => None,
    }
}

/// What an error means for a statement that is safe to repeat.
pub(super) fn on_repeatable(error: &Error) -> EngineError {
    match answered(error) {
        Some(e) => on_answer(e),
        None => EngineError::Unavailable { reason: lost(error) },
    }
}

/// Lock wait, deadlock, conflicting read lock, too many connections, interrupted, out of time, resource limit: the same may succeed
/// later.
pub(super) fn on_answer(error: &ServerError) -> EngineError {
    let (code, message) = (error.code.to_string(), error.message.clone());
    match error.code {
        1040 | 1041 | 1203 | 1205 | 1213 | 1223 | 1226 | 1317 | 1969 | 3024 => EngineError::Busy { code, message },
        _ => EngineError::Refused { code, message },
    }
}

fn on_connect(error: &Error) -> EngineError {
    match error {
        Error::Server(e) if matches!(e.code, 1044 | 1045 | 1130 | 1227 | 1251 | 1275 | 1524 | 1698 | 3118 | 4151) => {
            // All of them are about who logs in: another password may be right.
            let code = if matches!(e.code, 1045 | 1698) { "1045".to_owned() } else { e.code.to_string() };
            EngineError::Refused { code, message: e.message.clone() }
        }
        Error::Server(e) => EngineError::Unavailable { reason: e.message.clone() },
        Error::Io(mysql_async::IoError::Tls(why)) => {
            EngineError::Refused { code: "TLS".to_owned(), message: why.to_string() }
        }
        other => match distrust(other) {
            Some(message) => EngineError::Refused { code: "TLS".to_owned(), message },
            None => EngineError::Unavailable { reason: lost(other) },
        },
    }
}

/// What of an error while connecting is about trust: TLS that it does not speak, a certificate, a way to prove the password that we
/// do not take.
fn distrust(error: &Error) -> Option<String> {
    if let Error::Driver(why) = error {
        let refused = matches!(
            why,
            DriverError::NoClientSslFlagFromServer
                | DriverError::UnknownAuthPlugin { .. }
                | DriverError::MysqlOldPasswordDisabled
                | DriverError::CleartextPluginDisabled
        );
        return refused.then(|| why.to_string());
    }
    crate::tls::distrust(error)
}

fn lost(error: &Error) -> String {
    match error {
        Error::Server(e) => e.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mariadb_that_can_lock_accounts() {
        assert_eq!(number_of_version("10.11.19-MariaDB-0+deb12u1"), Some(101_119));
        assert_eq!(number_of_version("5.5.5-11.4.2-MariaDB-log"), Some(110_402));
        for other in ["8.4.0", "8.0.36-0ubuntu", "10.11-MariaDB", "", "x.y.z-MariaDB"] {
            assert_eq!(number_of_version(other), None, "{other:?}");
        }
        assert_eq!(id_of(&Binding { pid: pid_of(u32::MAX - 1), backend_start_micros: 0 }), u32::MAX - 1);
    }
}
