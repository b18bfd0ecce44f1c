//! A node proves its name to a certificate authority: at one member it asks, at another the authority looks.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, TSigResponseContext, TSigner, rdata::tsig::TsigAlgorithm},
};
use http::StatusCode;
use node::options::{CertDns, DnsUpdate, TsigSecret};
use serde_json::{Value, json};
use state_machine::{Command, NodeCertificates, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};
use world::{BoxStream, World};

use super::{
    common::{Connection, Machine, Member, within},
    two_with,
};

const NAME: &str = "_acme-challenge.laptop.example.ts.net";

fn value(letter: &str) -> String {
    letter.repeat(43)
}

fn wish(machine: &Machine, name: &str, value: &str) -> Value {
    json!({"Version": 130, "NodeKey": machine.node_key.to_string(), "Name": name, "Type": "TXT", "Value": value})
}

async fn set(connection: &mut Connection, asked: &Value) -> (StatusCode, String) {
    connection.post("/machine/set-dns", asked).await
}

fn with(options: &mut node::Options, certificates: NodeCertificates, dns: &CertDns) {
    options.settings.node_certificates = certificates;
    options.cert_dns = dns.clone();
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message.to_vec().unwrap()
}

fn texts(answer: &[u8]) -> Vec<String> {
    let answer = Message::from_vec(answer).unwrap();
    assert!(answer.authoritative && answer.response_code == ResponseCode::NoError, "{answer}");
    answer.answers.iter().map(|record| record.data.to_string().trim_matches('"').to_owned()).collect()
}

async fn over_udp(world: &World, to: SocketAddr, name: &str) -> Vec<String> {
    let socket = world.net.udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    socket.send_to(&question(name, RecordType::TXT), to).await.unwrap();
    let mut buffer = [0; 1500];
    let (length, _) = within(socket.recv_from(&mut buffer)).await.unwrap();
    texts(&buffer[..length])
}

async fn framed(stream: &mut BoxStream, message: &[u8]) {
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], message].concat()).await.unwrap();
}

async fn unframed(stream: &mut BoxStream) -> Vec<u8> {
    let mut message = vec![0; usize::from(within(stream.read_u16()).await.unwrap())];
    within(stream.read_exact(&mut message)).await.unwrap();
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_at_one_member_answered_by_the_other() {
    let dns = CertDns { listen: Some("127.0.0.1:0".parse().unwrap()), ..CertDns::default() };
    let (first, second) = two_with(|options| with(options, NodeCertificates::Answered, &dns)).await;
    let key = first.auth_key().await;
    let (laptop, desk) = (Machine::new(1, "laptop"), Machine::new(2, "desk"));
    let (mut at_first, mut at_second) = (laptop.dial(&first).await, desk.dial(&second).await);
    laptop.enter(&mut at_first, &key).await;
    desk.enter(&mut at_second, &key).await;

    // What clients look at before they ask.
    let map = at_first.stream(&laptop, "").await.next().await.unwrap();
    assert_eq!(map["DNSConfig"]["CertDomains"], json!(["laptop.example.ts.net"]));
    assert!(map["Node"]["CapMap"].get("https").is_some());

    let port = second.server.dns_addr().unwrap();
    assert_eq!(over_udp(&second.world, port, NAME).await, Vec::<String>::new());
    for letter in ["a", "b"] {
        let (status, body) = set(&mut at_first, &wish(&laptop, NAME, &value(letter))).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "{}"));
    }
    // At once: whoever was told 200 tells the authority to look, and it looks anywhere.
    for member in [&second, &first] {
        let port = member.server.dns_addr().unwrap();
        assert_eq!(over_udp(&member.world, port, NAME).await, [value("a"), value("b")]);
    }
    let mut stream = second.world.net.connect(&port.to_string()).await.unwrap();
    for _ in 0..2 {
        framed(&mut stream, &question(NAME, RecordType::TXT)).await;
        assert_eq!(texts(&unframed(&mut stream).await).len(), 2);
    }
    assert!(second.metric("hsraft_cert_dns_answers_total{said=\"records\"}") >= 3.0);

    // Whose the name is not, and what makes no sense: nothing changes.
    let refused = [
        (&desk, wish(&desk, NAME, &value("c")), StatusCode::FORBIDDEN, "HSR-1017"),
        (&desk, wish(&laptop, NAME, &value("c")), StatusCode::FORBIDDEN, "HSR-1008"),
        (&laptop, wish(&Machine::new(9, "x"), NAME, &value("c")), StatusCode::NOT_FOUND, "HSR-1001"),
        (&laptop, wish(&laptop, NAME, "short"), StatusCode::BAD_REQUEST, "HSR-1003"),
        (&laptop, json!({"Type": "A"}), StatusCode::BAD_REQUEST, "HSR-1003"),
        (&laptop, json!([]), StatusCode::BAD_REQUEST, "HSR-1401"),
    ];
    let before = second.server.cluster().latest().text_records().clone();
    for (who, asked, expected, code) in refused {
        let (status, body) = set(&mut who.dial(&second).await, &asked).await;
        assert!(status == expected && body.contains(code), "{status} {body}");
    }
    let state = second.server.cluster().confirm().await.unwrap();
    assert!(before.len() == 2 && before.ptr_eq(state.text_records()), "what is refused changes nothing");

    // Off again, as every cluster is at first.
    let off = Settings { node_certificates: NodeCertificates::Off, ..(**state.settings()).clone() };
    first.done(Command::ApplySettings { settings: off }).await;
    let (status, body) = set(&mut at_first, &wish(&laptop, NAME, &value("a"))).await;
    assert!(status == StatusCode::NOT_IMPLEMENTED && body.contains("HSR-1403"), "{status} {body}");
    drop((at_first, at_second, stream));
    within(second.server.drain()).await;
    within(first.server.drain()).await;
}

const SECRET: [u8; 32] = [9; 32];

/// A DNS server that takes updates signed with the key, once it is told to, and remembers them.
struct Bind {
    address: SocketAddr,
    takes: watch::Sender<bool>,
    said: Mutex<Vec<ResponseCode>>,
    /// Records there are, and all that was ever done.
    records: watch::Sender<(Vec<String>, Vec<String>)>,
}

fn signer() -> TSigner {
    let name = Name::from_ascii("hsraft.").unwrap();
    TSigner::new(SECRET.to_vec(), TsigAlgorithm::HmacSha256, name, 300).unwrap()
}

impl Bind {
    async fn start(world: &World) -> Arc<Bind> {
        let mut listener = world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (takes, records, said) = (watch::channel(false).0, watch::channel(Default::default()).0, Mutex::default());
        let bind = Arc::new(Bind { address, takes, said, records });
        let (serving, world) = (bind.clone(), world.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = unframed(&mut stream).await;
                let now_secs = world.clock.now_ms() / 1_000;
                let answer = serving.answer(&asked, now_secs);
                framed(&mut stream, &answer).await;
            }
        });
        bind
    }

    fn answer(&self, asked: &[u8], now_secs: u64) -> Vec<u8> {
        let update = Message::from_vec(asked).unwrap();
        let mut answer = Message::response(update.id, OpCode::Update);
        let Ok((mac, signed_at, _)) = signer().verify_message_byte(asked, None, true) else {
            answer.metadata.response_code = ResponseCode::NotAuth;
            self.said.lock().unwrap().push(ResponseCode::NotAuth);
            return answer.to_vec().unwrap();
        };
        assert!(signed_at.abs_diff(now_secs) < 5);
        assert_eq!((update.op_code, update.queries[0].query_type()), (OpCode::Update, RecordType::SOA));
        assert_eq!(update.queries[0].name().to_ascii(), "ts.net.");
        answer.metadata.response_code = match *self.takes.borrow() {
            true => ResponseCode::NoError,
            false => ResponseCode::ServFail,
        };
        self.said.lock().unwrap().push(answer.response_code);
        if answer.response_code == ResponseCode::NoError {
            self.take(&update.authorities);
        }
        let context = TSigResponseContext::new(update.id, now_secs, signer(), mac, None);
        answer.set_signature(context.sign(&answer.to_vec().unwrap()).unwrap());
        answer.to_vec().unwrap()
    }

    fn take(&self, changes: &[Record]) {
        self.records.send_modify(|(records, done)| {
            for change in changes {
                let RData::TXT(text) = &change.data else { panic!("{change}") };
                let record = format!("{} {text}", change.name);
                records.retain(|known| *known != record);
                match change.dns_class {
                    DNSClass::IN => {
                        done.push(format!("+ {record}"));
                        records.push(record);
                    }
                    DNSClass::NONE => done.push(format!("- {record}")),
                    other => panic!("{other}"),
                }
            }
        });
    }

    async fn has(&self, count: usize) {
        within(self.records.subscribe().wait_for(|(records, _)| records.len() == count)).await.unwrap();
    }
}

fn update(bind: &Bind, secret: [u8; 32]) -> CertDns {
    let secret = TsigSecret(secret.to_vec());
    let (server, zone, key_name) = (bind.address.to_string(), "ts.net".to_owned(), "hsraft".to_owned());
    CertDns { update: Some(DnsUpdate { server, zone, key_name, secret }), ..CertDns::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_tells_a_dns_server_and_the_client_waits_for_it() {
    let bind = Bind::start(&world::real::world()).await;
    let dns = update(&bind, SECRET);
    let (first, second) = two_with(|options| with(options, NodeCertificates::Updated, &dns)).await;
    assert!(first.server.cluster().is_leader());
    let key = first.auth_key().await;
    let laptop = Machine::new(1, "laptop");
    let mut at_second = laptop.dial(&second).await;
    laptop.enter(&mut at_second, &key).await;

    // Not answered before the server has it: at first it says that it cannot.
    let asked = wish(&laptop, &format!("{NAME}."), &value("a"));
    let (answered, ()) = tokio::join!(set(&mut at_second, &asked), async {
        first.metric_reaches("hsraft_cert_dns_failures_total", 1.0).await;
        assert!(bind.records.borrow().0.is_empty());
        bind.takes.send_replace(true);
    });
    assert_eq!(answered.0, StatusCode::OK, "{}", answered.1);
    let record = format!("{NAME}. {}", value("a"));
    assert_eq!(bind.records.borrow().0, std::slice::from_ref(&record), "the server has it when the client hears so");
    // Asked again: nothing is to be done.
    assert_eq!(set(&mut at_second, &asked).await.0, StatusCode::OK);

    // A node that goes leaves nothing behind.
    let id = first.server.cluster().latest().node_by_name("laptop").unwrap().id;
    first.done(Command::DeleteNode { node: id }).await;
    bind.has(0).await;
    assert_eq!(bind.records.borrow().1, [format!("+ {record}"), format!("- {record}")]);
    within(first.server.cluster().watch().wait_for(|state| state.text_records().is_empty())).await.unwrap();
    assert!(bind.said.lock().unwrap().contains(&ResponseCode::ServFail));
    drop(at_second);
    within(second.server.drain()).await;
    within(first.server.drain()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_server_that_does_not_prove_itself_has_not_answered() {
    let bind = Bind::start(&world::real::world()).await;
    bind.takes.send_replace(true);
    let dns = update(&bind, [8; 32]);
    let member = Member::start_with(|options| with(options, NodeCertificates::Updated, &dns)).await;
    let key = member.auth_key().await;
    let laptop = Machine::new(1, "laptop");
    let mut connection = laptop.dial(&member).await;
    laptop.enter(&mut connection, &key).await;
    let asked = wish(&laptop, NAME, &value("a"));
    let asking = set(&mut connection, &asked);
    let waited = tokio::select! {
        answered = asking => panic!("{answered:?}"),
        () = member.metric_reaches("hsraft_cert_dns_failures_total", 2.0) => true,
    };
    assert!(waited && bind.records.borrow().1.is_empty());
    let state = member.server.cluster().latest();
    assert!(state.text_records().values().all(|record| !record.acknowledged));
    drop(connection);
    within(member.server.drain()).await;
}
