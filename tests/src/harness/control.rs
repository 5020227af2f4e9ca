//! The control socket from a test's point of view: a peer that says what it likes, and one that stands between two.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says lines, and hears them with the descriptors that come along.
pub struct ControlPeer {
    stream: UnixStream,
    heard: Vec<u8>,
}

impl ControlPeer {
    /// Connects to a control socket.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn connect(path: &Path) -> anyhow::Result<Self> {
        Self::new(UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?)
    }

    fn new(stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, heard: Vec::new() })
    }

    /// Says something.
    ///
    /// # Errors
    /// When nobody hears it any more.
    pub fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.stream.write_all(text.as_bytes()).with_context(|| format!("saying {text:?}"))
    }

    fn pass_on(&mut self, text: &str, descriptors: &[OwnedFd]) -> anyhow::Result<()> {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ensure!(borrowed.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)), "too many");
        let sent = sendmsg(&self.stream, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        ensure!(sent == text.len(), "only {sent} bytes of {text:?}");
        Ok(())
    }

    /// The next line with its end, and the descriptors that came until then; nothing at the end of the connection.
    ///
    /// # Errors
    /// When nothing comes in time.
    pub fn line(&mut self) -> anyhow::Result<(String, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        loop {
            let end = self.heard.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            if let Some(end) = end {
                return Ok((String::from_utf8(self.heard.drain(..end).collect())?, descriptors));
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut piece = [0; 4096];
            let message =
                recvmsg(&self.stream, &mut [IoSliceMut::new(&mut piece)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
            let message = message.context("waiting for a line")?;
            for part in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = part {
                    descriptors.extend(received);
                }
            }
            if message.bytes == 0 {
                return Ok((String::from_utf8(std::mem::take(&mut self.heard))?, descriptors));
            }
            self.heard.extend_from_slice(&piece[..message.bytes]);
        }
    }
}

/// Stands between a new appliance and the one that runs, and keeps back one line of the new one for ever.
pub struct Between {
    reached: Receiver<()>,
    path: PathBuf,
}

impl Between {
    /// Listens at `path` on behalf of the appliance that answers at `real`.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(path: &Path, real: &Path, kept_back: &'static str) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let real = real.to_owned();
        let (reach, reached) = channel();
        thread::spawn(move || -> anyhow::Result<()> {
            let mut new = ControlPeer::new(listener.accept()?.0)?;
            let mut old = ControlPeer::connect(&real)?;
            loop {
                let (line, _) = new.line()?;
                if line.trim_end() == kept_back {
                    reach.send(())?;
                    // Nothing more comes but its end.
                    new.line()?;
                    return Ok(());
                }
                ensure!(!line.is_empty(), "the new one is gone");
                old.say(&line)?;
                let (line, descriptors) = old.line()?;
                new.pass_on(&line, &descriptors)?;
            }
        });
        Ok(Self { reached, path: path.to_owned() })
    }

    /// Waits until the new appliance has said the line that is kept back.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&self) -> anyhow::Result<()> {
        match self.reached.recv_timeout(PATIENCE) {
            Ok(()) => Ok(()),
            Err(error) => bail!("the line never came through {}: {error}", self.path.display()),
        }
    }
}
