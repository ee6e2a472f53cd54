//! A network between an executor and the services: it can keep a request or its answer to itself for a while, lose an answer, answer by itself, and
//! refuse what was signed too long ago, as AWS does and moto does not.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is delivered when that is said, whoever waits for it or does not.
    HoldRequest,
    /// It is delivered, and its answer when that is said.
    HoldAnswer,
    /// It is delivered, and its answer never.
    LoseAnswer,
    /// It is not delivered, but answered.
    Answer(Vec<u8>),
    /// Its answer has another date.
    Date(String),
    /// Its answer has something in place of something else.
    Replace(String, String),
}

struct Planned {
    part: String,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct Plans {
    all: Vec<Planned>,
    /// How old a signature may be.
    oldest: Option<Duration>,
}

pub(crate) struct Network {
    pub(crate) port: u16,
    plans: Arc<Mutex<Plans>>,
    /// How many are held, and whether they are to go on.
    held: Arc<watch::Sender<(usize, u64)>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Network {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (plans, held) = (Arc::<Mutex<Plans>>::default(), Arc::new(watch::Sender::new((0, 0))));
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let this = Self { port, plans: plans.clone(), held: held.clone(), seen: seen.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (plans, held, seen) = (plans.clone(), held.clone(), seen.clone());
                tokio::spawn(async move {
                    let _ = serve(client, to, &plans, &held, &seen).await;
                });
            }
        });
        this
    }

    /// The next requests with this in their bodies, so many.
    pub(crate) fn plan(&self, part: &str, fault: Fault, times: usize) {
        self.held.send_modify(|held| held.0 = 0);
        self.plans.lock().unwrap().all.push(Planned { part: part.to_owned(), fault, times });
    }

    /// Whatever is held goes on, and nothing is planned any more.
    pub(crate) fn release(&self) {
        self.plans.lock().unwrap().all.clear();
        self.held.send_modify(|held| held.1 += 1);
    }

    /// Waits until it keeps something to itself.
    pub(crate) async fn holds(&self) {
        let mut held = self.held.subscribe();
        let some = held.wait_for(|held| held.0 > 0);
        timeout(Duration::from_secs(60), some).await.expect("something that is held").unwrap();
    }

    /// Signatures are taken for so long only.
    pub(crate) fn refuse_older(&self, oldest: Option<Duration>) {
        self.plans.lock().unwrap().oldest = oldest;
    }

    /// The bodies of the requests that came, since this was asked last.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn serve(
    mut client: TcpStream,
    to: u16,
    plans: &Mutex<Plans>,
    held: &watch::Sender<(usize, u64)>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    while let Some(asked) = message(&mut client).await? {
        let text = String::from_utf8_lossy(&asked).into_owned();
        seen.lock().unwrap().push(text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned());
        let fault = next(plans, &text);
        if fault == Some(Fault::HoldRequest) {
            hold(held).await;
        }
        if let Some(Fault::Answer(answer)) = &fault {
            client.write_all(answer).await?;
            continue;
        }
        if is_old(plans, &text) {
            let said = "Signature expired: it is earlier than can be (the time - 15 min.)";
            client.write_all(&answer(403, &error("SignatureDoesNotMatch", said))).await?;
            continue;
        }
        let mut answered = request(to, &asked).await?;
        match fault {
            Some(Fault::HoldAnswer) => hold(held).await,
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::Date(date)) => {
                let text = String::from_utf8(answered).unwrap();
                let line = |line: &str| {
                    if line.to_lowercase().starts_with("date:") { format!("Date: {date}") } else { line.to_owned() }
                };
                answered = text.split("\r\n").map(line).collect::<Vec<_>>().join("\r\n").into_bytes();
            }
            Some(Fault::Replace(from, by)) => {
                let text = String::from_utf8(answered).unwrap();
                let body = text.split_once("\r\n\r\n").unwrap().1;
                assert!(body.contains(&from), "{from} is not in {body}");
                answered = answer(200, &body.replace(&from, &by));
            }
            _ => {}
        }
        client.write_all(&answered).await?;
    }
    Ok(())
}

fn next(plans: &Mutex<Plans>, text: &str) -> Option<Fault> {
    let mut plans = plans.lock().unwrap();
    let planned = plans.all.iter_mut().find(|planned| planned.times > 0 && text.contains(&planned.part))?;
    planned.times -= 1;
    Some(planned.fault.clone())
}

async fn hold(held: &watch::Sender<(usize, u64)>) {
    let mut released = held.subscribe();
    let turn = released.borrow().1;
    held.send_modify(|held| held.0 += 1);
    let _ = released.wait_for(|held| held.1 > turn).await;
}

fn is_old(plans: &Mutex<Plans>, text: &str) -> bool {
    let Some(oldest) = plans.lock().unwrap().oldest else { return false };
    let at = text.split("\r\n").find_map(|line| line.strip_prefix("x-amz-date: ")).expect("a signed request");
    let number = |range: std::ops::Range<usize>| at[range].parse::<u64>().unwrap();
    let of_day = number(9..11) * 3600 + number(11..13) * 60 + number(13..15);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400;
    (now + 86_400 - of_day) % 86_400 > oldest.as_secs()
}

/// One message with a length; nothing at the end.
async fn message(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 65_536]);
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Ok(Some(bytes));
            }
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(port: u16, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    for again in 0.. {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(mut stream) => {
                stream.write_all(bytes).await?;
                return message(&mut stream).await?.ok_or_else(|| std::io::Error::other("no answer"));
            }
            Err(error) if again > 100 => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
    Err(std::io::Error::other("never"))
}

pub(crate) fn answer(status: u16, body: &str) -> Vec<u8> {
    let date = httpdate(SystemTime::now());
    format!(
        "HTTP/1.1 {status} X\r\ndate: {date}\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An error as the services say it.
pub(crate) fn error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    )
}

/// RFC 9110 section 5.6.7.
pub(crate) fn httpdate(at: SystemTime) -> String {
    ::httpdate::fmt_http_date(at)
}
