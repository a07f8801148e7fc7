//! `spectra router export`, `import`: what the router learned, from one gateway to others.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use spectra_router::score::{Forecast, Rule, Scorer, Settings, State, Weights};

use super::ledger::place;
use super::{replay, rows};
use crate::books::ROUTER_STATE;
use crate::ledger::{load_state, save_state};

/// `spectra router …`
#[derive(Debug, clap::Args)]
pub struct RouterArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write what a ledger keeps of the router's learning, as JSON
    Export {
        /// The ledger; without it the one of the config
        #[arg(long, value_name = "FILE")]
        ledger: Option<PathBuf>,
        /// Config that names the ledger; without it the built-in default
        #[arg(long, short, value_name = "FILE", env = "SPECTRA_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Put exported states into a ledger in place of its own; several are merged. Stop its gateway first
    Import {
        #[arg(required = true)]
        states: Vec<PathBuf>,
        /// The ledger; without it the one of the config
        #[arg(long, value_name = "FILE")]
        ledger: Option<PathBuf>,
        /// Write the merged state to this file instead, for `router.state`; `-` for standard output
        #[arg(long, short, value_name = "FILE", conflicts_with = "ledger")]
        out: Option<PathBuf>,
        /// The weights (`router.weights`) the states must be of; without it those built in
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
        /// Config that names the ledger; without it the built-in default
        #[arg(long, short, value_name = "FILE", env = "SPECTRA_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// # Errors
/// A ledger or a state that cannot be used, or a place that cannot be written to.
pub fn run(args: RouterArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Export { ledger, config } => {
            writeln!(std::io::stdout().lock(), "{}", exported(&place(ledger, config.as_deref())?)?)?;
        }
        Command::Import { states, ledger, out, weights, config } => {
            let state = merged(&states, weights.as_deref())?;
            match out {
                Some(out) if out.as_os_str() == "-" => writeln!(std::io::stdout().lock(), "{state}")?,
                Some(out) => std::fs::write(&out, state).with_context(|| format!("cannot write {}", out.display()))?,
                None => {
                    let policy = super::load(config.as_deref())?.router.policy;
                    let ledger = place(ledger, config.as_deref())?;
                    if let Some(forecast) = foreseen(&ledger, &state, weights.as_deref(), policy.into())? {
                        writeln!(std::io::stderr(), "under the policy of the config, {forecast}")?;
                    }
                    save_state(&ledger, ROUTER_STATE, &state).with_context(|| format!("cannot write {}", ledger.display()))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn exported(ledger: &Path) -> anyhow::Result<String> {
    load_state(ledger, ROUTER_STATE)?
        .with_context(|| format!("{} holds nothing that a router learned (it is written once a minute, and at the end)", ledger.display()))
}

/// What the state's scores would do under a rule; `None` where the ledger kept no text to score, or the rule goes by difficulty, which
/// no state changes.
fn foreseen(ledger: &Path, state: &str, weights: Option<&Path>, rule: Rule) -> anyhow::Result<Option<Forecast>> {
    if matches!(rule, Rule::Difficulty(_)) || !ledger.is_file() {
        return Ok(None);
    }
    let scorer = rows::scorer(weights, &[])?;
    scorer.adopt(serde_json::from_str(state)?)?;
    Ok(Some(replay::foreseen(ledger, &scorer, rule)?).filter(|forecast| forecast.count > 0.0))
}

/// The states as one. Each must be of these weights and of this build's layout.
fn merged(files: &[PathBuf], weights: Option<&Path>) -> anyhow::Result<String> {
    let weights = match weights {
        Some(path) => Weights::read(&std::fs::read(path).with_context(|| path.display().to_string())?)?,
        None => Weights::builtin(),
    };
    let mut merged: Option<State> = None;
    for file in files {
        let read = || -> anyhow::Result<State> {
            let state: State = serde_json::from_str(&std::fs::read_to_string(file)?).context("not a state that was exported")?;
            Scorer::new(weights.clone(), Settings::default()).adopt(state.clone())?;
            Ok(state)
        };
        let state = read().with_context(|| file.display().to_string())?;
        merged = match merged {
            None => Some(state),
            Some(before) => Some(before.merge(state).with_context(|| format!("{} is of other weights", file.display()))?),
        };
    }
    let Some(merged) = merged else { bail!("no states") };
    Ok(serde_json::to_string(&merged)?)
}

#[cfg(test)]
mod tests {
    use spectra_router::score::Outcome;

    use super::*;

    fn request(text: &str) -> spectra_backends::ChatRequest {
        let body = serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
        spectra_backends::ChatRequest::parse(body.to_string().into()).unwrap()
    }

    #[test]
    fn what_one_ledger_learned_comes_into_another_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let scorer = rows::scorer(None, &[]).unwrap();
        let one = request("Make a title of the text.\nReturn JSON.");
        for _ in 0..20 {
            scorer.teach(&scorer.score(&one), Outcome { local: true, usable: false, propensity: 1.0 });
        }
        scorer.settle(true);
        save_state(&path("a.sqlite"), ROUTER_STATE, &serde_json::to_string(&scorer.export()).unwrap()).unwrap();
        std::fs::write(path("a.json"), exported(&path("a.sqlite")).unwrap()).unwrap();
        let import = |states: &[PathBuf]| merged(states, None);
        save_state(&path("b.sqlite"), ROUTER_STATE, &import(&[path("a.json")]).unwrap()).unwrap();
        let twin = rows::scorer(None, &[]).unwrap();
        twin.adopt(serde_json::from_str(&exported(&path("b.sqlite")).unwrap()).unwrap()).unwrap();
        assert_eq!(twin.score(&one).p_local.to_bits(), scorer.score(&one).p_local.to_bits());

        let mut other = serde_json::to_value(scorer.export()).unwrap();
        other["weights"] = "00000000".into();
        std::fs::write(path("other.json"), other.to_string()).unwrap();
        let why = format!("{:#}", import(&[path("a.json"), path("other.json")]).unwrap_err());
        assert!(why.contains("other.json") && why.contains("00000000"), "{why}");
        // Pinned, it is what the scores are, whatever was learned before.
        let config = |state: &str| {
            let file = path(state).display().to_string().replace('\\', "/");
            let text = "[backends.a.script]\nanswers = [{ text = 'a' }]\n[routes.local]\nladder = ['a']\n[routes.strong]\nladder = ['a']\n";
            spectra_config::Config::parse(&format!("{text}[router]\nlearn = false\nstate = '{file}'"), "test", &|_| None).unwrap()
        };
        let router = spectra_router::Router::new(&crate::sample::config(), spectra_backends::Fleet::default()).unwrap();
        let before = router.scorer().score(&one).p_local;
        let pinned = router.next(&config("a.json"), spectra_backends::Fleet::default(), &crate::probes::of).unwrap();
        assert!(pinned.pinned() && pinned.scorer().score(&one).p_local.to_bits() == scorer.score(&one).p_local.to_bits());
        assert!(router.scorer().score(&one).p_local.to_bits() == before.to_bits());
        let refused = router.next(&config("other.json"), spectra_backends::Fleet::default(), &crate::probes::of).unwrap_err().to_string();
        assert!(refused.contains("other.json") && refused.contains("00000000"), "{refused}");
        std::fs::write(path("none.json"), "{}").unwrap();
        assert!(import(&[path("none.json")]).is_err());
        assert!(exported(&path("nothing.sqlite")).is_err());
    }
}
