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

/// A command with bytes on standard input.
fn fed(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = spectra(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn what_a_router_learned_goes_from_ledger_to_file_to_ledger() {
    use spectra_router::score::{Scorer, Settings, Weights};

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let state = serde_json::to_value(Scorer::new(Weights::builtin(), Settings::default()).export()).unwrap();
    spectra_gateway::ledger::save_state(path("a.sqlite").as_ref(), "router", &state.to_string()).unwrap();
    let exported = |ledger: &str| spectra(&["router", "export", "--ledger", &path(ledger)]).output().unwrap();
    let one = exported("a.sqlite");
    assert!(one.status.success(), "{}", String::from_utf8_lossy(&one.stderr));
    std::fs::write(path("a.json"), &one.stdout).unwrap();
    let import = |arguments: &[&str]| spectra(&[&["router", "import"], arguments].concat()).output().unwrap();
    let done = import(&[&path("a.json"), &path("a.json"), "--ledger", &path("b.sqlite")]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(exported("b.sqlite").stdout, one.stdout, "nothing and nothing is nothing");
    assert_eq!(import(&[&path("a.json"), "--out", "-"]).stdout, one.stdout);

    let mut old = state;
    old.as_object_mut().unwrap().remove("weights");
    std::fs::write(path("old.json"), old.to_string()).unwrap();
    fails(&import(&[&path("old.json"), "--out", "-"]), &["old.json", "run its gateway with this build once, then export it again"]);
    fails(&exported("none.sqlite"), &["there is no ledger at"]);
    fails(&import(&[&path("none.json"), "--ledger", &path("b.sqlite")]), &["none.json"]);
    assert_eq!(exported("b.sqlite").stdout, one.stdout, "what could not be read has touched nothing");
}

#[test]
fn score_answers_every_line_it_can_and_the_same_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let learn = folder.path().join("learn.jsonl");
    let labelled: Vec<String> = (0..60)
        .map(|at| {
            format!(r#"{{"prompt":"{} {at}.","weak_score":{},"strong_score":1.0}}"#, ["Greet person", "Prove lemma"][at % 2], (at + 1) % 2)
        })
        .collect();
    std::fs::write(&learn, labelled.join("\n")).unwrap();
    let huge = "lorem ipsum ".repeat(100_000);
    let mut input = format!(
        "\u{feff}{{\"id\":\"empty\",\"prompt\":\"\"}}\r\n\n{{\"id\":7,\"prompt\":\"Prove it.\",\"group\":null,\"system\":null}}\n\
         {{\"id\":\"body\",\"request\":{{\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"Hi\"}}]}}]}}}}\n\
         {{\"id\":\"huge\",\"prompt\":\"{huge}\"}}\n"
    )
    .into_bytes();
    input.extend_from_slice(
        b"{\"id\":\"latin\",\"prompt\":\"caf\xe9\"}\n{\"id\":\"half\n{\"id\":\"none\"}\n{\"id\":\"bad\",\"request\":{}}\n",
    );
    let score = |more: &[&str]| fed(&[&["score"], more].concat(), &input);
    let plain = score(&[]);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(plain.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<_> = lines.iter().map(|line| line["id"].clone()).collect();
    assert_eq!(serde_json::json!(ids), serde_json::json!(["empty", 7, "body", "huge", "latin"]));
    assert!(lines.iter().all(|line| line["score"].as_f64().is_some_and(f64::is_finite)), "{lines:?}");
    let err = String::from_utf8_lossy(&plain.stderr);
    assert_eq!(plain.status.code(), Some(1));
    for part in ["error: -:7: ", "error: -:8: neither", "error: -:9: ", "3 of 8 lines have no score"] {
        assert!(err.contains(part), "{part:?} in {err}");
    }
    let taught = score(&["--learn", learn.to_str().unwrap()]);
    assert_eq!(taught.stdout, score(&["--learn", learn.to_str().unwrap()]).stdout);
    assert!(taught.stdout != plain.stdout && plain.stdout == score(&[]).stdout);
}
