//! What is said for one change, and what is not.

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{Tailnet, endpoint, hostinfo, relay};
use netmap::{Atlas, Delta, Moment, delta, full};
use serde_json::{Value, json};
use state_machine::*;

struct Room {
    tailnet: Tailnet,
    atlas: Atlas,
    ann: NodeId,
    bob: NodeId,
    key: String,
}

fn room() -> Room {
    room_in(Tailnet::new(1))
}

fn room_in(mut tailnet: Tailnet) -> Room {
    let user = tailnet.user("ann");
    let key = tailnet.key(Some(user), &[], false);
    let (ann, bob) = (tailnet.join(&key, "ann"), tailnet.join(&key, "bob"));
    let atlas = Atlas::draw(&tailnet.latest());
    Room { tailnet, atlas, ann, bob, key }
}

impl Room {
    /// Redraws and says what each of the two is told.
    fn told(&mut self) -> (Value, Value) {
        let latest = self.atlas.redraw(&self.tailnet.latest());
        let said =
            [self.ann, self.bob].map(|viewer| frame(delta(&self.atlas, &latest, viewer, &self.tailnet.moment())));
        self.atlas = latest;
        let [ann, bob] = said;
        (ann, bob)
    }
}

/// The frame without its time; null for nothing.
fn frame(delta: Delta) -> Value {
    match delta {
        Delta::Nothing => Value::Null,
        Delta::Gone => json!("gone"),
        Delta::Frame(bytes) => {
            netmap::contract::check(&bytes).unwrap();
            let mut frame: Value = serde_json::from_slice(&bytes).unwrap();
            frame.as_object_mut().unwrap().remove("ControlTime").expect("every frame has its time");
            frame
        }
    }
}

#[test]
fn a_patch_where_a_patch_is_enough() {
    let mut room = room();
    let bob = room.bob;
    room.tailnet.report(bob, |report| report.endpoints = Some(vec![endpoint(77, 5)]));
    let expected = json!({"PeersChangedPatch": [{"NodeID": bob.0, "Endpoints": ["203.0.0.77:5"]}]});
    assert_eq!(room.told(), (expected, Value::Null), "bob knows where bob is");

    room.tailnet.report(bob, |report| report.endpoints = Some(vec![]));
    assert_eq!(room.told().0, json!({"PeersChangedPatch": [{"NodeID": bob.0, "Endpoints": []}]}));

    room.tailnet.presence(bob, 5, true);
    assert_eq!(room.told().0, json!({"PeersChangedPatch": [{"NodeID": bob.0, "Online": true}]}));
    room.tailnet.presence(bob, 5, false);
    assert_eq!(room.told(), (Value::Null, Value::Null), "the grace hides a short absence");
    let gone_at = room.tailnet.now;
    room.tailnet.wait(Duration::from_secs(11));
    let expected = json!({"PeersChangedPatch": [{"NodeID": bob.0, "Online": false, "LastSeen": gone_at.to_string()}]});
    assert_eq!(room.told().0, expected);

    let expiry = room.tailnet.now.after(Duration::from_secs(60));
    room.tailnet.must(Command::SetNodeExpiry { node: bob, expiry: Some(expiry) });
    let (ann, own) = room.told();
    assert_eq!(ann, json!({"PeersChangedPatch": [{"NodeID": bob.0, "KeyExpiry": expiry.to_string()}]}));
    assert_eq!(own["Node"]["KeyExpiry"], json!(expiry.to_string()));
}

#[test]
fn a_whole_node_where_a_patch_cannot_say_it() {
    let mut room = room();
    let bob = room.bob;
    room.tailnet.must(Command::RenameNode { node: bob, name: "robert".into() });
    let (ann, own) = room.told();
    assert_eq!(ann["PeersChanged"][0]["Name"], json!("robert.tail.example.net."));
    assert_eq!(own["Node"]["Name"], json!("robert.tail.example.net."));
    assert!(own.get("PeersChanged").is_none());

    let expiry = room.tailnet.now.after(Duration::from_secs(60));
    room.tailnet.must(Command::SetNodeExpiry { node: bob, expiry: Some(expiry) });
    room.told();
    room.tailnet.wait(Duration::from_secs(61));
    let (ann, own) = room.told();
    assert_eq!(ann["PeersChanged"][0]["Expired"], json!(true));
    assert_eq!(own["Node"]["Expired"], json!(true));
    room.tailnet.must(Command::SetNodeExpiry { node: bob, expiry: None });
    let (ann, _) = room.told();
    assert!(ann["PeersChanged"][0].get("Expired").is_none() && ann["PeersChanged"][0].get("KeyExpiry").is_none());

    room.tailnet.report(bob, |report| report.hostinfo = Some(hostinfo("bob", &["10.0.0.0/8"])));
    let (ann, own) = room.told();
    assert_eq!(ann["PeersChanged"][0]["Hostinfo"]["RoutableIPs"], json!(["10.0.0.0/8"]));
    assert_eq!(own, Value::Null, "bob said it");
    room.tailnet.must(Command::ApproveRoutes { node: bob, routes: BTreeSet::from(["10.0.0.0/8".parse().unwrap()]) });
    let (ann, own) = room.told();
    assert_eq!(ann, Value::Null, "nobody serves the route while its node is away");
    assert_eq!(own["Node"]["AllowedIPs"][0], json!("10.0.0.0/8"), "the node may serve it");
    assert!(own["Node"].get("PrimaryRoutes").is_none());
    room.tailnet.presence(bob, 5, true);
    let (ann, own) = room.told();
    assert_eq!(ann["PeersChanged"][0]["PrimaryRoutes"], json!(["10.0.0.0/8"]));
    assert_eq!(own["Node"]["PrimaryRoutes"], json!(["10.0.0.0/8"]));
}

#[test]
fn nodes_come_and_go() {
    let mut room = room();
    let eve = room.tailnet.user("eve");
    let key = room.tailnet.key(Some(eve), &[], false);
    let new = room.tailnet.join(&key, "eve");
    let (ann, bob) = room.told();
    assert_eq!(ann, bob, "both are told the same");
    assert_eq!(ann["PeersChanged"][0]["ID"], json!(new.0));
    assert_eq!(ann["UserProfiles"], json!([{"ID": eve.0, "LoginName": "eve", "DisplayName": "eve"}]));
    let again = room.tailnet.join(&room.key.clone(), "third");
    assert!(room.told().0.get("UserProfiles").is_none(), "known owners are not introduced again");
    room.tailnet.must(Command::DeleteNode { node: again });
    room.tailnet.must(Command::DeleteNode { node: room.bob });
    assert_eq!(room.told(), (json!({"PeersRemoved": [room.bob.0, again.0]}), json!("gone")));
}

#[test]
fn pages_are_sent_when_they_change() {
    let mut room = room();
    let settings = |room: &Room| (**room.tailnet.state.settings()).clone();
    let with = Settings { nameservers: vec!["1.1.1.1".into()], ..settings(&room) };
    room.tailnet.must(Command::ApplySettings { settings: with });
    let (ann, bob) = room.told();
    assert_eq!(ann, bob);
    assert_eq!(ann.as_object().unwrap().keys().collect::<Vec<_>>(), ["DNSConfig"]);

    let without = Settings { taildrop: false, ..settings(&room) };
    room.tailnet.must(Command::ApplySettings { settings: without });
    let (ann, _) = room.told();
    assert_eq!(ann.as_object().unwrap().keys().collect::<Vec<_>>(), ["Node"]);
    assert!(ann["Node"]["CapMap"].get("https://tailscale.com/cap/file-sharing").is_none());

    let member = Member { version: "2".into(), ..(**room.tailnet.state.member(MemberId(1)).unwrap()).clone() };
    room.tailnet.must(Command::AnnounceMember { member: member.clone() });
    assert_eq!(room.told(), (Value::Null, Value::Null), "a member's version is nobody's business");
    room.tailnet.must(Command::AnnounceMember { member: Member { relay: Some(relay("other")), ..member } });
    let (ann, _) = room.told();
    assert_eq!(ann["DERPMap"]["Regions"]["901"]["Nodes"][0]["HostName"], json!("other.example.com"));

    let user = room.tailnet.state.user_by_name("ann").unwrap().id;
    room.tailnet.must(Command::RenameUser { user, name: "anna".into() });
    assert_eq!(room.told().0, json!({"UserProfiles": [{"ID": user.0, "LoginName": "anna", "DisplayName": "anna"}]}));
}

#[test]
fn the_relay_of_a_silent_member_leaves_the_map() {
    let mut room = room();
    let regions = |frame: &Value| -> Vec<String> {
        frame["DERPMap"]["Regions"].as_object().map(|regions| regions.keys().cloned().collect()).unwrap_or_default()
    };
    let now = room.tailnet.now;
    let token = JoinToken {
        id: "t".into(),
        secret_sha256: [0; 32],
        name: String::new(),
        role: JoinRole::Voter,
        created_at: now,
        expires_at: now.after(Duration::from_secs(60)),
        used_by: None,
        ..JoinToken::default()
    };
    room.tailnet.must(Command::CreateJoinToken { token });
    let member = Member { name: "hs2".into(), relay: Some(relay("relay2")), ..Member::default() };
    let Outcome::Member(second) =
        room.tailnet.must(Command::AdmitMember { token: "t".into(), member, replaces: String::new() })
    else {
        panic!("a member was admitted")
    };
    let (ann, bob) = room.told();
    assert_eq!(regions(&ann), ["901", "902"]);
    assert_eq!(ann, bob);

    room.tailnet.must(Command::MemberSilence { member: second, silent: true });
    assert_eq!(regions(&room.told().0), ["901"]);
    room.tailnet.must(Command::MemberSilence { member: MemberId(1), silent: true });
    assert_eq!(regions(&room.told().0), ["901", "902"], "all silent: nothing better is known");
    room.tailnet.must(Command::MemberSilence { member: MemberId(1), silent: false });
    assert_eq!(regions(&room.told().0), ["901"]);
    room.tailnet.must(Command::MemberSilence { member: second, silent: false });
    assert_eq!(regions(&room.told().0), ["901", "902"]);
}

/// Candidates as `address after seconds`.
fn candidates(frame: &Value) -> Vec<String> {
    let candidates = frame["ControlDialPlan"]["Candidates"].as_array().unwrap_or_else(|| panic!("no plan: {frame}"));
    let said = |one: &Value| format!("{} {}", one["IP"].as_str().unwrap(), one["DialStartDelaySec"]);
    candidates.iter().map(said).collect()
}

#[test]
fn the_dial_plan_names_the_members_that_are_well() {
    let mut room = room();
    let now = room.tailnet.now;
    let facts = |name: &str| Member { name: name.into(), feature_level: 3, ..Member::default() };
    room.tailnet.must(Command::RaiseFeatureLevel { level: 3, at_once: true });
    let mut members = vec![MemberId(1)];
    for name in ["hs2", "hs3"] {
        let token = JoinToken {
            id: name.into(),
            secret_sha256: [0; 32],
            name: String::new(),
            role: JoinRole::Voter,
            created_at: now,
            expires_at: now.after(Duration::from_secs(60)),
            used_by: None,
            ..JoinToken::default()
        };
        room.tailnet.must(Command::CreateJoinToken { token });
        let admit = Command::AdmitMember { token: name.into(), member: facts(name), replaces: String::new() };
        let Outcome::Member(id) = room.tailnet.must(admit) else { panic!("a member was admitted") };
        members.push(id);
    }
    for (number, id) in members.iter().enumerate() {
        let addresses = vec![format!("192.0.2.{}", number + 1).parse().unwrap()];
        room.tailnet.must(Command::SetMemberAddresses { id: *id, addresses });
    }
    room.told();
    let settings = |room: &Room, dial_plan| Settings { dial_plan, ..(**room.tailnet.state.settings()).clone() };
    let on = settings(&room, true);
    room.tailnet.must(Command::ApplySettings { settings: on });
    let (ann, bob) = room.told();
    assert_eq!((room.ann, room.bob), (NodeId(1), NodeId(2)));
    assert_eq!(candidates(&ann), ["192.0.2.2 0.0", "192.0.2.3 0.3", "192.0.2.1 0.6"]);
    assert_eq!(candidates(&bob), ["192.0.2.3 0.0", "192.0.2.1 0.3", "192.0.2.2 0.6"], "nodes spread over the members");
    let whole: Value = serde_json::from_slice(&full(&room.atlas, room.ann, &room.tailnet.moment()).unwrap()).unwrap();
    assert_eq!(candidates(&whole), candidates(&ann));

    let (second, third) = (members[1], members[2]);
    room.tailnet.must(Command::MemberSilence { member: third, silent: true });
    assert_eq!(candidates(&room.told().0), ["192.0.2.2 0.0", "192.0.2.1 0.3"]);
    room.tailnet.must(Command::SetMemberDraining { id: second, draining: true });
    assert_eq!(candidates(&room.told().0), ["192.0.2.1 0.0"]);
    room.tailnet.must(Command::MemberSilence { member: third, silent: false });
    room.tailnet.must(Command::SetMemberDraining { id: second, draining: false });
    assert_eq!(candidates(&room.told().0), candidates(&ann));

    // Two addresses: the second ones are tried after everybody's first.
    let addresses = vec!["2001:db8::2".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    room.tailnet.must(Command::SetMemberAddresses { id: second, addresses });
    let four = ["2001:db8::2 0.0", "192.0.2.3 0.3", "192.0.2.1 0.6", "192.0.2.2 0.9"];
    assert_eq!(candidates(&room.told().0), four);

    let off = settings(&room, false);
    room.tailnet.must(Command::ApplySettings { settings: off });
    assert_eq!(room.told().0, json!({"ControlDialPlan": {"Candidates": []}}), "back to DNS");
    room.tailnet.must(Command::MemberSilence { member: second, silent: true });
    assert_eq!(room.told().0, Value::Null, "nobody's business");
}

#[test]
fn one_gap_is_one_delta() {
    let mut room = room();
    let start = room.atlas.clone();
    for number in 0..10 {
        room.tailnet.report(room.bob, |report| report.endpoints = Some(vec![endpoint(number, 5)]));
        room.told();
    }
    let moment = Moment { control_time: room.tailnet.now };
    let said = frame(delta(&start, &room.atlas, room.ann, &moment));
    assert_eq!(said, json!({"PeersChangedPatch": [{"NodeID": room.bob.0, "Endpoints": ["203.0.0.9:5"]}]}));
    room.tailnet.report(room.bob, |report| report.endpoints = Some(vec![endpoint(9, 5)]));
    assert_eq!(room.told(), (Value::Null, Value::Null), "a report of nothing new says nothing");
}

#[test]
fn each_node_is_told_which_name_it_may_have_certificates_for() {
    // Even ones are of this program's level.
    let mut room = room_in(Tailnet::new(2));
    let settings = |room: &Room| (**room.tailnet.state.settings()).clone();
    let on = Settings { node_certificates: NodeCertificates::Answered, ..settings(&room) };
    room.tailnet.must(Command::ApplySettings { settings: on });
    let (ann, bob) = room.told();
    assert_eq!(ann["DNSConfig"]["CertDomains"], json!(["ann.tail.example.net"]));
    assert_eq!(bob["DNSConfig"]["CertDomains"], json!(["bob.tail.example.net"]));
    assert_eq!(bob["DNSConfig"]["Proxied"], json!(true), "and all the rest with it");
    assert!(bob["Node"]["CapMap"].get("https").is_some());

    // Whoever is renamed may have one for the new name; nobody else is told.
    room.tailnet.must(Command::RenameNode { node: room.bob, name: "desk".into() });
    let (ann, bob) = room.told();
    assert!(ann.get("DNSConfig").is_none());
    assert_eq!(bob["DNSConfig"]["CertDomains"], json!(["desk.tail.example.net"]));

    let with = Settings { nameservers: vec!["1.1.1.1".into()], ..settings(&room) };
    room.tailnet.must(Command::ApplySettings { settings: with });
    let (ann, bob) = room.told();
    assert_eq!(ann["DNSConfig"]["CertDomains"], json!(["ann.tail.example.net"]));
    assert_eq!(bob["DNSConfig"]["FallbackResolvers"], json!([{"Addr": "1.1.1.1"}]));

    let off = Settings { node_certificates: NodeCertificates::Off, ..settings(&room) };
    room.tailnet.must(Command::ApplySettings { settings: off });
    let (ann, bob) = room.told();
    assert_eq!(ann["DNSConfig"], bob["DNSConfig"]);
    assert!(ann["DNSConfig"].get("CertDomains").is_none() && ann["Node"]["CapMap"].get("https").is_none());
    room.tailnet.must(Command::RenameNode { node: room.bob, name: "bob".into() });
    assert!(room.told().1.get("DNSConfig").is_none());
}

#[test]
fn a_map_for_one_and_none_for_strangers() {
    let mut tailnet = Tailnet::new(3);
    let user = tailnet.user("ann");
    let key = tailnet.key(Some(user), &[], false);
    let only = tailnet.join(&key, "only");
    let atlas = Atlas::draw(&tailnet.latest());
    assert_eq!(full(&atlas, NodeId(99), &tailnet.moment()), None);
    let frame: Value = serde_json::from_slice(&full(&atlas, only, &tailnet.moment()).unwrap()).unwrap();
    assert!(frame.get("Peers").is_none(), "an empty list is left out");
    for page in [
        "Node",
        "DERPMap",
        "DNSConfig",
        "Domain",
        "CollectServices",
        "PacketFilters",
        "UserProfiles",
        "ControlTime",
        "Debug",
        "ControlDialPlan",
    ] {
        assert!(frame.get(page).is_some(), "{page}");
    }
    assert!(frame.get("DefaultAutoUpdate").is_none());
    tailnet.report(only, |report| report.capability_version = Some(113));
    let atlas = atlas.redraw(&tailnet.latest());
    let frame: Value = serde_json::from_slice(&full(&atlas, only, &tailnet.moment()).unwrap()).unwrap();
    assert_eq!(frame["DefaultAutoUpdate"], json!(false));
}

#[test]
fn signals_obey_the_contract() {
    let moment = Moment { control_time: Timestamp(0) };
    let ping = tailcfg::PingRequest { url: "https://unused/c2n/x".into(), types: "c2n".into(), ..Default::default() };
    netmap::contract::check(&netmap::wire::ping(&ping, &moment)).unwrap();
    let candidate = tailcfg::ControlIpCandidate::new("203.0.113.7".parse().unwrap(), 0.0);
    let plan = tailcfg::ControlDialPlan { candidates: vec![candidate] };
    netmap::contract::check(&netmap::wire::dial_plan(&plan, &moment)).unwrap();
    netmap::contract::check(netmap::wire::keep_alive()).unwrap();
}

#[test]
fn a_policy_moves_what_it_is_about() {
    let mut room = room();
    let (ann, bob) = (room.ann, room.bob);
    let set = |room: &mut Room, text: &str| {
        room.tailnet.must(Command::SetPolicy { text: text.into(), author: "test".into() });
        room.told()
    };
    let empty = json!({"base": []});
    let (told_ann, told_bob) = set(&mut room, "{\"acls\": []}");
    assert_eq!(told_ann, json!({"PeersRemoved": [bob.0], "PacketFilters": empty}), "nobody reaches anybody");
    assert_eq!(told_bob, json!({"PeersRemoved": [ann.0], "PacketFilters": empty}));
    assert_eq!(set(&mut room, "{\"acls\": []} // as before"), (Value::Null, Value::Null), "a remark moves nothing");

    let address = format!("100.64.0.{}", bob.0);
    let rule = format!("{{\"acls\": [{{\"action\": \"accept\", \"src\": [\"ann@\"], \"dst\": [\"{address}:22\"]}}]}}");
    let (told_ann, told_bob) = set(&mut room, &rule);
    assert_eq!(told_ann["PeersChanged"][0]["ID"], json!(bob.0), "who may reach it, sees it");
    assert!(told_ann.get("PacketFilters").is_none(), "nobody may reach ann: {told_ann}");
    assert_eq!(told_bob["PeersChanged"][0]["ID"], json!(ann.0), "and is seen");
    let expected = json!([{"IP": address, "Ports": {"First": 22, "Last": 22}}]);
    assert_eq!(told_bob["PacketFilters"]["base"][0]["DstPorts"], expected);

    let shells = "\"ssh\": [{\"action\": \"accept\", \"src\": [\"ann@\"], \"dst\": [\"autogroup:self\"], \"users\": [\"root\"]}]";
    let (told_ann, told_bob) = set(&mut room, &rule.replacen('{', &format!("{{{shells}, "), 1));
    let words = |told: &Value| told.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((words(&told_ann), words(&told_bob)), (vec!["SSHPolicy".to_owned()], vec!["SSHPolicy".to_owned()]));
    assert_eq!(told_bob["SSHPolicy"]["rules"][0]["sshUsers"], json!({"root": "root"}));

    let hidden = rule.replacen('{', "{\"nodeAttrs\": [{\"target\": [\"*\"], \"attr\": [\"disable-ipv4\"]}], ", 1);
    let (told_ann, _) = set(&mut room, &hidden);
    let six = json!([format!("fd7a:115c:a1e0::{:x}/128", ann.0)]);
    assert_eq!(told_ann["Node"]["Addresses"], six);
    assert_eq!(told_ann["Node"]["CapMap"]["disable-ipv4"], json!([]));
}
