//! Users of a PostgreSQL.

use super::{MOST, Users};
use quorate_api::client::Credential;
use quorate_tests::database::{login, login_config, login_with};
use std::time::Duration;
use tokio_postgres::Client as Session;

/// How a user behaves once it has a login.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Keeps a session open.
    Idle,
    /// Is in the middle of a statement.
    Busy,
    /// Leaves an object behind that is its own.
    Owner,
    /// Holds its own role in an open transaction.
    Holder,
    /// Holds a temporary table in an open transaction.
    Temporary,
    /// Calls itself what the vault calls itself.
    Forger,
    /// Takes as many sessions as it gets.
    Glutton,
    /// Logs in again and again, until it is refused.
    Returner,
}

const MANNERS: [Manner; 8] = [
    Manner::Idle,
    Manner::Busy,
    Manner::Owner,
    Manner::Holder,
    Manner::Temporary,
    Manner::Forger,
    Manner::Glutton,
    Manner::Returner,
];

/// They.
pub(crate) struct Postgres;

impl Users for Postgres {
    type Session = Session;
    const MANNERS: u64 = MANNERS.len() as u64;

    async fn behave(manner: usize, credential: &Credential) -> Vec<Session> {
        let Ok(first) = login_with(credential).await else { return Vec::new() };
        let mut sessions = vec![first];
        match MANNERS[manner] {
            Manner::Idle => {}
            Manner::Owner => {
                does(&sessions[0], "SELECT lo_create(0); CREATE TEMPORARY TABLE mine (id int)").await;
            }
            Manner::Holder => {
                let holds = format!("BEGIN; ALTER ROLE {} SET work_mem = '1MB'", credential.username);
                does(&sessions[0], &holds).await;
            }
            Manner::Temporary => {
                does(&sessions[0], "BEGIN; CREATE TEMPORARY TABLE mine (id int); LOCK TABLE mine").await;
            }
            Manner::Busy => {
                let busy = sessions.remove(0);
                tokio::spawn(async move { drop(busy.simple_query("SELECT pg_sleep(600)").await) });
                sessions.extend(login_with(credential).await);
            }
            Manner::Forger => sessions.extend(login(login_config(credential).application_name("quorate/pg/1")).await),
            Manner::Glutton => {
                while let Ok(session) = login_with(credential).await {
                    sessions.push(session);
                    if sessions.len() > MOST {
                        break;
                    }
                }
            }
            Manner::Returner => {
                let config = login_config(credential);
                tokio::spawn(async move {
                    while let Ok(session) = login(&config).await {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        drop(session);
                    }
                });
            }
        }
        sessions
    }

    async fn is_over(session: &mut Session) -> bool {
        session.is_closed()
    }
}

async fn does(session: &Session, sql: &str) {
    // Nobody promises that it lives long enough.
    let _ = session.batch_execute(sql).await;
}
