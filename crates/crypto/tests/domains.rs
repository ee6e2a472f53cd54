//! The page that a second implementation is written from lists every domain string of these formats.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../docs/format.md");
const SOURCES: [&str; 18] = [
    include_str!("../src/backup.rs"),
    include_str!("../src/customer.rs"),
    include_str!("../src/dleq.rs"),
    include_str!("../src/keyfile.rs"),
    include_str!("../src/keyring.rs"),
    include_str!("../src/reshare/ceremony.rs"),
    include_str!("../src/reshare/certificate.rs"),
    include_str!("../src/reshare/member.rs"),
    include_str!("../src/reshare/message.rs"),
    include_str!("../src/reshare/params.rs"),
    include_str!("../src/reshare/sharing.rs"),
    include_str!("../src/storage.rs"),
    include_str!("../src/sealed.rs"),
    include_str!("../src/sealed/header.rs"),
    include_str!("../src/sealed/payload.rs"),
    include_str!("../src/sealed/proof.rs"),
    include_str!("../src/sealed/wrap.rs"),
    include_str!("../src/threshold.rs"),
];

/// The first argument of every call that takes a purpose, and what messages are signed under.
fn used() -> BTreeSet<&'static str> {
    let calls =
        ["hash", "hash32", "transcript", "hash_to_scalar", "hash_to_point", "draw", "expand", "expand::<64>", "scalar"];
    let mut found = BTreeSet::new();
    for source in SOURCES {
        let signed = source.split("=> \"").skip(1).chain(source.split("READY: &str = \"").skip(1));
        found.extend(
            signed.filter_map(|rest| rest.split('"').next()).filter(|p| *p == "ready" || p.starts_with("ceremony/")),
        );
        for call in calls {
            for (at, _) in source.match_indices(&format!("{call}(")) {
                let argument = source[at + call.len() + 1..].trim_start();
                if let Some(purpose) = argument.strip_prefix('"') {
                    found.insert(purpose.split('"').next().unwrap());
                }
            }
        }
    }
    found
}

fn listed() -> BTreeSet<&'static str> {
    let section = PAGE.split("## 16. Domain strings").nth(1).unwrap().split("## 17.").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .filter(|purpose| *purpose != "dleq-")
        .collect()
}

#[test]
fn the_page_lists_exactly_the_purposes_in_use() {
    assert_eq!(used(), listed());
    assert!(used().len() > 40);
}
