//! Why a packet was passed or dropped. Each reason has one counter.

/// What happens to a packet. The number says which row of counters it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// It goes on to the network stack.
    Pass = 0,
    /// It ends at the interface.
    Drop = 1,
    /// It goes on, and would have ended at the interface if the guard did not merely observe.
    Observed = 2,
}

impl Action {
    /// Every action, in the order of the rows.
    pub const ALL: &'static [Action] = &[Action::Pass, Action::Drop, Action::Observed];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Pass => "passed",
            Action::Drop => "dropped",
            Action::Observed => "observed",
        }
    }
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

            /// What happens to a packet with this reason unless the operator decided otherwise.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Reason::$variant => Action::$action,)+
                }
            }

            /// The reason with this [index](Reason::index); [`Reason::NotIp`] for one that no reason has.
            #[inline(always)]
            pub const fn from_index(index: u32) -> Reason {
                match index {
                    $($index => Reason::$variant,)+
                    _ => Reason::NotIp,
                }
            }

            /// The reason with this name.
            pub fn by_name(name: &str) -> Option<Reason> {
                Self::ALL.iter().copied().find(|reason| reason.name() == name)
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
    /// The guard is switched off.
    Off = 11, "off", Pass;
    /// From an address that the operator manages the machine from: it is never dropped.
    Management = 12, "management", Pass;
    /// A SYN beyond what one source may send.
    SourceOverBudget = 13, "source_over_budget", Drop;
    /// A SYN beyond what all sources of one organisation may send together.
    OrganisationOverBudget = 14, "organisation_over_budget", Drop;
    /// The daemon has given no sign of life for longer than the operator allows: nothing is dropped until it is back.
    DaemonGone = 15, "daemon_gone", Pass;
}

impl Reason {
    /// The index of its counter in each row.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Its bit in [`crate::layout::Policy::drops`].
    #[inline(always)]
    pub const fn bit(self) -> u64 {
        Reason::bit_of(self as u32)
    }

    /// The bit of the reason with this [index](Reason::index).
    #[inline(always)]
    pub const fn bit_of(index: u32) -> u64 {
        1 << (index & 63)
    }

    /// The bits of all reasons that drop unless the operator decided otherwise.
    pub fn dropping() -> u64 {
        Self::ALL.iter().filter(|reason| reason.action() == Action::Drop).fold(0, |bits, reason| bits | reason.bit())
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
            assert_eq!(Reason::from_index(reason.index()), *reason);
            assert_eq!(Reason::by_name(reason.name()), Some(*reason));
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
