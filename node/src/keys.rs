//! Long-lived keys, and random texts.

use std::{io, path::Path};

use ring::hmac;
use world::{Disk, Entropy};
use zeroize::Zeroizing;

/// Under which name the cluster's Noise key lies among the sealed secrets.
pub const NOISE: &str = "noise";

const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A key for one purpose, from one that all members have and nobody else: who learns it learns nothing of the other.
pub fn derived(from: &[u8; 32], purpose: &str) -> [u8; 32] {
    let root = hmac::Key::new(hmac::HMAC_SHA256, from);
    hmac::sign(&root, purpose.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// `length` letters and digits, each with nearly six bits of chance.
pub fn random_text(entropy: &Entropy, length: usize) -> String {
    (0..length).map(|_| char::from(LETTERS[entropy.below(LETTERS.len() as u64) as usize])).collect()
}

/// The private key in a file (`privkey:<64 hex digits>`); made when there is no file.
pub fn private_key_file(path: &Path, disk: &dyn Disk, entropy: &Entropy) -> io::Result<Zeroizing<[u8; 32]>> {
    if let Some(bytes) = disk.read(path)? {
        let bytes = Zeroizing::new(bytes);
        let mut key = Zeroizing::new([0; 32]);
        let digits = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().strip_prefix("privkey:"));
        return match digits.map(|digits| hex::decode_to_slice(digits, &mut *key)) {
            Some(Ok(())) => Ok(key),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} does not hold privkey:<64 hex digits>; remove it to have a new key made", path.display()),
            )),
        };
    }
    let key = Zeroizing::new(entropy.bytes());
    if let Some(folder) = path.parent() {
        disk.create_dir_all(folder)?;
    }
    let text = Zeroizing::new(format!("privkey:{}\n", hex::encode(key.as_slice())));
    disk.write(path, text.as_bytes())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/derp.key");
        let world = world::real::world();
        let made = private_key_file(&path, &*world.disk, &world.entropy).unwrap();
        assert_eq!(*private_key_file(&path, &*world.disk, &world.entropy).unwrap(), *made);
        world.disk.write(&path, b"privkey:12").unwrap();
        assert!(private_key_file(&path, &*world.disk, &world.entropy).is_err());
    }

    #[test]
    fn texts_are_urls_parts() {
        let text = random_text(&world::real::entropy(), 24);
        assert_eq!(text.len(), 24);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
