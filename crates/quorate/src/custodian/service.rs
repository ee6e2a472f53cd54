//! The custodian's port.
//!
//! One way leads to a value: authenticate the caller by the customer's own roots, decode the labels, decide by the
//! rules on exactly these labels, record the use durably, derive. The freeze is read first and held to the end, so that a
//! freeze that was confirmed lets nothing through that it overtook.

use super::config::CustodianConfig;
use super::freeze::{Freeze, Frozen};
use crate::failure::Stop;
use crate::files;
use anyhow::Context as _;
use quorate_api::MAX_MESSAGE;
use quorate_api::client::{certificates, decode_part, load_server_identity, other_key};
use quorate_api::custodian::custodian_server::{Custodian, CustodianServer};
use quorate_api::custodian::{
    DeriveItem, DeriveReply, DeriveRequest, DerivedItem, FreezeRequest, StatusReply, StatusRequest, ThawRequest,
    TokenStatus,
};
use quorate_api::status::{
    AUDIT_UNAVAILABLE, CUSTODIAN_DENIED, CUSTODIAN_FROZEN, CUSTODIAN_OTHER_KEY, CUSTODIAN_UNAVAILABLE, Failure,
    INTERNAL, INVALID_ARGUMENT, OVERLOADED, UNAUTHENTICATED, coded,
};
use quorate_api::tls::{ClientChain, accept_clients, api_server_config};
use quorate_audit::{AuditLog, Class, Decision, Detail, Entry, Kind, Receipt, RecordId};
use quorate_authz::authenticate;
use quorate_crypto::sealed::{ObjectLabel, WrapLabel};
use quorate_crypto::secret::Secret;
use quorate_fragment::{DeriveError, Derived, Fragment, Question};
use quorate_server::env::Env;
use quorate_state::genesis::ClientRoots;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;
use tokio::sync::{RwLock, oneshot};
use tonic::{Request, Response, Status};

/// The most items of one question.
const MAX_ITEMS: usize = 256;
/// The longest reason of a freeze, in bytes.
const MAX_REASON: usize = 1024;

/// How long tokens may take. A client waits for 10 s, and a freeze for the values that are under way: a token that hangs must hold up neither.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(8);

/// How long clients may finish when the custodian is to end.
const GRACE: std::time::Duration = std::time::Duration::from_secs(3);

/// Runs a custodian until `shutdown`.
pub(crate) async fn serve(
    config: CustodianConfig,
    fragment: Fragment,
    env: Env,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    serve_on(listener, config, fragment, env, shutdown).await
}

/// The same on a port that is open.
async fn serve_on(
    listener: TcpListener,
    config: CustodianConfig,
    fragment: Fragment,
    env: Env,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (tls, _) =
        load_server_identity(&config.server).map_err(|why| Stop::configuration(format!("`server`: {why}")))?;
    let port = Port::open(config, fragment, env)?;
    let tls = api_server_config(&tls, &port.roots.certificates)
        .map_err(|why| Stop::configuration(format!("`client_roots`: {why}")))?;
    let (address, frozen) = (listener.local_addr()?, port.freeze.read().await.state().is_some());
    tracing::info!(%address, frozen, "the custodian is up");
    let service = CustodianServer::new(port).max_decoding_message_size(MAX_MESSAGE);
    let (asked, mut ending) = tokio::sync::watch::channel(false);
    let until = async move {
        shutdown.await;
        let _ = asked.send(true);
    };
    let served = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .layer(coded())
        .add_service(service)
        .serve_with_incoming_shutdown(accept_clients(listener, tls), until);
    // Answers under way get a moment; a client that will not let go does not keep the custodian.
    let grace = async {
        let _ = ending.wait_for(|ending| *ending).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served => served.map_err(|why| Stop::Fatal(format!("the port stopped serving: {why}")).into()),
        () = grace => Ok(()),
    }
}

struct Port {
    config: CustodianConfig,
    fragment: Arc<Fragment>,
    roots: ClientRoots,
    freeze: RwLock<Freeze>,
    audit: AuditLog,
    env: Env,
    derived: AtomicU64,
    refused: AtomicU64,
}

impl Port {
    fn open(config: CustodianConfig, fragment: Fragment, env: Env) -> anyhow::Result<Self> {
        let fragment = Arc::new(fragment);
        let mut roots = Vec::new();
        for path in &config.client_roots {
            roots.append(&mut certificates(&files::read(path)?).with_context(|| path.display().to_string())?);
        }
        let roots = ClientRoots { certificates: roots, trust_domain: config.trust_domain.clone() };
        files::private_folder(&config.state_dir)?;
        let freeze = RwLock::new(Freeze::open(&config.state_dir)?);
        let folder = config.state_dir.join("audit");
        files::private_folder(&folder)?;
        let settings = quorate_audit::Config::new("custodian", &config.cluster, env.clock.wall());
        let (audit, recovered) =
            AuditLog::open(&folder, settings).with_context(|| format!("the audit log in {}", folder.display()))?;
        if recovered.torn_bytes > 0 {
            tracing::warn!(bytes = recovered.torn_bytes, "an unfinished audit record was trimmed");
        }
        let (derived, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { config, fragment, roots, freeze, audit, env, derived, refused })
    }

    /// Who is calling, by the certificate as it stands now: it may have ended since the handshake.
    fn caller<T>(&self, request: &Request<T>) -> Result<String, Failure> {
        let chain = request.extensions().get::<ClientChain>();
        let chain = chain.ok_or_else(|| Failure::new(UNAUTHENTICATED, "the connection has no certificate"))?;
        let principal = authenticate(&chain.0, &self.roots, self.env.clock.wall());
        principal.map(|p| p.id().as_str().to_owned()).map_err(|why| Failure::new(UNAUTHENTICATED, why))
    }

    fn warden<T>(&self, request: &Request<T>, to: &str) -> Result<String, Failure> {
        let caller = self.caller(request)?;
        if self.config.is_warden(&caller) {
            return Ok(caller);
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Failure::new(CUSTODIAN_DENIED, format!("{caller} is no warden, who may {to}")))
    }

    /// Decides on one item, and queues its record.
    fn decide(
        &self,
        caller: &str,
        id: &[u8; 16],
        item: &DeriveItem,
        frozen: bool,
    ) -> (Receipt, Result<Question, Failure>) {
        let decided = self.rule(caller, item, frozen);
        let entry = Entry::new(self.env.clock.wall(), Kind::Decision, RecordId::request(id), "custodian.derive");
        let mut entry = entry.principal(caller).detail("part", Detail::number(item.part.len() as u64));
        if let Ok(wrap) = WrapLabel::decode(&item.wrap_label) {
            entry = entry.resource(&format!("secret {}:{}", wrap.namespace, wrap.path));
        }
        if let Ok(object) = ObjectLabel::decode(&item.object_label) {
            entry = entry
                .detail("version", Detail::id(&object.version_id))
                .detail("cluster", Detail::hash(&object.cluster));
        }
        let entry = match &decided {
            Ok(_) => entry.decision(Decision::Allow, "rule"),
            Err(failure) => entry.decision(Decision::Deny, failure.code),
        };
        (self.audit.append(entry, Class::Normal), decided)
    }

    fn rule(&self, caller: &str, item: &DeriveItem, frozen: bool) -> Result<Question, Failure> {
        if frozen {
            return Err(Failure::new(CUSTODIAN_FROZEN, "the customer key is frozen"));
        }
        let malformed = |what: &str| Failure::new(INVALID_ARGUMENT, format!("the {what} is malformed"));
        let object = ObjectLabel::decode(&item.object_label).map_err(|_| malformed("object label"))?;
        let wrap = WrapLabel::decode(&item.wrap_label).map_err(|_| malformed("wrap label"))?;
        let part = decode_part(&item.part).ok_or_else(|| malformed("part"))?;
        if !self.config.allows(caller, &object, &wrap) {
            let what = format!("no rule lets {caller} open {}:{}", wrap.namespace, wrap.path);
            return Err(Failure::new(CUSTODIAN_DENIED, what));
        }
        if part.cust_key_id != self.fragment.public().id() {
            let what = other_key(&part, self.fragment.public());
            return Err(Failure::new(CUSTODIAN_OTHER_KEY, format!("{what} that this custodian holds")));
        }
        Ok(Question { object: item.object_label.clone(), wrap: item.wrap_label.clone(), part })
    }

    fn note(&self, caller: &str, operation: &'static str) -> Receipt {
        let id = RecordId::request(&self.env.random());
        let entry = Entry::new(self.env.clock.wall(), Kind::Decision, id, operation);
        self.audit.append(entry.principal(caller).decision(Decision::Allow, "warden"), Class::Essential)
    }

    fn status(&self, frozen: Option<&Frozen>) -> StatusReply {
        StatusReply {
            customer_key_id: self.fragment.public().id().to_vec(),
            frozen: frozen.is_some(),
            frozen_reason: frozen.map(|f| f.reason.clone()).unwrap_or_default(),
            frozen_at: frozen.map_or(0, |f| f.at),
            derived: self.derived.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            home: home(&self.fragment).to_owned(),
            tokens: tokens(&self.fragment),
        }
    }

    /// Asks the fragment what the rules have allowed: each answer in the place of its question, refusals in theirs.
    async fn ask(&self, wanted: Vec<Result<Question, Failure>>) -> Result<Vec<Result<Secret<32>, Failure>>, Failure> {
        let mut questions = Vec::with_capacity(wanted.len());
        let refused: Vec<Option<Failure>> =
            wanted.into_iter().map(|w| w.map(|question| questions.push(question)).err()).collect();
        let (answer, answered) = oneshot::channel();
        let fragment = Arc::clone(&self.fragment);
        // From a file: milliseconds of curve and lattice arithmetic for a full question, not among the tasks that others wait for.
        // Tokens answer from threads of their own. Nobody listens any more where this was too late.
        let asking = tokio::task::spawn_blocking(move || {
            fragment.derive(questions, move |values: Vec<Derived>| drop(answer.send(values)));
        });
        asking.await.map_err(|why| Failure::new(INTERNAL, why))?;
        let Ok(values) = tokio::time::timeout(PATIENCE, answered).await else {
            let what = format!("no token has answered in {} s", PATIENCE.as_secs());
            return Err(Failure::new(CUSTODIAN_UNAVAILABLE, what));
        };
        let mut values = values.map_err(|why| Failure::new(INTERNAL, why))?.into_iter();
        let missing = || Err(DeriveError::Unavailable("it left a question unanswered".to_owned()));
        let each = refused.into_iter().map(|refusal| match refusal {
            Some(refusal) => Err(refusal),
            None => values.next().unwrap_or_else(missing).map_err(failure),
        });
        Ok(each.collect())
    }
}

fn home(fragment: &Fragment) -> &'static str {
    match fragment {
        Fragment::File(_) => "file",
        #[cfg(feature = "pkcs11")]
        Fragment::Token(_) => "tokens",
    }
}

#[cfg(feature = "pkcs11")]
fn tokens(fragment: &Fragment) -> Vec<TokenStatus> {
    let status = |health: quorate_fragment::token::Health| {
        let (code, trouble) = health.trouble.unwrap_or_default();
        TokenStatus {
            token: health.token,
            ready: health.ready,
            sessions: health.sessions,
            answered: health.answered,
            failed: health.failed,
            seconds: health.seconds,
            code: code.to_owned(),
            trouble,
        }
    };
    fragment.health().into_iter().map(status).collect()
}

#[cfg(not(feature = "pkcs11"))]
fn tokens(_: &Fragment) -> Vec<TokenStatus> {
    Vec::new()
}

/// What a caller is told of a value that there is not.
fn failure(why: DeriveError) -> Failure {
    let code = match why {
        DeriveError::Part(_) => CUSTODIAN_OTHER_KEY,
        DeriveError::Unavailable(_) => CUSTODIAN_UNAVAILABLE,
        DeriveError::Busy(_) => OVERLOADED,
    };
    Failure::new(code, why)
}

fn refusal(failure: Failure) -> DerivedItem {
    DerivedItem { value: Vec::new(), refusal: failure.code.to_owned(), reason: failure.message }
}

async fn durable(receipt: Receipt) -> Result<(), Failure> {
    receipt.await.map(drop).map_err(|why| Failure::new(AUDIT_UNAVAILABLE, why))
}

#[tonic::async_trait]
impl Custodian for Port {
    async fn derive(&self, request: Request<DeriveRequest>) -> Result<Response<DeriveReply>, Status> {
        let caller = self.caller(&request)?;
        let DeriveRequest { request_id, items } = request.into_inner();
        let id = <[u8; 16]>::try_from(request_id.as_slice());
        let id = id.map_err(|_| Failure::new(INVALID_ARGUMENT, "the request id has not 16 bytes"))?;
        if items.is_empty() || items.len() > MAX_ITEMS {
            let what = format!("{} items instead of 1 to {MAX_ITEMS}", items.len());
            return Err(Failure::new(INVALID_ARGUMENT, what).into());
        }
        // Held until the values are on their way: a freeze waits for this, and then nothing follows it.
        let freeze = self.freeze.read().await;
        let frozen = freeze.state().is_some();
        let mut wanted = Vec::with_capacity(items.len());
        let mut receipts = Vec::with_capacity(items.len());
        for item in &items {
            let (receipt, decided) = self.decide(&caller, &id, item, frozen);
            receipts.push(receipt);
            wanted.push(decided);
        }
        for receipt in receipts {
            durable(receipt).await?;
        }
        let derived = self.ask(wanted).await?;
        let given = derived.iter().filter(|d| d.is_ok()).count();
        self.derived.fetch_add(given as u64, Ordering::Relaxed);
        self.refused.fetch_add((derived.len() - given) as u64, Ordering::Relaxed);
        let value = |kc: Secret<32>| DerivedItem { value: kc.expose().to_vec(), ..DerivedItem::default() };
        let items = derived.into_iter().map(|d| d.map_or_else(refusal, value)).collect();
        Ok(Response::new(DeriveReply { items }))
    }

    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<StatusReply>, Status> {
        let caller = self.warden(&request, "freeze it")?;
        let mut reason = request.into_inner().reason;
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let mut freeze = self.freeze.write().await;
        let frozen = Frozen { by: caller.clone(), reason, at: self.env.clock.wall() };
        let written = freeze.begin(frozen);
        // The record comes second: an audit log that is full must not stop a freeze.
        if let Err(why) = durable(self.note(&caller, "custodian.freeze")).await {
            tracing::error!(%why, caller, "frozen, but not recorded");
        }
        written.map_err(|why| Failure::new(INTERNAL, format!("frozen until the next start only: {why}")))?;
        tracing::warn!(caller, "frozen");
        Ok(Response::new(self.status(freeze.state())))
    }

    async fn thaw(&self, request: Request<ThawRequest>) -> Result<Response<StatusReply>, Status> {
        let caller = self.warden(&request, "thaw it")?;
        let mut freeze = self.freeze.write().await;
        durable(self.note(&caller, "custodian.thaw")).await?;
        freeze.end().map_err(|why| Failure::new(INTERNAL, format!("still frozen: {why}")))?;
        tracing::warn!(caller, "thawed");
        Ok(Response::new(self.status(freeze.state())))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.warden(&request, "ask for its status")?;
        Ok(Response::new(self.status(self.freeze.read().await.state())))
    }
}

#[cfg(test)]
mod tests;
