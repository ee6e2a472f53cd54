//! A scratch PostgreSQL for the development cluster, in a process of its own that stops it, whatever becomes of `dev`.

use crate::files;
use crate::process;
use anyhow::Context as _;
use quorate_engines::scratch::{Installed, PostgresServer, StartError};
use quorate_server::env::Env;
use quorate_state::ids::hex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;
use std::path::PathBuf;
use tokio_postgres::NoTls;
use zeroize::Zeroizing;

/// The vault's own login.
pub(crate) const ADMIN: &str = "quorate_admin";
/// The group role of leased logins.
pub(crate) const GROUP: &str = "readers";
/// The database.
pub(crate) const DATABASE: &str = "postgres";

/// `quorate scratch-postgres`.
#[derive(Debug, clap::Args)]
pub(crate) struct ScratchPostgres {
    /// Where to write the port, when it is up.
    #[arg(long)]
    ready: PathBuf,
    /// Where to write the password of the vault's own login.
    #[arg(long)]
    password_file: PathBuf,
    /// Where to write the certificate from which its own comes.
    #[arg(long)]
    ca_file: PathBuf,
    /// Its major version, of those that are installed; the distribution's newest otherwise.
    #[arg(long, value_name = "MAJOR")]
    postgres: Option<u32>,
    /// End with the process that started it.
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// Runs until SIGTERM.
pub(crate) async fn run(arguments: &ScratchPostgres) -> anyhow::Result<()> {
    let asked_to_end = process::asked_to_end()?;
    if arguments.die_with_parent {
        // Not SIGKILL: the server is to be stopped.
        process::die_with_parent(rustix::process::Signal::TERM)?;
    }
    process::log_to_stderr();
    let (root, own, key) = certificates()?;
    let version = arguments.postgres;
    let server = tokio::task::spawn_blocking(move || {
        let mut server = match version {
            Some(version) => PostgresServer::start_on(&Installed::of(version)?, &[])?,
            None => PostgresServer::start()?,
        };
        server.certify(&own, &key)?;
        Ok::<_, StartError>(server)
    })
    .await??;
    files::make(&arguments.ca_file, root.as_bytes(), files::PUBLIC)?;
    // Hexadecimal: nothing to quote.
    let password = hex(&Env::system().random::<16>());
    prepare(&server, &password).await.context("preparing the scratch database")?;
    files::make(&arguments.password_file, format!("{password}\n").as_bytes(), files::PRIVATE)?;
    let ready = json!({ "port": server.port(), "socket": server.socket_folder() });
    files::replace(&arguments.ready, ready.to_string().as_bytes(), files::PUBLIC)?;
    tracing::info!(port = server.port(), "the scratch database is up");
    asked_to_end.await;
    tokio::task::spawn_blocking(move || drop(server)).await?;
    Ok(())
}

/// A root for this run, and from it a certificate for the loopback with its key, all in PEM. The root's key is thrown away.
fn certificates() -> anyhow::Result<(String, String, Zeroizing<String>)> {
    // ECDSA: PostgreSQL binds no login to an Ed25519 signature.
    let (authority, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "the scratch database's root");
    let root = CertifiedIssuer::self_signed(params, authority)?;
    let own = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &root)?;
    Ok((root.pem(), own.pem(), Zeroizing::new(key.serialize_pem())))
}

async fn prepare(server: &PostgresServer, password: &str) -> anyhow::Result<()> {
    let (client, connection) = server.superuser(DATABASE).connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    // The rights that an executor needs and no others; from PostgreSQL 16 on it must be an administrator of the group.
    let grant = if version(&client).await? >= 160_000 {
        format!("GRANT {GROUP} TO {ADMIN} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;")
    } else {
        String::new()
    };
    let script = format!(
        "CREATE ROLE {ADMIN} LOGIN CREATEROLE PASSWORD '{password}';
         GRANT pg_read_all_stats, pg_signal_backend TO {ADMIN};
         CREATE ROLE {GROUP} NOLOGIN;
         {grant}
         CREATE TABLE demo (id integer PRIMARY KEY, note text NOT NULL);
         INSERT INTO demo VALUES (1, 'a row that leased logins may read');
         GRANT SELECT ON demo TO {GROUP};"
    );
    client.batch_execute(&script).await?;
    drop(client);
    connection.await??;
    Ok(())
}

async fn version(client: &tokio_postgres::Client) -> anyhow::Result<i32> {
    let row = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await?;
    Ok(row.try_get(0)?)
}
