//! Every split of a corpus gives the same events.

use super::*;

/// Streams as servers send them: OpenAI, Azure, vLLM, llama-server, Ollama, OpenRouter, and the corners of the format.
const CORPUS: &[(&str, &[u8])] = &[
    ("openai", include_bytes!("../corpus/sse/openai.txt")),
    ("openai_tools", include_bytes!("../corpus/sse/openai_tools.txt")),
    ("azure", include_bytes!("../corpus/sse/azure.txt")),
    ("vllm", include_bytes!("../corpus/sse/vllm.txt")),
    ("llama_server", include_bytes!("../corpus/sse/llama_server.txt")),
    ("ollama", include_bytes!("../corpus/sse/ollama.txt")),
    ("openrouter", include_bytes!("../corpus/sse/openrouter.txt")),
    ("error_in_stream", include_bytes!("../corpus/sse/error_in_stream.txt")),
    ("old_llama_error", b"data: {\"choices\":[]}\n\nerror: {\"code\":500,\"message\":\"x\"}\n\n"),
    ("crlf", b"data: {\"a\":1}\r\n\r\ndata: [DONE]\r\n\r\n"),
    ("cr", b"data: {\"a\":1}\r\rdata: [DONE]\r\r"),
    ("mixed", b"id: 7\r\ndata: a\n\r\ndata: b\r\n\ndata: c\r\r\ndata: d\n\n"),
    ("bom", b"\xEF\xBB\xBFdata: \xEF\xBB\xBF\n\n"),
    ("bom_later", b"data: x\n\n\xEF\xBB\xBFdata: y\nid: 3\ndata: z\n\n"),
    ("bom_then_comment", b"\xEF\xBB\xBF: hi\n\ndata: x\n\n"),
    ("multi", b"data: {\ndata:\"a\":\ndata:  1}\n\ndata\ndata\n\n"),
    ("odd_fields", b"event: x\nretry: 10\nfoo\n:c\ndata:x\n\nevent: alone\n\ndata: y\n\n"),
    ("no_last_blank", b"data: x\n\ndata: [DONE]"),
    ("utf8", "data: {\"c\":\"h\u{e9} \u{1F980} \u{2028}\"}\n\n".as_bytes()),
];

fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut decoder = Decoder::new(1 << 20);
    let mut events = Vec::new();
    for part in parts {
        decoder.push(Bytes::copy_from_slice(part));
        while let Some(event) = decoder.next().unwrap() {
            events.push(event);
        }
    }
    events.extend(decoder.finish());
    events
}

fn event(data: &str, extra: &str) -> Event {
    Event { data: Bytes::copy_from_slice(data.as_bytes()), extra: Bytes::copy_from_slice(extra.as_bytes()), error: false }
}

fn named(name: &str) -> Vec<Event> {
    let (_, bytes) = CORPUS.iter().find(|(at, _)| *at == name).unwrap();
    decode([*bytes])
}

#[test]
fn b03_every_split_in_two_and_three_gives_the_same_events() {
    for (name, bytes) in CORPUS {
        let whole = decode([*bytes]);
        assert!(!whole.is_empty(), "{name}");
        for at in 0..=bytes.len() {
            assert_eq!(decode([&bytes[..at], &bytes[at..]]), whole, "{name} split at {at}");
        }
        assert_eq!(decode(bytes.chunks(1)), whole, "{name} byte by byte");
        // Three parts where it stays cheap: around every pair of offsets of the short ones.
        if bytes.len() < 120 {
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    assert_eq!(decode([&bytes[..first], &bytes[first..second], &bytes[second..]]), whole, "{name} {first} {second}");
                }
            }
        }
    }
}

#[test]
fn the_corners_of_the_format() {
    assert_eq!(named("crlf"), [event("{\"a\":1}", ""), event("[DONE]", "")]);
    assert_eq!(named("cr"), named("crlf"));
    assert_eq!(named("mixed"), [event("a", "id: 7\n"), event("b", ""), event("c", ""), event("d", "")]);
    assert_eq!(named("bom"), [event("\u{FEFF}", "")]);
    assert_eq!(named("bom_later"), [event("x", ""), event("z", "id: 3\n")]);
    assert_eq!(named("bom_then_comment"), [event("x", "")]);
    assert_eq!(named("multi"), [event("{\n\"a\":\n 1}", ""), event("\n", "")]);
    assert_eq!(named("odd_fields"), [event("x", "event: x\nretry: 10\nfoo\n"), event("y", "")]);
    assert_eq!(named("no_last_blank"), [event("x", ""), event("[DONE]", "")]);
    let old = named("old_llama_error");
    assert!(old[1].error && old[1].data.starts_with(b"{\"code\""));
}

#[test]
fn data_bytes_are_those_that_came() {
    for (name, bytes) in CORPUS {
        for event in decode([*bytes]) {
            let one_line = !event.data.contains(&b'\n');
            assert!(!one_line || bytes.windows(event.data.len()).any(|window| window == event.data), "{name}: {event:?}");
        }
    }
}

#[test]
fn an_event_over_the_bound_is_an_error_however_it_arrives() {
    for part in [1, 7, 64] {
        for stream in
            [&b"data: 0123456789012345678901234567890123456789\n\n"[..], b"data: 01234567\ndata: 01234567\ndata: 01234567\ndata: 0123\n\n"]
        {
            let mut decoder = Decoder::new(32);
            let failed = stream.chunks(part).any(|bytes| {
                decoder.push(Bytes::copy_from_slice(bytes));
                loop {
                    match decoder.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break false,
                        Err(_) => break true,
                    }
                }
            });
            assert!(failed, "{part}");
        }
    }
    // The bound is on one event, not on the stream.
    let mut decoder = Decoder::new(32);
    for _ in 0..100 {
        decoder.push(Bytes::from_static(b"data: 0123456789\n\n: comment comment comment\n"));
        assert!(decoder.next().unwrap().is_some());
        assert!(decoder.next().unwrap().is_none());
    }
}

#[test]
fn encoding_and_decoding_are_inverse() {
    for (name, bytes) in CORPUS {
        for mut event in decode([*bytes]) {
            let mut out = BytesMut::new();
            encode(&mut out, &event.extra, &event.data);
            event.error &= event.extra.starts_with(b"event: error");
            assert_eq!(decode([&out[..]]), [event], "{name}");
        }
    }
    let mut out = BytesMut::new();
    encode(&mut out, b"", b"{\r\n\"a\": 1\r}");
    assert_eq!(&out[..], b"data: {\ndata: \"a\": 1\ndata: }\n\n");
}
