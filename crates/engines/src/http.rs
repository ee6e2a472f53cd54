//! HTTP/1.1 to targets that are reached so: requests one after the other over one kept connection.
//!
//! It does what an executor needs and nothing else: no redirect is followed, no proxy of the environment is asked, no cookie is
//! kept, nothing is decompressed, and no call is sent twice unless it can have no effect or its caller says that it may be.
//!
//! Every call ends one of three ways, and [`HttpError`] keeps them apart: it was *not sent*; it was *answered*, whatever
//! with; or its *outcome is unknown*, since an answer was lost, came too late, or can't be read. A call that is given up has its
//! connection closed, so that the next one can't be given its answer. That takes nothing back: a server reads on.
//!
//! # Security
//! * A secret in a request, a header or the body, is wiped when the request is dropped, and `Debug` shows none. The copies that are
//!   made while it is sent are freed, and so wiped by the allocator of whoever has one that does.
//! * Answers have a limit of size, as their headers have, and calls one of time, so that a hostile server costs little.

mod request;

use core::fmt;
use core::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{HeaderMap, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

#[cfg(feature = "aws")]
pub(crate) use self::request::FORM;
pub use self::request::{Path, Repeat, Request};
use crate::contained::contained;
use crate::{Endpoint, EngineError, Tls};

/// The longest head of an answer, and how much of a body is read at once.
const MAX_HEAD: usize = 64 * 1024;
/// How much of what a server says of its refusal is kept.
const MAX_WORDS: usize = 500;

/// Where a server is, and how much patience there is with it.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Directly: a proxy that changes or repeats requests breaks what is promised of them.
    pub endpoint: Endpoint,
    /// Whether the connection is encrypted. There is no channel binding.
    pub tls: Tls,
    /// For a connection, from the name look-up to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// For one call, from its first byte to the last of its answer.
    pub answer_timeout: Duration,
    /// The longest body of an answer, in bytes.
    pub max_answer: usize,
}

/// A server. Connects when first asked for something, and again when the connection has ended.
#[derive(Debug)]
pub struct Http {
    config: HttpConfig,
    host: HeaderValue,
    kept: Mutex<Option<Connection>>,
}

impl Http {
    /// # Errors
    /// [`EngineError::Invalid`] when a field of `config` can't be used.
    pub fn new(config: HttpConfig) -> Result<Self, EngineError> {
        if let Tls::Verified(trust) = &config.tls
            && trust.requires_binding()
        {
            return Err(EngineError::Invalid { field: "tls", reason: "HTTP has no channel binding" });
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        let name = config.endpoint.host.as_str();
        let mut said = config.endpoint.to_string();
        // As every client says it (RFC 9110 section 7.2), and as those who sign it expect.
        let usual = if matches!(config.tls, Tls::Disabled) { 80 } else { 443 };
        if config.endpoint.port == usual
            && let Some((bare, _)) = said.rsplit_once(':')
        {
            said = bare.to_owned();
        }
        let host = HeaderValue::try_from(said);
        match host {
            Ok(host) if !name.is_empty() && name.bytes().all(plain) => {
                Ok(Self { config, host, kept: Mutex::default() })
            }
            _ => Err(EngineError::Invalid { field: "host", reason: "neither a host name nor an address" }),
        }
    }

    /// What each request says of where it is sent to.
    #[cfg(feature = "aws")]
    pub(crate) fn host(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }

    /// Sends a request and waits for its answer, of whatever status. One caller at a time.
    ///
    /// It is sent again, once and on a fresh connection, when it was not sent on the kept one, which the server may have
    /// closed meanwhile; and also when its answer was lost there, if it may be repeated ([`Repeat`]).
    ///
    /// # Errors
    /// [`HttpError::NotSent`], [`HttpError::Distrusted`], [`HttpError::Unknown`]; never [`HttpError::Answered`].
    pub async fn call(&self, request: &Request) -> Result<Answer, HttpError> {
        let mut slot = self.kept.lock().await;
        // Out of its place while it is used: who gives up leaves none behind.
        if let Some(mut kept) = slot.take().filter(Connection::is_open) {
            match kept.call(request, &self.config, &self.host).await {
                Ok(answer) => {
                    *slot = Some(kept);
                    return Ok(answer);
                }
                Err(HttpError::NotSent { .. }) => {}
                Err(HttpError::Unknown { .. }) if request.repeat == Repeat::Once && !kept.is_late => {}
                Err(error) => return Err(error),
            }
        }
        let mut fresh = Connection::open(&self.config).await?;
        let answer = fresh.call(request, &self.config, &self.host).await?;
        *slot = Some(fresh);
        Ok(answer)
    }
}

/// One connection. Dropping it closes the socket.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    /// Its last call took all the time that it had.
    is_late: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    async fn open(config: &HttpConfig) -> Result<Self, HttpError> {
        let mut waiting_for = "the connection";
        let connect = async {
            let Endpoint { host, port } = &config.endpoint;
            let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|e| not_sent(&e))?;
            tcp.set_nodelay(true).map_err(|e| not_sent(&e))?;
            match &config.tls {
                Tls::Disabled => drive(tcp).await,
                Tls::Verified(trust) => {
                    waiting_for = "TLS";
                    let encrypted = trust.connect(host, tcp).await.map_err(|error| match error {
                        EngineError::Refused { message, .. } => HttpError::Distrusted { reason: message },
                        EngineError::Unavailable { reason } => HttpError::NotSent { reason },
                        other => HttpError::NotSent { reason: other.to_string() },
                    })?;
                    drive(encrypted).await
                }
            }
        };
        match timeout_at(Instant::now() + config.connect_timeout, connect).await {
            Ok(opened) => opened,
            Err(_) => Err(HttpError::NotSent { reason: format!("timed out while waiting for {waiting_for}") }),
        }
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.driver.is_finished()
    }

    async fn call(&mut self, request: &Request, config: &HttpConfig, host: &HeaderValue) -> Result<Answer, HttpError> {
        let deadline = Instant::now() + config.answer_timeout;
        let wire = request.to_wire(host)?;
        // Until it takes a request, none has left.
        match timeout_at(deadline, self.sender.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(not_sent(&error)),
            Err(_) => return Err(HttpError::NotSent { reason: "the connection takes no request".to_owned() }),
        }
        let work = async {
            let answered = self.sender.try_send_request(wire).await.map_err(|mut error| {
                // It gives back what it has not begun to write.
                if error.take_message().is_some() { not_sent(error.error()) } else { unknown(error.error()) }
            })?;
            read(answered, config.max_answer).await
        };
        match timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => {
                self.is_late = true;
                Err(HttpError::Unknown { reason: "no answer in time".to_owned() })
            }
        }
    }
}

/// Has the connection work by itself, until it ends or its handle is told to.
async fn drive<S>(stream: S) -> Result<Connection, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    // Head and body of a request leave at once, so that a server that has met the one has the other.
    builder.max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD).writev(false);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| not_sent(&e))?;
    let driver = contained(async move {
        // Whoever waits for an answer is told of the error.
        let _ended = connection.await;
        Ok(())
    });
    Ok(Connection { sender, driver: tokio::spawn(async { drop(driver.await) }), is_late: false })
}

async fn read(answered: hyper::Response<Incoming>, limit: usize) -> Result<Answer, HttpError> {
    let (status, headers) = (answered.status(), answered.headers().clone());
    let body = Limited::new(answered.into_body(), limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return HttpError::Unknown { reason: format!("{status}, and a body of more than {limit} bytes") };
        }
        HttpError::Unknown { reason: format!("{status}, and then: {}", chain(&*error)) }
    })?;
    Ok(Answer { status: status.as_u16(), headers, body: body.to_bytes() })
}

/// What a server answered: nothing is known of it but that it came as the answer to this call.
pub struct Answer {
    /// The status code (RFC 9110 section 15).
    pub status: u16,
    /// Its headers, of which some may be signatures.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl Answer {
    /// The answer, if it says success.
    ///
    /// # Errors
    /// [`HttpError::Answered`] with what `words` finds in the body, or else with the status' own name.
    pub fn success(self, words: impl FnOnce(&[u8]) -> Option<String>) -> Result<Self, HttpError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let named = || StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason()).map(str::to_owned);
        let mut words = words(&self.body).filter(|words| !words.is_empty()).or_else(named).unwrap_or_default();
        words.retain(|c| !c.is_control());
        let end = words.char_indices().nth(MAX_WORDS).map_or(words.len(), |(at, _)| at);
        words.truncate(end);
        Err(HttpError::Answered { status: self.status, words })
    }
}

/// How a call ended without the answer that was wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Nothing of the request has left: the same again is as good as the first.
    #[error("not sent: {reason}")]
    NotSent {
        /// What happened.
        reason: String,
    },
    /// Nothing has left, since the server is not whom it should be. The same again will end so again.
    #[error("not sent: {reason}")]
    Distrusted {
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The server answered, with another status than was wanted.
    #[error("answered with {status}: {words}")]
    Answered {
        /// The status code.
        status: u16,
        /// The server's words.
        words: String,
    },
    /// Some of the request may have arrived: it may have been done, or may yet be.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl From<HttpError> for EngineError {
    /// What a server says that it can't do now has no effect (429, 503). Any other failure of its own (5xx) says nothing of the effect.
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::NotSent { reason } => Self::Unavailable { reason },
            HttpError::Distrusted { reason } => Self::Refused { code: "TLS".to_owned(), message: reason },
            HttpError::Answered { status: status @ (429 | 503), words } => {
                Self::Busy { code: status.to_string(), message: words }
            }
            HttpError::Answered { status: status @ 500.., words } => {
                Self::Unknown { reason: format!("the target failed: {words} ({status})") }
            }
            HttpError::Answered { status, words } => Self::Refused { code: status.to_string(), message: words },
            HttpError::Unknown { reason } => Self::Unknown { reason },
        }
    }
}

fn not_sent(error: &(dyn core::error::Error + 'static)) -> HttpError {
    HttpError::NotSent { reason: chain(error) }
}

fn unknown(error: &(dyn core::error::Error + 'static)) -> HttpError {
    HttpError::Unknown { reason: chain(error) }
}

/// An error and what is behind it. None of the layers below has words of a request or an answer in its own.
fn chain(error: &(dyn core::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
