//! How long reading takes: an ordinary long file, the worst that a file can be, and a large context.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
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

const SIZE: usize = 10 * 1024 * 1024;

/// Fills 10 MiB with lines that are just short enough.
fn fill(head: &str, unit: &str, tail: &str) -> String {
    let body = unit.repeat((60_000 - head.len() - tail.len()) / unit.len());
    format!("{head}{body}{tail}").repeat(SIZE / 60_000)
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
    let mut group = criterion.benchmark_group("10 MiB");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(SIZE as u64));
    let start = "FROM a\n";
    for (name, source) in [
        (
            "of braces",
            format!("{start}{}", fill("ENV a=", "${a:-", "\n")),
        ),
        (
            "of quotes",
            format!("{start}{}", fill("ENV a=", "\"'\\", "\n")),
        ),
        ("of brackets", format!("{start}{}", fill("RUN ", "[", "\n"))),
        (
            "of triggers",
            format!("{start}{}", fill("", "ONBUILD ", "RUN x\n")),
        ),
        (
            "of one instruction",
            format!("{start}RUN {}x\n", fill("", "a b ", "\\\n")),
        ),
        (
            "of heredocs",
            format!("{start}{}", "RUN <<A\nx\nA\n".repeat(90_000)).repeat(1),
        ),
        (
            "of one heredoc",
            format!("{start}RUN <<A\n{}A\n", fill("", "x ", "\n")),
        ),
        (
            "of heredoc words",
            format!("{start}{}", fill("RUN ", "<<A ", "\n")),
        ),
        (
            "of blank lines",
            format!("{start}RUN x \\\n{}", "\n".repeat(SIZE)),
        ),
        ("of noise", "\u{0}\u{ff}<<\"'${".repeat(SIZE / 10)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (),
                |()| parse(black_box(source.as_bytes())),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
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
            for directory in 0..100 {
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
