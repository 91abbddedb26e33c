//! The handshake that connections between members of a keyed network begin with, and the frames behind it.
//!
//! `Noise_NNpsk0_25519_AESGCM_SHA256` (Noise Protocol Framework, revision 34): two messages, with a secret made from the
//! network's key mixed in before the first, so that the one who is dialled knows a member by its first message and answers
//! nobody else. Both sides' Diffie-Hellman keys are new for each connection: who learns the network's key later cannot read
//! what was recorded. The first message carries the dialler's name and stamp (`replay`): a recorded one draws no answer.
//!
//! Behind it, frames of up to 65,535 bytes: two bytes of length, then one Noise transport message. These are sealed and opened
//! in place, with the keys of the handshake: `snow` would copy each.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use std::collections::BTreeSet;
use thiserror::Error;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

use super::key::{Keys, NetworkKey};
use super::replay::{FRESH_US, SenderName, Stamps, is_fresh};
use super::seal::nonce;
use crate::rng::Rng;

const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Both sides must mean the same by what follows.
const PROLOGUE: &[u8] = b"dhtget peer 1";
/// A name and a stamp.
const GREETING: usize = 24;
const TAG: usize = 16;
/// The dialler's message: a public key and its sealed greeting.
pub const FIRST_LEN: usize = 32 + GREETING + TAG;
/// The answer: a public key and a tag.
pub const SECOND_LEN: usize = 32 + TAG;
/// The length before a frame.
pub const FRAME_HEAD: usize = 2;
/// The most that one frame carries.
pub const MAX_PAYLOAD: usize = 65_535 - TAG;
/// What a frame adds to its payload.
pub const FRAME_OVERHEAD: usize = FRAME_HEAD + TAG;
/// First messages that are remembered, so that none counts twice, some 50 bytes each. With more dials than that within five
/// minutes the earliest are forgotten; then stamps as old as these are refused, those of the last minutes excepted.
const MAX_FIRSTS: usize = 16_384;

/// Why a connection is no member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoiseError {
    /// It has not our key, or the bytes are damaged.
    #[error("the other side does not have this network's key")]
    Foreign,
    /// The first message was sent before.
    #[error("a recorded handshake")]
    Replayed,
    /// The dialler's clock is too far from ours.
    #[error("the clocks of the two sides are more than five minutes apart")]
    Skewed,
}

/// Makes and answers the handshakes of one process.
pub struct Noise {
    keys: Keys,
    stamps: Stamps,
    rng: Rng,
    /// Latest first messages, by their stamps.
    firsts: BTreeSet<(u64, SenderName)>,
    /// The latest stamp that was forgotten.
    floor: u64,
}

impl std::fmt::Debug for Noise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Noise")
    }
}

/// A dial that waits for the answer.
pub struct Dialling(HandshakeState);

/// An open connection's keys. Each direction counts its frames, from 0.
pub struct Session {
    sending: LessSafeKey,
    receiving: LessSafeKey,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Noise {
    /// For a process that starts now.
    pub fn new(keys: Keys, seed: [u8; 32]) -> Self {
        let mut rng = Rng::from_seed(seed);
        Self { keys, stamps: Stamps::new(rng.child()), rng, firsts: BTreeSet::new(), floor: 0 }
    }

    /// Puts other keys in force.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    fn builder(&mut self) -> Option<Builder<'static>> {
        let params: NoiseParams = PATTERN.parse().ok()?;
        let resolver = Resolver { rng: self.rng.child() };
        Builder::with_resolver(params, Box::new(resolver)).prologue(PROLOGUE).ok()
    }

    fn secret(key: &NetworkKey) -> [u8; 32] {
        key.derive("peer", b"")
    }

    /// Begins a connection: what to send first.
    pub fn dial(&mut self, now_us: u64) -> Result<(Dialling, Vec<u8>), NoiseError> {
        let secret = Self::secret(self.keys.spoken(now_us / 1_000_000));
        let stamp = self.stamps.next(now_us);
        let mut greeting = self.stamps.name().to_vec();
        greeting.extend_from_slice(&stamp.to_be_bytes());
        let mut begin = || {
            let mut state = self.builder()?.psk(0, &secret).ok()?.build_initiator().ok()?;
            let mut first = vec![0; FIRST_LEN];
            let length = state.write_message(&greeting, &mut first).ok()?;
            first.truncate(length);
            Some((Dialling(state), first))
        };
        begin().ok_or(NoiseError::Foreign)
    }

    /// Answers a first message, if a member has sent it just now.
    pub fn answer(&mut self, now_us: u64, first: &[u8]) -> Result<(Session, Vec<u8>), NoiseError> {
        let secrets: Vec<_> = self.keys.understood(now_us / 1_000_000).map(Self::secret).collect();
        for secret in secrets {
            let mut greeting = [0; FIRST_LEN];
            let read = self.builder().and_then(|b| b.psk(0, &secret).ok()?.build_responder().ok());
            let Some(mut state) = read else { continue };
            if state.read_message(first, &mut greeting).ok() != Some(GREETING) {
                continue;
            }
            self.admit(now_us, &greeting)?;
            let mut second = vec![0; SECOND_LEN];
            let written = state.write_message(&[], &mut second);
            return match written {
                Ok(SECOND_LEN) => Ok((Session::behind(state)?, second)),
                _ => Err(NoiseError::Foreign),
            };
        }
        Err(NoiseError::Foreign)
    }

    /// Takes note of a first message's name and stamp; an error if it must not count.
    fn admit(&mut self, now_us: u64, greeting: &[u8; FIRST_LEN]) -> Result<(), NoiseError> {
        let (mut name, mut stamp) = ([0; 16], [0; 8]);
        name.copy_from_slice(&greeting[..16]);
        stamp.copy_from_slice(&greeting[16..GREETING]);
        let stamp = u64::from_be_bytes(stamp);
        if !is_fresh(stamp, now_us) {
            return Err(NoiseError::Skewed);
        }
        // Our own dial, thrown back at us, is nobody's.
        if name == *self.stamps.name() || stamp <= self.floor || !self.firsts.insert((stamp, name)) {
            return Err(NoiseError::Replayed);
        }
        while self.firsts.first().is_some_and(|(old, _)| !is_fresh(*old, now_us)) {
            self.firsts.pop_first();
        }
        if self.firsts.len() > MAX_FIRSTS
            && let Some((forgotten, _)) = self.firsts.pop_first()
        {
            // Stamps from the future must not shut out those who say the time as it is.
            self.floor = self.floor.max(forgotten.min(now_us.saturating_sub(FRESH_US / 2)));
        }
        Ok(())
    }
}

impl Dialling {
    /// Ends the handshake with the answer.
    pub fn finish(mut self, second: &[u8]) -> Result<Session, NoiseError> {
        let mut nothing = [0; SECOND_LEN];
        self.0.read_message(second, &mut nothing).map_err(|_| NoiseError::Foreign)?;
        Session::behind(self.0)
    }
}

impl Session {
    /// The keys that a handshake ends with: one for what the dialler sends, one for what he receives.
    fn behind(mut state: HandshakeState) -> Result<Self, NoiseError> {
        if !state.is_handshake_finished() {
            return Err(NoiseError::Foreign);
        }
        let (of_dialler, of_dialled) = state.dangerously_get_raw_split();
        let key = |key: [u8; 32]| {
            UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| NoiseError::Foreign)
        };
        let (of_dialler, of_dialled) = (key(of_dialler)?, key(of_dialled)?);
        Ok(if state.is_initiator() {
            Self { sending: of_dialler, receiving: of_dialled }
        } else {
            Self { sending: of_dialled, receiving: of_dialler }
        })
    }

    /// Makes a frame, the `number`th of this direction, of the `length` bytes that lie in `room` behind [`FRAME_HEAD`] bytes; says
    /// how long it is. They are [`MAX_PAYLOAD`] at most, and `room` has [`FRAME_OVERHEAD`] more. A number is used once.
    pub fn seal(&self, number: u64, length: usize, room: &mut [u8]) -> Result<usize, NoiseError> {
        let sealed = u16::try_from(length + TAG).map_err(|_| NoiseError::Foreign)?;
        let frame = room.get_mut(..length + FRAME_OVERHEAD).ok_or(NoiseError::Foreign)?;
        let (head, body) = frame.split_at_mut(FRAME_HEAD);
        let (payload, tag) = body.split_at_mut(length);
        let made = self.sending.seal_in_place_separate_tag(nonce(number), Aad::empty(), payload);
        tag.copy_from_slice(made.map_err(|_| NoiseError::Foreign)?.as_ref());
        head.copy_from_slice(&sealed.to_be_bytes());
        Ok(length + FRAME_OVERHEAD)
    }

    /// Opens the `number`th frame of the other direction, whose body is what lies behind `skip` bytes of `room`: its payload is at
    /// the beginning of `room` then. Says how long that is. Where it does not open, `room` has no meaning.
    pub fn open(&self, number: u64, room: &mut [u8], skip: usize) -> Result<usize, NoiseError> {
        if skip > room.len() {
            return Err(NoiseError::Foreign);
        }
        let opened = self.receiving.open_within(nonce(number), Aad::empty(), room, skip..);
        opened.map(|payload| payload.len()).map_err(|_| NoiseError::Foreign)
    }
}

/// The whole length of the frame that begins with these bytes, as soon as that can be told.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<FRAME_HEAD>()?;
    Some(FRAME_HEAD + usize::from(u16::from_be_bytes(*head)))
}

/// Ciphers and hashes of `ring`, the curve of `x25519-dalek`, and randomness of ours, so that a seed replays.
struct Resolver {
    rng: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(Rng::from_seed(self.rng))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(Curve::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

struct Seeded(Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(out);
        Ok(())
    }
}

/// A key pair (RFC 7748). The secret is never printed.
#[derive(Default)]
struct Curve {
    secret: [u8; 32],
    public: [u8; 32],
}

impl Dh for Curve {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        let length = secret.len().min(32);
        self.secret[..length].copy_from_slice(&secret[..length]);
        self.public = x25519(self.secret, X25519_BASEPOINT_BYTES);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = [0; 32];
        rng.try_fill_bytes(&mut secret)?;
        self.set(&secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk::<32>().ok_or(snow::Error::Dh)?;
        let shared = x25519(self.secret, *public);
        // A point of small order would make the outcome known to all (RFC 7748, section 6.1).
        let out = out.first_chunk_mut::<32>().filter(|_| shared != [0; 32]).ok_or(snow::Error::Dh)?;
        *out = shared;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::key::OldKey;

    const NOW: u64 = 1_800_000_000_000_000;

    fn keys(seed: u64) -> Keys {
        Keys::new(NetworkKey::random(&mut Rng::from_u64(seed)))
    }

    fn noise(key_seed: u64, seed: u8) -> Noise {
        Noise::new(keys(key_seed), [seed; 32])
    }

    #[test]
    fn members_talk_both_ways_and_frames_have_their_order() {
        let (mut a, mut b) = (noise(1, 1), noise(1, 2));
        let (dialling, first) = a.dial(NOW).unwrap();
        assert_eq!(first.len(), FIRST_LEN);
        let (theirs, second) = b.answer(NOW + 3, &first).unwrap();
        assert_eq!(second.len(), SECOND_LEN);
        let ours = dialling.finish(&second).unwrap();
        let payload: Vec<u8> = (0..MAX_PAYLOAD).map(|n| n as u8).collect();
        for (number, length) in [(0, MAX_PAYLOAD), (1, 0), (2, 1)] {
            for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
                let frame = sealed(from, number, &payload[..length]);
                assert_eq!(to.open(number + 1, &mut frame.clone(), FRAME_HEAD), Err(NoiseError::Foreign));
                assert_eq!(from.open(number, &mut frame.clone(), FRAME_HEAD), Err(NoiseError::Foreign));
                for before in [0, 5, 1000] {
                    let mut room = [&vec![7; before], &frame[..]].concat();
                    assert_eq!(to.open(number, &mut room, before + FRAME_HEAD), Ok(length));
                    assert!(room[..length] == payload[..length]);
                }
            }
        }
        assert!(ours.seal(9, MAX_PAYLOAD + 1, &mut vec![0; 70_000]).is_err());
        assert!(ours.seal(9, 100, &mut [0; 100 + FRAME_OVERHEAD - 1]).is_err());
        assert!(ours.open(9, &mut [0; 3], 4).is_err() && ours.open(9, &mut [0; 3], 2).is_err());
        assert_eq!((frame_len(&[1]), frame_len(&[1, 2])), (None, Some(260)));
    }

    /// The whole frame of a payload.
    fn sealed(session: &Session, number: u64, payload: &[u8]) -> Vec<u8> {
        let mut room = vec![0; payload.len() + FRAME_OVERHEAD];
        room[FRAME_HEAD..][..payload.len()].copy_from_slice(payload);
        let length = session.seal(number, payload.len(), &mut room).unwrap();
        assert_eq!((length, frame_len(&room)), (room.len(), Some(length)));
        room
    }

    #[test]
    fn frames_are_transport_messages_of_noise() {
        let (mut a, mut b) = (noise(1, 1), noise(1, 2));
        let secret = Noise::secret(&keys(1).current);
        let (dialling, first) = a.dial(NOW).unwrap();
        let mut state = b.builder().unwrap().psk(0, &secret).unwrap().build_responder().unwrap();
        let mut room = [0; 200];
        state.read_message(&first, &mut room).unwrap();
        let length = state.write_message(&[], &mut room).unwrap();
        let ours = dialling.finish(&room[..length]).unwrap();
        let theirs = state.into_stateless_transport_mode().unwrap();
        for number in [0, 1, u64::from(u32::MAX) + 7] {
            let frame = sealed(&ours, number, b"to the dialled");
            let length = theirs.read_message(number, &frame[FRAME_HEAD..], &mut room).unwrap();
            assert_eq!(&room[..length], b"to the dialled");
            let length = theirs.write_message(number, b"to the dialler", &mut room).unwrap();
            let opened = ours.open(number, &mut room[..length], 0).unwrap();
            assert_eq!(&room[..opened], b"to the dialler");
        }
    }

    #[test]
    fn strangers_recordings_and_wrong_clocks_get_no_answer() {
        let (mut member, mut stranger) = (noise(1, 1), noise(2, 2));
        let (_, first) = stranger.dial(NOW).unwrap();
        assert_eq!(member.answer(NOW, &first).err(), Some(NoiseError::Foreign));
        let (dialling, first) = noise(1, 3).dial(NOW).unwrap();
        for at in 0..first.len() {
            let mut bad = first.clone();
            bad[at] ^= 0x40;
            assert!(member.answer(NOW, &bad).is_err(), "byte {at}");
        }
        assert_eq!(member.answer(NOW, &first[1..]).err(), Some(NoiseError::Foreign));
        let (_, second) = member.answer(NOW, &first).unwrap();
        assert_eq!(member.answer(NOW, &first).err(), Some(NoiseError::Replayed));
        let (_, own) = member.dial(NOW).unwrap();
        assert_eq!(member.answer(NOW, &own).err(), Some(NoiseError::Replayed));
        let mut bad = second.clone();
        bad[40] ^= 1;
        assert!(dialling.finish(&bad).is_err());
        let (_, early) = noise(1, 4).dial(NOW - FRESH_US - 1).unwrap();
        assert_eq!(member.answer(NOW, &early).err(), Some(NoiseError::Skewed));
    }

    #[test]
    fn the_old_key_is_dialled_with_while_members_change() {
        let until_s = NOW / 1_000_000 + 10;
        let both = |seed| {
            let old = Some(OldKey { key: keys(1).current, until_s });
            Noise::new(Keys { current: keys(2).current, old }, [seed; 32])
        };
        for (mut dialler, mut answerer, at, works) in [
            (both(1), noise(1, 2), NOW, true),
            (noise(1, 1), both(2), NOW, true),
            (both(1), both(2), NOW, true),
            (both(1), noise(2, 2), NOW + 11_000_000, true),
            (both(1), noise(1, 2), NOW + 11_000_000, false),
            (noise(1, 1), both(2), NOW + 11_000_000, true),
        ] {
            let (dialling, first) = dialler.dial(at).unwrap();
            let answered = answerer.answer(at, &first);
            assert_eq!(answered.is_ok(), works);
            assert!(answered.is_err() || dialling.finish(&answered.unwrap().1).is_ok());
        }
    }

    #[test]
    fn what_is_remembered_of_dials_is_bounded_and_none_counts_twice() {
        let (mut member, mut dialler) = (noise(1, 1), noise(1, 2));
        let mut recorded = Vec::new();
        for n in 0..MAX_FIRSTS as u64 + 20 {
            let (_, first) = dialler.dial(NOW + n).unwrap();
            assert!(member.answer(NOW + n, &first).is_ok());
            recorded.push(first);
        }
        assert_eq!(member.firsts.len(), MAX_FIRSTS);
        for first in recorded[20..].iter().step_by(97) {
            assert_eq!(member.answer(NOW, first).err(), Some(NoiseError::Replayed));
        }
        let later = NOW + 3 * FRESH_US;
        let (_, first) = dialler.dial(later).unwrap();
        assert!(member.answer(later, &first).is_ok());
        assert_eq!(member.firsts.len(), 1);
    }

    /// RFC 7748, section 5.2 (the first iteration) and 6.1 (points of small order).
    #[test]
    fn the_curve_is_the_curve() {
        let mut nine = [0; 32];
        nine[0] = 9;
        let (mut curve, mut other, mut one, mut two) = (Curve::default(), Curve::default(), [0; 32], [0; 32]);
        curve.set(&nine);
        let expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
        assert_eq!(data_encoding::HEXLOWER.encode(curve.pubkey()), expected);
        other.generate(&mut Seeded(Rng::from_u64(1))).unwrap();
        curve.dh(other.pubkey(), &mut one).unwrap();
        other.dh(curve.pubkey(), &mut two).unwrap();
        assert!(one == two && one != [0; 32]);
        assert!(curve.dh(&[0; 32], &mut one).is_err() && curve.dh(&[1], &mut one).is_err());
    }

    #[test]
    fn the_same_seed_says_the_same() {
        assert_eq!(noise(1, 1).dial(NOW).unwrap().1, noise(1, 1).dial(NOW).unwrap().1);
        assert_ne!(noise(1, 1).dial(NOW).unwrap().1, noise(1, 2).dial(NOW).unwrap().1);
    }
}
