//! Registries of any size, who is in them, and who is not.
//!
//! Prefixes lie scattered over one part of the address space, and strangers between them: such an address is told from a
//! registered one only deep in the trie, where one from anywhere would be sooner.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packets::Family;

/// Blocks in the address space, of which a prefix takes one, or part of one.
const BLOCKS: u32 = 1 << 22;
/// Spreads consecutive numbers over them; odd, so that no two share one.
const SCATTER: u32 = 0x9e37_79b1;
/// Prefixes of each family that an organisation has.
const PER_ORGANISATION: u32 = 16;

/// So many registered prefixes of each family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources(pub(super) u32);

/// The block of a number: the first address, where the block is a /27 or a /34.
fn block(family: Family, number: u32) -> IpAddr {
    let block = number.wrapping_mul(SCATTER) % BLOCKS;
    match family {
        // 64.0.0.0/5
        Family::V4 => Ipv4Addr::from(0x4000_0000 | block << 5).into(),
        // 2a00::/12
        Family::V6 => Ipv6Addr::from(0x2a00 << 112 | u128::from(block) << 94).into(),
    }
}

fn prefix(family: Family, number: u32) -> String {
    let length = match family {
        Family::V4 => 27 + number % 6,
        Family::V6 => [48, 56, 64, 128][number as usize % 4],
    };
    format!("{}/{length}", block(family, number))
}

impl Sources {
    /// The registry, as a file.
    pub(super) fn registry(self) -> String {
        let mut text = String::new();
        for first in (0..self.0).step_by(PER_ORGANISATION as usize) {
            let number = first / PER_ORGANISATION;
            let all = (first..self.0.min(first + PER_ORGANISATION))
                .flat_map(|number| Family::BOTH.map(|family| format!("\"{}\"", prefix(family, number))));
            let all = all.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "[[organisation]]\ncodes = [\"O{number}\"]\nname = \"Organisation {number}\"\n\
                 serial_numbers = [\"{number}\"]\nsources = [{all}]"
            );
        }
        text
    }

    /// A registered address, another one in each round.
    pub(super) fn registered(self, family: Family, round: u32) -> IpAddr {
        block(family, round.wrapping_mul(7_919) % self.0)
    }

    /// Every registered prefix's first address.
    pub(super) fn addresses(self, family: Family) -> impl Iterator<Item = IpAddr> {
        (0..self.0).map(move |number| block(family, number))
    }

    /// An address that is not registered, another one in each round.
    pub(super) fn stranger(self, family: Family, round: u32) -> IpAddr {
        block(family, self.0 + round)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_block_is_taken_twice_and_strangers_have_their_own() {
        for family in Family::BOTH {
            let sources = Sources(100_000);
            let registered: HashSet<_> = sources.addresses(family).collect();
            assert_eq!(registered.len(), 100_000);
            assert!((0..1_000).all(|round| registered.contains(&sources.registered(family, round))));
            assert!((0..1_000).all(|round| !registered.contains(&sources.stranger(family, round))));
        }
    }

    #[test]
    fn the_registry_is_one_that_the_appliance_takes() {
        let file = std::env::temp_dir().join(format!("bench-sources-{}.toml", std::process::id()));
        std::fs::write(&file, Sources(1_000).registry()).unwrap();
        let registry = mtls_appliance::registry::load(std::slice::from_ref(&file)).unwrap();
        std::fs::remove_file(file).unwrap();
        assert_eq!(registry.prefixes().count(), 2_000);
        let owned = |address| registry.prefixes().any(|(prefix, _)| prefix.contains(&address));
        for family in Family::BOTH {
            assert!(owned(Sources(1_000).registered(family, 3)));
            assert!(!owned(Sources(1_000).stranger(family, 3)));
        }
    }
}
