"""The files of a package from pip: fetched once, verified, and put in place whole."""

import contextlib
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

# The libraries kept are the same in the wheels for every Python, so one is asked for by name and
# the Python that runs this need not be one that the package supports.
FOR_PYTHON = "3.12"


class Failure(Exception):
    """One line for the user: what went wrong and what to do."""


@contextlib.contextmanager
def unpacked(home, pin, tag, checksums, wanted):
    """The `wanted` members of a package's wheel, verified, in a directory of their own.

    `wanted` says for each member under which name it goes there, or None.

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
            command += ["--platform", tag, "--python-version", FOR_PYTHON]
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
    """Unpacks the wanted members into `target`; a description of the damage, or None."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                name = wanted(member.filename)
                if name is None:
                    continue
                out = target / name
                out.parent.mkdir(exist_ok=True)
                with archive.open(member) as source, open(out, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                mode = member.external_attr >> 16 & 0o755
                out.chmod(mode or 0o644)
    except (zipfile.BadZipFile, EOFError, zlib.error) as damage:
        return str(damage) or type(damage).__name__
    return None


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
