//! Puts organisations together and notes what two of them claim.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::{Organisation, Registry};

/// What is taken so far, over all files. An owner is a position in `titles`, and in `organisations` as long as no
/// organisation was refused.
#[derive(Default)]
pub(super) struct Index {
    organisations: Vec<Arc<Organisation>>,
    /// The files that were begun.
    files: Vec<PathBuf>,
    /// Each organisation's file, as a position in `files`, and how it is called in reports.
    titles: Vec<(usize, Box<str>)>,
    codes: HashMap<Box<str>, usize>,
    serial_numbers: HashMap<Box<str>, usize>,
    /// Outermost prefixes by first address; no two overlap.
    ranges: BTreeMap<IpAddr, (IpNet, usize)>,
}

/// Whether a value is still free.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Free,
    /// By the same organisation.
    Repeated,
    /// By another one, called so.
    Taken(Box<str>),
}

impl Index {
    /// Begins a file; the organisations that come next are in it.
    pub(super) fn begin_file(&mut self, file: &Path) {
        self.files.push(file.to_owned());
    }

    /// Begins an organisation, called `title` in reports; what is claimed next is its own.
    pub(super) fn begin(&mut self, title: String) {
        self.titles.push((self.files.len().saturating_sub(1), title.into()));
    }

    /// Keeps the organisation that was begun last.
    pub(super) fn keep(&mut self, organisation: Organisation) {
        self.organisations.push(Arc::new(organisation));
    }

    /// How many were begun.
    pub(super) fn len(&self) -> usize {
        self.titles.len()
    }

    pub(super) fn claim_code(&mut self, code: &str) -> Claim {
        let owner = self.owner();
        let before = claim(&mut self.codes, code, owner);
        self.judge(before)
    }

    pub(super) fn claim_serial_number(&mut self, serial_number: &str) -> Claim {
        let owner = self.owner();
        let before = claim(&mut self.serial_numbers, serial_number, owner);
        self.judge(before)
    }

    /// A prefix may lie within another of the same organisation, and touch none of a different one. Returns the one
    /// that is in the way, too.
    pub(super) fn claim_prefix(&mut self, prefix: IpNet) -> Result<(), (IpNet, Box<str>)> {
        let owner = self.owner();
        // Prefixes are nested or disjoint: only the last one that begins at or before this one can enclose it.
        if let Some((_, (outer, other))) = self.ranges.range(..=prefix.network()).next_back()
            && outer.contains(&prefix)
        {
            return if *other == owner { Ok(()) } else { Err((*outer, self.title(*other))) };
        }
        let mut inner = Vec::new();
        for (start, (range, other)) in self.ranges.range(prefix.network()..=prefix.broadcast()) {
            if *other != owner {
                return Err((*range, self.title(*other)));
            }
            inner.push(*start);
        }
        for start in inner {
            self.ranges.remove(&start);
        }
        self.ranges.insert(prefix.network(), (prefix, owner));
        Ok(())
    }

    pub(super) fn into_registry(self) -> Registry {
        Registry {
            organisations: self.organisations,
            by_serial_number: self.serial_numbers,
            ranges: self.ranges.into_values().collect(),
        }
    }

    /// Whether some certificate could ever be let in.
    pub(super) fn has_serial_numbers(&self) -> bool {
        !self.serial_numbers.is_empty()
    }

    fn owner(&self) -> usize {
        self.titles.len().saturating_sub(1)
    }

    fn judge(&self, before: Option<usize>) -> Claim {
        match before {
            None => Claim::Free,
            Some(owner) if owner == self.owner() => Claim::Repeated,
            Some(owner) => Claim::Taken(self.title(owner)),
        }
    }

    fn title(&self, owner: usize) -> Box<str> {
        let Some((file, title)) = self.titles.get(owner) else { return Box::default() };
        match self.files.get(*file) {
            Some(path) if file + 1 < self.files.len() => format!("{title} of {}", path.display()).into(),
            _ => title.clone(),
        }
    }
}

/// The owner before, who stays.
fn claim(taken: &mut HashMap<Box<str>, usize>, value: &str, owner: usize) -> Option<usize> {
    match taken.entry(value.into()) {
        Entry::Occupied(entry) => Some(*entry.get()),
        Entry::Vacant(entry) => {
            entry.insert(owner);
            None
        }
    }
}
