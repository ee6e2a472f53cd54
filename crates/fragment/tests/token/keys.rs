//! Keys: made inside, found, told from what only looks like them.

use crate::lab::{
    PIN, ask, bring_in, created_of, lab, module, open, own_session, pin, question, right, rng, run, settings, tried,
};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use quorate_crypto::customer::{CustomerError, PartSuite};
use quorate_fragment::token::{Created, Given, create, examine};
use quorate_fragment::{DeriveError, Fragment};

fn made(suite: PartSuite) -> Created {
    create(&module(), "one", "customer", suite, &pin(PIN, Given::ByFile), &mut rng()).unwrap()
}

#[test]
fn a_key_is_made_inside_and_cannot_be_taken_out() {
    lab("keys::a_key_is_made_inside_and_cannot_be_taken_out", |lab| {
        lab.init("one");
        made(PartSuite::Hybrid);
        // By the eyes of a tool that shares no code with us.
        let (_, listed) = lab.pkcs11_tool("one", &["--list-objects"]);
        let objects = |kind: &str| listed.matches(kind).count();
        assert_eq!(
            (objects("Private Key Object; EC"), objects("Secret Key Object; AES length 32")),
            (1, 1),
            "{listed}"
        );
        let private = listed.split("Private Key Object").nth(1).unwrap().split("Key Object").next().unwrap();
        assert!(private.contains("sensitive, always sensitive, never extractable, local"), "{private}");
        assert!(private.contains("derive") && !private.contains("sign"), "it has one purpose: {private}");
        let wrapping = listed.split("Secret Key Object").nth(1).unwrap().split("Key Object").next().unwrap();
        assert!(wrapping.contains("never extractable"), "{wrapping}");
        // And by the interface itself, which that tool does not try.
        let session = own_session("one");
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::SECRET_KEY] {
            let key = session.find_objects(&[Attribute::Class(class)]).unwrap()[0];
            assert!(session.get_attributes(key, &[AttributeType::Value]).unwrap().is_empty(), "it gives no value");
            assert!(session.update_attributes(key, &[Attribute::Extractable(true)]).is_err(), "nor is it made to");
        }
    });
}

#[test]
fn nothing_on_a_token_is_written_over() {
    lab("keys::nothing_on_a_token_is_written_over", |lab| {
        lab.init("one");
        let first = made(PartSuite::P256);
        let again = create(&module(), "one", "customer", PartSuite::P256, &pin(PIN, Given::ByFile), &mut rng());
        assert_eq!(again.unwrap_err().code(), "exists");
        let (_, listed) = lab.pkcs11_tool("one", &["--list-objects"]);
        assert_eq!(listed.matches("Key Object; EC").count(), 2, "the pair of the first time: {listed}");
        let fragment = Fragment::Token(open(settings(&["one"], &first)).unwrap());
        assert_eq!(right(&fragment), Ok(true));
    });
}

#[test]
fn a_token_opens_what_is_sealed_to_its_key_in_both_suites() {
    lab("keys::a_token_opens_what_is_sealed_to_its_key_in_both_suites", |lab| {
        let both = [("one", PartSuite::Hybrid), ("two", PartSuite::P256)];
        for (token, _) in both {
            lab.init(token);
        }
        for (token, suite) in both {
            let created = create(&module(), token, "customer", suite, &pin(PIN, Given::ByFile), &mut rng()).unwrap();
            assert_eq!((created.public.suite(), created.kem.is_some()), (suite, suite == PartSuite::Hybrid));
            let pool = open(settings(&[token], &created)).unwrap();
            let fragment = Fragment::Token(pool);
            let (questions, values): (Vec<_>, Vec<_>) = (0..256).map(|_| question(&created.public)).unzip();
            let answers = ask(&fragment, questions);
            assert_eq!(answers.len(), 256);
            for (answer, value) in answers.into_iter().zip(values) {
                assert_eq!(answer.unwrap().expose(), value.expose());
            }
            // What was derived for them is gone from the token.
            let session = own_session(token);
            let left = session.find_objects(&[Attribute::Token(false)]).unwrap();
            assert!(left.is_empty(), "no object stays in a session");
            let health = fragment.health();
            assert_eq!((health[0].ready, health[0].answered, health[0].failed), (2, 256, 0));
            let Fragment::Token(pool) = fragment else { panic!("of a token") };
            drop(session);
            pool.end();
        }
    });
}

#[test]
fn parts_that_are_malformed_or_for_another_key_do_not_reach_the_token() {
    lab("keys::parts_that_are_malformed_or_for_another_key_do_not_reach_the_token", |lab| {
        let folder = lab.init("one");
        let created = made(PartSuite::P256);
        let other = created_of(&[7; 32]);
        // It looks after its token by itself only after a while.
        let mut patient = settings(&["one"], &created);
        patient.timing.check = std::time::Duration::from_secs(600);
        let fragment = Fragment::Token(open(patient).unwrap());
        assert_eq!(right(&fragment), Ok(true));
        // Without the token these answers can only be ours.
        lab.unplug(&folder);
        let mut off = question(&created.public).0;
        off.part.ct[64] ^= 1;
        let mut short = question(&created.public).0;
        short.part.ct.pop();
        let mut identity = question(&created.public).0;
        identity.part.ct = vec![0; 65];
        let foreign = question(&other.public).0;
        let answers = ask(&fragment, vec![off, short, identity, foreign]);
        let errors: Vec<_> = answers.into_iter().map(Result::unwrap_err).collect();
        let bad = || DeriveError::Part(CustomerError::BadPart);
        assert_eq!(errors, [bad(), bad(), bad(), DeriveError::Part(CustomerError::OtherKey)]);
        assert_eq!(fragment.health()[0].failed, 0);
    });
}

#[test]
fn the_ml_kem_key_beside_a_token_is_opened_by_that_token_only() {
    lab("keys::the_ml_kem_key_beside_a_token_is_opened_by_that_token_only", |lab| {
        lab.init("one");
        lab.init("two");
        let created = made(PartSuite::Hybrid);
        let file = created.kem.clone().unwrap();
        let code = |kem: Option<Vec<u8>>| {
            let with = settings(&["one"], &Created { public: created.public.clone(), kem });
            open(with).err().map(|why| why.code())
        };
        assert_eq!(code(Some(file.clone())), None);
        assert_eq!(code(None), Some("token_kem_file"), "suite 1 needs it");
        for at in [0, 7, 8, 40, 60, file.len() - 1] {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert_eq!(code(Some(changed)), Some("token_kem_file"), "byte {at}");
        }
        assert_eq!(code(Some(file[..file.len() - 1].to_vec())), Some("token_kem_file"));
        // Another token, with keys of the same labels.
        let pin = pin(PIN, Given::ByFile);
        create(&module(), "two", "customer", PartSuite::Hybrid, &pin, &mut rng()).unwrap();
        let with = settings(&["two"], &created);
        assert_eq!(open(with).err().map(|why| why.code()), Some("token_key_other"));
    });
}

#[test]
fn what_only_looks_like_the_key_is_not_used() {
    lab("keys::what_only_looks_like_the_key_is_not_used", |lab| {
        lab.init("one");
        let scalar = [9; 32];
        let created = created_of(&scalar);
        let session = own_session("one");
        let label = || Attribute::Label(b"customer".to_vec());
        let code = || open(settings(&["one"], &created)).err().map(|why| why.code());
        assert_eq!(code(), Some("token_key_not_found"));

        // Garbage under the label, none of it a private key.
        let certificate = [
            Attribute::Class(ObjectClass::CERTIFICATE),
            Attribute::CertificateType(cryptoki::object::CertificateType::X_509),
            Attribute::Token(true),
            label(),
            Attribute::Subject(b"no name at all".to_vec()),
            Attribute::Value(vec![0xff; 300]),
        ];
        session.create_object(&certificate).unwrap();
        let data =
            [Attribute::Class(ObjectClass::DATA), Attribute::Token(true), label(), Attribute::Value(vec![4; 65])];
        session.create_object(&data).unwrap();
        let public = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(cryptoki::object::KeyType::EC),
            Attribute::Token(true),
            label(),
            Attribute::EcParams(b"not DER".to_vec()),
            Attribute::EcPoint(vec![0xee; 9]),
        ];
        session.create_object(&public).unwrap();
        assert_eq!(code(), Some("token_key_not_found"));

        // Private keys that cannot be it.
        let alone = |scalar: &[u8], with: &[Attribute], expected: &str| {
            let key = bring_in(&session, "customer", scalar, with);
            assert_eq!(code(), Some(expected), "{with:?}");
            session.destroy_object(key).unwrap();
        };
        alone(&scalar, &[Attribute::Extractable(true)], "token_key_unfit");
        alone(&scalar, &[Attribute::Sensitive(false)], "token_key_unfit");
        alone(&scalar, &[Attribute::Derive(false)], "token_key_unfit");
        let p384 = vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
        alone(&[9; 48], &[Attribute::EcParams(p384)], "token_key_unfit");
        alone(&scalar, &[Attribute::EcParams(b"not DER".to_vec())], "token_key_unfit");
        alone(&[8; 32], &[], "token_key_other");

        // The right one, among all that garbage; and beside a second one of its name.
        bring_in(&session, "customer", &scalar, &[]);
        let pool = open(settings(&["one"], &created)).unwrap();
        let fragment = Fragment::Token(pool);
        assert_eq!(right(&fragment), Ok(true));
        bring_in(&session, "customer", &[8; 32], &[]);
        assert_eq!(code(), Some("token_key_not_found"), "which of the two is meant is nobody's guess");
    });
}

#[test]
fn a_doctor_names_what_is_wrong_with_each_token() {
    lab("keys::a_doctor_names_what_is_wrong_with_each_token", |lab| {
        lab.init("one");
        lab.init("two");
        let created = made(PartSuite::P256);
        let settings = settings(&["one", "two", "three"], &created);
        let reports = examine(&settings, Some(&pin(PIN, Given::ByPerson))).unwrap();
        let of = |label: &str| reports.iter().find(|r| r.label == label).unwrap();
        let code = |label: &str| of(label).key.clone().unwrap().map_err(|why| why.code());
        let facts = code("one").unwrap();
        assert!(facts.local && facts.never_extractable && of("one").is_well());
        assert_eq!((code("two"), code("three")), (Err("token_key_not_found"), Err("token_not_found")));
        assert!(!of("two").is_well() && !of("three").is_well());
        assert!(of("one").missing.is_empty() && of("one").pin == "fine" && !of("one").serial.is_empty());
        // Without a PIN it only looks.
        let reports = examine(&settings, None).unwrap();
        assert!(reports.iter().filter(|r| r.label != "three").all(|r| r.key.is_none()));
        // A wrong one is tried on one token, not on each.
        let reports = examine(&settings, Some(&pin("0000", Given::ByPerson))).unwrap();
        let wrong = reports.iter().filter(|r| matches!(&r.key, Some(Err(why)) if why.code() == "pin_wrong")).count();
        let counted = reports.iter().filter(|r| r.pin == "a wrong one was given").count();
        assert_eq!((wrong, counted), (1, 1));
    });
}

#[test]
fn a_module_that_is_none_is_said_so() {
    let created = created_of(&[9; 32]);
    for (path, says) in
        [("/nowhere/none.so", "/nowhere/none.so"), ("libsofthsm2.so", "absolute"), ("/usr/bin/env", "/usr/bin/env")]
    {
        let mut settings = settings(&["one"], &created);
        settings.module = path.into();
        let why = open(settings).err().unwrap();
        assert!(why.code() == "pkcs11_module" && why.to_string().contains(says), "{why}");
    }
    assert!(tried("pkcs11-tool", &["--help"]).1.contains("--module"), "the tool of the other tests is there");
    assert!(run("softhsm2-util", &["--version"]).starts_with('2'));
}
