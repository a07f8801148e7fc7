//! Programs on the official SDKs, in their own languages; made ready by `scripts/setup --tests`, skipped without.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use spectra_tests::harness::{Spectra, hosted};
use spectra_tests::model::obedient;
use spectra_tests::upstream::{Protocol, Upstream};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// How a client program is started: by what, with which arguments; none where it is not installed.
fn command(program: &str) -> Option<(PathBuf, Vec<String>)> {
    let clients = root().join("tests/clients");
    let file = |folder: &str| clients.join(folder).join(program).display().to_string();
    let (command, arguments, ready) = if program.ends_with(".mjs") {
        let own = root().join(".tools/bin/node");
        let node = if own.exists() { own } else { "node".into() };
        (node, vec![file("node")], clients.join("node/node_modules/ai").exists())
    } else if program.starts_with("test_") {
        let python = root().join(".tools/suites/bin/python");
        let pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--benchmark-disable", "-rs", "--tb=short"];
        (python.clone(), pytest.map(str::to_owned).into_iter().chain([file("suites")]).collect(), python.exists())
    } else {
        let python = root().join(if program == "instructor_sdk.py" { ".tools/suites/bin/python" } else { ".tools/venv/bin/python" });
        let folder = if program == "instructor_sdk.py" { "suites" } else { "python" };
        (python.clone(), vec![file(folder)], python.exists())
    };
    if !ready {
        println!("skipped: {program}: run scripts/setup --tests first");
    }
    ready.then_some((command, arguments))
}

/// Runs a client program against the gateway; its standard output. `None`: the client is not installed.
async fn run(program: &str, spectra: &Spectra, real: bool) -> Option<String> {
    let (command, arguments) = command(program)?;
    let child = tokio::process::Command::new(command)
        .args(arguments)
        .env("SPECTRA_BASE_URL", spectra.base_url())
        .env("SPECTRA_REAL", if real { "1" } else { "0" })
        .env("NO_PROXY", "127.0.0.1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(600), child).await.expect("the client ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout).into_owned(), String::from_utf8_lossy(&ended.stderr).into_owned());
    assert!(ended.status.success(), "{program}: {}\n{out}\n{err}", ended.status);
    Some(out)
}

/// Checks that passed: an `ok` line each, or pytest's own count.
fn passed(out: &str) -> usize {
    let pytest = out.lines().last().and_then(|line| line.split(" passed").next()?.rsplit([' ', '=']).next()?.parse().ok());
    pytest.unwrap_or_else(|| out.lines().filter(|line| line.starts_with("ok ")).count())
}

/// A gateway over real sockets on a server that does as it is told.
async fn check(program: &str, expected: usize) {
    let up = Upstream::start(Protocol::Http1, obedient).await.unwrap();
    let names = "[aliases]\n\"json\" = \"local\"\n\"tool\" = \"local\"\n\"embed\" = \"local\"\n";
    let spectra = Spectra::start(&hosted(&[("small", up.base_url(), "vision = true")], "", names)).await.unwrap();
    if let Some(out) = run(program, &spectra, false).await {
        println!("{out}");
        assert_eq!(passed(&out), expected, "{out}");
    }
}

#[tokio::test]
async fn sdk_openai_python_speaks_to_scripted_models() {
    check("openai_sdk.py", 16).await;
}

#[tokio::test]
async fn sdk_anthropic_python_speaks_to_scripted_models() {
    check("anthropic_sdk.py", 5).await;
}

#[tokio::test]
async fn sdk_anthropic_node_speaks_to_scripted_models() {
    check("anthropic_sdk.mjs", 4).await;
}

#[tokio::test]
async fn sdk_vercel_ai_speaks_to_scripted_models() {
    check("vercel_ai.mjs", 7).await;
}

#[tokio::test]
async fn sdk_openai_node_speaks_to_scripted_models() {
    check("openai_sdk.mjs", 8).await;
}

/// LangChain's own standard integration tests of a chat model.
#[tokio::test]
async fn sdk_langchain_standard_tests_pass_on_scripted_models() {
    check("test_langchain.py", 43).await;
}

#[tokio::test]
async fn sdk_instructor_speaks_to_scripted_models() {
    check("instructor_sdk.py", 8).await;
}

/// The starter model, where it is: `SPECTRA_TEST_MODEL`, or one in `models/`.
fn model() -> Option<PathBuf> {
    let named = std::env::var_os("SPECTRA_TEST_MODEL").map(PathBuf::from);
    let in_folder = || {
        std::fs::read_dir(root().join("models"))
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "gguf"))
    };
    named.filter(|path| path.exists()).or_else(in_folder)
}

#[tokio::test]
async fn sdk_clients_get_real_answers_from_the_real_local_model() {
    let binary = std::env::current_exe().unwrap().with_file_name("").join("../spectra");
    let (Some(model), true) = (model(), binary.exists()) else {
        println!("skipped: no model (SPECTRA_TEST_MODEL, or `spectra model pull starter`) or no binary (cargo build --workspace)");
        return;
    };
    let config = format!(
        r#"
        [backends.llama.llama]
        model = "{}"
        slots = 2
        # Greedy, so that every run is the same one.
        defaults = {{ temperature = 0.0, max_tokens = 64 }}
        [backends.llama.llama.worker]
        program = "{}"
        [routes.local]
        ladder = ["llama"]
        [routes.strong]
        ladder = ["llama"]
        "#,
        model.display(),
        binary.display()
    );
    let spectra = Spectra::start(&config).await.unwrap();
    let loaded = async {
        while spectra.admin("/readyz").await.unwrap().json().unwrap()["local"] != "ready" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), loaded).await.expect("the model loads");
    for (program, expected) in [
        ("openai_sdk.py", 8),
        ("openai_sdk.mjs", 5),
        ("anthropic_sdk.py", 3),
        ("anthropic_sdk.mjs", 3),
        ("vercel_ai.mjs", 4),
        ("instructor_sdk.py", 3),
        ("test_langchain.py", 20),
    ] {
        if let Some(out) = run(program, &spectra, true).await {
            assert_eq!(passed(&out), expected, "{out}");
        }
    }
}
