//! The scratch PostgreSQL, as itself tells: the judge of what became of a credential.

use crate::Cluster;
use crate::process::send;
use anyhow::Context as _;
use quorate_api::client::Credential;
use rustix::process::Signal;
use tokio_postgres::{Client, Config, Error, NoTls};

impl Cluster {
    /// Connects as the superuser, by the Unix socket.
    ///
    /// # Errors
    /// When there is no database.
    pub async fn superuser(&self) -> anyhow::Result<Client> {
        let (folder, port) = self.postgres_socket()?;
        let mut config = Config::new();
        config.host_path(folder).port(port).user("postgres").dbname("postgres");
        Ok(login(&config).await?)
    }
}

/// Connects with a leased credential, by TCP and password.
///
/// # Errors
/// PostgreSQL's.
pub async fn login_with(credential: &Credential) -> Result<Client, Error> {
    login(&login_config(credential)).await
}

/// How [`login_with`] connects.
#[must_use]
pub fn login_config(credential: &Credential) -> Config {
    let mut config = Config::new();
    config.host(&credential.host).port(credential.port).dbname(&credential.database);
    config.user(&credential.username);
    // PostgreSQL issues nothing: it has one.
    if let Some(password) = credential.password() {
        config.password(password.expose());
    }
    config
}

/// Connects.
///
/// # Errors
/// PostgreSQL's.
pub async fn login(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Its end shows in the next query.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Whether a login exists and may log in, and how many sessions it has.
///
/// # Errors
/// PostgreSQL's.
pub async fn seen(superuser: &Client, login: &str) -> anyhow::Result<(bool, i64)> {
    let row = superuser
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin),
                    (SELECT count(*) FROM pg_stat_activity WHERE usename = $1)",
            &[&login],
        )
        .await
        .context("looking at pg_roles and pg_stat_activity")?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// A PostgreSQL that answers nothing: the postmaster and every backend are stopped until this is dropped.
#[derive(Debug)]
pub struct FrozenDatabase(Vec<u32>);

impl FrozenDatabase {
    /// Stops it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(cluster: &Cluster) -> anyhow::Result<Self> {
        let (folder, port) = cluster.postgres_socket()?;
        let lock =
            std::fs::read_to_string(format!("{folder}/.s.PGSQL.{port}.lock")).context("the server's lock file")?;
        let postmaster: u32 = lock.lines().next().context("an empty lock file")?.trim().parse()?;
        // First, so that it starts no more of them.
        send(postmaster, Signal::STOP)?;
        let mut stopped = Self(vec![postmaster]);
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if parent(pid) == Some(postmaster) && send(pid, Signal::STOP).is_ok() {
                stopped.0.push(pid);
            }
        }
        Ok(stopped)
    }
}

impl Drop for FrozenDatabase {
    fn drop(&mut self) {
        for pid in &self.0 {
            // It may have ended.
            let _ = send(*pid, Signal::CONT);
        }
    }
}

pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; the state and the parent follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
