//! The log as the rest of the member sees it: a bounded queue, one thread that writes and syncs, and receipts.

use crate::disk::{Disk, RealDisk};
use crate::record::Entry;
use crate::verify::Head;
use crate::writer::{AuditError, Class, Config, Durable, OpenError, Recovered, Status, Writer};
use futures::channel::oneshot;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};

/// At most this many normal records wait; one more gets [`AuditError::Busy`].
pub const NORMAL_QUEUE: usize = 4096;
/// At most this many essential records wait, whatever number of normal ones does.
pub const ESSENTIAL_QUEUE: usize = 1024;

/// The open log of this member. Dropping it writes what waits, and then closes it.
pub struct AuditLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The writer, where there is no thread that has it.
    in_place: Option<Mutex<Writer>>,
}

impl AuditLog {
    /// Opens or creates the log in a directory.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, config: Config) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(Box::new(RealDisk::open(dir)?), config)
    }

    /// [`AuditLog::open`], on any storage.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(disk: Box<dyn Disk>, config: Config) -> Result<(Self, Recovered), OpenError> {
        let (shared, mut writer, recovered) = Shared::open(disk, config)?;
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(move || theirs.run(&mut writer))?;
        Ok((Self { shared, thread: Some(thread), in_place: None }, recovered))
    }

    /// [`AuditLog::open_on`], without a thread: every append writes and syncs before it returns. For simulations, which must do
    /// the same in the same order every time.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_in_place(disk: Box<dyn Disk>, config: Config) -> Result<(Self, Recovered), OpenError> {
        let (shared, writer, recovered) = Shared::open(disk, config)?;
        Ok((Self { shared, thread: None, in_place: Some(Mutex::new(writer)) }, recovered))
    }

    /// Queues a record, without waiting. What it describes must not happen before the receipt says that it is durable.
    ///
    /// Records are written in the order of the calls.
    pub fn append(&self, entry: Entry, class: Class) -> Receipt {
        let (reply, receipt) = oneshot::channel();
        let refused = self.shared.push(Waiting { entry, class, reply });
        if let Err((reply, error)) = refused {
            // The receiver is right here.
            let _ = reply.send(Err(error));
        } else if let Some(writer) = &self.in_place {
            self.shared.write_waiting(&mut writer.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Receipt(receipt)
    }

    /// The end of what is durable: tell it to those who shall notice when the log is cut or rewritten.
    #[must_use]
    pub fn head(&self) -> Head {
        self.shared.lock().state.0
    }

    /// Whether records can be written, as of the last one that was tried: to be shown, not to be asked before an append,
    /// because only an append finds out that there is room again.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.lock().state.1.clone()
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("state", &self.shared.lock().state).finish_non_exhaustive()
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread has nothing to tell: what it wrote is in the receipts.
            let _ = thread.join();
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    waiting: VecDeque<Waiting>,
    normal: usize,
    essential: usize,
    closed: bool,
    state: (Head, Status),
}

type Reply = oneshot::Sender<Result<Durable, AuditError>>;

struct Waiting {
    entry: Entry,
    class: Class,
    reply: Reply,
}

impl Shared {
    /// Nothing in here panics with the lock held, and a queue is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, waiting: Waiting) -> Result<(), (Reply, AuditError)> {
        let mut queue = self.lock();
        if let Status::Failed(broken) = &queue.state.1 {
            return Err((waiting.reply, AuditError::Failed(Arc::clone(broken))));
        }
        let (count, bound) = match waiting.class {
            Class::Normal => (&mut queue.normal, NORMAL_QUEUE),
            Class::Essential => (&mut queue.essential, ESSENTIAL_QUEUE),
        };
        if *count >= bound {
            return Err((waiting.reply, AuditError::Busy));
        }
        *count += 1;
        queue.waiting.push_back(waiting);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    fn open(disk: Box<dyn Disk>, config: Config) -> Result<(Arc<Self>, Writer, Recovered), OpenError> {
        let (writer, recovered) = Writer::open(disk, config)?;
        let queue = Queue { waiting: VecDeque::new(), normal: 0, essential: 0, closed: false, state: writer.state() };
        Ok((Arc::new(Self { queue: Mutex::new(queue), wake: Condvar::new() }), writer, recovered))
    }

    fn run(&self, writer: &mut Writer) {
        while self.wait() {
            self.write_waiting(writer);
        }
    }

    /// Writes all that waits now.
    fn write_waiting(&self, writer: &mut Writer) {
        let waiting = {
            let mut queue = self.lock();
            queue.normal = 0;
            queue.essential = 0;
            std::mem::take(&mut queue.waiting)
        };
        let (batch, replies): (Vec<_>, Vec<_>) = waiting.into_iter().map(|w| ((w.entry, w.class), w.reply)).unzip();
        let answers = writer.append(&batch);
        self.lock().state = writer.state();
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Who dropped the receipt does not want to know; the record stands.
            let _ = reply.send(answer);
        }
    }

    /// Waits until something waits; false once the log is closed and empty.
    fn wait(&self) -> bool {
        let mut queue = self.lock();
        while queue.waiting.is_empty() {
            if queue.closed {
                return false;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

/// Tells when a record is durable: a future on any runtime, or [`Receipt::wait`] without one.
///
/// Dropping it doesn't take the record back. It waits as long as the disk does: who must answer in time bounds the wait, and
/// answers that the audit is unavailable.
#[derive(Debug)]
#[must_use = "nothing may leave before the record is durable"]
pub struct Receipt(oneshot::Receiver<Result<Durable, AuditError>>);

impl Receipt {
    /// Waits on this thread.
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn wait(mut self) -> Result<Durable, AuditError> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl Future for Receipt {
    type Output = Result<Durable, AuditError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(AuditError::Closed)))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests;
