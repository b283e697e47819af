"""scripts/bench engine: tokens per second without HTTP, beside onnxruntime-genai.

worker/examples/engine.rs and scripts/peer.py hold the models and answer line by line; here they are
asked in turns.
"""

import contextlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

from fetch import hearth_home

from .command import (
    PROJECT, Failure, add_command, build_folder, built_example, existing_example, find_model,
    library_name, positive, say,
)
from .figures import core_count, machine_line, summary

DECODE_SEQUENCES = (1, 2, 4, 8, 16)
PREFILL_TOKENS = (32, 256, 1000)
GRAPHS = ("default", "exact", "memory")
# Steps in one measurement: long enough to time, short enough for many turns.
STEPS = {1: 48, 2: 32, 4: 24, 8: 16, 16: 12}
# What the project promises against onnxruntime-genai: title, our question, how many times which
# of the peer's.
GOALS = (
    ("one sequence", "decode 1", 1.3, "decode 1"),
    ("eight sequences, against its one", "decode 8", 4.0, "decode 1"),
    ("prefill of 256", "prefill 256", 3.0, "prefill 256"),
    ("prefill of 1000", "prefill 1000", 3.0, "prefill 1000"),
)


def add_engine(commands):
    command = add_command(
        commands, "engine", measure_engine, print_engine,
        help="tokens per second of the engine and of onnxruntime-genai",
        description="Decoding and reading prompts without HTTP, every side in turn in each round: "
        "the GGUF file in each kind of graph, and a folder of onnxruntime-genai's both in Hearth "
        "and in onnxruntime-genai itself.",
        epilog="""\
what is printed: tokens per second, the median of the rounds and the least and most; what part of
a step the engine itself takes beside ONNX Runtime's run; and how the default graph stands to
onnxruntime-genai. The first round warms up and is not counted. onnxruntime-genai comes from PyPI
into a virtual environment in the build's folder. Examples:
  scripts/bench engine --folder ../shared/models/smollm2-135m-instruct-genai-int4
  scripts/bench engine --folder FOLDER --rounds 15 --json engine.json
  scripts/bench engine --graphs default,exact""",
    )
    command.add_argument(
        "--folder", type=Path, metavar="PATH", help="an onnxruntime-genai folder of the same model"
    )
    command.add_argument(
        "--graphs", type=lambda text: text.split(","), default=list(GRAPHS), metavar="LIST",
        help=f"which graphs of the GGUF file (default: {','.join(GRAPHS)})",
    )
    command.add_argument("--rounds", type=positive, default=5, metavar="N", help="default: 5")
    command.add_argument(
        "--no-build", action="store_true", help="take the program that was built for an earlier run"
    )
    command.add_argument("--threads", type=positive, default=core_count(), metavar="N", help="default: every core")


def measure_engine(arguments):
    model = find_model(arguments.model)
    questions = [f"decode {n}" for n in DECODE_SEQUENCES] + [f"prefill {n}" for n in PREFILL_TOKENS]
    answers = {}
    with contextlib.ExitStack() as stack:
        sides = start_sides(arguments, model, stack)
        for number in range(arguments.rounds + 1):
            for question in questions:
                for name, side in sides.items():
                    found = side.ask(question)
                    if number:
                        answers.setdefault(name, {}).setdefault(question, []).append(found)
            say(f"round {number} of {arguments.rounds}")
    report = {
        "model": str(model), "rounds": arguments.rounds, "threads": arguments.threads,
        "sides": {
            name: {question: rates(found) for question, found in of.items()}
            for name, of in answers.items()
        },
    }
    return {**report, "goals": goals(report["sides"])}


def start_sides(arguments, model, stack):
    program = existing_example("engine") if arguments.no_build else built_example("engine")
    library = hearth_home() / "runtime" / library_name()
    ours = [program, library, str(arguments.threads)]
    commands = {f"gguf {graph}": [*ours, graph, model] for graph in arguments.graphs}
    if arguments.folder:
        commands["folder"] = [*ours, "default", arguments.folder]
    sides = {name: stack.enter_context(Side(name, command)) for name, command in commands.items()}
    if arguments.folder:
        sides["genai"] = stack.enter_context(peer_on(arguments.folder))
    return sides


def peer_on(folder):
    """onnxruntime-genai with a folder of its own, to be asked as our engine is."""
    return Side("genai", [bench_python(), PROJECT / "scripts/peer.py", folder])


class Side:
    """A process that holds one model and answers questions line by line."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()

    def ask(self, question):
        what, number = question.split()
        line = f"decode {number} {STEPS[int(number)]}" if what == "decode" else question
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise Failure(f"{self.name} ended at `{line}`: it says why above")
        return json.loads(answer)


def rates(answers):
    found = summary([answer["tokens"] / answer["seconds"] for answer in answers])
    if "runtime_seconds" in answers[0]:
        own = [1 - answer["runtime_seconds"] / answer["seconds"] for answer in answers]
        found["engine_share"] = statistics.median(own)
    return found


def goals(sides):
    """Nothing without both sides."""
    ours, peer = sides.get("gguf default"), sides.get("genai")
    if not (ours and peer):
        return []
    return [
        {"what": what, "times": ours[question]["median"] / peer[other]["median"], "goal": goal}
        for what, question, goal, other in GOALS
    ]


def print_engine(report):
    print(f"{report['model']}; {report['threads']} threads; {machine_line(report)}")
    print(f"tokens per second: median (least to most) of {report['rounds']} rounds; engine: its own share of the time")
    for question in next(iter(report["sides"].values())):
        print(question)
        for name, of in report["sides"].items():
            found = of[question]
            share = f"   engine {found['engine_share']:6.1%}" if "engine_share" in found else ""
            print(f"  {name:<14}{found['median']:>8.1f}  ({found['least']:.1f} to {found['most']:.1f}){share}")
    if report["goals"]:
        print("gguf default against genai")
    for goal in report["goals"]:
        reached = "reached" if goal["times"] >= goal["goal"] else "missed"
        print(f"  {goal['what']:<34}{goal['times']:>6.2f} times, goal {goal['goal']}: {reached}")


def bench_python():
    """Python with the peer, in the build's folder; pins that have changed install it anew."""
    folder = build_folder() / "bench-tools"
    pins, installed = PROJECT / "scripts/requirements-bench.txt", folder / "installed.txt"
    python = folder / "bin/python"
    # The copy is written last, so that an interrupted installation is begun anew.
    if not (installed.exists() and installed.read_text() == pins.read_text()):
        say("installing onnxruntime-genai")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "--requirement", pins]).returncode:
            raise Failure(f"{pins.name} could not be installed into {folder}: pip says why above")
        installed.write_text(pins.read_text())
    return python
