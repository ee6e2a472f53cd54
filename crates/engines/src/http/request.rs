//! What is asked of a server.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quorate_crypto::secret::SecretVec;

use super::HttpError;
use crate::EngineError;

/// The type of a form's body, for those who sign it.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// All but the unreserved characters (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path, and perhaps a query, in which no value can be taken for anything but a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// `/` alone, for services that are told in the body what is asked.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Each segment is encoded, also a slash in it.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for none, and for a segment that servers take for something else: an empty one, `.` and `..`
    /// (RFC 3986 section 5.2.4).
    pub fn new(segments: &[&str]) -> Result<Self, EngineError> {
        if segments.is_empty() || segments.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            return Err(EngineError::Invalid { field: "path", reason: "a part of it is empty, or one or two dots" });
        }
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, RESERVED));
        }
        Ok(Self(path))
    }

    /// Adds a parameter to the query.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.extend(utf8_percent_encode(name, RESERVED));
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, RESERVED));
        self
    }
}

/// Whether a call may be sent a second time when the answer to the first is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// What it does, it may do once.
    Never,
    /// It changes nothing, or twice is as good as once and late as good as in time.
    Once,
}

/// What is asked. `Debug` shows the method and the path.
pub struct Request {
    method: Method,
    path: Path,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    pub(super) repeat: Repeat,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Request {
    /// Asks for something; may be repeated.
    #[must_use]
    pub fn get(path: Path) -> Self {
        Self::new(Method::GET, path, Repeat::Once)
    }

    /// Changes something; is sent once.
    #[must_use]
    pub fn put(path: Path) -> Self {
        Self::new(Method::PUT, path, Repeat::Never)
    }

    /// Changes something; is sent once.
    #[must_use]
    pub fn post(path: Path) -> Self {
        Self::new(Method::POST, path, Repeat::Never)
    }

    /// Removes something; is sent once.
    #[must_use]
    pub fn delete(path: Path) -> Self {
        Self::new(Method::DELETE, path, Repeat::Never)
    }

    fn new(method: Method, path: Path, repeat: Repeat) -> Self {
        Self { method, path, headers: Vec::new(), body: Bytes::new(), repeat }
    }

    /// May be sent a second time, or not.
    #[must_use]
    pub fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// Asks for JSON, and sends some: `body` is wiped with the request.
    #[must_use]
    pub fn json(mut self, body: SecretVec) -> Self {
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self.body = wiped(body);
        self
    }

    /// Sends a form, and asks for XML: `body` is wiped with the request.
    ///
    /// # Errors
    /// None, as long as a header can say so.
    pub fn form(self, body: SecretVec) -> Result<Self, EngineError> {
        let mut request = self.header("content-type", FORM)?.header("accept", "application/xml")?;
        request.body = wiped(body);
        Ok(request)
    }

    /// Adds a header that is no secret.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what no header can say.
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Self, EngineError> {
        let value = HeaderValue::from_str(value).map_err(|_| UNFIT)?;
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }

    /// Adds a header that is a secret: it is wiped with the request, and printed nowhere.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what no header can say.
    pub fn secret_header(mut self, name: &'static str, value: SecretVec) -> Result<Self, EngineError> {
        self.headers.push((HeaderName::from_static(name), secret(value)?));
        Ok(self)
    }

    /// The same as this one, asked by that user (Basic, RFC 7617). The password is wiped with it, and what they share with the last of
    /// them.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for a user with a colon or a control character in it.
    pub fn basic(&self, user: &str, password: &SecretVec) -> Result<Self, EngineError> {
        const SCHEME: &[u8] = b"Basic ";
        if user.contains(':') || user.chars().any(char::is_control) {
            return Err(EngineError::Invalid { field: "user", reason: "with a colon or a control character" });
        }
        // None of them grows, so that no copy is left behind.
        let mut pair = Vec::with_capacity(user.len() + 1 + password.len());
        pair.extend_from_slice(user.as_bytes());
        pair.push(b':');
        pair.extend_from_slice(password.expose());
        let pair = SecretVec::new(pair);
        let mut header = vec![0; SCHEME.len() + pair.len().div_ceil(3) * 4];
        if let Some((scheme, rest)) = header.split_at_mut_checked(SCHEME.len()) {
            scheme.copy_from_slice(SCHEME);
            STANDARD.encode_slice(pair.expose(), rest).map_err(|_| UNFIT)?;
        }
        self.asked_by(SecretVec::new(header))
    }

    /// The same as this one, asked by whoever bears that token (Bearer, RFC 6750). It is wiped with it, as a password is.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what is no token: no bytes, or others than printable ASCII without space.
    pub fn bearer(&self, token: &SecretVec) -> Result<Self, EngineError> {
        const SCHEME: &[u8] = b"Bearer ";
        if token.is_empty() || !token.expose().iter().all(u8::is_ascii_graphic) {
            return Err(EngineError::Invalid {
                field: "password",
                reason: "no token: not printable ASCII without space",
            });
        }
        let mut header = Vec::with_capacity(SCHEME.len() + token.len());
        header.extend_from_slice(SCHEME);
        header.extend_from_slice(token.expose());
        self.asked_by(SecretVec::new(header))
    }

    /// The same as this one, with that header in place of whoever asked before.
    fn asked_by(&self, header: SecretVec) -> Result<Self, EngineError> {
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| *name != AUTHORIZATION).cloned().collect();
        headers.push((AUTHORIZATION, secret(header)?));
        let Self { method, path, body, repeat, .. } = self;
        Ok(Self { method: method.clone(), path: path.clone(), headers, body: body.clone(), repeat: *repeat })
    }

    /// The same for the one who sends it.
    pub(super) fn to_wire(&self, host: &HeaderValue) -> Result<hyper::Request<Full<Bytes>>, HttpError> {
        let mut wire = hyper::Request::new(Full::new(self.body.clone()));
        *wire.method_mut() = self.method.clone();
        *wire.uri_mut() = self.path.0.parse().map_err(|_| HttpError::NotSent { reason: "not a path".to_owned() })?;
        let headers = wire.headers_mut();
        headers.insert(HOST, host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("quorate"));
        // JSON where there is a choice: some refuse what they would answer without a body.
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.1"));
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        Ok(wire)
    }
}

const UNFIT: EngineError = EngineError::Invalid { field: "header", reason: "what no header can say" };

/// Bytes that are wiped with their last holder.
struct Wiped(SecretVec);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

fn wiped(secret: SecretVec) -> Bytes {
    Bytes::from_owner(Wiped(secret))
}

fn secret(value: SecretVec) -> Result<HeaderValue, EngineError> {
    // From bytes that it shares; it copies others.
    let mut value = HeaderValue::from_maybe_shared(wiped(value)).map_err(|_| UNFIT)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_path_stays_a_value() {
        let path = Path::new(&["api", "permissions", "/", "a b/../c?d=e#f%2F"]).unwrap();
        assert_eq!(path.0, "/api/permissions/%2F/a%20b%2F..%2Fc%3Fd%3De%23f%252F");
        let path = Path::new(&["x"]).unwrap().with("a&b", "c=d").with("e", "\u{e4}");
        assert_eq!(path.0, "/x?a%26b=c%3Dd&e=%C3%A4");
        for bad in [&[][..], &[""], &["a", ""], &["."], &["a", "..", "b"]] {
            assert!(Path::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_asks_is_said_as_the_rfc_has_it() {
        // RFC 7617 section 2.
        let path = || Path::new(&["x"]).unwrap();
        let password = SecretVec::new(b"open sesame".to_vec());
        let request = Request::get(path()).basic("Aladdin", &password).unwrap();
        let wire = request.to_wire(&HeaderValue::from_static("h")).unwrap();
        let said = &wire.headers()[AUTHORIZATION];
        assert_eq!(said, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(said.is_sensitive());
        assert!(Request::get(path()).basic("Alad:din", &password).is_err(), "the rest would be the password");
        let binary = SecretVec::new(b"\r\nX: y\xff".to_vec());
        assert!(Request::get(path()).basic("Aladdin", &binary).is_ok(), "what is encoded says nothing else");
        assert!(
            Request::get(path()).bearer(&binary).is_err()
                && Request::get(path()).bearer(&SecretVec::new(vec![])).is_err()
        );
        assert!(Request::get(path()).secret_header("x-key", binary).is_err());
        // RFC 6750 section 2.1.
        let borne = request.bearer(&SecretVec::new(b"mF_9.B5f-4.1JqM".to_vec())).unwrap();
        let wire = borne.to_wire(&HeaderValue::from_static("h")).unwrap();
        assert_eq!(wire.headers()[AUTHORIZATION], "Bearer mF_9.B5f-4.1JqM");
        assert_eq!(wire.headers().get_all(AUTHORIZATION).iter().count(), 1, "in place of who asked before");
        assert!(Request::get(path()).header("x-key", "a\r\nb").is_err());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let secret = || SecretVec::new(b"canary".to_vec());
        let request = Request::put(Path::new(&["x"]).unwrap()).json(secret()).secret_header("x-key", secret()).unwrap();
        let borne = request.bearer(&secret()).unwrap();
        assert!(
            !format!("{borne:?} {:?}", borne.to_wire(&HeaderValue::from_static("h")).unwrap().headers())
                .contains("canary")
        );
        let request = request.basic("canary", &secret()).unwrap();
        let wire = request.to_wire(&HeaderValue::from_static("h")).unwrap();
        for printed in [format!("{request:?}"), format!("{:?}", wire.headers())] {
            assert!(!printed.contains("canary") && !printed.contains("Y2FuYXJ5"), "{printed}");
        }
    }
}
