"""What the machine itself needs for the work of a scenario, without any builder: the floor.

Plain programs on the same file system: no cache is kept, nothing is hashed, nothing is isolated but where
the scenario is about isolation.
"""

import os
import shutil

from .process import run


class Floor:
    """A column of the table. `pair` gives what the methods of `Scenarios` give."""

    name = "floor"

    def __init__(self, place, rootfs):
        self.place = place
        self.rootfs = rootfs
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": place, "TMPDIR": place}

    def base(self, rootfs, name):
        """It has no images."""

    def pair(self, name, scenarios):
        """What to do before, and what to time; the latter is None where there is no such floor."""
        method = getattr(self, name, None)
        return method(scenarios) if method else (None, lambda: None)

    def run(self, *command):
        return run(list(command), env=self.env)

    def shell(self, script):
        return self.run("sh", "-c", script)

    def empty(self, name, archive=None):
        """An empty directory, or one with the files of an archive."""
        path = os.path.join(self.place, "floor-" + name)

        def prepare():
            run(["rm", "-rf", path])
            os.mkdir(path)
            if archive:
                run(["tar", "-C", path, "-xf", archive])

        return path, prepare

    def noop_files(self, scenarios):
        context = scenarios.files()
        return None, lambda: self.run("find", context, "-printf", "%s %C@\\n")

    def first_files(self, scenarios):
        target, prepare = self.empty("copy")
        context = scenarios.files()
        return prepare, lambda: self.run("cp", "-r", context, target)

    def run_1gb(self, scenarios):
        root, prepare = self.empty("big", self.rootfs)

        def before():
            prepare()
            os.mknod(os.path.join(root, "dev/urandom"), 0o020666, os.makedev(1, 9))

        return before, lambda: self.run("chroot", root, "sh", "-c", scenarios.big_command())

    def big(self, scenarios):
        """The file of the large image, alone."""
        path = os.path.join(self.place, "floor-big/big")
        before, timed = self.run_1gb(scenarios)

        def prepare():
            if not os.path.exists(path):
                before()
                timed()

        return path, prepare

    def archive(self, scenarios, command):
        path, prepare = self.big(scenarios)
        target = os.path.join(self.place, "floor.out")
        return prepare, lambda: self.shell(f"{command} <{path} >{target}")

    def archive_plain(self, scenarios):
        return self.archive(scenarios, "cat")

    def archive_gzip1(self, scenarios):
        return self.archive(scenarios, "pigz -1")

    def archive_gzip6(self, scenarios):
        return self.archive(scenarios, "pigz -6")

    def archive_zstd(self, scenarios):
        return self.archive(scenarios, "zstd -q -1 -T2")

    def pull_1gb(self, scenarios):
        path, prepare = self.big(scenarios)
        packed = os.path.join(self.place, "floor.tar.gz")
        target, empty = self.empty("pulled")

        def before():
            prepare()
            empty()
            if not os.path.exists(packed):
                self.shell(f"tar -C {os.path.dirname(path)} -c big | pigz -1 >{packed}")

        return before, lambda: self.run("tar", "-C", target, "-xzf", packed)

    def push_1gb(self, scenarios):
        path, prepare = self.big(scenarios)
        return prepare, lambda: self.shell(f"pigz -1 <{path} | sha256sum")

    def container(self, _scenarios):
        root, prepare = self.empty("root", self.rootfs)
        return prepare, lambda: self.run("bwrap", "--unshare-all", "--bind", root, "/", "--proc", "/proc",
                                         "--dev", "/dev", "true")

    def unpack_files(self, scenarios):
        return self.unpack(scenarios.layered(1, 100_000))

    def unpack_layers(self, scenarios):
        return self.unpack(scenarios.layered(1_000, 1))

    def unpack(self, archive):
        """The layers of an archive, each in a directory of its own."""
        packed, prepare_packed = self.empty("packed", archive)
        target, prepare = self.empty("layers")
        script = (f"for l in {packed}/blobs/sha256/*; do case $(head -c 1 $l) in '{{') continue;; esac; "
                  f"d={target}/${{l##*/}}; mkdir $d; tar -C $d -xf $l; done")

        def before():
            prepare_packed()
            prepare()

        return before, lambda: self.shell(script)

    def compile(self, scenarios):
        context = scenarios.compile_context()
        root, prepare = self.empty("debian", scenarios.debian())

        def before():
            prepare()
            shutil.copytree(context, os.path.join(root, "src"))
            if os.path.exists("/etc/resolv.conf"):
                shutil.copy("/etc/resolv.conf", os.path.join(root, "etc/resolv.conf"))
            run(["sync"])

        script = " && ".join(scenarios.compile_commands())
        return before, lambda: self.run("chroot", root, "sh", "-c", script)
