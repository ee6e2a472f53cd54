//! Users of what looks at each request by itself: they ask until they are refused.

use super::{MOST, Users};
use crate::servers::{aws, kubernetes, webhook};
use quorate_api::client::Credential;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two requests of one user: everything runs on one small machine.
const PAUSE: Duration = Duration::from_millis(300);

/// Asks for as long as it is let in.
fn ask<F: Future<Output = bool> + Send>(is_let_in: impl Fn() -> F + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let answer = is_let_in();
            if !answer.await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Users of a Kubernetes: one, or several with one token.
pub(crate) struct Kubernetes;

impl Users for Kubernetes {
    type Session = JoinHandle<()>;
    const MANNERS: u64 = 2;

    async fn behave(manner: usize, credential: &Credential) -> Vec<JoinHandle<()>> {
        let many = if manner == 0 { 1 } else { 3 };
        let asks = || {
            let caller = kubernetes::Caller::of(credential);
            ask(move || {
                let caller = caller.clone();
                async move { caller.is_let_in().await }
            })
        };
        (0..many).map(|_| asks()).collect()
    }

    async fn is_over(session: &mut JoinHandle<()>) -> bool {
        session.is_finished()
    }
}

/// Users of AWS.
pub(crate) struct Aws;

impl Users for Aws {
    type Session = JoinHandle<()>;
    const MANNERS: u64 = 1;

    async fn behave(_: usize, credential: &Credential) -> Vec<JoinHandle<()>> {
        let caller = aws::Caller::of(credential);
        let asks = ask(move || {
            let caller = caller.clone();
            async move { caller.is_let_in().await }
        });
        vec![asks]
    }

    async fn is_over(session: &mut JoinHandle<()>) -> bool {
        session.is_finished()
    }
}

/// Users of a receiver of webhooks: with one session, with as many as they get, or logging in again and again.
pub(crate) struct Webhook;

impl Users for Webhook {
    type Session = JoinHandle<()>;
    const MANNERS: u64 = 3;

    async fn behave(manner: usize, credential: &Credential) -> Vec<JoinHandle<()>> {
        let again = webhook::Again::of(credential);
        if manner == 2 {
            return vec![ask(move || {
                let again = again.clone();
                async move { again.login().await.is_some() }
            })];
        }
        let mut sessions = Vec::new();
        while let Some(caller) = again.login().await {
            sessions.push(ask(move || {
                let caller = caller.clone();
                async move { caller.is_let_in().await }
            }));
            if manner == 0 || sessions.len() >= MOST {
                break;
            }
        }
        sessions
    }

    async fn is_over(session: &mut JoinHandle<()>) -> bool {
        session.is_finished()
    }
}
