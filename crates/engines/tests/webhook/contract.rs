//! Requests made by hand, as anybody may send them: what a receiver does for none but the vault.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use quorate_crypto::secret::SecretVec;
use quorate_engines::Engine as _;
use quorate_engines::http::{Http, HttpConfig, Path, Request};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::server::{Receiver, SECRET, lease};

/// What somebody does to a request.
type Spoil = fn(&mut Raw);

/// One request, of which each part can be spoiled.
struct Raw {
    path: [&'static str; 3],
    id: String,
    timestamp: u64,
    secret: String,
    body: String,
    signature: Option<String>,
}

impl Raw {
    fn claim(name: &str) -> Self {
        let body = json!({"type": "quorate.v1.claim", "target": "t1", "term": 1, "data": {"name": name}}).to_string();
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        Self {
            path: ["vault", "v1", "claim"],
            id: format!("req_{}", URL_SAFE_NO_PAD.encode(id)),
            timestamp: now(),
            secret: SECRET.to_owned(),
            body,
            signature: None,
        }
    }

    /// Signs it, if no signature is given, and sends it.
    async fn send(&self, receiver: &Receiver) -> (u16, Value) {
        let signature = self.signature.clone().unwrap_or_else(|| sign(self));
        let http = Http::new(HttpConfig {
            endpoint: receiver.endpoint(),
            tls: receiver.tls(),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            max_answer: 4096,
        });
        let request = Request::post(Path::new(&self.path).unwrap())
            .header("webhook-id", &self.id)
            .and_then(|request| request.header("webhook-timestamp", &self.timestamp.to_string()))
            .and_then(|request| request.header("webhook-signature", &signature))
            .unwrap()
            .json(SecretVec::new(self.body.clone().into_bytes()));
        let answer = http.unwrap().call(&request).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sign(raw: &Raw) -> String {
    let key = STANDARD.decode(raw.secret.strip_prefix("whsec_").unwrap()).unwrap();
    let signed = format!("{}.{}.{}", raw.id, raw.timestamp, raw.body);
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(signed).finalize().into_bytes();
    format!("v1,{}", STANDARD.encode(mac))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_for_who_does_not_know_the_secret() {
    let receiver = Receiver::start().await;
    let good = sign(&Raw::claim("c_other"));
    let spoilt: [(&str, Spoil); 9] = [
        ("another secret", |raw| raw.secret = format!("whsec_{}", STANDARD.encode([7; 32]))),
        ("another body", |raw| {
            raw.signature = Some(sign(raw));
            raw.body = raw.body.replace("c_spoilt", "c_forged");
        }),
        ("another id", |raw| {
            raw.signature = Some(sign(raw));
            raw.id.push('x');
        }),
        ("another time", |raw| {
            raw.signature = Some(sign(raw));
            raw.timestamp += 1;
        }),
        ("no signature", |raw| raw.signature = Some(String::new())),
        ("another version", |raw| raw.signature = Some(sign(raw).replace("v1,", "v1a,"))),
        ("a cut one", |raw| raw.signature = Some(sign(raw)[..30].to_owned())),
        ("an id with a full stop", |raw| raw.id.push_str(".1")),
        ("no id", |raw| raw.id.clear()),
    ];
    for (what, spoil) in spoilt {
        let mut raw = Raw::claim("c_spoilt");
        spoil(&mut raw);
        let (status, said) = raw.send(&receiver).await;
        assert_eq!((status, said["error"]["code"].as_str()), (401, Some("signature")), "{what}");
    }
    let mut raw = Raw::claim("c_spoilt");
    raw.signature = Some(good);
    assert_eq!(raw.send(&receiver).await.0, 401, "a signature of something else");
    assert!(receiver.engine(1).claims("c_").await.unwrap().is_empty(), "none of them had an effect");
    raw.signature = Some(format!("v1a,AAAA v1,AAAA {}", sign(&raw)));
    assert_eq!(raw.send(&receiver).await.1["data"], json!({}), "one of several");
    assert_eq!(receiver.engine(1).claims("c_").await.unwrap(), ["c_spoilt"]);
}

/// Who may not ask is not told which password is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_tried_for_nobody_else() {
    let receiver = Receiver::start().await;
    let credential = lease(&receiver, &receiver.engine(1), "c_tried").await;
    let trying = |secret: Value| {
        let mut raw = Raw::claim("c_tried");
        raw.path[2] = "try-out";
        let data = json!({"name": "c_tried", "secret": secret});
        raw.body = json!({"type": "quorate.v1.try-out", "target": "t1", "term": 1, "data": data}).to_string();
        raw
    };
    let right = trying(json!(credential.password));
    assert_eq!(right.send(&receiver).await.1["data"]["let_in"], json!(true));
    assert_eq!(right.send(&receiver).await.1["error"]["code"], json!("replayed"));
    assert_eq!(trying(json!("another")).send(&receiver).await.1["data"]["let_in"], json!(false));
    let mut refused = Vec::new();
    for secret in [credential.password.as_str(), "another"] {
        let mut raw = trying(json!(secret));
        raw.secret = format!("whsec_{}", STANDARD.encode([7; 32]));
        refused.push(raw.send(&receiver).await);
    }
    assert_eq!((refused[0].0, &refused[0]), (401, &refused[1]));
    for bad in [json!(5), json!(null), json!(["p"])] {
        assert_eq!(trying(bad).send(&receiver).await.1["error"]["code"], json!("invalid"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_twice_or_late() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let code = |said: &Value| said["error"]["code"].as_str().map(str::to_owned);
    let first = Raw::claim("c_once");
    assert_eq!(code(&first.send(&receiver).await.1), None);
    engine.disclaim(&["c_once".to_owned()]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(code(&first.send(&receiver).await.1).as_deref(), Some("replayed"));
        // An id that it has forgotten would let it in again.
        receiver.restart().await;
    }
    for (offset, wanted) in [(-400, "timestamp"), (400, "timestamp"), (-200, ""), (200, "")] {
        let mut raw = Raw::claim(&format!("c_at_{}", offset + 1000));
        raw.timestamp = raw.timestamp.checked_add_signed(offset).unwrap();
        assert_eq!(code(&raw.send(&receiver).await.1).unwrap_or_default(), wanted, "{offset} s");
    }
    // One from the future is remembered until it is of the past.
    let mut ahead = Raw::claim("c_ahead");
    ahead.timestamp += 250;
    assert_eq!(code(&ahead.send(&receiver).await.1), None);
    receiver.set_clock(500).await;
    assert_eq!(code(&ahead.send(&receiver).await.1).as_deref(), Some("replayed"));
    receiver.set_clock(0).await;
    assert_eq!(engine.claims("c_").await.unwrap(), ["c_ahead", "c_at_1200", "c_at_800"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_for_one_act_is_good_for_no_other() {
    let receiver = Receiver::start().await;
    let with = |change: fn(&mut Raw)| {
        let mut raw = Raw::claim("c_astray");
        change(&mut raw);
        raw
    };
    for raw in [
        with(|raw| raw.path[2] = "disclaim"),
        with(|raw| raw.path[1] = "v2"),
        with(|raw| raw.body = raw.body.replace("v1.claim", "v2.claim")),
        with(|raw| raw.body = raw.body.replace("v1.claim", "v1.start")),
        with(|raw| raw.body = raw.body.replace("c_astray", "C\\n")),
        with(|raw| raw.body = raw.body.replace("\"c_astray\"", "[1]")),
        with(|raw| raw.body = raw.body.replace("data", "date")),
        with(|raw| raw.body = "[".repeat(1000)),
    ] {
        let (status, said) = raw.send(&receiver).await;
        assert_eq!((status, said["error"]["code"].as_str()), (200, Some("invalid")), "{}", raw.body);
    }
    assert!(receiver.engine(1).claims("c_").await.unwrap().is_empty());
}
