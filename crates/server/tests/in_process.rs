//! A whole cluster in one process, on one thread, in virtual time: every seam of a node replaced at once. What the tests on real
//! processes cannot do cheaply is done here: power cuts that lose what was not synced, and minutes that pass in no time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "in_process/net.rs"]
mod net;
#[path = "in_process/world.rs"]
mod world;

use quorate_api::client::{RoleDescription, TargetDescription};
use quorate_engines::fake::{Fault, Step};
use quorate_state::change::Change;
use quorate_state::ids::KeyringId;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::{World, host};

const POLICY: &str = r#"
permit (principal == Quorate::Workload::"spiffe://example.org/app", action, resource);
"#;

/// A cluster with a keyring, a mount, and a caller that may use it.
async fn founded(seed: u64) -> World {
    let mut world = World::begin(seed);
    for index in 1..=3 {
        world.start(index).await;
    }
    world.make_keyring().await;
    let keyring = KeyringId(world.profile.keyrings[0].id());
    let admin = world.client("admin/first");
    admin.create_namespace("default").await.unwrap();
    admin.create_mount("default", "app", keyring, &[]).await.unwrap();
    world.administer(Change::PutPolicy { name: "app".to_owned(), text: POLICY.to_owned() }).await;
    world
}

#[tokio::test(start_paused = true)]
async fn secrets_outlive_a_power_cut_of_each_member_and_of_all() {
    let mut world = founded(1).await;
    for index in 1..=3 {
        let slots = world.slots(index);
        assert!(slots.iter().any(|name| name.ends_with(".share")), "member {index} holds its share: {slots:?}");
        assert!(!slots.iter().any(|name| name.ends_with(".seed")), "and no seed any more: {slots:?}");
    }
    let app = world.client("app");
    let mut stored = 0u64;
    for round in 0..4u8 {
        // One member after the other, the leader among them; then all at once.
        let off: Vec<u8> = if round < 3 { vec![round + 1] } else { vec![1, 2, 3] };
        stored += 1;
        let put = app.put("default", "app/x", &stored.to_be_bytes(), Some(stored - 1)).await.unwrap();
        assert_eq!(put.number, stored);
        off.iter().for_each(|index| world.power_off(*index));
        if off.len() == 1 {
            let opened = app.get("default", "app/x", None).await.unwrap();
            assert_eq!(opened.plaintext.expose(), stored.to_be_bytes(), "with member {} off", off[0]);
            stored += 1;
            app.put("default", "app/x", &stored.to_be_bytes(), Some(stored - 1)).await.unwrap();
        }
        for index in off {
            world.power_on(index).await;
        }
        let level = |all: &[Option<_>]| all.iter().flatten().count() == 3;
        world.until("three members", level).await;
        let opened = app.get("default", "app/x", None).await.unwrap();
        assert_eq!(opened.plaintext.expose(), stored.to_be_bytes(), "after round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn leases_end_on_time_though_their_executor_is_cut_off() {
    let world = founded(2).await;
    let admin = world.client("admin/first");
    let keyring = KeyringId(world.profile.keyrings[0].id());
    let target = TargetDescription {
        name: "t".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 5_432,
        database: "d".to_owned(),
        user: "u".to_owned(),
        tls: None,
    };
    admin.put_target(&target, b"a password", keyring).await.unwrap();
    let role = RoleDescription {
        name: "reader".to_owned(),
        target: "t".to_owned(),
        groups: Vec::new(),
        default_ttl: 60_000,
        max_ttl: 600_000,
        connection_limit: 4,
        max_leases: 100,
        scram_iterations: 4_096,
    };
    admin.put_role(&role).await.unwrap();
    let app = world.client("app");
    let begun = Instant::now();
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(app.issue_lease("reader", Some(60_000)).await.unwrap());
    }
    assert_eq!(world.target.exposure().0.len(), 3, "three logins");
    // The target makes the next login and its answer is lost: nobody is given that one, and it goes.
    world.target.fail(Step::Create, Fault::After);
    let failure = app.issue_lease("reader", Some(60_000)).await.unwrap_err();
    assert_eq!(failure.code, "lease_failed", "{failure}");
    let handed: Vec<&str> = leases.iter().map(|l| l.username.as_str()).collect();
    let lost = Instant::now();
    while world.target.exposure().0.iter().any(|name| !handed.contains(&name.as_str())) {
        assert!(
            lost.elapsed() < Duration::from_secs(20),
            "the lost login is still there: {:?}",
            world.target.exposure()
        );
        sleep(Duration::from_secs(1)).await;
    }
    let executor = world.leader().await;
    world.hub.cut(host(executor));
    // The rest of a minute, in virtual time.
    while !world.target.exposure().0.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(80), "still there: {:?}", world.target.exposure());
        sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(58), "they end at their end, not before: {:?}", begun.elapsed());
    for credential in leases {
        let ended = app.wait_revoked(credential.lease, Duration::from_secs(30)).await.unwrap();
        assert_eq!(ended.state, "revoked");
    }
    world.hub.heal(host(executor));
    let level = |all: &[Option<_>]| all.iter().flatten().count() == 3;
    world.until("three members", level).await;
    assert!(world.target.exposure().0.is_empty(), "the one that was cut off brings none back");
}
