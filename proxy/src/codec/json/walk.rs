use outrigger_filters::inference::Shape;
use smallvec::SmallVec;

use super::{Malformed, cursor::Cursor};

/// What is done with the elements of nested arrays.
pub(super) trait Leaves {
    /// Takes the elements that stand side by side from here on, with the commas between them, and
    /// returns how many they are; the cursor then stands behind the last one.
    fn run(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, Malformed>;

    /// Takes the one element that stands here.
    fn one(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed>;
}

/// Walks over one value, a regularly nested array or an element by itself, and returns its shape.
/// A shape ends at its first dimension of zero.
#[inline]
pub(super) fn value(
    cursor: &mut Cursor<'_>,
    leaves: &mut (impl Leaves + ?Sized),
) -> Result<Shape, Malformed> {
    if cursor.space() == Some(b'[') {
        cursor.at += 1;
        return inside(cursor, leaves, Some(b']'));
    }
    leaves.one(cursor)?;
    Ok(Shape::default())
}

/// Walks over the values up to the end of the text as over those of one array.
pub(super) fn values(
    cursor: &mut Cursor<'_>,
    leaves: &mut (impl Leaves + ?Sized),
) -> Result<Shape, Malformed> {
    inside(cursor, leaves, None)
}

#[inline]
fn inside(
    cursor: &mut Cursor<'_>,
    leaves: &mut (impl Leaves + ?Sized),
    end: Option<u8>,
) -> Result<Shape, Malformed> {
    // The lengths of the arrays that are open, and of those that have been closed, by depth.
    let mut open: SmallVec<[i64; 8]> = SmallVec::new();
    let mut closed: SmallVec<[Option<i64>; 8]> = SmallVec::new();
    let mut leaf_depth = None;
    let mut count = 0_i64;
    closed.push(None);
    loop {
        // Behind an opening bracket or a comma.
        let depth = open.len() + 1;
        let first = count == 0;
        let close = if depth == 1 { end } else { Some(b']') };
        match cursor.space() {
            byte if byte == close && first => {}
            Some(b'[') => {
                if leaf_depth == Some(depth) {
                    return Err(Malformed::Irregular);
                }
                if depth == MAX_RANK {
                    return Err(Malformed::Deep);
                }
                cursor.at += 1;
                open.push(count);
                count = 0;
                if closed.len() == depth {
                    closed.push(None);
                }
                continue;
            }
            None => return Err(cursor.expected("a value")),
            Some(_) => {
                if *leaf_depth.get_or_insert(depth) != depth {
                    return Err(Malformed::Irregular);
                }
                let elements = leaves.run(cursor)?;
                count = count.saturating_add(i64::try_from(elements).unwrap_or(i64::MAX));
            }
        }
        // Behind an element, or before the closing bracket of an empty array.
        loop {
            let depth = open.len() + 1;
            let close = if depth == 1 { end } else { Some(b']') };
            let byte = cursor.space();
            if byte == Some(b',') && count > 0 {
                cursor.at += 1;
                break;
            }
            if byte != close {
                return Err(cursor.expected("a comma or a closing bracket"));
            }
            cursor.at += usize::from(close.is_some());
            let known = closed.get_mut(depth - 1).ok_or(Malformed::Deep)?;
            if *known.get_or_insert(count) != count {
                return Err(Malformed::Irregular);
            }
            match open.pop() {
                Some(outer) => count = outer + 1,
                // Elements stand in the innermost arrays; others may be empty only where all are.
                None if leaf_depth.is_some_and(|depth| depth != closed.len()) => {
                    return Err(Malformed::Irregular);
                }
                None => {
                    return Ok(Shape::new(closed.into_iter().flatten()));
                }
            }
        }
    }
}

/// As deep as arrays may be nested: the most dimensions of a tensor that any known server has.
pub(super) const MAX_RANK: usize = 64;
