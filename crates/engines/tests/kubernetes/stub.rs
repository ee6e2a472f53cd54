//! That the API server of these tests refuses what a real one refuses: what passes there is worth as much.

use serde_json::{Value, json};

use crate::cluster::{Cluster, NAMESPACE};
use crate::jwt;
use crate::server::EXECUTOR;

const SECRETS: &str = "/api/v1/namespaces/leases/secrets";

struct Asking {
    _folder: tempfile::TempDir,
    cluster: Cluster,
}

impl Asking {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(folder.path().join("cluster"));
        Self { _folder: folder, cluster }
    }

    fn ask(&mut self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.cluster.serve(EXECUTOR, method, target, &body)
    }

    fn make(&mut self, name: &str) -> Value {
        let (status, made) = self.ask("POST", SECRETS, &json!({ "type": "a", "metadata": { "name": name } }));
        assert_eq!(status, 201, "{made}");
        made
    }

    fn token(&mut self, secret: &Value) -> (u16, Value) {
        let reference =
            json!({ "kind": "Secret", "name": secret["metadata"]["name"], "uid": secret["metadata"]["uid"] });
        let spec = json!({ "expirationSeconds": 600, "boundObjectRef": reference });
        self.ask("POST", "/api/v1/namespaces/leases/serviceaccounts/app/token", &json!({ "spec": spec }))
    }
}

#[test]
fn a_token_is_taken_only_while_its_secret_is_there() {
    let mut asking = Asking::new();
    let secret = asking.make("a");
    let (status, issued) = asking.token(&secret);
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    assert!(status == 201 && asking.cluster.takes(&token));
    asking.cluster.ahead = 659;
    assert!(asking.cluster.takes(&token), "there is a leeway of a minute");
    asking.cluster.ahead = 670;
    assert!(!asking.cluster.takes(&token), "it has run out");
    asking.cluster.ahead = 0;
    let stranger = json!({ "preconditions": { "uid": "another" } });
    assert_eq!(asking.ask("DELETE", &format!("{SECRETS}/a"), &stranger).0, 409);
    assert!(asking.cluster.takes(&token));
    assert_eq!(asking.ask("DELETE", &format!("{SECRETS}/a"), &Value::Null).0, 200);
    assert!(!asking.cluster.takes(&token));
    asking.make("a");
    assert!(!asking.cluster.takes(&token), "the name is there, and not the Secret");
    assert_eq!(asking.token(&secret).0, 409, "nor is a token made for what was removed");
    asking.ask("DELETE", &format!("{SECRETS}/a"), &Value::Null);
    assert_eq!(asking.token(&secret).0, 404);
}

#[test]
fn it_remembers_whom_it_let_in_and_its_watch_lags() {
    let mut asking = Asking::new();
    asking.cluster.remembers = std::time::Duration::from_secs(3_600);
    let (used, unused) = (asking.make("a"), asking.make("b"));
    let tokens = [&used, &unused].map(|secret| asking.token(secret).1["status"]["token"].as_str().unwrap().to_owned());
    assert!(asking.cluster.takes(&tokens[0]));
    for name in ["a", "b"] {
        asking.ask("DELETE", &format!("{SECRETS}/{name}"), &Value::Null);
    }
    assert!(asking.cluster.takes(&tokens[0]), "it was let in before");
    assert!(!asking.cluster.takes(&tokens[1]));
    asking.cluster.remembers = std::time::Duration::ZERO;
    let secret = asking.make("c");
    let token = asking.token(&secret).1["status"]["token"].as_str().unwrap().to_owned();
    asking.cluster.watch_lags = true;
    asking.ask("DELETE", &format!("{SECRETS}/c"), &Value::Null);
    assert!(asking.cluster.takes(&token), "it does not know yet");
    assert_eq!(asking.token(&secret).0, 404, "where it asks its store, it does");
}

#[test]
fn nobody_else_is_let_in_and_nobody_does_what_he_may_not() {
    let mut asking = Asking::new();
    for bad in ["", "a.b.c", &jwt::sign(&jwt::generate(), &json!({ "sub": EXECUTOR }))] {
        assert_eq!(asking.cluster.authenticate(Some(bad)).unwrap_err().0, 401);
    }
    assert_eq!(asking.cluster.authenticate(None).unwrap_err().0, 401);
    let token = asking.cluster.token_of("app", 600);
    assert_eq!(asking.cluster.authenticate(Some(&token)), Ok(format!("system:serviceaccount:{NAMESPACE}:app")));
    let said = asking.cluster.serve("system:serviceaccount:leases:app", "GET", SECRETS, b"");
    assert_eq!((said.0, &said.1["reason"]), (403, &json!("Forbidden")));
    asking.cluster.stored.accounts.insert("app".to_owned(), "another".to_owned());
    assert!(!asking.cluster.takes(&token), "the account was made anew");
}

#[test]
fn objects_are_checked_and_listed_in_pages_of_one_moment() {
    let mut asking = Asking::new();
    for name in ["", "A", "a_b", "-a", "a-", "a..b"] {
        assert_eq!(asking.ask("POST", SECRETS, &json!({ "metadata": { "name": name } })).0, 422, "{name:?}");
    }
    for name in ["a", "b", "c"] {
        asking.make(name);
    }
    assert_eq!(asking.ask("POST", SECRETS, &json!({ "metadata": { "name": "a" } })).0, 409);
    let first = asking.ask("GET", &format!("{SECRETS}?fieldSelector=type%3Da&limit=2"), &Value::Null).1;
    let next = format!("{SECRETS}?limit=2&continue={}", first["metadata"]["continue"].as_str().unwrap());
    asking.ask("DELETE", &format!("{SECRETS}/c"), &Value::Null);
    let rest = asking.ask("GET", &next, &Value::Null).1;
    assert_eq!((first["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 1));
    asking.cluster.compact();
    assert_eq!(asking.ask("GET", &next, &Value::Null).0, 410);
    assert_eq!(asking.ask("GET", &format!("{SECRETS}?fieldSelector=type%3Db"), &Value::Null).1["items"], json!([]));
    let short = json!({ "spec": { "expirationSeconds": 599 } });
    assert_eq!(asking.ask("POST", "/api/v1/namespaces/leases/serviceaccounts/app/token", &short).0, 422);
}
