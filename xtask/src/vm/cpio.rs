//! The `newc` archive form that the kernel unpacks as its first root file system, written, not read.
//!
//! The kernel takes several archives one after the other in one file, each padded, which is how what is the same for
//! every run is kept apart from what is not. Documented in the kernel's `driver-api/early-userspace/buffer-format`.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// What the kernel wants between two archives.
const ALIGNMENT: u64 = 512;

/// An archive being written.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
    directories: BTreeSet<String>,
}

/// One entry's header, as far as it varies.
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, written: 0, inode: 0, directories: BTreeSet::new() }
    }

    /// A directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parent(path)?;
        self.directories.insert(path.to_owned());
        self.entry(&Entry { name: path, mode: DIRECTORY | 0o755, device: (0, 0), content: &[] })
    }

    /// A regular file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(&Entry { name: path, mode: REGULAR | (permissions & 0o7777), device: (0, 0), content })
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(&Entry { name: path, mode: SYMLINK | 0o777, device: (0, 0), content: target.as_bytes() })
    }

    /// A character device.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent(path)?;
        self.entry(&Entry { name: path, mode: CHARACTER | 0o600, device: (major, minor), content: &[] })
    }

    /// A file or a whole tree of this machine, at another place. Symbolic links stay links.
    pub(crate) fn tree(&mut self, from: &Path, to: &str) -> Result<()> {
        let context = || format!("cannot put {} into the virtual machine", from.display());
        let metadata = fs::symlink_metadata(from).with_context(context)?;
        if metadata.is_symlink() {
            let target = fs::read_link(from).with_context(context)?;
            self.symlink(to, &target.to_string_lossy()).with_context(context)
        } else if metadata.is_dir() {
            self.directory(to).with_context(context)?;
            let mut entries: Vec<_> = fs::read_dir(from).with_context(context)?.collect::<Result<_, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.tree(&entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()))?;
            }
            Ok(())
        } else if metadata.is_file() {
            debug_assert!(metadata.size() <= u64::from(u32::MAX));
            let content = fs::read(from).with_context(context)?;
            self.file(to, metadata.permissions().mode(), &content).with_context(context)
        } else {
            // Sockets and the like have no business in there.
            Ok(())
        }
    }

    /// Ends the archive; another may follow in the same file.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry(&Entry { name: "TRAILER!!!", mode: 0, device: (0, 0), content: &[] })?;
        self.pad(ALIGNMENT)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.inode += 1;
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 GiB");
        let size = u32::try_from(entry.content.len()).map_err(too_large)?;
        let name_size = u32::try_from(entry.name.len() + 1).map_err(too_large)?;
        let fields = [
            self.inode,
            entry.mode,
            0, // user
            0, // group
            1, // links
            0, // time
            size,
            0, // device of the file system
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0, // checksum, unused in this form
        ];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.put(header.as_bytes())?;
        self.put(entry.name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(entry.content)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        while !self.written.is_multiple_of(alignment) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_headers_names_and_padding_as_the_kernel_reads_them() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        // The directory first: 110 bytes of header, "a\0", no padding needed.
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..112], b"a\0");
        let file = &bytes[112..];
        assert_eq!(&file[14..22], b"000081a4");
        assert_eq!(&file[54..62], b"00000005");
        assert_eq!(&file[110..114], b"a/b\0");
        assert_eq!(&file[116..121], &b"hello"[..]);
    }

    #[test]
    fn a_directory_is_written_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("x/1", 0o644, b"").unwrap();
        archive.file("x/2", 0o644, b"").unwrap();
        let bytes = archive.finish().unwrap();
        let headers = bytes.windows(6).filter(|window| window == b"070701").count();
        assert_eq!(headers, 4, "x, x/1, x/2 and the trailer");
    }
}
