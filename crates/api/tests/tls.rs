//! Who gets through which port, on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use futures::StreamExt as _;
use quorate_api::client::Identity;
use quorate_api::tls::{
    Callers, ClientChain, PeerKey, TlsIdentity, accept_clients, accept_peers, api_server_config, callers_server_config,
    client_config, peer_server_config, provider,
};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, ServerConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{ca, certificate, identity, key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::server::Connected as _;

fn member(seed: u8) -> TlsIdentity {
    TlsIdentity::self_signed(&key(seed), "node-1").unwrap()
}

/// A peer port of member 1 that admits member 2. What it admitted comes out of the channel.
async fn peer_port() -> (SocketAddr, tokio::sync::mpsc::Receiver<PeerKey>) {
    let pinned = key(2).verify_key().0;
    let config = peer_server_config(&member(1), Arc::new(move |k: &[u8; 32]| *k == pinned)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        let mut incoming = accept_peers(listener, config);
        while let Some(Ok(mut accepted)) = incoming.next().await {
            accepted.write_all(b"!").await.unwrap();
            accepted.flush().await.unwrap();
            tx.send(accepted.connect_info()).await.unwrap();
            tokio::spawn(async move { accepted.read_u8().await });
        }
    });
    (address, rx)
}

async fn client_port(roots: &[Vec<u8>]) -> (SocketAddr, tokio::sync::mpsc::Receiver<ClientChain>) {
    serve_clients(api_server_config(&member(1), roots).unwrap()).await
}

async fn serve_clients(config: Arc<ServerConfig>) -> (SocketAddr, tokio::sync::mpsc::Receiver<ClientChain>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        let mut incoming = accept_clients(listener, config);
        while let Some(Ok(mut accepted)) = incoming.next().await {
            accepted.write_all(b"!").await.unwrap();
            accepted.flush().await.unwrap();
            tx.send(accepted.connect_info()).await.unwrap();
            tokio::spawn(async move { accepted.read_u8().await });
        }
    });
    (address, rx)
}

/// Through only when a byte of the server arrives: in TLS 1.3 a client ends its handshake before it is judged.
async fn enter(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("x.invalid").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    match tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await.expect("neither let in nor refused")? {
        b'!' => Ok(stream),
        other => panic!("{other}"),
    }
}

fn expecting(identity: &TlsIdentity, server: u8) -> Arc<ClientConfig> {
    client_config(identity, key(server).verify_key().0).unwrap()
}

#[tokio::test]
async fn members_reach_members_with_a_post_quantum_key_exchange() {
    let (address, mut admitted) = peer_port().await;
    let stream = enter(address, expecting(&member(2), 1)).await.unwrap();
    assert_eq!(admitted.recv().await.unwrap(), PeerKey(key(2).verify_key().0));
    let session = stream.get_ref().1;
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    let (address, _admitted) = peer_port().await;
    let why = enter(address, expecting(&member(2), 3)).await.unwrap_err();
    assert!(why.to_string().contains("certificate"), "{why}");
}

#[tokio::test]
async fn the_peer_port_admits_members_only() {
    let (address, mut admitted) = peer_port().await;
    assert!(enter(address, expecting(&member(3), 1)).await.is_err(), "a key that is not pinned");
    let clients = ca("clients");
    let client = identity(&clients, 9);
    assert!(enter(address, expecting(client.tls(), 1)).await.is_err(), "a client's certificate");
    let bare = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(quorate_api::tls::PinnedServer::new(
            key(1).verify_key().0,
            provider(),
        )))
        .with_no_client_auth();
    assert!(enter(address, Arc::new(bare)).await.is_err(), "no certificate");
    assert!(admitted.try_recv().is_err());
    // And still serves.
    enter(address, expecting(&member(2), 1)).await.unwrap();
}

#[tokio::test]
async fn the_client_port_admits_chains_to_its_roots_only() {
    let (clients, others) = (ca("clients"), ca("others"));
    let (address, mut admitted) = client_port(std::slice::from_ref(&clients.der)).await;
    let client = identity(&clients, 9);
    enter(address, expecting(client.tls(), 1)).await.unwrap();
    assert_eq!(*admitted.recv().await.unwrap().0, client.chain());

    assert!(enter(address, expecting(&member(2), 1)).await.is_err(), "a member's certificate");
    assert!(enter(address, expecting(identity(&others, 9).tls(), 1)).await.is_err(), "another authority's");
    assert!(admitted.try_recv().is_err());
}

/// Whom a client port admits changes while it is open; an administrator's key is one that it admits, by pin.
#[tokio::test]
async fn callers_change_while_the_port_is_open() {
    let (old, new, administrator) = (ca("clients"), ca("clients"), key(40));
    let admit = |roots: &[&support::Ca], keys: &[u8]| {
        let roots: Vec<Vec<u8>> = roots.iter().map(|ca| ca.der.clone()).collect();
        (roots, keys.iter().map(|seed| key(*seed).verify_key().0).collect::<Vec<_>>())
    };
    let (roots, keys) = admit(&[&old], &[40]);
    let callers = Arc::new(Callers::new(&roots, keys).unwrap());
    let config = callers_server_config(&member(1), Arc::clone(&callers), Arc::new(DefaultTimeProvider)).unwrap();
    let (address, mut admitted) = serve_clients(config).await;

    let (before, after) = (identity(&old, 9), identity(&new, 9));
    let own = Identity::administrator(administrator).unwrap();
    enter(address, expecting(before.tls(), 1)).await.expect("a caller of the first CA");
    enter(address, expecting(own.tls(), 1)).await.expect("an administrator");
    assert!(enter(address, expecting(after.tls(), 1)).await.is_err(), "a caller of a CA that is not there yet");
    let other = Identity::administrator(key(41)).unwrap();
    assert!(enter(address, expecting(other.tls(), 1)).await.is_err(), "a key that is no administrator's");

    let (roots, keys) = admit(&[&new], &[41]);
    callers.replace(&roots, keys).unwrap();
    assert!(callers.replace(&[vec![1, 2, 3]], Vec::new()).is_err(), "what is no root changes nothing");
    enter(address, expecting(after.tls(), 1)).await.expect("a caller of the second CA");
    enter(address, expecting(other.tls(), 1)).await.expect("another administrator");
    assert!(enter(address, expecting(before.tls(), 1)).await.is_err(), "a caller of the first CA");
    assert!(enter(address, expecting(own.tls(), 1)).await.is_err(), "who is no administrator any more");
    for expected in [before.chain(), own.chain(), after.chain(), other.chain()] {
        assert_eq!(*admitted.recv().await.unwrap().0, expected);
    }
}

/// An administrator's key under a chain of somebody's making is a client's affair, and led by no CA of ours.
#[tokio::test]
async fn an_administrator_is_admitted_by_its_own_certificate_alone() {
    let clients = ca("clients");
    let callers = Callers::new(std::slice::from_ref(&clients.der), vec![key(40).verify_key().0]).unwrap();
    let config = callers_server_config(&member(1), Arc::new(callers), Arc::new(DefaultTimeProvider)).unwrap();
    let (address, _admitted) = serve_clients(config).await;
    let others = ca("others");
    let chain = vec![certificate(&others, &key(40), "spiffe://a/b"), others.der.clone()];
    let posing = TlsIdentity::from_chain(chain, &key(40)).unwrap();
    assert!(enter(address, expecting(&posing, 1)).await.is_err());
}

/// Every handle shows the new certificate, in servers and in clients; who pins the key does not notice.
#[tokio::test]
async fn a_member_s_certificate_is_renewed_under_what_uses_it() {
    const DAY: u64 = 86_400_000;
    let dated = |from: u64| TlsIdentity::self_signed_for(&key(1), "node-1", (from, from + 90 * DAY)).unwrap();
    // It has ended long ago: dates are not what is relied on.
    let shown = dated(10_000 * DAY);
    let first = shown.chain();
    let pinned = key(2).verify_key().0;
    let config = peer_server_config(&shown, Arc::new(move |k: &[u8; 32]| *k == pinned)).unwrap();
    let (address, _admitted) = serve_clients(config).await;
    let served = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let standing = enter(address, expecting(&member(2), 1)).await.unwrap();
    assert_eq!(served(&standing), first[0]);
    shown.renew(&dated(20_000 * DAY));
    assert_ne!(shown.chain(), first);
    let next = enter(address, expecting(&member(2), 1)).await.unwrap();
    assert_eq!(served(&next), shown.chain()[0], "a new handshake shows the new certificate");
    assert_eq!(served(&standing), first[0], "a connection that stands is not touched");
}

/// The certificate of one key with the signature of another.
#[tokio::test]
async fn a_certificate_without_its_key_is_worthless() {
    assert!(TlsIdentity::from_chain(member(1).chain(), &key(2)).is_err(), "ours does not even build it");
    let clients = ca("clients");
    assert!(TlsIdentity::from_chain(vec![certificate(&clients, &key(3), "spiffe://a/b")], &key(2)).is_err());

    #[derive(Debug)]
    struct Stolen(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Stolen {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let chain = member(1).chain().into_iter().map(Into::into).collect();
    let signer = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&support::pkcs8(&key(2)).into()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Stolen(Arc::new(rustls::sign::CertifiedKey::new(chain, signer)))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    });
    assert!(enter(address, expecting(&member(2), 1)).await.is_err());
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let (address, _admitted) = peer_port().await;
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let why = enter(address, Arc::new(old)).await.unwrap_err().to_string();
    assert!(why.contains("ProtocolVersion"), "{why}");
}

#[tokio::test]
async fn a_silent_connection_holds_up_nobody() {
    let (address, mut admitted) = peer_port().await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let entered = tokio::time::timeout(Duration::from_secs(5), enter(address, expecting(&member(2), 1))).await;
    entered.expect("waited for the silent ones").unwrap();
    assert!(admitted.recv().await.is_some());
}

#[test]
fn no_provider_is_installed_for_the_process() {
    let _ = expecting(&member(1), 2);
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}
