//! Users of a MariaDB.

use super::{MOST, Users};
use crate::servers::mariadb::login;
use mysql_async::prelude::Queryable as _;
use mysql_async::{ChangeUserOpts, Conn};
use quorate_api::client::Credential;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How a user behaves once it has a login.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Keeps a session open.
    Idle,
    /// Is in the middle of a statement.
    Busy,
    /// Holds a row in an open transaction.
    Holder,
    /// Has a temporary table.
    Temporary,
    /// Says who it is again and again, in one session: the server shows less of it meanwhile.
    Changer,
    /// Takes as many sessions as it gets.
    Glutton,
    /// Logs in again and again, until it is refused.
    Returner,
}

const MANNERS: [Manner; 7] =
    [Manner::Idle, Manner::Busy, Manner::Holder, Manner::Temporary, Manner::Changer, Manner::Glutton, Manner::Returner];

/// They.
pub(crate) struct MariaDb;

/// What they keep open.
pub(crate) enum Session {
    /// It says whether it lives when it is asked.
    Open(Box<Conn>),
    /// It is at work, and ends with its connection.
    AtWork(JoinHandle<()>),
}

impl Users for MariaDb {
    type Session = Session;
    const MANNERS: u64 = MANNERS.len() as u64;

    async fn behave(manner: usize, credential: &Credential) -> Vec<Session> {
        let Ok(mut first) = login(credential).await else { return Vec::new() };
        match MANNERS[manner] {
            Manner::Idle => {}
            Manner::Holder => does(&mut first, &["START TRANSACTION", "INSERT INTO app.t VALUES (1)"]).await,
            Manner::Temporary => does(&mut first, &["CREATE TEMPORARY TABLE app.mine (a int)"]).await,
            Manner::Busy => {
                let task = async move { drop(first.query_drop("SELECT SLEEP(600)").await) };
                return vec![Session::AtWork(tokio::spawn(task))];
            }
            Manner::Changer => {
                let task = async move {
                    while first.change_user(ChangeUserOpts::default()).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                return vec![Session::AtWork(tokio::spawn(task))];
            }
            Manner::Glutton => {
                let mut sessions = vec![Session::Open(Box::new(first))];
                while let Ok(session) = login(credential).await {
                    sessions.push(Session::Open(Box::new(session)));
                    if sessions.len() > MOST {
                        break;
                    }
                }
                return sessions;
            }
            Manner::Returner => {
                let again = crate::servers::mariadb::options(credential);
                let task = async move {
                    while let Ok(session) = Conn::new(again.clone()).await {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        drop(session);
                    }
                };
                return vec![Session::Open(Box::new(first)), Session::AtWork(tokio::spawn(task))];
            }
        }
        vec![Session::Open(Box::new(first))]
    }

    async fn is_over(session: &mut Session) -> bool {
        match session {
            Session::Open(conn) => conn.ping().await.is_err(),
            Session::AtWork(task) => task.is_finished(),
        }
    }
}

async fn does(session: &mut Conn, statements: &[&str]) {
    for statement in statements {
        // Nobody promises that it lives long enough.
        let _ = session.query_drop(*statement).await;
    }
}
