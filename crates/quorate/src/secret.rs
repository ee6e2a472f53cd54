//! Secrets: put, get, list, versions, delete, undelete, destroy.

use crate::connection::Connection;
use crate::duration::instant;
use crate::effect::{Effect, Effective};
use crate::failure::Stop;
use crate::files;
use crate::output::{Format, raw, table};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::SecretVec;
use quorate_state::change::Change;
use quorate_state::ids::{check_namespace, check_path, hex};
use quorate_state::outcome::Outcome;
use serde_json::json;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The largest value, in bytes; one more is read to tell that there is more.
const MAX_VALUE: u64 = 1 << 20;

/// `path`, or `namespace:path`; the namespace is `default` when none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretName {
    pub(crate) namespace: String,
    pub(crate) path: String,
}

impl FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = Self::prefix(text);
        check_namespace(&name.namespace).map_err(|why| why.to_string())?;
        check_path(&name.path).map_err(|why| why.to_string())?;
        Ok(name)
    }
}

impl SecretName {
    /// A prefix of names: its path may be empty.
    fn prefix(text: &str) -> Self {
        let (namespace, path) = text.split_once(':').unwrap_or(("default", text));
        Self { namespace: namespace.to_owned(), path: path.to_owned() }
    }
}

impl std::fmt::Display for SecretName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.namespace, self.path)
    }
}

/// `quorate put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// path, or namespace:path.
    name: SecretName,
    /// Read the value from this file instead of standard input, byte for byte.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only if the newest version has this number; 0 for "must not exist".
    #[arg(long, value_name = "N")]
    cas: Option<u64>,
}

/// `quorate get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// path, or namespace:path.
    name: SecretName,
    /// This version instead of the newest.
    #[arg(long = "number", value_name = "N")]
    number: Option<u64>,
    /// Write the value to this new file, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// `quorate list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// A prefix of paths, or namespace:prefix.
    #[arg(default_value = "")]
    prefix: String,
}

/// `quorate versions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Versions {
    /// path, or namespace:path.
    name: SecretName,
}

/// `quorate delete` and `destroy`.
#[derive(Debug, clap::Args)]
pub(crate) struct TakenAway {
    #[command(flatten)]
    which: Numbered,
    #[command(flatten)]
    effect: Effect,
}

/// `quorate undelete`, and what it has in common with the others.
#[derive(Debug, clap::Args)]
pub(crate) struct Numbered {
    /// path, or namespace:path.
    name: SecretName,
    /// The versions.
    #[arg(long = "number", value_name = "N", value_delimiter = ',')]
    numbers: Vec<u64>,
}

/// Stores a version.
pub(crate) async fn put(put: Put, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let value = match &put.file {
        Some(path) => read_value(File::open(path).with_context(|| path.display().to_string())?)?,
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                crate::output::progress("type the value; end it with Ctrl-D");
            }
            read_value(stdin.lock())?
        }
    };
    let SecretName { namespace, path } = &put.name;
    let stored = connection.client()?.put(namespace, path, value.expose(), put.cas).await?;
    let document = json!({ "namespace": namespace, "path": path, "number": stored.number, "index": stored.index });
    output.show(&document, || format!("{} has version {}", put.name, stored.number))
}

fn read_value(from: impl std::io::Read) -> anyhow::Result<SecretVec> {
    // All at once, so that no copy is left behind by a buffer that grows.
    let mut bytes = Vec::with_capacity(usize::try_from(MAX_VALUE)? + 64);
    from.take(MAX_VALUE + 1).read_to_end(&mut bytes).context("cannot read the value")?;
    let value = SecretVec::new(bytes);
    match value.len() as u64 {
        0 => Err(Stop::refused("invalid_argument", "the value is empty", "give at least one byte")),
        1..=MAX_VALUE => Ok(value),
        _ => Err(Stop::refused(
            "invalid_argument",
            "the value has more than 1 MiB",
            "store a key here and the rest elsewhere",
        )),
    }
}

/// Opens a version.
pub(crate) async fn get(get: Get, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let SecretName { namespace, path } = &get.name;
    let opened = connection.opening_client()?.get(namespace, path, get.number).await?;
    let value = opened.plaintext.expose();
    let mut document = json!({
        "namespace": namespace,
        "path": path,
        "number": opened.number,
        "newest": opened.newest,
        "writer": opened.writer,
        "created": opened.created,
    });
    if let Some(file) = &get.file {
        files::make(file, value, files::PRIVATE)?;
        return output
            .show(&document, || format!("version {} of {} is in {}", opened.number, get.name, file.display()));
    }
    match (output, std::str::from_utf8(value)) {
        (Format::Json, text) => {
            let (key, text) = match text {
                Ok(text) => ("value", text.to_owned()),
                Err(_) => ("value_base64", STANDARD.encode(value)),
            };
            if let Some(fields) = document.as_object_mut() {
                fields.insert(key.to_owned(), text.into());
            }
            output.show(&document, String::new)
        }
        (Format::Table, Err(_)) if std::io::stdout().is_terminal() => Err(Stop::refused(
            "binary_value",
            "the value is not text, and standard output is a terminal",
            "use --file FILE, or a pipe",
        )),
        (Format::Table, text) => {
            raw(value)?;
            if text.is_ok() && std::io::stdout().is_terminal() && !value.ends_with(b"\n") {
                // For the eye only: into a pipe the value goes as it is.
                let _ = std::io::stderr().write_all(b"\n");
            }
            Ok(())
        }
    }
}

/// Lists secrets.
pub(crate) async fn list(list: List, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let SecretName { namespace, path } = SecretName::prefix(&list.prefix);
    let secrets = connection.client()?.list(&namespace, &path).await?;
    let document = json!({
        "namespace": namespace,
        "secrets": secrets.iter().map(|s| json!({
            "path": s.path, "secret_id": hex(&s.secret_id), "newest": s.newest, "versions": s.versions,
        })).collect::<Vec<_>>(),
    });
    output.show(&document, || {
        let rows = secrets.iter().map(|s| [s.path.clone(), s.newest.to_string(), s.versions.to_string()]);
        table(["PATH", "NEWEST", "VERSIONS"], rows)
    })
}

/// Shows versions.
pub(crate) async fn versions(versions: Versions, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let SecretName { namespace, path } = &versions.name;
    let answer = connection.client()?.versions(namespace, path).await?;
    let document = json!({
        "namespace": namespace,
        "path": path,
        "secret_id": hex(&answer.secret_id),
        "versions": answer.versions.iter().map(|v| json!({
            "number": v.number, "version_id": hex(&v.version_id), "state": v.state, "stored_at": v.stored_at,
            "writer": v.writer, "index": v.index,
        })).collect::<Vec<_>>(),
    });
    output.show(&document, || {
        let row = |v: &quorate_api::vault::VersionInfo| {
            [v.number.to_string(), v.state.clone(), instant(v.stored_at), v.writer.clone(), v.index.to_string()]
        };
        table(["NUMBER", "STATE", "STORED", "WRITER", "INDEX"], answer.versions.iter().map(row))
    })
}

/// Hides versions.
pub(crate) async fn delete(away: TakenAway, connection: &Connection, output: Format) -> anyhow::Result<()> {
    let SecretName { namespace, path } = away.which.name.clone();
    let numbers = away.which.numbers.clone();
    away.run(Change::DeleteSecret { namespace, path, numbers }, "deleted", connection, output).await
}

/// Brings versions back.
pub(crate) async fn undelete(which: Numbered, connection: &Connection, output: Format) -> anyhow::Result<()> {
    which.must_name_versions()?;
    let SecretName { namespace, path } = &which.name;
    let changed = connection.client()?.undelete(namespace, path, &which.numbers).await?;
    changed_versions(&which.name, "live", &changed, None, output)
}

/// Erases versions.
pub(crate) async fn destroy(away: TakenAway, connection: &Connection, output: Format) -> anyhow::Result<()> {
    away.which.must_name_versions()?;
    let SecretName { namespace, path } = away.which.name.clone();
    let numbers = away.which.numbers.clone();
    away.run(Change::DestroySecret { namespace, path, numbers }, "destroyed", connection, output).await
}

impl TakenAway {
    async fn run(&self, change: Change, state: &str, connection: &Connection, output: Format) -> anyhow::Result<()> {
        let done = connection.client()?.change(change).await?;
        let effect = self.effect.of(connection, &done).await?;
        let changed = if let Outcome::Versions { changed } = done.outcome { changed } else { Vec::new() };
        changed_versions(&self.which.name, state, &changed, Some(&effect), output)
    }
}

impl Numbered {
    fn must_name_versions(&self) -> anyhow::Result<()> {
        if self.numbers.is_empty() {
            let hint = "give --number N; `quorate versions` shows them";
            return Err(Stop::refused("invalid_argument", "no version is named", hint));
        }
        Ok(())
    }
}

fn changed_versions(
    name: &SecretName,
    state: &str,
    changed: &[u64],
    effect: Option<&Effective>,
    output: Format,
) -> anyhow::Result<()> {
    let mut document = json!({ "namespace": name.namespace, "path": name.path, "state": state, "changed": changed });
    if let (Some(fields), Some(effect)) = (document.as_object_mut(), effect) {
        fields.insert("effect".to_owned(), effect.document());
    }
    output.show(&document, || {
        let what = match changed {
            [] => format!("no version of {name} changed"),
            _ => format!("{name}: now {state}: {}", changed.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
        };
        effect.map_or_else(|| what.clone(), |effect| format!("{what}\n{effect}"))
    })
}

/// A secret that is not a version: a password from a file, or typed.
pub(crate) fn password(file: Option<&Path>, question: &str) -> anyhow::Result<SecretVec> {
    match file {
        Some(path) => crate::passphrase::first_line(path),
        // An empty one is what a hasty Enter gives; whoever hangs up gives it each time.
        None => (0..3)
            .map(|_| crate::passphrase::prompt(question))
            .find(|typed| typed.as_ref().map_or(true, |typed| !typed.expose().is_empty()))
            .unwrap_or_else(|| {
                Err(Stop::refused("invalid_argument", "no password was given", "type it, or give a file"))
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_default_namespace() {
        let parse = |text: &str| text.parse::<SecretName>().map(|n| n.to_string());
        assert_eq!(parse("app/db"), Ok("default:app/db".to_owned()));
        assert_eq!(parse("team/a:app/db:x"), Ok("team/a:app/db:x".to_owned()));
        for bad in ["", ":app", "a:", "/app", "app/", "app//db", "app/../x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_have_1_byte_to_1_mib() {
        assert!(read_value(&b""[..]).is_err());
        assert_eq!(read_value(&b"\0\xff"[..]).unwrap().expose(), b"\0\xff");
        let large = vec![1; 1 << 20];
        assert_eq!(read_value(large.as_slice()).unwrap().len(), 1 << 20);
        assert!(read_value(std::io::repeat(1)).is_err());
    }
}
