"""What Python's Jinja, set up as `transformers` does it, makes of chats: `backends/tests/templates.rs` compares ours with it.

    jinja_oracle.py FOLDER      original chat templates, one .jinja file each; prints a JSON list of template, body and text
"""
import datetime
import json
import pathlib
import sys

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city, it's \"now\" & <here>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    },
}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": {"city": "Lima", "days": 2}}}
USER = {"role": "user", "content": " Two\nlines; déjà vu <b>&\"quoted\"</b> "}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "A short answer.\n"}
CHATS = [
    ([USER], None),
    ([SYSTEM, USER], None),
    ([USER, ANSWER, USER], None),
    ([SYSTEM, USER, ANSWER, USER, ANSWER, USER], None),
    ([USER], [TOOL]),
    ([SYSTEM, USER], [TOOL, TOOL]),
    ([USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "mild", "tool_call_id": "abcdef123"}], [TOOL]),
]


def environment():
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def refuse(message):
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.datetime.now(datetime.timezone.utc).strftime(form)
    return made


def main():
    out = []
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        text = path.read_text()
        template = environment().from_string(text)
        for messages, tools in CHATS:
            try:
                said = template.render(messages=messages, tools=tools, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
            except Exception as error:  # what a template refuses, ours puts in another form
                said = None
            wire = [{**m, "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": json.dumps(CALL["function"]["arguments"])}}]} if "tool_calls" in m else m for m in messages]
            out.append({"name": path.stem, "template": text, "body": {"model": "m", "messages": wire, **({"tools": tools} if tools else {})}, "text": said})
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
