//! A relay between the cluster and its database that reads along, in clear, and lets one statement or its answer meet a [`Fate`].
//!
//! What it waits for are words of the statements that the vault's engine sends, as PostgreSQL's own log would show them.
//! `tests/tests/answers.rs` fails when the engine says them in other words.

use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Between polls for sessions that were told to end are 20 ms, and before the second look a second.
const SECOND: Duration = Duration::from_millis(500);
/// How long a server may take to say something to what comes late.
const LATE: Duration = Duration::from_secs(2);

/// What becomes of a statement, or of what the server says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives, and the connection ends.
    StatementCut,
    /// It is carried out, and the connection ends instead of an answer.
    AnswerCut,
    /// It is carried out, and nothing comes back for ever. The connection stays.
    AnswerKept,
    /// It stays here until [`Relay::let_go`], and arrives then, whoever still waits for it. The connection stays.
    StatementKept,
}

impl Fate {
    /// All of them: those first of which the vault hears at once.
    pub const ALL: [Self; 4] = [Self::StatementCut, Self::AnswerCut, Self::AnswerKept, Self::StatementKept];
    /// Those that leave the vault waiting.
    pub const SILENT: [Self; 2] = [Self::AnswerKept, Self::StatementKept];
}

/// A step of a lease at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its login is made.
    Create,
    /// Its login is dropped, in a transaction: nobody uses it.
    Drop,
    /// That transaction is committed.
    Commit,
    /// Its login is refused: somebody uses it.
    Disable,
    /// Its sessions are told to end.
    Kill,
    /// The first look for its sessions after that.
    Look,
    /// The second one.
    LookAgain,
    /// What it owns is given away.
    Give,
    /// What is left of it is dropped.
    Remove,
}

impl Step {
    /// In their order.
    pub const ALL: [Self; 9] = [
        Self::Create,
        Self::Drop,
        Self::Commit,
        Self::Disable,
        Self::Kill,
        Self::Look,
        Self::LookAgain,
        Self::Give,
        Self::Remove,
    ];

    /// Whether it comes to it only where the login is in use when it is to end.
    #[must_use]
    pub fn needs_session(self) -> bool {
        match self {
            Self::Create | Self::Drop | Self::Commit => false,
            Self::Disable | Self::Kill | Self::Look | Self::LookAgain | Self::Give | Self::Remove => true,
        }
    }

    /// Whether its lease is proved to have ended before.
    #[must_use]
    pub fn is_behind_the_end(self) -> bool {
        matches!(self, Self::Give | Self::Remove)
    }

    /// What passes on one connection, the last of it being this step.
    fn passes(self, login: &str) -> Vec<Passing> {
        let quoted = format!("\"{login}\"");
        let passing = |words: &[&str]| Passing { words: words.iter().map(|w| (*w).to_owned()).collect(), again: None };
        let kill = || passing(&["FROM sessions", login]);
        let look = || passing(&["AS p(name, oid, nr)", login]);
        match self {
            Self::Create => vec![passing(&["CREATE ROLE %I LOGIN", login])],
            Self::Drop => vec![passing(&["DROP ROLE ", &quoted])],
            Self::Commit => vec![passing(&["DROP ROLE ", &quoted]), passing(&["COMMIT"])],
            Self::Disable => vec![passing(&["ALTER ROLE ", &quoted, " NOLOGIN"])],
            Self::Kill => vec![kill()],
            Self::Look => vec![kill(), look()],
            Self::LookAgain => vec![kill(), look(), Passing { again: Some(SECOND), ..look() }],
            Self::Give => vec![passing(&["DROP OWNED BY ", &quoted])],
            Self::Remove => vec![passing(&["DROP ROLE IF EXISTS ", &quoted])],
        }
    }
}

/// A statement that is waited for.
#[derive(Debug, Clone)]
struct Passing {
    /// All of them are in it.
    words: Vec<String>,
    /// How long none of its kind has passed before it.
    again: Option<Duration>,
}

impl Passing {
    fn is(&self, bytes: &[u8]) -> bool {
        let has = |word: &String| word.is_empty() || bytes.windows(word.len()).any(|window| window == word.as_bytes());
        self.words.iter().all(has)
    }
}

/// How far one connection has come.
#[derive(Debug, Default)]
struct Come {
    /// Of which trap.
    trap: u64,
    passed: usize,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Trap {
    number: u64,
    passes: Vec<Passing>,
    fate: Option<Fate>,
    /// A statement has met its fate.
    sprung: bool,
    /// The server has carried it out, as it says itself.
    carried_out: bool,
}

/// Ended when dropped.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    trap: Arc<Mutex<Trap>>,
    let_go: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a port of its own, for the server at `to`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the relay")?;
        let port = listener.local_addr()?.port();
        let (trap, let_go) = (Arc::<Mutex<Trap>>::default(), watch::Sender::new(0));
        let (shared, gone) = (Arc::clone(&trap), let_go.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, gone) = (Arc::clone(&shared), gone.clone());
                // Its end is the connection's.
                tokio::spawn(async move { drop(serve(stream, to, &shared, gone).await) });
            }
        });
        Ok(Self { port, trap, let_go, task })
    }

    /// Where it listens, on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next time that `step` is made for `login`, it meets `fate`; once. For [`Step::Create`] an empty name is any.
    pub fn lay(&self, step: Step, login: &str, fate: Fate) {
        let mut trap = lock(&self.trap);
        let number = trap.number + 1;
        *trap = Trap { number, passes: step.passes(login), fate: Some(fate), sprung: false, carried_out: false };
    }

    /// Waits until that has happened and, where the statement arrives at once, the server has carried it out.
    ///
    /// # Errors
    /// When it has not after `limit`.
    pub async fn met(&self, limit: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            {
                let trap = lock(&self.trap);
                let arrives = matches!(trap.fate, Some(Fate::AnswerCut | Fate::AnswerKept));
                if trap.sprung && (trap.carried_out || !arrives) {
                    return Ok(());
                }
                anyhow::ensure!(begun.elapsed() < limit, "after {limit:?} nothing has met its fate: {trap:?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Statements that were kept arrive.
    pub fn let_go(&self) {
        let number = lock(&self.trap).number;
        self.let_go.send_replace(number);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(trap: &Mutex<Trap>) -> MutexGuard<'_, Trap> {
    trap.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of what a client has sent, and the number of the trap. What is sent at once is one statement, and small.
fn meet(trap: &Mutex<Trap>, come: &mut Come, bytes: &[u8]) -> Option<(Fate, u64)> {
    let mut trap = lock(trap);
    if trap.sprung {
        return None;
    }
    if come.trap != trap.number {
        *come = Come { trap: trap.number, ..Come::default() };
    }
    let next = trap.passes.get(come.passed)?;
    if !next.is(bytes) {
        return None;
    }
    let before = come.last.replace(Instant::now());
    if next.again.is_some_and(|pause| before.is_none_or(|before| before.elapsed() < pause)) {
        return None;
    }
    come.passed += 1;
    if come.passed < trap.passes.len() {
        return None;
    }
    trap.sprung = true;
    trap.fate.map(|fate| (fate, trap.number))
}

/// Whether an answer ends with the server's word that it waits for the next statement.
fn is_ready(told: &[u8]) -> bool {
    told.len() >= 6 && told.get(told.len() - 6..told.len() - 1) == Some(b"Z\0\0\0\x05")
}

async fn serve(
    mut client: TcpStream,
    to: SocketAddr,
    trap: &Mutex<Trap>,
    mut let_go: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let (mut come, mut met) = (Come::default(), None);
    loop {
        tokio::select! {
            n = client.read(&mut asked) => {
                let n = n?;
                let Some(bytes) = asked.get(..n).filter(|b| !b.is_empty()) else { return Ok(()) };
                match meet(trap, &mut come, bytes) {
                    Some((Fate::StatementCut, _)) => return Ok(()),
                    Some((Fate::StatementKept, number)) => {
                        // Whoever has sent it may hang up meanwhile: who keeps it does not know.
                        if let_go.wait_for(|gone| *gone >= number).await.is_err() {
                            return Ok(());
                        }
                        server.write_all(bytes).await?;
                        // Closed at once, the server might not read it.
                        let _ = timeout(LATE, server.read(&mut told)).await;
                        return Ok(());
                    }
                    Some((fate, _)) => {
                        met = Some(fate);
                        server.write_all(bytes).await?;
                    }
                    None => server.write_all(bytes).await?,
                }
            }
            n = server.read(&mut told) => {
                let n = n?;
                let Some(bytes) = told.get(..n).filter(|b| !b.is_empty()) else { return Ok(()) };
                match met {
                    None => client.write_all(bytes).await?,
                    Some(fate) if is_ready(bytes) => {
                        lock(trap).carried_out = true;
                        if fate == Fate::AnswerCut {
                            return Ok(());
                        }
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
