//! What ended early must look ended early: truncation is never passed on as success.

use anyhow::ensure;
use mtls_appliance_tests::harness::{Client, Deadline, Lab, wait_until};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("truncation":
    a_truncated_response_is_an_error_for_curl,
    a_truncated_response_is_an_error_for_a_raw_client,
    a_close_delimited_response_is_complete_only_after_close_notify,
    a_close_delimited_response_that_is_whole_ends_with_close_notify,
    a_truncated_upload_never_looks_whole_to_the_origin,
    a_record_cut_in_half_is_an_error,
    a_truncated_response_does_not_spoil_the_next_connection,
);

const LENGTHS: [(u64, u64); 4] = [(100, 0), (100, 99), (200_000, 70_000), (5_000_000, 4_999_999)];

fn a_truncated_response_is_an_error_for_curl(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for how in ["close_notify", "fin", "rst"] {
        for kind in ["truncate", "truncate-chunked"] {
            for (length, sent) in LENGTHS {
                let path = format!("/{kind}/{length}?sent={sent}&how={how}");
                let answer = lab.curl(&appliance, "client-p256").get(&path)?;
                // A 502 is fine as long as nothing was sent on yet.
                ensure!(answer.exit != 0 || answer.status == 502, "{path} looks like success: {answer}");
                ensure!(answer.status == 502 || answer.length < length, "{path}: {answer}");
            }
        }
    }
    appliance.must_be_alive()
}

fn a_truncated_response_is_an_error_for_a_raw_client(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for how in ["close_notify", "fin", "rst"] {
        for path in [
            format!("/truncate/100000?sent=50000&how={how}"),
            format!("/truncate-chunked/100000?sent=50000&how={how}"),
            format!("/truncate-chunked/100000?sent=100000&how={how}"),
        ] {
            let mut client = lab.client(&appliance)?;
            if let Ok(response) = client.get(&path, &[]) {
                ensure!(response.status == 502, "{path}: {} and {} bytes", response.status, response.length);
            }
        }
    }
    Ok(())
}

fn a_close_delimited_response_is_complete_only_after_close_notify(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for how in ["fin", "rst"] {
        for length in [10, 50_000, 3_000_000] {
            let path = format!("/truncate-close/{length}?how={how}");
            let mut client = lab.client(&appliance)?;
            // If the appliance passes such a body on until close, it must not send close_notify; if it uses chunks, not
            // the last one. Client::get checks both.
            if let Ok(response) = client.get(&path, &[]) {
                ensure!(response.status == 502, "{path}: a whole response of {} bytes", response.length);
            }
            let answer = lab.curl(&appliance, "client-p256").get(&path)?;
            ensure!(answer.exit != 0 || answer.status == 502, "{path} looks like success: {answer}");
        }
    }
    Ok(())
}

fn a_close_delimited_response_that_is_whole_ends_with_close_notify(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for length in [0, 1, 16_384, 16_385, 3_000_000] {
        for _ in 0..5 {
            let mut client = lab.client(&appliance)?;
            let response = client.get(&format!("/close/{length}"), &[])?;
            ensure!(response.status == 200 && response.length == length, "{length}: {}", response.length);
            ensure!(response.sha256 == pattern::sha256(length), "{length} bytes, but others");
        }
    }
    Ok(())
}

fn a_truncated_upload_never_looks_whole_to_the_origin(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let ends: [fn(Client) -> anyhow::Result<()>; 4] =
        [|mut client| client.close_notify(), |mut client| client.fin(), Client::reset, |_| Ok(())];
    let mut sent = 0;
    for (number, end) in ends.into_iter().enumerate() {
        for length in [5, 60_000, 3_000_000] {
            for chunked in [false, true] {
                let mut client = lab.client(&appliance)?;
                let body = pattern::bytes(length);
                if chunked {
                    client.send_head("POST", "/sha256", &["Transfer-Encoding: chunked"])?;
                    client.send(format!("{length:x}\r\n"))?;
                    client.send(&body)?;
                    client.send("\r\n")?;
                } else {
                    client.send_head("POST", "/sha256", &[&format!("Content-Length: {}", length + 1)])?;
                    client.send(&body)?;
                }
                sent += 1;
                end(client).map_err(|error| error.context(format!("ending {number}")))?;
            }
        }
    }
    // Each upload that reached the origin must have broken there; none may count as a whole body.
    wait_until("the origin to see the uploads end", Deadline::seconds(40), || {
        let requests = origin.journal("request")?.len();
        Ok((requests > 0 && origin.journal("broken")?.len() == requests).then_some(()))
    })
    .map_err(|error| {
        let count = |event| origin.journal(event).map(|lines| lines.len()).unwrap_or_default();
        error.context(format!(
            "{sent} sent, {} requests, {} broken, {} whole",
            count("request"),
            count("broken"),
            count("body")
        ))
    })?;
    ensure!(origin.journal("body")?.is_empty(), "a truncated upload looked whole: {:?}", origin.journal("body")?);
    appliance.must_be_alive()
}

fn a_record_cut_in_half_is_an_error(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    // The origin connection is there before, else a reset could overtake its handshake.
    ensure!(client.get("/bytes/1", &[])?.status == 200);
    client.send_head("POST", "/sha256", &["Content-Length: 10000"])?;
    client.send(pattern::bytes(5_000))?;
    client.send_half_a_record(&pattern::bytes(5_000))?;
    client.fin()?;
    let (answer, _) = client.read_to_end().unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(!answer.contains(" 200 "), "{answer}");
    // The reset may overtake the head too, so the origin need not have seen the request.
    origin.wait_journal("end", |_| true)?;
    ensure!(origin.journal("body")?.is_empty());
    appliance.must_be_alive()
}

fn a_truncated_response_does_not_spoil_the_next_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for how in ["close_notify", "fin", "rst"] {
        let mut client = lab.client(&appliance)?;
        let _ = client.get(&format!("/truncate/100000?sent=50000&how={how}"), &[]);
        for _ in 0..3 {
            let mut client = lab.client(&appliance)?;
            ensure!(client.get("/bytes/1000", &[])?.body == pattern::bytes(1_000));
        }
    }
    Ok(())
}
