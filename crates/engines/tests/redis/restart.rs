//! What a restart brings back, and what another server does not know.

use quorate_engines::conformance::{Target, assert_ended, order, principal};
use quorate_engines::scratch::Users;
use quorate_engines::{Cleaning, Engine, EngineError, Fenced, Refusal};

use crate::server::{Redis, lease};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ended_stays_so_and_what_others_forgot_to_keep_comes_back_and_is_found() {
    for kept in [Users::AclFile, Users::ConfigFile] {
        let redis = Redis::start_with(kept, &[]).await;
        let engine = redis.engine(1);
        let ours = lease(&redis, &engine, "k_ours").await;
        let theirs = lease(&redis, &engine, "k_theirs").await;
        let refused_only = lease(&redis, &engine, "k_refused").await;
        engine.claim("k_claim").await.unwrap();

        engine.refuse(&[principal("k_refused", None)]).await.unwrap();
        let this = [principal("k_ours", None)];
        engine.refuse(&this).await.unwrap();
        engine.kill(&this).await.unwrap();
        assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
        // Nothing is kept after the cleaning. Somebody deletes one, and does not have it kept.
        redis.ask("ACL DELUSER k_theirs").await;
        let before = engine.timeline().await.unwrap();
        redis.restart().await;
        assert_ne!(engine.timeline().await.unwrap(), before, "{kept:?}: a restart is noticed");

        assert!(redis.session("k_ours", &ours.password).await.is_err(), "{kept:?}");
        assert!(redis.session("k_refused", &refused_only.password).await.is_err(), "{kept:?}");
        let mut back = redis.session("k_theirs", &theirs.password).await.expect("a restart brings it back");
        let found: Vec<String> = engine.list("k_").await.unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(found, ["k_claim", "k_refused", "k_theirs"], "{kept:?}");
        // What the search finds is ended as any other.
        let this = [principal("k_theirs", None)];
        assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });
        engine.kill(&this).await.unwrap();
        assert_ended(&engine, &this).await;
        assert!(back.ends().await);
        engine.clean(&this).await.unwrap();
        redis.restart().await;
        assert!(redis.session("k_theirs", &theirs.password).await.is_err(), "{kept:?}: for good");
    }
}

/// It died after the user was gone and before that was kept.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_nothing_to_refuse_has_that_kept() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let credential = lease(&redis, &engine, "k_half").await;
    redis.ask("ACL DELUSER k_half").await;
    assert_eq!(engine.refuse(&[principal("k_half", None)]).await.unwrap()[0].outcome, Refusal::Absent);
    redis.restart().await;
    assert!(redis.session("k_half", &credential.password).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_issued_where_nothing_is_kept() {
    let redis = Redis::start_with(Users::Memory, &[]).await;
    let engine = redis.engine(1);
    let create = order(&*redis, &engine, "k_memory", &redis.credential()).await;
    let said = engine.create(&create).await;
    assert!(matches!(&said, Err(EngineError::Refused { code, .. }) if code == "NOPERSIST"), "{said:?}");
    assert_eq!(engine.list("k_").await.unwrap(), []);
    let missing = engine.check(&[]).await.unwrap().missing;
    assert!(missing.iter().any(|m| m.statement.starts_with("aclfile ")), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_file_can_not_be_written_nothing_counts_as_refused() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    lease(&redis, &engine, "k_full").await;
    let file = redis.server.lock().unwrap().file("users.acl");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let create = order(&*redis, &engine, "k_more", &redis.credential()).await;
    let said = engine.create(&create).await;
    assert!(matches!(said, Err(EngineError::Unknown { .. })), "it may log in, and is not kept: {said:?}");
    let refused = engine.refuse(&[principal("k_full", None)]).await.unwrap();
    assert!(matches!(refused[0].outcome, Refusal::Failed(_)), "{refused:?}");
    let unseen = engine.check(&[]).await.unwrap().unseen;
    assert!(unseen.len() == 1 && unseen[0].reason.contains("restart"), "{unseen:?}");
    std::fs::remove_dir(&file).unwrap();
    let refused = engine.refuse(&[principal("k_full", None), principal("k_more", None)]).await.unwrap();
    assert!(refused.iter().all(|r| matches!(r.outcome, Refusal::Disabled { .. })), "{refused:?}");
}

/// Numbers of connections begin anew with each process.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_of_a_process_that_is_gone_ends_nobody() {
    let redis = Redis::start(&[]).await;
    let engine = redis.engine(1);
    let create = order(&*redis, &engine, "k_before", &redis.credential()).await;
    redis.restart().await;
    let mut all = Vec::new();
    while all.len() < 40 {
        all.push(redis.admin().await);
    }
    let ids = redis.ask("CLIENT LIST").await;
    let same = format!("id={} ", create.binding.backend_start_micros);
    assert!(ids.contains(&same), "somebody has the number now, or this proves nothing: {same}{ids}");
    assert_eq!(engine.fence("k_before", &create.binding).await, Ok(Fenced::Absent));
    assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding));
    for session in &mut all {
        assert!(session.call("PING").await.is_some(), "a stranger's connection was ended");
    }
}

/// A replica has users of its own: what is made or ended at the one says nothing of the other.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_not_replicated_and_a_fail_over_is_noticed() {
    let primary = Redis::start(&["repl-diskless-sync-delay 0"]).await;
    let follows = format!("replicaof 127.0.0.1 {}", primary.port);
    let auth = ["masteruser admin", "masterauth admin", follows.as_str()];
    let replica = Redis::start(&auth).await;
    let (engine, other) = (primary.engine(1), replica.engine(1));
    crate::server::wait_until(&replica, "INFO replication", |info| info.contains("master_link_status:up")).await;
    let credential = lease(&primary, &engine, "k_here").await;
    primary.ask("SET cf:seen 1").await;
    crate::server::wait_until(&replica, "GET cf:seen", |seen| seen == "1").await;
    assert_eq!(other.list("k_").await.unwrap(), [], "keys are copied, users are not");
    assert!(replica.session("k_here", &credential.password).await.is_err());
    let checked = engine.check(&[]).await.unwrap();
    assert_eq!(checked.standbys.len(), 1, "{checked:?}");
    assert_eq!(other.ghosts().await.unwrap().0, [], "the server's own connection is nobody's");
    let before = other.timeline().await.unwrap();
    assert_eq!(other.timeline().await.unwrap(), before);
    replica.ask("REPLICAOF NO ONE").await;
    assert_ne!(other.timeline().await.unwrap(), before, "a promotion is noticed");
}
