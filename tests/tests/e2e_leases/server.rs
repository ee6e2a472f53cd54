//! What others do at the server while leases live there, and what it does itself: it loses a role, holds one, stands still.

use super::ended;
use quorate_tests::Cluster;
use quorate_tests::database::login_with;

/// A superuser drops the role of an active lease under its session: the lease knows the number by which that is found.
pub(crate) async fn a_role_that_was_dropped_by_hand(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let session = login_with(&lease).await.unwrap();
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    superuser.batch_execute(&format!("DROP ROLE {}", lease.username)).await.unwrap();
    assert!(session.simple_query("SELECT 1").await.is_ok(), "a session goes on without its role");
    let seen = cluster.footprint(&superuser).await.unwrap();
    assert!(seen.ghosts.contains(&pid), "process {pid} is a session of nobody: {seen:?}");
    demo.revoke(lease.lease).await.unwrap();
    let done = ended(cluster, lease.lease).await;
    assert_eq!(done.sessions_ended, 1, "it was seen before it was ended: {done:?}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session without a role is ended: {done:?}");
    let seen = cluster.footprint(&superuser).await.unwrap();
    assert!(!seen.ghosts.contains(&pid), "process {pid} is gone when the lease is called revoked: {seen:?}");
}
