//! `spectra key`: a key for a caller, and the hash of it that the config holds.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// `spectra key …`
#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    /// Name of the caller in the config
    #[arg(default_value = "alice")]
    name: String,
}

/// # Errors
/// Where the system gives no random bytes.
pub fn run(args: &KeyArgs) -> anyhow::Result<ExitCode> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("no random bytes")?;
    let key = format!("sk-spectra-{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let hash = Sha256::digest(key.as_bytes()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let mut out = std::io::stdout();
    writeln!(out, "# for the caller, shown only here: {key}\n[keys.{}]\nhash = \"sha256:{hash}\"", args.name)?;
    Ok(ExitCode::SUCCESS)
}
