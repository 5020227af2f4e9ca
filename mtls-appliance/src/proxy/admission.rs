//! Who may hold how many connections at once: in total, from one source, and of one organisation.
//!
//! Counting is shared by all workers, so that the bounds mean what they say whichever worker a connection lands on; it is
//! touched when a connection comes and goes, never on the way of a request.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Present connections by something that they have in common.
#[derive(Debug)]
pub struct Tally<K: Eq + Hash + Clone>(Mutex<HashMap<K, usize>>);

impl<K: Eq + Hash + Clone> Default for Tally<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash + Clone> Tally<K> {
    /// Takes a place for `key` unless `limit` are taken; it is given back when the place is dropped.
    pub fn take(self: &Arc<Self>, key: K, limit: usize) -> Option<Place<K>> {
        let mut counts = self.counts();
        match counts.entry(key.clone()) {
            Entry::Occupied(mut entry) if *entry.get() < limit => *entry.get_mut() += 1,
            Entry::Occupied(_) => return None,
            Entry::Vacant(entry) => {
                entry.insert(1);
            }
        }
        drop(counts);
        Some(Place { tally: Arc::clone(self), key })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that one connection has taken.
#[derive(Debug)]
pub struct Place<K: Eq + Hash + Clone> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.counts();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let tally = Arc::new(Tally::default());
        let first = tally.take("a", 2).unwrap();
        let second = tally.take("a", 2).unwrap();
        assert!(tally.take("a", 2).is_none());
        assert!(tally.take("b", 2).is_some());
        drop(first);
        let third = tally.take("a", 2).unwrap();
        assert!(tally.take("a", 2).is_none());
        drop((second, third));
        assert!(tally.counts().is_empty(), "nothing is remembered of who is gone");
    }

    #[test]
    fn hosts_of_one_ipv6_network_are_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2:3::4"), source("2001:db8:1:2:ffff::1"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}
