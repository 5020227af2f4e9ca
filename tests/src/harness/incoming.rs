//! Messages as they come in from any stream: heads, bodies in every framing, ends.

use std::io::{self, ErrorKind, Read};

use anyhow::{Context, anyhow, ensure};

use super::Response;
use crate::http::{Framing, HEAD_LIMIT, Head, chunk_size};
use crate::pattern;

/// A stream, and what was read of it and not yet consumed.
pub struct Incoming<'a, R> {
    stream: &'a mut R,
    buffer: &'a mut Vec<u8>,
}

impl<'a, R: Read> Incoming<'a, R> {
    /// Goes on with that buffer.
    pub fn new(stream: &'a mut R, buffer: &'a mut Vec<u8>) -> Self {
        Self { stream, buffer }
    }

    /// A response with its interim ones; its body goes to `sink`.
    ///
    /// # Errors
    /// When it is not whole and well-formed.
    pub fn response(&mut self, method: &str, sink: &mut dyn FnMut(&[u8])) -> anyhow::Result<Response> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.head()?;
            if head.status()? / 100 != 1 || head.status()? == 101 {
                break head;
            }
            ensure!(interim.len() < 100, "more than 100 interim responses");
            interim.push(head);
        };
        let status = head.status()?;
        let mut digest = pattern::Sha256::default();
        self.body(head.response_framing(method)?, &mut |bytes| {
            digest.update(bytes);
            sink(bytes);
        })?;
        Ok(Response { interim, head, status, body: Vec::new(), length: digest.length(), sha256: digest.finish() })
    }

    /// A body, to its end.
    ///
    /// # Errors
    /// When it is not whole and well-formed.
    pub fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.exactly(length, sink)?,
            Framing::Chunked => loop {
                let size = chunk_size(&self.line()?)?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    break;
                }
                self.exactly(size, sink)?;
                ensure!(self.line()?.is_empty(), "a chunk is longer than its size says");
            },
            Framing::UntilClose => loop {
                sink(self.buffer);
                self.buffer.clear();
                if self.read().context("the connection ended within a body")? == 0 {
                    break;
                }
            },
        }
        Ok(())
    }

    /// A head.
    ///
    /// # Errors
    /// When the stream ends, or it is malformed.
    pub fn head(&mut self) -> anyhow::Result<Head> {
        let mut bytes = Vec::new();
        loop {
            let line = self.line().context("waiting for a head")?;
            if line.is_empty() {
                return Ok(Head::parse(&bytes)?);
            }
            bytes.extend_from_slice(&line);
            bytes.extend_from_slice(b"\r\n");
            ensure!(bytes.len() < HEAD_LIMIT, "a head longer than {HEAD_LIMIT} bytes");
        }
    }

    /// Everything up to the end of the connection; and whether it ended properly, with close_notify.
    ///
    /// # Errors
    /// When the read fails otherwise than by an end.
    pub fn to_end(&mut self) -> anyhow::Result<(Vec<u8>, bool)> {
        let proper = loop {
            match self.read() {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if is_end(&error) => break false,
                Err(error) => return Err(error).context("reading to the end"),
            }
        };
        Ok((std::mem::take(self.buffer), proper))
    }

    fn line(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                ensure!(line.ends_with(b"\r\n"), "a line without CR: {:?}", String::from_utf8_lossy(&line));
                line.truncate(line.len() - 2);
                return Ok(line);
            }
            searched = self.buffer.len();
            ensure!(searched < HEAD_LIMIT, "a line longer than {HEAD_LIMIT} bytes");
            self.fill()?;
        }
    }

    /// That many bytes.
    ///
    /// # Errors
    /// When the stream ends before.
    pub fn exactly(&mut self, mut length: u64, sink: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.fill().context("the connection ended within a body")?;
            }
            let step = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            sink(&self.buffer[..step]);
            self.buffer.drain(..step);
            length -= step as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        match self.read()? {
            0 => Err(anyhow!("the peer closed")),
            _ => Ok(()),
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let read = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read)
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
