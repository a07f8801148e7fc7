//! Every field of a request said wrongly: refused before any model is asked, naming the field, with a stable code.

use serde_json::{Value, json};
use spectra_backends::script::{Answer, from_fn};
use spectra_tests::harness::{Spectra, exchange, post, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CHAT: &str = "/v1/chat/completions";
const CONFIG: &str = r#"
    [backends.small.script]
    answers = [{ text = "Hello." }]
    [routes.local]
    ladder = ["small"]
    [router]
    strong = "local"
    [limits]
    client_read_ms = 200
"#;

async fn spectra() -> Spectra {
    Spectra::on(CONFIG, [("small", from_fn("small", |_, _| Answer::text("Hello.")))]).await.unwrap()
}

/// What one value of a field is answered with: the field at fault and the code.
type Told = (&'static str, &'static str);

const TYPE: &str = "invalid_type";
const VALUE: &str = "invalid_value";
const SCHEMA: &str = "invalid_json_schema";

/// Path, field, and each wrong value with what is told. A body is the door's smallest good one with this field set.
fn table() -> Vec<(&'static str, Value, Told)> {
    let mut table = Table::default();
    plain_fields(&mut table);
    messages_and_tools(&mut table);
    contracts(&mut table);
    table.0
}

#[derive(Default)]
struct Table(Vec<(&'static str, Value, Told)>);

impl Table {
    fn wrong(&mut self, field: &'static str, values: Vec<Value>, told: Told) {
        self.0.extend(values.into_iter().map(|value| (field, value, told)));
    }
}

fn plain_fields(table: &mut Table) {
    let mut wrong = |field, values, told| table.wrong(field, values, told);
    let not_number = || vec![json!("1"), json!(true), json!([1]), json!({"a": 1})];
    for field in ["temperature", "top_p", "min_p", "repeat_penalty", "repetition_penalty", "presence_penalty", "frequency_penalty"] {
        wrong(field, not_number(), (field, TYPE));
        wrong(field, vec![json!(-2.1), json!(1e9)], (field, VALUE));
    }
    for field in ["n", "max_tokens", "max_completion_tokens", "top_k", "top_logprobs"] {
        wrong(field, not_number(), (field, TYPE));
        wrong(field, vec![json!(1.5)], (field, TYPE));
        wrong(field, vec![json!(-1), json!(1e12)], (field, VALUE));
    }
    wrong("n", vec![json!(0), json!(129)], ("n", VALUE));
    wrong("max_tokens", vec![json!(0)], ("max_tokens", VALUE));
    wrong("top_logprobs", vec![json!(21)], ("top_logprobs", VALUE));
    wrong("seed", vec![json!(1.5), json!("7"), json!(true), json!(1e30)], ("seed", TYPE));
    for field in ["stream", "logprobs", "parallel_tool_calls"] {
        wrong(field, vec![json!(1), json!("true"), json!([]), json!({})], (field, TYPE));
    }
    wrong("stream_options", vec![json!(true), json!("usage"), json!({"include_usage": "yes"})], ("stream_options", TYPE));
    wrong("stop", vec![json!(1), json!([1]), json!({"a": 1})], ("stop", TYPE));
    wrong("stop", vec![json!(["1", "2", "3", "4", "5"])], ("stop", VALUE));
    wrong("logit_bias", vec![json!([]), json!({"5": "high"})], ("logit_bias", TYPE));
    wrong("logit_bias", vec![json!({"5": 101}), json!({"5": -100.5})], ("logit_bias.5", VALUE));
    wrong("logit_bias", vec![json!({"five": 1})], ("logit_bias.five", VALUE));
    wrong("model", vec![json!(1), json!(["auto"]), json!({})], ("model", TYPE));
    wrong("model", vec![Value::Null], ("model", "missing_required_parameter"));
    wrong("model", vec![json!("")], ("model", "model_not_found"));
}

fn messages_and_tools(table: &mut Table) {
    let mut wrong = |field, values, told| table.wrong(field, values, told);
    wrong("messages", vec![json!("hi"), json!({"role": "user"}), json!(1)], ("messages", TYPE));
    wrong("messages", vec![Value::Null], ("messages", "missing_required_parameter"));
    wrong("messages", vec![json!(["hi"]), json!([1]), json!([null])], ("messages[0]", TYPE));
    wrong("messages", vec![json!([{}]), json!([{"content": "x"}])], ("messages[0].role", "missing_required_parameter"));
    wrong("messages", vec![json!([{"role": 1, "content": "x"}])], ("messages[0].role", TYPE));
    wrong("messages", vec![json!([{"role": "user", "content": "x"}, {"role": "emperor", "content": "x"}])], ("messages[1].role", VALUE));
    wrong(
        "messages",
        vec![json!([{"role": "user"}]), json!([{"role": "user", "content": null}])],
        ("messages[0].content", "missing_required_parameter"),
    );
    wrong(
        "messages",
        vec![
            json!([{"role": "user", "content": 1}]),
            json!([{"role": "user", "content": {}}]),
            json!([{"role": "user", "content": ["x"]}]),
        ],
        ("messages[0].content", TYPE),
    );
    wrong("messages", vec![json!([{"role": "user", "content": "x", "name": 7}])], ("messages[0]", TYPE));
    wrong(
        "messages",
        vec![
            json!([{"role": "assistant", "content": "x", "tool_calls": {}}]),
            json!([{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]),
        ],
        ("messages[0]", TYPE),
    );
    wrong("tools", vec![json!("f"), json!({"type": "function"})], ("tools", TYPE));
    wrong(
        "tools",
        vec![json!(["f"]), json!([{"type": "function", "function": {}}]), json!([{"type": "function", "function": {"name": 1}}])],
        ("tools[0]", TYPE),
    );
    wrong("tools", vec![Value::Array(vec![json!({"type": "function", "function": {"name": "f"}}); 1025])], ("tools", VALUE));
    wrong(
        "tools",
        vec![
            json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}}}]),
            json!([{"type": "function", "function": {"name": "f", "parameters": []}}]),
        ],
        ("tools[0].function.parameters", SCHEMA),
    );
    wrong("tool_choice", vec![json!(1), json!([]), json!({"type": "function", "function": {}})], ("tool_choice", TYPE));
    wrong("tool_choice", vec![json!("sometimes")], ("tool_choice", VALUE));
}

/// What the caller wants the answer to be.
fn contracts(table: &mut Table) {
    let mut wrong = |field, values, told| table.wrong(field, values, told);
    wrong("response_format", vec![json!("json"), json!({}), json!({"type": 1})], ("response_format", TYPE));
    wrong("response_format", vec![json!({"type": "yaml"})], ("response_format.type", VALUE));
    wrong("response_format", vec![json!({"type": "json_schema"})], ("response_format.json_schema", "missing_required_parameter"));
    let named = |name: &str, schema: Value| json!({"type": "json_schema", "json_schema": {"name": name, "schema": schema}});
    let long = "x".repeat(65);
    wrong(
        "response_format",
        vec![named("", json!({})), named("a b", json!({})), named(&long, json!({}))],
        ("response_format.json_schema.name", VALUE),
    );
    let schemas = [
        json!({"type": "strin"}),
        json!({"type": "object", "required": "a"}),
        json!({"properties": {"a": {"minimum": "1"}}}),
        json!({"pattern": "("}),
        json!([]),
        json!("object"),
        json!({"$ref": "#/$defs/missing"}),
        json!({"$ref": "#"}),
        json!({"$ref": "file:///etc/passwd"}),
    ];
    wrong("response_format", schemas.map(|schema| named("a", schema)).into(), ("response_format.json_schema.schema", SCHEMA));
}

#[tokio::test]
async fn b10_every_field_said_wrongly_is_refused_by_name_before_any_model_is_asked() {
    let spectra = spectra().await;
    let good = json!({"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]});
    let cases = table();
    for (field, value, (param, code)) in &cases {
        let mut body = good.clone();
        body[*field] = value.clone();
        let answered = spectra.post(CHAT, &body.to_string()).await.unwrap();
        let status = if *code == "model_not_found" { 404 } else { 400 };
        let told = (status, "invalid_request_error".to_owned(), Some((*param).to_owned()), Some((*code).to_owned()));
        let case: String = format!("{field}: {value}").chars().take(200).collect();
        assert_eq!(answered.error().unwrap_or_else(|error| panic!("{case}: {error}")), told, "{case}: {}", answered.text());
    }
    let differing = spectra
        .post(CHAT, r#"{"model":"auto","messages":[{"role":"user","content":"x"}],"max_tokens":5,"max_completion_tokens":6}"#)
        .await
        .unwrap();
    assert_eq!(differing.error().unwrap().2.as_deref(), Some("max_tokens"), "two limits that disagree");
    let equal = spectra
        .post(CHAT, r#"{"model":"auto","messages":[{"role":"user","content":"x"}],"max_tokens":6,"max_completion_tokens":6}"#)
        .await
        .unwrap();
    assert_eq!(equal.status, 200, "two limits that agree: {}", equal.text());
    assert_eq!(spectra.metric_sum("spectra_attempts_total", "").await.unwrap(), 1.0, "the good one only");
    #[expect(clippy::cast_precision_loss, reason = "some hundred cases")]
    let rejected = (cases.len() + 1) as f64;
    assert_eq!(spectra.metric_sum("spectra_requests_total", "outcome=\"rejected\"").await.unwrap(), rejected);
}

/// Null is as good as absent, in every field that may be absent.
#[tokio::test]
async fn null_counts_as_absent() {
    let spectra = spectra().await;
    let optional = table().into_iter().map(|(field, ..)| field).filter(|field| !matches!(*field, "model" | "messages"));
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]});
    for field in optional {
        body[field] = Value::Null;
    }
    let answered = spectra.post(CHAT, &body.to_string()).await.unwrap();
    assert_eq!(answered.status, 200, "{}", answered.text());
}

/// A schema that points elsewhere is refused; nobody goes there to look.
#[tokio::test]
async fn b18_a_remote_reference_is_never_fetched() {
    let spectra = spectra().await;
    let elsewhere = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/schema.json", elsewhere.local_addr().unwrap());
    let messages = json!([{"role": "user", "content": "x"}]);
    for schema in [
        json!({"$ref": url}),
        json!({"properties": {"a": {"$ref": url}}}),
        json!({"$id": url, "$ref": "other.json"}),
        json!({"$dynamicRef": url}),
    ] {
        let format = json!({"model": "auto", "messages": messages, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
        let tool = json!({"model": "auto", "messages": messages, "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]});
        for body in [format, tool] {
            let answered = spectra.post(CHAT, &body.to_string()).await.unwrap();
            assert_eq!(answered.error().unwrap().3.as_deref(), Some(SCHEMA), "{body}");
        }
    }
    tokio::select! {
        biased;
        visitor = elsewhere.accept() => panic!("somebody came: {visitor:?}"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(spectra.metric_sum("spectra_attempts_total", "").await.unwrap(), 0.0);
}

/// Bodies that are hard on a parser: answered, each in OpenAI's form, and the gateway is well afterwards.
#[tokio::test]
async fn b10_too_deep_too_many_and_said_twice() {
    let spectra = spectra().await;
    let with = |more: &str| format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"x"}}]{more}}}"#);
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    let many = vec![r#"{"role":"user","content":"x"}"#; 50_000].join(",");
    for (case, body, expected) in [
        ("deep arrays in a field nobody reads", with(&format!(r#","x":{}"#, deep("[", "]"))), None),
        ("deep objects in a field that is read", with(&format!(r#","stop":{}"#, deep("{\"a\":", "}"))), Some(TYPE)),
        ("a deep message", format!(r#"{{"model":"auto","messages":[{{"role":"user","content":{}}}]}}"#, deep("[", "]")), Some(TYPE)),
        (
            "a deep schema",
            with(&format!(
                r#","response_format":{{"type":"json_schema","json_schema":{{"name":"a","schema":{}}}}}"#,
                deep("{\"not\":", "}")
            )),
            Some(SCHEMA),
        ),
        ("never closed", with("").replace("}]}", ""), Some("invalid_json")),
        ("half a surrogate", with(r#","user":"\ud800""#), None),
        ("a control character", with(",\"user\":\"\u{1}\""), Some("invalid_json")),
        ("NaN", with(r#","temperature":NaN"#), Some("invalid_json")),
        ("a number without end", with(&format!(r#","temperature":1{}"#, "0".repeat(400))), Some(TYPE)),
        ("fifty thousand messages", format!(r#"{{"model":"auto","messages":[{many}]}}"#), None),
        ("a field twice", with(r#","n":1,"n":1"#), Some("duplicate_parameter")),
        ("the same field, spelt otherwise", with(r#","\u006e":1,"n":1"#), Some("duplicate_parameter")),
        (
            "a field of a message twice",
            r#"{"model":"auto","messages":[{"role":"user","role":"system","content":"x"}]}"#.to_owned(),
            Some(TYPE),
        ),
        ("an unknown field twice", with(r#","x":1,"x":2"#), Some("duplicate_parameter")),
        ("a byte order mark", format!("\u{FEFF}{}", with("")), Some("invalid_json")),
        ("two bodies", format!("{0}{0}", with("")), Some("invalid_json")),
        ("white space around", format!("\n\t {} \r\n", with("")), None),
    ] {
        let answered = spectra.post(CHAT, &body).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        match expected {
            None => assert_eq!(answered.status, 200, "{case}: {}", answered.text()),
            Some(code) => {
                let told = answered.error().unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!((told.0, told.3.as_deref()), (400, Some(code)), "{case}");
            }
        }
    }
}

/// The other doors say the same things in their own words.
#[tokio::test]
async fn b10_the_other_doors_refuse_by_name_too() {
    let spectra = spectra().await;
    let prompt = json!({"model": "auto", "prompt": "x"});
    let input = json!({"model": "auto", "input": "x"});
    let anthropic = json!({"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]});
    let cases = [
        ("/v1/completions", &prompt, "prompt", Value::Null, "prompt", "missing_required_parameter"),
        ("/v1/completions", &prompt, "prompt", json!({}), "prompt", TYPE),
        ("/v1/completions", &prompt, "temperature", json!("hot"), "temperature", TYPE),
        ("/v1/completions", &prompt, "max_tokens", json!(0), "max_tokens", VALUE),
        ("/v1/responses", &input, "input", Value::Null, "input", "missing_required_parameter"),
        ("/v1/responses", &input, "input", json!(7), "input", TYPE),
        ("/v1/responses", &input, "input", json!([{"type": "computer_call"}]), "input[0].type", "unsupported_parameter"),
        ("/v1/responses", &input, "previous_response_id", json!("resp_1"), "previous_response_id", "unsupported_parameter"),
        ("/v1/responses", &input, "tools", json!([{"type": "web_search"}]), "tools[0].type", "unsupported_parameter"),
        ("/v1/responses", &input, "temperature", json!([]), "temperature", TYPE),
        ("/v1/responses", &input, "text", json!({"format": {"type": "xml"}}), "text.format.type", TYPE),
        ("/v1/embeddings", &input, "input", json!(7), "input", TYPE),
        ("/v1/embeddings", &input, "input", Value::Null, "input", "missing_required_parameter"),
        ("/v1/embeddings", &input, "model", json!(7), "model", TYPE),
    ];
    for (path, good, field, value, param, code) in cases {
        let mut body = good.clone();
        body[field] = value.clone();
        let answered = spectra.post(path, &body.to_string()).await.unwrap();
        let told = (400, "invalid_request_error".to_owned(), Some(param.to_owned()), Some(code.to_owned()));
        assert_eq!(answered.error().unwrap(), told, "{path} {field}: {value}");
    }
    // Anthropic's error has a form of its own.
    for (field, value) in [
        ("max_tokens", Value::Null),
        ("messages", json!("x")),
        ("messages", json!([{"role": "king", "content": "x"}])),
        ("temperature", json!("hot")),
    ] {
        let mut body = anthropic.clone();
        body[field] = value.clone();
        let answered = spectra.post("/v1/messages", &body.to_string()).await.unwrap();
        let told = answered.json().unwrap();
        assert_eq!(
            (answered.status, &told["type"], &told["error"]["type"]),
            (400, &json!("error"), &json!("invalid_request_error")),
            "{field}: {value}"
        );
        assert!(told["error"]["message"].as_str().is_some_and(|message| message.contains(field)), "{field}: {told}");
    }
    assert_eq!(spectra.metric_sum("spectra_attempts_total", "").await.unwrap(), 0.0);
}

/// Heads that no HTTP parser takes are answered in OpenAI's form as well, and the connection is closed.
#[tokio::test]
async fn b10_heads_that_are_no_http_are_told_so_in_openais_form() {
    let spectra = spectra().await;
    let long = format!("GET /v1/models HTTP/1.1\r\nhost: t\r\nx-long: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /v1/models HTTP/1.1\r\nhost: t\r\n{}\r\n", "x-many: 1\r\n".repeat(2000));
    let path = format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(100_000));
    for (case, sent, status, code) in [
        ("no method", "HELLO\r\n\r\n", 400, "bad_http"),
        ("no version", "GET /v1/models\r\n\r\n", 400, "bad_http"),
        ("an unknown version", "GET /v1/models HTTP/9.9\r\nhost: t\r\n\r\n", 400, "bad_http"),
        ("a header without a name", "GET /v1/models HTTP/1.1\r\n: x\r\n\r\n", 400, "bad_http"),
        ("a space in a header's name", "GET /v1/models HTTP/1.1\r\na b: x\r\n\r\n", 400, "bad_http"),
        (
            "two lengths",
            "POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
            400,
            "bad_http",
        ),
        ("a length that is none", "POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: two\r\n\r\n{}", 400, "bad_http"),
        ("an unknown coding", "POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ntransfer-encoding: rot13\r\n\r\n{}", 400, "bad_http"),
        ("a header over the limit", &long, 431, "headers_too_large"),
        ("too many headers", &many, 431, "headers_too_large"),
        ("a path over the limit", &path, 431, "headers_too_large"),
    ] {
        let answered = exchange(spectra.main, sent.as_bytes()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        let told = (status, "invalid_request_error".to_owned(), None, Some(code.to_owned()));
        assert_eq!(answered.error().unwrap_or_else(|error| panic!("{case}: {error}")), told, "{case}");
        assert_eq!((answered.header("content-type"), answered.header("connection")), (Some("application/json"), Some("close")), "{case}");
        assert!(answered.complete, "{case}");
    }
    assert_eq!(spectra.get("/v1/models").await.unwrap().status, 200);
}

/// Bodies that do not end, end too early, or lie about their size.
#[tokio::test]
async fn b10_bodies_that_never_end_and_bodies_that_end_early() {
    let spectra = spectra().await;
    let talk = async |sent: &str, half_close: bool| {
        let mut stream = TcpStream::connect(spectra.main).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        if half_close {
            stream.shutdown().await.unwrap();
        }
        let mut got = Vec::new();
        let _ = tokio::time::timeout(spectra_tests::harness::PATIENCE, stream.read_to_end(&mut got)).await.expect("let go");
        String::from_utf8_lossy(&got).into_owned()
    };
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\n");
    let slow = talk(&format!("{head}content-length: 90\r\n\r\n{{"), false).await;
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("\"code\":\"request_timeout\""), "{slow}");
    let endless = talk(&format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{{\"a\":\r\n"), false).await;
    assert!(endless.starts_with("HTTP/1.1 408"), "{endless}");
    let early = talk(&format!("{head}content-length: 90\r\n\r\n{{"), true).await;
    assert!(early.is_empty() || early.contains("\"code\":\"incomplete_body\""), "{early}");
    let no_size = talk(&format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n"), false).await;
    assert!(no_size.is_empty() || no_size.contains("\"code\":\"incomplete_body\"") || no_size.contains("bad_http"), "{no_size}");
    until("every one is counted", async || Ok(spectra.metric_sum("spectra_requests_total", "").await? >= 4.0)).await.unwrap();
    // A body after which more comes belongs to the next request.
    let two = String::from_utf8(post(CHAT, "", r#"{"model":"auto","messages":[{"role":"user","content":"x"}]}"#))
        .unwrap()
        .replace("connection: close\r\n", "");
    let both = talk(&format!("{two}GET /v1/models HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"), false).await;
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
}
