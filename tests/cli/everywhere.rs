//! The same script on every broker: nothing but the URL differs.

use crate::support::{Place, Rabbit, Server};

/// Runs the script against an embedded broker of its own, and against RabbitMQ where there is one. The second argument
/// makes names that nobody else uses on a broker that tests share.
pub(crate) fn everywhere(script: impl Fn(&Place, &dyn Fn(&str) -> String)) {
    let place = Place::new();
    let _server = Server::start(&place);
    script(&place, &str::to_owned);
    if let Some(rabbit) = Rabbit::find() {
        let place = Place::at(&rabbit.url, Some(&rabbit.management));
        let own = ulid::Ulid::generate().to_string().to_lowercase();
        script(&place, &|name| format!("{name}{own}"));
    }
}
