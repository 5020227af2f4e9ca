//! Why a packet was passed or dropped. Each reason has one counter.

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It goes on to the network stack.
    Pass,
    /// It ends at the interface.
    Drop,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $index:literal, $name:literal, $action:ident;)+) => {
        /// Why a packet was passed or dropped.
        ///
        /// The number is the index of its counter, the name appears in metrics, logs and status: both are stable, new
        /// reasons are added at the end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $index,)+
        }

        impl Reason {
            /// Every reason, in the order of its counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The stable name.
            #[inline(always)]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)+
                }
            }

            /// What happens to a packet with this reason.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Reason::$variant => Action::$action,)+
                }
            }
        }
    };
}

reasons! {
    /// Neither IPv4 nor IPv6 below at most [`crate::layout::MAX_VLAN_TAGS`] tags: ARP, LLDP, ...
    NotIp = 0, "not_ip", Pass;
    /// An IP header that the network stack discards: wrong version, impossible length, cut short.
    MalformedIp = 1, "malformed_ip", Pass;
    /// IP, but not TCP: ICMP, neighbour discovery, UDP, ...
    NotTcp = 2, "not_tcp", Pass;
    /// A fragment other than the first: it is nothing without the first, which was judged.
    LaterFragment = 3, "later_fragment", Pass;
    /// TCP to a port that is not guarded.
    NotGuarded = 4, "not_guarded", Pass;
    /// TCP to a guarded port from an organisation in the registry.
    Registered = 5, "registered", Pass;
    /// TCP to a guarded port from an address that no organisation owns.
    UnregisteredSource = 6, "unregistered_source", Drop;
    /// TCP whose ports and flags are not in the packet.
    ShortTcp = 7, "short_tcp", Drop;
    /// A first fragment that ends before TCP's ports and flags, or before the end of IPv6's header chain
    /// (RFC 1858 section 3, RFC 7112 section 5).
    ShortFirstFragment = 8, "short_first_fragment", Drop;
    /// A fragment at offset 1 (8 bytes), which would overwrite TCP's flags (RFC 3128).
    FragmentOffsetOne = 9, "fragment_offset_one", Drop;
    /// An IPv6 header chain that cannot be followed to its end: more than
    /// [`crate::layout::MAX_IPV6_EXTENSION_HEADERS`] extension headers, or one that lies beyond what the program can read.
    Ipv6HeaderLimit = 10, "ipv6_header_limit", Drop;
}

impl Reason {
    /// The index of its counter.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use crate::layout::REASON_SLOTS;

    #[test]
    fn counters_are_numbered_without_gaps_and_fit() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index() as usize, position, "{}", reason.name());
        }
        assert!(Reason::ALL.len() <= REASON_SLOTS as usize);
    }

    #[test]
    fn names_are_unique_and_snake_case() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            let name = reason.name();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            assert!(Reason::ALL[..position].iter().all(|earlier| earlier.name() != name), "{name}");
        }
    }
}
