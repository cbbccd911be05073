//! Ways of holding the paper.

use super::data::Image;

/// One of the eight ways in which a square lies on itself: turned by quarters, and maybe mirrored
/// before. People who write in different dialects are understood by different models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect(u8);

impl Dialect {
    /// All of them; the first is that of the images as they are.
    pub const ALL: [Self; 8] = [
        Self(0),
        Self(1),
        Self(2),
        Self(3),
        Self(4),
        Self(5),
        Self(6),
        Self(7),
    ];

    /// Its place in [`Dialect::ALL`].
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// Shows an image as it is written in this dialect.
    pub fn of(self, image: &Image) -> Image {
        let last = SIDE - 1;
        std::array::from_fn(|at| {
            let (mut row, mut column) = (at / SIDE, at % SIDE);
            for _ in 0..self.0 % 4 {
                (row, column) = (column, last - row);
            }
            if self.0 >= 4 {
                column = last - column;
            }
            image[row * SIDE + column]
        })
    }
}

/// Pixels of a row.
const SIDE: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::data::PIXELS;
    use super::*;

    #[test]
    fn no_two_dialects_show_an_image_alike_and_none_loses_a_pixel() {
        let image: Image = std::array::from_fn(|at| at as f32);
        let mut seen: Vec<Image> = Vec::new();
        for dialect in Dialect::ALL {
            let shown = dialect.of(&image);
            assert!(!seen.contains(&shown), "{dialect:?}");
            let mut pixels = shown;
            pixels.sort_unstable_by(f32::total_cmp);
            assert_eq!(pixels, image);
            seen.push(shown);
        }
        assert_eq!(seen.len() * PIXELS, 512);
        assert_eq!(seen[0], image);
    }
}
