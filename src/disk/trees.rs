//! The file `sled/TREES`: the Merkle trees that a clean stop leaves for the next start, and only
//! for that one. It lies beside the data, so that it moves with it.
//!
//! Its content: a line that names its version, the number of the store's last write (8 bytes,
//! big-endian), the trees, and a checksum of all that (8 bytes).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use pixii_core::store::Taken;
use pixii_core::types::hash64;

use super::files::sync_path;

const NAME: &str = "TREES";
const TEMPORARY: &str = "TREES.new";
const HEAD: &[u8] = b"pixii trees 1\n";
const NUMBER_BYTES: usize = 8;

/// Writes the file into the folder `data`; it is valid as long as `last_write` is the last write.
pub(super) fn keep(data: &Path, last_write: u64, content: &[u8]) -> io::Result<()> {
    let temporary = data.join(TEMPORARY);
    let mut file = File::create(&temporary)?;
    file.write_all(&seal(last_write, content))?;
    file.sync_all()?;
    fs::rename(&temporary, data.join(NAME))?;
    sync_path(data)
}

/// Returns the content of the file, which is deleted durably by then.
pub(super) fn take(data: &Path, last_write: u64) -> io::Result<Taken> {
    let path = data.join(NAME);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::Nothing),
        bytes => bytes,
    };
    fs::remove_file(&path)?;
    sync_path(data)?;
    Ok(match bytes {
        Ok(bytes) => unseal(bytes, last_write),
        Err(error) => Taken::Unusable(error.to_string()),
    })
}

fn seal(last_write: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = [HEAD, &last_write.to_be_bytes(), content].concat();
    bytes.extend(hash64(&[b"trees", &bytes]).to_be_bytes());
    bytes
}

fn unseal(mut bytes: Vec<u8>, last_write: u64) -> Taken {
    let unusable = |why: &str| Taken::Unusable(why.to_owned());
    if !bytes.starts_with(HEAD) {
        return unusable("they are of another version of Pixii, or no trees");
    }
    let Some(end) = bytes.len().checked_sub(NUMBER_BYTES) else {
        return unusable("the file is cut");
    };
    let begin = HEAD.len() + NUMBER_BYTES;
    if end < begin || hash64(&[b"trees", &bytes[..end]]).to_be_bytes() != bytes[end..] {
        return unusable("the checksum of the file is wrong");
    }
    if bytes[HEAD.len()..begin] != last_write.to_be_bytes() {
        return unusable("the store was written since");
    }
    bytes.truncate(end);
    Taken::Whole(bytes.split_off(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_these() {
        let sealed = seal(0x0102, &[3, 4]);
        let text: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&text[..48], "706978696920747265657320310a00000000000001020304");
        assert_eq!(&text[48..], "8fd2348aa6f49fbf");
        assert_eq!(unseal(sealed, 0x0102), Taken::Whole(vec![3, 4]));
    }

    #[test]
    fn what_is_kept_is_taken_once_and_only_if_nothing_was_written_since() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        assert_eq!(take(data, 7).unwrap(), Taken::Nothing);
        keep(data, 7, b"trees").unwrap();
        assert_eq!(take(data, 7).unwrap(), Taken::Whole(b"trees".to_vec()));
        assert_eq!(take(data, 7).unwrap(), Taken::Nothing, "it is gone");
        keep(data, 7, b"trees").unwrap();
        let written = Taken::Unusable("the store was written since".to_owned());
        assert_eq!(take(data, 8).unwrap(), written);
        assert_eq!(take(data, 7).unwrap(), Taken::Nothing, "it is gone as well");
    }

    #[test]
    fn each_flipped_bit_and_each_cut_is_noticed() {
        let sealed = seal(7, b"trees");
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unseal(bytes, 7), Taken::Unusable(_)), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(matches!(unseal(sealed[..length].to_vec(), 7), Taken::Unusable(_)), "{length}");
        }
    }
}
