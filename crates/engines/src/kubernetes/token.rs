//! Tokens: what is asked for, and what of an answer is believed.
//!
//! A token is a JWT (RFC 7519). Its claims are read here, and its signature is not looked at: they come from who made it, and say what it
//! made. Whoever is to be let in by one asks the API server.

use core::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_crypto::secret::{SecretFields, SecretVec};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{Date, Month, PrimitiveDateTime, Time};

use super::object::Secret;
use super::rules::Wanted;
use crate::EngineError;

/// The shortest life that the API server gives, in seconds (`ValidateTokenRequest`).
pub(super) const SHORTEST: u64 = 600;
/// How much later than it was asked for a token may end, in seconds: two clocks are read for one answer.
const SLACK: i64 = 60;

/// The names of what is issued.
pub(super) const TOKEN: &str = "token";
const EXPIRATION: &str = "expiration";
const NAMESPACE: &str = "namespace";
pub(super) const ACCOUNT: &str = "service_account";

/// How long a token is asked to live, in seconds.
pub(super) fn life(max_ttl_seconds: u64) -> u64 {
    max_ttl_seconds.max(SHORTEST)
}

/// What is asked for: a token that ends with `secret`.
pub(super) fn request(wanted: &Wanted, secret: &Secret, seconds: u64) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": wanted.audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Secret",
                "name": secret.metadata.name,
                "uid": secret.metadata.uid,
            },
        },
    })
}

/// What is answered.
#[derive(Deserialize)]
pub(super) struct Answered {
    status: Issued,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    token: String,
    expiration_timestamp: String,
}

/// What a token says of itself.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    pub(super) aud: Audiences,
    iat: i64,
    exp: i64,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// One, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audiences {
    pub(super) fn all(&self) -> &[String] {
        match self {
            Self::One(one) => core::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

#[derive(Default, Deserialize)]
struct Kubernetes {
    #[serde(default)]
    secret: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

impl Claims {
    /// What a JWT says, whoever made it; nothing of what is none.
    pub(super) fn of(token: &[u8]) -> Option<Self> {
        let mut parts = token.split(|b| *b == b'.');
        let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The Secret with which it ends.
    pub(super) fn is_bound_to(&self, name: &str) -> bool {
        self.kubernetes.secret.as_ref().is_some_and(|bound| bound.name == name)
    }

    /// Since how many seconds it has run out, by the clock here.
    pub(super) fn ended(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = Duration::from_secs(u64::try_from(self.exp).unwrap_or(0));
        now.checked_sub(end).map(|since| since.as_secs())
    }
}

/// What was issued, if it is what was asked for.
///
/// # Errors
/// Why it must not be given to anybody. The caller ends it.
pub(super) fn issued(
    answered: Answered,
    wanted: &Wanted,
    secret: &Secret,
    namespace: &str,
    seconds: u64,
) -> Result<SecretFields, &'static str> {
    let Issued { token, expiration_timestamp: expiration } = answered.status;
    let token = SecretVec::new(token.into_bytes());
    let claims = Claims::of(token.expose()).ok_or("the token is not a JWT with the claims of Kubernetes")?;
    let bound = claims.kubernetes.secret.as_ref();
    if bound.is_none_or(|to| to.name != secret.metadata.name || to.uid != secret.metadata.uid) {
        return Err("the token is not bound to its Secret, whose removal would not end it");
    }
    if claims.sub != format!("system:serviceaccount:{namespace}:{}", wanted.account) {
        return Err("the token is another service account's");
    }
    if !wanted.audiences.is_empty() && claims.aud.all().iter().any(|audience| !wanted.audiences.contains(audience)) {
        return Err("the token is for an audience that nobody asked for");
    }
    let said = seconds_of(&expiration).ok_or("it is not said when the token ends")?;
    // By the one clock that both were written by: ours may be another.
    let latest = claims.iat.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)).saturating_add(SLACK);
    if said.max(claims.exp) > latest {
        return Err("the token lives longer than it was asked to");
    }
    let text = |text: &str| SecretVec::new(text.as_bytes().to_vec());
    let fields = vec![
        (TOKEN.to_owned(), token),
        (EXPIRATION.to_owned(), text(&expiration)),
        (NAMESPACE.to_owned(), text(namespace)),
        (ACCOUNT.to_owned(), text(&wanted.account)),
    ];
    SecretFields::new(fields).ok_or("the token is longer than 8 KiB")
}

/// A time as Kubernetes writes it, `2026-01-31T23:59:59Z`, in seconds since 1970.
fn seconds_of(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, digits: usize| {
        let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    let small = |text: &str| number(text, 2).and_then(|n| u8::try_from(n).ok());
    let mut date = date.split('-');
    let (year, month, day, None) = (date.next()?, date.next()?, date.next()?, date.next()) else { return None };
    let mut time = time.split(':');
    let (hour, minute, second, None) = (time.next()?, time.next()?, time.next()?, time.next()) else { return None };
    let date =
        Date::from_calendar_date(number(year, 4)?.into(), Month::try_from(small(month)?).ok()?, small(day)?).ok()?;
    let time = Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

/// What is asked of the API server about a token, for somebody else.
pub(super) fn review(token: &SecretVec, audiences: &[String]) -> Result<SecretVec, EngineError> {
    let unfit = EngineError::Invalid { field: "secret", reason: "what was issued is no token" };
    let token = core::str::from_utf8(token.expose()).map_err(|_| unfit.clone())?;
    // It stands in the text as it is.
    if !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(unfit);
    }
    let audiences = json!(audiences).to_string();
    let (head, middle, tail) = (
        r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":""#,
        r#"","audiences":"#,
        "}}",
    );
    // In one piece: a vector that grows leaves what it held behind.
    let mut body = Vec::with_capacity(head.len() + token.len() + middle.len() + audiences.len() + tail.len());
    for part in [head, token, middle, &audiences, tail] {
        body.extend_from_slice(part.as_bytes());
    }
    Ok(SecretVec::new(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn claims() -> Value {
        json!({
            "iss": "https://kubernetes.default.svc", "aud": ["https://kubernetes.default.svc"],
            "sub": "system:serviceaccount:leases:app", "iat": 1_000_000, "nbf": 1_000_000, "exp": 1_000_600,
            "kubernetes.io": {
                "namespace": "leases", "serviceaccount": { "name": "app", "uid": "1" },
                "secret": { "name": "q-1-quorate", "uid": "u-1" },
            },
        })
    }

    fn secret() -> Secret {
        let secret = json!({ "metadata": { "name": "q-1-quorate", "uid": "u-1" }, "type": "quorate/lease" });
        serde_json::from_value(secret).unwrap()
    }

    fn issue(claims: &Value, expiration: &str, audiences: &[&str]) -> Result<SecretFields, &'static str> {
        let wanted =
            Wanted { account: "app".to_owned(), audiences: audiences.iter().map(|a| (*a).to_owned()).collect() };
        let answered = json!({ "status": { "token": jwt(claims), "expirationTimestamp": expiration } });
        issued(serde_json::from_value(answered).unwrap(), &wanted, &secret(), "leases", 600)
    }

    /// 1,000,600 s after 1970.
    const END: &str = "1970-01-12T13:56:40Z";

    #[test]
    fn what_was_asked_for_is_handed_on() {
        let fields = issue(&claims(), END, &[]).unwrap();
        let text = |name: &str| String::from_utf8(fields.get(name).unwrap().expose().to_vec()).unwrap();
        assert_eq!((text(TOKEN), text(EXPIRATION)), (jwt(&claims()), END.to_owned()));
        assert_eq!((text(NAMESPACE).as_str(), text(ACCOUNT).as_str()), ("leases", "app"));
        let mut shorter = claims();
        shorter["exp"] = json!(1_000_060);
        assert!(issue(&shorter, "1970-01-12T13:47:40Z", &[]).is_ok(), "a server may shorten it");
        let mut one = claims();
        one["aud"] = json!("b");
        assert!(issue(&one, END, &["a", "b"]).is_ok());
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let changed = |path: &str, to: Value| {
            let mut claims = claims();
            *claims.pointer_mut(path).unwrap() = to;
            issue(&claims, END, &[]).err()
        };
        for (path, to) in [
            ("/exp", json!(1_000_661)),
            ("/exp", json!(i64::MAX)),
            ("/iat", json!(999_000)),
            ("/iat", json!("x")),
            ("/sub", json!("system:serviceaccount:leases:other")),
            ("/kubernetes.io/secret", Value::Null),
            ("/kubernetes.io/secret/uid", json!("u-2")),
            ("/kubernetes.io/secret/name", json!("q-2-quorate")),
            ("/kubernetes.io", json!({})),
        ] {
            assert!(changed(path, to.clone()).is_some(), "{path} {to}");
        }
        assert!(issue(&claims(), "1970-01-12T13:57:41Z", &[]).is_err(), "what the status says counts too");
        assert!(issue(&claims(), "soon", &[]).is_err() && issue(&claims(), END, &["other"]).is_err());
        for bad in ["", "a.b", "a.b.c", "e30.e30.e30", "e30.bm9wZQ.e30", &format!("{}.x", jwt(&claims()))] {
            assert!(Claims::of(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(seconds_of(END), Some(1_000_600));
        assert_eq!(seconds_of("2026-01-31T23:59:59Z"), Some(1_769_903_999));
        for bad in ["", "Z", "2026-01-31", "2026-02-30T00:00:00Z", "2026-01-31T24:00:00Z", "2026-01-31T23:59:59+02:00"]
        {
            assert_eq!(seconds_of(bad), None, "{bad:?}");
        }
        assert_eq!(seconds_of("+026-01-31T23:59:59Z"), None);
    }

    #[test]
    fn a_review_is_json_whatever_the_token() {
        let body = review(&SecretVec::new(b"a-b_c.d".to_vec()), &["x\"y".to_owned()]).unwrap();
        let read: Value = serde_json::from_slice(body.expose()).unwrap();
        assert_eq!((&read["spec"]["token"], &read["spec"]["audiences"]), (&json!("a-b_c.d"), &json!(["x\"y"])));
        assert!(review(&SecretVec::new(b"a\"".to_vec()), &[]).is_err());
    }
}
