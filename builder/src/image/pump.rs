//! Reading a stream in one thread and working on it in another.
//!
//! A caller's reader need not be able to move between threads (standard input's is not), the
//! decompressors and the unpacking want one that can. As a gain, reading goes on while the other
//! thread decompresses.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// Chunks in flight; bounds memory.
const CHUNKS: usize = 8;

/// Runs `work` in a thread of its own over what `reader` yields, and returns what it returns.
pub(crate) fn pump<T: Send>(
    reader: &mut dyn Read,
    work: impl FnOnce(&mut (dyn Read + Send)) -> T + Send,
) -> T {
    let (sender, receiver) = mpsc::sync_channel(CHUNKS);
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            work(&mut Chunks {
                receiver,
                chunk: Vec::new(),
                at: 0,
            })
        });
        feed(reader, &sender);
        drop(sender);
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sends chunks until the end, an error, or until nobody wants any more.
fn feed(reader: &mut dyn Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        let result = match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                Ok(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = result.is_err();
        if sender.send(result).is_err() || failed {
            return;
        }
    }
}

/// The stream in the other thread.
struct Chunks {
    receiver: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_in_order() {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let read = pump(&mut bytes.as_slice(), |stream| {
            let mut read = Vec::new();
            stream.read_to_end(&mut read).map(|_| read)
        });
        assert!(read.unwrap() == bytes);
    }

    #[test]
    fn who_stops_early_does_not_wait_for_the_end() {
        let first = pump(&mut io::repeat(9), |stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).map(|()| byte[0])
        });
        assert_eq!(first.unwrap(), 9);
    }

    #[test]
    fn errors_arrive() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        let result = pump(&mut Broken, |stream| io::copy(stream, &mut io::sink()));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(5));
    }
}
