//! The one binary: node, custodian, development cluster, and the CLI for everything that the API can do.
//!
//! One module per topic; each has its arguments, what it does, and how it is shown. What a cluster is, decides or checks
//! is none of this crate's business: it asks the SDK.

mod audit;
mod authority;
mod cli;
mod client_ca;
mod clock;
mod connection;
mod custodian;
mod dev;
#[cfg(test)]
#[path = "../../../fuzz/driver.rs"]
mod driver;
mod duration;
mod effect;
mod failure;
mod files;
mod handed;
mod identity;
mod init;
mod keyring;
mod lease;
mod member;
mod mount;
mod node;
mod operator;
mod output;
mod passphrase;
mod policy;
mod process;
mod role;
mod run;
mod secret;
mod status;
mod target;
mod view;

use clap::Parser as _;
use cli::Cli;
use failure::Told;
use output::Format;
use std::alloc::System;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use zeroizing_alloc::ZeroAlloc;

/// The stack of each worker thread. The policy engine recurses over a policy and gives up, closed, when a stack runs low:
/// with this much every member decides alike whatever stands on its stack.
const STACK: usize = 8 << 20;

/// Wipes what is freed: libraries keep copies of what passes through them, and give their buffers back as they are
/// (docs/adr/0014).
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

/// How long what still runs when a command has ended may take: a store is closed by then.
const CLOSING: Duration = Duration::from_secs(10);

/// A panic ends the process in a release build: nobody knows what it has left half done. Unless a driver panics at what a target says:
/// its work is over, and what it says of it may be the server's words, which are not printed.
fn end_with_a_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panicked| {
        if quorate_engines::contained::is_contained() {
            let place = panicked.location().map_or_else(String::new, ToString::to_string);
            tracing::error!(place, "the driver of a target has panicked");
            return;
        }
        usual(panicked);
        if cfg!(not(debug_assertions)) {
            std::process::abort();
        }
    }));
}

fn main() -> ExitCode {
    if let Err(why) = process::keep_memory_private() {
        // Better no process than one whose keys end up in a file.
        let _ = std::io::stderr().write_all(format!("quorate: {why:#}\n").as_bytes());
        return ExitCode::FAILURE;
    }
    end_with_a_panic();
    let cli = Cli::parse();
    let output = cli.output;
    let ended = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from);
    // On this thread, which lives as long as the process: children that die with their parent die with its thread.
    let ended = ended.and_then(|runtime| {
        let ended = runtime.block_on(cli.run());
        runtime.shutdown_timeout(CLOSING);
        ended
    });
    #[cfg(feature = "failpoints")]
    quorate_server::pass("command.end");
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let told = Told::of(&error);
            let text = match output {
                _ if told.is_silent() => String::new(),
                Format::Json => format!("{:#}\n", told.json()),
                Format::Table => told.text(),
            };
            // There is nobody else to tell.
            let _ = std::io::stderr().write_all(text.as_bytes());
            told.exit()
        }
    }
}
