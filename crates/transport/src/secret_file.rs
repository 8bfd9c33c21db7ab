//! A file with a secret: what is wrong with one is said without a byte of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pixii_core::secret::{Keyring, Role, SecretKey};

/// Bytes of one secret, without the space around it.
const SECRET_BYTES: RangeInclusive<usize> = 16..=1_024;
const MAX_FILE_BYTES: u64 = 4_096;
/// What some editors put at the beginning of a file in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Everybody else's permissions, and the group's to write.
const TOO_OPEN: u32 = 0o027;

/// The keys of one role that follow from these secrets: at least one, and two while it is changed.
pub fn keyring(role: Role, secrets: &[Vec<u8>]) -> Keyring {
    let [first, rest @ ..] = secrets else { return Keyring::new(role, &[], None) };
    Keyring::new(role, first, rest.first().map(Vec::as_slice))
}

/// What a client proves itself with, from the file at `path`: its first secret, if there are two.
/// The error is a sentence that names the file.
pub fn client_secret(path: &Path) -> Result<SecretKey, String> {
    read(path).map(|secrets| keyring(Role::Client, &secrets).first().clone())
}

/// The one or two secrets in a file, a line each. The error is a sentence that names the file.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let fault = |what: String| format!("{}: {what}", path.display());
    let failed = |error: io::Error| fault(error.to_string());
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(fault("a secret is in a file, and this is none".to_owned()));
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & TOO_OPEN != 0 {
        return Err(fault(format!(
            "its mode is {mode:04o}, so that others may read or change the secret: 0600 or 0640 \
             is enough"
        )));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(format!("a file of secrets has at most {MAX_FILE_BYTES} bytes")));
    }
    parse(&bytes).map_err(fault)
}

fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    // Left out silently, it would make another secret than the same file makes in the version
    // before.
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err(
            "it begins with a byte order mark, which would be a part of the secret: write the \
                    file without one"
                .to_owned(),
        );
    }
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let secrets: Vec<Vec<u8>> = lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    if secrets.is_empty() || secrets.len() > 2 {
        return Err(format!(
            "it holds {} secrets: it is one line, or two while a secret is changed",
            secrets.len()
        ));
    }
    let odd = secrets.iter().map(Vec::len).find(|length| !SECRET_BYTES.contains(length));
    match odd {
        Some(length) => Err(format!(
            "a secret of {length} bytes: a secret has {} to {}",
            SECRET_BYTES.start(),
            SECRET_BYTES.end()
        )),
        None => Ok(secrets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_secret_or_two() {
        let first = b"0123456789abcdef";
        assert_eq!(parse(b" 0123456789abcdef\r\n\n").unwrap(), [first.to_vec()]);
        let both = parse(b"0123456789abcdef\nfedcba9876543210\n").unwrap();
        assert_eq!(both, [first.to_vec(), b"fedcba9876543210".to_vec()]);
        let long = vec![b'x'; 1_025];
        let marked = parse(b"\xef\xbb\xbf0123456789abcdef\n").unwrap_err();
        assert!(marked.starts_with("it begins with a byte order mark"), "{marked}");
        let wrong: [(&[u8], &str); 4] = [
            (b" \n", "it holds 0 secrets: it is one line, or two while a secret is changed"),
            (b"a\nb\nc\n", "it holds 3 secrets: it is one line, or two while a secret is changed"),
            (b"0123456789abcde", "a secret of 15 bytes: a secret has 16 to 1024"),
            (&long, "a secret of 1025 bytes: a secret has 16 to 1024"),
        ];
        for (bytes, stated) in wrong {
            assert_eq!(parse(bytes).unwrap_err(), stated);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_without_a_byte_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "0123456789abcdef").unwrap();
        for mode in [0o644, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let stated = read(&path).unwrap_err();
            assert!(
                stated.contains(&format!(
                    "its mode is {mode:04o}, so that \
                others"
                )),
                "{stated}"
            );
            assert!(!stated.contains("0123456789abcdef"));
        }
        for mode in [0o600, 0o400, 0o640, 0o440] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap().len(), 1);
        }
        assert!(read(dir.path()).unwrap_err().ends_with("a secret is in a file, and this is none"));
        assert!(read(&dir.path().join("none")).unwrap_err().contains("No such file"));
    }
}
