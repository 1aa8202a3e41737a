//! Decimal numbers of any length, for reading quantities.
//!
//! Called by the parser alone. A text may have more digits than any machine number, so nothing is rounded before the last step.

/// More digits than any 128-bit number has: a quick way out before the arithmetic.
const MOST_DIGITS: i64 = 39;

/// A number of any length: exact while it is scaled, so that rounding happens once.
pub(super) struct Decimal {
    digits: Vec<u8>,
    /// How many of the digits stand before the point; below zero if zeros follow the point.
    pub(super) point: i64,
}

impl Decimal {
    pub(super) fn new(whole: &str, fraction: &str) -> Self {
        let digits = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        let mut number = Self {
            digits,
            point: i64::try_from(whole.len()).expect("a text is shorter than 2^63"),
        };
        number.strip();
        number
    }

    fn strip(&mut self) {
        let zeros = self.digits.iter().take_while(|d| **d == 0).count();
        self.digits.drain(..zeros);
        self.point -= i64::try_from(zeros).expect("a text is shorter than 2^63");
    }

    pub(super) fn multiply_by_1024(&mut self, times: usize) {
        for _ in 0..times {
            let mut carry = 0;
            for digit in self.digits.iter_mut().rev() {
                let value = u32::from(*digit) * 1024 + carry;
                *digit = u8::try_from(value % 10).expect("a digit is below 10");
                carry = value / 10;
            }
            // A carry of a multiplication by 1024 is below 1024: at most four new digits.
            let head = [carry / 1000, carry / 100 % 10, carry / 10 % 10, carry % 10];
            self.digits
                .splice(0..0, head.map(|d| u8::try_from(d).expect("a digit is below 10")));
            self.point += 4;
        }
        self.strip();
    }

    /// The number in billionths, rounded up; nothing if that exceeds 128 bits.
    pub(super) fn nanos(&self) -> Option<i128> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let kept = self.point + 9;
        if kept > MOST_DIGITS {
            return None;
        }
        let kept = usize::try_from(kept).unwrap_or(0);
        let mut nano: i128 = 0;
        for place in 0..kept {
            let digit = self.digits.get(place).copied().unwrap_or(0);
            nano = nano.checked_mul(10)?.checked_add(digit.into())?;
        }
        let more = self.digits.iter().skip(kept).any(|d| *d != 0);
        nano.checked_add(more.into())
    }
}
