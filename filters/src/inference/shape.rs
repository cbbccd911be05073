use smallvec::SmallVec;

/// A tensor's dimensions; the first one counts its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(SmallVec<[i64; 4]>);

impl Shape {
    /// Makes a shape of the given dimensions, which come from the wire and may be anything.
    pub fn new(dimensions: impl IntoIterator<Item = i64>) -> Self {
        Self(dimensions.into_iter().collect())
    }

    /// Adds a dimension at the end.
    pub fn push(&mut self, dimension: i64) {
        self.0.push(dimension);
    }

    /// Returns the dimensions.
    pub fn dimensions(&self) -> &[i64] {
        &self.0
    }

    /// Returns the first dimension as a number of rows, or `None` where there is none or it is
    /// not positive.
    pub fn rows(&self) -> Option<usize> {
        self.0
            .first()
            .and_then(|rows| usize::try_from(*rows).ok())
            .filter(|rows| *rows > 0)
    }

    /// Returns the same shape with another number of rows.
    pub fn with_rows(&self, rows: usize) -> Self {
        let mut shape = self.clone();
        if let Some(first) = shape.0.first_mut() {
            *first = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        shape
    }

    /// Returns the elements of one row, or `None` where a dimension is negative or the product
    /// overflows.
    pub fn row_elements(&self) -> Option<usize> {
        product(self.0.get(1..).unwrap_or_default())
    }

    /// Returns the elements of the whole tensor, or `None` where a dimension is negative or the
    /// product overflows.
    pub fn elements(&self) -> Option<usize> {
        product(&self.0)
    }
}

fn product(dimensions: &[i64]) -> Option<usize> {
    dimensions.iter().try_fold(1_usize, |product, dimension| {
        product.checked_mul(usize::try_from(*dimension).ok()?)
    })
}
