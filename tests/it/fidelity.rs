//! What passes, passes as it came: every field, its order and its spelling, at every level, both ways; one id, one usage.

use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use spectra_tests::harness::{Answered, Spectra, hosted};
use spectra_tests::upstream::{Protocol, Received, Step, Upstream, whole_body};

const CHAT: &str = "/v1/chat/completions";

// === what nobody here would write ===

/// JSON in spellings that a serialiser would change.
fn value() -> impl Strategy<Value = String> {
    const LEAVES: [&str; 16] = [
        "null",
        "true",
        "-0",
        "1.50",
        "1e2",
        "-1.0E+3",
        "0.1000",
        "12345678901234567890123",
        "0.30000000000000004",
        "\"\"",
        "\"\\u00e9\\/\"",
        "\"a\\tb\"",
        "\"\u{1F980} \u{2028}\"",
        "\"None\"",
        "[]",
        "{ }",
    ];
    select(&LEAVES[..]).prop_map(str::to_owned).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(" ,"))),
            vec(inner, 0..3).prop_map(|items| {
                let fields: Vec<String> = items.iter().enumerate().map(|(at, item)| format!("\"k{}\" :{item}", 9 - at)).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// Unknown fields for one object, each with its comma in front.
fn extras() -> impl Strategy<Value = String> {
    const NAMES: [&str; 4] = ["x_zulu", "x_alpha", "x_\\u006d", "\u{e9}t\u{e9}"];
    vec(value(), 0..3).prop_map(|values| values.iter().zip(NAMES).map(|(value, name)| format!(", \"{name}\":{value}")).collect())
}

/// A request with unknown fields at every level, its top-level fields in any order.
fn request(stream: bool) -> impl Strategy<Value = String> {
    (vec(extras(), 8), vec(value(), 2)).prop_flat_map(move |(x, v)| {
        let mut fields = vec![
            "\"model\":\"up\"".to_owned(),
            format!(
                "\"messages\": [{{\"role\":\"system\",\"content\":\"Be brief.\"{}}},{{\"content\":[{{\"type\":\"text\"{},\"text\":\"Say \\u0068ello.\"}}]{},\"role\":\"user\"}}]",
                x[0], x[1], x[2]
            ),
            format!(
                "\"tools\":[{{\"type\":\"function\"{},\"function\":{{\"name\":\"f\"{},\"parameters\":{{\"type\":\"object\",\"properties\":{{}}}}}}}}]",
                x[3], x[4]
            ),
            format!("\"response_format\":{{\"type\":\"text\"{}}}", x[5]),
            format!("\"x_unknown\":{}", v[0]),
            format!("\"metadata\":{{\"a\":\"b\"{}}}", x[6]),
            format!("\"x_other\" : {}", v[1]),
        ];
        if stream {
            fields.push("\"stream\":true".to_owned());
            fields.push(format!("\"stream_options\":{{\"include_usage\":true{}}}", x[7]));
        }
        Just(fields).prop_shuffle().prop_map(|fields| format!("{{ {}}}", fields.join(" , ")))
    })
}

/// A whole answer with unknown fields at every level.
fn whole_answer() -> impl Strategy<Value = String> {
    vec(extras(), 5).prop_map(|x| {
        format!(
            "{{\"object\":\"chat.completion\",\"choices\":[{{\"logprobs\":null,\"index\":0{},\"message\":{{\"refusal\":null,\"role\":\"assistant\"{},\"content\":\"Hello to y\\u006fu, friend.\"}},\"finish_reason\":\"stop\"}}],\"id\":\"c1\"{},\"usage\":{{\"prompt_tokens\":1{},\"completion_tokens\":7,\"total_tokens\":8}}{}}}",
            x[0], x[1], x[2], x[3], x[4]
        )
    })
}

/// The `data:` of a whole stream with unknown fields at every level, usage and `[DONE]` included.
fn streamed_answer() -> impl Strategy<Value = Vec<String>> {
    vec(extras(), 8).prop_map(|x| {
        let chunk = |delta: &str, finish: &str, at: usize| {
            format!(
                "{{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\"{},\"choices\":[{{\"index\":0{},\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}],\"usage\":null}}",
                x[at], x[at + 1]
            )
        };
        vec![
            chunk(&format!("{{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null{}}}", x[6]), "null", 0),
            chunk("{\"content\":\"Hello to y\\u006fu,\"}", "null", 1),
            chunk(&format!("{{\"content\":\" friend.\"{}}}", x[7]), "null", 2),
            chunk("{}", "\"stop\"", 3),
            format!("{{\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":7{}}}}}", x[5]),
            "[DONE]".to_owned(),
        ]
    })
}

fn stream_of(events: &[String]) -> Vec<Step> {
    let mut steps = vec![Step::Head(200, vec![("content-type", "text/event-stream".into())])];
    steps.extend(events.iter().map(|data| Step::Body(format!("data: {data}\n\n").into())));
    steps.push(Step::End);
    steps
}

/// An upstream that says what it is given next, and a gateway on it.
async fn told(lines: &str) -> (Upstream, Spectra, Arc<Mutex<Vec<Step>>>) {
    let next: Arc<Mutex<Vec<Step>>> = Arc::default();
    let says = next.clone();
    let upstream = Upstream::start(Protocol::Http1, move |_, _| says.lock().unwrap().clone()).await.unwrap();
    let spectra = Spectra::start(&hosted(&[("up", upstream.base_url(), lines)], "", "")).await.unwrap();
    (upstream, spectra, next)
}

#[test]
fn b01_b02_unknown_fields_order_and_spelling_pass_both_ways_at_every_level() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (upstream, spectra, next) = runtime.block_on(told(""));
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let cases = (request(false), whole_answer(), request(true), streamed_answer());
    TestRunner::new(config)
        .run(&cases, |(unary, whole, streamed, events)| {
            runtime.block_on(async {
                *next.lock().unwrap() = whole_body("application/json", &whole);
                let answered = spectra.post(CHAT, &unary).await.unwrap();
                prop_assert_eq!(upstream.last().body, unary.as_bytes());
                prop_assert_eq!(answered.text(), whole);

                *next.lock().unwrap() = stream_of(&events);
                let answered = spectra.post(CHAT, &streamed).await.unwrap();
                prop_assert_eq!(upstream.last().body, streamed.as_bytes());
                prop_assert_eq!(answered.events(), events);
                Ok(())
            })
        })
        .unwrap();
}

// === streams of real servers ===

const CORPORA: [&str; 7] = ["openai", "openai_tools", "azure", "vllm", "llama_server", "ollama", "openrouter"];

fn corpus(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../backends/corpus/sse/{name}.txt", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A stream as its client reads it: the events, parsed, `[DONE]` taken off.
fn law_abiding(answered: &Answered, name: &str) -> Vec<Value> {
    assert_eq!((answered.status, answered.complete), (200, true), "{name}: {}", answered.text());
    let mut events = answered.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{name}");
    events.iter().map(|event| serde_json::from_str(event).unwrap_or_else(|_| panic!("{name}: {event}"))).collect()
}

#[tokio::test]
async fn b02_b05_streams_of_real_servers_pass_and_usage_comes_once_and_only_if_asked_for() {
    for name in CORPORA {
        let sent = corpus(name);
        let (_upstream, spectra, next) = told("").await;
        let mut steps = vec![Step::Head(200, vec![("content-type", "text/event-stream".into())])];
        steps.extend(sent.as_bytes().chunks(11).map(|part| Step::Body(part.to_vec().into())));
        *next.lock().unwrap() = steps.into_iter().chain([Step::End]).collect();
        let data: Vec<&str> = sent.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]").collect();
        let has_usage = |data: &str| serde_json::from_str::<Value>(data).is_ok_and(|chunk| chunk["usage"].is_object());
        for asked in [true, false] {
            let body = json!({"model": "up", "messages": [{"role": "user", "content": "Say hello."}], "stream": true, "stream_options": {"include_usage": asked}});
            let answered = spectra.post_with(CHAT, "x-spectra-verify: off\r\n", &body.to_string()).await.unwrap();
            let chunks = law_abiding(&answered, name);
            // Whatever has no usage is what was sent, byte for byte.
            let came = answered.events();
            let plain: Vec<&String> = came.iter().filter(|event| *event != "[DONE]" && !has_usage(event)).collect();
            let unchanged = data.iter().filter(|data| !has_usage(data));
            for sent in unchanged {
                assert!(plain.iter().any(|event| event == sent), "{name}: {sent} was lost or changed");
            }
            let with_usage: Vec<&Value> = chunks.iter().filter(|chunk| chunk["usage"].is_object()).collect();
            let expected = usize::from(asked && data.iter().any(|data| has_usage(data)));
            assert_eq!(with_usage.len(), expected, "{name} asked={asked}: {with_usage:?}");
            assert!(with_usage.iter().all(|chunk| chunk["choices"] == json!([])), "{name}: usage comes beside no choice: {with_usage:?}");
            if let Some(usage) = with_usage.first() {
                assert_eq!(Some(*usage), chunks.last(), "{name}: usage comes last");
            }
        }
    }
}

#[tokio::test]
async fn b05_usage_that_comes_with_a_choice_or_with_every_chunk_is_told_once_at_the_end() {
    let chunk = |delta: Value, finish: Value, usage: Value| {
        json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "x": 1, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": usage}).to_string()
    };
    let usage = |tokens: u32| json!({"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens, "x_more": 1.5});
    let on_every = vec![
        chunk(json!({"role": "assistant", "content": "Hello to you, "}), Value::Null, usage(1)),
        chunk(json!({"content": "friend."}), Value::Null, usage(2)),
        chunk(json!({}), json!("stop"), usage(2)),
        "[DONE]".to_owned(),
    ];
    let on_last =
        vec![chunk(json!({"role": "assistant", "content": "Hello to you, friend."}), json!("stop"), usage(2)), "[DONE]".to_owned()];
    for events in [on_every, on_last] {
        let (_upstream, spectra, next) = told("").await;
        *next.lock().unwrap() = stream_of(&events);
        for asked in [true, false] {
            let body = json!({"model": "up", "messages": [{"role": "user", "content": "Say hello."}], "stream": true, "stream_options": {"include_usage": asked}});
            let chunks = law_abiding(&spectra.post(CHAT, &body.to_string()).await.unwrap(), "usage");
            let with_usage: Vec<&Value> = chunks.iter().filter(|chunk| chunk["usage"].is_object()).collect();
            assert_eq!(with_usage.len(), usize::from(asked), "{chunks:?}");
            if asked {
                let last = chunks.last().unwrap();
                assert_eq!((&last["choices"], &last["usage"], &last["id"]), (&json!([]), &usage(2), &json!("c1")));
                assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null()), "{chunks:?}");
            }
        }
    }
}

/// The answer of the rescue goes on under the first one's id, name and time.
#[tokio::test]
async fn b04_one_answer_has_one_id_one_model_and_one_time_whoever_gave_it() {
    let said = |id: &'static str, text: &'static str, finish: Value| {
        json!({"id": id, "object": "chat.completion.chunk", "created": id.len(), "model": id, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}]}).to_string()
    };
    let cut = vec![said("first", "Once upon a time there was a king", Value::Null)];
    let empty = vec![said("first", "", json!("stop")), "[DONE]".to_owned()];
    for (first, text) in [(cut, "Once upon a time there was a king and a queen."), (empty, " and a queen.")] {
        let up = Upstream::start(Protocol::Http1, move |_, _| stream_of(&first)).await.unwrap();
        let second = vec![said("second-one", " and a queen.", Value::Null), said("second-one", "", json!("stop")), "[DONE]".to_owned()];
        let spare = Upstream::start(Protocol::Http1, move |_, _| stream_of(&second)).await.unwrap();
        let config = hosted(&[("up", up.base_url(), ""), ("spare", spare.base_url(), "")], "attempts_per_rung = 1", "");
        let spectra = Spectra::start(&config).await.unwrap();
        let body = json!({"model": "local", "messages": [{"role": "user", "content": "Tell me a story."}], "stream": true});
        let chunks = law_abiding(&spectra.post(CHAT, &body.to_string()).await.unwrap(), text);
        let joined: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(joined, text);
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        for key in ["id", "model", "created", "object"] {
            assert!(chunks.iter().all(|chunk| chunk[key] == chunks[0][key] && !chunk[key].is_null()), "{key}: {chunks:?}");
        }
    }
}

// === tool calls ===

/// Which call, and how many characters of its arguments come next.
fn pieces() -> impl Strategy<Value = Vec<(Index, usize)>> {
    vec((any::<Index>(), 1..9_usize), 12..40)
}

/// Deltas of parallel calls: id and name once, arguments split anywhere, one call's pieces between another's.
fn interleaved(arguments: &[String], order: &[(Index, usize)]) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).to_string()
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": null}), Value::Null)];
    for at in 0..arguments.len() {
        let head =
            json!({"index": at, "id": format!("call_{at}"), "type": "function", "function": {"name": format!("f{at}"), "arguments": ""}});
        events.push(chunk(json!({"tool_calls": [head]}), Value::Null));
    }
    let mut rest: Vec<std::str::Chars<'_>> = arguments.iter().map(|text| text.chars()).collect();
    let piece = |at: usize, text: String| chunk(json!({"tool_calls": [{"index": at, "function": {"arguments": text}}]}), Value::Null);
    for (which, size) in order {
        let at = which.index(arguments.len());
        let text: String = rest[at].by_ref().take(*size).collect();
        if !text.is_empty() {
            events.push(piece(at, text));
        }
    }
    for (at, rest) in rest.into_iter().enumerate() {
        let text: String = rest.collect();
        if !text.is_empty() {
            events.push(piece(at, text));
        }
    }
    events.extend([chunk(json!({}), json!("tool_calls")), "[DONE]".to_owned()]);
    events
}

/// `(id, name, arguments)` as a client of each door puts them together.
fn merged_chat(answered: &Answered) -> Vec<(String, String, String)> {
    let mut calls: Vec<(String, String, String)> = Vec::new();
    for chunk in law_abiding(answered, "chat") {
        for delta in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let at = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
            calls.resize(calls.len().max(at + 1), Default::default());
            calls[at].0 += delta["id"].as_str().unwrap_or_default();
            calls[at].1 += delta["function"]["name"].as_str().unwrap_or_default();
            calls[at].2 += delta["function"]["arguments"].as_str().unwrap_or_default();
        }
    }
    calls
}

/// Anthropic's blocks: one after the other, each begun, filled and ended before the next.
fn merged_messages(answered: &Answered) -> Vec<(String, String, String)> {
    let mut calls: Vec<(String, String, String)> = Vec::new();
    let mut open = None;
    for event in answered.events().iter().map(|event| serde_json::from_str::<Value>(event).unwrap()) {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open.replace(event["index"].clone()), None, "a block begins inside another: {}", answered.text());
                let text = |key: &str| event["content_block"][key].as_str().unwrap_or_else(|| panic!("no {key}: {event}")).to_owned();
                calls.push((text("id"), text("name"), String::new()));
            }
            "content_block_delta" => {
                assert_eq!(open.as_ref(), Some(&event["index"]));
                calls.last_mut().unwrap().2 += event["delta"]["partial_json"].as_str().unwrap();
            }
            "content_block_stop" => assert_eq!(open.take().as_ref(), Some(&event["index"])),
            _ => {}
        }
    }
    calls
}

fn merged_responses(answered: &Answered) -> Vec<(String, String, String)> {
    let events: Vec<Value> = answered.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let output = &events.last().unwrap()["response"]["output"];
    let calls: Vec<(String, String, String)> = output
        .as_array()
        .unwrap()
        .iter()
        .map(|item| ["call_id", "name", "arguments"].map(|key| item[key].as_str().unwrap().to_owned()).into())
        .collect();
    for (at, (_, _, arguments)) in calls.iter().enumerate() {
        let of = |event: &&Value| event["type"] == "response.function_call_arguments.delta" && event["output_index"] == at;
        let deltas: String = events.iter().filter(of).map(|event| event["delta"].as_str().unwrap()).collect();
        assert_eq!(deltas, *arguments);
    }
    calls
}

#[test]
fn b07_parallel_tool_calls_are_put_together_again_at_every_door() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_upstream, spectra, next) = runtime.block_on(told(""));
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let arguments = vec(value().prop_map(|value| format!("{{\"a\\u0041\":{value},\"caf\u{e9}\":\"\\ud83e\\udd80\"}}")), 2..4);
    let schema = json!({"type": "object"});
    let messages = json!([{"role": "user", "content": "Call them."}]);
    let functions: Vec<Value> = (0..3).map(|at| json!({"name": format!("f{at}"), "parameters": schema})).collect();
    let chat = json!({"model": "up", "messages": messages, "stream": true,
        "tools": functions.iter().map(|function| json!({"type": "function", "function": function})).collect::<Vec<_>>()});
    let anthropic = json!({"model": "up", "messages": messages, "stream": true, "max_tokens": 99,
        "tools": (0..3).map(|at| json!({"name": format!("f{at}"), "input_schema": schema})).collect::<Vec<_>>()});
    let responses = json!({"model": "up", "input": messages, "stream": true,
        "tools": (0..3).map(|at| json!({"type": "function", "name": format!("f{at}"), "parameters": schema})).collect::<Vec<_>>()});
    TestRunner::new(config)
        .run(&(arguments, pieces()), |(arguments, order)| {
            *next.lock().unwrap() = stream_of(&interleaved(&arguments, &order));
            let wanted: Vec<(String, String, String)> =
                arguments.iter().enumerate().map(|(at, text)| (format!("call_{at}"), format!("f{at}"), text.clone())).collect();
            runtime.block_on(async {
                prop_assert_eq!(merged_chat(&spectra.post(CHAT, &chat.to_string()).await.unwrap()), wanted.clone());
                prop_assert_eq!(merged_messages(&spectra.post("/v1/messages", &anthropic.to_string()).await.unwrap()), wanted.clone());
                prop_assert_eq!(merged_responses(&spectra.post("/v1/responses", &responses.to_string()).await.unwrap()), wanted);
                Ok(())
            })
        })
        .unwrap();
}

// === several choices ===

#[tokio::test]
async fn b08_each_choice_is_judged_and_mended_by_itself() {
    // The second choice is wrapped in a fence: it is mended, the first keeps its bytes.
    let choice = |index: u32, text: &str| json!({"index": index, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null, "finish_reason": "stop"});
    let answer = |second: &str| {
        json!({"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice(0, "{\"a\": 1.50}"), choice(1, second)], "usage": {"prompt_tokens": 5, "completion_tokens": 14, "total_tokens": 19}}).to_string()
    };
    let good = answer("{\"a\": 2}");
    let spare = Upstream::start(Protocol::Http1, move |_, _| whole_body("application/json", &good)).await.unwrap();
    for (second, verified, model, said) in [
        ("{\"a\": 2}", "ok", "up", "{\"a\": 2}"),
        ("```json\n{\"a\": 3}\n```", "repaired", "up", "{\"a\": 3}"),
        ("I would rather not say.", "ok", "spare", "{\"a\": 2}"),
    ] {
        let text = answer(second);
        let up = Upstream::start(Protocol::Http1, move |_, _| whole_body("application/json", &text)).await.unwrap();
        let config = hosted(&[("up", up.base_url(), ""), ("spare", spare.base_url(), "")], "attempts_per_rung = 1", "");
        let spectra = Spectra::start(&config).await.unwrap();
        let body = json!({"model": "local", "n": 2, "messages": [{"role": "user", "content": "JSON."}], "response_format": {"type": "json_object"}});
        let answered = spectra.post(CHAT, &body.to_string()).await.unwrap();
        let choices = answered.json().unwrap()["choices"].clone();
        assert_eq!((answered.header("x-spectra-verified"), answered.header("x-spectra-model")), (Some(verified), Some(model)), "{second}");
        assert_eq!(
            (&choices[0]["message"]["content"], &choices[1]["message"]["content"]),
            (&json!("{\"a\": 1.50}"), &json!(said)),
            "{second}"
        );
        assert_eq!(choices.as_array().unwrap().len(), 2);
        // Both choices' tokens are counted, once.
        let tokens = spectra.metric_sum("gen_ai_client_token_usage_sum", &format!("gen_ai_request_model=\"{model}\"")).await.unwrap();
        assert!(tokens > 0.0, "{second}: {tokens}");
    }
}

#[tokio::test]
async fn b08_a_model_that_gives_one_answer_is_not_asked_for_two() {
    let reply = |_: &Received, _: usize| {
        let choice =
            |index: u32| json!({"index": index, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"});
        whole_body("application/json", &json!({"id": "c", "object": "chat.completion", "choices": [choice(0), choice(1)]}).to_string())
    };
    let (one, many) = (Upstream::start(Protocol::Http1, reply).await.unwrap(), Upstream::start(Protocol::Http1, reply).await.unwrap());
    let spectra = Spectra::start(&hosted(&[("one", one.base_url(), "n_max = 1"), ("many", many.base_url(), "")], "", "")).await.unwrap();
    let body = json!({"model": "local", "n": 2, "messages": [{"role": "user", "content": "Say hello."}]});
    let answered = spectra.post(CHAT, &body.to_string()).await.unwrap();
    assert_eq!((answered.status, answered.header("x-spectra-model")), (200, Some("many")));
    assert_eq!(one.seen().requests, 0);
    let refused = spectra.post(CHAT, &body.to_string().replace("\"local\"", "\"one\"")).await.unwrap();
    assert_eq!(refused.error().unwrap().3.as_deref(), Some("unsupported_by_route"));
}
