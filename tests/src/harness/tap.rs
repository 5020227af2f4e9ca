//! A listener in front of somebody: passes every byte on, both ways, and keeps them as they were on the wire.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// What came through one direction of one connection.
type Wire = Arc<Mutex<Vec<u8>>>;

/// Listens until it is dropped.
pub struct Tap {
    /// Where to connect to.
    pub address: SocketAddr,
    directions: Arc<Mutex<Vec<Wire>>>,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Tap {
    /// In front of `target`.
    ///
    /// # Errors
    /// When no port is left.
    pub fn new(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (directions, closing) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (wires, ends): (Arc<Mutex<Vec<Wire>>>, _) = (Arc::clone(&directions), Arc::clone(&closing));
        let acceptor = thread::spawn(move || {
            for here in listener.incoming() {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(here), Ok(there)) = (here, TcpStream::connect(target)) else { continue };
                let (Ok(back), Ok(forth)) = (here.try_clone(), there.try_clone()) else { continue };
                for (from, to) in [(here, there), (forth, back)] {
                    let wire = Wire::default();
                    wires.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&wire));
                    thread::spawn(move || pass(&from, &to, &wire));
                }
            }
        });
        Ok(Self { address, directions, closing, acceptor: Some(acceptor) })
    }

    /// The bytes of each direction of each connection so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Vec<u8>> {
        let directions = self.directions.lock().unwrap_or_else(PoisonError::into_inner);
        directions.iter().map(|wire| wire.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes the acceptor; what is being passed ends with its connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, wire: &Wire) {
    let mut piece = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        wire.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..n]);
        if to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
