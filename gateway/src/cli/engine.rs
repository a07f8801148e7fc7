//! `spectra engine`: one model, one process, the OpenAI wire.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use spectra_backends::llama::{self, Settings};

use crate::engine::{self, Address};

/// Serve one GGUF model with llama.cpp on the OpenAI wire.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// GGUF file.
    #[arg(long, short)]
    model: PathBuf,
    /// Listen on this address, such as 0.0.0.0:8080.
    #[arg(long, required_unless_present = "socket", conflicts_with = "socket")]
    listen: Option<String>,
    /// Listen on this Unix socket.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Name of the model in answers [default: from the file].
    #[arg(long)]
    alias: Option<String>,
    /// Prompt plus answer of one request, in tokens [default: the model's own, at most 4096].
    #[arg(long)]
    context_tokens: Option<u32>,
    /// Requests decoded at once [default: as memory allows, at most 4].
    #[arg(long)]
    slots: Option<u32>,
    /// Requests that may wait for a slot.
    #[arg(long, default_value_t = 256)]
    queue: u32,
    /// CPU threads [default: the cores less one].
    #[arg(long)]
    threads: Option<u32>,
    /// Layers on the GPU [default: as many as fit its free memory, where this build knows a GPU].
    #[arg(long)]
    gpu_layers: Option<u32>,
    /// How several GPUs share the model.
    #[arg(long, value_enum, default_value_t = GpuSplit::Layer)]
    gpu_split: GpuSplit,
    /// Number format of the key-value cache.
    #[arg(long, value_enum, default_value_t = KvType::F16)]
    kv_type: KvType,
    /// [default: llama.cpp decides]
    #[arg(long)]
    flash_attention: Option<bool>,
    /// Most tokens decoded in one step.
    #[arg(long, default_value_t = 512)]
    batch_tokens: u32,
    /// Serve embeddings instead of chat.
    #[arg(long)]
    embeddings: bool,
    /// How the tokens of a text become one vector [default: as the model was trained, or their mean].
    #[arg(long, value_enum)]
    pooling: Option<Pooling>,
    /// For requests that name none [default: 0.8].
    #[arg(long)]
    temperature: Option<f64>,
    /// For requests that name none [default: as far as the context reaches].
    #[arg(long)]
    max_tokens: Option<u32>,
    /// End when standard input is closed: the parent has gone.
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KvType {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GpuSplit {
    Layer,
    Row,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pooling {
    Mean,
    Cls,
    Last,
}

/// Serves until told to stop (SIGINT, SIGTERM), or until the parent has gone.
///
/// # Errors
/// Never in its `Err`: what goes wrong is logged and becomes the exit code (65 damaged file, 66 missing file, 70 engine,
/// 71 too large for this machine, 73 address).
pub async fn run(args: EngineArgs) -> anyhow::Result<ExitCode> {
    log_to_stderr(args.supervised);
    let address = match (&args.socket, &args.listen) {
        (Some(path), _) => Address::Socket(path.clone()),
        (None, listen) => Address::Tcp(listen.clone().unwrap_or_default()),
    };
    let supervised = args.supervised;
    let alias = args.alias.clone();
    Ok(match engine::serve(address, settings(args), alias, stop(supervised)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    })
}

fn settings(args: EngineArgs) -> Settings {
    Settings {
        context_tokens: args.context_tokens,
        slots: args.slots,
        queue: args.queue,
        threads: args.threads,
        gpu_layers: args.gpu_layers,
        gpu_split: match args.gpu_split {
            GpuSplit::Layer => llama::GpuSplit::Layer,
            GpuSplit::Row => llama::GpuSplit::Row,
            GpuSplit::None => llama::GpuSplit::None,
        },
        kv_type: match args.kv_type {
            KvType::F16 => llama::KvType::F16,
            KvType::Q8_0 => llama::KvType::Q8_0,
        },
        flash_attention: args.flash_attention,
        batch_tokens: args.batch_tokens,
        embeddings: args.embeddings,
        pooling: args.pooling.map(|pooling| match pooling {
            Pooling::Mean => llama::Pooling::Mean,
            Pooling::Cls => llama::Pooling::Cls,
            Pooling::Last => llama::Pooling::Last,
        }),
        defaults: spectra_config::Sampling { temperature: args.temperature, max_tokens: args.max_tokens },
        ..Settings::new(args.model)
    }
}

/// JSON lines for a supervisor, words for a person.
fn log_to_stderr(supervised: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SPECTRA_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    // Already set where this runs inside another program; then that one decides.
    let _ = if supervised { log.json().try_init() } else { log.try_init() };
}

async fn stop(supervised: bool) {
    let parent = async {
        if !supervised {
            return std::future::pending().await;
        }
        // A thread of its own: the runtime would wait for a blocked read of its own before the process may end.
        let (gone, hears) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            drop(gone);
        });
        let _: Result<(), _> = hears.await;
    };
    tokio::select! {
        () = parent => {}
        () = signal() => {}
    }
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn signal() {
    let _ = tokio::signal::ctrl_c().await;
}
