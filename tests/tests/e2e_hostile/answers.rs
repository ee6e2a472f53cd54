//! A member whose answers are wrong: it holds its own key and signs whatever it says. The other two are as they should be.

use crate::stage::Stage;
use quorate_api::client::Client;
use quorate_api::tls::{accept_clients, api_server_config};
use quorate_api::transcript::sign_open_reply;
use quorate_api::vault::vault_client::VaultClient;
use quorate_api::vault::vault_server::{Vault, VaultServer};
use quorate_api::vault::*;
use quorate_state::genesis::Genesis;
use quorate_state::ids::MemberIndex;
use quorate_tests::Cluster;
use quorate_tests::hostile::{Draft, Stolen};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Which member lies.
const LIAR: MemberIndex = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// A part of another share.
    WrongPart,
    /// The same, but right when it must be proved.
    WrongUnlessProved,
    /// The one point that every share makes.
    Identity,
    /// Bytes that encode no point.
    NoPoint,
    /// A part of another epoch.
    OtherEpoch,
    /// Another payload beside the right header.
    SwappedPayload,
    /// Another header, with its own hash.
    OtherHeader,
    /// Not signed anew.
    Altered,
    /// What was right for the question before.
    Replayed,
    /// An older version as the newest.
    Stale,
}

struct Liar {
    real: VaultClient<Channel>,
    stolen: Stolen,
    cluster: [u8; 32],
    /// A point that is one, and nobody's part.
    point: [u8; 32],
    lie: Mutex<Lie>,
    before: Mutex<Option<OpenReply>>,
}

impl Liar {
    fn alter(&self, ask: &OpenRequest, mut reply: OpenReply) -> OpenReply {
        let lie = *self.lie.lock().unwrap();
        let before = self.before.lock().unwrap().replace(reply.clone());
        for item in reply.items.iter_mut().filter(|item| item.refusal.is_empty()) {
            match lie {
                Lie::WrongPart => item.partial = self.point.to_vec(),
                Lie::WrongUnlessProved if !ask.prove => item.partial = self.point.to_vec(),
                Lie::WrongUnlessProved | Lie::Replayed => {}
                Lie::Identity => item.partial = vec![0; 32],
                Lie::NoPoint => item.partial = vec![0xff; 32],
                Lie::OtherEpoch => item.epoch += 1,
                Lie::SwappedPayload => item.payload.reverse(),
                Lie::OtherHeader => item.header_hash[0] ^= 1,
                Lie::Altered => item.number += 1,
                Lie::Stale => item.number = 1,
            }
        }
        match (lie, before) {
            (Lie::Replayed, Some(before)) => return before,
            (Lie::Altered, _) => return reply,
            _ => {}
        }
        sign_open_reply(&self.stolen.key, &self.cluster, &ask.request_id, &mut reply);
        reply
    }
}

#[tonic::async_trait]
impl Vault for Liar {
    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenReply>, Status> {
        let ask = request.into_inner();
        let reply = self.real.clone().open(ask.clone()).await?.into_inner();
        Ok(Response::new(self.alter(&ask, reply)))
    }

    type RelayStream = futures::stream::Empty<Result<RelayedAnswer, Status>>;

    async fn relay(&self, _: Request<RelayRequest>) -> Result<Response<Self::RelayStream>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn submit(&self, _: Request<SubmitRequest>) -> Result<Response<SubmitReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn list_secrets(&self, _: Request<ListSecretsRequest>) -> Result<Response<ListSecretsReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn read_versions(&self, _: Request<ReadVersionsRequest>) -> Result<Response<ReadVersionsReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn read_mounts(&self, _: Request<ReadMountsRequest>) -> Result<Response<ReadMountsReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn read_policies(&self, _: Request<ReadPoliciesRequest>) -> Result<Response<ReadPoliciesReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn read_roles(&self, _: Request<ReadRolesRequest>) -> Result<Response<ReadRolesReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn read_lease(&self, _: Request<ReadLeaseRequest>) -> Result<Response<Lease>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn list_leases(&self, _: Request<ListLeasesRequest>) -> Result<Response<ListLeasesReply>, Status> {
        Err(Status::unavailable("not today"))
    }

    async fn read_status(&self, _: Request<ReadStatusRequest>) -> Result<Response<ReadStatusReply>, Status> {
        Err(Status::unavailable("not today"))
    }
}

pub(crate) async fn section(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    demo.put("default", "app/demo/twice", b"old", Some(0)).await.unwrap();
    demo.put("default", "app/demo/twice", b"new", Some(1)).await.unwrap();
    let stage = Stage::new(cluster, "answers", LIAR).await;
    let stolen = cluster.steal(LIAR).unwrap();
    let genesis =
        format!("{}/genesis.bin", cluster.text(&format!("/members/{}/data_dir", cluster.name(LIAR))).unwrap());
    let genesis = Genesis::from_bytes(&std::fs::read(genesis).unwrap()).unwrap();
    let tls = api_server_config(&stolen.tls, &genesis.client_roots.certificates).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let liar = Arc::new(Liar {
        real: stage.wire().vault().max_decoding_message_size(64 << 20),
        stolen,
        cluster: cluster.profile().cluster.0,
        point: Draft::new(cluster, &stage.demo, "app/demo/x").unwrap().ring.y,
        lie: Mutex::new(Lie::WrongPart),
        before: Mutex::new(None),
    });
    let service = VaultServer::from_arc(Arc::clone(&liar));
    let served = tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(accept_clients(listener, tls)),
    );
    let through = |members: &[MemberIndex]| {
        let mut profile = cluster.profile().clone();
        profile.members.retain(|m| members.contains(&m.index));
        for member in profile.members.iter_mut().filter(|m| m.index == LIAR) {
            member.api_address.clone_from(&address);
        }
        cluster.client_with(profile, cluster.identity("demo").unwrap()).unwrap().with_timeout(Duration::from_secs(4))
    };
    let name = cluster.name(LIAR).to_owned();
    for lie in [
        Lie::WrongPart,
        Lie::WrongUnlessProved,
        Lie::Identity,
        Lie::NoPoint,
        Lie::OtherEpoch,
        Lie::SwappedPayload,
        Lie::OtherHeader,
        Lie::Altered,
        Lie::Replayed,
        Lie::Stale,
    ] {
        *liar.lie.lock().unwrap() = lie;
        // Two members of which one lies are t-1 honest ones: nothing opens, and nothing wrong does.
        let two = through(&[LIAR, 1]).with_timeout(Duration::from_millis(1_500));
        if lie == Lie::Replayed {
            let _ = two.get("default", "app/demo/twice", None).await;
        }
        let answer = two.get("default", "app/demo/twice", None).await;
        // A payload that is wrong costs nothing when the honest member's is asked for; a part that is right when it must be proved opens.
        match answer {
            Ok(opened) if matches!(lie, Lie::SwappedPayload | Lie::WrongUnlessProved) => {
                assert_eq!(opened.plaintext.expose(), b"new", "{lie:?}");
            }
            answer => {
                let codes = ["bad_answer", "disagreement", "not_enough_members"];
                stage.refused_as(&format!("{lie:?}, one of two"), &codes, "", answer).await;
            }
        }
        // With the third it opens, whoever is asked first, and who was caught is not asked first again.
        let three = through(&[1, LIAR, 3]);
        let named = matches!(
            lie,
            Lie::WrongPart | Lie::WrongUnlessProved | Lie::Identity | Lie::NoPoint | Lie::Altered | Lie::Replayed
        );
        // Two honest members may be quicker than the liar a few times in a row: then it is not heard, and so not caught.
        for times in 1..=60 {
            assert_opens(&three, lie).await;
            if times >= 6 && (!named || !three.suspects().is_empty()) {
                break;
            }
        }
        let suspects = three.suspects();
        if named {
            assert_eq!(
                suspects.keys().copied().collect::<Vec<_>>(),
                [LIAR],
                "{lie:?}: {name}, and nobody else, is named: {suspects:?}"
            );
        } else {
            assert!(suspects.keys().all(|member| *member == LIAR), "{lie:?}: no honest member is named: {suspects:?}");
        }
    }
    served.abort();
    stage.end().await;
}

async fn assert_opens(client: &Client, lie: Lie) {
    let opened = client.get("default", "app/demo/twice", None).await;
    let opened = opened.unwrap_or_else(|why| panic!("{lie:?}: it opens with the third member: {why}"));
    assert_eq!(opened.plaintext.expose(), b"new", "{lie:?}: the newest version");
}
