//! Redis' protocol, version 2 (redis.io, "Redis serialization protocol specification"): as much of it as an auditor speaks.

use anyhow::{Context as _, bail, ensure};
use std::pin::Pin;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// The longest line, in bytes.
const LINE: u64 = 65_536;
/// The longest text, in bytes, and the most parts of an answer: a server that says more is not believed.
const TEXT: usize = 256 << 20;
const PARTS: usize = 1 << 22;
/// How deep answers nest.
const DEPTH: usize = 8;

/// An answer that is no error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nothing,
    Number(i64),
    Text(String),
    Many(Vec<Answer>),
}

impl Answer {
    /// # Errors
    /// When it is none.
    pub(super) fn text(self) -> anyhow::Result<String> {
        if let Self::Text(text) = self { Ok(text) } else { bail!("a text was expected, and not {self:?}") }
    }

    /// # Errors
    /// When it is no list of texts.
    pub(super) fn texts(self) -> anyhow::Result<Vec<String>> {
        let Self::Many(parts) = self else { bail!("a list was expected, and not {self:?}") };
        parts.into_iter().map(Self::text).collect()
    }
}

/// A connection. One that has failed is good for nothing any more.
pub(super) struct Connection<S>(BufReader<S>);

impl Connection<TcpStream> {
    /// # Errors
    /// The operating system's.
    pub(super) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Says a command, and waits for the answer.
    ///
    /// # Errors
    /// What the server says, or the end of the connection.
    pub(super) async fn call(&mut self, words: &[&str]) -> anyhow::Result<Answer> {
        let mut bytes = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        self.0.get_mut().write_all(bytes.as_bytes()).await?;
        self.answer(0).await
    }

    fn answer(&mut self, depth: usize) -> Pin<Box<dyn Future<Output = anyhow::Result<Answer>> + Send + '_>> {
        Box::pin(async move {
            ensure!(depth < DEPTH, "an answer that nests deeper than {DEPTH}");
            let line = self.line().await?;
            let (kind, rest) = line.split_at_checked(1).context("an answer without a kind")?;
            let size = |most: usize| -> anyhow::Result<Option<usize>> {
                if rest == "-1" {
                    return Ok(None);
                }
                let size = rest.parse::<usize>().with_context(|| format!("`{rest}` is no length"))?;
                ensure!(size <= most, "an answer of {size}, and {most} is the most");
                Ok(Some(size))
            };
            Ok(match kind {
                "+" => Answer::Text(rest.to_owned()),
                "-" => bail!("{rest}"),
                ":" => Answer::Number(rest.parse().with_context(|| format!("`{rest}` is no number"))?),
                "$" => match size(TEXT)? {
                    None => Answer::Nothing,
                    Some(size) => Answer::Text(self.text(size).await?),
                },
                "*" => {
                    let Some(parts) = size(PARTS)? else { return Ok(Answer::Nothing) };
                    let mut all = Vec::new();
                    for _ in 0..parts {
                        all.push(self.answer(depth + 1).await?);
                    }
                    Answer::Many(all)
                }
                _ => bail!("an answer of an unknown kind: {line}"),
            })
        })
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        (&mut self.0).take(LINE).read_line(&mut line).await?;
        let line = line.strip_suffix("\r\n").context("the connection has ended, or a line is too long")?;
        Ok(line.to_owned())
    }

    async fn text(&mut self, size: usize) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let whole = size + 2;
        let read = (&mut self.0).take(u64::try_from(whole)?).read_to_end(&mut bytes).await?;
        ensure!(read == whole && bytes.ends_with(b"\r\n"), "a text that is not {size} bytes long");
        bytes.truncate(size);
        // Of what is not UTF-8 nothing is compared: names of ours are.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    /// What is made of these bytes, and what was sent for a command of two words.
    async fn answered(bytes: &[u8]) -> (anyhow::Result<Answer>, Vec<u8>) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut connection = Connection(BufReader::new(ours));
        let answer = connection.call(&["ACL", "LIST"]).await;
        drop(connection);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (answer, sent)
    }

    #[tokio::test]
    async fn answers_are_read() {
        let text = |text: &str| Answer::Text(text.to_owned());
        for (bytes, answer) in [
            (&b"+OK\r\n"[..], text("OK")),
            (b":-7\r\n", Answer::Number(-7)),
            (b"$-1\r\n", Answer::Nothing),
            (b"*-1\r\n", Answer::Nothing),
            (b"$4\r\na\r\nb\r\n", text("a\r\nb")),
            (b"$0\r\n\r\n", text("")),
            (b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", Answer::Many(vec![text("a"), Answer::Many(vec![Answer::Number(1)])])),
        ] {
            let (read, sent) = answered(bytes).await;
            assert_eq!(read.unwrap(), answer, "{}", String::from_utf8_lossy(bytes));
            assert_eq!(sent, b"*2\r\n$3\r\nACL\r\n$4\r\nLIST\r\n");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        let nested = [&b"*1\r\n".repeat(9)[..], b":1\r\n"].concat();
        for bytes in [
            &b""[..],
            b"\r\n",
            b"OK\r\n",
            b"+OK",
            b":x\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$5\r\nab\r\n",
            b"$1\r\nab\r\n",
            b"$999999999999\r\n",
            b"*999999999999\r\n",
            b"*2\r\n:1\r\n",
            &nested,
        ] {
            assert!(answered(bytes).await.0.is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let (refused, _) = answered(b"-NOPERM no permissions\r\n").await;
        assert_eq!(refused.unwrap_err().to_string(), "NOPERM no permissions");
    }
}
