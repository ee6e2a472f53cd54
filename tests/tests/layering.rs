//! The layers of ARCHITECTURE.md, compared with what cargo really builds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

type Edges = BTreeMap<String, BTreeSet<String>>;

/// What no pure crate may link, at any depth: runtimes, sockets, files, TLS, the log and its store.
const IMPURE: &[&str] = &[
    "async-std",
    "futures-executor",
    "hyper",
    "mio",
    "openraft",
    "rand",
    "rocksdb",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-postgres",
    "tonic",
];

/// What no pure crate may depend on by itself. Other crates bring some of these along, for features that nothing here
/// calls: `getrandom` comes with the default features of argon2 and p256, clocks with x509-parser (`time`) and with
/// Cedar's date type (`chrono`), which only read a clock when asked. That nobody asks is checked on the sources, below.
const NEVER_NAMED: &[&str] = &["chrono", "getrandom", "libc", "rand", "rand_os", "rustix", "time", "web-time"];

/// What the sources of a pure crate may not say, tests aside.
const NEVER_SAID: &[&str] = &[
    "Instant::now",
    "OsRng",
    "SysRng",
    "SystemTime",
    "getrandom",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "thread_rng",
    "utc_now",
];

/// Nor these, whose order is another one in every process. Cedar's interface asks `authz` for some; clippy refuses to
/// iterate over them there.
const NEVER_SAID_OF_STATE: &[&str] = &["HashMap", "HashSet"];

const PURE: &[&str] = &["crypto", "state", "authz"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).current_dir(root()).args(arguments).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every package of the workspace, as its manifest describes it. Looks at no registry.
fn packages() -> Vec<Value> {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"]);
    let metadata: Value = serde_json::from_str(&text).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn is_normal(dependency: &Value) -> bool {
    dependency["kind"].is_null()
}

fn real_edges(packages: &[Value]) -> Edges {
    let members: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    packages
        .iter()
        .map(|package| {
            let to = package["dependencies"].as_array().unwrap().iter().filter(|d| is_normal(d));
            let to = to.filter_map(|d| d["name"].as_str()).filter(|name| members.contains(name));
            (package["name"].as_str().unwrap().to_owned(), to.map(str::to_owned).collect())
        })
        .collect()
}

/// The lines `crate -> dependency ..` of the block that is fenced as `edges`.
fn documented_edges(text: &str) -> Edges {
    let block = text.split_once("\n```edges\n").expect("a block fenced as `edges`").1.split_once("\n```").unwrap().0;
    block
        .lines()
        .map(|line| {
            let (from, to) = line.split_once("->").unwrap_or_else(|| panic!("no edge: `{line}`"));
            (from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn the_edges_are_those_of_the_architecture() {
    let documented = documented_edges(&std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap());
    let mut real = real_edges(&packages());
    // What tests the whole stands above it: it may see everything, and nothing sees it.
    for above in ["quorate-tests", "quorate-simulation"] {
        real.remove(above);
        assert!(real.values().all(|to| !to.contains(above)));
    }
    for (from, to) in &real {
        assert_eq!(Some(to), documented.get(from), "edges of {from}: the manifest against ARCHITECTURE.md");
    }
    assert_eq!(real.len(), documented.len(), "ARCHITECTURE.md names a crate that there is not");
}

/// Whoever checks the vault must not believe what the vault believes: not a line of its code, at any depth, not even in tests.
#[test]
fn the_auditor_shares_no_code_with_the_vault() {
    let tree = cargo(&["tree", "-p", "quorate-auditor", "-e", "all", "--prefix", "none", "--locked", "--offline"]);
    let linked: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let ours: Vec<_> = linked.iter().filter(|name| name.starts_with("quorate")).collect();
    assert_eq!(ours, [&"quorate-auditor"], "cargo tree -p quorate-auditor -e all");
    assert!(
        linked.contains("tokio-postgres") && linked.contains("mysql_async"),
        "cargo tree shows what is linked: {tree}"
    );
    let mut files = Vec::new();
    rust_files(&root().join("tests/auditor/src"), &mut files);
    assert!(files.len() > 4, "its sources are found");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for by in ["include!", "#[path = \"..", "use quorate"] {
            assert!(!text.contains(by), "{}: `{by}` brings code from elsewhere", file.display());
        }
    }
}

#[test]
fn a_changed_edge_shows() {
    let text = "words\n```edges\na -> b c\nb ->\n```\nwords";
    let edges = documented_edges(text);
    assert_eq!(edges["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert!(edges["b"].is_empty());
    let package = |kind: &str| {
        format!(
            r#"[{{"name": "a", "dependencies": [{{"name": "b", "kind": {kind}}}]}}, {{"name": "b", "dependencies": []}}]"#
        )
    };
    let edges_of = |kind| real_edges(&serde_json::from_str::<Vec<Value>>(&package(kind)).unwrap());
    assert_eq!(edges_of("null")["a"].len(), 1);
    assert!(edges_of(r#""dev""#)["a"].is_empty(), "what only tests need is no edge");
}

#[test]
fn nothing_impure_reaches_the_pure_crates() {
    for name in PURE {
        let package = format!("quorate-{name}");
        let tree = cargo(&["tree", "-p", &package, "-e", "normal", "--prefix", "none", "--locked", "--offline"]);
        let linked: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(linked.contains("rand_core") && linked.len() > 20, "cargo tree shows what is linked: {tree}");
        for impure in IMPURE {
            assert!(
                !linked.contains(impure),
                "{package} links {impure}: cargo tree -p {package} -e normal -i {impure}"
            );
        }
    }
}

#[test]
fn the_pure_crates_ask_for_no_clock_and_no_randomness() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        if !PURE.iter().any(|pure| name == format!("quorate-{pure}")) {
            continue;
        }
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|d| is_normal(d)) {
            let to = dependency["name"].as_str().unwrap();
            assert!(!NEVER_NAMED.contains(&to), "{name} depends on {to}");
        }
    }
    for name in PURE {
        let mut files = Vec::new();
        rust_files(&root().join("crates").join(name).join("src"), &mut files);
        assert!(files.len() > 3, "the sources of {name} are found");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let hashed = if *name == "authz" { &[] } else { NEVER_SAID_OF_STATE };
            if let Some((line, said)) = first_line_with(&text, NEVER_SAID.iter().chain(hashed)) {
                panic!("{}:{line}: a pure crate says `{said}`", file.display());
            }
        }
    }
}

/// The first line of product code that says what a pure crate may not.
fn first_line_with<'a>(text: &str, words: impl Iterator<Item = &'a &'a str> + Clone) -> Option<(usize, &'a str)> {
    let product = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate();
    let code = product.filter(|(_, line)| !line.trim_start().starts_with("//"));
    for (at, line) in code {
        if let Some(said) = words.clone().find(|word| line.contains(**word)) {
            return Some((at + 1, said));
        }
    }
    None
}

#[test]
fn impure_code_is_found() {
    let found = |text| first_line_with(text, NEVER_SAID.iter());
    assert_eq!(found("use a;\nlet t = SystemTime::now();"), Some((2, "SystemTime")));
    assert_eq!(found("// SystemTime\n#[cfg(test)]\nuse std::fs;"), None);
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_none_or(|name| name != "tests.rs")
        {
            found.push(path);
        }
    }
}

/// Fakes and failpoints are for tests: no manifest turns them on for a binary.
#[test]
fn no_binary_is_built_with_fakes_or_failpoints() {
    let packages = packages();
    let mut seen = 0;
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let features = package["features"].as_object().unwrap();
        seen += usize::from(features.contains_key("testing") || features.contains_key("failpoints"));
        // A default feature is on wherever nobody thinks of it: the binary has one, for people whose fragment lives in an HSM.
        let on = features.get("default").map_or_else(Vec::new, |on| on.as_array().unwrap().clone());
        let allowed = if name == "quorate" { vec![serde_json::json!("pkcs11")] } else { Vec::new() };
        assert_eq!(on, allowed, "{name} has other default features");
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|d| is_normal(d)) {
            for feature in dependency["features"].as_array().unwrap() {
                let feature = feature.as_str().unwrap();
                assert!(
                    !matches!(feature, "testing" | "failpoints"),
                    "{name} turns on {feature} of {}",
                    dependency["name"]
                );
            }
        }
    }
    assert!(seen >= 3, "the features that this is about exist");
}
