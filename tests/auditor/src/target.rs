//! The target, as whoever administers it sees it: one of three kinds.

mod mariadb;
mod postgres;
mod redis;
mod resp;

use crate::judge::Look;
use anyhow::Context as _;
use std::path::PathBuf;

/// Where the target is, and how it is reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    kind: Kind,
    /// The user as whom Redis is asked: it may list users and clients.
    #[arg(long, requires = "redis", default_value = "default")]
    redis_user: String,
    /// The file whose first line is that user's password; none, and it is not logged in as anybody.
    #[arg(long, requires = "redis", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
}

/// What it is.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Kind {
    /// A PostgreSQL, and how to reach it as its superuser, in the words of libpq.
    #[arg(long)]
    target: Option<tokio_postgres::Config>,
    /// A MariaDB, and how to reach it as its administrator: `socket=/run/mysqld/mysqld.sock`, or `host=127.0.0.1`, and `port`, `user` (root)
    /// and `password-file`, each as `name=value`.
    #[arg(long, value_name = "WORDS")]
    mariadb: Option<mariadb::Address>,
    /// A Redis.
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<String>,
}

/// A connection to it, made anew when it is lost.
pub(crate) enum Target {
    Postgres(Box<postgres::Postgres>),
    MariaDb(Box<mariadb::MariaDb>),
    Redis(Box<redis::Redis>),
}

impl Target {
    /// # Errors
    /// When the file of a password cannot be read.
    pub(crate) fn new(place: Place, prefix: String) -> anyhow::Result<Self> {
        let Place { kind, redis_user, redis_password_file } = place;
        Ok(match (kind.target, kind.mariadb, kind.redis) {
            (_, Some(address), _) => Self::MariaDb(Box::new(mariadb::MariaDb::new(address, prefix)?)),
            (_, _, Some(address)) => {
                let password = redis_password_file.map(first_line).transpose()?;
                Self::Redis(Box::new(redis::Redis::new(address, redis_user, password, prefix)))
            }
            (config, _, _) => {
                let config = config.context("no target was given")?;
                Self::Postgres(Box::new(postgres::Postgres::new(config, prefix)))
            }
        })
    }

    /// Who there is with the prefix, and then who is there: a session that has begun in between belongs to a role that the next look sees.
    ///
    /// # Errors
    /// The target's.
    pub(crate) async fn look(&mut self) -> anyhow::Result<Look> {
        match self {
            Self::Postgres(postgres) => Ok(postgres.look().await?),
            Self::MariaDb(mariadb) => mariadb.look().await,
            Self::Redis(redis) => redis.look().await,
        }
    }
}

/// The password in a file.
fn first_line(path: PathBuf) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
