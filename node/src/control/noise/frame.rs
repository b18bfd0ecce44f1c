//! Records: three bytes of header, then at most 4093 bytes of ciphertext.

use bytes::{BufMut, BytesMut};
use snow::StatelessTransportState;
use thiserror::Error;

/// The largest record on the wire, header included (`control/controlbase`, maxMessageSize).
pub const RECORD_BYTES_MAX: usize = 4096;
/// The most plaintext one record carries.
pub const PLAINTEXT_BYTES_MAX: usize = RECORD_BYTES_MAX - HEADER_BYTES - TAG_BYTES;

const HEADER_BYTES: usize = 3;
const TAG_BYTES: usize = 16;
const TYPE_RECORD: u8 = 4;

/// Why a connection's records end here.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("unexpected message type {0} where a record should be")]
    Type(u8),
    #[error("record of {0} bytes exceeds the limit")]
    TooLong(usize),
    #[error("record shorter than its own seal")]
    TooShort,
    #[error("record does not decrypt")]
    Decrypt,
    #[error("all record numbers of the connection are used up")]
    Exhausted,
}

/// Seals what goes out and opens what comes in, each with its own counter from zero.
pub struct Records {
    transport: StatelessTransportState,
    sent: u64,
    received: u64,
}

impl Records {
    /// Both counters at zero.
    pub fn new(transport: StatelessTransportState) -> Records {
        Records { transport, sent: 0, received: 0 }
    }

    /// Appends one record with `plaintext` to `out`; at most [`PLAINTEXT_BYTES_MAX`] bytes.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut BytesMut) -> Result<(), RecordError> {
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(RecordError::TooLong(plaintext.len()));
        }
        let nonce = next(&mut self.sent)?;
        let sealed = plaintext.len() + TAG_BYTES;
        out.reserve(HEADER_BYTES + sealed);
        out.put_u8(TYPE_RECORD);
        out.put_u16(sealed as u16);
        let at = out.len();
        out.put_bytes(0, sealed);
        let written = self.transport.write_message(nonce, plaintext, &mut out[at..]);
        if written != Ok(sealed) {
            out.truncate(at - HEADER_BYTES);
            return Err(RecordError::Exhausted);
        }
        Ok(())
    }

    /// Takes one whole record off the front of `wire` and appends its plaintext to `out`. `false`: not enough bytes yet.
    pub fn open(&mut self, wire: &mut BytesMut, out: &mut BytesMut) -> Result<bool, RecordError> {
        let [kind, l0, l1, ..] = wire[..] else { return Ok(false) };
        if kind != TYPE_RECORD {
            return Err(RecordError::Type(kind));
        }
        let sealed = usize::from(u16::from_be_bytes([l0, l1]));
        if HEADER_BYTES + sealed > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong(HEADER_BYTES + sealed));
        }
        if sealed < TAG_BYTES {
            return Err(RecordError::TooShort);
        }
        if wire.len() < HEADER_BYTES + sealed {
            return Ok(false);
        }
        let record = wire.split_to(HEADER_BYTES + sealed);
        let nonce = next(&mut self.received)?;
        let at = out.len();
        // The cipher opens in place over the whole record, tag included.
        out.put_bytes(0, sealed);
        match self.transport.read_message(nonce, &record[HEADER_BYTES..], &mut out[at..]) {
            Ok(length) => {
                out.truncate(at + length);
                Ok(true)
            }
            Err(_) => {
                out.truncate(at);
                Err(RecordError::Decrypt)
            }
        }
    }
}

/// The next counter as snow wants it: snow writes nonces little-endian, Tailscale's go big-endian.
fn next(counter: &mut u64) -> Result<u64, RecordError> {
    if *counter == u64::MAX {
        return Err(RecordError::Exhausted);
    }
    let nonce = counter.swap_bytes();
    *counter += 1;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use world::Entropy;

    use super::*;
    use crate::control::noise::{handshake, public_key};

    fn pair() -> (Records, Records) {
        let entropy = Entropy::new(|bytes| bytes.fill(5));
        let (waiting, initiation) = handshake::initiate(&[1; 32], &public_key(&[2; 32]), 130, &entropy).unwrap();
        let (response, server) = handshake::respond(&[2; 32], &initiation, &entropy).unwrap();
        let client = waiting.finish(&response).unwrap();
        (Records::new(client.transport), Records::new(server.transport))
    }

    #[test]
    fn records_arrive_whole_and_in_order() {
        let (mut client, mut server) = pair();
        let mut wire = BytesMut::new();
        let longest = vec![7; PLAINTEXT_BYTES_MAX];
        client.seal(b"one", &mut wire).unwrap();
        client.seal(b"", &mut wire).unwrap();
        client.seal(&longest, &mut wire).unwrap();
        assert_eq!(wire.len(), 3 + 3 + 16 + 3 + 16 + RECORD_BYTES_MAX);

        let mut arriving = BytesMut::new();
        let mut plain = BytesMut::new();
        let mut opened = 0;
        for byte in wire {
            arriving.put_u8(byte);
            while server.open(&mut arriving, &mut plain).unwrap() {
                opened += 1;
            }
        }
        assert_eq!(opened, 3);
        assert_eq!(plain[..3], *b"one");
        assert_eq!(plain[3..], longest);
    }

    #[test]
    fn limits_hold() {
        let (mut client, mut server) = pair();
        let mut out = BytesMut::new();
        assert_eq!(client.seal(&[0; PLAINTEXT_BYTES_MAX + 1], &mut out), Err(RecordError::TooLong(4078)));
        let cases: [(&[u8], RecordError); 3] = [
            (&[4, 0x0f, 0xfe], RecordError::TooLong(4097)),
            (&[4, 0, 15], RecordError::TooShort),
            (&[2, 0, 48], RecordError::Type(2)),
        ];
        for (bytes, error) in cases {
            assert_eq!(server.open(&mut BytesMut::from(bytes), &mut out), Err(error));
        }
    }

    #[test]
    fn tampered_repeated_or_reordered_records_do_not_open() {
        let (mut client, mut server) = pair();
        let mut wire = BytesMut::new();
        client.seal(b"hello", &mut wire).unwrap();
        let first = wire.clone();
        let mut bent = wire.clone();
        bent[9] ^= 1;
        let mut out = BytesMut::new();
        assert_eq!(server.open(&mut bent, &mut out), Err(RecordError::Decrypt));
        assert!(out.is_empty());

        let (mut client, mut server) = pair();
        let mut wire = BytesMut::new();
        client.seal(b"hello", &mut wire).unwrap();
        assert_ne!(wire, first[..0]);
        let again = wire.clone();
        assert!(server.open(&mut wire, &mut out).unwrap());
        assert_eq!(server.open(&mut again.clone(), &mut out), Err(RecordError::Decrypt));
    }

    #[test]
    fn the_last_number_is_never_used() {
        let (mut client, _) = pair();
        client.sent = u64::MAX;
        assert_eq!(client.seal(b"x", &mut BytesMut::new()), Err(RecordError::Exhausted));
    }
}
