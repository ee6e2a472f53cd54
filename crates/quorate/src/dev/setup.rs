//! Sets a development cluster up: the steps of an operator, of a customer and of a database's owner, in their order.

use super::layout::Layout;
use super::postgres::{ADMIN, DATABASE, GROUP};
use super::supervise::Children;
use crate::connection::Connection;
use crate::custodian::{CustomerFolder, Keygen};
use crate::files;
use crate::init::Init;
use crate::keyring;
use crate::member;
use crate::operator::{Operator, save_profile};
use crate::output::{progress, raw};
use crate::passphrase::{Passphrases, first_line};
use anyhow::Context as _;
use quorate_api::client::{Administrators, Client, CustomerSource, Form, PinnedMount, Role, TargetSpec, TargetTls};
use quorate_crypto::keyring::KeyringClass;
use quorate_server::env::Env;
use quorate_state::change::Change;
use quorate_state::genesis::Genesis;
use quorate_state::ids::{CustomerKeyId, KeyringId, Millis, hex};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The trust domain of the cluster's callers, and of the custodian's.
const TRUST_DOMAIN: &str = "dev.quorate";
const CUSTOMER_DOMAIN: &str = "customer.dev.quorate";
/// How long the identities are valid.
const TTL: Millis = 7 * 86_400_000;
/// How long a child may take to come up.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is ready, besides the processes.
pub(crate) struct Ready {
    cluster: String,
    customer_key: String,
    custodian_key: String,
    postgres: Option<Postgres>,
}

/// The scratch database.
struct Postgres {
    port: u16,
    socket: PathBuf,
}

/// Does everything.
pub(crate) async fn set_up(
    layout: &Layout,
    children: &mut Children,
    env: &Env,
    rotate: bool,
    postgres: Option<u32>,
) -> anyhow::Result<Ready> {
    files::make(&layout.passphrase(), format!("{}\n", hex(&env.random::<16>())).as_bytes(), files::PRIVATE)?;
    let passphrases = Passphrases::file(&layout.passphrase());

    // First, because it takes longest and nothing waits for it until the end.
    start_postgres(layout, children, postgres)?;
    progress(format_args!("making {} members, an operator and a customer", layout.members.len()));
    let (operator, genesis) = begin(layout, &passphrases, env)?;
    let customer = begin_customer(layout, &genesis, &passphrases, env)?;
    for place in &layout.members {
        let config = place.data.join("node.toml");
        children.start(
            &place.name,
            &["node", "--config", &config.display().to_string(), "--die-with-parent"].map(str::to_owned),
        )?;
    }
    let config = customer.file("custodian.toml").display().to_string();
    children.start("custodian", &["custodian", "run", "--config", &config, "--die-with-parent"].map(str::to_owned))?;

    let needed: Vec<&str> = layout.members.iter().map(|m| m.name.as_str()).chain(["custodian"]).collect();
    let admin = layout.admin();
    let profile = tokio::select! {
        made = keyring::create(&operator, &admin, &passphrases) => made?,
        name = children.first_to_end(&needed) => anyhow::bail!("{name} ended before the cluster was ready"),
    };
    let customer_key = CustomerKeyId(customer.public()?.id());
    register(layout, &operator, &customer, &passphrases).await?;
    let postgres = postgres_up(layout, children).await?;
    let client = layout.admin().connect(operator.profile()?, CustomerSource::None)?;
    put_policies(&client, &operator, &passphrases).await?;
    if let Some(postgres) = &postgres {
        describe_target(layout, &client, postgres, rotate).await?;
    }
    let custodian_key = customer.server_key()?;
    custodian_up(layout, &custodian_key, children).await?;
    let cluster = profile.cluster.to_string();
    Ok(Ready { cluster, customer_key: customer_key.to_string(), custodian_key, postgres })
}

fn begin(layout: &Layout, passphrases: &Passphrases, env: &Env) -> anyhow::Result<(Operator, Genesis)> {
    let mut cards = Vec::new();
    for place in &layout.members {
        let card = layout.file(&format!("{}.toml", place.name));
        let create = member::Create {
            data_dir: place.data.clone(),
            seal_key: place.data.join("seal.key"),
            name: place.name.clone(),
            peer_address: place.peer.clone(),
            api_address: place.api.clone(),
            card: card.clone(),
        };
        create.create(env)?;
        cards.push(card);
    }
    let init = Init {
        name: "dev".to_owned(),
        trust_domain: TRUST_DOMAIN.to_owned(),
        members: cards,
        out: layout.operator().0,
        administrators: 1,
        needed: 1,
    };
    let (operator, genesis) = init.create(passphrases, env)?;
    // All on one machine: the more there are, the longer each waits for its turn.
    let slower = if layout.members.len() > 5 { 2 } else { 1 };
    for place in &layout.members {
        files::make(&place.data.join("genesis.bin"), &genesis.to_bytes(), files::PUBLIC)?;
        let config = format!(
            "data_dir = \".\"\nseal_key = \"seal.key\"\ngenesis = \"genesis.bin\"\ncluster = \"{}\"\n\
             peer_listen = \"{}\"\napi_listen = \"{}\"\n\n[raft]\nheartbeat_ms = {}\nelection_min_ms = {}\nelection_max_ms = {}\n",
            genesis.cluster(),
            place.peer,
            place.api,
            150 * slower,
            600 * slower,
            1200 * slower,
        );
        files::make(&place.data.join("node.toml"), config.as_bytes(), files::PUBLIC)?;
    }
    let (_, app) = operator.issue("app/demo", TTL, passphrases, env)?;
    files::make(&operator.file("demo.pem"), app.as_bytes(), files::PRIVATE)?;
    Ok((operator, genesis))
}

fn begin_customer(
    layout: &Layout,
    genesis: &Genesis,
    passphrases: &Passphrases,
    env: &Env,
) -> anyhow::Result<CustomerFolder> {
    let keygen = Keygen { out: layout.customer().0, suite: 1, trust_domain: CUSTOMER_DOMAIN.to_owned() };
    let folder = keygen.create(passphrases, env)?;
    for (name, file) in [("app/demo", "demo.pem"), ("security", "warden.pem")] {
        let (_, pem) = folder.issue(name, TTL, passphrases, env)?;
        files::make(&folder.file(file), pem.as_bytes(), files::PRIVATE)?;
    }
    let config = format!(
        "listen = \"{}\"\nfragment = \"fragment.key\"\npassphrase_file = \"../passphrase\"\nserver = \"server.pem\"\n\
         client_roots = [\"customer-ca.pem\"]\ntrust_domain = \"{CUSTOMER_DOMAIN}\"\ncluster = \"{}\"\nstate_dir = \"state\"\n\
         wardens = [\"spiffe://{CUSTOMER_DOMAIN}/security\"]\n\n[[allow]]\n\
         callers = [\"spiffe://{CUSTOMER_DOMAIN}/app/demo\"]\nnamespace = \"default\"\npaths = [\"vault/demo/\", \"vault/demo\"]\n",
        layout.custodian,
        genesis.cluster(),
    );
    files::make(&folder.file("custodian.toml"), config.as_bytes(), files::PUBLIC)?;
    Ok(folder)
}

/// Registers the customer's key, and makes the mount `vault` that needs it.
async fn register(
    layout: &Layout,
    operator: &Operator,
    customer: &CustomerFolder,
    passphrases: &Passphrases,
) -> anyhow::Result<()> {
    let mut profile = operator.profile()?;
    let (public, owner) = (customer.public()?, customer.owner(passphrases)?);
    let id = CustomerKeyId(public.id());
    let client = layout.admin().connect(profile.clone(), CustomerSource::None)?;
    client.register_customer_key("customer", &public, &owner).await?;
    let ring =
        profile.keyrings.iter().find(|k| k.class == KeyringClass::Customer).context("no keyring of class customer")?;
    let keyring = KeyringId(ring.id());
    client.create_mount("default", "vault", keyring, &[id]).await?;
    profile.customer_keys.push(public);
    profile.mounts.push(PinnedMount {
        namespace: "default".to_owned(),
        mount: "vault".to_owned(),
        keyring: keyring.to_string(),
        customer_keys: vec![id.to_string()],
    });
    save_profile(&operator.file("cluster.toml"), &profile)
}

async fn put_policies(client: &Client, operator: &Operator, passphrases: &Passphrases) -> anyhow::Result<()> {
    let principal = format!("Quorate::Workload::\"spiffe://{TRUST_DOMAIN}/app/demo\"");
    let mut text = String::from("// What app/demo may do: its own folders, and logins of the role reader.\n");
    for folder in ["app/demo", "vault/demo"] {
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "permit (principal == {principal}, action in [Quorate::Action::\"read\", Quorate::Action::\"write\"], \
             resource in Quorate::Folder::\"default:{folder}\");\n\
             permit (principal == {principal}, action == Quorate::Action::\"secret:open\", \
             resource in Quorate::Folder::\"default:{folder}\");\n\
             permit (principal == {principal}, action in [Quorate::Action::\"secret:open\", Quorate::Action::\"read\", \
             Quorate::Action::\"write\"], resource == Quorate::Secret::\"default:{folder}\");"
        );
    }
    let _ = writeln!(
        text,
        "permit (principal == {principal}, action == Quorate::Action::\"mount:read\", resource == Quorate::Namespace::\"default\");\n\
         permit (principal == {principal}, action == Quorate::Action::\"role:read\", resource);\n\
         permit (principal == {principal}, action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"reader\");"
    );
    quorate_authz::validate("demo", &text)?;
    let administrators = operator.administrators(passphrases)?;
    let keys: Vec<_> = administrators.iter().collect();
    let authority_version = client.policies().await?.authority_version;
    let by = Administrators { keys: &keys, authority_version };
    client.administer(Change::PutPolicy { name: "demo".to_owned(), text }, &by).await?;
    Ok(())
}

fn start_postgres(layout: &Layout, children: &mut Children, version: Option<u32>) -> anyhow::Result<()> {
    let [ready, password, ca] = ["json", "password", "ca.pem"].map(|end| layout.file(&format!("postgres.{end}")));
    let arguments = [
        "scratch-postgres",
        "--ready",
        &ready.display().to_string(),
        "--password-file",
        &password.display().to_string(),
        "--ca-file",
        &ca.display().to_string(),
        "--die-with-parent",
    ];
    let version = version.map(|version| format!("--postgres={version}"));
    let arguments: Vec<String> = arguments.map(str::to_owned).into_iter().chain(version).collect();
    children.start("postgres", &arguments)
}

/// Waits for the scratch database. Without PostgreSQL on this machine the cluster is made without a target.
async fn postgres_up(layout: &Layout, children: &mut Children) -> anyhow::Result<Option<Postgres>> {
    let path = layout.file("postgres.json");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if path.exists() {
            let value: Value = serde_json::from_slice(&files::read(&path)?)?;
            let port = value.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
            let socket = value.get("socket").and_then(Value::as_str).map(PathBuf::from);
            return Ok(port.zip(socket).map(|(port, socket)| Postgres { port, socket }));
        }
        let alive = children.alive("postgres");
        if !alive || Instant::now() >= deadline {
            children.look();
            progress("there is no scratch database: the cluster has no target and no role");
            return Ok(None);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn describe_target(layout: &Layout, client: &Client, postgres: &Postgres, rotate: bool) -> anyhow::Result<()> {
    let password = first_line(&layout.file("postgres.password"))?;
    let keyring = crate::target::cluster_keyring(client.profile())?;
    let target = TargetSpec {
        host: "127.0.0.1".to_owned(),
        port: postgres.port,
        database: DATABASE.to_owned(),
        user: ADMIN.to_owned(),
        tls: Some(TargetTls {
            roots: crate::target::roots(&layout.file("postgres.ca.pem"))?,
            server_name: String::new(),
            require_binding: true,
        }),
        rotate,
        ..TargetSpec::default()
    };
    client.put_target("pg", &target, password.expose(), keyring).await?;
    let role = Role {
        target: "pg".to_owned(),
        groups: vec![GROUP.to_owned()],
        default_ttl: 60_000,
        max_ttl: 600_000,
        connection_limit: 4,
        max_leases: 1_000,
        form: Form::Scram { iterations: 4_096 },
        ..Role::default()
    };
    client.put_role("reader", &role).await?;
    let proof = client.prove_target("pg", PATIENCE).await?;
    if !(proof.missing.is_empty() && proof.failed.is_empty()) {
        anyhow::bail!(crate::target::findings("pg", target.system, &proof));
    }
    Ok(())
}

/// How `app/demo` reaches the cluster and the custodian.
fn demo_connection(layout: &Layout, custodian_key: &str, identity: &str) -> Connection {
    let (operator, customer) = (layout.operator(), layout.customer());
    Connection {
        profile: Some(operator.file("cluster.toml")),
        identity: Some(operator.file("demo.pem")),
        custodian: Some(layout.custodian.clone()),
        custodian_key: Some(custodian_key.to_owned()),
        custodian_identity: Some(customer.file(identity)),
        ..Connection::default()
    }
}

async fn custodian_up(layout: &Layout, key: &str, children: &mut Children) -> anyhow::Result<()> {
    let custodian = demo_connection(layout, key, "warden.pem").custodian()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(why) = custodian.status().await else { return Ok(()) };
        children.look();
        if Instant::now() >= deadline {
            return Err(why).context("the custodian does not come up");
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Writes `dev.json`, and says what to type next.
pub(crate) fn publish(layout: &Layout, children: &Children, ready: &Ready) -> anyhow::Result<()> {
    let (operator, customer) = (layout.operator(), layout.customer());
    let members: serde_json::Map<_, _> = layout
        .members
        .iter()
        .map(|m| {
            let value = json!({
                "peer_address": m.peer, "api_address": m.api, "data_dir": m.data,
                "config": m.data.join("node.toml"), "audit_dir": m.data.join("audit"),
            });
            (m.name.clone(), value)
        })
        .collect();
    let postgres = ready.postgres.as_ref().map(|p| {
        json!({
            "host": "127.0.0.1", "port": p.port, "database": DATABASE, "socket_folder": p.socket,
            "admin": ADMIN, "password_file": layout.file("postgres.password"), "ca_file": layout.file("postgres.ca.pem"), "group": GROUP,
        })
    });
    let document = json!({
        "folder": layout.folder,
        "cluster": ready.cluster,
        "processes": children.document(),
        "members": members,
        "profile": operator.file("cluster.toml"),
        "operator": operator.0,
        "passphrase_file": layout.passphrase(),
        "identities": { "admin": operator.file("admin.pem"), "demo": operator.file("demo.pem") },
        "trust_domain": TRUST_DOMAIN,
        "custodian": {
            "address": layout.custodian, "key": ready.custodian_key, "customer": customer.0,
            "config": customer.file("custodian.toml"), "audit_dir": customer.file("state").join("audit"),
            "customer_key_id": ready.customer_key,
            "identities": { "demo": customer.file("demo.pem"), "warden": customer.file("warden.pem") },
        },
        "postgres": postgres,
        "mounts": { "cluster": "default/app", "customer": "default/vault" },
        "target": postgres.as_ref().map(|_| "pg"),
        "role": postgres.as_ref().map(|_| "reader"),
    });
    let path = layout.file("dev.json");
    // In one step: whoever sees the file sees all of it.
    files::replace(&path, serde_json::to_string_pretty(&document)?.as_bytes(), files::PUBLIC)?;
    raw(next_steps(layout, ready, &path).as_bytes())
}

fn next_steps(layout: &Layout, ready: &Ready, path: &Path) -> String {
    let (operator, customer) = (layout.operator(), layout.customer());
    let show = |path: PathBuf| path.display().to_string();
    let admin = show(operator.file("admin.pem"));
    let restart = format!("quorate node --config {}", show(layout.file("n1").join("node.toml")));
    format!(
        "\nready: {members} members, a custodian{postgres}; everything is in {folder}, and listed in {json}\n\n\
         in another shell, as the application app/demo:\n\n  \
         export QUORATE_PROFILE={profile}\n  export QUORATE_IDENTITY={demo}\n  \
         export QUORATE_CUSTODIAN={custodian} QUORATE_CUSTODIAN_KEY={key}\n  \
         export QUORATE_CUSTODIAN_IDENTITY={caller}\n\n  \
         printf hello | quorate put app/demo/greeting && quorate get app/demo/greeting\n  \
         printf hello | quorate put vault/demo/greeting && quorate get vault/demo/greeting    # with the customer's part\n  \
         quorate lease issue reader    # a login at the scratch database, for a minute\n\n\
         as the administrator, and as the customer's warden:\n\n  \
         quorate status --identity {admin}\n  \
         quorate custodian freeze --custodian-identity {warden}\n\n\
         kill a member ({json} has the ids) and start it again:\n\n  {restart}\n\n\
         Ctrl-C ends it.\n",
        members = layout.members.len(),
        postgres = if ready.postgres.is_some() { ", a scratch PostgreSQL" } else { "" },
        folder = layout.folder.display(),
        json = path.display(),
        profile = show(operator.file("cluster.toml")),
        demo = show(operator.file("demo.pem")),
        custodian = layout.custodian,
        key = ready.custodian_key,
        caller = show(customer.file("demo.pem")),
        warden = show(customer.file("warden.pem")),
    )
}
