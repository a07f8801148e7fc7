"""`instructor` (structured output by pydantic models) at a running Spectra: every mode it has for OpenAI servers."""

import os
from typing import Iterable, Literal

import instructor
import openai
from pydantic import BaseModel, Field

real = os.environ.get("SPECTRA_REAL") == "1"
plain = openai.OpenAI(base_url=os.environ["SPECTRA_BASE_URL"], api_key="none", max_retries=0, timeout=180)
question = [{"role": "user", "content": "The city of 'Lima' has 10 districts."}]


# No further members: a small model would write one until its tokens are used up.
class City(BaseModel, extra="forbid"):
    name: str = Field(min_length=1, max_length=40)
    districts: int = Field(ge=1, le=99)
    size: Literal["small", "large"]


class Trip(BaseModel, extra="forbid"):
    cities: list[City] = Field(max_length=2)
    note: str | None = Field(default=None, max_length=20)


def client(mode):
    return instructor.from_openai(plain, mode=mode)


def city(mode):
    answer = client(mode).chat.completions.create(model="auto", messages=question, response_model=City, max_retries=0, max_tokens=96)
    assert isinstance(answer, City), answer
    if not real:
        assert (answer.name, answer.districts) == ("Lima", 10), answer


def tools():
    city(instructor.Mode.TOOLS)


def tools_strict():
    city(instructor.Mode.TOOLS_STRICT)


def json_schema():
    city(instructor.Mode.JSON_SCHEMA)


def json_mode():
    city(instructor.Mode.JSON)


def markdown_json():
    city(instructor.Mode.MD_JSON)


def nested():
    answer = client(instructor.Mode.JSON_SCHEMA).chat.completions.create(model="auto", messages=question, response_model=Trip, max_retries=0, max_tokens=192)
    assert isinstance(answer, Trip) and all(isinstance(city, City) for city in answer.cities), answer


def partial():
    pieces = client(instructor.Mode.TOOLS).chat.completions.create_partial(model="auto", messages=question, response_model=City, max_tokens=96)
    last = None
    for last in pieces:
        pass
    assert last is not None and last.name == "Lima" and last.districts == 10, last


def parallel():
    two = [{"role": "user", "content": "Call both: the city of 'Lima', and a trip there."}]
    answers = list(client(instructor.Mode.PARALLEL_TOOLS).chat.completions.create(model="auto", messages=two, response_model=Iterable[City | Trip], max_retries=0))
    assert {type(answer) for answer in answers} == {City, Trip}, answers


# A small model fills a schema that it is held to; the other modes ask for understanding.
for check in (tools, json_schema, nested) if real else (tools, tools_strict, json_schema, json_mode, markdown_json, nested, partial, parallel):
    check()
    print("ok", check.__name__)
