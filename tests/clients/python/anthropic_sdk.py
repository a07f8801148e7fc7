"""The official Anthropic Python SDK against /v1/messages of a running Spectra."""

import os

import anthropic

base = os.environ["SPECTRA_BASE_URL"].removesuffix("/v1")
client = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0, timeout=180)
hello = [{"role": "user", "content": "Say hello."}]


def unary():
    message = client.messages.create(model="auto", max_tokens=32, system="Be brief.", messages=hello)
    assert message.type == "message" and message.content[0].text.strip() and message.stop_reason in ("end_turn", "max_tokens"), message
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0


def streaming():
    with client.messages.stream(model="auto", max_tokens=32, messages=hello) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.strip() and final.content[0].text == text and final.usage.output_tokens > 0, final


def blocks_and_tools():
    tool = {"name": "weather", "description": "The weather of a city", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
    past = [
        {"role": "user", "content": [{"type": "text", "text": "Weather in 'Lima'?"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Lima"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Sunny."}]},
    ]
    called = client.messages.create(model="tool", max_tokens=32, messages=past[:1], tools=[tool])
    assert called.stop_reason == "tool_use" and called.content[0].name == "weather" and called.content[0].input == {"city": "Lima"}, called
    with client.messages.stream(model="tool", max_tokens=32, messages=past[:1], tools=[tool]) as stream:
        final = stream.get_final_message()
    assert final.content[0].input == {"city": "Lima"} and final.stop_reason == "tool_use", final
    told = client.messages.create(model="auto", max_tokens=32, messages=past)
    assert told.content[0].text.strip()


def parallel_tools_streamed():
    tools = [
        {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
        {"name": "clock", "input_schema": {"type": "object", "properties": {"hours": {"type": "integer"}}}},
    ]
    both = [{"role": "user", "content": "Call both: the weather in 'Lima', and a clock for 5 hours."}]
    open_block, kinds = None, []
    with client.messages.stream(model="tool", max_tokens=64, messages=both, tools=tools) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "content_block_start":
                assert open_block is None, "blocks follow each other"
                open_block = event.index
            elif event.type == "content_block_stop":
                assert open_block == event.index
                open_block = None
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "input_json" in kinds, kinds
    assert {block.name: block.input for block in final.content} == {"weather": {"city": "Lima"}, "clock": {"hours": 5}}, final
    assert final.stop_reason == "tool_use"


def errors():
    for wanted, model, messages in [(anthropic.NotFoundError, "no-such-model", hello), (anthropic.BadRequestError, "auto", [])]:
        try:
            client.messages.create(model=model, max_tokens=8, messages=messages)
        except wanted as error:
            assert error.body["type"] == "error" and error.body["error"]["message"], error.body
        else:
            raise AssertionError(f"no {wanted}")


# A 135M model calls no tools.
real = os.environ.get("SPECTRA_REAL") == "1"
for check in (unary, streaming, errors) if real else (unary, streaming, blocks_and_tools, parallel_tools_streamed, errors):
    check()
    print("ok", check.__name__)
