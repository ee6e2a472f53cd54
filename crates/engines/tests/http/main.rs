//! The HTTP client, with servers that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod server;
mod tls;

use std::net::TcpListener;
use std::time::Duration;

use quorate_crypto::secret::SecretVec;
use quorate_engines::http::{Http, HttpConfig, HttpError, Path, Repeat, Request};
use quorate_engines::{Endpoint, EngineError, Tls, http};
use server::{Does, OK, Server};
use tokio::time::Instant;

pub(crate) fn config(port: u16) -> HttpConfig {
    HttpConfig {
        endpoint: Endpoint { host: "127.0.0.1".into(), port },
        tls: Tls::Disabled,
        connect_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(20),
        max_answer: 1000,
    }
}

fn client(port: u16) -> Http {
    Http::new(config(port)).unwrap()
}

fn hasty(port: u16) -> Http {
    Http::new(HttpConfig { answer_timeout: Duration::from_millis(200), ..config(port) }).unwrap()
}

pub(crate) fn path() -> Path {
    Path::new(&["a", "b/c"]).unwrap()
}

fn put() -> Request {
    Request::put(path()).json(SecretVec::new(b"{\"x\":1}".to_vec()))
}

#[track_caller]
fn unknown(result: Result<http::Answer, HttpError>) -> String {
    match result {
        Err(HttpError::Unknown { reason }) => reason,
        other => panic!("unknown was expected: {other:?}"),
    }
}

#[track_caller]
fn not_sent(result: Result<http::Answer, HttpError>) -> String {
    match result {
        Err(HttpError::NotSent { reason }) => reason,
        other => panic!("not sent was expected: {other:?}"),
    }
}

#[tokio::test]
async fn calls_go_over_one_connection_one_after_the_other() {
    let server = Server::start(|_, _| Does::Answer(OK)).await;
    let http = client(server.port);
    let (a, b) = (Request::get(path()), put().basic("me", &SecretVec::new(b"pw".to_vec())).unwrap());
    for _ in 0..3 {
        let (one, other) = tokio::join!(http.call(&a), http.call(&b));
        assert_eq!((one.unwrap().body.as_ref(), other.unwrap().status), (&b"hello"[..], 200));
    }
    assert_eq!(server.connections(), 1);
    let said = server.requests();
    assert_eq!(said.len(), 6);
    assert!(said[0].starts_with("GET /a/b%2Fc HTTP/1.1\r\n"), "{}", said[0]);
    assert!(said[0].contains(&format!("\r\nhost: 127.0.0.1:{}\r\n", server.port)), "{}", said[0]);
    assert!(
        said[1].contains("\r\nauthorization: Basic bWU6cHc=\r\n") && said[1].ends_with("\r\n\r\n{\"x\":1}"),
        "{}",
        said[1]
    );
    assert!(said[1].contains("\r\ncontent-length: 7\r\n"), "{}", said[1]);
}

#[tokio::test]
async fn a_call_that_was_not_sent_is_told_from_one_whose_answer_is_lost() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(not_sent(client(closed).call(&put()).await).contains("refused"));
    // It reads the request and hangs up, at once or in the middle of its answer.
    for half in ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell"] {
        let server = Server::start(move |_, _| Does::AnswerAndClose(half)).await;
        let reason = unknown(client(server.port).call(&put()).await);
        assert!(!reason.is_empty());
        assert_eq!(server.requests().len(), 1, "{half:?}: it is not sent again");
    }
    // A server that has taken the connection and says nothing: whether it has read the request nobody knows.
    let server = Server::start(|_, _| Does::Nothing).await;
    assert_eq!(unknown(hasty(server.port).call(&put()).await), "no answer in time");
}

#[tokio::test]
async fn a_connection_that_has_ended_is_opened_anew_and_no_change_is_sent_twice() {
    // Every connection ends after one answer, and says so or not.
    for says in ["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", OK] {
        let server = Server::start(move |_, _| Does::AnswerAndClose(says)).await;
        let http = client(server.port);
        for round in 1..5 {
            http.call(&put()).await.unwrap();
            // It has ended before the next call.
            server.settled(round).await;
            assert_eq!(server.requests().len(), round);
        }
        assert_eq!(server.connections(), 4);
    }
    // The answer to the second request on a connection is lost. What may be repeated is, what may not is not.
    let loses = |n: usize, on_connection: usize| match (n, on_connection) {
        (_, 2) => Does::AnswerAndClose(""),
        _ => Does::Answer(OK),
    };
    for (request, sent) in [(put(), 2), (put().repeat(Repeat::Once), 3), (Request::get(path()), 3)] {
        let server = Server::start(loses).await;
        let http = client(server.port);
        http.call(&request).await.unwrap();
        let second = http.call(&request).await;
        assert_eq!(second.is_ok(), sent == 3, "{request:?}: {second:?}");
        assert_eq!(server.requests().len(), sent, "{request:?}");
        // Whatever became of it, the next goes on.
        http.call(&request).await.unwrap();
    }
    // Once, not for ever.
    let server = Server::start(|_, _| Does::AnswerAndClose("")).await;
    unknown(client(server.port).call(&Request::get(path())).await);
    assert_eq!(server.requests().len(), 1, "a fresh connection is no reason to try another");
}

#[tokio::test]
async fn no_answer_lasts_for_ever_or_fills_the_memory() {
    for drips in
        [Does::Drip("HTTP/1.1 200 OK\r\nX-A: ", "a"), Does::Drip("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", "a")]
    {
        let server = Server::start(move |_, _| drips).await;
        let began = Instant::now();
        assert_eq!(unknown(hasty(server.port).call(&Request::get(path())).await), "no answer in time");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    let floods = [
        ("HTTP/1.1 200 OK\r\nX-A: ", "too large"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "more than 1000 bytes"),
        // Until it closes, which it never does.
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "more than 1000 bytes"),
        ("HTTP/1.1 100 Continue\r\nX-A: ", "too large"),
    ];
    for (head, why) in floods {
        let server = Server::start(move |_, _| Does::Flood(head)).await;
        let reason = unknown(client(server.port).call(&Request::get(path())).await);
        assert!(reason.contains(why), "{head:?}: {reason}");
    }
    let server = Server::start(|_, _| Does::AnswerAndClose(Box::leak(many_headers().into_boxed_str()))).await;
    unknown(client(server.port).call(&Request::get(path())).await);
}

fn many_headers() -> String {
    format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(2000))
}

#[tokio::test]
async fn what_is_not_http_is_no_answer() {
    for garbage in [
        "\0\u{1}\u{2}garbage",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "{\"ok\":true}",
        "\r\n\r\n\r\n",
    ] {
        let server = Server::start(move |_, _| Does::AnswerAndClose(garbage)).await;
        unknown(client(server.port).call(&put()).await);
    }
}

/// What comes without a question, or after somebody has given up, answers nobody.
#[tokio::test]
async fn an_answer_goes_to_its_own_question_only() {
    const TWO: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine";
    let server = Server::start(|n, _| if n == 1 { Does::Answer(TWO) } else { Does::Answer(OK) }).await;
    let http = client(server.port);
    assert_eq!(http.call(&put()).await.unwrap().body, "hello");
    // Once it is there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(http.call(&put()).await.unwrap().body, "hello");
    assert_eq!(server.connections(), 2);

    const LATE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
    let server = Server::start(|n, _| if n == 1 { Does::AnswerLate(LATE) } else { Does::Answer(OK) }).await;
    let http = std::sync::Arc::new(client(server.port));
    let calling = tokio::spawn({
        let http = http.clone();
        async move { http.call(&put()).await.map(|answer| answer.status) }
    });
    server.heard(1).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(http.call(&put()).await.unwrap().body, "hello");
    assert_eq!(server.connections(), 2, "the one on which somebody gave up is used no more");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let other = Server::start(|_, _| Does::Answer(OK)).await;
    let moved =
        format!("HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{}/\r\nContent-Length: 0\r\n\r\n", other.port);
    let moved: &'static str = Box::leak(moved.into_boxed_str());
    let server = Server::start(move |_, _| Does::Answer(moved)).await;
    let answer = client(server.port).call(&put()).await.unwrap();
    assert_eq!(answer.status, 307);
    let error = answer.success(|_| None).unwrap_err();
    assert_eq!(error, HttpError::Answered { status: 307, words: "Temporary Redirect".into() });
    assert_eq!((server.requests().len(), other.connections()), (1, 0));
}

#[tokio::test]
async fn what_an_answer_means_is_said() {
    let means = [
        ("200", Ok(200)),
        ("204", Ok(204)),
        ("401", Err(EngineError::Refused { code: "401".into(), message: "no entry".into() })),
        ("404", Err(EngineError::Refused { code: "404".into(), message: "no entry".into() })),
        ("429", Err(EngineError::Busy { code: "429".into(), message: "no entry".into() })),
        ("503", Err(EngineError::Busy { code: "503".into(), message: "no entry".into() })),
        ("500", Err(EngineError::Unknown { reason: "the target failed: no entry (500)".into() })),
        ("504", Err(EngineError::Unknown { reason: "the target failed: no entry (504)".into() })),
    ];
    for (status, meaning) in means {
        let says = match status {
            "204" => format!("HTTP/1.1 {status} x\r\n\r\n"),
            _ => format!("HTTP/1.1 {status} x\r\nContent-Length: 9\r\n\r\nno\u{1} entry"),
        };
        let says: &'static str = Box::leak(says.into_boxed_str());
        let server = Server::start(move |_, _| Does::Answer(says)).await;
        let answer = client(server.port).call(&put()).await.unwrap();
        assert!(!format!("{answer:?}").contains("entry"), "an answer may hold a secret");
        let words = |body: &[u8]| Some(String::from_utf8_lossy(body).into_owned());
        assert_eq!(answer.success(words).map(|a| a.status).map_err(EngineError::from), meaning);
    }
    let refused = EngineError::from(HttpError::Distrusted { reason: "x".into() });
    assert!(matches!(refused, EngineError::Refused { .. }));
    assert!(matches!(EngineError::from(HttpError::NotSent { reason: "x".into() }), EngineError::Unavailable { .. }));
}

#[test]
fn a_host_is_a_name_or_an_address() {
    let made = |host: &str| Http::new(HttpConfig { endpoint: Endpoint { host: host.into(), port: 1 }, ..config(1) });
    for bad in ["", "a b", "a/b", "user@host", "a\r\nX: y", "h\u{e4}", "/run/socket"] {
        assert!(matches!(made(bad).map(drop), Err(EngineError::Invalid { field: "host", .. })), "{bad:?}");
    }
    for good in ["localhost", "rabbit-1.example", "127.0.0.1", "::1"] {
        made(good).unwrap();
    }
}
