//! Memory stays flat however large a blob is. Alone in its process, since it looks at the whole
//! process's peak. Needs `docker-registry` and `setpriv`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking where it went wrong"
)]

#[path = "it/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::io::Write;

use rbuild_registry::Descriptor;
use support::{TestRegistry, TestStore, client, no_progress};

/// Bytes of the blob.
const SIZE: u64 = 256 << 20;

/// Bytes by which the peak may grow.
const ALLOWED: u64 = 16 << 20;

/// Peak resident memory since the last reset, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
fn a_large_blob_needs_no_more_memory_than_a_small_one() {
    let registry = TestRegistry::plain();
    let (source, target) = (TestStore::new(), TestStore::new());
    let mut writer = source.store.blob_writer().unwrap();
    let block = support::bytes(1 << 20, 5);
    for number in 0..SIZE >> 20 {
        writer.write_all(&number.to_le_bytes()).unwrap();
        writer.write_all(&block[8..]).unwrap();
    }
    let info = writer.commit(None).unwrap();
    assert_eq!(info.size, SIZE);
    let blob = Descriptor {
        media_type: String::new(),
        digest: info.digest,
        size: info.size,
    };
    let location = registry.location("app", "x");
    let client = client();
    // Connections and their buffers are there afterwards.
    client.ping(&registry.host()).unwrap();
    reset_peak();
    let before = peak();
    client
        .push_blob(&location, &source.store, &blob, None, &no_progress)
        .unwrap();
    client
        .fetch_blob(&location, &blob, &target.store, &no_progress)
        .unwrap();
    let grown = peak() - before;
    assert!(grown < ALLOWED, "the peak grew by {grown} bytes");
    assert_eq!(target.store.blob_size(&blob.digest).unwrap(), Some(SIZE));
}
