"""Commands with their time and memory, and the place where everything lies."""

import atexit
import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import typing

# Size of the image file that holds all stores, sparse.
DISK = 40 << 30


# Seconds after which nobody waits for a command any more.
PATIENCE = 90


class Failed(Exception):
    """A command of a scenario failed: its text tells how."""


class Timing(typing.NamedTuple):
    """What a command took. `over`: it was broken off, and would have taken longer."""

    seconds: float
    peak: int = 0
    over: bool = False

    def __add__(self, later):
        """Two commands one after the other."""
        return Timing(self.seconds + later.seconds, max(self.peak, later.peak), self.over or later.over)

    def __str__(self):
        return f"{'more than ' if self.over else ''}{self.seconds:.3f} s"


def run(command, cwd=None, env=None, quiet=True, patience=None):
    """Runs a command; returns its time and the peak memory in bytes of its largest process."""
    reader, report = os.pipe()
    with os.fdopen(reader) as measured:
        try:
            child = subprocess.Popen(
                [launcher(), str(report), *command],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if quiet else None,
                stderr=subprocess.STDOUT if quiet else None,
                pass_fds=[report],
                start_new_session=True,
            )
        finally:
            os.close(report)
        try:
            output, _ = child.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return Timing(patience, over=True)
        words = measured.read().split()
    if child.returncode != 0:
        text = (output or b"").decode(errors="replace")[-2000:]
        raise Failed(f"{shlex.join(command)}: status {child.returncode}\n{text}")
    return Timing(float(words[0]), int(words[1]))


def released(root):
    """Builds the program as it is released; returns where it lies."""
    subprocess.run(["cargo", "build", "--release", "--bin", "rbuild"], cwd=root, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    asked = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, text=True, check=True).stdout
    host = next(line.split()[1] for line in asked.splitlines() if line.startswith("host:"))
    return os.path.join(target, host, "release", "rbuild")


@functools.cache
def launcher():
    """The program that times others, compiled for this run."""
    directory = tempfile.mkdtemp(prefix="rbt-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    program = os.path.join(directory, "timed")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "timed.c")
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    return program


def write(directory, name, text):
    """Writes a text file; makes the directory."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def disk():
    """A fresh ext4 with a journal, mounted."""
    directory = tempfile.mkdtemp(prefix="rbc-")
    image, mount = os.path.join(directory, "disk"), os.path.join(directory, "mnt")
    os.mkdir(mount)
    with open(image, "wb") as file:
        file.truncate(DISK)
    run(["mkfs.ext4", "-q", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0", image])
    run(["mount", "-o", "loop", image, mount])
    try:
        yield mount
    finally:
        # Sandboxes of a peer that was interrupted may still end.
        subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def server(command, ready, **options):
    """A daemon, from its readiness to its end; `ready` is asked until it answers true."""
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, **options)
    try:
        end = time.monotonic() + 60
        while not ready():
            if daemon.poll() is not None or time.monotonic() > end:
                raise Failed(f"{command[0]} did not start")
            time.sleep(0.1)
        yield
    finally:
        daemon.terminate()
        daemon.wait()
