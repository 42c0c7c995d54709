"""How cost grows: files, steps and bytes, ten times more at a time; a table and a plot."""

import math
import statistics

# What grows, its unit, how much of it.
SERIES = {
    "files": ("first build, files in the context", (2_000, 20_000, 200_000)),
    "noop": ("no-op rebuild, files in the context", (2_000, 20_000, 200_000)),
    "steps": ("`RUN true` without cache, steps", (10, 100, 1_000)),
    "bytes": ("`RUN` that writes MB", (10, 100, 1_000)),
}
COLOURS = {"files": "#1b6ca8", "noop": "#2a9d4a", "steps": "#b8432f", "bytes": "#7a4fa3"}


def timed(scenarios, tool, name, amount):
    """The two halves of one measurement."""
    if name == "files":
        return scenarios.first_files(tool, amount)
    if name == "noop":
        return scenarios.noop_files(tool, amount)
    if name == "steps":
        return scenarios.steps(tool, amount)
    text = f"FROM busybox\nRUN head -c {amount}000000 /dev/zero >/big\n"
    context = scenarios.context(f"bytes-{amount}", text)
    return None, lambda: tool.build(context, False)


def measure(scenarios, tool, rounds, small):
    """Seconds by series and amount; `small` is a tenth of everything."""
    results = {}
    for name, (_, amounts) in SERIES.items():
        results[name] = []
        for amount in (amount // (10 if small else 1) for amount in amounts):
            before, action = timed(scenarios, tool, name, amount)
            if before:
                before()
            seconds = statistics.median(action().seconds for _ in range(rounds))
            print(f"  growth {name} {amount}: {seconds:.3f} s", flush=True)
            results[name].append((amount, seconds))
    return results


def table(results):
    """Markdown: seconds, and how many times more each tenfold costs."""
    lines = ["| what grows | amount | seconds | times the row above |", "|---|---|---|---|"]
    for name, points in results.items():
        previous = None
        for amount, seconds in points:
            times = f"{seconds / previous:.1f}×" if previous else ""
            lines.append(f"| {SERIES[name][0]} | {amount:,} | {seconds:.3f} | {times} |")
            previous = seconds
    return "\n".join(lines) + "\n"


def plot(results):
    """An SVG with both axes logarithmic: straight lines at 45 degrees or less are linear growth."""
    width, height, left, top = 640, 360, 60, 20
    seconds = [point[1] for points in results.values() for point in points]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def y(value):
        return top + (high - math.log10(value)) / (high - low) * (height - top - 40)

    def x(step):
        return left + 40 + step * 160

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for power in range(low, high + 1):
        line = y(10 ** power)
        parts.append(f'<path d="M{left} {line:.1f}H{width - 170}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{line + 4:.1f}" text-anchor="end">{10.0 ** power:g} s</text>')
    for step, label in enumerate(["1×", "10×", "100×"]):
        parts.append(f'<text x="{x(step)}" y="{height - 15}" text-anchor="middle">{label}</text>')
    for name, points in results.items():
        places = [(x(step), y(value)) for step, (_, value) in enumerate(points)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLOURS[name]}"/>' for a, b in places]
        end = places[-1]
        parts.append(f'<text x="{end[0] + 10:.1f}" y="{end[1] + 4:.1f}" fill="{COLOURS[name]}">{name}</text>')
    return "\n".join(parts) + "\n</svg>\n"
