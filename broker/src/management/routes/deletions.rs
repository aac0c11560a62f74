//! Changes that wait for a deletion in their vhost.

use crate::delivery::effects::Effects;
use crate::fault::Fault;
use crate::management::Api;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::vhost::Vhost;

impl Api {
    /// As `BrokerState::after_deletions`; fails once the caller's rights have changed.
    pub(super) async fn after_deletions<T>(
        &self,
        caller: &Caller,
        vhost: &Vhost,
        mut act: impl FnMut(&mut Effects) -> Result<Option<T>, Fault>,
    ) -> Result<T, ApiError> {
        let checked = |effects: &mut _| {
            caller.check_unchanged(self)?;
            Ok::<_, ApiError>(act(effects)?)
        };
        self.broker.after_deletions(vhost, checked).await
    }
}
