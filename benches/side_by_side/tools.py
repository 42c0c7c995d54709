"""The builders that are compared, each with a store of its own.

A method returns time and peak memory of the client's largest process, or None where the tool has
nothing of the kind.
"""

import contextlib
import glob
import json
import os
import shutil
import subprocess

from .process import PATIENCE, Failed, run, server, write

# Bytes of a blob that is no document.
LARGE = 1 << 20


class Tool:
    """What all tools have: a name, a store, an environment without settings of the user."""

    def __init__(self, name, place):
        self.name = name
        self.place = place
        self.store = os.path.join(place, "store-" + name)
        self.env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": place,
            "TMPDIR": place,
            "RBUILD_ROOT": self.store,
            "BUILDAH_ISOLATION": "oci",
            "DOCKER_BUILDKIT": "1",
        }

    def run(self, *command):
        return run(list(command), env=self.env, patience=PATIENCE)

    def base(self, rootfs, name):
        """Makes a base image of a tar."""

    def build(self, context, cached, tag="x"):
        return None

    def blob(self, context, tag):
        """Builds, and leaves the layers gzipped in an OCI layout, ready to be pushed."""
        return None

    def archive(self, image, path, compression):
        """Writes an OCI archive; `compression` is plain, gzip1, gzip6 or zstd."""
        return None

    def forget(self):
        """Throws away layers that were compressed for an archive or a registry, if the tool keeps them."""

    def push(self, image, address):
        return None

    def pull(self, address):
        """Pulls into an empty store."""
        return None

    def container(self, image, network):
        """Runs `true` in a new container, on no network or on a bridge."""
        return None

    def load_archive(self, path):
        """Loads an OCI archive with all its layers into an empty store, unpacked."""
        return None


class Rbuild(Tool):
    def __init__(self, binary, place):
        super().__init__("rbuild", place)
        self.binary = binary

    def base(self, rootfs, name):
        self.run(self.binary, "import", rootfs, name)

    def build(self, context, cached, tag="x"):
        flags = [] if cached else ["--no-cache"]
        return self.run(self.binary, "build", "--progress=plain", "-t", tag, *flags, context)

    def blob(self, context, tag):
        layout = os.path.join(self.place, "layout-rbuild")
        return self.run(self.binary, "build", "--progress=plain",
                        "-o", f"type=oci,tar=false,dest={layout},compression=gzip", context)

    def archive(self, image, path, compression):
        flags = {"plain": "compression=uncompressed", "gzip1": "compression=gzip,compression-level=1",
                 "gzip6": "compression=gzip,compression-level=6",
                 "zstd": "compression=zstd,compression-level=1"}[compression]
        context = os.path.join(self.place, "only-" + image)
        write(context, "Dockerfile", f"FROM {image}\n")
        output = f"type=oci,dest={path},{flags},force-compression=true"
        return self.run(self.binary, "build", "-o", output, context)

    def forget(self):
        for path in glob.glob(os.path.join(self.store, "blobs/sha256/*/*")):
            # Documents stay; a layer whose blob is not there is compressed again.
            if os.path.getsize(path) > LARGE:
                os.unlink(path)

    def push(self, image, address):
        return self.run(self.binary, "push", "--tls-verify=false", image, address)

    def pull(self, address):
        empty = self.store + "-empty"
        shutil.rmtree(empty, ignore_errors=True)
        return self.run(self.binary, "--root", empty, "pull", "--tls-verify=false", address)

    def container(self, image, network):
        net = "none" if network is None else "bridge"
        return self.run(self.binary, "run", "--rm", "--network=" + net, image, "true")

    def load_archive(self, path):
        empty = self.store + "-empty"
        shutil.rmtree(empty, ignore_errors=True)
        loaded = self.run(self.binary, "--root", empty, "load", "-q", "-i", path)
        return loaded + self.run(self.binary, "--root", empty, "run", "--rm", "--network=none",
                                 "many", "true")


class Buildah(Tool):
    """buildah for builds, podman for containers; one store for both."""

    def __init__(self, place):
        super().__init__("buildah", place)
        self.places = self.at(self.store)

    @staticmethod
    def at(store):
        return ["--root", store, "--runroot", store + "-run", "--storage-driver", "overlay"]

    def base(self, rootfs, name):
        context = os.path.join(self.place, "base-" + name)
        write(context, "Dockerfile", "FROM scratch\nADD rootfs.tar /\nCMD [\"sh\"]\n")
        shutil.copy(rootfs, os.path.join(context, "rootfs.tar"))
        self.build(context, True, "localhost/" + name)
        os.unlink(os.path.join(context, "rootfs.tar"))

    def build(self, context, cached, tag="x"):
        flags = ["--layers"] if cached else ["--layers", "--no-cache"]
        return self.run("buildah", *self.places, "build", "-q", "--jobs", "8", *flags, "-t", tag,
                        context)

    def blob(self, context, tag):
        layout = os.path.join(self.place, "layout-buildah")
        built = self.build(context, True, tag)
        return built + self.run("buildah", *self.places, "push", "-q", tag, "oci:" + layout)

    def archive(self, image, path, compression):
        flags = {"plain": ["--disable-compression"],
                 "gzip1": ["--compression-format", "gzip", "--compression-level", "1"],
                 "gzip6": ["--compression-format", "gzip", "--compression-level", "6"],
                 "zstd": ["--compression-format", "zstd", "--compression-level", "1"]}[compression]
        return self.run("buildah", *self.places, "push", "-q", *flags, image, "oci-archive:" + path)

    def push(self, image, address):
        return self.run("buildah", *self.places, "push", "-q", "--tls-verify=false", image,
                        "docker://" + address)

    def pull(self, address):
        empty = self.store + "-empty"
        run(["rm", "-rf", empty, empty + "-run"])
        return self.run("buildah", *self.at(empty), "pull", "-q", "--tls-verify=false", address)

    def container(self, image, network):
        return self.run("podman", *self.places, "run", "--rm", "--network=" + (network or "none"),
                        "--cgroups=disabled", "--ulimit=nofile=1024:1024",
                        "--ulimit=nproc=1024:1024", "localhost/" + image, "true")

    def load_archive(self, path):
        empty = self.store + "-empty"
        run(["rm", "-rf", empty, empty + "-run"])
        return self.run("podman", *self.at(empty), "load", "-q", "-i", path)


class Docker(Tool):
    """docker with its own BuildKit, and a daemon of its own."""

    def __init__(self, place):
        super().__init__("docker", place)
        self.socket = "unix://" + os.path.join(place, "docker.sock")

    @contextlib.contextmanager
    def daemon(self):
        data = os.path.join(self.place, "docker")
        command = ["dockerd", "--data-root", self.store, "--exec-root", data, "--pidfile",
                   data + ".pid", "-H", self.socket, "--iptables=false", "--ip-masq=false",
                   "--storage-driver", "overlay2"]
        try:
            with server(command, self.answers, env=self.env):
                yield
        finally:
            subprocess.run(["ip", "link", "delete", "docker0"], check=False,
                           stderr=subprocess.DEVNULL)

    def answers(self):
        with contextlib.suppress(Failed):
            self.docker("info")
            return True
        return False

    def docker(self, *command):
        return self.run("/usr/bin/docker", "-H", self.socket, *command)

    def base(self, rootfs, name):
        self.docker("import", "-c", 'CMD ["sh"]', rootfs, name)

    def build(self, context, cached, tag="x"):
        flags = [] if cached else ["--no-cache"]
        return self.docker("build", "-q", "--network=host", *flags, "-t", tag, context)

    def archive(self, image, path, compression):
        return self.docker("save", "-o", path, image) if compression == "plain" else None

    def push(self, image, address):
        self.docker("tag", image, address)
        return self.docker("push", "-q", address)

    def pull(self, address):
        for image in ["big", address]:
            with contextlib.suppress(Failed):
                self.docker("rmi", "-f", image)
        self.docker("builder", "prune", "-af")
        return self.docker("pull", "-q", address)

    def container(self, image, network):
        return self.docker("run", "--rm", "--network=" + (network or "none"), image, "true")


class Crun(Tool):
    """The runtime under podman by itself: what starting a container costs without any engine."""

    def __init__(self, place):
        super().__init__("crun", place)
        self.bundle = os.path.join(place, "bundle")

    def base(self, rootfs, name):
        if name != "busybox":
            return
        os.makedirs(os.path.join(self.bundle, "rootfs"))
        run(["tar", "-C", os.path.join(self.bundle, "rootfs"), "-xf", rootfs])
        run(["crun", "spec"], cwd=self.bundle)
        path = os.path.join(self.bundle, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["process"].update({"terminal": False, "args": ["true"]})
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)

    def container(self, image, network):
        if network is not None:
            return None
        return self.run("crun", "--cgroup-manager=disabled", "run", "-b", self.bundle, "compared")
