//! A login by hand, packet by packet, so that it can be left half-way (MariaDB's client/server protocol, connection phase).

use std::io;

use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long password, protocol 4.1, transactions, secure connection, plugins.
const CAPABILITIES: u32 = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
/// No account has this one, so the server asks anew, for the right one.
const OTHER_PLUGIN: &[u8] = b"mysql_clear_password\0";
const UTF8MB4: u8 = 45;

/// A login of which the server has asked for the proof of its password.
pub(crate) struct HalfOpen {
    stream: TcpStream,
    sequence: u8,
    scramble: Vec<u8>,
}

impl HalfOpen {
    /// Says who wants to be let in.
    pub(crate) async fn begin(port: u16, user: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sequence, _greeting) = receive(&mut stream).await.unwrap();
        let mut response = CAPABILITIES.to_le_bytes().to_vec();
        response.extend_from_slice(&(1u32 << 24).to_le_bytes());
        response.push(UTF8MB4);
        response.extend_from_slice(&[0; 23]);
        response.extend_from_slice(user.as_bytes());
        // An empty proof.
        response.extend_from_slice(&[0, 0]);
        response.extend_from_slice(OTHER_PLUGIN);
        send(&mut stream, sequence + 1, &response).await.unwrap();
        Self::asked(stream).await
    }

    /// An open session that wants to be another one's.
    pub(crate) async fn change(mut session: Session, user: &str) -> Self {
        let mut change = vec![0x11];
        change.extend_from_slice(user.as_bytes());
        change.extend_from_slice(&[0, 0, 0, UTF8MB4, 0]);
        change.extend_from_slice(OTHER_PLUGIN);
        send(&mut session.0, 0, &change).await.unwrap();
        Self::asked(session.0).await
    }

    async fn asked(mut stream: TcpStream) -> Self {
        let (sequence, body) = receive(&mut stream).await.unwrap();
        let plugin = b"\xfemysql_native_password\0";
        assert!(body.starts_with(plugin), "the server asks for the proof: {}", String::from_utf8_lossy(&body));
        let scramble = body[plugin.len()..plugin.len() + 20].to_vec();
        Self { stream, sequence, scramble }
    }

    /// Proves the password; the session, or what the server says.
    pub(crate) async fn prove(mut self, password: &str) -> Result<Session, String> {
        let once = Sha1::digest(password.as_bytes());
        let twice = Sha1::digest(once);
        let mask = Sha1::new().chain_update(&self.scramble).chain_update(twice).finalize();
        let proof: Vec<u8> = once.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        send(&mut self.stream, self.sequence + 1, &proof).await.map_err(|e| e.to_string())?;
        match receive(&mut self.stream).await {
            Ok((_, body)) if body[0] == 0 => Ok(Session(self.stream)),
            Ok((_, body)) => Err(String::from_utf8_lossy(&body).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A session.
pub(crate) struct Session(TcpStream);

impl Session {
    /// Whether the server still answers on it.
    pub(crate) async fn alive(&mut self) -> bool {
        // COM_PING
        send(&mut self.0, 0, &[0x0e]).await.is_ok() && receive(&mut self.0).await.is_ok_and(|(_, body)| body[0] == 0)
    }
}

async fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    stream.read_exact(&mut body).await?;
    Ok((head[3], body))
}

async fn send(stream: &mut TcpStream, sequence: u8, body: &[u8]) -> io::Result<()> {
    let mut packet = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    packet[3] = sequence;
    packet.extend_from_slice(body);
    stream.write_all(&packet).await
}
