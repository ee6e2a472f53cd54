//! What the repository promises about itself: links that lead somewhere, reasons where a rule is waived, nothing left for
//! later, nothing of the place where it was written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text of the repository by its path from the root; what git would never take aside.
fn texts() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || matches!(name.as_str(), ".git" | "target" | "__pycache__") {
                continue;
            }
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    let text = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        String::from_utf8(bytes).ok().map(|text| (name, text))
    };
    let texts: Vec<_> = paths.into_iter().filter_map(text).collect();
    assert!(texts.len() > 150 && texts.iter().any(|(name, _)| name == "Cargo.lock"), "the repository is found");
    texts
}

fn is(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == extension)
}

/// Fails with all that was found, one on a line.
fn nothing(found: &[String], what: &str) {
    let mut all = String::new();
    for one in found {
        let _ = writeln!(all, "  {one}");
    }
    assert!(found.is_empty(), "{what}:\n{all}");
}

fn lines_with<'a>(text: &'a str, words: &'a [String]) -> impl Iterator<Item = (usize, &'a String)> {
    let hit = |line: &str| words.iter().find(|word| line.contains(word.as_str()));
    text.lines().enumerate().filter_map(move |(at, line)| Some((at + 1, hit(line)?)))
}

/// Words that are put together here, so that this file does not contain them.
fn joined(words: &[&[&str]]) -> Vec<String> {
    words.iter().map(|parts| parts.concat()).collect()
}

fn places_of(words: &[String]) -> Vec<String> {
    let texts = texts();
    let found = texts
        .iter()
        .flat_map(|(name, text)| lines_with(text, words).map(move |(line, word)| format!("{name}:{line}: `{word}`")));
    found.collect()
}

#[test]
fn nothing_is_left_for_later() {
    nothing(&places_of(&joined(&[&["TO", "DO"], &["FIX", "ME"], &["XX", "X"], &["HA", "CK:"]])), "left for later");
}

#[test]
fn nothing_names_the_place_where_it_was_written() {
    let words = joined(&[
        &["/wo", "rk/"],
        &["/ro", "ot/"],
        &["/ho", "me/"],
        &["bash", "_jobs"],
        &["shared", "/design"],
        &["Clau", "de"],
        &["Anthro", "pic"],
        &["Chat", "GPT"],
        &["Co", "pilot"],
    ]);
    nothing(&places_of(&words), "names of the place where it was written");
}

#[test]
fn a_waived_rule_has_a_reason() {
    let mut found = Vec::new();
    let mut seen = 0;
    for (name, text) in texts().iter().filter(|(name, _)| is(name, "rs")) {
        for (at, attribute) in waivers(text) {
            seen += 1;
            if !attribute.contains("reason = \"") {
                found.push(format!("{name}:{at}"));
            }
        }
    }
    assert!(seen > 20, "attributes are found: {seen}");
    nothing(&found, "a waived rule without a reason");
}

/// The attributes that waive a lint: the line where they begin, and their text.
fn waivers(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let code = line.trim_start();
        let inner = code.strip_prefix("#![").or_else(|| code.strip_prefix("#["));
        if inner.is_some_and(|inner| inner.starts_with("allow(") || inner.starts_with("expect(")) {
            let rest = &text[at..];
            found.push((number + 1, &rest[..rest.find(")]").map_or(rest.len(), |end| end + 2)]));
        }
        at += line.len();
    }
    found
}

#[test]
fn a_missing_reason_is_found() {
    let waived =
        waivers("#![allow(\n    one,\n    reason = \"r\"\n)]\n// #[allow(three)]\n    #[expect(two)]\nfn f() {}\n");
    assert_eq!(waived.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 6]);
    assert!(waived[0].1.contains("reason") && !waived[1].1.contains("reason"));
}

#[test]
fn every_link_leads_somewhere() {
    let texts = texts();
    let mut found = Vec::new();
    for (name, page) in texts.iter().filter(|(name, _)| is(name, "md")) {
        for link in links(page) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            // A title may follow.
            let link = link.split_once(" \"").map_or(link, |(link, _)| link);
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = root().join(name).parent().unwrap().to_owned();
            let target = if path.is_empty() { root().join(name) } else { folder.join(path) };
            let known = target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !known {
                found.push(format!("{name}: {link}"));
            }
        }
    }
    nothing(&found, "links that lead nowhere");
}

/// The targets of `[words](target)`, code aside.
fn links(page: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if !fenced {
            // What stands between two back-ticks is code.
            let words = line.split('`').step_by(2);
            found.extend(words.flat_map(|text| text.split("](").skip(1)).filter_map(|rest| rest.split(')').next()));
        }
    }
    found
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn a_dead_link_is_found() {
    assert_eq!(links("[a](b.md), `[c](d)`\n```\n[e](f)\n```\n[g](#h)"), ["b.md", "#h"]);
}

/// Paths in prose and comments: `docs/..`, `proto/..`, `crates/../src/..`.
#[test]
fn every_path_that_is_named_exists() {
    let mut found = Vec::new();
    let mut seen = 0;
    for (name, text) in texts().iter().filter(|(name, _)| ["md", "rs", "proto", "toml"].iter().any(|e| is(name, e))) {
        for path in named_paths(text) {
            seen += 1;
            if !root().join(path).exists() {
                found.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(seen > 50, "paths are found: {seen}");
    nothing(&found, "paths that do not exist");
}

fn named_paths(text: &str) -> Vec<&str> {
    let breaks = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
    let words = text.split(breaks).map(|word| word.trim_end_matches('.'));
    let ours =
        |word: &&str| ["docs/", "proto/", "crates/", "deploy/", "jepsen/"].iter().any(|top| word.starts_with(top));
    // Only whole names of files: `crates/x` in a manifest and `docs/..` are none.
    let file = |word: &&str| Path::new(word).extension().is_some() && !word.contains("..");
    words.filter(ours).filter(file).collect()
}

#[test]
fn every_page_and_decision_is_in_the_index() {
    let index = std::fs::read_to_string(root().join("docs/README.md")).unwrap();
    let linked: BTreeSet<&str> = links(&index).into_iter().collect();
    let mut found = Vec::new();
    let mut decisions = Vec::new();
    for (name, _) in texts().iter().filter(|(name, _)| name.starts_with("docs/") && is(name, "md")) {
        let name = name.strip_prefix("docs/").unwrap();
        if name != "README.md" && !linked.contains(name) {
            found.push(name.to_owned());
        }
        decisions.extend(name.strip_prefix("adr/").map(|name| name[..4].parse::<usize>().unwrap()));
    }
    nothing(&found, "pages that are not in docs/README.md");
    assert_eq!(decisions, (1..=decisions.len()).collect::<Vec<_>>(), "decisions are numbered without a gap");
    assert!(decisions.len() >= 12);
}

/// A name that says nothing is a drawer.
#[test]
fn no_file_is_a_drawer() {
    let drawers = ["common", "helper", "helpers", "manager", "misc", "shared", "types", "util", "utils"];
    let texts = texts();
    let files = texts.iter().filter(|(name, _)| is(name, "rs") || is(name, "proto"));
    let parts = files.filter(|(name, _)| {
        Path::new(name).with_extension("").components().any(|part| drawers.iter().any(|d| part.as_os_str() == *d))
    });
    nothing(&parts.map(|(name, _)| name.clone()).collect::<Vec<_>>(), "drawers");
}

#[test]
fn every_crate_takes_the_lints_and_says_what_it_is_for() {
    let texts = texts();
    let workspace = &texts.iter().find(|(name, _)| name == "Cargo.toml").unwrap().1;
    for lint in
        ["unsafe_code = \"forbid\"", "unwrap_used = \"deny\"", "indexing_slicing = \"deny\"", "panic = \"deny\""]
    {
        assert!(workspace.contains(lint), "{lint}");
    }
    let mut found = Vec::new();
    for (name, text) in &texts {
        // The fuzzer's is a workspace of its own, and no part of a product.
        let manifest = name.ends_with("/Cargo.toml") && !text.contains("\n[workspace]");
        if manifest && !text.contains("[lints]\nworkspace = true") {
            found.push(format!("{name}: [lints] workspace = true"));
        }
        if manifest && text.lines().any(|line| line.starts_with("version = ") || line.contains("{ version")) {
            found.push(format!("{name}: versions stand in the workspace's manifest"));
        }
        let head = name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs");
        if head && !text.starts_with("//! ") {
            found.push(format!("{name}: does not say what it is for"));
        }
    }
    nothing(&found, "crates that are not like the others");
}

/// The examples show every key there is, and none that is refused.
#[test]
fn the_example_configurations_are_complete() {
    let (example, source) = (read("deploy/node.example.toml"), read("crates/server/src/config.rs"));
    let structs = ["NodeConfig", "RaftConfig", "AuditConfig", "StorageConfig"];
    let found: BTreeSet<&str> = structs.iter().flat_map(|name| fields(&source, name)).collect();
    assert!(found.len() > 8, "fields are found: {found:?}");
    assert_eq!(keys(&example), found);
    // A custodian's fragment lives in one of two places: an example for each, and both have all else.
    let source = read("crates/quorate/src/custodian/config.rs");
    let (all, tokens) = (fields(&source, "CustodianConfig"), fields(&source, "TokenConfig"));
    let but = |without: &[&str]| -> BTreeSet<String> {
        let rest = all.iter().chain(&tokens).filter(|f| !without.contains(f));
        rest.copied().chain(fields(&source, "Rule")).map(str::to_owned).collect()
    };
    let owned = |example: &str| keys(&read(example)).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let beside: Vec<&str> = tokens.iter().copied().chain(["pkcs11"]).collect();
    assert_eq!(owned("deploy/custodian.example.toml"), but(&beside));
    assert_eq!(owned("deploy/custodian-hsm.example.toml"), but(&["fragment", "passphrase_file"]));
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

fn fields<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let body = source.split_once(&format!("struct {name} {{\n")).unwrap().1.split_once("\n}").unwrap().0;
    let declared = body.lines().filter_map(|line| line.trim().strip_prefix("pub")?.split_once(' '));
    declared.filter_map(|(_, field)| Some(field.split_once(':')?.0)).collect()
}

/// Keys and tables of a TOML file without inline tables.
fn keys(example: &str) -> BTreeSet<&str> {
    let lines = example.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| match line.strip_prefix('[') {
            Some(table) => table.trim_start_matches('[').split(']').next(),
            None => line.split_once(" = ").map(|(key, _)| key),
        })
        .collect()
}

/// What makes a member crash or lie is in no product: it is behind a feature that nothing turns on, and a release build refuses it.
#[test]
fn failpoints_and_lies_are_in_no_product() {
    let server = read("crates/server/src/ceremony.rs");
    let guarded = |at: &str| server.contains(&format!("#[cfg(feature = \"failpoints\")]\n{at}"));
    assert!(
        guarded("mod hostile;") && guarded("        let messages = hostile::instead("),
        "both are behind the feature"
    );
    assert_eq!(server.matches("hostile").count(), 2, "and nothing else of it is there");
    assert!(
        read("crates/server/src/lib.rs").contains("#[cfg(feature = \"failpoints\")]\nmod planted;"),
        "nor are planted bugs"
    );
    let never =
        "#[cfg(not(feature = \"failpoints\"))]\n#[inline]\npub(crate) fn planted(_name: &str) -> bool {\n    false\n}";
    assert!(read("crates/server/src/failpoint.rs").contains(never), "nor is any where one is asked for");
    let refusal = "#[cfg(all(feature = \"failpoints\", not(debug_assertions)))]\ncompile_error!(";
    assert!(read("crates/server/src/failpoint.rs").contains(refusal), "a release build refuses the feature");
    for (name, text) in texts().iter().filter(|(name, _)| name.ends_with("Cargo.toml")) {
        let default = text.lines().find(|line| line.starts_with("default"));
        assert!(!default.is_some_and(|line| line.contains("failpoints")), "{name}: not by default");
    }
    let making = read("Makefile");
    let build = making.split("\nbuild:").nth(1).unwrap().split("\n\n").next().unwrap();
    assert!(!build.contains("failpoints"), "`make build` is without: {build}");
}
