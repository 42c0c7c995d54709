//! Names, IDs and states, without a sandbox.

use super::*;
use crate::{RootFs, Sandbox};

fn make(containers: &Containers, name: Option<&str>) -> Result<Container, ContainerError> {
    let new = containers.begin()?;
    let name = containers.take_name(&new, name)?;
    let id = new.id().to_owned();
    new.finish(&Config {
        networking: super::Networking::default(),
        id: id.clone(),
        name,
        created: state::now(),
        sandbox: Sandbox::new(RootFs::default(), ["true"]),
        interactive: false,
        auto_remove: false,
        stop_signal: 15,
        stop_timeout: 10,
        restart: RestartPolicy::No,
        health: None,
        log: LogOptions::default(),
        details: serde_json::Value::Null,
    })?;
    containers.find(&id)
}

#[test]
fn containers_are_found_by_name_and_by_the_beginning_of_their_id() {
    let directory = tempfile::tempdir().unwrap();
    let containers = Containers::new(directory.path().join("containers"));
    assert!(containers.list().unwrap().is_empty());
    let one = make(&containers, Some("one")).unwrap();
    let other = make(&containers, None).unwrap();
    assert_eq!(containers.find("one").unwrap().config.id, one.config.id);
    assert_eq!(containers.find("/one").unwrap().config.id, one.config.id);
    let found = containers.find(other.short_id()).unwrap();
    assert_eq!(found.config.name, other.config.name);
    let newest: Vec<String> = containers
        .list()
        .unwrap()
        .into_iter()
        .map(|container| container.config.id)
        .collect();
    assert_eq!(newest, [other.config.id.clone(), one.config.id.clone()]);
    assert!(matches!(
        containers.find(""),
        Err(ContainerError::NotFound(_))
    ));
    assert!(matches!(
        containers.find("nope"),
        Err(ContainerError::NotFound(_))
    ));
    // Seventeen IDs share a first digit somewhere.
    for _ in 0..15 {
        make(&containers, None).unwrap();
    }
    let ambiguous = (0..16).filter(|digit| {
        let found = containers.find(&format!("{digit:x}"));
        matches!(found, Err(ContainerError::Ambiguous { .. }))
    });
    assert!(ambiguous.count() > 0);
}

#[test]
fn a_name_belongs_to_one_container_as_long_as_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let containers = Containers::new(directory.path());
    let one = make(&containers, Some("name")).unwrap();
    let error = make(&containers, Some("name")).unwrap_err();
    assert!(matches!(&error, ContainerError::NameTaken { id, .. } if *id == one.config.id));
    assert_eq!(containers.list().unwrap().len(), 1, "a draft was left");
    one.remove().unwrap();
    assert!(!one.directory().exists());
    let two = make(&containers, Some("name")).unwrap();
    // Removed by a kill half-way: the name is free without it.
    fs::remove_dir_all(two.directory()).unwrap();
    let mut three = make(&containers, Some("name")).unwrap();
    let id = three.config.id.clone();
    make(&containers, Some("other")).unwrap();
    assert!(three.rename(&containers, "other").is_err());
    three.rename(&containers, "new").unwrap();
    assert_eq!(containers.find("new").unwrap().config.id, id);
    assert_eq!(containers.find("new").unwrap().config.name, "new");
    make(&containers, Some("name")).unwrap();
    assert!(matches!(
        make(&containers, Some("../x")),
        Err(ContainerError::InvalidName(_))
    ));
}

#[test]
fn a_running_state_beside_a_free_lock_is_a_container_that_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let containers = Containers::new(directory.path());
    let one = make(&containers, None).unwrap();
    assert_eq!(one.state().unwrap().status, Status::Created);
    let running = State {
        status: Status::Running,
        pid: 1,
        ..State::default()
    };
    let lock = one.lock("lock").unwrap();
    state::write(&one.state_file(), &running).unwrap();
    assert_eq!(one.state().unwrap(), running);
    assert!(matches!(one.remove(), Err(ContainerError::Running(_))));
    drop(lock);
    let state = one.state().unwrap();
    assert_eq!((state.status, state.exit_code), (Status::Exited, 137));
    assert_eq!(state.error, "its monitor was killed");
    assert!(matches!(
        one.ask(&Order::Wait, &[]),
        Err(ContainerError::NotRunning(_))
    ));
    one.remove().unwrap();
}

#[test]
fn what_a_killed_making_has_left_is_swept_away_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let containers = Containers::new(directory.path());
    assert!(containers.sweep().unwrap().is_empty());
    make(&containers, Some("kept")).unwrap();
    let begun = containers.begin().unwrap();
    assert!(containers.sweep().unwrap().is_empty(), "it is being made");
    let mut killed = containers.begin().unwrap();
    containers.take_name(&killed, Some("gone")).unwrap();
    let id = killed.id().to_owned();
    // As after a kill: nobody tidies up, and the lock is free.
    killed.finished = true;
    drop(killed);
    assert_eq!(containers.sweep().unwrap(), [id]);
    assert_eq!(containers.list().unwrap().len(), 1);
    make(&containers, Some("gone")).unwrap();
    drop(begun);
}
