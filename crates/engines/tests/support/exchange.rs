//! A login by hand, message by message, so that it can be left half-way (PostgreSQL's protocol 3.0, RFC 5802, RFC 7677).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A login of which the server has said its salt and waits for the proof.
pub(crate) struct HalfOpen {
    stream: TcpStream,
    client_first: String,
    server_first: String,
}

impl HalfOpen {
    pub(crate) async fn begin(port: u16, user: &str, dbname: &str) -> Self {
        Self::begin_with(port, user, dbname, "").await
    }

    /// With settings, as `-c name=value`.
    pub(crate) async fn begin_with(port: u16, user: &str, dbname: &str, options: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let parameters = format!("user\0{user}\0database\0{dbname}\0options\0{options}\0\0");
        let mut start = u32::try_from(8 + parameters.len()).unwrap().to_be_bytes().to_vec();
        start.extend_from_slice(&196_608_u32.to_be_bytes());
        start.extend_from_slice(parameters.as_bytes());
        stream.write_all(&start).await.unwrap();
        let (kind, body) = receive(&mut stream).await.unwrap();
        assert_eq!((kind, &body[..4]), (b'R', &10_u32.to_be_bytes()[..]), "SASL is offered");

        let client_first = "n=,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        let message = format!("n,,{client_first}");
        let mut initial = b"SCRAM-SHA-256\0".to_vec();
        initial.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        initial.extend_from_slice(message.as_bytes());
        send(&mut stream, &initial).await;
        let (kind, body) = receive(&mut stream).await.unwrap();
        assert_eq!((kind, &body[..4]), (b'R', &11_u32.to_be_bytes()[..]), "the salt is said");
        let server_first = String::from_utf8(body[4..].to_vec()).unwrap();
        Self { stream, client_first, server_first }
    }

    /// Sends the proof. What the server says then is waited for by [`Proved::let_in`].
    pub(crate) async fn prove(mut self, password: &str) -> Proved {
        let field = |key: &str| {
            self.server_first
                .split(',')
                .find_map(|f| f.strip_prefix(key))
                .expect("a field of the server's first message")
        };
        let (salt, iterations) = (STANDARD.decode(field("s=")).unwrap(), field("i=").parse().unwrap());
        let salted: [u8; 32] =
            pbkdf2::pbkdf2_array::<Hmac<Sha256>, 32>(password.as_bytes(), &salt, iterations).unwrap();
        let mac = |key: &[u8], text: &str| {
            Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes()
        };
        let key = mac(&salted, "Client Key");
        let without_proof = format!("c=biws,r={}", field("r="));
        let message = format!("{},{},{without_proof}", self.client_first, self.server_first);
        let signature = mac(&Sha256::digest(key), &message);
        let proof: Vec<u8> = key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
        send(&mut self.stream, format!("{without_proof},p={}", STANDARD.encode(proof)).as_bytes()).await;
        Proved(self.stream)
    }
}

/// A login whose proof is sent.
pub(crate) struct Proved(TcpStream);

impl Proved {
    /// Whether it ends in a session, with the server's words if not.
    pub(crate) async fn let_in(&mut self) -> Result<(), String> {
        while let Some((kind, body)) = receive(&mut self.0).await {
            match kind {
                b'Z' => return Ok(()),
                b'E' => return Err(String::from_utf8_lossy(&body).replace('\0', " ")),
                _ => {}
            }
        }
        Err("the server hung up".to_owned())
    }

    /// Whether the session answers.
    pub(crate) async fn alive(&mut self) -> bool {
        let query = b"Q\0\0\0\x0dSELECT 1\0";
        self.0.write_all(query).await.is_ok() && self.let_in().await.is_ok()
    }
}

async fn send(stream: &mut TcpStream, body: &[u8]) {
    let mut message = vec![b'p'];
    message.extend_from_slice(&u32::try_from(4 + body.len()).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await.ok()?;
    Some((head[0], body))
}
