//! What DNS is told of the tailnet's names: the TXT records of [`state_machine::TextRecord`], and nothing of the nodes.
//!
//! Names without a record are not said to be missing but to have no data: nobody learns which nodes there are, and a
//! resolver that asks for `NODE.example.com` first (RFC 9156) does not conclude that nothing lies below it (RFC 8020).

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{NS, SOA, TXT},
    },
};
use state_machine::{NodeCertificates, State};

/// Questions are shorter: a name, and what resolvers add to it.
pub const QUESTION_BYTES_MAX: usize = 1_232;
/// What passes everywhere in one piece (dnsflagday.net/2020).
const DATAGRAM_BYTES_MAX: usize = 1_232;
/// Whoever writes the address of another under a question shall not gain much by it; the rest is asked for over TCP.
const GROWS_AT_MOST: usize = 4;
/// Records live ten minutes, and what a resolver did not find a moment ago may be there now.
const TTL_SECS: u32 = 5;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Datagram,
    Stream,
}

/// A member, as far as DNS is concerned.
pub struct Zone<'a> {
    pub state: &'a State,
    /// Who answers for the zone, as the zone above it says.
    pub name_servers: &'a [String],
    /// A member that is cut off from the others says so: what it does not know may be there.
    pub well: bool,
}

/// An answer, and what was said in a word.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub bytes: Vec<u8>,
    /// `records`, `nothing`, or the name of an error.
    pub what: &'static str,
}

impl Zone<'_> {
    /// The answer to one message; none to what is no question.
    pub fn answer(&self, asked: &[u8], over: Over) -> Option<Said> {
        let Ok(question) = Message::from_vec(asked) else { return malformed(asked) };
        if question.message_type != MessageType::Query {
            return None;
        }
        let mut said = Message::response(question.id, question.op_code);
        said.metadata.recursion_desired = question.recursion_desired;
        said.add_queries(question.queries.iter().cloned());
        if question.edns.is_some() {
            said.set_edns(Edns::new()).edns.as_mut()?.set_max_payload(DATAGRAM_BYTES_MAX as u16);
        }
        let what = match (question.op_code, &question.queries[..]) {
            (OpCode::Query, [_]) if question.version() > 0 => failed(&mut said, ResponseCode::BADVERS),
            (OpCode::Query, [query]) => self.look_up(query, &mut said),
            (OpCode::Query, _) => failed(&mut said, ResponseCode::FormErr),
            _ => failed(&mut said, ResponseCode::NotImp),
        };
        let room = match over {
            Over::Stream => usize::from(u16::MAX),
            Over::Datagram => {
                usize::from(question.max_payload()).min(DATAGRAM_BYTES_MAX).min(GROWS_AT_MOST * asked.len())
            }
        };
        let bytes = said.to_vec().ok()?;
        match bytes.len() <= room {
            true => Some(Said { bytes, what }),
            false => Some(Said { bytes: said.truncate().to_vec().ok()?, what: "truncated" }),
        }
    }

    fn look_up(&self, query: &Query, said: &mut Message) -> &'static str {
        let settings = self.state.settings();
        let origin = Name::from_ascii(format!("{}.", settings.base_domain)).ok();
        let ours = origin.filter(|origin| {
            settings.node_certificates == NodeCertificates::Answered
                && query.query_class() == DNSClass::IN
                && !origin.is_root()
                && origin.zone_of(query.name())
        });
        let Some(origin) = ours else { return failed(said, ResponseCode::Refused) };
        if !self.well {
            return failed(said, ResponseCode::ServFail);
        }
        said.metadata.authoritative = true;
        let name = query.name().clone();
        let record = |data| Record::from_rdata(name.clone(), TTL_SECS, data);
        match query.query_type() {
            RecordType::AXFR | RecordType::IXFR => {
                said.metadata.authoritative = false;
                return failed(said, ResponseCode::Refused);
            }
            RecordType::TXT => {
                let asked = query.name().to_ascii().to_ascii_lowercase();
                let values = self.state.text_values(asked.trim_end_matches('.'));
                said.add_answers(values.map(|value| record(RData::TXT(TXT::new(vec![value.to_owned()])))));
            }
            RecordType::SOA if *query.name() == origin => _ = said.add_answer(record(self.authority(&origin))),
            RecordType::NS if *query.name() == origin => {
                said.add_answers(self.servers().map(|server| record(RData::NS(NS(server)))));
            }
            _ => {}
        }
        if !said.answers.is_empty() {
            return "records";
        }
        said.add_authority(Record::from_rdata(origin.clone(), TTL_SECS, self.authority(&origin)));
        "nothing"
    }

    fn servers(&self) -> impl Iterator<Item = Name> {
        self.name_servers.iter().filter_map(|server| Name::from_ascii(format!("{server}.")).ok())
    }

    /// Members that have applied the same say the same. Nobody copies the zone, so its times are the usual ones (RFC
    /// 1912, 2.2).
    fn authority(&self, origin: &Name) -> RData {
        let first = self.servers().next().unwrap_or_else(|| origin.clone());
        let person = origin.prepend_label("hostmaster").unwrap_or_else(|_| origin.clone());
        let serial = self.state.revision().0 as u32;
        RData::SOA(SOA::new(first, person, serial, 3_600, 600, 604_800, TTL_SECS))
    }
}

fn failed(said: &mut Message, code: ResponseCode) -> &'static str {
    said.metadata.response_code = code;
    match code {
        ResponseCode::FormErr => "malformed",
        ResponseCode::NotImp => "unknown",
        ResponseCode::Refused => "refused",
        ResponseCode::ServFail => "unwell",
        _ => "version",
    }
}

/// Bytes that begin as a question does and make no sense: the asker hears so, under its number.
fn malformed(asked: &[u8]) -> Option<Said> {
    let (id, flags) = (asked.first_chunk::<2>()?, asked.get(2..12)?[0]);
    let is_answer = flags & 0x80 != 0;
    let said = Message::error_msg(u16::from_be_bytes(*id), OpCode::Query, ResponseCode::FormErr);
    (!is_answer).then_some(Said { bytes: said.to_vec().ok()?, what: "malformed" })
}

#[cfg(test)]
mod tests {
    use state_machine::{Command, Member, MemberId, PreAuthKey, Registration, Revision, Settings, Stamp, Timestamp};

    use super::*;

    const NAME: &str = "_acme-challenge.laptop.ts.example.com.";

    fn value(letter: char) -> String {
        letter.to_string().repeat(43)
    }

    /// A tailnet `ts.example.com` whose node `laptop` has set these.
    fn state(values: &str) -> State {
        let settings = Settings {
            base_domain: "ts.example.com".into(),
            node_certificates: NodeCertificates::Answered,
            ..Settings::default()
        };
        let (machine_key, node_key) = (tailcfg::MachineKey([1; 32]), tailcfg::NodeKey([1; 32]));
        let member = Member {
            id: MemberId(1),
            name: "hs1".into(),
            feature_level: state_machine::FEATURE_LEVEL,
            ..Member::default()
        };
        let key = PreAuthKey { prefix: "p".repeat(12), tags: ["tag:x".to_owned()].into(), ..PreAuthKey::default() };
        let (prefix, secret_sha256) = (key.prefix.clone(), key.secret_sha256);
        let client = Registration { machine_key, node_key, hostname: "laptop".into(), ..Registration::default() };
        let mut commands = vec![
            Command::Found { cluster_id: "c".into(), member, settings, secrets: vec![] },
            Command::CreatePreAuthKey { key },
            Command::RegisterWithKey { client, prefix, secret_sha256 },
        ];
        commands.extend(values.chars().map(|letter| Command::SetTextRecord {
            machine_key,
            node_key,
            name: NAME.into(),
            value: value(letter),
        }));
        let mut state = State::default();
        for (index, command) in commands.into_iter().enumerate() {
            let stamp = Stamp { at: Timestamp(1_800_000_000_000), revision: Revision(index as u64 + 1) };
            state.apply(stamp, command).unwrap();
        }
        state
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(state: &State, asked: &Message, over: Over) -> Message {
        let servers = ["ns1.example.com".to_owned(), "ns2.example.com".to_owned()];
        let asked = asked.to_vec().unwrap();
        let said = Zone { state, name_servers: &servers, well: true }.answer(&asked, over).unwrap();
        let read = Message::from_vec(&said.bytes).unwrap();
        assert!(over == Over::Stream || said.bytes.len() <= GROWS_AT_MOST * asked.len());
        assert!(read.id == 7 && read.message_type == MessageType::Response && !read.recursion_available);
        read
    }

    fn texts(answer: &Message) -> Vec<String> {
        answer.answers.iter().map(|record| record.data.to_string().trim_matches('"').to_owned()).collect()
    }

    #[test]
    fn what_was_set_is_told_and_nothing_else() {
        let state = state("ab");
        for name in [NAME, "_ACME-challenge.LapTop.tS.example.com."] {
            let answer = ask(&state, &question(name, RecordType::TXT), Over::Datagram);
            assert_eq!(texts(&answer), [value('a'), value('b')]);
            assert!(answer.authoritative && answer.response_code == ResponseCode::NoError);
            // Resolvers look whether it comes back as they wrote it.
            assert_eq!(answer.queries[0].name().to_ascii(), name);
        }
        // A name that has none, one that no node has, one between: no data, and for how long.
        let none = [
            (NAME, RecordType::A),
            ("laptop.ts.example.com.", RecordType::NS),
            ("laptop.ts.example.com.", RecordType::CAA),
            ("_acme-challenge.nobody.ts.example.com.", RecordType::TXT),
            ("a.b.c.ts.example.com.", RecordType::TXT),
            ("ts.example.com.", RecordType::A),
        ];
        for (name, kind) in none {
            let answer = ask(&state, &question(name, kind), Over::Stream);
            assert!(answer.response_code == ResponseCode::NoError && answer.answers.is_empty(), "{name}");
            let RData::SOA(authority) = &answer.authorities[0].data else { panic!("{answer}") };
            assert_eq!((authority.mname.to_ascii().as_str(), authority.minimum), ("ns1.example.com.", TTL_SECS));
        }
        let answer = ask(&state, &question("ts.example.com.", RecordType::NS), Over::Stream);
        assert_eq!(texts(&answer), ["ns1.example.com.", "ns2.example.com."]);
        assert_eq!(ask(&state, &question("ts.example.com.", RecordType::SOA), Over::Stream).answers.len(), 1);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let state = state("a");
        let elsewhere = [
            ("example.com.", RecordType::SOA),
            ("xts.example.com.", RecordType::TXT),
            (".", RecordType::NS),
            ("ts.example.com.", RecordType::AXFR),
        ];
        for (name, kind) in elsewhere {
            let answer = ask(&state, &question(name, kind), Over::Datagram);
            assert!(answer.response_code == ResponseCode::Refused && !answer.authoritative, "{name}");
            assert!(answer.answers.is_empty() && answer.authorities.is_empty());
        }
        let mut chaos = question(NAME, RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(ask(&state, &chaos, Over::Datagram).response_code, ResponseCode::Refused);
        let mut update = question(NAME, RecordType::TXT);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(ask(&state, &update, Over::Datagram).response_code, ResponseCode::NotImp);
        let mut two = question(NAME, RecordType::TXT);
        two.add_queries(two.queries.clone());
        assert_eq!(ask(&state, &two, Over::Datagram).response_code, ResponseCode::FormErr);
        // A member that is cut off does not say that there is nothing.
        let asked = question(NAME, RecordType::TXT).to_vec().unwrap();
        let said = Zone { state: &state, name_servers: &[], well: false }.answer(&asked, Over::Datagram).unwrap();
        assert_eq!(Message::from_vec(&said.bytes).unwrap().response_code, ResponseCode::ServFail);
    }

    #[test]
    fn a_datagram_is_answered_with_little() {
        let state = state("abcdefgh");
        let mut asked = question(NAME, RecordType::TXT);
        asked.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(4_096);
        let answer = ask(&state, &asked, Over::Datagram);
        assert!(answer.truncation && answer.answers.is_empty() && answer.edns.is_some());
        assert_eq!(texts(&ask(&state, &asked, Over::Stream)).len(), 8);
    }

    #[test]
    fn rubbish_is_answered_once_or_not_at_all() {
        let state = state("a");
        let zone = Zone { state: &state, name_servers: &[], well: true };
        let good = question(NAME, RecordType::TXT).to_vec().unwrap();
        for end in 0..good.len() {
            let said = zone.answer(&good[..end], Over::Datagram);
            assert_eq!(said.is_some(), end >= 12, "{end}");
            assert!(said.is_none_or(|said| said.what == "malformed" && said.bytes.len() <= 12));
        }
        let mut answer = question(NAME, RecordType::TXT);
        answer.metadata.message_type = MessageType::Response;
        assert_eq!(zone.answer(&answer.to_vec().unwrap(), Over::Datagram), None, "answers are not answered");
        // One bit or byte wrong anywhere harms nobody.
        for at in 0..good.len() {
            for flip in [0x01, 0x40, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let most = GROWS_AT_MOST * bad.len();
                assert!(zone.answer(&bad, Over::Datagram).is_none_or(|said| said.bytes.len() <= most));
            }
        }
    }
}
