//! Who has which address in a network that users made.
//!
//! A lease is a file with the address as its name that is locked by whoever has the address. The
//! kernel lets go of the lock when its last holder dies, however it dies; a file without lock is as
//! good as none.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Place;
use crate::spec::{Interface, Lan, LanKind, Owner};
use crate::wire::{Failure, InStep as _, Step};

/// A lease that is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    _lock: File,
}

impl Lease {
    /// Takes over a lease that was claimed for `address`.
    pub(crate) fn take(shared: &Path, lan: &str, address: Ipv4Addr, lock: File) -> Lease {
        Lease {
            path: directory(shared, lan).join(address.to_string()),
            _lock: lock,
        }
    }

    /// Whether it is the lease of this address.
    pub(crate) fn is_for(&self, shared: &Path, lan: &str, address: Ipv4Addr) -> bool {
        self.path == directory(shared, lan).join(address.to_string())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Without lock the file counts for nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the leases of a network are.
pub(super) fn directory(shared: &Path, lan: &str) -> PathBuf {
    shared.join("lans").join(lan).join("leases")
}

/// Who is in a network now, by address.
pub(crate) fn find(shared: &Path, lan: &str) -> Vec<(Ipv4Addr, Owner)> {
    let Ok(entries) = fs::read_dir(directory(shared, lan)) else {
        return Vec::new();
    };
    let mut found: Vec<(Ipv4Addr, Owner)> = entries
        .flatten()
        .filter_map(|entry| {
            let address = entry.file_name().to_str()?.parse().ok()?;
            let file = File::open(entry.path()).ok()?;
            match file.try_lock_shared() {
                Err(TryLockError::WouldBlock) => {}
                _ => return None,
            }
            let owner = serde_json::from_reader(io::BufReader::new(file)).ok()?;
            Some((address, owner))
        })
        .collect();
    found.sort_by_key(|(address, _)| *address);
    found
}

/// Takes the wanted address, or the first that is free.
pub(super) fn claim(place: &Place, lan: &Lan, interface: &Interface) -> Step<(Ipv4Addr, File)> {
    let directory = directory(&place.shared, &lan.id);
    fs::create_dir_all(&directory).step_at("make the directory", &directory)?;
    let bridged = lan.kind == LanKind::Bridge;
    if let Some(address) = interface.address {
        let taken = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let taken = |why: &str| Failure::new("take the address", &taken).because(why);
        if bridged && lan.gateway == Some(address) {
            return Err(taken(&format!("{address} is the address of the gateway")));
        }
        let file = try_claim(&directory, address, &interface.owner)?;
        return file
            .map(|file| (address, file))
            .ok_or_else(|| taken(&format!("another container has {address}")));
    }
    for address in lan.range.unwrap_or(lan.subnet).hosts() {
        let special = Some(address) == lan.gateway
            || address == lan.subnet.network()
            || address == lan.subnet.broadcast();
        if !special && let Some(file) = try_claim(&directory, address, &interface.owner)? {
            return Ok((address, file));
        }
    }
    let full = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
    Err(Failure::new("find a free address", &full).because(format!(
        "all addresses of {} are taken",
        lan.range.unwrap_or(lan.subnet)
    )))
}

fn try_claim(directory: &Path, address: Ipv4Addr, owner: &Owner) -> Step<Option<File>> {
    let path = directory.join(address.to_string());
    loop {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .step_at("make", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            // Who only looks whether it is locked has a shared lock, for a moment.
            Err(TryLockError::WouldBlock) if file.try_lock_shared().is_ok() => {
                drop(file);
                std::thread::yield_now();
                continue;
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(Failure::new("lock", &error).at(path)),
        }
        let ours = file.metadata().step_at("look at", &path)?;
        // Someone who cleans up may have removed the file between these two steps.
        if fs::metadata(&path).is_ok_and(|found| found.ino() == ours.ino()) {
            file.set_len(0).step_at("write", &path)?;
            let text = serde_json::to_vec(owner)?;
            file.write_all(&text).step_at("write", &path)?;
            return Ok(Some(file));
        }
    }
}

/// Renames a container in the networks that it is in.
pub(crate) fn rename(shared: &Path, lan: &str, id: &str, name: &str) -> io::Result<()> {
    let directory = directory(shared, lan);
    for (address, owner) in find(shared, lan) {
        if owner.id != id {
            continue;
        }
        let owner = Owner {
            name: name.to_owned(),
            ..owner
        };
        // In place: the lock is on this file.
        let mut file = OpenOptions::new()
            .write(true)
            .open(directory.join(address.to_string()))?;
        let text = serde_json::to_vec(&owner)?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lan(subnet: &str, range: Option<&str>) -> Lan {
        Lan {
            id: "ab".into(),
            subnet: subnet.parse().unwrap(),
            gateway: Some(Ipv4Addr::new(10, 9, 0, 1)),
            range: range.map(|range| range.parse().unwrap()),
            internal: false,
            kind: LanKind::Bridge,
        }
    }

    fn interface(name: &str, address: Option<Ipv4Addr>) -> Interface {
        Interface {
            lan: None,
            address,
            hardware: None,
            owner: Owner {
                id: name.repeat(64),
                name: name.to_owned(),
                aliases: Vec::new(),
            },
        }
    }

    #[test]
    fn an_address_belongs_to_one_and_is_free_when_that_one_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::on_host(directory.path());
        let lan = lan("10.9.0.0/29", None);
        let claim =
            |name: &str, address: Option<Ipv4Addr>| claim(&place, &lan, &interface(name, address));
        let (first, lock) = claim("a", None).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 9, 0, 2));
        let (second, _other) = claim("b", None).unwrap();
        assert_eq!(second, Ipv4Addr::new(10, 9, 0, 3));
        let error = claim("c", Some(first)).unwrap_err();
        assert_eq!(error.detail.unwrap(), "another container has 10.9.0.2");
        let error = claim("c", lan.gateway).unwrap_err();
        assert!(error.detail.unwrap().ends_with("of the gateway"));
        let names = || -> Vec<String> {
            let found = find(&place.shared, &lan.id).into_iter();
            found.map(|(_, owner)| owner.name).collect()
        };
        assert_eq!(names(), ["a", "b"]);
        rename(&place.shared, &lan.id, &"a".repeat(64), "renamed-a").unwrap();
        assert_eq!(names(), ["renamed-a", "b"]);
        // As when its holder was killed.
        drop(lock);
        assert_eq!(names(), ["b"]);
        assert_eq!(claim("c", None).unwrap().0, first);
        let (address, lock) = claim("d", None).unwrap();
        drop(Lease::take(&place.shared, &lan.id, address, lock));
        assert!(!directory_of(&place, &lan).join("10.9.0.2").exists());
    }

    fn directory_of(place: &Place, lan: &Lan) -> PathBuf {
        super::directory(&place.shared, &lan.id)
    }

    #[test]
    fn addresses_come_from_the_range_and_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::on_host(directory.path());
        let lan = lan("10.9.0.0/24", Some("10.9.0.252/30"));
        let locks: Vec<_> = (0..2)
            .map(|_| claim(&place, &lan, &interface("a", None)).unwrap())
            .collect();
        assert_eq!(locks[0].0, Ipv4Addr::new(10, 9, 0, 253));
        let error = claim(&place, &lan, &interface("a", None)).unwrap_err();
        assert_eq!(
            error.detail.unwrap(),
            "all addresses of 10.9.0.252/30 are taken"
        );
    }
}
