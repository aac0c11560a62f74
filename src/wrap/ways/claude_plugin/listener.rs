//! The plugin's socket: a small HTTP server for the modules of one session.
//!
//! | request | from | answer |
//! |---|---|---|
//! | `POST /events`, body `{token, instance, events}` | the module | empty |
//! | `GET /orders`, headers `token`, `instance` | `cbroker hook stream` | orders, one a line |
//!
//! The stream of orders ends with the session or with the requesting process.
//!
//! The socket's folder is private to the user; the random token keeps out other programs of the
//! same user that found the path. A request without it is answered with 403 and changes nothing.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use crate::wrap::ways::SubmissionNumber;

/// Bytes of one request. Events are small; a tool's name or an error may be long.
const BODY_LIMIT: usize = 1 << 20;
/// Connections at once. Claude Code uses one or two a process.
const CONNECTIONS: usize = 64;
/// Orders that wait for the child process.
const ORDERS: usize = 256;
/// Delay before the next accept after an error.
const AGAIN: Duration = Duration::from_millis(100);

/// An event that the module reports.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(super) enum PluginEvent {
    /// The module runs.
    Hello {
        version: String,
        transcript: PathBuf,
    },
    /// A prompt entered the session: its turn has begun.
    Submitted {
        #[serde(rename = "key")]
        number: SubmissionNumber,
        transcript: Option<PathBuf>,
    },
    /// The person or one of their hooks kept a prompt out of the session for good.
    Dropped {
        #[serde(rename = "key")]
        number: SubmissionNumber,
        why: String,
    },
    /// The call failed and the prompt never enters the session, for example because none is bound.
    Failed {
        #[serde(rename = "key")]
        number: SubmissionNumber,
        why: String,
    },
    /// A turn has begun.
    Turn { transcript: Option<PathBuf> },
    /// A turn has ended.
    Rest {
        #[serde(default)]
        why: String,
    },
    /// The person sent a prompt.
    Person,
    /// The person pressed Escape, or Ctrl-C.
    #[serde(rename = "stopped")]
    Escaped,
    /// A dialog asks for a permission.
    Ask {
        call: String,
        #[serde(default)]
        tool: String,
    },
    /// A tool call has ended, and with it its dialog.
    Called {
        #[serde(default)]
        call: String,
    },
    /// A command opened its menu, or closed it (without a name).
    Menu {
        name: Option<String>,
        transcript: Option<PathBuf>,
    },
    /// The length of the text in the input box, in UTF-16 units.
    Draft { length: usize },
    /// The conversation (`clear`, `resume`) or the program has ended.
    End {
        #[serde(default)]
        why: String,
    },
    /// An event of a newer module.
    #[serde(other)]
    Unknown,
}

/// What the listener received.
#[derive(Debug)]
pub(super) enum ListenerEvent {
    /// A module's events, in order.
    Events {
        instance: String,
        /// The process of the module, according to the kernel.
        pid: Option<i32>,
        events: Vec<PluginEvent>,
    },
    /// A child of a module's process requested the orders.
    Orders {
        instance: String,
        orders: mpsc::Sender<Bytes>,
    },
}

/// The socket. Removed when dropped.
#[derive(Debug)]
pub(super) struct Listener {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// Listens on `path` for requests with this token.
    pub(super) fn bind(
        path: &Path,
        token: String,
    ) -> io::Result<(Self, mpsc::Receiver<ListenerEvent>)> {
        let _left_by_a_crash = std::fs::remove_file(path);
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let (tell, heard) = mpsc::channel(256);
        let server = Arc::new(ModuleServer { token, tell });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let task = tokio::spawn(async move {
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                match socket.accept().await {
                    Ok((stream, _)) => {
                        let server = Arc::clone(&server);
                        tokio::spawn(async move {
                            server.serve(stream).await;
                            drop(place);
                        });
                    }
                    // Usually no file descriptor is free, which is temporary.
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        });
        let path = path.to_owned();
        Ok((Self { path, task }, heard))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        let _already_gone = std::fs::remove_file(&self.path);
    }
}

struct ModuleServer {
    token: String,
    tell: mpsc::Sender<ListenerEvent>,
}

/// The body of `POST /events`.
#[derive(Deserialize)]
struct EventsBody {
    token: String,
    instance: String,
    /// Each is parsed alone, so that an invalid event does not discard the others.
    events: Vec<serde_json::Value>,
}

type HttpResponse = Response<BoxBody<Bytes, Infallible>>;

impl ModuleServer {
    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request, pid).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        let _how_it_ended = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>, pid: Option<i32>) -> HttpResponse {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/events") => self.events(request, pid).await,
            (&Method::GET, "/orders") => self.orders(&request).await,
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    async fn events(&self, request: Request<Incoming>, pid: Option<i32>) -> HttpResponse {
        let Ok(body) = Limited::new(request.into_body(), BODY_LIMIT)
            .collect()
            .await
        else {
            return status(StatusCode::PAYLOAD_TOO_LARGE);
        };
        let Ok(post) = serde_json::from_slice::<EventsBody>(&body.to_bytes()) else {
            return status(StatusCode::BAD_REQUEST);
        };
        if post.token != self.token {
            return status(StatusCode::FORBIDDEN);
        }
        let events = post.events.into_iter();
        let events = events.filter_map(|event| serde_json::from_value(event).ok());
        let _session_ended = self
            .tell
            .send(ListenerEvent::Events {
                instance: post.instance,
                pid,
                events: events.collect(),
            })
            .await;
        status(StatusCode::NO_CONTENT)
    }

    async fn orders(&self, request: &Request<Incoming>) -> HttpResponse {
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let (Some(token), Some(instance)) = (header("token"), header("instance")) else {
            return status(StatusCode::BAD_REQUEST);
        };
        if token != self.token {
            return status(StatusCode::FORBIDDEN);
        }
        let (orders, mut given) = mpsc::channel::<Bytes>(ORDERS);
        let instance = instance.to_owned();
        if self
            .tell
            .send(ListenerEvent::Orders { instance, orders })
            .await
            .is_err()
        {
            return status(StatusCode::GONE);
        }
        let lines = futures_util::stream::poll_fn(move |context| {
            given
                .poll_recv(context)
                .map(|line| line.map(|line| Ok(Frame::data(line))))
        });
        Response::new(BoxBody::new(StreamBody::new(lines)))
    }
}

fn status(status: StatusCode) -> HttpResponse {
    let mut answer = Response::new(BoxBody::new(Empty::new()));
    *answer.status_mut() = status;
    answer
}
