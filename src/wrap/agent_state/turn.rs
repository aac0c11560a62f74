//! What is known of the agent's turn, and from where.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// No hook has reported yet.
    Unknown,
    Idle,
    /// A turn runs, according to this source.
    Busy(TurnSource),
    /// A person's key since its start may have ended it without an event.
    MayBeOver,
}

/// Where the beginning of a turn is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnSource {
    /// A hook. Nothing reports the end if a hook of the person refused the prompt or Escape ended
    /// the turn.
    Hooks,
    /// A way in, which reports each end.
    WayIn,
}
