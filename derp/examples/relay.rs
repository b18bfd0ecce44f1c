//! The relay alone, open to everybody, for probes and measurements:
//!
//! `cargo run --release -p derp --example relay -- 127.0.0.1:4443 [plain]` serves TLS with a self-signed certificate
//! (or plain HTTP) on TCP and STUN on UDP of the same address.

use std::{net::SocketAddr, sync::Arc};

use derp::{PrivateKey, Relay, RelayOptions};
use tailcfg::NodeKey;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let world = world::real::world();
    let addr: SocketAddr =
        std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("the first argument is ADDRESS:PORT");
    let plain = std::env::args().any(|argument| argument == "plain");
    let options = RelayOptions::new(PrivateKey::generate(&world.entropy));
    let relay = Relay::start(options, Arc::new(|_: &NodeKey| true), &world);
    let mut listener = world.net.listen(addr).await.expect("the TCP port is free");
    let socket = world.net.udp(addr).await.expect("the UDP port is free");
    println!("relay {} on {addr}", relay.public_key());
    let stun = relay.clone();
    tokio::spawn(async move { stun.serve_stun(socket).await });
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let relay = relay.clone();
                tokio::spawn(async move {
                    if plain { relay.serve(stream, from).await } else { relay.serve_tls(stream, from).await }
                });
            }
            Err(error) => eprintln!("could not accept a connection: {error}"),
        }
    }
}
