//! Opens a secret through the one member that this machine reaches.
//!
//! ```sh
//! cargo run -p quorate-api --example one_member -- n1 vault/demo/password
//! ```
//!
//! Everything else comes from the environment, as for the command line (`docs/cli.md`): `QUORATE_PROFILE` and
//! `QUORATE_IDENTITY`, and for mounts of class `customer` `QUORATE_CUSTODIAN`, `QUORATE_CUSTODIAN_KEY` and
//! `QUORATE_CUSTODIAN_IDENTITY`. The member in between learns what every member may know: who asks, and for what.

use quorate_api::client::{Client, Custodian, CustomerSource, Identity, Profile, Seams};
use quorate_api::net::Tcp;
use quorate_state::ids::parse_hex;
use rand_core::UnwrapErr;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(via), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("usage: one_member MEMBER PATH".into());
    };
    // What is pinned decides whom to trust. The name of a member decides only who carries the questions.
    let pinned = Profile::parse(&std::fs::read_to_string(std::env::var("QUORATE_PROFILE")?)?)?;
    let profile = Profile { via: Some(via), ..pinned };
    let caller = Identity::load(Path::new(&std::env::var("QUORATE_IDENTITY")?))?;
    let client = Client::new(profile, caller, customer()?, seams())?;

    let opened = client.get("default", &path, None).await?;
    // The value alone on standard output; what is known about it beside.
    std::io::stdout().write_all(opened.plaintext.expose())?;
    writeln!(std::io::stderr(), "version {} of default:{path}, written by {}", opened.number, opened.writer)?;
    Ok(())
}

/// The customer's part, where a custodian is named.
fn customer() -> Result<CustomerSource, Box<dyn Error>> {
    let Ok(address) = std::env::var("QUORATE_CUSTODIAN") else { return Ok(CustomerSource::None) };
    let key = parse_hex(&std::env::var("QUORATE_CUSTODIAN_KEY")?).ok_or("QUORATE_CUSTODIAN_KEY: 64 digits")?;
    let caller = Identity::load(Path::new(&std::env::var("QUORATE_CUSTODIAN_IDENTITY")?))?;
    Ok(CustomerSource::Custodian(Custodian::new(&address, key, caller.tls())?))
}

/// The client takes randomness, time and the network from here.
fn seams() -> Seams {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    };
    Seams { rng: Box::new(UnwrapErr(getrandom::SysRng)), clock: Arc::new(now), net: Arc::new(Tcp) }
}
