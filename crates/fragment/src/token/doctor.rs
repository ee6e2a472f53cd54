//! What can be seen of the tokens of a module, for a person who wants to know why something does not work.

use super::error::TokenError;
use super::module::Module;
use super::pin::Pin;
use super::session::{Connection, KeyFacts, Refused};
use super::{Expected, Settings};
use crate::kem::WrappedKem;
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::{Limit, TokenInfo};
use std::sync::OnceLock;

/// One token of the module, or one that is configured and not there.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Maker and model.
    pub model: String,
    /// Whether the configuration names it.
    pub configured: bool,
    /// What its flags say of the user PIN.
    pub pin: &'static str,
    /// Sessions that it has open, and may have.
    pub sessions: String,
    /// What it cannot do that it must.
    pub missing: Vec<&'static str>,
    /// What the key is, once it has answered a challenge; `None` where nobody looked.
    pub key: Option<Result<KeyFacts, TokenError>>,
}

impl Report {
    /// Whether this token serves, or need not.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !self.configured || (self.missing.is_empty() && matches!(self.key, Some(Ok(_)) | None))
    }
}

/// Looks at every token of the module, and with a PIN at the key of those that are configured. Tries the PIN as the custodian
/// would: never the last time, and where it was refused once, on no other token.
///
/// # Errors
/// [`TokenError::Module`]: nothing can be seen without it.
pub fn examine(settings: &Settings, pin: Option<&Pin>) -> Result<Vec<Report>, TokenError> {
    let module = Module::load(&settings.module)?;
    let mut refused = false;
    let mut reports = Vec::new();
    let mut named = Vec::new();
    for (slot, info) in module.tokens()? {
        let name = [info.serial_number(), info.label()].into_iter().find(|n| settings.tokens.iter().any(|t| t == *n));
        let name = name.map(str::to_owned);
        let (hybrid, mechanisms) = (settings.kem.is_some(), module.with(|c| c.get_mechanism_list(slot)));
        let key = match (&name, pin) {
            (Some(token), Some(pin)) if !refused => Some(look(&module, token, settings, pin)),
            _ => None,
        };
        // The flags as they are after that.
        let info = module.info(slot).unwrap_or(info);
        refused |= matches!(key, Some(Err(TokenError::PinWrong { .. })));
        let missing = match mechanisms {
            Ok(offered) => missing(&offered, hybrid),
            Err(_) => vec!["the list of its mechanisms"],
        };
        named.extend(name.clone());
        reports.push(Report {
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            model: format!("{} {}", info.manufacturer_id(), info.model()).trim().to_owned(),
            configured: name.is_some(),
            pin: pin_state(&info),
            sessions: sessions(&info),
            missing,
            key,
        });
    }
    for token in settings.tokens.iter().filter(|token| !named.contains(token)) {
        reports.push(Report {
            label: token.clone(),
            serial: String::new(),
            model: String::new(),
            configured: true,
            pin: "not there",
            sessions: String::new(),
            missing: Vec::new(),
            key: Some(Err(TokenError::NoToken(token.clone()))),
        });
    }
    Ok(reports)
}

fn look(module: &Module, token: &str, settings: &Settings, pin: &Pin) -> Result<KeyFacts, TokenError> {
    let kem = settings.kem.as_deref().map(|file| WrappedKem::decode(file, &settings.public.id())).transpose();
    let kem = kem.map_err(|why| TokenError::Kem { token: token.to_owned(), why })?;
    let expected = Expected { key: settings.key.clone(), public: settings.public.clone(), kem, seed: OnceLock::new() };
    let connection = Connection::open(module, token, &expected, pin, &Refused::default())?;
    let facts = connection.facts;
    connection.close(module);
    Ok(facts)
}

fn missing(offered: &[MechanismType], hybrid: bool) -> Vec<&'static str> {
    let wanted =
        [(MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE", true), (MechanismType::AES_CBC, "CKM_AES_CBC", hybrid)];
    wanted.iter().filter(|(kind, _, wanted)| *wanted && !offered.contains(kind)).map(|(_, name, _)| *name).collect()
}

fn pin_state(info: &TokenInfo) -> &'static str {
    if info.user_pin_locked() {
        "locked"
    } else if info.user_pin_final_try() {
        "one try left"
    } else if !info.user_pin_initialized() {
        "not set"
    } else if info.user_pin_count_low() {
        "a wrong one was given"
    } else {
        "fine"
    }
}

fn sessions(info: &TokenInfo) -> String {
    let open = info.session_count().map_or_else(|| "?".to_owned(), |n| n.to_string());
    match info.max_session_count() {
        Limit::Max(most) => format!("{open} of {most}"),
        Limit::Unavailable | Limit::Infinite => open,
    }
}
