//! A DNS server for one name, whose addresses a test changes as it goes (RFC 1035).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Answers questions for A records of every name alike; ends with this value.
pub struct NameServer {
    address: SocketAddr,
    answers: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    stop: Arc<()>,
    thread: Option<JoinHandle<()>>,
}

const NAME_ERROR: u8 = 3;
const TYPE_A: [u8; 2] = [0, 1];

impl NameServer {
    /// Starts one on loopback that says of every name that it does not exist.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let address = socket.local_addr()?;
        let answers = Arc::new(Mutex::new(Some(Vec::new())));
        let stop = Arc::new(());
        let (known, alive) = (Arc::clone(&answers), Arc::downgrade(&stop));
        let thread = std::thread::spawn(move || {
            let mut question = [0; 1500];
            while alive.strong_count() > 0 {
                let Ok((length, peer)) = socket.recv_from(&mut question) else { continue };
                let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(answer) = known.and_then(|known| answer(&question[..length], &known)) {
                    // Whoever asked and is gone needs no answer.
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Ok(Self { address, answers, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What every name stands for from now on; without addresses it does not exist.
    pub fn say(&self, addresses: &[Ipv4Addr]) {
        self.set(Some(addresses.to_vec()));
    }

    /// Answers nothing any more.
    pub fn fall_silent(&self) {
        self.set(None);
    }

    fn set(&self, answers: Option<Vec<Ipv4Addr>>) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop = Arc::new(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to one question: header, the question again, and a record an address, all pointing to the name in it.
fn answer(message: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let (header, rest) = message.split_at_checked(12)?;
    let mut end = 0;
    while *rest.get(end)? != 0 {
        end += 1 + usize::from(*rest.get(end)?);
    }
    let question = rest.get(..end + 5)?;
    let records = if question.get(end + 1..end + 3)? == TYPE_A { addresses } else { &[] };
    let code = if addresses.is_empty() { NAME_ERROR } else { 0 };
    let mut out = Vec::from(header.get(..2)?);
    // A response; recursion is available.
    out.extend_from_slice(&[0x80 | (header.get(2)? & 0x79), 0x80 | code, 0, 1, 0, u8::try_from(records.len()).ok()?]);
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend_from_slice(question);
    for address in records {
        // Name at offset 12, type A, class IN, one second, four bytes.
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        out.extend_from_slice(&address.octets());
    }
    Some(out)
}
