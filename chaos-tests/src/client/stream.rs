//! The map stream: length-prefixed frames, zstd or plain.

use std::{collections::VecDeque, io::Read, time::Duration};

use anyhow::{Context, Result, bail, ensure};

/// The client gives a stream up when nothing came for so long (`direct.go`, the map watchdog).
pub const WATCHDOG: Duration = Duration::from_secs(120);

/// The largest frame, packed or not.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// The body of a streaming map request.
pub struct MapStream {
    body: h2::RecvStream,
    compressed: bool,
    buffer: VecDeque<u8>,
}

impl MapStream {
    pub(super) fn new(body: h2::RecvStream, compressed: bool) -> MapStream {
        MapStream { body, compressed, buffer: VecDeque::new() }
    }

    /// The next frame as JSON, keep-alives included; an error when the stream ended.
    pub async fn next(&mut self) -> Result<Vec<u8>> {
        tokio::time::timeout(WATCHDOG, self.next_frame()).await.context("the stream fell silent")?
    }

    async fn next_frame(&mut self) -> Result<Vec<u8>> {
        // Nothing is taken out before the whole frame is there: a caller may give up waiting and come back.
        self.fill(4).await?;
        let mut length = [0; 4];
        for (byte, from) in length.iter_mut().zip(&self.buffer) {
            *byte = *from;
        }
        let length = u32::from_le_bytes(length) as usize;
        ensure!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
        self.fill(4 + length).await?;
        let frame: Vec<u8> = self.buffer.drain(..4 + length).skip(4).collect();
        if !self.compressed {
            return Ok(frame);
        }
        let mut json = Vec::new();
        let mut unpacked = zstd::stream::read::Decoder::new(frame.as_slice())?.take(FRAME_BYTES_MAX as u64);
        unpacked.read_to_end(&mut json).context("a frame that is not zstd")?;
        Ok(json)
    }

    async fn fill(&mut self, bytes: usize) -> Result<()> {
        while self.buffer.len() < bytes {
            match self.body.data().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    self.body.flow_control().release_capacity(chunk.len())?;
                    self.buffer.extend(chunk);
                }
                None => bail!("the server ended the stream"),
            }
        }
        Ok(())
    }
}

/// A whole body, up to a limit.
pub(super) async fn collect(mut body: h2::RecvStream, bytes_max: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
        ensure!(all.len() <= bytes_max, "an answer of more than {bytes_max} bytes");
    }
    Ok(all)
}
