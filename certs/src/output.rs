//! The folder the PKI lies in: locking, atomic replacement of files, and the stamp that tells whether they still serve.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::issue::Issued;
use crate::spec::Spec;

/// Files are renewed when one of them has less than this left.
const RENEW_BEFORE: Duration = Duration::days(7);

const STAMP: &str = ".stamp.toml";
const LOCK: &str = ".lock";

/// Hash of what the files were generated from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp(String);

impl Stamp {
    pub(crate) fn of(inputs: &[&str]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for input in inputs {
            context.update(&(input.len() as u64).to_be_bytes());
            context.update(input.as_bytes());
        }
        Self(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// What the stamp file says. `renew_at` and `generated_at` are Unix seconds.
#[derive(Serialize, Deserialize)]
struct StampFile {
    description: Stamp,
    generated_at: i64,
    renew_at: i64,
}

/// The output folder, locked against other processes until dropped.
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(crate) fn lock(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create the folder {}", path.display()))?;
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).with_context(|| format!("cannot write {}", lock_path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Whether an earlier run with the same description left every file, none of them due for renewal.
    pub(crate) fn is_current(&self, stamp: &Stamp, spec: &Spec, now: OffsetDateTime) -> bool {
        let Ok(text) = fs::read_to_string(self.path.join(STAMP)) else {
            return false;
        };
        let Ok(found) = toml::from_str::<StampFile>(&text) else {
            return false;
        };
        // A clock set back before the generation would make the certificates not yet valid.
        let in_time = (found.generated_at..found.renew_at).contains(&now.unix_timestamp());
        found.description == *stamp
            && in_time
            && self.path.join("registry.toml").is_file()
            && spec.names().all(|name| {
                self.path.join(format!("{name}.pem")).is_file() && self.path.join(format!("{name}.key")).is_file()
            })
    }

    /// Writes every file, the stamp last, so that an interrupted run is repeated.
    pub(crate) fn replace(
        &self,
        issued: &[Issued],
        registry: &str,
        stamp: &Stamp,
        now: OffsetDateTime,
    ) -> anyhow::Result<()> {
        let stale = self.path.join(STAMP);
        if stale.exists() {
            fs::remove_file(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
        for entry in issued {
            self.add(&entry.name.to_string(), &entry.chain_pem, &entry.key_pem)?;
        }
        self.write("registry.toml", registry, 0o644)?;
        // What is described as already expired never asks for renewal.
        let first_end = issued.iter().map(|entry| entry.not_after).filter(|end| *end > now).min();
        let renew_at = first_end.map_or(now, |end| end - RENEW_BEFORE);
        let stamp_file = StampFile {
            description: Stamp(stamp.0.clone()),
            generated_at: now.unix_timestamp(),
            renew_at: renew_at.unix_timestamp(),
        };
        self.write(STAMP, &toml::to_string(&stamp_file)?, 0o644)
    }

    /// Writes one entry's files.
    pub(crate) fn add(&self, name: &str, chain_pem: &str, key_pem: &str) -> anyhow::Result<()> {
        self.write(&format!("{name}.key"), key_pem, 0o600)?;
        self.write(&format!("{name}.pem"), chain_pem, 0o644)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let partial = self.path.join(format!(".{name}.partial"));
        let result = (|| -> std::io::Result<()> {
            match fs::remove_file(&partial) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
            file.write_all(content.as_bytes())?;
            fs::rename(&partial, &path)
        })();
        result.with_context(|| format!("cannot write {}", path.display()))
    }
}
