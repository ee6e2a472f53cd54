//! `quorate keyring create`: has the members make the cluster's keys, tries them, and pins them.
//!
//! The members do it among themselves; this command begins it, shows how it goes, and believes nothing before t members say
//! the same and a trial has shown that every t of them can open, and what they open is right.

use crate::connection::Connection;
use crate::failure::Stop;
use crate::operator::Operator;
use crate::output::{Format, progress};
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use quorate_api::client::{Administrators, Client, CustomerSource, PinnedMount, Profile};
use quorate_api::status::{EXISTS, Failure};
use quorate_api::vault::ReadStatusReply;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_server::env::Env;
use quorate_state::change::Change;
use quorate_state::ids::{KeyringId, MemberIndex, SessionId, hex};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often to look, for each member: every look is a decision of each of them, which it records and syncs.
const LOOK: Duration = Duration::from_millis(80);
/// How long a leader may take to be found.
const LEADER: Duration = Duration::from_secs(120);
/// How long one ceremony may take.
const CEREMONY: Duration = Duration::from_secs(300);
/// Where the trial is made.
const NAMESPACE: &str = "default";
const MOUNT: &str = "app";

/// `quorate keyring`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make both keyrings, try them, and pin them in cluster.toml. Members must be running. Can be repeated.
    Create {
        /// The operator's folder.
        #[arg(long, value_name = "FOLDER")]
        operator: PathBuf,
    },
}

/// Runs `quorate keyring`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    let Command::Create { operator } = command;
    let profile = create(&Operator(operator.clone()), connection, passphrases).await?;
    let rings: Vec<_> =
        profile.keyrings.iter().map(|k| json!({ "id": hex(&k.id()), "class": k.class.to_string() })).collect();
    output.show(&json!({ "keyrings": rings, "mounts": ["default/app"] }), || {
        let mut text = String::new();
        for ring in &profile.keyrings {
            text.push_str(&format!("keyring {} class {}\n", hex(&ring.id()), ring.class));
        }
        let path = operator.join("cluster.toml");
        text.push_str(&format!("both are pinned in {}: give it to every client\n", path.display()));
        text
    })
}

/// Makes what is missing of the two keyrings, tries them, and pins them. Returns the new profile.
pub(crate) async fn create(
    operator: &Operator,
    connection: &Connection,
    passphrases: &Passphrases,
) -> anyhow::Result<Profile> {
    // The operator's own: what the environment names may be anybody's.
    let mut connection = connection.clone();
    connection.identity = Some(operator.file("admin.pem"));
    connection.profile = Some(operator.file("cluster.toml"));
    let administrators = operator.administrators(passphrases)?;
    let keys: Vec<&SigningKey> = administrators.iter().collect();
    let mut profile = operator.profile()?;
    let client = connection.connect(profile.clone(), CustomerSource::None)?;
    wait_for_leader(&client).await?;
    for class in [KeyringClass::Cluster, KeyringClass::Customer] {
        if profile.keyrings.iter().any(|k| k.class == class) {
            progress(format_args!("a keyring of class {class} is pinned already"));
            continue;
        }
        let made = agreed(&client, &client.status().await, |status| key_of_class(status, class))?;
        if let Some(y) = made {
            // An earlier run did not get as far as pinning it.
            progress(format_args!("the members have made a keyring of class {class} already"));
            profile.keyrings.push(KeyringPublic { class, y });
            continue;
        }
        let authority_version = client.policies().await?.authority_version;
        let by = Administrators { keys: &keys, authority_version };
        let session = client.begin_key_generation(class, &by).await?;
        profile.keyrings.push(ceremony(&client, &session, class).await?);
    }
    let tried = connection.connect(profile.clone(), CustomerSource::None)?;
    let ring = profile.keyrings.iter().find(|k| k.class == KeyringClass::Cluster).context("no keyring was made")?;
    let keyring = KeyringId(ring.id());
    make_mount(&tried, keyring).await?;
    trial(&tried, &connection, &keys).await?;
    if !profile.mounts.iter().any(|m| m.namespace == NAMESPACE && m.mount == MOUNT) {
        profile.mounts.push(PinnedMount {
            namespace: NAMESPACE.to_owned(),
            mount: MOUNT.to_owned(),
            keyring: keyring.to_string(),
            customer_keys: Vec::new(),
        });
    }
    operator.save_profile(&profile)?;
    Ok(profile)
}

fn look(client: &Client) -> Duration {
    LOOK * u32::try_from(client.profile().members.len()).unwrap_or(1)
}

/// Waits until t members name the same leader.
pub(crate) async fn wait_for_leader(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEADER;
    let mut told = false;
    loop {
        let answers = client.status().await;
        let threshold = usize::from(client.profile().threshold);
        let up: Vec<&ReadStatusReply> = answers.iter().filter_map(|(_, a)| a.as_ref().ok()).collect();
        let leader = up.iter().any(|s| s.leader > 0 && up.iter().filter(|o| o.leader == s.leader).count() >= threshold);
        if leader {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let failed = answers.iter().find_map(|(_, a)| a.as_ref().err()).map(ToString::to_string);
            let message = format!(
                "{} of {} members answer, and they name no leader: {}",
                up.len(),
                answers.len(),
                failed.unwrap_or_default()
            );
            return Err(Stop::refused("no_leader", message, "start the members, and look at their logs"));
        }
        if !told {
            progress("waiting for the members to have a leader");
            told = true;
        }
        sleep(look(client)).await;
    }
}

/// Shows how a ceremony goes until it is over. The key is what t members say it is.
async fn ceremony(client: &Client, session: &SessionId, class: KeyringClass) -> anyhow::Result<KeyringPublic> {
    let deadline = Instant::now() + CEREMONY;
    let mut shown = String::new();
    loop {
        let answers = client.status().await;
        let best = answers.iter().filter_map(|(_, a)| a.as_ref().ok()).max_by_key(|s| s.applied);
        let now = best.and_then(|s| s.ceremonies.iter().find(|c| c.session == session.0));
        if let Some(c) = now {
            let names = |indexes: &[u32]| names(client.profile(), indexes);
            let awaited =
                if c.awaited.is_empty() { String::new() } else { format!(", waiting for {}", names(&c.awaited)) };
            let faults = c.faults.iter().map(|f| format!("{} {}", names(&[f.member]), f.what)).collect::<Vec<_>>();
            let culprits = if faults.is_empty() { String::new() } else { format!(": {}", faults.join("; ")) };
            let line = format!("keyring of class {class}: {}{awaited}{culprits}", c.phase);
            if line != shown {
                progress(&line);
                shown = line;
            }
            if c.phase == "aborted" {
                let message = format!("the key ceremony was given up{culprits}");
                return Err(Stop::refused(
                    "ceremony",
                    message,
                    "look at the logs of the members named, and run this again",
                ));
            }
        }
        if let Some(y) = agreed(client, &answers, |status| key_of(status, session, class))? {
            return Ok(KeyringPublic { class, y });
        }
        if Instant::now() >= deadline {
            let message = format!("the key ceremony did not end in {} s ({shown})", CEREMONY.as_secs());
            return Err(Stop::refused("ceremony", message, "every member must be up for it; look at `quorate status`"));
        }
        sleep(look(client)).await;
    }
}

type Answers = [(MemberIndex, Result<ReadStatusReply, Failure>)];

/// The key that t members name, if none names another.
fn agreed(
    client: &Client,
    answers: &Answers,
    pick: impl Fn(&ReadStatusReply) -> Option<[u8; 32]>,
) -> anyhow::Result<Option<[u8; 32]>> {
    let named: Vec<[u8; 32]> = answers.iter().filter_map(|(_, answer)| pick(answer.as_ref().ok()?)).collect();
    let Some(first) = named.first() else { return Ok(None) };
    if named.iter().any(|other| other != first) {
        let message = "members name different keys";
        return Err(Stop::refused("disagreement", message, "compare `quorate status` of the members; do not go on"));
    }
    Ok((named.len() >= usize::from(client.profile().threshold)).then_some(*first))
}

/// The public key of a member's first keyring of a class.
fn key_of_class(status: &ReadStatusReply, class: KeyringClass) -> Option<[u8; 32]> {
    let ring = status.keyrings.iter().filter(|k| k.class == class.to_string()).min_by(|a, b| a.id.cmp(&b.id))?;
    own_id(&ring.y, &ring.id)
}

/// The public key that a member has for a ceremony that is over. Its id must be its hash.
fn key_of(status: &ReadStatusReply, session: &SessionId, class: KeyringClass) -> Option<[u8; 32]> {
    let done = status.ceremonies.iter().find(|c| c.session == session.0 && c.phase == "active")?;
    let ring = status.keyrings.iter().find(|k| k.id == done.keyring_id && k.class == class.to_string())?;
    own_id(&ring.y, &ring.id)
}

fn own_id(y: &[u8], id: &[u8]) -> Option<[u8; 32]> {
    let y = <[u8; 32]>::try_from(y).ok()?;
    (quorate_crypto::keyring::keyring_id(&y).as_slice() == id).then_some(y)
}

fn names(profile: &Profile, indexes: &[u32]) -> String {
    let name = |index: &u32| {
        let member = MemberIndex::try_from(*index).ok().and_then(|index| profile.member(index));
        member.map_or_else(|| index.to_string(), |m| m.name.clone())
    };
    indexes.iter().map(name).collect::<Vec<_>>().join(", ")
}

async fn make_mount(client: &Client, keyring: KeyringId) -> Result<(), Failure> {
    let unless_exists = |result: Result<_, Failure>| match result {
        Err(failure) if failure.code != EXISTS => Err(failure),
        _ => Ok(()),
    };
    unless_exists(client.create_namespace(NAMESPACE).await.map(drop))?;
    unless_exists(client.create_mount(NAMESPACE, MOUNT, keyring, &[]).await.map(drop))
}

/// Seals a random value and has t members open it, in as many sets as show that every t members can. Reading takes a policy, which stands for as long as the trial.
async fn trial(client: &Client, connection: &Connection, keys: &[&SigningKey]) -> anyhow::Result<()> {
    let env = Env::system();
    let (tag, value): ([u8; 8], [u8; 32]) = (env.random(), env.random());
    let path = format!("{MOUNT}/keyring-trial-{}", hex(&tag));
    let principal = client.identity().principal();
    let text = format!(
        "permit (\n    principal == Quorate::Workload::\"{principal}\",\n    action == Quorate::Action::\"secret:open\",\n    \
         resource == Quorate::Secret::\"{NAMESPACE}:{path}\"\n);\n"
    );
    let policy = "keyring-trial";
    progress("trial: sealing a random value, and opening it through sets of members that leave no share out");
    let stored = client.put(NAMESPACE, &path, &value, Some(0)).await?;
    client.administer_now(Change::PutPolicy { name: policy.to_owned(), text }, keys).await?;
    let tried = open_through_sets(client.profile(), connection, &path, &value).await;
    // Whatever came of it, nothing of it stays.
    client.administer_now(Change::DeletePolicy { name: policy.to_owned() }, keys).await?;
    client.destroy(NAMESPACE, &path, &[stored.number]).await?;
    let sets = tried?;
    progress(format_args!("trial: {sets} sets of {} members each opened it", client.profile().threshold));
    Ok(())
}

async fn open_through_sets(
    profile: &Profile,
    connection: &Connection,
    path: &str,
    value: &[u8],
) -> anyhow::Result<usize> {
    let sets = enough_sets(&profile.members, usize::from(profile.threshold));
    let count = sets.len();
    for members in sets {
        let who = members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        let some = Profile { members, via: None, ..profile.clone() };
        let client = connection.connect(some, CustomerSource::None)?;
        let opened = client.get(NAMESPACE, path, None).await;
        let opened = opened.with_context(|| format!("the trial of the new keyring failed with {who}"))?;
        if opened.plaintext.expose() != value {
            let message = format!("{who} opened the trial to another value");
            return Err(Stop::refused("does_not_open", message, "do not use this keyring; report it"));
        }
    }
    Ok(count)
}

/// The sets of `t` neighbours: 1 to t, 2 to t + 1, and so on.
///
/// Where they all open the same, every `t` open the same. Shares of t members fix one polynomial of degree t - 1. Two neighbouring
/// sets share t - 1 of their members and the opened value, which is t points: so their polynomials are one, and all shares lie on it.
/// Of nine members there would be 126 sets of five; five of them say as much.
fn enough_sets<T: Clone>(members: &[T], t: usize) -> Vec<Vec<T>> {
    members.windows(t.max(1)).map(<[T]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::vault::{Ceremony, Keyring};
    use quorate_state::genesis::{SIZES, majority};

    #[test]
    fn a_trial_of_few_sets_finds_every_wrong_share() {
        assert_eq!(enough_sets(&[1, 2, 3], 2), [[1, 2], [2, 3]]);
        for n in SIZES {
            let members: Vec<usize> = (1..=n).collect();
            let t = usize::from(majority(n));
            let sets = enough_sets(&members, t);
            assert_eq!(sets.len(), n - t + 1);
            // Neighbours differ in one member each, and every member is in some set: so no wrong share is left out.
            assert!(sets.windows(2).all(|two| two[0].iter().filter(|m| two[1].contains(m)).count() == t - 1));
            assert!(members.iter().all(|m| sets.iter().any(|set| set.contains(m))));
        }
        assert!(enough_sets(&[1, 2], 3).is_empty());
    }

    #[test]
    fn a_key_counts_only_when_it_is_active_and_has_its_own_id() {
        let y = [7; 32];
        let id = quorate_crypto::keyring::keyring_id(&y).to_vec();
        let (session, class) = (SessionId([1; 32]), KeyringClass::Cluster);
        let status = |phase: &str, y: [u8; 32], class: &str| ReadStatusReply {
            ceremonies: vec![Ceremony {
                session: vec![1; 32],
                phase: phase.to_owned(),
                keyring_id: id.clone(),
                ..Ceremony::default()
            }],
            keyrings: vec![Keyring { id: id.clone(), class: class.to_owned(), y: y.to_vec(), ..Keyring::default() }],
            ..ReadStatusReply::default()
        };
        assert_eq!(key_of(&status("active", y, "cluster"), &session, class), Some(y));
        assert_eq!(key_of(&status("ready", y, "cluster"), &session, class), None);
        assert_eq!(key_of(&status("active", [8; 32], "cluster"), &session, class), None);
        assert_eq!(key_of(&status("active", y, "customer"), &session, class), None);
        assert_eq!(key_of(&status("active", y, "cluster"), &SessionId([2; 32]), class), None);
    }
}
