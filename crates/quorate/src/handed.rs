//! How a login is handed to a program: by the variables that the programs of its system know, and by our own for all others.

use anyhow::Context as _;
use quorate_api::client::{Credential, System};
use std::io::Write as _;
use std::path::PathBuf;
use tempfile::{NamedTempFile, TempDir};
use tokio::process::Command;

/// The files that hold the password, for as long as this is kept: dropping it removes them.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    _files: Vec<NamedTempFile>,
    _folder: Option<TempDir>,
}

/// Every variable in which one of our own or of a system's programs would look for a password or for the file of one: what the caller has there
/// is another login's.
const PASSWORDS: [&str; 7] = [
    "PGPASSWORD",
    "PGPASSFILE",
    "MYSQL_PWD",
    "MYSQL_HOME",
    "REDISCLI_AUTH",
    "QUORATE_PASSWORD",
    "QUORATE_PASSWORD_FILE",
];

/// Sets a program's environment, with the password in it, or in a file of mode 0600 that it names.
pub(crate) fn hand(command: &mut Command, credential: &Credential, in_environment: bool) -> anyhow::Result<Handed> {
    let Credential { username, host, database, system, .. } = credential;
    let port = credential.port.to_string();
    let password = std::str::from_utf8(credential.password.expose()).context("the password is not text")?;
    for name in PASSWORDS {
        command.env_remove(name);
    }
    command
        .env("QUORATE_LEASE", credential.lease.to_string())
        .env("QUORATE_SYSTEM", system.name())
        .env("QUORATE_HOST", host)
        .env("QUORATE_PORT", &port)
        .env("QUORATE_DATABASE", database)
        .env("QUORATE_USERNAME", username);
    match system {
        System::PostgreSql => {
            command.env("PGHOST", host).env("PGPORT", &port).env("PGDATABASE", database).env("PGUSER", username);
        }
        System::MariaDb => {
            command.env("MYSQL_HOST", host).env("MYSQL_TCP_PORT", &port);
        }
        System::Redis | System::RabbitMq | System::Webhook => {}
    }
    let mut handed = Handed::default();
    if in_environment {
        command.env("QUORATE_PASSWORD", password);
        match system {
            System::PostgreSql => drop(command.env("PGPASSWORD", password)),
            System::MariaDb => drop(command.env("MYSQL_PWD", password)),
            System::Redis => drop(command.env("REDISCLI_AUTH", password)),
            System::RabbitMq | System::Webhook => {}
        }
        return Ok(handed);
    }
    let plain = file(&format!("{password}\n"))?;
    command.env("QUORATE_PASSWORD_FILE", plain.path());
    handed._files.push(plain);
    match system {
        System::PostgreSql => {
            // Any host, any port, any database, any user: the file is this one login's. Colons and backslashes do not stand in a
            // password that was made here.
            let passfile = file(&format!("*:*:*:*:{password}\n"))?;
            command.env("PGPASSFILE", passfile.path());
            handed._files.push(passfile);
        }
        System::MariaDb => {
            // Its programs read `my.cnf` in the folder that this variable names.
            let folder = tempfile::Builder::new().prefix("quorate-run-").tempdir_in(place()).context("no folder")?;
            let options = format!("[client]\nuser={username}\npassword={password}\nhost={host}\nport={port}\n");
            let path = folder.path().join("my.cnf");
            let mut made = std::os::unix::fs::OpenOptionsExt::mode(&mut std::fs::OpenOptions::new(), 0o600)
                .write(true)
                .create_new(true)
                .open(&path)
                .context("no option file")?;
            made.write_all(options.as_bytes()).context("the option file cannot be written")?;
            command.env("MYSQL_HOME", folder.path());
            handed._folder = Some(folder);
        }
        System::Redis | System::RabbitMq | System::Webhook => {}
    }
    Ok(handed)
}

/// In memory where there is such a place.
fn place() -> PathBuf {
    let folder = ["/dev/shm", "/tmp"].into_iter().find(|folder| std::path::Path::new(folder).is_dir());
    folder.map_or_else(std::env::temp_dir, Into::into)
}

/// Mode 0600 in any case.
fn file(text: &str) -> anyhow::Result<NamedTempFile> {
    let made = tempfile::Builder::new().prefix("quorate-run-").tempfile_in(place());
    let mut file = made.context("no password file")?;
    file.write_all(text.as_bytes()).context("the password file cannot be written")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crypto::secret::Secret;
    use quorate_state::ids::LeaseId;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    fn credential(system: System) -> Credential {
        Credential {
            lease: LeaseId([1; 16]),
            username: "login".to_owned(),
            password: Secret::init_with(|out| *out = [b's'; 32]),
            system,
            host: "db".to_owned(),
            port: 1,
            database: "d".to_owned(),
            expires_at: 0,
        }
    }

    fn environment(command: &Command) -> BTreeMap<String, String> {
        let of = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
            Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned()))
        };
        command.as_std().get_envs().filter_map(of).collect()
    }

    #[test]
    fn the_password_is_in_files_of_their_owner_s_that_go_away() {
        let password = "s".repeat(32);
        for system in System::ALL {
            let mut command = Command::new("true");
            let handed = hand(&mut command, &credential(system), false).unwrap();
            let environment = environment(&command);
            assert!(environment.values().all(|value| !value.contains(&password)), "{system}");
            let mut paths: Vec<PathBuf> = vec![environment["QUORATE_PASSWORD_FILE"].clone().into()];
            assert_eq!(std::fs::read_to_string(&paths[0]).unwrap(), format!("{password}\n"));
            match system {
                System::PostgreSql => paths.push(environment["PGPASSFILE"].clone().into()),
                System::MariaDb => paths.push(PathBuf::from(&environment["MYSQL_HOME"]).join("my.cnf")),
                _ => {}
            }
            for path in &paths {
                assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{system}");
                assert!(std::fs::read_to_string(path).unwrap().contains(&password), "{system}");
            }
            drop(handed);
            assert!(paths.iter().all(|path| !path.exists()), "{system}");
        }
    }

    #[test]
    fn in_the_environment_it_is_where_the_system_s_programs_look() {
        let names = ["PGPASSWORD", "MYSQL_PWD", "REDISCLI_AUTH", "QUORATE_PASSWORD", "QUORATE_PASSWORD"];
        for (system, name) in System::ALL.into_iter().zip(names) {
            let mut command = Command::new("true");
            hand(&mut command, &credential(system), true).unwrap();
            assert_eq!(environment(&command)[name], "s".repeat(32), "{system}");
        }
    }
}
