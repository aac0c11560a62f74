//! A transport that reports when a response is written. Only then does the client have what a tool
//! returned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::model::{JsonRpcMessage, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::sync::oneshot;

/// The calls whose responses somebody waits for.
#[derive(Clone, Default)]
pub(super) struct WrittenResponses(Arc<Mutex<HashMap<RequestId, oneshot::Sender<()>>>>);

impl WrittenResponses {
    /// Reports to `tell` when the response to this request is written. It is dropped if the
    /// response cannot be written.
    pub(super) fn expect(&self, id: RequestId, tell: oneshot::Sender<()>) {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A call that the client cancelled has no response.
        expected.retain(|_, tell| !tell.is_closed());
        expected.insert(id, tell);
    }

    fn take(&self, id: &RequestId) -> Option<oneshot::Sender<()>> {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        expected.remove(id)
    }
}

/// Passes everything on to another transport.
pub(super) struct ReportingTransport<T> {
    inner: T,
    written: WrittenResponses,
}

impl<T> ReportingTransport<T> {
    pub(super) fn new(inner: T, written: WrittenResponses) -> Self {
        Self { inner, written }
    }
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for ReportingTransport<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let tell = match &item {
            JsonRpcMessage::Response(response) => self.written.take(&response.id),
            _ => None,
        };
        let sending = self.inner.send(item);
        async move {
            sending.await?;
            if let Some(tell) = tell {
                let _nobody_waits = tell.send(());
            }
            Ok(())
        }
    }

    fn receive(&mut self) -> impl Future<Output = Option<RxJsonRpcMessage<RoleServer>>> + Send {
        self.inner.receive()
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.inner.close()
    }
}
