//! The objects of a cluster and its rules: what an API server keeps in its store, whom it lets in, and what it does when it is asked.
//!
//! There is no API server for a test's machine, so this one is written after the source of the real one (kubernetes/kubernetes; each rule
//! names what it is after), as far as the engine meets it: one namespace, Secrets, service accounts, tokens, and reviews. It knows no
//! canned answer: each request is authenticated by a signature and by what the token is bound to, and authorized by a table of rights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::jwt;

pub(crate) const NAMESPACE: &str = "leases";
const ISSUER: &str = "https://kubernetes.default.svc";
/// go-jose's `jwt.DefaultLeeway`, in seconds: a token lets in for so long after its `exp`, and after its Secret was told to go.
const LEEWAY: i64 = 60;

/// An answer: a status and a body.
pub(crate) type Said = (u16, Value);

/// What survives a crash.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Stored {
    /// The store's count of changes: every object's `resourceVersion` is the one of its last.
    pub(crate) revision: u64,
    pub(crate) namespace_uid: String,
    pub(crate) secrets: BTreeMap<String, Value>,
    /// Service accounts and their uids.
    pub(crate) accounts: BTreeMap<String, String>,
    key: Vec<u8>,
}

/// A right, as a rule of a Role has it.
#[derive(Clone)]
pub(crate) struct Right {
    pub(crate) user: String,
    pub(crate) verb: &'static str,
    /// With `/` and a subresource.
    pub(crate) resource: &'static str,
    /// Empty for any.
    pub(crate) name: String,
}

pub(crate) struct Cluster {
    pub(crate) stored: Stored,
    path: PathBuf,
    pub(crate) rights: Vec<Right>,
    /// How long it remembers whom it let in (`TokenSuccessCacheTTL`).
    pub(crate) remembers: Duration,
    let_in: BTreeMap<String, (Instant, User)>,
    /// Its memory of the Secrets, from a watch; stands still while `watch_lags`.
    watched: BTreeMap<String, Value>,
    pub(crate) watch_lags: bool,
    /// What lists that are under way are read from.
    snapshots: BTreeMap<u64, Vec<Value>>,
    /// How far its clock is ahead, in seconds.
    pub(crate) ahead: i64,
    /// `--service-account-max-token-expiration`.
    pub(crate) max_expiration: Option<i64>,
    /// No shorter ones: what no API server does.
    pub(crate) min_expiration: Option<i64>,
    /// What an admission webhook puts on each Secret.
    pub(crate) finalizer: bool,
    pub(crate) git_version: &'static str,
    /// Tokens that it made, and the Secret of each.
    pub(crate) issued: Vec<String>,
}

#[derive(Clone)]
struct User {
    name: String,
    audiences: Vec<String>,
}

fn failure(code: u16, reason: &str, message: &str) -> Said {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message,
        "code": code,
    });
    (code, status)
}

fn not_found(resource: &str, name: &str) -> Said {
    failure(404, "NotFound", &format!("{resource} {name:?} not found"))
}

fn uid() -> String {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).unwrap();
    let hex: String = random.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// As `metav1.Time` is written.
fn written(seconds: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

impl Cluster {
    pub(crate) fn new(path: PathBuf) -> Self {
        let accounts = ["executor", "app", "other", "power"].map(|name| (name.to_owned(), uid()));
        let stored = Stored {
            revision: 1_000,
            namespace_uid: uid(),
            secrets: BTreeMap::new(),
            accounts: accounts.into(),
            key: jwt::generate(),
        };
        std::fs::write(&path, serde_json::to_vec(&stored).unwrap()).unwrap();
        Self::load(path)
    }

    /// As it is after a start: with what is on its disk, and nothing else.
    pub(crate) fn load(path: PathBuf) -> Self {
        let stored: Stored = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        Self {
            watched: stored.secrets.clone(),
            stored,
            path,
            rights: granted(),
            remembers: Duration::ZERO,
            let_in: BTreeMap::new(),
            watch_lags: false,
            snapshots: BTreeMap::new(),
            ahead: 0,
            max_expiration: None,
            min_expiration: None,
            finalizer: false,
            git_version: "v1.30.2",
            issued: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(now).unwrap() + self.ahead
    }

    fn commit(&mut self) {
        self.stored.revision += 1;
        self.write();
    }

    pub(crate) fn write(&mut self) {
        let next = self.path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(&self.stored).unwrap()).unwrap();
        std::fs::rename(&next, &self.path).unwrap();
        if !self.watch_lags {
            self.watched.clone_from(&self.stored.secrets);
        }
    }

    /// The etcd behind it has thrown away what is old: lists that are under way are so, too.
    pub(crate) fn compact(&mut self) {
        self.snapshots.clear();
    }

    /// A token of a service account that is bound to nothing, as an operator makes one for the executor.
    pub(crate) fn token_of(&self, account: &str, seconds: i64) -> String {
        jwt::sign(&self.stored.key, &self.claims(account, &[ISSUER.to_owned()], seconds, None))
    }

    /// `Claims` in `pkg/serviceaccount/claims.go`.
    fn claims(&self, account: &str, audiences: &[String], seconds: i64, secret: Option<&Value>) -> Value {
        let mut kubernetes = json!({
            "namespace": NAMESPACE,
            "serviceaccount": { "name": account, "uid": self.stored.accounts[account] },
        });
        if let Some(secret) = secret {
            let metadata = &secret["metadata"];
            kubernetes["secret"] = json!({ "name": metadata["name"], "uid": metadata["uid"] });
        }
        json!({
            "iss": ISSUER, "aud": audiences, "sub": format!("system:serviceaccount:{NAMESPACE}:{account}"),
            "iat": self.now(), "nbf": self.now(), "exp": self.now() + seconds, "jti": uid(),
            "kubernetes.io": kubernetes,
        })
    }

    /// Who bears a token: `tokencache` before `jwtTokenAuthenticator` (`pkg/kubeapiserver/authenticator/config.go`).
    fn bearer(&mut self, token: &str, wanted: &[String]) -> Option<User> {
        self.let_in.retain(|_, (since, _)| since.elapsed() < self.remembers);
        let remembered = format!("{token} {wanted:?}");
        if let Some((_, user)) = self.let_in.get(&remembered) {
            return Some(user.clone());
        }
        let user = self.validate(token, wanted)?;
        self.let_in.insert(remembered, (Instant::now(), user.clone()));
        Some(user)
    }

    /// `jwtTokenAuthenticator.AuthenticateToken` in `pkg/serviceaccount/jwt.go`, and `validator.Validate` in `claims.go`.
    fn validate(&self, token: &str, wanted: &[String]) -> Option<User> {
        let claims = jwt::verify(&self.stored.key, token)?;
        let audiences: Vec<String> = serde_json::from_value(claims["aud"].clone()).ok()?;
        let audiences: Vec<String> = audiences.into_iter().filter(|one| wanted.contains(one)).collect();
        let (now, seconds) = (self.now(), |claim: &str| claims[claim].as_i64());
        if claims["iss"] != ISSUER
            || audiences.is_empty()
            || now > seconds("exp")? + LEEWAY
            || now < seconds("nbf")? - LEEWAY
        {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let account = bound["serviceaccount"]["name"].as_str()?;
        if bound["namespace"] != NAMESPACE || bound["serviceaccount"]["uid"] != *self.stored.accounts.get(account)? {
            return None;
        }
        if let Some(secret) = bound.get("secret") {
            // `clientGetter.GetSecret` in `pkg/controller/serviceaccount/tokengetter.go`: what the watch has told first, and only then the store.
            let name = secret["name"].as_str()?;
            let found = self.watched.get(name).or_else(|| self.stored.secrets.get(name))?;
            let going = found["metadata"]["deletionSeconds"].as_i64();
            if found["metadata"]["uid"] != secret["uid"] || going.is_some_and(|since| since < now - LEEWAY) {
                return None;
            }
        }
        Some(User { name: claims["sub"].as_str()?.to_owned(), audiences })
    }

    /// RBAC, by a table.
    fn allows(&self, user: &str, verb: &str, resource: &str, name: &str) -> bool {
        self.rights.iter().any(|right| {
            right.user == user
                && (right.verb == verb || right.verb == "*")
                && (right.resource == resource || right.resource == "*")
                && (right.name.is_empty() || right.name == name)
        })
    }

    /// Whom a request is from, by its token.
    pub(crate) fn authenticate(&mut self, token: Option<&str>) -> Result<String, Said> {
        let api = [ISSUER.to_owned()];
        token
            .and_then(|token| self.bearer(token, &api))
            .map(|user| user.name)
            .ok_or_else(|| failure(401, "Unauthorized", "Unauthorized"))
    }

    /// What comes of a request of somebody who was let in.
    pub(crate) fn serve(&mut self, user: &str, method: &str, target: &str, body: &[u8]) -> Said {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let query: BTreeMap<String, String> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decoded(k), decoded(v))).collect();
        let verb = match (method, segments.len()) {
            ("POST", _) => "create",
            ("DELETE", _) => "delete",
            ("GET", 5) if segments[4] == "secrets" => "list",
            _ => "get",
        };
        let sent: Value = match body {
            [] => Value::Null,
            body => match serde_json::from_slice(body) {
                Ok(sent) => sent,
                Err(_) => return failure(400, "BadRequest", "the object provided is unrecognized"),
            },
        };
        let (resource, name) = match segments[..] {
            ["version"] => return (200, json!({ "major": "1", "minor": "30", "gitVersion": self.git_version })),
            ["apis", "authentication.k8s.io", "v1", what] => (what, ""),
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => ("selfsubjectaccessreviews", ""),
            ["apis", "authorization.k8s.io", "v1", "namespaces", NAMESPACE, what] => (what, ""),
            ["api", "v1", "namespaces", name] => ("namespaces", name),
            ["api", "v1", "namespaces", NAMESPACE, resource] => (resource, ""),
            ["api", "v1", "namespaces", NAMESPACE, resource, name] => (resource, name),
            ["api", "v1", "namespaces", NAMESPACE, "serviceaccounts", name, "token"] => ("serviceaccounts/token", name),
            _ => return failure(404, "NotFound", "the server could not find the requested resource"),
        };
        if !self.allows(user, verb, resource, name) {
            let message = format!(
                "{resource} {name:?} is forbidden: User {user:?} cannot {verb} resource {resource:?} in the namespace"
            );
            return failure(403, "Forbidden", &message);
        }
        match (verb, resource) {
            ("create", "selfsubjectreviews") => (201, json!({ "status": { "userInfo": { "username": user } } })),
            ("create", "tokenreviews") => self.review(&sent),
            ("create", "selfsubjectaccessreviews") => self.access(user, &sent),
            ("create", "localsubjectaccessreviews") => {
                let user = sent["spec"]["user"].as_str().unwrap_or_default().to_owned();
                self.access(&user, &sent)
            }
            ("get", "namespaces") if name == NAMESPACE => {
                (200, json!({ "kind": "Namespace", "metadata": { "name": name, "uid": self.stored.namespace_uid } }))
            }
            ("get", "serviceaccounts") => match self.stored.accounts.get(name) {
                Some(uid) => (200, json!({ "kind": "ServiceAccount", "metadata": { "name": name, "uid": uid } })),
                None => not_found("serviceaccounts", name),
            },
            ("get", "secrets") => match self.stored.secrets.get(name) {
                Some(secret) => (200, secret.clone()),
                None => not_found("secrets", name),
            },
            ("list", "secrets") => self.list(&query),
            ("create", "secrets") => self.create(&sent),
            ("delete", "secrets") => self.delete(name, &sent),
            ("create", "serviceaccounts/token") => self.issue(name, &sent),
            _ => not_found(resource, name),
        }
    }

    /// `TokenReview`: for the audiences asked for, or the API server's own.
    fn review(&mut self, sent: &Value) -> Said {
        let token = sent["spec"]["token"].as_str().unwrap_or_default();
        let audiences = serde_json::from_value(sent["spec"]["audiences"].clone()).unwrap_or_default();
        let audiences: Vec<String> = if Vec::is_empty(&audiences) { vec![ISSUER.to_owned()] } else { audiences };
        let status = match self.bearer(token, &audiences) {
            Some(user) => {
                json!({ "authenticated": true, "user": { "username": user.name }, "audiences": user.audiences })
            }
            None => json!({ "authenticated": false, "error": "invalid bearer token" }),
        };
        // What was sent comes back, and the token with it.
        (201, json!({ "spec": sent["spec"], "status": status }))
    }

    fn access(&self, user: &str, sent: &Value) -> Said {
        let of = |field: &str| sent["spec"]["resourceAttributes"][field].as_str().unwrap_or_default();
        let resource = match of("subresource") {
            "" => of("resource").to_owned(),
            subresource => format!("{}/{subresource}", of("resource")),
        };
        (201, json!({ "status": { "allowed": self.allows(user, of("verb"), &resource, of("name")) } }))
    }

    fn create(&mut self, sent: &Value) -> Said {
        let name = sent["metadata"]["name"].as_str().unwrap_or_default();
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        // `NameIsDNSSubdomain`.
        let label = |l: &str| {
            l.bytes().all(|b| edge(b) || b == b'-')
                && l.bytes().next().is_some_and(edge)
                && edge(l.as_bytes()[l.len() - 1])
        };
        if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
            return failure(422, "Invalid", &format!("Secret {name:?} is invalid: metadata.name"));
        }
        // Names of annotations are qualified, values of labels 63 of what is plain (`ValidateAnnotations`, `ValidateLabels`).
        let plain = |value: &Value| {
            value
                .as_str()
                .is_some_and(|v| v.len() <= 63 && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
        };
        if sent["metadata"]["labels"].as_object().is_some_and(|labels| !labels.values().all(plain)) {
            return failure(422, "Invalid", &format!("Secret {name:?} is invalid: metadata.labels"));
        }
        if self.stored.secrets.contains_key(name) {
            return failure(409, "AlreadyExists", &format!("secrets {name:?} already exists"));
        }
        let mut secret = sent.clone();
        secret["metadata"]["uid"] = json!(uid());
        secret["metadata"]["resourceVersion"] = json!((self.stored.revision + 1).to_string());
        secret["metadata"]["creationTimestamp"] = json!(written(self.now()));
        if self.finalizer {
            secret["metadata"]["finalizers"] = json!(["example.com/slow"]);
        }
        self.stored.secrets.insert(name.to_owned(), secret.clone());
        self.commit();
        (201, secret)
    }

    /// `Store.Delete` in `pkg/registry/generic/registry/store.go`, with `Preconditions`.
    fn delete(&mut self, name: &str, sent: &Value) -> Said {
        let now = self.now();
        let Some(secret) = self.stored.secrets.get_mut(name) else { return not_found("secrets", name) };
        let uid = secret["metadata"]["uid"].clone();
        let wanted = &sent["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != uid {
            return failure(
                409,
                "Conflict",
                &format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"),
            );
        }
        if secret["metadata"]["finalizers"].is_array() {
            if secret["metadata"]["deletionTimestamp"].is_null() {
                secret["metadata"]["deletionTimestamp"] = json!(written(now));
                secret["metadata"]["deletionSeconds"] = json!(now);
            }
            let secret = secret.clone();
            self.commit();
            return (200, secret);
        }
        self.stored.secrets.remove(name);
        self.commit();
        (
            200,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "details": { "name": name, "kind": "secrets", "uid": uid } }),
        )
    }

    /// `GetList` in `storage/etcd3/store.go`: pages of one moment, and 410 when that is forgotten.
    fn list(&mut self, query: &BTreeMap<String, String>) -> Said {
        let (revision, start) = match query.get("continue") {
            Some(token) => {
                let read =
                    || -> Option<(u64, usize)> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok() };
                let Some(read) = read() else { return failure(400, "BadRequest", "continue key is not valid") };
                read
            }
            None => {
                let kind = query.get("fieldSelector").and_then(|s| s.strip_prefix("type="));
                let fits = |secret: &&Value| kind.is_none_or(|kind| secret["type"] == kind);
                let all = self.stored.secrets.values().filter(fits).cloned().collect();
                self.snapshots.insert(self.stored.revision, all);
                (self.stored.revision, 0)
            }
        };
        let Some(all) = self.snapshots.get(&revision) else {
            return failure(410, "Expired", "The provided continue parameter is too old");
        };
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let end = all.len().min(start.saturating_add(limit));
        let items = all[start..end].to_vec();
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if end < all.len() {
            metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(json!([revision, end]).to_string()));
        }
        (200, json!({ "kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items }))
    }

    /// `TokenREST.Create` in `pkg/registry/core/serviceaccount/storage/token.go`.
    fn issue(&mut self, account: &str, sent: &Value) -> Said {
        if !self.stored.accounts.contains_key(account) {
            return not_found("serviceaccounts", account);
        }
        let spec = &sent["spec"];
        let mut seconds = spec["expirationSeconds"].as_i64().unwrap_or(3_600);
        // `ValidateTokenRequest`: 10 minutes to 2^32 seconds.
        if !(600..=1 << 32).contains(&seconds) {
            return failure(
                422,
                "Invalid",
                "TokenRequest is invalid: spec.expirationSeconds: may not specify a duration less than 10 minutes",
            );
        }
        let reference = &spec["boundObjectRef"];
        let secret = if reference.is_null() {
            None
        } else {
            let name = reference["name"].as_str().unwrap_or_default();
            // From the store, and not from the watch.
            let Some(secret) = self.stored.secrets.get(name) else { return not_found("secrets", name) };
            let (wanted, there) = (&reference["uid"], &secret["metadata"]["uid"]);
            if !wanted.is_null() && wanted != there {
                let message = format!(
                    "Operation cannot be fulfilled on Secret {name:?}: the UID in the bound object reference ({wanted}) does not match the \
                     UID in record. The object might have been deleted and then recreated"
                );
                return failure(409, "Conflict", &message);
            }
            Some(secret.clone())
        };
        if let Some(most) = self.max_expiration {
            seconds = seconds.min(most);
        }
        if let Some(least) = self.min_expiration {
            seconds = seconds.max(least);
        }
        let mut audiences: Vec<String> = serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
        if audiences.is_empty() {
            audiences = vec![ISSUER.to_owned()];
        }
        let token = jwt::sign(&self.stored.key, &self.claims(account, &audiences, seconds, secret.as_ref()));
        self.issued.push(token.clone());
        let mut out = sent.clone();
        out["status"] = json!({ "token": token, "expirationTimestamp": written(self.now() + seconds) });
        (201, out)
    }

    /// Whether the API server would let in with it now, asked as an application asks.
    pub(crate) fn takes(&mut self, token: &str) -> bool {
        self.authenticate(Some(token)).is_ok()
    }

    /// All tokens that it ever made for leases and would take.
    pub(crate) fn alive(&mut self) -> BTreeSet<String> {
        let issued = self.issued.clone();
        issued.into_iter().filter(|token| self.takes(token)).collect()
    }
}

/// What docs/kubernetes.md asks for, and what all may who were let in (`system:basic-user`).
fn granted() -> Vec<Right> {
    let executor = format!("system:serviceaccount:{NAMESPACE}:executor");
    let right =
        |user: &str, verb, resource, name: &str| Right { user: user.to_owned(), verb, resource, name: name.to_owned() };
    let mut all = Vec::new();
    for verb in ["create", "delete", "get", "list"] {
        all.push(right(&executor, verb, "secrets", ""));
    }
    all.push(right(&executor, "get", "namespaces", NAMESPACE));
    all.push(right(&executor, "create", "localsubjectaccessreviews", ""));
    all.push(right(&executor, "create", "tokenreviews", ""));
    for account in ["app", "other", "power", "absent"] {
        all.push(right(&executor, "get", "serviceaccounts", account));
        all.push(right(&executor, "create", "serviceaccounts/token", account));
    }
    for account in ["executor", "app", "other", "power"] {
        let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
        all.push(right(&user, "create", "selfsubjectreviews", ""));
        all.push(right(&user, "create", "selfsubjectaccessreviews", ""));
    }
    all.push(right(&format!("system:serviceaccount:{NAMESPACE}:power"), "create", "pods", ""));
    all
}

/// What percent-encoding says (RFC 3986 section 2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|two| u8::from_str_radix(core::str::from_utf8(two).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
