//! Fuzz input as decisions.

/// The fuzz input, byte by byte.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    pub fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % end
    }

    pub fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte() % 16);
        (0..len).map(|_| self.byte()).collect()
    }
}
