//! Which way the bodies of a request went, and why not a faster one: in words that do not change, counted without a lock.

use super::counters::Counter;

macro_rules! data_paths {
    ($($(#[$doc:meta])* $name:ident = $path:literal $(, $reason:literal)?;)+) => {
        /// Where the bodies of one request were moved, and why there.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum DataPath {
            $($(#[$doc])* $name,)+
        }

        impl DataPath {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Where: `spliced`, `kernel` (in kernel TLS, copied through this process), `userspace`, or `none`.
            pub fn path(self) -> &'static str {
                match self {
                    $(Self::$name => $path,)+
                }
            }

            /// Why not a faster way; spliced needs no reason.
            pub fn reason(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => [$($reason)?].first().copied(),)+
                }
            }

            /// Its name among the counters.
            pub fn counter(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("data_path.", $path $(, ".", $reason)?),)+
                }
            }
        }
    };
}

data_paths! {
    /// From socket to socket inside the kernel, at least a part.
    Spliced = "spliced";
    /// There was no body to move.
    KernelNoBody = "kernel", "no_body";
    /// The bodies were shorter than `offload.splice_from`, or came in chunks that were.
    KernelBelowThreshold = "kernel", "below_threshold";
    /// All of it had been read together with what came before it.
    KernelAlreadyRead = "kernel", "already_read";
    /// TLS control records stood in the way until the body was over.
    KernelControlRecord = "kernel", "control_record";
    /// No descriptors were left for a pipe.
    KernelNoPipe = "kernel", "no_pipe";
    /// This kernel is not known to keep spliced bytes.
    KernelNoSplice = "kernel", "no_splice_on_this_kernel";
    /// `offload.splice_from` is `never`.
    KernelSpliceNever = "kernel", "splice_from_never";
    /// `offload.mode` is `off`.
    UserspaceOffloadOff = "userspace", "offload_off";
    /// The running kernel has no TLS.
    UserspaceKernel = "userspace", "kernel_lacks_tls";
    /// The kernel does not do the cipher suite of one of the two sessions.
    UserspaceCipher = "userspace", "kernel_lacks_cipher";
    /// No body has reached `offload.hand_over_from` on one of the two sessions.
    UserspaceBelowThreshold = "userspace", "below_threshold";
    /// One of the two sessions could not be handed over.
    UserspaceHandOver = "userspace", "not_handed_over";
    /// No origin was asked: the appliance answered by itself, or reached none.
    NotForwarded = "none", "not_forwarded";
}

/// Requests by data path.
#[derive(Debug, Default)]
pub struct DataPaths([Counter; DataPath::ALL.len()]);

impl DataPaths {
    /// Counts one request.
    pub fn count(&self, path: DataPath) {
        self.0[path as usize].increment();
    }

    /// Every count with its name.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DataPath::ALL.iter().zip(&self.0).map(|(path, counter)| (path.counter(), counter.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_counted_under_its_own_name() {
        let counts = DataPaths::default();
        for (times, path) in DataPath::ALL.iter().enumerate() {
            (0..=times).for_each(|_| counts.count(*path));
        }
        for ((name, value), (times, path)) in counts.values().zip(DataPath::ALL.iter().enumerate()) {
            let expected = [Some("data_path"), Some(path.path()), path.reason()].into_iter().flatten();
            assert_eq!(name, expected.collect::<Vec<_>>().join("."));
            assert_eq!(value, times as u64 + 1);
        }
    }
}
