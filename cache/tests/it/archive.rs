//! Writes archives as nobody should: every field as the test wants it.

/// An archive in the making.
#[derive(Default, Clone)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// One entry of it; the fields are written as they are.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    /// What the header says; the data may be of another length.
    pub(crate) size: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) data: Vec<u8>,
}

pub(crate) fn entry(flag: u8, name: impl AsRef<[u8]>) -> Entry {
    Entry {
        name: name.as_ref().to_vec(),
        flag,
        mode: if flag == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_000_000_000,
        size: b"00000000000".to_vec(),
        link: Vec::new(),
        device: (0, 0),
        data: Vec::new(),
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
    let data = data.as_ref().to_vec();
    Entry {
        size: format!("{:011o}", data.len()).into_bytes(),
        data,
        ..entry(b'0', name)
    }
}

pub(crate) fn directory(name: impl AsRef<[u8]>) -> Entry {
    entry(b'5', name)
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry {
        link: target.as_ref().to_vec(),
        mode: 0o777,
        ..entry(b'2', name)
    }
}

pub(crate) fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry {
        link: target.as_ref().to_vec(),
        ..entry(b'1', name)
    }
}

impl Entry {
    pub(crate) fn mode(self, mode: u32) -> Entry {
        Entry { mode, ..self }
    }

    pub(crate) fn size(self, size: impl AsRef<[u8]>) -> Entry {
        Entry {
            size: size.as_ref().to_vec(),
            ..self
        }
    }
}

impl Archive {
    pub(crate) fn new() -> Archive {
        Archive::default()
    }

    /// An archive of these entries, properly ended.
    pub(crate) fn of(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
        let mut archive = Archive::new();
        for entry in entries {
            archive.add(&entry);
        }
        archive.end()
    }

    pub(crate) fn add(&mut self, entry: &Entry) {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &entry.name[..entry.name.len().min(100)]);
        put(100, format!("{:07o}", entry.mode).as_bytes());
        put(108, format!("{:07o}", entry.uid).as_bytes());
        put(116, format!("{:07o}", entry.gid).as_bytes());
        put(124, &entry.size);
        put(136, format!("{:011o}", entry.mtime).as_bytes());
        put(156, &[entry.flag]);
        put(157, &entry.link[..entry.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", entry.device.0).as_bytes());
        put(337, format!("{:07o}", entry.device.1).as_bytes());
        self.add_block(block);
        self.add_data(&entry.data);
    }

    /// Adds a header block after computing its checksum.
    pub(crate) fn add_block(&mut self, mut block: [u8; 512]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }

    pub(crate) fn add_data(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// Adds an extended header with these records.
    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + body.to_string().len();
            if length.to_string().len() > body.to_string().len() {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw_pax(&data);
    }

    pub(crate) fn raw_pax(&mut self, data: &[u8]) {
        let size = format!("{:011o}", data.len());
        self.add(&Entry {
            data: data.to_vec(),
            ..entry(b'x', "PaxHeaders.0/x").size(size)
        });
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
