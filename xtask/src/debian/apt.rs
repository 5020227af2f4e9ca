//! apt, pointed away from this machine: own sources, lists, cache and an empty package database, all in one
//! directory, so that nothing is installed and no privilege is needed. apt checks the signatures of the index.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};

use super::{
    mirror::Mirrors,
    pins::{Pin, upstream},
};
use crate::{
    exec,
    progress::{Step, note},
    workspace::{create_dir, read, write},
};

/// How old a package index may be before it is fetched again.
const INDEX_AGE: Duration = Duration::from_secs(3600);

/// One Debian release as the mirror has it now.
#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    directory: PathBuf,
}

/// A package file on the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// Its file name, version included.
    pub(crate) file: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its SHA-256 from the signed index, in hexadecimal.
    pub(crate) sha256: String,
    /// `name=version`, as apt takes it.
    pub(crate) package: String,
}

impl Suite {
    /// Prepares apt's directories below `base` and brings the package index up to date.
    pub(crate) fn open(base: &Path, name: &str) -> Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            if !exec::in_path(program) {
                bail!(
                    "`{program}` was not found: this step unpacks Debian packages and needs a Debian machine \
                     (a `debian` container will do)"
                );
            }
        }
        let mirrors = Mirrors::of_this_machine()?;
        let suite = Self { name: name.to_owned(), directory: base.join("apt").join(name) };
        for part in ["lists/partial", "cache/archives/partial", "log", "empty/partial"] {
            create_dir(&suite.directory.join(part))?;
        }
        write(&suite.directory.join("status"), "")?;
        write(&suite.directory.join("apt.conf"), configuration(&suite.directory))?;
        suite.update(&sources_list(name, &mirrors))?;
        Ok(suite)
    }

    /// Fetches the index, unless that was done for the same sources a while ago.
    fn update(&self, sources: &str) -> Result<()> {
        let stamp = self.directory.join("updated");
        let recent = fs::metadata(&stamp)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < INDEX_AGE));
        if recent && read(&stamp).is_ok_and(|present| present == sources) {
            return Ok(());
        }
        write(&self.directory.join("sources.list"), sources)?;
        let step = Step::begin(format!("reading Debian's package index ({})", self.name));
        exec::capture(self.apt("apt-get").arg("update").args(["-o", "APT::Update::Error-Mode=any"])).with_context(|| {
            format!(
                "the package index of {} cannot be read: is the network there, and the mirror of /etc/apt reachable?",
                self.name
            )
        })?;
        write(&stamp, sources)?;
        step.done();
        Ok(())
    }

    /// Finds the packages on the mirror: the pinned version, or with a notice the newest of the same series.
    pub(crate) fn resolve(&self, pins: &[Pin], series: Option<&str>, closure: bool) -> Result<Vec<Archive>> {
        let present = self.versions(pins.iter().map(|pin| pin.name.as_str()))?;
        let mut wanted = Vec::new();
        for pin in pins {
            let versions = present.get(&pin.name).map(Vec::as_slice).unwrap_or_default();
            let pin = self.available(pin, versions, series)?;
            wanted.push(format!("{}={}", pin.name, pin.version));
        }
        let packages = if closure { self.closure(&wanted)? } else { wanted };
        let listing = exec::capture(self.apt("apt-get").args(["download", "--print-uris", "-qq"]).args(&packages))?;
        let archives = listing.lines().map(parse_uri_line).collect::<Result<Vec<_>>>()?;
        if archives.len() != packages.len() {
            bail!("apt found {} of {} packages in {}", archives.len(), packages.len(), self.name);
        }
        Ok(archives)
    }

    /// The pin, or what stands in for it when the mirror has moved on to other versions.
    fn available(&self, pin: &Pin, versions: &[String], series: Option<&str>) -> Result<Pin> {
        if versions.contains(&pin.version) {
            return Ok(pin.clone());
        }
        let own_series = pin.series();
        let series = series.unwrap_or(&own_series);
        let replacement = match versions.iter().find(|version| upstream(version).starts_with(series)) {
            Some(version) => Some(Pin { name: pin.name.clone(), version: version.clone() }),
            None => self.successor(pin, series)?,
        };
        let replacement = replacement.ok_or_else(|| {
            anyhow!(
                "Debian {} has neither {} {} nor another {series}*: move the pin in xtask/provision.toml",
                self.name,
                pin.name,
                pin.version
            )
        })?;
        note(format!(
            "{} {} is no longer on the mirror; taking {} {}",
            pin.name, pin.version, replacement.name, replacement.version
        ));
        Ok(replacement)
    }

    /// For packages with the version in their name (kernels): the newest of the same series under its new name.
    fn successor(&self, pin: &Pin, series: &str) -> Result<Option<Pin>> {
        let Some((prefix, rest)) = pin.name.split_once(series) else {
            return Ok(None);
        };
        let Some(flavour) = rest.split_once('-').map(|(_, rest)| flavour_suffix(rest)) else {
            return Ok(None);
        };
        let prefix = format!("{prefix}{series}");
        let names = exec::capture(self.apt("apt-cache").args(["pkgnames", &prefix]))?;
        let names = names.lines().filter(|name| name.ends_with(&flavour));
        let mut newest: Option<Pin> = None;
        for (name, versions) in self.versions(names)? {
            let Some(version) = versions.into_iter().find(|version| upstream(version).starts_with(series)) else {
                continue;
            };
            let newer = match &newest {
                Some(best) => is_newer(&version, &best.version)?,
                None => true,
            };
            if newer {
                newest = Some(Pin { name, version });
            }
        }
        Ok(newest)
    }

    /// The versions of packages on the mirror, newest first.
    fn versions<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<BTreeMap<String, Vec<String>>> {
        let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let table = exec::capture(self.apt("apt-cache").arg("madison").args(names))?;
        for line in table.lines() {
            let mut columns = line.split('|').map(str::trim);
            if let (Some(name), Some(version)) = (columns.next(), columns.next()) {
                versions.entry(name.to_owned()).or_default().push(version.to_owned());
            }
        }
        Ok(versions)
    }

    /// The packages and all they depend on, as `name=version`.
    fn closure(&self, wanted: &[String]) -> Result<Vec<String>> {
        // apt leaves out what it finds downloaded already; here it is to find nothing.
        let nothing = format!("Dir::Cache::archives={}", self.directory.join("empty").display());
        let listing = exec::capture(
            self.apt("apt-get")
                .args(["-o", &nothing, "install", "--print-uris", "-qq", "-y"])
                .arg("--no-install-recommends")
                .args(wanted),
        )?;
        // The checksum is left to `download`: here some lines have none.
        listing
            .lines()
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .and_then(package_in)
                    .ok_or_else(|| anyhow!("apt printed a line of another form than expected: `{line}`"))
            })
            .collect()
    }

    /// Downloads what is not in the cache yet and checks every file against the index.
    pub(crate) fn fetch(&self, archives: &[Archive]) -> Result<Vec<PathBuf>> {
        let cache = self.directory.join("cache/archives");
        let missing: Vec<&Archive> = archives.iter().filter(|archive| !archive.is_intact(&cache)).collect();
        if !missing.is_empty() {
            let mib = missing.iter().map(|archive| archive.size).sum::<u64>().div_ceil(1 << 20);
            let step = Step::begin(format!("downloading {} packages ({mib} MiB) of {}", missing.len(), self.name));
            exec::capture(
                self.apt("apt-get")
                    .current_dir(&cache)
                    .args(["download", "-q"])
                    .args(missing.iter().map(|archive| &archive.package)),
            )
            .with_context(|| {
                format!(
                    "packages of Debian {} cannot be downloaded: is the network there, and {mib} MiB of disk?",
                    self.name
                )
            })?;
            step.done();
        }
        for archive in &missing {
            if !archive.is_intact(&cache) {
                bail!(
                    "{} does not have the SHA-256 that the package index gives: remove {} and try again",
                    archive.file,
                    self.directory.display()
                );
            }
        }
        Ok(archives.iter().map(|archive| cache.join(&archive.file)).collect())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("-c").arg(self.directory.join("apt.conf"));
        command
    }
}

impl Archive {
    /// Whether the file is there and has the checksum of the index.
    fn is_intact(&self, directory: &Path) -> bool {
        fs::read(directory.join(&self.file)).is_ok_and(|bytes| hex(&Sha256::digest(bytes)) == self.sha256)
    }
}

/// The part of a package name after the kernel's ABI: `56-cloud-amd64` and `cloud-amd64` both end in `-cloud-amd64`.
fn flavour_suffix(rest: &str) -> String {
    let flavour = rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('-');
    format!("-{flavour}")
}

fn is_newer(version: &str, than: &str) -> Result<bool> {
    let status = Command::new("dpkg")
        .args(["--compare-versions", version, "gt", than])
        .status()
        .context("`dpkg` cannot be started")?;
    Ok(status.success())
}

/// apt's configuration, read after this machine's own, so that a proxy set there still counts.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "{directory}/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{directory}/empty";
Dir::State "{directory}";
Dir::State::lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}/cache";
Dir::Log "{directory}/log";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::ForceHash "SHA256";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
// Hooks of this machine are about this machine's packages.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#
    )
}

/// The sources of a release: with its updates and security updates, which sid has none of.
fn sources_list(suite: &str, mirrors: &Mirrors) -> String {
    let signed_by =
        mirrors.keyring.as_ref().map(|keyring| format!("[signed-by={}] ", keyring.display())).unwrap_or_default();
    let mut list = format!("deb {signed_by}{} {suite} main\n", mirrors.main);
    if suite != "sid" {
        list += &format!("deb {signed_by}{} {suite}-updates main\n", mirrors.main);
        list += &format!("deb {signed_by}{} {suite}-security main\n", mirrors.security);
    }
    list
}

/// Parses `'uri' name_version_arch.deb size SHA256:hash`.
fn parse_uri_line(line: &str) -> Result<Archive> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let parsed = match words[..] {
        [_, file, size, hash] => match (package_in(file), size.parse(), hash.strip_prefix("SHA256:")) {
            (Some(package), Ok(size), Some(sha256)) => {
                Some(Archive { file: file.to_owned(), size, sha256: sha256.to_owned(), package })
            }
            _ => None,
        },
        _ => None,
    };
    parsed.ok_or_else(|| anyhow!("apt printed a line of another form than expected: `{line}`"))
}

/// `name=version` for the file `name_version_arch.deb`.
fn package_in(file: &str) -> Option<String> {
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    parts.next()?.ends_with(".deb").then(|| format!("{name}={}", version.replace("%3a", ":")))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> Mirrors {
        Mirrors { main: "http://m.test/debian".into(), security: "http://s.test/debian-security".into(), keyring: None }
    }

    #[test]
    fn reads_a_line_of_print_uris_with_an_epoch() {
        let archive = parse_uri_line("'http://m/x.deb' libllvm22_1%3a22.1.8-1_amd64.deb 29378692 SHA256:729e").unwrap();
        assert_eq!(archive.package, "libllvm22=1:22.1.8-1");
        assert_eq!((archive.size, archive.sha256.as_str()), (29_378_692, "729e"));
        assert!(parse_uri_line("Reading package lists...").is_err());
    }

    #[test]
    fn sid_has_no_security_suite() {
        assert_eq!(sources_list("sid", &mirrors()), "deb http://m.test/debian sid main\n");
        assert!(sources_list("bookworm", &mirrors()).contains("http://s.test/debian-security bookworm-security main"));
    }

    #[test]
    fn a_damaged_file_is_not_intact() {
        let directory = std::env::temp_dir().join(format!("xtask-intact-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("x.deb"), b"abc").unwrap();
        let mut archive = Archive {
            file: "x.deb".into(),
            size: 3,
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
            package: "x=1".into(),
        };
        assert!(archive.is_intact(&directory));
        archive.sha256.replace_range(..1, "0");
        assert!(!archive.is_intact(&directory));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_flavour_of_a_kernel_is_what_follows_its_abi() {
        assert_eq!(flavour_suffix("56-cloud-amd64"), "-cloud-amd64");
        assert_eq!(flavour_suffix("cloud-amd64"), "-cloud-amd64");
    }
}
