//! The target, as whoever administers it sees it: one of seven kinds.

mod aws;
mod http;
mod kubernetes;
mod mariadb;
mod postgres;
mod rabbitmq;
mod redis;
mod resp;
mod webhook;

use crate::judge::Look;
use anyhow::Context as _;
use std::path::PathBuf;

/// Where the target is, and how it is reached.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("kind").required(true).multiple(false))]
pub(crate) struct Place {
    /// A PostgreSQL, and how to reach it as its superuser, in the words of libpq.
    #[arg(long, group = "kind")]
    target: Option<tokio_postgres::Config>,
    /// A MariaDB, and how to reach it as its administrator: `socket=/run/mysqld/mysqld.sock`, or `host=127.0.0.1`, and `port`, `user` (root)
    /// and `password-file`, each as `name=value`.
    #[arg(long, value_name = "WORDS", group = "kind")]
    mariadb: Option<mariadb::Address>,
    /// A Redis.
    #[arg(long, value_name = "HOST:PORT", group = "kind")]
    redis: Option<String>,
    /// The user as whom Redis is asked: it may list users and clients.
    #[arg(long, requires = "redis", default_value = "default")]
    redis_user: String,
    /// The file whose first line is that user's password; none, and it is not logged in as anybody.
    #[arg(long, requires = "redis", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    #[command(flatten)]
    rabbitmq: rabbitmq::Address,
    #[command(flatten)]
    kubernetes: kubernetes::Address,
    #[command(flatten)]
    aws: aws::Address,
    #[command(flatten)]
    webhook: webhook::Address,
    /// Certificates, one of which vouches for a RabbitMQ, a Kubernetes or an AWS; without them nothing is encrypted on the way.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "mariadb", "redis", "webhook"])]
    ca_file: Option<PathBuf>,
}

/// A connection to it, made anew when it is lost.
pub(crate) enum Target {
    Postgres(Box<postgres::Postgres>),
    MariaDb(Box<mariadb::MariaDb>),
    Redis(Box<redis::Redis>),
    RabbitMq(Box<rabbitmq::RabbitMq>),
    Kubernetes(Box<kubernetes::Kubernetes>),
    Aws(Box<aws::Aws>),
    Webhook(Box<webhook::Webhook>),
}

impl Target {
    /// # Errors
    /// When the file of a password or of certificates cannot be read.
    pub(crate) fn new(place: Place, prefix: String) -> anyhow::Result<Self> {
        let roots = place.ca_file;
        if let Some(address) = place.mariadb {
            return Ok(Self::MariaDb(Box::new(mariadb::MariaDb::new(address, prefix)?)));
        }
        if let Some(address) = place.redis {
            let password = place.redis_password_file.map(first_line).transpose()?;
            return Ok(Self::Redis(Box::new(redis::Redis::new(address, place.redis_user, password, prefix))));
        }
        if let Some(rabbitmq) = rabbitmq::RabbitMq::new(place.rabbitmq, roots.clone(), &prefix)? {
            return Ok(Self::RabbitMq(Box::new(rabbitmq)));
        }
        if let Some(kubernetes) = kubernetes::Kubernetes::new(place.kubernetes, roots.clone(), &prefix)? {
            return Ok(Self::Kubernetes(Box::new(kubernetes)));
        }
        if let Some(aws) = aws::Aws::new(place.aws, roots, &prefix)? {
            return Ok(Self::Aws(Box::new(aws)));
        }
        if let Some(webhook) = webhook::Webhook::new(place.webhook, &prefix) {
            return Ok(Self::Webhook(Box::new(webhook)));
        }
        let config = place.target.context("no target was given")?;
        Ok(Self::Postgres(Box::new(postgres::Postgres::new(config, prefix))))
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
            Self::RabbitMq(rabbitmq) => rabbitmq.look().await,
            Self::Kubernetes(kubernetes) => kubernetes.look().await,
            Self::Aws(aws) => aws.look().await,
            Self::Webhook(webhook) => webhook.look().await,
        }
    }
}

/// The password in a file.
fn first_line(path: PathBuf) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        place: Place,
    }

    #[test]
    fn one_target_is_said_and_no_word_of_another() {
        let read = |words: &str| Line::try_parse_from(["auditor"].into_iter().chain(words.split_whitespace()));
        let made = |words: &str| Target::new(read(words).unwrap().place, "q1_".to_owned());
        let file = tempfile_with("a secret\n");
        let file = file.path().to_str().unwrap();
        for (words, is) in [
            ("--target host=/run".to_owned(), "postgres"),
            ("--mariadb socket=/run/s".to_owned(), "mariadb"),
            (format!("--redis h:1 --redis-password-file {file}"), "redis"),
            (format!("--rabbitmq h:1 --rabbitmq-password-file {file}"), "rabbitmq"),
            (format!("--kubernetes h:1 --kubernetes-token-file {file}"), "kubernetes"),
            (format!("--aws h:1 --aws-access-key-id A --aws-secret-key-file {file}"), "aws"),
            ("--webhook data".to_owned(), "webhook"),
        ] {
            let target = made(&words).unwrap();
            let found = match target {
                Target::Postgres(_) => "postgres",
                Target::MariaDb(_) => "mariadb",
                Target::Redis(_) => "redis",
                Target::RabbitMq(_) => "rabbitmq",
                Target::Kubernetes(_) => "kubernetes",
                Target::Aws(_) => "aws",
                Target::Webhook(_) => "webhook",
            };
            assert_eq!(found, is, "{words}");
        }
        for words in ["", "--redis h:1 --webhook data", "--redis h:1 --ca-file f"] {
            assert!(read(words).is_err(), "{words}");
        }
        for words in
            ["--rabbitmq h:1", "--kubernetes h:1", "--aws h:1", "--kubernetes nowhere --kubernetes-token-file x"]
        {
            assert!(made(words).is_err(), "{words}");
        }
    }

    /// A file that says this.
    fn tempfile_with(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }
}
