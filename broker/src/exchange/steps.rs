//! How much work it is to find the destinations of one message.

/// The steps taken so far for one message. Its additional routing keys, the exchanges that it comes
/// to and the patterns there multiply, so a client could ask for any amount of work with one
/// publish. A destination that is found for the first time is not counted: the size of a fanout is
/// no reason to refuse a message.
#[derive(Debug, Default)]
pub struct RoutingSteps(usize);

impl RoutingSteps {
    /// The most steps for one message, some ten milliseconds. A message that needs more is refused.
    pub const MOST: usize = 1 << 18;

    /// The steps that were counted.
    pub fn taken(&self) -> usize {
        self.0
    }

    /// Whether the message is to be refused. Nothing more need be looked for.
    pub fn are_too_many(&self) -> bool {
        self.0 > Self::MOST
    }

    pub(crate) fn add(&mut self, steps: usize) {
        self.0 = self.0.saturating_add(steps);
    }

    /// Calls `hit` for each destination, and counts those that it knows already.
    pub(super) fn report<'a, D: 'a>(
        &mut self,
        destinations: impl Iterator<Item = &'a D>,
        hit: &mut impl FnMut(&'a D) -> bool,
    ) {
        for destination in destinations {
            if !hit(destination) {
                self.add(1);
            }
        }
    }
}
