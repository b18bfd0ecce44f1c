//! Map frames: a little-endian length, then JSON, compressed when the client asked for it.

use std::{cell::RefCell, io, sync::OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

/// What a client hears when there is nothing to say (`tailcfg.MapResponse.KeepAlive`). The bytes never change: newer
/// clients learn them and skip decoding.
pub const KEEP_ALIVE: &[u8] = br#"{"KeepAlive":true}"#;

const LENGTH_BYTES: usize = 4;
/// zstd's fastest: maps are sent far more often than they are kept.
const LEVEL: i32 = 1;

/// How one client wants its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// JSON as it is: the Rust client.
    Plain,
    /// One zstd frame each: the Go client, which decompresses whatever comes.
    Zstd,
}

impl Coding {
    /// From `MapRequest.Compress`.
    pub fn asked(compress: &str) -> Coding {
        match compress {
            "zstd" => Coding::Zstd,
            _ => Coding::Plain,
        }
    }

    /// One frame with `json` inside.
    pub fn frame(self, json: &[u8]) -> io::Result<Bytes> {
        match self {
            Coding::Plain => framed(json),
            Coding::Zstd => framed(&compress(json)?),
        }
    }

    /// The frame that keeps a line open; always the same bytes.
    pub fn keep_alive(self) -> Bytes {
        static PLAIN: OnceLock<Bytes> = OnceLock::new();
        static ZSTD: OnceLock<Bytes> = OnceLock::new();
        let slot = match self {
            Coding::Plain => &PLAIN,
            Coding::Zstd => &ZSTD,
        };
        slot.get_or_init(|| self.frame(KEEP_ALIVE).expect("eighteen bytes compress")).clone()
    }
}

fn framed(payload: &[u8]) -> io::Result<Bytes> {
    let length = u32::try_from(payload.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a map of more than 4 GiB cannot be framed"))?;
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + payload.len());
    frame.put_u32_le(length);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

thread_local! {
    /// A compressor's tables cost more to allocate than a small map costs to compress.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

fn compress(json: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        compressor.compress(json)
    })
}

/// The client's half, for tests and simulated clients.
pub struct Unframer {
    arrived: BytesMut,
    coding: Coding,
    payload_bytes_max: usize,
}

impl Unframer {
    /// Reads frames coded like this; longer ones than `payload_bytes_max`, before and after decompression, are errors.
    pub fn new(coding: Coding, payload_bytes_max: usize) -> Unframer {
        Unframer { arrived: BytesMut::new(), coding, payload_bytes_max }
    }

    /// Takes what came off the line.
    pub fn push(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// The JSON of the next frame that is complete.
    pub fn next_json(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(length) = self.arrived.get(..LENGTH_BYTES) else { return Ok(None) };
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if length > self.payload_bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("map frame of {length} bytes")));
        }
        if self.arrived.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let frame = self.arrived.split_to(LENGTH_BYTES + length);
        let payload = &frame[LENGTH_BYTES..];
        Ok(Some(match self.coding {
            Coding::Plain => payload.to_vec(),
            Coding::Zstd => zstd::bulk::decompress(payload, self.payload_bytes_max)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_both_ways() {
        for coding in [Coding::Plain, Coding::Zstd] {
            let long = vec![b'x'; 100_000];
            let mut unframer = Unframer::new(coding, 1 << 20);
            let mut wire = coding.frame(&long).unwrap().to_vec();
            wire.extend_from_slice(&coding.keep_alive());
            for chunk in wire.chunks(7) {
                unframer.push(chunk);
            }
            assert_eq!(unframer.next_json().unwrap().unwrap(), long);
            assert_eq!(unframer.next_json().unwrap().unwrap(), KEEP_ALIVE);
            assert_eq!(unframer.next_json().unwrap(), None);
        }
    }

    #[test]
    fn the_layout_is_the_clients() {
        assert_eq!(Coding::asked("zstd"), Coding::Zstd);
        assert_eq!(Coding::asked(""), Coding::Plain);
        assert_eq!(Coding::Plain.keep_alive()[..], *b"\x12\0\0\0{\"KeepAlive\":true}");
        let squeezed = Coding::Zstd.keep_alive();
        assert_eq!(squeezed[4..8], [0x28, 0xb5, 0x2f, 0xfd], "zstd magic");
        assert_eq!(squeezed, Coding::Zstd.keep_alive());
        assert_eq!(squeezed, Coding::Zstd.frame(KEEP_ALIVE).unwrap());
    }

    #[test]
    fn an_endless_frame_is_refused() {
        let mut unframer = Unframer::new(Coding::Plain, 10);
        unframer.push(&[11, 0, 0, 0]);
        assert!(unframer.next_json().is_err());
    }
}
