//! Processes that attach guards take turns, from the first look at what is there until they can be asked what they hold.
//!
//! An appliance that starts has its guards attached some time before its control socket answers. Whoever attached one in
//! between would take them away from it. The lock is on the folder of the pins, as flock(2) has it: it ends with the process.
//! Detaching does not wait for a turn: who wants an interface open wants it now.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, major, minor};

use super::{GuardError, environment, object};
use crate::config;

/// Long enough for another process's start; less than the units allow for attaching.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(20);

/// The right to attach guards with pins in one folder, until it is dropped.
#[derive(Debug)]
pub struct AttachTurn {
    _locked: File,
    /// Folders that were made for the lock; they go again when nothing is in them.
    made: Vec<PathBuf>,
}

impl AttachTurn {
    /// Waits for it, 20 s at most; not at all where attaching to one of these interfaces would come to nothing.
    ///
    /// # Errors
    /// What would be in the way of attaching, or another process keeps its turn.
    pub fn wait(config: &config::Guard, interfaces: &[String]) -> Result<AttachTurn, GuardError> {
        for interface in interfaces {
            environment::find_interface(interface)?;
        }
        object::required()?;
        environment::check_privileges()?;
        environment::check_pin_dir(&config.pin_dir)?;
        AttachTurn::at(&config.pin_dir, PATIENCE)
    }

    fn at(folder: &Path, patience: Duration) -> Result<AttachTurn, GuardError> {
        let refused = |error: io::Error| GuardError::PinDir { path: folder.to_owned(), problem: error.to_string() };
        let deadline = Instant::now() + patience;
        let mut made = Vec::new();
        loop {
            if let Some(locked) = attempt(folder, &mut made).map_err(refused)? {
                return Ok(AttachTurn { _locked: locked, made });
            }
            if Instant::now() >= deadline {
                return Err(GuardError::Busy { pin_dir: folder.to_owned(), patience, holder: holder(folder) });
            }
            std::thread::sleep(AGAIN);
        }
    }
}

impl Drop for AttachTurn {
    fn drop(&mut self) {
        // While it is locked: who waits for it sees that it is another one.
        while let Some(folder) = self.made.pop() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The lock, unless somebody else has it.
fn attempt(folder: &Path, made: &mut Vec<PathBuf>) -> io::Result<Option<File>> {
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
    while let Some(path) = missing.pop() {
        match fs::create_dir(path) {
            Ok(()) => made.push(path.to_owned()),
            // Somebody else makes it, or removes it just now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => lock(opened?, folder),
    }
}

/// The same, when the folder is open; it may have been removed, and made anew by another process, since.
fn lock(opened: File, folder: &Path) -> io::Result<Option<File>> {
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let locked = opened.metadata()?;
    let same = fs::metadata(folder).is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino()));
    Ok(same.then_some(opened))
}

/// The process that has locked the folder, where the kernel tells: the fifth word of a line of `/proc/locks` is its id, the
/// sixth `MAJOR:MINOR:INODE` (proc_locks(5)).
fn holder(folder: &Path) -> Option<u32> {
    let folder = fs::metadata(folder).ok()?;
    let (major, minor) = (major(folder.dev()), minor(folder.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", folder.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, file, ..] = *words else { return None };
        (file == wanted).then(|| process.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("guard-turn-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn who_waits_too_long_is_told_for_whom() {
        let folder = Folder::new("long");
        let pins = folder.0.join("a/b");
        let first = AttachTurn::at(&pins, Duration::ZERO).unwrap();
        let begun = Instant::now();
        let error = AttachTurn::at(&pins, Duration::from_millis(100)).unwrap_err();
        assert!(begun.elapsed() >= Duration::from_millis(100));
        let message = error.to_string();
        for part in [pins.to_str().unwrap(), &format!("process {}", std::process::id()), "try again"] {
            assert!(message.contains(part), "no {part:?}: {message}");
        }
        drop(first);
        assert!(fs::read_dir(&folder.0).unwrap().next().is_none(), "folders were left behind");
        AttachTurn::at(&pins, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_folder_that_was_there_or_is_used_stays() {
        let folder = Folder::new("stays");
        drop(AttachTurn::at(&folder.0, Duration::ZERO).unwrap());
        let turn = AttachTurn::at(&folder.0.join("pins"), Duration::ZERO).unwrap();
        fs::create_dir(folder.0.join("pins/v1")).unwrap();
        drop(turn);
        assert!(folder.0.join("pins/v1").exists());
    }

    #[test]
    fn the_lock_of_a_folder_that_was_removed_or_made_anew_is_worth_nothing() {
        let folder = Folder::new("anew");
        let pins = folder.0.join("pins");
        fs::create_dir(&pins).unwrap();
        let open = || File::open(&pins).unwrap();
        let (first, second) = (open(), open());
        fs::remove_dir(&pins).unwrap();
        assert!(lock(first, &pins).unwrap().is_none());
        let turn = AttachTurn::at(&pins, Duration::ZERO).unwrap();
        assert!(lock(second, &pins).unwrap().is_none());
        assert!(lock(open(), &pins).unwrap().is_none(), "two have it");
        drop(turn);
        fs::create_dir(&pins).unwrap();
        assert!(lock(open(), &pins).unwrap().is_some());
    }

    #[test]
    fn one_has_it_at_a_time_while_the_folder_comes_and_goes() {
        let folder = Folder::new("one");
        let pins = folder.0.join("pins");
        let (holders, met) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let turn = AttachTurn::at(&pins, Duration::from_secs(60)).unwrap();
                        met.fetch_or(holders.fetch_add(1, Ordering::SeqCst) > 0, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(2));
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        assert!(!met.into_inner(), "two had it at the same time");
    }
}
