//! How long reading takes: an ordinary long file, the worst that a file can be, and a large context.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rbuild_parser::{IgnoreMatcher, Linter, MatchState, format, parse};

/// A file of 1,000 lines with what real ones contain.
fn ordinary() -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG version=1\n");
    let stage = [
        "# build what compiles\n",
        "FROM --platform=$BUILDPLATFORM alpine:${version:-3} AS stage%\n",
        "ARG TARGETARCH flavour=plain\n",
        "ENV PATH=/opt/bin:$PATH \\\n    NAME=\"a value with blanks\" EMPTY=\n",
        "LABEL org.example.title=\"x\" org.example.arch=$TARGETARCH\n",
        "WORKDIR /src/${flavour}\n",
        "COPY --chown=1000:1000 --link go.mod go.sum ./\n",
        "RUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=token \\\n    set -e; \\\n    # a comment\n    make all && echo \"$(date)\"\n",
        "COPY <<EOF /etc/conf\nkey=$flavour\nother=value\nEOF\n",
        "RUN <<-'SH'\n\techo one\n\techo two\n\tSH\n",
        "EXPOSE 80 443/tcp 5000-5010/udp\n",
        "HEALTHCHECK --interval=5m --timeout=3s CMD curl -f http://localhost/\n",
        "ENTRYPOINT [\"/app\", \"--serve\"]\n",
        "CMD [\"--port\", \"80\"]\n",
    ]
    .concat();
    for index in 0.. {
        if text.lines().count() >= 1_000 {
            return text;
        }
        text.push_str(&stage.replace('%', &index.to_string()));
    }
    text
}

/// Sizes whose times show whether reading is linear, in bytes. A smoke run is not optimised and shows
/// only that everything works.
const SIZES: &[usize] = if SMOKE {
    &[128 << 10]
} else {
    &[5 << 20, 10 << 20]
};
const SMOKE: bool = cfg!(debug_assertions);

/// Fills a size with lines that are just short enough.
fn fill(size: usize, head: &str, unit: &str, tail: &str) -> String {
    let body = unit.repeat((60_000 - head.len() - tail.len()) / unit.len());
    format!("{head}{body}{tail}").repeat(size / 60_000)
}

/// Numbers units until a size is reached, `%` being the number.
fn count(size: usize, unit: &str) -> String {
    let mut text = String::with_capacity(size + unit.len());
    for number in 0.. {
        if text.len() >= size {
            break;
        }
        text.push_str(&unit.replace('%', &number.to_string()));
    }
    text
}

/// The worst files of a size that we know.
fn worst_files(size: usize) -> Vec<(&'static str, String)> {
    let fill = |head, unit, tail| fill(size, head, unit, tail);
    // Few instructions are read; they are as long as need be.
    let instructions = |unit: &str| {
        let unit = unit.replace('@', &"x".repeat((size / 90_000).saturating_sub(unit.len())));
        unit.repeat(size / unit.len())
    };
    let names = count(size / 2, "<<A% \\\n");
    let bodies = count(size / 2, "A%\n");
    let bodies: Vec<&str> = bodies.lines().take(names.lines().count()).collect();
    vec![
        ("braces", fill("ENV a=", "${a:-", "\n")),
        ("quotes", fill("ENV a=", "\"'\\", "\n")),
        ("brackets", fill("RUN ", "[", "\n")),
        ("triggers", fill("", "ONBUILD ", "RUN x\n")),
        (
            "triggers in one",
            format!("{}RUN x\n", fill("", "ONBUILD ", "\\\n")),
        ),
        (
            "one instruction",
            format!("RUN {}x\n", fill("", "a b ", "\\\n")),
        ),
        (
            "flags of one instruction",
            format!(
                "RUN {}x\n",
                fill("", "--mount=target=/a --device=b ", "\\\n")
            ),
        ),
        ("heredocs", instructions("RUN <<A\n@\nA\n")),
        (
            "one heredoc",
            format!("RUN <<A\n{}A\n", fill("", "x ", "\n")),
        ),
        ("heredoc words", fill("RUN ", "<<A ", "\n")),
        (
            "heredocs of one name",
            format!(
                "COPY {} /x/\n{}{}A\n",
                fill("", "<<A ", "\\\n"),
                "A\n".repeat(size / 4),
                "x\n".repeat(9)
            ),
        ),
        (
            "heredocs of one instruction",
            format!("COPY {}/x/\n{}\n", names, bodies.join("\n")),
        ),
        ("stages", instructions("FROM A AS b@\n")),
        ("checks", instructions("# check=skip=a,b,c\nRUN @\n")),
        ("blank lines", format!("RUN x \\\n{}", "\n".repeat(size))),
        ("noise", "\u{0}\u{ff}<<\"'${".repeat(size / 10)),
    ]
}

fn parsing(criterion: &mut Criterion) {
    let ordinary = ordinary();
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Bytes(ordinary.len() as u64));
    group.bench_function("1,000 lines, with lint", |bencher| {
        bencher.iter(|| {
            let parsed = parse(black_box(ordinary.as_bytes()));
            let mut linter = Linter::new(&parsed.dockerfile, None).expect("no check directive");
            for finding in parsed.lint {
                linter.add(finding);
            }
            linter.findings().len()
        });
    });
    group.bench_function("1,000 lines, format", |bencher| {
        bencher.iter(|| format(black_box(&ordinary)));
    });
    group.finish();
}

fn worst(criterion: &mut Criterion) {
    for &size in SIZES {
        let mut group = criterion.benchmark_group(format!("{} KiB", size >> 10));
        group.sample_size(10);
        group.throughput(Throughput::Bytes(size as u64));
        for (name, text) in worst_files(size) {
            let source = format!("FROM a\n{text}");
            group.bench_function(name, |bencher| {
                bencher.iter(|| parse(black_box(source.as_bytes())));
            });
        }
        group.finish();
    }
}

/// A million paths in directories of a hundred, walked with their parents' state.
fn ignoring(criterion: &mut Criterion) {
    let patterns: Vec<String> = (0..50)
        .map(|number| match number % 10 {
            0 => format!("**/*.ext{number}"),
            1 => format!("dir{number}/build"),
            2 => format!("**/cache{number}"),
            3 => format!("*.tmp{number}"),
            4 => format!("docs/**/draft{number}?.md"),
            5 => format!("vendor{number}/**"),
            6 => format!("dir*/sub{number}/file[0-9]*"),
            7 => format!("**/test{number}/**/*.out"),
            8 => format!("name{number}"),
            _ => format!("!dir{number}/build/keep"),
        })
        .collect();
    let file = patterns.join("\n");
    let matcher = IgnoreMatcher::parse(file.as_bytes()).expect("the patterns are good");
    let names: Vec<String> = (0..100)
        .map(|number| format!("file{number}.ext{number}"))
        .collect();
    let mut group = criterion.benchmark_group("ignore");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1_000_000));
    group.bench_function("1,000,000 paths, 50 patterns", |bencher| {
        bencher.iter(|| {
            let mut kept = 0_usize;
            for directory in 0..if SMOKE { 1 } else { 100 } {
                let top = matcher.enter(&matcher.root(), &format!("dir{directory}"));
                for sub in 0..100 {
                    let state: MatchState = matcher.enter(&top, &format!("sub{sub}"));
                    kept += names
                        .iter()
                        .filter(|name| !matcher.enter(&state, name).ignored)
                        .count();
                }
            }
            kept
        });
    });
    group.finish();
}

criterion_group!(benches, parsing, worst, ignoring);
criterion_main!(benches);
