"""The official OpenAI Python SDK against a running Spectra: SPECTRA_BASE_URL, and SPECTRA_REAL=1 with a real model."""

import json
import os

import openai
import pydantic

client = openai.OpenAI(base_url=os.environ["SPECTRA_BASE_URL"], api_key=os.environ.get("SPECTRA_KEY", "none"), max_retries=0, timeout=180)
real = os.environ.get("SPECTRA_REAL") == "1"
hello = [{"role": "user", "content": "Say hello."}]
city = {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}}, "required": ["city", "people"], "additionalProperties": False}


def unary():
    answer = client.chat.completions.with_raw_response.create(model="auto", messages=hello, max_tokens=32)
    completion = answer.parse()
    assert completion.choices[0].message.content.strip(), completion
    assert completion.choices[0].finish_reason in ("stop", "length")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion._request_id == answer.headers["x-request-id"]
    assert answer.headers["x-spectra-route"] in ("local", "strong")


def streaming():
    text, ids, usage, finish = "", set(), None, None
    stream = client.chat.completions.create(model="auto", messages=hello, max_tokens=32, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        ids.add(chunk.id)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text.strip() and len(ids) == 1 and usage.completion_tokens > 0 and finish in ("stop", "length"), (text, ids, usage, finish)


def streaming_helper():
    with client.chat.completions.stream(model="auto", messages=hello, max_tokens=32) as stream:
        for _ in stream:
            pass
        try:
            final = stream.get_final_completion()
        except openai.LengthFinishReasonError as cut:  # a small model may reach the token limit
            final = cut.completion
        assert final.choices[0].message.content.strip()


def json_schema():
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": city, "strict": True}}
    question = [{"role": "user", "content": "Name one large city and how many people live there. Answer in JSON."}]
    for stream in (False, True):
        answer = client.chat.completions.create(model="auto" if real else "json", messages=question, response_format=wanted, max_tokens=64, stream=stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices) if stream else answer.choices[0].message.content
        value = json.loads(text)
        assert set(value) == {"city", "people"} and isinstance(value["people"], int), text


def models():
    names = [model.id for model in client.models.list()]
    assert "auto" in names, names
    assert client.models.retrieve("auto").id == "auto"


def errors():
    for wanted, body in [
        (openai.NotFoundError, {"model": "no-such-model", "messages": hello}),
        (openai.BadRequestError, {"model": "auto", "messages": []}),
        (openai.BadRequestError, {"model": "auto", "messages": hello, "temperature": "hot"}),
    ]:
        try:
            client.chat.completions.create(**body)
        except wanted as error:
            assert error.code and error.type == "invalid_request_error", error
        else:
            raise AssertionError(f"no {wanted}")


def legacy_completions():
    answer = client.completions.create(model="auto", prompt="Say hello.", max_tokens=16)
    assert answer.object == "text_completion" and answer.choices[0].text.strip() and answer.usage.total_tokens
    pieces = client.completions.create(model="auto", prompt="Say hello.", max_tokens=16, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices).strip()


def responses():
    answer = client.responses.create(model="auto", input="Say hello.", instructions="Be brief.", max_output_tokens=32)
    assert answer.output_text.strip() and answer.status in ("completed", "incomplete") and answer.usage.total_tokens, answer
    kinds, text = [], ""
    with client.responses.stream(model="auto", input=hello, max_output_tokens=32) as stream:
        for event in stream:
            kinds.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
            # The SDK's own get_final_response() knows completed answers only; a small model may reach the token limit.
            final = getattr(event, "response", None)
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert final.output_text == text and text.strip()


weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}, "strict": True}}
clock = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {"hours": {"type": "integer"}}, "required": ["hours"], "additionalProperties": False}, "strict": True}}
lima = [{"role": "user", "content": "What is the weather in 'Lima'?"}]
both = [{"role": "user", "content": "Call both: the weather in 'Lima', and a clock for 5 hours."}]


class City(pydantic.BaseModel):
    city: str
    people: int


def tools():
    first = client.chat.completions.create(model="auto", messages=lima, tools=[weather])
    [call] = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls" and call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Lima"}, first
    told = client.chat.completions.create(model="auto", messages=[*lima, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}], tools=[weather])
    assert told.choices[0].message.content and not told.choices[0].message.tool_calls, told
    forced = client.chat.completions.create(model="auto", messages=hello, tools=[weather, clock], tool_choice={"type": "function", "function": {"name": "clock"}})
    assert forced.choices[0].message.tool_calls[0].function.name == "clock", forced
    none = client.chat.completions.create(model="auto", messages=lima, tools=[weather], tool_choice="none")
    assert none.choices[0].message.content and not none.choices[0].message.tool_calls, none


def parallel_tools():
    for stream in (False, True):
        if stream:
            with client.chat.completions.stream(model="auto", messages=both, tools=[weather, clock]) as events:
                done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
                answer = events.get_final_completion()
            assert [event.name for event in done] == ["weather", "clock"] or {event.name for event in done} == {"weather", "clock"}, done
            assert {event.name: event.parsed_arguments for event in done} == {"weather": {"city": "Lima"}, "clock": {"hours": 5}}, done
        else:
            answer = client.chat.completions.create(model="auto", messages=both, tools=[weather, clock])
        calls = {call.function.name: json.loads(call.function.arguments) for call in answer.choices[0].message.tool_calls}
        assert calls == {"weather": {"city": "Lima"}, "clock": {"hours": 5}}, calls
    one = client.chat.completions.create(model="auto", messages=both, tools=[weather, clock], parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls) == 1, one


def parsed():
    question = [{"role": "user", "content": "The city of 'Lima' and its 10 people."}]
    answer = client.chat.completions.parse(model="auto", messages=question, response_format=City)
    assert answer.choices[0].message.parsed == City(city="Lima", people=10), answer
    with client.chat.completions.stream(model="auto", messages=question, response_format=City) as stream:
        snapshots = [event.parsed for event in stream if event.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.parsed == City(city="Lima", people=10)
    assert snapshots, "the parts of the value are told as they come"
    tool = openai.pydantic_function_tool(City, name="city")
    called = client.chat.completions.parse(model="auto", messages=question, tools=[tool])
    assert called.choices[0].message.tool_calls[0].function.parsed_arguments == City(city="Lima", people=10), called


def several_choices():
    answer = client.chat.completions.create(model="auto", messages=hello, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and all(choice.message.content for choice in answer.choices), answer
    texts = {}
    for chunk in client.chat.completions.create(model="auto", messages=hello, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert set(texts) == {0, 1, 2} and len(set(texts.values())) == 1, texts


def logprobs():
    answer = client.chat.completions.create(model="auto", messages=hello, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content and all(len(token.top_logprobs) == 2 for token in tokens), tokens
    text = ""
    for chunk in client.chat.completions.create(model="auto", messages=hello, logprobs=True, top_logprobs=2, stream=True):
        for choice in chunk.choices:
            text += "".join(token.token for token in choice.logprobs.content) if choice.logprobs and choice.logprobs.content else ""
    assert text == answer.choices[0].message.content, text


def embeddings():
    for more in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="embed", input=["one", "two"], **more)
        assert [list(item.embedding) for item in answer.data] == [[0.5, -1.0]] * 2 and answer.usage.total_tokens == 2, answer


def responses_with_tools():
    flat = {"type": "function", **weather["function"]}
    answer = client.responses.create(model="auto", input=lima, tools=[flat])
    [call] = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "weather" and json.loads(call.arguments) == {"city": "Lima"}, answer
    told = client.responses.create(model="auto", input=[*lima, call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}], tools=[flat])
    assert told.output_text, told
    with client.responses.stream(model="auto", input=lima, tools=[flat]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed", kinds
    assert json.loads(final.output[0].arguments) == {"city": "Lima"}, final


def responses_parsed():
    question = "The city of 'Lima' and its 10 people."
    answer = client.responses.parse(model="auto", input=question, text_format=City)
    assert answer.output_parsed == City(city="Lima", people=10), answer
    with client.responses.stream(model="auto", input=question, text_format=City) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == City(city="Lima", people=10)


everywhere = (unary, streaming, streaming_helper, json_schema, models, errors, legacy_completions, responses)
# What a small model calls and says of its own accord has no sense: these are for the scripted one.
scripted = (tools, parallel_tools, parsed, several_choices, logprobs, embeddings, responses_with_tools, responses_parsed)
for check in everywhere if real else everywhere + scripted:
    check()
    print("ok", check.__name__)
