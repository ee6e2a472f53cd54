//! RabbitMQ: accounts by HTTP, and nobody can end a request that is under way.

use super::{ENDED, PASSWORD, add, document, end, issue, password_file, permit, refused, run, script, text};
use quorate_api::client::{Credential, System};
use quorate_engines::scratch::RabbitMqServer;
use quorate_tests::Cluster;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

const GROUP: &str = "vhost=/ configure=^$ write=^app\\. read=^app\\.";

/// What a person types at the server.
fn ctl(server: &RabbitMqServer, line: &str) -> (bool, String) {
    let output = server.shell(line).unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn lets_in(server: &RabbitMqServer, credential: &Credential) -> bool {
    ctl(server, &format!("rabbitmqctl authenticate_user {} '{}'", credential.username, text(credential))).0
}

fn logins(server: &RabbitMqServer) -> Vec<String> {
    let (_, users) = ctl(server, "rabbitmqctl list_users --silent --no-table-headers");
    let names = users.lines().filter_map(|line| line.split_whitespace().next());
    // The name of a claim goes on with another letter there.
    names.filter(|name| name.starts_with('q') && name.find('_') == Some(9)).map(str::to_owned).collect()
}

pub(crate) async fn a_life(cluster: &Cluster) {
    let server = spawn_blocking(|| RabbitMqServer::start(&[], &[])).await.unwrap();
    let server = server.unwrap_or_else(|why| panic!("{why}: run deploy/build/setup"));
    let made =
        format!("rabbitmqctl add_user quorate \"{PASSWORD}\" && rabbitmqctl set_user_tags quorate administrator");
    // More than it needs.
    let made = format!("{made} && rabbitmqctl set_permissions -p / quorate '.*' '.*' '.*'");
    assert!(ctl(&server, &made).0, "an account for the executor");
    let (port, file) = (server.port().to_string(), password_file(cluster));
    let said = refused(cluster, &add("queue", "rabbitmq", &port, &file, &["--no-rotate"]), "target_not_enabled");
    assert!(said.contains("in a shell of its server"), "{said}");
    let script = script(&said);
    assert!(script.contains("rabbitmqctl clear_permissions") && ctl(&server, &script).0, "{script}");
    // For some seconds after its start a server says nothing of itself, and is not called good.
    let begun = Instant::now();
    loop {
        let output = cluster.cli("admin", &["target", "check", "queue"], b"").unwrap();
        if output.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("ask again") && begun.elapsed() < ENDED, "{said}");
    }

    let role = ["role", "add", "queue", "--target", "queue", "--ttl", "10m", "--max-ttl", "10m", "--group", GROUP];
    let said = refused(cluster, &[&role[..], &["--verifier", "redis-sha256"]].concat(), "invalid_argument");
    assert!(said.contains("rabbitmq takes none of the form redis-sha256"), "{said}");
    let said = run(cluster, &role);
    assert!(said.contains("next: quorate lease issue"), "{said}");
    permit(cluster, "queue").await;

    let credential = issue(cluster, "queue").await;
    assert_eq!(credential.system, System::RabbitMq);
    assert!(lets_in(&server, &credential), "it logs in");
    let (_, may) = ctl(&server, &format!("rabbitmqctl list_user_permissions --silent {}", credential.username));
    assert!(may.contains("^app\\."), "its rights are the group's: {may}");
    let done = end(cluster, credential.lease).await;
    assert_eq!(done.why, "requested", "{done:?}");
    assert!(!lets_in(&server, &credential), "its login is refused");
    let shown = document(cluster, &["lease", "show", &credential.lease.to_string()]);
    assert_eq!((shown["state"].as_str(), shown["system"].as_str()), (Some("revoked"), Some("rabbitmq")));
    let begun = Instant::now();
    while !logins(&server).is_empty() {
        assert!(begun.elapsed() < ENDED, "nothing is left: {:?}", logins(&server));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = run(cluster, &["target", "remove", "queue"]);
    assert!(said.contains("is removed"), "{said}");
}
