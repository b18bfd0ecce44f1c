//! Who is believed by whom, and until when.

use super::*;

#[test]
fn names_and_sizes() {
    let world = world::real::world();
    let authority_key = new_key(&world.entropy);
    let authority = new_authority(&authority_key, "abcd2345", 0, &world).unwrap();
    let sizes: std::collections::BTreeSet<usize> = (0..50)
        .map(|_| {
            let key = new_key(&world.entropy);
            let public = public_key(&key).unwrap();
            let leaf = sign_member(&authority, &authority_key, &public, MemberId(7), "abcd2345", &world).unwrap();
            assert_eq!(member_of(&leaf, "abcd2345"), Some(MemberId(7)));
            assert_eq!(member_of(&leaf, "other234"), None);
            leaf.len()
        })
        .collect();
    assert_eq!(sizes.len(), 1, "certificates of one member have one size");
    assert_eq!(parse_member_name("member-x.abcd2345.hsraft"), None);
    assert_eq!(parse_member_name("abcd2345.hsraft"), None);
}

struct Cluster {
    world: World,
    id: &'static str,
    key: Key,
    authority: Vec<u8>,
}

impl Cluster {
    fn new(id: &'static str) -> Cluster {
        let world = world::real::world();
        let key = new_key(&world.entropy);
        let authority = new_authority(&key, id, 0, &world).unwrap();
        Cluster { world, id, key, authority }
    }

    fn papers<'a>(&'a self, certificate: &'a [u8], key: &'a [u8]) -> Papers<'a> {
        let authority: &'a [&'a [u8]] = Vec::leak(vec![self.authority.as_slice()]);
        Papers { certificate, key, chain: authority, trusted: authority }
    }

    fn member(&self, id: u64) -> MemberTls {
        let key = new_key(&self.world.entropy);
        let public = public_key(&key).unwrap();
        let leaf = sign_member(&self.authority, &self.key, &public, MemberId(id), self.id, &self.world).unwrap();
        MemberTls::new(self.papers(&leaf, &key), self.world.clock.clone()).unwrap()
    }
}

/// Both ends of a handshake: whom the caller found, and who the server thinks called.
async fn meet(client: Arc<ClientConfig>, server: &MemberTls, addressed: &str) -> (bool, Option<Option<MemberId>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from(addressed.to_string()).unwrap();
    let call = async {
        let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"x").await?;
        // TLS 1.3: a refused client certificate is only heard of with the first read.
        stream.read_exact(&mut [0]).await.map(drop)
    };
    let serve = async {
        let mut stream = tokio_rustls::TlsAcceptor::from(server.server()).accept(far).await.ok()?;
        stream.read_exact(&mut [0]).await.ok()?;
        stream.write_all(b"y").await.ok()?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
        Some(shown.and_then(|certificate| member_of(&certificate, "abcd2345")))
    };
    let (called, served) = tokio::join!(call, serve);
    (called.is_ok(), served)
}

#[tokio::test]
async fn a_member_is_taken_for_itself_only() {
    let ours = Cluster::new("abcd2345");
    let (one, two) = (ours.member(1), ours.member(2));
    let found = meet(one.client(), &two, "member-2.abcd2345.hsraft").await;
    assert_eq!(found, (true, Some(Some(MemberId(1)))));
    let (found, _) = meet(one.client(), &two, "member-3.abcd2345.hsraft").await;
    assert!(!found, "the certificate of 2 is not taken for 3");

    // Another cluster of the same name has another authority.
    let theirs = Cluster::new("abcd2345").member(2);
    assert!(!meet(one.client(), &theirs, "member-2.abcd2345.hsraft").await.0);
    assert_eq!(meet(theirs.client(), &two, "member-2.abcd2345.hsraft").await, (false, None));
}

#[tokio::test]
async fn a_joiner_looks_at_the_pin_first() {
    let ours = Cluster::new("abcd2345");
    let two = ours.member(2);
    let pin = spki_sha256(&ours.authority).unwrap();
    let joiner = JoinerTls::new(pin, "abcd2345", ours.world.clock.clone()).unwrap();
    assert_eq!(meet(joiner.client.clone(), &two, "join.hsraft").await, (true, Some(None)), "a stranger");
    assert_eq!(joiner.authority().as_ref(), Some(&ours.authority));

    let wrong = JoinerTls::new([0; 32], "abcd2345", ours.world.clock.clone()).unwrap();
    assert!(!meet(wrong.client.clone(), &two, "join.hsraft").await.0);
    assert!(wrong.wrong_pin());
}

#[tokio::test]
async fn certificates_obey_the_worlds_clock() {
    struct Later(u64);
    impl Clock for Later {
        fn now_ms(&self) -> u64 {
            self.0
        }
    }
    let mut ours = Cluster::new("abcd2345");
    let (one, two) = (ours.member(1), ours.member(2));
    assert!(meet(one.client(), &two, "member-2.abcd2345.hsraft").await.0);
    ours.world.clock = Arc::new(Later(ours.world.clock.now_ms() + (LEAF_DAYS + 1) * 24 * 3600 * 1000));
    let key = new_key(&ours.world.entropy);
    let public = public_key(&key).unwrap();
    let old_world = world::real::world();
    let leaf = sign_member(&ours.authority, &ours.key, &public, MemberId(1), ours.id, &old_world).unwrap();
    let late = MemberTls::new(ours.papers(&leaf, &key), ours.world.clock.clone()).unwrap();
    assert!(!meet(late.client(), &two, "member-2.abcd2345.hsraft").await.0, "expired by its own clock");
}

/// Through every mixture of who has moved and who has not, members believe each other; and who lost the old
/// authority believes nobody it signed.
#[tokio::test]
async fn members_believe_each_other_while_an_authority_replaces_another() {
    let old = Cluster::new("abcd2345");
    let new_key = new_key(&old.world.entropy);
    let new = new_authority(&new_key, old.id, 1, &old.world).unwrap();
    let cross = cross_sign(&old.authority, &old.key, &new_key, old.id, 1, &old.world).unwrap();
    let member = |id, moved: bool, trusted: &[&[u8]]| {
        let key = super::new_key(&old.world.entropy);
        let public = public_key(&key).unwrap();
        let (authority, authority_key) = if moved { (&new, &new_key) } else { (&old.authority, &old.key) };
        let leaf = sign_member(authority, authority_key, &public, MemberId(id), old.id, &old.world).unwrap();
        let moving: [&[u8]; 3] = [&new, &cross, &old.authority];
        let chain: &[&[u8]] = if moved { &moving } else { &moving[2..] };
        MemberTls::new(Papers { certificate: &leaf, key: &key, chain, trusted }, old.world.clock.clone()).unwrap()
    };
    let bare = |id| {
        let key = super::new_key(&old.world.entropy);
        let public = public_key(&key).unwrap();
        let leaf = sign_member(&new, &new_key, &public, MemberId(id), old.id, &old.world).unwrap();
        let papers = Papers { certificate: &leaf, key: &key, chain: &[], trusted: &[&new] };
        MemberTls::new(papers, old.world.clock.clone()).unwrap()
    };
    let both: [&[u8]; 2] = [&new, &old.authority];
    let (only_old, only_new): ([&[u8]; 1], [&[u8]; 1]) = ([&old.authority], [&new]);
    // Down all the time; trusts both; moved.
    let kinds = |id| [member(id, false, &only_old), member(id, false, &both), member(id, true, &both)];
    for (caller, one) in kinds(1).iter().enumerate() {
        for (called, two) in kinds(2).iter().enumerate() {
            let found = meet(one.client(), two, "member-2.abcd2345.hsraft").await;
            assert_eq!(found, (true, Some(Some(MemberId(1)))), "{caller} calls {called}");
        }
    }
    let (settled, moved) = (member(2, true, &only_new), member(1, true, &both));
    assert!(meet(moved.client(), &settled, "member-2.abcd2345.hsraft").await.0);
    let late = meet(member(1, false, &both).client(), &settled, "member-2.abcd2345.hsraft").await;
    assert_eq!(late, (false, None), "a certificate of the old authority is worth nothing any more");

    // Once nobody is waited for, the chain is shown no more. Who was left behind can tell, and nobody else believes it
    // was: not whoever meets one that was.
    let left_behind = member(1, false, &only_old);
    assert!(!meet(left_behind.client(), &bare(2), "member-2.abcd2345.hsraft").await.0);
    assert_eq!((left_behind.take_newer(), left_behind.take_newer()), (Some(1), None));
    let newest = bare(2);
    assert!(!meet(newest.client(), &member(1, false, &only_old), "member-1.abcd2345.hsraft").await.0);
    assert_eq!(newest.take_newer(), None);

    // A token of before pins what still stands at the end of the chain: the cluster is recognised and can refuse.
    for pin in [&old.authority, &new] {
        let pin = spki_sha256(pin).unwrap();
        let joiner = JoinerTls::new(pin, old.id, old.world.clock.clone()).unwrap();
        assert_eq!(meet(joiner.client.clone(), &moved, "join.hsraft").await, (true, Some(None)));
    }
}
