//! Decides which frames lapin can read, and replaces the others. Works on bytes; does no I/O.

/// The largest frame that we take: the default of brokers. A broker delivers the header frame of a
/// message as its publisher sent it; of a larger one the properties are left out (`frames`).
/// lapin's buffers have 32 of these each, of which only what is used becomes resident.
pub(in crate::peer) const FRAME_BYTES: u32 = 131_072;

/// Type, channel and size.
const HEAD: usize = 7;
/// Class, weight and size of the body, in front of the properties.
const CONTENT_HEAD: usize = 12;
/// The payload without any properties, as the head of its frame says it.
const BARE_SIZE: [u8; 4] = [0, 0, 0, 14];
const BARE_CONTENT: usize = CONTENT_HEAD + 2;
const METHOD: u8 = 1;
const CONTENT: u8 = 2;
const FRAME_END: u8 = 0xCE;
/// The largest payload that fits into a frame.
const PAYLOAD_BYTES: usize = FRAME_BYTES as usize - HEAD - 1;
/// Tables within tables. Ours have none.
const DEPTH: usize = 32;

/// What the next bytes are.
#[derive(Debug, Default)]
enum FramePart {
    /// The head of a frame.
    #[default]
    Head,
    /// A frame that is examined once it has this length.
    Whole(usize),
    /// The first bytes of a header frame that is too large.
    TooLarge { payload: usize },
    /// Bytes that are passed on without examination.
    Pass(usize),
    /// Bytes that are left out.
    LeaveOut(usize),
}

/// Mends frames as they arrive, in pieces of any length.
#[derive(Debug, Default)]
pub(super) struct FrameMender {
    stage: FramePart,
    /// The frame that is being gathered.
    frame: Vec<u8>,
}

impl FrameMender {
    /// Appends the mended bytes to `out`. Those of a frame that is not whole are kept back.
    pub(super) fn mend(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            bytes = match self.stage {
                FramePart::Pass(left) => {
                    let (now, later) = bytes.split_at(left.min(bytes.len()));
                    out.extend_from_slice(now);
                    self.stage = remaining_part(left - now.len(), FramePart::Pass);
                    later
                }
                FramePart::LeaveOut(left) => {
                    let (now, later) = bytes.split_at(left.min(bytes.len()));
                    self.stage = remaining_part(left - now.len(), FramePart::LeaveOut);
                    later
                }
                FramePart::Head => match self.gather(bytes, HEAD) {
                    Gathered::Part => return,
                    Gathered::All(later) => {
                        self.begin(out);
                        later
                    }
                },
                FramePart::Whole(length) => match self.gather(bytes, length) {
                    Gathered::Part => return,
                    Gathered::All(later) => {
                        mend_frame(&mut self.frame);
                        self.pass_on(out, FramePart::Head);
                        later
                    }
                },
                FramePart::TooLarge { payload } => match self.gather(bytes, HEAD + CONTENT_HEAD) {
                    Gathered::Part => return,
                    Gathered::All(later) => {
                        strip(&mut self.frame);
                        let left = payload - CONTENT_HEAD + 1;
                        self.pass_on(out, FramePart::LeaveOut(left));
                        later
                    }
                },
            };
        }
    }

    /// The head of a frame is here.
    fn begin(&mut self, out: &mut Vec<u8>) {
        let size = u32::from_be_bytes([self.frame[3], self.frame[4], self.frame[5], self.frame[6]]);
        let payload = size as usize;
        self.stage = match self.frame[0] {
            CONTENT if payload < BARE_CONTENT => FramePart::Pass(payload + 1),
            METHOD | CONTENT if payload <= PAYLOAD_BYTES => FramePart::Whole(HEAD + payload + 1),
            CONTENT => FramePart::TooLarge { payload },
            // The broker speaks another version: `AMQP` and four bytes.
            b'A' => FramePart::Pass(usize::MAX),
            _ => FramePart::Pass(payload + 1),
        };
        if let FramePart::Pass(_) = self.stage {
            out.append(&mut self.frame);
        }
    }

    /// Gathers bytes of the frame until it has `length` bytes.
    fn gather<'b>(&mut self, bytes: &'b [u8], length: usize) -> Gathered<'b> {
        let wanted = length - self.frame.len();
        let (now, later) = bytes.split_at(wanted.min(bytes.len()));
        self.frame.extend_from_slice(now);
        if self.frame.len() < length {
            Gathered::Part
        } else {
            Gathered::All(later)
        }
    }

    fn pass_on(&mut self, out: &mut Vec<u8>, next: FramePart) {
        out.append(&mut self.frame);
        self.frame.shrink_to(HEAD + READ_AT_ONCE);
        self.stage = next;
    }
}

/// Memory of a frame that was larger than this is freed.
const READ_AT_ONCE: usize = 16 * 1024;

enum Gathered<'b> {
    Part,
    /// The bytes behind it.
    All(&'b [u8]),
}

fn remaining_part(left: usize, stage: fn(usize) -> FramePart) -> FramePart {
    if left == 0 {
        FramePart::Head
    } else {
        stage(left)
    }
}

fn mend_frame(frame: &mut Vec<u8>) {
    let end = frame.len() - 1;
    if frame[0] == METHOD {
        mend_method(&mut frame[HEAD..end]);
    } else if !is_readable(&frame[HEAD + CONTENT_HEAD..end]) {
        strip(frame);
    }
}

/// Cuts a header frame behind the size of the body: no properties.
fn strip(frame: &mut Vec<u8>) {
    frame.truncate(HEAD + CONTENT_HEAD);
    frame.extend([0, 0, FRAME_END]);
    frame[3..HEAD].copy_from_slice(&BARE_SIZE);
}

/// Makes the names in `basic.return`, `basic.deliver` and `basic.get-ok` readable.
fn mend_method(payload: &mut [u8]) {
    let Some((ids, mut fields)) = payload.split_first_chunk_mut::<4>() else {
        return;
    };
    // Fields of a fixed length are skipped; `0` stands for a name.
    let parts: &[usize] = match *ids {
        [0, 60, 0, 50] => &[2, 0, 0, 0],
        [0, 60, 0, 60] => &[0, 9, 0, 0],
        [0, 60, 0, 71] => &[9, 0, 0],
        _ => return,
    };
    for &part in parts {
        let taken = match part {
            0 => split_name(fields),
            fixed => fields.split_at_mut_checked(fixed),
        };
        let Some((field, later)) = taken else { return };
        if part == 0 && std::str::from_utf8(field).is_err() {
            field
                .iter_mut()
                .filter(|byte| !byte.is_ascii())
                .for_each(|byte| *byte = b'?');
        }
        fields = later;
    }
}

/// A name, without its length, and what is behind it.
fn split_name(bytes: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (length, later) = bytes.split_first_mut()?;
    later.split_at_mut_checked(usize::from(*length))
}

/// Whether lapin can read these properties.
fn is_readable(properties: &[u8]) -> bool {
    let mut reader = Reader(properties);
    reader.properties().is_some() && reader.0.is_empty()
}

/// Reads the encoding of properties and tables, and keeps nothing.
struct Reader<'b>(&'b [u8]);

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

    fn long(&mut self) -> Option<&'b [u8]> {
        let length = u32::from_be_bytes(*self.take(4)?.first_chunk()?);
        self.take(usize::try_from(length).ok()?)
    }

    fn table(&mut self, depth: usize) -> Option<()> {
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

#[cfg(test)]
mod tests;
