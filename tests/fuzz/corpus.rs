//! Good bytes, and what chance makes of them.

use pixii_core::rng::Rng;

/// The bytes of one message of each kind, from the file of golden bytes, by name.
pub fn words() -> Vec<(&'static str, Vec<u8>)> {
    let digits = |hex: &str| {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let now = include_str!("../../crates/core/tests/golden/wire.tsv").lines();
    let before = include_str!("../../crates/core/tests/golden/wire-6.tsv").lines();
    now.chain(before)
        .map(|line| line.split_once('\t').unwrap())
        .map(|(name, hex)| (name, digits(hex)))
        .collect()
}

/// Requests of those who look.
pub const REQUESTS: [&str; 5] = [
    "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:7480\r\nAccept: */*\r\n\r\n",
    "GET /livez HTTP/1.0\r\n\r\n",
    "HEAD /readyz?verbose HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

/// Texts that are rules or a configuration.
pub const TEXTS: [&str; 4] = [
    "n1 -> * delay mix 9 fixed 1ms + 1 pareto 2ms 1.5 fifo; * -> client drop 0.5",
    "* -> n1 cut",
    "n1 <-> n1 delay exponential 5ms drop 1",
    "name = \"n1\"\ncluster = \"c\"\ndata_dir = \"d\"\nn = 1\nhttp_listen = \"[::1]:1\"\n\
     members = [{ name = \"n1\", address = \"h:1\" }]\n",
];

/// Bytes that decoders stumble over: small and large numbers, the tags of longer ones, signs of
/// texts.
const ODD: [u8; 16] =
    [0, 1, 2, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, b'\r', b'\n', b' ', b'"', b'/'];

/// Changes `bytes` in a few places; `other` is what pieces may come from.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        let piece = |of: &[u8], rng: &mut Rng| {
            let begin = rng.below(of.len() as u64 + 1) as usize;
            let end = (begin + 1 + rng.below(16) as usize).min(of.len());
            of[begin..end].to_vec()
        };
        let odd = *rng.pick(&ODD).unwrap();
        match rng.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = odd,
            2 => bytes.insert(at, odd),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + 1 + rng.below(8) as usize).min(bytes.len()))),
            5 => {
                let own = piece(bytes, rng);
                bytes.splice(at..at, own);
            }
            _ => {
                let end = (at + 8).min(bytes.len());
                bytes.splice(at..end, piece(other, rng));
            }
        }
    }
}

/// Bytes of chance alone.
pub fn noise(rng: &mut Rng, most: u64) -> Vec<u8> {
    (0..rng.below(most)).map(|_| rng.next_u64() as u8).collect()
}
