//! One connection of ours, and what Redis's errors mean.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_crypto::secret::SecretVec;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::RedisConfig;
use crate::bounded::Bounded;
use crate::contained::contained;
use crate::own::Open;
use crate::{Binding, EngineError, Tls, number_of};

/// How often a script that was told to end is waited for, and how long each time.
const SCRIPT_WAITS: usize = 50;
const SCRIPT_WAIT: Duration = Duration::from_millis(20);

/// Where a server keeps its users, and so what a restart brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// `aclfile`: written by `ACL SAVE`.
    AclFile,
    /// The configuration file: written by `CONFIG REWRITE`.
    ConfigFile,
    /// Nowhere: a restart forgets all of them.
    Nowhere,
    /// We may not ask.
    Unseen,
}

/// An open connection. Dropping it closes the socket. That takes nothing back: the server reads on what was sent before.
pub(super) struct Session {
    connection: MultiplexedConnection,
    pub(super) binding: Binding,
    pub(super) persistence: Persistence,
    pub(super) version: u32,
    driver: Driver,
    _open: Option<Open>,
}

/// What has the connection work by itself.
struct Driver {
    task: JoinHandle<()>,
    /// How many bytes it has got rid of.
    sent: Arc<AtomicU64>,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("binding", &self.binding).finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.task.abort();
    }
}

impl Session {
    /// Connects, authenticates and asks who answers.
    pub(super) async fn open(config: &RedisConfig) -> Result<Self, EngineError> {
        let login = |password: Arc<SecretVec>| async move { Self::open_with(config, &password).await };
        config.passwords.log_in(login).await
    }

    async fn open_with(config: &RedisConfig, password: &SecretVec) -> Result<Self, EngineError> {
        let mut waiting_for = "the connection";
        let connect = async {
            let _opening = config.own.opening().await;
            let mut session = Self::log_in(config, password, &mut waiting_for).await?;
            session.unblock(config.end_scripts).await?;
            session.call(redis::cmd("CLIENT").arg("SETNAME").arg(config.client_name())).await?;
            let Value::Int(id) = session.call(redis::cmd("CLIENT").arg("ID")).await? else {
                return Err(unexpected("CLIENT ID"));
            };
            let info = session.info("server").await?;
            session.version = version(info.get("redis_version").map_or("", String::as_str));
            if session.version < super::OLDEST {
                let message = "Redis before 7.0: its rights can't be said of single keys and commands".to_owned();
                return Err(EngineError::Refused { code: "VERSION".to_owned(), message });
            }
            let process = info.get("run_id").filter(|id| !id.is_empty()).ok_or_else(|| unexpected("INFO server"))?;
            session.binding = Binding { pid: process_number(process), backend_start_micros: id };
            session.persistence = session.persistence(info.get("config_file").is_some_and(|f| !f.is_empty())).await?;
            session._open = Some(config.own.open(&config.endpoint, session.binding));
            Ok(session)
        };
        match timeout(config.connect_timeout, connect).await {
            Ok(result) => result,
            Err(_) => Err(EngineError::Unavailable { reason: format!("timed out while waiting for {waiting_for}") }),
        }
    }

    /// A connection that is let in, of which nothing is known.
    async fn log_in(
        config: &RedisConfig,
        password: &SecretVec,
        waiting_for: &mut &'static str,
    ) -> Result<Self, EngineError> {
        let host = config.endpoint.host.as_str();
        let tcp = TcpStream::connect((host, config.endpoint.port)).await.map_err(|e| lost(&e))?;
        tcp.set_nodelay(true).map_err(|e| lost(&e))?;
        let (connection, driver) = match &config.tls {
            Tls::Disabled => drive(tcp).await?,
            Tls::Verified(trust) => {
                // A port without TLS waits for the end of a line.
                *waiting_for = "TLS";
                drive(trust.connect(host, tcp).await?).await?
            }
        };
        *waiting_for = "the login";
        let unbound = Binding { pid: 0, backend_start_micros: 0 };
        let persistence = Persistence::Unseen;
        let mut session = Self { connection, binding: unbound, persistence, version: 0, driver, _open: None };
        let mut auth = redis::cmd("AUTH");
        auth.arg(&config.user).arg(password.expose());
        session.call(&auth).await?;
        Ok(session)
    }

    /// In, and out again.
    pub(super) async fn visit(config: &RedisConfig) -> Result<(), EngineError> {
        let login = |password: Arc<SecretVec>| async move {
            let mut waiting_for = "the connection";
            match timeout(config.connect_timeout, Self::log_in(config, &password, &mut waiting_for)).await {
                Ok(result) => result.map(drop),
                Err(_) => {
                    Err(EngineError::Unavailable { reason: format!("timed out while waiting for {waiting_for}") })
                }
            }
        };
        config.passwords.log_in(login).await
    }

    async fn persistence(&mut self, has_config_file: bool) -> Result<Persistence, EngineError> {
        match self.call(redis::cmd("CONFIG").arg("GET").arg("aclfile")).await {
            Ok(answer) => {
                let set = texts(&answer).get(1).is_some_and(|file| !file.is_empty());
                Ok(match (set, has_config_file) {
                    (true, _) => Persistence::AclFile,
                    (false, true) => Persistence::ConfigFile,
                    (false, false) => Persistence::Nowhere,
                })
            }
            Err(EngineError::Refused { .. }) => Ok(Persistence::Unseen),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.driver.task.is_finished()
    }

    /// Sends a command which is safe to repeat, and waits for its answer for as long as it takes.
    pub(super) async fn call(&mut self, command: &Cmd) -> Result<Value, EngineError> {
        answer(self.connection.send_packed_command(command).await)
    }

    /// The same for a command that belongs to this connection alone, because of its binding.
    ///
    /// # Errors
    /// [`EngineError::StaleBinding`] when the connection turns out to be gone and not a byte of the command has left: whoever ended it did
    /// so before. As [`Session::call`] otherwise. Of what has left the server may have read all, and have ended the connection after.
    pub(super) async fn call_bound(&mut self, command: &Cmd) -> Result<Value, EngineError> {
        let before = self.driver.sent.load(Ordering::Acquire);
        let result = self.call(command).await;
        if !matches!(result, Err(EngineError::Unavailable { .. })) {
            return result;
        }
        // Nothing leaves any more once it is over, whatever it still had to send.
        self.driver.task.abort();
        if !self.driver.task.is_finished() {
            let _ended = (&mut self.driver.task).await;
        }
        if self.driver.sent.load(Ordering::Acquire) == before { Err(EngineError::StaleBinding) } else { result }
    }

    /// Sends several at once. The answer of each is its own; an error here is about the connection.
    pub(super) async fn call_all(
        &mut self,
        commands: &Pipeline,
        count: usize,
    ) -> Result<Vec<Result<Value, EngineError>>, EngineError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let answers = self.connection.send_packed_commands(commands, 0, count).await.map_err(|e| on_error(&e))?;
        if answers.len() != count {
            return Err(unexpected("a pipeline"));
        }
        Ok(answers.into_iter().map(|value| answer(Ok(value))).collect())
    }

    /// A section of the server's own view of itself.
    pub(super) async fn info(&mut self, section: &str) -> Result<BTreeMap<String, String>, EngineError> {
        let answer = self.call(redis::cmd("INFO").arg(section)).await?;
        let text = text(&answer).unwrap_or_default();
        let field = |line: &str| line.trim().split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(text.lines().filter_map(field).collect())
    }

    /// Whether the server listens. A script that runs for longer than `busy-reply-threshold` makes it deaf to all that ends
    /// principals, and a principal may be who runs it: it is ended, if we are told to.
    pub(super) async fn unblock(&mut self, end_scripts: bool) -> Result<(), EngineError> {
        let mut waited = 0;
        loop {
            match self.call(&redis::cmd("PING")).await {
                Ok(_) => return Ok(()),
                Err(error @ EngineError::Busy { .. })
                    if !end_scripts || waited == SCRIPT_WAITS || !is_script(&error) =>
                {
                    return Err(error);
                }
                Err(EngineError::Busy { .. }) => {
                    // One of them is right, and the other's refusal says nothing. What has written can't be ended.
                    for what in ["SCRIPT", "FUNCTION"] {
                        match self.call(redis::cmd(what).arg("KILL")).await {
                            Err(error @ EngineError::Busy { .. }) if is_unkillable(&error) => return Err(error),
                            Err(error @ EngineError::Unavailable { .. }) => return Err(error),
                            _ => {}
                        }
                    }
                    waited += 1;
                    sleep(SCRIPT_WAIT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the server's users outlive a restart as they are now.
    pub(super) async fn save(&mut self) -> Result<(), EngineError> {
        match self.persistence {
            Persistence::AclFile | Persistence::Unseen => self.call(redis::cmd("ACL").arg("SAVE")).await?,
            Persistence::ConfigFile => self.call(redis::cmd("CONFIG").arg("REWRITE")).await?,
            Persistence::Nowhere => return Ok(()),
        };
        Ok(())
    }
}

/// Has the connection work by itself, until it ends or its handle is told to.
async fn drive<S>(stream: S) -> Result<(MultiplexedConnection, Driver), EngineError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The limits are ours, over whole calls: the driver's would leave a connection behind that still is at work.
    let settings = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let info = RedisConnectionInfo::default().set_skip_set_lib_name();
    let stream = Bounded::new(stream);
    // The driver has one error for a command that it never began to write and for one of which the answer is lost.
    let sent = stream.sent();
    let made = MultiplexedConnection::new_with_config(&info, stream, settings).await;
    let (connection, driver) = made.map_err(|e| on_error(&e))?;
    let driver = contained(async {
        driver.await;
        Ok(())
    });
    Ok((connection, Driver { task: tokio::spawn(async { drop(driver.await) }), sent }))
}

/// 31 bits of the server's `run_id`, which it draws anew each time it starts.
fn process_number(run_id: &str) -> i32 {
    number_of(run_id).cast_signed() & i32::MAX
}

/// 7.0.15 is 70015.
fn version(text: &str) -> u32 {
    let part = |n: usize| text.split('.').nth(n).and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
    part(0).saturating_mul(10_000) + part(1).min(99) * 100 + part(2).min(99)
}

/// The text of an answer that is one.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        _ => None,
    }
}

/// The texts of an answer that is a list; what is no text is an empty one.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) | Value::Set(items) => items.iter().map(|item| text(item).unwrap_or_default()).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn unexpected(what: &str) -> EngineError {
    EngineError::Unavailable { reason: format!("{what} was answered with what can't be read") }
}

fn lost(error: &std::io::Error) -> EngineError {
    EngineError::Unavailable { reason: error.to_string() }
}

pub(super) fn answer(result: RedisResult<Value>) -> Result<Value, EngineError> {
    match result {
        Ok(Value::ServerError(error)) => Err(on_answer(error.code(), error.details().unwrap_or_default())),
        Ok(value) => Ok(value),
        Err(error) => Err(on_error(&error)),
    }
}

/// What an error means for what is safe to repeat.
fn on_error(error: &RedisError) -> EngineError {
    match error.code() {
        Some(code) => on_answer(code, error.detail().unwrap_or_default()),
        None => EngineError::Unavailable { reason: error.to_string() },
    }
}

fn on_answer(code: &str, message: &str) -> EngineError {
    let (code, message) = (code.to_owned(), message.to_owned());
    match code.as_str() {
        // What they have in common is that the same may succeed later.
        "BUSY" | "UNKILLABLE" | "LOADING" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" | "MISCONF" | "OOM" => {
            EngineError::Busy { code, message }
        }
        // All slots are taken: there is no connection yet.
        _ if message.starts_with("max number of clients") => EngineError::Unavailable { reason: message },
        _ => EngineError::Refused { code, message },
    }
}

fn is_script(error: &EngineError) -> bool {
    matches!(error, EngineError::Busy { code, .. } if code == "BUSY")
}

fn is_unkillable(error: &EngineError) -> bool {
    matches!(error, EngineError::Busy { code, .. } if code == "UNKILLABLE")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// An open connection, and its other end.
    async fn connected() -> (Session, DuplexStream) {
        let (near, far) = tokio::io::duplex(4_096);
        let (connection, driver) = drive(near).await.unwrap();
        let (binding, persistence) = (Binding { pid: 1, backend_start_micros: 1 }, Persistence::Nowhere);
        (Session { connection, binding, persistence, version: super::super::OLDEST, driver, _open: None }, far)
    }

    #[tokio::test]
    async fn what_has_not_left_is_stale_and_of_what_has_left_nobody_knows() {
        let command = redis::cmd("ACL").arg("SETUSER").arg("q").to_owned();
        // Ended before, and nobody here has noticed: the driver runs on this thread, and only once we wait.
        let (mut session, far) = connected().await;
        drop(far);
        assert!(!session.is_closed());
        assert_eq!(session.call_bound(&command).await, Err(EngineError::StaleBinding));
        assert!(session.is_closed(), "and nothing leaves later");

        // Read, and ended then: it may have been done.
        let (mut session, mut far) = connected().await;
        let reads = tokio::spawn(async move { far.read_u8().await });
        let lost = session.call_bound(&command).await;
        assert!(matches!(lost, Err(EngineError::Unavailable { .. })), "{lost:?}");
        assert_eq!(reads.await.unwrap().unwrap(), b'*', "it was on its way");

        // An answer is one, whatever comes after.
        let (mut session, mut far) = connected().await;
        let answers = tokio::spawn(async move {
            far.read_u8().await.unwrap();
            far.write_all(b"+OK\r\n").await
        });
        assert_eq!(session.call_bound(&command).await, Ok(Value::Okay));
        answers.await.unwrap().unwrap();
    }

    #[test]
    fn versions_are_read() {
        assert_eq!((version("7.0.15"), version("6.2.14"), version("8.0"), version("")), (70_015, 60_214, 80_000, 0));
    }

    #[test]
    fn a_process_has_a_number_that_is_not_negative() {
        let numbers: Vec<i32> = (0..100).map(|i| process_number(&i.to_string())).collect();
        assert!(numbers.iter().all(|n| *n >= 0), "{numbers:?}");
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 100);
    }
}
