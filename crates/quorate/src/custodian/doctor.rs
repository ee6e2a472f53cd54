//! `quorate custodian doctor`: whether the fragment can be used where the configuration says that it lives, and if not, why.

use super::config::{CustodianConfig, Home};
use super::home::refused;
use super::pin::PinSource;
use crate::connection::open_fragment;
use crate::failure::Stop;
use crate::output::{Format, printable, table};
use crate::passphrase::Passphrases;
use quorate_fragment::token::{Report, examine};
use quorate_state::ids::hex;
use serde_json::{Value, json};

/// Looks, says what it has seen, and fails when something is wrong.
pub(crate) fn run(config: &CustodianConfig, pins: &PinSource, look_only: bool, output: Format) -> anyhow::Result<()> {
    match config.home().map_err(|(key, why)| Stop::configuration(format!("`{key}`: {why}")))? {
        Home::File { fragment, passphrase_file } => {
            let secret = open_fragment(fragment, &Passphrases::file(passphrase_file))?;
            let id = hex(&secret.public().id());
            output.show(&json!({ "home": "file", "customer_key_id": id, "well": true }), || {
                format!("{} opens and holds customer key {id}\n", fragment.display())
            })
        }
        Home::Tokens(tokens) => {
            let settings = tokens.settings()?;
            let pin = (!look_only).then(|| pins.read(tokens.pin_credential.as_deref(), &tokens.tokens)).transpose()?;
            let reports = examine(&settings, pin.as_ref()).map_err(|why| refused(&why))?;
            let id = hex(&settings.public.id());
            let well = reports.iter().all(Report::is_well);
            let document = json!({
                "home": "tokens",
                "customer_key_id": id,
                "well": well,
                "tokens": reports.iter().map(document).collect::<Vec<_>>(),
            });
            output.show(&document, || {
                let header = ["TOKEN", "SERIAL", "MODEL", "PIN", "SESSIONS", "KEY"];
                let rows = reports.iter().map(|r| {
                    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
                    [text(&r.label), text(&r.serial), text(&r.model), r.pin.to_owned(), text(&r.sessions), key(r)]
                });
                let hints = reports.iter().filter_map(|r| r.key.as_ref()?.as_ref().err());
                let hints: String =
                    hints.map(|why| format!("{}: {why}\n  hint: {}\n", why.code(), why.hint())).collect();
                let end = if well { "all is well\n" } else { "" };
                format!("customer key {id}\n{}\n{hints}{end}", table(header, rows))
            })?;
            // A PIN that was refused ends as it does at a start.
            let worst = reports.iter().filter_map(|r| r.key.as_ref()?.as_ref().err()).max_by_key(|why| why.is_final());
            match worst {
                Some(why) => Err(refused(why)),
                None if well => Ok(()),
                None => Err(Stop::refused(
                    "token_unfit",
                    "a token lacks what it needs",
                    "use another token, or another part suite",
                )),
            }
        }
    }
}

/// What stands in the last column.
fn key(report: &Report) -> String {
    let missing = report.missing.join(", ");
    match &report.key {
        _ if !report.configured => "not configured".to_owned(),
        _ if !missing.is_empty() => format!("the token has no {missing}"),
        None => "not looked at".to_owned(),
        Some(Ok(facts)) if facts.local && facts.never_extractable => {
            "answers; made inside, never extractable".to_owned()
        }
        Some(Ok(_)) => "answers; brought in from elsewhere".to_owned(),
        Some(Err(why)) => why.code().to_owned(),
    }
}

fn document(report: &Report) -> Value {
    let answers = matches!(report.key, Some(Ok(_)));
    let facts = report.key.as_ref().and_then(|key| key.as_ref().ok());
    let error = report.key.as_ref().and_then(|key| key.as_ref().err());
    json!({
        "label": report.label,
        "serial": report.serial,
        "model": report.model,
        "configured": report.configured,
        "pin": report.pin,
        "sessions": report.sessions,
        "missing": report.missing,
        "answers": answers,
        "local": facts.map(|f| f.local),
        "never_extractable": facts.map(|f| f.never_extractable),
        "code": error.map(|why| why.code()),
        "trouble": error.map(ToString::to_string),
    })
}
