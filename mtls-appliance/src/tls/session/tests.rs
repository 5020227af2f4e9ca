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
