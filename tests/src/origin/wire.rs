//! Requests in, bytes out, and the three ways of ending a connection. Knows no behaviour.

use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::http::{Framing, HEAD_LIMIT, Head, chunk_size};
use crate::pattern;

/// How long a closing side waits for the other's FIN, so that the kernel does not answer unread bytes with a reset.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Wire {
    stream: BufReader<TlsStream<TcpStream>>,
}

pub(super) struct Request {
    pub(super) head: Head,
    pub(super) body: Body,
}

/// What is left of a request's body.
pub(super) struct Body {
    pub(super) framing: Framing,
    /// Left of the body, or of the current chunk.
    remaining: u64,
    ended: bool,
    /// The lines behind the last chunk.
    pub(super) trailers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    CloseNotify,
    Fin,
    Reset,
}

impl Wire {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: BufReader::with_capacity(64 * 1024, stream) }
    }

    /// The next request's head; `None` when the client closed between requests.
    pub(super) async fn request(&mut self) -> anyhow::Result<Option<Request>> {
        let mut bytes = Vec::new();
        loop {
            let line = self.line(HEAD_LIMIT - bytes.len()).await?;
            match line {
                None if bytes.is_empty() => return Ok(None),
                None => bail!("the connection ended within a head"),
                Some(line) if line.is_empty() => break,
                Some(line) => {
                    bytes.extend_from_slice(&line);
                    bytes.extend_from_slice(b"\r\n");
                }
            }
        }
        let head = Head::parse(&bytes)?;
        head.request()?;
        let hosts = head.all("Host").count();
        ensure!(hosts == 1, "{hosts} Host fields");
        let framing = head.request_framing()?;
        let remaining = match framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        Ok(Some(Request { head, body: Body { framing, remaining, ended: false, trailers: Vec::new() } }))
    }

    /// The next piece of a body, at most `buffer` long; 0 at its end.
    pub(super) async fn body(&mut self, body: &mut Body, buffer: &mut [u8]) -> anyhow::Result<usize> {
        if body.ended || body.framing == Framing::None {
            return Ok(0);
        }
        if body.remaining == 0 {
            if body.framing != Framing::Chunked {
                body.ended = true;
                return Ok(0);
            }
            body.remaining = chunk_size(&self.body_line().await?)?;
            if body.remaining == 0 {
                loop {
                    let line = self.body_line().await?;
                    if line.is_empty() {
                        break;
                    }
                    body.trailers.push(String::from_utf8_lossy(&line).into_owned());
                }
                body.ended = true;
                return Ok(0);
            }
        }
        let most = usize::try_from(body.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.stream.read(&mut buffer[..most]).await?;
        ensure!(read > 0, "the connection ended within a body");
        body.remaining -= read as u64;
        if body.remaining == 0 && body.framing == Framing::Chunked {
            ensure!(self.body_line().await?.is_empty(), "a chunk is longer than its size says");
        }
        Ok(read)
    }

    /// Reads the rest of a body: its length and digest.
    pub(super) async fn whole_body(&mut self, body: &mut Body) -> anyhow::Result<(u64, String)> {
        let mut digest = pattern::Sha256::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.body(body, &mut buffer).await? {
                0 => return Ok((digest.length(), digest.finish())),
                read => digest.update(&buffer[..read]),
            }
        }
    }

    /// The connection without any notion of requests; what was read ahead comes first.
    pub(super) fn stream(&mut self) -> &mut BufReader<TlsStream<TcpStream>> {
        &mut self.stream
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    pub(super) async fn close(mut self, how: How) {
        let _ = self.stream.flush().await;
        match how {
            How::CloseNotify => drop(self.stream.shutdown().await),
            How::Fin => drop(rustix::net::shutdown(self.stream.get_ref().get_ref().0, rustix::net::Shutdown::Write)),
            How::Reset => {
                let _ = self.stream.get_ref().get_ref().0.set_zero_linger();
                return;
            }
        }
        let mut scrap = vec![0; 64 * 1024];
        let drain = async { while matches!(self.stream.read(&mut scrap).await, Ok(read) if read > 0) {} };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }

    async fn body_line(&mut self) -> anyhow::Result<Vec<u8>> {
        match self.line(4096).await? {
            Some(line) => Ok(line),
            None => bail!("the connection ended within a body"),
        }
    }

    /// A line without its CR LF; `None` at the end of the stream.
    async fn line(&mut self, limit: usize) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.stream).take(limit as u64).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        ensure!(line.len() < limit, "a line or head longer than {limit} bytes");
        ensure!(line.ends_with(b"\r\n"), "a line that does not end with CR LF: {:?}", String::from_utf8_lossy(&line));
        line.truncate(line.len() - 2);
        Ok(Some(line))
    }
}
