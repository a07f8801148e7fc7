#!/usr/bin/env python3
"""`spectra engine` beside llama-server: the same GGUF, threads and settings, in turns within one run.

    benches/engine/side_by_side.py --llama-server PATH --spectra target/release/spectra --model models/NAME.gguf

Python's standard library only. Everything stays on loopback; one server works at a time, the other one idles. Each
figure is the median over the rounds; a ratio is the median of the rounds' ratios. Quiet the machine first.

What is measured, for each server:
  decode N     tokens per second over N streams of --tokens tokens each, from the first request to the last byte
  ttft N       milliseconds to the first text of a prompt of about N tokens; `cold`: never seen, `again`: just answered
  json         tokens per second of one answer held to a JSON Schema
  cpu          milliseconds of CPU time (user and system) per token in the same work: steadier than wall time
  memory       resident MiB at the end, and of these what is not the mapped file
  bandwidth    decode 1, times the bytes of weights, as a share of what all threads together read from memory
"""
import argparse, ctypes, http.client, json, os, random, socket, statistics, subprocess, sys, threading, time

HZ = os.sysconf("SC_CLK_TCK")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "population": {"type": "integer"},
        "area_km2": {"type": "number"},
        "districts": {
            "type": "array", "minItems": 3, "maxItems": 6,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 30}, "mayor": {"type": "string", "maxLength": 30}},
                "required": ["name", "mayor"], "additionalProperties": False,
            },
        },
    },
    "required": ["name", "population", "area_km2", "districts"], "additionalProperties": False,
}
TOPICS = ["the sea", "an old clock", "a garden in spring", "two rivers", "a lost letter", "the night train", "a small shop", "winter"]


class Server:
    def __init__(self, name, command, env):
        self.name = name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [part.replace("{port}", str(self.port)) for part in command]
        self.log = open(f"/tmp/side_by_side.{name}.log", "wb")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, env={**os.environ, **env})

    def ready(self, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                sys.exit(f"{self.name} ended; its log: {self.log.name}")
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"{self.name} is not ready after {seconds} s; its log: {self.log.name}")

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    def cpu(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / HZ

    def memory(self):
        rows = dict(line.split(":", 1) for line in open(f"/proc/{self.process.pid}/status"))
        return [int(rows[row].split()[0]) / 1024 for row in ("VmRSS", "RssAnon")]

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def body(words, tokens, **more):
    base = {"model": "m", "messages": [{"role": "user", "content": words}], "max_tokens": tokens, "stream": True,
            "stream_options": {"include_usage": True}, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    return json.dumps({**base, **more})


def ask(server, text):
    """Seconds to the first text, seconds to the end, tokens of the answer, the answer, whether it came to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=200)
    connection.connect()
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", text, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{server.name}: {response.status} {response.read()[:300]}")
    first, tokens, answer = None, 0, []
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        # Parsing every chunk would cost this client what the server needs: most are looked at after the end.
        if first is None and b'"content":"' in line and b'"content":""' not in line:
            first = time.perf_counter() - began
        answer.append(line)
    end = time.perf_counter() - began
    text, finish = "", None
    for line in answer:
        chunk = json.loads(line[6:])
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk.get("choices", []):
            text += choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
    return first if first is not None else end, end, tokens, text, finish == "stop"


def decode(server, streams, tokens, banned, salt):
    results = [None] * streams
    def one(at):
        words = f"Write a long story about {TOPICS[at % len(TOPICS)]}. {salt + at}"
        results[at] = ask(server, body(words, tokens, logit_bias=banned, seed=salt + at))
    began = time.perf_counter()
    threads = [threading.Thread(target=one, args=(at,)) for at in range(streams)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return sum(result[2] for result in results), time.perf_counter() - began


def prompt(tokens, salt):
    """About so many tokens; a beginning that no other prompt has."""
    dice = random.Random(salt)
    words = ["time", "river", "house", "light", "stone", "green", "music", "paper", "north", "bread", "cloud", "story", "winter", "garden"]
    return " ".join([str(salt)] + [dice.choice(words) for _ in range(max(1, tokens - 12))])


def measure(servers, args, number, out):
    """One round. Each piece of work is done by both servers before the next: what else the machine does then meets both."""
    def note(key, server, value):
        out.setdefault(key, {}).setdefault(server.name, []).append(value)

    def decoding(server, streams, salt):
        cpu = server.cpu()
        tokens, seconds = decode(server, streams, args.tokens, args.banned, salt)
        note(f"decode {streams}", server, tokens / seconds)
        note(f"cpu {streams}", server, (server.cpu() - cpu) / tokens * 1000)

    def reading(server, length, salt):
        text = body(prompt(length, salt), 2)
        note(f"ttft {length} cold", server, ask(server, text)[0] * 1000)
        note(f"ttft {length} again", server, ask(server, text)[0] * 1000)

    def writing(server, _, salt):
        cpu = server.cpu()
        schema = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
        _, seconds, tokens, answer, ended = ask(server, body("Describe a city as JSON.", 200, response_format=schema, seed=salt, temperature=1.0))
        note("json", server, tokens / seconds)
        note("json cpu", server, (server.cpu() - cpu) / tokens * 1000)
        if not ended:
            return note("answers cut by their limit", server, 1)
        try:
            json.loads(answer)
        except ValueError:
            note("whole answers refused", server, 1)

    work = [(decoding, streams) for streams in args.streams] + [(reading, length) for length in args.prompts] + [(writing, 0)] * args.json_answers
    for at, (do, size) in enumerate(work):
        # Who begins changes: what one leaves in the machine's caches is evenly shared.
        for server in servers if (number + at) % 2 == 0 else servers[::-1]:
            do(server, size, number * 10_000 + at * 100)


def bandwidth(threads):
    """Bytes a second that so many threads read, each its own 256 MiB, through libc's memchr."""
    find = ctypes.CDLL(None).memchr
    find.argtypes, find.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p
    size = 256 << 20
    blocks = [ctypes.create_string_buffer(b"\0", size) for _ in range(threads)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    def read(block):
        for _ in range(4):
            find(ctypes.addressof(block), 2, size)
    best = 0.0
    for _ in range(3):
        workers = [threading.Thread(target=read, args=(block,)) for block in blocks]
        began = time.perf_counter()
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        best = max(best, threads * 4 * size / (time.perf_counter() - began))
    return best


def report(out, names, weights, memory, read):
    ours, theirs = names
    print(f"{'':24}{ours:>12}{theirs:>14}{'ratio':>8}   must")
    missed = []
    for key, values in out.items():
        if key.startswith(("answers", "whole")):
            print(f"{key:24}" + "".join(f"{len(values.get(name, [])):>13}" for name in names))
            continue
        a, b = (statistics.median(values[name]) for name in names)
        ratio = statistics.median(x / y for x, y in zip(values[ours], values[theirs]))
        rate = not key.startswith(("ttft", "cpu", "json cpu"))
        must = "" if "cpu" in key else (">= 0.95" if rate else "<= 1.05")
        met = not must or (ratio >= 0.95 if rate else ratio <= 1.05)
        if not met:
            missed.append(key)
        print(f"{key:24}{a:>12.2f}{b:>14.2f}{ratio:>8.3f}   {must}{'' if met else '  MISSED'}")
    for at, what in enumerate(["memory, resident MiB", "memory, not the file"]):
        a, b = memory[0][at], memory[1][at]
        print(f"{what:24}{a:>12.0f}{b:>14.0f}{a / b:>8.3f}")
    if "decode 1" in out:
        shares = [statistics.median(out["decode 1"][name]) * weights / read for name in names]
        print(f"{'share of bandwidth':24}{shares[0]:>12.2f}{shares[1]:>14.2f}   of {read / 1e9:.1f} GB/s; {weights / 1e6:.0f} MB of weights")
    return missed


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--llama-server", required=True)
    parse.add_argument("--spectra", default="target/release/spectra")
    parse.add_argument("--model", required=True)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--slots", type=int, default=8)
    parse.add_argument("--context", type=int, default=4096, help="tokens for each slot")
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--json-answers", type=int, default=2, help="in a round")
    parse.add_argument("--tokens", type=int, default=96)
    parse.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",") if n], default=[1, 4, 8])
    parse.add_argument("--prompts", type=lambda text: [int(n) for n in text.split(",") if n], default=[20, 500, 2000])
    parse.add_argument("--ends", default="0,2", help="tokens that end an answer; banned, so that every stream has its full length")
    parse.add_argument("--json", help="write all values to this file, after every round")
    args = parse.parse_args()
    args.banned = {token: -100 for token in args.ends.split(",") if token}
    shared = {"OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"]} if "OMP_WAIT_POLICY" in os.environ else {}
    ours = Server("spectra", [args.spectra, "engine", "--model", args.model, "--listen", "127.0.0.1:{port}", "--threads", str(args.threads),
                              "--slots", str(args.slots), "--context-tokens", str(args.context)], shared)
    theirs = Server("llama-server", [args.llama_server, "-m", args.model, "--host", "127.0.0.1", "--port", "{port}", "-t", str(args.threads),
                                     "-tb", str(args.threads), "-np", str(args.slots), "-c", str(args.context * args.slots), "--kv-unified",
                                     "--jinja", "--no-webui"], shared)
    servers, out = [ours, theirs], {}
    try:
        for server in servers:
            server.ready()
            ask(server, body("Hello.", 8))
        for number in range(args.rounds):
            measure(servers, args, number + 1, out)
            if args.json:
                json.dump(out, open(args.json, "w"))
        memory = [server.memory() for server in servers]
        # Of the model itself, not of its file, which may carry more.
        weights = json.loads(ours.get("/v1/models")[1])["data"][0]["meta"]["size"]
    finally:
        for server in servers:
            server.stop()
    read = bandwidth(args.threads)
    print(f"{os.path.basename(args.model)}, {args.threads} thread(s), {args.slots} slots of {args.context} tokens, {args.rounds} round(s)")
    missed = report(out, [server.name for server in servers], weights, memory, read)
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
