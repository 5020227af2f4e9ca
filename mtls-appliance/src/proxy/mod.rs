//! The I/O shell: listener, connection, origin pool.
