//! What the link promises of TLS, with the configurations that both sides use, and no socket.
//!
//! Beside every refusal stands a handshake that comes about, and differs from it only in what is refused.

use kerbside_core::clock::Clock as _;
use kerbside_core::ids::VehicleId;
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConnection, ConnectionCommon, Error, HandshakeKind, PeerIncompatible, ProtocolVersion,
    ServerConnection,
};
use rustls_pki_types::ServerName;

use super::*;
use crate::SystemClock;
use crate::identity::{Ca, SERVER_VALIDITY, VEHICLE_VALIDITY, new_key_and_csr};

const HOST: &str = "adapter.example";

/// What nearly every TLS server and client speaks.
const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

const OLD: &[&SupportedProtocolVersion] = &[&TLS12];

const FULL: Option<HandshakeKind> = Some(HandshakeKind::Full);

/// The CA of a link, and one of each that have a certificate of it.
struct Link {
    ca: Ca,
    adapter: ServerIdentity,
    car: Identity,
}

impl Link {
    fn new() -> Self {
        let now = SystemClock.wall();
        let ca = Ca::generate(now).unwrap();
        let names = [HOST.to_owned()];
        let request = new_key_and_csr(&names).unwrap();
        let chain = ca.sign_server(&request.csr_der, &names, SERVER_VALIDITY, now).unwrap();
        let adapter = ServerIdentity::from_pem(&request.key_pem, &chain, &ca.certificate_pem()).unwrap();
        let request = new_key_and_csr(&[]).unwrap();
        let vehicle = VehicleId::from_random([3; 10]);
        let chain = ca
            .sign_vehicle(&request.csr_der, &vehicle, "overnight", VEHICLE_VALIDITY, now)
            .unwrap();
        let car = Identity::from_pem(&request.key_pem, &chain, &ca.certificate_pem()).unwrap();
        Self { ca, adapter, car }
    }

    /// Ours.
    fn server(&self) -> Arc<ServerConfig> {
        ServerTls::new(&self.adapter).unwrap().current()
    }

    /// Ours: a car that is enrolled, and one that enrols.
    fn clients(&self) -> [Arc<ClientConfig>; 2] {
        [enrolled(&self.car).unwrap(), enrolling(self.ca.sha256()).unwrap()]
    }

    /// Ours, with all undone that keeps clients from resuming.
    fn resuming_server(&self) -> Arc<ServerConfig> {
        let mut config = Arc::unwrap_or_clone(self.server());
        config.session_storage = ServerSessionMemoryCache::new(32);
        config.send_tls13_tickets = 2;
        config.max_early_data_size = 1024;
        Arc::new(config)
    }

    /// Not ours: speaks these versions.
    fn foreign_server(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.adapter.chain.clone(), key(&self.adapter.key_pem).unwrap())
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    }

    /// Not ours: a car that speaks these versions, keeps sessions, and sends 0-RTT data where it may.
    fn foreign_client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let chain = chain_from_pem(self.car.chain_pem()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots(&self.adapter.ca).unwrap())
            .with_client_auth_cert(chain, key(self.car.key_pem()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(32);
        config.enable_early_data = true;
        Arc::new(config)
    }
}

/// Two peers that have said to each other all that they have to say.
struct Met {
    client: ClientConnection,
    server: ServerConnection,
    /// Whether the client could have sent data before the server had said a word.
    early_data: bool,
}

impl Met {
    /// Why the client has given up.
    fn client_error(&mut self) -> Option<Error> {
        self.client.process_new_packets().err()
    }

    /// What they speak, if the handshake is over on both sides.
    fn version(&self) -> Option<ProtocolVersion> {
        if self.client.is_handshaking() || self.server.is_handshaking() {
            return None;
        }
        self.client.protocol_version()
    }

    /// As both sides see it.
    fn kinds(&self) -> [Option<HandshakeKind>; 2] {
        [self.client.handshake_kind(), self.server.handshake_kind()]
    }
}

fn client_connection(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(HOST).unwrap()).unwrap()
}

fn meet(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Met {
    let mut client = client_connection(client);
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let early_data = client.early_data().is_some();
    loop {
        let asked = said(&mut client);
        hear(&mut server, &asked);
        let answered = said(&mut server);
        hear(&mut client, &answered);
        if asked.is_empty() && answered.is_empty() {
            return Met {
                client,
                server,
                early_data,
            };
        }
    }
}

/// All that it has to say by now.
fn said<D>(by: &mut ConnectionCommon<D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while by.wants_write() {
        by.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// What it finds wrong it says again when it is asked to process more, so nothing is returned here.
fn hear<D>(it: &mut ConnectionCommon<D>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        it.read_tls(&mut bytes).unwrap();
        if it.process_new_packets().is_err() {
            return;
        }
    }
}

fn wrong_version() -> Error {
    Error::AlertReceived(AlertDescription::ProtocolVersion)
}

#[test]
fn client_that_speaks_only_tls_1_2_is_refused_with_a_protocol_version_alert() {
    let link = Link::new();
    let old = link.foreign_client(OLD);
    let mut refused = meet(&old, &link.server());
    assert_eq!(refused.client_error(), Some(wrong_version()));
    assert_eq!(refused.version(), None);
    // Nobody has shown a certificate before that.
    assert!(refused.client.peer_certificates().is_none() && refused.server.peer_certificates().is_none());

    let elsewhere = meet(&old, &link.foreign_server(BOTH));
    assert_eq!(elsewhere.version(), Some(ProtocolVersion::TLSv1_2));
    let newer = meet(&link.foreign_client(BOTH), &link.server());
    assert_eq!(newer.version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn replaced_certificate_of_an_adapter_does_not_bring_tls_1_2_back() {
    let link = Link::new();
    let tls = ServerTls::new(&link.adapter).unwrap();
    tls.replace(&link.adapter).unwrap();
    let mut refused = meet(&link.foreign_client(OLD), &tls.current());
    assert_eq!(refused.client_error(), Some(wrong_version()));
    let newer = meet(&link.foreign_client(BOTH), &tls.current());
    assert_eq!(newer.version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn car_does_not_get_together_with_a_server_that_speaks_only_tls_1_2() {
    let link = Link::new();
    let old = link.foreign_server(OLD);
    for car in link.clients() {
        let mut refused = meet(&car, &old);
        assert_eq!(refused.client_error(), Some(wrong_version()));
        assert_eq!(refused.version(), None);
        let newer = meet(&car, &link.foreign_server(BOTH));
        assert_eq!(newer.version(), Some(ProtocolVersion::TLSv1_3));
    }
    let elsewhere = meet(&link.foreign_client(BOTH), &old);
    assert_eq!(elsewhere.version(), Some(ProtocolVersion::TLSv1_2));
}

/// A decent server refuses by itself what it does not speak. This one, or somebody in between, answers in 1.2 all the same.
#[test]
fn answer_in_tls_1_2_to_a_car_that_did_not_offer_it_is_refused() {
    let link = Link::new();
    for config in link.clients() {
        let mut server = ServerConnection::new(link.foreign_server(OLD)).unwrap();
        let mut other = client_connection(&link.foreign_client(OLD));
        hear(&mut server, &said(&mut other));
        let answer = said(&mut server);
        let mut car = client_connection(&config);
        let offer = said(&mut car);
        assert!(!offer.is_empty() && !answer.is_empty());
        hear(&mut car, &answer);
        let disabled = PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig;
        assert_eq!(car.process_new_packets().err(), Some(Error::PeerIncompatible(disabled)));
        hear(&mut server, &said(&mut car));
        assert_eq!(server.process_new_packets().err(), Some(wrong_version()));
        // Whom the answer was for finds nothing wrong with it.
        hear(&mut other, &answer);
        assert_eq!(other.process_new_packets().err(), None);
    }
}

#[test]
fn client_that_keeps_sessions_gets_none_from_the_adapter_and_makes_full_handshakes() {
    let link = Link::new();
    let car = link.foreign_client(BOTH);
    let server = link.server();
    for _ in 0..2 {
        let met = meet(&car, &server);
        assert_eq!(met.version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(met.kinds(), [FULL, FULL]);
        assert_eq!((met.client.tls13_tickets_received(), met.early_data), (0, false));
    }

    // The same client resumes, and may send early data, where only the settings are others.
    let resuming = link.resuming_server();
    let first = meet(&car, &resuming);
    assert_eq!(first.kinds(), [FULL, FULL]);
    assert_eq!((first.client.tls13_tickets_received(), first.early_data), (2, false));
    let second = meet(&car, &resuming);
    assert_eq!(second.kinds(), [Some(HandshakeKind::Resumed); 2]);
    assert!(second.early_data);
    assert_eq!(second.version(), Some(ProtocolVersion::TLSv1_3));

    // It has tickets now, and offers one: the adapter takes none, and early data neither.
    let offered = meet(&car, &server);
    assert!(offered.early_data && !offered.client.is_early_data_accepted());
    assert_eq!(offered.kinds(), [FULL, FULL]);
    assert_eq!(offered.version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn car_that_is_given_tickets_makes_full_handshakes_and_sends_nothing_early() {
    let link = Link::new();
    let resuming = link.resuming_server();
    for car in link.clients() {
        for _ in 0..2 {
            let met = meet(&car, &resuming);
            assert_eq!(met.version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(met.kinds(), [FULL, FULL]);
            assert_eq!((met.client.tls13_tickets_received(), met.early_data), (2, false));
        }
    }
    // Another client resumes there.
    let other = link.foreign_client(BOTH);
    meet(&other, &resuming);
    assert_eq!(meet(&other, &resuming).kinds(), [Some(HandshakeKind::Resumed); 2]);
}
