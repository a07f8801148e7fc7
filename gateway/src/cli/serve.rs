//! `spectra serve`: the gateway, until it is told to stop.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use spectra_config::{Backend, BackendKind, Config};
use tracing_subscriber::EnvFilter;

use super::load;
use crate::{Gateway, Listeners, Server};

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

/// Serves until SIGINT or SIGTERM, then drains; a second signal ends at once. The exit code is 1 where running requests
/// had to be broken off.
///
/// # Errors
/// A config that cannot be used, a port that is taken, a model that is not there: as one readable text.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let mut config = load(args.config.as_deref())?;
    config.server.listen = args.listen.unwrap_or(config.server.listen);
    config.admin.listen = args.admin.unwrap_or(config.admin.listen);
    log(&config.tracing);
    super::runtime(config.server.threads)?.block_on(serve(config, args.config.as_deref().and_then(Path::parent)))
}

async fn serve(config: Config, beside: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    for notice in &config.notices {
        writeln!(out, "note: {notice}")?;
    }
    let gateway = Arc::new(Gateway::build(config, beside)?);
    let listeners = Listeners::bind(&gateway).await?;
    announce(&gateway, &listeners, &mut out)?;
    let finished = Server::new(gateway, listeners).run(stop_signal()).await;
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

/// Log lines go to standard error; standard output has the start-up lines only.
fn log(tracing: &spectra_config::Tracing) {
    let filter = EnvFilter::try_new(&tracing.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A subscriber that is there already (a test's) stays.
    let set = if tracing.json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    drop(set);
}

/// Ready at the first SIGINT or SIGTERM; the second one ends the process.
async fn stop_signal() {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        drop(tokio::signal::ctrl_c().await);
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("draining; a second signal ends at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
}
