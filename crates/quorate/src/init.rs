//! `quorate init`: the beginning of a cluster, made by its operator from the members' cards. No node is asked or needed.

use crate::authority::{Authority, CA_LIFE};
use crate::failure::Stop;
use crate::files;
use crate::member::Card;
use crate::operator::{ADMINISTRATOR, CLIENT_CA, Operator, identity};
use crate::output::{Format, progress};
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use quorate_api::client::{Member as PinnedMember, Profile};
use quorate_authz::initial::initial_policies;
use quorate_crypto::identity::SigningKey;
use quorate_server::env::Env;
use quorate_state::genesis::{Administrators, ClientRoots, Genesis, Member, Roster, SIZES, majority};
use quorate_state::ids::{Millis, check_label};
use std::path::PathBuf;

/// How long the first identity is valid: long enough to set the cluster up.
const FIRST_IDENTITY: Millis = 30 * 86_400_000;

/// `quorate init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// A name for people: a-z, 0-9, - and _.
    #[arg(long)]
    pub(crate) name: String,
    /// The trust domain of callers' SPIFFE ids, as in example.org.
    #[arg(long)]
    pub(crate) trust_domain: String,
    /// A member's card, from `quorate member create`; 3, 5, 7 or 9 of them, in the order of their indexes.
    #[arg(long = "member", value_name = "FILE", required = true)]
    pub(crate) members: Vec<PathBuf>,
    /// The operator's folder to make.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// How many administrators there are to be.
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) administrators: u8,
    /// How many of them must sign what changes the rules.
    #[arg(long, value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) needed: u8,
}

impl Init {
    /// Makes the folder. Everything that can be wrong is found before anything is written.
    pub(crate) fn create(&self, passphrases: &Passphrases, env: &Env) -> anyhow::Result<(Operator, Genesis)> {
        check_label(&self.name).context("--name")?;
        let admin = identity(&self.trust_domain, "admin/first").context("--trust-domain")?;
        let policies = initial_policies(&self.trust_domain)?;
        let roster = self.roster()?;
        if self.needed > self.administrators {
            let message = format!("{} of {} administrators can never sign", self.needed, self.administrators);
            return Err(Stop::refused("invalid_argument", message, "let --needed be at most --administrators"));
        }
        if self.out.join("genesis.bin").exists() {
            let message = format!("{} holds a cluster already", self.out.display());
            return Err(Stop::refused("exists", message, "name a new folder with --out"));
        }
        let operator = Operator(self.out.clone());
        files::private_folder(&operator.0)?;

        let authority = Authority::create(&operator.0, CLIENT_CA, &self.trust_domain, CA_LIFE, passphrases, env)?;
        let keys = (1..=self.administrators)
            .map(|n| {
                let key = SigningKey::generate(&mut env.rng());
                let file = format!("{ADMINISTRATOR}-{n}.key");
                let sealed = passphrases.seal(ADMINISTRATOR, &file, key.seed().expose(), &mut env.rng())?;
                files::make(&operator.file(&file), &sealed, files::PRIVATE)?;
                Ok(key.verify_key().0)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;

        let genesis = Genesis {
            name: self.name.clone(),
            nonce: env.random(),
            created: env.clock.wall(),
            roster,
            administrators: Administrators { keys, needed: self.needed },
            client_roots: ClientRoots {
                certificates: vec![authority.certificate().to_vec()],
                trust_domain: self.trust_domain.clone(),
            },
            policies,
        };
        genesis.check()?;
        let pem = authority.issue(&admin, FIRST_IDENTITY, env)?;
        files::make(&operator.file("admin.pem"), pem.as_bytes(), files::PRIVATE)?;
        operator.save_profile(&profile(&genesis))?;
        // Last: its presence says that the folder is whole.
        files::make(&operator.file("genesis.bin"), &genesis.to_bytes(), files::PUBLIC)?;
        Ok((operator, genesis))
    }

    fn roster(&self) -> anyhow::Result<Roster> {
        let n = self.members.len();
        if !SIZES.contains(&n) {
            let message = format!("{n} members: a cluster has 3, 5, 7 or 9, of which 1, 2, 3 or 4 may be down");
            return Err(Stop::refused("invalid_argument", message, "give --member once for each card"));
        }
        let members = (1u8..)
            .zip(&self.members)
            .map(|(index, path)| {
                let card = Card::load(path)?;
                let key = card.key()?;
                let Card { name, peer_address, api_address, .. } = card;
                Ok(Member { name, index, key, raft_id: u64::from(index), peer_address, api_address })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Roster { number: 1, members, threshold: majority(n) })
    }
}

/// What clients pin of a new cluster: its keyrings come later.
fn profile(genesis: &Genesis) -> Profile {
    let members = genesis.roster.members.iter().map(|m| PinnedMember {
        index: m.index,
        name: m.name.clone(),
        key: m.key,
        api_address: m.api_address.clone(),
    });
    Profile {
        cluster: genesis.cluster(),
        threshold: genesis.roster.threshold,
        members: members.collect(),
        keyrings: Vec::new(),
        customer_keys: Vec::new(),
        mounts: Vec::new(),
        via: None,
    }
}

/// Runs `quorate init`.
pub(crate) fn run(init: &Init, passphrases: &Passphrases, output: Format) -> anyhow::Result<()> {
    if init.needed == 1 {
        progress("warning: one administrator alone can change every rule (--needed 1): for trying only");
    }
    let (operator, genesis) = init.create(passphrases, &Env::system())?;
    let cluster = genesis.cluster();
    let document = serde_json::json!({
        "cluster": cluster.to_string(),
        "threshold": genesis.roster.threshold,
        "genesis": operator.file("genesis.bin"),
        "profile": operator.file("cluster.toml"),
        "identity": operator.file("admin.pem"),
        "administrators": genesis.administrators.keys.len(),
        "needed": genesis.administrators.needed,
    });
    output.show(&document, || {
        let folder = operator.0.display();
        format!(
            "cluster {cluster}\n\n\
             in the node.toml of each member:\n  genesis = \"genesis.bin\"        # a copy of {folder}/genesis.bin\n  \
             cluster = \"{cluster}\"\n\n\
             next:\n  1. copy genesis.bin to the members and start them: quorate node --config node.toml\n  \
             2. make the keys:  quorate keyring create --operator {folder}\n  \
             3. take the administrator-N.key files apart: one for each person, none on a node\n"
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::failure::Told;
    use crate::member;
    use quorate_api::client::Identity;
    use quorate_authz::{Authority as Rules, Facts, authenticate};
    use quorate_state::change::{Kind, Resource};
    use std::path::Path;

    /// A folder with the cards of three members and a passphrase file.
    pub(crate) fn begin(folder: &Path) -> Init {
        begin_with(folder, 3)
    }

    /// The same with `n` members.
    fn begin_with(folder: &Path, n: u16) -> Init {
        let env = Env::system();
        std::fs::write(folder.join("passphrase"), "a passphrase\n").unwrap();
        let members = (1..=n).map(|n| {
            let card = folder.join(format!("n{n}.toml"));
            let create = member::Create {
                data_dir: folder.join(format!("n{n}")),
                seal_key: folder.join(format!("n{n}.seal")),
                name: format!("n{n}"),
                peer_address: format!("127.0.0.1:{}", 7000 + n),
                api_address: format!("127.0.0.1:{}", 7100 + n),
                card: card.clone(),
            };
            create.create(&env).unwrap();
            card
        });
        Init { members: members.collect(), ..begin_as(folder) }
    }

    /// What an operator says, without members.
    fn begin_as(folder: &Path) -> Init {
        Init {
            name: "demo".to_owned(),
            trust_domain: "example.org".to_owned(),
            members: Vec::new(),
            out: folder.join("operator"),
            administrators: 3,
            needed: 2,
        }
    }

    #[test]
    fn a_new_cluster_admits_its_first_administrator_and_nobody_else_yet() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let (operator, made) = begin(folder.path()).create(&passphrases, &env).unwrap();

        let genesis = operator.genesis().unwrap();
        assert_eq!(genesis.cluster(), made.cluster());
        assert_eq!(operator.profile().unwrap().cluster, made.cluster());
        assert_eq!((genesis.roster.threshold, genesis.administrators.needed), (2, 2));

        let may = |file: &str, kind, resource: &Resource| {
            let identity = Identity::load(&operator.file(file)).unwrap();
            let now = env.clock.wall();
            let principal = authenticate(identity.chain(), &genesis.client_roots, now).unwrap();
            let rules = Rules::compile(&genesis.policies).unwrap();
            rules.authorize(&principal, kind, resource, &Facts { now, lease: None }).is_ok()
        };
        let policy = Resource::Policy("p".to_owned());
        let secret = Resource::Secret { namespace: "default".to_owned(), path: "app/x".to_owned() };
        assert!(may("admin.pem", Kind::PutPolicy, &policy));
        assert!(!may("admin.pem", Kind::OpenSecret, &secret), "administration does not imply reading");

        let (id, pem) = operator.issue("app/billing", 60_000, &passphrases, &env).unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/app/billing");
        files::make(&operator.file("billing.pem"), pem.as_bytes(), files::PRIVATE).unwrap();
        assert!(!may("billing.pem", Kind::PutPolicy, &policy));
        assert!(may("billing.pem", Kind::ReadStatus, &Resource::Cluster));

        let identity = Identity::load(&operator.file("billing.pem")).unwrap();
        let later = env.clock.wall() + 62_000;
        assert!(authenticate(identity.chain(), &genesis.client_roots, later).is_err(), "the ttl ends it");
    }

    #[test]
    fn administrators_keys_are_those_of_the_genesis_and_need_the_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let (operator, genesis) = begin(folder.path()).create(&passphrases, &env).unwrap();
        let keys = operator.administrators(&passphrases).unwrap();
        assert_eq!(keys.len(), 2, "as many as it takes");
        assert!(keys.iter().all(|key| genesis.administrators.keys.contains(&key.verify_key().0)));

        std::fs::write(folder.path().join("wrong"), "another\n").unwrap();
        let wrong = Passphrases::file(&folder.path().join("wrong"));
        let told = Told::of(&operator.administrators(&wrong).unwrap_err()).text();
        assert!(told.starts_with("error[wrong_passphrase]:"), "{told}");
        let told = Told::of(&operator.issue("app/x", 1_000, &wrong, &env).unwrap_err()).text();
        assert!(told.contains("client-ca.key: wrong passphrase"), "{told}");

        for n in 1..=2 {
            std::fs::remove_file(operator.file(&format!("administrator-{n}.key"))).unwrap();
        }
        let told = Told::of(&operator.administrators(&passphrases).unwrap_err()).text();
        assert!(told.contains("1 of 2 administrators"), "{told}");
    }

    #[test]
    fn what_cannot_be_a_cluster_leaves_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let init = begin(folder.path());
        let refuse = |change: &dyn Fn(&mut Init)| {
            let mut init = Init {
                members: init.members.clone(),
                name: init.name.clone(),
                trust_domain: init.trust_domain.clone(),
                out: init.out.clone(),
                ..init
            };
            change(&mut init);
            assert!(init.create(&passphrases, &Env::system()).is_err());
            assert!(!init.out.exists());
        };
        refuse(&|init| drop(init.members.pop()));
        refuse(&|init| init.needed = 4);
        refuse(&|init| init.trust_domain = "Example".to_owned());
        refuse(&|init| init.name = "a b".to_owned());
    }

    #[test]
    fn a_cluster_has_three_five_seven_or_nine_members_and_their_majority_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let cards = begin_with(folder.path(), 11).members;
        for n in 1..=11 {
            let out = folder.path().join(format!("operator-{n}"));
            let init = Init { members: cards[..n].to_vec(), out: out.clone(), ..begin_as(folder.path()) };
            let made = init.create(&passphrases, &Env::system());
            if SIZES.contains(&n) {
                let (operator, genesis) = made.unwrap_or_else(|why| panic!("{n} members make a cluster: {why:#}"));
                assert_eq!(genesis.roster.members.len(), n);
                assert_eq!(usize::from(genesis.roster.threshold), n.div_ceil(2), "{n} members: the majority");
                assert_eq!(operator.profile().unwrap().threshold, genesis.roster.threshold, "{n} members: pinned too");
                assert_eq!(operator.genesis().unwrap().cluster(), genesis.cluster(), "{n} members: the file is taken");
            } else {
                let told = Told::of(&made.map(drop).unwrap_err()).text();
                assert!(told.starts_with("error[invalid_argument]:"), "{n} members: {told}");
                assert!(told.contains("3, 5, 7 or 9"), "{n} members: the message says what is possible: {told}");
                assert!(!out.exists(), "{n} members leave no folder");
            }
        }
    }

    #[test]
    fn a_cluster_is_not_made_twice_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let init = begin(folder.path());
        init.create(&passphrases, &Env::system()).unwrap();
        let told = Told::of(&init.create(&passphrases, &Env::system()).unwrap_err()).text();
        assert!(told.starts_with("error[exists]:"), "{told}");
    }
}
