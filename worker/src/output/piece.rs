//! Reading a piece from its file and packing it for the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use scitq_shared::output::Chunk;

/// Reads so many bytes at an offset. A file that is shorter (its task cut it) is read as if zeros followed.
pub(super) fn read(file: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let file = File::open(file)?;
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer)
}

/// Reads and packs.
pub(super) fn pack(file: &Path, offset: u64, bytes: usize) -> io::Result<Chunk> {
    Chunk::pack(&read(file, offset, bytes)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_reads_as_zeros_behind_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("stdout");
        std::fs::write(&file, b"abc").unwrap();
        assert_eq!(read(&file, 1, 5).unwrap(), b"bc\0\0\0");
        assert_eq!(read(&file, 10, 2).unwrap(), b"\0\0");
    }
}
