//! Users of a RabbitMQ. All of them agree when they are told that they are closed: one that does not is counted for 30 s more.

use super::{MOST, Users};
use crate::servers::rabbitmq::{Again, hold};
use quorate_api::client::Credential;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How a user behaves once it has a login.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Keeps a session open.
    Idle,
    /// Waits for what comes to a queue of its own.
    Consuming,
    /// Takes many sessions.
    Glutton,
    /// Logs in again and again, until it is refused.
    Returner,
}

const MANNERS: [Manner; 4] = [Manner::Idle, Manner::Consuming, Manner::Glutton, Manner::Returner];

/// They.
pub(crate) struct RabbitMq;

impl Users for RabbitMq {
    /// It reads whatever comes, and ends when the server hangs up.
    type Session = JoinHandle<()>;
    const MANNERS: u64 = MANNERS.len() as u64;

    async fn behave(manner: usize, credential: &Credential) -> Vec<JoinHandle<()>> {
        let again = Again::of(credential);
        let Some(mut first) = again.login().await else { return Vec::new() };
        let mut more = Vec::new();
        match MANNERS[manner] {
            Manner::Idle => {}
            Manner::Consuming => {
                let queue = format!("cf.{}", credential.username);
                if first.declare(&queue, true).await.is_some() {
                    first.consume(&queue).await;
                }
            }
            Manner::Glutton => {
                while let Some(session) = again.login().await {
                    more.push(hold(session));
                    if more.len() >= MOST {
                        break;
                    }
                }
            }
            Manner::Returner => {
                more.push(tokio::spawn(async move {
                    while let Some(session) = again.login().await {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        drop(session);
                    }
                }));
            }
        }
        more.push(hold(first));
        more
    }

    async fn is_over(session: &mut JoinHandle<()>) -> bool {
        session.is_finished()
    }
}
