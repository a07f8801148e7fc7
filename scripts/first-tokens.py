#!/usr/bin/env python3
"""What a local model's first tokens tell of its answer: 156 requests whose answers can be checked, temperature 0, log probabilities asked for.

    spectra engine --model models/smollm2-135m-instruct-q4_1.gguf --listen 127.0.0.1:8090 &
    python3 scripts/first-tokens.py [--url http://127.0.0.1:8090] [--each 26] [--save answers.jsonl]

Prints, over the first 8, 16 and 32 tokens (or as many as there are), the chance that a right answer has the higher mean log probability, or mean margin
to the second likeliest token, than a wrong one: over all pairs, and over pairs of one kind of request. Only the standard library is needed.
"""
import argparse, json, os, random, re, urllib.request

PEOPLE = "Mara Lind,Tom Becker,Aisha Khan,Jon Price,Lena Vogt,Omar Haddad,Ruth Stein,Paul Moreau,Nina Rossi,Ivan Petrov".split(",")
CITIES = "Oslo,Lyon,Porto,Turin,Graz,Leeds,Malmo,Ghent,Bergen,Seville".split(",")
CAPITALS = (
    "France Paris,Germany Berlin,Italy Rome,Spain Madrid,Japan Tokyo,China Beijing,Egypt Cairo,Kenya Nairobi,Peru Lima,Cuba Havana,Norway Oslo,Greece Athens,"
    "Austria Vienna,Hungary Budapest,Poland Warsaw,Portugal Lisbon,Sweden Stockholm,Finland Helsinki,Denmark Copenhagen,Ireland Dublin,Russia Moscow,"
    "Turkey Ankara,Iran Tehran,Iraq Baghdad,Canada Ottawa,Australia Canberra,Chile Santiago,Thailand Bangkok,Vietnam Hanoi,Nepal Kathmandu,Belgium Brussels,"
    "Bulgaria Sofia,Romania Bucharest,Serbia Belgrade,Ghana Accra,Senegal Dakar,Morocco Rabat,Tunisia Tunis,Libya Tripoli,Jordan Amman,Lebanon Beirut,"
    "Syria Damascus,Colombia Bogota,Venezuela Caracas,Ecuador Quito,Uruguay Montevideo,Latvia Riga,Estonia Tallinn"
).split(",")
GOOD = "lovely,excellent,wonderful,great fun,a pleasure,superb".split(",")
BAD = "dreadful,a waste of money,boring,broken on arrival,terrible,a disappointment".split(",")
THINGS = "film,hotel,blender,novel,restaurant,concert,phone,bicycle".split(",")
OPPOSITES = (
    "hot cold,early late,heavy light,rough smooth,ancient modern,narrow wide,cheap expensive,victory defeat,arrival departure,increase decrease,guilty innocent,"
    "generous stingy,transparent opaque,shallow deep,loud quiet,friend enemy,accept reject,borrow lend,sharp blunt,humid dry,scarce abundant,front back,"
    "maximum minimum,public private,temporary permanent,visible invisible,import export,sunrise sunset,asleep awake,expand contract"
).split(",")


def sums(random):
    a, b = random.randrange(1, 20), random.randrange(1, 20)
    return f"What is {a} + {b}? Answer with the number only.", lambda text: re.findall(r"\d+", text)[-1:] == [str(a + b)]


def larger(random):
    a, b = random.sample(range(10, 999), 2)
    return f"Which number is larger, {a} or {b}? Answer with the number only.", lambda text: re.findall(r"\d+", text)[:1] == [str(max(a, b))]


def capital(random):
    land, city = random.choice(CAPITALS).split()
    return f"What is the capital of {land}? Answer in one sentence.", lambda text: city.lower() in text.lower()


def mood(random):
    good, thing = random.random() < 0.5, random.choice(THINGS)
    said = random.choice(GOOD if good else BAD)
    right, other = ("positive", "negative") if good else ("negative", "positive")
    return (
        f'Is this review positive or negative? Answer with one word.\n\n"The {thing} we paid for in {random.choice(CITIES)} was {said}."',
        lambda text: right in text.lower() and other not in text.lower(),
    )


def extract(random):
    name, city, age = random.choice(PEOPLE), random.choice(CITIES), random.randrange(18, 80)
    value = {"name": name, "age": age, "city": city}

    def right(text):
        found = re.search(r"\{[^}]*\}", text)
        try:
            return found is not None and json.loads(found[0]) == value
        except ValueError:
            return False

    return f'Return only JSON with the keys "name", "age" (a number) and "city".\n\n{name}, who is {age} years old, moved to {city} last spring.', right


def opposite(random):
    word, other = random.choice(OPPOSITES).split()
    return f"What is the opposite of the word {word}? Answer in a short sentence.", lambda text: re.search(rf"\b{other}\b", text.lower()) is not None


KINDS = [sums, larger, capital, mood, extract, opposite]


def ask(url, prompt):
    body = {"model": "local", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 40, "logprobs": True, "top_logprobs": 2}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        choice = json.load(answer)["choices"][0]
    tokens = []
    for token in choice["logprobs"]["content"]:
        others = [top["logprob"] for top in token["top_logprobs"] if top["token"] != token["token"]]
        tokens.append((token["logprob"], token["logprob"] - max(others) if others else 0.0))
    return choice["message"]["content"] or "", tokens


def auc(right, wrong):
    pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    return sum(pairs), len(pairs)


def mean(rows, first, at):
    return [(right, sum(token[at] for token in tokens[:first]) / len(tokens[:first])) for right, tokens in rows if tokens]


def table(by_kind):
    for name, rows in by_kind.items():
        lengths = sorted(len(tokens) for _, tokens in rows)
        print(f"{name:8} {sum(right for right, _ in rows)} of {len(rows)} right, median length {lengths[len(lengths) // 2]} tokens")
    for at, signal in enumerate(["mean logprob", "mean margin"]):
        for count in (8, 16, 32):
            split = lambda rows: [[value for right, value in mean(rows, count, at) if right is wanted] for wanted in (True, False)]
            got, of = auc(*split([row for rows in by_kind.values() for row in rows]))
            within = [auc(*split(rows)) for rows in by_kind.values()]
            alike = sum(got for got, _ in within) / max(1, sum(of for _, of in within))
            kinds = " ".join(f"{name} {got / of:.2f}" for name, (got, of) in zip(by_kind, within) if of)
            print(f"{signal}, first {count:2}: all pairs {got / of:.3f}, pairs of one kind {alike:.3f} ({kinds})")
    rows = [row for rows in by_kind.values() for row in rows]
    print("mean logprob of 16 below | share left | of the wrong | of the right")
    for least in (-0.05, -0.1, -0.2, -0.3, -0.5, -0.7, -1.0):
        low = [(right, value < least) for right, value in mean(rows, 16, 0)]
        share = lambda of: sum(left for right, left in low if right in of) / max(1, sum(right in of for right, _ in low))
        print(f"{least:24} | {share((True, False)):10.2f} | {share((False,)):12.2f} | {share((True,)):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8090")
    parser.add_argument("--each", type=int, default=26)
    parser.add_argument("--save", default=os.devnull, help="also write every answer to this file")
    args = parser.parse_args()
    by_kind = {}
    with open(args.save, "w") as save:
        for number in range(args.each):
            for kind in KINDS:
                prompt, check = kind(random.Random(f"{kind.__name__} {number}"))
                text, tokens = ask(args.url, prompt)
                right = bool(check(text))
                by_kind.setdefault(kind.__name__, []).append((right, tokens))
                print(json.dumps({"kind": kind.__name__, "prompt": prompt, "text": text, "right": right, "tokens": tokens}), file=save, flush=True)
    table(by_kind)


main()
