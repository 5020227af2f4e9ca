//! What the origin does after 101 (Switching Protocols): bytes both ways, each way ended by itself.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use super::behaviour::{Next, Target, stream_pattern};
use super::journal::Journal;
use super::wire::{How, Wire};
use crate::pattern;

/// Switches and serves the tunnel to its end.
pub(super) async fn serve(
    wire: &mut Wire,
    target: &Target,
    connection: u64,
    journal: &Journal,
) -> anyhow::Result<Next> {
    let how = target.how()?;
    let protocol = target.query.get("protocol").map_or("websocket", String::as_str);
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nX-Mark: on\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    let mut head = head.into_bytes();
    let pause = Duration::from_millis(target.number("pause", 0)?);
    if target.argument.as_deref() == Some("echo") {
        wire.write(&head).await?;
        let (mut reader, mut writer) = tokio::io::split(wire.stream());
        let mut buffer = vec![0; 64 * 1024];
        let mut digest = pattern::Sha256::default();
        loop {
            let read = reader.read(&mut buffer).await;
            let Ok(read @ 1..) = read else {
                journal.tunnel(connection, digest.length(), &digest.finish(), read.is_ok());
                return Ok(Next::Close(how));
            };
            digest.update(&buffer[..read]);
            writer.write_all(&buffer[..read]).await?;
            writer.flush().await?;
        }
    }
    let length = target.argument()?;
    let after: bool = target.number("after", false)?;
    // The first bytes share a write with the head.
    let ahead = if after { 0 } else { length.min(100) };
    let begin = head.len();
    head.resize(begin + usize::try_from(ahead)?, 0);
    pattern::fill(0, &mut head[begin..]);
    wire.write(&head).await?;
    let stay = target.query.contains_key("stay");
    let (mut reader, mut writer) = tokio::io::split(wire.stream());
    let receive = async {
        let mut digest = pattern::Sha256::default();
        let mut buffer = vec![0; 64 * 1024];
        tokio::time::sleep(pause).await;
        loop {
            match reader.read(&mut buffer).await {
                Ok(read @ 1..) => digest.update(&buffer[..read]),
                end => {
                    journal.tunnel(connection, digest.length(), &digest.finish(), end.is_ok());
                    return end.is_ok();
                }
            }
        }
    };
    let send = async {
        stream_pattern(&mut writer, ahead, length, None).await?;
        if how == How::CloseNotify && !stay {
            writer.shutdown().await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    if after {
        if !receive.await {
            return Ok(Next::Close(How::Reset));
        }
        send.await?;
    } else {
        let mut send = std::pin::pin!(send);
        let mut receive = std::pin::pin!(receive);
        tokio::select! {
            // Nobody takes it any more: how the other direction ended is still of interest.
            _ = &mut send => if how == How::CloseNotify {
                receive.await;
            },
            whole = &mut receive => if whole {
                send.await?;
            },
        }
    }
    Ok(Next::Close(how))
}

/// Switches to WebSocket (RFC 6455), by another's implementation of it.
pub(super) async fn websocket(wire: &mut Wire, key: &str, connection: u64, journal: &Journal) -> anyhow::Result<Next> {
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    wire.write(head.as_bytes()).await?;
    let mut socket = WebSocketStream::from_raw_socket(wire.stream(), Role::Server, None).await;
    socket.send(Message::text("hello")).await?;
    let mut digest = pattern::Sha256::default();
    while let Some(message) = socket.next().await {
        // Pings are answered and a close is returned while it reads on.
        let message = message?;
        if message.is_text() || message.is_binary() {
            digest.update(&message.clone().into_data());
            socket.send(message).await?;
        }
    }
    journal.tunnel(connection, digest.length(), &digest.finish(), true);
    Ok(Next::Close(How::CloseNotify))
}
