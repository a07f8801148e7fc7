//! Keeps numbers in a constrained answer readable: grammars allow `54E4730` and endless digits, parsers do not.

use std::sync::Arc;

/// Digits in the whole part and in the fraction: what a double can tell apart.
const MOST_DIGITS: usize = 15;

/// Sets of tokens, one bit each, made once for a vocabulary.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// By `n`: tokens that begin with at least `n + 1` digits.
    digits: Vec<Vec<u32>>,
    /// Tokens that begin with `e` or `E`.
    exponents: Vec<u32>,
    /// Tokens with a digit and an exponent, such as `1e`.
    with_exponent: Vec<u32>,
}

/// Follows the bytes of one answer.
#[derive(Debug)]
pub(crate) struct Watch {
    numbers: Arc<Numbers>,
    in_string: bool,
    escaped: bool,
    /// Digits in a row, outside strings.
    run: usize,
    /// The last byte belongs to a number.
    in_number: bool,
}

impl Numbers {
    pub(crate) fn of(words: &[Vec<u8>]) -> Self {
        let set = |has: &dyn Fn(&[u8]) -> bool| {
            let mut bits = vec![0; words.len().div_ceil(32)];
            for (at, word) in words.iter().enumerate().filter(|(_, word)| has(word)) {
                debug_assert!(!word.is_empty());
                bits[at / 32] |= 1 << (at % 32);
            }
            bits
        };
        let leading = |word: &[u8]| word.iter().take_while(|byte| byte.is_ascii_digit()).count();
        Self {
            digits: (1..=MOST_DIGITS).map(|n| set(&|word| leading(word) >= n)).collect(),
            exponents: set(&|word| matches!(word.first(), Some(b'e' | b'E'))),
            with_exponent: set(&|word| word.windows(2).any(|pair| pair[0].is_ascii_digit() && matches!(pair[1], b'e' | b'E'))),
        }
    }
}

impl Watch {
    pub(crate) fn new(numbers: Arc<Numbers>) -> Self {
        Self { numbers, in_string: false, escaped: false, run: 0, in_number: false }
    }

    pub(crate) fn follow(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                self.in_string = self.escaped || *byte != b'"';
                self.escaped = !self.escaped && *byte == b'\\';
                continue;
            }
            self.in_string = *byte == b'"';
            self.in_number = byte.is_ascii_digit() || (self.in_number && *byte == b'.');
            self.run = if byte.is_ascii_digit() { self.run + 1 } else { 0 };
        }
    }

    /// Whether `restrict` would leave this token in any case.
    pub(crate) fn permits(&self, token: i32) -> bool {
        let within = |set: &[u32]| {
            let at = usize::try_from(token).unwrap_or(usize::MAX);
            set.get(at / 32).is_some_and(|word| word >> (at % 32) & 1 == 1)
        };
        let too_long = || self.numbers.digits.get(MOST_DIGITS.saturating_sub(self.run)).is_some_and(|set| within(set));
        let breaks = || within(&self.numbers.with_exponent) || (self.in_number && (within(&self.numbers.exponents) || too_long()));
        self.in_string || !breaks()
    }

    /// Takes away what would make a number unreadable, unless nothing else is allowed: a schema may want just that number.
    pub(crate) fn restrict(&self, bits: &mut Vec<u32>) {
        if self.in_string {
            return;
        }
        let mut fewer = bits.clone();
        take_away(&mut fewer, &self.numbers.with_exponent);
        if self.in_number {
            take_away(&mut fewer, &self.numbers.exponents);
            // One digit more than is left: `digits[0]` are the tokens with one or more.
            if let Some(too_long) = self.numbers.digits.get(MOST_DIGITS.saturating_sub(self.run)) {
                take_away(&mut fewer, too_long);
            }
        }
        if fewer.iter().any(|word| *word != 0) {
            *bits = fewer;
        }
    }
}

fn take_away(bits: &mut [u32], without: &[u32]) {
    for (word, gone) in bits.iter_mut().zip(without) {
        *word &= !gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the words may follow `text`.
    fn check(text: &str, expected: &[&str]) {
        let words = ["1", "12", "123", "e5", "1e9", ".", ",", "x"];
        let numbers = Arc::new(Numbers::of(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>()));
        let mut watch = Watch::new(numbers);
        watch.follow(text.as_bytes());
        let mut bits = vec![0xff];
        watch.restrict(&mut bits);
        for (at, word) in words.iter().enumerate() {
            assert_eq!(watch.permits(i32::try_from(at).unwrap()), bits[0] >> at & 1 == 1, "{text} then {word}");
        }
        let got: Vec<&str> = words.iter().enumerate().filter(|(at, _)| bits[0] >> at & 1 == 1).map(|(_, word)| *word).collect();
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn numbers_stay_readable_and_strings_free() {
        check("{\"a\": ", &["1", "12", "123", "e5", ".", ",", "x"]);
        check("{\"a\": 3", &["1", "12", "123", ".", ",", "x"]);
        check("{\"a\": 3.", &["1", "12", "123", ".", ",", "x"]);
        check("{\"a\": 1234567890123", &["1", "12", ".", ",", "x"]);
        check("{\"a\": 123456789012345", &[".", ",", "x"]);
        check("{\"a\": 0.12345678901234", &["1", ".", ",", "x"]);
        check("{\"a\": \"3", &["1", "12", "123", "e5", "1e9", ".", ",", "x"]);
        check("{\"a\": \"3\\\"", &["1", "12", "123", "e5", "1e9", ".", ",", "x"]);
    }

    #[test]
    fn a_number_that_must_be_long_may_be() {
        let mut watch = Watch::new(Arc::new(Numbers::of(&[b"1".to_vec(), b"x".to_vec()])));
        watch.follow(b"[1234567890123456");
        let mut bits = vec![0b01];
        watch.restrict(&mut bits);
        assert_eq!(bits, [0b01]);
    }
}
