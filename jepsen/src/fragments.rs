//! Every set of key fragments that lies on the members' disks, handed to the routine that clients open with: fewer than t open nothing, nor do
//! t or more that are not all of one key; t of one key do. The fragments are read as a thief of all disks would.

use crate::history::{Event, Outcome};
use crate::lab::{HOME, Lab, NAMESPACE};
use anyhow::Context as _;
use quorate_crypto::keyfile::{Protection, open_file};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{Header, ObjectTemplate, Sealed, WrapTemplate, open, seal};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use rand_core::UnwrapErr;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Fragments by the key generation that made them.
type Fragments = BTreeMap<String, Vec<KeyShare>>;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// Sets of fewer than t, and larger ones of several keys: none may open.
    few: u64,
    mixed: u64,
    /// Sets of t or more of one key: all have to open.
    enough: u64,
    violations: Vec<String>,
}

/// Tries all sets of a cluster.
pub(crate) fn judge(lab: &Lab) -> anyhow::Result<Event> {
    let mut fragments = Fragments::new();
    for node in &lab.nodes {
        let seal = fs::read(Path::new(HOME).join(format!("{}.seal", node.name)))?;
        let seal = Secret::from_slice(&seal).context("a seal key of another length")?;
        for entry in fs::read_dir(node.disk.path().join("data/slots"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "share") {
                continue;
            }
            let bytes = open_file("share", &fs::read(&path)?, &Protection::RawKey(&seal)).context("a share")?;
            let session = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            fragments.entry(session).or_default().push(KeyShare::from_secret(bytes.expose())?);
        }
    }
    let keyring = lab.profile.keyrings.iter().find(|k| k.class == KeyringClass::Cluster).context("no keyring")?;
    let found = try_all(&fragments, keyring, usize::from(lab.profile.threshold))?;
    let outcome = match (found.violations.is_empty(), found.enough) {
        (false, _) => Outcome::Violated,
        (_, 0) => Outcome::Void,
        _ => Outcome::Holds,
    };
    let numbers = [
        ("sets of fewer than t that open nothing", found.few),
        ("mixed sets that open nothing", found.mixed),
        ("sets of t or more of one key that open", found.enough),
    ];
    let numbers = numbers.into_iter().map(|(what, number)| (what.to_owned(), number)).collect();
    let by = "F1: fewer than t fragments, or fragments of several keys, open nothing".to_owned();
    Ok(Event::Judged { by, outcome, said: found.violations.join("; "), numbers })
}

/// Tries each choice of at most one fragment of each member.
fn try_all(fragments: &Fragments, keyring: &KeyringPublic, threshold: usize) -> anyhow::Result<Findings> {
    let text = b"what nobody may learn alone";
    let object = ObjectTemplate {
        cluster: [1; 32],
        secret_id: [2; 16],
        version_id: [3; 16],
        created: 1,
        writer_id: "spiffe://chaos.quorate/app/thief".to_owned(),
    };
    let wrap = WrapTemplate {
        namespace: NAMESPACE.to_owned(),
        path: "app/chaos/trial".to_owned(),
        wrap_no: 0,
        wrapped_by: object.writer_id.clone(),
    };
    let sealed = seal(text, &object, &wrap, keyring, &[], &mut UnwrapErr(getrandom::SysRng));
    let Sealed { header, payload } = sealed.map_err(|why| anyhow::anyhow!("sealing a trial: {why}"))?;
    let header = Header::decode(&header).map_err(|why| anyhow::anyhow!("a header of our own: {why}"))?;
    let mut members: BTreeMap<u8, Vec<(&str, [u8; 32])>> = BTreeMap::new();
    for (session, shares) in fragments {
        for share in shares {
            let part = partial(share, &header.r()).map_err(|_| anyhow::anyhow!("a part of a trial"))?;
            members.entry(share.index()).or_default().push((session, part));
        }
    }
    let opens = |set: &[(u8, &str, [u8; 32])]| {
        let parts: Vec<(u8, [u8; 32])> = set.iter().map(|(index, _, part)| (*index, *part)).collect();
        let point = combine(&parts).ok();
        point
            .and_then(|point| open(&header, &payload, &keyring.y, &point, &[]).ok())
            .is_some_and(|p| p.expose() == text)
    };
    let mut sets: Vec<Vec<(u8, &str, [u8; 32])>> = vec![Vec::new()];
    for (index, parts) in &members {
        let more: Vec<_> = sets
            .iter()
            .flat_map(|set| parts.iter().map(|(session, part)| [set.as_slice(), &[(*index, *session, *part)]].concat()))
            .collect();
        sets.extend(more);
    }
    let mut found = Findings::default();
    // The key generation whose fragments are those of this keyring: of the others no set may open.
    let own = fragments.keys().find(|session| {
        let whole: Vec<_> = sets.iter().filter(|set| set.len() >= threshold).collect();
        whole.iter().any(|set| set.iter().all(|(_, of, _)| of == *session) && opens(set))
    });
    for set in sets.iter().filter(|set| !set.is_empty()) {
        let one = set.iter().all(|(_, session, _)| Some(*session) == own.map(String::as_str));
        let may = one && set.len() >= threshold;
        *match (may, set.len() < threshold) {
            (true, _) => &mut found.enough,
            (_, true) => &mut found.few,
            _ => &mut found.mixed,
        } += 1;
        if opens(set) != may {
            let who: Vec<String> = set.iter().map(|(index, session, _)| format!("{index} of {session}")).collect();
            found.violations.push(format!("{} {}", who.join(", "), if may { "do not open" } else { "open" }));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fragments of a line through `key`, at 1 to 3: any two of them are enough. Small numbers, least significant byte first.
    fn line(key: u8, slope: u8) -> Vec<KeyShare> {
        let share = |index: u8| KeyShare::new(index, &Secret::init_with(|s| s[0] = key + slope * index)).unwrap();
        (1..=3).map(share).collect()
    }

    fn keyring(key: u8) -> KeyringPublic {
        let y = KeyShare::new(1, &Secret::init_with(|s| s[0] = key)).unwrap().public_share();
        KeyringPublic { class: KeyringClass::Cluster, y }
    }

    #[test]
    fn two_of_three_open_and_fewer_or_mixed_ones_do_not() {
        let all = Fragments::from([("a".to_owned(), line(5, 7)), ("b".to_owned(), line(9, 4))]);
        let found = try_all(&all, &keyring(5), 2).unwrap();
        // 3 members, each with none, one of a or one of b: 27 sets, of which the empty one is not tried.
        let expected = Findings { few: 6, mixed: 16, enough: 4, violations: Vec::new() };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_key_that_takes_fewer_than_it_should_is_found() {
        let found = try_all(&Fragments::from([("a".to_owned(), line(5, 7))]), &keyring(5), 3).unwrap();
        let pairs = ["1 of a, 2 of a open", "1 of a, 3 of a open", "2 of a, 3 of a open"];
        assert!(pairs.iter().all(|pair| found.violations.iter().any(|v| v == pair)), "{found:?}");
        assert_eq!((found.enough, found.violations.len()), (1, 3), "{found:?}");
    }
}
