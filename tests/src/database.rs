//! The scratch PostgreSQL, as itself tells: the judge of what became of a credential.

use crate::Cluster;
use anyhow::Context as _;
use quorate_api::client::Credential;
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
    let mut config = Config::new();
    config.host(&credential.host).port(credential.port).dbname(&credential.database);
    config.user(&credential.username).password(credential.password.expose());
    login(&config).await
}

async fn login(config: &Config) -> Result<Client, Error> {
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
