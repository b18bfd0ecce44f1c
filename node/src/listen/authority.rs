//! What Go's gRPC says as `:authority` on a unix socket: the socket's path, percent-encoded. Our HTTP library takes no
//! percent sign there and would refuse the call, so on the socket each becomes a dot.
//!
//! The header block is compressed (RFC 7541). A percent sign and a dot have codes of the same length, and both sides
//! keep tables measured in bytes, so that a dot in place of a percent sign moves nothing else.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use world::BoxStream;

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113, 3.4).
const PREFACE_LEN: usize = 24;
/// Length, type, flags, stream (RFC 9113, 4.1).
const FRAME_HEAD_LEN: usize = 9;
/// Callers that were not told otherwise send no longer ones (RFC 9113, 4.2).
const FRAME_LEN_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Place of `:authority` in the static table.
const AUTHORITY: usize = 1;

/// An HTTP/2 connection, its requests' authorities made readable.
pub struct Readable {
    stream: BoxStream,
    /// Bytes that were looked at and wait to be read, or that are still being collected.
    kept: Vec<u8>,
    /// How many of `kept` were read.
    used: usize,
    /// `kept` is whole and may be read.
    whole: bool,
    /// Bytes to collect before they are looked at.
    wanted: usize,
    /// Bytes that follow and are nobody's business.
    passing: usize,
}

impl Readable {
    /// Wraps a connection before its first byte.
    pub fn new(stream: BoxStream) -> Readable {
        Readable { stream, kept: Vec::new(), used: 0, whole: false, wanted: FRAME_HEAD_LEN, passing: PREFACE_LEN }
    }

    /// As much as was wanted is here: a frame's head, or a whole frame.
    fn look(&mut self) {
        let length = usize::from(self.kept[0]) << 16 | usize::from(self.kept[1]) << 8 | usize::from(self.kept[2]);
        if self.kept.len() == FRAME_HEAD_LEN {
            if self.kept[3] == HEADERS && (1..=FRAME_LEN_MAX).contains(&length) {
                self.wanted = FRAME_HEAD_LEN + length;
                return;
            }
            self.passing = length;
        } else {
            let flags = self.kept[4];
            let block = &mut self.kept[FRAME_HEAD_LEN..];
            let padded = if flags & PADDED == 0 { 0 } else { 1 };
            let skipped = padded + if flags & PRIORITY == 0 { 0 } else { 5 };
            // What cannot be read is left as it is: whoever parses it next will say so.
            if let Some(block) = block.get_mut(skipped..) {
                let _ = without_percent_signs(block);
            }
        }
        self.whole = true;
        self.wanted = FRAME_HEAD_LEN;
    }
}

impl AsyncRead for Readable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.whole {
                let left = &this.kept[this.used..];
                let now = left.len().min(buf.remaining());
                buf.put_slice(&left[..now]);
                this.used += now;
                if this.used == this.kept.len() {
                    this.kept.clear();
                    (this.used, this.whole) = (0, false);
                }
                return Poll::Ready(Ok(()));
            }
            if this.passing > 0 {
                let most = this.passing.min(buf.remaining());
                let mut few = ReadBuf::new(buf.initialize_unfilled_to(most));
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut few))?;
                let count = few.filled().len();
                buf.advance(count);
                this.passing -= count;
                return Poll::Ready(Ok(()));
            }
            let have = this.kept.len();
            this.kept.resize(this.wanted, 0);
            let mut rest = ReadBuf::new(&mut this.kept[have..]);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut rest);
            let count = rest.filled().len();
            this.kept.truncate(have + count);
            ready!(polled)?;
            if count == 0 {
                // The connection ended inside a frame: what came is passed on.
                this.whole = !this.kept.is_empty();
                if !this.whole {
                    return Poll::Ready(Ok(()));
                }
            } else if this.kept.len() == this.wanted {
                this.look();
            }
        }
    }
}

impl AsyncWrite for Readable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Walks a header block (RFC 7541, 6) to the values of `:authority`. `None`: it is cut off or not one.
fn without_percent_signs(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        // An indexed field, or a new size of the table: a number and nothing else.
        let bits = match first {
            0x80.. => 7,
            0x40..0x80 => 6,
            0x20..0x40 => 5,
            _ => 4,
        };
        let index = number(block, &mut at, bits)?;
        if first >= 0x80 || (0x20..0x40).contains(&first) {
            continue;
        }
        if index == 0 {
            text(block, &mut at)?;
        }
        let (is_coded, value) = text(block, &mut at)?;
        if index == AUTHORITY {
            let value = &mut block[value];
            if is_coded {
                in_code(value);
            } else {
                value.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'.');
            }
        }
    }
    Some(())
}

/// A number whose first byte gives `bits` bits to it (RFC 7541, 5.1).
fn number(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A text: whether it is in Huffman's code, and where it lies (RFC 7541, 5.2).
fn text(block: &[u8], at: &mut usize) -> Option<(bool, std::ops::Range<usize>)> {
    let is_coded = block.get(*at)? & 0x80 != 0;
    let length = number(block, at, 7)?;
    let lies = *at..at.checked_add(length)?;
    block.get(lies.clone())?;
    *at = lies.end;
    Some((is_coded, lies))
}

/// RFC 7541, appendix B: the code is canonical, so the first bits of a symbol tell its length. Symbols longer than
/// eight bits stand in no path people choose; where one comes up, the walk ends.
fn in_code(value: &mut [u8]) {
    const PERCENT: u8 = 0b01_0101;
    let length = value.len() * 8;
    let mut at = 0;
    while at + 5 <= length {
        let eight = bits(value, at);
        let width = match eight {
            0..0b0101_0000 => 5,
            0b0101_0000..0b1011_1000 => 6,
            0b1011_1000..0b1111_1000 => 7,
            0b1111_1000..0b1111_1110 => 8,
            _ => return,
        };
        if width == 6 && eight >> 2 == PERCENT && at + 6 <= length {
            // A dot is 010111: one bit more is set.
            let bit = at + 4;
            value[bit / 8] |= 0x80 >> (bit % 8);
        }
        at += width;
    }
}

/// Eight bits from a place on; ones behind the end, as padding has it.
fn bits(value: &[u8], at: usize) -> u8 {
    let byte = |index: usize| u16::from(*value.get(index).unwrap_or(&0xff));
    let both = byte(at / 8) << 8 | byte(at / 8 + 1);
    (both >> (8 - at % 8)) as u8
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// `%2Fa.b` in Huffman's code: % 010101, 2 00010, F 1100001, a 00011, . 010111, b 100011, then ones.
    const CODED: [u8; 5] = [0b0101_0100, 0b0101_1000, 0b0100_0110, 0b1011_1100, 0b0111_1111];

    #[test]
    fn a_percent_sign_becomes_a_dot() {
        let mut plain = b"\x41\x06%2Fa.b\x82".to_vec();
        without_percent_signs(&mut plain).unwrap();
        assert_eq!(plain, b"\x41\x06.2Fa.b\x82");

        let mut coded = vec![0x83, 0x41, 0x85];
        coded.extend(CODED);
        coded.push(0x86);
        without_percent_signs(&mut coded).unwrap();
        let mut dotted = CODED;
        dotted[0] = 0b0101_1100;
        assert_eq!(coded[3..8], dotted);
        assert_eq!((coded[0], coded[8]), (0x83, 0x86));
    }

    #[test]
    fn other_fields_are_left_alone() {
        for block in [&b"\x44\x02/%"[..], b"\x40\x01%\x01%", b"\x00\x01a\x01%", b"\x3f\xe1\x1f\x82", b"\x0f\x01\x01%"] {
            let mut walked = block.to_vec();
            without_percent_signs(&mut walked).unwrap();
            assert_eq!(walked, block);
        }
        for broken in [&b"\x41"[..], b"\x41\x05ab", b"\x7f\xff\xff\xff\xff", b"\x41\xff\xff\xff\xff\x0f"] {
            assert_eq!(without_percent_signs(&mut broken.to_vec()), None);
        }
    }

    #[tokio::test]
    async fn frames_come_through_whole() {
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS, empty; HEADERS with priority; DATA that looks like headers; HEADERS cut off.
        sent.extend(b"\0\0\0\x04\0\0\0\0\0");
        sent.extend(b"\0\0\x0a\x01\x24\0\0\0\x01\0\0\0\0\x10\x41\x03a%b");
        sent.extend(b"\0\0\x05\x00\x01\0\0\0\x01\x41\x03a%b");
        sent.extend(b"\0\0\x20\x01\x04\0\0\0\x03\x41");
        let mut expected = sent.clone();
        let percent = expected.iter().position(|byte| *byte == b'%').unwrap();
        expected[percent] = b'.';
        for piece in [1, 7, 1000] {
            let (mut ours, theirs) = tokio::io::duplex(piece);
            let all = sent.clone();
            let speak = async move {
                ours.write_all(&all).await.unwrap();
                drop(ours);
            };
            let listen = async {
                let mut heard = Vec::new();
                Readable::new(Box::new(theirs)).read_to_end(&mut heard).await.unwrap();
                heard
            };
            assert_eq!(tokio::join!(speak, listen).1, expected, "in pieces of {piece}");
        }
    }
}
