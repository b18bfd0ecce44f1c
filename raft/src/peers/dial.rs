//! Where a member is, and a channel to it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use state_machine::{MemberId, State};
use tokio::sync::watch;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use world::{BoxStream, Net};

use super::{
    MESSAGE_BYTES_MAX,
    gate::{Peer, gated},
    proto::peers_client::PeersClient,
};
use crate::{
    drills::Drills,
    options::Timing,
    pki::{MemberTls, member_name},
    tasks::Tasks,
};

/// Where members are: what State says, or else what was heard when this member came.
#[derive(Clone)]
pub struct AddressBook {
    latest: watch::Receiver<Arc<State>>,
    heard: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl AddressBook {
    pub fn new(latest: watch::Receiver<Arc<State>>, heard: impl IntoIterator<Item = (u64, String)>) -> AddressBook {
        AddressBook { latest, heard: Arc::new(Mutex::new(heard.into_iter().collect())) }
    }

    /// Remembers where a member was when it was seated.
    pub fn hear(&self, member: MemberId, address: &str) {
        self.heard.lock().expect("nobody panics while holding the book").insert(member.0, address.into());
    }

    /// `host:port` of a member.
    pub fn address(&self, member: MemberId) -> Option<String> {
        let known = self.latest.borrow().member(member).map(|member| member.peer_address.clone());
        known
            .filter(|address| !address.is_empty())
            .or_else(|| self.heard.lock().expect("nobody panics while holding the book").get(&member.0).cloned())
    }
}

/// Opens channels to members.
#[derive(Clone)]
pub struct Dialer {
    pub net: Arc<dyn Net>,
    pub tls: MemberTls,
    pub cluster_id: Arc<str>,
    pub book: AddressBook,
    pub tasks: Tasks,
    pub timing: Timing,
    pub drills: Drills,
}

impl Dialer {
    /// A black-holed connection returns no error by itself; pings do.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.timing.election_max_ms.max(500))
    }

    async fn dial(&self, to: MemberId) -> io::Result<TokioIo<TlsStream<BoxStream>>> {
        let address = self
            .book
            .address(to)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no address of member {to} is known")))?;
        let connect = async {
            let stream = gated(self.net.connect(&address).await?, &self.drills, Peer::known(to));
            let name = ServerName::try_from(member_name(to, &self.cluster_id)).map_err(io::Error::other)?;
            TlsConnector::from(self.tls.client()).connect(name, stream).await
        };
        let at_most = self.silence() * 2;
        match tokio::time::timeout(at_most, connect).await {
            Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(member = %to, address, %error, "could not connect");
                Err(error)
            }
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("member {to} did not answer in {at_most:?}")))
            }
        }
    }

    /// A channel of its own; connects when it is first used and again after a failure.
    pub fn channel(&self, to: MemberId) -> PeersClient<Channel> {
        let dialer = self.clone();
        let connector = tower::service_fn(move |_: hyper::Uri| {
            let dialer = dialer.clone();
            Box::pin(async move { dialer.dial(to).await })
                as std::pin::Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<BoxStream>>>> + Send>>
        });
        let channel = Endpoint::from_shared(format!("http://{}", member_name(to, &self.cluster_id)))
            .expect("a member name is a host name")
            .executor(self.tasks.clone())
            .http2_keep_alive_interval(self.silence())
            .keep_alive_timeout(self.silence())
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_with_connector_lazy(connector);
        PeersClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}
