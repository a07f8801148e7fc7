"""The official OpenAI Python SDK against a running Spectra: SPECTRA_BASE_URL, and SPECTRA_REAL=1 with a real model."""

import json
import os

import openai

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


for check in (unary, streaming, streaming_helper, json_schema, models, errors, legacy_completions, responses):
    check()
    print("ok", check.__name__)
