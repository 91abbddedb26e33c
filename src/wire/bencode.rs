//! Bencoding (BEP 3): a borrowed, iterative, bounded reader and a canonical writer.
//!
//! Owns the grammar and raw spans (the info dictionary is hashed over the bytes it came in). Must not
//! know what a message means. [`Value::parse`] checks a whole value once, without recursion and within
//! [`Limits`]; everything after that walks bytes which are known to be well-formed, so the accessors
//! cannot panic: a step that the check has ruled out yields `None`.

use thiserror::Error;

/// Why bytes are not one bencoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BencodeError {
    /// The bytes end inside a value.
    #[error("the data ends in the middle of a value")]
    Truncated,
    /// A byte that cannot begin or continue a value, and where.
    #[error("unexpected byte at offset {0}")]
    Unexpected(usize),
    /// An integer with leading zeros, a lone minus, or outside 64 bits, and where.
    #[error("malformed number at offset {0}")]
    Number(usize),
    /// Lists or dictionaries nested too deep.
    #[error("nested deeper than {0} levels")]
    Depth(usize),
    /// More values than a message of its kind may hold.
    #[error("more than {0} values")]
    Tokens(usize),
    /// Bytes after the value, where none may be.
    #[error("data after the end of the value, at offset {0}")]
    Trailing(usize),
}

/// How much structure a value may have before it is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Levels of nesting.
    pub depth: usize,
    /// Values in all: strings, integers, lists and dictionaries.
    pub tokens: usize,
}

impl Limits {
    /// For one datagram or one extension message: none that is honest nests deeper.
    pub const MESSAGE: Self = Self { depth: 16, tokens: 4096 };
    /// For a `.torrent` or an info dictionary; what libtorrent accepts.
    pub const TORRENT: Self = Self { depth: 100, tokens: 3_000_000 };
}

/// One value, borrowed from checked bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
}

impl<'a> Value<'a> {
    /// Checks that `bytes` are exactly one value.
    pub fn parse(bytes: &'a [u8], limits: Limits) -> Result<Self, BencodeError> {
        let (value, rest) = Self::parse_prefix(bytes, limits)?;
        if rest.is_empty() { Ok(value) } else { Err(BencodeError::Trailing(bytes.len() - rest.len())) }
    }

    /// Checks one value at the start of `bytes` and returns it with what follows.
    pub fn parse_prefix(bytes: &'a [u8], limits: Limits) -> Result<(Self, &'a [u8]), BencodeError> {
        let end = check(bytes, limits)?;
        let (raw, rest) = bytes.split_at(end);
        Ok((Self { raw }, rest))
    }

    /// The bytes of this value as they came.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The content of a byte string.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        self.raw.first().filter(|b| b.is_ascii_digit())?;
        let colon = self.raw.iter().position(|&b| b == b':')?;
        self.raw.get(colon + 1..)
    }

    /// Whether this is the one way to write it: sorted keys without repeats and no zeros before a length
    /// (BEP 3, "bencoding"). What is hashed or signed must be.
    pub fn is_canonical(&self) -> bool {
        is_canonical(self.raw)
    }

    /// A byte string that is UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// An integer.
    pub fn int(&self) -> Option<i64> {
        let digits = self.raw.strip_prefix(b"i")?.strip_suffix(b"e")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// An integer that is not negative.
    pub fn uint(&self) -> Option<u64> {
        self.int()?.try_into().ok()
    }

    /// The elements of a list; of anything else, nothing.
    pub fn list(&self) -> Items<'a> {
        Items { rest: self.raw.strip_prefix(b"l").unwrap_or(&[]) }
    }

    /// The entries of a dictionary in the order they came; of anything else, nothing.
    pub fn dict(&self) -> Entries<'a> {
        Entries { items: Items { rest: self.raw.strip_prefix(b"d").unwrap_or(&[]) } }
    }

    /// Whether this is a list.
    pub fn is_list(&self) -> bool {
        self.raw.first() == Some(&b'l')
    }

    /// Whether this is a dictionary.
    pub fn is_dict(&self) -> bool {
        self.raw.first() == Some(&b'd')
    }

    /// The value of `key` in a dictionary; the first one where a hostile sender repeats it.
    pub fn get(&self, key: &[u8]) -> Option<Value<'a>> {
        self.dict().find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

/// Iterator over the elements of a list.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if *self.rest.first()? == b'e' {
            return None;
        }
        let end = skip(self.rest)?;
        let (raw, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(Value { raw })
    }
}

/// Iterator over the entries of a dictionary.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    items: Items<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.items.next()?.bytes()?;
        Some((key, self.items.next()?))
    }
}

/// The length of the value at the start of bytes that `check` has passed.
fn skip(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut depth = 0usize;
    loop {
        match *bytes.get(at)? {
            b'i' => at += bytes.get(at..)?.iter().position(|&b| b == b'e')? + 1,
            b'l' | b'd' => {
                depth += 1;
                at += 1;
            }
            b'e' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ => at = string_end(bytes, at).ok()?,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where the string that begins at `at` ends.
fn string_end(bytes: &[u8], at: usize) -> Result<usize, BencodeError> {
    let mut length = 0usize;
    let mut i = at;
    loop {
        match bytes.get(i) {
            Some(b':') if i > at => break,
            Some(&d) if d.is_ascii_digit() => {
                length = length
                    .checked_mul(10)
                    .and_then(|n| n.checked_add(usize::from(d - b'0')))
                    .ok_or(BencodeError::Number(at))?;
                i += 1;
            }
            Some(_) => return Err(BencodeError::Unexpected(i)),
            None => return Err(BencodeError::Truncated),
        }
    }
    let end = (i + 1).checked_add(length).ok_or(BencodeError::Number(at))?;
    if end > bytes.len() { Err(BencodeError::Truncated) } else { Ok(end) }
}

/// Where the integer that begins at `at` ends; refuses what is not canonical or does not fit 64 bits.
fn int_end(bytes: &[u8], at: usize) -> Result<usize, BencodeError> {
    let body = bytes.get(at + 1..).unwrap_or(&[]);
    // 20 characters hold every 64-bit number with its sign; a longer run is malformed, not worth scanning.
    let length = match body.iter().take(21).position(|&b| b == b'e') {
        Some(n) => n,
        None if body.len() <= 20 => return Err(BencodeError::Truncated),
        None => return Err(BencodeError::Number(at)),
    };
    let digits = &body[..length];
    let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
    let canonical = match unsigned {
        [] => false,
        [b'0'] => digits.len() == 1,
        [b'0', ..] => false,
        all => all.iter().all(u8::is_ascii_digit),
    };
    let fits = std::str::from_utf8(digits).is_ok_and(|t| t.parse::<i64>().is_ok());
    if canonical && fits { Ok(at + length + 2) } else { Err(BencodeError::Number(at)) }
}

/// Walks one value without recursion and returns its length.
fn check(bytes: &[u8], limits: Limits) -> Result<usize, BencodeError> {
    // For each open container: None for a list, Some(expecting a key) for a dictionary.
    let mut open: Vec<Option<bool>> = Vec::new();
    let mut at = 0;
    let mut tokens = 0usize;
    loop {
        let byte = *bytes.get(at).ok_or(BencodeError::Truncated)?;
        let key_next = open.last() == Some(&Some(true));
        if byte == b'e' {
            match open.pop() {
                None | Some(Some(false)) => return Err(BencodeError::Unexpected(at)),
                Some(_) => at += 1,
            }
        } else {
            tokens += 1;
            if tokens > limits.tokens {
                return Err(BencodeError::Tokens(limits.tokens));
            }
            match byte {
                b'0'..=b'9' => at = string_end(bytes, at)?,
                _ if key_next => return Err(BencodeError::Unexpected(at)),
                b'i' => at = int_end(bytes, at)?,
                b'l' | b'd' => {
                    if open.len() >= limits.depth {
                        return Err(BencodeError::Depth(limits.depth));
                    }
                    open.push((byte == b'd').then_some(true));
                    at += 1;
                    continue;
                }
                _ => return Err(BencodeError::Unexpected(at)),
            }
        }
        match open.last_mut() {
            None => return Ok(at),
            Some(Some(key)) => *key = !*key,
            Some(None) => {}
        }
    }
}

/// The same for bytes that `check` has passed, without recursion.
fn is_canonical(bytes: &[u8]) -> bool {
    /// Whether a key comes next, and the key before it.
    type Keys<'a> = (bool, Option<&'a [u8]>);
    // One for each open container; None for a list.
    let mut open: Vec<Option<Keys<'_>>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let mut closed = true;
        match byte {
            b'e' => {
                open.pop();
                at += 1;
            }
            b'i' => at += skip(&bytes[at..]).unwrap_or(1),
            b'l' | b'd' => {
                open.push((byte == b'd').then_some((true, None)));
                at += 1;
                closed = false;
            }
            _ => {
                let value = &bytes[at..];
                let Some(end) = skip(value) else { return false };
                let text = Value { raw: &value[..end] }.bytes().unwrap_or_default();
                if byte == b'0' && end > 2 {
                    return false;
                }
                if let Some(Some((true, last))) = open.last_mut() {
                    if last.is_some_and(|last| last >= text) {
                        return false;
                    }
                    *last = Some(text);
                }
                at += end;
            }
        }
        if closed && let Some(Some((key_next, _))) = open.last_mut() {
            *key_next = !*key_next;
        }
    }
    true
}

/// Appends bencoded values to a buffer. Keys of a dictionary must be written in sorted order, which a
/// debug build cannot check for nested writers; the tests of each message do.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.number(value.len() as u64);
        self.out.push(b':');
        self.out.extend_from_slice(value);
        self
    }

    /// An integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.out.push(b'i');
        if value < 0 {
            self.out.push(b'-');
        }
        self.number(value.unsigned_abs());
        self.out.push(b'e');
        self
    }

    /// Opens a dictionary.
    pub fn begin_dict(&mut self) -> &mut Self {
        self.out.push(b'd');
        self
    }

    /// Opens a list.
    pub fn begin_list(&mut self) -> &mut Self {
        self.out.push(b'l');
        self
    }

    /// Closes the innermost open list or dictionary.
    pub fn end(&mut self) -> &mut Self {
        self.out.push(b'e');
        self
    }

    /// A value that is bencoded already.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(value);
        self
    }

    fn number(&mut self, mut value: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Value<'_>, BencodeError> {
        Value::parse(bytes, Limits::MESSAGE)
    }

    #[test]
    fn reads_what_bep_3_shows() {
        assert_eq!(parse(b"4:spam").unwrap().bytes(), Some(&b"spam"[..]));
        assert_eq!(parse(b"i-3e").unwrap().int(), Some(-3));
        let list: Vec<_> = parse(b"l4:spam4:eggse").unwrap().list().filter_map(|v| v.text()).collect();
        assert_eq!(list, ["spam", "eggs"]);
        let dict = parse(b"d3:cow3:moo4:spaml1:a1:bee").unwrap();
        assert_eq!(dict.get(b"cow").unwrap().text(), Some("moo"));
        assert_eq!(dict.get(b"spam").unwrap().raw(), b"l1:a1:be");
        assert!(dict.get(b"pig").is_none());
    }

    #[test]
    fn refuses_what_is_malformed() {
        use BencodeError::*;
        for (bytes, error) in [
            (&b""[..], Truncated),
            (b"i12", Truncated),
            (b"5:spam", Truncated),
            (b"l", Truncated),
            (b"ie", Number(0)),
            (b"i-0e", Number(0)),
            (b"i03e", Number(0)),
            (b"i99999999999999999999e", Number(0)),
            (b"i9223372036854775808e", Number(0)),
            (b"e", Unexpected(0)),
            (b"d1:ae", Unexpected(4)),
            (b"di1e1:ae", Unexpected(1)),
            (b"x", Unexpected(0)),
            (b"99999999999999999999999:", Number(0)),
            (b"i1ei2e", Trailing(3)),
        ] {
            assert_eq!(parse(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn ten_thousand_nested_lists_are_refused_without_recursion() {
        let deep = [vec![b'l'; 10_000], vec![b'e'; 10_000]].concat();
        assert_eq!(Value::parse(&deep, Limits::TORRENT), Err(BencodeError::Depth(100)));
        let wide = [vec![b'l'], b"i1e".repeat(5000), vec![b'e']].concat();
        assert_eq!(parse(&wide), Err(BencodeError::Tokens(4096)));
    }

    #[test]
    fn unsorted_keys_and_trailing_bytes_can_be_tolerated() {
        let (value, rest) = Value::parse_prefix(b"d1:bi1e1:ai2eeXYZ", Limits::MESSAGE).unwrap();
        assert_eq!((value.get(b"a").unwrap().int(), rest), (Some(2), &b"XYZ"[..]));
    }

    #[test]
    fn writes_canonically() {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"a").int(-42).bytes(b"l").begin_list().bytes(b"").int(0).end().end();
        assert_eq!(out, b"d1:ai-42e1:ll0:i0eee");
        assert!(parse(&out).is_ok());
        out.clear();
        Writer::new(&mut out).int(i64::MIN).int(i64::MAX);
        assert_eq!(out, b"i-9223372036854775808ei9223372036854775807e");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_never_loops(bytes: Vec<u8>) {
            if let Ok(value) = parse(&bytes) {
                proptest::prop_assert_eq!(value.raw(), &bytes[..]);
                let _ = (value.int(), value.bytes(), value.list().count(), value.dict().count());
            }
        }
    }

    #[test]
    fn only_one_spelling_is_canonical() {
        for (text, canonical) in [
            (&b"i1e"[..], true),
            (b"0:", true),
            (b"02:ab", false),
            (b"d1:ai1e1:bi2ee", true),
            (b"d1:bi1e1:ai2ee", false),
            (b"d1:ai1e1:ai2ee", false),
            (b"d0:i1e1:ai2ee", true),
            (b"d0:1:d0:i2ee", false),
            (b"ld1:ad1:b0:1:cleeed1:bi1e1:ai1eee", false),
            (b"ld1:ad1:b0:1:cleeed1:ai1e1:bi1eee", true),
            (b"d1:a1:d1:b1:ce", true),
        ] {
            let value = Value::parse(text, Limits::MESSAGE).unwrap();
            assert_eq!(value.is_canonical(), canonical, "{}", String::from_utf8_lossy(text));
        }
    }
}
