//! How many records go out in one request.

/// How many requests have to be taken, at most, before a larger one is tried.
const RARELY: u32 = 64;

/// Fewer records than the limit when larger requests are not answered. If nothing was answered,
/// whatever its size, it is soon large again. If it is the size, as on a slow line, each try of a
/// larger one costs some timeouts: these become rare.
#[derive(Debug)]
pub(crate) struct Size {
    limit: usize,
    records: usize,
    /// So many requests of a size have to be taken before a larger one is tried,
    pace: u32,
    /// and so many have been.
    taken: u32,
    /// This size is being tried.
    is_new: bool,
}

impl Size {
    pub fn new(limit: usize) -> Size {
        Size {
            limit,
            records: limit,
            pace: 1,
            taken: 0,
            is_new: false,
        }
    }

    pub fn records(&self) -> usize {
        self.records
    }

    /// Something was taken.
    pub fn grow(&mut self) {
        self.is_new = false;
        self.taken += 1;
        if self.records >= self.limit {
            self.pace = 1;
            self.taken = 0;
        } else if self.taken >= self.pace {
            self.records = self.records.saturating_mul(2).min(self.limit);
            self.taken = 0;
            self.is_new = true;
        }
    }

    /// So many records were sent in vain, again and again.
    pub fn shrink(&mut self, sent: usize) {
        if std::mem::take(&mut self.is_new) {
            self.pace = (self.pace * 4).min(RARELY);
        }
        self.records = (sent.min(self.records) / 2).max(1);
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that are tried while no more than so many records are taken.
    fn tried(size: &mut Size, most: usize, times: usize) -> Vec<usize> {
        let mut tried = Vec::new();
        for _ in 0..times {
            tried.push(size.records());
            match size.records() <= most {
                true => size.grow(),
                false => size.shrink(usize::MAX),
            }
        }
        tried
    }

    #[test]
    fn after_an_outage_it_is_soon_large_again() {
        let mut size = Size::new(10);
        assert_eq!(tried(&mut size, 10, 2), [10, 10]);
        assert_eq!(tried(&mut size, 0, 5), [10, 5, 2, 1, 1]);
        assert_eq!(tried(&mut size, 10, 6), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_size_that_is_not_taken_is_tried_more_and_more_rarely() {
        let mut size = Size::new(8);
        assert_eq!(tried(&mut size, 3, 6), [8, 4, 2, 4, 2, 2]);
        let sizes = tried(&mut size, 3, 1_000);
        let in_vain = |sizes: &[usize]| sizes.iter().filter(|size| **size > 3).count();
        assert!(in_vain(&sizes) < 20, "{}", in_vain(&sizes));
        // But not never, and once it is taken all is as before.
        assert!(in_vain(&sizes[900..]) > 0);
        tried(&mut size, 8, 200);
        assert_eq!(size.records(), 8);
        assert_eq!(tried(&mut size, 0, 4), [8, 4, 2, 1]);
        assert_eq!(tried(&mut size, 8, 4), [1, 2, 4, 8]);
    }
}
