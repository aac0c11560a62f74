//! What becomes of one frame: its channel gets it, or it is the connection's own.

use super::ConnectionReader;
use crate::channel::FrameResult;
use crate::delivery::effects::Effects;
use crate::fault::{Fault, ReplyCode};
use crate::wire::frame::{self, Frame};
use crate::wire::method::{self, Method};
use crate::wire::method_id::MethodId;
use crate::wire::reply;

impl ConnectionReader {
    /// Passes a frame to its channel, or opens that.
    pub(super) fn receive(
        &mut self,
        frame: Frame<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        if frame.channel == 0 {
            return self.receive_own(frame, effects);
        }
        match frame.kind {
            frame::METHOD | frame::BODY => {}
            frame::HEADER => self.blocking.note_publish(),
            _ => return Err(unexpected_kind(frame)),
        }
        match self.channels.get(frame.channel) {
            Some(channel) => channel.receive(frame, effects),
            None => self.channels.open(frame, &self.context, effects),
        }
    }

    /// A frame on channel 0.
    fn receive_own(
        &mut self,
        frame: Frame<'_>,
        effects: &mut Effects,
    ) -> Result<FrameResult, Fault> {
        match frame.kind {
            frame::HEARTBEAT => return Ok(FrameResult::Done),
            frame::METHOD => {}
            _ => return Err(unexpected_kind(frame)),
        }
        match method::decode(frame.payload) {
            Ok(Method::ConnectionClose { .. }) => {
                self.must_send_close_ok = true;
                Ok(FrameResult::Closed)
            }
            Ok(Method::ConnectionUpdateSecret { .. }) => {
                self.context.connection.outbox.write(effects, |out| {
                    reply::empty_method(out, 0, MethodId::CONNECTION_UPDATE_SECRET_OK);
                });
                Ok(FrameResult::Done)
            }
            Ok(Method::ConnectionCloseOk) => Ok(FrameResult::Closed),
            Err(error @ method::MethodError::Undecodable(_)) => {
                Err(Fault::connection(ReplyCode::FrameError, error.to_string()))
            }
            _ => Err(Fault::connection(
                ReplyCode::ChannelError,
                "unexpected method in connection state running",
            )),
        }
    }
}

/// The fault of a frame of a kind that cannot come on its channel, or of none that AMQP has.
fn unexpected_kind(frame: Frame<'_>) -> Fault {
    match frame.kind {
        frame::METHOD | frame::HEADER | frame::BODY | frame::HEARTBEAT => {
            Fault::connection(ReplyCode::UnexpectedFrame, frame.quote())
        }
        _ => Fault::connection(
            ReplyCode::FrameError,
            format!("{}: unknown_frame", frame.quote()),
        ),
    }
}
