//! Items of the DHT's store: what they are called, and what makes a signature good (BEP 44).
//!
//! Owns targets, the signed form and its check. Must not know who stores items or for how long. The one
//! place that touches Ed25519.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha1::{Digest as _, Sha1};

use super::bencode::{Limits, Value, Writer};
use crate::id::Id160;

/// Bytes of a value as bencoded (BEP 44, "put").
pub const MAX_VALUE: usize = 1000;
/// Bytes of a salt (BEP 44, "put").
pub const MAX_SALT: usize = 64;

/// A value with a name; which kind it is follows from how it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Named by its own hash: it can never change.
    Immutable {
        /// One bencoded value.
        value: Vec<u8>,
    },
    /// Named by a public key: its owner can replace it.
    Mutable(MutableItem),
}

/// A value that the owner of a key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutableItem {
    /// The owner's Ed25519 public key.
    pub key: [u8; 32],
    /// Tells several items of one owner apart; mostly empty.
    pub salt: Vec<u8>,
    /// Grows with each version.
    pub seq: i64,
    /// Over salt, number and value.
    pub signature: [u8; 64],
    /// One bencoded value.
    pub value: Vec<u8>,
}

/// Why an item cannot be made or is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// See [`MAX_VALUE`].
    #[error("the value takes more than {MAX_VALUE} bytes when bencoded")]
    ValueTooBig,
    /// See [`MAX_SALT`].
    #[error("the salt is longer than {MAX_SALT} bytes")]
    SaltTooBig,
    /// Others would hash or sign other bytes.
    #[error("the value is not bencoded the one canonical way")]
    NotCanonical,
    /// Not signed by the owner of the key.
    #[error("the signature does not match the key and the value")]
    Signature,
}

impl Item {
    /// Where it is stored.
    pub fn target(&self) -> Id160 {
        match self {
            Item::Immutable { value } => immutable_target(value),
            Item::Mutable(item) => mutable_target(&item.key, &item.salt),
        }
    }

    /// The bencoded value.
    pub fn value(&self) -> &[u8] {
        match self {
            Item::Immutable { value } => value,
            Item::Mutable(item) => &item.value,
        }
    }

    /// The version of a mutable item.
    pub fn seq(&self) -> Option<i64> {
        match self {
            Item::Immutable { .. } => None,
            Item::Mutable(item) => Some(item.seq),
        }
    }

    /// Whether everyone would store it.
    pub fn check(&self) -> Result<(), ItemError> {
        check_value(self.value())?;
        match self {
            Item::Immutable { .. } => Ok(()),
            Item::Mutable(item) => item.check(),
        }
    }
}

impl MutableItem {
    /// Signs a new version.
    pub fn sign(owner: &SigningKey, salt: &[u8], seq: i64, value: &[u8]) -> Result<Self, ItemError> {
        check_value(value)?;
        if salt.len() > MAX_SALT {
            return Err(ItemError::SaltTooBig);
        }
        let signature = owner.sign(&signed_form(salt, seq, value)).to_bytes();
        let key = owner.verifying_key().to_bytes();
        Ok(Self { key, salt: salt.to_vec(), seq, signature, value: value.to_vec() })
    }

    fn check(&self) -> Result<(), ItemError> {
        if self.salt.len() > MAX_SALT {
            return Err(ItemError::SaltTooBig);
        }
        let key = VerifyingKey::from_bytes(&self.key).map_err(|_| ItemError::Signature)?;
        let signed = signed_form(&self.salt, self.seq, &self.value);
        let signature = Signature::from_bytes(&self.signature);
        key.verify_strict(&signed, &signature).map_err(|_| ItemError::Signature)
    }
}

fn check_value(value: &[u8]) -> Result<(), ItemError> {
    if value.len() > MAX_VALUE {
        return Err(ItemError::ValueTooBig);
    }
    let parsed = Value::parse(value, Limits::MESSAGE).map_err(|_| ItemError::NotCanonical)?;
    if parsed.is_canonical() { Ok(()) } else { Err(ItemError::NotCanonical) }
}

/// The name of an immutable item: SHA-1 of the bencoded value (BEP 44, "Immutable Items").
pub fn immutable_target(value: &[u8]) -> Id160 {
    Id160(Sha1::digest(value).into())
}

/// The name of a mutable item: SHA-1 of key and salt (BEP 44, "Mutable Items").
pub fn mutable_target(key: &[u8; 32], salt: &[u8]) -> Id160 {
    Id160(Sha1::new().chain_update(key).chain_update(salt).finalize().into())
}

/// What is signed: the pairs of the message between the dictionary's brackets (BEP 44, "Signature Verification").
fn signed_form(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + salt.len() + 48);
    let mut w = Writer::new(&mut out);
    if !salt.is_empty() {
        w.bytes(b"salt").bytes(salt);
    }
    w.bytes(b"seq").int(seq).bytes(b"v").raw(value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    const KEY: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";

    fn published(salt: &[u8], signature: &str) -> MutableItem {
        let (key, signature) = (hex(KEY), hex(signature));
        MutableItem { key, salt: salt.to_vec(), seq: 1, signature, value: b"12:Hello World!".to_vec() }
    }

    /// BEP 44, "Test vectors", 1 to 3.
    #[test]
    fn the_beps_own_examples_hold() {
        let plain = published(
            b"",
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
             1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
        );
        assert_eq!(signed_form(b"", 1, &plain.value), b"3:seqi1e1:v12:Hello World!");
        assert_eq!(plain.check(), Ok(()));
        let target = Item::Mutable(plain.clone()).target().to_string();
        assert_eq!(target, "4a533d47ec9c7d95b1ad75f576cffc641853b750");
        let salted = published(
            b"foobar",
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
             df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
        );
        assert_eq!(signed_form(b"foobar", 1, &salted.value), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
        assert_eq!(salted.check(), Ok(()));
        let target = Item::Mutable(salted).target().to_string();
        assert_eq!(target, "411eba73b6f087ca51a3795d9c8c938d365e32c1");
        let target = immutable_target(b"12:Hello World!").to_string();
        assert_eq!(target, "e5f96f6f38320f0f33959cb4d3d656452117aadb");
    }

    #[test]
    fn any_change_breaks_the_signature() {
        let owner = SigningKey::from_bytes(&[7; 32]);
        let item = MutableItem::sign(&owner, b"s", 3, b"i1e").unwrap();
        assert_eq!(Item::Mutable(item.clone()).check(), Ok(()));
        let changed: [fn(&mut MutableItem); 5] = [
            |i| i.salt.clear(),
            |i| i.seq += 1,
            |i| i.value = b"i2e".to_vec(),
            |i| i.key[0] ^= 1,
            |i| i.signature[40] ^= 1,
        ];
        for change in changed {
            let mut other = item.clone();
            change(&mut other);
            assert_eq!(Item::Mutable(other).check(), Err(ItemError::Signature));
        }
    }

    #[test]
    fn bounds_and_canonical_form_are_kept() {
        let owner = SigningKey::from_bytes(&[7; 32]);
        let sign = |salt: &[u8], value: &[u8]| MutableItem::sign(&owner, salt, 1, value).map(|_| ());
        let big = [b"1000:".as_slice(), &[0; 1000]].concat();
        assert_eq!(sign(b"", &big), Err(ItemError::ValueTooBig));
        assert_eq!(sign(b"", &[b"996:".as_slice(), &[0; 996]].concat()), Ok(()));
        assert_eq!(sign(&[0; 65], b"i1e"), Err(ItemError::SaltTooBig));
        for bad in [&b""[..], b"i01e", b"i1ei2e", b"d1:b0:1:a0:e", b"hello"] {
            assert_eq!(sign(b"", bad), Err(ItemError::NotCanonical));
        }
    }
}
