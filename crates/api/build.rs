//! Compiles the contracts without `protoc`.

/// What carries sealed bytes, verifiers or values derived from a customer's key: `src/redact.rs` writes its `Debug`.
const REDACTED: &[&str] = &[
    "quorate.vault.v1.SubmitRequest",
    "quorate.vault.v1.SubmitReply",
    "quorate.vault.v1.OpenReply",
    "quorate.vault.v1.OpenedItem",
    "quorate.peer.v1.EndorseRequest",
    "quorate.peer.v1.ProposeRequest",
    "quorate.peer.v1.ProposeReply",
    "quorate.peer.v1.OpenTargetReply",
    "quorate.vault.v1.RelayRequest",
    "quorate.vault.v1.RelayedAnswer",
    "quorate.peer.v1.AnswerRequest",
    "quorate.peer.v1.AnswerReply",
    "quorate.custodian.v1.DeriveItem",
    "quorate.custodian.v1.DerivedItem",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["vault.proto", "peer.proto", "custodian.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=../../proto/{file}");
    }
    let descriptors = protox::compile(files, ["../../proto"])?;
    tonic_prost_build::configure().skip_debug(REDACTED).compile_fds(descriptors)?;
    Ok(())
}
