"""The tables of `docs/performance.md`."""

import os
import platform
import re
import statistics
import subprocess

from .scenarios import TITLES

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def cell(runs):
    """Median and spread of one tool."""
    if not runs:
        return "–"
    seconds = [second for second, _ in runs]
    middle = statistics.median(seconds)
    digits = 3 if middle < 1 else 2
    if len(seconds) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(seconds):.{digits}f}–{max(seconds):.{digits}f})"


def row(name, results):
    """A line of the table: medians with spread, the ratio to the best peer, rbuild's memory."""
    own = results["rbuild"]
    medians = [statistics.median(second for second, _ in runs)
               for tool, runs in results.items() if tool != "rbuild" and runs]
    middle = statistics.median(second for second, _ in own)
    ratio = f"{min(medians) / middle:.1f}×" if medians else ""
    cells = [TITLES[name][0], *(cell(runs) for runs in results.values()), ratio,
             f"{max(peak for _, peak in own) / 1e6:.0f} MB"]
    return "| " + " | ".join(cells) + " |"


def table(measured, tools):
    """All scenarios."""
    heads = ["scenario", *(head(tool) for tool in tools), "best peer / rbuild", "rbuild's peak memory"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [row(name, results) for name, results in measured.items()]
    return "\n".join(lines) + "\n"


def head(tool):
    return {"buildah": "buildah, podman", "crun": "crun alone"}.get(tool, tool)


def versions():
    """Which peers these are."""
    packages = "buildah podman crun docker.io skopeo".split()
    text = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *packages],
                          stdout=subprocess.PIPE, text=True, check=False).stdout
    return (f"Linux {platform.release().split('-')[0]}, {os.cpu_count()} processors; "
            + text.rstrip(", "))


def publish(path, text):
    """Puts the measured part into the page between its marks; the rest is written by people."""
    with open(path, encoding="utf-8") as file:
        page = file.read()
    block = f"{BEGIN}\n{text}\n{END}"
    page, found = re.subn(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: block, page, flags=re.S)
    if not found:
        raise SystemExit(f"{path} lacks the marks {BEGIN} and {END}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)
