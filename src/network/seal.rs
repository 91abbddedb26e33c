//! Sealed datagrams: what members of a keyed network send each other instead of bare KRPC messages.
//!
//! ```text
//! sender's name (16 bytes)   stamp (8, microseconds since 1970)   AES-256-GCM of the message   tag (16)
//! ```
//!
//! The key is made from the network's key and the sender's name, which is drawn at its start; the nonce is the stamp,
//! which only rises. So no nonce is used twice with one key, though members agree on nothing. What does not open is
//! dropped without a word.
//!
//! A member whose clock is wrong would be met with silence, too, and never know why. So there is one exception: to a
//! datagram that opens and whose stamp is too old or too new, the answer is a *clock notice*, sealed as well, which
//! repeats the stamp. It is believed only by whoever has put that stamp on something just now.

use std::ops::Range;

use lru::LruCache;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::key::{Keys, NetworkKey};
use super::replay::{SenderName, Stamps, Window, ahead, is_fresh};

/// Name and stamp.
const HEAD: usize = 24;
const TAG: usize = 16;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEAD + TAG;
/// Senders whose key and latest stamps are kept, 1 KiB each: more than speak to one node within five minutes in a network of
/// thousands.
const MAX_SENDERS: usize = 2048;
/// What a clock notice begins with; a KRPC message begins with `d`.
const NOTICE: u8 = b'c';
/// Time between two notices, whoever gets them, in microseconds: recorded datagrams draw no more than that out of a node.
const NOTICE_EVERY_US: u64 = 1_000_000;
/// Age up to which one of our own stamps counts when a notice repeats it, in microseconds.
const NOTICE_ANSWERS_US: u64 = 15_000_000;

/// What was done with datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealCounters {
    /// Opened.
    pub opened: u64,
    /// From somebody who has not the key, or damaged.
    pub foreign: u64,
    /// Said before.
    pub replayed: u64,
    /// From members whose clock is too far from ours.
    pub skewed: u64,
}

/// A datagram that a member has sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where the message is within the datagram.
    pub message: Range<usize>,
    /// How much the sender's clock is ahead of ours, in microseconds, with the time the datagram took taken off.
    pub ahead_us: i64,
}

/// Why a datagram is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not open: another network's, a stranger's, damaged.
    Foreign,
    /// It was said before.
    Replayed,
    /// A member's, but its clock is so much ahead of ours, in microseconds; with what to answer, at times.
    Skewed(i64, Option<Vec<u8>>),
    /// A member tells us that our clock is wrong: its own is so much ahead, in microseconds.
    OurClock(i64),
    /// What a member sent that is no message.
    Empty,
}

struct Sender {
    key: LessSafeKey,
    /// Which of the network's keys it is made from.
    of: NetworkKey,
    window: Window,
}

/// Seals and opens the datagrams of one node.
pub struct Sealer {
    keys: Keys,
    stamps: Stamps,
    /// The key we seal with, which of the network's it is made from, and for which name.
    speaking: Option<(NetworkKey, SenderName, LessSafeKey)>,
    senders: LruCache<SenderName, Sender>,
    /// A second attempt needs the bytes as they came.
    copy: Vec<u8>,
    notice_at: u64,
    counters: SealCounters,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("counters", &self.counters).finish_non_exhaustive()
    }
}

fn key_of(network: &NetworkKey, sender: &SenderName) -> Option<LessSafeKey> {
    let key = network.derive("datagram", sender);
    UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
}

/// A number that only rises, as a nonce: behind four zeros, as Noise has it for AES-GCM.
pub(super) fn nonce(stamp: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&stamp.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Sealer {
    /// For a node that starts now: its name as a sender is new.
    pub fn new(keys: Keys, seed: [u8; 32]) -> Self {
        Self {
            keys,
            stamps: Stamps::new(seed),
            speaking: None,
            senders: LruCache::unbounded(),
            copy: Vec::new(),
            notice_at: 0,
            counters: SealCounters::default(),
        }
    }

    /// Puts other keys in force.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// What was done so far.
    pub fn counters(&self) -> SealCounters {
        self.counters
    }

    /// Seals a message in its place. Without a working cipher, which no platform lacks, nothing would be sent: empty.
    pub fn seal(&mut self, now_us: u64, message: &mut Vec<u8>) {
        let stamp = self.stamps.next(now_us);
        let (spoken, name) = (self.keys.spoken(now_us / 1_000_000), self.stamps.name());
        if self.speaking.as_ref().is_none_or(|(of, by, _)| of != spoken || by != name) {
            self.speaking = key_of(spoken, name).map(|key| (spoken.clone(), *name, key));
        }
        let length = message.len();
        message.resize(length + HEAD, 0);
        message.copy_within(..length, HEAD);
        message[..16].copy_from_slice(self.stamps.name());
        message[16..HEAD].copy_from_slice(&stamp.to_be_bytes());
        let sealed = self.speaking.as_ref().and_then(|(_, _, key)| {
            key.seal_in_place_separate_tag(nonce(stamp), Aad::empty(), &mut message[HEAD..]).ok()
        });
        match sealed {
            Some(tag) => message.extend_from_slice(tag.as_ref()),
            None => message.clear(),
        }
    }

    /// Opens a datagram in its place.
    pub fn open(&mut self, now_us: u64, datagram: &mut [u8]) -> Result<Opened, Refused> {
        let result = self.try_open(now_us, datagram);
        let counters = &mut self.counters;
        match &result {
            Ok(_) => counters.opened += 1,
            Err(Refused::Foreign | Refused::Empty) => counters.foreign += 1,
            Err(Refused::Replayed) => counters.replayed += 1,
            Err(Refused::Skewed(..) | Refused::OurClock(_)) => counters.skewed += 1,
        }
        result
    }

    fn try_open(&mut self, now_us: u64, datagram: &mut [u8]) -> Result<Opened, Refused> {
        let end = datagram.len().checked_sub(TAG).filter(|end| *end > HEAD).ok_or(Refused::Foreign)?;
        let mut name: SenderName = [0; 16];
        name.copy_from_slice(&datagram[..16]);
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&datagram[16..HEAD]);
        let stamp = u64::from_be_bytes(stamp);
        // Our own word, thrown back at us.
        if name == *self.stamps.name() {
            return Err(Refused::Replayed);
        }
        // Only a look: nobody has proven yet that he is who he says.
        let known = self.senders.peek(&name);
        if known.is_some_and(|sender| !sender.window.is_new(stamp)) {
            return Err(Refused::Replayed);
        }
        let found = self.unseal(now_us, &name, stamp, &mut datagram[HEAD..])?;
        let ahead_us = ahead(stamp, now_us);
        let message = HEAD..end;
        if datagram[HEAD] == NOTICE {
            return Err(self.on_notice(now_us, ahead_us, &datagram[message]));
        }
        if !is_fresh(stamp, now_us) {
            return Err(Refused::Skewed(ahead_us, self.notice(now_us, &datagram[..HEAD])));
        }
        // Recordings must not drive out those who speak now: what is not fresh is remembered of nobody.
        if let Some((of, key)) = found {
            let window = self.senders.pop(&name).map(|sender| sender.window).unwrap_or_default();
            self.senders.put(name, Sender { key, of, window });
            if self.senders.len() > MAX_SENDERS {
                self.senders.pop_lru();
            }
        }
        match self.senders.get_mut(&name).is_some_and(|sender| sender.window.take(stamp)) {
            true => Ok(Opened { message, ahead_us }),
            false => Err(Refused::Replayed),
        }
    }

    /// Decrypts, with the key that the sender used before or else with each that is understood; then says which it was.
    fn unseal(
        &mut self,
        now_us: u64,
        name: &SenderName,
        stamp: u64,
        sealed: &mut [u8],
    ) -> Result<Option<(NetworkKey, LessSafeKey)>, Refused> {
        let now_s = now_us / 1_000_000;
        let known = self.senders.peek(name);
        let known = known.filter(|sender| self.keys.understood(now_s).any(|key| *key == sender.of));
        let several = self.keys.old.is_some();
        if several {
            self.copy.clear();
            self.copy.extend_from_slice(sealed);
        }
        if let Some(sender) = known {
            if sender.key.open_in_place(nonce(stamp), Aad::empty(), sealed).is_ok() {
                return Ok(None);
            }
            // There is no other key that it could be.
            if !several {
                return Err(Refused::Foreign);
            }
        }
        for of in self.keys.understood(now_s) {
            if several {
                sealed.copy_from_slice(&self.copy);
            }
            let Some(key) = key_of(of, name) else { continue };
            if key.open_in_place(nonce(stamp), Aad::empty(), sealed).is_ok() {
                return Ok(Some((of.clone(), key)));
            }
        }
        Err(Refused::Foreign)
    }

    /// What tells the sender of a datagram with this head that our clocks differ; at times only.
    fn notice(&mut self, now_us: u64, head: &[u8]) -> Option<Vec<u8>> {
        if now_us < self.notice_at {
            return None;
        }
        self.notice_at = now_us + NOTICE_EVERY_US;
        let mut notice = vec![NOTICE];
        notice.extend_from_slice(head);
        self.seal(now_us, &mut notice);
        Some(notice)
    }

    fn on_notice(&self, now_us: u64, ahead_us: i64, notice: &[u8]) -> Refused {
        let Some((name, stamp)) = notice[1..].split_at_checked(16) else { return Refused::Empty };
        let stamp = <[u8; 8]>::try_from(stamp).map(u64::from_be_bytes);
        match stamp {
            Ok(stamp) if name == self.stamps.name() && self.stamps.gave(stamp, now_us, NOTICE_ANSWERS_US) => {
                Refused::OurClock(ahead_us)
            }
            _ => Refused::Replayed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::key::OldKey;
    use crate::network::replay::FRESH_US;
    use crate::rng::Rng;

    const NOW: u64 = 1_800_000_000_000_000;

    fn key(seed: u64) -> NetworkKey {
        NetworkKey::random(&mut Rng::from_u64(seed))
    }

    fn sealer(key_seed: u64, name: u8) -> Sealer {
        Sealer::new(Keys::new(key(key_seed)), [name; 32])
    }

    fn sealed(by: &mut Sealer, now: u64, message: &[u8]) -> Vec<u8> {
        let mut out = message.to_vec();
        by.seal(now, &mut out);
        out
    }

    fn opened(by: &mut Sealer, now: u64, mut datagram: Vec<u8>) -> Result<Vec<u8>, Refused> {
        let message = by.open(now, &mut datagram)?.message;
        Ok(datagram[message].to_vec())
    }

    #[test]
    fn members_understand_each_other_once_and_strangers_understand_nothing() {
        let (mut a, mut b, mut stranger) = (sealer(1, 1), sealer(1, 2), sealer(2, 3));
        let one = sealed(&mut a, NOW, b"d1:y1:qe");
        assert_eq!(one.len(), 8 + OVERHEAD);
        assert!(!one.windows(4).any(|w| w == b"d1:y"));
        assert_eq!(opened(&mut b, NOW + 5, one.clone()).unwrap(), b"d1:y1:qe");
        assert_eq!(opened(&mut b, NOW + 6, one.clone()), Err(Refused::Replayed));
        assert_eq!(opened(&mut stranger, NOW, one.clone()), Err(Refused::Foreign));
        assert_eq!(opened(&mut a, NOW, one), Err(Refused::Replayed));
        // The same words at the same time look different.
        let (x, y) = (sealed(&mut a, NOW, b"dxx"), sealed(&mut a, NOW, b"dxx"));
        assert_ne!(x, y);
        // Out of order is no replay.
        assert!(opened(&mut b, NOW, y).is_ok() && opened(&mut b, NOW, x).is_ok());
        let counters = SealCounters { opened: 3, replayed: 1, ..SealCounters::default() };
        assert_eq!(b.counters(), counters);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let (mut a, mut b) = (sealer(1, 1), sealer(1, 2));
        let good = sealed(&mut a, NOW, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(opened(&mut b, NOW, bad), Err(Refused::Foreign), "byte {at}");
            assert_eq!(opened(&mut b, NOW, good[..at].to_vec()), Err(Refused::Foreign), "cut at {at}");
        }
        assert!(opened(&mut b, NOW, good).is_ok());
        assert_eq!(opened(&mut b, NOW, vec![0; 2048]), Err(Refused::Foreign));
    }

    #[test]
    fn a_wrong_clock_is_told_and_nobody_else_can_tell_it() {
        let (mut a, mut b) = (sealer(1, 1), sealer(1, 2));
        let late = NOW - 2 * FRESH_US;
        let early = sealed(&mut a, late, b"dx");
        let Err(Refused::Skewed(ahead, Some(notice))) = opened(&mut b, NOW, early.clone()) else { panic!() };
        assert_eq!(ahead, -2 * FRESH_US as i64);
        assert!(notice.len() < 95, "no more than a ping weighs");
        assert_eq!(
            opened(&mut a, late + 1000, notice.clone()),
            Err(Refused::OurClock(2 * FRESH_US as i64 - 1000))
        );
        // Whoever records a notice cannot use it later, nor on another member.
        assert_eq!(opened(&mut a, late + NOTICE_ANSWERS_US + 1, notice.clone()), Err(Refused::Replayed));
        assert_eq!(opened(&mut sealer(1, 3), late, notice), Err(Refused::Replayed));
        // Old recordings draw one notice a second out of a node, however many there are.
        let answers =
            |b: &mut Sealer, at| matches!(opened(b, at, early.clone()), Err(Refused::Skewed(_, Some(_))));
        assert_eq!((0..100).filter(|n| answers(&mut b, NOW + n * 20_000)).count(), 1);
        // A sender whose clock was set right is heard again, whichever way it was wrong.
        let early = sealed(&mut a, NOW + 20 * FRESH_US, b"dx");
        assert!(matches!(opened(&mut b, NOW, early), Err(Refused::Skewed(..))));
        assert!(opened(&mut b, NOW, sealed(&mut a, NOW, b"dx")).is_ok());
    }

    #[test]
    fn members_with_the_old_key_and_with_both_hear_each_other() {
        let until_s = NOW / 1_000_000 + 100;
        let both = Keys { current: key(2), old: Some(OldKey { key: key(1), until_s }) };
        let (mut old, mut new) = (sealer(1, 1), Sealer::new(both.clone(), [2; 32]));
        let (mut other, mut only_new) = (Sealer::new(both, [3; 32]), sealer(2, 4));
        let words = sealed(&mut new, NOW, b"dx");
        assert!(opened(&mut old, NOW, words.clone()).is_ok() && opened(&mut other, NOW, words).is_ok());
        let words = sealed(&mut old, NOW, b"dx");
        assert!(opened(&mut new, NOW, words).is_ok());
        // Later all speak with the new key; who missed the change is a stranger from the margin's end on.
        let later = NOW + 200_000_000;
        let words = sealed(&mut new, later, b"dx");
        assert_eq!(opened(&mut old, later, words.clone()), Err(Refused::Foreign));
        assert!(
            opened(&mut other, later, words.clone()).is_ok() && opened(&mut only_new, later, words).is_ok()
        );
        assert!(opened(&mut new, later, sealed(&mut only_new, later, b"dx")).is_ok());
        assert!(opened(&mut new, later, sealed(&mut old, later, b"dx")).is_ok());
        let end = later + 1_000_000 * super::super::key::OLD_KEY_MARGIN_S;
        assert_eq!(opened(&mut new, end, sealed(&mut old, end, b"dx")), Err(Refused::Foreign));
    }

    #[test]
    fn a_sender_that_was_heard_under_the_old_key_is_heard_under_the_new_one() {
        let (mut a, mut b) = (sealer(1, 1), sealer(1, 2));
        assert!(opened(&mut b, NOW, sealed(&mut a, NOW, b"dx")).is_ok());
        b.set_keys(Keys::new(key(2)));
        assert_eq!(opened(&mut b, NOW, sealed(&mut a, NOW, b"dx")), Err(Refused::Foreign));
        a.set_keys(Keys::new(key(2)));
        let words = sealed(&mut a, NOW, b"dx");
        assert!(opened(&mut b, NOW, words.clone()).is_ok());
        assert_eq!(opened(&mut b, NOW, words), Err(Refused::Replayed));
    }

    #[test]
    fn memory_of_senders_is_bounded_and_strangers_take_none() {
        let mut node = sealer(1, 0);
        for n in 0..MAX_SENDERS as u64 + 100 {
            let mut seed = [7; 32];
            seed[..8].copy_from_slice(&n.to_le_bytes());
            let mut member = Sealer::new(Keys::new(key(1)), seed);
            let mut stranger = Sealer::new(Keys::new(key(9)), seed);
            assert!(opened(&mut node, NOW, sealed(&mut stranger, NOW, b"dx")).is_err());
            assert!(opened(&mut node, NOW, sealed(&mut member, NOW, b"dx")).is_ok());
        }
        assert_eq!(node.senders.len(), MAX_SENDERS);
        // Recordings of former runs, which were members, drive nobody out.
        let before: Vec<SenderName> = node.senders.iter().map(|(name, _)| *name).collect();
        for n in 0..50 {
            let mut former = Sealer::new(Keys::new(key(1)), [n; 32]);
            assert!(opened(&mut node, NOW, sealed(&mut former, NOW - 2 * FRESH_US, b"dx")).is_err());
        }
        assert_eq!(before, node.senders.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert!(std::mem::size_of::<Sender>() < 1024);
    }
}
