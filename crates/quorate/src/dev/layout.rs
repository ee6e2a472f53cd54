//! Where everything of a development cluster lies, and on which ports.

use crate::connection::Connection;
use crate::custodian::CustomerFolder;
use crate::operator::Operator;
use anyhow::Context as _;
use quorate_server::env::Env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// How many ports are tried.
const TRIES: usize = 1_000;

/// A port below those that the kernel gives to outgoing connections: a member that is killed gets its port back.
fn port(env: &Env) -> u16 {
    20_000 + u16::from_be_bytes(env.random()) % 12_000
}

/// A member's place.
#[derive(Debug, Clone)]
pub(crate) struct MemberPlace {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) peer: String,
    pub(crate) api: String,
}

/// The whole.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) members: Vec<MemberPlace>,
    pub(crate) custodian: String,
}

impl Layout {
    /// Chooses free ports. Another process may take one before we do: starting then fails, and says so.
    pub(crate) fn choose(folder: PathBuf, members: usize, env: &Env) -> anyhow::Result<Self> {
        // Held together, so that no port is given twice.
        let free = (0..TRIES).filter_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, port(env))).ok());
        let listeners: Vec<_> = free.take(2 * members + 1).collect();
        let mut addresses = Vec::with_capacity(listeners.len());
        for listener in &listeners {
            addresses.push(listener.local_addr()?.to_string());
        }
        let mut next = || addresses.pop().context("no free port on the loopback");
        let members = (1..=members).map(|n| {
            let name = format!("n{n}");
            Ok(MemberPlace { data: folder.join(&name), name, peer: next()?, api: next()? })
        });
        let members = members.collect::<anyhow::Result<_>>()?;
        let custodian = next()?;
        Ok(Self { members, custodian, folder })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.file("logs")
    }

    pub(crate) fn passphrase(&self) -> PathBuf {
        self.file("passphrase")
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator(self.file("operator"))
    }

    pub(crate) fn customer(&self) -> CustomerFolder {
        CustomerFolder(self.file("customer"))
    }

    /// The administrator's connection.
    pub(crate) fn admin(&self) -> Connection {
        let operator = self.operator();
        Connection {
            profile: Some(operator.file("cluster.toml")),
            identity: Some(operator.file("admin.pem")),
            ..Connection::default()
        }
    }
}
