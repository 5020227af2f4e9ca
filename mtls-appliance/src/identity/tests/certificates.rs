//! Certificates made byte by byte, so that names no tool would write can be tried. Key and signature are dummies: what
//! is tested here never looks at them.

use rustls::pki_types::CertificateDer;

/// An attribute: dotted OID, ASN.1 string tag, content.
pub(super) type Attribute<'a> = (&'a str, u8, &'a [u8]);

pub(super) const UTF8: u8 = 0x0c;
pub(super) const PRINTABLE: u8 = 0x13;
pub(super) const TELETEX: u8 = 0x14;
pub(super) const IA5: u8 = 0x16;
pub(super) const UNIVERSAL: u8 = 0x1c;
pub(super) const BMP: u8 = 0x1e;

/// What is put into a certificate.
pub(super) struct Certificate<'a> {
    pub(super) subject: &'a [&'a [Attribute<'a>]],
    pub(super) issuer: &'a [&'a [Attribute<'a>]],
    pub(super) serial: &'a [u8],
}

impl Default for Certificate<'_> {
    fn default() -> Self {
        Self {
            subject: &[&[("2.5.4.3", UTF8, b"client")], &[("2.5.4.5", PRINTABLE, b"123-45-67890")]],
            issuer: &[&[("2.5.4.3", UTF8, b"CA")]],
            serial: &[0x0a, 0x1b],
        }
    }
}

impl Certificate<'_> {
    pub(super) fn der(&self) -> CertificateDer<'static> {
        let algorithm = sequence(&[oid("1.2.840.10045.4.3.2")]);
        let key_algorithm = sequence(&[oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")]);
        let point: Vec<u8> = [&[0, 4][..], &[1; 64]].concat();
        let validity = sequence(&[tlv(0x17, b"260102030405Z"), tlv(0x18, b"20510102030405Z")]);
        let tbs = sequence(&[
            tlv(0xa0, &tlv(2, &[2])),
            tlv(2, self.serial),
            algorithm.clone(),
            name(self.issuer),
            validity,
            name(self.subject),
            sequence(&[key_algorithm, tlv(3, &point)]),
        ]);
        let signature = sequence(&[tlv(2, &[1]), tlv(2, &[1])]);
        sequence(&[tbs, algorithm, tlv(3, &[&[0][..], &signature].concat())]).into()
    }
}

fn name(parts: &[&[Attribute<'_>]]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = parts
        .iter()
        .map(|attributes| {
            let set: Vec<Vec<u8>> =
                attributes.iter().map(|(kind, tag, content)| sequence(&[oid(kind), tlv(*tag, content)])).collect();
            tlv(0x31, &set.concat())
        })
        .collect();
    sequence(&parts)
}

fn sequence(items: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &items.concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(u8::try_from(length).unwrap()),
        0x80..=0xff => out.extend([0x81, u8::try_from(length).unwrap()]),
        _ => {
            out.push(0x82);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut content = Vec::new();
    for arc in [&[arcs[0] * 40 + arcs[1]][..], &arcs[2..]].concat() {
        let mut septets = vec![u8::try_from(arc & 0x7f).unwrap()];
        let mut rest = arc >> 7;
        while rest > 0 {
            septets.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        content.extend(septets.into_iter().rev());
    }
    tlv(6, &content)
}
