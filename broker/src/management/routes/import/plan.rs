//! Checks a document line by line against what exists and what earlier lines will create.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::super::{bindings, exchanges, limits, permissions, queues, users, vhosts};
use super::called;
use crate::broker_state::check_access_room;
use crate::exchange::Declaration;
use crate::fault::Fault;
use crate::lock::read;
use crate::management::amqp_json::table_from_json;
use crate::management::auth::Caller;
use crate::management::refusal::ApiError;
use crate::management::{Api, SharedApi};
use crate::queue::arguments::QueueArguments;
use crate::quotas::{Quota, QuotaScope};
use crate::users::Permissions;
use crate::vhost::{
    BindRequest, Declare, DeclareOrigin, Destination, Vhost, VhostLabels, check_name,
};
use crate::wire::table::Table;

/// The checked content of a document.
pub(super) struct ImportPlan<'a> {
    pub(super) api: &'a SharedApi,
    pub(super) caller: &'a Caller,
    /// The only vhost to import into; `None` for a whole document.
    pub(super) into: Option<&'a str>,
    pub(super) vhosts: BTreeMap<String, VhostLabels>,
    pub(super) users: Vec<users::PreparedUser>,
    user_names: BTreeSet<String>,
    pub(super) permissions: Vec<(String, String, Permissions)>,
    /// What users get besides the limits that they have.
    pub(super) user_limits: Vec<(String, Quota)>,
    /// All limits of vhosts.
    pub(super) vhost_limits: Vec<(String, Quota)>,
    /// By vhost and name, as the next ones.
    pub(super) queues: BTreeMap<VhostAndName, QueueLine>,
    pub(super) exchanges: BTreeMap<VhostAndName, Declaration>,
    pub(super) bindings: Vec<(String, BindingLine)>,
    /// Changes when any user's rights change.
    pub(super) changes: watch::Receiver<u64>,
}

/// A vhost, and a name in it.
type VhostAndName = (String, String);

/// A queue to declare.
#[derive(PartialEq)]
pub(super) struct QueueLine {
    durable: bool,
    auto_delete: bool,
    arguments: Table,
}

impl QueueLine {
    pub(super) fn declare<'l>(&self, api: &Api, name: &'l str) -> Declare<'l> {
        Declare {
            is_server_named: is_server_named(name),
            origin: DeclareOrigin::Definitions,
            name,
            durable: self.durable,
            exclusive: false,
            auto_delete: self.auto_delete,
            arguments: self.arguments.clone(),
            connection: 0,
            limit: api.broker.limits.queues,
        }
    }
}

/// The server made this name up once, here or elsewhere.
fn is_server_named(queue: &str) -> bool {
    queue.starts_with("amq.gen-")
}

/// A binding to add.
pub(super) struct BindingLine {
    pub(super) source: String,
    pub(super) destination: Destination,
    pub(super) key: Vec<u8>,
    pub(super) arguments: Table,
}

impl BindingLine {
    pub(super) fn bind(&self) -> BindRequest<'_> {
        BindRequest {
            source: &self.source,
            destination: self.destination.clone(),
            key: self.key.as_slice().into(),
            arguments: self.arguments.clone(),
            connection: 0,
        }
    }
}

#[derive(Deserialize)]
struct RawBinding {
    source: String,
    destination: String,
    destination_type: String,
    #[serde(deserialize_with = "super::super::routing_key")]
    routing_key: String,
    arguments: Option<Value>,
}

/// A text of a line, for its name in a refusal.
fn text<'v>(line: &'v Value, field: &str) -> Result<&'v str, ApiError> {
    let missing = || ApiError::bad(format!("[{{key_missing,{field}}}]"));
    line.get(field).and_then(Value::as_str).ok_or_else(missing)
}

fn parse<T: DeserializeOwned>(line: &Value) -> Result<T, ApiError> {
    super::super::interpret(line)
}

/// Why a line ends the reading of its document.
enum LineRefusal {
    /// The line is invalid.
    Faulty(ApiError),
    /// The caller may not do it.
    Forbidden(ApiError),
}

impl<E: Into<ApiError>> From<E> for LineRefusal {
    fn from(reason: E) -> Self {
        Self::Faulty(reason.into())
    }
}

impl LineRefusal {
    /// The refusal of the whole document.
    fn of(self, kind: &str, line: &Value) -> ApiError {
        match self {
            Self::Faulty(reason) => reason.about(&called(kind, line)),
            Self::Forbidden(reason) => reason,
        }
    }
}

impl<'a> ImportPlan<'a> {
    pub(super) fn new(api: &'a SharedApi, caller: &'a Caller, into: Option<&'a str>) -> Self {
        Self {
            api,
            caller,
            into,
            vhosts: BTreeMap::new(),
            users: Vec::new(),
            user_names: BTreeSet::new(),
            permissions: Vec::new(),
            user_limits: Vec::new(),
            vhost_limits: Vec::new(),
            queues: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            bindings: Vec::new(),
            changes: api.broker.access_changes.subscribe(),
        }
    }

    /// Reads a document into the plan, and drops each line after it. Fails at the first line that
    /// is invalid, or that the caller may not declare.
    pub(super) fn read(&mut self, mut document: Map<String, Value>) -> Result<(), ApiError> {
        type PlanReader<'a> = fn(&mut ImportPlan<'a>, &Value) -> Result<(), LineRefusal>;
        let whole: [(&str, &str, PlanReader<'a>); 3] = [
            ("vhosts", "vhost", Self::read_vhost),
            ("users", "user", Self::read_user),
            ("permissions", "permissions", Self::read_permission),
        ];
        let topology: [(&str, &str, PlanReader<'a>); 4] = [
            ("parameters", "parameter", Self::read_parameter),
            ("exchanges", "exchange", Self::read_exchange),
            ("queues", "queue", Self::read_queue),
            ("bindings", "binding", Self::read_binding),
        ];
        let whole = whole.into_iter().filter(|_| self.into.is_none());
        for (section, kind, read) in whole.chain(topology).collect::<Vec<_>>() {
            let lines = match document.remove(section) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(lines)) => lines,
                Some(_) => return Err(ApiError::bad(format!("{section} must be a list"))),
            };
            for line in lines {
                read(self, &line).map_err(|refusal| refusal.of(kind, &line))?;
            }
        }
        self.check_access_room()
    }

    /// Refuses users, permissions and vhosts that would hold more memory than they may.
    fn check_access_room(&self) -> Result<(), ApiError> {
        let api = self.api;
        let vhosts = self.vhosts.iter();
        let vhosts = vhosts.map(|(name, labels)| api.broker.vhost_growth(name, labels));
        let users = self.users.iter().map(|user| user.growth(api));
        let permissions = self.permissions.iter();
        let permissions = permissions.map(|(user, vhost, allowed)| {
            permissions::permission_growth(api, user, vhost, allowed)
        });
        let growth = vhosts.chain(users).chain(permissions).sum();
        Ok(check_access_room(growth, || {
            "bring the document in".to_owned()
        })?)
    }

    fn read_vhost(&mut self, line: &Value) -> Result<(), LineRefusal> {
        let name = text(line, "name")?;
        vhosts::check_name(name)?;
        let labels = parse::<vhosts::VhostRequest>(line)?.labels()?;
        self.vhosts.insert(name.to_owned(), labels);
        Ok(())
    }

    fn read_user(&mut self, line: &Value) -> Result<(), LineRefusal> {
        let name = text(line, "name")?;
        let wanted: users::UserRequest = parse(line)?;
        if !self.user_names.insert(name.to_owned()) {
            return Err(ApiError::bad("it occurs twice").into());
        }
        let limits = wanted.limits()?;
        self.user_limits.push((name.to_owned(), limits));
        let is_so = wanted.is_of(read(&self.api.broker.users).get(name));
        if !is_so {
            self.users.push(users::prepare(self.api, name, wanted)?);
        }
        Ok(())
    }

    /// The limits of a vhost; other parameters are ignored.
    fn read_parameter(&mut self, line: &Value) -> Result<(), LineRefusal> {
        if line.get("component").and_then(Value::as_str) != Some(limits::VHOST_LIMITS) {
            return Ok(());
        }
        self.check_right(Caller::administers)?;
        let vhost = self.vhost_of(line)?;
        let Some(Value::Object(values)) = line.get("value") else {
            return Err(ApiError::bad("[{key_missing,value}]").into());
        };
        let quota = limits::parse(QuotaScope::Vhost, values)?;
        self.vhost_limits.push((vhost, quota));
        Ok(())
    }

    fn read_permission(&mut self, line: &Value) -> Result<(), LineRefusal> {
        let (user, vhost) = (text(line, "user")?, text(line, "vhost")?);
        let is_known =
            self.user_names.contains(user) || read(&self.api.broker.users).get(user).is_some();
        if !is_known {
            return Err(ApiError::bad(format!("no user '{user}'")).into());
        }
        self.check_vhost(vhost)?;
        let allowed = parse::<permissions::PermissionPatterns>(line)?.compile()?;
        let line = (user.to_owned(), vhost.to_owned(), allowed);
        self.permissions.push(line);
        Ok(())
    }

    /// The vhost of a line: it is there or will be.
    fn vhost_of(&self, line: &Value) -> Result<String, ApiError> {
        let name = match self.into {
            Some(name) => name,
            None => text(line, "vhost")?,
        };
        self.check_vhost(name)?;
        Ok(name.to_owned())
    }

    fn check_vhost(&self, name: &str) -> Result<(), ApiError> {
        if self.vhosts.contains_key(name) || self.api.broker.vhost(name).is_some() {
            return Ok(());
        }
        Err(ApiError::bad(format!("no vhost '{name}'")))
    }

    fn read_exchange(&mut self, line: &Value) -> Result<(), LineRefusal> {
        let (vhost, name) = (self.vhost_of(line)?, text(line, "name")?);
        for field in ["type", "durable"] {
            if line.get(field).is_none() {
                return Err(ApiError::bad(format!("[{{key_missing,{field}}}]")).into());
            }
        }
        let declaration = parse::<exchanges::ExchangeRequest>(line)?.declaration(name)?;
        let wanted = (name, &declaration);
        self.check_right(|caller| exchanges::check_caller(caller, &vhost, wanted))?;
        let fault = |text: String| ApiError::from(Fault::precondition(text));
        declaration
            .check()
            .map_err(|error| fault(error.text(name, &vhost)))?;
        let compare = |known: &Declaration| known.check_equivalent(&declaration);
        match self.with_exchange(&vhost, name, compare) {
            Some(compared) => compared.map_err(|error| fault(error.text(name, &vhost)))?,
            None => check_name("exchange", name)?,
        }
        self.exchanges.insert((vhost, name.to_owned()), declaration);
        Ok(())
    }

    /// Calls `with` on an exchange that is there or will be. It is not copied: its arguments may be
    /// as long as a line, and every other line may name it.
    fn with_exchange<R>(
        &self,
        vhost: &str,
        name: &str,
        with: impl Fn(&Declaration) -> R,
    ) -> Option<R> {
        let place = (vhost.to_owned(), name.to_owned());
        if let Some(declaration) = self.exchanges.get(&place) {
            return Some(with(declaration));
        }
        let is_there =
            |vhost: Arc<Vhost>| vhost.with_exchange(name, |exchange| with(exchange.declaration()));
        let there = self.api.broker.vhost(vhost).and_then(is_there);
        // A vhost that is to be made has those that each has.
        there.or_else(|| Some(with(&Vhost::predeclared(name)?)))
    }

    fn read_queue(&mut self, line: &Value) -> Result<(), LineRefusal> {
        let (vhost, name) = (self.vhost_of(line)?, text(line, "name")?);
        if line.get("durable").is_none() {
            return Err(ApiError::bad("[{key_missing,durable}]").into());
        }
        let declare = parse::<queues::QueueRequest>(line)?.declare(self.api, name)?;
        if !is_server_named(name) {
            check_name("queue", name)?;
        }
        self.check_right(|caller| {
            self.check_name_of_server(caller, &vhost, name)?;
            queues::check_caller(caller, &vhost, &declare)
        })?;
        let fault = |text: String| ApiError::from(Fault::precondition(text));
        QueueArguments::parse_stored(&declare.arguments)
            .map_err(|error| fault(error.text(name, &vhost)))?;
        if let Some(there) = self.api.broker.vhost(&vhost)
            && let Some(queue) = there.queue(name)
        {
            there.check_same(&queue, &declare)?;
        }
        let line = QueueLine {
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments,
        };
        let place = (vhost, name.to_owned());
        match self.queues.get(&place) {
            Some(before) if *before != line => {
                return Err(ApiError::bad("it occurs twice, with other properties").into());
            }
            _ => self.queues.insert(place, line),
        };
        Ok(())
    }

    fn read_binding(&mut self, line: &Value) -> Result<(), LineRefusal> {
        let vhost = self.vhost_of(line)?;
        let raw: RawBinding = parse(line)?;
        let arguments = table_from_json(raw.arguments.as_ref())?;
        let destination = match raw.destination_type.as_str() {
            "queue" => Destination::Queue(raw.destination.into()),
            "exchange" => Destination::Exchange(raw.destination.into()),
            other => return Err(ApiError::bad(format!("no destination_type '{other}'")).into()),
        };
        let ends = (raw.source.as_str(), &destination);
        // The default exchange leads to every queue by itself: nothing is made of such a line.
        let is_default = raw.source.is_empty();
        if !is_default {
            self.check_right(|caller| bindings::check_caller(caller, &vhost, ends))?;
        }
        let there = self.api.broker.vhost(&vhost);
        let missing = match &destination {
            Destination::Queue(name) => {
                let queue = there.and_then(|vhost| vhost.queue(name));
                let is_there = queue.is_some();
                // Refused before anything is made.
                queue.map_or(Ok(()), |queue| queue.check_access(0))?;
                let place = (vhost.clone(), name.to_string());
                (!is_there && !self.queues.contains_key(&place))
                    .then(|| Fault::no_queue(name, &vhost))
            }
            Destination::Exchange(name) => {
                let found = self.with_exchange(&vhost, name, |_| ());
                found.is_none().then(|| Fault::no_exchange(name, &vhost))
            }
        };
        if let Some(fault) = missing {
            return Err(fault.into());
        }
        if is_default {
            return Ok(());
        }
        let check = |source: &Declaration| source.check_binding(&arguments);
        let checked = self.with_exchange(&vhost, &raw.source, check);
        let checked = checked.ok_or_else(|| Fault::no_exchange(&raw.source, &vhost))?;
        checked.map_err(|error| Fault::precondition(error.to_string()))?;
        let line = BindingLine {
            source: raw.source,
            destination,
            key: raw.routing_key.into_bytes(),
            arguments,
        };
        self.bindings.push((vhost, line));
        Ok(())
    }

    /// Refuses a new queue with a name that the server makes up, as by AMQP. Administrators alone
    /// bring their exports in again, as at RabbitMQ.
    fn check_name_of_server(
        &self,
        caller: &Caller,
        vhost: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let there = self.api.broker.vhost(vhost);
        let is_there = there.is_some_and(|vhost| vhost.queue(name).is_some());
        if is_there || !is_server_named(name) || caller.administers().is_ok() {
            return Ok(());
        }
        Err(ApiError::forbidden(format!(
            "queue name '{name}' contains reserved prefix 'amq.*'"
        )))
    }

    /// Refuses a line that the caller could not do by itself. An administrator, who brings in a
    /// whole document, may do it all.
    fn check_right(
        &self,
        check: impl FnOnce(&Caller) -> Result<(), ApiError>,
    ) -> Result<(), LineRefusal> {
        match self.into {
            Some(_) => check(self.caller).map_err(LineRefusal::Forbidden),
            None => Ok(()),
        }
    }
}
