//! A custodian with a real key.

use super::{Ca, identity, key};
use quorate_api::client::{Custodian, decode_part, other_key};
use quorate_api::custodian::custodian_server::{Custodian as Service, CustodianServer};
use quorate_api::custodian::*;
use quorate_api::status::{CUSTODIAN_FROZEN, CUSTODIAN_OTHER_KEY};
use quorate_api::tls::{TlsIdentity, accept_clients, api_server_config};
use quorate_crypto::customer::{CustomerSecret, derive_kc};
use std::sync::Mutex;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

struct Holder {
    secret: CustomerSecret,
    /// Whether every value that it gives is wrong, as of a device that is broken.
    broken: bool,
    frozen: Mutex<Option<String>>,
}

impl Holder {
    fn state(&self) -> Result<Response<StatusReply>, Status> {
        let frozen = self.frozen.lock().unwrap().clone();
        Ok(Response::new(StatusReply {
            customer_key_id: self.secret.public().id().to_vec(),
            frozen: frozen.is_some(),
            frozen_reason: frozen.unwrap_or_default(),
            ..StatusReply::default()
        }))
    }
}

#[tonic::async_trait]
impl Service for Holder {
    async fn derive(&self, request: Request<DeriveRequest>) -> Result<Response<DeriveReply>, Status> {
        let frozen = self.frozen.lock().unwrap().clone();
        let derive = |item: &DeriveItem| match &frozen {
            Some(reason) => {
                DerivedItem { refusal: CUSTODIAN_FROZEN.into(), reason: reason.clone(), ..DerivedItem::default() }
            }
            None => {
                let part = decode_part(&item.part).unwrap();
                match derive_kc(&self.secret, &item.object_label, &item.wrap_label, &part) {
                    Ok(kc) => {
                        let mut value = kc.expose().to_vec();
                        value[0] ^= u8::from(self.broken);
                        DerivedItem { value, ..DerivedItem::default() }
                    }
                    Err(_) => DerivedItem {
                        refusal: CUSTODIAN_OTHER_KEY.into(),
                        reason: other_key(&part, self.secret.public()),
                        ..DerivedItem::default()
                    },
                }
            }
        };
        Ok(Response::new(DeriveReply { items: request.into_inner().items.iter().map(derive).collect() }))
    }

    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<StatusReply>, Status> {
        *self.frozen.lock().unwrap() = Some(request.into_inner().reason);
        self.state()
    }

    async fn thaw(&self, _: Request<ThawRequest>) -> Result<Response<StatusReply>, Status> {
        *self.frozen.lock().unwrap() = None;
        self.state()
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.state()
    }
}

/// Serves `secret` to clients of `ca`, and connects to it.
pub async fn custodian(secret: CustomerSecret, ca: &Ca) -> Custodian {
    serve(secret, false, ca).await
}

/// The same, with wrong values.
pub async fn broken_custodian(secret: CustomerSecret, ca: &Ca) -> Custodian {
    serve(secret, true, ca).await
}

async fn serve(secret: CustomerSecret, broken: bool, ca: &Ca) -> Custodian {
    let own = TlsIdentity::self_signed(&key(77), "custodian").unwrap();
    let config = api_server_config(&own, std::slice::from_ref(&ca.der)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = CustodianServer::new(Holder { secret, broken, frozen: Mutex::new(None) });
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(accept_clients(listener, config)),
    );
    Custodian::new(&address, key(77).verify_key().0, identity(ca, 10).tls()).unwrap()
}
