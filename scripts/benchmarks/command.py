"""What a subcommand of scripts/bench is made of: its arguments, and where the things it needs lie."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from fetch import hearth_home

PROJECT = Path(__file__).resolve().parent.parent.parent
DEFAULT_MODEL = "models/smollm2-135m-instruct.gguf"


class Failure(Exception):
    """One line for the user: what went wrong and what to do."""


def add_command(commands, name, measure, print_report, **texts):
    """A subcommand: `measure(arguments)` gives the report, `print_report(report)` shows it."""
    command = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    command.add_argument(
        "--model", type=Path, metavar="PATH",
        help=f"a .gguf file or a model's folder (default: {DEFAULT_MODEL} in HEARTH_HOME)",
    )
    command.add_argument("--json", metavar="FILE", help="also write every figure there, as JSON")
    command.set_defaults(measure=measure, print=print_report)
    return command


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def find_model(path):
    model = path or hearth_home() / DEFAULT_MODEL
    if not model.exists():
        raise Failure(f"there is no {model}: check the path, or run scripts/setup for the default")
    return model.resolve()


def build_folder():
    return PROJECT / (os.environ.get("CARGO_TARGET_DIR") or "target")


def library_name():
    return "libonnxruntime.dylib" if sys.platform == "darwin" else "libonnxruntime.so"


def release_binary():
    binary = build_folder() / "release/hearth"
    if not binary.exists() or not (hearth_home() / "runtime").exists():
        raise Failure("there is no release build or no ONNX Runtime: run scripts/setup first")
    return binary


def built_example(name):
    """A program of the worker's that only measuring needs, built when it is asked for."""
    say(f"building the worker's example `{name}`")
    # The packages of setup's build: of others Cargo would build shared crates anew, for the sake of
    # their features.
    packages = ["-p", "hearth", "-p", "hearth-worker"]
    command = ["cargo", "build", "--release", "--quiet", "--locked", *packages, "--example", name]
    if subprocess.run(command, cwd=PROJECT).returncode:
        raise Failure("the build failed: Cargo says why above")
    return existing_example(name)


def existing_example(name):
    program = build_folder() / "release/examples" / name
    if not program.exists():
        raise Failure(f"there is no {program}: leave --no-build out")
    return program


def say(line):
    print(f"bench: {line}", file=sys.stderr)
