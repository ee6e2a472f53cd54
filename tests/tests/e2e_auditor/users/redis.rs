//! Users of a Redis.

use super::{MOST, Users};
use crate::servers::redis::Wire;
use quorate_api::client::Credential;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How a user behaves once it has a login.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Keeps a session open.
    Idle,
    /// Waits for something that never comes.
    Blocked,
    /// Is in the middle of a transaction.
    Queued,
    /// Listens to a channel.
    Subscribed,
    /// Takes many sessions.
    Glutton,
    /// Logs in again and again, until it is refused.
    Returner,
}

const MANNERS: [Manner; 6] =
    [Manner::Idle, Manner::Blocked, Manner::Queued, Manner::Subscribed, Manner::Glutton, Manner::Returner];

/// They.
pub(crate) struct Redis;

impl Users for Redis {
    /// It reads whatever comes, and ends when the server hangs up.
    type Session = JoinHandle<()>;
    const MANNERS: u64 = MANNERS.len() as u64;

    async fn behave(manner: usize, credential: &Credential) -> Vec<JoinHandle<()>> {
        let Ok(mut first) = Wire::login(credential).await else { return Vec::new() };
        let mut more = Vec::new();
        match MANNERS[manner] {
            Manner::Idle => {}
            Manner::Blocked => first.send(&["BLPOP", "cf:nothing", "0"]).await,
            Manner::Queued => {
                first.send(&["MULTI"]).await;
                first.send(&["SET", "cf:something", "1"]).await;
            }
            Manner::Subscribed => first.send(&["SUBSCRIBE", "cf.news"]).await,
            Manner::Glutton => {
                while let Ok(session) = Wire::login(credential).await {
                    more.push(session.hold());
                    if more.len() >= MOST {
                        break;
                    }
                }
            }
            Manner::Returner => {
                let again = Wire::again(credential);
                more.push(tokio::spawn(async move {
                    while let Ok(session) = again.login().await {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        drop(session);
                    }
                }));
            }
        }
        more.push(first.hold());
        more
    }

    async fn is_over(session: &mut JoinHandle<()>) -> bool {
        session.is_finished()
    }
}
