//! Operators' own checks as they run: real programs, a real endpoint, and what each says of the answer that a client gets.

use std::time::Duration;

use serde_json::{Value, json};
use spectra_tests::harness::{Answered, Spectra, until};
use spectra_tests::upstream::{Protocol, Received, Step, Upstream, whole_body};

const CHAT: &str = "/v1/chat/completions";

/// What comes of a check.
#[derive(Clone, Copy, Debug)]
enum Comes {
    Usable,
    /// The answer is refused, for this reason.
    Unusable(&'static str),
    /// It could not be made.
    Failed,
}

struct Case {
    name: &'static str,
    /// Lines of the check's table.
    own: String,
    comes: Comes,
}

/// One route for each case and each word for a check that fails, all on one scripted model that says hello.
fn config(cases: &[Case]) -> String {
    let mut text = String::from(
        "[backends.small]\nbreaker = { failure_share = 2.0, unusable_weight = 0.0 }\n[backends.small.script]\nanswers = [{ text = \"hello\" }]\n",
    );
    for Case { name, own, .. } in cases {
        for on_failure in ["pass", "refuse"] {
            text += &format!(
                "[routes.{name}_{on_failure}]\nladder = [\"small\"]\nattempts = 1\n[routes.{name}_{on_failure}.verify.own.{name}]\n{own}\non_failure = \"{on_failure}\"\n"
            );
        }
    }
    text + "[router]\nlocal = \"usable_pass\"\nstrong = \"usable_pass\"\n"
}

fn asked(route: &str, stream: bool) -> String {
    json!({"model": route, "messages": [{"role": "user", "content": "Greet me."}], "stream": stream}).to_string()
}

async fn check(cases: &[Case]) {
    let spectra = Spectra::start(&config(cases)).await.unwrap();
    for Case { name, own, comes } in cases {
        for on_failure in ["pass", "refuse"] {
            let answered = spectra.post(CHAT, &asked(&format!("{name}_{on_failure}"), false)).await.unwrap();
            let about = format!("{own}, {on_failure}: {} {}", answered.status, answered.text());
            match (comes, on_failure) {
                (Comes::Usable, _) | (Comes::Failed, "pass") => delivered(&answered, &about),
                (Comes::Unusable(why), _) => refused(&answered, why, &about),
                (Comes::Failed, _) => refused(&answered, "could not be made", &about),
            }
        }
        let said = match comes {
            Comes::Usable => "usable",
            Comes::Unusable(_) => "unusable",
            Comes::Failed => "failed",
        };
        let counted = spectra.metric(&format!("spectra_checks_total{{check=\"{name}\",said=\"{said}\"}}")).await.unwrap();
        assert!((counted - 2.0).abs() < 0.1, "{own}: {counted} of 2 {said}");
    }
}

fn delivered(answered: &Answered, about: &str) {
    assert_eq!((answered.status, answered.header("x-spectra-verified")), (200, Some("ok")), "{about}");
    assert_eq!(answered.json().unwrap()["choices"][0]["message"]["content"], "hello", "{about}");
}

fn refused(answered: &Answered, why: &str, about: &str) {
    let (status, _, _, code) = answered.error().unwrap();
    assert_eq!((status, code.as_deref()), (502, Some("no_usable_answer")), "{about}");
    assert!(answered.text().contains(why), "{about}");
    assert!(["x-spectra-route", "x-spectra-attempts", "x-spectra-cost-usd"].iter().all(|name| answered.header(name).is_some()), "{about}");
}

fn program(name: &'static str, script: &str, comes: Comes) -> Case {
    Case { name, own: format!("command = [\"/bin/sh\", \"-c\", '''{script}''']"), comes }
}

#[tokio::test]
async fn a_program_says_what_it_thinks_of_an_answer() {
    let late = |mut case: Case| {
        case.own += "\nwithin_ms = 150";
        case
    };
    check(&[
        program("usable", r#"grep -q '"text":"hello"'"#, Comes::Usable),
        program("told", r#"grep -q '"asked":"Greet me."'"#, Comes::Usable),
        program("unread", "exit 0", Comes::Usable),
        program("chatty", "echo all sorts of things; exit 0", Comes::Usable),
        program("rude", "cat >/dev/null; echo it is too short; exit 1", Comes::Unusable("it is too short")),
        program("mute", "exit 1", Comes::Unusable("it gave no reason")),
        program("bytes", r"printf 'bad \377\376 bytes'; exit 1", Comes::Unusable("bad ")),
        program("crashed", "exit 3", Comes::Failed),
        program("killed", "kill -9 $$", Comes::Failed),
        program("endless", "yes", Comes::Failed),
        late(program("late", "sleep 600", Comes::Failed)),
        late(program("deaf", "exec >&-; sleep 600; exit 0", Comes::Failed)),
        Case { name: "absent", own: "command = [\"/no/such/program\"]".into(), comes: Comes::Failed },
    ])
    .await;
}

/// Neither the program nor what it started is left, not even as a zombie.
#[tokio::test]
async fn a_late_program_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("ids");
    let script = format!("sleep 600 & echo $$ $! > {0}.part; mv {0}.part {0}; wait; exit 0", ids.display());
    let mut case = program("usable", &script, Comes::Failed);
    case.own += "\nwithin_ms = 2000";
    let spectra = Spectra::start(&config(&[case])).await.unwrap();
    delivered(&spectra.post(CHAT, &asked("usable_pass", false)).await.unwrap(), "a late check passes");
    let ids = std::fs::read_to_string(ids).unwrap();
    for id in ids.split_whitespace() {
        until(&format!("process {id} is gone"), async || {
            let alive = tokio::process::Command::new("kill").args(["-0", id]).stderr(std::process::Stdio::null()).status().await?;
            Ok(!alive.success())
        })
        .await
        .unwrap();
    }
}

fn endpoint(request: &Received, _: usize) -> Vec<Step> {
    let json = |text: &str| whole_body("application/json", text);
    match request.target.as_str() {
        "/usable" => json(r#"{"usable":true}"#),
        "/rude" => json(r#"{"usable":false,"why":"it is too short"}"#),
        "/mute" => json(r#"{"usable":false}"#),
        "/garbage" => json("OK"),
        "/other" => json(r#"{"usable":"yes"}"#),
        "/empty" => json(""),
        "/endless" => json(&format!(r#"{{"usable":true,"why":"{}"}}"#, "x".repeat(40_000))),
        "/crashed" => vec![Step::Head(500, vec![("content-length", "15".into())]), Step::Body(r#"{"usable":true}"#.into()), Step::End],
        "/moved" => vec![Step::Head(302, vec![("location", "/usable".into()), ("content-length", "0".into())]), Step::End],
        "/cut" => vec![Step::Head(200, Vec::new()), Step::Body(r#"{"usable":true}"#.into()), Step::Cut],
        _ => vec![Step::Stall],
    }
}

#[tokio::test]
async fn an_endpoint_says_what_it_thinks_of_an_answer() {
    let up = Upstream::start(Protocol::Http1, endpoint).await.unwrap();
    let nobody = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    let cases = [
        ("usable", Comes::Usable),
        ("rude", Comes::Unusable("it is too short")),
        ("mute", Comes::Unusable("it gave no reason")),
        ("garbage", Comes::Failed),
        ("other", Comes::Failed),
        ("empty", Comes::Failed),
        ("endless", Comes::Failed),
        ("crashed", Comes::Failed),
        ("moved", Comes::Failed),
        ("cut", Comes::Failed),
        ("late", Comes::Failed),
    ];
    let late = |name: &str| if name == "late" { "\nwithin_ms = 150" } else { "" };
    let own = |name: &str| format!("url = \"http://{}/{name}\"{}", up.address, late(name));
    let mut cases: Vec<Case> = cases.into_iter().map(|(name, comes)| Case { name, own: own(name), comes }).collect();
    cases.push(Case { name: "nobody", own: format!("url = \"http://{nobody}/\""), comes: Comes::Failed });
    check(&cases).await;

    let first = up.received().remove(0).json();
    let told = ["check", "model", "asked", "text"].map(|key| first[key].as_str().unwrap_or_default().to_owned());
    assert_eq!(told, ["usable", "small", "Greet me.", "hello"], "{first}");
    assert!(first["request_id"].as_str().is_some_and(|id| !id.is_empty()) && first["tool_calls"] == json!([]), "{first}");
    // Who is late is left.
    up.until(|seen| seen.left >= 2).await.unwrap();
}

#[tokio::test]
async fn the_verdict_comes_as_an_event_before_the_end_to_clients_that_ask_for_it() {
    let slow = Duration::from_secs(5);
    let rude = [program("usable", "exit 0", Comes::Usable), program("rude", "exit 1", Comes::Unusable(""))];
    let spectra = Spectra::start(&config(&rude)).await.unwrap();
    for (header, events) in [("x-spectra-verdict: event\r\n", 1), ("x-spectra-verdict: comment\r\n", 0), ("", 0)] {
        let answered = tokio::time::timeout(slow, spectra.post_with(CHAT, header, &asked("usable_pass", true))).await.unwrap().unwrap();
        let text = answered.text();
        assert_eq!(text.matches("event: spectra.verdict\n").count(), events, "{text}");
        assert!(text.contains(": spectra verified=ok"), "{text}");
        if events == 1 {
            let verdict = text.split("event: spectra.verdict\ndata: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
            let verdict: Value = serde_json::from_str(verdict).unwrap();
            assert_eq!(verdict, json!({"verified": "ok", "attempts": 1, "cost_usd": verdict["cost_usd"]}));
            assert!(verdict["cost_usd"].is_number());
            let (at, done) = (text.find("event: spectra.verdict"), text.find("data: [DONE]"));
            assert!(at < done && text.trim_end().ends_with("[DONE]"), "{text}");
        }
    }
    // What is not delivered has no verdict but the error.
    let answered = spectra.post_with(CHAT, "x-spectra-verdict: event\r\n", &asked("rude_pass", true)).await.unwrap();
    assert!(answered.text().contains("no_usable_answer") && !answered.text().contains("event: spectra.verdict"), "{}", answered.text());
}
