//! `quorate client-ca replace`: another CA of callers, by the administrators' word alone.
//!
//! The way back when every certificate of a caller has ended, the CA's own among them, and the way to get rid of a CA whose key is not
//! the operator's alone any more. It calls as an administrator: no client's certificate is needed, and no policy is asked.

use crate::authority::{Authority, CA_LIFE};
use crate::connection::Connection;
use crate::duration::{self, instant};
use crate::effect::{Effect, Effective};
use crate::files;
use crate::operator::{self, CLIENT_CA, Operator, open_administrators};
use crate::output::{Format, progress};
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use quorate_api::client::{CustomerSource, Identity, certificates};
use quorate_authz::root_end;
use quorate_crypto::identity::SigningKey;
use quorate_server::env::Env;
use quorate_state::ids::Millis;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `quorate client-ca`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a new CA and have the members admit its callers, and no others. Can be repeated when it was interrupted.
    Replace {
        /// The operator's folder.
        #[arg(long, value_name = "FOLDER")]
        operator: PathBuf,
        /// An administrator's sealed key, once for each that must sign; those in the operator's folder otherwise.
        #[arg(long = "administrator", value_name = "FILE")]
        administrators: Vec<PathBuf>,
        /// How long the new CA is to be valid; ten years otherwise.
        #[arg(long, value_parser = duration::parse)]
        ttl: Option<Millis>,
        /// Go on admitting callers of the present CA, until its end or the next replacement.
        #[arg(long)]
        keep_old: bool,
        #[command(flatten)]
        effect: Effect,
    },
}

/// Runs `quorate client-ca`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    let Command::Replace { operator, administrators, ttl, keep_old, effect } = command;
    let operator = Operator(operator);
    let env = Env::system();
    let place = Place::of(&operator, env.clock.wall());
    let mut reached = Ok(None);
    if !place.is_installed() {
        let keys = match administrators.as_slice() {
            [] => operator.administrators(passphrases)?,
            files => open_administrators(files, passphrases)?,
        };
        let authority = place.made(&operator, ttl.unwrap_or(CA_LIFE), passphrases, &env)?;
        let mut roots = vec![authority.certificate().to_vec()];
        if keep_old {
            // One that has ended admits nobody, and the members do not take it.
            let old = certificate(&operator.file(&pem()))?;
            roots.extend(old.filter(|der| root_end(der).is_some_and(|end| end > env.clock.wall())));
        }
        // The members tell it to a caller of the new CA: who signs for this change is no client.
        let asking = if effect.is_awaited() { Some(asking(&operator, &authority, &env)?) } else { None };
        reached = install(&operator, connection, roots, &keys, (&effect, asking)).await?.map(Some);
    }
    place.finish()?;
    // Only now: whether or not it holds everywhere yet, it is committed, and the folder had to follow.
    let effective = reached?;
    let path = operator.file(&pem());
    let ends = certificate(&path)?.and_then(|der| root_end(&der)).unwrap_or(0);
    let document = json!({
        "client_ca": path, "not_after": ends, "effect": effective.as_ref().map(Effective::document),
    });
    output.show(&document, || {
        let folder = operator.0.display();
        if let Some(effective) = &effective {
            progress(format_args!("the change is {effective}"));
        }
        format!(
            "the members admit callers of the new CA, which is valid until {}\n\n\
             next: a new certificate for every caller, first of all your own:\n  \
             quorate identity renew {folder}/admin.pem --operator {folder}\n",
            instant(ends)
        )
    })
}

/// Has the members take the new roots. Each of t members checks the administrators' signatures itself.
async fn install(
    operator: &Operator,
    connection: &Connection,
    roots: Vec<Vec<u8>>,
    keys: &[SigningKey],
    (effect, asking): (&Effect, Option<Identity>),
) -> anyhow::Result<anyhow::Result<Effective>> {
    let bearer = keys.first().context("no administrator's key is given")?;
    let identity = Identity::administrator(SigningKey::from_seed(&bearer.seed()))?;
    let profile = match &connection.profile {
        Some(_) => connection.profile()?,
        None => operator.profile()?,
    };
    let client = connection.connect_as(identity, profile.clone(), CustomerSource::None)?;
    let keys: Vec<&SigningKey> = keys.iter().collect();
    let done = client.set_client_roots(roots, &keys).await?;
    progress(format_args!("the members admit by the new CA from log index {} on", done.index));
    let client = match asking {
        Some(identity) => connection.connect_as(identity, profile, CustomerSource::None)?,
        None => client,
    };
    Ok(effect.seen_by(&client, &done).await)
}

/// A caller for a few minutes.
fn asking(operator: &Operator, authority: &Authority, env: &Env) -> anyhow::Result<Identity> {
    const LIFE: Millis = 600_000;
    let trust_domain = operator.genesis()?.client_roots.trust_domain;
    let id = operator::identity(&trust_domain, "operator/client-ca-replace")?;
    Ok(Identity::from_pem(authority.issue(&id, LIFE, env)?.as_bytes())?)
}

/// The first certificate of a PEM file; nothing where there is no file.
fn certificate(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    if !path.exists() {
        return Ok(None);
    }
    let found = certificates(&files::read(path)?).with_context(|| path.display().to_string())?;
    Ok(found.into_iter().next())
}

/// Where the new CA lies until the members have it, and where the old one goes then. Each step can be repeated.
struct Place {
    present: PathBuf,
    next: PathBuf,
    old: PathBuf,
}

impl Place {
    fn of(operator: &Operator, now: Millis) -> Self {
        let next = operator.file(&format!("{CLIENT_CA}-next"));
        Self { present: operator.0.clone(), next, old: operator.file(&format!("{CLIENT_CA}-until-{}", now / 1_000)) }
    }

    /// Whether an earlier run got as far as the members, and was interrupted then: the key goes first.
    fn is_installed(&self) -> bool {
        self.next.join(pem()).exists() && !self.next.join(key()).exists()
    }

    /// The new CA: that of an earlier run, or a fresh one.
    fn made(
        &self,
        operator: &Operator,
        life: Millis,
        passphrases: &Passphrases,
        env: &Env,
    ) -> anyhow::Result<Authority> {
        let trust_domain = operator.genesis()?.client_roots.trust_domain;
        if self.next.join(pem()).exists() {
            progress("a new CA is there already, of a run that was interrupted");
            return Authority::open(&self.next, CLIENT_CA, &trust_domain, passphrases, env);
        }
        if self.next.exists() {
            // Without a certificate nobody has ever heard of that key.
            std::fs::remove_dir_all(&self.next).with_context(|| self.next.display().to_string())?;
        }
        files::private_folder(&self.next)?;
        Authority::create(&self.next, CLIENT_CA, &trust_domain, life, passphrases, env)
    }

    /// Puts the new CA in the place of the old one, which is kept: what it sealed and signed may have to be looked at.
    fn finish(&self) -> anyhow::Result<()> {
        for file in [key(), pem()] {
            let (present, next) = (self.present.join(&file), self.next.join(&file));
            if !next.exists() {
                continue;
            }
            if present.exists() {
                files::private_folder(&self.old)?;
                files::rename(&present, &self.old.join(&file))?;
            }
            files::rename(&next, &present)?;
        }
        std::fs::remove_dir(&self.next).with_context(|| self.next.display().to_string())
    }
}

fn key() -> String {
    format!("{CLIENT_CA}.key")
}

fn pem() -> String {
    format!("{CLIENT_CA}.pem")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::tests::begin;

    #[test]
    fn a_replacement_that_was_interrupted_anywhere_goes_on_with_the_same_ca() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let (operator, _) = begin(folder.path()).create(&passphrases, &env).unwrap();
        let place = Place::of(&operator, 7_000);
        let read = |path: PathBuf| std::fs::read(path).unwrap();
        let old = read(operator.file(&pem()));

        // Before the certificate: the key is nobody's.
        files::private_folder(&place.next).unwrap();
        std::fs::write(place.next.join(key()), b"half a key").unwrap();
        let made = place.made(&operator, CA_LIFE, &passphrases, &env).unwrap().certificate().to_vec();
        // Before the members had it, or after, and nobody knows: the same is sent again.
        assert!(!place.is_installed());
        assert_eq!(place.made(&operator, CA_LIFE, &passphrases, &env).unwrap().certificate(), made);
        // After the key had moved.
        files::private_folder(&place.old).unwrap();
        std::fs::rename(operator.file(&key()), place.old.join(key())).unwrap();
        std::fs::rename(place.next.join(key()), operator.file(&key())).unwrap();
        assert!(place.is_installed(), "the members have it: nobody has to sign again");
        place.finish().unwrap();
        assert_eq!(certificate(&operator.file(&pem())).unwrap(), Some(made), "the new one is in place");
        assert_eq!(read(place.old.join(pem())), old, "the old one is kept");
        assert!(!place.next.exists());
        operator.issue("app/x", 60_000, &passphrases, &env).expect("key and certificate belong together");
    }
}
