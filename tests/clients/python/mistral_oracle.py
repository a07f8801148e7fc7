"""What `mistral-common` makes of chats: the token sequences that `backends/tests/templates.rs` compares ours with.

Prints one JSON object: for each tokenizer its vocabulary (text, score, kind as GGUF numbers kinds) and chats with their tokens.
"""
import json
import sys

from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
    },
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CHATS = [
    {"messages": [user("Hello.")]},
    {"messages": [user("Two\nlines, and  two spaces; déjà vu, 你好 🦀\t{\"a\": [1, 2.5e3]}")]},
    {"messages": [user("What is 2 + 2?"), assistant("4."), user("And 3 + 3?")]},
    {"messages": [user("a"), assistant("b"), user("c"), assistant("d\n- e"), user("f")]},
    {"messages": [{"role": "system", "content": "Be brief."}, user("Hello.")]},
]
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lima", "days": 2}'}}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "weather", "content": "mild and grey"}
TOOL_CHATS = [
    {"messages": [{"role": "system", "content": "Be brief."}, user("a"), assistant("b"), user("c")]},
    {"messages": [user("The weather in Lima?")], "tools": [TOOL]},
    {"messages": [user("Hi"), assistant("Hello."), user("The weather in Lima?")], "tools": [TOOL]},
    {"messages": [user("The weather in Lima?"), {"role": "assistant", "tool_calls": [CALL]}, RESULT], "tools": [TOOL]},
]


def vocabulary(words):
    kinds = [(words.is_unknown, 2), (words.is_control, 3), (words.is_unused, 5), (words.is_byte, 6)]
    kind = lambda at: next((number for check, number in kinds if check(at)), 1)
    return [[words.id_to_piece(at), words.get_score(at), kind(at)] for at in range(words.vocab_size())]


def tokens(tokenizer, chat):
    return tokenizer.encode_chat_completion(ChatCompletionRequest(model="m", **chat)).tokens


def main():
    out = {}
    for name, tokenizer, chats in [("v1", MistralTokenizer.v1(), CHATS), ("v3", MistralTokenizer.v3(), CHATS + TOOL_CHATS)]:
        words = tokenizer.instruct_tokenizer.tokenizer._model
        out[name] = {"vocabulary": vocabulary(words), "chats": [{"body": chat, "tokens": tokens(tokenizer, chat)} for chat in chats]}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
