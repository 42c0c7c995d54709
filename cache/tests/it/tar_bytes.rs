//! The canonical tar, byte for byte where another writer makes the same, else as others read it.

use std::io::Write;
use std::process::Command;

use rbuild_cache::tar_write::{PaxWriter, TarHeader, TarKind};

use crate::support::{listing, pipe};

fn header(kind: TarKind, path: &[u8]) -> TarHeader {
    TarHeader {
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: 1_000_000_000,
        ..TarHeader::new(kind, path)
    }
}

fn archive(entries: &[(TarHeader, &[u8])]) -> Vec<u8> {
    let mut writer = PaxWriter::new(Vec::new());
    for (header, data) in entries {
        writer.entry(header).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn ustar_headers_are_those_of_python() {
    let entries = [
        (
            TarHeader {
                size: 3,
                ..header(TarKind::File, b"file")
            },
            b"abc".as_slice(),
        ),
        (
            TarHeader {
                mode: 0o1777,
                ..header(TarKind::Directory, b"dir/")
            },
            b"",
        ),
        (
            TarHeader {
                link: b"to/there".to_vec(),
                ..header(TarKind::Symlink, b"link")
            },
            b"",
        ),
        (
            TarHeader {
                link: b"file".to_vec(),
                ..header(TarKind::HardLink, b"hard")
            },
            b"",
        ),
        (
            TarHeader {
                device: (8, 300),
                ..header(TarKind::BlockDevice, b"block")
            },
            b"",
        ),
        (
            TarHeader {
                device: (1, 3),
                ..header(TarKind::CharDevice, b"char")
            },
            b"",
        ),
        (header(TarKind::Fifo, b"fifo"), b""),
        // Split between prefix and name.
        (
            header(
                TarKind::File,
                [[b'a'; 99].as_slice(), &[b'b'; 90]].join(&b'/').as_slice(),
            ),
            b"",
        ),
        (
            TarHeader {
                uid: 0o7_777_777,
                size: 0,
                ..header(TarKind::File, b"large-id")
            },
            b"",
        ),
    ];
    let script = r"
import tarfile, sys, io
out = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.USTAR_FORMAT)
def add(name, kind, data=b'', **more):
    m = tarfile.TarInfo(name); m.type = kind; m.mode = 0o644; m.uid = 1; m.gid = 2; m.mtime = 1000000000
    m.size = len(data)
    for key, value in more.items(): setattr(m, key, value)
    out.addfile(m, io.BytesIO(data))
add('file', tarfile.REGTYPE, b'abc')
add('dir', tarfile.DIRTYPE, mode=0o1777)
add('link', tarfile.SYMTYPE, linkname='to/there')
add('hard', tarfile.LNKTYPE, linkname='file')
add('block', tarfile.BLKTYPE, devmajor=8, devminor=300)
add('char', tarfile.CHRTYPE, devmajor=1, devminor=3)
add('fifo', tarfile.FIFOTYPE)
add('a' * 99 + '/' + 'b' * 90, tarfile.REGTYPE)
add('large-id', tarfile.REGTYPE, uid=0o7777777)
out.close()
";
    let python = pipe(Command::new("python3").args(["-c", script]), b"");
    let ours = archive(&entries);
    assert_eq!(&ours[ours.len() - 1024..], [0; 1024]);
    let body = without_devices(&ours[..ours.len() - 1024]);
    let python = without_devices(&python);
    let block = body
        .iter()
        .zip(&python)
        .position(|(a, b)| a != b)
        .unwrap_or(0)
        / 512
        * 512;
    assert!(
        python.starts_with(&body),
        "Python writes other bytes: {:?}, not {:?}",
        String::from_utf8_lossy(&python[block..block + 512]),
        String::from_utf8_lossy(&body[block..block + 512]),
    );
    assert!(python[body.len()..].iter().all(|&byte| byte == 0));
}

/// Go writes zeros as device numbers of what is no device, Python nothing; so the checksums differ.
fn without_devices(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" && !matches!(block[156], b'3' | b'4') {
            for range in [148..156, 329..345] {
                block[range].fill(0);
            }
        }
    }
    archive
}

#[test]
fn what_ustar_cannot_hold_is_read_from_extended_headers() {
    let long = [[b'n'; 200].as_slice(), &[b'm'; 250]].join(&b'/');
    let entries = [
        (header(TarKind::File, &long), b"".as_slice()),
        (
            header(
                TarKind::Directory,
                &[&[b'd'; 120], b"/".as_slice()].concat(),
            ),
            b"",
        ),
        (header(TarKind::File, "nämé".as_bytes()), b""),
        (header(TarKind::File, b"raw\xff\xfe"), b""),
        (
            TarHeader {
                link: vec![b't'; 101],
                ..header(TarKind::Symlink, b"s")
            },
            b"",
        ),
        (
            TarHeader {
                uid: 0o10_000_000,
                gid: u32::MAX - 1,
                ..header(TarKind::File, b"ids")
            },
            b"",
        ),
        (
            TarHeader {
                mtime: -5,
                ..header(TarKind::File, b"past")
            },
            b"",
        ),
        (
            TarHeader {
                mtime: 1 << 33,
                ..header(TarKind::File, b"future")
            },
            b"",
        ),
        (
            TarHeader {
                xattrs: vec![(
                    b"security.capability".to_vec(),
                    b"\x01\0\0\x02=\n \0".to_vec(),
                )],
                size: 1,
                ..header(TarKind::File, b"caps")
            },
            b"x",
        ),
    ];
    let bytes = archive(&entries);
    let lines = listing(&bytes);
    assert_eq!(
        lines[0],
        format!("-0644 1:2 {} =0", String::from_utf8(long.clone()).unwrap())
    );
    assert_eq!(lines[1], format!("d0644 1:2 {}/", "d".repeat(120)));
    assert_eq!(lines[2], "-0644 1:2 nämé =0");
    assert_eq!(lines[4], format!("l0644 1:2 s -> {}", "t".repeat(101)));
    assert_eq!(
        lines[5],
        format!("-0644 {}:{} ids =0", 0o10_000_000, u32::MAX - 1)
    );
    assert_eq!(
        lines[8],
        "-0644 1:2 caps =1 SCHILY.xattr.security.capability"
    );
    // And by GNU tar, which reports broken headers on standard error and by its status.
    let names = pipe(
        Command::new("tar").args(["-t", "-f", "-", "--quoting-style=literal"]),
        &bytes,
    );
    let wanted: Vec<u8> = entries
        .iter()
        .flat_map(|(header, _)| [header.path.as_slice(), b"\n"].concat())
        .collect();
    assert_eq!(names, wanted);
    let script = r"
import sys, tarfile
for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|', errors='surrogateescape'):
    print(int(m.mtime), m.pax_headers.get('SCHILY.xattr.security.capability', '').encode('utf-8', 'surrogateescape').hex())
";
    let times = pipe(Command::new("python3").args(["-c", script]), &bytes);
    let times = String::from_utf8(times).unwrap();
    let times: Vec<_> = times.lines().collect();
    assert_eq!(times[6].trim(), "-5");
    assert_eq!(times[7].trim(), (1_u64 << 33).to_string());
    assert_eq!(times[8], "1000000000 010000023d0a2000");
}

#[test]
fn extended_header_is_named_and_sorted_as_go_does() {
    let header = TarHeader {
        xattrs: vec![(b"security.capability".to_vec(), b"v".to_vec())],
        uid: 3_000_000,
        ..header(TarKind::File, "d/ü".as_bytes())
    };
    let bytes = archive(&[(header, b"")]);
    let text = |range: std::ops::Range<usize>| {
        String::from_utf8_lossy(&bytes[range])
            .trim_end_matches('\0')
            .to_owned()
    };
    assert_eq!(text(0..100), "d/PaxHeaders.0");
    assert_eq!(bytes[156], b'x');
    assert_eq!(text(100..108), "0000000");
    assert_eq!(text(136..148), "00000000000");
    assert_eq!(
        text(329..345),
        "",
        "no device numbers in an extended header"
    );
    assert_eq!(
        text(512..1024),
        "38 SCHILY.xattr.security.capability=v\n13 path=d/ü\n15 uid=3000000\n"
    );
    assert_eq!(
        text(1024 + 329..1024 + 345),
        "0000000\u{0}0000000",
        "but in every other one"
    );
    // The entry itself keeps what is ASCII of its name, and 0 for what does not fit.
    assert_eq!(text(1024..1124), "d/");
    assert_eq!(text(1024 + 108..1024 + 116), "0000000");
    assert_eq!(text(1024 + 116..1024 + 124), "0000002");
}

#[test]
fn record_lengths_count_themselves() {
    // Around the lengths where one digit more makes the record longer.
    for length in [
        80, 81, 82, 83, 84, 85, 86, 87, 978, 979, 980, 981, 982, 983, 984, 985, 986,
    ] {
        let path = vec![b'p'; length + 20];
        let bytes = archive(&[(header(TarKind::File, &path), b"")]);
        assert_eq!(
            listing(&bytes),
            [format!("-0644 1:2 {} =0", "p".repeat(length + 20))]
        );
    }
}

#[test]
fn data_of_another_length_is_an_error() {
    let mut writer = PaxWriter::new(Vec::new());
    writer
        .entry(&TarHeader {
            size: 3,
            ..header(TarKind::File, b"f")
        })
        .unwrap();
    assert!(
        writer.write_all(b"abcd").is_err(),
        "more than the header says"
    );
    let mut writer = PaxWriter::new(Vec::new());
    writer
        .entry(&TarHeader {
            size: 3,
            ..header(TarKind::File, b"f")
        })
        .unwrap();
    writer.write_all(b"ab").unwrap();
    assert!(writer.finish().is_err(), "less than the header says");
}
