#!/usr/bin/env python3
"""What verification makes of a real local model: requests with JSON Schemas at temperature 1, with and without the constraint.

    python3 scripts/real-model-answers.py --rows schemas.jsonl [--spectra target/release/spectra] [--model models/starter.gguf]

A row is a JSON object with `schema` and `valid` instances, the shortest of which is shown to the model. Every answer that the gateway delivers is checked
again: by python-jsonschema where it is installed, else by `spectra verify`. Only the standard library is needed.
"""
import argparse, collections, concurrent.futures, json, pathlib, random, re, subprocess, sys, tempfile, time, urllib.error, urllib.request

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:{admin}"
[accounting]
ledger = ""
[backends.llama]
json_schema = {constrained}
# The only model there is: it must not rest because its answers are poor.
[backends.llama.breaker]
unusable_weight = 0.0
[backends.llama.llama]
model = "{model}"
slots = {clients}
# More threads than free cores wait for each other.
threads = {threads}
{worker}
[routes.local]
ladder = ["llama"]
attempts = {attempts}
attempts_per_rung = {attempts}
deadline_ms = 300000
[routes.strong]
ladder = ["llama"]
"""


def free_port():
    import socket

    with socket.socket() as socket_:
        socket_.bind(("127.0.0.1", 0))
        return socket_.getsockname()[1]


def valid(args, schema, text):
    try:
        import jsonschema
    except ImportError:
        row = json.dumps({"id": "x", "text": text, "finish_reason": "stop", "schema": schema}) + "\n"
        told = subprocess.run([args.spectra, "verify", "--corpus", "-"], input=row, capture_output=True, text=True).stdout
        return json.loads(told)["action"] == "pass"
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return jsonschema.validators.validator_for(schema)(schema).is_valid(value)


def example(row):
    return min(row["valid"], key=lambda value: len(json.dumps(value)))


def ask(args, port, number, row):
    schema = row["schema"]
    shown = json.dumps(example(row), ensure_ascii=False)
    body = {
        "model": "local",
        "messages": [{"role": "user", "content": f"A value that fits the schema:\n\n{shown}\n\nWrite another one, as JSON. Keep every text to a few words."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "example", "schema": schema}},
        "temperature": 1,
        "seed": number,
        "max_tokens": args.max_tokens,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json", "x-spectra-debug": "1"}
    )
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=400) as response:
            answer, headers = json.load(response), response.headers
    except urllib.error.HTTPError as error:
        said = json.load(error)["error"]
        return {
            "delivered": False,
            "code": said["code"],
            "why": re.sub(r"[^:]*attempts?: ", "", said["message"]),
            "seconds": time.monotonic() - began,
        }
    text = answer["choices"][0]["message"]["content"]
    return {
        "delivered": True,
        "valid": valid(args, schema, text),
        "verified": headers["x-spectra-verified"],
        "attempts": int(headers["x-spectra-attempts"]),
        "flaws": flaws(headers),
        "seconds": time.monotonic() - began,
        "text": text,
    }


def flaws(headers):
    """What each attempt was found to be, from `llama:first:truncated:374ms, llama:retry:pass:3ms`."""
    return [attempt.split(":")[2] for attempt in (headers["x-spectra-trail"] or "").split(", ") if attempt.count(":") > 2]


def run(args, rows, constrained):
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "spectra.toml"
        config.write_text(
            CONFIG.format(
                port=port, admin=admin, model=args.model, constrained=str(constrained).lower(), attempts=args.attempts, clients=args.clients, threads=args.threads,
                worker=f"worker = {{ program = {json.dumps(args.worker)} }}" if args.worker else "",
            )
        )
        log = open(pathlib.Path(folder) / "log", "w+")
        server = subprocess.Popen([args.spectra, "serve", "--config", config], stdout=log, stderr=log)
        try:
            wait_ready(server, admin, log)
            until = time.monotonic() + 60 * args.minutes
            within = lambda row: ask(args, port, *row) if time.monotonic() < until else None
            came = []
            with concurrent.futures.ThreadPoolExecutor(args.clients) as pool:
                asked = [pool.submit(within, row) for row in enumerate(rows)]
                for one in filter(None, (done.result() for done in concurrent.futures.as_completed(asked))):
                    came.append(one)
                    if args.out:
                        print(json.dumps({"constrained": constrained, **one}), file=args.out, flush=True)
                    print(f"\r{len(came)} of {len(rows)}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
        finally:
            server.terminate()
            server.wait()
    report(constrained, came)


def wait_ready(server, admin, log):
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as response:
                if json.load(response).get("local") == "ready":
                    return
        except OSError:
            pass
        if server.poll() is not None:
            log.seek(0)
            sys.exit(log.read())
        time.sleep(0.25)
    sys.exit("the model does not load")


def report(constrained, came):
    delivered = [one for one in came if one["delivered"]]
    attempts = collections.Counter(one["attempts"] for one in delivered)
    refused = collections.Counter(one["code"] for one in came if not one["delivered"])
    why = collections.Counter(re.split(r"[(:]| at byte| after \d", one["why"])[0] for one in came if not one["delivered"])
    wrong = [one for one in delivered if not one["valid"]]
    took = ", ".join(f"{count} x{n}" for n, count in sorted(attempts.items()))
    mean = sum(one["attempts"] for one in delivered) / max(len(delivered), 1)
    seconds = sum(one["seconds"] for one in came) / max(len(came), 1)
    verified = collections.Counter(one["verified"] for one in delivered)
    name = "with the constraint" if constrained else "without"
    print(f"| {name} | {len(came)} | {len(delivered)} | {len(delivered) - len(wrong)} | {mean:.2f} ({took}) | {dict(verified)} | {dict(refused)}; {dict(why)} | {seconds:.1f} |", flush=True)
    for one in wrong:
        print("NOT VALID:", one["verified"], one["text"][:300])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--spectra", default="target/release/spectra")
    parser.add_argument("--worker", help="program of the engine, if another than --spectra")
    parser.add_argument("--model", default=None)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--schema-bytes", type=int, default=1200, help="longer schemas are left out: a small model's answer must fit its tokens")
    parser.add_argument("--example-bytes", type=int, default=200, help="schemas whose shortest valid instance is longer are left out too")
    parser.add_argument("--clients", type=int, default=4, help="requests at once, and slots of the model")
    parser.add_argument("--threads", type=int, default=1, help="of the model; as many as cores are free")
    parser.add_argument("--out", type=argparse.FileType("w"), help="a JSON line for every request")
    parser.add_argument("--only", choices=["with", "without"], help="one of the two runs")
    parser.add_argument("--minutes", type=float, default=600, help="no request of a run begins later; what was asked is reported")
    args = parser.parse_args()
    found = sorted(pathlib.Path("models").glob("*.gguf"))
    args.model = str(pathlib.Path(args.model or found[0]).resolve())
    rows = [json.loads(line) for line in open(args.rows)]
    rows = [row for row in rows if len(json.dumps(row["schema"])) <= args.schema_bytes and len(json.dumps(example(row))) <= args.example_bytes]
    print(f"{len(rows)} schemas", file=sys.stderr)
    random.Random(4).shuffle(rows)
    rows = [rows[at % len(rows)] for at in range(args.requests)]
    print("| run | requests | delivered | of these valid | attempts a delivered answer (count x attempts) | verified | refused | seconds a request |\n|---|---|---|---|---|---|---|---|", flush=True)
    for constrained in (True, False):
        if args.only in (None, "with" if constrained else "without"):
            run(args, rows, constrained)


main()
