"""The tables of `docs/performance.md`."""

import os
import platform
import re
import statistics
import subprocess

from .scenarios import ROWS

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def cell(runs):
    """Median and spread of one tool."""
    if not runs:
        return "–"
    if runs[-1].over:
        return f"> {runs[-1].seconds:g}"
    seconds = [run.seconds for run in runs]
    middle = statistics.median(seconds)
    digits = 3 if middle < 1 else 2
    if len(seconds) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(seconds):.{digits}f}–{max(seconds):.{digits}f})"


def middle(runs):
    """The median of the seconds."""
    return statistics.median(run.seconds for run in runs)


def seconds(value):
    """A duration as people say it."""
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


def row(name, results):
    """A line of the table: medians with spread, the ratio to the best other builder, rbuild's memory."""
    own, aim = results["rbuild"], ROWS[name]
    # crun and the floor build nothing.
    others = [middle(runs) for tool, runs in results.items() if tool in ("docker", "buildah") and runs]
    ratio = min(others) / middle(own) if others else None
    # All others were broken off.
    over = "> " if others and all(results[tool][-1].over for tool in ("docker", "buildah")
                                  if results.get(tool)) else ""
    reached = [(seconds(aim.seconds), middle(own) <= aim.seconds)]
    if ratio:
        reached.append((f"{aim.ratio:g}×", ratio >= aim.ratio))
    cells = [aim.title, *(cell(runs) for runs in results.values()),
             f"{over}{ratio:.1f}×" if ratio else "–",
             ", ".join(f"{what} {'yes' if met else 'no'}" for what, met in reached),
             f"{max(run.peak for run in own) / 1e6:.0f} MB"]
    return "| " + " | ".join(cells) + " |"


def table(measured, tools):
    """All scenarios."""
    heads = ["scenario", *(head(tool) for tool in tools), "best other / rbuild", "aim",
             "rbuild's peak memory"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [row(name, results) for name, results in measured.items()]
    floors = [f"{row.title}: {row.floor}" for name, row in ROWS.items() if name in measured and row.floor]
    text = "\n".join(lines) + "\n"
    if floors:
        text += "\nThe floor is what plain programs need for the same work. " + "; ".join(floors) + ".\n"
    return text + derived(measured)


def derived(measured):
    """What one `RUN` step costs beside one start of the runtime that podman uses."""
    if not all(name in measured for name in ("trivial", "steps_20", "container")):
        return ""
    step = {tool: (middle(measured["steps_20"][tool]) - middle(measured["trivial"][tool])) / 19
            for tool in ("rbuild", "docker", "buildah")
            if measured["steps_20"].get(tool) and measured["trivial"].get(tool)}
    crun = measured["container"].get("crun")
    if not crun:
        return ""
    crun = middle(crun)
    steps = ", ".join(f"{tool} {value * 1000:.1f} ms" for tool, value in step.items())
    return (f"\nOne `RUN true` more, from the first two rows: {steps}; `crun run` by itself "
            f"{crun * 1000:.1f} ms, {crun / step['rbuild']:.1f}× rbuild's whole step.\n")


def head(tool):
    return {"buildah": "buildah, podman", "crun": "crun alone", "floor": "floor"}.get(tool, tool)


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
