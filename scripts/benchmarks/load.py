"""scripts/bench load: how long a model takes to come up, and what it holds then."""

import time

from .command import Failure, add_command, find_model, positive, say
from .figures import machine_line, mebibytes, seconds, summary
from .gateway import gateway_with


def add_load(commands):
    command = add_command(
        commands, "load", measure_load, print_load,
        help="seconds from spawn to ready, and memory",
        description="Loads a model again and again, each time in a new worker, and prints the "
        "median and the spread.",
        epilog="""\
what is printed:
  spawn to ready    as the gateway measured it (hearth_worker_load_seconds)
  request to answer the same seen by a client: an empty prompt to /api/generate
  resident          size_resident in /api/ps, right after the load
  per weight byte   resident / the size of the model's files
  peak              the most that any of the loads took on its way (Linux; else 0)

The first load warms the page cache and is not counted. Examples:
  scripts/bench load
  scripts/bench load --runs 21 --json load.json
  scripts/bench load --model ~/models/qwen3-0.6b-q8_0.gguf""",
    )
    command.add_argument(
        "--runs", type=positive, default=7, metavar="N", help="how often it is loaded (default: 7)"
    )


def measure_load(arguments):
    model = find_model(arguments.model)
    runs = []
    with gateway_with({"model": model}) as gateway:
        gateway.load("model")  # warms the page cache
        gateway.unload("model")
        for number in range(arguments.runs):
            runs.append(load_once(gateway))
            say(f"load {number + 1} of {arguments.runs}: {runs[-1]['spawn_to_ready_seconds']:.3f} s")
        peak = gateway.load_memory("model")
    size = files_size(model)
    for run in runs:
        run["resident_bytes_per_weight_byte"] = run["resident_bytes"] / size
    return {
        "model": str(model),
        "model_bytes": size,
        "peak_resident_bytes": peak,
        "summary": {key: summary([run[key] for run in runs]) for key in runs[0]},
        "runs": runs,
    }


def load_once(gateway):
    before = gateway.load_seconds()
    began = time.monotonic()
    gateway.load("model")
    answered = time.monotonic() - began
    after = gateway.load_seconds()
    if after["count"] != before["count"] + 1:
        raise Failure("something else loaded the model meanwhile: run this again, alone")
    process = gateway.process()
    run = {
        "spawn_to_ready_seconds": after["sum"] - before["sum"],
        "request_to_answer_seconds": answered,
        "resident_bytes": process["size_resident"],
    }
    gateway.unload("model")
    return run


def print_load(report):
    print(f"{report['model']}, {mebibytes(report['model_bytes'])}; {machine_line(report)}")
    print(f"{'':<20}{'median':>12}{'least':>12}{'most':>12}   of {len(report['runs'])} loads")
    rows = {
        "spawn_to_ready_seconds": ("spawn to ready", seconds),
        "request_to_answer_seconds": ("request to answer", seconds),
        "resident_bytes": ("resident", mebibytes),
        "resident_bytes_per_weight_byte": ("per weight byte", "{:.2f}".format),
    }
    for key, (title, shown) in rows.items():
        if figures := report["summary"].get(key):
            cells = (shown(figures[name]) for name in ("median", "least", "most"))
            print(f"{title:<20}" + "".join(f"{cell:>12}" for cell in cells))
    print(f"{'peak':<20}{mebibytes(report['peak_resident_bytes']):>12}")


def files_size(model):
    files = [model] if model.is_file() else [each for each in model.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)
