//! How a login is handed to a program: by the variables that the programs of its system know, and by our own for all others.

use anyhow::Context as _;
use quorate_api::client::{Credential, Proof, System};
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

/// What a login proves itself with, by name: `password`, or what the target issued.
pub(crate) fn secrets(credential: &Credential) -> anyhow::Result<Vec<(&str, &str)>> {
    let text = |secret| std::str::from_utf8(secret).context("what is to be handed over is not text");
    match &credential.proof {
        Proof::Password(password) => Ok(vec![("password", text(password.expose())?)]),
        Proof::Issued(fields) => fields.iter().map(|(name, secret)| Ok((name, text(secret.expose())?))).collect(),
    }
}

/// Every variable in which one of our own or of a system's programs would look for a password or for the file of one: what the caller has there
/// is another login's.
const PASSWORDS: [&str; 12] = [
    "PGPASSWORD",
    "PGPASSFILE",
    "MYSQL_PWD",
    "MYSQL_HOME",
    "REDISCLI_AUTH",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_PROFILE",
    "QUORATE_PASSWORD",
    "QUORATE_PASSWORD_FILE",
];

/// Sets a program's environment, with the password in it, or in a file of mode 0600 that it names.
pub(crate) fn hand(command: &mut Command, credential: &Credential, in_environment: bool) -> anyhow::Result<Handed> {
    let Credential { username, host, database, system, .. } = credential;
    let port = credential.port.to_string();
    let secrets = secrets(credential)?;
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
        // What every program of theirs knows; who has issued the key is in the key.
        System::Aws => {
            command.env("AWS_REGION", database).env("AWS_DEFAULT_REGION", database);
        }
        System::Redis | System::RabbitMq | System::Webhook | System::Kubernetes => {}
    }
    let mut handed = Handed::default();
    for (name, secret) in &secrets {
        let variable = format!("QUORATE_{}", name.to_ascii_uppercase());
        if in_environment {
            command.env(variable, secret);
        } else {
            let plain = file(&format!("{secret}\n"))?;
            command.env(format!("{variable}_FILE"), plain.path());
            handed._files.push(plain);
        }
    }
    if *system == System::Aws {
        key_of_aws(command, &secrets, in_environment, &mut handed)?;
    }
    let Some((_, password)) = secrets.iter().find(|(name, _)| *name == "password") else { return Ok(handed) };
    match system {
        System::PostgreSql if in_environment => drop(command.env("PGPASSWORD", password)),
        System::MariaDb if in_environment => drop(command.env("MYSQL_PWD", password)),
        System::Redis if in_environment => drop(command.env("REDISCLI_AUTH", password)),
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
        System::Redis | System::RabbitMq | System::Webhook | System::Aws | System::Kubernetes => {}
    }
    Ok(handed)
}

/// An access key, where programs of AWS look for one: in the environment, or in a file in the form of `~/.aws/credentials`.
fn key_of_aws(
    command: &mut Command,
    secrets: &[(&str, &str)],
    in_environment: bool,
    handed: &mut Handed,
) -> anyhow::Result<()> {
    const PARTS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];
    let parts = || secrets.iter().filter(|(name, _)| PARTS.contains(name));
    if in_environment {
        for (name, secret) in parts() {
            command.env(format!("AWS_{}", name.to_ascii_uppercase()), secret);
        }
        return Ok(());
    }
    let lines: String = parts().map(|(name, secret)| format!("aws_{name} = {secret}\n")).collect();
    let kept = file(&format!("[default]\n{lines}"))?;
    command.env("AWS_SHARED_CREDENTIALS_FILE", kept.path());
    handed._files.push(kept);
    Ok(())
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
            proof: Proof::Password(Secret::init_with(|out| *out = [b's'; 32])),
            system,
            host: "db".to_owned(),
            port: 1,
            database: "d".to_owned(),
            expires_at: 0,
            dies_at: None,
        }
    }

    fn issued(system: System) -> Credential {
        let fields = [("token", "t0ken"), ("expiration", "2026")]
            .map(|(name, value)| (name.to_owned(), quorate_crypto::secret::SecretVec::new(value.as_bytes().to_vec())));
        let fields = quorate_crypto::secret::SecretFields::new(fields.into()).unwrap();
        Credential { proof: Proof::Issued(fields), ..credential(system) }
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
    fn what_the_target_issued_is_handed_over_by_name() {
        let mut command = Command::new("true");
        let handed = hand(&mut command, &issued(System::Webhook), false).unwrap();
        let by_file = environment(&command);
        assert_eq!(std::fs::read_to_string(&by_file["QUORATE_TOKEN_FILE"]).unwrap(), "t0ken\n");
        assert!(
            by_file.values().all(|value| !value.contains("t0ken")) && !by_file.contains_key("QUORATE_PASSWORD_FILE")
        );
        drop(handed);
        assert!(!std::path::Path::new(&by_file["QUORATE_TOKEN_FILE"]).exists());
        let mut command = Command::new("true");
        hand(&mut command, &issued(System::Webhook), true).unwrap();
        assert_eq!(environment(&command)["QUORATE_TOKEN"], "t0ken");
    }

    #[test]
    fn a_key_of_aws_is_where_its_programs_look() {
        let fields = [
            ("access_key_id", "AKIA1"),
            ("secret_access_key", "s3cret"),
            ("session_token", "t0ken"),
            ("expiration", "2026"),
        ];
        let fields = fields
            .map(|(name, value)| (name.to_owned(), quorate_crypto::secret::SecretVec::new(value.as_bytes().to_vec())));
        let fields = quorate_crypto::secret::SecretFields::new(fields.into()).unwrap();
        let credential = Credential { proof: Proof::Issued(fields), ..credential(System::Aws) };
        let mut command = Command::new("true");
        let handed = hand(&mut command, &credential, false).unwrap();
        let path = PathBuf::from(&environment(&command)["AWS_SHARED_CREDENTIALS_FILE"]);
        let text = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key = s3cret\naws_session_token = t0ken\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(environment(&command).values().all(|value| !value.contains("s3cret")));
        drop(handed);
        assert!(!path.exists());
        let mut command = Command::new("true");
        hand(&mut command, &credential, true).unwrap();
        let environment = environment(&command);
        let shown = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"]
            .map(|name| environment[name].as_str());
        assert_eq!(shown, ["AKIA1", "s3cret", "t0ken", "d"]);
    }

    #[test]
    fn in_the_environment_it_is_where_the_system_s_programs_look() {
        let names = ["PGPASSWORD", "MYSQL_PWD", "REDISCLI_AUTH", "QUORATE_PASSWORD", "QUORATE_PASSWORD"];
        for (system, name) in System::ALL.into_iter().filter(|system| !system.issues()).zip(names) {
            let mut command = Command::new("true");
            hand(&mut command, &credential(system), true).unwrap();
            assert_eq!(environment(&command)[name], "s".repeat(32), "{system}");
        }
    }
}
