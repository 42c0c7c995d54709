"""What is timed. Each method of `Scenarios` gives, for a tool, what to do before (untimed) and what to
time; the latter gives None where the tool has nothing of the kind."""

import os
import shutil

from . import bases
from .process import run, write

# Name of the method: title of the row, rounds that are enough for it.
TITLES = {
    "trivial": ("cold trivial: `FROM busybox`, `RUN true`", 5),
    "steps_20": ("20 × `RUN true`, no cache", 5),
    "cached_50": ("50 steps, all cached", 5),
    "noop_files": ("no-op rebuild, context of 20,000 files", 5),
    "changed_files": ("the same, one file changed, image stored", 3),
    "changed_blob": ("the same, gzipped and ready to push", 3),
    "first_files": ("first build of that context", 3),
    "parallel_8": ("8 stages of `sleep 1` and a join", 3),
    "run_1gb": ("`RUN` that writes 1 GB, image stored", 2),
    "archive_plain": ("that image as OCI archive, uncompressed", 2),
    "archive_gzip1": ("that image as OCI archive, gzip level 1", 1),
    "archive_gzip6": ("that image as OCI archive, gzip level 6", 1),
    "archive_zstd": ("that image as OCI archive, zstd level 1", 2),
    "push_1gb": ("push of it, gzip", 1),
    "pull_1gb": ("pull of it into an empty store", 1),
    "container": ("`run --rm busybox true`, no network", 10),
    "container_bridge": ("the same on a bridge network", 5),
    "unpack_files": ("load and unpack 100,000 empty files", 1),
    "unpack_layers": ("load and unpack 1,000 layers", 1),
    "compile": ("apt-get, compile a C program, two stages, no cache", 1),
}

# Text that compresses like programs and documents do, not like zeros or noise: base64 of noise.
BIG = "FROM busybox\nRUN head -c 740000000 /dev/urandom | base64 >/big\n"

COMPILE = """FROM debian AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev
COPY main.c /src/main.c
RUN gcc -O2 -static -o /main /src/main.c
FROM scratch
COPY --from=build /main /main
CMD ["/main"]
"""


class Scenarios:
    def __init__(self, place, registry):
        self.place = place
        self.registry = registry
        self.contexts, self.prepared = {}, set()

    def context(self, name, text):
        path = os.path.join(self.place, "context-" + name)
        write(path, "Dockerfile", text)
        return path

    def files(self, count=20_000):
        if count not in self.contexts:
            self.contexts[count] = bases.many_files(self.place, count)
        return self.contexts[count]

    def once(self, tool, what, action):
        """Does for a tool what several rounds build on."""
        if (tool.name, what) not in self.prepared:
            action()
            self.prepared.add((tool.name, what))

    def trivial(self, tool):
        context = self.context("trivial", "FROM busybox\nRUN true\n")
        return None, lambda: tool.build(context, False)

    def steps(self, tool, count):
        context = self.context(f"steps-{count}", "FROM busybox\n" + "RUN true\n" * count)
        return None, lambda: tool.build(context, False)

    def steps_20(self, tool):
        return self.steps(tool, 20)

    def cached_50(self, tool):
        steps = "".join(f"RUN echo {i} >/f{i}\n" for i in range(50))
        context = self.context("cached", "FROM busybox\n" + steps)
        prepare = lambda: self.once(tool, "cached", lambda: tool.build(context, True))
        return prepare, lambda: tool.build(context, True)

    def first_files(self, tool, count=20_000):
        context = self.files(count)
        return None, lambda: tool.build(context, False)

    def noop_files(self, tool, count=20_000):
        context = self.files(count)
        prepare = lambda: self.once(tool, f"files-{count}", lambda: tool.build(context, True))
        return prepare, lambda: tool.build(context, True)

    def changed(self, tool, build):
        """One file differs from what the tool built last."""
        context = self.files()

        def change():
            build(context)
            with open(os.path.join(context, "src/d7/f7"), "wb") as file:
                file.write(os.urandom(5000))

        return change, lambda: build(context)

    def changed_files(self, tool):
        return self.changed(tool, lambda context: tool.build(context, True))

    def changed_blob(self, tool):
        return self.changed(tool, lambda context: tool.blob(context, "blob"))

    def parallel_8(self, tool):
        stages = "".join(f"FROM busybox AS s{i}\nRUN sleep 1; echo {i} >/f{i}\n" for i in range(8))
        join = "FROM busybox\n" + "".join(f"COPY --from=s{i} /f{i} /\n" for i in range(8))
        context = self.context("parallel", stages + join)
        return None, lambda: tool.build(context, False)

    def run_1gb(self, tool):
        context = self.context("big", BIG)
        return None, lambda: tool.build(context, False, "big")

    def big(self, tool):
        context = self.context("big", BIG)
        self.once(tool, "big", lambda: tool.build(context, True, "big"))

    def archive(self, tool, compression):
        target = os.path.join(self.place, f"{tool.name}.tar")

        def prepare():
            self.big(tool)
            if os.path.exists(target):
                os.unlink(target)

        return prepare, lambda: tool.archive("big", target, compression)

    def archive_plain(self, tool):
        return self.archive(tool, "plain")

    def archive_gzip1(self, tool):
        return self.archive(tool, "gzip1")

    def archive_gzip6(self, tool):
        return self.archive(tool, "gzip6")

    def archive_zstd(self, tool):
        return self.archive(tool, "zstd")

    def push_1gb(self, tool):
        address = f"{self.registry}/{tool.name}/big:latest"
        return (lambda: self.big(tool)), lambda: tool.push("big", address)

    def pull_1gb(self, tool):
        address = f"{self.registry}/{tool.name}/big:latest"

        def prepare():
            self.big(tool)
            self.once(tool, "pushed", lambda: tool.push("big", address))

        return prepare, lambda: tool.pull(address)

    def container(self, tool):
        return None, lambda: tool.container("busybox", None)

    def container_bridge(self, tool):
        return None, lambda: tool.container("busybox", "bridge")

    def layers(self, tool, count, files):
        path = os.path.join(self.place, f"layers-{count}.tar")
        if not os.path.exists(path):
            bases.layered_archive(path, count, files, os.path.join(self.place, "rootfs.tar"))
        return None, lambda: tool.load_archive(path)

    def unpack_files(self, tool):
        return self.layers(tool, 1, 100_000)

    def unpack_layers(self, tool):
        return self.layers(tool, 1_000, 1)

    def compile(self, tool):
        context = self.context("compile", COMPILE)
        shutil.copy(os.path.join(os.path.dirname(__file__), "main.c"), context)

        def prepare():
            if "debian" not in self.contexts:
                self.contexts["debian"] = bases.debian(self.place)
            self.once(tool, "debian", lambda: tool.base(self.contexts["debian"], "debian"))
            run(["sync"])

        return prepare, lambda: tool.build(context, False)
