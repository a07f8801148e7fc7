//! `spectra serve`: the gateway, until it is told to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use spectra_config::{Backend, BackendKind, Config};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::load;
use crate::lines::Lines;
use crate::live::Read;
use crate::logs::{self, Level};
use crate::{Gateway, Listeners, Live, Server};

/// `spectra serve …`
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Config file; without it the built-in default
    #[arg(long, short, value_name = "FILE", env = "SPECTRA_CONFIG")]
    config: Option<PathBuf>,
    /// Listen here instead of `server.listen`; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", env = "SPECTRA_LISTEN")]
    listen: Option<SocketAddr>,
    /// Health, metrics and the page here instead of `admin.listen`
    #[arg(long, value_name = "ADDRESS", env = "SPECTRA_ADMIN_LISTEN")]
    admin: Option<SocketAddr>,
}

/// Serves until SIGINT or SIGTERM, then drains; a second signal ends at once. SIGHUP reads the config again. The exit code is 1 where running requests
/// had to be broken off.
///
/// # Errors
/// A config that cannot be used, a port that is taken, a model that is not there: as one readable text.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let (file, listen, admin) = (args.config.clone(), args.listen, args.admin);
    let beside = file.as_deref().and_then(Path::parent).map(Path::to_owned);
    let read = move || -> anyhow::Result<Config> {
        let mut config = load(file.as_deref())?;
        config.server.listen = listen.unwrap_or(config.server.listen);
        config.admin.listen = admin.unwrap_or(config.admin.listen);
        Ok(config)
    };
    let config = read()?;
    let lines = Lines::start()?;
    let level = logs::start(&config.tracing, &lines)?;
    let ended = super::runtime(config.server.threads)?.block_on(serve(config, Box::new(read), beside, level));
    lines.write();
    ended
}

async fn serve(config: Config, read: Read, beside: Option<PathBuf>, level: Level) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    for notice in &config.notices {
        writeln!(out, "note: {notice}")?;
    }
    let gateway = Arc::new(Gateway::build(config, beside.as_deref())?);
    let listeners = Listeners::bind(&gateway).await?;
    // Before the line that says where it listens: from then on a signal may come.
    let hangups = signal(SignalKind::hangup())?;
    let stops = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    announce(&gateway, &listeners, &mut out)?;
    let live = Arc::new(Live::new(gateway, read).beside(beside).logging(level));
    tokio::spawn(reload_at(hangups, live.clone()));
    let finished = Server::new(live, listeners).run(stop_signal(stops)).await;
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was started, ending with the line that says where it listens.
fn announce(gateway: &Gateway, listeners: &Listeners, out: &mut impl Write) -> anyhow::Result<()> {
    for (name, backend) in &gateway.config.backends {
        writeln!(out, "backend {name}: {}", describe(backend))?;
    }
    for missing in &gateway.missing {
        writeln!(out, "note: {missing}")?;
    }
    for (name, route) in &gateway.config.routes {
        let degraded = if route.degraded { " (none of its own backends is there)" } else { "" };
        writeln!(out, "route {name}: {}{degraded}", route.ladder_names().join(" -> "))?;
    }
    writeln!(out, "admin:  http://{} (/healthz /readyz /metrics /dashboard)", listeners.admin.local_addr()?)?;
    writeln!(out, "spectra listens on http://{}/v1", listeners.main.local_addr()?)?;
    out.flush()?;
    Ok(())
}

fn describe(backend: &Backend) -> String {
    match backend.kind() {
        Some(BackendKind::Llama(llama)) => format!("{} by llama.cpp on this machine", llama.model),
        Some(BackendKind::Openai(openai)) => format!("{} at {}", openai.model.get(), openai.base_url.get()),
        Some(BackendKind::Script(script)) => format!("{} fixed answers", script.answers.len()),
        None => "nothing".into(),
    }
}

/// Reads the config again at each SIGHUP.
async fn reload_at(mut hangups: Signal, live: Arc<Live>) {
    while hangups.recv().await.is_some() {
        let live = live.clone();
        // It says in the log what came of it.
        drop(tokio::task::spawn_blocking(move || live.reload()).await);
    }
}

/// Ready at the first SIGINT or SIGTERM; the second one ends the process.
async fn stop_signal((mut terminate, mut interrupt): (Signal, Signal)) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("draining; a second signal ends at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
}
