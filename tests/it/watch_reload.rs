//! Behaviour 38: another config takes the place of the one in force, whole or not at all.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use spectra_backends::{Ask, Backend, Reply};
use spectra_tests::harness::{PATIENCE, Spectra, exchange, post};
use tokio::sync::Notify;
use tower::{ServiceExt, service_fn};

const CHAT: &str = "/v1/chat/completions";

fn hello(model: &str) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Say hello." }] }).to_string()
}

/// Script answers of `small` are given in turn, so that a test sees whether it is the same backend still.
const SMALL: &str = "backends.small.script.answers = [{ text = \"one\" }, { text = \"two\" }, { text = \"three\" }]\n";

fn routed(to: &str) -> String {
    format!("routes.local.ladder = [\"{to}\"]\nroutes.strong.ladder = [\"{to}\"]\n")
}

async fn said(spectra: &Spectra, model: &str) -> String {
    let answered = spectra.post(CHAT, &hello(model)).await.unwrap();
    match answered.json().unwrap()["choices"][0]["message"]["content"].as_str() {
        Some(text) => text.to_owned(),
        None => answered.error().unwrap().3.unwrap_or_default(),
    }
}

#[tokio::test]
async fn b38_a_reload_takes_names_routes_and_prices_into_force() {
    let spectra = Spectra::start(&(SMALL.to_owned() + &routed("small"))).await.unwrap();
    let hash = |reloaded: Value| reloaded["config_hash"].as_str().unwrap().to_owned();
    assert_eq!(said(&spectra, "auto").await, "one");
    assert_eq!(said(&spectra, "gpt-4o").await, "model_not_found");
    let first = spectra.live.current().config_hash();

    let text = format!("{SMALL}backends.new.script.answers = [{{ text = \"new\" }}]\n{}aliases.gpt-4o = \"new\"\n", routed("small"));
    let reloaded = spectra.reload(&text).await.unwrap();
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    let second = hash(reloaded.json().unwrap());
    assert_ne!(second, first);
    assert_eq!(said(&spectra, "gpt-4o").await, "new");
    assert_eq!(said(&spectra, "auto").await, "two", "the section of small is the same: it goes on where it was");

    let changed = text.replace("three", "3");
    let third = hash(spectra.reload(&changed).await.unwrap().json().unwrap());
    assert_eq!(said(&spectra, "auto").await, "one", "another section is another backend");

    let metric = async |series: &str| spectra.metric(series).await.unwrap();
    assert_eq!(metric("spectra_config_reloads_total{result=\"applied\"}").await, 2.0);
    assert_eq!(metric(&format!("spectra_config_info{{hash=\"{third}\"}}")).await, 1.0);
    assert_eq!(metric(&format!("spectra_config_info{{hash=\"{first}\"}}")).await, 0.0);
    assert!(metric("spectra_config_last_applied_timestamp_seconds").await > 1.7e9);
    assert_eq!(metric("spectra_requests_total{outcome=\"usable\",route=\"local\"}").await, 3.0, "counts go on");
    assert_eq!(metric("spectra_attempts_total{model=\"new\",route=\"none\",rung=\"0\",verdict=\"pass\"}").await, 1.0);
    let listed = spectra.get("/v1/models").await.unwrap().text();
    assert!(listed.contains("\"new\"") && listed.contains("\"gpt-4o\""), "{listed}");
}

#[tokio::test]
async fn b38_a_config_that_cannot_be_used_is_rejected_whole_and_told_with_line_and_column() {
    let good = SMALL.to_owned() + &routed("small");
    let spectra = Spectra::start(&good).await.unwrap();
    for (bad, told) in [
        (good.replace("[\"small\"]", "[\"nobody\"]"), "test.toml:2:25"),
        (good.clone() + "[limits]\nin_flight = 0\n", "test.toml:4:2"),
        (good.clone() + "[server]\nlisten = 1\n", "test.toml:5:10"),
        (good.clone() + "tracing.level = \"inof\"\n", "tracing.level"),
        (good.clone() + "backends.x.llama.model = \"/nowhere/x.gguf\"\n[router]\nweights = \"/nowhere\"\n", "weights"),
    ] {
        let rejected = spectra.reload(&bad).await.unwrap();
        assert_eq!((rejected.status, rejected.error().unwrap().3.as_deref()), (422, Some("config_rejected")), "{bad}");
        assert!(rejected.text().contains(told), "{told:?} not in {}", rejected.text());
        assert_eq!(spectra.metric("spectra_config_last_reload_successful").await.unwrap(), 0.0);
    }
    assert_eq!(spectra.metric("spectra_config_reloads_total{result=\"rejected\"}").await.unwrap(), 5.0);
    assert_eq!(spectra.metric("spectra_config_reloads_total{result=\"applied\"}").await.unwrap(), 0.0);
    assert_eq!(said(&spectra, "local").await, "one", "the last good config serves");
    assert_eq!(spectra.reload(&good).await.unwrap().status, 200);
    assert_eq!(spectra.metric("spectra_config_last_reload_successful").await.unwrap(), 1.0);
    assert_eq!(spectra.admin("/-/reload").await.unwrap().status, 405);
    assert_eq!(spectra.post("/-/reload", "").await.unwrap().status, 404, "not for clients");
    let from_a_page = spectra.reload_with("origin: https://example.com\r\n").await.unwrap();
    assert_eq!((from_a_page.status, from_a_page.error().unwrap().3.as_deref()), (403, Some("origin_not_allowed")));
}

/// Says when it is asked, begins to answer, and goes on when it is told to.
fn held(asked: Arc<Notify>, go: Arc<Notify>, inner: Backend) -> Backend {
    Backend::new(service_fn(move |ask: Ask| {
        let (asked, go, inner) = (asked.clone(), go.clone(), inner.clone());
        async move {
            let Reply { headers, chunks } = inner.oneshot(ask).await?;
            asked.notify_one();
            let wait = move |number| {
                let go = go.clone();
                async move {
                    if number == 3 {
                        go.notified().await;
                    }
                }
            };
            let chunks = chunks.enumerate().then(move |(number, chunk)| wait(number).map(|()| chunk));
            Ok(Reply { headers, chunks: Box::pin(chunks) })
        }
    }))
}

#[tokio::test]
async fn b38_a_request_in_flight_ends_under_the_config_it_began_with() {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let small = spectra_backends::script::from_fn("small", |_, _| spectra_backends::script::Answer::text("the old one to its end"));
    let backends = [("small", held(asked.clone(), go.clone(), small))];
    let spectra = Spectra::on(&(SMALL.to_owned() + &routed("small")), backends).await.unwrap();
    let streamed = hello("local").replace("{\"model\"", "{\"stream\":true,\"model\"");
    let before = {
        let (address, bytes) = (spectra.main, post(CHAT, "", &streamed));
        tokio::spawn(async move { exchange(address, &bytes).await })
    };
    tokio::time::timeout(PATIENCE, asked.notified()).await.unwrap();

    let text =
        "backends.other.script.answers = [{ text = \"other\" }]\n".to_owned() + &routed("other").replace("routes.local", "routes.lone");
    let text = text + "router.local = \"lone\"\n";
    assert_eq!(spectra.reload(&text).await.unwrap().status, 200);
    assert_eq!(said(&spectra, "auto").await, "other");
    assert_eq!(said(&spectra, "local").await, "model_not_found");
    go.notify_one();
    let ended = before.await.unwrap().unwrap();
    let told: String = ended
        .events()
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok()?["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(told, "the old one to its end");
    assert_eq!(ended.header("x-spectra-route"), Some("local"));
    // It is counted under the names it began with, which the config in force no longer knows.
    assert_eq!(spectra.metric("spectra_requests_total{outcome=\"usable\",route=\"local\"}").await.unwrap(), 1.0);
    assert_eq!(spectra.metric("spectra_attempts_total{model=\"small\",route=\"local\",rung=\"0\",verdict=\"pass\"}").await.unwrap(), 1.0);
    assert!(
        !spectra.admin("/metrics").await.unwrap().text().contains("spectra_breaker_state{model=\"small\"}"),
        "levels go with their backend"
    );
}

#[tokio::test]
async fn b38_what_was_learned_and_what_callers_used_outlive_a_config() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("key");
    std::fs::write(&secret, "sk-alice").unwrap();
    let key = |limits: &str| format!("[keys.alice]\nsecret = {{ file = \"{}\" }}\n{limits}\n", secret.display());
    let base = SMALL.to_owned() + "backends.small.price = { input = 1e6, output = 1e6 }\n" + &routed("small");
    let spectra = Spectra::start(&(base.clone() + &key("requests_per_minute = 5\nusd_per_day = 1e9"))).await.unwrap();
    let ask = async || spectra.post_with(CHAT, "authorization: Bearer sk-alice\r\n", &hello("auto")).await.unwrap();
    let learned = || serde_json::to_value(spectra.live.current().learned()).unwrap();
    let cold = learned();
    assert_eq!(ask().await.header("x-ratelimit-remaining-requests"), Some("4"));
    assert_eq!(ask().await.header("x-ratelimit-remaining-requests"), Some("3"));
    let warm = learned();
    assert_ne!(warm, cold);

    assert_eq!(spectra.reload(&(base.clone() + &key("requests_per_minute = 5\nusd_per_day = 1e8"))).await.unwrap().status, 200);
    assert_eq!(learned(), warm);
    assert_eq!(ask().await.header("x-ratelimit-remaining-requests"), Some("2"), "a rate that is the same goes on");
    assert_eq!(spectra.reload(&(base.clone() + &key("usd_per_day = 1.0"))).await.unwrap().status, 200);
    let over = ask().await;
    assert_eq!((over.status, over.error().unwrap().3.as_deref()), (429, Some("insufficient_quota")), "what was spent stays spent");
    assert_eq!(spectra.reload(&(base + "[router]\nlearn = false\n")).await.unwrap().status, 200);
    let before = learned();
    assert_eq!(said(&spectra, "auto").await, "three");
    assert_eq!(learned(), before, "learning can be switched off");
}

#[tokio::test]
async fn b38_places_follow_and_listeners_wait_for_the_next_start() {
    let text = SMALL.to_owned() + &routed("small");
    let spectra = Spectra::start(&text).await.unwrap();
    let ledger = text.clone() + "[limits]\nin_flight = 7\n[accounting]\nledger = \"elsewhere.sqlite\"\n";
    let reloaded = spectra.reload(&ledger).await.unwrap().json().unwrap();
    assert_eq!(reloaded["notices"], json!(["accounting.ledger has changed: it takes effect at the next start"]));
    assert!(!std::path::Path::new("elsewhere.sqlite").exists());
    let live = spectra.admin("/dashboard/live").await.unwrap().json().unwrap();
    assert_eq!((&live["notices"], &live["config_hash"], &live["in_flight"]), (&reloaded["notices"], &reloaded["config_hash"], &json!(0)));
}
