//! What the origin is told about the caller: only what the appliance says, whatever the caller sends.

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::mydata;
use mtls_appliance_tests::harness::{Lab, Response};
use mtls_appliance_tests::pattern;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::case::cases;

cases!("identity":
    the_mydata_preset_tells_who_calls,
    a_korean_name_arrives_readable,
    every_code_of_an_organisation_can_be_told_apart,
    the_rfc9440_preset_passes_the_certificate,
    free_names_take_variables,
    forged_fields_are_replaced_in_every_spelling,
    forged_fields_that_hide_behind_whitespace_never_arrive,
    connection_cannot_nominate_an_identity_field,
    forged_trailers_do_not_become_identity,
    hop_by_hop_fields_stay_here,
    rfc9440_fields_are_removed_whether_or_not_they_are_set,
);

/// The fields the origin saw, from `/headers`.
fn seen(response: &Response) -> anyhow::Result<Vec<(String, String)>> {
    fields(&response.json()?)
}

fn fields(answer: &Value) -> anyhow::Result<Vec<(String, String)>> {
    let pairs = answer["headers"].as_array().context("no headers")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect())
}

/// The values of all fields whose name a back end could fold to `name`.
fn folded<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let fold = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    fields.iter().filter(|(n, _)| fold(n) == fold(name)).map(|(_, value)| value.as_str()).collect()
}

fn only<'a>(fields: &'a [(String, String)], name: &str) -> anyhow::Result<&'a str> {
    match folded(fields, name).as_slice() {
        [value] => Ok(value),
        values => anyhow::bail!("{} values for {name}: {values:?} in {fields:?}", values.len()),
    }
}

fn leaf(lab: &Lab, name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(CertificateDer::from_pem_file(lab.path(&format!("{name}.pem")))?.to_vec())
}

fn the_mydata_preset_tells_who_calls(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let fields = fields(&lab.curl(&appliance, "client-p256").ok("/headers")?.json()?)?;
    let der = leaf(lab, "client-p256")?;
    let (_, certificate) = X509Certificate::from_der(&der)?;
    let mut digest = pattern::Sha256::default();
    digest.update(&der);

    ensure!(only(&fields, mydata::SERIAL_NUMBER)? == "123-45-67890");
    ensure!(only(&fields, mydata::ORG_CODE)? == "A1AAAA0000");
    let fingerprint: String = only(&fields, mydata::FINGERPRINT)?.chars().filter(|c| *c != ':').collect();
    ensure!(fingerprint.eq_ignore_ascii_case(&digest.finish()), "{fingerprint}");
    let serial: String = only(&fields, mydata::CERT_SERIAL)?.chars().filter(|c| *c != ':').collect();
    let expected = certificate.tbs_certificate.raw_serial_as_string().replace(':', "");
    ensure!(
        serial.trim_start_matches('0').eq_ignore_ascii_case(expected.trim_start_matches('0')),
        "{serial} for {expected}"
    );
    // RFC 2253: the most specific attribute first.
    let dn = only(&fields, mydata::DN)?;
    ensure!(dn.ends_with("CN=api.hangang.test,O=Hangang Data,C=KR"), "{dn}");
    ensure!(dn.contains("123-45-67890") || dn.contains("2.5.4.5="), "{dn}");
    for (name, time) in
        [(mydata::NOT_BEFORE, certificate.validity().not_before), (mydata::NOT_AFTER, certificate.validity().not_after)]
    {
        let time = time.to_datetime();
        let date = format!("{:04}-{:02}-{:02}", time.year(), u8::from(time.month()), time.day());
        let value = only(&fields, name)?;
        ensure!(value.starts_with(&date), "{name}: {value} for {date}");
    }
    Ok(())
}

fn a_korean_name_arrives_readable(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let fields = fields(&lab.curl(&appliance, "client-korean").ok("/headers")?.json()?)?;
    ensure!(only(&fields, mydata::SERIAL_NUMBER)? == "345-67-89012");
    // Whatever the encoding, it must be ASCII on the wire and give the name back.
    let name = only(&fields, mydata::ORG_NAME)?;
    ensure!(name.is_ascii(), "{name:?}");
    ensure!(percent_decoded(name) == "가나다은행", "{name:?} does not decode to the name");
    let dn = only(&fields, mydata::DN)?;
    ensure!(dn.is_ascii(), "{dn:?}");
    Ok(())
}

fn percent_decoded(text: &str) -> String {
    let text = text.rsplit_once('\'').map_or(text, |(_, value)| value);
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, escape) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn every_code_of_an_organisation_can_be_told_apart(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let fields = fields(&lab.curl(&appliance, "client-rsa").ok("/headers")?.json()?)?;
    let codes: Vec<_> =
        folded(&fields, mydata::ORG_CODE).iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    ensure!(codes == ["C1CCCC0000", "C1CCCC0001"], "{codes:?}");
    Ok(())
}

fn the_rfc9440_preset_passes_the_certificate(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| s.set("identity.presets", vec!["rfc9440"]))?;
    let mut client = lab.client(&appliance)?;
    let fields = seen(&client.get("/headers", &["Client-Cert: :Zm9yZ2Vk:", "client_cert: :Zm9yZ2Vk:"])?)?;
    let value = only(&fields, "Client-Cert")?;
    let encoded = value.strip_prefix(':').and_then(|v| v.strip_suffix(':')).context("no byte sequence")?;
    ensure!(base64_decoded(encoded)? == leaf(lab, "client-p256")?, "another certificate than the caller's");
    Ok(())
}

/// RFC 4648 4, without line breaks.
fn base64_decoded(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => anyhow::bail!("{byte:#x} is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(out)
}

fn free_names_take_variables(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| {
        s.header("X-Caller", "${org.code}/${subject.serial_number}").header("X-Fixed", "front-1")
    })?;
    let mut client = lab.client(&appliance)?;
    let fields = seen(&client.get("/headers", &["X-CALLER: forged", "X_Fixed: forged"])?)?;
    ensure!(only(&fields, "X-Caller")? == "A1AAAA0000/123-45-67890", "{fields:?}");
    ensure!(only(&fields, "X-Fixed")? == "front-1", "{fields:?}");
    Ok(())
}

fn forged_fields_are_replaced_in_every_spelling(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    let honest = seen(&client.get("/headers", &[])?)?;
    for name in mydata::ALL {
        let spellings = [
            name.to_owned(),
            name.to_ascii_lowercase(),
            name.to_ascii_uppercase(),
            name.replace('-', "_"),
            name.replace('-', "."),
            name.replacen('-', "_", 1),
            name.replace('-', "~"),
            name.replace('-', ""),
            format!("{name}-"),
            format!("_{name}"),
        ];
        for spelling in spellings {
            // Twice, since some servers take the first and some the last.
            let line = format!("{spelling}: forged");
            let fields = seen(&client.get("/headers", &[&line, "X-Between: 1", &line])?)?;
            ensure!(folded(&fields, name) == folded(&honest, name), "{spelling}: {fields:?}");
            ensure!(!fields.iter().any(|(_, value)| value.contains("forged")), "{spelling}: {fields:?}");
            ensure!(only(&fields, "X-Between")? == "1", "an innocent field was lost: {fields:?}");
        }
    }
    // The same through curl, which spells as its user does.
    let forged =
        lab.curl(&appliance, "client-p256").header("x-mydata-client-serialnumber: 999-99-99999").ok("/headers")?;
    ensure!(!forged.text().contains("999-99-99999"), "{forged}");
    Ok(())
}

fn forged_fields_that_hide_behind_whitespace_never_arrive(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let name = mydata::SERIAL_NUMBER;
    for line in [
        format!("{name} : forged"),
        format!("{name}\t: forged"),
        format!(" {name}: forged"),
        format!("X-A: b\r\n {name}: forged"),
        format!("X-A: b\r\n\t{name}: forged"),
        format!("X-A: b\r{name}: forged"),
        format!("X-A: b\n{name}: forged"),
        format!("X-A: b\0\r\n{name}\0: forged"),
        format!(": forged\r\n{name}\u{b}: forged"),
    ] {
        let mut client = lab.client(&appliance)?;
        client.send_head("GET", "/headers", &[&line])?;
        let response = client.response("GET")?;
        ensure!(response.status == 400, "{line:?}: {} {}", response.status, response.text());
    }
    let requests = origin.journal("request")?;
    ensure!(requests.is_empty(), "reached the origin: {requests:?}");
    Ok(())
}

fn connection_cannot_nominate_an_identity_field(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    for name in mydata::ALL {
        for nominated in [name.to_owned(), name.to_ascii_lowercase(), name.replace('-', "_")] {
            let line = format!("Connection: keep-alive, {nominated}");
            let response = client.get("/headers", &[&line, &format!("{nominated}: forged")])?;
            ensure!(response.status == 200, "{nominated}: {}", response.status);
            let fields = seen(&response)?;
            ensure!(!folded(&fields, name).is_empty(), "{nominated}: the field is gone: {fields:?}");
            ensure!(!fields.iter().any(|(_, value)| value.contains("forged")), "{nominated}: {fields:?}");
            let connection: Vec<_> = folded(&fields, "Connection");
            ensure!(!connection.iter().any(|v| v.to_ascii_lowercase().contains("mydata")), "{connection:?}");
        }
    }
    Ok(())
}

fn forged_trailers_do_not_become_identity(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/headers", &["Transfer-Encoding: chunked", "Trailer: X-MyData-Client-SerialNumber"])?;
    client.send(format!("3\r\nabc\r\n0\r\n{}: forged\r\nHost: forged\r\n\r\n", mydata::SERIAL_NUMBER))?;
    let response = client.response("POST")?;
    if response.status == 200 {
        let fields = seen(&response)?;
        ensure!(only(&fields, mydata::SERIAL_NUMBER)? == "123-45-67890", "{fields:?}");
        ensure!(!response.text().contains("forged"), "{}", response.text());
    } else {
        ensure!(response.status == 400, "{}", response.status);
    }
    Ok(())
}

fn hop_by_hop_fields_stay_here(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    let sent = [
        "Connection: X-Hop, Keep-Alive",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "X-End: 1",
    ];
    let fields = seen(&client.get("/headers", &sent)?)?;
    for gone in ["X-Hop", "Keep-Alive", "Proxy-Connection", "TE"] {
        ensure!(folded(&fields, gone).is_empty(), "{gone}: {fields:?}");
    }
    ensure!(only(&fields, "X-End")? == "1");
    ensure!(only(&fields, "Host")? == "api.bank.test", "{fields:?}");
    Ok(())
}

fn rfc9440_fields_are_removed_whether_or_not_they_are_set(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    let fields = seen(&client.get("/headers", &["Client-Cert: :Zm9yZ2Vk:", "Client-Cert-Chain: :Zm9yZ2Vk:"])?)?;
    ensure!(folded(&fields, "Client-Cert").is_empty(), "{fields:?}");
    ensure!(folded(&fields, "Client-Cert-Chain").is_empty(), "{fields:?}");
    Ok(())
}
