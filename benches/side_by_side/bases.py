"""Base images and contexts, made of what the machine has."""

import io
import os
import shutil
import subprocess
import tarfile

from .process import run, write


def busybox(place):
    """A tar of a root file system with nothing but busybox."""
    root = os.path.join(place, "rootfs")
    os.makedirs(os.path.join(root, "bin"))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin/busybox"))
    listed = subprocess.run([os.path.join(root, "bin/busybox"), "--list"],
                            stdout=subprocess.PIPE, text=True, check=True).stdout
    for applet in listed.split():
        if applet != "busybox":
            os.symlink("busybox", os.path.join(root, "bin", applet))
    for name in ["tmp", "etc", "root", "proc", "sys", "dev"]:
        os.mkdir(os.path.join(root, name))
    write(os.path.join(root, "etc"), "passwd", "root:x:0:0:root:/root:/bin/sh\n")
    write(os.path.join(root, "etc"), "group", "root:x:0:\n")
    archive = os.path.join(place, "rootfs.tar")
    run(["tar", "-C", root, "--numeric-owner", "-cf", archive, "."])
    return archive


def debian(place):
    """A tar of a minimal Debian, from the machine's own mirror."""
    root, archive = os.path.join(place, "debian"), os.path.join(place, "debian.tar")
    with open("/etc/os-release", encoding="utf-8") as file:
        release = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    run(["debootstrap", "--variant=minbase", release["VERSION_CODENAME"], root, mirror()])
    for name in ["etc/apt/sources.list", "etc/resolv.conf"]:
        shutil.copy("/" + name, os.path.join(root, name)) if os.path.exists("/" + name) else None
    parts = "/etc/apt/sources.list.d"
    if os.path.isdir(parts):
        shutil.copytree(parts, root + parts, dirs_exist_ok=True)
    run(["tar", "-C", root, "--numeric-owner", "-cf", archive, "."])
    return archive


def mirror():
    """Where this machine takes its packages from."""
    text = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    return text.split()[0]


def many_files(place, count):
    """A context of `count` files of 5,000 bytes, 100 in a directory."""
    context = os.path.join(place, f"files-{count}")
    for number in range(count):
        if number % 100 == 0:
            path = os.path.join(context, "src", f"d{number // 100}")
            os.makedirs(path)
        with open(os.path.join(path, f"f{number % 100}"), "wb") as out:
            out.write(os.urandom(5000))
    write(context, "Dockerfile", "FROM busybox\nCOPY src /src\n")
    return context


def layered_archive(path, layers, files, rootfs):
    """An OCI archive "many" of a busybox layer and `layers` more with `files` empty files each."""
    from .oci import Archive

    with Archive(path) as archive:
        with open(rootfs, "rb") as file:
            archive.layer(file.read())
        for number in range(layers):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as tar:
                for file in range(files):
                    tar.addfile(tarfile.TarInfo(f"l{number}-{file}"))
            archive.layer(content.getvalue())
        archive.finish("many")
