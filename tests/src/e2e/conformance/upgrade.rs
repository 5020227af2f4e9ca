//! Upgrade: what of it goes on, and what may be answered to it. The tunnel itself is in [`super::super::tunnels`].

use mtls_appliance_tests::harness::Lab;

use super::{POISON, check, check_with, get, reply, request, row};
use crate::tunnels::allowing;

const ASKED: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

pub(super) fn an_upgrade_goes_on_only_where_it_is_allowed(lab: &Lab) -> anyhow::Result<()> {
    check(
        lab,
        &[row("RFC 9110 7.8: nowhere unless somebody allows it", get(ASKED))
            .answer(200)
            .seen("GET /headers HTTP/1.1")
            .lacking(&["Upgrade", "Connection"])],
    )?;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| allowing(s, &["websocket", "chat"]))?;
    let goes_on = |name, fields: &str| row(name, get(fields)).answer(200).seen("GET /headers HTTP/1.1");
    let ends_here = |name, fields: &str| goes_on(name, fields).lacking(&["Upgrade", "Connection"]);
    let body = POISON.len();
    check_with(
        lab,
        &mut appliance,
        &origin,
        &[
            goes_on("RFC 9110 7.8: it goes on, nominated, and may be answered as if it were not there", ASKED)
                .with("Upgrade: websocket")
                .with("Connection: Upgrade"),
            goes_on("RFC 9110 7.8: names have no case", "Connection: upgrade\r\nUpgrade: WebSocket\r\n")
                .with("Upgrade: WebSocket"),
            goes_on(
                "RFC 9110 7.8: what is allowed of a list goes on, in its order",
                "Connection: upgrade\r\nUpgrade: x, chat/2, h2c,websocket\r\n",
            )
            .with("Upgrade: chat/2, websocket"),
            goes_on(
                "RFC 9110 7.6.1: what else is nominated ends here",
                &format!("{ASKED}Connection: X-Hop\r\nX-Hop: 1\r\n"),
            )
            .with("Upgrade: websocket")
            .with("Connection: Upgrade")
            .lacking(&["X-Hop"]),
            ends_here("RFC 9110 7.8: what is not allowed ends here", "Connection: upgrade\r\nUpgrade: x\r\n"),
            ends_here(
                "RFC 9113 3.1: no other HTTP",
                "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            )
            .lacking(&["HTTP2-Settings"]),
            ends_here("RFC 2817 3.2: no TLS", "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n"),
            ends_here("RFC 9110 7.8: not nominated, so not meant for us", "Upgrade: websocket\r\n"),
            ends_here("RFC 9110 7.8: two fields", &format!("{ASKED}Upgrade: websocket\r\n")),
            row(
                "RFC 9110 7.8: HTTP/1.0 cannot ask",
                format!("GET /headers HTTP/1.0\r\nHost: api.bank.test\r\n{ASKED}\r\n"),
            )
            .answer(200)
            .seen("GET /headers HTTP/1.1")
            .lacking(&["Upgrade", "Connection"])
            .closed(),
            row(
                "RFC 9110 7.8: a body is read to its end, and nothing is switched",
                request("POST /echo", &format!("{ASKED}Content-Length: 5\r\n")) + "hello",
            )
            .answer(200)
            .body("hello")
            .seen("POST /echo HTTP/1.1")
            .lacking(&["Upgrade", "Connection"]),
            row(
                "RFC 9112 11.2: a request in that body is none",
                request("POST /sha256", &format!("{ASKED}Content-Length: {body}\r\n")) + POISON,
            )
            .answer(200)
            .seen("POST /sha256 HTTP/1.1"),
            row("RFC 9112 9.3.2: what was not switched is followed by requests", get(ASKED) + &get(""))
                .answer(200)
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("Upgrade: websocket")
                .seen("GET /headers HTTP/1.1")
                .lacking(&["Upgrade", "Connection"]),
            row(
                "RFC 9112 9.6: nor is anything switched where the caller says close",
                get("Connection: Upgrade, close\r\nUpgrade: websocket\r\n"),
            )
            .answer(200)
            .closed()
            .seen("GET /headers HTTP/1.1")
            .lacking(&["Upgrade", "Connection"]),
        ],
    )
}

pub(super) fn the_origin_switches_only_to_what_was_asked_for(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| allowing(s, &["websocket", "chat"]))?;
    // To a caller that asks for an upgrade the origin answers with these bytes, and ends.
    let answered = |name, asked: &str, bytes: &str| {
        let line = format!("GET {}?how=close_notify", reply(bytes));
        let sent = request(&line, &format!("Connection: Upgrade\r\nUpgrade: {asked}\r\n"));
        row(name, sent).seen(String::leak(line + " HTTP/1.1"))
    };
    let switch = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
    let to = |protocol: &str| switch(&format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n"));
    let switched =
        |name, asked: &str, bytes: &str| answered(name, asked, bytes).answer(101).field("Connection: Upgrade").closed();
    let refused = |name, asked: &str, bytes: &str| answered(name, asked, bytes).answer(502);
    check_with(
        lab,
        &mut appliance,
        &origin,
        &[
            switched("RFC 9110 15.2.2: 101 tells what is spoken now", "websocket", &to("websocket")).field("Upgrade: websocket"),
            switched("RFC 9110 7.8: one of several", "chat/2, websocket", &to("chat/2")).field("Upgrade: chat/2"),
            switched("RFC 9110 7.8: in layers", "chat, websocket", &to("chat, websocket")).field("Upgrade: chat, websocket"),
            switched("RFC 9110 7.6.1: what the origin nominates ends here", "chat", &switch("Connection: upgrade, X-Hop\r\nUpgrade: chat\r\nX-Hop: 1\r\nX-Kept: 2\r\n"))
                .field("X-Kept: 2")
                .without(&["X-Hop"]),
            switched("RFC 9110 8.6: 101 has no length", "chat", &switch("Connection: upgrade\r\nUpgrade: chat\r\nContent-Length: 5\r\n"))
                .without(&["Content-Length"]),
            switched("RFC 9110 15.2: after other interim responses", "chat", &format!("HTTP/1.1 103 Early Hints\r\n\r\n{}", to("chat")))
                .after(&[103]),
            refused("RFC 9110 7.8: nothing that was not asked for", "chat", &to("websocket")),
            refused("RFC 9110 7.8: nothing that did not go on", "chat, x", &to("x")),
            refused("RFC 9110 7.8: no other version", "chat/2", &to("chat/3")),
            refused("RFC 9110 7.8: 101 without Upgrade", "chat", &switch("Connection: upgrade\r\n")),
            refused("RFC 9110 7.8: 101 without Connection", "chat", &switch("Upgrade: chat\r\n")),
            refused("RFC 9110 7.8: 101 to nothing", "chat", &switch("Connection: upgrade\r\nUpgrade:\r\n")),
            refused("RFC 9110 15.2: 101 by HTTP/1.0", "chat", &to("chat").replace("HTTP/1.1", "HTTP/1.0")),
            answered("RFC 9110 7.8: any other answer is one", "chat", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
                .answer(403)
                .body("no"),
            answered("RFC 9110 15.5.22: 426 tells what is needed", "chat", "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
                .answer(426)
                .field("Upgrade: websocket")
                .field("Connection: Upgrade"),
        ],
    )
}
