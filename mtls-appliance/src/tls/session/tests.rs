use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::cipher::{InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundPlainMessage};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedCipherSuite,
};

use super::*;

const HANDSHAKE: ContentType = ContentType::Handshake;
const DATA: ContentType = ContentType::ApplicationData;

/// A caller whose every record the test makes.
struct Peer {
    keys: KernelConnection<ClientConnectionData>,
    sealing: (Box<dyn MessageEncrypter>, u64),
    opening: (Box<dyn MessageDecrypter>, u64),
}

/// A session towards a caller, right behind the handshake, and the caller.
fn session() -> (Session, Peer) {
    let issued = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let versions = super::super::versions(crate::config::TlsVersion::V1_3);
    let mut server = ServerConfig::builder_with_provider(super::super::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(super::super::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let name = ServerName::try_from("server.test").unwrap();
    let client = UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
    let mut client = Session::new(Connection::Client(client));
    let mut server = Session::new(Connection::Server(UnbufferedServerConnection::new(Arc::new(server)).unwrap()));
    client.advance().unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        server.feed(&sent(&mut client)).unwrap();
        client.feed(&sent(&mut server)).unwrap();
    }
    let (Connection::Client(client), _) = client.into_parts() else { panic!("not a client") };
    let (secrets, keys) = client.dangerous_into_kernel_connection().unwrap();
    let (sealing, opening) = (sealing(&keys, secrets.tx), opening(&keys, secrets.rx));
    (server, Peer { keys, sealing, opening })
}

type Secret = (u64, ConnectionTrafficSecrets);

fn aead(keys: &KernelConnection<ClientConnectionData>) -> &'static dyn rustls::crypto::cipher::Tls13AeadAlgorithm {
    let SupportedCipherSuite::Tls13(suite) = keys.negotiated_cipher_suite() else { panic!("not TLS 1.3") };
    suite.aead_alg
}

fn sealing(keys: &KernelConnection<ClientConnectionData>, secret: Secret) -> (Box<dyn MessageEncrypter>, u64) {
    let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secret else { panic!("another cipher") };
    (aead(keys).encrypter(key, iv), sequence)
}

fn opening(keys: &KernelConnection<ClientConnectionData>, secret: Secret) -> (Box<dyn MessageDecrypter>, u64) {
    let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secret else { panic!("another cipher") };
    (aead(keys).decrypter(key, iv), sequence)
}

impl Peer {
    fn seal(&mut self, typ: ContentType, content: &[u8]) -> Vec<u8> {
        let (encrypter, sequence) = &mut self.sealing;
        let plain = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: content.into() };
        *sequence += 1;
        encrypter.encrypt(plain, *sequence - 1).unwrap().encode()
    }

    fn key_update(&mut self, requested: bool) -> Vec<u8> {
        let record = self.seal(HANDSHAKE, &[24, 0, 0, 1, u8::from(requested)]);
        let secret = self.keys.update_tx_secret().unwrap();
        self.sealing = sealing(&self.keys, secret);
        record
    }

    /// Opens whole records; follows key updates.
    fn open(&mut self, mut records: &[u8]) -> Vec<(ContentType, Vec<u8>)> {
        let mut opened = Vec::new();
        while let [kind, _, _, high, low, rest @ ..] = records {
            let (body, next) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
            let mut body = body.to_vec();
            let sealed = InboundOpaqueMessage::new(ContentType::from(*kind), ProtocolVersion::TLSv1_2, &mut body);
            let (decrypter, sequence) = &mut self.opening;
            let plain = decrypter.decrypt(sealed, *sequence).unwrap();
            *sequence += 1;
            opened.push((plain.typ, plain.payload.to_vec()));
            if plain.typ == HANDSHAKE {
                let secret = self.keys.update_rx_secret().unwrap();
                self.opening = opening(&self.keys, secret);
            }
            records = next;
        }
        opened
    }
}

fn sent(session: &mut Session) -> Vec<u8> {
    let bytes = session.outgoing().to_vec();
    session.written(bytes.len());
    bytes
}

#[test]
fn half_a_message_does_not_keep_us_from_sending() {
    let (mut session, mut peer) = session();
    let update = [24, 0, 0, 1, 0];
    session.feed(&peer.seal(HANDSHAKE, &update[..3])).unwrap();
    assert!(session.undecrypted() > 0);
    session.encrypt(b"answer").unwrap();
    assert_eq!(peer.open(&sent(&mut session)), [(DATA, b"answer".to_vec())]);
    session.feed(&peer.seal(HANDSHAKE, &update[3..])).unwrap();
    assert_eq!(session.undecrypted(), 0);
    session.close().unwrap();
    assert_eq!(peer.open(&sent(&mut session)), [(ContentType::Alert, vec![1, 0])]);
}

#[test]
fn leaves_only_between_two_records() {
    let (mut session, mut peer) = session();
    assert!(session.ready_to_leave().unwrap());
    for _ in 0..3 {
        let record = peer.seal(DATA, b"request");
        for (at, byte) in record.iter().enumerate() {
            session.feed(&[*byte]).unwrap();
            let missing = if at < 4 { 4 - at } else { record.len() - 1 - at };
            assert_eq!(session.missing(), missing);
            assert_eq!(session.ready_to_leave().unwrap(), missing == 0, "with {} bytes of a record", at + 1);
        }
    }
    assert_eq!(session.into_parts().1, b"requestrequestrequest");
}

#[test]
fn leaves_only_behind_a_whole_message() {
    let (mut session, mut peer) = session();
    let (first, rest) = (peer.seal(HANDSHAKE, &[24, 0]), peer.seal(HANDSHAKE, &[0, 1, 0]));
    session.feed(&first).unwrap();
    assert_eq!(session.missing(), 0);
    assert!(!session.ready_to_leave().unwrap());
    session.feed(&rest).unwrap();
    assert!(session.ready_to_leave().unwrap());
}

#[test]
fn the_peer_is_told_of_a_new_key_before_the_session_leaves() {
    for requested in [false, true] {
        let (mut session, mut peer) = session();
        session.feed(&[peer.key_update(requested), peer.seal(DATA, b"request")].concat()).unwrap();
        // Nothing says so beforehand.
        assert!(session.outgoing().is_empty());
        assert_eq!(session.ready_to_leave().unwrap(), !requested);
        let told = peer.open(&sent(&mut session));
        assert_eq!(told, if requested { vec![(HANDSHAKE, vec![24, 0, 0, 1, 0])] } else { vec![] });
        assert!(session.ready_to_leave().unwrap());
        let (Connection::Server(server), plain) = session.into_parts() else { panic!("not a server") };
        assert_eq!(plain, b"request");
        // The kernel goes on with what rustls gives away: the peer must be able to read it.
        let (secrets, _) = server.dangerous_into_kernel_connection().unwrap();
        let (mut kernel, sequence) = sealing(&peer.keys, secrets.tx);
        assert_eq!(sequence, 0);
        let plain =
            OutboundPlainMessage { typ: DATA, version: ProtocolVersion::TLSv1_2, payload: (&b"answer"[..]).into() };
        let record = kernel.encrypt(plain, sequence).unwrap().encode();
        assert_eq!(peer.open(&record), [(DATA, b"answer".to_vec())]);
        // And the other way round.
        let record = peer.seal(DATA, b"more");
        let (mut kernel, sequence) = opening(&peer.keys, secrets.rx);
        let mut body = record[5..].to_vec();
        let sealed = InboundOpaqueMessage::new(DATA, ProtocolVersion::TLSv1_2, &mut body);
        assert_eq!(kernel.decrypt(sealed, sequence).unwrap().payload, b"more");
    }
}

#[test]
fn what_is_due_goes_out_before_the_session_leaves() {
    let (mut session, mut peer) = session();
    session.encrypt(b"answer").unwrap();
    assert!(!session.ready_to_leave().unwrap());
    assert_eq!(peer.open(&sent(&mut session)), [(DATA, b"answer".to_vec())]);
    assert!(session.ready_to_leave().unwrap());
    assert_eq!(session.records_sent(), 1);
}

#[test]
fn a_peer_at_fault_gets_one_alert() {
    let (mut session, mut peer) = session();
    let mut record = peer.seal(DATA, b"request");
    *record.last_mut().unwrap() ^= 1;
    assert_eq!(session.feed(&record), Err(Error::DecryptError));
    assert_eq!(session.feed(&record), Err(Error::DecryptError));
    assert_eq!(session.encrypt(b"answer"), Err(Error::DecryptError));
    assert_eq!(session.close(), Err(Error::DecryptError));
    // bad_record_mac
    assert_eq!(peer.open(&sent(&mut session)), [(ContentType::Alert, vec![2, 20])]);
}
