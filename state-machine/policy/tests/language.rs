//! What the language takes and refuses, with the words of the hosted control plane, the place and a hint.

use policy::{CheckPeriod, Meaning, Node, Policy, Role, Tailnet, User};

fn tailnet() -> Tailnet {
    let mut tailnet = Tailnet::default();
    for (id, name, email) in [(1, "ann", "ann@example.com"), (2, "bob", "bob@example.org"), (3, "carl", "")] {
        let role = if id == 1 { Role::Owner } else { Role::Member };
        let user = User { id, name: name.into(), email: email.into(), role, ..User::default() };
        tailnet.users.insert(id, user.into());
    }
    for (id, user, tags) in
        [(1, Some(1), vec![]), (2, Some(2), vec![]), (3, None, vec!["tag:web"]), (4, Some(1), vec![])]
    {
        let tags = tags.into_iter().map(str::to_owned).collect();
        let ipv4 = Some(std::net::Ipv4Addr::new(100, 64, 0, id as u8));
        let node = Node { id, user, tags, ipv4, online: true, ..Node::default() };
        tailnet.nodes.insert(id, node.into());
    }
    tailnet
}

fn complaint(text: &str) -> String {
    match Policy::parse(text).and_then(|parsed| parsed.policy.check(&tailnet())) {
        Ok(()) => panic!("taken: {text}"),
        Err(rejection) => rejection.to_string(),
    }
}

#[test]
fn complaints_say_what_is_wrong() {
    let table = [
        (r#"{"acls":[{"action":"deny","src":["*"],"dst":["*:*"]}]}"#, r#"action="deny" is not supported"#),
        (r#"{"acls":[{"action":"accept","src":["tag:x"],"dst":["*:*"]}]}"#, r#"src=tag not found: "tag:x""#),
        (r#"{"acls":[{"action":"accept","src":["*"],"dst":["tag:x:1"]}]}"#, r#"dst="tag:x": tag not found: "tag:x""#),
        (r#"{"acls":[{"action":"accept","src":["group:x"],"dst":["*:*"]}]}"#, r#"src=group not found: "group:x""#),
        (r#"{"acls":[{"action":"accept","src":["ann"],"dst":["*:*"]}]}"#, r#"for a user write "ann@""#),
        (
            r#"{"acls":[{"action":"accept","src":["autogroup:self"],"dst":["*:*"]}]}"#,
            r#""autogroup:self" not valid on the src side of a rule"#,
        ),
        (
            r#"{"acls":[{"action":"accept","src":["*"],"dst":["autogroup:self"]}]}"#,
            r#"dst="autogroup:self": port range "self": invalid first integer"#,
        ),
        (
            r#"{"acls":[{"action":"accept","src":["*"],"dst":["*:0"]}]}"#,
            r#"port range "0": first port must be >0, or use '*' for wildcard"#,
        ),
        (
            r#"{"acls":[{"action":"accept","src":["*"],"dst":["autogroup:danger-all:*"]}]}"#,
            "cannot use autogroup:danger-all as a dst",
        ),
        (r#"{"acls":[{"action":"accept","proto":"icmp","src":["*"],"dst":["*:80"]}]}"#, "protocol icmp has no ports"),
        (
            r#"{"acls":[{"action":"accept","srcPosture":["posture:x"],"src":["*"],"dst":["*:*"]}]}"#,
            "device postures are not supported",
        ),
        (r#"{"postures":{"posture:x":[]}}"#, "device postures are not supported"),
        (
            r#"{"grants":[{"src":["*"],"dst":["0.0.0.0/0"],"ip":["*"]}]}"#,
            r#"dst "0.0.0.0/0": to allow all IP addresses, use "*" or "autogroup:internet""#,
        ),
        (r#"{"grants":[{"src":["*"],"dst":["*"]}]}"#, "ip and app can not both be empty"),
        (r#"{"grants":[{"src":["*"],"dst":["*"],"ip":["*"],"via":["group:x"]}]}"#, "via can only be a tag"),
        (r#"{"grants":[{"src":["*"],"dst":["*"],"ip":["*"],"via":["tag:x"]}]}"#, r#"tag "tag:x" not found"#),
        (
            r#"{"grants":[{"src":["*"],"dst":["*"],"app":{"tailscale.com/cap/x":[]}}]}"#,
            "capability name must not be in the tailscale.com domain",
        ),
        (
            r#"{"grants":[{"src":["*"],"dst":["*"],"app":{"nope":[]}}]}"#,
            "capability name must have the form {domain}/{path}",
        ),
        (r#"{"tagOwners":{"tag:1":[]}}"#, "tagOwners[\"tag:1\"]: tag names must start with a letter, after 'tag:'"),
        (r#"{"tagOwners":{"web":[]}}"#, "tags must start with 'tag:'"),
        (r#"{"hosts":{"a@b":"1.2.3.4"}}"#, "host names must not"),
        (r#"{"hosts":{"a":"example.com"}}"#, "invalid address"),
        (
            r#"{"ssh":[{"action":"accept","src":["tag:web"],"dst":["autogroup:member"],"users":["root"]}],"tagOwners":{"tag:web":[]}}"#,
            "tags in SSH source cannot access user-owned devices",
        ),
        (
            r#"{"ssh":[{"action":"accept","src":["ann@","bob@"],"dst":["bob@"],"users":["root"]}]}"#,
            "only that same user",
        ),
        (r#"{"ssh":[{"action":"accept","src":["ann@"],"dst":["*"],"users":["root"]}]}"#, "invalid dst \"*\""),
        (
            r#"{"ssh":[{"action":"check","src":["ann@"],"dst":["autogroup:self"],"users":["root"],"checkPeriod":"200h"}]}"#,
            "checkPeriod 200h0m0s is above the max (168h)",
        ),
        (
            r#"{"ssh":[{"action":"accept","src":["user:*@example.org"],"dst":["autogroup:self"],"users":["root"]}]}"#,
            "[ssh] example.org is not associated with this Tailnet",
        ),
        (
            r#"{"sshTests":[{"src":"ann@","dst":["*"],"accept":["root"]}]}"#,
            "SSH tests dst contains disallowed element \"*\"",
        ),
        (r#"{"derpMap":{}}"#, "use derp.paths in the configuration"),
        (r#"{"acls":[],"acl":[]}"#, "unknown field \"acl\" (known here: groups"),
        (r#"{"acls":{}}"#, "acls must be a list, not an object"),
        ("acls:\n  - action: accept\n", "hsraft policy convert"),
    ];
    for (text, expected) in table {
        let complaint = complaint(text);
        assert!(complaint.contains(expected), "{text}\n  said   {complaint}\n  wanted {expected}");
    }
}

#[test]
fn complaints_know_their_place() {
    let text = "{\n  // who\n  \"acls\": [\n    {\"action\": \"accept\", \"src\": [\"ü\", \"tag:gone\"], \"dst\": []},\n  ],\n}";
    assert!(complaint(text).starts_with("line 4, column 34: src=\"ü\": invalid address"), "{}", complaint(text));
}

#[test]
fn older_spellings_are_taken_with_a_warning() {
    let text = r#"{"groups": {"group:ops": ["user:ann", "bob"]}, "tagOwners": {"tag:web": ["carl"]},
        "acls": [{"action": "accept", "users": ["group:ops", "user:carl"], "ports": ["tag:web:22"]}],
        "tests": [{"src": "user:ann", "allow": ["tag:web:22"]}, {"src": "carl@", "accept": ["tag:web:22"], "deny": ["tag:web:23"]}]}"#;
    let parsed = Policy::parse(text).unwrap();
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    assert_eq!(warnings[0], "line 1, column 27: \"user:ann\" is an older spelling of a user: write \"ann@\"");
    parsed.policy.check(&tailnet()).unwrap();
    // Before anybody joined, tests ask what the rules say.
    parsed.policy.check(&Tailnet::default()).unwrap();
    let meaning = Meaning::compile(&parsed.policy, tailnet());
    assert!(meaning.sees(1, 3) && meaning.sees(2, 3) && !meaning.sees(1, 2));
}

#[test]
fn tests_of_the_policy_are_judged() {
    let with = |tests: &str| {
        complaint(&format!(
            r#"{{"hosts":{{"net":"10.0.0.0/8"}},"tagOwners":{{"tag:web":[]}},
            "acls":[{{"action":"accept","proto":"tcp","src":["ann@"],"dst":["tag:web:22","net:*"]}}],"tests":[{tests}]}}"#
        ))
    };
    assert!(
        with(r#"{"src":"bob@","accept":["tag:web:22"]}"#)
            .contains("test(s) failed: tests[0]: bob@ to tag:web:22 is not allowed, wanted accept")
    );
    assert!(with(r#"{"src":"ann@","deny":["tag:web:22"]}"#).contains("is allowed, wanted deny"));
    assert!(with(r#"{"src":"ann@","proto":"udp","accept":["tag:web:22"]}"#).contains("test(s) failed"));
    assert!(with(r#"{"src":"ann@","accept":["net:22"]}"#).contains("must be a single address"));
    assert!(with(r#"{"src":"ann@","accept":["tag:web:22-23"]}"#).contains("one number"));
    assert!(with(r#"{"src":"ghost@","accept":["tag:web:22"]}"#).contains("is nobody"));
    assert!(with(r#"{"src":"ann@"}"#).contains("neither accept nor deny"));
}

#[test]
fn ipsets_add_and_remove() {
    let text = r#"{"hosts": {"hole": "10.1.0.0/16"}, "ipsets": {"ipset:most": ["add 10.0.0.0/8", "remove host:hole", "100.64.0.3"]},
        "acls": [{"action": "accept", "src": ["ann@"], "dst": ["ipset:most:443"]}]}"#;
    let meaning = Meaning::compile(&Policy::parse(text).unwrap().policy, tailnet());
    assert!(meaning.sees(1, 3) && !meaning.sees(1, 2));
    let verdict =
        |target: &str| meaning.why("100.64.0.1".parse().unwrap(), target.parse().unwrap(), Some(443), None).allowed;
    assert!(verdict("10.2.0.1") && !verdict("10.1.0.1") && verdict("100.64.0.3"));
}

#[test]
fn why_names_the_rule_or_what_comes_nearest() {
    let text = r#"{"tagOwners": {"tag:web": []}, "acls": [
        {"action": "accept", "src": ["bob@"], "dst": ["tag:web:80"]},
        {"action": "accept", "src": ["ann@"], "dst": ["tag:web:22"]}]}"#;
    let meaning = Meaning::compile(&Policy::parse(text).unwrap().policy, tailnet());
    let ask = |port| meaning.why("100.64.0.1".parse().unwrap(), "100.64.0.3".parse().unwrap(), Some(port), None);
    assert_eq!(ask(22).rules[0].rule, "acls[1]");
    assert!(ask(22).allowed && ask(22).rules[0].misses.is_empty());
    let near = ask(443);
    assert!(!near.allowed);
    assert_eq!((near.rules[0].rule.as_str(), near.rules[0].misses.as_slice()), ("acls[1]", &["port"][..]));
    assert_eq!(near.rules[0].shown, "ann@ → tag:web:22");
}

#[test]
fn checks_of_shells_have_their_period() {
    let text = r#"{"ssh": [
        {"action": "check", "src": ["ann@"], "dst": ["autogroup:self"], "users": ["root"], "checkPeriod": "always"},
        {"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["autogroup:nonroot"]}],
        "tagOwners": {"tag:web": []}}"#;
    let meaning = Meaning::compile(&Policy::parse(text).unwrap().policy, tailnet());
    assert_eq!(meaning.ssh_check_period(1, 4, "root"), Some(CheckPeriod::Always));
    assert_eq!(meaning.ssh_check_period(1, 3, "www"), Some(CheckPeriod::Secs(12 * 3600)));
    assert_eq!(meaning.ssh_check_period(1, 3, "root"), None);
    assert_eq!(meaning.ssh_check_period(1, 2, "root"), None);
}

#[test]
fn who_owns_tags_and_whose_routes_are_approved() {
    let text = r#"{"groups": {"group:ops": ["ann@example.com"]}, "tagOwners": {"tag:web": ["group:ops"], "tag:sub": ["tag:web"]},
        "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:web", "bob@example.org"], "0.0.0.0/0": ["tag:web"]}, "exitNode": ["carl@"]}}"#;
    let (policy, tailnet) = (Policy::parse(text).unwrap().policy, tailnet());
    let user = |id: u64| &*tailnet.users[&id];
    assert!(policy.may_own_tag(user(1), "tag:sub") && !policy.may_own_tag(user(2), "tag:web"));
    assert!(policy.has_tag("tag:web") && !policy.has_tag("tag:x"));
    let approves = |node: u64, owner: Option<u64>, route: &str| {
        policy.auto_approves(&tailnet.nodes[&node], owner.map(user), &route.parse().unwrap())
    };
    assert!(
        approves(3, None, "10.1.0.0/16") && approves(2, Some(2), "10.0.0.0/8") && !approves(1, Some(1), "10.1.0.0/16")
    );
    assert!(approves(3, None, "192.168.0.0/16"), "a prefix that covers all subnets");
    assert!(!approves(3, None, "0.0.0.0/0"), "being an exit node is a right of its own");
    assert!(approves(1, Some(3), "0.0.0.0/0") && approves(1, Some(3), "::/0"));
}
