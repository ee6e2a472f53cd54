//! A target in memory, and an engine on it which fails when it is told to.
//!
//! The engine keeps nothing but its connection; the accounts, the sessions and the connections are the target's. So two
//! fakes on one target are two executors, a dropped one is a node that died, and what one of them does while the other
//! is paused is what the target saw. There is no clock in here: calls wait for [`FakeTarget::release`], and for nothing
//! else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, watch};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::{SecretFields, SecretVec};

use crate::engine::check_verifier;
use crate::names::{check_name, check_names};
use crate::{
    Binding, Checked, Class, Cleaned, Cleaning, Create, Created, Engine, EngineError, Fault as Trouble, Fenced, Ghost,
    Passwords, Principal, Refusal, Refused, Seen, Slots, Standby,
};

/// A call that can be held or made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// [`Engine::bind`].
    Bind,
    /// [`Engine::create`].
    Create,
    /// [`Engine::fence`].
    Fence,
    /// [`Engine::refuse`].
    Refuse,
    /// [`Engine::kill`].
    Kill,
    /// [`Engine::look`].
    Look,
    /// [`Engine::clean`].
    Clean,
    /// [`Engine::claim`].
    Claim,
    /// [`Engine::disclaim`].
    Disclaim,
    /// [`Engine::set_password`].
    SetPassword,
    /// [`Engine::list`], [`Engine::ghosts`], [`Engine::check`], [`Engine::timeline`], [`Engine::claims`] and
    /// [`Engine::take_over`].
    Read,
}

/// Where a call fails. The caller can't tell one from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happened.
    Before,
    /// It happened; the answer is lost.
    After,
}

/// The target: what it holds, and what is about to go wrong. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct FakeTarget {
    class: Class,
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    accounts: Accounts,
    dropped: BTreeMap<String, Account>,
    sessions: BTreeMap<u64, Session>,
    /// Sessions that nobody is shown yet, and whether a kill has missed them.
    late: BTreeMap<u64, (Session, bool)>,
    standbys: BTreeMap<String, Replica>,
    timeline: u32,
    connections: BTreeSet<Binding>,
    in_flight: Vec<Binding>,
    held: BTreeSet<Step>,
    held_names: BTreeSet<String>,
    faults: BTreeMap<Step, VecDeque<Fault>>,
    denied: BTreeSet<Step>,
    lying: BTreeSet<Step>,
    lacking: BTreeSet<String>,
    unfit: BTreeSet<String>,
    /// Whether nobody but the administrative account is let in.
    barred: bool,
    refusals: usize,
    /// What the administrative account's password has to match, and whether one does.
    administrator: Option<(String, Matches)>,
    turned_away: usize,
    /// With what the administrative account was last let in.
    let_in_with: Vec<u8>,
    /// Sessions of the administrative account that no executor has opened.
    strangers: usize,
    /// The newest term of an executor here, and a number that changes when administrative sessions end.
    term: u64,
    reign: u64,
    down: bool,
    counter: u32,
}

#[derive(Clone, Debug)]
struct Session {
    oid: u32,
    /// The standby it is at; `None` where accounts are made.
    at: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Replica {
    /// The accounts as they were when its replay was paused.
    paused: Option<Accounts>,
    down: bool,
}

/// Whether a password is that of a verifier.
pub type Matches = fn(&[u8], &str) -> bool;

/// The endpoint at which accounts are made.
const PRIMARY: &str = "memory";

#[derive(Clone, Debug)]
struct Account {
    oid: u32,
    verifier: String,
    can_login: bool,
    connection_limit: usize,
    owns_in: Vec<String>,
}

/// Accounts by name, found by number too: there may be a million.
#[derive(Clone, Debug, Default)]
struct Accounts {
    by_name: BTreeMap<String, Account>,
    by_oid: BTreeMap<u32, String>,
}

impl Accounts {
    fn get(&self, name: &str) -> Option<&Account> {
        self.by_name.get(name)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Account> {
        self.by_name.get_mut(name)
    }

    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The one with that number.
    fn holder(&self, oid: u32) -> Option<&String> {
        self.by_oid.get(&oid)
    }

    fn insert(&mut self, name: &str, account: Account) -> Option<Account> {
        let before = self.remove(name);
        self.by_oid.insert(account.oid, name.to_owned());
        self.by_name.insert(name.to_owned(), account);
        before
    }

    fn remove(&mut self, name: &str) -> Option<Account> {
        let account = self.by_name.remove(name)?;
        self.by_oid.remove(&account.oid);
        Some(account)
    }

    fn iter(&self) -> impl Iterator<Item = (&String, &Account)> {
        self.by_name.iter()
    }
}

impl State {
    fn next(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// The numbers whose sessions are the principal's: that of the name, and the one asked for unless it is a stranger's.
    fn numbers(&self, principal: &Principal) -> BTreeSet<u32> {
        let of_name = self.accounts.get(&principal.name).map(|a| a.oid);
        of_name.into_iter().chain(principal.oid.filter(|_| self.held_by(principal).is_none())).collect()
    }

    fn held_by(&self, principal: &Principal) -> Option<String> {
        let holder = self.accounts.holder(principal.oid?)?;
        (*holder != principal.name).then(|| holder.clone())
    }

    fn sessions_of(&self, numbers: &BTreeSet<u32>) -> usize {
        self.sessions.values().filter(|s| numbers.contains(&s.oid)).count()
    }

    /// The accounts as that standby knows them.
    fn accounts_at(&self, standby: Option<&str>) -> &Accounts {
        standby.and_then(|s| self.standbys.get(s)?.paused.as_ref()).unwrap_or(&self.accounts)
    }

    /// The standbys that are off.
    fn dark(&self) -> Vec<Trouble> {
        let down = self.standbys.iter().filter(|(_, replica)| replica.down);
        down.map(|(name, _)| Trouble { name: name.clone(), reason: "the standby is off".to_owned() }).collect()
    }

    fn look(&self, p: &Principal) -> Seen {
        let account = self.accounts.get(&p.name);
        let lets_in = |at: Option<&str>| self.accounts_at(at).get(&p.name).is_some_and(|a| a.can_login);
        let primary = lets_in(None).then(|| PRIMARY.to_owned());
        let standbys =
            self.standbys.iter().filter(|(s, replica)| !replica.down && lets_in(Some(s))).map(|(s, _)| s.clone());
        let paused = self.standbys.iter().filter(|(_, replica)| !replica.down && replica.paused.is_some());
        let paused = paused.map(|(name, _)| Trouble { name: name.clone(), reason: "its replay is paused".to_owned() });
        let behind: Vec<Trouble> = paused.chain(self.dark()).collect();
        let login_at: Vec<String> = primary.into_iter().chain(standbys).collect();
        Seen {
            name: p.name.clone(),
            oid: account.map(|a| a.oid),
            can_login: !(login_at.is_empty() && behind.is_empty()),
            login_at,
            behind,
            sessions: u64::try_from(self.sessions_of(&self.numbers(p))).unwrap_or(u64::MAX),
            held_by: self.held_by(p),
        }
    }

    fn drop_account(&mut self, name: &str) {
        if let Some(account) = self.accounts.remove(name) {
            self.dropped.insert(name.to_owned(), account);
        }
    }
}

impl FakeTarget {
    /// An empty target. [`Class::Upsert`] overwrites, and a call in flight survives its connection; every other class is
    /// fenced by name and connection.
    #[must_use]
    pub fn new(class: Class) -> Self {
        Self { class, state: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    /// What it does with a create.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Another target that holds what this one does now, and goes its own way.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = Arc::new(Mutex::new(self.lock().clone()));
        Self { class: self.class, state, changed: Arc::new(watch::Sender::new(0)) }
    }

    /// It has a hot standby of that name from now on, which knows what the target knows.
    pub fn add_standby(&self, name: &str) {
        self.change(|s| s.standbys.insert(name.to_owned(), Replica::default()));
    }

    /// A standby knows of no change any more, until [`resume`](Self::resume).
    pub fn pause(&self, standby: &str) {
        self.change(|s| {
            let accounts = s.accounts.clone();
            if let Some(replica) = s.standbys.get_mut(standby) {
                replica.paused.get_or_insert(accounts);
            }
        });
    }

    /// The standby knows what the target knows again.
    pub fn resume(&self, standby: &str) {
        self.change(|s| s.standbys.get_mut(standby).map(|replica| replica.paused = None));
    }

    /// A standby is off, and its sessions end; or on again.
    pub fn turn(&self, standby: &str, on: bool) {
        self.change(|s| {
            if let Some(replica) = s.standbys.get_mut(standby) {
                replica.down = !on;
                s.sessions.retain(|_, session| on || session.at.as_deref() != Some(standby));
            }
        });
    }

    /// The target fails over: its timeline grows. What it forgets by that is said by [`resurrect`](Self::resurrect).
    pub fn fail_over(&self) {
        self.change(|s| s.timeline += 1);
    }

    /// An executor of its own.
    #[must_use]
    pub fn executor(&self) -> Fake {
        self.executor_in(0, SecretVec::new(Vec::new()).into())
    }

    /// One of a term, which logs in with its passwords where [`guard`](Self::guard) was called.
    #[must_use]
    pub fn executor_in(&self, term: u64, passwords: Passwords) -> Fake {
        let (connection, session) = (Mutex::new(None), Mutex::new(None));
        let (target, ending) = (self.clone(), AsyncMutex::new(()));
        Fake { target, login: None, term, passwords, session, connection, ending }
    }

    /// From now on the administrative account has the password of this verifier, and nobody else is let in. Its sessions go
    /// on until [`part`](Self::part), and those of an earlier term until a later one takes over.
    pub fn guard(&self, verifier: &str, matches: Matches) {
        self.change(|s| s.administrator = Some((verifier.to_owned(), matches)));
    }

    /// The sessions of the administrative account end.
    pub fn part(&self) {
        self.change(|s| s.reign += 1);
    }

    /// Somebody has a session of the administrative account, under a name of his own.
    pub fn intrude(&self) {
        self.change(|s| s.strangers += 1);
    }

    /// How many such sessions there are.
    #[must_use]
    pub fn strangers(&self) -> usize {
        self.lock().strangers
    }

    /// The verifier of the administrative account's password.
    #[must_use]
    pub fn administrator(&self) -> Option<String> {
        self.lock().administrator.as_ref().map(|(verifier, _)| verifier.clone())
    }

    /// With which password the administrative account was last let in.
    #[must_use]
    pub fn let_in_with(&self) -> Vec<u8> {
        self.lock().let_in_with.clone()
    }

    /// What compares the administrative account's password.
    #[must_use]
    pub fn matcher(&self) -> Option<Matches> {
        self.lock().administrator.as_ref().map(|(_, matches)| *matches)
    }

    /// How often a login of the administrative account was refused.
    #[must_use]
    pub fn turned_away(&self) -> usize {
        self.lock().turned_away
    }

    /// One that connects as an account, whatever its password, if that may log in.
    #[must_use]
    pub fn as_login(&self, name: &str) -> Fake {
        Fake { login: Some(name.to_owned()), ..self.executor() }
    }

    /// The next call of this step fails, once; repeated, the one after it too.
    pub fn fail(&self, step: Step, fault: Fault) {
        self.change(|s| s.faults.entry(step).or_default().push_back(fault));
    }

    /// How many failures of this step have not come yet.
    #[must_use]
    pub fn failures_left(&self, step: Step) -> usize {
        self.lock().faults.get(&step).map_or(0, VecDeque::len)
    }

    /// The target answers that the executor may not do this, until [`allow`](Self::allow).
    pub fn deny(&self, step: Step) {
        self.change(|s| s.denied.insert(step));
    }

    /// It may again.
    pub fn allow(&self, step: Step) {
        self.change(|s| s.denied.remove(&step));
    }

    /// The target says that it does this, [`Step::Refuse`] or [`Step::Kill`], and does not, until it is told otherwise.
    pub fn lie(&self, step: Step, lies: bool) {
        self.change(|s| if lies { s.lying.insert(step) } else { s.lying.remove(&step) });
    }

    /// Calls of this step wait in the target from now on.
    pub fn hold(&self, step: Step) {
        self.change(|s| s.held.insert(step));
    }

    /// They go on.
    pub fn release(&self, step: Step) {
        self.change(|s| s.held.remove(&step));
    }

    /// Calls of [`Engine::refuse`] that name one of these wait in the target from now on.
    pub fn hold_names(&self, names: impl IntoIterator<Item = String>) {
        self.change(|s| s.held_names.extend(names));
    }

    /// They go on.
    pub fn release_names(&self) {
        self.change(|s| s.held_names.clear());
    }

    /// There is no such group from now on: creates that ask for it are refused, as PostgreSQL does.
    pub fn lack(&self, group: &str) {
        self.change(|s| s.lacking.insert(group.to_owned()));
    }

    /// There is such a group again.
    pub fn supply(&self, group: &str) {
        self.change(|s| s.lacking.remove(group));
    }

    /// The target's check finds from now on that this group must not be granted.
    pub fn distrust(&self, group: &str) {
        self.change(|s| s.unfit.insert(group.to_owned()));
    }

    /// Whether nobody but the administrative account is let in from now on, as by a line of `pg_hba.conf`.
    pub fn bar_logins(&self, barred: bool) {
        self.change(|s| s.barred = barred);
    }

    /// How many creates were refused for want of a group.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.lock().refusals
    }

    /// The target is off: connections and sessions end, and no call gets through until [`start`](Self::start).
    pub fn stop(&self) {
        self.change(|s| {
            s.down = true;
            s.reign += 1;
            s.connections.clear();
            s.sessions.retain(|_, session| session.at.is_some());
        });
    }

    /// The target is on again.
    pub fn start(&self) {
        self.change(|s| s.down = false);
    }

    /// The account as it was when it was dropped, login included: a fail-over to a standby that lagged. Whether there
    /// was one.
    pub fn resurrect(&self, name: &str) -> bool {
        self.change(|s| match s.dropped.remove(name) {
            Some(account) => s.accounts.insert(name, Account { can_login: true, ..account }).is_none(),
            None => false,
        })
    }

    /// An account that no engine made.
    pub fn plant(&self, name: &str, can_login: bool) {
        self.change(|s| {
            let (oid, verifier) = (s.next(), String::new());
            let account = Account { oid, verifier, can_login, connection_limit: 1, owns_in: Vec::new() };
            s.accounts.insert(name, account);
        });
    }

    /// Somebody else drops an account.
    pub fn forget(&self, name: &str) {
        self.change(|s| s.accounts.remove(name));
    }

    /// How many accounts there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().accounts.by_name.len()
    }

    /// The names of all accounts, whether or not they can log in.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.lock().accounts.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The account owns something in these databases; in none, when the list is empty.
    pub fn own(&self, name: &str, databases: &[&str]) {
        self.change(|s| {
            if let Some(account) = s.accounts.get_mut(name) {
                account.owns_in = databases.iter().map(|d| (*d).to_owned()).collect();
            }
        });
    }

    /// Logs in with what the target compares; the session's number, or `None` when it is refused.
    #[must_use]
    pub fn login(&self, name: &str, verifier: &str) -> Option<u64> {
        self.login_at(None, name, verifier)
    }

    /// A session of an account at the target or a standby, as of somebody who has its password; `None` when the account may not log in there.
    #[must_use]
    pub fn enter(&self, standby: Option<&str>, name: &str) -> Option<u64> {
        let verifier = self.lock().accounts_at(standby).get(name)?.verifier.clone();
        self.login_at(standby, name, &verifier)
    }

    /// The same at a standby, which judges by the accounts that it knows of.
    #[must_use]
    pub fn login_at(&self, standby: Option<&str>, name: &str, verifier: &str) -> Option<u64> {
        self.change(|s| {
            let off = standby.map_or(s.down, |at| s.standbys.get(at).is_none_or(|replica| replica.down));
            let accounts = s.accounts_at(standby);
            let let_in = |a: &&Account| !off && !s.barred && a.can_login && a.verifier == verifier;
            let account = accounts.get(name).filter(let_in)?;
            let (oid, limit) = (account.oid, account.connection_limit);
            let here = |other: &&Session| other.oid == oid && other.at.as_deref() == standby;
            if s.sessions.values().filter(here).count() >= limit {
                return None;
            }
            let session = u64::from(s.next());
            s.sessions.insert(session, Session { oid, at: standby.map(str::to_owned) });
            Some(session)
        })
    }

    /// Somebody is let in as an account, whatever becomes of it from now on, and his session is there and shown only behind the first
    /// look after the next kill of that account. Its number, or `None` when the account may not log in.
    #[must_use]
    pub fn arrive_late(&self, name: &str) -> Option<u64> {
        self.change(|s| {
            let oid = s.accounts.get(name).filter(|account| !s.down && account.can_login)?.oid;
            let session = u64::from(s.next());
            s.late.insert(session, (Session { oid, at: None }, false));
            Some(session)
        })
    }

    /// Whether that session lives.
    #[must_use]
    pub fn alive(&self, session: u64) -> bool {
        self.lock().sessions.contains_key(&session)
    }

    /// The names of all accounts that can log in, and how many sessions live: what must be empty in the end.
    #[must_use]
    pub fn exposure(&self) -> (Vec<String>, usize) {
        let state = self.lock();
        let open = state.accounts.iter().filter(|(_, a)| a.can_login).map(|(name, _)| name.clone()).collect();
        (open, state.sessions.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|version| *version += 1);
        result
    }

    /// One call: waits while it is held, and fails before or after its effect when it is to.
    async fn call<T>(
        &self,
        step: Step,
        effect: impl FnOnce(&mut State) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let mut changed = self.changed.subscribe();
        while self.lock().held.contains(&step) {
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
        let lost = || EngineError::Unavailable { reason: "fault injected".to_owned() };
        self.change(|s| {
            if s.down {
                return Err(EngineError::Unavailable { reason: "the target is off".to_owned() });
            }
            if s.denied.contains(&step) {
                let (code, message) = ("42501".to_owned(), "permission denied".to_owned());
                return Err(EngineError::Refused { code, message });
            }
            match s.faults.get_mut(&step).and_then(VecDeque::pop_front) {
                Some(Fault::Before) => Err(lost()),
                Some(Fault::After) => effect(s).and_then(|_| Err(lost())),
                None => effect(s),
            }
        })
    }
}

/// What [`FakeTarget::login`] compares at a target that issues its secrets itself.
#[must_use]
pub fn presented(issued: &SecretFields) -> String {
    STANDARD.encode(issued.encode().expose())
}

/// Another secret for each account that there ever was.
fn issued(name: &str, oid: u32) -> Option<SecretFields> {
    SecretFields::new(vec![("token".to_owned(), SecretVec::new(format!("{name}-{oid}").into_bytes()))])
}

/// An executor of a [`FakeTarget`].
#[derive(Debug)]
pub struct Fake {
    target: FakeTarget,
    /// An account that is not the administrative one.
    login: Option<String>,
    term: u64,
    passwords: Passwords,
    /// The reign in which it was let in.
    session: Mutex<Option<u64>>,
    connection: Mutex<Option<Binding>>,
    /// What ends principals has one connection, and so one call at a time.
    ending: AsyncMutex<()>,
}

impl Fake {
    /// One call on a session of the administrative account, which is opened when there is none.
    async fn call<T>(
        &self,
        step: Step,
        effect: impl FnOnce(&mut State) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        self.target
            .call(step, |s| {
                self.enter(s)?;
                effect(s)
            })
            .await
    }

    fn enter(&self, s: &mut State) -> Result<(), EngineError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((verifier, matches)) = s.administrator.as_ref().filter(|_| self.login.is_none()) else {
            return Ok(());
        };
        if *session == Some(s.reign) {
            return Ok(());
        }
        if let Some(right) = self.passwords.all().iter().find(|known| matches(known.password.expose(), verifier)) {
            self.passwords.let_in(right.number);
            *session = Some(s.reign);
            s.let_in_with = right.password.expose().to_vec();
            return Ok(());
        }
        s.turned_away += 1;
        let message = "password authentication failed".to_owned();
        let error = EngineError::Refused { code: "28P01".to_owned(), message };
        self.passwords.refused(&error);
        Err(error)
    }

    /// Waits until the create may take effect. A connection that ends meanwhile takes the call along, except where calls
    /// outlive their connection.
    async fn fly(&self, binding: Binding) -> Result<(), EngineError> {
        let mut changed = self.target.changed.subscribe();
        loop {
            {
                let state = self.target.lock();
                if self.target.class != Class::Upsert && !state.connections.contains(&binding) {
                    return Err(EngineError::Unknown { reason: "the connection was lost".to_owned() });
                }
                if !state.held.contains(&Step::Create) {
                    return Ok(());
                }
            }
            let _ = changed.changed().await;
        }
    }

    fn land(&self, state: &mut State, create: &Create) -> Result<Created, EngineError> {
        if self.target.class != Class::Upsert && state.accounts.has(&create.name) {
            return Err(EngineError::Duplicate);
        }
        if let Some(group) = create.groups.iter().find(|g| state.lacking.contains(*g)) {
            state.refusals += 1;
            let message = format!("role \"{group}\" does not exist");
            return Err(EngineError::Refused { code: "42704".to_owned(), message });
        }
        let oid = state.next();
        let issued = (self.target.class == Class::IssuedByTarget).then(|| issued(&create.name, oid)).flatten();
        let account = Account {
            oid,
            verifier: issued.as_ref().map_or_else(|| create.verifier.clone(), presented),
            can_login: true,
            connection_limit: usize::try_from(create.connection_limit).unwrap_or(0),
            owns_in: Vec::new(),
        };
        state.accounts.insert(&create.name, account);
        Ok(Created { oid, issued })
    }
}

#[async_trait]
impl Engine for Fake {
    fn class(&self) -> Class {
        self.target.class
    }

    fn endpoints(&self) -> Vec<String> {
        core::iter::once(PRIMARY.to_owned()).chain(self.target.lock().standbys.keys().cloned()).collect()
    }

    async fn bind(&self) -> Result<Binding, EngineError> {
        let open = *self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let binding = self
            .call(Step::Bind, |s| {
                if let Some(binding) = open.filter(|b| s.connections.contains(b)) {
                    return Ok(binding);
                }
                if self.login.is_some() && s.barred {
                    let message = "pg_hba.conf rejects connection".to_owned();
                    return Err(EngineError::Refused { code: "28000".to_owned(), message });
                }
                if self.login.as_ref().is_some_and(|name| s.accounts.get(name).is_none_or(|a| !a.can_login)) {
                    let message = "password authentication failed".to_owned();
                    return Err(EngineError::Refused { code: "28P01".to_owned(), message });
                }
                let number = s.next();
                let pid = i32::try_from(number).unwrap_or(i32::MAX);
                let binding = Binding { pid, backend_start_micros: i64::from(number) };
                s.connections.insert(binding);
                Ok(binding)
            })
            .await?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(binding);
        Ok(binding)
    }

    async fn try_out(&self, name: &str, secret: &SecretVec) -> Result<(), EngineError> {
        self.call(Step::Read, |s| {
            let account = s.accounts.get(name).filter(|a| a.can_login && !s.barred);
            let right = SecretFields::decode(secret.expose())
                .is_some_and(|fields| account.is_some_and(|account| account.verifier == presented(&fields)));
            let (code, message) = ("28P01".to_owned(), "password authentication failed".to_owned());
            if right { Ok(()) } else { Err(EngineError::Refused { code, message }) }
        })
        .await
    }

    async fn create(&self, create: &Create) -> Result<Created, EngineError> {
        if self.target.class == Class::IssuedByTarget {
            create.validate_with(|_| Ok(()))?;
        } else {
            create.validate()?;
        }
        let ours = *self.connection.lock().unwrap_or_else(PoisonError::into_inner) == Some(create.binding);
        let open = self.target.change(|s| {
            let open = ours && s.connections.contains(&create.binding);
            if open {
                s.in_flight.push(create.binding);
            }
            open
        });
        if !open {
            return Err(EngineError::StaleBinding);
        }
        let flown = self.fly(create.binding).await;
        self.target.change(|s| {
            if let Some(at) = s.in_flight.iter().position(|b| *b == create.binding) {
                s.in_flight.swap_remove(at);
            }
            flown?;
            // The connection can have ended since the flight did.
            if s.down || (self.target.class != Class::Upsert && !s.connections.contains(&create.binding)) {
                return Err(EngineError::Unknown { reason: "the connection was lost".to_owned() });
            }
            match s.faults.get_mut(&Step::Create).and_then(VecDeque::pop_front) {
                None => return self.land(s, create),
                Some(Fault::Before) => {}
                Some(Fault::After) => {
                    self.land(s, create)?;
                }
            }
            s.connections.remove(&create.binding);
            Err(EngineError::Unknown { reason: "fault injected".to_owned() })
        })
    }

    async fn fence(&self, name: &str, binding: &Binding) -> Result<Fenced, EngineError> {
        check_name(name)?;
        let class = self.target.class;
        let _one = self.ending.lock().await;
        self.call(Step::Fence, |s| {
            s.connections.remove(binding);
            if class == Class::Upsert && s.in_flight.contains(binding) {
                return Err(EngineError::Busy { code: String::new(), message: "a call is in flight".to_owned() });
            }
            Ok(s.accounts.get(name).map_or(Fenced::Absent, |a| Fenced::Won { oid: a.oid }))
        })
        .await
    }

    async fn refuse(&self, principals: &[Principal]) -> Result<Vec<Refused>, EngineError> {
        check_names(principals)?;
        let refuse = |s: &mut State, p: &Principal| {
            let (numbers, lies) = (s.numbers(p), s.lying.contains(&Step::Refuse));
            let in_use = s.sessions_of(&numbers) > 0;
            let Some(account) = s.accounts.get_mut(&p.name) else {
                return Refused { name: p.name.clone(), oid: None, outcome: Refusal::Absent };
            };
            let oid = Some(account.oid);
            if lies {
                return Refused { name: p.name.clone(), oid, outcome: Refusal::Dropped };
            }
            let outcome = if in_use || !account.owns_in.is_empty() {
                account.can_login = false;
                Refusal::Disabled { groups_left: Vec::new() }
            } else {
                s.drop_account(&p.name);
                Refusal::Dropped
            };
            Refused { name: p.name.clone(), oid, outcome }
        };
        let _one = self.ending.lock().await;
        let mut changed = self.target.changed.subscribe();
        while principals.iter().any(|p| self.target.lock().held_names.contains(&p.name)) {
            // The sender lives in the target.
            let _ = changed.changed().await;
        }
        self.call(Step::Refuse, |s| Ok(principals.iter().map(|p| refuse(s, p)).collect())).await
    }

    async fn kill(&self, principals: &[Principal]) -> Result<usize, EngineError> {
        check_names(principals)?;
        let _one = self.ending.lock().await;
        self.call(Step::Kill, |s| {
            let numbers: BTreeSet<u32> = principals.iter().flat_map(|p| s.numbers(p)).collect();
            let before = s.sessions.len();
            for (late, missed) in s.late.values_mut() {
                *missed |= numbers.contains(&late.oid);
            }
            if s.lying.contains(&Step::Kill) {
                return Ok(s.sessions_of(&numbers));
            }
            s.sessions.retain(|_, session| !numbers.contains(&session.oid));
            Ok(before - s.sessions.len())
        })
        .await
    }

    async fn look(&self, principals: &[Principal]) -> Result<Vec<Seen>, EngineError> {
        check_names(principals)?;
        let _one = self.ending.lock().await;
        self.call(Step::Look, |s| {
            let seen = principals.iter().map(|p| s.look(p)).collect();
            for (number, (session, missed)) in core::mem::take(&mut s.late) {
                if missed {
                    s.sessions.insert(number, session);
                } else {
                    s.late.insert(number, (session, missed));
                }
            }
            Ok(seen)
        })
        .await
    }

    async fn clean(&self, principals: &[Principal]) -> Result<Vec<Cleaned>, EngineError> {
        check_names(principals)?;
        let clean = |s: &mut State, p: &Principal| {
            let databases = s.accounts.get(&p.name).map(|a| a.owns_in.clone()).unwrap_or_default();
            let outcome = if databases.is_empty() {
                s.drop_account(&p.name);
                Cleaning::Gone
            } else {
                Cleaning::Left { databases, reason: None }
            };
            Cleaned { name: p.name.clone(), outcome }
        };
        // On a connection of its own.
        self.call(Step::Clean, |s| Ok(principals.iter().map(|p| clean(s, p)).collect())).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Principal>, EngineError> {
        check_name(prefix)?;
        let ours = |(name, account): (&String, &Account)| Principal { name: name.clone(), oid: Some(account.oid) };
        let starts = |(name, _): &(&String, &Account)| name.starts_with(prefix);
        self.call(Step::Read, |s| Ok(s.accounts.iter().filter(starts).map(ours).collect())).await
    }

    async fn ghosts(&self) -> Result<(Vec<Ghost>, Vec<Trouble>), EngineError> {
        self.call(Step::Read, |s| {
            let ghost = |(id, session): (&u64, &Session)| Ghost {
                endpoint: session.at.clone().unwrap_or_else(|| PRIMARY.to_owned()),
                pid: i32::try_from(*id).unwrap_or(i32::MAX),
                oid: session.oid,
            };
            let lost = s.sessions.iter().filter(|(_, session)| s.accounts.holder(session.oid).is_none());
            Ok((lost.map(ghost).collect(), s.dark()))
        })
        .await
    }

    async fn check(&self, groups: &[String]) -> Result<Checked, EngineError> {
        let endpoints = self.endpoints();
        let unfit = |group: &String| Trouble { name: group.clone(), reason: "it has power".to_owned() };
        let check = |s: &mut State| {
            let standby = |name: &String| {
                let state = "streaming".to_owned();
                Standby { application_name: name.clone(), client_addr: None, state }
            };
            Ok(Checked {
                server_version: 1,
                timeline: s.timeline + 1,
                endpoints,
                standbys: s.standbys.iter().filter(|(_, r)| !r.down).map(|(name, _)| standby(name)).collect(),
                unseen: s.dark(),
                databases: Vec::new(),
                unfit: groups.iter().filter(|group| s.unfit.contains(*group)).map(unfit).collect(),
                slots: Slots { free: u32::MAX, kept: Some(true) },
                missing: Vec::new(),
            })
        };
        self.call(Step::Read, check).await
    }

    async fn timeline(&self) -> Result<u32, EngineError> {
        self.call(Step::Read, |s| Ok(s.timeline + 1)).await
    }

    async fn claims(&self, prefix: &str) -> Result<Vec<String>, EngineError> {
        check_name(prefix)?;
        let names = |s: &mut State| {
            Ok(s.accounts.iter().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).cloned().collect())
        };
        self.call(Step::Read, names).await
    }

    async fn claim(&self, name: &str) -> Result<(), EngineError> {
        check_name(name)?;
        let claim = |s: &mut State| {
            if s.accounts.has(name) {
                return Err(EngineError::Duplicate);
            }
            let (oid, verifier) = (s.next(), String::new());
            let mark = Account { oid, verifier, can_login: false, connection_limit: 0, owns_in: Vec::new() };
            s.accounts.insert(name, mark);
            Ok(())
        };
        self.call(Step::Claim, claim).await
    }

    async fn disclaim(&self, names: &[String]) -> Result<Vec<String>, EngineError> {
        names.iter().try_for_each(|name| check_name(name))?;
        let disclaim = |s: &mut State| {
            let is_mark = |a: &Account| !a.can_login && a.connection_limit == 0;
            for name in names {
                if s.accounts.get(name).is_some_and(is_mark) {
                    s.accounts.remove(name);
                }
            }
            Ok(names.iter().filter(|name| s.accounts.has(name)).cloned().collect())
        };
        self.call(Step::Disclaim, disclaim).await
    }

    async fn take_over(&self) -> Result<usize, EngineError> {
        self.call(Step::Read, |s| {
            let mut ended = 0;
            if self.term > s.term {
                ended = usize::from(s.term > 0);
                (s.term, s.reign) = (self.term, s.reign + 1);
                *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(s.reign);
            }
            Ok(ended)
        })
        .await
    }

    async fn end_strangers(&self) -> Result<usize, EngineError> {
        self.call(Step::Read, |s| Ok(core::mem::take(&mut s.strangers))).await
    }

    async fn set_password(&self, verifier: &str, binding: &Binding) -> Result<(), EngineError> {
        check_verifier(verifier)?;
        let ours = *self.connection.lock().unwrap_or_else(PoisonError::into_inner) == Some(*binding);
        self.call(Step::SetPassword, |s| {
            if !(ours && s.connections.contains(binding)) {
                return Err(EngineError::StaleBinding);
            }
            if let Some((known, _)) = &mut s.administrator {
                verifier.clone_into(known);
            }
            Ok(())
        })
        .await
    }

    fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}
