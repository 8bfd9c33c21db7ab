//! The secrets that connections are let in by: keys, proofs, and what every frame is sealed with.
//! None is ever shown.
//!
//! Both sides of a connection name a nonce; each then proves that it has the key of its role, over
//! all that was said so far. A proof is of one side, one role and one pair of nonces, so that it is
//! worth nothing anywhere else.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::types::first_u64;

/// Drawn for one handshake.
pub type Nonce = [u8; 32];
/// What one side of a handshake sends to prove that it knows the secret.
pub type Proof = [u8; 32];

const DIALER: u8 = 1;
const LISTENER: u8 = 2;
const FROM_DIALER: u8 = 3;
const FROM_LISTENER: u8 = 4;

/// The role that a connection proves. Each role has its own keys, and a key of one proves nothing
/// for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node of the cluster: proves the peer secret.
    Peer,
    /// A client: proves the client secret.
    Client,
}

/// The key of one role, derived from a secret.
#[derive(Clone)]
pub struct SecretKey([u8; 32]);

impl PartialEq for SecretKey {
    /// In a time that does not depend on the keys.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("SecretKey(not shown)")
    }
}

impl SecretKey {
    /// Derives the key. The secret should be drawn at random: guesses at a weak one can be tried on
    /// recorded handshakes.
    pub fn new(secret: &[u8], role: Role) -> Self {
        SecretKey(match role {
            Role::Peer => blake3::derive_key("Pixii, protocol 5: a node of the cluster", secret),
            Role::Client => blake3::derive_key("Pixii, protocol 5: a client of it", secret),
        })
    }

    fn keyed(&self, label: u8, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[label]);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// The keys of one role. While a secret is changed there are two: the first one is shown, and each
/// is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyring {
    first: SecretKey,
    second: Option<SecretKey>,
}

impl Keyring {
    /// The keys of a secret, and of a second one.
    pub fn new(role: Role, first: &[u8], second: Option<&[u8]>) -> Self {
        let key = |secret| SecretKey::new(secret, role);
        Keyring { first: key(first), second: second.map(key) }
    }

    /// The one to prove oneself with.
    pub fn first(&self) -> &SecretKey {
        &self.first
    }

    /// The one that `fits`, if one does.
    pub fn find(&self, fits: impl Fn(&SecretKey) -> bool) -> Option<&SecretKey> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().find(|key| fits(key))
    }
}

/// What a node knows its peers and its clients by.
#[derive(Clone, Debug, PartialEq)]
pub struct Secrets {
    /// The keys of the cluster's nodes.
    pub peers: Keyring,
    /// The keys of its clients.
    pub clients: Keyring,
}

/// The secrets of a node, which can be replaced while it runs: every holder sees the newest ones.
/// Clones are the same vault.
#[derive(Clone, Debug, Default)]
pub struct Vault(Arc<Mutex<Option<Arc<Secrets>>>>);

impl Vault {
    /// What connections have to prove; `None`: nothing.
    pub fn get(&self) -> Option<Arc<Secrets>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What connections made from now on have to prove, and are dialed with. Those that are open
    /// stay.
    pub fn set(&self, secrets: Option<Secrets>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = secrets.map(Arc::new);
    }
}

/// Unpredictable nonces, each used once.
pub struct Nonces {
    seed: [u8; 32],
    drawn: AtomicU64,
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Nonces(not shown)")
    }
}

impl Nonces {
    /// Makes them of a seed of the system's randomness.
    pub fn new(seed: [u8; 32]) -> Self {
        Nonces { seed, drawn: AtomicU64::new(0) }
    }

    /// Draws the next nonce; no two calls return the same one.
    pub fn fresh(&self) -> Nonce {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        *blake3::keyed_hash(&self.seed, &count.to_be_bytes()).as_bytes()
    }
}

/// The transcript of a handshake before a proof: both sides' protocol versions and nonces.
#[derive(Clone, Debug)]
pub struct Exchange(blake3::Hash);

impl Exchange {
    /// Preambles and nonces, each of the side that dialed and of the one that listens.
    pub fn new(preambles: [&[u8; 12]; 2], nonces: [&Nonce; 2]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for preamble in preambles {
            hasher.update(preamble);
        }
        for nonce in nonces {
            hasher.update(nonce);
        }
        Exchange(hasher.finalize())
    }

    /// The proof of the dialer, which introduces itself with these bytes.
    pub fn dialer_proof(&self, key: &SecretKey, hello: &[u8]) -> Proof {
        *key.keyed(DIALER, &[self.0.as_bytes(), hello]).as_bytes()
    }

    /// The proof of the listener, which has received `hello` and answers with these bytes.
    pub fn listener_proof(&self, key: &SecretKey, hello: &[u8], welcome: &[u8]) -> Proof {
        let hello = blake3::hash(hello);
        *key.keyed(LISTENER, &[self.0.as_bytes(), hello.as_bytes(), welcome]).as_bytes()
    }

    /// What seals the frames of the connection from then on, of the side that dialed and of the one
    /// that listens.
    pub fn seals(&self, key: &SecretKey, hello: &[u8]) -> [Seal; 2] {
        let hello = blake3::hash(hello);
        let key = |label| key.keyed(label, &[self.0.as_bytes(), hello.as_bytes()]);
        [FROM_DIALER, FROM_LISTENER].map(|label| Seal { key: *key(label).as_bytes(), count: 0 })
    }
}

/// True if the proof is the expected one. The time that it takes reports nothing about either.
pub fn fits(given: Proof, expected: Proof) -> bool {
    blake3::Hash::from(given) == blake3::Hash::from(expected)
}

/// One direction of a connection: frames that were altered, repeated, left out or exchanged do not
/// fit it.
pub struct Seal {
    key: [u8; 32],
    count: u64,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Seal(frame {}, not shown)", self.count)
    }
}

impl Seal {
    /// What the next frame, which has this payload, carries in the place of its checksum.
    pub fn next(&mut self, payload: &[u8]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(payload).update(&self.count.to_be_bytes());
        self.count += 1;
        first_u64(hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef";

    fn exchange(listener: u8, theirs: u8) -> Exchange {
        Exchange::new([&[5; 12], &[listener; 12]], [&[1; 32], &[theirs; 32]])
    }

    #[test]
    fn a_proof_is_of_one_side_one_role_one_secret_and_one_exchange() {
        let key = SecretKey::new(SECRET, Role::Peer);
        let reported = exchange(5, 2);
        let proof = reported.dialer_proof(&key, b"hello");
        assert!(fits(proof, exchange(5, 2).dialer_proof(&key, b"hello")));
        let client = SecretKey::new(SECRET, Role::Client);
        let other = SecretKey::new(b"0123456789abcdeX", Role::Peer);
        let others = [
            reported.dialer_proof(&client, b"hello"),
            reported.dialer_proof(&other, b"hello"),
            reported.dialer_proof(&key, b"hallo"),
            exchange(5, 3).dialer_proof(&key, b"hello"),
            exchange(4, 2).dialer_proof(&key, b"hello"),
            reported.listener_proof(&key, b"hello", b""),
            reported.listener_proof(&key, b"", b"hello"),
        ];
        assert!(others.into_iter().all(|other| !fits(proof, other)));
        let answer = reported.listener_proof(&key, b"hello", b"welcome");
        assert!(!fits(answer, reported.listener_proof(&key, b"hallo", b"welcome")));
        assert!(!fits(answer, reported.listener_proof(&key, b"hello", b"refused")));
    }

    #[test]
    fn a_seal_is_of_one_direction_and_one_place() {
        let key = SecretKey::new(SECRET, Role::Client);
        let [mut near, mut far] = exchange(5, 2).seals(&key, b"hello");
        let [mut again, _] = exchange(5, 2).seals(&key, b"hello");
        let (first, second) = (near.next(b"frame"), near.next(b"frame"));
        assert_eq!((again.next(b"frame"), again.next(b"frame")), (first, second));
        let [mut altered, mut other] =
            [exchange(5, 2).seals(&key, b"hello"), exchange(5, 3).seals(&key, b"hello")]
                .map(|[seal, _]| seal);
        let others = [second, far.next(b"frame"), altered.next(b"frane"), other.next(b"frame")];
        assert!(!others.contains(&first));
    }

    #[test]
    fn each_key_of_a_ring_is_found_and_nothing_is_shown() {
        let ring = Keyring::new(Role::Peer, SECRET, Some(b"a second secret.."));
        let reported = exchange(5, 2);
        for secret in [SECRET, b"a second secret.."] {
            let proof = reported.dialer_proof(&SecretKey::new(secret, Role::Peer), b"hello");
            assert!(ring.find(|key| fits(reported.dialer_proof(key, b"hello"), proof)).is_some());
        }
        let stranger = reported.dialer_proof(
            &SecretKey::new(
                b"a third \
            secret...",
                Role::Peer,
            ),
            b"",
        );
        assert!(ring.find(|key| fits(reported.dialer_proof(key, b""), stranger)).is_none());
        let nonces = Nonces::new([7; 32]);
        assert_ne!(nonces.fresh(), nonces.fresh());
        let seals = reported.seals(ring.first(), b"");
        let shown = format!("{ring:?} {nonces:?} {seals:?}");
        let bytes = format!("{:?}", &ring.first().0[..4]);
        assert!(!shown.contains(bytes.trim_matches(['[', ']'])) && !shown.contains("7, 7"));
    }
}
