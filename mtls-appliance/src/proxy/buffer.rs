//! A read buffer whose memory is borrowed from the thread only while it holds bytes: an idle connection has none.

use std::cell::RefCell;

/// Blocks a thread keeps for reuse.
const KEPT: usize = 256;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not yet consumed; at most `capacity`.
pub struct Buffer {
    block: Option<Box<[u8]>>,
    capacity: usize,
    start: usize,
    end: usize,
    /// How much of the block has ever been filled.
    used: usize,
}

impl Buffer {
    /// An empty buffer without memory.
    pub fn new(capacity: usize) -> Self {
        Self { block: None, capacity, start: 0, end: 0, used: 0 }
    }

    /// What is there.
    pub fn filled(&self) -> &[u8] {
        self.block.as_deref().and_then(|block| block.get(self.start..self.end)).unwrap_or_default()
    }

    /// Number of bytes there.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Nothing there.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No room for more.
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    /// Drops the first `n` bytes; gives the memory back when nothing is left.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.release();
        }
    }

    /// Room for more bytes; everything that is free, in one piece. Say [`Self::added`] afterwards.
    pub fn room(&mut self) -> &mut [u8] {
        let capacity = self.capacity;
        let block = self.block.get_or_insert_with(|| take(capacity));
        if self.start > 0 {
            block.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut block[self.end..]
    }

    /// `n` bytes were written into [`Self::room`].
    pub fn added(&mut self, n: usize) {
        self.end = (self.end + n).min(self.capacity);
        self.used = self.used.max(self.end);
        if self.is_empty() {
            self.release();
        }
    }

    fn release(&mut self) {
        self.start = 0;
        self.end = 0;
        let used = std::mem::take(&mut self.used);
        if let Some(mut block) = self.block.take() {
            FREE.with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    // Another client's connection gets this block next: nothing of this one may be in it.
                    block[..used].fill(0);
                    free.push(block);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

fn take(capacity: usize) -> Box<[u8]> {
    let found = FREE.with(|free| {
        let mut free = free.borrow_mut();
        let at = free.iter().rposition(|block| block.len() == capacity)?;
        Some(free.swap_remove(at))
    });
    found.unwrap_or_else(|| vec![0; capacity].into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumes_in_order_and_makes_room_at_the_end() {
        let mut buffer = Buffer::new(8);
        buffer.room()[..6].copy_from_slice(b"abcdef");
        buffer.added(6);
        buffer.consume(4);
        assert_eq!(buffer.filled(), b"ef");
        assert_eq!(buffer.room().len(), 6);
        buffer.room()[..6].copy_from_slice(b"ghijkl");
        buffer.added(6);
        assert!(buffer.is_full());
        assert_eq!(buffer.filled(), b"efghijkl");
    }

    #[test]
    fn a_reused_block_holds_nothing_of_its_former_user() {
        let mut buffer = Buffer::new(4);
        buffer.room().copy_from_slice(b"mine");
        buffer.added(4);
        buffer.consume(4);
        assert!(buffer.block.is_none());
        let mut next = Buffer::new(4);
        assert_eq!(next.room(), [0; 4]);
    }
}
