//! Counters: fixed ones as plain atomics for the hot path, refusals by reason in a small table.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::data_path::DataPaths;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// All counters of the process. Names in `status` are the field names.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)+
            /// Requests by data path.
            pub data_path: DataPaths,
            refusals: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
        }

        impl Counters {
            fn fixed(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value())),+]
            }
        }
    };
}

/// A number that other threads may read at any time.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes one off; for gauges.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The present value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// TCP connections accepted from callers.
    connections_accepted,
    /// Client connections open now.
    connections_open,
    /// Handshakes running now.
    handshakes_running,
    /// Client handshakes completed.
    handshakes_completed,
    /// Client sessions handed to the kernel.
    client_sessions_offloaded,
    /// Client sessions kept in userspace.
    client_sessions_userspace,
    /// Connections opened to the origin.
    origin_connections,
    /// Origin sessions handed to the kernel.
    origin_sessions_offloaded,
    /// Origin sessions kept in userspace.
    origin_sessions_userspace,
    /// Sessions of either side handed to the kernel when a body reached `offload.hand_over_from`.
    sessions_handed_over_later,
    /// Requests forwarded.
    requests,
    /// Requests sent once more: an idle origin connection had just been closed, or a fresh one broke unanswered.
    requests_retried,
    /// Requests that waited for a connection because there were as many to an address as `connections` allows.
    requests_queued,
    /// Active checks of origin addresses.
    health_checks,
    /// Those of them that failed.
    health_checks_failed,
    /// Requests that became a tunnel (101 Switching Protocols).
    tunnels_opened,
    /// Tunnels open now.
    tunnels_open,
    /// Bytes that tunnels moved, in both directions.
    tunnel_bytes,
    /// Body and tunnel bytes moved by splice, in both directions.
    bytes_spliced,
    /// Body and tunnel bytes copied through userspace, in both directions.
    bytes_copied,
    /// Times that the kernel had no memory to send with (`net.ipv4.tcp_mem`): a session waited for it.
    sends_without_memory,
    /// TLS control records consumed after the hand-over, by connections that have ended.
    control_records,
    /// Traffic keys renewed in the kernel, in either direction.
    keys_renewed,
    /// Reloads that took effect.
    reloads,
    /// Reloads that failed; the last good state was kept.
    reloads_failed,
    /// Log lines lost because the log could not keep up.
    log_lines_dropped,
}

impl Counters {
    /// Counts a refusal or failure of `class` (for example `handshake_refused`) for `reason`.
    pub fn refuse(&self, class: &'static str, reason: &'static str) {
        let mut table = match self.refusals.lock() {
            Ok(table) => table,
            // A poisoned table still counts: a panic elsewhere must not silence refusals.
            Err(poisoned) => poisoned.into_inner(),
        };
        *table.entry((class, reason)).or_default() += 1;
    }

    /// Every counter with its name; refusals appear as `class.reason`.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let mut all: BTreeMap<String, u64> = self.fixed().into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        all.extend(self.data_path.values().map(|(name, value)| (name.to_owned(), value)));
        let table = match self.refusals.lock() {
            Ok(table) => table,
            Err(poisoned) => poisoned.into_inner(),
        };
        for ((class, reason), value) in table.iter() {
            all.insert(format!("{class}.{reason}"), *value);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_refusals_by_class_and_reason() {
        let counters = Counters::default();
        counters.refuse("handshake_refused", "no_certificate");
        counters.refuse("handshake_refused", "no_certificate");
        counters.requests.add(3);
        let all = counters.snapshot();
        assert_eq!(all.get("handshake_refused.no_certificate"), Some(&2));
        assert_eq!(all.get("requests"), Some(&3));
    }
}
