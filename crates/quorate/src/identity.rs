//! `quorate identity`: callers' certificates, made and renewed from the sealed CA; and ending an identity everywhere.

use crate::authority::SKEW;
use crate::connection::{Connection, load_identity};
use crate::duration::{self, instant};
use crate::effect::Effect;
use crate::files;
use crate::operator::Operator;
use crate::output::Format;
use crate::passphrase::Passphrases;
use crate::policy::Signers;
use anyhow::Context as _;
use quorate_server::env::Env;
use quorate_state::change::Change;
use quorate_state::ids::Millis;
use quorate_state::outcome::Outcome;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `quorate identity`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Issue a certificate from the operator's sealed CA.
    Issue {
        /// The operator's folder.
        #[arg(long, value_name = "FOLDER")]
        operator: PathBuf,
        /// The path of the SPIFFE id, as in app/billing.
        #[arg(long)]
        name: String,
        /// How long it is to be valid.
        #[arg(long, default_value = "24h", value_parser = duration::parse)]
        ttl: Millis,
        /// Where to write the PEM file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Give an identity a new key and a new certificate, in its file, from the operator's sealed CA. It may have ended.
    Renew {
        /// The PEM file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The operator's folder.
        #[arg(long, value_name = "FOLDER")]
        operator: PathBuf,
        /// How long it is to be valid; as long as before otherwise.
        #[arg(long, value_parser = duration::parse)]
        ttl: Option<Millis>,
    },
    /// Refuse an identity from here on, everywhere, and end its leases.
    Block {
        /// The SPIFFE id.
        id: String,
        #[command(flatten)]
        signers: Signers,
        #[command(flatten)]
        effect: Effect,
    },
    /// Admit a blocked identity again.
    Unblock {
        /// The SPIFFE id.
        id: String,
        #[command(flatten)]
        signers: Signers,
    },
}

/// Runs `quorate identity`.
pub(crate) async fn run(
    command: Command,
    connection: &Connection,
    passphrases: &Passphrases,
    output: Format,
) -> anyhow::Result<()> {
    match command {
        Command::Issue { operator, name, ttl, out } => {
            let (id, pem) = Operator(operator).issue(&name, ttl, passphrases, &Env::system())?;
            files::make(&out, pem.as_bytes(), files::PRIVATE)?;
            let valid = ttl / 1_000;
            output.show(&json!({ "id": id.as_str(), "identity": out, "valid_seconds": valid }), || {
                format!("{} is {id}, valid for {valid} s", out.display(), id = id.as_str())
            })
        }
        Command::Renew { file, operator, ttl } => {
            let (id, ends) = renew(&file, &Operator(operator), ttl, passphrases, &Env::system())?;
            output.show(&json!({ "id": id, "identity": file, "not_after": ends }), || {
                format!("{} is {id} with a new key, valid until {}", file.display(), instant(ends))
            })
        }
        Command::Block { id, signers, effect } => {
            let change = Change::BlockIdentity { principal: id.clone() };
            let done = signers.administer(connection, passphrases, change).await?;
            let ended = if let Outcome::Leases { changed } = &done.outcome { changed.len() } else { 0 };
            let effect = effect.of(connection, &done).await?;
            let document = json!({ "id": id, "index": done.index, "leases_ended": ended, "effect": effect.document() });
            output.show(&document, || {
                let index = done.index;
                format!("{id} is blocked from log index {index} on; {ended} of its leases are being revoked\n{effect}")
            })
        }
        Command::Unblock { id, signers } => {
            let change = Change::UnblockIdentity { principal: id.clone() };
            let done = signers.administer(connection, passphrases, change).await?;
            output.show(&json!({ "id": id, "index": done.index }), || format!("{id} is admitted again"))
        }
    }
}

/// Puts a fresh key and certificate for the same identity into its file, in one step. Nobody is asked: whoever can open the CA may
/// issue any identity. Returns who it is and when the new certificate ends.
fn renew(
    file: &Path,
    operator: &Operator,
    ttl: Option<Millis>,
    passphrases: &Passphrases,
    env: &Env,
) -> anyhow::Result<(String, Millis)> {
    let before = load_identity(file)?;
    let lived = before.valid().map(|(from, to)| to.saturating_sub(from).saturating_sub(SKEW));
    let ttl = ttl.or(lived).filter(|ttl| *ttl > 0).context("say with --ttl how long it is to be valid")?;
    let (id, pem) = operator.issue(before.principal(), ttl, passphrases, env)?;
    files::replace(file, pem.as_bytes(), files::PRIVATE).with_context(|| file.display().to_string())?;
    let ends = load_identity(file)?.valid().map_or(0, |(_, to)| to);
    Ok((id.as_str().to_owned(), ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Told;
    use crate::init::tests::begin;
    use quorate_authz::{AuthenticationError, authenticate};

    #[test]
    fn an_identity_is_renewed_in_its_file_also_when_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let (operator, genesis) = begin(folder.path()).create(&passphrases, &env).unwrap();
        let file = folder.path().join("billing.pem");
        let (_, pem) = operator.issue("app/billing", 3_600_000, &passphrases, &env).unwrap();
        files::make(&file, pem.as_bytes(), files::PRIVATE).unwrap();
        let old = load_identity(&file).unwrap();
        let ended = old.valid().unwrap().1 + 1_000;
        let refused = authenticate(old.chain(), &genesis.client_roots, ended).unwrap_err();
        assert!(matches!(refused, AuthenticationError::Expired { .. }), "{refused}");

        let (id, ends) = renew(&file, &operator, None, &passphrases, &env).unwrap();
        let new = load_identity(&file).unwrap();
        assert_eq!((id.as_str(), new.principal()), (old.principal(), old.principal()), "who it is stays");
        assert_ne!(new.key().verify_key().0, old.key().verify_key().0, "the key is a new one");
        assert_eq!(new.valid().unwrap().1, ends);
        let lives = |identity: &quorate_api::client::Identity| identity.valid().map(|(from, to)| to - from).unwrap();
        assert_eq!(lives(&new), lives(&old), "as long as before");
        authenticate(new.chain(), &genesis.client_roots, env.clock.wall()).unwrap();
        renew(&file, &operator, Some(86_400_000), &passphrases, &env).unwrap();
        let longer = load_identity(&file).unwrap();
        assert_eq!(lives(&longer), 86_400_000 + SKEW, "or as long as --ttl says");
    }

    #[test]
    fn an_identity_of_another_trust_domain_is_not_renewed_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let passphrases = Passphrases::file(&folder.path().join("passphrase"));
        let (operator, _) = begin(folder.path()).create(&passphrases, &env).unwrap();
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let mut init = begin(&other);
        init.trust_domain = "example.com".to_owned();
        let (foreign, _) = init.create(&passphrases, &env).unwrap();
        let file = foreign.file("admin.pem");
        let before = std::fs::read(&file).unwrap();
        let told = Told::of(&renew(&file, &operator, None, &passphrases, &env).unwrap_err()).text();
        assert!(told.contains("spiffe://example.com/admin/first"), "it is named: {told}");
        assert_eq!(std::fs::read(&file).unwrap(), before, "the file is as it was");
    }
}
