//! A corrupt member: its key is stolen, and it says to the others, and to the leader, whatever it likes.

use crate::stage::Stage;
use quorate_api::peer::OpenTargetRequest;
use quorate_api::status::Failure;
use quorate_state::change::Change;
use quorate_state::clock::Reading;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::{LeaseId, MemberIndex};
use quorate_state::request::{Request, SignedRequest};
use quorate_tests::Cluster;
use quorate_tests::hostile::{Draft, Stolen};
use std::time::Duration;

pub(crate) async fn section(cluster: &Cluster) {
    let leader = cluster.wait_leader(Duration::from_secs(20)).await.unwrap();
    let [corrupt, honest] = [1, 2, 3].into_iter().filter(|m| *m != leader).collect::<Vec<MemberIndex>>()[..] else {
        panic!()
    };
    let stolen = cluster.steal(corrupt).unwrap();
    let stage = Stage::new(cluster, "a corrupt member", leader).await;
    too_few(&stage, &stolen, honest).await;
    what_only_a_leader_says(&stage, &stolen).await;
    what_it_asks_others(&stage, &stolen, honest).await;
    stage.end().await;
    of_an_older_authority(cluster, leader, &stolen, honest).await;
}

/// A request that every honest member would deny.
fn theft(stage: &Stage<'_>) -> (Request, SignedRequest) {
    let request = stage.cluster.request(&stage.demo, Change::CreateNamespace { namespace: "stolen".to_owned() });
    let signed = SignedRequest::sign(&request, stage.demo.key(), &[]);
    (request, signed)
}

async fn too_few(stage: &Stage<'_>, stolen: &Stolen, honest: MemberIndex) {
    let (cluster, leader) = (stage.cluster, stage.node);
    let (_, signed) = theft(stage);
    let version = cluster.admin().unwrap().policies().await.unwrap().authority_version;
    let now = quorate_tests::now();
    let own = stolen.endorse(version, now, &[&signed]);
    let (_, another) = theft(stage);
    let as_member = |member| stolen.endorse_as(member, stolen.roster(), version, now, &[&signed]);
    let mut bent = own.clone();
    bent.member = honest;
    let many: Vec<&SignedRequest> = std::iter::repeat_n(&signed, 257).collect();
    for (what, endorsements) in [
        ("of nobody", vec![]),
        ("of t-1 members", vec![own.clone()]),
        ("twice of one member", vec![own.clone(), own.clone()]),
        ("twice of one member, at two times", vec![own.clone(), stolen.endorse(version, now + 1, &[&signed])]),
        ("a thousand of one member", vec![own.clone(); 1_000]),
        ("one in another's name", vec![own.clone(), as_member(honest)]),
        ("one relabelled to another", vec![own.clone(), bent]),
        ("one of member 9", vec![own.clone(), as_member(9)]),
        ("one of member 0", vec![own.clone(), as_member(0)]),
        (
            "of another roster",
            vec![own.clone(), stolen.endorse_as(honest, stolen.roster() + 1, version, now, &[&signed])],
        ),
        ("of another request", vec![own.clone(), stolen.endorse(version, now, &[&another])]),
        ("of 257 requests", vec![stolen.endorse(version, now, &many), as_member(honest)]),
    ] {
        let answer = stolen.push(cluster, leader, &signed, endorsements).await;
        stage.refused(&format!("endorsements {what}"), "not_endorsed", "of 2", answer).await;
    }
    for (what, version) in [("earlier", version - 1), ("later", version + 1), ("last", u64::MAX)] {
        let answer = stolen.push(cluster, leader, &signed, vec![stolen.endorse(version, now, &[&signed])]).await;
        stage.refused(&format!("an endorsement of an {what} authority"), "stale_authority", "", answer).await;
    }
    // The caller's signature is the caller's, whoever endorses.
    let mut unsigned = signed.clone();
    unsigned.signatures[0].signature = [0; 64];
    let answer = stolen.push(cluster, leader, &unsigned, vec![stolen.endorse(version, now, &[&unsigned])]).await;
    stage.refused("a request that its caller did not sign", "bad_signature", "", answer).await;
    let (mut elsewhere, _) = theft(stage);
    elsewhere.cluster.0[0] ^= 1;
    let elsewhere = SignedRequest::sign(&elsewhere, stage.demo.key(), &[]);
    let answer = stolen.push(cluster, leader, &elsewhere, vec![stolen.endorse(version, now, &[&elsewhere])]).await;
    stage.refused("a request for another cluster", "wrong_cluster", "", answer).await;

    // That the two would do if both were given: a good request of `demo`, endorsed by the thief and by an honest member.
    let draft = Draft::new(cluster, &stage.demo, "app/demo/well").unwrap();
    let known = cluster.client("demo").unwrap().versions("default", "app/demo/well").await.unwrap();
    let draft = Draft { secret_id: known.secret_id.try_into().unwrap(), ..draft };
    let sealed = draft.seal().unwrap();
    let request = cluster.request(&stage.demo, draft.change(&sealed.header, &sealed.payload));
    let good = SignedRequest::sign(&request, stage.demo.key(), &[]);
    let theirs = stolen.ask(cluster, honest, &good, 0).await.unwrap();
    // The thief's clock is a thousand years ahead: the honest one's counts.
    let ahead = stolen.endorse(version, now + 31_557_600_000_000, &[&good]);
    stolen.push(cluster, leader, &good, vec![theirs, ahead]).await.expect("t good endorsements are enough");
    let time = cluster.status(leader).await.unwrap().unwrap().cluster_time;
    assert!(time < now + 60_000, "one clock that is far ahead does not move cluster time: {time}, and it is {now}");
    stage.well("t good endorsements").await;
}

async fn what_only_a_leader_says(stage: &Stage<'_>, stolen: &Stolen) {
    let (cluster, leader) = (stage.cluster, stage.node);
    let term = cluster.status(leader).await.unwrap().unwrap().term;
    let id = cluster.profile().cluster;
    let reading = Reading::sign(&id, stolen.roster(), stolen.member, 0, u64::MAX, &stolen.key);
    let proof = RevocationProof {
        lease: LeaseId([1; 16]),
        fenced: true,
        looked_at: 0,
        sessions_ended: 0,
        endpoint: String::new(),
    };
    for command in [
        Command::Tick { readings: vec![reading] },
        Command::Expire { term, upto: u64::MAX },
        Command::Executor { target: "pg".to_owned(), member: stolen.member, term, nonce: [1; 8] },
        Command::CountOn { term, target: "pg".to_owned(), nonce: [1; 8] },
        Command::Remain { term, target: "pg".to_owned() },
        Command::Cleared { term, target: "pg".to_owned(), upto: u64::MAX },
        Command::LeaseActive { term, lease: LeaseId([1; 16]), oid: 10, issued: Vec::new() },
        Command::LeaseFailed { term, lease: LeaseId([1; 16]) },
        Command::LeaseRevoked { term, described: 1, proofs: vec![proof] },
        Command::Adopt { term, target: "pg".to_owned(), principal: "postgres".to_owned(), oid: 10 },
    ] {
        let answer = stolen.propose(cluster, leader, &command.encode()).await;
        stage.refused(&format!("{command:?} from a follower"), "unjustified", "leader", answer).await;
    }
    let answer = stolen.propose(cluster, leader, &Command::Ceremony { message: vec![7; 300] }.encode()).await;
    stage.refused_as("a ceremony message that is none", &["ceremony", "malformed_command"], "", answer).await;
    let mut later = Command::Expire { term, upto: 0 }.encode();
    later[0] = 2;
    for (what, bytes) in [
        ("of a later version", later),
        ("of no kind", vec![1, 99]),
        ("of no bytes", vec![]),
        ("of 4 GB", vec![1, 0, 0xff, 0xff, 0xff, 0xff]),
    ] {
        stage
            .refused(
                &format!("a command {what}"),
                "malformed_command",
                "format",
                stolen.propose(cluster, leader, &bytes).await,
            )
            .await;
    }
}

async fn what_it_asks_others(stage: &Stage<'_>, stolen: &Stolen, honest: MemberIndex) {
    let cluster = stage.cluster;
    let (_, signed) = theft(stage);
    stage
        .refused(
            "an honest member's endorsement of what no policy allows",
            "denied",
            "namespace:create",
            stolen.ask(cluster, honest, &signed, 0).await,
        )
        .await;
    let draft = Draft::new(cluster, &stage.demo, "app/demo/asked").unwrap();
    let sealed = draft.seal().unwrap();
    let good = SignedRequest::sign(
        &cluster.request(&stage.demo, draft.change(&sealed.header, &sealed.payload)),
        stage.demo.key(),
        &[],
    );
    let begun = std::time::Instant::now();
    stage
        .refused(
            "an endorsement on a state that is yet to come",
            "behind",
            "",
            stolen.ask(cluster, honest, &good, u64::MAX).await,
        )
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "no member waits for ever for an index that never comes: {:?}",
        begun.elapsed()
    );
    let (mut altered, _) = theft(stage);
    altered.cluster.0[0] ^= 1;
    let altered = SignedRequest::sign(&altered, stage.demo.key(), &[]);
    stage
        .refused(
            "an endorsement for another cluster",
            "wrong_cluster",
            "",
            stolen.ask(cluster, honest, &altered, 0).await,
        )
        .await;
    let term = cluster.status(honest).await.unwrap().unwrap().term;
    let targets = cluster.admin().unwrap().roles().await.unwrap().targets;
    let credential = targets.iter().find(|t| t.name == "pg").unwrap().password_index;
    for (what, target, term, id, code) in [
        ("while another is in office", "pg", term, vec![1; 16], "not_in_office"),
        ("of a later term", "pg", term + 1, vec![1; 16], "not_in_office"),
        ("of no target", "gp", term, vec![1; 16], "not_in_office"),
        ("with an id of 3 bytes", "pg", term, vec![1; 3], "invalid_argument"),
    ] {
        let ask = OpenTargetRequest { target: target.to_owned(), term, request_id: id, min_index: 0, credential };
        let reply = stolen.peer(cluster, honest).unwrap().open_target(ask).await.unwrap().into_inner();
        assert!(reply.partial.is_empty(), "a part of the target's password, {what}, is given away");
        let answer: Result<(), Failure> = Err(Failure::from_words(&reply.refusal, reply.reason));
        stage.refused_as(&format!("a part of the target's password {what}"), &[code, "not_found"], "", answer).await;
    }
}

/// Collected while the request was allowed, used when it no longer is.
async fn of_an_older_authority(cluster: &Cluster, leader: MemberIndex, stolen: &Stolen, honest: MemberIndex) {
    let late = cluster.issue("app/late").unwrap();
    let scope = "action == Quorate::Action::\"secret:put\", resource in Quorate::Folder::\"default:app/late\"";
    cluster.permit("late", &late, scope).await.unwrap();
    let draft = Draft::new(cluster, &late, "app/late/x").unwrap();
    let sealed = draft.seal().unwrap();
    let request = cluster.request(&late, draft.change(&sealed.header, &sealed.payload));
    let signed = SignedRequest::sign(&request, late.key(), &[]);
    let allowed = cluster.admin().unwrap().policies().await.unwrap();
    let index = cluster.status(leader).await.unwrap().unwrap().applied;
    cluster.wait_applied(honest, index, Duration::from_secs(10)).await.unwrap();
    let theirs = stolen.ask(cluster, honest, &signed, index).await.unwrap();
    assert_eq!(theirs.authority_version, allowed.authority_version);
    let own = stolen.endorse(allowed.authority_version, quorate_tests::now(), &[&signed]);
    let gone = cluster.administer(Change::DeletePolicy { name: "late".into() }).await.unwrap().index;

    let stage = Stage::new(cluster, "an older authority", leader).await;
    let mut both = vec![theirs.clone(), own];
    stage
        .refused(
            "t endorsements from before the policy went",
            "stale_authority",
            "",
            stolen.push(cluster, leader, &signed, both.clone()).await,
        )
        .await;
    // The thief endorses anew; the honest member would not.
    both[1] = stolen.endorse(allowed.authority_version + 1, quorate_tests::now(), &[&signed]);
    stage
        .refused("one of them signed anew", "stale_authority", "", stolen.push(cluster, leader, &signed, both).await)
        .await;
    stage.refused("the other asked anew", "denied", "", stolen.ask(cluster, honest, &signed, gone).await).await;
    stage.end().await;
}
