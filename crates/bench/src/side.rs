//! A side: a system under load, started and ended here, reached by its own protocol.

mod etcd;
mod floor;
mod openbao;
mod quorate;

pub(crate) use etcd::Etcd;
pub(crate) use floor::{Floor, Serve};
pub(crate) use openbao::OpenBao;
pub(crate) use quorate::{Database, Quorate};

use crate::work::{Operation, Work};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// What the report says of a side, so that nobody compares what is not alike.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Facts {
    /// Name and version.
    pub(crate) what: String,
    /// Server processes, and what of the machine they share.
    pub(crate) processes: String,
    /// Protocol and TLS of the clients' connections.
    pub(crate) connection: String,
    /// Who asks, and how that is authorised.
    pub(crate) caller: String,
    /// What is durable before a write is acknowledged.
    pub(crate) durability: String,
    /// What is recorded of each request, where, and whether it is synced before the answer.
    pub(crate) audit: String,
    /// For leases: statements and SCRAM iterations.
    pub(crate) database: String,
}

/// One client's way to a side. Calls of one connection may run one after the other only.
#[async_trait::async_trait]
pub(crate) trait Connection: Send + Sync {
    /// Does `work` once, and looks whether it was done. `n` is no other call's, on no other connection.
    async fn call(&self, work: &Work, n: u64) -> anyhow::Result<()>;
}

/// A system under load.
#[async_trait::async_trait]
pub(crate) trait Side: Send + Sync {
    /// Its name in figures and pictures.
    fn name(&self) -> &'static str;

    /// What is compared.
    fn facts(&self) -> Facts;

    /// Whether it has the operation at all.
    fn knows(&self, operation: Operation) -> bool;

    /// The processes that serve an operation, the database aside; what they started counts with them.
    fn servers(&self, operation: Operation) -> Vec<u32>;

    /// Where it writes its audit records.
    fn audit_files(&self) -> Vec<PathBuf>;

    /// Makes what `work` needs to be there.
    async fn prepare(&self, work: &Work) -> anyhow::Result<()>;

    /// Ends all logins that were issued until now, and does not wait until the database has it.
    async fn end_all(&self) -> anyhow::Result<()> {
        anyhow::bail!("{} issues no logins", self.name())
    }

    /// Another client, for calls of `work`.
    async fn connect(&self, work: &Work) -> anyhow::Result<Arc<dyn Connection>>;
}
