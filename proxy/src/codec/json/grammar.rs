//! Lists of numbers, checked sixty-four bytes at a time without a look at any one of them.
//!
//! Each kind of byte is a mask with a bit for each place where it stands. What may stand before and
//! behind it is said of all places at once; what is behind a run of digits or of spaces is found by
//! an addition, whose carry goes through the run:
//!
//! ```text
//! text      1 . 2 3 4 , 5        the lowest bit first
//! digits    1 0 1 1 1 0 1
//! begun     0 0 1 0 0 0 0        a digit behind a point
//! sum       1 0 0 0 0 1 1
//! behind    0 0 0 0 0 1 0        the sum without the digits: here no point may stand
//! ```

use super::{block::Block, cursor::Cursor};

/// Steps over numbers with commas behind them, and tells how many there are and whether all are
/// whole ones. The cursor stands where a number begins, and then behind the last comma; it stops
/// early where something else stands, or may, and where the text comes to its end.
#[inline]
pub(super) fn numbers(cursor: &mut Cursor<'_>) -> (usize, bool) {
    let mut state = State {
        // What may stand behind a comma may stand here.
        commas: 1,
        ..State::default()
    };
    let mut at = cursor.at;
    let mut count = 0;
    let mut whole = true;
    while let Some(bytes) = cursor.text.get(at..).and_then(|rest| rest.first_chunk()) {
        let block = Block::new(bytes);
        let mut kinds = Kinds::new(block);
        if kinds.others() != 0 {
            kinds.rare(block);
        }
        let others = kinds.others();
        // The places before the first other byte.
        let known = others.wrapping_sub(1) & !others;
        let known = if others == 0 { u64::MAX } else { known };
        if state.step(&kinds, block) & known != 0 {
            break;
        }
        let commas = kinds.commas & known;
        count += commas.count_ones() as usize;
        whole &= (kinds.points | kinds.powers) & known == 0;
        if commas != 0 {
            cursor.at = at + 64 - commas.leading_zeros() as usize;
        }
        if others != 0 {
            break;
        }
        at += Block::LEN;
    }
    (count, whole)
}

/// Where which bytes stand in a block; the names are those of their first meaning.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    digits: u64,
    commas: u64,
    points: u64,
    minuses: u64,
    spaces: u64,
    /// Rare, as are white space that is no space, and what stands in no list of numbers.
    pluses: u64,
    powers: u64,
}

/// What is before a block: the last place of each mask of the block before, and what goes on.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    digits: u64,
    commas: u64,
    points: u64,
    minuses: u64,
    spaces: u64,
    pluses: u64,
    powers: u64,
    signs_of_powers: u64,
    /// A zero with which a number began.
    zeros: u64,
    /// Whether a run goes on: spaces behind a digit, spaces behind a comma, a fraction, a power.
    behind_digit: bool,
    behind_comma: bool,
    fraction: bool,
    power: bool,
}

impl Kinds {
    #[inline(always)]
    fn new(block: Block) -> Self {
        Self {
            digits: block.digits(),
            commas: block.equal(b','),
            points: block.equal(b'.'),
            minuses: block.equal(b'-'),
            spaces: block.equal(b' '),
            pluses: 0,
            powers: 0,
        }
    }

    /// Adds what is rare.
    #[cold]
    fn rare(&mut self, block: Block) {
        self.spaces |= block.equal(b'\n') | block.equal(b'\r') | block.equal(b'\t');
        self.pluses = block.equal(b'+');
        self.powers = block.equal(b'e') | block.equal(b'E');
    }

    /// Returns where anything else stands.
    #[inline(always)]
    fn others(&self) -> u64 {
        !(self.digits
            | self.commas
            | self.points
            | self.minuses
            | self.spaces
            | self.pluses
            | self.powers)
    }
}

impl State {
    /// Goes on by a block, and returns where something stands that may not.
    #[inline(always)]
    fn step(&mut self, kinds: &Kinds, block: Block) -> u64 {
        let Kinds {
            digits,
            commas,
            points,
            minuses,
            spaces,
            pluses,
            powers,
        } = *kinds;
        // Which byte stands before each place.
        let after_digit = shift(digits, &mut self.digits);
        let after_comma = shift(commas, &mut self.commas);
        let after_point = shift(points, &mut self.points);
        let after_minus = shift(minuses, &mut self.minuses);
        let after_space = shift(spaces, &mut self.spaces);
        let after_plus = shift(pluses, &mut self.pluses);
        let after_power = shift(powers, &mut self.powers);
        let signs_of_powers = (minuses | pluses) & after_power;
        let after_sign_of_power = shift(signs_of_powers, &mut self.signs_of_powers);

        // A point has digits on both sides, an exponent one before it and a sign or one behind.
        let mut wrong = points & !after_digit;
        wrong |= after_point & !digits;
        wrong |= powers & !after_digit;
        wrong |= after_power & !(digits | minuses | pluses);
        wrong |= pluses & !after_power;
        wrong |= minuses & !(after_comma | after_space | after_power);
        wrong |= (after_minus | after_plus) & !digits;
        wrong |= after_comma & !(spaces | digits | minuses);

        // A number has one point at most, and one exponent, and nothing but digits behind that.
        let behind = run(digits, after_point & digits, &mut self.fraction);
        wrong |= behind & points;
        let begun = digits & (after_power | after_sign_of_power);
        let behind = run(digits, begun, &mut self.power);
        wrong |= behind & (points | powers);

        // Behind the spaces that follow a number there is a comma, behind others a number.
        let behind = run(spaces, after_digit & spaces, &mut self.behind_digit);
        wrong |= behind & !commas;
        wrong |= commas & !(after_digit | behind);
        let behind = run(spaces, after_comma & spaces, &mut self.behind_comma);
        wrong |= behind & !(digits | minuses);

        // A zero before all digits has none behind it.
        let first = digits & !(after_digit | after_point | after_power | after_sign_of_power);
        if (first << 1 | self.zeros) & digits != 0 || first >> 63 != 0 {
            let zeros = first & block.equal(b'0');
            wrong |= shift(zeros, &mut self.zeros) & digits;
        } else {
            self.zeros = 0;
        }
        wrong
    }
}

/// Moves a mask to the places behind its own; what leaves a block comes into the next.
#[inline(always)]
fn shift(mask: u64, carry: &mut u64) -> u64 {
    let moved = mask << 1 | *carry;
    *carry = mask >> 63;
    moved
}

/// Returns the places behind those runs of a mask that are begun at a place of `begun`.
#[inline(always)]
fn run(mask: u64, begun: u64, carry: &mut bool) -> u64 {
    let (sum, over) = mask.overflowing_add(begun);
    let (sum, again) = sum.overflowing_add(u64::from(*carry));
    *carry = over | again;
    sum & !mask
}
