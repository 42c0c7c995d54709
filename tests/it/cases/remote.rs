//! `ADD` from the web and from git, and contexts from git: 39 builds that were observed on
//! BuildKit, in the order in which they were observed, on one store.
//!
//! Known failures stand in `expected-remote-failures.txt`, each with its reason; the list must be
//! exact.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::data::Case;
use super::setup::{Run, unix_time};
use super::{compare, expectations};
use crate::support::git::{GitServer, Repository};
use crate::support::process::with_path;
use crate::support::web::{Answer, Asked, WebServer};
use crate::support::{TestEnv, layout, needs, progress};

/// Fewest cases that must pass. Raise it when more do; never lower it.
const FLOOR: usize = 38;

/// Addresses that the record has, and a number that was in its file names.
const WEB: &str = "127.0.0.1:39787";
const GIT: &str = "127.0.0.1:19418";

const HELLO2: &str = "sha256:167112362adb3b2041c11f7337437872f9d821e57e8c3edd68d87a1d0babd0f5";
const V1: &str = "d1a6d7f3724caa67be704d4ec36e216ea5803d7f";
const MAIN: &str = "8349412bd130de0db4344fab682a89c0d07aa915";
const TIME: &str = "Tue, 15 Nov 1994 12:45:26 GMT";

/// The builds: id, what changes on the server before, and the Dockerfile after `FROM scratch`.
/// `W` and `G` are the servers, `N` the number.
const CASES: &[(&str, &str, &str)] = &[
    ("U01", "", "ADD W/p/file.txt?x=1N /d/"),
    ("U02", "", "ADD W/p/file.txt?x=1N /d/g"),
    ("U03", "", "ADD W/p/file.txt?x=1N /d/"),
    ("U04", "etag=v2", "ADD W/p/file.txt?x=1N /d/"),
    ("U05", "etag=v3 body=hello2", "ADD W/p/file.txt?x=1N /d/"),
    ("U06", "", "ADD W/n/oneN /d/"),
    ("U07", "", "ADD W/?N /d/"),
    ("U08", "", "ADD W/404N /d/"),
    ("U09", "", "ADD W/redir /d/"),
    ("U10", "", "ADD W/aN.tgz /d/"),
    ("U11", "", "ADD --unpack=true W/aN.tgz /d/"),
    ("U12", "", "ADD --chmod=644 --chown=3:4 W/cN /d/"),
    ("U13", "", "ADD --checksum=H W/kN /d/"),
    (
        "U14",
        "",
        "ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 \
         W/k2N /d/",
    ),
    ("U15", "", "ADD --checksum=1234 W/k3N /d/"),
    ("U16", "", "ARG S=H\nADD --checksum=$S W/k4N /d/"),
    ("U17", "", "ADD --checksum=H W/kN /d/"),
    ("U18", "", "ADD W/cdN /d/"),
    ("U19", "", "ARG V=1\nADD W/f-$V-N.txt /d/"),
    ("U20", "lm=z", "ADD W/lmN /d/\nWORKDIR /xx"),
    ("U21", "lm=y", "ADD W/lmN /d/\nWORKDIR /xx"),
    ("G01", "", "ADD G/r.git /d"),
    ("G02", "", "ADD G/r.git#v1 /d"),
    ("G03", "", "ADD G/r.git#v1:sub /d"),
    ("G04", "", "ADD G/r.git#C1 /d"),
    ("G05", "", "ADD G/r.git#d1a6d7f3 /d"),
    ("G06", "", "ADD --keep-git-dir=true G/r.git#v1 /d"),
    ("G07", "", "ADD --checksum=C1 G/r.git#v1 /d"),
    ("G08", "", "ADD --checksum=C2 G/r.git#v1 /d"),
    ("G09", "", "ADD G/r.git?ref=main&subdir=sub /d"),
    ("G10", "", "ADD G/r.git?tag=v1&checksum=C1 /d"),
    ("G11", "", "ADD G/r.git?foo=1 /d"),
    ("G12", "", "ADD G/r.git?branch=main&tag=v1 /d"),
    ("G13", "", "ADD G/r.git#nope /d"),
    ("G14", "", "ADD --chown=3:4 G/r.git#v1 /d"),
    ("G15", "", "ADD G/r.git#v1 /e"),
    ("G16", "context=G/r.git", ""),
    ("G17", "context=G/r.git#main:sub", ""),
    ("G19", "context=G/r.git epoch=context", ""),
];

/// What the web server has, as far as it changes.
#[derive(Default)]
struct Site {
    etag: String,
    body: String,
    lm: String,
}

#[test]
fn remote_cases_give_what_buildkit_gives() {
    let env = TestEnv::new();
    let records = load();
    assert_eq!(records.len(), CASES.len());
    let repositories = env.join("repositories");
    let commits = make_repository(&repositories.join("r.git"));
    assert_eq!(commits, [V1, MAIN], "the commits of the record");
    let site = Arc::new(Mutex::new(Site {
        etag: "v1".to_owned(),
        body: "hello".to_owned(),
        lm: String::new(),
    }));
    let served = Arc::clone(&site);
    let web = WebServer::start(move |asked| answer(asked, &served.lock().unwrap()));
    let git = GitServer::start(&repositories);
    let began = unix_time();
    let expected = expectations("expected-remote-failures.txt");
    let (mut report, mut passed) = (String::new(), 0);
    for (id, changes, steps) in CASES {
        let record = localised(&records[*id], &web, &git);
        let test = Remote {
            env: &env,
            web: &web,
            id,
            began,
        };
        let words = |text: &str| localise_words(text, &web, &git);
        let differences = test.judge(&site, &words(changes), &words(steps), record);
        passed += usize::from(differences.is_empty());
        if differences.is_empty() == expected.contains_key(*id) {
            report.push_str(&format!("\n{id}:\n    {}\n", differences.join("\n    ")));
        }
    }
    let counts = format!("remote cases: {passed} of {} pass\n", CASES.len());
    std::io::stderr().write_all(counts.as_bytes()).unwrap();
    assert!(report.is_empty() && passed >= FLOOR, "{counts}{report}");
    env.assert_sound_store();
}

/// One build and what it is compared with.
struct Remote<'a> {
    env: &'a TestEnv,
    web: &'a WebServer,
    id: &'a str,
    /// Steps from the cache keep the times of the first build.
    began: i64,
}

impl Remote<'_> {
    fn judge(&self, site: &Mutex<Site>, changes: &str, steps: &str, record: Value) -> Vec<String> {
        let Value::Object(observed) = record else {
            panic!("{}: not an object", self.id)
        };
        let mut args = crate::args!["build", "--progress", "plain"].to_vec();
        let mut context = None;
        for (name, value) in changes.split_whitespace().filter_map(|c| c.split_once('=')) {
            let mut site = site.lock().unwrap();
            match name {
                "etag" => value.clone_into(&mut site.etag),
                "body" => value.clone_into(&mut site.body),
                "lm" => value.clone_into(&mut site.lm),
                "context" => context = Some(value.into()),
                "epoch" => {
                    args.extend(crate::args![
                        "--build-arg",
                        format!("SOURCE_DATE_EPOCH={value}")
                    ]);
                }
                other => panic!("unknown change {other}"),
            }
        }
        let text = format!("FROM scratch\n{steps}\n");
        let context = context.unwrap_or_else(|| self.env.dockerfile(self.id, &text).into());
        let output = self.env.join(&format!("{}-out", self.id));
        args.push("--output".into());
        args.push(with_path("type=oci,tar=false,dest=", &output));
        args.push(context);
        let outcome = self.env.rbuild(args).env("PATH", needs::PROGRAM_PATH).run();
        let run = Run {
            code: outcome.code(),
            text: outcome.text(),
            started: self.began,
            ended: unix_time(),
            directory: self.env.path().to_owned(),
            image: (outcome.code() == 0).then(|| layout::read(&output)),
        };
        self.compare(observed, &run)
    }

    fn compare(&self, observed: Map<String, Value>, run: &Run) -> Vec<String> {
        let asked: Value = self.web.asked().iter().map(request).collect();
        let mut differences = Vec::new();
        if let Some(want) = observed.get("req").filter(|want| **want != asked) {
            differences.push(format!("requests: want {want}, got {asked}"));
        }
        let want: Vec<String> = strings(observed.get("cached"));
        let got = cached(&run.text);
        if run.code == 0 && observed.contains_key("cached") && want != got {
            differences.push(format!("cached: want {want:?}, got {got:?}\n{}", run.text));
        }
        let case = Case::observed(self.id, observed);
        differences.extend(compare::loose(&case, run));
        differences.extend(compare::strict(&case, run));
        differences
    }
}

/// Titles of steps that were cached. As BuildKit gives a source the title of its step, a step
/// counts whose source was.
fn cached(text: &str) -> Vec<String> {
    let steps = progress::parse(text);
    let from_source = steps
        .iter()
        .any(|step| step.title.starts_with("load ") && step.cached);
    let counts = |step: &&progress::Step| {
        step.is_instruction()
            && !step.is_from()
            && (step.cached || (from_source && step.title.contains("] ADD ")))
    };
    steps
        .iter()
        .filter(counts)
        .map(|step| step.title.clone())
        .collect()
}

fn request(asked: &Asked) -> Value {
    json!([asked.method, asked.target, asked.header("if-none-match")])
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// What the recorded server answered.
fn answer(asked: &Asked, site: &Site) -> Answer {
    let path = asked.target.split('?').next().unwrap();
    let tag = match path {
        "/p/file.txt" => Some(format!("\"{}\"", site.etag)),
        _ if path.starts_with("/lm") => Some(format!("\"{}\"", site.lm)),
        _ => None,
    };
    let unchanged = asked
        .header("if-none-match")
        .is_some_and(|known| tag.as_ref().is_some_and(|tag| known.contains(tag)));
    let mut answer = match path {
        _ if unchanged => Answer::new(304),
        "/p/file.txt" => Answer::ok(format!("{}\n", site.body)).header("Last-Modified", TIME),
        "/redir" => Answer::new(302).header("Location", "/final.txt"),
        _ if path.starts_with("/404") => Answer::new(404),
        _ if path.starts_with("/a1") => Answer::ok(archive()),
        _ => Answer::ok("hello2\n"),
    };
    if path.starts_with("/cd") {
        answer = answer.header("Content-Disposition", "attachment; filename=\"other\"");
    }
    if path.starts_with("/lm") && !unchanged {
        let time = if site.lm == "z" {
            TIME
        } else {
            "Wed, 16 Nov 1994 12:45:26 GMT"
        };
        answer = answer.header("Last-Modified", time);
    }
    match tag {
        Some(tag) => answer.header("ETag", tag),
        None => answer,
    }
}

/// `in/f` with the content `TF` from the year 1970.
fn archive() -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut tar = tar::Builder::new(gzip);
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_mtime(500);
    header.set_size(2);
    tar.append_data(&mut header, "in/f", "TF".as_bytes())
        .unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

fn make_repository(path: &Path) -> [String; 2] {
    let repository = Repository::new(path);
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    write("Dockerfile", "FROM scratch\nCOPY . /ctx\n");
    write("f", "1");
    std::fs::create_dir(path.join("sub")).unwrap();
    write("sub/s", "s");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path.join("sub/s"), executable).unwrap();
    let first = repository.commit("a");
    repository.git(&["tag", "v1"]);
    write("f", "2");
    [first, repository.commit("b")]
}

/// The record with the addresses of our servers.
fn localised(record: &Value, web: &WebServer, git: &GitServer) -> Value {
    let text = record
        .to_string()
        .replace(WEB, &web.host())
        .replace(GIT, &git.host());
    serde_json::from_str(&text).unwrap()
}

/// The abbreviations of [`CASES`] written out.
fn localise_words(text: &str, web: &WebServer, git: &GitServer) -> String {
    text.replace("W/", &web.url("/"))
        .replace("G/", &git.url(""))
        .replace("=H", &format!("={HELLO2}"))
        .replace("C1", V1)
        .replace("C2", MAIN)
        .replace('N', "1795249104")
}

fn load() -> BTreeMap<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/dockerfile-cases.json");
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = document["remote_cases"].as_object().unwrap();
    cases
        .iter()
        .map(|(id, record)| (id.clone(), record.clone()))
        .collect()
}
