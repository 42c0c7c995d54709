//! What takes space, told item by item, and pruning of chosen items.

use serde_json::Value;

use crate::support::TestEnv;

/// A store with an image, build cache beside it, and a cache mount.
fn filled() -> TestEnv {
    let env = TestEnv::new();
    env.import_busybox();
    let context = env.dockerfile(
        "kept",
        "FROM busybox\nRUN echo shared >/shared\nRUN echo kept >/kept\n",
    );
    env.build("kept", &context);
    for (name, step) in [
        ("one", "echo one >/one"),
        (
            "two",
            "--mount=type=cache,target=/c echo two >/two; echo c >/c/c",
        ),
    ] {
        let text = format!("FROM busybox\nRUN {step}\n");
        let context = env.dockerfile(name, &text);
        env.build(name, &context);
        env.rbuild(["rmi", name]).run().ok();
    }
    env
}

/// What `du` lists as one object a line.
fn items(env: &TestEnv, filters: &[&str]) -> Vec<Value> {
    let mut args = vec!["du", "--format", "json"];
    for filter in filters {
        args.extend(["--filter", filter]);
    }
    let out = env.rbuild(args).run().ok().out();
    let items = out.lines().map(|line| {
        let mut item: Value = serde_json::from_str(line).unwrap();
        // Time goes on between two calls.
        for key in ["LastAccessed", "LastUsedSince"] {
            assert!(item.as_object_mut().unwrap().remove(key).is_some());
        }
        item
    });
    items.collect()
}

fn descriptions(items: &[Value]) -> Vec<&str> {
    let texts = items.iter().map(|item| item["Description"].as_str());
    texts.map(Option::unwrap).collect()
}

#[test]
fn du_lists_what_meets_all_conditions() {
    let env = filled();
    let all = items(&env, &[]).len();
    let mounts = items(&env, &["type=exec.cachemount"]);
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0]["Mutable"], "true");
    assert_eq!(items(&env, &["mutable"]), mounts);
    assert_eq!(items(&env, &["type!=exec.cachemount"]).len(), all - 1);
    let id = mounts[0]["ID"].as_str().unwrap();
    assert_eq!(items(&env, &[&format!("id={id}")]), mounts);
    let unused = items(&env, &["type=regular", "inuse=false"]);
    let mut told = descriptions(&unused);
    told.sort_unstable();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("cache") && told[1].contains("echo one"),
        "{told:?}"
    );
    let one = items(&env, &["description~=echo one"]);
    assert_eq!(one.len(), 1, "{one:?}");
    assert_eq!(items(&env, &["inuse", "reclaimable"]), Vec::<Value>::new());
    assert_eq!(items(&env, &["until=240h"]), Vec::<Value>::new());
    assert_eq!(items(&env, &["shared"]).len(), 2);
    for filter in ["parents=x", "description~=a.*b", "shared=perhaps"] {
        env.rbuild(["du", "--filter", filter]).run().exits(1);
    }
}

#[test]
fn du_is_laid_out_as_docker_s() {
    let env = filled();
    let table = env.rbuild(["builder", "du"]).run().ok().out();
    let rows: Vec<&str> = table.lines().collect();
    let header: Vec<&str> = rows[0].split_whitespace().collect();
    assert_eq!(header, ["ID", "RECLAIMABLE", "SIZE", "LAST", "ACCESSED"]);
    let marked = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.split_whitespace().nth(column));
        cells.filter(|cell| cell.ends_with('*')).count()
    };
    assert_eq!((marked(0), marked(2)), (1, 2), "{table}");
    for (row, title) in
        rows[rows.len() - 4..]
            .iter()
            .zip(["Shared:", "Private:", "Reclaimable:", "Total:"])
    {
        assert!(row.starts_with(title), "{table}");
    }
    let filter = ["du", "--verbose", "--filter", "mutable"];
    let block = env.rbuild(filter).run().ok().out();
    for line in [
        "Mutable:\ttrue\n",
        "Type:\t\texec.cachemount\n",
        "Shared:\t\tfalse\n",
    ] {
        assert!(block.contains(line), "{block}");
    }
}

#[test]
fn prune_takes_only_what_meets_the_conditions() {
    let env = filled();
    let before = items(&env, &[]).len();
    let prune = |filter: &str| {
        env.rbuild(["builder", "prune", "-f", "--filter", filter])
            .run()
    };
    let out = prune("type=exec.cachemount").ok().out();
    assert!(out.starts_with("removed cache mounts: 1\n"), "{out}");
    assert_eq!(items(&env, &[]).len(), before - 1);
    let out = prune("description~=echo one").ok().out();
    assert!(out.contains("removed layers: 1\n"), "{out}");
    assert_eq!(items(&env, &[]).len(), before - 2);
    // What an image needs stays, whatever is asked for; a record of its steps stays with it.
    let out = prune("inuse").ok().out();
    assert_eq!(out, "Total reclaimed space: 0B\n");
    let again = env.build("kept", &env.join("kept"));
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    prune("parents=x")
        .exits(1)
        .says("invalid filter \"parents=x\"");
    env.assert_sound_store();
}

#[test]
fn system_df_tells_every_single_thing() {
    let env = filled();
    env.rbuild(["create", "--name", "user", "-v", "data:/data", "kept", "sh"])
        .run()
        .ok();
    let text = env.rbuild(["system", "df", "-v"]).run().ok().out();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = |first: &str| rows.iter().find(|row| row.first() == Some(&first)).unwrap();
    assert_eq!(
        row("REPOSITORY").join(" "),
        "REPOSITORY TAG IMAGE ID CREATED SIZE SHARED SIZE UNIQUE SIZE CONTAINERS"
    );
    let (kept, busybox) = (row("kept"), row("busybox"));
    assert_eq!(kept.last(), Some(&"1"), "{text}");
    assert_eq!(busybox.last(), Some(&"0"), "{text}");
    // All of busybox is in the other image, too.
    assert_eq!(busybox[busybox.len() - 2], "0B", "{text}");
    assert_eq!(
        busybox[busybox.len() - 3],
        kept[kept.len() - 3],
        "shared: {text}"
    );
    assert_eq!(row("data")[1], "1", "{text}");
    assert!(text.contains("\nBuild cache usage: "), "{text}");
    let json = ["system", "df", "-v", "--format", "json"];
    let out = env.rbuild(json).run().ok().out();
    let all: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(all["Images"].as_array().unwrap().len(), 2);
    assert_eq!(all["Containers"][0]["Names"], "user");
    assert_eq!(all["Volumes"][0]["Name"], "data");
    let format = "{{range .Images}}{{.Repository}} {{end}}";
    let out = env.rbuild(["system", "df", "-v", "--format", format]).run();
    assert_eq!(out.ok().out(), "kept busybox \n");
    env.rbuild(["rm", "user"]).run().ok();
    env.rbuild(["volume", "rm", "data"]).run().ok();
}
