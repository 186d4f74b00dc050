//! The file system that databases and workers write to: what it does decides much of what short tasks cost.

use std::fs;
use std::path::Path;

/// The type of the file system below a directory, in words: `ext4`, `ext4 without a journal`, `tmpfs`.
pub fn describe(directory: &Path) -> String {
    let Ok(directory) = directory.canonicalize() else {
        return "an unknown file system".to_owned();
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some((device, kind)) = mount_of(&mounts, &directory) else {
        return "an unknown file system".to_owned();
    };
    if kind == "ext4" && !has_journal(device) {
        return "ext4 without a journal".to_owned();
    }
    kind.to_owned()
}

/// Device and type of the mount that a directory is in: of several, the deepest, and of those the last.
fn mount_of<'a>(mounts: &'a str, directory: &Path) -> Option<(&'a str, &'a str)> {
    let each = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
        directory
            .starts_with(point)
            .then_some((point.len(), (device, kind)))
    });
    each.max_by_key(|(length, _)| *length)
        .map(|(_, found)| found)
}

/// Whether the kernel keeps a journal for an ext4 device; true where that cannot be told.
fn has_journal(device: &str) -> bool {
    let Some(name) = Path::new(device).file_name().and_then(|name| name.to_str()) else {
        return true;
    };
    // The kernel lists every mounted ext4 here, whatever other names its device has.
    if !Path::new("/proc/fs/ext4").join(name).exists() {
        return true;
    }
    let prefix = format!("{name}-");
    let journals = fs::read_dir("/proc/fs/jbd2")
        .into_iter()
        .flatten()
        .flatten();
    journals
        .map(|entry| entry.file_name())
        .any(|journal| journal.to_string_lossy().starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mounts =
            "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/deep xfs rw 0 0\n";
        let of = |path| mount_of(mounts, Path::new(path));
        assert_eq!(of("/home"), Some(("/dev/vda", "ext4")));
        assert_eq!(of("/tmp/x"), Some(("tmpfs", "tmpfs")));
        assert_eq!(of("/tmp/deep/x"), Some(("/dev/vdb", "xfs")));
        assert_eq!(of("/tmpfile"), Some(("/dev/vda", "ext4")));
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn what_is_over_another_mount_hides_it() {
        let mounts = "/dev/vda / ext4 rw 0 0\noverlay / overlay rw 0 0\n";
        let found = mount_of(mounts, Path::new("/x"));
        assert_eq!(found, Some(("overlay", "overlay")));
    }

    #[test]
    fn what_is_not_there_is_unknown() {
        assert_eq!(
            describe(Path::new("/no such directory")),
            "an unknown file system"
        );
        assert_eq!(describe(Path::new("/proc")), "proc");
    }
}
