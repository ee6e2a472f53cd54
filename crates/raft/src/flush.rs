//! Group commit: the one place that syncs.
//!
//! Whoever needs its writes durable hands in a waiter after writing. One loop takes all waiters that are there, syncs once, and completes
//! them in the order in which they came. While a sync runs the next waiters gather, so that the busier the node, the more writes share a
//! sync.
//!
//! The first failed sync is the last: after it nobody knows which of the earlier writes the device holds, and a later success would not
//! say. The error is latched, everyone is told, and the node must end.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    entry::{LogId, Types, Vote},
    errors::Fatal,
    kv::{Kv, KvError},
    tail::Tail,
    witness::Witness,
};

enum Waiter {
    Append(IOFlushed<Types>),
    Call(oneshot::Sender<Result<(), io::Error>>),
}

/// Handle to the syncing loop; the loop ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Flusher {
    waiters: mpsc::UnboundedSender<Waiter>,
    witness: Option<Arc<Witness>>,
    failed: Arc<OnceLock<KvError>>,
    fatal: watch::Sender<Option<Fatal>>,
}

impl Flusher {
    /// Starts the loop: on a thread of its own if the store blocks, else as a task; both of the current runtime, which ends when they
    /// have. A process that ended while another thread closes its store would die of that, with any exit status but its own.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(crate) fn start(
        kv: Arc<dyn Kv>,
        tail: Arc<Tail>,
        witness: Option<Witness>,
        fatal: watch::Sender<Option<Fatal>>,
    ) -> Self {
        let (waiters, inbox) = mpsc::unbounded_channel();
        let flusher = Self { waiters, witness: witness.map(Arc::new), failed: Arc::default(), fatal: fatal.clone() };
        let work = Loop { kv, tail, witness: flusher.witness.clone(), inbox, failed: flusher.failed.clone(), fatal };
        if work.kv.blocks() {
            tokio::task::spawn_blocking(move || work.run_blocking());
        } else {
            tokio::spawn(work.run());
        }
        flusher
    }

    /// Completes `done` when everything written so far is durable.
    pub(crate) fn append(&self, done: IOFlushed<Types>) -> io::Result<()> {
        self.check()?;
        self.waiters.send(Waiter::Append(done)).map_err(|_| KvError::Closed.into())
    }

    /// Returns when everything written so far is durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.check()?;
        let (done, result) = oneshot::channel();
        self.waiters.send(Waiter::Call(done)).map_err(|_| io::Error::from(KvError::Closed))?;
        result.await.map_err(|_| io::Error::from(KvError::Closed))?
    }

    /// Fails once a sync has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone().into()))
    }

    /// Lowers the log's witness before a truncation.
    pub(crate) fn lower_witness(&self, end: Option<LogId>) -> io::Result<()> {
        match &self.witness {
            Some(witness) => witness.lower(end).map_err(|error| self.fail(KvError::from(&error))),
            None => Ok(()),
        }
    }

    /// Makes a vote that was written durable, and notes it in the log's witness.
    pub(crate) async fn sync_vote(&self, vote: &Vote) -> io::Result<()> {
        self.sync().await?;
        if let Some(witness) = &self.witness {
            witness.voted(vote);
        }
        Ok(())
    }

    /// Latches a failed write, which is as final as a failed sync.
    pub(crate) fn fail(&self, error: KvError) -> io::Error {
        let error = self.failed.get_or_init(|| error).clone();
        self.fatal.send_replace(Some(error.clone().into()));
        error.into()
    }
}

struct Loop {
    kv: Arc<dyn Kv>,
    tail: Arc<Tail>,
    witness: Option<Arc<Witness>>,
    inbox: mpsc::UnboundedReceiver<Waiter>,
    failed: Arc<OnceLock<KvError>>,
    fatal: watch::Sender<Option<Fatal>>,
}

impl Loop {
    fn run_blocking(mut self) {
        while let Some(first) = self.inbox.blocking_recv() {
            self.round(first);
        }
    }

    async fn run(mut self) {
        while let Some(first) = self.inbox.recv().await {
            // Lets those who are about to write join this round, as they would while a device is busy.
            tokio::task::yield_now().await;
            self.round(first);
        }
    }

    fn round(&mut self, first: Waiter) {
        let mut waiters = vec![first];
        while let Ok(next) = self.inbox.try_recv() {
            waiters.push(next);
        }
        let result = match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => match &self.witness {
                Some(witness) => witness.over(|| self.tail.end(), || self.kv.sync()),
                None => self.kv.sync(),
            },
        };
        if let Err(error) = &result {
            let error = self.failed.get_or_init(|| error.clone());
            self.fatal.send_replace(Some(error.clone().into()));
        }
        for waiter in waiters {
            let result = result.clone().map_err(io::Error::from);
            match waiter {
                Waiter::Append(done) => done.io_completed(result),
                // A caller that gave up waiting needs no answer.
                Waiter::Call(done) => drop(done.send(result)),
            }
        }
    }
}
