//! What each path does. A path nobody knows gets a 404, so that a misspelt test fails.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::journal::{Journal, head_as_json};
use super::tunnel;
use super::wire::{How, Request, Wire};
use crate::http::Framing;
use crate::pattern;

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close(How),
}

/// Malformed responses, whole, by the name in `/bad/<name>`.
const BAD: &[(&str, &str)] = &[
    (
        "length-and-chunked",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    ("two-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("length-text", "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"),
    ("length-negative", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
    ("unknown-coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
    ("chunked-twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("chunk-size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n"),
    ("chunk-overflow", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("chunk-longer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"),
    ("space-before-colon", "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 5\r\n\r\nhello"),
    ("obs-fold", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello"),
    ("bare-cr", "HTTP/1.1 200 OK\r\nX-A: b\rc\r\nContent-Length: 5\r\n\r\nhello"),
    ("nul", "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 5\r\n\r\nhello"),
    ("version", "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("status", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("switching", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
];

/// Performs what the request's path asks for.
pub(super) async fn answer(
    wire: &mut Wire,
    mut request: Request,
    connection: u64,
    journal: &Journal,
) -> anyhow::Result<Next> {
    let (method, target) = request.head.request()?;
    let head_only = method == "HEAD";
    if target == "*" {
        plain(wire, 200, "asterisk\n", &[], head_only).await?;
        return Ok(Next::Keep);
    }
    let target = Target::parse(target)?;
    let how = target.how()?;
    let close_asked = request.head.has_token("Connection", "close");
    let after = if close_asked { Next::Close(How::CloseNotify) } else { Next::Keep };

    // These answer before, or without, reading the body.
    match target.name.as_str() {
        "early" => {
            plain(wire, target.number("status", 413)?, "early\n", &["Connection: close"], head_only).await?;
            return Ok(Next::Close(how));
        }
        "early-reading" => {
            plain(wire, target.number("status", 200)?, "early\n", &[], head_only).await?;
            let (bytes, sha256) = wire.whole_body(&mut request.body).await?;
            journal.body(connection, bytes, &sha256, &request.body.trailers);
            return Ok(after);
        }
        "sip" => {
            sip(wire, &mut request, &target).await?;
            let (bytes, sha256) = wire.whole_body(&mut request.body).await?;
            journal.body(connection, bytes, &sha256, &request.body.trailers);
            plain(wire, 200, "drunk\n", &[], head_only).await?;
            return Ok(after);
        }
        "drop" => return Ok(Next::Close(how)),
        "unless-sick" if journal.sick() => return Ok(Next::Close(how)),
        "websocket" => {
            let key = request.head.get("Sec-WebSocket-Key").context("no Sec-WebSocket-Key")?.to_owned();
            return tunnel::websocket(wire, &key, connection, journal).await;
        }
        "tunnel" => return tunnel::serve(wire, &target, connection, journal).await,
        _ => {}
    }
    if request.head.has_token("Expect", "100-continue") {
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if target.name == "echo" {
        echo(wire, &mut request, head_only).await?;
        return Ok(after);
    }
    let (bytes, sha256) = wire.whole_body(&mut request.body).await?;
    if request.body.framing != Framing::None {
        journal.body(connection, bytes, &sha256, &request.body.trailers);
    }

    match target.name.as_str() {
        "headers" => json(wire, &head_as_json(&request.head, connection), head_only).await?,
        "sha256" => json(wire, &serde_json::json!({"sha256": sha256, "bytes": bytes}), head_only).await?,
        "stats" => json(wire, &journal.stats(), head_only).await?,
        "bytes" | "truncate" | "longer" => {
            let length = target.argument()?;
            let sent = match target.name.as_str() {
                "bytes" => length,
                "truncate" => target.number("sent", length / 2)?,
                _ => length + target.number("extra", 16)?,
            };
            wire.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
            if !head_only {
                stream_pattern(wire.stream(), 0, sent, None).await?;
            }
            if target.name == "truncate" {
                return Ok(Next::Close(how));
            }
        }
        "chunked" | "truncate-chunked" => {
            let length = target.argument()?;
            let whole = target.name == "chunked";
            let sent = if whole { length } else { target.number("sent", length / 2)? };
            wire.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            if !head_only {
                stream_pattern(wire.stream(), 0, sent, Some(target.number("size", 8192)?)).await?;
            }
            if !whole {
                return Ok(Next::Close(how));
            }
            if !head_only {
                wire.write(b"0\r\n\r\n").await?;
            }
        }
        "close" | "truncate-close" => {
            wire.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
            if !head_only {
                stream_pattern(wire.stream(), 0, target.argument()?, None).await?;
            }
            let how = if target.name == "close" { How::CloseNotify } else { how };
            return Ok(Next::Close(how));
        }
        "health" => {
            let status = if journal.sick() { 503 } else { 200 };
            plain(wire, status, "health\n", &[], head_only).await?;
        }
        "unless-sick" => plain(wire, 200, "well\n", &[], head_only).await?,
        "slow" => {
            tokio::time::sleep(Duration::from_millis(target.number("ms", 500)?)).await;
            plain(wire, 200, "slow\n", &[], head_only).await?;
        }
        "drip" => {
            let length = target.argument()?;
            wire.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
            for byte in pattern::bytes(usize::try_from(length)?) {
                tokio::time::sleep(Duration::from_millis(target.number("ms", 10)?)).await;
                wire.write(&[byte]).await?;
            }
        }
        "interim" => {
            wire.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
                .await?;
            plain(wire, 200, "final\n", &[], head_only).await?;
        }
        "status" => {
            let status = target.argument()?;
            plain(wire, status, "status\n", &[], head_only || matches!(status, 204 | 304)).await?;
        }
        "head204" => wire.write(b"HTTP/1.1 204 No Content\r\nX-Marker: 204\r\n\r\n").await?,
        "body304" => wire.write(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n").await?,
        "two" => {
            let one = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfirst\n";
            let two = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Poison: yes\r\n\r\nsecond\n";
            wire.write(format!("{one}{two}").as_bytes()).await?;
        }
        "garbage" => {
            wire.write(&pattern::bytes(300)).await?;
            return Ok(Next::Close(how));
        }
        "reply" => {
            wire.write(&target.argument_bytes()?).await?;
            if target.query.contains_key("how") {
                return Ok(Next::Close(how));
            }
        }
        "hang" => std::future::pending::<()>().await,
        "bad" => {
            let kind = target.argument_text()?;
            let (_, response) =
                BAD.iter().find(|(name, _)| *name == kind).ok_or_else(|| anyhow!("/bad/{kind}: no such response"))?;
            wire.write(response.as_bytes()).await?;
            return Ok(Next::Close(how));
        }
        _ => plain(wire, 404, "no such behaviour\n", &[], head_only).await?,
    }
    Ok(after)
}

/// Reads a piece of the body each `ms`, at most a record, until `slow` bytes are read.
async fn sip(wire: &mut Wire, request: &mut Request, target: &Target) -> anyhow::Result<()> {
    let (pause, slow) = (Duration::from_millis(target.number("ms", 100)?), target.number("slow", u64::MAX)?);
    let mut piece = vec![0; target.number("bytes", 16 * 1024)?];
    let mut drunk = 0;
    while drunk < slow {
        match wire.body(&mut request.body, &mut piece).await? {
            0 => return Ok(()),
            read => drunk += read as u64,
        }
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn echo(wire: &mut Wire, request: &mut Request, head_only: bool) -> anyhow::Result<()> {
    let framing = request.body.framing;
    let field = match framing {
        Framing::Length(length) => format!("Content-Length: {length}"),
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
        Framing::None | Framing::UntilClose => "Content-Length: 0".to_owned(),
    };
    wire.write(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n").as_bytes()).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = wire.body(&mut request.body, &mut buffer).await?;
        match (framing, read) {
            _ if head_only => {}
            (Framing::Chunked, read) => {
                let mut chunk = format!("{read:x}\r\n").into_bytes();
                chunk.extend_from_slice(&buffer[..read]);
                chunk.extend_from_slice(b"\r\n");
                wire.write(&chunk).await?;
            }
            (_, read) => wire.write(&buffer[..read]).await?,
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Writes the pattern bytes from `offset` up to `length`, bare or in chunks of `chunk` bytes; not the last chunk.
pub(super) async fn stream_pattern(
    stream: &mut (impl AsyncWrite + Unpin),
    mut offset: u64,
    length: u64,
    chunk: Option<u64>,
) -> anyhow::Result<()> {
    let step = chunk.unwrap_or(64 * 1024).clamp(1, 1024 * 1024);
    let mut out = Vec::new();
    while offset < length {
        let size = step.min(length - offset);
        out.clear();
        if chunk.is_some() {
            out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        }
        let start = out.len();
        out.resize(start + usize::try_from(size)?, 0);
        pattern::fill(offset, &mut out[start..]);
        if chunk.is_some() {
            out.extend_from_slice(b"\r\n");
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        offset += size;
    }
    Ok(())
}

async fn json(wire: &mut Wire, value: &serde_json::Value, head_only: bool) -> anyhow::Result<()> {
    plain(wire, 200, &format!("{value}\n"), &["Content-Type: application/json"], head_only).await
}

async fn plain(wire: &mut Wire, status: u64, body: &str, fields: &[&str], head_only: bool) -> anyhow::Result<()> {
    let mut response = format!("HTTP/1.1 {status} Scripted\r\n");
    if status != 204 {
        response += &format!("Content-Length: {}\r\n", body.len());
    }
    for field in fields {
        response += field;
        response += "\r\n";
    }
    response += "\r\n";
    if !head_only {
        response += body;
    }
    wire.write(response.as_bytes()).await
}

/// A request target taken apart: `/name/argument?key=value&...`.
pub(super) struct Target {
    name: String,
    pub(super) argument: Option<String>,
    pub(super) query: HashMap<String, String>,
}

impl Target {
    fn parse(target: &str) -> anyhow::Result<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut segments = path.strip_prefix('/').context("the target is no path")?.splitn(2, '/');
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        Ok(Self {
            name: segments.next().unwrap_or_default().to_owned(),
            argument: segments.next().map(str::to_owned),
            query: query.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        })
    }

    fn argument_text(&self) -> anyhow::Result<&str> {
        self.argument.as_deref().with_context(|| format!("/{} needs an argument", self.name))
    }

    /// The argument as bytes: it is written in hexadecimal.
    fn argument_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let digits = self.argument_text()?.as_bytes();
        let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
        digits.chunks(2).map(byte).collect()
    }

    pub(super) fn argument(&self) -> anyhow::Result<u64> {
        let text = self.argument_text()?;
        text.parse().with_context(|| format!("/{}/{text}: not a number", self.name))
    }

    pub(super) fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
        &self,
        key: &str,
        default: T,
    ) -> anyhow::Result<T> {
        self.query.get(key).map_or(Ok(default), |text| text.parse().with_context(|| format!("{key}={text}")))
    }

    pub(super) fn how(&self) -> anyhow::Result<How> {
        Ok(match self.query.get("how").map(String::as_str) {
            None | Some("close_notify") => How::CloseNotify,
            Some("fin") => How::Fin,
            Some("rst") => How::Reset,
            Some(other) => bail!("how={other}: close_notify, fin or rst"),
        })
    }
}
