//! The churn of `churn.rs` at the four targets that are asked by HTTP: a RabbitMQ, a Kubernetes, an AWS, and a receiver of webhooks, each with an
//! auditor of its own. `QUORATE_MINUTES` makes it longer, `QUORATE_SEED` repeats a run's choices.

use crate::places::{Churn, Least, Place, settle};
use crate::servers::{Aws, Kubernetes, RabbitMq, Server, Webhook};
use crate::users::{self, Users};
use quorate_tests::{Cluster, Options};

/// What ends a lease at these takes several requests of each, one after the other, and of all leases before it: on a machine that does everything
/// at once that is slow, and no finding. What the vault has called revoked is judged without any tolerance, here too.
const BOUNDS: [u64; 2] = [60_000, 60_000];
const LEAST: Least = Least { leases: 10, sessions: 10, pause: 5_000, bounds: BOUNDS };
/// moto answers one after the other, in Python.
const SLOW: Least = Least { leases: 8, sessions: 0, ..LEAST };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_at_each_of_four_more_finds_nothing_wrong() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let (rabbit, kube, aws, hook) = tokio::join!(
        RabbitMq::beside(&cluster),
        Kubernetes::beside(&cluster),
        Aws::beside(&cluster),
        Webhook::beside(&cluster)
    );
    let churn = Churn::of(&cluster).await;
    let queue = begin::<users::RabbitMq, _>(&churn, &rabbit, &LEAST);
    // Of what is asked with a token or a key nobody lists who asks.
    let tokens = begin::<users::Kubernetes, _>(&churn, &kube, &Least { sessions: 0, ..LEAST });
    let keys = begin::<users::Aws, _>(&churn, &aws, &SLOW);
    let app = begin::<users::Webhook, _>(&churn, &hook, &LEAST);
    let seed = churn.kill(&[&queue, &tokens, &keys, &app]).await;
    let (queue, tokens) = (queue.ends(seed).await, tokens.ends(seed).await);
    let (keys, app) = (keys.ends(seed).await, app.ends(seed).await);
    settle(&cluster, &rabbit, seed).await;
    settle(&cluster, &kube, seed).await;
    settle(&cluster, &aws, seed).await;
    settle(&cluster, &hook, seed).await;

    let told = [
        still_let_in::<RabbitMq>(&queue.judged::<users::RabbitMq>(seed).await).await,
        still_let_in::<Kubernetes>(&tokens.judged::<users::Kubernetes>(seed).await).await,
        still_let_in::<Aws>(&keys.judged::<users::Aws>(seed).await).await,
        still_let_in::<Webhook>(&app.judged::<users::Webhook>(seed).await).await,
    ];
    assert!(told.iter().all(Vec::is_empty), "seed {seed}: all are refused: {told:?}");
}

fn begin<U: Users + 'static, S: Server>(churn: &Churn<'_>, server: &S, least: &Least) -> Place {
    churn.begin::<U>(S::TARGET, S::ROLE, &server.place(), least)
}

/// Those that are let in still.
async fn still_let_in<S: Server>(credentials: &[quorate_api::client::Credential]) -> Vec<String> {
    let mut let_in = Vec::new();
    for credential in credentials {
        if S::lets_in(credential).await {
            let_in.push(credential.username.clone());
        }
    }
    let_in
}
