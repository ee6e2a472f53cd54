//! IAM and STS: requests by hand (the Query API), signed (Signature Version 4), and what their answers mean.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use hyper::header::DATE;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quorate_crypto::secret::SecretVec;

use super::AwsConfig;
use super::bound::{SIGNED, seconds};
use super::executor::access_key;
use super::xml::Node;
use crate::http::{Answer, FORM, Http, HttpConfig, HttpError, Path, Repeat, Request};
use crate::{Endpoint, EngineError};

/// The longest answer: a page of a thousand users has some 500 KB.
const MAX_ANSWER: usize = 4 << 20;
/// How much of what a service says is kept.
const MAX_WORDS: usize = 400;
/// The most pages of a list.
const MAX_PAGES: usize = 10_000;
/// How many entries a page is to have.
const PAGE: &str = "1000";
/// All but the unreserved characters (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Ours for a signature whose instant the service does not take.
pub(super) const CLOCK: &str = "RequestExpired";
const NO_SUCH_ENTITY: &str = "NoSuchEntity";
pub(super) const DELETE_CONFLICT: &str = "DeleteConflict";
pub(super) const ACCESS_DENIED: &str = "AccessDenied";
/// Not now, and nothing was done.
const BUSY: [&str; 8] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "EntityTemporarilyUnmodifiable",
    "ConcurrentModification",
    "PriorRequestNotComplete",
];

/// What is asked.
#[derive(Clone)]
pub(super) struct Query {
    body: String,
    repeat: Repeat,
}

/// Nothing in it is a secret.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Query").field(&self.body).finish()
    }
}

impl Query {
    fn new(version: &str, action: &str, repeat: Repeat) -> Self {
        Self { body: format!("Action={action}&Version={version}"), repeat }
    }

    /// What changes something in IAM, and is sent once.
    pub(super) fn iam(action: &str) -> Self {
        Self::new("2010-05-08", action, Repeat::Never)
    }

    /// The same for STS.
    pub(super) fn sts(action: &str) -> Self {
        Self::new("2011-06-15", action, Repeat::Never)
    }

    /// What it does twice is as good as once, and late as good as in time.
    pub(super) fn again(mut self) -> Self {
        self.repeat = Repeat::Once;
        self
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.body.push('&');
        self.body.push_str(name);
        self.body.push('=');
        self.body.extend(utf8_percent_encode(value, RESERVED));
        self
    }

    /// `quorate-` tags and others.
    pub(super) fn tagged<'a>(self, tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        tags.into_iter().zip(1_u32..).fold(self, |query, ((key, value), n)| {
            query.with(&format!("Tags.member.{n}.Key"), key).with(&format!("Tags.member.{n}.Value"), value)
        })
    }
}

/// What signs.
pub(super) struct Key<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a SecretVec,
    pub(super) token: Option<&'a SecretVec>,
}

/// What a service has answered.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) root: Node,
    date: Option<SystemTime>,
}

impl Said {
    /// What the service's clock said, in seconds since 1970.
    pub(super) fn now(&self) -> Result<u64, EngineError> {
        let unavailable = |reason: &str| EngineError::Unavailable { reason: reason.to_owned() };
        let said = self.date.ok_or_else(|| unavailable("the target answered without a date"))?;
        let here = SystemTime::now();
        let apart = said.duration_since(here).or_else(|_| here.duration_since(said)).unwrap_or(Duration::MAX);
        // It would not have taken our signature.
        if apart > SIGNED {
            return Err(unavailable("the target's clock and this node's are more than 15 minutes apart"));
        }
        Ok(seconds(said))
    }
}

/// One of the two services.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
    host: String,
    service: &'static str,
    region: String,
}

impl Api {
    pub(super) fn iam(config: &AwsConfig) -> Result<Self, EngineError> {
        // It is one for all regions of a partition, and is signed for where it is.
        let region = match config.region.as_str() {
            china if china.starts_with("cn-") => "cn-north-1",
            gov if gov.starts_with("us-gov-") => "us-gov-west-1",
            _ => "us-east-1",
        };
        Self::new(config, &config.iam, "iam", region)
    }

    pub(super) fn sts(config: &AwsConfig) -> Result<Self, EngineError> {
        Self::new(config, &config.sts, "sts", &config.region)
    }

    fn new(config: &AwsConfig, endpoint: &Endpoint, service: &'static str, region: &str) -> Result<Self, EngineError> {
        let http = Http::new(HttpConfig {
            endpoint: endpoint.clone(),
            tls: config.tls.clone(),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout,
            max_answer: MAX_ANSWER,
        })?;
        let host = http.host().to_owned();
        Ok(Self { http, host, service, region: region.to_owned() })
    }

    /// Asks as the executor, with the secret that the service knows, signed for now.
    pub(super) async fn call(&self, config: &AwsConfig, query: &Query) -> Result<Said, EngineError> {
        self.call_at(config, query, SystemTime::now()).await
    }

    /// The same, signed for an instant.
    pub(super) async fn call_at(&self, config: &AwsConfig, query: &Query, at: SystemTime) -> Result<Said, EngineError> {
        let ask = |password: Arc<SecretVec>| async move {
            let (id, secret) = access_key(&password)?;
            let key = Key { id, secret: &secret, token: None };
            match self.call_as(&key, query, at).await {
                Err(error) if error.is_login_refused() => Err(error),
                other => Ok(other),
            }
        };
        config.passwords.log_in(ask).await?
    }

    /// Asks with a key.
    pub(super) async fn call_as(&self, key: &Key<'_>, query: &Query, at: SystemTime) -> Result<Said, EngineError> {
        let answer = self.http.call(&self.signed(key, query, at)?).await?;
        said(&answer)
    }

    /// What may be asked again: whether it was done does not matter.
    pub(super) async fn ask(&self, config: &AwsConfig, query: Query) -> Result<Said, EngineError> {
        repeatable(self.call(config, &query.again()).await)
    }

    /// What is there, if it is.
    pub(super) async fn find(&self, config: &AwsConfig, query: Query) -> Result<Option<Said>, EngineError> {
        match self.ask(config, query).await {
            Err(error) if is_absent(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// All entries of a list: of each what `entry` finds in it.
    pub(super) async fn list<T>(
        &self,
        config: &AwsConfig,
        query: Query,
        path: [&str; 2],
        entry: impl Fn(&Node) -> Option<T>,
    ) -> Result<Vec<T>, EngineError> {
        let (mut all, mut marker) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let page = query.clone().with("MaxItems", PAGE);
            let page = marker.iter().fold(page, |page, marker| page.with("Marker", marker));
            let said = self.ask(config, page).await?;
            let [result, list] = path;
            let result =
                said.root.at(&[result]).filter(|result| result.at(&[list]).is_some()).ok_or_else(unreadable)?;
            for node in result.members(&[list]) {
                all.push(entry(node).ok_or_else(unreadable)?);
            }
            if result.text(&["IsTruncated"]) != Some("true") {
                return Ok(all);
            }
            let next = result.text(&["Marker"]).filter(|next| !next.is_empty()).ok_or_else(unreadable)?;
            if marker.as_deref() == Some(next) {
                return Err(unreadable());
            }
            marker = Some(next.to_owned());
        }
        Err(unreadable())
    }

    fn signed(&self, key: &Key<'_>, query: &Query, at: SystemTime) -> Result<Request, EngineError> {
        let text = |secret: &SecretVec| {
            let invalid = EngineError::Invalid { field: "password", reason: "a secret access key is text" };
            core::str::from_utf8(secret.expose()).map(str::to_owned).map_err(|_| invalid)
        };
        let unfit = || EngineError::Invalid { field: "password", reason: "what can't be signed with" };
        let token = key.token.map(text).transpose()?;
        let identity = Credentials::new(key.id, text(key.secret)?, token, None, "quorate").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(at)
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| unfit())?
            .into();
        let headers = [("host", self.host.as_str()), ("content-type", FORM)];
        let body = query.body.as_bytes();
        let request = SignableRequest::new("POST", "https://signed/", headers.into_iter(), SignableBody::Bytes(body))
            .map_err(|_| unfit())?;
        // What it logs has neither the secret nor the token in it: `tests/aws/canary.rs`.
        let signed = sign(request, &params);
        let (signed, _) = signed.map_err(|_| unfit())?.into_parts();
        let mut request = Request::post(Path::root()).repeat(query.repeat).form(SecretVec::new(body.to_vec()))?;
        for (name, value) in signed.headers() {
            let name = match name.to_ascii_lowercase().as_str() {
                "authorization" => "authorization",
                "x-amz-date" => "x-amz-date",
                "x-amz-security-token" => "x-amz-security-token",
                _ => return Err(unfit()),
            };
            request = request.secret_header(name, SecretVec::new(value.as_bytes().to_vec()))?;
        }
        Ok(request)
    }
}

/// What an answer says, if it is one of the services'.
fn said(answer: &Answer) -> Result<Said, EngineError> {
    let root = Node::parse(&answer.body);
    let date = answer.headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    match root {
        Some(root) if (200..300).contains(&answer.status) => Ok(Said { root, date }),
        Some(root) => Err(refusal(answer.status, &root)),
        // Whoever has said that, nothing is known of what was asked for.
        None => Err(EngineError::from(HttpError::Unknown {
            reason: format!("answered with {} and with what can't be read", answer.status),
        })),
    }
}

fn refusal(status: u16, root: &Node) -> EngineError {
    let word = |name: &str| root.find("Error").and_then(|error| error.text(&[name])).unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':');
    let code: String = word("Code").trim().chars().filter(plain).take(64).collect();
    // In further lines it quotes what was signed, a session's token among it.
    let first = word("Message").trim().lines().next().unwrap_or_default();
    let message: String = first.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    match code.as_str() {
        "" => EngineError::Unknown { reason: format!("answered with {status} and without a code") },
        "EntityAlreadyExists" => EngineError::Duplicate,
        CLOCK => EngineError::Refused { code, message },
        // It says so with the code of a wrong secret.
        "SignatureDoesNotMatch"
            if ["Signature expired", "Signature not yet"].iter().any(|w| message.starts_with(w)) =>
        {
            let message = format!("this node's clock is not the service's, or a request came late: {message}");
            EngineError::Refused { code: CLOCK.to_owned(), message }
        }
        busy if BUSY.contains(&busy) => EngineError::Busy { code, message },
        _ if status >= 500 => EngineError::Unknown { reason: format!("the target failed: {message} ({code})") },
        _ => EngineError::Refused { code, message },
    }
}

/// Of a call that may be repeated it does not matter whether it was done.
pub(super) fn repeatable<T>(result: Result<T, EngineError>) -> Result<T, EngineError> {
    result.map_err(|error| match error {
        EngineError::Unknown { reason } => EngineError::Unavailable { reason },
        other => other,
    })
}

pub(super) fn is(error: &EngineError, wanted: &str) -> bool {
    matches!(error, EngineError::Refused { code, .. } if code == wanted)
}

pub(super) fn is_absent(error: &EngineError) -> bool {
    is(error, NO_SUCH_ENTITY)
}

pub(super) fn unreadable() -> EngineError {
    EngineError::Unavailable { reason: "the target answered with what can't be read".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str) -> EngineError {
        refusal(status, &Node::parse(body.as_bytes()).unwrap())
    }

    fn of(code: &str, message: &str) -> String {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        )
    }

    #[test]
    fn each_refusal_is_named() {
        assert_eq!(error(409, &of("EntityAlreadyExists", "x")), EngineError::Duplicate);
        for code in ["InvalidClientTokenId", "SignatureDoesNotMatch"] {
            assert!(error(403, &of(code, "no")).is_login_refused(), "{code}");
        }
        let late = error(403, &of("SignatureDoesNotMatch", "Signature expired: A is now earlier than B (C - 15 min.)"));
        assert!(is(&late, CLOCK) && !late.is_login_refused(), "another secret does not help: {late}");
        for (status, code) in
            [(400, "Throttling"), (503, "RequestLimitExceeded"), (409, "EntityTemporarilyUnmodifiable")]
        {
            assert!(matches!(error(status, &of(code, "later")), EngineError::Busy { .. }), "{code}");
        }
        assert!(matches!(error(500, &of("ServiceFailure", "oh")), EngineError::Unknown { .. }));
        assert!(matches!(error(403, "<html><body>no</body></html>"), EngineError::Unknown { .. }), "a proxy's");
        assert!(is(&error(403, &of("AccessDenied", "no")), ACCESS_DENIED));
        let nested = "<ErrorResponse><Errors><Error><Code>AccessDenied</Code><Message>m</Message></Error></Errors></ErrorResponse>";
        assert!(is(&error(403, nested), ACCESS_DENIED));
    }

    #[test]
    fn words_do_not_quote_what_was_signed() {
        let quoting = "No match.\n\nThe Canonical String was\n'POST\nx-amz-security-token:canary'";
        let error = error(403, &of("SignatureDoesNotMatch", quoting)).to_string();
        assert!(error.contains("No match.") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn a_value_in_a_query_stays_a_value() {
        let query = Query::iam("CreateUser").with("UserName", "a&Action=DeleteUser b\u{e4}").tagged([("k", "v=")]);
        assert_eq!(
            query.body,
            "Action=CreateUser&Version=2010-05-08&UserName=a%26Action%3DDeleteUser%20b%C3%A4&Tags.member.1.Key=k&Tags.member.1.Value=v%3D"
        );
    }
}
