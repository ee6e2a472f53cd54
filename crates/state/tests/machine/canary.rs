//! What libraries print of commands and records holds nothing worth guarding.

use crate::world::*;
use quorate_crypto::sealed::Sealed;
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::lease::lease;
use quorate_state::outcome::Outcome;
use quorate_state::target::target;

/// Whether `text` shows a run of these bytes in any form that `Debug` gives bytes.
fn shows(text: &str, bytes: &[u8]) -> bool {
    let text = text.replace(['\n', ' '], "");
    let run = &bytes[..bytes.len().min(12)];
    let list: Vec<String> = run.iter().map(u8::to_string).collect();
    text.contains(&list.join(","))
        || text.contains(&hex::encode(run))
        || text.contains(&hex::encode_upper(run))
        || core::str::from_utf8(run).is_ok_and(|run| text.contains(run))
}

#[track_caller]
fn hides(printed: &[String], canaries: &[&[u8]]) {
    for text in printed {
        for canary in canaries {
            assert!(!shows(text, canary), "{text}");
        }
    }
}

/// Every way to print a change on its way through the log.
fn printed(world: &mut World, change: &Change) -> Vec<String> {
    let request = world.request(change.clone());
    let signed = World::sign(&request);
    let command = world.command(&signed);
    vec![
        format!("{change:?}"),
        format!("{change:#?}"),
        format!("{request:?}"),
        format!("{request:#?}"),
        format!("{signed:?}"),
        format!("{signed:#?}"),
        format!("{command:?}"),
        format!("{command:#?}"),
        format!("{command}"),
    ]
}

#[test]
fn the_test_sees_what_is_shown() {
    for text in [
        format!("{:?}", b"canary-in-the-mine"),
        format!("{:?}", "canary-in-the-mine"),
        hex::encode(b"canary-in-the-mine"),
    ] {
        assert!(shows(&text, b"canary-in-the-mine"), "{text}");
    }
    assert!(shows(&format!("{:#?}", b"canary-in-the-mine"), b"canary-in-the-mine"));
}

#[test]
fn sealed_versions_do_not_show() {
    let mut world = World::new();
    let sealed = world.seal("app/x").make();
    let Sealed { header, payload } = sealed.clone();
    let change = put("app/x", sealed, None);
    let proof = &header[header.len() - 100..];
    hides(&printed(&mut world, &change), &[&header, proof, &payload, &payload[24..]]);
    let target_change = world.target("db");
    let Change::PutTarget { header, payload, .. } = &target_change else { panic!() };
    let mut shown = printed(&mut world, &target_change);
    assert_eq!(world.submit(target_change.clone()), Outcome::Done);
    let stored = target(&world.store, "db").unwrap().unwrap();
    shown.extend([format!("{stored:?}"), format!("{stored:#?}")]);
    hides(&shown, &[header, &header[header.len() - 100..], payload, &payload[24..]]);
    let rotation = world.rotation("db", 1);
    let Command::RotatePassword { header, payload, .. } = &rotation else { panic!() };
    assert_eq!(world.apply(&office("db", 1, world.term)), Outcome::Done);
    assert_eq!(world.apply(&rotation), Outcome::Done);
    let stored = target(&world.store, "db").unwrap().unwrap();
    let shown = [&stored.current, stored.next.as_ref().unwrap()].map(|credential| format!("{credential:?}"));
    let shown = [format!("{rotation:?}"), format!("{rotation}"), format!("{stored:?}")].into_iter().chain(shown);
    hides(&shown.collect::<Vec<_>>(), &[header, &header[header.len() - 100..], payload, &payload[24..]]);
}

#[test]
fn verifiers_do_not_show() {
    let mut world = World::with_target();
    let change = issue("reader", None);
    let mut shown = printed(&mut world, &change);
    let id = world.intent();
    let stored = lease(&world.store, &id).unwrap().unwrap();
    shown.extend([format!("{stored:?}"), format!("{stored:#?}")]);
    // A refusal of a verifier does not quote it.
    let bad = Change::IssueLease { role: "reader".to_owned(), verifier: format!("{VERIFIER} "), ttl: None };
    let outcome = world.submit(bad);
    assert_invalid(&outcome, "verifier");
    shown.push(format!("{outcome:?}"));
    let keys = VERIFIER.rsplit('$').next().unwrap().split(':').map(str::as_bytes).collect::<Vec<_>>();
    hides(&shown, &[VERIFIER.as_bytes(), keys[0], keys[1]]);
}

#[test]
fn ceremony_messages_do_not_show() {
    let mut world = World::bare();
    let session = quorate_state::ids::SessionId([9; 32]);
    world.submit(Change::BeginKeyGeneration { session, class: quorate_crypto::keyring::KeyringClass::Cluster });
    let message = world.say(&session).remove(0);
    let command = Command::Ceremony { message: message.clone() };
    hides(&[format!("{command:?}"), format!("{command}")], &[&message, &message[100..]]);
}
