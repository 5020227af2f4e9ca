//! Where the guard outlives the daemon: pins on a BPF file system.
//!
//! `PIN_DIR/vLAYOUT/INTERFACE/` holds one pin per map and the pin of the link, `link`. A kernel reuses a pinned map without a
//! look at its layout, so the layouts are compared here, and maps that do not fit are replaced as a whole.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, MapInfo};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::{Ebpf, EbpfLoader};
use mtls_appliance_common::layout::{LAYOUT_VERSION, map};

use super::GuardError;
use super::error::chain;

/// The maps that are pinned. Others (the ring of log records) are the daemon's own.
pub(super) const PINNED_MAPS: [&str; 16] = [
    map::ACTIVE,
    map::POLICY,
    map::PORTS,
    map::V4[0],
    map::V4[1],
    map::V6[0],
    map::V6[1],
    map::ADDRESSES,
    map::SOURCES,
    map::ORGANISATION_DUE,
    map::HEARTBEAT,
    map::REASONS,
    map::ORGANISATIONS,
    map::ORGANISATION_SLOTS,
    map::SAMPLE,
    map::NOTE,
];

const LINK: &str = "link";
/// Before the name of a map that is not in its place yet.
const STAGED: &str = "new-";

/// The pins of one interface.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    base: PathBuf,
    folder: PathBuf,
    interface: String,
    /// Its name in `folder`.
    escaped: String,
}

impl Pins {
    pub(super) fn new(base: &Path, interface: &str) -> Pins {
        // A BPF file system refuses names with a dot, VLAN interfaces have one.
        let escaped = interface.replace('%', "%25").replace('.', "%2e");
        Pins {
            base: base.to_owned(),
            folder: base.join(format!("v{LAYOUT_VERSION}")).join(&escaped),
            interface: interface.to_owned(),
            escaped,
        }
    }

    /// Names of the interfaces that there are pins of, whatever the version of their layout.
    pub(super) fn interfaces(base: &Path) -> BTreeSet<String> {
        let folders = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let names = folders(base).flat_map(|version| folders(&version).collect::<Vec<_>>());
        let names = names.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned()));
        names.map(|name| name.replace("%2e", ".").replace("%25", "%")).collect()
    }

    /// The interface's name.
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn link(&self) -> PathBuf {
        self.folder.join(LINK)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes the folder; what was made is noted in `undo`.
    pub(super) fn create_folder(&self, undo: &mut Undo) -> Result<(), GuardError> {
        let mut missing: Vec<&Path> = self.folder.ancestors().take_while(|path| !path.exists()).collect();
        while let Some(path) = missing.pop() {
            std::fs::create_dir(path).map_err(|error| self.refused(&error))?;
            undo.folders.push(path.to_owned());
        }
        for name in PINNED_MAPS {
            // Left by a process that was killed between staging and moving.
            match std::fs::remove_file(self.map(&format!("{STAGED}{name}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.refused(&error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn refused(&self, error: &io::Error) -> GuardError {
        let problem = match error.raw_os_error() {
            Some(libc::EROFS) => {
                "read-only: under systemd, ProtectKernelTunables= must be off or ReadWritePaths= name it".to_owned()
            }
            _ => format!("{error}: the process must be able to write there"),
        };
        GuardError::PinDir { path: self.base.clone(), problem }
    }

    /// Whether every map is pinned with the layout that it has in `fresh`.
    pub(super) fn maps_fit(&self, fresh: &Ebpf) -> Result<bool, GuardError> {
        for name in PINNED_MAPS {
            let Ok(pinned) = MapInfo::from_pin(self.map(name)) else {
                return Ok(false);
            };
            let wanted = map_data(fresh, name)?.info().map_err(GuardError::kernel("reading the layout of a map"))?;
            if Shape::of(&pinned)? != Shape::of(&wanted)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets the loader take the maps from their pins.
    pub(super) fn reuse(&self, loader: &mut EbpfLoader<'_>) {
        for name in PINNED_MAPS {
            loader.map_pin_path(name, self.map(name));
        }
    }

    /// Pins the maps beside their places.
    pub(super) fn stage(&self, ebpf: &Ebpf, undo: &mut Undo) -> Result<(), GuardError> {
        for name in PINNED_MAPS {
            let path = self.map(&format!("{STAGED}{name}"));
            map_data(ebpf, name)?.pin(&path).map_err(GuardError::kernel("pinning a map"))?;
            undo.files.push(path);
        }
        Ok(())
    }

    /// Moves staged maps to their places, over older ones.
    pub(super) fn unstage(&self, undo: &mut Undo) -> Result<(), GuardError> {
        for name in PINNED_MAPS {
            let (from, to) = (self.map(&format!("{STAGED}{name}")), self.map(name));
            std::fs::rename(&from, &to).map_err(|error| self.refused(&error))?;
            undo.files.push(to);
        }
        Ok(())
    }

    /// Handles to the pinned maps.
    pub(super) fn maps(&self) -> Result<Vec<MapData>, GuardError> {
        let open = |name| MapData::from_pin(self.map(name)).map_err(GuardError::kernel("opening a pinned map"));
        PINNED_MAPS.into_iter().map(open).collect()
    }

    /// Whether these maps, in the order of [`PINNED_MAPS`], are the ones that are pinned.
    pub(super) fn are_of(&self, maps: &[MapData]) -> bool {
        PINNED_MAPS.iter().zip(maps).all(|(name, map)| self.is_of(name, map))
    }

    fn is_of(&self, name: &str, map: &MapData) -> bool {
        let ids = (MapInfo::from_pin(self.map(name)).map(|info| info.id()), map.info().map(|info| info.id()));
        matches!(ids, (Ok(pinned), Ok(open)) if pinned == open)
    }

    /// Pins these maps, in the order of [`PINNED_MAPS`], unless they are pinned.
    pub(super) fn restore(&self, maps: &[MapData], undo: &mut Undo) -> Result<(), GuardError> {
        let doing = "pinning a map again";
        for (name, map) in PINNED_MAPS.iter().zip(maps) {
            if self.is_of(name, map) {
                continue;
            }
            let staged = self.map(&format!("{STAGED}{name}"));
            map.pin(&staged).map_err(GuardError::kernel(doing))?;
            undo.files.push(staged.clone());
            std::fs::rename(&staged, self.map(name)).map_err(|error| self.refused(&error))?;
        }
        Ok(())
    }

    /// The pinned link: this version's, else that of another version of the layout.
    pub(super) fn existing_link(&self) -> Option<(FdLink, PathBuf)> {
        std::iter::once(self.folder.clone())
            .chain(self.other_versions())
            .map(|folder| folder.join(LINK))
            .find_map(|path| Some((PinnedLink::from_pin(&path).ok()?.into(), path)))
    }

    /// This version's pinned link.
    pub(super) fn own_link(&self) -> Result<FdLink, GuardError> {
        match PinnedLink::from_pin(self.link()) {
            Ok(link) => Ok(link.into()),
            Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
                let other = self.other_versions().find(|folder| folder.join(LINK).exists());
                Err(self.no_use(match other {
                    Some(folder) => format!(
                        "the pins in {} are of another version of this program: ask the mtls-appliance that attached it, \
                         or run `mtls-appliance guard attach` with this one, which replaces it between two packets",
                        folder.display()
                    ),
                    None => format!(
                        "no guard is pinned in {}: start the appliance, or run `mtls-appliance guard attach`; if one is \
                         attached, guard.interfaces and guard.pin_dir must be what it was attached with",
                        self.folder.display()
                    ),
                }))
            }
            Err(error) => Err(self.unusable(&error)),
        }
    }

    /// The link is there, and its program not on the interface.
    pub(super) fn lost_interface(&self) -> GuardError {
        self.no_use(format!(
            "nothing guards it: the link in {} is of an interface that was removed or renamed since: start the appliance \
             again, or run `mtls-appliance guard attach`",
            self.folder.display()
        ))
    }

    /// The pins are removed, and the program stays on the interface.
    pub(super) fn still_attached(&self) -> GuardError {
        self.no_use(format!(
            "the pins in {} are removed, but another process holds the program's link open, and it stays attached until \
             that process ends; find it with `bpftool link show` and `fuser`",
            self.folder.display(),
        ))
    }

    /// A pin that cannot be opened, or is not what it should be.
    pub(super) fn unusable(&self, error: &dyn std::error::Error) -> GuardError {
        self.no_use(format!(
            "the pins in {} cannot be read: {}: run this as root; if that does not help they are of another build: ask the \
             mtls-appliance that attached it, or run `mtls-appliance guard attach` with this one",
            self.folder.display(),
            chain(error)
        ))
    }

    fn no_use(&self, problem: String) -> GuardError {
        GuardError::Pinned { interface: self.interface.clone(), problem }
    }

    /// Removes the pin of a link that does not hold the interface any more: it was removed or renamed.
    pub(super) fn remove_dead_link(&self) -> Result<(), GuardError> {
        match std::fs::remove_file(self.link()) {
            Ok(()) => {
                let folder = self.folder.display();
                log::warn!(target: "guard", "the link in {folder} was of an interface that was removed or renamed: removed");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Moves a link that another version pinned to its place here.
    pub(super) fn adopt_link(&self, from: &Path) -> Result<(), GuardError> {
        if from == self.link() {
            return Ok(());
        }
        std::fs::rename(from, self.link()).map_err(|error| self.refused(&error))
    }

    /// Removes what other versions of the layout left for this interface.
    pub(super) fn remove_other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for folder in self.other_versions() {
            removed.extend(remove_folder(&folder)?);
        }
        Ok(removed)
    }

    /// Removes everything of this interface; the program is detached with its link.
    pub(super) fn remove_all(&self) -> Result<Vec<PathBuf>, GuardError> {
        let mut removed = remove_folder(&self.folder).map_err(|error| self.refused(&error))?;
        removed.extend(self.remove_other_versions().map_err(|error| self.refused(&error))?);
        let _ = std::fs::remove_dir(&self.base);
        Ok(removed)
    }

    fn other_versions(&self) -> impl Iterator<Item = PathBuf> {
        std::fs::read_dir(&self.base)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with('v'))
            .map(|entry| entry.path().join(&self.escaped))
            .filter(|folder| *folder != self.folder && folder.is_dir())
    }
}

/// Removes the link first, so that the program never runs without its pins.
fn remove_folder(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    paths.sort_by_key(|path| path.file_name() != Some(LINK.as_ref()));
    for path in &paths {
        std::fs::remove_file(path)?;
    }
    std::fs::remove_dir(folder)?;
    if let Some(version) = folder.parent() {
        let _ = std::fs::remove_dir(version); // stays when another interface has pins in it
    }
    Ok(paths)
}

/// What would be left behind by a failure; removed on drop unless it [succeeded](Undo::commit).
#[derive(Debug, Default)]
pub(super) struct Undo {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Undo {
    pub(super) fn commit(mut self) {
        self.files.clear();
        self.folders.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for file in self.files.drain(..) {
            let _ = std::fs::remove_file(file);
        }
        while let Some(folder) = self.folders.pop() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// What must be the same for a pinned map to be used by another program.
#[derive(Debug, PartialEq)]
struct Shape {
    kind: aya::maps::MapType,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> Result<Shape, GuardError> {
        Ok(Shape {
            kind: info.map_type().map_err(GuardError::kernel("reading the layout of a map"))?,
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

fn map_data<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a MapData, GuardError> {
    match ebpf.map(name) {
        Some(
            Map::Array(data) | Map::PerCpuArray(data) | Map::LpmTrie(data) | Map::HashMap(data) | Map::LruHashMap(data),
        ) => Ok(data),
        _ => Err(GuardError::kernel("looking for the program's maps")(MapError::InvalidName { name: name.to_owned() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_interface_gets_a_folder_that_a_bpf_file_system_takes() {
        let pins = Pins::new(Path::new("/sys/fs/bpf/guard"), "eth0.100");
        assert_eq!(pins.link(), Path::new("/sys/fs/bpf/guard/v3/eth0%2e100/link"));
        assert_ne!(pins.folder(), Pins::new(Path::new("/sys/fs/bpf/guard"), "eth0%2e100").folder());
    }

    #[test]
    fn interfaces_are_told_by_the_folders_of_their_pins() {
        let base = std::env::temp_dir().join(format!("guard-interfaces-{}", std::process::id()));
        let names = ["eth0", "eth0.100", "a%2eb", "a.%"];
        for name in names {
            Pins::new(&base, name).create_folder(&mut Undo::default()).unwrap();
            std::fs::create_dir_all(Pins::new(&base, name).folder()).unwrap();
        }
        std::fs::create_dir_all(base.join("v0").join("old")).unwrap();
        let found = Pins::interfaces(&base);
        std::fs::remove_dir_all(&base).unwrap();
        assert_eq!(found, names.into_iter().chain(["old"]).map(str::to_owned).collect());
        assert!(Pins::interfaces(&base).is_empty());
    }

    #[test]
    fn undo_removes_what_was_made_unless_it_succeeded() {
        let base = std::env::temp_dir().join(format!("guard-undo-{}", std::process::id()));
        let pins = Pins::new(&base, "eth0");
        let mut undo = Undo::default();
        pins.create_folder(&mut undo).unwrap();
        std::fs::write(pins.link(), b"").unwrap();
        undo.files.push(pins.link());
        drop(undo);
        assert!(!base.exists());

        let mut undo = Undo::default();
        pins.create_folder(&mut undo).unwrap();
        std::fs::write(pins.link(), b"").unwrap();
        undo.commit();
        assert_eq!(pins.remove_all().unwrap(), [pins.link()]);
        assert!(!base.exists());
    }
}
