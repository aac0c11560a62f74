//! Who consumes from queues.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::responses::{ChannelDetails, ConnectionInfo, ConsumerInfo, ConsumerRow, QueueConsumers};
use super::{Client, ManagementError};
use crate::config::escape;

impl Client {
    /// Returns the programs that consume from a queue, as they name themselves to the broker, up to
    /// the first one that is `wanted`.
    pub async fn consumers_of(
        &self,
        queue: &str,
        wanted: impl Fn(&ConsumerInfo) -> bool,
    ) -> Result<Vec<ConsumerInfo>, ManagementError> {
        let (vhost, queue) = (escape(&self.vhost), escape(queue));
        let shown: QueueConsumers = self.get(format!("/api/queues/{vhost}/{queue}")).await?;
        let mut products = BTreeMap::new();
        let mut consumers = Vec::new();
        for consumer in shown.consumer_details {
            let ChannelDetails {
                connection_name,
                user,
            } = consumer.channel_details;
            let product = match products.entry(connection_name) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let path = format!("/api/connections/{}", escape(unknown.key()));
                    let connection: ConnectionInfo = self.get(path).await?;
                    unknown.insert(connection.client_properties.product)
                }
            };
            let product = product.clone();
            consumers.push(ConsumerInfo { user, product });
            if consumers.last().is_some_and(&wanted) {
                break;
            }
        }
        Ok(consumers)
    }

    /// Returns the queue and the user of every consumer.
    pub async fn consuming_users(&self) -> Result<Vec<(String, String)>, ManagementError> {
        let path = format!("/api/consumers/{}", escape(&self.vhost));
        let consumers: Vec<ConsumerRow> = self.get(path).await?;
        let known = consumers.into_iter().filter_map(|consumer| {
            let user = consumer.channel_details.user?;
            Some((consumer.queue.name, user))
        });
        Ok(known.collect())
    }
}
