"""Commands with their time and memory, and the place where everything lies."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

# Size of the image file that holds all stores, sparse.
DISK = 40 << 30


class Failed(Exception):
    """A command of a scenario failed: its text tells how."""


# A small process in between, since the memory of whoever starts a program counts as the program's.
MEASURE = """
import os, sys, time
result = open(sys.argv[1], "w")
start = time.monotonic()
child = os.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
result.write(f"{time.monotonic() - start} {usage.ru_maxrss}")
result.close()
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


def run(command, cwd=None, env=None, quiet=True):
    """Runs a command; returns seconds and the peak memory in bytes of its largest process."""
    if isinstance(command, str):
        command = ["sh", "-c", command]
    with tempfile.NamedTemporaryFile("r") as result:
        done = subprocess.run(
            [sys.executable, "-S", "-E", "-c", MEASURE, result.name, *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            check=False,
        )
        measured = result.read().split()
    if done.returncode != 0:
        output = (done.stdout or b"").decode(errors="replace")[-2000:]
        raise Failed(f"{shlex.join(command)}: status {done.returncode}\n{output}")
    seconds, kibibytes = measured
    return float(seconds), int(kibibytes) * 1024


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
