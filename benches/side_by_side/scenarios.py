"""What is timed. Each method of `Scenarios` gives, for a tool, what to do before (untimed) and what to
time; the latter gives None where the tool has nothing of the kind."""

import dataclasses
import os
import shutil

from . import bases
from .process import run, write



@dataclasses.dataclass
class Row:
    """A row of the table: its title, the rounds that are enough for it, and what is aimed at: seconds,
    and how many times faster than the best other builder. `floor` says what the floor of the row is."""

    title: str
    rounds: int
    seconds: float
    ratio: float
    floor: str = ""


# By the name of the method.
ROWS = {
    "trivial": Row("cold trivial: `FROM busybox`, `RUN true`", 10, 0.010, 13),
    "steps_20": Row("20 × `RUN true`, no cache", 5, 0.070, 20),
    "cached_50": Row("50 steps, all cached", 10, 0.005, 16),
    "noop_files": Row("no-op rebuild, context of 20,000 files", 5, 0.050, 12, "`find`, printing size and time"),
    "changed_files": Row("the same, one file changed, image stored", 3, 0.2, 17),
    "changed_blob": Row("the same, gzipped and ready to push", 3, 0.4, 20),
    "first_files": Row("first build of that context", 3, 1.5, 4, "`cp -r`"),
    "parallel_8": Row("8 stages of `sleep 1` and a join", 3, 1.05, 1.4),
    "run_1gb": Row("`RUN` that writes 1 GB, image stored", 3, 4.4, 1.8, "the command in a `chroot`"),
    "archive_plain": Row("that image as OCI archive, uncompressed", 2, 3.5, 3.2, "`cat`"),
    "archive_gzip1": Row("that image as OCI archive, gzip level 1", 2, 4.0, 2.3, "`pigz -1`"),
    "archive_gzip6": Row("that image as OCI archive, gzip level 6", 1, 8.0, 1, "`pigz -6`"),
    "archive_zstd": Row("that image as OCI archive, zstd level 1", 2, 2.2, 3.2, "`zstd -1 -T2`"),
    "push_1gb": Row("push of it into an empty registry, gzip", 2, 4.2, 2.5, "`pigz -1` and `sha256sum`"),
    "pull_1gb": Row("pull of it into an empty store", 2, 5.0, 2.4, "`tar -xz`"),
    "container": Row("`run --rm busybox true`, no network", 20, 0.006, 25, "bubblewrap"),
    "container_bridge": Row("the same on a bridge network", 10, 0.015, 22),
    "unpack_files": Row("load and unpack 100,000 empty files", 1, 3.0, 6.7, "`tar -x`"),
    "unpack_layers": Row("load and unpack 1,000 layers", 1, 10.0, 6, "a `tar -x` each"),
    "compile": Row("apt-get, compile a C program, two stages, no cache", 2, 14.3, 1,
                   "the commands in a `chroot`"),
}

# Text that compresses like programs and documents do, not like zeros or noise: base64 of noise.
BIG = "head -c 740000000 /dev/urandom | base64 >/big"

APT = "apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev"
COMPILE = "gcc -O2 -static -o /main /src/main.c"


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

    @staticmethod
    def big_command():
        return BIG

    def run_1gb(self, tool):
        context = self.context("big", f"FROM busybox\nRUN {BIG}\n")
        return None, lambda: tool.build(context, False, "big")

    def big(self, tool):
        context = self.context("big", f"FROM busybox\nRUN {BIG}\n")
        self.once(tool, "big", lambda: tool.build(context, True, "big"))

    def archive(self, tool, compression):
        target = os.path.join(self.place, f"{tool.name}.tar")

        def prepare():
            self.big(tool)
            tool.forget()
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

        def prepare():
            self.big(tool)
            tool.forget()
            # Nobody finds a layer there that somebody else has pushed, or he himself in the last round.
            shutil.rmtree(os.path.join(self.place, "registry/docker"), ignore_errors=True)

        return prepare, lambda: tool.push("big", address)

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

    def layered(self, count, files):
        """An OCI archive of `count` layers with `files` files each."""
        path = os.path.join(self.place, f"layers-{count}.tar")
        if not os.path.exists(path):
            bases.layered_archive(path, count, files, os.path.join(self.place, "rootfs.tar"))
        return path

    def layers(self, tool, count, files):
        path = self.layered(count, files)
        return None, lambda: tool.load_archive(path)

    def unpack_files(self, tool):
        return self.layers(tool, 1, 100_000)

    def unpack_layers(self, tool):
        return self.layers(tool, 1_000, 1)

    def debian(self):
        """A tar of a minimal Debian."""
        if "debian" not in self.contexts:
            self.contexts["debian"] = bases.debian(self.place)
        return self.contexts["debian"]

    @staticmethod
    def compile_commands():
        return APT, COMPILE

    def compile_context(self):
        """A Dockerfile of two stages, and a program."""
        context = self.context("compile", f"FROM debian AS build\nRUN {APT}\nCOPY main.c /src/main.c\n"
                               f"RUN {COMPILE}\nFROM scratch\nCOPY --from=build /main /main\n"
                               'CMD ["/main"]\n')
        shutil.copy(os.path.join(os.path.dirname(__file__), "main.c"), context)
        return context

    def compile(self, tool):
        context = self.compile_context()

        def prepare():
            self.once(tool, "debian", lambda: tool.base(self.debian(), "debian"))
            run(["sync"])

        return prepare, lambda: tool.build(context, False)
