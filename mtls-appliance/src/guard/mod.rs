//! The XDP guard's userspace side: load, attach, pin, feed the maps.
