//! Questions that wait for a session: bounded, and refused at once while nobody is there to take them.

use crate::{DeriveError, Derived, Question};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most questions that wait: four requests of the largest size.
pub(crate) const CAPACITY: usize = 1024;

/// Who gets the values of one request when the last of them is there.
type Reply = Box<dyn FnOnce(Vec<Derived>) + Send>;

/// The values of one request, as they come.
struct Gathered {
    values: Vec<Option<Derived>>,
    missing: usize,
    reply: Option<Reply>,
}

/// One question under way. It is answered exactly once, at the latest when it is dropped.
pub(crate) struct Job {
    pub(crate) question: Question,
    at: usize,
    /// How often it may still be tried: a token can go away in the middle of it.
    tries: u8,
    of: Arc<Mutex<Gathered>>,
    answered: bool,
}

impl Job {
    pub(crate) fn answer(mut self, value: Derived) {
        self.put(value);
    }

    /// Counts a try that failed for the token's sake; `false` when that was the last one.
    pub(crate) fn again(&mut self) -> bool {
        self.tries = self.tries.saturating_sub(1);
        self.tries > 0
    }

    fn put(&mut self, value: Derived) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let mut of = lock(&self.of);
        if let Some(slot) = of.values.get_mut(self.at) {
            *slot = Some(value);
        }
        of.missing = of.missing.saturating_sub(1);
        if of.missing > 0 {
            return;
        }
        let reply = of.reply.take();
        let values = std::mem::take(&mut of.values);
        drop(of);
        if let Some(reply) = reply {
            reply(values.into_iter().map(|value| value.unwrap_or_else(|| Err(gone()))).collect());
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.put(Err(gone()));
    }
}

fn gone() -> DeriveError {
    DeriveError::Unavailable("the pool of sessions has ended".to_owned())
}

/// The jobs of one request, each of which is tried so often.
pub(crate) fn jobs(questions: Vec<Question>, tries: u8, reply: impl FnOnce(Vec<Derived>) + Send + 'static) -> Vec<Job> {
    if questions.is_empty() {
        reply(Vec::new());
        return Vec::new();
    }
    let values = questions.iter().map(|_| None).collect();
    let of = Gathered { values, missing: questions.len(), reply: Some(Box::new(reply)) };
    let of = Arc::new(Mutex::new(of));
    let job = |(at, question)| Job { question, at, tries, of: Arc::clone(&of), answered: false };
    questions.into_iter().enumerate().map(job).collect()
}

struct State {
    jobs: VecDeque<Job>,
    /// Sessions that take jobs.
    ready: usize,
    closed: bool,
    /// Why there is none, for whoever asks meanwhile.
    trouble: String,
}

/// What a session gets when it asks for work.
pub(crate) enum Next {
    Job(Job),
    /// Nothing came in time.
    Idle,
    Closed,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is a job, or the end.
    wake: Condvar,
    /// There is the end: those that wait for something else than jobs must not be woken in the place of one that does.
    ended: Condvar,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let state = State { jobs: VecDeque::new(), ready: 0, closed: false, trouble: "not connected yet".to_owned() };
        Self { state: Mutex::new(state), wake: Condvar::new(), ended: Condvar::new() }
    }

    /// Takes jobs in, or answers them with why not.
    pub(crate) fn put(&self, jobs: Vec<Job>) {
        let mut refused = Vec::new();
        let mut state = lock(&self.state);
        for job in jobs {
            let why = if state.closed {
                gone()
            } else if state.ready == 0 {
                DeriveError::Unavailable(state.trouble.clone())
            } else if state.jobs.len() >= CAPACITY {
                DeriveError::Busy(CAPACITY)
            } else {
                state.jobs.push_back(job);
                self.wake.notify_one();
                continue;
            };
            refused.push((job, why));
        }
        drop(state);
        // Without the lock: the last answer calls whoever asked.
        refused.into_iter().for_each(|(job, why)| job.answer(Err(why)));
    }

    /// The next job, in at most `patience`.
    pub(crate) fn next(&self, patience: Duration) -> Next {
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let waited = self.wake.wait_timeout_while(lock(&self.state), patience, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Next::Closed;
        }
        state.jobs.pop_front().map_or(Next::Idle, Next::Job)
    }

    /// Puts a job back to the front, for another session; answers it where there is none.
    pub(crate) fn put_back(&self, job: Job, why: &str) {
        let mut state = lock(&self.state);
        if state.closed || state.ready == 0 {
            drop(state);
            job.answer(Err(DeriveError::Unavailable(why.to_owned())));
            return;
        }
        state.jobs.push_front(job);
        self.wake.notify_one();
    }

    /// A session takes jobs from here on.
    pub(crate) fn join(&self) {
        lock(&self.state).ready += 1;
    }

    /// A session takes none any more. What waits is answered when it was the last one.
    pub(crate) fn leave(&self, trouble: &str) {
        let mut state = lock(&self.state);
        state.ready = state.ready.saturating_sub(1);
        state.trouble = trouble.to_owned();
        if state.ready > 0 {
            return;
        }
        let left = std::mem::take(&mut state.jobs);
        drop(state);
        left.into_iter().for_each(|job| job.answer(Err(DeriveError::Unavailable(trouble.to_owned()))));
    }

    /// Why no session is there, for whoever asks while none is.
    pub(crate) fn trouble(&self, why: &str) {
        lock(&self.state).trouble = why.to_owned();
    }

    pub(crate) fn ready(&self) -> usize {
        lock(&self.state).ready
    }

    /// Waits before another try to connect; `false` when the pool has ended.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(lock(&self.state), time, |state| !state.closed);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.closed
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let left = std::mem::take(&mut state.jobs);
        drop(state);
        self.wake.notify_all();
        self.ended.notify_all();
        drop(left);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crypto::customer::{Part, PartSuite};
    use std::sync::mpsc;

    fn questions(n: usize) -> Vec<Question> {
        let part = Part { suite: PartSuite::P256, cust_key_id: [0; 32], ct: Vec::new() };
        (0..n).map(|_| Question { object: Vec::new(), wrap: Vec::new(), part: part.clone() }).collect()
    }

    fn ask(queue: &Queue, n: usize) -> mpsc::Receiver<Vec<Derived>> {
        let (answer, answered) = mpsc::channel();
        queue.put(jobs(questions(n), 2, move |values| answer.send(values).unwrap()));
        answered
    }

    fn errors(values: Vec<Derived>) -> Vec<DeriveError> {
        values.into_iter().map(Result::unwrap_err).collect()
    }

    #[test]
    fn nobody_waits_while_no_session_is_there() {
        let queue = Queue::new();
        queue.trouble("the token is gone");
        let refused = errors(ask(&queue, 2).recv().unwrap());
        assert_eq!(refused, vec![DeriveError::Unavailable("the token is gone".to_owned()); 2]);
        assert!(ask(&queue, 0).recv().unwrap().is_empty());
    }

    #[test]
    fn the_last_session_that_leaves_answers_what_waits() {
        let queue = Queue::new();
        queue.join();
        queue.join();
        let waiting = ask(&queue, 3);
        queue.leave("one");
        assert!(waiting.try_recv().is_err(), "another session is there");
        queue.leave("two");
        assert_eq!(errors(waiting.recv().unwrap())[2], DeriveError::Unavailable("two".to_owned()));
    }

    #[test]
    fn as_many_wait_as_may_and_the_rest_is_told_so() {
        let queue = Queue::new();
        queue.join();
        let first = ask(&queue, CAPACITY);
        let more = errors(ask(&queue, 2).recv().unwrap());
        assert_eq!(more, [DeriveError::Busy(CAPACITY), DeriveError::Busy(CAPACITY)]);
        assert!(first.try_recv().is_err());
        queue.close();
        assert_eq!(errors(first.recv().unwrap()).len(), CAPACITY, "the end of the pool answers everybody");
        assert!(matches!(queue.next(Duration::ZERO), Next::Closed) && !queue.pause(Duration::ZERO));
    }

    #[test]
    fn answers_keep_the_order_of_their_questions_and_a_lost_job_is_answered() {
        let queue = Queue::new();
        queue.join();
        let answered = ask(&queue, 3);
        let mut taken: Vec<Job> = (0..3)
            .map(|_| match queue.next(Duration::ZERO) {
                Next::Job(job) => job,
                Next::Idle | Next::Closed => panic!("three wait"),
            })
            .collect();
        assert!(matches!(queue.next(Duration::from_millis(1)), Next::Idle));
        taken.remove(2).answer(Err(DeriveError::Busy(2)));
        let mut second = taken.remove(1);
        assert!(second.again(), "it is tried twice");
        queue.put_back(second, "away");
        let Next::Job(mut second) = queue.next(Duration::ZERO) else { panic!("it waits again") };
        assert!(!second.again());
        second.answer(Err(DeriveError::Busy(1)));
        drop(taken);
        let values = errors(answered.recv().unwrap());
        assert!(matches!(values[0], DeriveError::Unavailable(_)), "nobody answered it");
        assert_eq!(values[1..], [DeriveError::Busy(1), DeriveError::Busy(2)]);
    }
}
