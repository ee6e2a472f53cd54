use super::*;
use crate::lease::principal;
use proptest::prelude::*;

const CLUSTER: ClusterId = ClusterId([1; 32]);

fn shown(template: &str, role: &str, owner: &str, namespace: &str) -> String {
    Username::parse(template).unwrap().label(&Facts { role, owner, namespace })
}

#[test]
fn a_template_says_whose_login_it_is() {
    let alice = "spiffe://example.org/people/Alice.B";
    assert_eq!(shown("{{identity}}", "reader", alice, ""), "alice_b");
    assert_eq!(shown("{{role}}_{{identity}}", "app-reader", alice, ""), "app_reader_alice_b");
    assert_eq!(shown("x_{{role:3}}_{{identity:4}}_{{namespace}}", "reader", alice, "team/sub"), "x_rea_alic_team_sub");
    assert_eq!(shown("{{namespace}}", "reader", alice, ""), "", "a role without one is named by its lease alone");
    assert_eq!(shown("{{identity}}", "reader", "spiffe://example.org/ä\"; DROP--", ""), "____drop__");
    assert_eq!(
        shown("{{role}}{{identity}}", &"r".repeat(64), alice, ""),
        "r".repeat(MAX_LABEL),
        "what does not fit is cut"
    );
    assert_eq!(shown("db", "reader", alice, ""), "db");
}

#[test]
fn what_is_no_template_is_refused_with_its_place() {
    use BadUsername::{Character, Empty, Literal, Place, TooLong};
    let long = "{{role}}".repeat(17);
    let cases = [
        ("", Empty),
        (long.as_str(), TooLong),
        ("a\"b", Character(1)),
        ("a'b", Character(1)),
        ("é", Character(0)),
        ("{{role}} x", Character(8)),
        ("App", Character(0)),
        ("a-b", Character(1)),
        ("a\0b", Character(1)),
        ("a{role}", Character(1)),
        ("{{role}}}", Character(8)),
        ("ab{{name}}", Place(2)),
        ("{{ role }}", Place(0)),
        ("{{Role}}", Place(0)),
        ("{{}}", Place(0)),
        ("{{role", Place(0)),
        ("{{{{role}}}}", Place(0)),
        ("{{role:}}", Place(0)),
        ("{{role:0}}", Place(0)),
        ("{{role:21}}", Place(0)),
        ("{{role:+8}}", Place(0)),
        ("{{role:08}}", Place(0)),
        ("aaaaaaaaaaaaaaaaaaaaa", Literal(21)),
        ("aaaaaaaaaaaaaaaaaaaa{{role}}a", Literal(21)),
    ];
    for (text, why) in cases {
        assert_eq!(Username::parse(text), Err(why), "{text:?}");
    }
    let why = Username::parse("{{name}}").unwrap_err().to_string();
    assert!(why.contains("{{role}}, {{identity}} and {{namespace}}"), "it says what there is: {why}");
}

#[test]
fn only_names_that_a_lease_s_login_can_have_are_read() {
    let (id, other) = (LeaseId([0xab; 16]), LeaseId([2; 16]));
    let bare = principal(&CLUSTER, "db", &id);
    for good in [bare.clone(), labelled(&bare, "a"), labelled(&bare, &"_".repeat(MAX_LABEL))] {
        assert_eq!(lease_of(&CLUSTER, "db", &good), Some(id), "{good}");
        assert_eq!(lease_of(&CLUSTER, "other", &good), None, "{good}: at this target only");
        assert_eq!(lease_of(&ClusterId([2; 32]), "db", &good), None, "{good}: of this cluster only");
        assert_ne!(lease_of(&CLUSTER, "db", &good), Some(other));
    }
    let upper = bare.replace(&id.to_string(), &id.to_string().to_uppercase());
    let bad = ["0", "_", "_A", "_a b", "_ä", "a", "-a", &format!("_{}", "a".repeat(MAX_LABEL + 1))];
    for bad in bad.map(|end| format!("{bare}{end}")).into_iter().chain([upper, bare[..41].to_owned(), "ä".repeat(21)])
    {
        assert_eq!(lease_of(&CLUSTER, "db", &bad), None, "{bad}");
    }
}

/// Texts that are likely to be templates.
fn templates() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{{role}}".to_owned()),
        Just("{{identity}}".to_owned()),
        Just("{{namespace}}".to_owned()),
        (1..=20u8).prop_map(|n| format!("{{{{identity:{n}}}}}")),
        "[a-z0-9_]{1,6}",
        "[\\x00-\u{2fff}{}:\"']{0,4}",
    ];
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn every_template_and_identity_give_a_name_that_is_whole(
        template in templates(), role in "[a-z0-9][a-z0-9_-]{0,63}", owner in "(spiffe://[a-z.]{1,9}(/\\PC{0,30}){0,3}|\\PC{0,60})",
        namespace in "\\PC{0,40}", ids in any::<([u8; 16], [u8; 16])>(),
    ) {
        let Ok(template) = Username::parse(&template) else { return Ok(()) };
        let label = template.label(&Facts { role: &role, owner: &owner, namespace: &namespace });
        prop_assert_eq!(&label, &template.label(&Facts { role: &role, owner: &owner, namespace: &namespace }));
        let ids = [LeaseId(ids.0), LeaseId(ids.1)];
        let names = ids.map(|id| labelled(&principal(&CLUSTER, "db", &id), &label));
        for (id, name) in ids.iter().zip(&names) {
            prop_assert!(name.len() <= 63 && name.bytes().all(is_plain), "{}", name);
            prop_assert!(name.starts_with(&principal(&CLUSTER, "db", id)), "{}: prefix and id are whole", name);
            prop_assert_eq!(lease_of(&CLUSTER, "db", name), Some(*id));
        }
        prop_assert_eq!(names[0] == names[1], ids[0] == ids[1], "no two leases have one name");
    }
}
