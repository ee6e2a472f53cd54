//! The frozen formats: a ceremony from fixed seeds gives the bytes in `tests/golden/ceremony.json`.

use crate::cast::*;
use quorate_crypto::encoding;
use quorate_crypto::reshare::{Body, Ceremony, Complaint, Message};
use serde_json::{Map, Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ceremony.json");

fn hash(bytes: &[u8]) -> String {
    hex::encode(encoding::hash("test/golden", &[bytes]))
}

/// What one ceremony says, in full for member 1 and hashed for the others, and what it leaves.
fn record(mut ceremony: Ceremony, players: &[Player]) -> Value {
    let mut out = Map::new();
    out.insert("params".into(), hex::encode(borsh::to_vec(ceremony.params()).unwrap()).into());
    out.insert("context".into(), hex::encode(ceremony.params().context()).into());
    for p in players {
        let inputs = json!({
            "seed": hex::encode(p.seed.expose()),
            "identity_seed": hex::encode(p.key.seed().expose()),
            "old_share": p.old_share.as_ref().map(|s| hex::encode(s.expose())),
        });
        out.insert(format!("member {}", p.index), inputs);
    }
    for phase in ["keys", "deal", "ready"] {
        if phase == "ready" {
            let body = Body::Complaint(Complaint { dealer: 2, key_seed: [5; 32] });
            let complaint = Message::sign(ceremony.params(), 1, body, &players[0].key);
            out.insert("complaint of 1".into(), hex::encode(complaint.encode()).into());
        }
        for message in round(&mut ceremony, players) {
            let bytes = message.encode();
            let shown = if message.member == 1 { hex::encode(bytes) } else { hash(&bytes) };
            out.insert(format!("{phase} of {}", message.member), shown.into());
        }
        let stored = borsh::to_vec(&ceremony).unwrap();
        out.insert(format!("stored after {phase}"), json!({ "len": stored.len(), "hash": hash(&stored) }));
        out.insert(format!("transcript after {phase}"), hex::encode(ceremony.transcript()).into());
    }
    let certificate = ceremony.certificate().unwrap();
    out.insert("result".into(), hex::encode(certificate.result_hash()).into());
    out.insert("certificate".into(), hex::encode(borsh::to_vec(certificate).unwrap()).into());
    for (j, share) in shares(&ceremony, players) {
        out.insert(format!("share of {j}"), hex::encode(share.scalar.expose()).into());
    }
    Value::Object(out)
}

#[test]
fn formats_are_frozen() {
    let first = generated(240, 2, 3);
    let made = Ceremony::begin(generation(240, 2, &first.players)).unwrap();
    let refreshing: Vec<Player> = (1..=3).map(|i| Player::new(241, i).holding(first.shares.get(&i))).collect();
    let params = reshare(241, &first.certificate, keys(&first.players), 2, &refreshing);
    let refresh = Ceremony::begin(params).unwrap();
    let now = json!({ "key generation": record(made, &first.players), "reshare": record(refresh, &refreshing) });
    if std::env::var_os("QUORATE_WRITE_GOLDEN").is_some() {
        std::fs::write(PATH, format!("{now:#}\n")).unwrap();
    }
    let frozen: Value = serde_json::from_str(&std::fs::read_to_string(PATH).unwrap()).unwrap();
    for (ceremony, fields) in frozen.as_object().unwrap() {
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&now[ceremony][name], value, "{ceremony}: {name}");
        }
    }
    assert_eq!(now.as_object().map(Map::len), frozen.as_object().map(Map::len));
}
