//! Reads the encoding of properties and tables, and keeps nothing.

/// Tables within tables. Ours have none, and those of brokers two.
const DEPTH: usize = 32;

/// The bytes that are not read yet.
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

/// Whether lapin can read these properties.
pub(super) fn is_readable(properties: &[u8]) -> bool {
    let mut reader = Reader(properties);
    reader.properties().is_some() && reader.0.is_empty()
}

impl<'b> Reader<'b> {
    /// Each of the fourteen, where its flag is set.
    fn properties(&mut self) -> Option<()> {
        let flags = u16::from_be_bytes(*self.take(2)?.first_chunk()?);
        // More flags would follow, or an unknown property.
        if flags & 0b11 != 0 {
            return None;
        }
        let is_set = |bit: u16| flags & (1 << bit) != 0;
        for bit in (2..16).rev().filter(|bit| is_set(*bit)) {
            match bit {
                13 => self.table(1)?,
                // Delivery mode and priority.
                11 | 12 => self.take(1).map(drop)?,
                // The time.
                6 => self.take(8).map(drop)?,
                _ => self.name()?,
            }
        }
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn name(&mut self) -> Option<()> {
        let [length] = *self.take(1)?.first_chunk()?;
        std::str::from_utf8(self.take(length.into())?)
            .ok()
            .map(drop)
    }

    pub(super) fn long(&mut self) -> Option<&'b [u8]> {
        let length = u32::from_be_bytes(*self.take(4)?.first_chunk()?);
        self.take(usize::try_from(length).ok()?)
    }

    pub(super) fn table(&mut self, depth: usize) -> Option<()> {
        let mut inside = self.nested(depth)?;
        while !inside.0.is_empty() {
            inside.name()?;
            inside.value(depth)?;
        }
        Some(())
    }

    fn nested(&mut self, depth: usize) -> Option<Self> {
        (depth <= DEPTH).then(|| self.long().map(Reader))?
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let [kind] = *self.take(1)?.first_chunk()?;
        let length = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => return self.long().map(drop),
            b'F' => return self.table(depth + 1),
            b'A' => {
                let mut inside = self.nested(depth + 1)?;
                while !inside.0.is_empty() {
                    inside.value(depth + 1)?;
                }
                return Some(());
            }
            _ => return None,
        };
        self.take(length).map(drop)
    }
}
