"""
What a served hybrid gives its clients: against always thinking, two dense models, and the engine without a router.

```bash
python -m benchmarks.serving --model_name_or_path runs/demo/hybrid
python -m benchmarks.serving --model_name_or_path runs/demo/hybrid --engine vllm --vllm path/to/vllm
```

The miniature's questions, easy and hard ones, a quarter of them without their image, in a closed loop (`load.py`). All
servers are up at once and idle but for the one that is asked; the same client asks the same questions of each, with the
same limit on tokens, and every round has new questions.

- *hybrid*: `metis-home serve`, asked as `auto`, as `thinking` and as `non_thinking`.
- *two dense*: each branch as a stock Qwen2.5-VL on an engine of its own, and the router in front of both.
- *engine alone*: the thinking one of these two engines, asked directly.

With `transformers serve`, which answers one request at a time, two dense models are two processes that answer two; and
it takes the tags of a thought out of a dense Qwen2.5-VL's stream, whose first text comes one to three tokens later.
vLLM answers many. There the prefix cache is off, so that nobody gains by being asked second. A hybrid's `ffn` branches
run on the class that this package adds, where it is installed beside vLLM, and dense models on vLLM's own Qwen2.5-VL.
"""

import json
import os
import re
import shlex
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx

from hf_metis_home._extras import require_extra
from hf_metis_home.conversion import export_checkpoint
from hf_metis_home.modeling.configuration_metis_home import BRANCHES
from hf_metis_home.serving import launch
from hf_metis_home.serving.settings import KEY_VARIABLE

from .common import PAGE, machine, markers, parser, start, table, write_section
from .load import WITHOUT_IMAGE, Answer, counters, drive, figures, make_questions
from .servers import Server, Starter


ALONE = "engine alone, thinking"
VARIANTS = {  # name: server, and what it is asked for; None: the engine's own name of the model
    "hybrid, auto": ("hybrid", "auto"),
    "hybrid, thinking": ("hybrid", "thinking"),
    "hybrid, non_thinking": ("hybrid", "non_thinking"),
    "two dense, auto": ("two dense", "auto"),
    "two dense, thinking": ("two dense", "thinking"),
    ALONE: ("thinking", None),
}
REFERENCE = "hybrid, thinking"
ENGINE_ARGS = {"transformers": "--device cpu", "vllm": "--dtype float32 --enforce-eager --max-model-len 512"}
ALWAYS_ARGS = {"transformers": [], "vllm": ["--no-enable-prefix-caching"]}
COLUMNS = [
    "", "requests/s", "quartiles", "to always thinking", "first token, ms", "p95", "answer, ms", "p95", "tokens",
    "thinking", "right",
]  # fmt: skip
SECTIONS = {"transformers": "serving", "vllm": "serving_vllm"}  # of the page
SMOKE = {"requests": 8, "concurrency": [2], "repeats": 1}


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    require_extra("serve", "httpx", "prometheus_client", "pydantic", "starlette", "uvicorn")
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        servers, names = start_servers(args, Path(place), stack)
        measured, router = {}, {}
        for clients in args.concurrency:
            measured[clients], router[clients] = measure(args, servers, names, clients)
        memory = {name: server.megabytes() for name, server in servers.items()}
        version = httpx.get(f"{servers['thinking'].url}/version", trust_env=False) if args.vllm else None
    words = shlex.join(sys.argv[1:] if argv is None else argv).replace(args.model_name_or_path, "runs/demo/hybrid")
    found = {
        "command": f"python -m benchmarks.serving {published(words)}",
        "machine": machine(args),
        "engine": f"vLLM {version.json()['version']}" if version else "`transformers serve`",
        "engine_args": args.engine_args,
        "requests": args.requests,
        "server_threads": args.server_threads,
        "measured": measured,
        "router": router,
        "memory": memory,
    }
    write_json(args.json, found)
    write_section(args, sections(found, args.repeats))
    print(f"Wrote {args.json}.")
    return 0


def arguments(argv: list[str] | None):
    """The flags, checked before anything is started."""
    arguments = parser("benchmarks.serving", __doc__.strip().splitlines()[0], repeats=5, computes=False)
    arguments.set_defaults(dtype="float32")
    add = arguments.add_argument
    add("--model_name_or_path", required=True, help="A two-branch folder of the miniature, as `make demo` writes one.")
    add("--engine", choices=["transformers", "vllm"], default="transformers", help="What generates.")
    add("--vllm", type=Path, help="The command of vLLM; by default the one on the path.")
    add("--engine_args", help=f"Flags for every engine, as one text; by default {ENGINE_ARGS}.")
    add("--concurrency", type=int, nargs="+", default=[1, 4], help="Clients at a time; each number is measured.")
    add("--requests", type=int, default=32, help="Questions per variant and round.")
    add("--server_threads", type=int, default=1, help="Threads of each server process (OMP_NUM_THREADS).")
    add("--start_seconds", type=float, default=900.0, help="How long a server may take to start.")
    add("--json", type=Path, default=Path("runs/serving_benchmark.json"), help="Where all figures go, round by round.")
    add("--smoke", action="store_true", help=f"Few questions ({SMOKE}): it runs, its figures mean nothing.")
    args = start(arguments, argv)
    args.benchmark = f"benchmarks.{SECTIONS[args.engine]}"
    try:
        markers(args.output, SECTIONS[args.engine])
    except ValueError as error:
        arguments.error(f"--output: {error}")
    if args.smoke:
        if args.output == PAGE:
            arguments.error(f"--smoke measures nothing that {PAGE.name} should say. Name another page with --output.")
        vars(args).update(SMOKE)
    if min(args.concurrency) < 1 or len(set(args.concurrency)) < len(args.concurrency):
        arguments.error(f"--concurrency is {args.concurrency}, but must be numbers from 1, each given once.")
    if args.requests < max(args.concurrency):
        arguments.error(
            f"--requests is {args.requests}, fewer than the {max(args.concurrency)} clients of --concurrency. Ask "
            "more, ten times as many, say."
        )
    if args.server_threads < 1:
        arguments.error(f"--server_threads is {args.server_threads}, but must be at least 1.")
    if args.engine == "vllm":
        args.vllm = args.vllm or (Path(found) if (found := shutil.which("vllm")) else None)
        if args.vllm is None or not (args.vllm.is_file() and os.access(args.vllm, os.X_OK)):
            arguments.error(f"--vllm is {args.vllm}, but must be the command of a vLLM, path/to/environment/bin/vllm.")
        args.vllm = args.vllm.absolute()
    elif args.vllm is not None:
        arguments.error("--vllm names a command that --engine transformers does not use. Add --engine vllm.")
    if KEY_VARIABLE in os.environ:
        arguments.error(f"{KEY_VARIABLE} is set, and the clients here have no key. Unset it.")
    try:
        launch.hybrid_folder(args.model_name_or_path)
    except (OSError, ValueError) as error:
        arguments.error(str(error))
    args.engine_args = ENGINE_ARGS[args.engine] if args.engine_args is None else args.engine_args
    return args


def published(words: str) -> str:
    """The command's words without what says nothing to others: where files are."""
    words = f" {words}"
    for flag, shown in (("--output", ""), ("--json", ""), ("--vllm", " --vllm path/to/vllm")):
        words = re.sub(rf" {flag}[ =]\S+", shown, words)
    return words.strip()


def start_servers(args, place: Path, stack: ExitStack) -> tuple[dict[str, Server], dict[str, str]]:
    """All servers, one after the other, and what the engines call the dense models."""
    model, _ = launch.hybrid_folder(args.model_name_or_path)
    models = {branch: place / branch for branch in BRANCHES}
    for branch, folder in models.items():
        export_checkpoint(model, folder, format="dense", branch=branch)
    export_checkpoint(model, place / "router", format="router")
    engine_args = [*shlex.split(args.engine_args), *ALWAYS_ARGS[args.engine]]
    starter = Starter(place, args.server_threads, args.start_seconds, args.vllm, engine_args)
    servers = {"hybrid": stack.enter_context(starter.hybrid(model))}
    engines = {branch: stack.enter_context(starter.dense(folder)) for branch, folder in models.items()}
    router = stack.enter_context(starter.router(place / "router", engines, models))
    pids = [pid for server in (router, *engines.values()) for pid in server.pids]
    servers |= {"two dense": Server(router.url, pids), "thinking": engines["thinking"]}
    return servers, {branch: starter.name_of(folder) for branch, folder in models.items()}


def measure(args, servers: dict[str, Server], names: dict[str, str], clients: int) -> tuple[dict, dict]:
    """Rounds in which the variants take turns, after one that does not count; and what the routers did in them."""
    # `transformers serve` refuses this field, and says how many tokens there were without it.
    fields = {"stream_options": {"include_usage": True}} if args.vllm else {}
    rounds: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    router: dict[str, dict[str, float]] = {}
    equal = []
    for number in range(1 + args.repeats):
        questions = make_questions(args.requests, seed=number)
        answers: dict[str, list[Answer]] = {}
        for name in list(VARIANTS) if number % 2 else reversed(VARIANTS):
            who, model = VARIANTS[name]
            url = servers[who].url
            before = counters(url)
            answers[name], seconds = drive(url, model or names[who], questions, clients, **fields)
            if number > 0:
                rounds[name].append(figures(answers[name], seconds))
                did = router.setdefault(name, {})
                for key, value in (counters(url) - before).items():
                    did[key] = did.get(key, 0) + value
            print(f"{clients} clients, round {number} of {args.repeats}: {name}, {seconds:.1f} s", flush=True)
        if number > 0:
            pairs = zip(answers["hybrid, auto"], answers["two dense, auto"], strict=True)
            equal += [one.text == other.text for one, other in pairs]
    return rounds, {
        **{name: did for name, did in router.items() if did.get("router_batches")},
        "equal_answers": statistics.mean(equal),
    }


def middle(rounds: list[dict], key: str) -> float | None:
    """The median over rounds, None where a round has no such figure."""
    values = [found[key] for found in rounds if found[key] is not None]
    return statistics.median(values) if values else None


def sections(found: dict, repeats: int) -> list[str]:
    """The parts of the page."""
    engine = found["engine"]
    aside = ", in an environment of its own, without a prefix cache and, on a CPU, with 1 GiB of KV cache each"
    if "transformers" in engine:
        aside = ", which answers one request at a time and takes the tags of thoughts out of a dense model's stream"
    parts = [
        f"`{found['command']}`: {found['machine']} {engine} ({found['engine_args']}){aside}; "
        f"{count(found['server_threads'], 'thread')} per server, client on the same machine. "
        f"{found['requests']} questions of the miniature per variant and round, every {WITHOUT_IMAGE}th without its "
        f"image, streamed, in a closed loop. Medians of {count(repeats, 'round')}, in which the variants take turns, "
        "of the median and the 95th percentile of a round. *tokens*: completion tokens per request; *thinking*: share "
        "of requests that this branch answered; *right*: share of right answers to questions with their image.",
    ]
    for clients, measured in found["measured"].items():
        parts += [f"### {engine}, {count(clients, 'client')}", table(COLUMNS, [*lines_of(measured)])]
        parts += [said for said in router_statements(measured, found["router"][clients], clients) if said]
    parts += [
        "**Memory**, the highest of the run, of all processes of a server; libraries included, which are most of it."
    ]
    parts += [table(["", "MB"], [[name, f"{found['memory'][name]:.0f}"] for name in ("hybrid", "two dense")])]
    return parts


def count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number > 1)}"


def lines_of(measured: dict[str, list[dict]]):
    reference = middle(measured[REFERENCE], "requests_per_second")
    for name, rounds in measured.items():
        rates = [one["requests_per_second"] for one in rounds]
        low, _, high = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
        rate = statistics.median(rates)
        times = ("first_token_median", "first_token_p95", "answer_median", "answer_p95")
        shares = (middle(rounds, key) for key in ("thinking", "right"))
        yield [
            name,
            f"{rate:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{rate / reference:.2f}",
            *(f"{middle(rounds, key) * 1e3:.0f}" for key in times),
            f"{middle(rounds, 'tokens'):.1f}",
            *("–" if share is None else f"{share:.0%}" for share in shares),
        ]


def router_statements(measured: dict[str, list[dict]], router: dict, clients: int):
    """What the router takes of the time, by its own count and by the clock of the client."""
    for name in ("hybrid, auto", "two dense, auto"):
        did = router[name]
        batch = did["router_seconds"] / did["router_batches"]
        share = batch / statistics.mean(one["answer_mean"] for one in measured[name])
        yield (
            f"*{name}*: the router read {did['routed_prompts']:.0f} prompts in {did['router_batches']:.0f} batches, "
            f"{batch * 1e3:.1f} ms each ({did['router_seconds'] / did['routed_prompts'] * 1e3:.1f} ms per request): "
            f"{share:.1%} of the mean time of an answer."
        )
    if clients == 1:  # with more, a first token waits for the answers of others
        first = {name: middle(rounds, "first_token_median") * 1e3 for name, rounds in measured.items()}
        yield (
            f"First token: {first['hybrid, auto'] - first['hybrid, non_thinking']:+.1f} ms where the hybrid is asked "
            f"as `auto` and not as `non_thinking`; {first['two dense, thinking'] - first[ALONE]:+.1f} ms where a dense "
            "engine is asked through the router's server and not directly, the branch given."
        )
    fallbacks = sum(one["fallbacks"] for rounds in measured.values() for one in rounds)
    yield f"{fallbacks} requests got the fallback branch: the router was too slow." if fallbacks else ""
    yield f"*hybrid, auto* and *two dense, auto* gave equal answers to {router['equal_answers']:.0%} of the questions."


def write_json(path: Path, found: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
