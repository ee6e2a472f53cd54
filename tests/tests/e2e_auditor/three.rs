//! The churn of `churn.rs` at three targets at once, a PostgreSQL, a MariaDB and a Redis, each with an auditor of its own: 45 seconds of it, or
//! `QUORATE_MINUTES`. `QUORATE_SEED` repeats a run's choices.

use crate::places::{Churn, Least, settle};
use crate::servers::{self, Server};
use crate::users;
use quorate_tests::auditor::postgres;
use quorate_tests::footprint::TARGET;
use quorate_tests::{Cluster, Options};

/// The role of `quorate dev` at its PostgreSQL.
const READER: &str = "reader";
const LEAST: Least = Least { leases: 15, sessions: 15, pause: 2_000, bounds: [5_000, 7_000] };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_at_each_of_three_targets_finds_nothing_wrong() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let (maria, redis) = tokio::join!(servers::MariaDb::beside(&cluster), servers::Redis::beside(&cluster));
    let churn = Churn::of(&cluster).await;
    let place = postgres(&cluster).unwrap();
    let pg = churn.begin::<users::Postgres>(TARGET, READER, &place, &LEAST);
    let my = churn.begin::<users::MariaDb>(servers::MariaDb::TARGET, servers::MariaDb::ROLE, &maria.place(), &LEAST);
    let cache = churn.begin::<users::Redis>(servers::Redis::TARGET, servers::Redis::ROLE, &redis.place(), &LEAST);
    let seed = churn.kill(&[&pg, &my, &cache]).await;
    let (pg, my, cache) = (pg.ends(seed).await, my.ends(seed).await, cache.ends(seed).await);
    settle(&cluster, &maria, seed).await;
    settle(&cluster, &redis, seed).await;

    for credential in pg.judged::<users::Postgres>(seed).await {
        let let_in = quorate_tests::database::login_with(&credential).await.is_ok();
        assert!(!let_in, "seed {seed}: {} is refused", credential.username);
    }
    for credential in my.judged::<users::MariaDb>(seed).await {
        let let_in = servers::mariadb::login(&credential).await.is_ok();
        assert!(!let_in, "seed {seed}: {} is refused", credential.username);
    }
    for credential in cache.judged::<users::Redis>(seed).await {
        let let_in = servers::redis::Wire::login(&credential).await.is_ok();
        assert!(!let_in, "seed {seed}: {} is refused", credential.username);
    }
}
