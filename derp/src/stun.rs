//! A packet in, a packet out: where am I seen from? (RFC 5389, only what Tailscale asks.) Pure.
//!
//! Only requests of Tailscale clients are answered: SOFTWARE "tailnode" and, last, a correct FINGERPRINT. Anything
//! else is dropped without a word, so that the server is of no use for reflecting traffic at strangers.

use std::net::{IpAddr, SocketAddr};

/// The longest request that is looked at; those of Tailscale have 40 bytes.
pub const REQUEST_BYTES_MAX: usize = 512;

const HEADER_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_LEN: usize = 8;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
const SOFTWARE_NAME: &[u8] = b"tailnode";

/// What tells one request from the next.
pub type TransactionId = [u8; 12];

/// The transaction of a binding request; `None` when the bytes are not a request of a Tailscale client.
pub fn parse_request(bytes: &[u8]) -> Option<TransactionId> {
    let (header, attributes) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let (kind, length) = (be16(&header[0..2])?, be16(&header[2..4])?);
    if kind != BINDING_REQUEST || header[4..8] != COOKIE || usize::from(length) != attributes.len() {
        return None;
    }
    let at = attributes.len().checked_sub(FINGERPRINT_LEN)?;
    let (before, fingerprint) = attributes.split_at(at);
    if be16(&fingerprint[0..2])? != FINGERPRINT || be16(&fingerprint[2..4])? != 4 {
        return None;
    }
    let covered = &bytes[..bytes.len() - FINGERPRINT_LEN];
    if fingerprint[4..8] != (crc32(covered) ^ FINGERPRINT_XOR).to_be_bytes() {
        return None;
    }
    if !is_tailscale(before)? {
        return None;
    }
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&header[8..20]);
    Some(transaction)
}

/// Walks the attributes; `None` when they do not fit their lengths.
fn is_tailscale(mut attributes: &[u8]) -> Option<bool> {
    let mut found = false;
    while !attributes.is_empty() {
        let kind = be16(attributes.get(0..2)?)?;
        let length = usize::from(be16(attributes.get(2..4)?)?);
        let value = attributes.get(4..4 + length)?;
        found |= kind == SOFTWARE && value == SOFTWARE_NAME;
        attributes = attributes.get(4 + length.next_multiple_of(4)..)?;
    }
    Some(found)
}

/// The answer: one XOR-MAPPED-ADDRESS, 32 bytes for IPv4 and 44 for IPv6.
pub fn response(transaction: &TransactionId, seen_as: SocketAddr) -> Vec<u8> {
    // A socket for both families shows IPv4 clients as mapped addresses; they asked for their own.
    let ip = seen_as.ip().to_canonical();
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE);
    mask[4..].copy_from_slice(transaction);
    let (family, address) = match ip {
        IpAddr::V4(ip) => (1u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2u8, ip.octets().to_vec()),
    };
    let attribute_len = (4 + address.len()) as u16;
    let mut out = Vec::with_capacity(HEADER_LEN + 4 + usize::from(attribute_len));
    out.extend_from_slice(&BINDING_SUCCESS.to_be_bytes());
    out.extend_from_slice(&(4 + attribute_len).to_be_bytes());
    out.extend_from_slice(&COOKIE);
    out.extend_from_slice(transaction);
    out.extend_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
    out.extend_from_slice(&attribute_len.to_be_bytes());
    out.extend_from_slice(&[0, family]);
    out.extend_from_slice(&(seen_as.port() ^ 0x2112).to_be_bytes());
    out.extend(address.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    out
}

/// A request as Tailscale clients write it; for tests and simulated clients.
pub fn request(transaction: &TransactionId) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    out.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    out.extend_from_slice(&((4 + SOFTWARE_NAME.len() + FINGERPRINT_LEN) as u16).to_be_bytes());
    out.extend_from_slice(&COOKIE);
    out.extend_from_slice(transaction);
    out.extend_from_slice(&SOFTWARE.to_be_bytes());
    out.extend_from_slice(&(SOFTWARE_NAME.len() as u16).to_be_bytes());
    out.extend_from_slice(SOFTWARE_NAME);
    let fingerprint = crc32(&out) ^ FINGERPRINT_XOR;
    out.extend_from_slice(&FINGERPRINT.to_be_bytes());
    out.extend_from_slice(&4u16.to_be_bytes());
    out.extend_from_slice(&fingerprint.to_be_bytes());
    out
}

fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// CRC-32 as in Ethernet and zip; requests are so short that a table would not pay.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: TransactionId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    #[test]
    fn crc_of_the_usual_nine_digits() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_answer_to_ipv4() {
        let answer = response(&TRANSACTION, "192.0.2.1:32853".parse().unwrap());
        assert_eq!(hex::encode(answer), "0101000c2112a4420102030405060708090a0b0c002000080001a147e112a643");
    }

    #[test]
    fn the_answer_to_ipv6() {
        let answer = response(&TRANSACTION, "[2001:db8::1]:53".parse().unwrap());
        let expected = "010100182112a4420102030405060708090a0b0c0020001400022127\
                        0113a9fa0102030405060708090a0b0d";
        assert_eq!(hex::encode(answer), expected);
    }

    #[test]
    fn a_mapped_address_is_answered_as_ipv4() {
        let mapped = response(&TRANSACTION, "[::ffff:192.0.2.1]:32853".parse().unwrap());
        assert_eq!(mapped, response(&TRANSACTION, "192.0.2.1:32853".parse().unwrap()));
    }

    #[test]
    fn a_request_is_understood() {
        let bytes = request(&TRANSACTION);
        assert_eq!(bytes.len(), 40);
        assert_eq!(hex::encode(&bytes[..32]), "000100142112a4420102030405060708090a0b0c802200087461696c6e6f6465");
        assert_eq!(parse_request(&bytes), Some(TRANSACTION));
    }

    #[test]
    fn anything_else_is_dropped() {
        let good = request(&TRANSACTION);
        for cut in 0..good.len() {
            assert_eq!(parse_request(&good[..cut]), None, "{cut} bytes");
        }
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x10;
            assert_eq!(parse_request(&bad), None, "byte {index} changed");
        }
        let mut long = good.clone();
        long.extend_from_slice(&[0; 4]);
        assert_eq!(parse_request(&long), None);
    }
}
