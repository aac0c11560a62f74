//! Decides which frames lapin can read, and replaces or refuses the others. Works on bytes; does no
//! I/O.

use super::UnreadableFrame;
use super::methods::mend_method;
use super::reader::is_readable;

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
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// The largest payload that fits into a frame.
const PAYLOAD_BYTES: usize = FRAME_BYTES as usize - HEAD - 1;
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
    ///
    /// # Errors
    /// lapin must not read the next frame. Nothing behind it can be mended.
    pub(super) fn mend(
        &mut self,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), UnreadableFrame> {
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
                    Gathered::Part => return Ok(()),
                    Gathered::All(later) => {
                        self.begin(out)?;
                        later
                    }
                },
                FramePart::Whole(length) => match self.gather(bytes, length) {
                    Gathered::Part => return Ok(()),
                    Gathered::All(later) => {
                        mend_frame(&mut self.frame)?;
                        self.pass_on(out, FramePart::Head);
                        later
                    }
                },
                FramePart::TooLarge { payload } => match self.gather(bytes, HEAD + CONTENT_HEAD) {
                    Gathered::Part => return Ok(()),
                    Gathered::All(later) => {
                        strip(&mut self.frame);
                        let left = payload - CONTENT_HEAD + 1;
                        self.pass_on(out, FramePart::LeaveOut(left));
                        later
                    }
                },
            };
        }
        Ok(())
    }

    /// The head of a frame is here.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), UnreadableFrame> {
        let size = u32::from_be_bytes([self.frame[3], self.frame[4], self.frame[5], self.frame[6]]);
        let payload = size as usize;
        self.stage = match self.frame[0] {
            CONTENT if payload < BARE_CONTENT => FramePart::Pass(payload + 1),
            METHOD | CONTENT if payload <= PAYLOAD_BYTES => FramePart::Whole(HEAD + payload + 1),
            CONTENT => FramePart::TooLarge { payload },
            METHOD | BODY | HEARTBEAT if payload > PAYLOAD_BYTES => {
                return Err(UnreadableFrame::TooLarge(HEAD + payload + 1));
            }
            // The broker speaks another version: `AMQP` and four bytes.
            b'A' => FramePart::Pass(1),
            // lapin reads no frame of an unknown type, and nothing behind it.
            _ => FramePart::Pass(payload + 1),
        };
        if let FramePart::Pass(_) = self.stage {
            out.append(&mut self.frame);
        }
        Ok(())
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

fn mend_frame(frame: &mut Vec<u8>) -> Result<(), UnreadableFrame> {
    let end = frame.len() - 1;
    if frame[0] == METHOD {
        return mend_method(&mut frame[HEAD..end]);
    }
    if !is_readable(&frame[HEAD + CONTENT_HEAD..end]) {
        strip(frame);
    }
    Ok(())
}

/// Cuts a header frame behind the size of the body: no properties.
fn strip(frame: &mut Vec<u8>) {
    frame.truncate(HEAD + CONTENT_HEAD);
    frame.extend([0, 0, FRAME_END]);
    frame[3..HEAD].copy_from_slice(&BARE_SIZE);
}

#[cfg(test)]
mod tests;
