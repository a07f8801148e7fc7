//! The binary as an operator meets it: what it says at start, and why it does not start.

#![expect(clippy::unwrap_used, reason = "a test program: its helpers stand outside test functions")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

const CONFIG: &str = r#"
    [server]
    listen = "127.0.0.1:0"
    [admin]
    listen = "127.0.0.1:0"
    [backends.small.script]
    answers = [{ text = "hello" }]
    [routes.local]
    ladder = ["small"]
    [routes.strong]
    ladder = ["small"]
"#;

fn spectra(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spectra"));
    command
        .args(arguments)
        .env_remove("OPENAI_API_KEY")
        .env_remove("SPECTRA_CONFIG")
        .env("SPECTRA_MODELS", "/nowhere")
        .stdin(Stdio::null());
    command
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Fails with exit code 1 and a message that holds all of `said`, without a panic.
fn fails(output: &Output, said: &[&str]) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("error: ") && !err.contains("panicked"), "{err}");
    for part in said {
        assert!(err.contains(part), "{part:?} in {err}");
    }
}

#[test]
fn a_port_that_is_taken_is_said_with_a_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = file(CONFIG);
    let path = config.path().to_str().unwrap();
    fails(&spectra(&["serve", "--config", path, "--listen", &address]).output().unwrap(), &[&address, "--listen"]);
    fails(&spectra(&["serve", "--config", path, "--admin", &address]).output().unwrap(), &[&address, "--admin"]);
}

#[test]
fn without_any_model_it_does_not_start_and_says_how_to_get_one() {
    let output = spectra(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).current_dir("/").output().unwrap();
    fails(&output, &["spectra model pull starter", "OPENAI_API_KEY"]);
}

#[test]
fn a_wrong_config_is_told_with_line_and_remedy() {
    let wrong = file(&CONFIG.replace("ladder = [\"small\"]", "ladder = [\"smal\"]"));
    let path = wrong.path().to_str().unwrap();
    for command in ["check", "serve"] {
        let arguments: &[&str] = if command == "check" { &["check", path] } else { &["serve", "--config", path] };
        fails(&spectra(arguments).output().unwrap(), &["smal", "help: ", "^^^^", &format!("{path}:")]);
    }
    fails(&spectra(&["check", "/no/such.toml"]).output().unwrap(), &["/no/such.toml", "help: "]);
    let good = spectra(&["check"]).output().unwrap();
    assert!(good.status.success() && String::from_utf8_lossy(&good.stdout).contains("usable"));
}

#[test]
fn a_made_key_is_let_in_by_its_hash_and_no_two_are_the_same() {
    let made = || String::from_utf8(spectra(&["key", "bob"]).output().unwrap().stdout).unwrap();
    let (one, other) = (made(), made());
    assert_ne!(one, other);
    assert!(one.starts_with("# for the caller, shown only here: sk-spectra-"), "{one}");
    let config = file(&(one + CONFIG));
    assert!(spectra(&["check", config.path().to_str().unwrap()]).output().unwrap().status.success());
}

#[test]
fn explain_says_route_score_and_plan_without_a_model() {
    let body = |text: &str| format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let config = file(CONFIG);
    for (text, route) in [("Say hello.", "local"), ("Prove that there are infinitely many primes and derive their density.", "strong")] {
        let mut child = spectra(&["explain", "--json", "--config", config.path().to_str().unwrap()]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(body(text).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(said["difficulty"].is_number() && said["ladder"].is_array(), "{said}");
        // Without a hosted model a hard request stays where it can be answered.
        assert!(["local", route].contains(&said["route"].as_str().unwrap()), "{said}");
    }
    let bad = file("{");
    fails(&spectra(&["explain", bad.path().to_str().unwrap()]).output().unwrap(), &["not a chat request"]);
}

#[cfg(unix)]
#[test]
fn serve_says_where_it_listens_and_ends_well_when_told_to() {
    let config = file(CONFIG);
    let mut child =
        spectra(&["serve", "--config", config.path().to_str().unwrap()]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<String> =
        lines.map(Result::unwrap).take_while(|line| !line.starts_with("spectra listens on http://127.0.0.1:")).collect();
    assert!(
        said.iter().any(|line| line.starts_with("backend small")) && said.iter().any(|line| line.starts_with("route local: small")),
        "{said:?}"
    );
    let ended = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(ended.success());
    assert!(child.wait().unwrap().success());
}

/// `spectra verify` with this on standard input: its exit code, standard output and standard error.
fn verifies(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child =
        spectra(&[&["verify"], arguments].concat()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn verify_ends_with_what_it_found_and_says_what_to_do_with_bad_files() {
    let row = r#"{"id":"a","text":"{\"a\":1,}","finish_reason":"stop"}"#;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for (arguments, input, code, out, err) in [
        (&["-"][..], r#"{"a":1,}"#, 0, r#""action":"repair""#, ""),
        (&["-"], r#"{"a":"#, 1, r#""action":"continue""#, ""),
        (&["--corpus", "-"], row, 0, r#""id":"a""#, "µs per KB"),
        (&["--corpus", "-"], "", 1, "", "no rows in -: a row is a JSON object on one line"),
        (&["--corpus", "-"], "{}\nno\n", 1, "", "2 lines of - are no rows, 0 are"),
        (&["--corpus", "/no/such/file"], "", 1, "", "cannot open /no/such/file"),
        (&["--corpus", folder], "", 1, "", "is a directory: give a file"),
        (&["--schema", "/no/such/file", "-"], "{}", 1, "", "--schema takes a file"),
        (&["--checks", "jsno", "-"], "{}", 1, "", "jsno"),
        (&["--no-such-option"], "", 2, "", "--no-such-option"),
    ] {
        let (ended, said, told) = verifies(arguments, input);
        assert!(ended == Some(code) && said.contains(out) && told.contains(err), "{arguments:?}: {ended:?}\n{said}\n{told}");
    }
}
