//! `quorate run`: a login ends with its program, however that ends; and what people are shown while no majority answers.

use super::{ELECTION, ended};
use quorate_state::ids::LeaseId;
use quorate_tests::Cluster;
use quorate_tests::terminal::Answer;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How soon a signal reaches the program: far sooner than a renewal gives up that nobody answers (30 s).
const HANDED_ON: Duration = Duration::from_secs(10);

/// Takes signals one by one, so that none hides another, and says how often ^C came, and what came of `kill` at who started it.
const COUNTS_INTERRUPTS: &str = r#"
import os, signal
interrupt = {signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, interrupt)
print("login", os.environ["QUORATE_LEASE"], "press ^C", flush=True)
first, again = signal.sigtimedwait(interrupt, 20), signal.sigtimedwait(interrupt, 1)
os.kill(os.getppid(), signal.SIGINT)
killed = signal.sigtimedwait(interrupt, 10)
print("came", first is not None, "twice", again is not None, "handed on", killed and killed.si_pid == os.getppid(), flush=True)
"#;

fn start(cluster: &Cluster, arguments: &[&str]) -> Child {
    let mut command = cluster.command("demo", &[&["run", "--role", "reader"], arguments].concat()).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn lease_in(line: &str) -> LeaseId {
    line.trim().parse().unwrap_or_else(|_| panic!("a lease's id: {line:?}"))
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

/// The shell's own: a system need not have another.
fn kill(sign: &str, pid: &str) -> bool {
    Command::new("sh").args(["-c", &format!("kill -{sign} {pid}")]).status().unwrap().success()
}

pub(crate) async fn end_with_their_logins(cluster: &Cluster) {
    let admin = cluster.admin().unwrap();
    let state = async |lease| admin.lease(lease).await.unwrap().state;
    // It outlives its first time, so it was renewed; its exit status is ours.
    let script = "echo $QUORATE_LEASE; env | grep -c PGPASSWORD; sleep 4; psql -tAc 'SELECT note FROM demo'; exit 7";
    let done = start(cluster, &["--ttl", "3s", "--", "sh", "-c", script]).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(done.status.code(), Some(7), "the status is the program's: {done:?}");
    assert_eq!(told.get(1..), Some(&["0", "a row that leased logins may read"][..]), "it logs in: {done:?}");
    assert_eq!(state(lease_in(told[0])).await, "revoked", "when it has ended, so has its login");

    let script = "echo $QUORATE_LEASE; echo \"${PGPASSFILE:-no file}\"; psql -tAc 'SELECT note FROM demo'";
    let done = start(cluster, &["--password-in-environment", "--", "sh", "-c", script]).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    let told: Vec<&str> = told.lines().collect();
    assert!(done.status.success(), "with the password in the environment: {done:?}");
    assert_eq!(told.get(1..), Some(&["no file", "a row that leased logins may read"][..]), "it logs in: {done:?}");
    assert_eq!(state(lease_in(told[0])).await, "revoked", "when it has ended, so has its login");

    // What cannot be started has had a login all the same.
    for (program, status) in [("/there/is/none", 127), ("/dev/null", 126)] {
        let before = admin.leases("").await.unwrap();
        let done = start(cluster, &["--", program]).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(status), "{program} is not started: {said}");
        assert!(said.contains(program) && said.contains("cannot be run"), "it says what and why: {said}");
        let after = admin.leases("").await.unwrap();
        let new: Vec<_> = after.iter().filter(|l| before.iter().all(|b| b.id != l.id)).collect();
        assert!(matches!(new[..], [l] if l.state == "revoked"), "{program}: its one login has ended: {new:?}");
    }

    // A signal is handed on, and the login is revoked all the same; one that cannot be handed on leaves the lease to its time.
    for (sign, status, why) in
        [("TERM", Some(143), "requested"), ("QUIT", Some(131), "requested"), ("KILL", None, "expired")]
    {
        let mut child =
            start(cluster, &["--ttl", "3s", "--", "sh", "-c", "echo $QUORATE_LEASE; echo $$; exec sleep 60"]);
        let mut said = lines(&mut child);
        let lease = lease_in(&said.next().unwrap().unwrap());
        let program = said.next().unwrap().unwrap();
        assert!(kill(sign, &child.id().to_string()), "quorate run runs");
        assert_eq!(child.wait().unwrap().code(), status, "{sign}: its end");
        let done = ended(cluster, lease).await;
        assert_eq!(done.why, why, "{sign}: {done:?}");
        if status.is_none() {
            assert!(kill(sign, &program), "the program itself goes on");
        }
    }

    // A terminal sends ^C to the program too: once is enough.
    let arguments = ["run", "--role", "reader", "--", "python3", "-c", COUNTS_INTERRUPTS];
    let press = Answer { wait: "press ^C", hidden: false, typed: "\u{3}" };
    let done = cluster.dialogue("demo", &arguments, &[press]).unwrap();
    assert!(done.shown.contains("came True twice False handed on True"), "{done:?}");
    assert_eq!(done.status, 0, "the program's own: {done:?}");
    let lease = done.shown.split_whitespace().skip_while(|word| *word != "login").nth(1).unwrap();
    assert_eq!(state(lease_in(lease)).await, "revoked", "{done:?}");
}

/// Two of three members do not answer: a program hears its signals and ends with its own status, and what can be seen is shown.
pub(crate) async fn without_a_majority(cluster: &Cluster) {
    let script = "trap 'echo heard; exit 7' TERM; echo $QUORATE_LEASE; while :; do sleep 0.1; done";
    let mut program = start(cluster, &["--ttl", "6s", "--", "sh", "-c", script]);
    let watch = ["--output", "json", "lease", "watch", "--every", "200ms"];
    let mut watch = cluster.command("admin", &watch).unwrap();
    let mut watch = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut said, mut looks) = (lines(&mut program), lines(&mut watch));
    let mut look = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        let mut seen = looks.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        seen.find(wanted).unwrap_or_else(|| panic!("lease watch goes on until it shows {what}"))
    };
    let lease = lease_in(&said.next().unwrap().unwrap());
    let before = look("a lease", &|seen| seen["targets"][0]["active"] != 0);
    assert_eq!(before["error"], Value::Null, "all is there: {before}");

    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let survivor = leader % 3 + 1;
    let stopped = [leader, survivor % 3 + 1];
    for member in stopped {
        cluster.node(member).unwrap().stop().unwrap();
    }
    let during = look("what it knows", &|seen| seen["error"] != Value::Null && !seen["missing"][1].is_null());
    assert_eq!(during["targets"][0]["name"], before["targets"][0]["name"], "as it was: {during}");
    assert!(during["read_at"].as_u64() < during["cluster_time"].as_u64(), "and since when: {during}");
    let shown = cluster.cli("admin", &["metrics"], b"").unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(1), "that not all could be read shows in the status: {text}");
    let up = stopped.map(|member| (member, 0)).into_iter().chain([(survivor, 1)]);
    let up = up.map(|(member, up)| format!("quorate_member_up{{member=\"{}\"}} {up}", cluster.name(member)));
    for line in up.chain(["quorate_scrape_complete 0".to_owned()]) {
        assert!(text.lines().any(|l| l == line), "{line} is missing in:\n{text}");
    }

    // By now a renewal waits for an answer.
    let (begun, pid) = (Instant::now(), program.id().to_string());
    assert!(kill("TERM", &pid), "quorate run runs");
    assert_eq!(said.next().unwrap().unwrap(), "heard", "the signal reaches the program");
    let (heard, ended_with) = (begun.elapsed(), program.wait().unwrap().code());
    assert!(heard < HANDED_ON, "while the renewal waits: {heard:?}");
    let mut told = String::new();
    program.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(ended_with, Some(7), "the status is the program's: {told}");
    let unseen = format!("lease {lease}, the login q");
    assert!(told.contains(&unseen) && told.contains("not been seen to have ended"), "what is left is said: {told}");
    println!(
        "without a majority: the program heard its signal after {heard:?}, quorate run ended after {:?}",
        begun.elapsed()
    );

    for member in stopped {
        cluster.node(member).unwrap().cont().unwrap();
    }
    cluster.wait_leader(ELECTION).await.unwrap();
    look("what is there now", &|seen| seen["error"] == Value::Null && seen["missing"][0].is_null());
    watch.kill().unwrap();
    watch.wait().unwrap();
    ended(cluster, lease).await;
}
