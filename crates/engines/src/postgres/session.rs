//! One connection of ours, and what PostgreSQL's errors mean.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use quorate_crypto::secret::SecretVec;
use rustls::pki_types::InvalidDnsNameError;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::{MakeTlsConnect, TlsStream};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Connection, NoTls};

use super::PostgresConfig;
use super::tls::distrust;
use crate::bounded::Bounded;
use crate::contained::contained;
use crate::own::Open;
use crate::{Binding, Endpoint, EngineError, Tls};

/// How often a silent connection shows that it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// An open connection. Dropping it closes the socket at once, and what it was doing rolls back.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) binding: Binding,
    /// The server's `system_identifier`, which its standbys share.
    pub(super) system: i64,
    driver: JoinHandle<()>,
    _open: Option<Open>,
}

impl Session {
    /// Connects, authenticates and asks which backend answers.
    pub(super) async fn open(
        config: &PostgresConfig,
        endpoint: &Endpoint,
        dbname: &str,
        lock_timeout_ms: u128,
    ) -> Result<Self, EngineError> {
        let login = |password: Arc<SecretVec>| async move {
            Self::open_with(config, &password, endpoint, dbname, lock_timeout_ms).await
        };
        // A standby may be behind, and other databases may have other rules for who connects.
        if *endpoint == config.endpoint() && dbname == config.dbname {
            config.passwords.log_in(login).await
        } else {
            config.passwords.log_in_aside(login).await.map(|(_, session)| session)
        }
    }

    async fn open_with(
        config: &PostgresConfig,
        password: &SecretVec,
        endpoint: &Endpoint,
        dbname: &str,
        lock_timeout_ms: u128,
    ) -> Result<Self, EngineError> {
        let statement_timeout_ms = config.statement_timeout.as_millis();
        let commit = if config.remote_apply { "remote_apply" } else { "on" };
        // What the role or the database sets by default must not change what our statements mean, nor how sure a commit
        // is. A leased user may own functions and operators in any schema it can write to, so none of them is searched.
        let options = format!(
            "-c search_path={SEARCH_PATH} -c synchronous_commit={commit} -c standard_conforming_strings=on \
             -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off \
             -c idle_in_transaction_session_timeout=30000 -c lock_timeout={lock_timeout_ms} \
             -c statement_timeout={statement_timeout_ms}"
        );
        let mut pg = Config::new();
        pg.dbname(dbname)
            .user(&config.user)
            .password(password.expose())
            .application_name(config.application_name())
            .options(options);
        let connect = async {
            let _opening = config.own.opening().await;
            let stream = reach(endpoint, config.answer_timeout()).await.map_err(Unreached::Stream)?;
            let (client, driver) = match &config.tls {
                Tls::Disabled => drive(pg.ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await?),
                Tls::Verified(trust) => {
                    let binding =
                        if trust.requires_binding() { ChannelBinding::Require } else { ChannelBinding::Prefer };
                    let tls =
                        MakeTlsConnect::<Bounded<TcpStream>>::make_tls_connect(&mut trust.clone(), &endpoint.host);
                    let tls = tls.map_err(Unreached::Name)?;
                    drive(pg.ssl_mode(SslMode::Require).channel_binding(binding).connect_raw(stream, tls).await?)
                }
            };
            // Aborts the driver if the caller gives up on the next line.
            let mut session =
                Self { client, binding: Binding { pid: 0, backend_start_micros: 0 }, system: 0, driver, _open: None };
            let row = session.client.query_typed_one(WHO_AM_I, &[(&SEARCH_PATH, Type::TEXT)]).await?;
            session.binding = Binding { pid: row.try_get(0)?, backend_start_micros: row.try_get(1)? };
            session.system = row.try_get(2)?;
            session._open = Some(config.own.open(endpoint, session.binding));
            let heeded: bool = row.try_get(3)?;
            Ok::<_, Unreached>((session, heeded))
        };
        match timeout(config.connect_timeout, connect).await {
            Ok(Ok((session, true))) => Ok(session),
            Ok(Ok((_, false))) => Err(through_pooler("the server does not get what a connection begins with")),
            Ok(Err(Unreached::Server(error))) => Err(on_connect(&error)),
            Ok(Err(Unreached::Name(error))) => {
                Err(EngineError::Refused { code: "TLS".to_owned(), message: error.to_string() })
            }
            Ok(Err(Unreached::Stream(error))) => Err(EngineError::Unavailable { reason: error.to_string() }),
            Err(_) => Err(EngineError::Unavailable { reason: "timed out while connecting".into() }),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why there is no connection.
enum Unreached {
    Stream(io::Error),
    Name(InvalidDnsNameError),
    Server(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Unreached {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

/// A stream to the server, and not by the driver, which bounds no answer. What is sent and not acknowledged for `unheard` ends it.
async fn reach(endpoint: &Endpoint, unheard: Duration) -> io::Result<Bounded<TcpStream>> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    // A connection may wait for hours for its work, and what lies between forgets those that say nothing.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(unheard))?;
    Ok(Bounded::new(stream))
}

/// Has the connection work by itself, until it ends or its handle is told to.
fn drive<T: TlsStream + Unpin + Send + 'static>(
    (client, connection): (Client, Connection<Bounded<TcpStream>, T>),
) -> (Client, JoinHandle<()>) {
    let driver = tokio::spawn(async move {
        // Its error is the one that every waiting statement gets too.
        let _ = contained(async {
            let _ = connection.await;
            Ok(())
        })
        .await;
    });
    (client, driver)
}

/// Only the system's own.
const SEARCH_PATH: &str = "pg_catalog,pg_temp";
/// And whether what was asked for at the beginning holds.
const WHO_AM_I: &str = "SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint, \
     (SELECT system_identifier FROM pg_control_system()), current_setting('search_path') = $1 \
     FROM pg_stat_get_activity(pg_backend_pid()) a";

/// A parameter that the driver, which prints parameters at its debug level, can't print.
pub(super) struct Unprinted<'a>(pub(super) &'a str);

impl fmt::Debug for Unprinted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl ToSql for Unprinted<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn core::error::Error + Sync + Send>> {
        self.0.to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// The SQLSTATE, when the server answered and the session lives on. After a FATAL the session does not, and whether its
/// last statement committed is not known: termination can arrive between the commit and the answer.
pub(super) fn code(error: &tokio_postgres::Error) -> Option<&str> {
    answered(error).map(|db| db.code().code())
}

fn answered(error: &tokio_postgres::Error) -> Option<&DbError> {
    error.as_db_error().filter(|db| db.parsed_severity() == Some(Severity::Error))
}

/// What an error means for a statement that is safe to repeat.
pub(super) fn on_repeatable(error: &tokio_postgres::Error) -> EngineError {
    match answered(error) {
        Some(db) => on_answer(db),
        None => EngineError::Unavailable { reason: lost(error) },
    }
}

/// What an error means for a create that was sent.
pub(super) fn on_create(error: &tokio_postgres::Error) -> EngineError {
    match answered(error) {
        Some(db) if is_duplicate(db.code().code()) => EngineError::Duplicate,
        Some(db) if db.code().code() == WRONG_BACKEND => through_pooler(db.message()),
        Some(db) => on_answer(db),
        None => EngineError::Unknown { reason: lost(error) },
    }
}

fn on_connect(error: &tokio_postgres::Error) -> EngineError {
    match error.as_db_error() {
        // No server says that: it would say which setting it does not know.
        Some(db) if db.message().starts_with("unsupported startup parameter") => through_pooler(db.message()),
        Some(db) if matches!(class(db.code().code()), "28" | "3D" | "42") => refused(db),
        Some(db) => EngineError::Unavailable { reason: db.message().to_owned() },
        None => match distrust(error) {
            Some(message) => EngineError::Refused { code: "TLS".to_owned(), message },
            None => EngineError::Unavailable { reason: lost(error) },
        },
    }
}

fn on_answer(db: &DbError) -> EngineError {
    let code = db.code().code();
    // 40: rolled back, 53: resources, 55: lock not available, 57: cancelled, XX: among others "tuple concurrently
    // updated". What they have in common is that the same may succeed later.
    if matches!(class(code), "40" | "53" | "55" | "57" | "XX") {
        return EngineError::Busy { code: code.to_owned(), message: db.message().to_owned() };
    }
    refused(db)
}

fn refused(db: &DbError) -> EngineError {
    EngineError::Refused { code: db.code().code().to_owned(), message: db.message().to_owned() }
}

/// What answers is no server.
fn through_pooler(what: &str) -> EngineError {
    let message = format!("{what}: a connection pooler is between, and the vault connects to the server itself");
    EngineError::Refused { code: WRONG_BACKEND.to_owned(), message }
}

/// What is known of a connection that broke.
fn lost(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), core::error::Error::source(error)) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

/// Raised by our own block when another backend runs it: a pooler, which is not allowed between us and the target. It stands for
/// whatever else shows that there is one.
pub(super) const WRONG_BACKEND: &str = "QU001";

/// `duplicate_object`, or the unique index on names when the other create committed while this one waited for it.
pub(super) fn is_duplicate(code: &str) -> bool {
    matches!(code, "42710" | "23505")
}

/// Somebody holds what the statement needs: `lock_not_available`, `deadlock_detected`, `query_canceled`, and "tuple
/// concurrently updated", which has no code of its own.
pub(super) fn is_blocked(code: &str) -> bool {
    matches!(code, "55P03" | "40P01" | "57014" | "XX000")
}
